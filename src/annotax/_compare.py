"""Two trees side by side: where their structures differ.

Both are followed by path, so that what stands in only one of them, or is of another class
there, is named by its place. Fields of frozen and adopted modules are compared by what is
stored in them.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import jax

from ._compat import instance_dict, node_data, one_level, tree_flatten
from ._errors import listing
from ._layout import is_array
from ._leaf_diff import Difference, equal, leaf_differences, leaf_text, unequal_texts
from ._leaves import LeafKey, Leaves
from ._node import below, is_module
from ._path import join
from ._registry import Changes, class_of
from ._role import Role
from ._specs import field_specs
from ._static import Static
from ._text import counted, value_text
from ._variant import NO_CHANGES, changes_of
from ._view import view


def compare(one: Any, other: Any, path: str) -> Iterator[Difference]:
    """The differences between what stands at one path of two trees."""
    if one is other:
        return
    if one is None or other is None:
        note = "None is a node without leaves, and no leaf"
        yield Difference(path, "None", _what(one), _what(other), note)
    elif type(one) is Static or type(other) is Static:
        parts = [_Part(x, type(x) is Static) for x in (one, other)]
        yield from _kept(parts[0], parts[1], path)
    elif _is_leaf(one) and _is_leaf(other):
        yield from leaf_differences(one, other, path)
    elif _is_leaf(one) or _is_leaf(other):
        yield Difference(path, "container", _what(one), _what(other))
    else:
        yield from _nodes(one, other, path)


def _is_leaf(node: Any) -> bool:
    return is_array(node) or jax.tree_util.all_leaves([node])


def _what(node: Any) -> str:
    """A leaf or a node in a few words."""
    if node is None or _is_leaf(node):
        return leaf_text(node)
    if type(node) is Static:
        return f"{value_text(node.value)}, static"
    count = len(tree_flatten(node)[0])
    return f"{class_of(node).__name__} of {counted(count, 'leaf')}"


# --- nodes ---------------------------------------------------------------------------


class _Part(NamedTuple):
    """What is stored one step below a node, and whether it is static there."""

    stored: Any
    static: bool = False

    @property
    def value(self) -> Any:
        """What is read: adopted modules store what is static as `Static`."""
        return self.stored.value if type(self.stored) is Static else self.stored


def _nodes(one: Any, other: Any, path: str) -> Iterator[Difference]:
    """Two modules or containers."""
    yield from _classes(one, other, path)
    mine, theirs = _parts(one), _parts(other)
    is_same_class = class_of(one) is class_of(other)
    if not is_same_class and mine.keys() != theirs.keys():
        return  # nothing is in the place of anything
    for step, part in mine.items():
        if step in theirs:
            yield from _kept(part, theirs[step], join(path, step))
        else:
            yield from _only("missing", part, join(path, step))
    for step, part in theirs.items():
        if step not in mine:
            yield from _only("extra", part, join(path, step))
    if isinstance(one, Leaves) and isinstance(other, Leaves):
        yield from _keys(one, other, path)
    elif is_same_class and mine.keys() == theirs.keys():
        yield from _static_data(one, other, path)


def _parts(node: Any) -> dict[str, _Part]:
    """What stands one step below: in a module what is stored, static fields as well."""
    if isinstance(node, Leaves):
        return {path: _Part(leaf) for path, leaf in node.items()}
    if not is_module(node):
        return {step: _Part(child) for step, child in below(node).items()}
    values, specs = instance_dict(node), field_specs(type(cast(object, node)))
    return {
        spec.name: _Part(values[spec.name], spec.static)
        for spec in specs
        if spec.name in values
    }


def _kept(one: _Part, other: _Part, path: str) -> Iterator[Difference]:
    """Two parts, of which each may be static."""
    if one.static and other.static:
        yield from _statics(one, other, path)
    elif one.static or other.static:
        words = (
            "static" if part.static else "a leaf" if _is_leaf(part.value) else "a node"
            for part in (one, other)
        )
        yield Difference(path, "static", *words)
    else:
        yield from compare(one.stored, other.stored, path)


def _only(kind: str, part: _Part, path: str) -> Iterator[Difference]:
    """What only one of the trees has: a static field, or the leaves below a node."""
    if part.static:
        found = [("", f"{value_text(part.value)}, static")]
    elif _is_leaf(part.stored) or part.stored is None or type(part.stored) is Static:
        found = [("", _what(part.stored))]
    else:
        seen = view(part.stored)
        found = list(zip(seen.layout.paths, map(leaf_text, seen.leaves), strict=True))
    for inner, text in found or [("", _what(part.stored))]:
        words = (text, "") if kind == "missing" else ("", text)
        yield Difference(join(path, inner), kind, *words)


# --- classes -------------------------------------------------------------------------


def _classes(one: Any, other: Any, path: str) -> Iterator[Difference]:
    mine, theirs = class_of(one), class_of(other)
    if mine is theirs:
        yield from _variants(one, other, path)
        return
    kind = "class" if is_module(one) and is_module(other) else "container"
    if mine.__name__ != theirs.__name__:
        yield Difference(path, kind, mine.__name__, theirs.__name__)
        return
    name, other_name = (f"{cls.__module__}.{cls.__qualname__}" for cls in (mine, theirs))
    twice = "two classes of one name: its file was loaded, or its cell run, twice"
    yield Difference(path, kind, name, other_name, twice if name == other_name else "")


def _variants(one: object, other: object, path: str) -> Iterator[Difference]:
    """Two instances of one class, of which each may be frozen or adopted."""
    before, after = changes_of(type(one)), changes_of(type(other))
    for name in sorted(before.frozen ^ after.frozen):
        frozen, thawed = ("frozen", "not frozen")[:: 1 if name in before.frozen else -1]
        yield Difference(join(path, name), "frozen", frozen, thawed)
    adopted = [changes._replace(frozen=frozenset()) for changes in (before, after)]
    if adopted[0] != adopted[1]:
        name, is_detailed = class_of(one).__name__, NO_CHANGES not in adopted
        words = (name + _adopted_text(changes, is_detailed) for changes in adopted)
        yield Difference(path, "class", *words)


def _adopted_text(changes: Changes, is_detailed: bool) -> str:
    if changes == NO_CHANGES or not is_detailed:
        return ", adopted" * (changes != NO_CHANGES)
    said = zip(changes._fields[1:-1], changes.groups[1:], strict=True)
    texts = [f"{what} {listing(sorted(names))}" for what, names in said if names]
    return f", adopted: {'; '.join([*texts, *['inferred'] * changes.inferred])}"


# --- static data ---------------------------------------------------------------------


def _statics(one: _Part, other: _Part, path: str) -> Iterator[Difference]:
    """Two static values, compared as they are stored."""
    if equal(one.stored, other.stored):
        return
    inside: list[Difference] = []
    if is_module(one.value) and is_module(other.value):
        found = compare(one.value, other.value, path)
        inside = [difference._replace(kind="static") for difference in found]
    texts = _static_texts(one.value, other.value)
    yield from inside or [Difference(path, "static", *texts)]


def _static_texts(one: Any, other: Any) -> tuple[str, str, str]:
    old, new, note = unequal_texts(one, other)
    try:
        bool(one == other)
    except Exception as error:
        note = f"comparing the two raises {type(error).__name__}, in jax.jit as well"
        if _holds_array(one) or _holds_array(other):
            note = "JAX cannot compare static arrays, and raises: they belong in a Buffer"
    return old, new, note


def _holds_array(value: Any) -> bool:
    try:
        return any(is_array(leaf) for leaf in tree_flatten(value)[0])
    except Exception:  # a container in itself, or keys that have no order
        return False


def _static_data(one: Any, other: Any, path: str) -> Iterator[Difference]:
    """What a node of the same class and steps may differ in beyond what is below it."""
    if is_module(one):
        return
    old, new = (node_data(one_level(node)[1]) for node in (one, other))
    if old is not None and new is not None and not equal(old[1], new[1]):
        yield Difference(path, "static data", *_static_texts(old[1], new[1]))


def _keys(one: Leaves, other: Leaves, path: str) -> Iterator[Difference]:
    """What `Leaves` know of their leaves apart from the values."""
    known = {key.path: key for key in other.static.keys}
    for key in one.static.keys:
        if key.path in known:
            yield from compare_keys(key, known[key.path], path)
    if list(one) != list(other) and one.keys() == other.keys():
        yield Difference(path, "order", *unequal_texts(list(one), list(other))[:2])


def compare_keys(one: LeafKey, other: LeafKey, path: str) -> Iterator[Difference]:
    """What is known of a leaf of `Leaves` on either side."""
    for name, old, new in zip(one._fields, one, other, strict=True):
        if old != new:
            words = (f"{name} {_key_text(old)}", f"{name} {_key_text(new)}")
            yield Difference(join(path, one.path), "key", *words)


def _key_text(fact: Any) -> str:
    if isinstance(fact, Role):
        return fact.name
    if isinstance(fact, tuple | frozenset):
        names = sorted(fact) if isinstance(fact, frozenset) else fact  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- of strings
        return listing(name or "_" for name in cast("Iterable[str]", names))
    return "nothing" if fact is None else str(fact)
