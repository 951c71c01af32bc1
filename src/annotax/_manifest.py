"""The manifest of a checkpoint: what its model said of the arrays, and of itself.

It goes along in the header of the file as JSON. Loading needs little of it: the dtype that
is meant, the implementation of keys, which paths share an array, and the Hypers. The rest
is for whoever reads a file without its model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ._layout import is_array
from ._node import field_value
from ._plain import plain, text_of
from ._records import Record
from ._registry import registry
from ._selection import Mask
from ._stored import StoredArray
from ._tensor_header import unique
from ._view import View, modules_of

VERSION = 1


class SavedLeaf(NamedTuple):
    """What a manifest says of one array."""

    dtype: str
    """The dtype in the model, `float32` or `key<fry>`."""
    shape: tuple[int, ...]
    tensor: str
    """The name of the tensor in the file: another path's, if they share one array."""
    key_impl: str | None = None
    """The implementation of PRNG keys; `None` for any other array."""
    role: str | None = None
    axes: tuple[str | None, ...] | None = None
    tags: tuple[str, ...] = ()

    @staticmethod
    def of(record: Record, saved: StoredArray, tensor: str) -> "SavedLeaf":
        """What there is to say of an array, by its record."""
        return SavedLeaf(
            saved.dtype,
            record.shape,
            tensor,
            saved.key_impl,
            None if record.role is None else record.role.name,
            record.axes,
            tuple(sorted(record.tags)),
        )


@dataclass(frozen=True)
class Manifest:
    """What is told of a model beside its arrays.

    `settings` are the values of static fields, and of leaves that are no arrays, in the
    form of `plain`; `classes` are those of the modules. All by path.
    """

    leaves: Mapping[str, SavedLeaf] = field(default_factory=dict[str, SavedLeaf])
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    classes: Mapping[str, str] = field(default_factory=dict[str, str])

    def to_json(self) -> str:
        """The text that stands in the file."""
        told = {
            "version": VERSION,
            "leaves": {path: _told(leaf, path) for path, leaf in self.leaves.items()},
            "settings": dict(self.settings),
            "classes": dict(self.classes),
        }
        return json.dumps(told, separators=(",", ":"))


def _told(leaf: SavedLeaf, path: str) -> dict[str, Any]:
    """What differs from what goes without saying."""
    told = leaf._asdict()
    usual = {**SavedLeaf._field_defaults, "tensor": path}
    return {name: value for name, value in told.items() if value != usual.get(name, ...)}


def parse_manifest(text: str) -> Manifest:
    """A manifest from its text.

    **Raises:** `ValueError`, in a few words, if this is none, or of another version.
    """
    try:
        told = json.loads(text, object_pairs_hook=unique)
        version = told["version"]
        if version == VERSION:
            leaves = {path: _leaf(path, of) for path, of in told["leaves"].items()}
            list(map(text_of, told["settings"].values()))  # or they could not be shown
            return Manifest(leaves, told["settings"], {**told["classes"]})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("a manifest that cannot be read") from error
    raise ValueError(f"version {version!r} of the manifest; this annotax reads {VERSION}")


def _leaf(path: str, told: Any) -> SavedLeaf:
    fields: dict[str, Any] = {"tensor": path, **told}
    leaf = SavedLeaf(**fields)
    texts: list[Any] = [leaf.dtype, leaf.tensor, *leaf.tags]
    names: list[Any] = [leaf.key_impl, leaf.role, *(leaf.axes or ())]
    texts += [name for name in names if name is not None]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(path)
    if not all(type(size) is int for size in leaf.shape):
        raise TypeError(path)
    axes = None if leaf.axes is None else tuple(leaf.axes)
    return leaf._replace(shape=tuple(leaf.shape), axes=axes, tags=tuple(leaf.tags))


def settings(seen: View, mask: Mask | None = None) -> dict[str, Any]:
    """What a model holds that is no array, by path.

    A value stands at the same path whether it is static or, before `adopt`, a leaf.

    **Arguments:** with a mask, only what stands around the selected arrays: nothing of a
    module that holds arrays of which none is selected.
    """
    modules = modules_of(seen)
    asked = _around(seen, mask)
    found: dict[str, Any] = {}
    for static in seen.layout.statics:
        at, name = static.home
        if asked[at] and hasattr(modules[at], name):
            found[static.path] = plain(field_value(modules[at], name))
    for entry, leaf in zip(seen.layout.entries, seen.leaves, strict=True):
        is_asked = mask is None if entry.home is None else asked[entry.home[0]]
        if is_asked and not is_array(leaf):
            found[entry.path] = plain(leaf)
    return found


def _around(seen: View, mask: Mask | None) -> list[bool]:
    """Of each module whether a mask is about it.

    It is if it selects an array in it or, where the module holds none, in the one around.
    """
    asked: list[bool] = []
    for module in seen.layout.modules:  # outer ones first
        inside = [p for span in module.spans.values() for p in range(*span)]
        arrays = [p for p in inside if is_array(seen.leaves[p])]
        if mask is not None and arrays:
            asked.append(any(mask[p] for p in arrays))
        else:
            asked.append(module.parent is None or asked[module.parent[0]])
    return asked


def classes(seen: View) -> dict[str, str]:
    """The classes of the modules of a model, by path."""
    found: dict[str, str] = {}
    for module in seen.layout.modules:
        cls = registry.original(module.cls)
        found[module.path] = f"{cls.__module__}.{cls.__qualname__}"
    return found
