"""Methods in mode `full`: what is checked, what is left alone, and what nobody notices.

Twins are the same classes made in mode `off`: whatever holds of them must hold here.
"""

import abc
import asyncio
import contextlib
import functools
import inspect
import operator
import pickle
import typing
import warnings
from collections.abc import Callable
from typing import Any, Literal, Self

import beartype
import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import pytest
from jaxtyping import Array, Float, Int, PyTree, jaxtyped

import annotax as anx
import checked_strings

ones = jnp.ones


@pytest.fixture(autouse=True)
def full():
    with anx.checking("full"):
        yield


def linear() -> type:
    """Made anew, in the mode of the moment."""

    class Linear(anx.Module):
        """A layer."""

        weight: anx.Param[Float[Array, "out in"]]
        size: anx.Hyper[int | None] = None

        def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
            """Apply it."""
            return self.weight @ x

        def wrong(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
            return x

        def mix(
            self,
            a: Float[Array, " n"],
            /,
            b: Float[Array, " n"],
            *rest: Int[Array, " n"],
            k: int = 1,
            **more: Float[Array, " in"],
        ) -> Float[Array, " n"]:
            return a * k

        @property
        def transposed(self) -> Float[Array, "in out"]:
            """The other way."""
            return self.weight.T

        @property
        def untrue(self) -> Float[Array, "in out"]:
            return self.weight

        @classmethod
        def make(cls, rows: int, columns: int) -> Self:
            return cls(ones((rows, columns)))

        @staticmethod
        def add(a: Float[Array, " in"], b: Float[Array, " in"]) -> Float[Array, " in"]:
            return a + b

        def free(self, x):
            return x

    return Linear


def plain_linear() -> type:
    with anx.checking("off"):
        return linear()


def layer():
    return linear()(ones((2, 3)))


def refused(call: Callable[[], Any], *words: str) -> None:
    with pytest.raises(anx.CheckError) as info:
        call()
    for word in words:
        assert word in str(info.value)


# --- what is checked -----------------------------------------------------------------


def test_the_sizes_of_the_instance_hold_in_its_methods():
    model = layer()
    assert model(ones(3)).shape == (2,)
    with pytest.raises(anx.CheckError) as info:
        model(ones(2))
    assert str(info.value) == (
        "Linear.__call__(x): the value does not fit its annotation\n"
        "  expected: Float[Array, 'in']\n"
        "  found:    float32[2]\n"
        "            axis 0 is 2, but in is 3 (set by the field weight)"
    )
    refused(
        lambda: model.wrong(ones(3)), "Linear.wrong(result)", "axis 0 is 3, but out is 2"
    )
    assert linear()(ones((3, 3))).wrong(ones(3)).shape == (3,)


def test_properties():
    model = layer()
    assert model.transposed.shape == (3, 2)
    refused(lambda: model.untrue, "Linear.untrue(result)", "it fits transposed")


@pytest.mark.parametrize(
    ("args", "kwargs", "name"),
    [
        ((ones(4), ones(5)), {}, "b"),
        ((ones(4),), {"b": ones(5)}, "b"),
        ((ones(4), ones(4), ones(4, int), ones(5, int)), {}, "rest"),
        ((ones(4), ones(4), ones(4)), {}, "rest"),
        ((ones(4), ones(4)), {"k": "two"}, "k"),
        ((ones(4), ones(4)), {"a": ones(4)}, "more"),  # `a` is only positional
        ((ones(4), ones(4)), {"other": ones(4)}, "more"),
        ((None, ones(4)), {}, "a"),
    ],
)
def test_however_an_argument_is_given(args, kwargs, name):
    model = layer()
    fine = {"k": 2, "a": ones(3), "other": ones(3)}
    model.mix(ones(4), ones(4), ones(4, int), ones(4, int), **fine)
    model.mix(ones(4), b=ones(4))
    refused(lambda: model.mix(*args, **kwargs), f"Linear.mix({name})")


def test_wrong_numbers_of_arguments_are_for_python_to_refuse():
    model, twin = layer(), plain_linear()(ones((2, 3)))
    for args, kwargs in [((), {}), ((ones(3), ones(3)), {}), ((ones(3),), {"y": 1})]:
        with pytest.raises(TypeError) as ours:
            model(*args, **kwargs)
        with pytest.raises(TypeError) as theirs:
            twin(*args, **kwargs)
        assert str(ours.value) == str(theirs.value)
        assert not isinstance(ours.value, anx.CheckError)
    with pytest.raises(
        TypeError, match="missing 2 required positional arguments: 'self' and"
    ):
        type(model).__call__()


def test_class_and_static_methods_have_no_instance():
    Linear = linear()
    assert type(Linear.make(2, 3)) is Linear
    assert type(layer().make(2, 3)).__name__ == "Linear"
    refused(lambda: Linear.make(2, "3"), "Linear.make(columns)", "found:    a str")
    model = layer()
    for owner in (Linear, model):
        assert owner.add(ones(7), ones(7)).shape == (7,)  # `in` is not the instance's
        refused(
            lambda owner=owner: owner.add(ones(7), ones(3)),
            "Linear.add(b)",
            "axis 0 is 3",
            "7 (set by a)",
        )


def test_static_methods_agree_with_jaxtyping():
    dims = ["n n", "n m", "*s n", "#n", "n+1"]
    shapes = [(2, 2), (2, 3), (3,), (1,), (3, 2)]
    for at, one in enumerate(dims):
        for other in (dims[at - 1], dims[(at + 2) % len(dims)]):

            def function(
                a: Float[Array, one], b: Float[Array, other]
            ) -> Float[Array, "..."]:
                return a

            theirs = jaxtyped(function, typechecker=beartype.beartype)
            cls = type(anx.Module)(
                "Made", (anx.Module,), {"function": staticmethod(function)}
            )
            for pair in ((ones(x), ones(y)) for x in shapes for y in shapes):
                verdicts = []
                for call in (theirs, cls.function):
                    try:
                        with warnings.catch_warnings():
                            warnings.simplefilter("ignore")
                            call(*pair)
                        verdicts.append(True)
                    except jaxtyping.AnnotationError:
                        break  # a size that nothing binds: ours only warns
                    except (jaxtyping.TypeCheckError, anx.CheckError):
                        verdicts.append(False)
                assert verdicts in ([], [True, True], [False, False]), (one, other, pair)


def test_all_wrong_arguments_in_one_error():
    refused(
        lambda: layer().mix(ones(4), ones(5), k="two"),
        "Linear.mix: 2 values do not fit their annotations",
        "(b): Float[Array, 'n'], found float32[5]",
        "(k): int, found a str",
    )


def test_asserts_in_the_body_know_the_sizes():
    class Model(anx.Module):
        weight: anx.Param[Float[Array, "rows columns *more"]]
        depth: anx.Hyper[int]

        def ask(self, x: Float[Array, " n"], dims: str) -> bool:
            return isinstance(x, Float[Array, dims])

    model = Model(ones((2, 3, 4, 5)), 7)
    for size, dims in ((2, "rows"), (3, "columns"), (7, "depth"), (8, "n"), (3, "rows+1")):
        assert model.ask(ones(size), dims)
    for size, dims in (
        (3, "rows"),
        (2, "columns"),
        (6, "depth"),
        (3, "rows+2"),
        (1, "*more"),
    ):
        assert not model.ask(ones(size), dims)
    with anx.checking("fields"):
        assert model.ask(ones(3), "rows")  # as anywhere else


def test_asserts_in_the_body_know_variadic_sizes_and_none_of_single_leaves():
    class Model(anx.Module):
        exact: anx.Param[Float[Array, "*s"]]
        loose: anx.Param[Float[Array, "*#t"]]
        tree: anx.Param[PyTree[Float[Array, "?n *?m"], "T"]]

        def ask(self, x: Any, dims: str) -> bool:
            return isinstance(x, Float[Array, dims])

    model = Model(ones((2, 1)), ones((2, 1)), [ones((3, 4)), ones((4, 5))])
    assert model.ask(ones((2, 1)), "*s")
    assert not model.ask(ones((2, 3)), "*s")
    assert model.ask(ones((2, 3)), "*#t")
    assert not model.ask(ones((3, 3)), "*#t")
    assert model.ask(ones((7, 7)), "n *m")  # outside of the tree nothing has bound them


def test_asserts_of_a_caller_are_undisturbed():
    model = layer()
    with jaxtyped("context"):
        assert isinstance(ones(5), Float[Array, " in"])
        model(ones(3))
        assert isinstance(ones(5), Float[Array, " in"])
        assert not isinstance(ones(3), Float[Array, " in"])
        with pytest.raises(anx.CheckError):
            model.wrong(ones(3))
        assert isinstance(ones(5), Float[Array, " in"])


# --- transformations -----------------------------------------------------------------


def loss(model, x):
    return jnp.sum(model(x))


def scanned(model, x):
    return jax.lax.scan(lambda carry, row: (carry + model(row).sum(), None), 0.0, x)[0]


TRANSFORMED = {
    "jit": lambda model, n: jax.jit(loss)(model, ones(n)),
    "grad": lambda model, n: jax.grad(loss)(model, ones(n)),
    "vmap": lambda model, n: jax.vmap(model)(ones((5, n))),
    "scan": lambda model, n: scanned(model, ones((5, n))),
    "checkpoint": lambda model, n: jax.grad(jax.checkpoint(loss))(model, ones(n)),
    "filter_jit": lambda model, n: eqx.filter_jit(model)(ones(n)),
    "filter_grad": lambda model, n: eqx.filter_grad(loss)(model, ones(n)),
    "eval_shape": lambda model, n: eqx.filter_eval_shape(model, ones(n)),
    "anx.grad": lambda model, n: anx.grad(loss)(model, ones(n)),
    "bound": lambda model, n: eqx.filter_jit(model.mix)(ones(n), ones(n), other=ones(n)),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_under_transformations(name):
    call = TRANSFORMED[name]
    model, twin = layer(), plain_linear()(ones((2, 3)))
    ours, theirs = map(jax.tree.leaves, (call(model, 3), call(twin, 3)))
    assert all(map(lambda a, b: a.shape == b.shape, ours, theirs))
    assert len(ours) == len(theirs)
    refused(lambda: call(model, 4), "is 4", "3 (set by the field weight)")


def test_ensembles():
    Linear = linear()
    ensemble = eqx.filter_vmap(lambda w: Linear(w))(ones((5, 2, 3)))
    apply = eqx.filter_vmap(lambda model, x: model(x), in_axes=(eqx.if_array(0), None))
    assert apply(ensemble, ones(3)).shape == (5, 2)
    refused(lambda: apply(ensemble, ones(4)), "axis 0 is 4")
    over = jax.vmap(Linear.__call__, in_axes=(0, None))
    assert over(ensemble, ones(3)).shape == (5, 2)


def test_nothing_is_added_to_what_is_traced():
    def program(model, x):
        y = jax.vmap(model)(x) + model.transposed.sum()
        return model.mix(y[0], y[1]), model.add(y, y) if x.ndim == 1 else model.free(y)

    def text(cls):
        model = cls(ones((2, 3)))
        lowered = jax.jit(program).lower(model, ones((4, 3)))
        jaxpr = jax.make_jaxpr(program)(model, ones((4, 3)))
        return lowered.as_text(), str(jaxpr)

    assert text(linear()) == text(plain_linear())


def test_what_is_compiled_is_not_checked_again():
    calls = []

    class Model(anx.Module):
        weight: anx.Param[Float[Array, " n"]]

        def __call__(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
            calls.append(x)
            return x

    run = eqx.filter_jit(Model(ones(3)))
    run(ones(3))
    run(ones(3))
    assert len(calls) == 1
    refused(lambda: run(ones(4)), "axis 0 is 4")


# --- subclasses ----------------------------------------------------------------------


def family():
    class Base(anx.Module):
        weight: anx.Param[Float[Array, " n"]]

        @abc.abstractmethod
        def __call__(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
            """What the subclasses do."""

        @property
        @abc.abstractmethod
        def area(self) -> float: ...

        def scale(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
            return self.weight * x

    class Sub(Base):
        other: anx.Param[Float[Array, " m"]]

        def __call__(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
            return super().scale(x)

        @property
        def area(self) -> float:
            return 1.0

        def scale(self, x: Float[Array, " m"]) -> Float[Array, " m"]:
            return x

        def both(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
            return super().scale(x)

    return Base, Sub


def test_subclasses():
    Base, Sub = family()
    model = Sub(ones(2), ones(3))
    assert model(ones(2)).shape == (2,)
    assert model.area == 1.0
    assert model.scale(ones(3)).shape == (3,)  # another annotation
    refused(lambda: model.scale(ones(2)), "Sub.scale(x)")
    refused(lambda: model.both(ones(3)), "Sub.both(x)")
    refused(lambda: model.both(ones(2)), "Sub.both(result)", "set by the field other")
    refused(lambda: Base.scale(model, ones(3)), "Base.scale(x)")


def test_abstract_methods_stay_abstract():
    Base, Sub = family()
    assert Base.__abstractmethods__ == {"__call__", "area"}
    assert Base.__call__.__isabstractmethod__
    assert Base.area.__isabstractmethod__
    with pytest.raises(TypeError, match="abstract"):
        Base(ones(2))
    assert not Sub.__abstractmethods__


def test_another_class_of_instance_is_not_ours_to_judge():
    class Other(anx.Module):
        weight: Any

    Linear, called = linear(), linear().__call__
    assert called(Other(ones((2, 5))), ones(5)).shape == (2,)
    assert Linear.wrong(None, "anything") == "anything"


# --- what nobody notices -------------------------------------------------------------


def test_bound_methods_are_the_trees_they_were():
    ours, theirs = (cls(ones((2, 3)), 7) for cls in (linear(), plain_linear()))
    for name in ("wrong", "mix", "free"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert type(one) is type(other)
        (a, at), (b, bt) = map(jax.tree_util.tree_flatten_with_path, (one, other))
        assert [path for path, _ in a] == [path for path, _ in b]
        assert at.num_nodes == bt.num_nodes
        assert jax.tree.structure(one) == jax.tree.structure(getattr(ours, name))
        assert hash(jax.tree.structure(one)) == hash(at)
        back = jax.tree.map(lambda x: 2 * x, one)
        assert type(back) is type(one)
        assert back.__self__.weight[0, 0] == 2


def test_names_signatures_and_documents_stay():
    ours, theirs = linear(), plain_linear()
    kept = {*functools.WRAPPER_ASSIGNMENTS, "__type_params__"} - {"__annotations__"}
    for name in ("__call__", "wrong", "mix", "make", "add", "free"):
        one, other = getattr(ours, name), getattr(theirs, name)
        for attribute in kept:
            assert getattr(one, attribute, None) == getattr(other, attribute, None)
        assert str(inspect.signature(one)) == str(inspect.signature(other))
        assert inspect.getsource(one) == inspect.getsource(other)
        if one.__annotations__:
            assert typing.get_type_hints(one) == typing.get_type_hints(one.__wrapped__)
        bound = [getattr(cls(ones((2, 3))), name) for cls in (ours, theirs)]
        assert len({str(inspect.signature(method)) for method in bound}) == 1
    assert ours.transposed.__doc__ == theirs.transposed.__doc__ == "The other way."
    assert inspect.getsource(ours.transposed.fget) == inspect.getsource(
        theirs.transposed.fget
    )
    assert ours.__call__.__wrapped__.__code__ is theirs.__call__.__code__
    assert ours.free is vars(ours)["free"]
    assert not hasattr(ours.free, "__wrapped__")
    assert [*vars(ours)] == [*vars(theirs)]


def test_pickling():
    model = checked_strings.Linear(ones((2, 3)))
    bound, function = pickle.loads(pickle.dumps((model.apply, type(model).apply)))
    assert function is checked_strings.Linear.apply
    assert hasattr(function, "__wrapped__")
    assert bound(ones(3)).shape == (2,)
    refused(lambda: bound(ones(2)), "Linear.apply(x)")
    refused(lambda: pickle.loads(pickle.dumps(model))(ones(2)), "Linear.__call__(x)")


def test_an_error_inside_a_method_comes_through():
    class Model(anx.Module):
        def fail(self, x: int) -> int:
            raise KeyError(x)

    with pytest.raises(KeyError, match="7"):
        Model().fail(7)


# --- what is left alone --------------------------------------------------------------


def alone(function: Any) -> bool:
    """Whether a function in a class body stays the very object that it is."""
    cls = type(anx.Module)("Made", (anx.Module,), {"thing": function})
    return vars(cls)["thing"] is function


def test_what_suspends_is_left_alone():
    async def coroutine(self, x: int) -> int:
        return x

    def generator(self, x: int) -> int:
        yield x

    async def both(self, x: int) -> int:
        yield x

    for function in (coroutine, generator, both):
        assert alone(function)
        assert alone(staticmethod(function))
        assert alone(property(function))
    assert alone(contextlib.contextmanager(generator))

    class Model(anx.Module):
        run = coroutine

    assert asyncio.run(Model().run("text")) == "text"


def test_no_type_check():
    @typing.no_type_check
    def one(self, x: int) -> int:
        return x

    assert alone(one)

    @typing.no_type_check
    class Model(anx.Module):
        def __call__(self, x: int) -> int:
            return x

    assert Model()("text") == "text"


def test_what_other_decorators_made_is_left_alone():
    def batched(function):
        @functools.wraps(function)
        def each(self, xs):
            return jnp.stack([function(self, x) for x in xs])

        return each

    class Model(anx.Module):
        weight: anx.Param[Float[Array, " n"]]

        @functools.partial(jax.vmap, in_axes=(None, 0))
        def mapped(self, x: Float[Array, " n"]) -> Float[Array, ""]:
            return x @ self.weight

        @batched
        def each(self, x: Float[Array, " n"]) -> Float[Array, ""]:
            return x @ self.weight

        @eqx.filter_jit
        def compiled(self, x: Float[Array, " n"]) -> Float[Array, ""]:
            return x @ self.weight

        @jax.jit
        def jitted(self, x: Float[Array, " n"]) -> Float[Array, ""]:
            return x @ self.weight

        @functools.cached_property
        def cached(self) -> int:
            return "text"

        partial = functools.partialmethod(lambda self, x: x, 3)

    model = Model(ones(3))
    assert model.mapped(ones((5, 3))).shape == model.each(ones((5, 3))).shape == (5,)
    assert model.compiled(ones(3)) == model.jitted(ones(3)) == 3
    assert model.cached == "text"
    assert model.partial() == 3


class Block(contextlib.ContextDecorator):
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


def test_a_wrapper_in_a_wrapper_that_is_no_function():
    def double(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
        return 2 * x

    assert not alone(jax.named_scope("double")(double))
    assert alone(jax.named_scope("double")(jax.jit(double)))


def test_decorators_that_hand_on_what_they_are_given():
    class Model(anx.Module):
        weight: anx.Param[Float[Array, " n"]]

        @jax.named_scope("scoped")
        def scoped(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
            return x

        @jaxtyped(typechecker=beartype.beartype)
        def typed(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
            return x

        with warnings.catch_warnings(action="ignore"):

            @jaxtyped
            @beartype.beartype
            def old_style(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
                return x

        @Block()
        def block(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
            return x

    model = Model(ones(3))
    for name in ("scoped", "typed", "old_style", "block"):
        method = getattr(model, name)
        assert method(ones(3)).shape == (3,)
        refused(
            lambda method=method: method(ones(4)), f"Model.{name}(x)", "set by the field"
        )


def function_of_an_array(x: Float[Array, " n"]) -> Float[Array, " n"]:
    return x


def test_a_function_that_is_the_value_of_a_field_is_no_method():
    class Model(anx.Module):
        one: Callable = function_of_an_array
        two: anx.Hyper[Callable] = function_of_an_array

    class Sub(Model):
        one = function_of_an_array

    for cls in (Model, Sub):
        assert vars(cls).get("one", function_of_an_array) is function_of_an_array
        assert cls().two is function_of_an_array


def test_special_methods_of_python():
    class Model(anx.Module):
        x: Any = 1

        def __init__(self, x: int) -> None:
            self.x = x

        def __repr__(self) -> str:
            return 3

        def __eq__(self, other: object) -> bool:
            return self.x == other.x

        def __hash__(self) -> int:
            return self.x

    model = Model(2)
    assert Model("text").x == "text"  # its field is what is checked
    assert hash(model) == 2
    assert model == Model(2)
    refused(lambda: repr(model), "Model.__repr__(result)")


# --- annotations ---------------------------------------------------------------------


def test_annotations_that_are_strings():
    Model, Local = checked_strings.make()
    model = Model(ones(3), 3)
    assert model.apply(ones(3), Local()).shape == (3,)
    assert model.many([Local()], model) == [model]
    refused(lambda: model.apply(ones(2), Local()), "Model.apply(x)", "set by the Hyper")
    refused(lambda: model.apply(ones(3), 3), "(other)", "expected: Local")
    refused(lambda: model.many([Local(), 3], model), "(locals)[1]")
    refused(lambda: model.many([], 3), "(self_type)")
    refused(lambda: model.later(3), "Model.later(x)", "expected: Later")
    assert model.later(checked_strings.Later()) is None


def test_strings_inside_of_annotations_name_locals_too():
    def made():
        class Local:
            pass

        class Model(anx.Module):
            def apply(self, x: list["Local"], y: Any = None) -> int:
                return 1

            def other(self, x: typing.List["Local"]) -> int:  # noqa: UP006 -- a ForwardRef
                return 1

            def chosen(self, x: Literal["Local"]) -> int:
                return 1

        return Model(), Local

    model, local = made()
    assert model.apply([local()]) == model.other([local()]) == model.chosen("Local") == 1
    refused(lambda: model.apply([1]), "Model.apply(x)[0]")
    refused(lambda: model.other([1]), "Model.other(x)[0]")
    refused(lambda: model.chosen(local()), "Model.chosen(x)")


def test_a_name_that_does_not_exist_is_told_once():
    class Model(anx.Module):
        def apply(self, x: "Nowhere", y: int) -> int:
            return y

    with pytest.warns(anx.AnnotationWarning) as told:
        assert [Model().apply(1, 2) for _ in range(2)] == [2, 2]
    assert [str(one.message) for one in told] == [
        "Model.apply(x): the annotation is not checked: name 'Nowhere' is not defined\n"
        "  found:    Nowhere"
    ]
    assert told[0].filename == __file__
    refused(lambda: Model().apply(1, "2"), "Model.apply(y)")


def test_all_names_that_do_not_exist_are_told_together():
    class Model(anx.Module):
        def apply(self, x: dict["Nowhere", "Nobody"]) -> Any:
            return x

    with pytest.warns(anx.AnnotationWarning) as told:
        Model().apply({})
    first = str(told[0].message).split("\n")[0]
    assert first.endswith("name 'Nowhere' is not defined; name 'Nobody' is not defined")


def test_names_of_the_module_that_a_function_comes_from():
    elsewhere: dict[str, Any] = {}
    exec("def apply(self, x: 'Size') -> 'Size':\n    return x", elsewhere)

    class Model(anx.Module):
        apply = elsewhere["apply"]

    elsewhere["Size"] = int  # it need not exist before it is called
    assert Model().apply(3) == 3
    refused(lambda: Model().apply("three"), "Model.apply(x)")


def test_what_a_class_refuses_to_be_called_without_keeps_its_arguments():
    class Model(anx.Module):
        def apply(self=None, *rest: int, key: int = 1) -> Any:
            return self, rest, key

    assert Model.apply(key=2) == (None, (), 2)


def test_two_classes_of_one_name_are_both_told():
    def model():
        class Model(anx.Module):
            def apply(self, x: "NoSuchName", y: int) -> int:
                return y

        return Model()

    for _ in range(2):
        with pytest.warns(anx.AnnotationWarning, match="NoSuchName"):
            model().apply(1, 2)


def test_an_annotation_that_cannot_be_meant():
    class Model(anx.Module):
        def apply(self, x: Float[Array, "n+"]) -> int:
            return 1

    with pytest.raises(anx.AnnotationError) as caught:
        Model().apply(ones(3))
    assert str(caught.value) == (
        "Model.apply(x): the annotation is wrong: the dimension 'n+' is no Python "
        "expression\n  found:    Float[Array, 'n+']"
    )


def test_sizes_from_arguments_are_those_of_the_call():
    class Model(anx.Module):
        width: anx.Hyper[int]

        @staticmethod
        def full(size: int, value: float = 0.0) -> Float[Array, "{size}"]:
            return jnp.full(3, value)

        def apply(self, x: Float[Array, "{self.width}+1"]) -> Array:
            return x

        def unknown(self, x: Float[Array, "{height}"]) -> Array:
            return x

    assert Model.full(3).shape == (3,)
    refused(lambda: Model.full(size=4), "Model.full(result)")
    assert Model(2).apply(ones(3)).shape == (3,)
    refused(lambda: Model(3).apply(ones(3)), "Model.apply(x)")
    with pytest.warns(anx.AnnotationWarning, match="needs the size of 'height'"):
        Model(2).unknown(ones(3))


def test_a_property_that_hands_out_a_leaf_can_be_pointed_at():
    class Model(anx.Module):
        weight: anx.Param[Float[Array, " n"]]

        @property
        def same(self) -> Float[Array, " n"]:
            return self.weight

    model = Model(ones(3))
    assert eqx.tree_at(lambda m: m.same, model, jnp.zeros(3)).weight[0] == 0
    assert anx.at(lambda m: m.same).paths(model) == ("weight",)


def test_a_size_that_nothing_binds_is_told():
    class Model(anx.Module):
        def apply(self, x: Float[Array, " n+1"]) -> Any:
            return x

        def ordered(self, x: Float[Array, " n+1"], y: Float[Array, " n"]) -> Any:
            return x

        def chained(
            self, x: Float[Array, " m+1"], y: Float[Array, "n+1 m"], z: Float[Array, " n"]
        ) -> Any:
            return x

    with pytest.warns(anx.AnnotationWarning) as caught:
        assert [Model().apply(ones(size)) is None for size in (3, 4)] == [False, False]
    assert [str(one.message) for one in caught] == [
        "Model.apply(x): the annotation is not checked: 'n+1' needs the size of 'n'\n"
        "  found:    Float[Array, 'n+1']"
    ]
    Model().chained(ones(5), ones((3, 4)), ones(2))
    refused(lambda: Model().chained(ones(6), ones((3, 4)), ones(2)), "Model.chained(x)")
    Model().ordered(ones(3), ones(2))  # whatever comes first
    refused(lambda: Model().ordered(ones(3), ones(3)), "Model.ordered(x)")


def test_two_classes_of_one_name_are_both_told_of_a_size():
    def model():
        class Model(anx.Module):
            def apply(self, x: Float[Array, " n+1"]) -> Any:
                return x

        return Model()

    for _ in range(2):
        with pytest.warns(anx.AnnotationWarning, match="needs the size of 'n'"):
            model().apply(ones(3))


@pytest.mark.filterwarnings("ignore:Model.weight")
def test_a_field_that_nobody_can_judge_binds_nothing():
    class Model(anx.Module):
        weight: anx.Param[Float[Array, "k+1"]]
        bias: anx.Param[Float[Array, " n"]]

        def apply(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
            return x

    model = Model(ones(3), ones(2))
    assert model.apply(ones(2)).shape == (2,)
    refused(lambda: model.apply(ones(3)), "Model.apply(x)")


def test_a_property_of_no_function_stays():
    class Model(anx.Module):
        n: anx.Hyper[int]
        size = property(operator.attrgetter("n"))

    assert Model(3).size == 3


def test_where_nothing_is_checked_all_arguments_are_handed_on():
    class Model(anx.Module):
        def apply(self, x: int, *, key: int = 1) -> Any:
            return x, key

    with anx.checking("fields"):
        assert Model().apply("x", key="key") == ("x", "key")


def test_other_hints():
    T = typing.TypeVar("T", bound=int)
    P = typing.ParamSpec("P")

    class Model(anx.Module):
        def apply(
            self,
            *,
            kind: Literal["a", "b"],
            tree: PyTree[Float[Array, "?n"], "S"],
            items: list[tuple[int, str]],
            number: T,
            function: Callable[[int], str],
            cls: type[int],
            maybe: Float[Array, ""] | None = None,
        ) -> None:
            del self

        def run(self, function: Callable[P, int], *args: P.args, **kwargs: P.kwargs) -> int:
            return function(*args, **kwargs)

        def never(self) -> typing.NoReturn:
            raise KeyError

        def returns(self) -> typing.NoReturn:
            del self

        def guard(self, x: object) -> typing.TypeGuard[int]:
            return x

    fine = {"kind": "a", "tree": [ones(2), ones(3)], "items": [(1, "x")], "number": 1}
    fine |= {"function": str, "cls": bool}
    model = Model()
    model.apply(**fine)
    wrong = {"kind": "c", "tree": [1], "items": [(1, "x"), (1, 2)], "number": "1"}
    wrong |= {"function": 3, "cls": str, "maybe": ones(1)}
    for name, value in wrong.items():
        refused(
            lambda name=name, value=value: model.apply(**{**fine, name: value}), f"({name})"
        )
    assert model.run(lambda x, y: x + y, 1, y=2) == 3
    with pytest.raises(KeyError):
        model.never()
    refused(model.returns, "Model.returns(result)")
    assert model.guard(True)
    refused(lambda: model.guard("text"), "Model.guard(result)")


# --- when ----------------------------------------------------------------------------


def test_during_init_only_what_is_set_counts():
    class Model(anx.Module):
        weight: anx.Param[Float[Array, " n"]]
        bias: anx.Buffer[Float[Array, " m"]]

        def __init__(self, late: bool) -> None:
            self.check(ones(7), ones(8))
            self.weight = ones(3)
            self.check(ones(7 if late else 3), ones(8))
            self.bias = ones(4)

        def check(self, x: Float[Array, " n"], y: Float[Array, " m"]) -> None:
            del self

    Model(late=False)
    refused(lambda: Model(late=True), "Model.check(x)")


def test_methods_get_their_checks_when_the_class_is_made_and_the_mode_can_lower_them():
    model = layer()
    for mode in ("fields", "off"):
        with anx.checking(mode):
            assert model.wrong(ones(3)).shape == (3,)
            later = linear()(ones((2, 3)))
        assert later.wrong(ones(3)).shape == (3,)  # it has none
    refused(lambda: model.wrong(ones(3)))


def test_a_class_may_say_it():
    with anx.checking("fields"):

        class Full(anx.Module, check="full"):
            weight: anx.Param[Float[Array, " n"]]

            def wrong(self) -> Float[Array, " n"]:
                return ones(5)

            @classmethod
            def make(cls, x: int) -> str:
                return x

        assert Full(ones(3)).wrong().shape == (5,)
    refused(lambda: Full(ones(3)).wrong(), "Full.wrong(result)")

    class Sub(Full, check="off"):
        def other(self) -> int:
            return "text"

    assert Sub.make(1) == 1
    refused(lambda: Full.make(1), "Full.make(result)")
    assert Sub(ones(3)).wrong().shape == (5,)
    assert Sub(ones(3)).other() == "text"


def test_a_class_that_says_full_needs_no_block():
    token = anx._mode._asked.set(None)
    try:

        class Full(anx.Module, check="full"):
            def wrong(self) -> int:
                return "text"

        refused(Full().wrong, "Full.wrong(result)")
    finally:
        anx._mode._asked.reset(token)


def test_jaxtyping_switched_off(monkeypatch):
    model = layer()
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    assert model.wrong(ones(3)).shape == (3,)


def test_frozen_and_adopted_variants():
    class Holder(eqx.Module):
        inner: Any
        name: str = "x"

    model = layer()
    frozen = anx.freeze(model, anx.by_path("weight"))
    adopted = anx.adopt(Holder(model)).inner
    for changed in (frozen, adopted):
        assert changed(ones(3)).shape == (2,)
        refused(lambda changed=changed: changed(ones(4)), "Linear.__call__(x)")
    assert type(frozen).__call__ is type(model).__call__


def test_trees_in_the_shape_of_a_model():
    Linear = linear()
    tree = jax.tree.map(lambda _: None, Linear(ones((2, 3)), 7))
    assert tree.free(3) == 3
    with anx.checking("off"):
        axes = Linear(0, 7)
    stack = eqx.filter_vmap(lambda w: Linear(w, 7))(ones((5, 2, 3)))
    assert jax.vmap(Linear.__call__, in_axes=(axes, None))(stack, ones(3)).shape == (5, 2)
    assert axes.add(ones(2), ones(2)).shape == (2,)


def test_under_the_import_hook_of_jaxtyping(tmp_path, monkeypatch):
    (tmp_path / "hooked_model.py").write_text(
        "import annotax as anx\n"
        "from jaxtyping import Array, Float\n"
        "class Model(anx.Module):\n"
        "    weight: anx.Param[Float[Array, 'n']]\n"
        "    def __call__(self, x: Float[Array, 'n']) -> Float[Array, 'n']:\n"
        "        return x\n"
        "    def wrong(self, x: Float[Array, 'm']) -> Float[Array, 'n']:\n"
        "        return x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with jaxtyping.install_import_hook("hooked_model", "beartype.beartype"):
        import hooked_model
    model = hooked_model.Model(ones(3))
    assert model(ones(3)).shape == (3,)
    for call in (lambda: model(ones(4)), lambda: model.wrong(ones(4))):
        with pytest.raises(anx.CheckError, match="set by the field weight") as info:
            call()
        assert info.value.__context__ is info.value.__cause__ is None
    with pytest.raises(jaxtyping.TypeCheckError) as info:
        hooked_model.Model(ones((3, 3)))
