"""Fields are checked at the end of every construction, against all that a hint can say."""

import collections
import contextlib
import copy
import enum
import functools
import inspect
import pickle
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NewType,
    Optional,
    Protocol,
    Self,
    TypeVar,
    get_args,
    runtime_checkable,
)

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import (
    Array,
    Bool,
    Float,
    Float32,
    Int,
    Key,
    PRNGKeyArray,
    PyTree,
    Scalar,
    Shaped,
)
from typing_extensions import TypeAliasType

import annotax as anx
from annotax import _class_checks
from annotax._check import find_problems
from annotax._class_checks import class_checks
from annotax._compat import instance_dict
from test_agreement import random_class, random_value

ones = jnp.ones


def make(_base=anx.Module, **annotations):
    """A class with these annotations."""
    space = {"__annotations__": annotations, "__module__": __name__}
    return type(anx.Module)("Model", (_base,), space)


def accepts(cls, *values, **named):
    """Whether an instance can be made of some values."""
    try:
        cls(*values, **named)
    except anx.CheckError:
        return False
    return True


def refused(pattern):
    return pytest.raises(anx.CheckError, match=pattern)


class Linear(anx.Module):
    weight: anx.Param[Float[Array, "outs ins"]]
    bias: anx.Param[Float[Array, " outs"] | None]
    ins: anx.Hyper[int]
    outs: anx.Hyper[int]

    def __call__(self, x):
        return self.weight @ x


def linear(outs=4, ins=3):
    return Linear(ones((outs, ins)), ones(outs), ins, outs)


# --- when fields are checked -------------------------------------------------------------


def test_whatever_the_init_is():
    class Model(anx.Module):
        weight: anx.Param[Float[Array, "n m"]]
        n: anx.Hyper[int]

        def __init__(self, weight, n):
            self.n = n
            self.weight = weight[:, 0]  # as it will be in the end, not as it is now
            self.weight = weight

    assert Model(ones((2, 3)), 2).n == 2
    with refused("Model.weight"):
        Model(ones((2, 3)), 3)


def test_what_converters_make_is_checked_and_not_what_they_are_given():
    class Model(anx.Module):
        weight: anx.Param[Float[Array, " n"]] = anx.field(converter=jnp.asarray)
        bias: anx.Param[Float[Array, " n"]] = anx.field(converter=lambda x: x[0])

    assert Model([1.0, 2.0], ones((3, 2))).bias.shape == (2,)
    with refused("Model.bias"):
        Model([1.0, 2.0], ones((3, 3)))


def test_after_the_users_own_checks():
    seen = []

    class Model(anx.Module):
        weight: anx.Param[Float[Array, " n"]]

        def __check_init__(self):
            if self.weight is None:
                raise KeyError("their own")
            seen.append(self.weight.shape)

    with refused("Model.weight"):
        Model(ones((2, 2)))
    with pytest.raises(KeyError, match="their own"):
        Model(None)
    assert seen == [(2, 2)]


def test_defaults():
    class Model(anx.Module):
        weight: anx.Param[Float[Array, " n"]]
        wrong: anx.Param[Float[Array, " n"]] = 1.0
        parts: anx.Param[list[Float[Array, " n"]]] = anx.field(default_factory=lambda: [1])

    assert Model(ones(2), ones(2), []).parts == []
    with refused("2 values") as caught:
        Model(ones(2))
    assert "wrong: " in str(caught.value)
    assert "parts[0]: " in str(caught.value)


def test_a_field_that_only_the_class_has_a_value_of():
    class Model(anx.Module):
        weight: anx.Param[Float[Array, " n"]]
        kind: anx.Hyper[str] = 3

        def __init__(self):
            self.weight = ones(2)

    with refused("Model.kind"):
        Model()


def test_subclasses_narrow_and_add():
    class Base(anx.Module):
        weight: anx.Param[Float[Array, "..."]]
        n: anx.Hyper[int]

    class Sub(Base):
        weight: anx.Param[Float[Array, "n n"]]
        bias: anx.Param[Float[Array, " n"]]

    assert accepts(Base, ones((2, 3)), 2)
    assert accepts(Sub, ones((2, 2)), 2, ones(2))
    assert not accepts(Sub, ones((2, 3)), 2, ones(2))
    assert not accepts(Sub, ones((2, 2)), 2, ones(3))


def test_abstract_fields_are_checked_where_they_become_fields():
    reads = []

    class Abstract(anx.Module):
        weight: eqx.AbstractVar[anx.Param[Float[Array, " n"]]]
        n: anx.Hyper[int]

    class Concrete(Abstract):
        weight: anx.Param[Float[Array, " n"]]

    class Computed(Abstract):
        @property
        def weight(self):
            reads.append(1)
            return ones(7)

    assert accepts(Concrete, 2, ones(2))
    assert not accepts(Concrete, 2, ones(3))
    assert accepts(Computed, 2)  # a property is no field: nothing computes it here
    assert reads == []


def test_fields_without_a_role_are_checked_in_mode_full_alone():
    class Plain(anx.Module):
        size: int
        wrong: Float
        worse: Float[Array, "{n}"]
        weight: anx.Param[Array]

    class Loose(anx.Module):
        size: int

    assert Plain("three", 1, 2, ones(1)).size == "three"
    with anx.checking("full"):
        with pytest.raises(
            anx.AnnotationError, match=r"Plain.wrong: the annotation is wrong"
        ):
            Plain(3, 1, 2, ones(1))
        assert Loose(3).size == 3
        with refused("Loose.size"):
            Loose("three")
    assert Loose("three").size == "three"


def test_all_that_does_not_fit_is_told_at_once():
    with refused("Linear: 2 values do not fit") as caught:
        Linear(ones((3, 4)), ones(5), 3, 4)
    assert "weight: " in str(caught.value)
    assert "bias: " in str(caught.value)


def test_what_makes_no_new_instance_checks_nothing():
    with anx.checking("off"):
        wrong = Linear(0, ones(9), 3, 4)
    for again in (
        copy.copy(wrong),
        copy.deepcopy(wrong),
        pickle.loads(pickle.dumps(wrong)),
    ):
        assert again.weight == 0
    assert eqx.tree_at(lambda m: m.weight, linear(), None).weight is None
    assert jax.tree.map(lambda leaf: leaf, wrong).weight == 0


@pytest.mark.parametrize(
    "leaf", [None, True, 3, "text", object()], ids=lambda leaf: type(leaf).__name__
)
def test_never_in_flatten_or_unflatten(leaf):
    tree = jax.tree.map(lambda _: leaf, linear())
    assert tree.weight is tree.bias is leaf
    leaves, treedef = jax.tree.flatten(tree)
    assert jax.tree.unflatten(treedef, leaves).weight is leaf
    assert jax.tree.map(lambda a, b: (a, b), linear(), linear()).bias[0].shape == (4,)


def test_nothing_of_it_is_traced():
    def loss(weight, x):
        return Linear(weight, None, 3, 4)(x).sum()

    def lowered():
        fresh = functools.partial(loss)  # no cache knows it
        return jax.jit(jax.grad(fresh)).lower(ones((4, 3)), ones(3)).as_text()

    checked = lowered()
    with anx.checking("off"):
        assert lowered() == checked


# --- variants ------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["as it is", "frozen", "adopted"])
def test_what_replace_changes_is_checked(change):
    model = linear()
    if change == "frozen":
        model = anx.freeze(model, anx.by_path("weight"))
    elif change == "adopted":
        model = anx.adopt([model, eqx.nn.Dropout(0.5)])[0]
    assert anx.replace(model, bias=None).bias is None
    assert anx.replace(model, outs=2, weight=ones((2, 3)), bias=ones(2)).outs == 2
    for changes in ({"bias": ones(5)}, {"outs": 5}, {"weight": ones((3, 4))}):
        with refused(r"Linear[.:]"):
            anx.replace(model, **changes)
        with anx.checking("off"):
            anx.replace(model, **changes)


def test_a_frozen_instance_is_still_itself():
    class Node(anx.Module):
        value: anx.Param[Float[Array, " n"]]
        next: anx.Param[Self | None]

    chain = Node(ones(1), Node(ones(2), None))
    frozen = anx.freeze(chain, anx.by_path("value"))
    assert type(frozen) is not type(frozen.next)
    assert anx.replace(frozen, value=ones(3)).value.shape == (3,)
    with refused(r"Node.next: .*\n.*Self"):
        anx.replace(frozen, next=linear())


def test_an_adopted_class_keeps_its_registered_fields_unchecked_when_they_have_no_hint():
    class Foreign(eqx.Module):
        activation: Callable
        weight: Array
        rate: float

    anx.register(Foreign, activation=anx.Hyper, weight=anx.Param, rate=anx.Hyper)
    adopted = anx.adopt(Foreign(jnp.tanh, ones(3), 1))
    assert anx.replace(adopted, rate=2).rate == 2.0
    assert anx.validate(adopted) == ()


# --- arrays --------------------------------------------------------------------------

DTYPES = [
    name
    for name, value in vars(jaxtyping).items()
    if isinstance(value, type) and hasattr(value, "dtypes") and name != "AbstractDtype"
]
NAMES = ["float32", "float16", "bfloat16", "int32", "int8", "int4", "uint8", "uint32"]
VALUES = [jnp.zeros(2, name) for name in [*NAMES, "bool", "complex64", "float8_e5m2"]]
VALUES += [jax.random.split(jax.random.key(0)), np.zeros(2), np.zeros(2, int)]
VALUES += [np.zeros(2, complex), jax.ShapeDtypeStruct((2,), "float32")]


@pytest.mark.parametrize("name", DTYPES)
def test_the_dtypes_of_jaxtyping(name):
    hint = getattr(jaxtyping, name)[Array | np.ndarray | jax.ShapeDtypeStruct, "2"]
    cls = make(x=anx.Param[hint])
    kinds = get_args(hint)
    verdicts = [any(isinstance(value, kind) for kind in kinds) for value in VALUES]
    assert [accepts(cls, value) for value in VALUES] == verdicts


def test_the_table_of_dtypes_is_not_empty():
    assert {"Float", "Float32", "Inexact", "Real", "Num", "Key", "Shaped", "UInt4"} < {
        *DTYPES
    }


BAD, GOOD = False, True


@pytest.mark.parametrize(
    ("one", "other", "shapes", "verdict"),
    [
        ("", "", [(), ()], GOOD),
        ("", "", [(), (1,)], BAD),
        ("3", "3 4", [(3,), (3, 4)], GOOD),
        ("3", "3 4", [(3,), (4, 3)], BAD),
        ("n", "n m", [(3,), (3, 4)], GOOD),
        ("n", "n m", [(3,), (4, 3)], BAD),
        ("n n", "n", [(3, 3), (3,)], GOOD),
        ("n n", "n", [(3, 4), (3,)], BAD),
        ("rows=3", "n", [(3,), (4,)], GOOD),
        ("rows=3", "n", [(4,), (4,)], BAD),
        ("*batch", "*batch n", [(2, 3), (2, 3, 4)], GOOD),
        ("*batch", "*batch n", [(2, 3), (3, 2, 4)], BAD),
        ("*batch", "n *batch m", [(), (5, 4)], GOOD),
        ("*batch n", "*batch", [(), ()], BAD),
        ("#n", "n", [(1,), (4,)], GOOD),
        ("#n", "n", [(3,), (4,)], BAD),
        ("*#batch", "*batch", [(1, 3), (2, 3)], GOOD),
        ("*#batch", "*batch", [(2, 3), (1, 3)], BAD),
        ("*#batch", "*#batch", [(1, 3), (2, 1)], GOOD),
        ("_", "_", [(3,), (4,)], GOOD),
        ("_", "_", [(3,), (4, 3)], BAD),
        ("_n", "_n", [(3,), (4,)], GOOD),
        ("...", "... n", [(3, 4), (3, 4)], GOOD),
        ("...", "... n", [(3, 4), ()], BAD),
        ("n ...", "... n", [(3, 4), (4, 3)], GOOD),
        ("n ...", "... n", [(3, 4), (3, 4)], BAD),
        ("n", "n+1", [(3,), (4,)], GOOD),
        ("n", "n+1", [(3,), (3,)], BAD),
        ("n+1", "n", [(4,), (3,)], GOOD),
        ("n m", "min(n,m) n*m", [(2, 3), (2, 6)], GOOD),
        ("n m", "min(n,m) n*m", [(2, 3), (3, 6)], BAD),
        ("n", "#n+1", [(3,), (1,)], GOOD),
        ("n", "n//2 n-1", [(4,), (2, 3)], GOOD),
    ],
)
def test_dimensions_are_one_scope(one, other, shapes, verdict):
    cls = make(a=anx.Param[Float[Array, one]], b=anx.Buffer[Float[Array, other]])
    assert accepts(cls, *map(ones, shapes)) is verdict


def test_instances_have_scopes_of_their_own():
    assert linear(2, 3).outs == 2
    assert linear(4, 5).outs == 4
    cls = make(x=anx.Param[Float[Array, " n"]], inner=anx.Param[Any])
    assert accepts(cls, ones(2), cls(ones(3), None))


@pytest.mark.parametrize(
    ("annotation", "value", "binds"),
    [
        (anx.Hyper[int], 3, True),
        (anx.Hyper[int | None], 3, True),
        (anx.Hyper[Any], 3, True),
        (anx.Hyper[Annotated[int, "a count"]], 3, True),
        (anx.Hyper[Any], True, False),
        (anx.Hyper[bool], True, False),
        (anx.Hyper[int], -1, False),
        (anx.Hyper[int | None], None, False),
        (anx.Hyper[float], 3.0, False),
        (anx.Param[Any], 3, False),
        (int, 3, False),
    ],
)
def test_a_hyper_binds_a_size(annotation, value, binds):
    cls = make(x=anx.Param[Float[Array, " n"]], n=annotation)
    assert accepts(cls, ones(3), value)
    assert accepts(cls, ones(4), value) is not binds
    twice = make(
        x=anx.Param[Float[Array, " 2*n"]], y=anx.Param[PyTree[Array]], n=annotation
    )
    if binds:
        assert accepts(twice, ones(6), None, value)
        assert not accepts(twice, ones(5), None, value)


def test_sizes_that_depend_on_each_other():
    """The last to be judged binds what the first one needs."""
    dims = {"a": "n+1", "b": "m+1 n", "c": "k+1 m", "d": "k"}
    shapes = {"a": (5,), "b": (4, 4), "c": (3, 3), "d": (2,)}
    for names in (dims, reversed(dims), ("b", "d", "a", "c")):
        cls = make(**{name: anx.Param[Float[Array, dims[name]]] for name in names})
        assert accepts(cls, **{name: ones(shape) for name, shape in shapes.items()})
        assert not accepts(cls, **{n: ones(s) for n, s in shapes.items()} | {"a": ones(6)})


def test_kinds_of_arrays():
    ours = make(x=anx.Param[Float[Array, " n"]])
    assert accepts(ours, ones(2))
    assert not accepts(ours, np.ones(2, "float32"))
    theirs = make(x=anx.Param[Float[np.ndarray, " n"]])
    assert accepts(theirs, np.ones(2))
    assert not accepts(theirs, ones(2))
    either = make(x=anx.Param[Float[Array | np.ndarray, " n"]])
    assert accepts(either, ones(2))
    assert accepts(either, np.ones(2))
    for bare, good, bad in [
        (Array, ones(2), np.ones(2)),
        (np.ndarray, np.ones(2), ones(2)),
    ]:
        assert accepts(make(x=anx.Param[bare]), good)
        assert not accepts(make(x=anx.Param[bare]), bad)
    scalar = make(x=anx.Param[Scalar])
    assert accepts(scalar, ones(()))
    assert not accepts(scalar, ones(1))


def test_random_keys():
    new, old = jax.random.key(0), jax.random.PRNGKey(0)
    assert accepts(make(x=anx.Buffer[PRNGKeyArray]), new)
    assert accepts(make(x=anx.Buffer[PRNGKeyArray]), old)
    typed = make(x=anx.Buffer[Key[Array, ""]])
    assert accepts(typed, new)
    assert not accepts(typed, old)
    assert not accepts(typed, jax.random.split(new))


@pytest.mark.parametrize("how", ["deleted", "donated"])
def test_arrays_that_are_gone(how):
    array = ones(3)
    if how == "deleted":
        array.delete()
    else:
        jax.jit(lambda x: x + 1, donate_argnums=0)(array)
        if not array.is_deleted():
            array.delete()  # this backend does not donate
    assert accepts(make(x=anx.Param[Float[Array, " n"]]), array)
    with refused("1 axis instead of 2"):
        make(x=anx.Param[Float[Array, "n m"]])(array)
    with refused(r"Model.x: "):
        make(x=anx.Param[str])(array)


# --- tracers -------------------------------------------------------------------------


def build(weight):
    return Linear(weight, None, 3, 4)


TRANSFORMED = {
    "jit": lambda w: jax.jit(build)(w),
    "filter_jit": lambda w: eqx.filter_jit(build)(w),
    "grad": lambda w: jax.grad(lambda x: build(x).weight.sum())(w),
    "jvp": lambda w: jax.jvp(build, (w,), (w,)),
    "vmap": lambda w: jax.vmap(build)(jnp.stack([w, w])),
    "filter_vmap": lambda w: eqx.filter_vmap(build)(jnp.stack([w, w])),
    "twice": lambda w: eqx.filter_vmap(eqx.filter_vmap(build))(jnp.stack([w, w])[None]),
    "eval_shape": lambda w: jax.eval_shape(build, w),
    "abstract": lambda w: build(jax.ShapeDtypeStruct(w.shape, w.dtype)),
    "scan": lambda w: jax.lax.scan(lambda c, x: (c, build(x)), 0, w[None]),
    "checkpoint": lambda w: jax.checkpoint(build)(w),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_under_transformations(name):
    run = TRANSFORMED[name]
    run(ones((4, 3)))
    with refused(r"Linear.weight(.|\n)*found:    float32\[3,4\](.|\n)*it fits transposed"):
        run(ones((3, 4)))
    with refused(r"float32\[2,4,3\](.|\n)*leading axis"):
        run(ones((2, 4, 3)))


def test_an_ensemble_has_the_shapes_of_a_stack():
    made = eqx.filter_vmap(build)(ones((5, 4, 3)))
    assert made.weight.shape == (5, 4, 3)
    assert made.outs == 4


# --- everything else ---------------------------------------------------------------------

T = TypeVar("T")
Number = TypeVar("Number", bound=int)
Either = TypeVar("Either", int, str)
Count = NewType("Count", int)
Vector = TypeAliasType("Vector", Float[Array, " n"])
Same = TypeAliasType("Same", list[T], type_params=(T,))
Nested = TypeAliasType("Nested", "Float[Array, ' n'] | list[Nested]")


class Box(eqx.Module, Generic[T]):
    content: Any


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@runtime_checkable
class Sized(Protocol):
    def size(self) -> int: ...


class HasSize:
    def size(self):
        return 3


n1, n2, n3, whole = ones(1), ones(2), ones(3), jnp.ones(2, int)
F = Float[Array, " n"]


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, [3, True], ["3", None, 3.0]),
        (Any, [3, None, n1], []),
        (object, [3, None], []),
        (None, [None], [3, n1]),
        (F | None, [n2, None], [3, whole, ones((2, 2))]),
        (Optional[F], [n2, None], [3]),  # noqa: UP045 -- the older spelling
        (F | Int[Array, "n n"], [n2, ones((2, 2), int)], [whole, ones((2, 2)), None]),
        (F | str, [n2, "s"], [3]),
        ("Float[Array, ' n']", [n2], [3]),
        (Annotated[F, "said of it"], [n2], [3]),
        (Literal["a", "b"], ["a"], ["c", None, 1]),
        (Literal[Color.RED, 2], [Color.RED, 2], [Color.BLUE, 1]),
        (Color, [Color.RED], [1]),
        (Callable, [len, Box], [3]),
        (Callable[[int], F], [jnp.tanh, lambda x: x], [3, None]),
        (type, [int], [3]),
        (type[Any], [int], [3]),
        (type[Box], [Box], [Box(1), int]),
        (type["Box"], [Box], [Box(1), int]),
        (type[Box | int], [Box, bool], [str, 3]),
        (Sized, [HasSize()], [3]),
        (Box, [Box(1)], [3, Box]),
        (Box[int], [Box(1)], [3]),
        (T, [3, None], []),
        (Number, [3], ["3"]),
        (Either, [3, "3"], [3.0]),
        (Count, [3], ["3"]),
        (Vector, [n2], [3, ones((2, 2))]),
        (Same[int], [[1, 2], []], [[1, "2"], (1,)]),
        (Nested, [n2, [n2, [n2, []]]], [3, [n2, [3]], [n2, [[n3]]]]),
        (list, [[1, "a"]], [(1,)]),
        (list[F], [[], [n2], [n2, n2]], [n2, (n2,), [n2, 3], [n2, n3]]),
        (tuple, [(), (1,)], [[1]]),
        (tuple[()], [()], [(1,)]),
        (tuple[F, int], [(n2, 1)], [(1, n2), (n2,), (n2, 1, 1), [n2, 1]]),
        (tuple[F, ...], [(), (n2,), (n2, n2)], [(n2, n3), (n2, 3), [n2]]),
        (dict[str, F], [{}, {"a": n2}], [{"a": 3}, {1: n2}, {"a": n2, "b": n3}, [n2]]),
        (Mapping[str, F], [{"a": n2}], [{"a": 3}]),
        (set[int], [{1, 2}, set()], [{1, "a"}, [1]]),
        (frozenset[int], [frozenset({1})], [frozenset({"a"}), {1}]),
        (collections.deque[int], [collections.deque([1])], [collections.deque(["a"]), [1]]),
        (collections.OrderedDict[str, int], [collections.OrderedDict(a=1)], [{"a": 1}]),
        (collections.Counter[str], [collections.Counter("aa")], [{"a": 1}]),
        (Sequence[F], [[n2], (n2,)], [[3], 3, {n2.size}]),
        (Iterable[F], [[n2], (n2,)], [[3], 3]),
        (list[dict[str, tuple[F, ...]]], [[{"a": (n2, n2)}]], [[{"a": (n2, n3)}]]),
        (PyTree, [3, None, [n2]], []),
        (
            PyTree[F],
            [n2, None, [n2, {"a": n2}], Box(n2)],
            [3, [n2, n3], [n2, "a"], Box(3)],
        ),
        (PyTree[int], [3, [3, (3,)]], ["3", [3, [n2]]]),
        (PyTree[list[int]], [[3], ([3], [4])], [3, (3,)]),
        (PyTree[Float[Array, "?n"], "T"], [[n2, n3], n1], [[n2, ones((2, 2))]]),
        (
            PyTree[Float[Array, "?n ?n"], "T"],
            [[ones((2, 2)), ones((3, 3))]],
            [[ones((2, 3))]],
        ),
    ],
    ids=lambda hint: str(hint) if not isinstance(hint, list) else "",
)
def test_what_a_hint_can_say(annotation, good, bad):
    cls = make(x=anx.Param[annotation])
    assert [accepts(cls, value) for value in good] == [True] * len(good)
    assert [accepts(cls, value) for value in bad] == [False] * len(bad)


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize(
    ("annotation", "build"),
    [
        (list[F], list),
        (tuple[F, ...], tuple),
        (tuple[F, F, F, F, F], tuple),
        (collections.deque[F], collections.deque),
        (Sequence[F], tuple),
        (dict[int, F], lambda items: dict(enumerate(items))),
        (Mapping[int, F], lambda items: collections.OrderedDict(enumerate(items))),
        (list[list[F]], lambda items: [[item] for item in items]),
        (dict[int, list[F]], lambda items: {7: items}),
        (PyTree[F], lambda items: {"a": items[:2], "b": tuple(items[2:])}),
        (list[F] | None, list),
        (list[F | int], list),
    ],
    ids=lambda one: getattr(one, "__name__", None) or str(one),
)
def test_every_item_is_looked_at(annotation, build, at):
    """Of a hundred classes that look at one item at random, five would let all pass."""
    items = [n2] * 5
    cls = make(x=anx.Param[annotation], y=anx.Param[F])
    assert accepts(cls, build(items), n2)
    for wrong in (n3, whole, "text"):
        changed = [*items[:at], wrong, *items[at + 1 :]]
        assert not accepts(cls, build(changed), n2)


@pytest.mark.filterwarnings("ignore:Python iterable type:DeprecationWarning")  # of JAX
def test_what_an_iterator_has_is_left_in_it():
    iterator = iter([1, "a"])
    assert accepts(make(x=anx.Param[Iterable[int]]), iterator)
    assert list(iterator) == [1, "a"]


@pytest.mark.parametrize(
    ("structure", "good", "bad"),
    [
        ("S", [[1, 2]], [[1], (1, 2), [[1], 2]]),
        ("T", [(1,), (7,)], [1, [1], (1, 1)]),
        ("S T", [[(1,), (2,)]], [[1, 2], ([1, 2],), [(1,), 2]]),
        ("T S", [([1, 2],)], [[(1,), (2,)]]),
        ("S ...", [[1, 2], [(1,), {"a": 2}]], [(1, 2), [1], 3]),
        ("... T", [(1,), [(1,), {"a": (2,)}]], [1, [(1,), 2], (1, 2)]),
        ("... S T", [{"a": [(1,), (2,)]}, [(1,), (2,)]], [[1, 2], {"a": (1,)}]),
    ],
)
def test_structures_by_name(structure, good, bad):
    for first in (True, False):  # in either order of fields
        named = {"s": anx.Param[PyTree[int, "S"]], "t": anx.Param[PyTree[int, "T"]]}
        tested = {"x": anx.Param[PyTree[int, structure]]}
        cls = make(**(tested | named if first else named | tested))
        for tree in good:
            assert accepts(cls, s=[1, 2], t=(1,), x=tree), tree
        for tree in bad:
            assert not accepts(cls, s=[1, 2], t=(1,), x=tree), tree


def test_a_size_for_each_leaf_of_a_structure():
    hint = PyTree[Float[Array, "?n m"], "T"]
    cls = make(x=anx.Param[hint], y=anx.Param[hint])
    tree = {"a": ones((2, 3)), "b": ones((4, 3))}
    assert accepts(cls, tree, tree)
    assert not accepts(cls, tree, tree | {"b": ones((5, 3))})
    assert not accepts(cls, tree, tree | {"b": ones((4, 2))})
    assert not accepts(cls, tree, [*tree.values()])


def test_names_that_come_later():
    class Model(anx.Module):
        inner: "anx.Param[Later | None]"
        many: "anx.Param[list[Later]]"
        itself: "anx.Param[Model | None]"
        kind: "anx.Hyper[type[Later]]"

    class Later(anx.Module):
        pass

    good = Later(), [Later()], Model(None, [], None, Later), Later
    assert accepts(Model, *good)
    for at, wrong in enumerate([3, [3], Later(), int]):
        assert not accepts(Model, *good[:at], wrong, *good[at + 1 :])


# --- the order of fields -----------------------------------------------------------------


def test_in_unions_the_order_of_fields_decides_nothing():
    """What the one takes for `n` would be `m` if the other came first."""
    hints = {
        "a": Float[Array, " n"] | Float[Array, " m"],
        "b": Float[Array, " n"] | Float[Array, "k k"],
    }
    verdicts = {
        accepts(make(**{name: anx.Param[hints[name]] for name in names}), a=n2, b=n3)
        for names in ("ab", "ba")
    }
    assert len(verdicts) == 1


@given(st.integers(0, 10**6), st.randoms())
def test_permuted_fields_have_the_same_verdict(seed, order):
    rng = random.Random(seed)
    _, hints, bound = random_class(rng)
    annotations = {name: anx.Param[hint] for name, hint in hints.items()}
    annotations.update(dict.fromkeys(bound, anx.Hyper[int]))
    classes = []
    for _ in range(3):
        names = list(annotations)
        order.shuffle(names)
        classes.append(make(**{name: annotations[name] for name in names}))
    for _ in range(4):
        values = {name: random_value(rng, hint) for name, hint in hints.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", anx.AnnotationWarning)
            assert len({accepts(cls, **values, **bound) for cls in classes}) == 1


# --- the generated function --------------------------------------------------------------


def unchecked(cls, values):
    with anx.checking("off"):
        return cls(**values)


def walked(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", anx.AnnotationWarning)
        return find_problems(model)


@given(st.integers(0, 10**6))
def test_what_the_quick_function_lets_through_the_walk_lets_through(seed):
    rng = random.Random(seed)
    cls, hints, bound = random_class(rng)
    plan = class_checks(cls).roles
    quick = {name for name in (*hints, *bound) if name not in dict(plan.rest)}
    for _ in range(4):
        values = {name: random_value(rng, hint) for name, hint in hints.items()}
        model = unchecked(cls, values | bound)
        found = walked(model)
        if plan.quick(instance_dict(model)) is not None:
            assert not any(problem.path in quick for problem in found)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", anx.AnnotationWarning)
            assert accepts(cls, **values, **bound) is (found == [])


PLAIN = st.sampled_from(
    [Float[Array, dims] for dims in ("", "n", "m", "n m", "m n", "2 n", "n n", "k m")]
    + [Float32[Array, " k"] | None, Shaped[Array, "n m"] | None, Int[Array, " n"]]
    + [Bool[jax.Array, " m"], int, float, str, bool]
)


@given(st.lists(PLAIN, min_size=1, max_size=5), st.booleans(), st.integers(0, 10**6))
@settings(max_examples=200)
def test_for_plain_fields_quick_and_walk_are_the_same(hints, hyper, seed):
    rng = random.Random(seed)
    annotations = {f"f{at}": anx.Param[hint] for at, hint in enumerate(hints)}
    annotations |= {"n": anx.Hyper[int]} if hyper else {}
    cls = make(**annotations)
    plan = class_checks(cls).roles
    assert plan.rest == ()
    for _ in range(4):
        values = {f"f{at}": plain_value(rng, hint) for at, hint in enumerate(hints)}
        values |= {"n": 2} if hyper else {}
        model = unchecked(cls, values)
        assert (plan.quick(instance_dict(model)) is not None) is (walked(model) == [])


def plain_value(rng, hint):
    if rng.random() < 0.05:
        return rng.choice([None, "text", 2.5])
    if hint in (int, float, str, bool):
        return {int: 3, float: 0.5, str: "text", bool: True}[hint]
    return random_value(rng, hint)


def test_the_source_of_the_quick_function_can_be_seen():
    sources = []
    for dims in ("n 3", "m"):  # two classes of one name

        class Model(anx.Module):
            weight: anx.Param[Float[Array, dims]]
            n: anx.Hyper[int]
            plain: float

        plan = class_checks(Model).roles
        sources.append(inspect.getsource(plan.quick))
        every = class_checks(Model).every
        assert "'plain'" in inspect.getsource(every.quick)
        assert "'plain'" not in inspect.getsource(plan.quick)
        assert (plan.quick({"weight": ones((2, 3)), "n": 2}) is None) is (dims == "m")
    assert sources[0].startswith(" def quick(values):\n")
    assert "values['weight']" in sources[0]
    assert sources[0] != sources[1]


def test_traced_and_abstract_arrays_are_quick_too(monkeypatch):
    model = linear()

    def walked(*_, **__):
        raise AssertionError("the walk was asked")

    monkeypatch.setattr("annotax._check.find_problems", walked)
    again = jax.jit(lambda m: Linear(m.weight, m.bias, m.ins, m.outs))(model)
    assert again.weight.shape == (4, 3)
    abstract = eqx.filter_eval_shape(lambda: Linear(model.weight, None, 3, 4))
    shapes = jax.ShapeDtypeStruct((4, 3), "float32"), None
    assert Linear(*shapes, 3, 4) == abstract
    vmapped = eqx.filter_vmap(lambda w: Linear(w, None, 3, 4))(ones((5, 4, 3)))
    assert vmapped.weight.shape == (5, 4, 3)


# --- what cannot be checked ----------------------------------------------------------


class Unruntime(Protocol):
    def size(self) -> int: ...


@pytest.mark.parametrize(
    ("annotation", "value", "reason"),
    [
        ("anx.Param[NoSuchType]", 3, "name 'NoSuchType' is not defined"),
        ("anx.Param[list[NoSuchType]]", [3], "name 'NoSuchType' is not defined"),
        (anx.Param[list["NoSuchType"]], [3], "name 'NoSuchType' is not defined"),
        (anx.Param[type["NoSuchType"]], int, "name 'NoSuchType' is not defined"),
        (anx.Param[Unruntime], 3, "Unruntime is a Protocol, not @runtime_checkable"),
        (
            anx.Param[Float[Array, "unbound+1"]],
            n2,
            "'unbound+1' needs the size of 'unbound'",
        ),
        (anx.Param[Float[Array, "2//0"]], n2, "'2//0' cannot be computed (ZeroDivision"),
        (anx.Param[PyTree[int, "S T"]], [3], "the structure 'S T' needs 'S'"),
        (anx.Param[type[Self]], int, "type[Self]: "),
    ],
    ids=str,
)
def test_what_cannot_be_checked_is_told_once(annotation, value, reason):
    cls = make(x=annotation)
    with pytest.warns(anx.AnnotationWarning) as caught:
        cls(value)
    (warning,) = caught
    text = str(warning.message)
    assert text.startswith("Model.x: the annotation is not checked: ")
    assert reason in text
    assert warning.filename == __file__
    cls(value)  # a warning would be an error
    make(cls)(value)


def test_what_can_be_checked_beside_it_is_checked():
    class Model(anx.Module):
        x: "anx.Param[tuple[int, 'NoSuchType']]"
        y: anx.Param[Float[Array, "unbound+1 3"]]

    with (
        pytest.warns(anx.AnnotationWarning, match="Model.x: .* not checked"),
        refused(r"Model: 2 (.|\n)* x\[0\]: (.|\n)* axis 1 is 2, not 3"),
    ):
        Model(("a", 3), ones((2, 2)))


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (Float[Array, "{n}"], "a field has nothing to put into the dimension '{n}'"),
        (Float[Array, "n+"], "the dimension 'n+' is no Python expression"),
        (Float[Array, "n + 1"], "the dimension '+' is no Python expression"),
        (list[Float[Array, "(n"]], "the dimension '(n' is no Python expression"),
        (Float, "Float alone is no type, write Float[Array, '...']"),
        (list[Float32] | None, "Float32 alone is no type"),
        (list["not Python ("], "'not Python (' is not Python"),
    ],
    ids=str,
)
def test_a_hint_that_is_itself_wrong(annotation, reason):
    class Base(anx.Module):
        size: anx.Hyper[int]

    cls = make(Base, x=anx.Param[annotation])
    for _ in range(2):  # it does not get better
        with pytest.raises(anx.AnnotationError) as caught:
            cls(3, ones(3))
        assert str(caught.value).startswith(f"Model.x: the annotation is wrong: {reason}")


def test_a_class_is_looked_at_when_it_is_first_made_an_instance_of():
    cls = make(x=anx.Param[Float[Array, " n"]], plain=int)
    assert cls not in _class_checks._made
    cls(n2, 3)
    made = _class_checks._made[cls]
    assert made._every is made._walk is made._every_walk is None


def test_a_warning_that_is_an_error_is_one_each_time():
    cls = make(x=anx.Param[Unruntime])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with pytest.raises(anx.AnnotationWarning, match="not @runtime_checkable"):
                cls(3)


def test_beartype_is_imported_when_a_hint_needs_it():
    code = """
    import sys
    from typing import Any, Callable, Generic, Literal, TypeVar
    import annotax as anx, equinox as eqx, jax.numpy as jnp
    from jaxtyping import Array, Float, PyTree
    T = TypeVar("T")
    class Box(eqx.Module, Generic[T]):
        x: Any
    class Model(anx.Module, check="full"):
        a: anx.Param[Float[Array, "n"] | None]
        b: anx.Param[list[PyTree[Float[Array, "*s n+1"]]]]
        c: anx.Hyper[tuple[int, ...] | Literal["a"] | Callable[[int], int] | type[Box]]
        d: dict[str, Box]
    Model(jnp.ones(1), [], "a", {"x": Box(1)})
    print("beartype" in sys.modules)
    class Other(anx.Module):
        x: anx.Param[Box[int]]
    print("beartype" in sys.modules)
    Other(Box(1))
    print("beartype" in sys.modules)
    """
    run = [sys.executable, "-c", inspect.cleandoc(code)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True"]


# --- replacing in what is no single model ----------------------------------------------


class Sized(anx.Module):
    weight: anx.Param[Float[Array, " n"]]
    rate: anx.Hyper[float] = 0.1


def test_a_hyper_of_an_ensemble_is_replaced_and_a_field_that_did_fit_must_fit_again():
    ensemble = eqx.filter_vmap(Sized)(jnp.ones((4, 3)))
    assert anx.replace([ensemble], {"0.rate": 0.2})[0].rate == 0.2
    half, _ = eqx.partition(Sized(jnp.ones(3)), False)
    assert anx.replace(half, rate=0.3).rate == 0.3
    with pytest.raises(anx.CheckError, match=r"Sized\.weight"):
        anx.replace(Sized(jnp.ones(3)), weight=jnp.ones((4, 3)))
    frozen = anx.freeze(Sized(jnp.ones(3)), anx.everything)
    with pytest.raises(anx.CheckError, match=r"Sized\.weight"):
        anx.replace(frozen, weight=jnp.ones((4, 3)))


def test_what_did_fit_is_asked_in_the_mode_of_the_moment():
    def loose(**options):
        class Loose(anx.Module, **options):
            plain: int
            rate: anx.Hyper[float] = 0.1

        return Loose

    for cls, mode in ((loose(), "full"), (loose(check="full"), "full")):
        with anx.checking("off"):
            model, wrong = cls(3), cls("three")
        with anx.checking(mode):
            assert anx.replace(wrong, rate=0.2).rate == 0.2
            with refused("Loose.plain"):
                anx.replace(model, plain="three")
    said = loose(check="full")
    with anx.checking("off"):
        model, wrong = said(3), said("three")
    assert anx.replace(wrong, rate=0.2).rate == 0.2
    with refused("Loose.plain"):
        anx.replace(model, plain="three")


def test_what_fits_though_it_is_nothing_plain_must_fit_again():
    class Level(enum.IntEnum):
        LOW = 1

    class Model(anx.Module):
        level: anx.Param[int]
        weight: anx.Param[Float[Array, " n"]]
        n: anx.Hyper[int]

    model = Model(Level.LOW, ones(3), 3)
    with refused("axis 0 is 3, but n is 4"):
        anx.replace(model, n=4)


# --- what a stranger found -------------------------------------------------------------


def test_a_protocol_with_attributes_among_the_types():
    class Model(anx.Module):
        weight: anx.Param[Array]
        dtype: anx.Hyper[jax.typing.DTypeLike] = jnp.float32

    assert Model(ones(3)).dtype is jnp.float32


def test_who_set_a_size_is_who_fits():
    class Model(anx.Module):
        a: anx.Param[Float[Array, "n n"]]
        b: anx.Param[Float[Array, "n n"]]
        c: anx.Param[Float[Array, "n n"]]

    with pytest.raises(anx.CheckError) as caught:
        Model(ones((1, 2)), ones((3, 3)), ones((4, 4)))
    assert "axis 0 is 4, but n is 3 (set by b)" in str(caught.value)


def test_a_malformed_dimension_in_a_string_is_no_missing_name():
    class Model(anx.Module):
        weight: "anx.Param[Float[Array, '*a *b']]"

    with pytest.raises(anx.AnnotationError, match=r"the annotation is wrong"):
        Model(ones(3))


def test_a_check_of_a_user_is_not_switched_off_with_ours():
    made = []

    class Watched(anx.Module):
        weight: anx.Param[Float[Array, " n"]]
        rate: anx.Hyper[float] = 0.1

        def __check_init__(self):
            with contextlib.suppress(anx.CheckError):
                made.append(Sized(jnp.asarray(3.0)))

    ensemble = eqx.filter_vmap(Watched)(ones((4, 3)))
    anx.replace(ensemble, rate=0.2)
    assert made == []
