"""From a checkpoint's tensors to the arrays of a model.

Stands apart from `load`, which decides what is loaded: here it is read, and put where the
arrays of the model are.
"""

from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.core import Tracer

from ._agreement import Agreement
from ._errors import listing
from ._manifest import Manifest, SavedLeaf, parse_manifest
from ._rename import Rename, renamed
from ._stored import NAMES, restored
from ._tensor_file import TensorFile
from ._view import View

_jax: Any = jax  # the types of some of its functions are partly unknown


def manifest_of(file: TensorFile) -> Manifest:
    """The manifest of a file; of one that is not ours, what its header tells."""
    if file.manifest is None:
        return Manifest(
            {
                name: SavedLeaf(NAMES.get(tensor.dtype, tensor.dtype), tensor.shape, name)
                for name, tensor in file.tensors.items()
            }
        )
    try:
        manifest = parse_manifest(file.manifest)
    except ValueError as error:
        file.refuse("cannot be loaded", str(error), error)
    lost = [
        leaf.tensor for leaf in manifest.leaves.values() if leaf.tensor not in file.tensors
    ]
    if lost:
        file.refuse("lacks tensors of its manifest", listing(lost))
    return manifest


class Held(NamedTuple):
    """What a file holds by the paths of the model: arrays, and settings it tells of."""

    leaves: dict[str, SavedLeaf]
    settings: dict[str, Any]


def held_by(place: str, manifest: Manifest, rename: Rename) -> Held:
    """What a manifest tells of, renamed."""
    leaves, settings = manifest.leaves, manifest.settings
    arrays, told = renamed(place, list(leaves), list(settings), rename)
    return Held(
        {path: leaves[name] for path, name in arrays.items()},
        {path: settings[name] for path, name in told.items()},
    )


def read(file: TensorFile, seen: View, found: Agreement) -> list[Any]:
    """The leaves of the model, with those from the file in place."""
    values = list(seen.leaves)
    known: dict[Any, Any] = {}
    for at, saved in found.fitting.items():
        like = seen.leaves[at]
        sharding = _sharding(like)
        # Arrays that are two in the model stay two: a program may be given both to donate.
        own = None if isinstance(like, jax.ShapeDtypeStruct) else id(like)
        key = (saved.tensor, saved.dtype, _kind(like), sharding, own)
        if key not in known:
            value = _array(file, saved, seen.layout.entries[at].path)
            known[key] = _placed(like, value, sharding)
        values[at] = known[key]
    return values


def _array(file: TensorFile, saved: SavedLeaf, path: str) -> Any:
    """A tensor as the array that the manifest says it is."""
    data = file.read(saved.tensor)
    try:
        value = restored(data, saved.dtype, saved.key_impl)
    except (ValueError, TypeError) as error:
        file.refuse(f"does not hold {path!r} as its manifest says", str(error), error)
    if value.shape != saved.shape or str(value.dtype) != saved.dtype:
        found = f"{value.dtype}{list(value.shape)}"
        file.refuse(f"does not hold {path!r} as its manifest says", found)
    return value


def _sharding(like: Any) -> Any:
    """The sharding that an array of the model insists on, if it does.

    One that was put nowhere in particular does not, and may be taken anywhere.
    """
    if isinstance(like, Tracer):
        return None
    sharding: Any = getattr(like, "sharding", None)
    if not getattr(like, "committed", sharding is not None):
        return None
    mesh = getattr(sharding, "mesh", None)
    return sharding if mesh is None or isinstance(mesh, jax.sharding.Mesh) else None


def _kind(like: Any) -> Any:
    """What an array of the model is, beside its shape and dtype."""
    if isinstance(like, np.ndarray | np.generic):
        return type(cast(object, like)), cast(Any, like).dtype
    return bool(getattr(like, "weak_type", False))


def _placed(like: Any, value: Any, sharding: Any) -> Any:
    """A loaded array in the kind of the model's, and on its devices."""
    if isinstance(like, np.generic):
        return value[()]
    if isinstance(like, np.ndarray):
        return value.astype(cast(Any, like).dtype, copy=False)  # its order of bytes
    if getattr(like, "weak_type", False):
        value = _weakly_typed(value)
    if sharding is None or sharding.is_fully_addressable:
        return _jax.device_put(value, sharding)
    return _jax.make_array_from_callback(value.shape, sharding, value.__getitem__)


def _weakly_typed(value: Any) -> Any:
    """An array that gives way to the dtypes of others, as the model's does.

    Strong, it would make `float32` of what is computed with it in `bfloat16`. JAX makes
    such an array of a Python number alone, and keeps it so where values are set.
    """
    numbers = _jax.numpy.full(value.shape, value.dtype.type(0).item())
    return numbers.at[...].set(value) if numbers.dtype == value.dtype else value
