"""`diff`: in what two trees differ, and what follows from it.

Whether there is any difference is decided by what JAX compares: the structures, and of
each leaf the shape, the dtype and the weak type. Where it is, `_compare` tells.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax

from ._compare import UNKNOWN, Difference, compare, compare_keys, equal
from ._compat import tree_flatten
from ._errors import StructureError, describe, explain_error
from ._leaves import LeafKey
from ._split import Structure
from ._static import Opaque
from ._text import Report, counted
from ._view import view

_jax: Any = jax  # its types for PyTrees are partly unknown

_OF_LEAVES = frozenset({"value", "shape", "dtype", "weak type", "sharding", "leaf"})
"""The kinds that are no part of the tree structure."""


@dataclass(frozen=True, repr=False)
class Diff(Report):
    """In what two trees differ; made by `diff`. Falsy if in nothing.

    A sequence of `Difference`s: `len`, iteration, indexing.
    """

    differences: tuple[Difference, ...]

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
            return "One compiled program serves both."
        if kinds <= {"value"}:
            return (
                "The structures agree. eqx.filter_jit compiles anew, because what is no "
                "array is static to it; jax.jit does not."
            )
        if kinds <= _OF_LEAVES:
            return "The structures agree, the leaves do not: jax.jit compiles anew."
        return (
            "The structures differ: jax.jit compiles anew, and jax.tree.map, and optax "
            "with it, refuses the two together."
        )

    def __str__(self) -> str:
        head = counted(len(self), "difference") if self else "no difference"
        return "\n".join([head, *map(_line, self), textwrap.fill(self.consequence, 80)])

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
    text = between.get(kind, f"{kind}: {old} → {new}")
    return f"  {path or 'the root'}: {text}" + (f"\n    {note}" if note else "")


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
    one, other = _readable(a), _readable(b)
    found = tuple(_structures(a, b))
    if not _agree(one, other):
        found = (*compare(one, other, ""), *found)
        if not found:
            note = "JAX finds the structures unequal; what is in them looks the same"
            words = (describe(one), describe(other))
            found = (Difference("", "static data", *words, note),)
    return Diff(found)


# --- what is compared ----------------------------------------------------------------


def _readable(tree: Any) -> Any:
    """A tree to be followed: the one that a treedef or a `Structure` is about."""
    if isinstance(tree, Structure):
        leaves = [x.value if isinstance(x, Opaque) else UNKNOWN for x in tree.slots]
        return tree.treedef.unflatten(leaves)
    if not isinstance(tree, _jax.tree_util.PyTreeDef):
        view(tree)  # refuses what cannot be followed
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


def _agree(one: Any, other: Any) -> bool:
    leaves, treedef = tree_flatten(one)
    others, other_treedef = tree_flatten(other)
    if not equal(treedef, other_treedef):
        return False
    return not any(any(compare(*pair, "")) for pair in zip(leaves, others, strict=True))


def _structures(a: Any, b: Any) -> Iterator[Difference]:
    """Where two `Structure`s expect other `Leaves`."""
    if not (isinstance(a, Structure) and isinstance(b, Structure)):
        return
    if len(a.keys) != len(b.keys):
        yield Difference("", "key", *(f"{len(x.keys)} Leaves" for x in (a, b)))
    one, other = ({k.path: (at, k) for at, k in _placed(x)} for x in (a, b))
    for path in one.keys() & other.keys():
        (at, key), (other_at, other_key) = one[path], other[path]
        if at != other_at:
            yield Difference(path, "key", f"in Leaves {at}", f"in Leaves {other_at}")
        yield from compare_keys(key, other_key, "")


def _placed(structure: Structure) -> Iterator[tuple[int, LeafKey]]:
    return ((at, key) for at, keys in enumerate(structure.keys) for key in keys.keys)
