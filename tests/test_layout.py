"""The layout: one traversal, cached, the same as JAX's order, never stale."""

import collections
import dataclasses
import gc
import threading
import weakref
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import annotax as anx
from annotax import _specs, _traverse, _view
from annotax._errors import StructureError


class Part(anx.Module):
    w: anx.Param[Array]
    rate: anx.Hyper[Any]
    flag: bool = eqx.field(static=True, default=False)


class Whole(anx.Module):
    parts: list[Part]
    rest: dict[str, Array]
    name: anx.Hyper[str] = "whole"


def whole(rate=0.5, n=3):
    return Whole(
        [Part(jnp.ones(2), rate) for _ in range(n)], {"b": jnp.ones(1), "a": jnp.ones(1)}
    )


@pytest.fixture
def traversals(monkeypatch):
    """Counts how often a tree is really visited, from an empty cache."""
    calls = []
    traverse = _traverse.traverse

    def counted(tree, treedef):
        calls.append(treedef)
        return traverse(tree, treedef)

    monkeypatch.setattr(_view, "traverse", counted)
    monkeypatch.setattr(_view, "_cache", _view._LayoutCache())
    return calls


def test_static_fields_are_listed_with_path_spec_and_owner():
    layout = _view.view(whole(n=1)).layout
    listed = [(s.path, s.spec.name, s.owner.__name__) for s in layout.statics]
    assert listed == [
        ("parts.0.rate", "rate", "Part"),
        ("parts.0.flag", "flag", "Part"),
        ("name", "name", "Whole"),
    ]
    assert [s.spec.role for s in layout.statics] == [anx.Hyper, None, anx.Hyper]


def test_an_entry_knows_the_fields_on_the_way():
    entry = _view.view(whole(n=1)).layout.entries[0]
    assert [spec.name for spec in entry.fields] == ["parts", "w"]
    assert entry.spec.declared_by is Part


def test_one_traversal_per_structure(traversals):
    for _ in range(3):
        anx.trainable_filter(whole())
        anx.params(whole())
        anx.records(whole())
    assert len(traversals) == 1
    anx.params(whole(n=4))
    assert len(traversals) == 2


def test_structures_that_differ_in_hypers_share_a_layout(traversals):
    models = [whole(rate=i / 1000) for i in range(200)]
    layouts = {id(_view.view(model).layout) for _ in range(2) for model in models}
    assert (len(layouts), len(traversals)) == (1, 1)


def test_what_differs_in_more_than_hypers_does_not(traversals):
    def paths(*trees):
        return [tuple(r.path for r in anx.records(tree)) for tree in trees]

    # These collide in the hash of the treedef, which ignores keys and static data.
    found = paths({"a": 1.0, "b": 2.0}, {"a": 1.0, "c": 2.0}, {"a": 1.0, "b": 3.0})
    assert found == [("a", "b"), ("a", "c"), ("a", "b")]
    inner = [{"x": [Part(jnp.ones(1), i), {key: 1.0}]} for i, key in enumerate("pqp")]
    assert [p[1] for p in paths(*inner)] == ["x.1.p", "x.1.q", "x.1.p"]
    assert len(traversals) == 4
    # Nor do these: of their static data the hash knows nothing.
    ordered = [collections.OrderedDict({key: 1.0}) for key in "ab"]
    assert paths(*ordered) == [("a",), ("b",)]
    flat = [anx.leaves({key: jnp.ones(1)}, anx.everything) for key in "ab"]
    assert paths(*flat) == [("a",), ("b",)]
    partial = [jax.tree_util.Partial(len, **{key: 1.0}) for key in "ab"]
    assert paths(*partial) == [("1.a",), ("1.b",)]


def test_structures_that_cannot_be_compared_are_not_taken_for_equal():
    class Careless(eqx.Module):
        w: Array
        table: Any = eqx.field(static=True)

    for key in "ab":
        with pytest.warns(UserWarning, match="static"):
            model = Careless(jnp.ones(1), np.ones(3))
        assert anx.everything.paths([model, {key: 1.0}]) == ("0.w", f"1.{key}")


def test_the_cache_is_bounded(traversals):
    cache = _view._cache
    for n in range(_view._CACHED_HASHES + 20):
        anx.records([1.0] * n)
    assert len(cache._state[1]) == _view._CACHED_HASHES
    for i in range(50):
        anx.records(whole(rate=i))
    assert max(map(len, cache._state[1].values())) == _view._CACHED_PER_HASH


def test_the_most_recent_structure_comes_first(traversals):
    a, b = {"x": whole(rate=1)}, {"x": whole(rate=2)}
    for model in (a, b, a):
        treedef = jax.tree.structure(model)
        anx.records(model)
        assert _view._cache._state[1][hash(treedef)][0][0] == treedef


def test_a_structure_in_constant_use_is_never_dropped(traversals):
    for n in range(_view._CACHED_HASHES * 2):
        anx.records([1.0] * n)
        anx.records(whole())
    assert len(traversals) == _view._CACHED_HASHES * 2 + 1


def test_a_registration_during_a_traversal_is_not_lost(monkeypatch):
    """What was made from old facts must not be kept, whoever stores it last."""

    class Foreign(eqx.Module):
        x: Array

    model = Foreign(jnp.ones(1))
    own_spec = _specs._own_spec

    def interrupted(cls, f):
        spec = own_spec(cls, f)
        monkeypatch.setattr(_specs, "_own_spec", own_spec)
        anx.register(Foreign, x=anx.Buffer)
        assert list(anx.params(model)) == []
        return spec

    monkeypatch.setattr(_specs, "_own_spec", interrupted)
    anx.params(model)
    assert list(anx.params(model)) == []


def test_registration_is_seen_by_the_next_call():
    class Foreign(eqx.Module):
        x: Array

    model = whole(), Foreign(jnp.ones(1))
    assert anx.trainable_filter.paths(model)[-1] == "1.x"
    anx.register(Foreign, x=anx.Buffer)
    assert anx.trainable_filter.paths(model)[-1] == "0.rest.b"


def test_no_array_and_no_instance_is_kept():
    model = whole(rate="unique to this test")
    array = weakref.ref(model.parts[0].w)
    instance = weakref.ref(model)
    anx.params(model)
    anx.split(model, anx.trainable_filter)
    anx.trainable_filter(model)
    del model
    gc.collect()
    assert array() is None
    assert instance() is None


def test_subclasses_of_containers_and_none():
    Point = collections.namedtuple("Point", "x y")
    tree = [
        Point(1.0, None),
        collections.OrderedDict(b=1.0, a=2.0),
        collections.defaultdict(list, d=1.0, c=2.0),
        (),
        None,
        {2: 1.0, 1: {"x y": 2.0}},
    ]
    assert [r.path for r in anx.records(tree)] == [
        "0.x",
        "1.b",
        "1.a",
        "2.c",
        "2.d",
        "5[1]['x y']",
        "5[2]",
    ]


def test_an_entry_knows_which_classes_spoke():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Box:
        data: Any
        rest: Any

    anx.register(Box, data=anx.field(role=anx.Buffer, tags=["boxed"]))
    box = Box(jnp.ones(1), [jnp.ones(2)])
    entries = _view.view([box, whole(n=1)]).layout.entries
    found = [(e.path, e.role, e.owner, e.tags, e.home, e.unit) for e in entries[:3]]
    assert found == [
        ("0.data", anx.Role.of(anx.Buffer), Box, {"boxed"}, None, None),
        ("0.rest.0", None, Box, frozenset(), None, None),
        ("1.parts.0.w", anx.Role.of(anx.Param), Part, frozenset(), (1, "w"), (1, "w")),
    ]
    with anx.checking("off"):
        part = Part([box], 0.5)
    held = _view.view(part).layout.entries[0]
    assert (held.path, held.owner, held.home, held.unit) == (
        "w.0.data",
        Box,
        (0, "w"),
        (0, "w"),
    )


def test_modules_and_static_fields_know_where_they_stand():
    layout = _view.view([jnp.ones(1), whole(n=2)]).layout
    assert [(m.path, m.cls, m.parent, m.start) for m in layout.modules] == [
        ("1", Whole, None, 1),
        ("1.parts.0", Part, (0, "parts"), 1),
        ("1.parts.1", Part, (0, "parts"), 2),
    ]
    assert layout.modules[0].spans == {"parts": (1, 3), "rest": (3, 5)}
    assert [m.spans for m in layout.modules[1:]] == [{"w": (1, 2)}, {"w": (2, 3)}]
    assert [s.home for s in layout.statics] == [
        (1, "rate"),
        (1, "flag"),
        (2, "rate"),
        (2, "flag"),
        (0, "name"),
    ]


def test_a_number_where_an_array_would_be_a_buffer():
    class Learned(anx.Module):
        part: anx.Param[Any]

    class Kept(anx.Module):
        part: anx.Buffer[Any]

    number = eqx.nn.MaxPool1d(2)  # registered: `init` is a Buffer, or else static
    array = eqx.tree_at(lambda pool: pool.init, number, jnp.zeros(()))

    def said(model):
        (record,) = (r for r in anx.records(model) if r.path.endswith("init"))
        return record.role.name, record.origin, record.enforced

    assert said(number) == ("hyper", "registered", False)
    assert said(array) == ("buffer", "registered", False)
    assert said(Learned(number)) == ("hyper", "registered", False)
    assert said(Learned(array)) == ("buffer", "registered", False)
    assert said(Kept(number)) == ("buffer", "registered", False)
    assert said(Kept(array))[0] == "buffer"


def test_who_says_the_role_of_what_has_none_of_its_own():
    class Plain(eqx.Module):
        x: Any

    class Kept(anx.Module):
        part: anx.Buffer[Any]

    (record,) = anx.records(Kept(Plain([jnp.ones(1)])))
    assert (record.role, record.origin, record.owner) == (anx.Buffer, "declared", Plain)
    (record,) = anx.records(Plain(jnp.ones(1)))
    assert (record.role, record.origin, record.owner) == (anx.Param, "undeclared", Plain)


def test_an_unset_field_with_a_class_default_is_no_leaf():
    class Model(anx.Module):
        a: anx.Param[Any] = 1.0
        b: anx.Param[Any] = 2.0

        def __init__(self):
            self.b = jnp.ones(1)

    model = Model()
    assert [r.path for r in anx.records(model)] == ["b"]
    assert eqx.tree_equal(anx.update(model, anx.params(model)), model)


def test_a_module_with_its_own_registration_is_refused():
    class Odd(eqx.Module):
        x: Any

    model = Odd([1.0])
    treedef = jax.tree.structure([1.0, 2.0])
    with pytest.raises(StructureError) as caught:
        _traverse.traverse(model, treedef)
    assert str(caught.value) == (
        "Odd: the fields of its classes do not account for its leaves\n"
        "  expected: 2 leaves, as JAX counts them\n"
        "  found:    1: x.0\n"
        "  fix:      a module class registered as a PyTree in its own way is not supported"
    )


def test_of_somebody_elses_message_the_first_line_is_told():
    @jax.tree_util.register_pytree_node_class
    class Broken:
        def tree_flatten(self):
            raise ValueError("no more\nof many lines")

        @classmethod
        def tree_unflatten(cls, _, children):
            raise NotImplementedError

    with pytest.raises(StructureError, match="JAX cannot take this apart") as caught:
        anx.summary([Broken()])
    assert "  found:    ValueError: no more" in str(caught.value).splitlines()
    assert "of many lines" not in str(caught.value)


def test_threads_get_the_same_answers():
    expected = anx.trainable_filter.paths(whole())
    wrong = []

    def work(seed):
        for i in range(50):
            if anx.trainable_filter.paths(whole(rate=seed * i)) != expected:
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
