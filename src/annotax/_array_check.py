"""Checks of arrays and of PyTrees, with jaxtyping's rules and a scope of our own."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from textwrap import shorten
from typing import Any

import jax

from ._compat import (
    ArrayImpl,
    SharedNode,
    accepts_dtype,
    array_type,
    dim_text,
    tree_flatten,
)
from ._dims import Dims, Sizes, UnboundError, fit, read_dims
from ._mismatch import OK, Mismatch, no_array, wrong_dtype, wrong_shape

Check = Callable[[Any, Sizes], Sequence[Mismatch]]
"""How a value does not fit, nothing if it does. What fits binds its sizes."""

_tree: Any = jax.tree  # the types of both are partly unknown
_tree_util: Any = jax.tree_util

# --- arrays --------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def array_check(hint: Any) -> Check:
    """The check of one of jaxtyping's array types."""
    dims = read_dims(dim_text(hint))
    wanted: Any = array_type(hint)
    any_jax_array = isinstance(wanted, type) and issubclass(jax.Array, wanted)
    dtypes: dict[Any, bool] = {}
    simple = dims.simple

    def check(value: Any, sizes: Sizes) -> Sequence[Mismatch]:
        if not (type(value) is ArrayImpl and any_jax_array) and not _is_array(
            value, wanted
        ):
            # What `equinox.nn.Shared` took out is checked where it is.
            return OK if isinstance(value, SharedNode) else [no_array(value, wanted)]
        fits = dtypes.get(value.dtype)
        if fits is None:
            fits = dtypes[value.dtype] = accepts_dtype(hint, value.dtype)
        if not fits:
            return [wrong_dtype(value, hint)]
        if simple is not None and _fits_simply(simple, value.shape, sizes):
            return OK
        return _fit(value, dims, sizes)

    return check


def _is_array(value: Any, wanted: Any) -> bool:
    if isinstance(value, jax.ShapeDtypeStruct):  # stands for an array of any kind
        return True
    if wanted is Any:
        return hasattr(value, "shape") and hasattr(value, "dtype")
    return isinstance(value, wanted)


def _fits_simply(dims: tuple[int | str, ...], shape: Sequence[int], sizes: Sizes) -> bool:
    """Whether a shape fits sizes and names, which are then bound; otherwise nothing is."""
    if len(dims) != len(shape):
        return False
    single = sizes.single
    new: dict[str, int] | None = None
    for dim, size in zip(dims, shape, strict=True):
        if isinstance(dim, int):
            if dim != size:
                return False
            continue
        known = single.get(dim)
        if known is None:
            new = {} if new is None else new
            known = new.setdefault(dim, size)
        if known != size:
            return False
    if new is not None:
        single.update(new)
        for name in new:
            sizes.note(name)
    return True


def _fit(value: Any, dims: Dims, sizes: Sizes) -> Sequence[Mismatch]:
    saved = sizes.save()
    try:
        misfits = fit(dims, tuple(value.shape), sizes)
    except UnboundError:
        sizes.restore(saved)
        raise
    if not misfits:
        return OK
    sizes.restore(saved)
    return [wrong_shape(value, dims, sizes, misfits)]


# --- PyTrees -------------------------------------------------------------------------


def pytree_check(leaf: Check, leaf_hint: Any, structure: str | None) -> Check:
    """The check of `PyTree[leaf, structure]`: every leaf, and the structure by name."""

    def is_leaf(value: Any) -> bool:
        return leaf_hint is not Any and _could_be(leaf, value)

    def check(value: Any, sizes: Sizes) -> Sequence[Mismatch]:
        if value is None:  # as jaxtyping
            return OK
        leaves, treedef = tree_flatten(value, is_leaf)
        if structure is not None and not _fits_structure(structure, treedef, sizes):
            return [_wrong_structure(structure, treedef, sizes)]
        try:
            wrong = all_of(parts(leaves, sizes), sizes)
        finally:
            sizes.leaf = ""
        return _with_paths(wrong, value, is_leaf) if wrong else wrong

    def parts(leaves: list[Any], sizes: Sizes) -> Iterator[tuple[str, Check, Any]]:
        for at, one in enumerate(leaves):
            sizes.leaf = f"{structure}[{at}]." if structure is not None else ""
            yield f"{at}:", leaf, one

    return check


def _with_paths(
    wrong: list[Mismatch], value: Any, is_leaf: Callable[[Any], bool]
) -> list[Mismatch]:
    """What does not fit with the paths of leaves instead of their numbers."""
    pairs, _ = _tree_util.tree_flatten_with_path(value, is_leaf)
    paths = [_tree_util.keystr(path) for path, _ in pairs]
    found: list[Mismatch] = []
    for one in wrong:
        number, _, rest = one.where.partition(":")
        found.append(one._replace(where=paths[int(number)] + rest))
    return found


def all_of(parts: Iterable[tuple[str, Check, Any]], sizes: Sizes) -> list[Mismatch]:
    """What does not fit of many values, each with its place.

    **Raises:** `UnboundError` if one cannot be judged and all others fit.
    """
    found: list[Mismatch] = []
    unbound: str | None = None  # not the error: its frames would keep the value alive
    for where, check, value in parts:
        try:
            wrong = check(value, sizes)
        except UnboundError as error:
            unbound = str(error)
            continue
        found += [one._replace(where=where + one.where) for one in wrong]
    if unbound is not None and not found:
        raise UnboundError(unbound)
    return found


def _replaced_by(new: Any, old: Any) -> Any:
    return new


def _could_be(leaf: Check, value: Any) -> bool:
    """Whether a value is a leaf whatever its shape and dtype are."""
    try:
        wrong = leaf(value, Sizes())
    except UnboundError:
        return True
    return not wrong or any(one.near for one in wrong)


def _fits_structure(text: str, treedef: Any, sizes: Sizes) -> bool:
    known = sizes.structures
    names = text.split()
    if names == [text]:
        if text not in known:
            sizes.note(text)
        return known.setdefault(text, treedef) == treedef
    ends = [names[0] == "...", names[-1] == "..."]
    tree: Any = 0
    for name in (name for name in names if name != "..."):
        if name not in known:
            raise UnboundError(f"the structure {text!r} needs {name!r}")
        inner = known[name].unflatten([0] * known[name].num_leaves)
        tree = _tree.map(partial(_replaced_by, inner), tree)
    wanted = _tree.structure(tree)
    if not any(ends):
        return wanted == treedef
    whole = treedef.unflatten([0] * treedef.num_leaves)
    if ends[1]:
        try:
            _tree.map(_replaced_by, tree, whole)
        except ValueError:
            return False
        return True

    def is_end(node: Any) -> bool:
        return _tree.structure(node) == wanted

    return all(map(is_end, _tree.leaves(whole, is_leaf=is_end)))


def _wrong_structure(text: str, treedef: Any, sizes: Sizes) -> Mismatch:
    known = sizes.structures.get(text)
    expected = f"structure {text!r}"
    if known is not None:
        expected += f", {_structure_text(known)} (set by {sizes.bound_by.get(text)}),"
    return Mismatch(_structure_text(treedef), expected=expected)


def _structure_text(treedef: Any) -> str:
    """A structure of plain containers; nodes of others may show anything, even arrays."""
    text = str(treedef)[len("PyTreeDef(") : -1]
    return "another tree structure" if "CustomNode" in text else shorten(text, 100)
