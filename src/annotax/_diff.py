"""`diff`: in what two trees differ, and what follows from it.

Whether there is any difference is decided by what JAX compares: the structures, and of
each leaf the shape, the dtype and the weak type. Where it is, `_compare` tells.
"""

import contextlib
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax

from ._compare import compare, compare_keys
from ._compat import tree_flatten
from ._errors import StructureError, describe, explain_error
from ._leaf_diff import (
    HARMLESS,
    OF_LEAVES,
    STATIC_LEAVES,
    UNKNOWN,
    UNKNOWN_ARRAY,
    Difference,
    equal,
    leaf_differences,
)
from ._leaves import LeafKey
from ._split import Structure
from ._static import Opaque
from ._text import Report, counted
from ._view import careful_view, view

_jax: Any = jax  # its types for PyTrees are partly unknown
_PyTreeDef: Any = _jax.tree_util.PyTreeDef


_ROWS = 100
"""So many differences are shown in the text."""


@dataclass(frozen=True, repr=False)
class Diff(Report):
    """In what two trees differ; made by `diff`. Falsy if in nothing.

    A sequence of `Difference`s: `len`, iteration, indexing. `one_way` tells that one tree
    has leaves where the other has `None` or a subtree, and that nothing else is unlike in
    the structures.
    """

    differences: tuple[Difference, ...]
    one_way: bool = field(default=False, compare=False)
    structures_only: bool = field(default=False, compare=False)
    """Whether one of the two is a treedef, and so nothing is known of leaves."""

    def __bool__(self) -> bool:
        return bool(self.differences)

    def __len__(self) -> int:
        return len(self.differences)

    def __iter__(self) -> Iterator[Difference]:
        return iter(self.differences)

    def __getitem__(self, at: int) -> Difference:
        return self.differences[at]

    @property
    def consequence(self) -> str:
        """What the differences lead to, in a sentence."""
        kinds = {difference.kind for difference in self.differences}
        if not kinds:
            only = self.structures_only
            return "The structures agree." if only else "One compiled program serves both."
        if kinds <= HARMLESS:
            return "The structures agree, and nothing compiles anew."
        if kinds <= STATIC_LEAVES:
            return (
                "The structures agree. eqx.filter_jit compiles anew, because what is no "
                "array is static to it; jax.jit does not."
            )
        if kinds <= OF_LEAVES:
            return "The structures agree, the leaves do not: jax.jit compiles anew."
        if self.one_way:
            return (
                "The structures differ: jax.jit compiles anew. jax.tree.map, and optax "
                "with it, takes the two in one order only, and hands on None or a subtree "
                "in the place of a leaf."
            )
        return (
            "The structures differ: jax.jit compiles anew, and jax.tree.map, and optax "
            "with it, refuses the two together."
        )

    def __str__(self) -> str:
        head = counted(len(self), "difference") if self else "no difference"
        rows = [head, *map(_line, self.differences[:_ROWS])]
        if len(self) > _ROWS:
            rows.append(f"  and {len(self) - _ROWS:,} more; iterating gives all")
        return "\n".join([*rows, textwrap.fill(self.consequence, 80)])

    def to_dict(self) -> dict[str, Any]:
        """The same as data that `json.dumps` takes."""
        return {
            "differences": [difference._asdict() for difference in self.differences],
            "consequence": self.consequence,
        }


def _line(difference: Difference) -> str:
    path, kind, old, new, note = difference
    between = {
        "missing": f"only in the first: {old}",
        "extra": f"only in the second: {new}",
    }
    between["None"] = f"{old} → {new}"
    text = f"  {path or 'the root'}: {between.get(kind, f'{kind}: {old} → {new}')}"
    if kind not in between and len(text) > 80:
        text = f"  {path or 'the root'}: {kind}:\n      {old}\n    → {new}"
    return text + (f"\n    {note}" if note else "")


def diff(a: Any, b: Any) -> Diff:
    """In what two trees differ: why a function compiled again, why optax refuses a tree.

    Examples:
        >>> import annotax as anx, jax.numpy as jnp
        >>> from jaxtyping import Array, Float
        >>> class Layer(anx.Module):
        ...     weight: anx.Param[Float[Array, "m n"]]
        ...     rate: anx.Hyper[float] = 0.1
        >>> print(anx.diff(Layer(jnp.ones((2, 3))), Layer(jnp.ones((2, 4)), rate=0.5)))
        2 differences
          weight: shape: f32[2,3] → f32[2,4]
          rate: static: 0.1 → 0.5
        The structures differ: jax.jit compiles anew, and jax.tree.map, and optax with
        it, refuses the two together.
        >>> bool(anx.diff(Layer(jnp.ones((2, 3))), Layer(jnp.zeros((2, 3)))))
        False

    **Arguments:** `a` and `b` are any PyTrees, abstract ones too: models, `Leaves`,
    gradients, optimizer states, the `Structure` of `split`, or treedefs, which have no
    leaves to compare.

    **Returns:** a `Diff`: falsy, or a sequence of `Difference`s. Values of arrays are never
    compared; those of other leaves are, because `eqx.filter_jit` takes them as static.

    **Raises:** `StructureError` for a container that contains itself, and for a treedef
    whose nodes cannot be made without their leaves.
    """
    try:
        return _between(a, b)
    except RecursionError as error:
        raise StructureError(
            explain_error(
                "diff",
                "these trees are too deep to be compared",
                expected="less than some hundreds of nodes in one another",
                found=type(error).__name__,
            )
        ) from error


# --- what is compared ----------------------------------------------------------------


def _between(a: Any, b: Any) -> Diff:
    if (_are(Structure, a, b) or _are(_PyTreeDef, a, b)) and equal(a, b):
        return Diff((), structures_only=isinstance(a, _PyTreeDef))
    one, other = _readable(a), _readable(b)
    (leaves, treedef), (others, other_treedef) = tree_flatten(one), tree_flatten(other)
    agree = equal(treedef, other_treedef)
    if agree:
        triples = zip(leaves, others, view(one).layout.paths, strict=True)
        found = [found for triple in triples for found in leaf_differences(*triple)]
    else:
        found = list(compare(one, other, ""))
    if _are(Structure, a, b):
        agree = False
        found = [d._replace(kind="static") if d.kind in OF_LEAVES else d for d in found]
        found += _structures(a, b)
    if not agree and all(difference.kind in OF_LEAVES for difference in found):
        note = "JAX finds the structures unequal; what is in them looks the same"
        found.append(Difference("", "static data", describe(one), describe(other), note))
    one_way = not agree and (_above(treedef, other) or _above(other_treedef, one))
    is_treedef = isinstance(a, _PyTreeDef) or isinstance(b, _PyTreeDef)
    return Diff(tuple(found), one_way and not _are(Structure, a, b), is_treedef)


def _are(kind: Any, a: Any, b: Any) -> bool:
    return isinstance(a, kind) and isinstance(b, kind)


def _above(treedef: Any, tree: Any) -> bool:
    """Whether a structure is the upper part of a tree: `jax.tree.map` asks for that."""
    # JAX puts what does not fit into its message: arrays would take seconds, and stand-ins
    # do as well, unless a class refuses them.
    with contextlib.suppress(Exception):
        tree = _jax.tree_util.tree_map(lambda _: 0, tree)  # pyright: ignore[reportUnknownLambdaType] -- any leaf
    try:
        treedef.flatten_up_to(tree)
    except Exception:  # it is how JAX says no
        return False
    return True


def _readable(tree: Any) -> Any:
    """A tree to be followed: the one that a treedef or a `Structure` is about."""
    if isinstance(tree, Structure):
        leaves = [x.value if isinstance(x, Opaque) else UNKNOWN_ARRAY for x in tree.slots]
        return tree.treedef.unflatten(leaves)
    if not isinstance(tree, _PyTreeDef):
        careful_view(tree, "diff")  # refuses what cannot be followed
        return tree
    treedef: Any = tree
    try:
        return treedef.unflatten([UNKNOWN] * treedef.num_leaves)
    except Exception as error:
        raise StructureError(
            explain_error(
                "diff",
                "this treedef cannot be read without its leaves",
                found=f"{type(error).__name__} while a node was made of stand-ins",
                fix="compare the trees instead of their treedefs",
            )
        ) from error


def _structures(a: Structure, b: Structure) -> Iterator[Difference]:
    """Where two `Structure`s expect other `Leaves`."""
    if len(a.keys) != len(b.keys):
        yield Difference("", "key", *(f"{len(x.keys)} Leaves" for x in (a, b)))
    one, other = ({k.path: (at, k) for at, k in _placed(x)} for x in (a, b))
    for path, (at, key) in one.items():
        if path not in other:
            continue
        other_at, other_key = other[path]
        if at != other_at:
            yield Difference(path, "key", f"in Leaves {at}", f"in Leaves {other_at}")
        yield from compare_keys(key, other_key, "")


def _placed(structure: Structure) -> Iterator[tuple[int, LeafKey]]:
    return ((at, key) for at, keys in enumerate(structure.keys) for key in keys.keys)
