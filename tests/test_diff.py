"""`diff`: exactly what JAX compares, by path, and whether what it says of it is true."""

import json
import math
import os
import subprocess
import sys
import textwrap
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import tree_flatten, tree_structure
from jaxtyping import Array, Float

import annotax as anx
from annotax._node import every_path
from annotax._view import view
from strategies import (
    ARRAYS,
    FLOATS,
    OPAQUE,
    Keyed,
    Model,
    Pair,
    Sequence,
    crowded_models,
    flagged_models,
    grow,
    layered_models,
    mix,
    models,
)
from test_messages import message, text

T = TypeVar("T")
LoRA = Annotated[T, anx.Role("lora", parent=anx.Param)]

LEAF_KINDS = {
    "value", "type", "sign", "shape", "dtype", "numpy dtype", "weak type",
    "sharding", "leaf",
}  # fmt: skip
STRUCTURE_KINDS = {
    "static", "class", "frozen", "container", "None", "key", "order", "static data",
    "missing", "extra",
}  # fmt: skip


class Layer(anx.Module):
    weight: anx.Param[Float[Array, "m n"]]
    rate: anx.Hyper[float] = 0.1


class Holder(eqx.Module):
    x: Any = eqx.field(static=True)


def static(value: Any) -> Holder:
    """A module with any static value, also one that Equinox warns of or refuses."""
    holder = Holder(None)
    object.__setattr__(holder, "x", value)
    return holder


def layer(rows: int = 2, rate: float = 0.1) -> Layer:
    return Layer(jnp.ones((rows, 3)), rate)


def only(a: Any, b: Any) -> tuple[Any, ...]:
    """The one difference between two trees."""
    (found,) = anx.diff(a, b)
    return tuple(found)


# --- the property --------------------------------------------------------------------


class Edit(NamedTuple):
    """A change of a model: how it is called, and what it does."""

    name: str
    make: Callable[[Model, st.DataObject], Any]


def _leaf_changed(change: Callable[[Any], Any]) -> Callable[[Model, st.DataObject], Any]:
    def make(model: Model, data: st.DataObject) -> Any:
        leaves, treedef = tree_flatten(model.tree)
        assume(leaves)
        at = data.draw(st.integers(0, len(leaves) - 1))
        leaves[at] = change(leaves[at])
        return treedef.unflatten(leaves)

    return make


def _replan(plan: Any, change: Callable[[Any], Any]) -> Any:
    """A plan with every container changed."""
    if isinstance(plan, Sequence):
        return change(Sequence(plan.make, tuple(_replan(c, change) for c in plan.children)))
    if isinstance(plan, Keyed):
        return change(
            Keyed(plan.make, tuple((k, _replan(c, change)) for k, c in plan.items))
        )
    if hasattr(plan, "children"):
        children = tuple(_replan(child, change) for child in plan.children)
        return type(plan)(plan.plan, children, plan.statics)
    return plan


def _swapped(plan: Any) -> Any:
    """A tuple for a list, an ordinary dictionary for an ordered one."""
    if isinstance(plan, Sequence) and plan.make in (list, tuple):
        return Sequence(tuple if plan.make is list else list, plan.children)
    if isinstance(plan, Keyed) and plan.make is OrderedDict:
        return Keyed(dict, plan.items)
    return plan


def _without_last(plan: Any) -> Any:
    if isinstance(plan, Keyed):
        return Keyed(plan.make, plan.items[:-1])
    if isinstance(plan, Sequence) and plan.make in (list, tuple):
        return Sequence(plan.make, plan.children[:-1])
    return plan


def _reversed(plan: Any) -> Any:
    return Keyed(plan.make, plan.items[::-1]) if isinstance(plan, Keyed) else plan


def _tolerant(change: Callable[[Any], Any]) -> Callable[[Model, st.DataObject], Any]:
    def make(model: Model, data: st.DataObject) -> Any:
        try:
            return change(model.tree)
        except anx.AnnotaxError:
            return model.tree

    return make


def _of_leaves(change: Callable[[Any], Any]) -> Callable[[Model, st.DataObject], Any]:
    """`Leaves` of the model, once as they are and once changed."""
    return lambda model, data: change(anx.leaves(model.tree, anx.everything))


def _weak(leaf: Any) -> Any:
    is_number = eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.number)
    return jnp.asarray(1.0) if is_number and leaf.ndim == 0 else leaf


def _reshaped(leaf: Any) -> Any:
    return leaf[None] if eqx.is_array(leaf) else [leaf]


def _cast(leaf: Any) -> Any:
    return jnp.zeros(leaf.shape, "int8") if eqx.is_array(leaf) else str(leaf)


def _shaped(leaf: Any) -> Any:
    is_plain = eqx.is_array(leaf) and not isinstance(leaf, np.ndarray | np.generic)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_plain else leaf


EDITS = (
    Edit("again", lambda model, data: model.again().tree),
    Edit("statics", lambda model, data: model.again(lambda value: (value, 1)).tree),
    Edit("frozen", _tolerant(lambda tree: anx.freeze(tree, anx.trainable_filter))),
    Edit("adopted", _tolerant(anx.adopt)),
    Edit("inference", lambda model, data: anx.inference_mode(model.tree)),
    Edit(
        "partition", lambda m, data: eqx.partition(m.tree, anx.trainable_filter(m.tree))[0]
    ),
    Edit("arrays", lambda model, data: eqx.filter(model.tree, eqx.is_array)),
    Edit("shape", _leaf_changed(_reshaped)),
    Edit("dtype", _leaf_changed(_cast)),
    Edit("weak", _leaf_changed(_weak)),
    Edit("struct", _leaf_changed(_shaped)),
    Edit("None", _leaf_changed(lambda leaf: None)),
    Edit("number", _leaf_changed(lambda leaf: 1.0)),
    Edit("subtree", _leaf_changed(lambda leaf: {"a": leaf})),
    Edit("function", _leaf_changed(lambda leaf: lambda: leaf)),
    Edit("containers", lambda model, data: grow(_replan(model.plan, _swapped)).tree),
    Edit("dropped", lambda model, data: grow(_replan(model.plan, _without_last)).tree),
    Edit("order", lambda model, data: grow(_replan(model.plan, _reversed)).tree),
    Edit("leaves", _of_leaves(lambda leaves: leaves)),
    Edit("half the leaves", lambda m, data: anx.leaves(m.tree, anx.trainable_filter)),
    Edit("wrapped", lambda model, data: [model.tree]),
)

MODELS = mix(models(), layered_models(), crowded_models(), flagged_models())


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Any, Any]:
    """Two trees: a model and what an edit, or two, made of it."""
    model, data = draw(MODELS), draw(st.data())
    edits = draw(st.lists(st.sampled_from(EDITS), min_size=2, max_size=2))
    return tuple(edit.make(model, data) for edit in edits)


def trees_agree(a: Any, b: Any) -> bool:
    """What JAX compares, in plain words."""
    (leaves, treedef), (others, other_treedef) = tree_flatten(a), tree_flatten(b)
    return treedef == other_treedef and all(map(leaves_agree, leaves, others))


def leaves_agree(one: Any, other: Any) -> bool:
    arrays = [isinstance(x, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)
              for x in (one, other)]  # fmt: skip
    if all(arrays):
        kinds = [(x.shape, x.dtype, getattr(x, "weak_type", False)) for x in (one, other)]
        return kinds[0] == kinds[1]
    if any(arrays) or type(one) is not type(other):
        return False
    signs = [repr(x) if type(x) in (float, complex) else "" for x in (one, other)]
    return one is other or (one == other and signs[0] == signs[1])


def paths_of(tree: Any) -> set[str]:
    return {"", *every_path(tree), *view(tree).layout.paths}


@settings(max_examples=300)
@given(pairs())
def test_it_is_truthy_if_and_only_if_jax_tells_the_trees_apart(pair: tuple[Any, Any]):
    a, b = pair
    found = anx.diff(a, b)
    assert bool(found) is not trees_agree(a, b)
    assert {d.kind for d in found} <= LEAF_KINDS | STRUCTURE_KINDS
    same_structure = tree_structure(a) == tree_structure(b)
    assert all(d.kind in LEAF_KINDS for d in found) is same_structure
    assert not anx.diff(a, a)
    assert not anx.diff(b, b)


@settings(max_examples=300)
@given(pairs())
def test_every_path_is_in_one_of_the_trees(pair: tuple[Any, Any]):
    a, b = pair
    ours, theirs = paths_of(a), paths_of(b)
    for path, kind, *_ in anx.diff(a, b):
        assert path in (ours | theirs)
        assert kind != "missing" or path in ours
        assert kind != "extra" or path in theirs


@settings(max_examples=200)
@given(pairs())
def test_the_other_way_round_it_is_mirrored(pair: tuple[Any, Any]):
    a, b = pair
    there, back = anx.diff(a, b), anx.diff(b, a)
    turned = {"missing": "extra", "extra": "missing"}
    mirrored = [d._replace(kind=turned.get(d.kind, d.kind), old=d.new, new=d.old)
                for d in back]  # fmt: skip
    assert sorted(mirrored) == sorted(there)
    assert there.consequence == back.consequence


@settings(max_examples=200)
@given(pairs())
def test_jax_tree_map_refuses_what_it_says(pair: tuple[Any, Any]):
    a, b = pair
    refused = 0
    for one, other in ((a, b), (b, a)):
        try:
            jax.tree.map(lambda x, y: x, one, other)
        except (ValueError, TypeError):
            refused += 1
    said = anx.diff(a, b).consequence
    assert ("refuses the two together" in said) is (refused == 2)
    assert ("in one order only" in said) is (refused == 1)
    assert ("The structures differ" not in said) is (refused == 0)


@settings(max_examples=100)
@given(pairs())
def test_the_text_names_all_and_the_data_are_json(pair: tuple[Any, Any]):
    found = anx.diff(*pair)
    lines = str(found).split("\n")
    assert repr(found) == str(found)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()
    assert len(found.to_dict()["differences"]) == len(found)
    for d in found:
        start = f"  {d.path or 'the root'}: "
        assert any(line.startswith(start) for line in lines)
    assert all(len(line) <= 80 for line in lines[-3:] if not line.startswith("  "))


@given(MODELS)
def test_treedefs_and_structures_are_compared_like_their_trees(model: Model):
    tree, other = model.tree, model.again(lambda value: (value, 1)).tree
    treedef, other_treedef = tree_structure(tree), tree_structure(other)
    between = [d for d in anx.diff(tree, other) if d.kind in STRUCTURE_KINDS]
    assert list(anx.diff(treedef, other_treedef)) == between
    assert list(anx.diff(treedef, other)) == between
    assert list(anx.diff(tree, other_treedef)) == between
    one, two = anx.split(tree)[0], anx.split(other)[0]
    assert bool(anx.diff(one, two)) is (one != two)
    assert not anx.diff(one, anx.split(tree)[0])
    assert not anx.diff(one, tree)


# --- does it answer: what compiles anew ----------------------------------------------


def traced(jit: Any, a: Any, b: Any) -> int:
    """How often a function is traced when it is called with one and then the other."""
    count = 0

    @jit
    def function(tree: Any) -> float:
        nonlocal count
        count += 1
        return 0.0

    function(a)
    function(b)
    return count


def _one_number(number: Any) -> list[Any]:
    return [jnp.ones(3), number]


NUMBERS: dict[str, tuple[Any, Any, str, int, int]] = {
    # old, new, kind, how often jax.jit and eqx.filter_jit trace
    "another value": (1, 2, "value", 1, 2),
    "another NaN": (float("nan"), float("nan"), "value", 1, 2),
    "another type": (1, 1.0, "type", 2, 1),
    "a flag": (1, True, "type", 2, 1),
    "both": (1, 2.0, "type", 2, 2),
    "sign": (0.0, -0.0, "sign", 1, 1),
    "a weak array": (1.0, jnp.asarray(1.0), "value", 1, 2),
    "a flag as an array": (True, jnp.asarray(True), "value", 1, 2),
    "a strong array": (1.0, jnp.float32(1.0), "leaf", 2, 2),
    "an array with an axis": (1.0, jnp.ones(1), "leaf", 2, 2),
    "a number of numpy": (1.0, np.float64(1.0), "leaf", 2, 2),
    "float64 of numpy": (np.ones(3), jnp.ones(3), "numpy dtype", 1, 1),
    "weak": (jnp.asarray(1.0), jnp.float32(1.0), "weak type", 2, 2),
    "shape": (jnp.ones(3), jnp.ones(4), "shape", 2, 2),
    "dtype": (jnp.ones(3), jnp.ones(3, "int32"), "dtype", 2, 2),
    "key": (jax.random.key(0), jnp.ones(()), "dtype", 2, 2),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_leaves_compile_anew_as_it_says(name: str):
    old, new, kind, of_jit, of_filter_jit = NUMBERS[name]
    for one, other in ((old, new), (new, old)):
        found = anx.diff([one], [other])
        assert [d.kind for d in found] == [kind]
        assert traced(jax.jit, [one], [other]) == of_jit
        assert traced(eqx.filter_jit, [one], [other]) == of_filter_jit
        assert found.consequence.endswith("jax.jit compiles anew.") is (of_jit == 2)
        assert ("jax.jit does not" in found.consequence) is (kind == "value")
        assert ("nothing compiles anew" in found.consequence) is (
            of_jit == of_filter_jit == 1
        )
        is_mistaken = of_filter_jit == 1 and kind in ("type", "sign")
        assert ("equal in Python" in found[0].note) is is_mistaken


@settings(max_examples=100)
@given(mix(models(ARRAYS), layered_models(ARRAYS)), st.data())
def test_models_compile_anew_as_it_says(model: Model, data: st.DataObject):
    edit = data.draw(st.sampled_from([e for e in EDITS if e.name != "struct"]))
    arrays = [eqx.filter(t, eqx.is_array) for t in (model.tree, edit.make(model, data))]
    found = anx.diff(*arrays)
    anew = bool(found) and not {d.kind for d in found} <= {"numpy dtype"}
    assert traced(jax.jit, *arrays) == 1 + anew
    assert ("jax.jit compiles anew" in found.consequence) is anew


@settings(max_examples=60)
@given(models(FLOATS + OPAQUE))
def test_values_of_other_leaves_are_static_to_filter_jit(model: Model):
    def changed(leaf: Any) -> Any:
        return (leaf or "x") * 2 if isinstance(leaf, str | bytes) else leaf

    other = jax.tree.map(changed, model.again().tree)
    found = anx.diff(model.tree, other)
    assert {d.kind for d in found} <= {"value"}
    assert traced(eqx.filter_jit, model.tree, other) == 1 + bool(found)


def _sharded(axis: str | None, kind: str) -> Any:
    kinds = {}
    if hasattr(jax.sharding, "AxisType"):
        kinds = {"axis_types": (getattr(jax.sharding.AxisType, kind),)}
    mesh = Mesh(np.array(jax.devices()[:1]), ("x",), **kinds)
    return jax.device_put(jnp.ones(3), NamedSharding(mesh, PartitionSpec(axis)))


SHARDED = {
    "none": lambda: jnp.ones(3),
    "numpy": lambda: np.ones(3, "float32"),
    "auto": lambda: _sharded(None, "Auto"),
    "auto x": lambda: _sharded("x", "Auto"),
    "explicit": lambda: _sharded(None, "Explicit"),
    "explicit x": lambda: _sharded("x", "Explicit"),
}


@pytest.mark.parametrize("one", SHARDED)
@pytest.mark.parametrize("other", SHARDED)
def test_arrays_on_another_mesh_compile_anew(one: str, other: str):
    a, b = SHARDED[one](), SHARDED[other]()
    found = anx.diff(a, b)
    anew = traced(jax.jit, a, b) == 2
    assert not anew or bool(found)
    assert {d.kind for d in found} <= {"sharding"}
    together = {one, other}
    same = one == other or together in ({"none", "numpy"}, {"auto", "auto x"})
    assert bool(found) is not same


def test_a_number_is_on_no_mesh():
    mesh = Mesh(np.array(jax.devices()[:1]), ("x",))
    placed = jax.device_put(jnp.asarray(1.0), NamedSharding(mesh, PartitionSpec()))
    assert only(1.0, placed)[1] == "leaf"
    assert only(1.0, jnp.asarray(1.0))[1] == "value"


def test_axes_on_several_devices():
    code = """
        import jax, jax.numpy as jnp, numpy as np, annotax as anx
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        mesh = Mesh(np.array(jax.devices()), ("x",))
        put = lambda *axes: jax.device_put(jnp.ones((2, 2)), NamedSharding(mesh, P(*axes)))
        print([d.kind for d in anx.diff(put("x"), put(None, "x"))])
        print([d.kind for d in anx.diff(put("x"), put("x", None))])
    """
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **flags, "JAX_PLATFORMS": "cpu"},
    )
    assert run.stdout.split("\n")[:2] == ["['sharding']", "[]"]


def test_the_text_of_shardings():
    found = anx.diff({"w": np.ones(3, "float32")}, {"w": _sharded("x", "Auto")})
    head, path, old, new, consequence = str(found).split("\n")
    assert (head, path, old) == (
        "1 difference",
        "  w: sharding:",
        "      none, an array of numpy",
    )
    assert new.startswith("    → NamedSharding(mesh=Mesh(")
    assert consequence == "The structures agree, the leaves do not: jax.jit compiles anew."


def test_what_cannot_be_compared_raises_in_jit_as_it_says():
    a, b = static(np.ones(3)), static(np.ones(3))
    assert "raises" in anx.diff(a, b)[0].note
    with pytest.raises(ValueError, match=r"ambiguous|equality"):
        traced(jax.jit, a, b)


# --- whose text ----------------------------------------------------------------------

DIFFER = """The structures differ: jax.jit compiles anew, and jax.tree.map, and optax with
it, refuses the two together."""
ONE_WAY = """The structures differ: jax.jit compiles anew. jax.tree.map, and optax with it,
takes the two in one order only, and hands on None or a subtree in the place of
a leaf."""
LEAVES = "The structures agree, the leaves do not: jax.jit compiles anew."
VALUES = """The structures agree. eqx.filter_jit compiles anew, because what is no array is
static to it; jax.jit does not."""
HARMLESS = "The structures agree, and nothing compiles anew."


def relu(x: Any) -> Any:
    return x


other_relu = types.FunctionType(relu.__code__, {"__name__": "elsewhere"}, "relu")
other_relu.__module__ = "elsewhere"
other_relu.__qualname__ = "relu"


class Twice(anx.Module):
    weight: anx.Param[Any]


Once = Twice


class Twice(anx.Module):
    weight: anx.Param[Any]


class Other(anx.Module):
    weight: anx.Param[Any]
    rate: anx.Hyper[float] = 0.1


class Tree(anx.Module):
    child: anx.Param["Tree | None"]
    leaf: anx.Param[Any]


class Late(anx.Module):
    here: anx.Param[Any]
    there: anx.Param[Any] = None
    flag: anx.Hyper[Any] = 0

    def __init__(self, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(self, name, value)


class Foreign(eqx.Module):
    x: Any = eqx.field(static=True, default=0)

    def __init__(self, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(self, name, value)


@partial(jax.tree_util.register_dataclass, data_fields=["x"], meta_fields=["kind"])
@dataclass
class Registered:
    x: Any
    kind: Any = field(default=None)


@jax.tree_util.register_pytree_node_class
class Node:
    def __init__(self, x: Any, aux: Any) -> None:
        self.x, self.aux = x, aux

    def tree_flatten(self) -> Any:
        return (self.x,), self.aux

    @classmethod
    def tree_unflatten(cls, aux: Any, children: Any) -> "Node":
        return cls(*children, aux)


class BadRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


class BadEq:
    """Equal to nothing: asking raises, or gives an array."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def __repr__(self) -> str:
        return "BadEq"


NONE_NOTE = "\n    None is a node without leaves, and no leaf\n"
ANEW = "\n    two objects that are not equal: made anew each time? Make it once\n"
X, Y = jnp.ones(3), jnp.ones((2, 3))

TEXTS: dict[str, tuple[Any, Any, str]] = {
    "shape": (layer(2), layer(4), f"weight: shape: f32[2,3] → f32[4,3]\n{LEAVES}"),
    "dtype": ([X], [X.astype("int32")], f"0: dtype: f32[3] → i32[3]\n{LEAVES}"),
    "weak type": (
        [jnp.float32(1)],
        [jnp.asarray(1.0)],
        "0: weak type: strongly typed → weakly typed\n"
        f"    a Python number made it: jnp.asarray(x, dtype) makes it strong\n{LEAVES}",
    ),
    "numpy dtype": (
        [np.ones(3)],
        [X],
        f"0: numpy dtype: f64[3] → f32[3]\n    inside jax.jit both are float32\n{HARMLESS}",
    ),
    "leaf": ([X], [1.0], f"0: leaf: f32[3] → 1.0\n{LEAVES}"),
    "value": (["a"], ["b"], f"0: value: 'a' → 'b'\n{VALUES}"),
    "type": (
        [1],
        [1.0],
        "0: type: 1 → 1.0\n"
        "    equal in Python: eqx.filter_jit runs what it compiled for the other\n"
        f"{LEAVES}",
    ),
    "type and value": ([1], [2.0], f"0: type: 1 → 2.0\n{LEAVES}"),
    "sign": (
        [0.0],
        [-0.0],
        "0: sign: 0.0 → -0.0\n"
        "    equal in Python: eqx.filter_jit runs what it compiled for the other\n"
        f"{HARMLESS}",
    ),
    "NaN": (
        [float("nan")],
        [float("nan")],
        f"0: value: nan → nan\n    no NaN equals another one: make it once\n{VALUES}",
    ),
    "a leaf alone": (1, 2, f"the root: value: 1 → 2\n{VALUES}"),
    "static": (layer(), layer(rate=0.5), f"rate: static: 0.1 → 0.5\n{DIFFER}"),
    "static lambda": (
        static(lambda x: x),
        static(lambda x: x),
        "x: static: STATIC → STATIC".replace("STATIC", "<lambda>") + ANEW + DIFFER,
    ),
    "functions of one name": (
        [relu],
        [other_relu],
        f"0: value: {__name__}.relu → elsewhere.relu\n{VALUES}",
    ),
    "static array": (
        static(np.ones(3)),
        static(np.ones(3)),
        "x: static: f64[3] → f64[3]\n    JAX cannot compare static arrays, and raises: "
        f"they belong in a Buffer\n{DIFFER}",
    ),
    "static arrays in a tuple": (
        static((np.ones(3), 1)),
        static((np.ones(3), 1)),
        "x: static: tuple with arrays → tuple with arrays\n    JAX cannot compare static "
        f"arrays, and raises: they belong in a Buffer\n{DIFFER}",
    ),
    "static that cannot be compared": (
        static(BadEq(KeyError("a"))),
        static(BadEq(KeyError("b"))),
        "x: static: BadEq → BadEq\n    comparing the two raises KeyError, in jax.jit as "
        f"well\n{DIFFER}",
    ),
    "long static": (
        static("a" * 100 + "b"),
        static("a" * 100 + "c"),
        f"x: static: …{'a' * 20}b' → …{'a' * 20}c'\n{DIFFER}",
    ),
    "two long lines": (
        static("a" * 50),
        static("b" * 50),
        f"x: static:\n      '{'a' * 50}'\n    → '{'b' * 50}'\n{DIFFER}",
    ),
    "static module": (
        static(static((1, 2))),
        static(static((1, 3))),
        f"x.x: static: (1, 2) → (1, 3)\n{DIFFER}",
    ),
    "static module of another class": (
        static(Once(1)),
        static(Holder(1)),
        f"x: static: Twice → Holder\n{DIFFER}",
    ),
    "class": (
        [Once(X)],
        [Tree(None, X)],
        f"0: class: Twice → Tree\n{DIFFER}",
    ),
    "class with the same fields": (
        layer(),
        Other(Y, 0.5),
        "the root: class: Layer → Other\n  rate: static: 0.1 → 0.5\n" + DIFFER,
    ),
    "class defined twice": (
        Once(X),
        Twice(X),
        f"the root: class: {__name__}.Twice → {__name__}.Twice\n"
        "    two classes of one name: its file was loaded, or its cell run, twice\n"
        f"{DIFFER}",
    ),
    "frozen": (
        layer(),
        anx.freeze(layer(), anx.everything),
        f"weight: frozen: not frozen → frozen\n{DIFFER}",
    ),
    "adopted": (
        eqx.nn.Dropout(0.5),
        anx.adopt(eqx.nn.Dropout(0.25)),
        "the root: class: Dropout → Dropout, adopted\n"
        "  p: static: a leaf → static\n"
        f"  inference: static: a leaf → static\n{DIFFER}",
    ),
    "container": ([[X]], [(X,)], f"0: container: list → tuple\n{DIFFER}"),
    "container of another size": ([[X]], [(X, X)], f"0: container: list → tuple\n{DIFFER}"),
    "subtree": (
        [X],
        [{"a": X, "b": X}],
        f"0: container: f32[3] → dict of 2 leaves\n{ONE_WAY}",
    ),
    "None": ([X], [None], f"0: f32[3] → None{NONE_NOTE}{ONE_WAY}"),
    "None and a container": (
        [[X]],
        [None],
        f"0: list of 1 leaf → None{NONE_NOTE}{DIFFER}",
    ),
    "missing": ({"a": X, "b": 1}, {"a": X}, f"b: only in the first: 1\n{DIFFER}"),
    "missing, several": (
        {"a": X, "b": {"c": [X, 1], "d": ()}},
        {"a": X},
        f"b.c.0: only in the first: f32[3]\n  b.c.1: only in the first: 1\n{DIFFER}",
    ),
    "missing, no leaves": (
        [X, ()],
        [X],
        f"1: only in the first: tuple of 0 leaves\n{DIFFER}",
    ),
    "missing, None": ([X, None], [X], f"1: only in the first: None\n{DIFFER}"),
    "extra": ([X], [X, Y], f"1: only in the second: f32[2,3]\n{DIFFER}"),
    "a field that is not set": (
        Late(here=X, flag=1),
        Late(here=X, there=Y, flag=1),
        f"there: only in the second: f32[2,3]\n{DIFFER}",
    ),
    "a static field that is not set": (
        Late(here=X, there=X),
        Late(here=X, there=X, flag=1),
        f"flag: static: 0 → 1\n{DIFFER}",
    ),
    "a static field of Equinox that is not set": (
        Foreign(),
        Foreign(x=1),
        f"x: only in the second: 1, static\n{DIFFER}",
    ),
    "ordered dictionaries": (
        OrderedDict(a=X, b=Y),
        OrderedDict(b=Y, a=X),
        f"the root: static data: ('a', 'b') → ('b', 'a')\n{DIFFER}",
    ),
    "named tuples": ([Pair(X, 1)], [(X, 1)], f"0: container: Pair → tuple\n{DIFFER}"),
    "registered dataclass": (
        Registered(X, "relu"),
        Registered(X, "gelu"),
        f"the root: static data: ('relu',) → ('gelu',)\n{DIFFER}",
    ),
    "custom node": (
        [Node(X, "a")],
        [Node(X, "b")],
        f"0: static data: 'a' → 'b'\n{DIFFER}",
    ),
    "custom node with an array": (
        [Node(X, np.ones(3))],
        [Node(X, np.ones(3))],
        "0: static data: f64[3] → f64[3]\n    JAX cannot compare static arrays, and "
        f"raises: they belong in a Buffer\n{DIFFER}",
    ),
    "repr that raises": (
        [BadRepr()],
        [BadRepr()],
        "0: value:\n      <BadRepr: repr raised RuntimeError>\n"
        f"    → <BadRepr: repr raised RuntimeError>{ANEW}{VALUES}",
    ),
    "== that gives an array": (
        [BadEq(jnp.ones(3))],
        [BadEq(jnp.ones(3))],
        f"0: value: BadEq → BadEq{ANEW}{VALUES}",
    ),
    "keys": (
        jax.random.key(0),
        jnp.zeros(2, "uint32"),
        "the root: shape: key<fry>[] → u32[2]\n"
        f"  the root: dtype: key<fry>[] → u32[2]\n{LEAVES}",
    ),
    "kinds of keys": (
        jax.random.key(0),
        jax.random.key(0, impl="rbg"),
        f"the root: dtype: key<fry>[] → key<rbg>[]\n{LEAVES}",
    ),
    "nothing": ([X], [X + 1], "One compiled program serves both."),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name: str):
    a, b, expected = TEXTS[name]
    found = anx.diff(a, b)
    count = {0: "no difference", 1: "1 difference"}.get(
        len(found), f"{len(found)} differences"
    )
    assert str(found) == f"{count}\n{'  ' * bool(found)}{expected}"
    assert not anx.diff(a, a)


def test_the_contents_are_a_sequence():
    found = anx.diff(layer(2, 0.1), layer(4, 0.5))
    assert len(found) == 2
    assert [d.path for d in found] == ["weight", "rate"]
    assert found[1] == ("rate", "static", "0.1", "0.5", "")
    assert found[0].kind == "shape"
    assert found == anx.diff(layer(2, 0.1), layer(4, 0.5))
    assert found != anx.diff(layer(2, 0.1), layer(4))


def test_data():
    assert anx.diff(layer(), layer(rate=0.5)).to_dict() == {
        "differences": [
            {"path": "rate", "kind": "static", "old": "0.1", "new": "0.5", "note": ""}
        ],
        "consequence": DIFFER.replace("\n", " "),
    }


# --- what is adopted or frozen -------------------------------------------------------


class Container(eqx.Module):
    """A registered container, of which `adopt` makes what is no array constant."""

    items: Any


anx.register(Container, items=anx.Buffer)


def test_constants_in_adopted_containers():
    one, other = (anx.adopt(Container([jnp.ones(3), n])) for n in (1, 2))
    assert only(one, other) == ("items.1", "static", "1", "2", "")
    longer = anx.adopt(Container([jnp.ones(3), 1, "a"]))
    assert only(one, longer) == ("items.2", "extra", "", "'a', static", "")
    loose = anx.adopt(Container([jnp.ones(3), jnp.ones(3)]))
    kinds = {d.path: d[1:4] for d in anx.diff(one, loose)}
    assert kinds["items.1"] == ("static", "static", "a leaf")


def test_adopted_constants_of_another_type():
    class Foreign(eqx.Module):
        x: Any

    one, other = (anx.adopt(Foreign(x)) for x in (1, 1.0))
    assert only(one, other) == ("x", "static", "1", "1.0", "")


def test_adopted_in_two_ways():
    class Foreign(eqx.Module):
        x: Any
        f: Any

    before = anx.adopt(Foreign(jnp.ones(3), jnp.tanh))
    anx.register(Foreign, x=anx.Buffer)
    after = anx.adopt(before)
    assert only(before, after) == (
        "",
        "class",
        "Foreign, adopted: static f; held f; inferred",
        "Foreign, adopted: stopped x; static f; held f",
        "",
    )


# --- Leaves, structures, optimizer states, treedefs ----------------------------------


class Tagged(anx.Module):
    weight: anx.Param[Float[Array, "m n"]] = anx.field(tags=["no_decay"])
    bias: anx.Param[Any]


class Retagged(anx.Module):
    weight: LoRA[Float[Array, "rows columns"]]
    bias: anx.Buffer[Any] = anx.field(persistent=False)


def test_leaves_of_another_kind():
    one, other = (anx.leaves(cls(Y, X), anx.everything) for cls in (Tagged, Retagged))
    assert (
        str(anx.diff(one, other))
        == text(
            """
        5 differences
          weight: key: role param → role lora
          weight: key: tags no_decay → tags nothing
          weight: key: axes m, n → axes rows, columns
          bias: key: role param → role buffer
          bias: key: persistent True → persistent False
        """
        )
        + "\n"
        + DIFFER
    )


def test_leaves_with_other_paths_and_order():
    leaves = anx.leaves(Tagged(Y, X), anx.everything)
    weight = anx.leaves(Tagged(Y, X), anx.by_path("weight"))
    assert only(leaves, weight) == ("bias", "missing", "f32[3]", "", "")
    keys = type(leaves.static)(leaves.static.keys[::-1])
    other = anx.Leaves(keys, [*leaves.values()][::-1])
    expected = ("", "order", "['weight', 'bias']", "['bias', 'weight']", "")
    assert only(leaves, other) == expected
    retagged = anx.leaves(Retagged(Y, X), anx.by_path("weight"))
    kinds = [(d.path, d.kind) for d in anx.diff(leaves, retagged)]
    assert kinds == [("bias", "missing"), *[("weight", "key")] * 3]


def test_structures():
    model = {"a": Y, "b": X, "c": 1.0, "d": jnp.tanh}
    by_a, by_b = (anx.split(model, anx.by_path(path))[0] for path in "ab")
    assert (
        str(anx.diff(by_a, by_b))
        == text(
            """
        2 differences
          a: key: in Leaves 0 → in Leaves 1
          b: key: in Leaves 1 → in Leaves 0
        """
        )
        + "\n"
        + DIFFER
    )
    alone = anx.split(model)[0]
    assert [tuple(d)[:4] for d in anx.diff(by_a, alone)] == [
        ("", "key", "2 Leaves", "1 Leaves"),
        ("b", "key", "in Leaves 1", "in Leaves 0"),
    ]
    other = anx.split({**model, "c": 2.0})[0]
    assert only(alone, other) == ("c", "static", "1.0", "2.0", "")
    for value in (X, np.float32(1)):
        array = anx.split({**model, "c": value})[0]
        assert only(alone, array) == ("c", "static", "1.0", "an array", "")
        assert only(array, alone) == ("c", "static", "an array", "1.0", "")
    assert not anx.diff(alone, anx.split({**model, "a": X})[0])
    assert only(alone, {**model, "c": X}) == ("c", "leaf", "1.0", "f32[3]", "")
    assert not anx.diff(alone, model)
    assert not anx.diff(model, alone)
    nan = float("nan")
    one, two = (anx.split({"x": x})[0] for x in (nan, float("nan")))
    assert one == two
    assert not anx.diff(one, two)


def _traced_for(structure: Any, other: Any) -> int:
    count = 0

    def function(structure: Any) -> float:
        nonlocal count
        count += 1
        return 0.0

    jitted = jax.jit(function, static_argnums=0)
    jitted(structure)
    jitted(other)
    return count


@pytest.mark.parametrize("value", [2.0, 1, True, X, "1.0"])
def test_structures_as_static_arguments_compile_anew_as_it_says(value: Any):
    one, other = (anx.split({"x": x})[0] for x in (1.0, value))
    found = anx.diff(one, other)
    assert {d.kind for d in found} <= STRUCTURE_KINDS
    assert _traced_for(one, other) == 2
    assert found.consequence == DIFFER.replace("\n", " ")


def _states() -> Iterator[tuple[str, Any, Any, list[tuple[str, str]]]]:
    model = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0))
    params, frozen = anx.params(model), anx.freeze(model, anx.by_path("layers.0.**"))
    adam = optax.adam(1e-3).init(params)
    yield "adamw", adam, optax.adamw(1e-3).init(params), [("2", "extra")]
    chain = optax.chain(optax.clip(1.0), optax.adam(1e-3)).init(params)
    yield "chain", adam, chain, [("0", "container"), ("1", "container")]
    masked = optax.masked(optax.adam(1e-3), anx.by_path("**.weight")).init(params)
    yield "masked", adam, masked, [("", "container")]
    few = optax.adam(1e-3).init(anx.params(frozen))
    expected = [
        (f"0.{name}.layers.0.{field}", "missing")
        for name in ("mu", "nu")
        for field in ("weight", "bias")
    ]
    yield "frozen", adam, few, expected
    half = jax.tree.map(lambda x: x.astype("bfloat16"), params)
    other = optax.adam(1e-3).init(half)
    yield (
        "dtype",
        adam,
        other,
        [(f"0.{name}.{path}", "dtype") for name in ("mu", "nu") for path in params],
    )
    labels = anx.labels({"head": anx.by_path("layers.1.**")}, default="body")
    parts = {"head": optax.adam(1e-3), "body": optax.sgd(1e-3)}
    one = optax.multi_transform(parts, labels).init(params)
    other_parts = {**parts, "body": optax.adam(1e-3)}
    two = optax.multi_transform(other_parts, labels).init(params)
    yield "multi", one, two, [("inner_states.body.inner_state.0", "container")]


@pytest.mark.parametrize("case", tuple(_states()), ids=lambda case: case[0])
def test_optimizer_states(case: tuple[str, Any, Any, list[tuple[str, str]]]):
    _, a, b, expected = case
    assert [(d.path, d.kind) for d in anx.diff(a, b)] == expected
    assert not anx.diff(a, a)


TREES = (
    None,
    1,
    [None, {"a": 1, "b": (1, 2)}],
    [None, {"a": 1, "c": (1, 2)}],
    OrderedDict(a=1, b=None),
    defaultdict(list, a=1),
    defaultdict(int, a=1),
    Pair(1, 2),
    Registered(1, "a"),
    Registered(1, "b"),
    [Node(1, "a")],
    [Node(1, "b")],
    layer(),
    layer(rate=1.0),
)


@pytest.mark.parametrize("one", range(len(TREES)))
def test_treedefs(one: int):
    for other in range(len(TREES)):
        a, b = tree_structure(TREES[one]), tree_structure(TREES[other])
        found = anx.diff(a, b)
        assert bool(found) is (one != other)
        assert bool(anx.diff(a, TREES[other])) is (one != other)
        assert {d.kind for d in found} <= STRUCTURE_KINDS


@jax.tree_util.register_pytree_node_class
class Picky(Node):
    def __init__(self, x: Any, aux: Any) -> None:
        if not isinstance(x, jax.Array):
            raise TypeError("arrays only")
        super().__init__(x, aux)


def test_a_treedef_that_cannot_be_read():
    one, other = (tree_structure(Picky(X, aux)) for aux in "ab")
    assert message(anx.StructureError, lambda: anx.diff(one, other)) == text(
        """
        diff: this treedef cannot be read without its leaves
          found:    TypeError while a node was made of stand-ins
          fix:      compare the trees instead of their treedefs
        """
    )
    assert not anx.diff(one, tree_structure(Picky(Y, "a")))
    assert only(Picky(X, "a"), Picky(X, "b")) == ("", "static data", "'a'", "'b'", "")
    assert anx.diff(Picky(X, "a"), Picky(X, "b")).consequence == DIFFER.replace("\n", " ")


def test_what_looks_the_same_and_is_not():
    class Keyless:
        pass

    jax.tree_util.register_pytree_node(
        Keyless, lambda node: ((), object()), lambda aux, children: Keyless()
    )
    found = anx.diff([Keyless()], [Keyless()])
    assert [(d.path, d.kind, d.note) for d in found] == [("0", "static data", ANEW.strip())]

    class Moody:
        def __init__(self) -> None:
            self.answers = iter([False, False, True, True, True, True, True])

        def __eq__(self, other: object) -> bool:
            return next(self.answers)

        __hash__ = object.__hash__

    found = anx.diff(Node(X, Moody()), Node(X, Moody()))
    assert [d.kind for d in found] == ["static data"]
    assert found


# --- whatever it is given ------------------------------------------------------------


def test_traced_and_abstract_models():
    found: list[Any] = []

    @jax.jit
    def function(a: Any, b: Any) -> Any:
        found.append(anx.diff(a, b))
        found.append(anx.diff(a, a))
        return a.weight.sum() + b.weight.sum()

    function(layer(2), layer(4, rate=0.5))
    assert [d.kind for d in found[0]] == ["shape", "static"]
    assert not found[1]
    jax.grad(lambda a: found.append(anx.diff(a, layer(4))) or a.weight.sum())(layer(2))
    assert [d.kind for d in found[-1]] == ["shape"]
    jax.vmap(lambda x: found.append(anx.diff(x, jnp.ones(3))) or x)(Y)
    assert not found[-1]
    abstract = eqx.filter_eval_shape(layer)
    assert not anx.diff(abstract, layer())
    assert only(abstract, layer(4))[1] == "shape"
    weak = jax.eval_shape(lambda: jnp.asarray(1.0))
    assert only(weak, jnp.float32(1))[1] == "weak type"
    key = jax.eval_shape(jax.random.key, 0)
    assert only(key, jax.ShapeDtypeStruct((), "float32"))[1] == "dtype"
    assert not anx.diff(key, jax.random.key(0))


def test_deleted_arrays():
    one, other = jnp.ones(3), jnp.ones(3)
    one.delete()
    assert not anx.diff([one], [other])
    assert only([one], [jnp.ones(4)]) == ("0", "shape", "f32[3]", "f32[4]", "")


def test_no_arrays_of_jax():
    texts, objects = np.array(["a"]), np.array([None])
    assert not anx.diff(texts, np.array(["b"]))
    assert only(texts, objects)[1] == "dtype"
    assert only(objects, jnp.ones(1))[1] == "dtype"
    assert only(10**30, jnp.ones(()))[1] == "leaf"


def test_containers_in_themselves():
    endless: list[Any] = []
    endless.append(endless)
    for a, b in ((endless, [1]), ([1], endless), (endless, endless)):
        found = message(anx.StructureError, lambda a=a, b=b: anx.diff(a, b))
        assert found.startswith(
            "a list: this cannot be followed: it contains itself, or nests too deeply\n"
        )
    assert only(static(endless), static([1])) == (
        "x",
        "static",
        "<list: repr raised SystemError>",
        "[1]",
        "",
    )


def test_static_dictionaries_whose_keys_have_no_order():
    one, other = static({1: 2, "a": 3}), static({1: 2, "a": 4})
    assert only(one, other)[:2] == ("x", "static")


def test_trees_that_are_too_deep():
    one, other = [X], [Y, Y]
    for _ in range(600):
        one, other = [one], [other]
    assert message(anx.StructureError, lambda: anx.diff(one, other)) == text(
        """
        diff: these trees are too deep to be compared
          expected: less than some hundreds of nodes in one another
          found:    RecursionError
        """
    )


def test_keys_that_are_equal_and_read_differently():
    assert not anx.diff({1: X}, {True: X})
    assert only({1: X}, {True: Y}) == ("[1]", "shape", "f32[3]", "f32[2,3]", "")


def test_a_hundred_thousand_leaves_take_no_quadratic_time(monkeypatch: pytest.MonkeyPatch):
    from annotax import _compare

    many, calls = [X] * 100_000, []
    kept = _compare._only

    def counted(*args: Any) -> Any:
        calls.append(args)
        return kept(*args)

    monkeypatch.setattr(_compare, "_only", counted)
    assert not anx.diff(many, list(many))
    assert len(anx.diff(many, many[:10])) == 99_990
    assert len(calls) == 99_990
    assert only(many, tuple(many)) == ("", "container", "list", "tuple", "")
    ones = anx.diff([1] * 100_000, [2] * 100_000)
    assert len(ones) == 100_000
    assert str(ones).count("\n") == 103  # a hundred of them, the rest counted
    assert "\n  and 99,900 more; iterating gives all\n" in str(ones)


def test_leaves_are_no_part_of_the_message(monkeypatch: pytest.MonkeyPatch):
    """Neither values nor `repr` of arrays are looked at: of large models it takes long."""
    monkeypatch.setattr(type(X), "__repr__", lambda self: pytest.fail("repr of an array"))
    assert anx.diff([X, {"a": Y}], (X, {"a": Y}, [X]))
    assert anx.diff([X, 1.0], [Y, X])


@example(math.nan, math.nan)
@given(st.floats(), st.floats())
def test_floats(one: float, other: float):
    found = anx.diff([one], [other])
    same = one is other or (one == other and repr(one) == repr(other))
    assert bool(found) is not same
    assert not anx.diff([one], [one])


def test_two_equal_treedefs_say_nothing_of_leaves():
    structure = jax.tree.structure([X])
    for pair in ((structure, structure), (structure, [Y])):
        assert str(anx.diff(*pair)) == "no difference\nThe structures agree."


def test_a_class_has_no_leaves():
    found = message(anx.StructureError, lambda: anx.diff(dict, {}))
    assert found.startswith("diff(dict): a class has no leaves\n")
