"""What an error says of values that do not fit: all of the text, and where it points."""

import subprocess
import sys
import textwrap
from typing import Any, Literal, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Complex64, Complex128, Float, Float32, Float64, Int, PyTree

import annotax as anx

ones = jnp.ones


def told(action, error=anx.CheckError):
    with pytest.raises(error) as caught:
        action()
    text = str(caught.value)
    assert text.count("\n") < 12
    assert isinstance(caught.value, TypeError)
    assert caught.value.__cause__ is caught.value.__context__ is None
    return text


def text(block):
    return textwrap.dedent(block).strip("\n")


class Linear(anx.Module):
    weight: anx.Param[Float[Array, "outs ins"]]
    bias: anx.Param[Float[Array, " outs"] | None]
    mean: anx.Buffer[Float32[Array, " ins"]]
    ins: anx.Hyper[int]
    outs: anx.Hyper[int]


def linear(weight=None, bias=None, mean=None):
    weight = ones((4, 3)) if weight is None else weight
    return Linear(weight, bias, ones(3) if mean is None else mean, ins=3, outs=4)


def made(annotation, value, **others):
    annotations = {name: anx.Param[hint] for name, (hint, _) in others.items()}
    space = {"__annotations__": {**annotations, "x": anx.Param[annotation]}}
    cls = type(anx.Module)("Model", (anx.Module,), {**space, "__module__": __name__})
    return cls(**{name: known for name, (_, known) in others.items()}, x=value)


NUMPY = "an array of numpy is no jax.Array: jnp.asarray(...)"
NO_NUMPY = "a jax.Array is no array of numpy: np.asarray(...)"
NONE = "write `| None` into the annotation if it may be missing"
NARROW = 'JAX keeps 32 bits unless jax.config.update("jax_enable_x64", True)'

# --- one value -----------------------------------------------------------------------


def test_transposed():
    assert told(lambda: linear(ones((3, 4)))) == text(
        """
        Linear.weight: the value does not fit its annotation
          expected: Param[Float[Array, 'outs ins']]
          found:    float32[3,4]
                    axis 0 is 3, but outs is 4 (set by the Hyper)
                    axis 1 is 4, but ins is 3 (set by the Hyper)
          fix:      it fits transposed
        """
    )


def test_axes_in_another_order():
    sizes = {"a": (Int[Array, "h w i o"], jnp.ones((5, 3, 8, 16), int))}
    found = told(lambda: made(Float[Array, "h w i o"], ones((16, 8, 5, 3)), **sizes))
    assert found == text(
        """
        Model.x: the value does not fit its annotation
          expected: Param[Float[Array, 'h w i o']]
          found:    float32[16,8,5,3]
                    axis 0 is 16, but h is 5 (set by a)
                    axis 1 is 8, but w is 3 (set by a)
                    axis 2 is 5, but i is 8 (set by a)
                    axis 3 is 3, but o is 16 (set by a)
          fix:      it fits transposed: jnp.transpose(..., (2, 3, 1, 0))
        """
    )


def test_a_leading_axis():
    found = told(lambda: linear(ones((2, 4, 3))))
    assert found == (
        "Linear.weight: the value does not fit its annotation\n"
        "  expected: Param[Float[Array, 'outs ins']]\n"
        "  found:    float32[2,4,3]\n"
        "            3 axes instead of 2\n"
        "  fix:      it fits without its leading axis of 2: is it a batch (jax.vmap), or a "
        "stack\n"
        "            of models (eqx.filter_vmap)?"
    )


def test_too_few_axes():
    assert told(lambda: linear(ones(3))).endswith("\n            1 axis instead of 2")
    found = told(lambda: made(Float[Array, "n ... m"], ones(1)))
    assert found.endswith("\n            1 axis instead of at least 2")


def test_without_a_hint_where_there_is_none():
    assert told(lambda: linear(bias=ones(5))) == text(
        """
        Linear.bias: the value does not fit its annotation
          expected: Param[Float[Array, 'outs'] | None]
          found:    float32[5]
                    axis 0 is 5, but outs is 4 (set by the Hyper)
        """
    )


@pytest.mark.parametrize(
    ("hint", "value", "found", "fix"),
    [
        (Float[Array, "2"], np.ones(2), "numpy float64[2]", NUMPY),
        (Array, np.float32(1), "numpy float32[]", NUMPY),
        (Float[np.ndarray, "2"], ones(2), "float32[2]", NO_NUMPY),
        (Float[np.ndarray, ""], 1.0, "a float", "make it an array: np.asarray(...)"),
        (Float[Array, ""], 1.5, "a float", "make it an array: jnp.asarray(...)"),
        (Array, True, "a bool", "make it an array: jnp.asarray(...)"),
        (Float[Array, "2"], [1.5, 2.5], "a list", "make it an array: jnp.asarray(...)"),
        (Float[Array, "2"], None, "None", NONE),
        (int, None, "None", NONE),
        (Float[Array, ""], "text", "a str", None),
        (Float[Array, ""], jnp.sum, "a function", None),
        (Float[Array, "2"], jnp.array([7, 9]), "int32[2]", None),
        (Float64[Array, "2"], ones(2), "float32[2]", NARROW),
        (Complex128[Array, "2"], ones(2), "float32[2]", NARROW),
        (Complex64[Array, "2"], ones(2), "float32[2]", None),
        (Literal["a", "b"], "c", "a str", None),
        (type[Linear], int, "the class int", None),
        (tuple[int, int], (7, 8, 9), "a tuple of 3", None),
        (eqx.nn.Linear, eqx.nn.Identity(), "an Identity", None),
    ],
)  # fmt: skip
def test_what_is_found_and_what_may_help(hint, value, found, fix):
    message = told(lambda: made(hint, value))
    first, expected, *rest = message.split("\n")
    assert first == "Model.x: the value does not fit its annotation"
    assert expected.startswith("  expected: Param[")
    assert rest == [f"  found:    {found}"] + (
        [] if fix is None else [f"  fix:      {fix}"]
    )


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [("float32", "float64"), ("complex64", "complex128"), ("int32", "int64")],
)
def test_dtypes_where_64_bits_are_the_default(dtype, wide):
    hint = getattr(__import__("jaxtyping"), dtype.capitalize())[Array, "2"]
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        found = told(lambda: made(hint, jnp.zeros(2, wide)))
        other = told(lambda: made(Float64[Array, "2"], jnp.zeros(2, "float16")))
    finally:
        jax.config.update("jax_enable_x64", before)
    assert found.endswith(
        f"\n  found:    {wide}[2]"
        f"\n  fix:      jax_enable_x64 makes {wide} the default: "
        "give the dtype where it is made"
    )
    assert other.endswith("\n  found:    float16[2]")


@pytest.mark.parametrize(
    ("known", "hint", "shape", "line"),
    [
        ("n", "3 n", (4, 2), "axis 0 is 4, not 3"),
        ("n", "rows=3 n", (4, 2), "axis 0 is 4, but rows=3 is 3"),
        ("n", "n+1 2*n", (3, 5), "axis 1 is 5, but 2*n is 4"),
        ("n", "#n", (3,), "axis 0 is 3, but #n is 2 (set by a)"),
        ("n", "k k", (3, 5), "axis 1 is 5, but k is 3 (set by x)"),
        ("*n", "*n 3", (4, 3), "the axes are (4,), but *n is (2,) (set by a)"),
        ("*#n", "*#n k", (5, 5, 3), "the axes are (5, 5), but *#n is (2,) (set by a)"),
        ("n", "... n", (7, 3), "axis 1 is 3, but n is 2 (set by a)"),
    ],
)
def test_an_axis_and_who_set_its_size(known, hint, shape, line):
    sizes = {"a": (Int[Array, known], jnp.ones(2, int))}
    found = told(lambda: made(Float[Array, hint], ones(shape), **sizes))
    assert f"\n            {line}" in found
    assert found.count("\n") - ("fix:" in found) == 3


@pytest.mark.parametrize(
    ("hint", "value", "path", "found"),
    [
        (list[Float[Array, " n"]], [ones(2), ones(3)], "x[1]", "float32[3]"),
        (dict[str, int], {"a": 1, "b c": "2"}, "x['b c']", "a str"),
        (dict[str, int], {7: 1}, "x key [7]", "an int"),
        (dict[Any, int], {"k" * 99: "1"}, f"x['{'k' * 39}...]", "a str"),
        (dict[Any, int], {(1, 2): "1"}, "x[<tuple>]", "a str"),
        (set[int], {"a"}, "x item", "a str"),
        (tuple[int, ...], (1, None), "x[1]", "None"),
        (tuple[dict[str, list[int]], int], ({"a": [1, 2.5]}, 1), "x[0]['a'][1]", "a float"),
        (PyTree[int], {"a": (1, [2, "3"])}, "x['a'][1][1]", "a str"),
        (PyTree[Float[Array, " n"]], [linear(), ones(3)], "x[0].weight", "float32[4,3]"),
        (list[PyTree[int]], [{"a": 1}, {"a": "1"}], "x[1]['a']", "a str"),
    ],
)
def test_the_place_in_a_container(hint, value, path, found):
    message = told(lambda: made(hint, value))
    assert path in message
    assert f"found:    {found}" in message or f"found {found}" in message


def test_structures():
    s = {"s": (PyTree[int, "S"], [1, (2, 3)])}
    assert told(lambda: made(PyTree[int, "S"], {"a": 1}, **s)) == text(
        """
        Model.x: the value does not fit its annotation
          expected: structure 'S', [*, (*, *)] (set by s), in Param[PyTree[int, 'S']]
          found:    {'a': *}
        """
    )
    assert told(lambda: made(PyTree[int, "S ..."], eqx.nn.Identity(), **s)) == text(
        """
        Model.x: the value does not fit its annotation
          expected: structure 'S ...' in Param[PyTree[int, 'S ...']]
          found:    another tree structure
        """
    )


def test_of_a_union_the_closest_member_is_told():
    hint = Int[Array, " n"] | Float[Array, "n n"] | str
    found = told(lambda: made(hint, ones((2, 3))))
    assert (
        "  found:    float32[2,3]\n            axis 1 is 3, but n is 2 (set by x)" in found
    )
    assert "fix" not in found


def test_many_axes_and_a_long_annotation():
    dims = " ".join(f"axis_number_{at}" for at in range(12))
    known = {"a": (Int[Array, dims], jnp.ones((2,) * 12, int))}
    found = told(
        lambda: made(
            Float[Array, dims] | Float[Array, f"3 {dims}"], ones((1,) * 12), **known
        )
    )
    assert "Param[Float[Array, 'axis_number_0 axis_number_1" in found
    assert " ...\n  found:    float32[1,1,1,1,1,1,1,1,1,1,1,1]\n" in found
    assert (
        "axis 4 is 1, but axis_number_4 is 2 (set by a)\n            and 7 more axes"
        in found
    )


@pytest.mark.parametrize(("count", "last"), [(5, "axis 4 is"), (6, "and 1 more axes")])
def test_so_many_axes_are_told(count, last):
    dims = " ".join(f"n{at}" for at in range(count))
    known = {"a": (Int[Array, dims], jnp.ones((2,) * count, int))}
    found = told(lambda: made(Float[Array, dims], ones((1,) * count), **known))
    assert found.split("\n")[-1].strip().startswith(last)


def test_traced_values():
    found = []

    @jax.jit
    def build(weight):
        found.append(told(lambda: linear(weight)))
        return weight

    build(ones((3, 4)))
    assert found == [told(lambda: linear(ones((3, 4))))]


def test_no_values_and_no_access_to_them():
    secret = jnp.array([123.456, 654.321])
    for value in (secret, np.asarray(secret), [secret], {"a": secret}, (1, secret)):
        for hint in (Int[Array, "2"], Float[Array, "3"], str, list[int], dict[str, int]):
            assert "123" not in told(lambda: made(hint, value))  # noqa: B023 -- called now
    secret.delete()
    assert "float32[2]" in told(lambda: made(Float[Array, "3"], secret))


# --- several -------------------------------------------------------------------------


def test_several():
    found = told(lambda: linear(np.ones((4, 3)), ones(5), jnp.ones(3, int)))
    assert found == text(
        """
        Linear: 3 values do not fit their annotations
          weight: Param[Float[Array, 'outs ins']], found numpy float64[4,3]
            an array of numpy is no jax.Array: jnp.asarray(...)
          bias: Param[Float[Array, 'outs'] | None], found float32[5]
            axis 0 is 5, but outs is 4 (set by the Hyper)
          mean: Buffer[Float32[Array, 'ins']], found int32[3]
        """
    )


def test_more_than_a_dozen_lines():
    values = [ones(2)] + [ones(3)] * 2000
    assert told(lambda: made(list[Float[Array, " n"]], values)) == text(
        """
        Model: 2,000 values do not fit their annotations
          x[1]: Param[list[Float[Array, 'n']]], found float32[3]
            axis 0 is 3, but n is 2 (set by x)
          x[2]: Param[list[Float[Array, 'n']]], found float32[3]
            axis 0 is 3, but n is 2 (set by x)
          x[3]: Param[list[Float[Array, 'n']]], found float32[3]
            axis 0 is 3, but n is 2 (set by x)
          x[4]: Param[list[Float[Array, 'n']]], found float32[3]
            axis 0 is 3, but n is 2 (set by x)
          x[5]: Param[list[Float[Array, 'n']]], found float32[3]
            axis 0 is 3, but n is 2 (set by x)
          and 1,995 more
        """
    )


def test_in_the_order_of_the_fields():
    """Not in that in which they are looked at."""

    class Model(anx.Module):
        late: anx.Param[Float[Array, "n+1"]]
        union: anx.Param[Float[Array, "3"] | Int[Array, "3"]]
        early: anx.Param[Float[Array, " n"]]

    found = told(lambda: Model(None, ones(2), 1))
    assert [line.partition(":")[0] for line in found.split("\n") if "found" in line] == [
        "  late",
        "  union",
        "  early",
    ]


# --- annotations and modes -----------------------------------------------------------


class Shows(Protocol):
    def show(self) -> str: ...


class Unchecked(anx.Module):
    shown: anx.Param[Shows]
    other: "anx.Param[list[NoSuchType]]"
    size: anx.Param[Float[Array, "n+1"]]


def test_what_is_not_checked():
    with pytest.warns(anx.AnnotationWarning) as caught:
        Unchecked(1, [2], ones(3))
    assert sorted(str(warning.message) for warning in caught) == [
        text(
            """
            Unchecked.other: the annotation is not checked: name 'NoSuchType' is not defined
              found:    anx.Param[list[NoSuchType]]
            """
        ),
        "Unchecked.shown: the annotation is not checked: Shows is a Protocol, not "
        "@runtime_checkable\n"
        "  found:    Param[Shows]",
        text(
            """
            Unchecked.size: the annotation is not checked: 'n+1' needs the size of 'n'
              found:    Param[Float[Array, 'n+1']]
            """
        ),
    ]


@pytest.mark.parametrize(
    ("hint", "first"),
    [
        (Float[Array, "{n}"], "a field has nothing to put into the dimension '{n}'"),
        (Float[Array, "n+"], "the dimension 'n+' is no Python expression"),
        (Float, "Float alone is no type, write Float[Array, '...']"),
    ],
)
def test_a_hint_that_is_wrong(hint, first):
    with pytest.raises(anx.AnnotationError) as caught:
        made(hint, 1)
    lines = str(caught.value).split("\n")
    assert lines[0] == f"Model.x: the annotation is wrong: {first}"
    assert lines[1].startswith("  found:    Param[Float")
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("mode", "found", "fix"),
    [
        ("fields ", "'fields '", "did you mean 'fields'?"),
        ("on", "'on'", "there is: off, fields, full"),
        (True, "'bool'", "there is: off, fields, full"),
        (None, "'NoneType'", "there is: off, fields, full"),
    ],
)
def test_no_such_mode(mode, found, fix):
    def block():
        with anx.checking(mode):
            pass

    def keyword():
        class Model(anx.Module, check=mode):
            pass

    for where, action in {"checking": block, "class Model": keyword}.items():
        if mode is None and action is keyword:
            continue  # it says nothing
        assert told(action) == (
            f"{where}: this is no mode of checking\n"
            "  expected: 'off' or 'fields' or 'full'\n"
            f"  found:    {found}\n"
            f"  fix:      {fix}"
        )


# --- where it points -----------------------------------------------------------------

USER = """
import annotax as anx, equinox as eqx, jax.numpy as jnp, pytest
from jaxtyping import Array, Float

class Linear(anx.Module, check="full"):
    weight: anx.Param[Float[Array, "outs ins"]]
    outs: anx.Hyper[int]

    def __call__(self, x: Float[Array, " ins"]):
        return self.weight @ x

class Own(Linear):
    def __init__(self, weight):
        self.weight, self.outs = weight, 3

model = Linear(jnp.ones((3, 2)), 3)

def test_construction():
    Linear(jnp.ones((2, 3)), 3)  # here

def test_own_init():
    Own(jnp.ones((2, 3)))  # here

def test_replace():
    anx.replace(model, outs=4)  # here

def test_method():
    model(jnp.ones(3))  # here
"""
WHERE = ["construction", "own_init", "replace", "method"]


def test_pytest_ends_at_the_line_of_the_user(tmp_path):
    path = tmp_path / "test_user.py"
    path.write_text(USER)
    run = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
    done = subprocess.run([*run, str(path)], capture_output=True, text=True, check=False)
    reports = done.stdout.split("____ test_")[1:]
    assert [report.partition(" ")[0] for report in reports] == WHERE
    for report in reports:
        assert "# here" in report
        frames = [line for line in report.split("\n") if ".py:" in line and ": in " in line]
        others = [frame for frame in frames if "test_user.py" not in frame]
        # Where an instance is made, the frame between is Equinox's: not ours to hide.
        assert all("equinox" in frame for frame in others), others


class First(anx.Module):
    x: anx.Param[Shows]


class Second(anx.Module):
    x: anx.Param[Shows]

    def __init__(self, x):
        self.x = x


class Third(Second):
    y: anx.Param[Shows]

    def __init__(self, x):
        super().__init__(x)
        self.y = x


class Fourth(anx.Module):
    x: anx.Param[Float[Array, "n+1"] | None]


class Fifth(anx.Module):
    x: anx.Param[Shows]

    @classmethod
    def build(cls):
        return cls(1)  # a line of the user, too


def test_warnings_point_at_the_line_of_the_user():
    with anx.checking("off"):
        foreign = First(1)
        fourth = Fourth(None)
    actions = [
        lambda: anx.replace(foreign, x=2),
        lambda: Second(1),
        lambda: Third(1),
        lambda: anx.replace(fourth, x=ones(2)),
        lambda: jax.eval_shape(lambda x: [Fifth.build(), x], 1.0),
    ]
    for action in actions:
        with pytest.warns(anx.AnnotationWarning, match="not checked") as caught:
            action()
        (warning,) = caught
        assert warning.filename == __file__
        code = Fifth.build.__code__ if action is actions[-1] else action.__code__
        assert warning.lineno in {line for *_, line in code.co_lines()}
