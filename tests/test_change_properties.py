"""What holds for every model that is changed: frozen, adopted, replaced, carried."""

import copy
import operator
import pickle
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.tree_util import tree_flatten, tree_leaves, tree_structure

import annotax as anx
from strategies import (
    ARRAYS,
    FLAGGED,
    FLAGS,
    FLOATS,
    ODD_KEYS,
    OPAQUE,
    PORTABLE,
    Constant,
    Expected,
    Instance,
    Keyed,
    Leaf,
    Model,
    Sequence,
    ancestry,
    crowded_models,
    flagged_models,
    grow,
    layered_models,
    mix,
    step_of,
)

MODELS = mix(layered_models(), crowded_models(), crowded_models(), flagged_models())
FLAGGED_MODELS = mix(layered_models(), flagged_models(), flagged_models())
REFUSALS = (anx.SelectionError, anx.HyperError)


# --- what a tree is, in plain words ---------------------------------------------------


@contextmanager
def untouched(*trees: Any) -> Iterator[None]:
    """Whatever happens inside, the trees stay the same, leaf by leaf the same object."""
    before = [tree_flatten(tree) for tree in trees]
    yield
    for tree, (leaves, structure) in zip(trees, before, strict=True):
        assert_same(tree, leaves, structure)


def assert_same(tree: Any, leaves: Collection[Any], structure: Any) -> None:
    found, found_structure = tree_flatten(tree)
    assert found_structure == structure
    assert all(one is other for one, other in zip(found, leaves, strict=True))


def assert_is_the_original(tree: Any, model: Model) -> None:
    """The classes, the structure and the very leaves that the model was made of."""
    assert_same(tree, [e.leaf for e in model.expected], tree_structure(model.tree))
    for node in model.nodes:
        assert type(read(tree, node.steps)) is type(read(model.tree, node.steps))


def read(tree: Any, steps: Collection[str]) -> Any:
    """What stands behind some steps, without asking annotax."""
    for step in steps:
        if isinstance(tree, eqx.Module) or hasattr(tree, "_fields"):
            tree = getattr(tree, step)
        elif isinstance(tree, dict):
            tree = {step_of(key): value for key, value in tree.items()}[step]
        else:
            tree = tree[int(step)]
    return tree


def is_exactly(one: Any, other: Any) -> bool:
    """The same object, or an equal one that also computes the same: 1 is not 1.0."""
    if one is other:
        return True
    return type(one) is type(other) and one == other and repr(one) == repr(other)


def same_bits(one: Any, other: Any) -> bool:
    if one is other or not eqx.is_array_like(other) or not hasattr(other, "dtype"):
        return is_exactly(one, other)
    one, other = np.asarray(one), np.asarray(other)
    kinds = (one.dtype, one.shape) == (other.dtype, other.shape)
    return kinds and one.tobytes() == other.tobytes()


def at_paths(paths: Collection[str]) -> anx.Selection:
    return anx.by(lambda record: record.path in paths)


def trained(tree: Any) -> list[str]:
    paths = [record.path for record in anx.records(tree) if record.trainable]
    assert list(anx.trainable_filter.paths(tree)) == list(anx.params(tree)) == paths
    return paths


def trained_without(model: Model, frozen: Collection[str]) -> list[str]:
    return [e.path for e in model.expected if e.trainable and e.path not in frozen]


# --- selections of whole fields -------------------------------------------------------


def fields(model: Model) -> dict[str, frozenset[str]]:
    """Each field that can be frozen at, with the paths of all that is frozen with it.

    A class stops the gradient of all that enters a field: where an array stands beside a
    module, what is in the module goes with it.
    """
    trained = [e for e in model.expected if e.freezable]
    return {
        unit: frozenset(e.path for e in trained if unit in e.homes)
        for unit in dict.fromkeys(e.unit for e in trained)
    }


def islands(model: Model) -> list[frozenset[str]]:
    """The fields, those together that cannot be thawed one by one."""
    apart: list[frozenset[str]] = []
    for paths in fields(model).values():
        touching = [island for island in apart if island & paths]
        apart = [island for island in apart if not island & paths]
        apart.append(paths.union(*touching))
    return apart


def some(parts: Collection[frozenset[str]]) -> st.SearchStrategy[frozenset[str]]:
    """At least one of the parts, joined."""
    ordered = sorted(parts, key=sorted)
    several = st.sets(st.sampled_from(ordered), min_size=1)
    return several.map(lambda drawn: frozenset().union(*drawn))


def any_paths(model: Model) -> st.SearchStrategy[frozenset[str]]:
    """Paths of all kinds: whole fields, only the arrays right in them, any leaves, or
    whatever could be trained if it were no Buffer."""
    direct = {
        unit: frozenset(e.path for e in model.expected if e.freezable and e.unit == unit)
        for unit in fields(model)
    }
    leaves = [frozenset({e.path}) for e in model.expected]
    inexact = frozenset(e.path for e in model.expected if e.unit and e.kind == "inexact")
    kinds = (fields(model).values(), direct.values(), leaves, [inexact] if inexact else [])
    return st.one_of(*(some(parts) for parts in kinds if parts))


FREEZABLE = MODELS.filter(fields)


@given(MODELS)
def test_the_layers_are_what_their_plans_say(model: Model) -> None:
    """Or the rest of this file would expect nonsense of `eqx.nn`."""
    found = [(r.path, r.role, r.trainable, r.owner) for r in anx.records(model.tree)]
    assert found == [(e.path, e.role, e.trainable, e.owner) for e in model.expected]
    assert all(read(model.tree, e.steps) is e.leaf for e in model.expected)


# --- freeze and unfreeze --------------------------------------------------------------


@given(FREEZABLE, st.data())
@settings(max_examples=60)
def test_freezing_in_steps_of_any_order_is_freezing_at_once(
    model: Model, data: st.DataObject
) -> None:
    first, second = (data.draw(some(fields(model).values())) for _ in range(2))
    with untouched(model.tree):
        once = anx.freeze(model.tree, at_paths(first | second))
        for one, other in ((first, second), (second, first)):
            steps = anx.freeze(anx.freeze(model.tree, at_paths(one)), at_paths(other))
            assert_same(steps, tree_leaves(model.tree), tree_structure(once))
    assert tree_structure(once) != tree_structure(model.tree)


@given(MODELS, st.data())
@settings(max_examples=250)
def test_a_frozen_model_trains_the_rest_and_holds_the_same(
    model: Model, data: st.DataObject
) -> None:
    """Or the selection is refused: never is more or less frozen than was selected."""
    if not model.expected:
        return
    chosen = data.draw(any_paths(model))
    with untouched(model.tree):
        try:
            frozen = anx.freeze(model.tree, at_paths(chosen))
        except anx.SelectionError:
            whole = [paths for paths in fields(model).values() if paths & chosen]
            assert not whole or chosen != frozenset().union(*whole)
            return
    assert trained(frozen) == trained_without(model, chosen)
    before, after = anx.records(model.tree), anx.records(frozen)
    for old, new, e in zip(before, after, model.expected, strict=True):
        assert read(frozen, e.steps) is e.leaf
        assert (new.path, new.role, new.shape, new.dtype) == (
            old.path, old.role, old.shape, old.dtype,
        )  # fmt: skip
        if e.trainable:
            assert new.frozen == (e.path in chosen)


@given(FREEZABLE, st.data())
@settings(max_examples=60)
def test_unfreezing_gives_the_original_back(model: Model, data: st.DataObject) -> None:
    frozen = anx.freeze(model.tree, at_paths(data.draw(some(fields(model).values()))))
    with untouched(frozen):
        assert_is_the_original(anx.unfreeze(frozen), model)
    assert_is_the_original(anx.unfreeze(model.tree), model)


@given(FREEZABLE, st.data())
@settings(max_examples=150)
def test_what_a_selection_froze_it_unfreezes(model: Model, data: st.DataObject) -> None:
    chosen = at_paths(data.draw(any_paths(model)))
    try:
        frozen = anx.freeze(model.tree, chosen)
    except anx.SelectionError:
        return
    assert_is_the_original(anx.unfreeze(frozen, chosen), model)


@given(FREEZABLE, st.data())
@settings(max_examples=150)
def test_unfreezing_a_part_is_freezing_the_rest(model: Model, data: st.DataObject) -> None:
    frozen, part = (data.draw(some(islands(model))) for _ in range(2))
    thawed = anx.unfreeze(anx.freeze(model.tree, at_paths(frozen)), at_paths(part))
    rest = frozen - part
    wanted = anx.freeze(model.tree, at_paths(rest)) if rest else model.tree
    assert_same(thawed, tree_leaves(model.tree), tree_structure(wanted))


@given(MODELS, st.data())
@settings(max_examples=100)
def test_no_sequence_of_changes_trains_a_buffer_or_what_is_frozen(
    model: Model, data: st.DataObject
) -> None:
    if not model.expected:
        return
    tree, frozen = model.tree, frozenset[str]()
    arrays = [e for e in model.expected if e.kind == "inexact"]
    for _ in range(data.draw(st.integers(2, 5))):
        change = data.draw(st.sampled_from(("freeze", "unfreeze", "adopt", "inference")))
        chosen = data.draw(any_paths(model))
        try:
            if change == "freeze":
                tree, frozen = anx.freeze(tree, at_paths(chosen)), frozen | chosen
            elif change == "unfreeze":
                tree, frozen = anx.unfreeze(tree, at_paths(chosen)), frozen - chosen
            elif change == "adopt":
                tree = anx.adopt(tree)
            else:
                tree = anx.inference_mode(tree, data.draw(st.booleans()))
        except REFUSALS:
            continue
        assert trained(tree) == trained_without(model, frozen)
        found = [leaf for leaf in tree_leaves(tree) if eqx.is_inexact_array(leaf)]
        assert all(x is e.leaf for x, e in zip(found, arrays, strict=True))


# --- a part of a field is refused -----------------------------------------------------


def _units(model: Model) -> list[list[str]]:
    """For each field the paths of the arrays in it that can be frozen."""
    return [
        [e.path for e in model.expected if e.freezable and e.unit == unit]
        for unit in fields(model)
    ]


def _splits(unit: list[str]) -> bool:
    return len(unit) > 1


@given(crowded_models().filter(lambda m: any(map(_splits, _units(m)))), st.data())
@settings(max_examples=80)
def test_a_part_of_a_field_is_refused_and_nothing_changes(
    model: Model, data: st.DataObject
) -> None:
    units = _units(model)
    unit = data.draw(st.sampled_from([paths for paths in units if _splits(paths)]))
    part = data.draw(st.sets(st.sampled_from(unit), min_size=1, max_size=len(unit) - 1))
    others = [paths for paths in units if paths is not unit]
    whole = data.draw(st.lists(st.sampled_from(others)) if others else st.just([]))
    selection = at_paths(part.union(*whole))
    frozen = anx.freeze(model.tree, at_paths(frozenset().union(*fields(model).values())))
    with untouched(model.tree, frozen):
        with pytest.raises(anx.SelectionError, match="only some of the arrays"):
            anx.freeze(model.tree, selection)
        with pytest.raises(anx.SelectionError, match="only some of the arrays"):
            anx.unfreeze(frozen, selection)
    assert_is_the_original(model.tree, model)


# --- gradients ------------------------------------------------------------------------


def _smooth(tree: Any, seed: int) -> Any:
    """A loss that knows nothing of roles, whose gradient at each array needs all others."""
    draw = np.random.default_rng(seed)
    inexact = [leaf for leaf in tree_leaves(tree) if eqx.is_inexact_array(leaf)]
    total = jnp.zeros(())
    for leaf in inexact:
        scale, shift = draw.uniform(0.1, 0.4, 2).astype("float32")
        total += scale * jnp.sum(jnp.sin(scale * leaf + shift))
    return jnp.exp(total / 10)


def _gradient(tree: Any, seed: int) -> list[Any]:
    return tree_leaves(eqx.filter_grad(_smooth)(tree, seed))


_SINGLE = [leaf for leaf in ARRAYS if leaf.make(0).dtype == "float32"]
_DIFFERENTIABLE = [*_SINGLE, *(leaf for leaf in ARRAYS if leaf.kind == "array"), *OPAQUE]


@given(layered_models(_DIFFERENTIABLE).filter(fields), st.integers(0, 99), st.data())
@settings(max_examples=40)
def test_no_gradient_reaches_what_is_frozen_and_all_others_stay(
    model: Model, seed: int, data: st.DataObject
) -> None:
    chosen = data.draw(some(fields(model).values()))
    inexact = [e for e in model.expected if e.kind == "inexact"]
    before = _gradient(model.tree, seed)
    after = _gradient(anx.freeze(model.tree, at_paths(chosen)), seed)
    frozen = {e.unit for e in inexact if e.freezable and e.path in chosen}
    for e, old, new in zip(inexact, before, after, strict=True):
        assert np.any(old) == (not e.stopped and e.leaf.size > 0)
        # A registered Buffer beside frozen arrays is stopped with them.
        stopped = not frozen.isdisjoint(e.homes)
        assert stopped == (e.path in chosen) or not e.trainable
        assert same_bits(new, jnp.zeros_like(old) if stopped else old), e.path


@given(layered_models(_DIFFERENTIABLE), st.integers(0, 99))
@settings(max_examples=40)
def test_no_gradient_reaches_a_buffer_of_an_adopted_model(model: Model, seed: int) -> None:
    model = adoptable(model)
    inexact = [e for e in model.expected if e.kind == "inexact"]
    before, after = _gradient(model.tree, seed), _gradient(anx.adopt(model.tree), seed)
    for e, old, new in zip(inexact, before, after, strict=True):
        buffer = "buffer" in ancestry(e.role)
        assert same_bits(new, jnp.zeros_like(old) if buffer else old), e.path


# --- adopt ----------------------------------------------------------------------------


def refused(model: Model) -> frozenset[str]:
    """The paths of what `adopt` must refuse, by the words of the contract."""
    return frozenset(
        e.path
        for e in model.expected
        if e.kind == "opaque"
        and not any(map(_becomes_static, [model] * len(e.fields), e.homes, e.fields))
        and not (_is_item(e) and (_is_function(e.leaf) or _has_role(e)))
    )


def _is_function(leaf: Any) -> bool:
    """A function of the strategies; they have no other callable things but types."""
    return callable(leaf) and not isinstance(leaf, type)


def _is_item(e: Expected) -> bool:
    return e.path not in e.homes


def _has_role(e: Expected) -> bool:
    return bool(e.fields) and e.fields[-1].role is not None


def _becomes_static(model: Model, home: str, plan: Any) -> bool:
    """A Hyper, or a field that nobody speaks for without arrays and known modules."""
    arrays = any(e.kind != "opaque" and home in e.homes for e in model.expected)
    known = any(node.known and home in node.homes for node in model.nodes)
    return plan.role == "Hyper" or not (plan.role or arrays or known)


def adoptable(model: Model) -> Model:
    return model.without(refused(model))


def adopted(model: Model) -> Any:
    with untouched(model.tree):
        return anx.adopt(model.tree)


@given(MODELS)
@settings(max_examples=120)
def test_adopt_refuses_just_what_nothing_can_make_static(model: Model) -> None:
    with untouched(model.tree):
        if refused(model):
            with pytest.raises(anx.HyperError):
                anx.adopt(model.tree)
        else:
            anx.adopt(model.tree)
    anx.adopt(adoptable(model).tree)


@given(MODELS.map(adoptable))
@settings(max_examples=120)
def test_an_adopted_model_has_its_arrays_and_no_other_leaf(model: Model) -> None:
    tree = adopted(model)
    arrays = [e for e in model.expected if e.kind != "opaque"]
    found = anx.records(tree)
    assert [(r.path, r.role, r.trainable) for r in found] == [
        (e.path, e.role, e.trainable) for e in arrays
    ]
    assert all(x is e.leaf for x, e in zip(tree_leaves(tree), arrays, strict=True))
    assert list(anx.params(tree)) == list(anx.params(model.tree))
    assert all(r.enforced for r in found if r.owner is not eqx.nn.StateIndex)


@given(MODELS.map(adoptable))
@settings(max_examples=100)
def test_an_adopted_model_reads_as_before(model: Model) -> None:
    tree = adopted(model)
    for e in model.expected:
        found = read(tree, e.steps)
        if _is_item(e) and callable(e.leaf) and isinstance(found, eqx.nn.Lambda):
            found = found.fn
        assert is_exactly(found, e.leaf)
    for constant in model.constants:
        assert is_exactly(read(tree, constant.steps), constant.value)


@given(MODELS.map(adoptable))
@settings(max_examples=60)
def test_adopting_again_changes_nothing(model: Model) -> None:
    tree = adopted(model)
    assert_same(anx.adopt(tree), tree_leaves(tree), tree_structure(tree))
    assert tree_structure(adopted(model)) == tree_structure(tree)


@given(MODELS.map(adoptable).filter(fields), st.data())
@settings(max_examples=120)
def test_freezing_and_adopting_commute(model: Model, data: st.DataObject) -> None:
    chosen = at_paths(data.draw(some(fields(model).values())))
    frozen_first = anx.adopt(anx.freeze(model.tree, chosen))
    adopted_first = anx.freeze(anx.adopt(model.tree), chosen)
    assert trained(frozen_first) == trained(adopted_first)
    assert tree_structure(frozen_first) == tree_structure(adopted_first)
    assert tree_structure(anx.unfreeze(frozen_first)) == tree_structure(adopted(model))


# --- pickle and deepcopy --------------------------------------------------------------


def variants(model: Model, data: st.DataObject) -> dict[str, Any]:
    """The model as it is and changed, each under its name."""
    made = {"plain": model.tree, "adopted": anx.adopt(adoptable(model).tree)}
    if fields(model):
        chosen = at_paths(data.draw(some(fields(model).values())))
        made["frozen"] = anx.freeze(model.tree, chosen)
        made["both"] = anx.adopt(anx.freeze(adoptable(model).tree, chosen))
    return made


@given(layered_models(PORTABLE, portable=True), st.data())
@settings(max_examples=50)
def test_changed_models_come_back_from_pickle_and_deepcopy(
    model: Model, data: st.DataObject
) -> None:
    for tree in variants(model, data).values():
        leaves, structure = tree_flatten(tree)
        for back in (pickle.loads(pickle.dumps(tree)), copy.deepcopy(tree)):
            assert tree_structure(back) == structure
            assert all(map(same_bits, tree_leaves(back), leaves))
            assert trained(back) == trained(tree)
            assert_the_same_classes(back, tree)


def assert_the_same_classes(one: Any, other: Any) -> None:
    """Node by node; where a static field became one, by what it reads."""
    assert type(one) is type(other)
    pairs = [
        tree_flatten(tree, is_leaf=lambda x, t=tree: x is not t)[0] for tree in (one, other)
    ]
    for mine, theirs in zip(*pairs, strict=True):
        if mine is not one:
            assert_the_same_classes(mine, theirs)


# --- replace --------------------------------------------------------------------------


@given(MODELS.filter(lambda model: model.expected), st.data())
@settings(max_examples=120)
def test_a_replaced_leaf_reads_back_and_all_others_stay(
    model: Model, data: st.DataObject
) -> None:
    e = data.draw(st.sampled_from(model.expected))
    value = data.draw(st.sampled_from(OPAQUE if e.kind == "opaque" else ARRAYS)).make(7)
    for tree in variants(model, data).values():
        paths = [record.path for record in anx.records(tree)]
        if e.path not in paths:
            continue  # `adopt` was not given it, or has made it static
        with untouched(tree):
            new = anx.replace(tree, {e.path: value})
        leaves, structure = tree_flatten(tree)
        leaves[paths.index(e.path)] = value
        assert_same(new, leaves, structure)
        assert read(new, e.steps) is value


@given(MODELS.filter(lambda model: model.constants), st.data())
@settings(max_examples=60)
def test_a_replaced_static_value_reads_back_and_all_else_stays(
    model: Model, data: st.DataObject
) -> None:
    constant = data.draw(st.sampled_from(model.constants))
    value = ("new", data.draw(st.integers()))
    for tree in variants(model, data).values():
        with untouched(tree):
            new = anx.replace(tree, {constant.path: value})
        assert all(
            one is other
            for one, other in zip(tree_leaves(new), tree_leaves(tree), strict=True)
        )
        for other in model.constants:
            wanted = value if other is constant else other.value
            assert read(new, other.steps) is wanted
        assert trained(new) == trained(tree)
        if len(constant.steps) == 1:
            by_keyword = anx.replace(tree, **{constant.path: value})
            assert_same(by_keyword, tree_leaves(new), tree_structure(new))
        back = anx.replace(new, {constant.path: constant.value})
        assert tree_structure(back) == tree_structure(tree)
        _assert_refuses_an_array(tree, constant)


def _assert_refuses_an_array(tree: Any, constant: Constant) -> None:
    if constant.plan.ours:
        with untouched(tree), pytest.raises(anx.HyperError):
            anx.replace(tree, {constant.path: jnp.ones(2)})


@given(MODELS.map(adoptable).map(lambda m: (m, _open_numbers(m))), st.data())
@settings(max_examples=100)
def test_what_adopt_made_static_can_be_replaced(drawn: Any, data: st.DataObject) -> None:
    """A number by those equal to it that compute in other dtypes: all are told apart."""
    model, numbers = drawn
    if not numbers:
        return
    e = data.draw(st.sampled_from(numbers))
    tree, structures = anx.adopt(model.tree), []
    for kind in (bool, int, float, complex, _negated):
        value = kind(e.leaf)
        with untouched(tree):
            new = anx.replace(tree, {e.path: value})
        assert is_exactly(read(new, e.steps), value)
        assert all(map(operator.is_, tree_leaves(new), tree_leaves(tree)))
        assert tree_structure(new) not in structures
        structures.append(tree_structure(new))
    assert tree_structure(tree) in structures


def _negated(value: int) -> float:
    return -float(value)


def _open_numbers(model: Model) -> list[Expected]:
    """Integers alone in fields whose hint says nothing of their type."""
    alone = [e for e in model.expected if e.owner is not None and not _is_item(e)]
    open_ones = [e for e in alone if not e.owner.__module__.startswith("equinox.")]
    return [e for e in open_ones if type(e.leaf) in (int, bool)]


@given(MODELS, st.data())
@settings(max_examples=50)
def test_an_unknown_path_is_refused_and_nothing_changes(
    model: Model, data: st.DataObject
) -> None:
    known = [e.path for e in model.expected] + [c.path for c in model.constants]
    end = data.draw(st.sampled_from(("nowhere", "99", "['no.where']", "[b'no']")))
    start = data.draw(st.sampled_from(("", *known)))
    path = start + end if end[0] == "[" or not start else f"{start}.{end}"
    for tree in variants(model, data).values():
        with untouched(tree), pytest.raises(anx.FieldError):
            anx.replace(tree, {path: 0})
        for other in known[:1]:
            with untouched(tree), pytest.raises(anx.FieldError):
                anx.replace(tree, {other: 0, path: 0})


_KEYS = st.sampled_from(ODD_KEYS) | st.text("[]*'\"\\.a", max_size=4)


@given(st.lists(_KEYS, min_size=2, max_size=4, unique=True), st.data())
def test_every_key_of_a_dictionary_can_be_replaced(
    keys: list[str], data: st.DataObject
) -> None:
    """The path that a record shows means the one leaf it stands at, whatever is in it."""
    tree = {key: [jnp.ones(at)] for at, key in enumerate(keys)}
    path = data.draw(st.sampled_from([record.path for record in anx.records(tree)]))
    at = [record.path for record in anx.records(tree)].index(path)
    leaves, structure = tree_flatten(tree)
    leaves[at] = value = jnp.zeros(7)
    with untouched(tree):
        assert_same(anx.replace(tree, {path: value}), leaves, structure)


# --- inference_mode -------------------------------------------------------------------


def _is_flag(plan: Any, value: Any) -> bool:
    return plan.name == "inference" and isinstance(value, bool)


def _is_flag_leaf(e: Expected) -> bool:
    alone = bool(e.fields) and not _is_item(e) and e.fields[-1].name == "inference"
    is_array = eqx.is_array(e.leaf) and e.leaf.dtype == bool
    return alone and (is_array or isinstance(e.leaf, bool))


def _wanted(e: Expected, value: bool) -> Any:
    if not _is_flag_leaf(e):
        return e.leaf
    return value if isinstance(e.leaf, bool) else jnp.full(e.leaf.shape, value)


@given(FLAGGED_MODELS, st.booleans())
@settings(max_examples=120)
def test_inference_mode_sets_the_flags_and_nothing_else(model: Model, value: bool) -> None:
    with untouched(model.tree):
        tree = anx.inference_mode(model.tree, value)
    for e, found in zip(model.expected, tree_leaves(tree), strict=True):
        assert same_bits(found, _wanted(e, value))
        assert found is e.leaf or _is_flag_leaf(e)
    for constant in model.constants:
        wanted = value if _is_flag(constant.plan, constant.value) else constant.value
        assert is_exactly(read(tree, constant.steps), wanted)
    assert trained(tree) == trained(model.tree)


@given(FLAGGED_MODELS, st.booleans(), st.booleans())
@settings(max_examples=60)
def test_the_last_inference_mode_counts(model: Model, first: bool, last: bool) -> None:
    once = anx.inference_mode(model.tree, last)
    twice = anx.inference_mode(anx.inference_mode(model.tree, first), last)
    assert tree_structure(twice) == tree_structure(once)
    assert all(map(same_bits, tree_leaves(twice), tree_leaves(once)))


def _flag_in_a_flag() -> Model:
    """A module in a field `inference`: there is a flag in it, although it is none."""
    inner = Instance(FLAGGED[1], (FLAGS[0], None), ())
    return grow(Instance(FLAGGED[1], (inner, None), ()))


@given(FLAGGED_MODELS.map(adoptable), st.booleans())
@example(_flag_in_a_flag(), False)
@settings(max_examples=120)
def test_inference_mode_commutes_with_adopt(model: Model, value: bool) -> None:
    adopted_first = anx.inference_mode(anx.adopt(model.tree), value)
    adopted_last = anx.adopt(anx.inference_mode(model.tree, value))
    assert tree_structure(adopted_first) == tree_structure(adopted_last)
    assert all(map(same_bits, tree_leaves(adopted_first), tree_leaves(adopted_last)))
    for e in model.expected:
        if isinstance(e.leaf, bool):
            assert read(adopted_first, e.steps) is _wanted(e, value)


@given(FLAGGED_MODELS, st.booleans(), st.data())
@settings(max_examples=80)
def test_inference_mode_of_two_halves_is_that_of_the_whole(
    model: Model, value: bool, data: st.DataObject
) -> None:
    count = len(model.expected)
    flags = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    for name in data.draw(st.sampled_from((("plain",), ("adopted", "frozen", "both")))):
        tree = variants(model, data).get(name)
        leaves, structure = tree_flatten(tree)
        mask = structure.unflatten(flags[: len(leaves)])
        halves = [anx.inference_mode(half, value) for half in eqx.partition(tree, mask)]
        together, whole = eqx.combine(*halves), anx.inference_mode(tree, value)
        assert tree_structure(together) == tree_structure(whole)
        assert all(map(same_bits, tree_leaves(together), tree_leaves(whole)))


# --- carry ----------------------------------------------------------------------------


def _changed(plan: Any, swap: Any) -> Any:
    """A plan with other leaves in the places of its own: `swap` is asked about each."""
    if isinstance(plan, Leaf):
        return swap(plan)
    if isinstance(plan, Keyed):
        items = tuple((key, _changed(child, swap)) for key, child in plan.items)
        return Keyed(plan.make, items)
    if isinstance(plan, Sequence):
        return Sequence(plan.make, tuple(_changed(x, swap) for x in plan.children))
    if isinstance(plan, Instance):
        children = tuple(_changed(child, swap) for child in plan.children)
        return Instance(plan.plan, children, plan.statics)
    return plan


_SWAPS = mix(
    *(st.just(None), st.just(None), st.just("gone")),
    *(st.sampled_from(leaves) for leaves in (FLOATS, ARRAYS, OPAQUE)),
)


@given(MODELS.filter(lambda model: model.expected), st.data())
@settings(max_examples=100)
def test_carry_takes_what_fits_by_path(model: Model, data: st.DataObject) -> None:
    def swap(leaf: Leaf) -> Leaf | None:
        drawn = data.draw(_SWAPS)
        return leaf if drawn is None else None if drawn == "gone" else drawn

    ways = {
        "related": lambda: grow(_changed(model.plan, swap)),
        "any": lambda: data.draw(MODELS),
    }
    new = ways[data.draw(st.sampled_from(("related", "related", "any")))]()
    made = variants(model, data)
    old_tree = data.draw(st.sampled_from([made["plain"], made.get("frozen", model.tree)]))
    known = {e.path: e.leaf for e in model.expected}
    fits = {e.path: e.path in known and _agree(known[e.path], e.leaf) for e in new.expected}
    common = [e.path for e in new.expected if e.path in known]
    with untouched(old_tree, new.tree):
        if not common and new.expected:
            with pytest.raises(anx.StructureError):
                anx.carry(old_tree, new.tree)
            return
        carried, report = anx.carry(old_tree, new.tree, report=True)
    wanted = [known[e.path] if fits[e.path] else e.leaf for e in new.expected]
    assert_same(carried, wanted, tree_structure(new.tree))
    assert report.taken == tuple(path for path in common if fits[path])
    assert report.fresh == tuple(e.path for e in new.expected if e.path not in known)
    assert report.dropped == tuple(path for path in known if path not in fits)
    misfit = [path for path in common if not fits[path]]
    assert [text.rpartition(" (")[0] for text in report.misfit] == misfit


def _agree(old: Any, new: Any) -> bool:
    both = hasattr(old, "dtype") and hasattr(new, "dtype")
    if both:
        return (old.shape, old.dtype) == (new.shape, new.dtype)
    return type(old) is type(new)


@given(FREEZABLE, st.data())
@settings(max_examples=50)
def test_carry_keeps_moments_across_freezing_and_thawing(
    model: Model, data: st.DataObject
) -> None:
    before, after = (
        anx.freeze(model.tree, at_paths(data.draw(some(fields(model).values()))))
        for _ in range(2)
    )
    old, new = ({"mu": [anx.params(tree)], "count": 0} for tree in (before, after))
    new = jax.tree.map(copy.deepcopy, new)
    carried = anx.carry(old, new)
    assert tree_structure(carried) == tree_structure(new)
    for path, leaf in carried["mu"][0].items():
        source = old if path in old["mu"][0] else new
        assert leaf is source["mu"][0][path]
