"""What holds for every model: random trees of random classes against the contract."""

import dataclasses
import pickle
import typing
from collections.abc import Callable
from types import SimpleNamespace
from typing import Annotated, Any, NamedTuple, Optional, TypeVar, Union

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from jax.tree_util import DictKey, tree_flatten, tree_flatten_with_path, tree_leaves
from jaxtyping import Array, Float
from typing_extensions import TypeAliasType

import annotax as anx
from annotax import Buffer, Hyper, Param, Role, _view
from strategies import (
    ARRAY_ROLES,
    ARRAYS,
    FLOATS,
    ON_MODELS_ONLY,
    STATICS,
    Choice,
    Lora,
    Model,
    Stat,
    choices,
    foreign_class,
    models,
)

SELECTIONS = choices(*ON_MODELS_ONLY)
PORTABLE = choices()  # legal on `Leaves` too
compiling = settings(max_examples=8)  # every example compiles


def same_leaf(one: Any, other: Any) -> bool:
    """The same object, or equal to the bit: type, dtype, shape, bytes."""
    if one is other:
        return True
    if type(one) is not type(other) or not hasattr(one, "dtype"):
        return False
    if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    return (one.dtype, one.shape) == (other.dtype, other.shape) and (
        np.asarray(one).tobytes() == np.asarray(other).tobytes()
    )


def assert_same_tree(one: Any, other: Any) -> None:
    leaves, treedef = tree_flatten(one)
    others, other_treedef = tree_flatten(other)
    assert treedef == other_treedef
    assert all(map(same_leaf, leaves, others))


def flags(selection: Any, tree: Any) -> list[bool]:
    """What a selection says of each leaf, in a tree that must be the tree's own shape."""
    chosen = selection(tree)
    assert jax.tree_util.tree_structure(chosen) == jax.tree_util.tree_structure(tree)
    found = tree_leaves(chosen)
    assert all(type(flag) is bool for flag in found)
    return found


def trainable_paths(tree: Any) -> tuple[str, ...]:
    return anx.trainable_filter.paths(tree)


# --- records: roles, paths, order ----------------------------------------------------


@given(models())
@settings(max_examples=150)
def test_records_say_what_the_classes_say_in_the_order_of_jax(model: Model) -> None:
    with_paths, _ = tree_flatten_with_path(model.tree)
    records = anx.records(model.tree)
    assert len(records) == len(with_paths) == len(model.expected)
    for (_, leaf), record, expected in zip(
        with_paths, records, model.expected, strict=True
    ):
        assert leaf is expected.leaf
        assert record.path == expected.path
        assert record.role == expected.role
        assert record.trainable == expected.trainable
        assert record.tags == expected.tags
        assert record.persistent == expected.persistent
        assert record.owner is expected.owner
        if expected.owner is not eqx.nn.Linear:  # whose axes are named elsewhere
            assert record.axes == expected.axes
        is_array = expected.kind != "opaque"
        assert record.shape == (leaf.shape if is_array else ())
        assert record.dtype == (leaf.dtype if is_array else None)


@given(models(), st.data())
def test_leaves_keep_what_the_records_say(model: Model, data: st.DataObject) -> None:
    choice = data.draw(SELECTIONS)
    taken = anx.leaves(model.tree, choice.selection)
    expected = [e for e in model.expected if choice.holds(e)]
    assert list(taken) == [e.path for e in expected]
    assert all(value is e.leaf for value, e in zip(taken.values(), expected, strict=True))
    again = {record.path: record for record in anx.records(taken)}
    for e in expected:
        record = again[e.path]
        assert (record.role, record.tags) == (e.role, e.tags)
        assert (record.trainable, record.persistent) == (e.trainable, e.persistent)


@given(models(), PORTABLE)
def test_leaves_of_leaves_are_the_leaves(model: Model, choice: Choice) -> None:
    whole = anx.leaves(model.tree, anx.everything)
    once = anx.leaves(model.tree, choice.selection)
    twice = anx.leaves(whole, choice.selection)
    assert once.static == twice.static
    assert all(map(same_leaf, once.values(), twice.values()))


@given(models(), st.sampled_from(["Param", "Buffer", "Lora", "Stat"]))
def test_leaves_inside_a_module_keep_their_roles_unless_it_knows_better(
    model: Model, outer: str
) -> None:
    """`Leaves` in a field: the field's role meets the leaf's own, as with any module."""
    holder = _HOLDERS[outer](anx.leaves(model.tree, anx.everything))
    for record, e in zip(anx.records(holder), model.expected, strict=True):
        own = e.role
        prefix = record.path.removesuffix(e.path)
        assert prefix in ("inner", "inner.")
        assert record.tags == e.tags | {"outer"}
        assert not record.persistent
        role = Role.of(ARRAY_ROLES[outer])
        if own is None or _prevails(role, own):
            assert record.role == role
        else:
            assert record.role == own


def _prevails(outer: Role, inner: Role) -> bool:
    if outer.is_a(Buffer) != inner.is_a(Buffer):
        return outer.is_a(Buffer)
    return outer.depth > inner.depth


class _ParamHolder(anx.Module):
    inner: Param[Any] = anx.field(tags=["outer"], persistent=False)


class _BufferHolder(anx.Module):
    inner: Buffer[Any] = anx.field(tags=["outer"], persistent=False)


class _LoraHolder(anx.Module):
    inner: Lora[Any] = anx.field(tags=["outer"], persistent=False)


class _StatHolder(anx.Module):
    inner: Stat[Any] = anx.field(tags=["outer"], persistent=False)


_HOLDERS = {
    "Param": _ParamHolder,
    "Buffer": _BufferHolder,
    "Lora": _LoraHolder,
    "Stat": _StatHolder,
}


# --- a role does not depend on how it is spelled -------------------------------------

ROLES = {**ARRAY_ROLES, "Hyper": Hyper}
ARRAY = "Float[Array, 'rows columns']"
MARK = "@"  # stands in a template for what is written around


class Spelling(NamedTuple):
    """An annotation, what is assigned to the field, and a value that fits it."""

    annotation: str
    assigned: str
    value: Any
    future: bool
    before: tuple[str, ...] = ()


def _wrapped(static: bool) -> st.SearchStrategy[tuple[str, Callable[[Any], Any]]]:
    """A piece of annotation around another, and what it makes of a value."""
    wrappers: list[tuple[str, Callable[[Any], Any]]] = [
        ("Optional[@]", lambda x: x),
        ("Union[None, @]", lambda x: x),
        ("typing.Union[@, None]", lambda x: x),
        ("Annotated[@, 'a note', 3]", lambda x: x),
        ("tuple[@, ...]", lambda x: (x, x)),
        ("tuple[@, @]", lambda x: (x, x)),
        ("Maybe[@]", lambda x: x),
        ("Late[@]", lambda x: x),
    ]
    containers: list[tuple[str, Callable[[Any], Any]]] = [
        ("list[@]", lambda x: [x, x]),
        ("dict[str, @]", lambda x: {"k": x, "l": x}),
        ("typing.Sequence[@]", lambda x: [x]),
    ]
    return st.sampled_from(wrappers if static else wrappers + containers)


@st.composite
def spellings(draw: Callable[..., Any], role: str) -> Spelling:
    """Wrap the type, put the role around it, wrap again; quote and name parts of it."""
    static = role == "Hyper"
    text, value = ("int", 3) if static else (ARRAY, jnp.ones((2, 3)))
    future = draw(st.booleans())
    before: list[str] = []

    def wrap(text: str, value: Any) -> tuple[str, Any]:
        for template, around in draw(st.lists(_wrapped(static), max_size=2)):
            if template.count(MARK) > 1 or not draw(st.booleans()):
                inner = text
            else:
                inner = repr(text)  # a forward reference
            # `Annotated["...", ...]` and generic aliases take a string as it is, too.
            text, value = template.replace(MARK, inner), around(value)
        return text, value

    def name(text: str) -> str:
        """Perhaps say it through an alias of one of three kinds."""
        alias = f"Alias{len(before)}"
        kind = draw(st.sampled_from(["", "", "plain", "PEP 695", "PEP 695 in a string"]))
        if not kind:
            return text
        said = {
            "plain": text,
            "PEP 695": f"TypeAliasType({alias!r}, {text})",
            "PEP 695 in a string": f"TypeAliasType({alias!r}, {text!r})",
        }
        before.append(f"{alias} = {said[kind]}")
        return alias

    text, value = wrap(name(text), value)
    assigned, how = (
        "",
        draw(st.sampled_from(["around", "around", "around", "dotted", "twin"])),
    )
    if how == "twin":
        assigned = f" = anx.field(role={role})"
    else:
        head = "roles." * (how == "dotted") + role
        text = f"{head}[{repr(text) if draw(st.booleans()) else text}]"
    text, value = wrap(name(text), value)
    if draw(st.booleans()):
        text = repr(text)
    elif draw(st.booleans()) and (future or text[0] not in "\"'"):
        text = f"{text} | None"
    return Spelling(text, assigned, value, future, tuple(before))


def spelled(spelling: Spelling, local: bool) -> type:
    """The class with a field `x` that is spelled so, perhaps local to a function."""
    indent = "    " * local
    rows = [
        "from __future__ import annotations" if spelling.future else "",
        "def make():" if local else "",
        *(indent + row for row in spelling.before),
        f"{indent}class Spelled(anx.Module):",
        f"{indent}    x: {spelling.annotation}{spelling.assigned}",
        "    return Spelled" if local else "",
        "Spelled = make()" if local else "",
    ]
    namespace = {**SPELLING_NAMES, "__name__": __name__}
    exec("\n".join(rows), namespace)
    return namespace["Spelled"]


_Any = TypeVar("_Any")
_Late = TypeAliasType("_Late", Optional[_Any], type_params=(_Any,))  # noqa: UP045
SPELLING_NAMES: dict[str, Any] = {
    **ROLES,
    "anx": anx,
    "roles": SimpleNamespace(**ROLES),
    "typing": typing,
    "Annotated": Annotated,
    "Any": Any,
    "Array": Array,
    "Float": Float,
    "Optional": Optional,
    "Union": Union,
    "TypeAliasType": TypeAliasType,
    "Maybe": Optional[_Any],  # noqa: UP045 -- `_Any | None` is no generic alias
    "Late": _Late,
    "Same": TypeAliasType("Same", _Any, type_params=(_Any,)),
    "Quoted": TypeAliasType("Quoted", "list[_Any]", type_params=(_Any,)),
    "Nested": TypeAliasType("Nested", _Late[list[_Late[_Any]]], type_params=(_Any,)),
    "Recursive": TypeAliasType(
        "Recursive", _Any | list["Recursive[_Any]"], type_params=(_Any,)
    ),
    "_Any": _Any,
}


# Some spellings have names that exist nowhere: their role is known, their type is not.
@pytest.mark.filterwarnings("ignore:.* is not checked:annotax.AnnotationWarning")
@pytest.mark.parametrize("role", ROLES)
def test_a_role_does_not_depend_on_its_spelling(role: str) -> None:
    spelled_so = set()

    @given(spellings(role), st.booleans())
    @settings(max_examples=40)
    def check(spelling: Spelling, local: bool) -> None:
        spelled_so.add(spelling[0])
        instance = spelled(spelling, local)(spelling.value)
        assert_spelled(instance, Role.of(ROLES[role]), spelling.value)

    check()
    assert len(spelled_so) > 15


def assert_spelled(instance: Any, role: Role, value: Any) -> None:
    """What one field `x` of that role means, whatever its annotation looks like."""
    dataclass_field = dataclasses.fields(instance)[0]
    assert dataclass_field.metadata.get("static", False) == role.is_a(Hyper)
    records = anx.records(instance)
    assert [(r.role, r.origin) for r in records] == [
        (role, "declared") for _ in tree_leaves(instance)
    ]
    if role.is_a(Hyper):
        assert records == ()
        assert instance.x == value
        return
    assert len(records) == len(tree_leaves(value)) > 0
    assert all(record.axes == ("rows", "columns") for record in records)
    assert flags(anx.trainable_filter, instance) == [role.is_a(Param)] * len(records)
    gradient = jax.grad(sum_of_squares)(instance)
    for leaf, g in zip(tree_leaves(instance), tree_leaves(gradient), strict=True):
        assert np.array_equal(g, 0 * leaf if role.is_a(Buffer) else 2 * leaf)


@pytest.mark.parametrize(
    "annotation",
    [
        "tuple[Late[int], Late[Buffer[Array]]]",
        "Late[list[Late[Buffer[Array]]]]",
        "Same[Buffer[Array]]",
        "Quoted[Buffer[Array]]",
        "Nested[Buffer[Array]]",
        "Recursive[Buffer[Array]]",
    ],
)
def test_a_role_in_the_argument_of_an_alias_is_found(annotation: str) -> None:
    cls = spelled(Spelling(annotation, "", None, future=False), local=False)
    with anx.checking("off"):  # the value is what most of them are not
        (record,) = anx.records(cls(jnp.ones(2)))
    assert record.role == Buffer


@pytest.mark.parametrize("future", [False, True])
@pytest.mark.parametrize("role", ["Param", "Buffer", "Stat", "Adapter"])
@pytest.mark.parametrize(
    "annotation",
    [
        "@[NoSuchType]",
        "@[NoSuchType] | None",
        "@[NoSuchType | None]",
        "Optional[@[NoSuchType]]",
        "list[@[NoSuchType]]",
        "dict[str, @[Float[NoSuchType, 'a b']]]",
        "NoSuchAlias[@[int]]",
        "dict[NoSuchType, '@[int]']",
        "list['@[NoSuchType]']",
        "roles.@[no.such.Type]",
    ],
)
def test_a_role_around_a_type_that_cannot_be_resolved_is_found(
    annotation: str, role: str, future: bool
) -> None:
    text = annotation.replace(MARK, role)
    cls = spelled(Spelling(text if future else repr(text), "", None, future), local=False)
    with anx.checking("off"):  # the value is no list, and nobody knows what a NoSuchType is
        instance = cls(jnp.ones((2, 3)))
    (record,) = anx.records(jax.tree.map(lambda leaf: leaf, instance))
    assert record.role == ROLES[role]
    assert record.trainable == Role.of(ROLES[role]).is_a(Param)


# --- split, merge, update, partition -------------------------------------------------


@given(models(), st.lists(SELECTIONS, max_size=3))
@settings(max_examples=80)
def test_merge_undoes_split(model: Model, chosen: list[Choice]) -> None:
    structure, *parts = anx.split(model.tree, *(c.selection for c in chosen))
    assert_same_tree(anx.merge(structure, *parts), model.tree)
    assert len(parts) == len(chosen) + 1
    # Every array is in the first Leaves whose selection matches it, opaque leaves in none.
    groups: list[list[str]] = [[] for _ in parts]
    for e in model.expected:
        if e.kind != "opaque":
            groups[next((i for i, c in enumerate(chosen) if c.holds(e)), -1)].append(e.path)
    assert [list(part) for part in parts] == groups


@given(models(), st.lists(SELECTIONS, max_size=2))
def test_merge_reads_leaves_by_path(model: Model, chosen: list[Choice]) -> None:
    """Leaves that came through a pickle or another split are not the same keys object."""
    structure, *parts = anx.split(model.tree, *(c.selection for c in chosen))
    _, *others = anx.split(model.again().tree, *(c.selection for c in chosen))
    assert_same_tree(anx.merge(structure, *others), model.tree)
    assert_same_tree(model.tree, anx.merge(structure, *parts))


@given(models(), st.lists(SELECTIONS, max_size=2))
def test_structures_of_equal_models_are_equal(model: Model, chosen: list[Choice]) -> None:
    selections = [c.selection for c in chosen]
    structure = anx.split(model.tree, *selections)[0]
    twin = anx.split(model.again().tree, *selections)[0]
    assert structure == twin
    assert hash(structure) == hash(twin)
    assert {structure: 1}[twin] == 1


@given(models())
def test_structures_differ_where_static_values_do(model: Model) -> None:
    other = model.again(lambda value: ("other", value))
    same = jax.tree_util.tree_structure(model.tree) == jax.tree_util.tree_structure(
        other.tree
    )
    assert (anx.split(model.tree)[0] == anx.split(other.tree)[0]) == same


@given(models(), st.data())
@settings(max_examples=80)
def test_structures_differ_where_opaque_leaves_do(
    model: Model, data: st.DataObject
) -> None:
    opaque = [e.at for e in model.expected if e.kind == "opaque"]
    assume(opaque)
    leaves, treedef = tree_flatten(model.tree)
    at = data.draw(st.sampled_from(opaque))
    twins = {0: [False, 0.0, -0.0], 1: [True, 1.0, 1j], True: [1], 1.5: [1.25], 1j: [-1j]}
    old = leaves[at]
    new = data.draw(st.sampled_from([*twins.get(old, ["another"]), "a new one"]))
    assume(type(new) is not type(old) or new != old)
    leaves[at] = new
    assert anx.split(model.tree)[0] != anx.split(treedef.unflatten(leaves))[0]


def test_a_structure_tells_zero_from_minus_zero() -> None:
    """A compiled program holds the value: one for 0.0 is wrong for -0.0."""

    def parts(value: float) -> Any:
        return anx.split([jnp.ones(2), value])

    compiled = jax.jit(
        lambda structure, rest: jnp.copysign(1.0, anx.merge(structure, rest)[1]),
        static_argnums=0,
    )
    assert compiled(*parts(0.0)) == 1.0
    assert compiled(*parts(-0.0)) == -1.0


def test_a_leaf_without_hash_is_refused_by_path() -> None:
    with pytest.raises(anx.StructureError, match=r"a\.0"):
        anx.split({"a": [{1, 2}], "b": jnp.ones(2)})


@given(models(), SELECTIONS)
@compiling
def test_a_structure_is_a_static_argument_of_jit(model: Model, choice: Choice) -> None:
    traces = []

    def shapes(structure: anx.Structure, *parts: anx.Leaves) -> Any:
        merged = anx.merge(structure, *parts)
        traces.append(trainable_paths(merged))
        arrays = [leaf for leaf in tree_leaves(merged) if isinstance(leaf, jax.Array)]
        return arrays[0] if arrays else jnp.zeros(())

    compiled = jax.jit(shapes, static_argnums=0)
    compiled(*anx.split(model.tree, choice.selection))
    compiled(*anx.split(model.again().tree, choice.selection))
    assert traces == [tuple(e.path for e in model.expected if e.trainable)]


@given(models(), SELECTIONS)
@settings(max_examples=60)
def test_update_with_its_own_leaves_changes_nothing(model: Model, choice: Choice) -> None:
    before = tree_leaves(model.tree)
    assert_same_tree(anx.update(model.tree, anx.params(model.tree)), model.tree)
    own = anx.leaves(model.tree, choice.selection)
    assert_same_tree(anx.update(model.tree, own), model.tree)
    assert all(map(lambda a, b: a is b, tree_leaves(model.tree), before))


@given(models(ARRAYS), PORTABLE)
def test_update_changes_the_selected_leaves_and_no_others(
    model: Model, choice: Choice
) -> None:
    other = model.again()
    updated = anx.update(model.tree, anx.leaves(other.tree, choice.selection))
    pairs = zip(tree_leaves(updated), model.expected, other.expected, strict=True)
    for leaf, mine, theirs in pairs:
        assert leaf is (theirs.leaf if choice.holds(mine) else mine.leaf)


@given(models(), SELECTIONS)
@settings(max_examples=60)
def test_combine_undoes_partition(model: Model, choice: Choice) -> None:
    for selection in (anx.trainable_filter, anx.everything, choice.selection):
        selected, rest = eqx.partition(model.tree, selection(model.tree))
        assert_same_tree(eqx.combine(selected, rest), model.tree)
    chosen = eqx.filter(model.tree, choice.selection(model.tree))
    wanted = [e.leaf for e in model.expected if choice.holds(e)]
    assert [id(leaf) for leaf in tree_leaves(chosen)] == [id(leaf) for leaf in wanted]


@pytest.mark.parametrize("function", [eqx.partition, eqx.filter])
def test_a_selection_that_was_not_called_is_refused(function: Any) -> None:
    """Equinox calls what is callable with each leaf, which says nothing of its role."""
    model = _Frozen(jnp.ones(2), 0)
    with pytest.raises(anx.SelectionError):
        function(model, anx.trainable_filter)


# --- the algebra of selections -------------------------------------------------------


@given(models(), SELECTIONS)
@settings(max_examples=150)
def test_selections_choose_what_the_contract_says(model: Model, choice: Choice) -> None:
    note(repr(choice.selection))
    expected = [choice.holds(e) for e in model.expected]
    assert flags(choice.selection, model.tree) == expected
    paths = tuple(
        e.path for e, chosen in zip(model.expected, expected, strict=True) if chosen
    )
    assert choice.selection.paths(model.tree) == paths
    assert choice.selection.count(model.tree) == sum(expected)
    choice.selection.expect(sum(expected))(model.tree)
    with pytest.raises(anx.SelectionError):
        choice.selection.expect(sum(expected) + 1)(model.tree)


LAWS: dict[str, Callable[[Any, Any, Any], tuple[Any, Any]]] = {
    "De Morgan, and": lambda a, b, _: (~(a & b), ~a | ~b),
    "De Morgan, or": lambda a, b, _: (~(a | b), ~a & ~b),
    "double negation": lambda a, b, _: (~~a, a),
    "and distributes": lambda a, b, c: (a & (b | c), (a & b) | (a & c)),
    "or distributes": lambda a, b, c: (a | (b & c), (a | b) & (a | c)),
    "absorption, and": lambda a, b, _: (a & (a | b), a),
    "absorption, or": lambda a, b, _: (a | (a & b), a),
    "and commutes": lambda a, b, _: (a & b, b & a),
    "or commutes": lambda a, b, _: (a | b, b | a),
    "and associates": lambda a, b, c: (a & (b & c), (a & b) & c),
    "or associates": lambda a, b, c: (a | (b | c), (a | b) | c),
    "contradiction": lambda a, b, _: (a & ~a, ~anx.everything),
    "excluded middle": lambda a, b, _: (a | ~a, anx.everything),
}


@given(models(), SELECTIONS, SELECTIONS, SELECTIONS)
@settings(max_examples=40)
def test_selections_are_a_boolean_algebra(
    model: Model, a: Choice, b: Choice, c: Choice
) -> None:
    for law in LAWS.values():
        left, right = law(a.selection, b.selection, c.selection)
        assert flags(left, model.tree) == flags(right, model.tree)
    assert flags(a.selection & ~a.selection, model.tree) == [False] * len(model.expected)
    assert flags(a.selection | ~a.selection, model.tree) == [True] * len(model.expected)


@given(models(), PORTABLE, PORTABLE, PORTABLE)
@settings(max_examples=40)
def test_selections_say_the_same_of_leaves(
    model: Model, a: Choice, b: Choice, c: Choice
) -> None:
    whole = anx.leaves(model.tree, anx.everything)
    assert flags(a.selection, whole) == flags(a.selection, model.tree)
    assert a.selection.paths(whole) == a.selection.paths(model.tree)
    for law in LAWS.values():
        left, right = law(a.selection, b.selection, c.selection)
        assert flags(left, whole) == flags(right, whole)


@given(models(), SELECTIONS)
def test_a_function_that_returns_the_tree_is_the_selection(
    model: Model, choice: Choice
) -> None:
    as_function = anx.Selection.of(lambda tree: choice.selection(tree))
    assert flags(as_function, model.tree) == flags(choice.selection, model.tree)
    both = ~anx.everything | as_function
    assert flags(both, model.tree) == flags(choice.selection, model.tree)


@given(models(), st.lists(PORTABLE, min_size=1, max_size=3))
def test_labels_go_to_the_first_of_disjoint_selections(
    model: Model, chosen: list[Choice]
) -> None:
    disjoint, taken = {}, ~anx.everything
    for name, choice in zip("abc", chosen, strict=False):
        disjoint[name] = choice.selection & ~taken
        taken = taken | choice.selection
    expected = [
        next((n for n, c in zip("abc", chosen, strict=False) if c.holds(e)), "rest")
        for e in model.expected
    ]
    label = anx.labels(disjoint, default="rest")
    assert tree_leaves(label(model.tree)) == expected
    assert tree_leaves(label(anx.leaves(model.tree, anx.everything))) == expected


# --- layouts are cached and never stale ----------------------------------------------


@given(models(), st.lists(STATICS, min_size=12, max_size=12))
def test_static_values_change_no_filter(model: Model, values: list[Any]) -> None:
    """More structures than the cache keeps for one hash; in both directions."""
    expected = [e.trainable for e in model.expected]
    variants = [model.again(lambda old, v=v: (v, old)) for v in values]
    for variant in (model, *variants, *reversed(variants), model):
        assert flags(anx.trainable_filter, variant.tree) == expected
        assert anx.params(variant.tree).static == anx.params(model.tree).static


def test_the_same_structure_has_the_same_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The traversal runs once for a structure and for all that differ in Hypers only."""
    runs = []
    traverse = _view.traverse
    monkeypatch.setattr(_view, "traverse", lambda *args: runs.append(1) or traverse(*args))
    anx.register(foreign_class(0).cls)  # forgets all layouts
    for number in range(50):
        model = [_Rated(jnp.ones(2), number), _Rated(jnp.ones(3), (number,))]
        assert anx.trainable_filter.paths(model) == ("0.w", "1.w")
    assert len(runs) == 1


class _Rated(anx.Module):
    w: Param[Any]
    rate: Hyper[Any]


class _Frozen(anx.Module):
    w: Buffer[Any]
    rate: Hyper[Any]


class _Renamed(anx.Module):
    v: Param[Any]
    rate: Hyper[Any]


def _leaves_of(cls: Any) -> anx.Leaves:
    return anx.leaves(cls(jnp.ones(2), 0), anx.everything)


_LOOKALIKES: list[tuple[Callable[[], Any], list[str], list[bool]]] = [
    (lambda: [_Rated(jnp.ones(2), 0)], ["0.w"], [True]),
    (lambda: [_Frozen(jnp.ones(2), 0)], ["0.w"], [False]),
    (lambda: [_Renamed(jnp.ones(2), 0)], ["0.v"], [True]),
    (lambda: [_leaves_of(_Rated)], ["0.w"], [True]),
    (lambda: [_leaves_of(_Frozen)], ["0.w"], [False]),
    (lambda: [_leaves_of(_Renamed)], ["0.v"], [True]),
    (lambda: [{"w": jnp.ones(2)}], ["0.w"], [True]),
    (lambda: [{"v": jnp.ones(2)}], ["0.v"], [True]),
    (lambda: [{0: jnp.ones(2)}], ["0[0]"], [True]),
    (lambda: [[jnp.ones(2)]], ["0.0"], [True]),
    (lambda: ([jnp.ones(2)],), ["0.0"], [True]),
    (lambda: [[None, jnp.ones(2)]], ["0.1"], [True]),
    (lambda: [_Rated(None, 0), jnp.ones(2)], ["1"], [True]),
    (lambda: [_Frozen(jnp.ones(2), 1)], ["0.w"], [False]),
    (lambda: [jnp.ones(2)], ["0"], [True]),
    (lambda: [jnp.arange(2)], ["0"], [False]),
    (lambda: [3.0], ["0"], [False]),
]


@given(st.lists(st.sampled_from(_LOOKALIKES), min_size=2, max_size=10))
def test_structures_that_look_alike_are_told_apart(drawn: list[Any]) -> None:
    """Hashes of structures ignore static data, so many of these collide."""
    for make, paths, trainable in drawn:
        model = make()
        assert [record.path for record in anx.records(model)] == paths
        assert flags(anx.trainable_filter, model) == trainable


class _Foreign(eqx.Module):
    x: Any
    y: Any
    z: Any


_ANY_ROLE = st.sampled_from([*ARRAY_ROLES.values(), Hyper])


@given(
    st.tuples(_ANY_ROLE, _ANY_ROLE, _ANY_ROLE),
    st.lists(st.tuples(st.sampled_from("xyz"), _ANY_ROLE), max_size=6),
)
def test_a_registration_is_seen_at_once(first: Any, later: list[Any]) -> None:
    roles = {name: Role.of(role) for name, role in zip("xyz", first, strict=True)}
    anx.register(_Foreign, **roles)
    model = {"m": [_Foreign(jnp.ones(2), jnp.ones(3), (jnp.ones(1), jnp.arange(2)))]}
    outside = anx.leaves(model, anx.everything)
    before = outside.static.keys
    for name, role in [*((n, r) for n, r in roles.items()), *later]:
        anx.register(_Foreign, **{name: role})
        roles[name] = Role.of(role)
        wanted = [roles["x"], roles["y"], roles["z"], roles["z"]]
        assert [record.role for record in anx.records(model)] == wanted
        trains = [role.is_a(Param) for role in wanted]
        assert flags(anx.trainable_filter, model) == [*trains[:3], False]
        assert flags(anx.by_role(role), model) == [r.is_a(role) for r in wanted]
        assert len(anx.params(model)) == sum(trains[:3])
    # What was taken out earlier keeps what was true then.
    assert outside.static.keys == before


def test_a_class_is_undeclared_until_it_is_registered() -> None:
    class Late(eqx.Module):
        table: Any
        n: Any

    class Around(anx.Module):
        inner: Late

    model = Around(Late(jnp.ones(2), jnp.arange(2)))
    assert trainable_paths(model) == ("inner.table",)
    assert all(record.undeclared for record in anx.records(model))
    anx.register(Late, table=Buffer)
    assert trainable_paths(model) == ()
    assert [record.origin for record in anx.records(model)] == ["registered", "undeclared"]
    anx.register(Late, table=anx.field(role=Param, tags=["late"]))
    assert anx.by_tag("late").paths(model) == trainable_paths(model) == ("inner.table",)


# --- the same answer in every guise of a model ---------------------------------------


@given(models())
def test_an_abstract_model_has_the_same_filter(model: Model) -> None:
    abstract = eqx.filter_eval_shape(lambda m: m, model.tree)
    assert flags(anx.trainable_filter, abstract) == [e.trainable for e in model.expected]
    assert anx.params(abstract).static == anx.params(model.tree).static


@given(models(), SELECTIONS)
@compiling
def test_a_selection_inside_jit_is_the_one_outside(model: Model, choice: Choice) -> None:
    seen: list[Any] = []

    @eqx.filter_jit
    def inside(m: Any) -> Any:
        seen.append((flags(anx.trainable_filter, m), flags(choice.selection, m)))
        assert anx.params(m).static == anx.params(model.tree).static
        return m

    returned = inside(model.tree)
    outside = (flags(anx.trainable_filter, model.tree), flags(choice.selection, model.tree))
    assert seen == [outside]
    assert flags(anx.trainable_filter, returned) == outside[0]


@given(models(FLOATS))
@settings(max_examples=20)
def test_gradients_have_the_filter_of_the_model(model: Model) -> None:
    gradient = jax.grad(sum_of_squares)(model.tree)
    assert flags(anx.trainable_filter, gradient) == [e.trainable for e in model.expected]
    assert anx.params(gradient).static == anx.params(model.tree).static


@given(models())
@settings(max_examples=20)
def test_filtered_gradients_have_the_trainable_paths_of_the_model(model: Model) -> None:
    assume(all(e.leaf.dtype != "complex64" for e in model.expected if e.kind == "inexact"))
    gradient = eqx.filter_grad(sum_of_squares)(model.tree)
    assert trainable_paths(gradient) == trainable_paths(model.tree)
    assert_gradients_stop_at_buffers(model, gradient)
    if anx.trainable_filter.count(model.tree):
        assert list(anx.grad(sum_of_squares)(model.tree)) == list(anx.params(model.tree))


def test_an_array_alone_is_a_model() -> None:
    array = jnp.ones(3)
    (record,) = anx.records(array)
    assert (record.path, record.role, record.trainable) == ("", Param, True)
    structure, params, rest = anx.split(array, anx.trainable_filter)
    assert (list(params), list(rest)) == ([""], [])
    assert anx.merge(structure, params, rest) is array
    assert anx.update(array, anx.params(array)) is array
    assert anx.by_path("**").paths(array) == ("",)
    assert anx.by_path("*").paths(array) == ()
    assert anx.params([anx.params(array)]).keys() == {"0"}


# --- Leaves --------------------------------------------------------------------------


@given(models(ARRAYS), SELECTIONS)
def test_leaves_pickle(model: Model, choice: Choice) -> None:
    keyless = anx.by(lambda record: not jnp.issubdtype(record.dtype, jax.dtypes.prng_key))
    taken = anx.leaves(model.tree, choice.selection & keyless)
    back = pickle.loads(pickle.dumps(taken))
    assert back == taken
    assert hash(back) == hash(taken)
    assert back.static == taken.static
    assert_same_tree(back, taken)
    assert_same_tree(
        anx.update(model.tree, back), anx.update(model.tree, taken)
    )  # it still fits


@given(models(ARRAYS), PORTABLE)
def test_equal_models_have_equal_leaves(model: Model, choice: Choice) -> None:
    mine = anx.leaves(model.tree, choice.selection)
    theirs = anx.leaves(model.again().tree, choice.selection)
    assert mine == theirs
    assert hash(mine) == hash(theirs)
    others = anx.leaves(model.tree, ~choice.selection)
    assert (mine == others) == (not mine and not others)


@given(models(), PORTABLE)
def test_leaves_are_one_node_with_a_key_per_path(model: Model, choice: Choice) -> None:
    taken = anx.leaves(model.tree, choice.selection)
    pairs, treedef = tree_flatten_with_path(taken)
    assert [key for key, _ in pairs] == [(DictKey(path),) for path in taken]
    assert all(leaf is taken[key.key] for (key,), leaf in pairs)
    assert treedef == jax.tree_util.tree_structure(taken)
    assert all(child.num_nodes == 1 for child in treedef.children())
    mapped = jax.tree.map(lambda leaf: (leaf, 1), taken)
    assert type(mapped) is anx.Leaves
    assert list(mapped) == list(taken)
    assert all(mapped[path][0] is taken[path] for path in taken)
    assert not callable(taken)


@given(models(), PORTABLE)
def test_leaves_are_a_mapping(model: Model, choice: Choice) -> None:
    taken = anx.leaves(model.tree, choice.selection)
    plain = {e.path: e.leaf for e in model.expected if choice.holds(e)}
    assert list(dict(taken)) == list(plain)
    assert len(taken) == len(plain)
    assert bool(taken) == bool(plain)
    assert list(taken.keys()) == list(plain.keys())
    assert all(map(lambda a, b: a is b, taken.values(), plain.values()))
    assert all(
        a == b and x is y
        for (a, x), (b, y) in zip(taken.items(), plain.items(), strict=True)
    )
    for path, leaf in plain.items():
        assert path in taken
        assert taken[path] is taken.get(path) is leaf
    assert "no.such" not in taken
    assert taken.get("no.such", 5) == 5
    with pytest.raises(KeyError, match="no leaf"):
        taken["no.such"]
    with pytest.raises(TypeError):
        taken["a"] = 1
    with pytest.raises(AttributeError):
        taken.extra = 1


# --- Buffers keep gradients out ------------------------------------------------------


def sum_of_squares(tree: Any) -> Any:
    """A loss that knows nothing of roles."""
    inexact = [leaf for leaf in tree_leaves(tree) if eqx.is_inexact_array(leaf)]
    return sum(((leaf * leaf).sum() for leaf in inexact), start=jnp.zeros(()))


def assert_gradients_stop_at_buffers(model: Model, gradient: Any) -> None:
    inexact = [e for e in model.expected if e.kind == "inexact"]
    found = tree_leaves(gradient)
    assert len(found) == len(inexact)
    for e, g in zip(inexact, found, strict=True):
        wanted = np.zeros_like(e.leaf) if e.stopped else np.asarray(e.leaf + e.leaf)
        assert np.asarray(g).tobytes() == wanted.tobytes(), e.path


def _scanned(loss: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The loss through a model that is the carry of a scan."""

    def run(tree: Any) -> Any:
        _, losses = jax.lax.scan(lambda m, _: (m, loss(m)), tree, None, length=2)
        return losses.sum() / 2

    return run


GUISES: dict[str, Callable[[Any], Any]] = {
    "grad": lambda model: jax.grad(sum_of_squares)(model),
    "jit(grad)": lambda model: jax.jit(jax.grad(sum_of_squares))(model),
    "grad(jit)": lambda model: jax.grad(jax.jit(sum_of_squares))(model),
    "grad(checkpoint)": lambda model: jax.grad(jax.checkpoint(sum_of_squares))(model),
    "grad(scan)": lambda model: jax.grad(_scanned(sum_of_squares))(model),
    "vjp": lambda model: jax.vjp(sum_of_squares, model)[1](jnp.ones(()))[0],
    "grad of tree_map": lambda model: jax.grad(
        lambda m: sum_of_squares(jax.tree.map(lambda leaf: leaf, m))
    )(model),
    "jacrev": lambda model: jax.jacrev(sum_of_squares)(model),
}


@pytest.mark.parametrize("guise", GUISES)
def test_no_gradient_reaches_a_buffer(guise: str) -> None:
    buffers = []

    @given(models(FLOATS))
    @settings(max_examples=15 if guise == "grad" else 6)
    def check(model: Model) -> None:
        assume(model.expected)
        buffers.extend(e for e in model.expected if e.stopped and e.leaf.size)
        assert_gradients_stop_at_buffers(model, GUISES[guise](model.tree))

    check()
    assert buffers  # or nothing was tested


@given(models(FLOATS))
@settings(max_examples=6)
def test_no_gradient_reaches_a_buffer_of_a_batch_of_models(model: Model) -> None:
    assume(model.expected)
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 1, leaf * 3]), model.tree)
    gradients = jax.vmap(jax.grad(sum_of_squares))(batch)
    for at in range(3):
        one = jax.tree.map(lambda leaf, at=at: leaf[at], batch)
        single = jax.tree.map(lambda leaf, at=at: leaf[at], gradients)
        for e, x, g in zip(
            model.expected, tree_leaves(one), tree_leaves(single), strict=True
        ):
            assert np.array_equal(g, np.zeros_like(x) if e.stopped else 2 * x)


@given(models(FLOATS), PORTABLE)
@settings(max_examples=20)
def test_grad_gives_the_gradient_of_what_is_selected(model: Model, choice: Choice) -> None:
    chosen = [e for e in model.expected if choice.holds(e)]
    gradient = anx.grad(sum_of_squares, wrt=choice.selection)
    if not chosen:
        with pytest.raises(anx.SelectionError):
            gradient(model.tree)
        return
    found = gradient(model.tree)
    assert list(found) == [e.path for e in chosen]
    assert found.static == anx.leaves(model.tree, choice.selection).static
    for e in chosen:
        wanted = np.zeros_like(e.leaf) if e.stopped else 2 * e.leaf
        assert np.array_equal(found[e.path], wanted)


@given(models(FLOATS))
def test_outside_of_tracing_a_buffer_is_the_array_that_was_given(model: Model) -> None:
    leaves, treedef = tree_flatten(model.tree)
    assert all(leaf is e.leaf for leaf, e in zip(leaves, model.expected, strict=True))
    stand_ins = [object() for _ in leaves]
    assert all(
        map(lambda a, b: a is b, tree_leaves(treedef.unflatten(stand_ins)), stand_ins)
    )
