"""What a Hyper takes, what it refuses, and that it is never anything but static."""

import functools
from fractions import Fraction
from typing import Annotated, Any, NewType, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typing_extensions import TypeAliasType

import annotax as anx

T = TypeVar("T")
S = TypeVar("S")
Swap = TypeAliasType("Swap", tuple[S, T], type_params=(T, S))


class Model(anx.Module):
    value: anx.Hyper[Any]


class Rate(anx.Module):
    rate: anx.Hyper[float]


class Inner(eqx.Module):
    x: Any = 1


class Unhashable:
    __hash__ = None


@pytest.mark.parametrize(
    "value",
    [
        1,
        2.5,
        "text",
        None,
        True,
        (1, (2, "x")),
        frozenset({1}),
        jnp.tanh,
        jax.nn.relu,
        lambda x: x,
        functools.partial(max, 1),
        np.float32,
        np.dtype("float32"),
        Fraction(1, 3),
        int,
        Inner(),
        jax.ShapeDtypeStruct((2,), jnp.float32),
        jax.sharding.PartitionSpec("x"),
        b"bytes",
        float("inf"),
        ...,
    ],
)
def test_hashable_values_are_static(value):
    model = Model(value)
    assert model.value is value
    assert jax.tree_util.tree_leaves(model) == []
    assert jax.jit(lambda m: m)(model).value == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (jnp.ones(2), "an array float32[2]"),
        (np.ones((2, 3)), "an array of numpy float64[2,3]"),
        ((1, jnp.ones(2)), "inside a tuple"),
        ({"a": np.ones(1)}, "inside a dict"),
        (Inner(jnp.ones(1)), "inside an Inner"),
        (jax.random.key(0), "key<fry>[]"),
        ([1, 2], "a list"),
        ({"a": 1}, "a dict"),
        ({1}, "a set"),
        (bytearray(b"x"), "a bytearray"),
        ((1, (2, [3])), "a list inside a tuple\n  fix:      use a tuple"),
        (({"a": 1},), "a dict inside a tuple\n  fix:      use a tuple of pairs"),
        (Inner([]), "a list inside an Inner"),
        (Unhashable(), "an Unhashable that has no hash"),
        ((Unhashable(),), "an Unhashable inside a tuple\n"),
        (float("nan"), "a float that is or holds one unequal to itself"),
        ((1.0, float("nan")), "a tuple that is or holds"),
        (frozenset({float("nan")}), "a frozenset that is or holds"),
        (functools.partial(jnp.dot, jnp.ones(2)), "inside a partial"),
        (
            functools.partial(max, key=functools.partial(max, np.ones(1))),
            "inside a partial",
        ),
        (Inner(jnp.ones(1)).__repr__, "inside a method"),
        ((functools.partial(max, np.ones(1)),), "inside a tuple"),
        (np.float32(1.5), "an array of numpy float32[]"),
    ],
)
def test_the_rest_is_refused(value, words):
    with pytest.raises(anx.HyperError, match=r"^Model\.value: ") as caught:
        Model(value)
    assert words in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)


def test_tracers_are_refused_under_every_transformation():
    for transform in (jax.jit, jax.grad, jax.vmap):
        with pytest.raises(anx.HyperError, match="a traced array float32"):
            transform(lambda x: Rate(x).rate)(jnp.ones(1))


def test_nothing_shows_array_values():
    with pytest.raises(anx.HyperError) as caught:
        Model(jnp.array([123.25, 7.5]))
    assert "123" not in str(caught.value)


@pytest.mark.parametrize(
    ("hint", "given", "stored"),
    [
        (float, 1, 1.0),
        (float, True, 1.0),
        (float, np.int32(2), 2.0),
        (float | None, 1, 1.0),
        (float | None, None, None),
        (float, np.float64(0.5), 0.5),
        (float | int, 1, 1),
        (float | int, np.int64(1), 1),
        (float | int, True, 1),
        (str | float, np.float32(0.5), 0.5),
        (int, np.int64(3), 3),
        (bool, np.bool_(True), True),
        (tuple[float, ...], (1, 2), (1.0, 2.0)),
        (tuple[float, int], (1, 2), (1.0, 2)),
        (tuple[float, ...] | None, (1,), (1.0,)),
        (int, 1, 1),
        (str, "x", "x"),
        ("float", 1, 1.0),
        (NewType("Rate", float), 1, 1.0),
        (TypeAliasType("Rate", float), 1, 1.0),
        (TypeAliasType("Maybe", T | None, type_params=(T,))[float], 1, 1.0),
        (Swap[int, float], (1, 1), (1.0, 1)),
        (TypeAliasType("Ignore", float, type_params=(T,))[int], 1, 1.0),
        (TypeAliasType("Same", T, type_params=(T,))[float], 1, 1.0),
        (Annotated[float, "per second"], 1, 1.0),
        (Annotated[int, "count"] | float, 3, 3),
    ],
)
def test_numbers_are_stored_as_the_hint_says(hint, given, stored):
    class Typed(anx.Module):
        x: anx.Hyper[hint]

    def kinds(value):
        return [type(v) for v in (value if isinstance(value, tuple) else (value,))]

    found = Typed(given).x
    assert found == stored
    assert kinds(found) == kinds(stored)


def test_one_and_one_point_zero_are_one_program_but_the_right_one():
    calls = []

    @jax.jit
    def run(model):
        calls.append(type(model.rate))
        return jnp.ones(()) * model.rate

    run(Rate(1))
    run(Rate(1.0))
    assert calls == [float]


def test_zeros_have_no_sign_because_jax_takes_them_for_equal():
    run = jax.jit(lambda model: jnp.copysign(1.0, model.rate))
    assert [float(run(Rate(rate))) for rate in (0.0, -0.0, 0)] == [1, 1, 1]
    assert str(Rate(-0.0).rate) == "0.0"


def test_a_string_annotation_converts_too():
    class Late(anx.Module):
        rate: "anx.Hyper[float]"

    assert type(Late(1).rate) is float


def test_a_type_defined_later_is_obeyed_from_the_first_instance_on():
    class Late(anx.Module):
        rate: "anx.Hyper[Rate_]"

    globals()["Rate_"] = float
    try:
        found = [type(Late(1).rate) for _ in range(2)]
    finally:
        del globals()["Rate_"]
    assert found == [float, float]


def test_the_role_inside_or_outside_of_a_union_means_the_same():
    class Both(anx.Module):
        a: anx.Hyper[int] | float
        b: anx.Hyper[int | float]

    both = Both(3, 3)
    assert (type(both.a), type(both.b)) == (int, int)


def test_the_users_converter_comes_first():
    class Sizes(anx.Module):
        sizes: anx.Hyper[tuple[int, ...]] = anx.field(converter=tuple)
        scale: anx.Hyper[float] = anx.field(converter=lambda x: x.item())

    model = Sizes([1, 2], np.ones(()))
    assert (model.sizes, model.scale) == ((1, 2), 1.0)


def test_a_custom_init_is_checked_too():
    class Custom(anx.Module):
        size: anx.Hyper[int]

        def __init__(self, x):
            self.size = x

    with pytest.raises(anx.HyperError, match=r"Custom\.size"):
        Custom(jnp.ones(1))


def test_replace_checks_converts_and_leaves_the_original_alone():
    class Counted(anx.Module):
        rate: anx.Hyper[float]
        table: anx.Buffer[Any]
        other: anx.Param[Any] = anx.field(converter=jnp.asarray)

        def __check_init__(self):
            if self.rate > 1:
                raise ValueError("rate")

    model = Counted(0.5, jnp.ones(2), 1.0)
    changed = anx.replace(model, rate=1, other=2.0)
    assert (type(changed.rate), changed.rate, float(changed.other)) == (float, 1.0, 2.0)
    assert changed.table is model.table
    assert (model.rate, float(model.other)) == (0.5, 1.0)
    with pytest.raises(ValueError, match="rate"):
        anx.replace(model, rate=2.0)
    with pytest.raises(anx.HyperError, match=r"Counted\.rate"):
        anx.replace(model, rate=jnp.ones(()))
    with pytest.raises(anx.FieldError, match="did you mean 'rate'"):
        anx.replace(model, rat=1.0)
    with pytest.raises(anx.FieldError, match="this has no fields"):
        anx.replace({"a": 1}, a=2)
    assert anx.replace(eqx.nn.Dropout(0.5), p=0.1).p == 0.1
    assert anx.replace(model) is not model
    with pytest.raises(anx.FieldError, match=r"Counted\.rat, tabel: "):
        anx.replace(model, rat=1.0, tabel=1.0)


def test_replace_runs_the_checks_of_all_bases():
    class Base(anx.Module):
        n: anx.Hyper[int]

        def __check_init__(self):
            if self.n < 0:
                raise ValueError("negative")

    class Sub(Base):
        pass

    with pytest.raises(ValueError, match="negative"):
        anx.replace(Sub(1), n=-1)


def test_what_cannot_be_compared_is_refused():
    class Odd:
        __hash__ = object.__hash__

        def __eq__(self, other):
            raise RuntimeError("no")

    class Model(anx.Module):
        value: anx.Hyper[Any]

    with pytest.raises(anx.HyperError, match=r"Model\.value"):
        Model(Odd())


def test_a_tuple_of_another_length_is_left_as_it_is():
    class Model(anx.Module):
        sizes: anx.Hyper[tuple[float, float]]

    assert list(map(type, Model((1, 2)).sizes)) == [float, float]
    with anx.checking("off"):
        assert list(map(type, Model((1, 2, 3)).sizes)) == [int, int, int]
