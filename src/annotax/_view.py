"""A tree taken apart together with its layout, which is found in a cache or made.

Stands apart from the layout because it is about structures seen before, not about what
classes say.
"""

from threading import Lock, Thread
from typing import Any, NamedTuple

import equinox as eqx
import jax

from ._compat import EquinoxMeta, node_data, tree_flatten
from ._errors import AnnotaxError, StructureError, explain_error, with_article
from ._layout import Layout
from ._registry import registry
from ._traverse import traverse

_tree_leaves: Any = jax.tree_util.tree_leaves  # its types are partly unknown

_CACHED_HASHES = 512
_CACHED_PER_HASH = 4


class View(NamedTuple):
    """A tree taken apart, with its layout: all that a feature needs to see of a model."""

    tree: Any
    leaves: list[Any]
    treedef: Any
    layout: Layout


def view(tree: Any) -> View:
    """Take a tree apart and find (or make) its layout.

    **Raises:** `StructureError` if a container contains itself, or nests too deeply.
    """
    try:
        leaves, treedef = tree_flatten(tree)
        return View(tree, leaves, treedef, _cache.get(tree, treedef))
    except (RecursionError, SystemError) as error:
        if not _is_endless(error):
            raise
        raise StructureError(endless_message(tree)) from error


def careful_view(tree: Any, function: str) -> View:
    """`view` for what is asked by hand, of trees that may be no trees.

    When a module contains itself, JAX gives up without counting the depth of recursion
    down again, and in that thread almost nothing can be called any more, not even to write
    a message. So it is tried in a thread that is given up. It costs a tenth of a
    millisecond, and taking the tree apart twice.
    """
    if isinstance(tree, type):
        raise StructureError(_class_message(function, tree))
    errors: list[Exception] = []

    def attempt() -> None:
        try:
            tree_flatten(tree)
        except (RecursionError, SystemError) as error:
            errors.append(error)
        except Exception:  # it comes again below, in the thread of the caller
            return

    thread = Thread(target=attempt)
    thread.start()
    thread.join()
    if errors and _is_endless(errors[0]):
        raise StructureError(endless_message(tree)) from errors[0]
    try:
        return view(tree)
    except AnnotaxError:
        raise
    except Exception as error:
        raise StructureError(_untakeable_message(function, tree, error)) from error


def _is_endless(error: Exception) -> bool:
    """Whether recursion went too deep: JAX's own wraps the error in a `SystemError`."""
    return isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError)


def endless_message(tree: Any) -> str:
    """The message for what contains itself, or nests so deeply that it may as well."""
    return explain_error(
        with_article(type(tree).__name__),
        "this cannot be followed: it contains itself, or nests too deeply",
        expected="containers that do not contain themselves, and less than some "
        "hundreds of modules in one another",
        fix="look for a list or a dictionary that was put into itself; "
        "or stack the layers (equinox.filter_vmap)",
    )


def _class_message(function: str, cls: type) -> str:
    return explain_error(
        f"{function}({cls.__name__})",
        "a class has no leaves",
        expected="a model, or an abstract one",
        found="a class",
        fix=f"eqx.filter_eval_shape({cls.__name__}, ...) makes an abstract instance; "
        "annotax.audit looks at classes",
    )


def _untakeable_message(function: str, tree: Any, error: Exception) -> str:
    first = str(error).partition("\n")[0]
    return explain_error(
        f"{function}({type(tree).__name__})",
        "JAX cannot take this apart",
        expected="a PyTree: dictionaries whose keys can be sorted, nodes that flatten",
        found=f"{type(error).__name__}: {first}",
    )


def modules_of(seen: View) -> list[Any]:
    """The modules of a tree, in the order of `layout.modules`."""
    found: list[Any] = []

    def collect(node: Any) -> bool:
        if isinstance(type(node), EquinoxMeta):
            found.append(node)
        return False

    _tree_leaves(seen.tree, is_leaf=collect)  # JAX asks of every node, in its order
    return found


_Bucket = list[tuple[Any, Layout]]


class _LayoutCache:
    """Layouts by structure, bounded, the most recently used first.

    The hash of a treedef covers the class of every node and ignores static data, so
    models that differ in a Hyper collide, and comparing a treedef with each of a thousand
    such is slow. They have the same layout: of modules, lists and tuples it depends on
    nothing else. Where keys of dictionaries or other static data matter, structures are
    compared, up to the static fields of modules.
    """

    def __init__(self) -> None:
        self._state: tuple[int, dict[int, _Bucket]] = (-1, {})
        self._latest: int | None = None
        self._lock = Lock()

    def get(self, tree: Any, treedef: Any) -> Layout:
        """The layout of a tree with this structure."""
        # What is made while somebody registers a class goes into the buckets of the
        # version it was begun under, and these are not asked again.
        version, buckets = self._state
        if version != registry.version:
            self._state = version, buckets = registry.version, {}
        key = hash(treedef)
        bucket = buckets.get(key, [])
        at, layout = _find(treedef, bucket)
        if layout is None:
            layout = _same_but_for_statics(treedef, bucket) or traverse(tree, treedef)
        if at != 0 or self._latest != key:
            # A layout that its hash tells is found without its structure, whose static
            # data need not be kept alive then.
            first = (None if layout.hash_tells else treedef, layout)
            rest = [known for i, known in enumerate(bucket) if i != at]
            self._store(buckets, key, [first, *rest[: _CACHED_PER_HASH - 1]])
        return layout

    def _store(self, buckets: dict[int, _Bucket], key: int, bucket: _Bucket) -> None:
        """Put a bucket last; lists are replaced, because another thread may be reading one.

        One thread at a time: the first key of a dictionary cannot be asked for while
        another thread puts one in.
        """
        with self._lock:
            buckets.pop(key, None)
            buckets[key] = bucket
            self._latest = key
            while len(buckets) > _CACHED_HASHES:
                del buckets[next(iter(buckets))]


def _find(treedef: Any, bucket: _Bucket) -> tuple[int, Layout | None]:
    for at, (known, layout) in enumerate(bucket):
        if layout.hash_tells or _equal(known, treedef):
            return at, layout
    return -1, None


def _same_but_for_statics(treedef: Any, bucket: _Bucket) -> Layout | None:
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
        return bool(one == other)
    except Exception:  # somebody keeps an array in a static field
        return False


def _alike(one: Any, other: Any) -> bool:
    """Whether two structures are equal but for static data of Equinox modules."""
    if _equal(one, other):
        return True
    mine, theirs = node_data(one), node_data(other)
    if mine is None or theirs is None or mine[0] is not theirs[0]:
        return False
    if not issubclass(mine[0], eqx.Module) and not _equal(mine[1], theirs[1]):
        return False
    inner, others = one.children(), other.children()
    return len(inner) == len(others) and all(map(_alike, inner, others))


_cache = _LayoutCache()
