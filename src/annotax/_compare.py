"""Two trees side by side: where they differ.

Both are followed by path, so that what stands in only one of them, or is of another class
there, is named by its place. Fields of frozen and adopted modules are compared by what is
stored in them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import jax

from ._compat import instance_dict, node_data, one_level, tree_flatten
from ._layout import is_array
from ._leaves import LeafKey, Leaves
from ._node import below, is_module
from ._path import join
from ._registry import Changes, class_of
from ._specs import field_specs
from ._static import Opaque, Static
from ._text import counted, shorten, value_text
from ._variant import NO_CHANGES, changes_of
from ._view import view


class Difference(NamedTuple):
    """One difference: where, of which kind, and both sides in words.

    `kind` says what differs: of an array its `shape`, `dtype`, `weak type` or `sharding`;
    of another leaf its `value`; `leaf` for an array in place of another leaf. In the
    structure: a `static` field, the `class` of a module, whether a field is `frozen`, the
    type of a `container`, `None` in place of something, what is known of a `key` of
    `Leaves`, their `order`, or other `static data` of a node. `missing` is only in the
    first tree, `extra` only in the second.
    """

    path: str
    kind: str
    old: str
    new: str
    note: str = ""


UNKNOWN = object()
"""Stands for a leaf of which nothing is known."""


def equal(one: Any, other: Any) -> bool:
    """Whether two values are equal; not if they cannot be compared."""
    if one is other:
        return True
    try:
        return bool(one == other)
    except Exception:  # somebody keeps an array in a static field
        return False


def compare(one: Any, other: Any, path: str) -> Iterator[Difference]:
    """The differences between what stands at one path of two trees."""
    if one is other:
        return
    if one is None or other is None:
        note = "None is a node without leaves, and no leaf"
        yield Difference(path, "None", _what(one), _what(other), note)
    elif _is_leaf(one) and _is_leaf(other):
        yield from _leaves(one, other, path)
    elif _is_leaf(one) or _is_leaf(other):
        yield Difference(path, "container", _what(one), _what(other))
    elif is_module(one) and is_module(other) and class_of(one) is class_of(other):
        yield from _modules(one, other, path)
    else:
        yield from _nodes(one, other, path)


def _is_leaf(node: Any) -> bool:
    return is_array(node) or jax.tree_util.all_leaves([node])


def _leaves(one: Any, other: Any, path: str) -> Iterator[Difference]:
    if one is UNKNOWN or other is UNKNOWN:
        return
    words = (_what(one), _what(other))
    if is_array(one) and is_array(other):
        yield from _arrays(one, other, path)
    elif is_array(one) or is_array(other):
        yield Difference(path, "leaf", *words)
    elif not equal(Opaque.of(one), Opaque.of(other)):
        yield Difference(path, "value", *words, _same_text_note(*words))


def _arrays(one: Any, other: Any, path: str) -> Iterator[Difference]:
    words = (_what(one), _what(other))
    if one.shape != other.shape:
        yield Difference(path, "shape", *words)
    if one.dtype != other.dtype:
        yield Difference(path, "dtype", *words)
    weak, other_weak = (getattr(x, "weak_type", False) for x in (one, other))
    if weak != other_weak:
        kinds = (
            "weakly typed" if weak else "strongly",
            "weakly typed" if other_weak else "strongly typed",
        )
        note = "a Python number made it: jnp.asarray(x, dtype) makes it strong"
        yield Difference(path, "weak type", *kinds, note)
    sharding, other_sharding = (getattr(x, "sharding", None) for x in (one, other))
    if one.shape == other.shape and not _same_sharding(sharding, other_sharding, one.ndim):
        yield Difference(path, "sharding", str(sharding), str(other_sharding))


def _same_sharding(one: Any, other: Any, ndim: int) -> bool:
    both = isinstance(one, jax.sharding.Sharding) and isinstance(
        other, jax.sharding.Sharding
    )
    return not both or cast(Any, one).is_equivalent_to(other, ndim)


def _modules(one: object, other: object, path: str) -> Iterator[Difference]:
    """Two modules of one class, of which each may be frozen or adopted."""
    before, after = changes_of(type(one)), changes_of(type(other))
    for name in sorted(before.frozen ^ after.frozen):
        frozen, thawed = ("frozen", "not frozen")[:: 1 if name in before.frozen else -1]
        yield Difference(join(path, name), "frozen", frozen, thawed)
    if _is_adopted(before) != _is_adopted(after):
        name = class_of(one).__name__
        words = (f"{name}{', adopted' * _is_adopted(c)}" for c in (before, after))
        yield Difference(path, "class", *words)
    specs = zip(field_specs(type(one)), field_specs(type(other)), strict=True)
    for mine, theirs in specs:
        step = join(path, mine.name)
        value, other_value = (_stored(module, mine.name) for module in (one, other))
        if mine.static and theirs.static:
            yield from _statics(value, other_value, step)
        elif mine.static or theirs.static:
            words = ("static", "a leaf")[:: 1 if mine.static else -1]
            yield Difference(step, "static", words[0], words[1])
        else:
            yield from compare(value, other_value, step)


def _is_adopted(changes: Changes) -> bool:
    return changes._replace(frozen=frozenset()) != NO_CHANGES


class _Unset:
    def __repr__(self) -> str:
        return "unset"


_UNSET = _Unset()


def _stored(module: object, name: str) -> Any:
    """What is stored in a field: static values as JAX compares them."""
    return instance_dict(module).get(name, _UNSET)


def _statics(one: Any, other: Any, path: str) -> Iterator[Difference]:
    if equal(one, other):
        return
    plain, other_plain = (x.value if type(x) is Static else x for x in (one, other))
    inside: list[Difference] = []
    if is_module(plain) and is_module(other_plain):
        found = compare(plain, other_plain, path)
        inside = [difference._replace(kind="static") for difference in found]
    if inside:
        yield from inside
        return
    words = (value_text(plain), value_text(other_plain))
    note = _same_text_note(*words)
    if any(is_array(leaf) for leaf in tree_flatten([plain, other_plain])[0]):
        note = "an array in a static field cannot be compared: it belongs in a Buffer"
    yield Difference(path, "static", *words, note)


def _same_text_note(old: str, new: str) -> str:
    if old != new:
        return ""
    return "two objects that are not equal: made anew each time? Make it once"


def _nodes(one: Any, other: Any, path: str) -> Iterator[Difference]:
    """Two containers, or modules of different classes."""
    yield from _classes(one, other, path)
    mine, theirs = _steps(one), _steps(other)
    if type(one) is not type(other) and mine.keys() != theirs.keys():
        return  # nothing is in the place of anything
    for step, child in mine.items():
        if step in theirs:
            yield from compare(child, theirs[step], join(path, step))
        else:
            yield from _only("missing", child, join(path, step))
    for step, child in theirs.items():
        if step not in mine:
            yield from _only("extra", child, join(path, step))
    if type(one) is type(other) and mine.keys() == theirs.keys():
        yield from _static_data(one, other, path)


def _classes(one: Any, other: Any, path: str) -> Iterator[Difference]:
    mine, theirs = class_of(one), class_of(other)
    if mine is theirs:
        return
    kind = "class" if is_module(one) and is_module(other) else "container"
    if mine.__name__ != theirs.__name__:
        yield Difference(path, kind, mine.__name__, theirs.__name__)
        return
    name, other_name = (f"{cls.__module__}.{cls.__qualname__}" for cls in (mine, theirs))
    twice = "two classes of one name: its file was loaded, or its cell run, twice"
    yield Difference(path, kind, name, other_name, twice if name == other_name else "")


def _steps(node: Any) -> dict[str, Any]:
    return dict(node) if isinstance(node, Leaves) else below(node)


def _only(kind: str, child: Any, path: str) -> Iterator[Difference]:
    """The leaves below a node that only one of the trees has."""
    seen = view(child)
    paths = seen.layout.paths or {"": 0}
    for inner, leaf in zip(paths, seen.leaves or [child], strict=True):
        words = (_what(leaf), "") if kind == "missing" else ("", _what(leaf))
        yield Difference(join(path, inner), kind, *words)


def _static_data(one: Any, other: Any, path: str) -> Iterator[Difference]:
    """What a node of the same class and steps may differ in beyond what is below it."""
    if isinstance(one, Leaves):
        yield from _keys(one, other, path)
        return
    if is_module(one):
        return
    old, new = (node_data(one_level(node)[1]) for node in (one, other))
    if old is not None and new is not None and not equal(old[1], new[1]):
        words = (value_text(old[1]), value_text(new[1]))
        yield Difference(path, "static data", *words, _same_text_note(*words))


def _keys(one: Leaves, other: Leaves, path: str) -> Iterator[Difference]:
    """What `Leaves` know of their leaves apart from the values."""
    known = {key.path: key for key in other.static.keys}
    for key in one.static.keys:
        yield from compare_keys(key, known[key.path], path)
    if list(one) != list(other):
        words = (shorten(", ".join(leaves), 60) for leaves in (one, other))
        yield Difference(path, "order", *words)


def compare_keys(one: LeafKey, other: LeafKey, path: str) -> Iterator[Difference]:
    """What is known of a leaf of `Leaves` on either side."""
    for name, old, new in zip(one._fields, one, other, strict=True):
        if old != new:
            words = (f"{name} {_key_text(old)}", f"{name} {_key_text(new)}")
            yield Difference(join(path, one.path), "key", *words)


def _key_text(fact: Any) -> str:
    return (
        str(sorted(cast("frozenset[str]", fact)))
        if isinstance(fact, frozenset)
        else str(fact)
    )


def _what(node: Any) -> str:
    """A leaf or a node in a few words."""
    if node is UNKNOWN:
        return "a leaf"
    if node is None or is_array(node) or node is _UNSET or _is_leaf(node):
        return value_text(node)
    count = len(tree_flatten(node)[0])
    return f"{class_of(node).__name__} of {counted(count, 'leaf')}"
