"""Adopting: foreign modules keep their roles, and no leaf is left that is no array."""

import copy
import functools
import inspect
import math
import pickle
import textwrap
import typing
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array

import annotax as anx
from annotax import _variant
from annotax._registry import registry
from annotax._view import view

KEY = jax.random.key(0)


class Plain(eqx.Module):
    """Nobody registered it."""

    weight: Array
    count: Array
    activation: Any
    rate: float
    nothing: Any
    options: dict[str, Any]
    sizes: list[int]
    part: Any

    def __call__(self, x):
        x = self.activation(self.rate * self.weight * x)
        for _ in range(self.options["repeats"]):
            x = x + len(self.sizes)
        return x if self.part is None else self.part(x)


def plain(part=None, activation=jnp.tanh, rate=0.5):
    options = {"repeats": 2, "names": ["a", "b"]}
    return Plain(jnp.ones(3), jnp.arange(2), activation, rate, None, options, [1, 2], part)


def structure(tree):
    return jax.tree.structure(tree)


def only_arrays(tree):
    return all(map(eqx.is_array, jax.tree.leaves(tree)))


def test_fields_without_arrays_become_static_and_read_as_before():
    model = plain()
    adopted = anx.adopt(model)
    assert only_arrays(adopted)
    assert [f for f in vars(model) if getattr(adopted, f) is not getattr(model, f)] == [
        "options",
        "sizes",
    ]
    assert adopted.options == model.options
    assert (type(adopted.options), type(adopted.options["names"])) == (dict, list)
    assert adopted.sizes == [1, 2]
    assert jnp.array_equal(jax.jit(lambda m, x: m(x))(adopted, 2.0), model(2.0))
    assert isinstance(adopted, Plain)
    assert repr(adopted) == repr(jax.tree.map(lambda x: x, model))


def test_what_was_inferred_is_marked():
    adopted = anx.adopt(plain())
    weight, count = anx.records(adopted)
    assert (weight.role, weight.inferred, weight.trainable) == (anx.Param, True, True)
    assert (count.role, count.inferred, count.trainable) == (anx.Buffer, True, False)
    statics = {s.path: (s.spec.role, s.spec.origin) for s in view(adopted).layout.statics}
    assert statics == dict.fromkeys(
        ["activation", "rate", "options", "sizes"], (anx.Role.of(anx.Hyper), "inferred")
    )
    assert anx.records(plain())[0].undeclared


def test_what_is_registered_and_not_adopted_is_visible():
    class Layer(eqx.Module):
        weight: Array
        table: Array
        rate: float

    anx.register(Layer, weight=anx.Param, table=anx.Buffer, rate=anx.Hyper)
    layer = Layer(jnp.ones(2), jnp.ones(2), 0.5)
    seen = {r.path: (r.origin, r.enforced) for r in anx.records(layer)}
    assert seen == {
        "weight": ("registered", True),
        "table": ("registered", False),
        "rate": ("registered", False),
    }
    adopted = {r.path: (r.origin, r.enforced) for r in anx.records(anx.adopt(layer))}
    assert adopted == {"weight": ("registered", True), "table": ("registered", True)}


def test_the_gradient_into_a_registered_buffer_is_stopped():
    class Layer(eqx.Module):
        weight: Array
        table: Any

        def __call__(self, x):
            return jnp.sum(self.weight * x * self.table[0] + self.table[1])

    anx.register(Layer, table=anx.Buffer)
    layer = Layer(jnp.ones(2), [jnp.ones(2), jnp.ones(2)])
    grads = jax.grad(lambda m: m(2.0))(anx.adopt(layer))
    assert not any(map(jnp.any, grads.table))
    assert jnp.all(grads.weight == 2)
    assert jnp.any(jax.grad(lambda m: m(2.0))(layer).table[0])


def test_paths_parameters_and_their_structure_stay():
    model = {"a": [plain(eqx.nn.MLP(3, 1, 4, 1, key=KEY)), jnp.tanh], "b": eqx.nn.Dropout()}
    adopted = anx.adopt(model)
    assert structure(anx.params(adopted)) == structure(anx.params(model))
    for path, value in anx.params(model).items():
        assert anx.params(adopted)[path] is value
    assert only_arrays(adopted)


def test_functions_in_containers_are_called_as_they_are():
    def join(x, y, *, times=1):
        return times * (x + y)

    model = [eqx.nn.Linear(3, 3, key=KEY), jnp.tanh, {"join": join, "w": jnp.ones(3)}]
    adopted = anx.adopt(model)
    assert only_arrays(adopted)
    assert isinstance(adopted[1], eqx.nn.Lambda)
    assert jnp.array_equal(adopted[1](jnp.ones(2)), jnp.tanh(jnp.ones(2)))
    assert adopted[2]["join"](1, 2, times=2) == 6
    assert anx.adopt(adopted)[1] is adopted[1]
    assert structure(anx.adopt(list(model))) == structure(adopted)


def test_functions_in_a_list_of_layers_in_a_module():
    class Net(eqx.Module):
        layers: list

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    net = Net([eqx.nn.Linear(3, 3, key=KEY), jax.nn.relu, eqx.nn.Linear(3, 1, key=KEY)])
    adopted = anx.adopt(net)
    x = jnp.ones(3)
    assert jnp.allclose(jax.jit(lambda net, x: net(x))(adopted, x), net(x))
    grads = jax.grad(lambda net: jnp.sum(net(x)))(adopted)
    plain_grads = eqx.filter_grad(lambda net: jnp.sum(net(x)))(net)
    assert jnp.allclose(grads.layers[0].weight, plain_grads.layers[0].weight)


def test_functions_alone_in_a_field_stay_what_they_are():
    model = plain(activation=[jnp.tanh, max])
    adopted = anx.adopt(eqx.tree_at(lambda m: m.options, model, {"f": {"max": max}}))
    assert adopted.activation == [jnp.tanh, max]
    assert adopted.options == {"f": {"max": max}}


def test_functions_in_annotax_modules():
    class Layer(anx.Module):
        weight: anx.Param[Array]
        activation: Any
        steps: list

    layer = Layer(jnp.ones(2), jax.nn.gelu, [eqx.nn.Identity(), jnp.tanh])
    adopted = anx.adopt(layer)
    assert only_arrays(adopted)
    assert adopted.activation is jax.nn.gelu
    assert isinstance(adopted.steps[1], eqx.nn.Lambda)
    assert anx.records(adopted)[0].declared
    assert type(anx.adopt(Layer(jnp.ones(2), None, []))) is Layer


def test_a_field_whose_modules_nobody_speaks_for_is_static_as_a_whole():
    class Solver(eqx.Module):
        tolerance: float
        norm: Any

    class Holder(eqx.Module):
        solver: Any
        weight: Array

    adopted = anx.adopt(Holder(Solver(1e-3, jnp.linalg.norm), jnp.ones(2)))
    assert type(adopted.solver) is Solver
    assert (adopted.solver.tolerance, adopted.solver.norm) == (1e-3, jnp.linalg.norm)
    changed = eqx.tree_at(lambda s: s.tolerance, adopted.solver, 1e-6)
    assert changed.tolerance == 1e-6
    # A layer that somebody speaks for is looked at itself.
    inner = anx.adopt(Holder([eqx.nn.Dropout(0.5)], jnp.ones(2)))
    assert view(inner).layout.statics[0].path == "solver.0.p"


def test_numbers_are_told_apart_that_jax_takes_for_one():
    traces = []

    @jax.jit
    def run(model):
        traces.append(1)
        return jnp.arange(3) * model.part

    for part in (1, 1.0, True, 1):
        out = run(anx.adopt(plain(part=part)))
        assert out.dtype == (jnp.arange(3) * part).dtype
        assert type(anx.adopt(plain(part=part)).part) is type(part)
    assert len(traces) == 3
    assert structure(anx.adopt(plain(part=(1, 2)))) != structure(
        anx.adopt(plain(part=(1.0, 2)))
    )


def test_equal_models_adopted_apart_compile_once():
    traces = []

    @jax.jit
    def run(model, x):
        traces.append(1)
        return model(x)

    for _ in range(3):
        run(anx.adopt(plain(part=eqx.nn.MLP(3, 1, 4, 1, key=KEY))), jnp.ones(3))
    assert len(traces) == 1


def test_a_class_changes_only_where_something_in_it_does():
    class Holder(eqx.Module):
        part: Any
        more: Any = None

    model = [Holder(eqx.nn.Linear(2, 2, key=KEY)), Holder(None), eqx.nn.Identity()]
    assert anx.adopt(model) is model
    assert type(anx.adopt(Holder(eqx.nn.Dropout(0.5)))) is Holder


def test_what_stands_before_a_state_index_is_adopted_as_ever():
    adopted = anx.adopt([plain(), jnp.tanh, eqx.nn.StateIndex(jnp.zeros(1))])
    assert structure(adopted[:2]) == structure(anx.adopt([plain(), jnp.tanh]))
    assert type(adopted[2]) is eqx.nn.StateIndex


def test_adopting_again_changes_nothing():
    adopted = anx.adopt([plain(), eqx.nn.Dropout(0.5), jnp.tanh])
    assert structure(anx.adopt(adopted)) == structure(adopted)
    assert anx.adopt(adopted)[0] is adopted[0]


def test_the_original_is_untouched():
    model = plain(part=eqx.nn.Dropout(0.5))
    before = dict(vars(model)), structure(model)
    anx.adopt(model)
    assert (dict(vars(model)), structure(model)) == before
    assert type(model) is Plain


def test_a_later_registration_wins_whatever_was_cached():
    class Layer(eqx.Module):
        weight: Array
        table: Array
        rate: float

    layer = Layer(jnp.ones(2), jnp.ones(2), 0.5)
    adopted = anx.adopt(layer)
    assert list(anx.params(adopted)) == ["weight", "table"]
    assert anx.records(adopted)[1].inferred
    anx.register(Layer, table=anx.field(role=anx.Buffer, tags=["constant"]))
    assert list(anx.params(adopted)) == list(anx.params(layer)) == ["weight"]
    assert anx.by_tag("constant").paths(adopted) == ("table",)
    assert not anx.records(adopted)[1].enforced
    again = anx.adopt(adopted)
    assert anx.records(again)[1].enforced
    assert not jnp.any(jax.grad(lambda m: jnp.sum(m.table * m.weight))(again).table)
    anx.register(Layer, table=anx.Param)
    assert list(anx.params(anx.adopt(again))) == ["weight", "table"]
    assert jnp.any(jax.grad(lambda m: jnp.sum(m.table * m.weight))(anx.adopt(again)).table)


def test_a_buffer_that_is_registered_as_a_param_is_trained_at_once():
    class Layer(eqx.Module):
        table: Any

    anx.register(Layer, table=anx.Buffer)
    for table in (jnp.ones(2), [jnp.ones(2), "constant"]):
        adopted = anx.adopt(Layer(table))

        def loss(layer):
            return sum(jnp.sum(x) for x in jax.tree.leaves(layer.table) if eqx.is_array(x))

        assert not any(map(jnp.any, jax.tree.leaves(jax.grad(loss)(adopted))))
        anx.register(Layer, table=anx.Param)
        assert anx.trainable_filter.count(adopted) == 1
        assert all(map(jnp.any, jax.tree.leaves(jax.grad(loss)(adopted))))
        anx.register(Layer, table=anx.Buffer)
        assert not any(map(jnp.any, jax.tree.leaves(jax.grad(loss)(adopted))))


def test_what_became_static_cannot_be_registered_as_an_array_afterwards():
    class Layer(eqx.Module):
        weight: Array
        scale: Any

    adopted = [anx.adopt(Layer(jnp.ones(2), 2.0))]
    anx.register(Layer, scale=anx.Param)
    with pytest.raises(anx.HyperError) as info:
        anx.adopt(adopted)
    assert (
        "0.scale: static since it was adopted, and registered as a param meanwhile; adopt "
        "the original"
    ) in " ".join(str(info.value).split())


def test_inferred_constants_keep_their_type_whatever_the_annotation_says():
    class Crop(eqx.Module):
        weight: Array
        n: float
        flag: float | None = None

        def __call__(self, x):
            return x[: self.n]

    crop = Crop(jnp.ones(2), 1, True)
    adopted = anx.adopt(crop)
    assert (adopted.n, type(adopted.n), adopted.flag) == (1, int, True)
    assert adopted(jnp.ones(3)).shape == (1,)
    assert structure(adopted) != structure(anx.adopt(Crop(jnp.ones(2), 1.0, True)))


def test_registering_the_class_of_an_adopted_instance_registers_the_class():
    class Layer(eqx.Module):
        weight: Array
        rate: float

    adopted = anx.adopt(Layer(jnp.ones(2), 0.5))
    assert type(adopted) is not Layer
    anx.register(type(adopted), weight=anx.Buffer)
    assert list(anx.params(Layer(jnp.ones(2), 0.5))) == []


def test_constants_beside_arrays_in_a_registered_field():
    class Call(eqx.Module):
        fn: Any
        args: tuple

        def __call__(self):
            return self.fn(*self.args)

    call = Call(jnp.concatenate, ([jnp.ones((1, 2)), jnp.ones((1, 2))], 1))
    with pytest.raises(anx.HyperError, match=r"args\.1: an int; stands beside arrays"):
        anx.adopt(call)
    anx.register(Call, args=anx.Param)
    adopted = anx.adopt(call)
    assert only_arrays(adopted)
    assert adopted.args[1] == 1
    assert type(adopted.args) is tuple
    assert adopted.args[0][0] is call.args[0][0]
    assert jax.jit(lambda c: c())(adopted).shape == (1, 4)
    grads = jax.grad(lambda c: jnp.sum(c()))(adopted)
    assert [g.shape for g in jax.tree.leaves(grads)] == [(1, 2), (1, 2)]
    changed = eqx.tree_at(lambda c: c.args[0][1], adopted, jnp.zeros((1, 2)))
    assert float(jnp.sum(changed())) == 2
    mask = jax.tree.map(lambda _: True, adopted)
    assert mask.args == ([True, True], 1)
    frozen = anx.freeze(adopted, anx.everything)
    assert not any(map(jnp.any, jax.tree.leaves(jax.grad(lambda c: jnp.sum(c()))(frozen))))
    assert frozen.args[1] == 1
    assert anx.unfreeze(frozen) == adopted
    assert anx.adopt(adopted) is adopted
    for again in (pickle_of(adopted.args), copy.deepcopy(adopted).args):
        assert again[1] == 1


def test_editing_a_registered_container_keeps_its_constants():
    class Box(eqx.Module):
        items: list

    anx.register(Box, items=anx.Param)
    linear = eqx.nn.Linear(2, 2, key=KEY)
    box = anx.adopt(Box([eqx.nn.Dropout(0.5), linear, jnp.ones(2), 3]))
    for changed in (
        box,
        anx.adopt(box),
        anx.inference_mode(box),
        anx.replace(box, {"items.2": jnp.zeros(2)}),
        anx.replace(box, {"items.3": 4}),
        anx.replace(box, items=[jnp.ones(2), 5]),
        anx.freeze(box, anx.by_path("items.1.weight")),
        anx.unfreeze(anx.freeze(box, anx.everything)),
    ):
        assert only_arrays(changed)
        assert type(changed.items[-1]) is int
    assert anx.inference_mode(box).items[0].inference is True
    grads = jax.grad(lambda b: jnp.sum(b.items[2] * b.items[3]))(box)
    assert jnp.all(grads.items[2] == 3)


def test_classes_and_callable_objects_in_containers_are_no_functions():
    for odd in (jnp.bfloat16, int, eqx.nn.Identity):
        with pytest.raises(anx.HyperError, match="stands beside arrays"):
            anx.adopt(plain(part={"w": jnp.ones(2), "odd": odd}))

    class Called:
        def __call__(self, x):
            return x

    with pytest.raises(anx.HyperError, match="odd: a Called; stands beside arrays"):
        anx.adopt(plain(part={"w": jnp.ones(2), "odd": Called()}))


def test_a_partial_function_in_a_container_is_a_function():
    adopted = anx.adopt([functools.partial(max, 1), jnp.ones(2)])
    assert only_arrays(adopted)
    assert (adopted[0](0), adopted[0](2)) == (1, 2)


def test_an_adopted_class_is_made_as_its_original():
    cls = type(anx.adopt(plain()))
    assert inspect.signature(cls) == inspect.signature(Plain)
    annotations = typing.get_type_hints(Plain.__init__)
    assert typing.get_type_hints(cls.__init__) == annotations
    assert annotations["rate"] is float


def test_a_class_that_forbids_subclasses_is_asked_once():
    asked = []

    class Final(type(eqx.Module)):
        def __new__(cls, name, bases, namespace, **kwargs):
            if any(isinstance(base, Final) for base in bases):
                asked.append(name)
                raise TypeError("no subclasses")
            return super().__new__(cls, name, bases, namespace, **kwargs)

    class Sealed(eqx.Module, metaclass=Final):
        weight: Any

    anx.adopt(Sealed(jnp.ones(2)))
    anx.adopt([Sealed(jnp.ones(2)), Sealed(jnp.ones(2))])
    assert asked == ["Sealed"]
    assert not any(v.original is Sealed for v in registry.variants.values())


def test_a_static_field_cannot_be_registered_as_an_array():
    class Layer(eqx.Module):
        n: int = eqx.field(static=True)

    with pytest.raises(anx.AnnotationError, match=r"Layer\.n: a param cannot be static"):
        anx.register(Layer, n=anx.Param)
    anx.register(Layer, n=anx.Hyper)


def test_static_values_are_compared_with_their_structure_and_sign():
    def adopted(value):
        return structure(anx.adopt(plain(part=value)))

    for one, other in (
        ({"a": 1}, {"b": 1}),
        ([1, [2]], [[1], 2]),
        (0.0, -0.0),
        ([1], (1,)),
        ([True], [1]),
    ):
        assert adopted(one) != adopted(other)
        assert adopted(one) == adopted(copy.deepcopy(one))


def test_a_subclass_of_a_registered_class_is_looked_at_itself():
    class Base(eqx.Module):
        rate: float

    class Sub(Base):
        pass

    class Deep(eqx.Module):
        inner: Any

    class Holder(eqx.Module):
        part: Any

    anx.register(Base, rate=anx.Hyper)
    for part in (Sub(0.5), Deep(Sub(0.5)), [Deep([Sub(0.5)])]):
        layout = view(anx.adopt(Holder(part))).layout
        assert [s.path.rpartition(".")[2] for s in layout.statics] == ["rate"]


def pickle_of(value):
    return pickle.loads(pickle.dumps(value))


def test_freezing_and_adopting_go_in_either_order():
    model = [plain(), eqx.nn.MLP(3, 1, 4, 1, key=KEY)]
    one = anx.adopt(anx.freeze(model, anx.by_path("0.weight")))
    other = anx.freeze(anx.adopt(model), anx.by_path("0.weight"))
    assert structure(one) == structure(other)
    assert next(iter(anx.params(one))) == "1.layers.0.weight"
    assert structure(anx.unfreeze(one)) == structure(anx.adopt(model))


def test_abstract_models_are_adopted_alike():
    skeleton = eqx.filter_eval_shape(plain)
    adopted = anx.adopt(skeleton)
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(adopted))
    assert structure(adopted) == structure(anx.adopt(plain()))


@pytest.mark.parametrize("roundtrip", [pickle_of, copy.deepcopy, copy.copy])
def test_copies_stay_adopted(roundtrip):
    adopted = anx.adopt(plain(activation=math.tanh, part=eqx.nn.Dropout(0.5)))
    again = roundtrip(adopted)
    assert structure(again) == structure(adopted)
    assert again.options == adopted.options


class Reduced(eqx.Module):
    """Pickles in its own way."""

    weight: Array
    options: dict[str, int]

    def __reduce__(self):
        return _reduced, (self.weight, self.options)


def _reduced(weight, options):
    return Reduced(weight, {**options, "read": 1})


def test_pickling_in_its_own_way_sees_the_values_and_not_how_they_are_held():
    adopted = anx.adopt(Reduced(jnp.ones(2), {"a": 0}))
    again = pickle_of(adopted)
    assert again.options == {"a": 0, "read": 1}
    assert only_arrays(again)
    assert type(again) is type(adopted)


def test_defaults_of_adopted_fields_stay():
    class Layer(eqx.Module):
        weight: Array
        table: Any = 2.0
        name: Any = "layer"

        def __init__(self, weight, table=None, name=None):
            self.weight = weight
            if table is not None:
                self.table, self.name = table, name

    anx.register(Layer, table=anx.Buffer)
    cls = type(anx.adopt(Layer(jnp.ones(2), jnp.ones(2), "other")))
    assert cls is not Layer
    bare = cls(jnp.ones(2))
    assert (bare.table, bare.name, cls.table, cls.name) == (2.0, "layer", 2.0, "layer")
    assert not hasattr(cls, "weight")


def test_a_registered_hyper_is_held_only_where_its_hint_leaves_its_type_open():
    class Layer(eqx.Module):
        n: Any
        sizes: list
        rate: float

    anx.register(Layer, n=anx.Hyper, sizes=anx.Hyper, rate=anx.Hyper)
    models = [anx.adopt([Layer(n, [1], 1)])[0] for n in (1, 1.0, True)]
    assert len({structure(model) for model in models}) == 3
    assert structure(models[0]) == structure(anx.adopt(Layer(1, [1], 1)))
    assert structure(models[0]) != structure(anx.adopt(Layer(1, [1.0], 1)))
    assert [type(model.n) for model in models] == [int, float, bool]
    assert models[0].sizes == [1]
    stored = vars(models[0])["rate"]
    assert (stored, type(stored)) == (1.0, float)


def test_the_default_of_a_container_of_arrays_and_constants_stays():
    class Layer(anx.Module):
        items: anx.Buffer[Any] = ()

        def __init__(self, items=None):
            if items is not None:
                self.items = items

    cls = type(anx.adopt(Layer([jnp.ones(1), "constant"])))
    assert cls is not Layer
    assert (cls.items, cls().items) == ((), ())


def test_the_converter_of_a_field_that_became_static_still_runs():
    class Layer(eqx.Module):
        weight: Array
        sizes: Any = eqx.field(converter=tuple)

    adopted = anx.adopt(Layer(jnp.ones(2), [1, 2]))
    assert anx.replace(adopted, sizes=[3, 4]).sizes == (3, 4)
    assert type(adopted)(jnp.ones(2), [5]).sizes == (5,)


def test_mutating_what_was_read_changes_nothing():
    adopted = anx.adopt(plain())
    adopted.options["repeats"] = 5
    adopted.sizes.append(3)
    assert adopted.options["repeats"] == 2
    assert adopted.sizes == [1, 2]


def test_replacing_in_an_adopted_model():
    adopted = anx.adopt([plain(), eqx.nn.Dropout(0.5)])
    changed = anx.replace(adopted, {"0.options": {"repeats": 0}, "1.p": 1, "0.rate": 2})
    assert changed[0].options == {"repeats": 0}
    assert (changed[1].p, type(changed[1].p)) == (1.0, float)
    assert (changed[0].rate, type(changed[0].rate)) == (2, int)
    assert only_arrays(changed)
    assert anx.replace(adopted, {"0.options.repeats": 7})[0].options["repeats"] == 7
    with pytest.raises(anx.HyperError, match=r"Dropout\.p: an array cannot be a Hyper"):
        anx.replace(adopted, {"1.p": jnp.ones(())})


def test_variants_of_classes_with_strings_and_post_init():
    class Base(eqx.Module):
        weight: "Array"
        fn: "Any"

        def __init__(self):
            self.weight, self.fn = jnp.ones(2), jnp.tanh

    adopted = anx.adopt(Base())
    assert only_arrays(adopted)
    assert typing.get_type_hints(type(adopted)) == typing.get_type_hints(Base)

    class Late(eqx.Module):
        weight: Array
        fn: Any

        def __post_init__(self):
            pass

    assert anx.adopt(Late(jnp.ones(2), max)).fn is max

    with pytest.warns(UserWarning, match="__post_init__"):

        class Both(eqx.Module):
            weight: Array
            fn: Any

            def __init__(self):
                self.weight, self.fn = jnp.ones(2), max

            def __post_init__(self):
                pass

    assert anx.adopt(Both()).fn is max  # no second warning


def test_a_class_that_forbids_subclasses_is_left_alone_where_nothing_must_change():
    class Final(type(eqx.Module)):
        def __new__(cls, name, bases, namespace, **kwargs):
            if any(isinstance(base, Final) for base in bases):
                raise TypeError("no subclasses")
            return super().__new__(cls, name, bases, namespace, **kwargs)

    class Sealed(eqx.Module, metaclass=Final):
        weight: Any

    model = Sealed(jnp.ones(2))
    assert anx.adopt(model) is model
    with pytest.raises(anx.AnnotationError) as info:
        anx.adopt(Sealed(1.5))
    assert str(info.value) == textwrap.dedent("""\
        Sealed: its class cannot be subclassed, so its instances cannot be frozen or adopted
          expected: a class that allows subclasses
          found:    TypeError: no subclasses
          fix:      annotax.register(Sealed, ...) makes selections right""")


# --- what is refused -----------------------------------------------------------------


def test_everything_that_cannot_be_static_is_listed_at_once():
    model = {
        "set": plain(part={1, 2}),
        "n": plain(rate=math.nan),
        "mixed": plain(part=[jnp.ones(2), 2.0, "text"]),
        "loose": 3,
    }
    before = structure(model)
    with pytest.raises(anx.HyperError) as info:
        anx.adopt(model)
    assert str(info.value) == textwrap.dedent("""\
        adopt(dict): not everything in it can be an array or static
          expected: arrays, and hashable values in fields without arrays
          found:    mixed.part.1: a float; stands beside arrays or modules
                    mixed.part.2: a str; stands beside arrays or modules
                    n.rate: a float; a Hyper must equal itself, or every call compiles anew
                    set.part: a set; a mutable or unhashable value cannot be a Hyper
                    loose: an int; stands in no module, so nothing can make it static
          fix:      make numbers arrays (jnp.asarray) or give them a field of their own;
                    beside the arrays of a registered field, the rest is static""")
    assert structure(model) == before


def test_a_number_in_a_param_is_refused():
    class Layer(anx.Module):
        scale: anx.Param[Any]
        table: anx.Buffer[Any]

    with pytest.raises(anx.HyperError) as info:
        anx.adopt([Layer(2.0, 1)])
    assert "0.scale: a float; a param must be an array" in str(info.value)
    assert "0.table: an int; a buffer must be an array" in str(info.value)


def test_a_bare_function_or_number_is_no_model():
    with pytest.raises(anx.HyperError, match="the model: a float; stands in no module"):
        anx.adopt(2.0)
    with pytest.raises(anx.HyperError, match="the model: "):
        anx.adopt(jnp.tanh)


def test_a_function_with_arrays_inside_is_refused():
    hidden = functools.partial(jnp.add, jnp.ones(2))
    with pytest.raises(anx.HyperError, match="an array cannot be a Hyper"):
        anx.adopt([plain(activation=hidden)])
    with pytest.raises(anx.HyperError, match="an array cannot be a Hyper"):
        anx.adopt([hidden, jnp.ones(2)])


def test_a_state_index_of_a_number_is_refused():
    with pytest.raises(anx.HyperError, match=r"0\.init: an int; a buffer must be an array"):
        anx.adopt([eqx.nn.StateIndex(0)])


def test_a_traced_rate_is_refused():
    dropout = eqx.nn.Dropout(0.5)
    with pytest.raises(anx.HyperError, match="adopt"):
        jax.jit(lambda m: anx.adopt(m).p)(dropout)


def test_unknown_fields_are_refused_by_register():
    with pytest.raises(anx.FieldError, match="did you mean 'weight'"):
        anx.register(Plain, wieght=anx.Param)
    with pytest.raises(anx.FieldError, match="weihgt"):
        anx.register(eqx.nn.Linear, weihgt=anx.Param)


def test_the_second_adoption_of_a_kind_makes_no_class(monkeypatch):
    anx.adopt(plain())
    monkeypatch.setattr(_variant, "_make", None)
    anx.adopt(plain())


def test_other_nodes_may_hold_functions_beside_arrays():
    class Pair(NamedTuple):
        array: Any
        function: Any

    adopted = anx.adopt(plain(part=[Pair(jnp.ones(2), jnp.tanh)]))
    assert only_arrays(adopted)
    assert type(adopted.part[0]) is Pair
    assert float(adopted.part[0].function(0.0)) == 0.0


def test_dictionaries_are_in_the_order_that_jax_gives_them():
    one, other = {"b": 1, "a": 2}, {"a": 2, "b": 1}
    adopted = [anx.adopt(plain(part=options)) for options in (one, other)]
    assert structure(adopted[0]) == structure(adopted[1])
    assert list(adopted[0].part) == list(jax.tree.map(int, one)) == ["a", "b"]


@pytest.mark.parametrize("sizes", [[], [3], [3, 4]])
def test_a_container_that_is_registered_as_a_hyper(sizes):
    class Foreign(eqx.Module):
        weight: Array
        sizes: list[int]

    anx.register(Foreign, weight=anx.Param, sizes=anx.Hyper)
    adopted = anx.adopt(Foreign(jnp.ones(2), sizes))
    assert adopted.sizes == sizes
    assert jax.jit(lambda m: m.weight * len(m.sizes))(adopted).tolist() == [len(sizes)] * 2
