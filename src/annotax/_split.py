"""A model taken apart for lean loops: its structure, and its arrays as `Leaves`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ._errors import StructureError, describe, explain_error, listing
from ._flat import gather, insist_on_leaves
from ._layout import is_array
from ._leaves import LeafKeys, Leaves
from ._selection import Selection
from ._static import Opaque
from ._view import view


@dataclass(frozen=True, eq=False)
class Structure:
    """All of a model but its arrays: hashable, so a static argument of `jax.jit`.

    Examples:
        >>> import annotax as anx, jax, jax.numpy as jnp
        >>> structure, arrays = anx.split([jnp.ones(3), jnp.tanh])
        >>> apply = jax.jit(lambda s, a: anx.merge(s, a)[1](a["0"]), static_argnums=0)
        >>> apply(structure, arrays).shape
        (3,)

    `slots` tells for each leaf which `Leaves` it is in and at which position, or holds
    it if it is no array.
    """

    treedef: Any
    slots: tuple[tuple[int, int] | Opaque, ...]
    keys: tuple[LeafKeys, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.treedef, self.slots, self.keys)))

    def __hash__(self) -> int:
        return self._hash  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType] -- set above

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Structure):
            return NotImplemented
        return (self.slots, self.keys, self.treedef) == (
            other.slots,
            other.keys,
            other.treedef,
        )

    def __repr__(self) -> str:
        return f"Structure({self.treedef}, leaves={[len(keys.keys) for keys in self.keys]})"


def split(model: Any, *selections: Any) -> tuple[Any, ...]:
    """Take a model apart for a lean loop: its structure, and its arrays as `Leaves`.

    Examples:
        >>> import annotax as anx, jax, jax.numpy as jnp
        >>> model = [jnp.ones(3), jnp.arange(2), jnp.tanh]
        >>> structure, params, rest = anx.split(model, anx.trainable_filter)
        >>> list(params), list(rest)
        (['0'], ['1'])
        >>> merged = anx.merge(structure, params, rest)
        >>> merged[2] is jnp.tanh
        True

    **Arguments:** `model` is any PyTree; every array goes to the first of `selections`
    that matches it.

    **Returns:** `(structure, *selected, rest)`: one `Leaves` a selection and one for the
    arrays that none matches. Leaves that are no arrays go along in `structure`.

    **Raises:** `StructureError`, by path, if a leaf that is no array has no hash.
    """
    seen = view(model)
    masks = [Selection.of(selection).mask(seen) for selection in selections]
    groups: list[list[int]] = [[] for _ in range(len(masks) + 1)]
    slots: list[tuple[int, int] | Opaque] = []
    for at, leaf in enumerate(seen.leaves):
        if is_array(leaf):
            group = next((i for i, mask in enumerate(masks) if mask[at]), len(masks))
            slots.append((group, len(groups[group])))
            groups[group].append(at)
        else:
            slots.append(_hashable(leaf, seen.layout.entries[at].path))
    parts = [gather(seen, group) for group in groups]
    return (Structure(seen.treedef, tuple(slots), tuple(p.static for p in parts)), *parts)


def _hashable(leaf: object, path: str) -> Opaque:
    try:
        hash(leaf)
    except TypeError as error:
        raise StructureError(
            explain_error(
                path,
                "a leaf that is no array goes into the structure, and this one has no hash",
                expected="an array, or a hashable value",
                found=describe(leaf),
                fix="give its class a __hash__, or hold it in a static field",
            )
        ) from error
    return Opaque.of(leaf)


def merge(structure: Structure, *parts: Leaves) -> Any:
    """Put together again what `split` took apart.

    Examples:
        >>> import annotax as anx
        >>> anx.merge(*anx.split({"a": 1.5, "b": "text"}, anx.everything))
        {'a': 1.5, 'b': 'text'}

    **Arguments:** `structure` and the `Leaves` in the order in which `split` gave them;
    their values may be anything.

    **Returns:** the model.

    **Raises:** `StructureError` if the number of `Leaves` or their paths are not those
    of the split; the message lists missing and unexpected paths.
    """
    if not isinstance(structure, Structure):  # pyright: ignore[reportUnnecessaryIsInstance] -- users without a type checker
        raise StructureError(
            explain_error(
                "merge",
                "the structure comes first",
                expected="merge(structure, *leaves), as split returned them",
                found=describe(structure),
            )
        )
    insist_on_leaves("merge", *parts)
    if len(parts) != len(structure.keys):
        raise StructureError(
            explain_error(
                "merge",
                "another number of Leaves than split gave",
                expected=str(len(structure.keys)),
                found=str(len(parts)),
                fix="merge(structure, *everything_that_split_returned)",
            )
        )
    for position, (keys, part) in enumerate(zip(structure.keys, parts, strict=True)):
        _insist_on_paths(position, keys.index, part.static.index)
    values = [tuple(part.values()) for part in parts]
    ordered = [
        values[i] if part.static is keys else tuple(part[key.path] for key in keys.keys)
        for i, (keys, part) in enumerate(zip(structure.keys, parts, strict=True))
    ]
    return structure.treedef.unflatten(
        slot.value if isinstance(slot, Opaque) else ordered[slot[0]][slot[1]]
        for slot in structure.slots
    )


def _insist_on_paths(
    position: int, want: Mapping[str, Any], have: Mapping[str, Any]
) -> None:
    missing = [path for path in want if path not in have]
    unexpected = [path for path in have if path not in want]
    if missing or unexpected:
        raise StructureError(
            explain_error(
                f"merge, Leaves {position}",
                "other paths than split gave",
                expected=f"{len(want)} paths",
                found=f"missing {listing(missing)}; unexpected {listing(unexpected)}",
                fix="pass the Leaves in the order in which split returned them",
            )
        )
