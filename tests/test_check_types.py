"""Each kind of type that a field may have: what fits it, and what is told if not."""

import collections.abc
import gc
import re
import typing
import warnings
import weakref
from collections.abc import Callable
from typing import (
    Annotated,
    Any,
    Concatenate,
    Final,
    NamedTuple,
    Protocol,
    get_origin,
    runtime_checkable,
)

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from beartype.vale import Is, IsAttr, IsEqual, IsInstance
from jaxtyping import AbstractDtype, Array, Float, Int, PyTree
from typing_extensions import TypeAliasType

import annotax as anx

ones = jnp.ones


def model(hint, value, **known):
    """An instance with `x: Param[hint]` and some fields before it, by (hint, value)."""
    annotations = {name: anx.Param[one] for name, (one, _) in known.items()}
    space = {"__annotations__": {**annotations, "x": anx.Param[hint]}}
    cls = type(anx.Module)("Model", (anx.Module,), {**space, "__module__": __name__})
    return cls(**{name: one for name, (_, one) in known.items()}, x=value)


def told(hint, value, *, at="x", **known):
    """The lines of the error but for the first: what is expected, found, and may help."""
    with pytest.raises(anx.CheckError) as caught:
        model(hint, value, **known)
    first, *rest = str(caught.value).split("\n")
    assert first == f"Model.{at}: the value does not fit its annotation"
    return [re.sub(r"^ +(\w+: )? *", r"\1", line) for line in rest]


# --- validators of beartype ----------------------------------------------------------


def is_small(x):
    return x < 9


Positive = Annotated[int, Is[lambda x: x > 0]]
Long = Annotated[Float[Array, " n"], Is[lambda x: x.shape[0] > 2]]


@pytest.mark.parametrize(
    ("hint", "good", "bad", "expected", "found"),
    [
        (Positive, 1, -1, "Is[lambda x: x > 0] in Param[int]", "an int"),
        (Positive | None, None, 0, "Is[lambda x: x > 0] in Param[int | None]", "an int"),
        (list[Positive], [1], [-1], "Is[lambda x: x > 0] in Param[list[int]]", "an int"),
        (
            Long,
            ones(3),
            ones(2),
            "Is[lambda x: x.shape[0] > 2] in Param[Float[Array, 'n']]",
            "float32[2]",
        ),
        (
            Annotated[Array, IsAttr["ndim", IsEqual[2]]],
            ones((1, 1)),
            ones(1),
            "IsAttr['ndim', IsEqual[2]] in Param[Array]",
            "float32[1]",
        ),
        (
            Annotated[int, "a text", Is[lambda x: x > 0], Is[is_small]],
            8,
            9,
            "Is[is_small] in Param[int]",
            "an int",
        ),
    ],
)
def test_validators(hint, good, bad, expected, found):
    assert model(hint, good).x is good
    at = "x[0]" if isinstance(bad, list) else "x"
    assert told(hint, bad, at=at) == [f"expected: {expected}", f"found: {found}"]


def test_a_validator_is_asked_of_what_has_the_right_type_alone():
    asked = []
    hint = Annotated[Float[Array, "2"], Is[lambda x: asked.append(x) or True]]
    assert told(hint, "text") == ["expected: Param[Float[Array, '2']]", "found: a str"]
    assert asked == []
    value = ones(2)
    model(hint, value)
    assert all(one is value for one in asked)
    assert asked


def test_a_validator_binds_no_size_and_sees_those_that_are_bound():
    assert told(Long, ones(4), a=(Float[Array, " n"], ones(3))) == [
        "expected: Param[Float[Array, 'n']]",
        "found: float32[4]",
        "axis 0 is 4, but n is 3 (set by a)",
    ]


def test_what_a_validator_refuses_binds_nothing():
    refusing = Annotated[Float[Array, " n"], Is[lambda x: x.shape[0] > 9]]
    found = all_told(
        a=(anx.Param[refusing], ones(3)),
        b=(anx.Param[Float[Array, "#n"]], ones(5)),
    )
    assert found.startswith("Model.a: ")
    asking = Annotated[Float[Array, " n"], Is[lambda x: bool(x.sum() > 9)]]
    given = {
        "a": (anx.Param[asking | Float[Array, " k"]], ones(3)),
        "b": (anx.Param[Float[Array, "#n"]], ones(5)),
    }
    assert fields(**given)
    assert jax.eval_shape(lambda x: fields(a=(given["a"][0], x), b=given["b"]), ones(3))


def test_a_validator_that_refuses_is_named_beside_others():
    refusing = Annotated[Float[Array, " n"], Is[lambda x: x.shape[0] > 9]]
    found = all_told(a=(anx.Param[refusing], ones(3)), b=(anx.Param[int], "text"))
    line = (
        "  a: Is[lambda x: x.shape[0] > 9] in Param[Float[Array, 'n']], found float32[3]\n"
    )
    assert line in found


def test_what_is_shared_is_not_shown_to_a_validator():
    class Model(anx.Module):
        x: anx.Param[list[Annotated[Float[Array, " n"], IsInstance[jax.Array]]]]

    model = Model([ones(3)] * 2)
    assert anx.validate(eqx.nn.Shared(model, lambda m: m.x[1], lambda m: m.x[0])) == ()
    with pytest.raises(anx.CheckError, match=r"expected: IsInstance\[[\w.]*Array\] in"):
        fields(x=(anx.Param[Annotated[Any, IsInstance[jax.Array]]], np.ones(2)))


@pytest.mark.filterwarnings("ignore:Model.x")
@pytest.mark.parametrize(
    "hint",
    [
        Float[Array, "n+1"] | Float[Array, "m m"],
        list[Float[Array, "n+1"]],
        Annotated[Float[Array, " n"], Is[lambda x: x.nothing]] | Float[Array, " k"],
    ],
)
def test_what_cannot_be_judged_keeps_no_array_alive(hint):
    gc.collect()
    gc.disable()
    try:
        array = ones(3) * 1
        kept = weakref.ref(array)
        made = model(hint, [array] if get_origin(hint) is list else array)
        assert kept() is array
        del made, array
        assert kept() is None
    finally:
        gc.enable()


def test_of_a_traced_array_a_validator_may_want_values():
    hint = Annotated[Float[Array, " n"], Is[lambda x: bool((x > 0).all())]]
    assert told(hint, -ones(2))[1] == "found: float32[2]"
    with pytest.warns(anx.AnnotationWarning) as caught:
        jax.jit(lambda x: model(hint, x).x)(ones(2))
    assert [str(one.message) for one in caught] == [
        "Model.x: the annotation is not checked: Is[lambda x: bool((x > 0).all())] cannot "
        "be computed (TracerBoolConversionError)\n"
        "  found:    Param[Float[Array, 'n']]"
    ]


def test_what_stands_beside_a_type_for_others_says_nothing():
    assert model(Annotated[int, "metres", 3], -1).x == -1
    assert told(Annotated[int, "metres"], "a") == ["expected: Param[int]", "found: a str"]


# --- arrays --------------------------------------------------------------------------


class Duck(NamedTuple):
    shape: tuple[int, ...] = (2,)
    dtype: Any = np.dtype("float32")


class Shaped(NamedTuple):
    shape: tuple[int, ...] = (2,)


class Typed(NamedTuple):
    dtype: Any = np.dtype("float32")


def test_anything_with_shape_and_dtype():
    hint = Float[Any, "2"]
    for value in (Duck(), ones(2), np.ones(2)):
        assert model(hint, value).x is value
    assert told(hint, Duck((3,)))[1:] == ["found: float32[3]", "axis 0 is 3, not 2"]
    for value in (Shaped(), Typed(), 3.0):
        assert "found: a" in told(hint, value)[1]


class Listed(AbstractDtype):
    dtypes = ("float16", "int64")


class Wide(AbstractDtype):
    dtypes = "float64"


class Matched(AbstractDtype):
    dtypes = re.compile("float16|int64")


class Both(AbstractDtype):
    dtypes = (re.compile("bfloat.*"), "float16")


@pytest.mark.parametrize("dtype", [Listed, Matched, Both])
@pytest.mark.parametrize("kind", [Array, np.ndarray])
def test_dtypes_of_a_users_own(dtype, kind):
    library, name = (jnp, "Array") if kind is Array else (np, "ndarray")
    value = library.ones(2, "float16")
    assert model(dtype[kind, "2"], value).x is value
    lines = told(dtype[kind, "2"], library.ones(2, "int16"))
    assert lines[0] == f"expected: Param[{dtype.__name__}[{name}, '2']]"
    assert lines[1].endswith("int16[2]")
    assert len(lines) == 2
    assert told(Wide[kind, "2"], value)[2].startswith("fix: JAX keeps 32 bits")


@pytest.mark.parametrize("name", ["X", "x_", "n", "_x", "Xn"])
def test_names_of_axes(name):
    hint = tuple[Float[Array, f"{name} {name}"], ...]
    assert model(hint, (ones((2, 2)),)).x
    fits = name.startswith("_")  # then it is whatever it is
    if fits:
        model(hint, (ones((2, 3)),))
    else:
        assert told(hint, (ones((2, 3)),), at="x[0]")[-1].startswith("axis 1 is 3, but")


@pytest.mark.parametrize(
    ("dims", "shape", "line"),
    [
        ("2 n n", (2, 3, 4), "axis 2 is 4, but n is 3 (set by x)"),
        ("n 2 n", (3, 2, 4), "axis 2 is 4, but n is 3 (set by x)"),
        ("_ n n", (2, 3, 4), "axis 2 is 4, but n is 3 (set by x)"),
        ("#n 2", (1, 3), "axis 1 is 3, not 2"),
        ("n ... n n", (3, 7, 7, 3, 4), "axis 4 is 4, but n is 3 (set by x)"),
        ("n 5 ... 2", (3, 4, 7, 2), "axis 1 is 4, not 5"),
    ],
)
@pytest.mark.parametrize("inside", ["a field", "a list"])
def test_every_axis_is_looked_at(dims, shape, line, inside):
    hint, value = Float[Array, dims], ones(shape)
    hint, value = (list[hint], [value]) if inside == "a list" else (hint, value)
    with pytest.raises(anx.CheckError) as caught:
        model(hint, value)
    assert f"\n            {line}" in str(caught.value)


def test_a_broadcast_axis_binds_like_any_other_if_it_is_not_one():
    a = {"a": (Int[Array, "#n"], jnp.ones(1, int))}
    assert model(Int[Array, " n"], jnp.ones(3, int), **a).x.shape == (3,)
    assert model(Float[Array, "#2 n"], ones((1, 3))).x.shape == (1, 3)
    assert told(Float[Array, "#2 n"], ones((3, 3)))[-1] == "axis 0 is 3, but #2 is 2"


def broadcast(*shapes_and_dims):
    """Whether some arrays fit in one class, by annotax and by jaxtyping."""
    hints = {f"a{at}": Float[Array, d] for at, (d, _) in enumerate(shapes_and_dims)}
    values = [ones(shape) for _, shape in shapes_and_dims]
    with jaxtyping.jaxtyped("context"):
        theirs = all(map(isinstance, values, hints.values()))
    annotations = {name: anx.Param[list[hint]] for name, hint in hints.items()}
    space = {"__annotations__": annotations, "__module__": __name__}
    cls = type(anx.Module)("Model", (anx.Module,), space)
    try:
        cls(*([value] for value in values))
    except anx.CheckError:
        assert not theirs
    else:
        assert theirs
    return theirs


def test_broadcast_variadic_axes_grow_together():
    assert broadcast(("*#s", (1, 3)), ("*#s", (2, 1)), ("*s", (2, 3)))
    assert not broadcast(("*#s", (1, 3)), ("*#s", (2, 1)), ("*s", (1, 3)))
    assert broadcast(("*s", (2, 3)), ("*#s", (1, 3)), ("*#s", (2, 1)))
    assert not broadcast(("*s", (1, 3)), ("*#s", (2, 3)))
    assert not broadcast(("*#s", (2,)), ("*#s", (3,)))
    assert not broadcast(("*s", (2,)), ("*s", (1,)))
    assert broadcast(("*#s", (1,)), ("*s", (2,)), ("*s", (2,)))
    assert not broadcast(("*#s", (1,)), ("*s", (2,)), ("*s", (3,)))
    assert not broadcast(("*s", (1, 3)), ("*#s", (1, 3)), ("*#s", (2, 3)))


# --- which tip, and which member of a union ------------------------------------------


@pytest.mark.parametrize(
    ("shape", "order"),
    [((4, 3, 2), (2, 1, 0)), ((3, 4, 2), (2, 0, 1)), ((6, 5, 4, 3, 2), (4, 3, 2, 1, 0))],
)
def test_the_order_of_axes_in_which_it_fits(shape, order):
    dims = " ".join(str(size) for size in sorted(shape))
    tip = f"fix: it fits transposed: jnp.transpose(..., {order})"
    assert told(Float[Array, dims], ones(shape))[-1] == tip


def test_more_axes_are_not_tried():
    assert "fix" not in told(Float[Array, "2 3 4 5 6 7"], ones((7, 6, 5, 4, 3, 2)))[-1]


def test_no_order_is_told_that_nobody_can_judge():
    assert told(Float[Array, "3 k+1"], ones((4, 3)))[1:] == [
        "found: float32[4,3]",
        "axis 0 is 4, not 3",
    ]


@pytest.mark.parametrize(
    ("hint", "value", "lines"),
    [
        # Another dtype is closer than no array, the number of axes than the dtype, and an
        # axis than their number.
        (Float[np.ndarray, "2"] | Int[Array, "2"], ones(2), ["found: float32[2]"]),
        (
            Int[Array, "2 3"] | Float[Array, "2"],
            ones((2, 3)),
            ["found: float32[2,3]", "2 axes instead of 1"],
        ),
        (
            Float[Array, "2"] | Float[Array, "2 2"],
            ones((2, 3)),
            ["found: float32[2,3]", "axis 1 is 3, not 2"],
        ),
    ],
)
def test_the_closest_member_of_a_union(hint, value, lines):
    assert told(hint, value)[1:] == lines


def test_a_union_goes_on_behind_a_member_that_nobody_can_judge():
    hint = Float[Array, "k+1"] | int | str
    assert model(hint, "text").x == "text"
    with pytest.warns(anx.AnnotationWarning, match="needs the size of 'k'"):
        model(hint, ones(3))
    k = {"k": (Float[Array, " k"], ones(2))}
    assert model(hint, ones(3), **k).x.shape == (3,)
    assert "axis 0 is 4, but k+1 is 3" in told(hint, ones(4), **k)


def test_a_union_takes_what_fits_before_what_nobody_can_judge():
    hint = Float[Array, "k+1"] | Float[Array, " m"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model(hint, ones(3)).x.shape == (3,)


# --- what is no array ----------------------------------------------------------------


ANY_CONTAINER = "make it an array: jnp.asarray(...)"
if not issubclass(jax.Array, collections.abc.Container):  # until JAX 0.5
    ANY_CONTAINER = None


@runtime_checkable
class HasDtype(Protocol):
    dtype: Any


@pytest.mark.parametrize(
    ("hint", "value", "found", "fix"),
    [
        (None, 3, "an int", None),
        (Callable, 3, "an int", None),
        (int, 1.5, "a float", None),
        (HasDtype, 1.5, "a float", None),
        (collections.abc.Container, 1.5, "a float", ANY_CONTAINER),
        (list[int], 3, "an int", None),
        (dict[str, int], 3, "an int", None),
        (tuple[int, int], 3, "an int", None),
        (tuple[()], (1,), "a tuple of 1", None),
        (type[int], 3, "an int", None),
        (collections.abc.Generator[int, None, None], 3, "an int", None),
        (Float[np.ndarray, ""], np.float32(1), "numpy float32[]", "make it an array: "),
    ],
    ids=str,
)
def test_found_and_tip(hint, value, found, fix):
    _, *rest = told(hint, value)
    assert rest[0] == f"found: {found}"
    if fix is None:
        assert rest[1:] == []
    else:
        assert rest[1].startswith(f"fix: {fix}")


def test_nothing_is_a_tuple():
    assert model(tuple[()], ()).x == ()


def test_the_longest_key_that_is_shown_whole():
    for count, end in ((38, "'] "), (39, "...]")):
        message = str(told_all(dict[str, int], {"k" * count: None}))
        assert f"x['{'k' * min(count, 39)}{end.strip()}" in message


def told_all(hint, value):
    with pytest.raises(anx.CheckError) as caught:
        model(hint, value)
    return caught.value


# --- containers and trees ------------------------------------------------------------


def test_an_item_behind_one_that_nobody_can_judge():
    hint = tuple[Float[Array, "k+1"], int]
    with pytest.raises(anx.CheckError, match=r"x\[1\]"):
        model(hint, (ones(3), "text"))
    with pytest.warns(anx.AnnotationWarning, match="needs the size of 'k'"):
        model(hint, (ones(3), 1))


def test_a_leaf_that_is_a_container():
    hint = PyTree[list[Float[Array, " n"]]]
    assert model(hint, {"a": [ones(2), ones(2)]}).x
    with pytest.raises(anx.CheckError, match=r"Model.x\['a'\]\[1\]: "):
        model(hint, {"a": [ones(2), ones(3)]})
    mapping = PyTree[dict[str, Float[Array, " n"]]]
    with pytest.raises(anx.CheckError, match=r"Model.x\[0\]\['b:c'\]: "):
        model(mapping, [{"a": ones(2), "b:c": ones(3)}])


def test_a_leaf_that_is_a_container_of_computed_sizes():
    k = {"k": (Float[Array, " k"], ones(2))}
    hint = PyTree[list[Float[Array, "k+1"]]]
    assert model(hint, {"a": [ones(3)]}, **k).x
    with pytest.raises(anx.CheckError, match=r"Model.x\['a'\]\[0\]: "):
        model(hint, {"a": [ones(4)]}, **k)


@pytest.mark.parametrize(
    ("structure", "value"),
    [
        ("S T", [(1, 2), (3, 4)]),
        ("S T", ([1, 2], [3, 4])),
        ("T S", ([1, 2], [3, 4])),
        ("S T ...", [(1, 2), (3, {"a": 4})]),
        ("S T ...", [(1, 2), 3]),
        ("S ...", [1, {"a": 2}]),
        ("S ...", [1]),
        ("... S", {"a": [1, 2], "b": [3, 4]}),
        ("... S", {"a": [1, 2], "b": [3]}),
        ("... S T", {"a": [(1, 2), (3, 4)]}),
        ("... S T", {"a": [1, 2]}),
    ],
)
def test_composed_structures_are_those_of_jaxtyping(structure, value):
    with jaxtyping.jaxtyped("context"):
        assert isinstance([1, 2], PyTree[int, "S"])
        assert isinstance((1, 2), PyTree[int, "T"])
        theirs = isinstance(value, PyTree[int, structure])
    known = {"s": (PyTree[int, "S"], [1, 2]), "t": (PyTree[int, "T"], (1, 2))}
    if theirs:
        assert model(PyTree[int, structure], value, **known).x is value
    else:
        expected = f"expected: structure {structure!r} in Param[PyTree[int, {structure!r}]]"
        assert told(PyTree[int, structure], value, **known)[0] == expected


def test_a_structure_of_anything():
    known = {"s": (PyTree[Any, "S"], [1, "two"])}
    assert model(PyTree[Any, "S"], [None.__class__, 3], **known).x
    lines = told(PyTree[Any, "S"], {"a": 1}, **known)
    assert lines[0].startswith("expected: structure 'S', [*, *] (set by s), in ")


def test_a_size_for_each_leaf_is_forgotten_behind_the_tree():
    tree = {"tree": (PyTree[Float[Array, "?n"], "T"], [ones(2), ones(3)])}
    assert model(PyTree[Float[Array, "?n"], "T"], [ones(2), ones(3)], **tree).x
    with pytest.raises(anx.CheckError, match=r"x\[1\]"):
        model(PyTree[Float[Array, "?n"], "T"], [ones(2), ones(4)], **tree)
    assert model(Float[Array, " n"], ones(7), **tree).x.shape == (7,)


# --- in which order fields bind sizes --------------------------------------------------


def fields(**hints_and_values):
    """An instance of a class with these fields, by (annotation, value)."""
    annotations = {name: hint for name, (hint, _) in hints_and_values.items()}
    space = {"__annotations__": annotations, "__module__": __name__}
    cls = type(anx.Module)("Model", (anx.Module,), space)
    return cls(**{name: value for name, (_, value) in hints_and_values.items()})


def all_told(**hints_and_values):
    with pytest.raises(anx.CheckError) as caught:
        fields(**hints_and_values)
    return str(caught.value)


def param(hint, shape):
    return anx.Param[hint], ones(shape)


def test_plain_names_bind_first():
    found = all_told(a=param(Float[Array, "#n"], (3,)), b=param(Float[Array, " n"], (4,)))
    assert "Model.a: " in found
    assert "axis 0 is 3, but #n is 4 (set by b)" in found


def test_what_computes_and_may_be_something_else_comes_last():
    assert fields(
        a=param(Float[Array, "n+1"] | Float[Array, " m"], (3,)),
        b=param(Float[Array, "#n"], (2,)),
        d=param(Float[Array, "#m 1"], (4, 1)),
    )


def test_a_field_behind_one_that_nobody_can_judge():
    with pytest.warns(anx.AnnotationWarning, match="needs the size of 'k'"):
        found = all_told(
            a=param(Float[Array, "k+1"], (3,)),
            b=param(Float[Array, "n+1"], (3,)),
            n=(anx.Hyper[int], 3),
        )
    assert "Model.b: " in found


def test_a_field_in_the_place_of_which_a_property_stands():
    class Model(anx.Module):
        a: anx.Param[Float[Array, "2"]]
        b: anx.Param[list[Float[Array, " n"]]]
        c: anx.Param[Float[Array, " n"]]

        def __init__(self, a, b):
            self.a, self.b = a, b

        @property
        def c(self):
            return ones(3)

    assert Model(ones(2), [ones(3)]).c.shape == (3,)
    with pytest.raises(anx.CheckError, match=r"Model.[bc]"):
        Model(ones(2), [ones(2)])


@pytest.mark.parametrize("size", [0, 1, -1, True, None, "text"])
@pytest.mark.parametrize("inside", ["a field", "a list"])
def test_which_hypers_are_sizes(size, inside):
    hint, value = Float[Array, " n"], ones(3)
    if inside == "a list":
        hint, value = list[hint], [value]
    given = {"n": (anx.Hyper[bool | int | str | None], size), "x": (anx.Param[hint], value)}
    if type(size) is int and size >= 0:
        assert f"axis 0 is 3, but n is {size} (set by the Hyper)" in all_told(**given)
    else:
        assert fields(**given)
    zero = {**given, "n": (anx.Hyper[int], size)}
    if type(size) is int and size < 0:
        assert fields(**zero)
    elif type(size) is int:
        assert f"n is {size} (set by the Hyper)" in all_told(**zero)


OPTIONAL = Float[Array, " k"] | None


@pytest.mark.parametrize(
    ("shapes", "fits"),
    [
        ((None, 2, 2), True),
        ((2, None, 2), True),
        ((None, None, 2), True),
        ((None, None, None), True),
        ((2, 3, None), False),
        ((None, 2, 3), False),
        ((2, None, 3), False),
        ((2, 2, 3), False),
    ],
)
@pytest.mark.parametrize("last", [OPTIONAL, list[OPTIONAL]])
def test_sizes_of_what_may_be_none(shapes, fits, last):
    values = [None if size is None else ones(size) for size in shapes]
    values[2] = [values[2]] if last is not OPTIONAL else values[2]
    hints = (OPTIONAL, OPTIONAL, last)
    given = {
        f"f{at}": (anx.Param[hint], value)
        for at, (hint, value) in enumerate(zip(hints, values, strict=True))
    }
    if fits:
        assert fields(**given)
    else:
        assert "but k is 2 (set by f" in all_told(**given)


# --- strings -------------------------------------------------------------------------


def test_a_string_that_is_wrong_says_what_jaxtyping_says(monkeypatch):
    class Model(anx.Module):
        x: anx.Param[list["Float[LaterArray, '*a *b']"]]

    monkeypatch.setitem(globals(), "LaterArray", Array)
    with pytest.raises(anx.AnnotationError) as caught:
        Model([])
    first = str(caught.value).split("\n")[0]
    assert first.startswith("Model.x: the annotation is wrong: ")
    assert "variadic" in first


class Base:
    pass


class Sub(Base):
    pass


Small = TypeAliasType("Small", int)
Word = TypeAliasType("Word", str)


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (tuple["int", "str"], (1, "a"), ("a", 1)),
        (tuple[Small, Word], (1, "a"), ("a", 1)),
        (tuple["Small", "Word", "Small"], (1, "a", 2), (1, "a", "b")),
        (typing.Type["Base"], Sub, int),  # noqa: UP006 -- it makes a ForwardRef
        (type["Base"], Base, Base()),
        (type[Base | int], int, str),
        (type["Base | int"], Sub, str),
    ],
)
def test_names_and_aliases(hint, good, bad):
    assert model(hint, good).x is good
    with pytest.raises(anx.CheckError, match=r"\bx\b"):
        model(hint, bad)


def test_final():
    class Model(anx.Module):
        x: Final[anx.Param[int]]
        y: "Final[anx.Param[int]]"
        free: Final = 3

    with anx.checking("full"):
        assert Model(1, 2).x == 1
        for values in (("a", 1), (1, "a")):
            with pytest.raises(anx.CheckError, match=r"Model\.[xy]"):
                Model(*values)


def test_what_cannot_be_checked_is_found_without_an_instance():
    class Model(anx.Module):
        x: anx.Param[Concatenate[int, ...]]
        y: anx.Param[Float[Array, "{n}"]]
        z: anx.Param[dict["Nowhere", "Nobody"]]

    found = anx.audit(Model).findings
    assert {one.code for one in found} == {"ANX005"}
    x, y, z = (str(one) for one in found)
    assert "Concatenate[int, ...]: type hint " in x
    assert "the annotation is wrong: a field has nothing to put into the dimension" in y
    assert "Nowhere, Nobody does not exist at run time" in z


@pytest.mark.parametrize(
    ("hint", "value", "reason"),
    [
        (Concatenate[int, ...], 3, "Concatenate[int, ...]: type hint "),
        (
            collections.abc.KeysView["NoSuchType"],
            {1: 2}.keys(),
            "KeysView['NoSuchType']: ",
        ),
    ],
)
def test_what_beartype_cannot_judge_is_told_with_its_reason(hint, value, reason):
    with pytest.warns(anx.AnnotationWarning) as caught:
        model(hint, value)
    (warning,) = caught
    first, *rest = str(warning.message).split("\n")
    assert first.startswith(f"Model.x: the annotation is not checked: {reason}")
    assert len(first.removeprefix(f"Model.x: the annotation is not checked: {reason}")) > 20
    assert len(rest) == 1


def test_no_warning_where_all_is_checked():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(Float[Array, "n+1"], ones(3), n=(Float[Array, " n"], ones(2)))
