"""A model as flat `Leaves`, and the way back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ._errors import StructureError, did_you_mean, explain_error, listing
from ._layout import View, is_array, view
from ._leaves import LeafKeys, Leaves
from ._select import Mask, Selection, trainable_filter

_Model = TypeVar("_Model")


def leaves(model: Any, selection: Any) -> Leaves:
    """The selected leaves of a model, flat and keyed by path.

    Examples:
        >>> import annotax as anx
        >>> anx.leaves({"a": 1.5, "b": {"c": 2.5}}, anx.by_path("b.*"))
        Leaves(
            'b.c': 2.5,
        )

    **Arguments:** `model` is any PyTree; `selection` says which leaves.

    **Returns:** the leaves themselves, not copies.
    """
    seen = view(model)
    return _gather(seen, Selection.of(selection).mask(seen))


def params(model: Any) -> Leaves:
    """What is trained: `leaves(model, trainable_filter)`.

    Examples:
        >>> import annotax as anx, jax.numpy as jnp
        >>> anx.params([jnp.ones(3), jnp.arange(2)])
        Leaves(
            '0': f32[3],
        )
    """
    return leaves(model, trainable_filter)


def _gather(seen: View, mask: Mask) -> Leaves:
    chosen = [at for at, flag in enumerate(mask) if flag]
    keys = LeafKeys(tuple(seen.layout.key(at, seen.leaves[at]) for at in chosen))
    return Leaves(keys, [seen.leaves[at] for at in chosen])


def update(model: _Model, new: Leaves) -> _Model:
    """A copy of `model` in which the leaves in `new` replace those of the same path.

    Examples:
        >>> import annotax as anx, jax, jax.numpy as jnp
        >>> model = {"a": jnp.zeros(2), "b": jnp.arange(2)}
        >>> doubled = jax.tree.map(lambda p: p + 1, anx.params(model))
        >>> anx.update(model, doubled)["a"]
        Array([1., 1.], dtype=float32)

    **Raises:** `StructureError`, listing every path that does not exist in the model and
    every leaf with another shape or dtype. `model` itself never changes.
    """
    _insist_on_leaves("update", new)
    seen = view(model)
    positions = seen.layout.paths
    problems = [_misfit(path, value, seen) for path, value in new.items()]
    found = [problem for problem in problems if problem is not None]
    if found:
        raise StructureError(
            explain_error(
                f"update({type(model).__name__})",
                "the leaves do not fit the model",
                expected="paths of the model, with its shapes and dtypes",
                found="\n".join(
                    found[:20] + ([f"and {len(found) - 20} more"] if found[20:] else [])
                ),
            )
        )
    changed = list(seen.leaves)
    for path, value in new.items():
        changed[positions[path]] = value
    return seen.treedef.unflatten(changed)


def _misfit(path: str, value: Any, seen: View) -> str | None:
    at = seen.layout.paths.get(path)
    if at is None:
        return f"{path}: no such leaf; {did_you_mean(path, tuple(seen.layout.paths))}"
    old, new = _type_text(seen.leaves[at]), _type_text(value)
    return None if old == new else f"{path}: {new}, where the model has {old}"


def _type_text(leaf: Any) -> str:
    if is_array(leaf):
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    return f"a {type(leaf).__name__}"


def _insist_on_leaves(function: str, *values: Any) -> None:
    for value in values:
        if not isinstance(value, Leaves):
            raise StructureError(
                explain_error(
                    function,
                    "this is no Leaves",
                    expected="what params, leaves, split or grad returned",
                    found=f"a {type(value).__name__}",
                )
            )


# --- split and merge -----------------------------------------------------------------


@dataclass(frozen=True)
class _Opaque:
    """A leaf that is no array, compared so that what computes differently is not equal.

    `1 == 1.0 == True` and `0.0 == -0.0`: type and sign are compared too.
    """

    kind: type
    value: Any
    text: str | None


@dataclass(frozen=True, eq=False)
class Structure:
    """All of a model but its arrays: hashable, so a static argument of `jax.jit`.

    `slots` tells for each leaf which `Leaves` it is in and at which position, or holds
    it if it is no array.
    """

    treedef: Any
    slots: tuple[tuple[int, int] | _Opaque, ...]
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
    slots: list[tuple[int, int] | _Opaque] = []
    for at, leaf in enumerate(seen.leaves):
        if is_array(leaf):
            group = next((i for i, mask in enumerate(masks) if mask[at]), len(masks))
            slots.append((group, len(groups[group])))
            groups[group].append(at)
        else:
            slots.append(_hashable(leaf, seen.layout.entries[at].path))
    parts = [
        Leaves(
            LeafKeys(tuple(seen.layout.key(at, seen.leaves[at]) for at in group)),
            [seen.leaves[at] for at in group],
        )
        for group in groups
    ]
    return (Structure(seen.treedef, tuple(slots), tuple(p.static for p in parts)), *parts)


def _hashable(leaf: object, path: str) -> _Opaque:
    try:
        hash(leaf)
    except TypeError as error:
        raise StructureError(
            explain_error(
                path,
                "a leaf that is no array goes into the structure, and this one has no hash",
                expected="an array, or a hashable value",
                found=f"a {type(leaf).__name__}",
            )
        ) from error
    return _Opaque(
        type(leaf), leaf, repr(leaf) if isinstance(leaf, float | complex) else None
    )


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
    _insist_on_leaves("merge", *parts)
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
        slot.value if isinstance(slot, _Opaque) else ordered[slot[0]][slot[1]]
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
