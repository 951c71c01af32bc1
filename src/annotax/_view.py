"""A tree taken apart together with its layout, which is found in a cache or made.

Stands apart from the layout because it is about structures seen before, not about what
classes say.
"""

from typing import Any, NamedTuple

import equinox as eqx

from ._compat import node_data, tree_flatten
from ._layout import Layout, traverse
from ._registry import registry

_CACHED_HASHES = 512
_CACHED_PER_HASH = 8


class View(NamedTuple):
    """A tree taken apart, with its layout: all that a feature needs to see of a model."""

    tree: Any
    leaves: list[Any]
    treedef: Any
    layout: Layout


def view(tree: Any) -> View:
    """Take a tree apart and find (or make) its layout."""
    leaves, treedef = tree_flatten(tree)
    return View(tree, leaves, treedef, _cache.get(tree, treedef))


class _LayoutCache:
    """Layouts by structure, bounded, the most recently used first.

    The hash of a treedef covers the class of every node and ignores static data, so
    models that differ in a Hyper collide, and comparing a treedef with each of a thousand
    such is slow. They have the same layout: of modules, lists and tuples it depends on
    nothing else. Where keys of dictionaries or other static data matter, structures are
    compared, up to the static fields of modules.
    """

    def __init__(self) -> None:
        self._version = -1
        self._buckets: dict[int, list[tuple[Any, Layout]]] = {}

    def get(self, tree: Any, treedef: Any) -> Layout:
        if self._version != registry.version:
            self._buckets, self._version = {}, registry.version
        key = hash(treedef)
        bucket = self._buckets.get(key, [])
        for at, (known, layout) in enumerate(bucket):
            if _hash_tells(known, layout, treedef) or _equal(known, treedef):
                if at:
                    self._store(key, [bucket[at], *bucket[:at], *bucket[at + 1 :]])
                return layout
        layout = _same_but_for_statics(treedef, bucket) or traverse(tree, treedef)
        if self._version == registry.version:
            self._store(key, [(treedef, layout), *bucket[: _CACHED_PER_HASH - 1]])
        return layout

    def _store(self, key: int, bucket: list[tuple[Any, Layout]]) -> None:
        # Lists are replaced, never changed: another thread may be reading one.
        self._buckets.pop(key, None)
        self._buckets[key] = bucket
        while len(self._buckets) > _CACHED_HASHES:
            self._buckets.pop(next(iter(self._buckets)), None)


def _hash_tells(known: Any, layout: Layout, treedef: Any) -> bool:
    """Whether a structure of the same hash must have the layout of a known one."""
    return layout.hash_tells and known.num_nodes == treedef.num_nodes


def _same_but_for_statics(treedef: Any, bucket: list[tuple[Any, Layout]]) -> Layout | None:
    """The layout of a structure that differs only in values of static fields."""
    tried: list[Layout] = []
    for known, layout in bucket:
        if all(layout is not other for other in tried):
            if _alike(treedef, known):
                return layout
            tried.append(layout)
    return None


def _equal(one: Any, other: Any) -> bool:
    """Whether two structures are equal; not if their static data cannot be compared."""
    try:
        return one == other
    except Exception:  # somebody keeps an array in a static field
        return False


def _alike(one: Any, other: Any) -> bool:
    """Whether two structures are equal but for static data of Equinox modules."""
    if _equal(one, other):
        return True
    mine, theirs = node_data(one), node_data(other)
    if mine is None or theirs is None or mine[0] is not theirs[0]:
        return False
    if not issubclass(mine[0], eqx.Module) and bool(mine[1] != theirs[1]):
        return False
    inner, others = one.children(), other.children()
    return len(inner) == len(others) and all(map(_alike, inner, others))


_cache = _LayoutCache()
