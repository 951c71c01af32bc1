"""Freezing: by selection, by field, by instance, and back again."""

import copy
import dataclasses
import gc
import inspect
import io
import pickle
import subprocess
import sys
import textwrap
import threading
import typing
from typing import Any

import cloudpickle
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from jaxtyping import Array, Float

import annotax as anx
from annotax import _variant


class Linear(anx.Module):
    """A layer."""

    weight: anx.Param[Float[Array, "m n"]]
    bias: anx.Param[Float[Array, " m"]] = anx.field(tags=["no_decay"], doc="added")
    mean: anx.Buffer[Float[Array, " n"]]
    rate: anx.Hyper[float]

    def __init__(self, n, m, key=0, rate=0.5):
        self.weight = jax.random.normal(jax.random.key(key), (m, n))
        self.bias = jnp.zeros(m)
        self.mean = jnp.full(n, 0.5)
        self.rate = rate

    def __call__(self, x):
        return self.weight @ (x - self.mean) + self.bias


class Model(anx.Module):
    body: list[Linear]
    heads: dict[str, Linear]
    scale: anx.Param[Array]

    def __init__(self):
        self.body = [Linear(3, 3, 1), Linear(3, 3, 2)]
        self.heads = {"a": Linear(3, 2, 3), "b": Linear(3, 1, 4)}
        self.scale = jnp.ones(())

    def __call__(self, x):
        for layer in self.body:
            x = jnp.tanh(layer(x))
        return self.scale * jnp.concatenate([head(x) for head in self.heads.values()])


BODY = anx.by_path("body.**") & anx.trainable_filter
X = jnp.array([0.1, -0.2, 0.3])


def loss(model, x=X):
    return jnp.sum(model(x) ** 2)


def structure(tree):
    return jax.tree.structure(tree)


# --- what freezing does --------------------------------------------------------------


def test_frozen_leaves_are_read_as_before_and_not_trained():
    model = Model()
    frozen = anx.freeze(model, BODY)
    assert frozen.body[0].weight is model.body[0].weight
    assert frozen.body[0].rate == 0.5
    assert list(anx.params(frozen)) == [
        path for path in anx.params(model) if not path.startswith("body")
    ]
    by_path = {record.path: record for record in anx.records(frozen)}
    assert by_path["body.0.weight"].role == anx.Param
    assert by_path["body.0.weight"].frozen
    assert not by_path["body.0.weight"].trainable
    assert by_path["body.0.bias"].tags == {"no_decay"}
    assert by_path["body.0.bias"].doc == "added"
    assert by_path["body.0.weight"].owner is Linear
    assert not by_path["heads.a.weight"].frozen
    assert jnp.array_equal(frozen(X), model(X))


def test_no_gradient_reaches_a_frozen_leaf_and_all_others_get_theirs():
    model = Model()
    frozen = anx.freeze(model, BODY)
    grads, plain = jax.grad(loss)(frozen), jax.grad(loss)(model)
    for record, grad, twin in zip(
        anx.records(frozen), jax.tree.leaves(grads), jax.tree.leaves(plain), strict=True
    ):
        expected = jnp.zeros_like(twin) if record.frozen else twin
        assert jnp.array_equal(grad, expected), record.path
    assert jnp.any(plain.body[0].weight != 0)


def test_gradients_flow_through_a_frozen_layer_to_its_input():
    frozen = anx.freeze(Linear(3, 2), anx.everything)
    assert jnp.array_equal(
        jax.grad(lambda x: jnp.sum(frozen(x)))(X), jnp.sum(frozen.weight, 0)
    )


def test_freezing_belongs_to_the_instance():
    one, other = Linear(3, 2), Linear(3, 2)
    frozen = anx.freeze(one, anx.by_path("weight"))
    assert list(anx.params(frozen)) == ["bias"]
    assert list(anx.params(one)) == list(anx.params(other)) == ["weight", "bias"]
    assert jnp.any(jax.grad(lambda m: jnp.sum(m(X)))(other).weight != 0)


def test_a_frozen_layer_stays_frozen_in_another_model():
    frozen = anx.freeze(Model(), BODY)
    moved = {"body": frozen.body, "new": Linear(3, 1)}
    assert list(anx.params(moved)) == ["new.weight", "new.bias"]


def test_freezing_reaches_modules_inside_containers_and_foreign_layers():
    model = {"mlp": (eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0)),), "list": [Model()]}
    frozen = anx.freeze(
        model, anx.by_path("mlp.0.layers.0.*") | anx.by_path("list.**.bias")
    )
    assert "mlp.0.layers.0.weight" not in anx.params(frozen)
    assert "mlp.0.layers.1.weight" in anx.params(frozen)
    assert not any(path.endswith("bias") for path in anx.params(frozen["list"]))
    assert type(frozen["mlp"]) is tuple


def test_a_list_of_arrays_in_a_field_is_frozen_as_a_whole():
    class Stack(anx.Module):
        weights: anx.Param[list[Array]]
        other: anx.Param[Array]

    model = Stack([jnp.ones(2), jnp.ones(3)], jnp.ones(4))
    frozen = anx.freeze(model, anx.by_path("weights.*"))
    assert list(anx.params(frozen)) == ["other"]
    grads = jax.grad(lambda m: sum(jnp.sum(w) for w in m.weights) + jnp.sum(m.other))(
        frozen
    )
    assert [float(jnp.sum(g)) for g in jax.tree.leaves(grads)] == [0, 0, 4]
    with pytest.raises(anx.SelectionError, match=r"weights: without weights\.1"):
        anx.freeze(model, anx.by_path("weights.0"))


def test_arrays_beside_layers_are_frozen_with_them_or_not_at_all():
    class Mixed(anx.Module):
        parts: Any

    model = Mixed([jnp.ones(2), eqx.nn.Linear(2, 1, key=jax.random.key(0))])
    frozen = anx.freeze(model, anx.by_path("parts.1.*"))
    assert list(anx.params(frozen)) == ["parts.0"]
    with pytest.raises(anx.SelectionError, match=r"parts: without parts\.1\.weight"):
        anx.freeze(model, anx.by_path("parts.0"))
    both = anx.freeze(frozen, anx.by_path("parts.0"))
    assert structure(both) == structure(anx.freeze(model, anx.everything))
    assert structure(anx.unfreeze(both, anx.by_path("parts.0"))) == structure(frozen)
    with pytest.raises(anx.SelectionError, match=r"parts: without parts\.0"):
        anx.unfreeze(both, anx.by_path("parts.1.*"))
    assert structure(anx.unfreeze(both)) == structure(model)


def test_arrays_that_cannot_train_do_not_count():
    class Mixed(anx.Module):
        table: Any
        index: anx.Buffer[Array]

    model = Mixed([jnp.ones(2), jnp.arange(3), "name"], jnp.arange(2))
    frozen = anx.freeze(model, anx.trainable_filter)
    assert list(anx.params(frozen)) == []
    assert structure(anx.unfreeze(frozen)) == structure(model)


def test_several_freezes_are_one():
    model = Model()
    a, b = anx.by_path("body.*.weight"), anx.by_path("**.bias")
    both = anx.freeze(anx.freeze(model, a), b)
    assert structure(both) == structure(anx.freeze(model, a | b))
    assert structure(both) == structure(anx.freeze(anx.freeze(model, b), a))
    assert structure(anx.freeze(both, a)) == structure(both)


def test_unfreezing_a_part_leaves_the_rest_frozen():
    model = Model()
    frozen = anx.freeze(model, anx.trainable_filter)
    thawed = anx.unfreeze(frozen, anx.by_path("body.1.*"))
    assert list(anx.params(thawed)) == ["body.1.weight", "body.1.bias"]
    assert type(thawed.body[1]) is Linear
    rest = anx.trainable_filter & ~anx.by_path("body.1.*")
    assert structure(thawed) == structure(anx.freeze(model, rest))


def test_the_round_trip_restores_classes_structure_and_leaves():
    model = Model()
    again = anx.unfreeze(anx.freeze(model, anx.everything))
    assert structure(again) == structure(model)
    assert type(again) is Model
    assert type(again.heads["a"]) is Linear
    for mine, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(model), strict=True):
        assert mine is theirs


def test_unfreezing_never_makes_a_buffer_trainable():
    model = Model()
    thawed = anx.unfreeze(anx.freeze(model, anx.everything), anx.by_path("**.mean"))
    assert not any(path.endswith("mean") for path in anx.params(thawed))
    thawed = anx.unfreeze(model)
    assert thawed is model
    assert not jnp.any(jax.grad(loss)(thawed).body[0].mean)


def test_what_is_in_a_buffer_is_left_alone():
    class Holder(anx.Module):
        target: anx.Buffer[Linear]
        online: Linear

    model = Holder(Linear(2, 2), Linear(2, 2))
    frozen = anx.freeze(model, anx.everything)
    assert type(frozen.target) is Linear
    assert list(anx.params(frozen)) == []
    assert structure(anx.unfreeze(frozen)) == structure(model)


def test_whatever_enters_a_frozen_field_later_is_frozen_with_it():
    class Holder(anx.Module):
        inner: anx.Param[Any]

    model = anx.freeze(Holder(jnp.ones(2)), anx.everything)
    changed = eqx.tree_at(lambda m: m.inner, model, Linear(2, 1))
    assert list(anx.params(changed)) == []
    assert list(anx.params(anx.unfreeze(changed))) == ["inner.weight", "inner.bias"]


def test_leaves_are_the_same_of_a_frozen_model():
    model = Model()
    mine, theirs = (anx.leaves(m, anx.everything) for m in (anx.freeze(model, BODY), model))
    assert structure(mine) == structure(theirs)
    assert mine == theirs
    assert anx.update(model, mine) == model


# --- with everything else ------------------------------------------------------------


def test_equality_hash_and_repr():
    class Named(anx.Module):
        name: anx.Hyper[str]
        weight: anx.Param[Any]

    model = Named("a", 1.5)
    frozen = anx.freeze(eqx.tree_at(lambda m: m.weight, model, jnp.ones(2)), anx.everything)
    same = anx.freeze(eqx.tree_at(lambda m: m.weight, model, jnp.ones(2)), anx.everything)
    assert frozen == same
    assert frozen != anx.unfreeze(frozen)
    assert repr(frozen) == repr(anx.unfreeze(frozen))
    assert repr(frozen).endswith("Named(name='a', weight=f32[2])")
    mask = anx.everything(frozen)
    assert hash(mask) == hash(anx.everything(anx.unfreeze(frozen)))


@pytest.mark.parametrize(
    "roundtrip",
    [
        lambda x: pickle.loads(pickle.dumps(x)),
        lambda x: pickle.loads(pickle.dumps(x, protocol=2)),
        lambda x: cloudpickle.loads(cloudpickle.dumps(x)),
        copy.deepcopy,
        copy.copy,
    ],
    ids=["pickle", "pickle2", "cloudpickle", "deepcopy", "copy"],
)
def test_copies_are_frozen_in_the_same_way(roundtrip):
    frozen = anx.freeze(Model(), BODY)
    again = roundtrip(frozen)
    assert structure(again) == structure(frozen)
    assert again == frozen
    assert type(again.body[0]) is type(frozen.body[0])


class Reduced(anx.Module):
    """Pickles in its own way."""

    weight: anx.Param[Array]
    note: anx.Hyper[str]

    def __reduce__(self):
        return _reduced, (self.weight,)


def _reduced(weight):
    return Reduced(weight, "from the reducer")


def test_pickling_goes_the_way_of_the_class():
    again = pickle.loads(
        pickle.dumps(anx.freeze(Reduced(jnp.ones(2), "x"), anx.everything))
    )
    assert again.note == "from the reducer"
    assert list(anx.params(again)) == []


def test_another_process_finds_the_variant_again(tmp_path):
    (tmp_path / "theirs.py").write_text(
        textwrap.dedent("""
        import annotax as anx, jax.numpy as jnp
        from typing import Any

        class Layer(anx.Module):
            weight: anx.Param[Any]
            bias: anx.Param[Any]

        def make():
            return [anx.freeze(Layer(jnp.ones(2), jnp.ones(3)), anx.by_path("weight"))]
        """)
    )
    write = "import theirs, pickle; pickle.dump(theirs.make(), open('m.pkl', 'wb'))"
    read = textwrap.dedent("""
        import pickle, jax
        model = pickle.load(open('m.pkl', 'rb'))
        import theirs, annotax as anx
        assert list(anx.params(model)) == ["0.bias"], anx.params(model)
        assert jax.tree.structure(model) == jax.tree.structure(theirs.make())
        print("found")
    """)
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        for code in (write, read)
    ]
    assert outputs[1].stdout.strip() == "found"


def test_frozen_and_unfrozen_models_exchange_files():
    model = Model()
    frozen = anx.freeze(jax.tree.map(jnp.zeros_like, model), BODY)
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, model)
    file.seek(0)
    loaded = eqx.tree_deserialise_leaves(file, frozen)
    assert structure(loaded) == structure(frozen)
    assert anx.unfreeze(loaded) == model


def test_tree_at_changes_frozen_leaves_also_under_jit_and_grad():
    frozen = anx.freeze(Model(), BODY)

    def where(model):
        return model.body[1].weight

    def changed(model, value):
        return eqx.tree_at(where, model, value)

    new = jnp.ones((3, 3))
    assert jnp.array_equal(where(changed(frozen, new)), new)
    assert jnp.array_equal(where(jax.jit(changed)(frozen, new)), new)
    # What enters a frozen field is stopped there, wherever it comes from.
    entered = jax.grad(lambda w: loss(changed(frozen, w)))(new)
    assert not jnp.any(entered)
    grads = jax.grad(lambda model: loss(changed(model, new)))(frozen)
    assert jnp.any(grads.heads["a"].weight)
    assert not jnp.any(grads.body[0].weight)


def test_stateful_models_train_around_frozen_layers():
    class Net(anx.Module):
        norm: eqx.nn.BatchNorm
        linear: eqx.nn.Linear

        def __init__(self, key):
            self.norm = eqx.nn.BatchNorm(3, "batch", mode="batch")
            self.linear = eqx.nn.Linear(3, 2, key=key)

        def __call__(self, x, state):
            x, state = self.norm(x, state)
            return self.linear(x), state

    model, state = eqx.nn.make_with_state(Net)(jax.random.key(0))
    model = anx.adopt(anx.freeze(model, anx.by_path("norm.*") & anx.trainable_filter))
    assert list(anx.params(model)) == ["linear.weight", "linear.bias"]

    @jax.jit
    def step(model, state, x):
        def of(model, state):
            forward = jax.vmap(
                model, axis_name="batch", in_axes=(0, None), out_axes=(0, None)
            )
            out, state = forward(x, state)
            return jnp.sum(out**2), state

        return jax.grad(of, has_aux=True)(model, state)

    grads, after = step(model, state, jax.random.normal(jax.random.key(1), (8, 3)) + 3)
    assert not jnp.any(grads.norm.weight)
    assert jnp.any(grads.linear.weight)
    assert any(
        map(jnp.any, jax.tree.leaves(jax.tree.map(lambda a, b: a != b, state, after)))
    )


def test_weight_norm_trains_its_scale_around_a_frozen_layer():
    layer = eqx.nn.WeightNorm(eqx.nn.Linear(3, 2, key=jax.random.key(0)))
    frozen = anx.freeze(layer, anx.by_path("layer.*"))
    assert list(anx.params(frozen)) == ["g"]

    def loss(layer):
        return jnp.sum(layer(X) ** 2)

    grads, plain = eqx.filter_grad(loss)(frozen), eqx.filter_grad(loss)(layer)
    assert jnp.allclose(grads.g, plain.g)
    assert jnp.any(plain.g)
    assert not jnp.any(grads.layer.weight)
    assert not jnp.any(grads.layer.bias)
    assert type(anx.unfreeze(frozen)) is eqx.nn.WeightNorm
    with pytest.raises(anx.SelectionError, match="which WeightNorm computes with"):
        anx.freeze(layer, anx.by_path("layer.weight"))


def test_spectral_norm_works_around_a_frozen_layer():
    def make():
        linear = eqx.nn.Linear(3, 2, key=jax.random.key(0))
        return eqx.nn.SpectralNorm(linear, "weight", key=jax.random.key(1))

    layer, state = eqx.nn.make_with_state(make)()
    frozen = anx.adopt(anx.freeze(layer, anx.by_path("layer.*")))
    assert list(anx.params(frozen)) == []

    def loss(layer, state):
        out, state = layer(X, state)
        return jnp.sum(out**2), state

    grads, _ = jax.jit(jax.grad(loss, has_aux=True))(frozen, state)
    assert not any(map(jnp.any, jax.tree.leaves(grads)))
    out, plain = (loss(m, jax.tree.map(jnp.copy, state))[0] for m in (frozen, layer))
    assert jnp.allclose(out, plain)


def test_a_part_of_what_spectral_norm_computes_with_is_refused():
    linear = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    layer = eqx.nn.SpectralNorm(linear, "weight", key=jax.random.key(1))
    with pytest.raises(anx.SelectionError, match="which SpectralNorm computes with"):
        anx.freeze(layer, anx.by_path("layer.weight"))


def test_what_init_puts_into_a_list_of_a_frozen_class_is_stopped():
    class Stack(anx.Module):
        weights: anx.Param[list[Array]]
        tables: anx.Buffer[list[Array]]

        def __init__(self, weights):
            self.weights, self.tables = [], []
            self.weights.extend(weights)
            self.tables.extend(weights)

    frozen = type(anx.freeze(Stack([jnp.ones(2)]), anx.by_path("weights.*")))
    for name in ("weights", "tables"):
        grad = jax.grad(lambda w, name=name: jnp.sum(getattr(frozen([w]), name)[0]))
        assert not jnp.any(grad(jnp.ones(2)))


def test_ensembles_of_frozen_models():
    def make(key):
        return anx.freeze(eqx.nn.MLP(3, 1, 4, 1, key=key), anx.by_path("layers.0.*"))

    ensemble = eqx.filter_vmap(make)(jax.random.split(jax.random.key(0), 5))
    assert ensemble.layers[0].weight.shape == (5, 4, 3)

    @eqx.filter_grad
    def grads(ensemble):
        return jnp.sum(eqx.filter_vmap(lambda m: m(X))(ensemble) ** 2)

    found = grads(ensemble)
    assert not jnp.any(found.layers[0].weight)
    assert jnp.all(jnp.any(found.layers[1].weight != 0, axis=(1, 2)))
    later = anx.freeze(anx.unfreeze(ensemble), anx.by_path("layers.0.*"))
    assert structure(later) == structure(ensemble)


def test_scan_over_stacked_frozen_layers():
    layers = jax.vmap(lambda key: eqx.nn.Linear(3, 3, key=key))(
        jax.random.split(jax.random.key(0), 4)
    )
    frozen = anx.freeze(layers, anx.by_path("weight"))

    def loss(layers):
        out, _ = jax.lax.scan(lambda x, layer: (jnp.tanh(layer(x)), None), X, layers)
        return jnp.sum(out)

    grads, plain = jax.jit(jax.grad(loss))(frozen), jax.grad(loss)(layers)
    assert not jnp.any(grads.weight)
    assert jnp.allclose(grads.bias, plain.bias)


def test_alternating_between_two_frozen_models_compiles_twice():
    traces = []

    @jax.jit
    def step(model, x):
        traces.append(1)
        grads = anx.grad(loss)(model, x)
        return anx.update(model, jax.tree.map(lambda p, g: p - g, anx.params(model), grads))

    model, body, heads = Model(), BODY, anx.by_path("heads.**") & anx.trainable_filter
    for _ in range(5):
        model = anx.unfreeze(step(anx.freeze(model, body), X))
        model = anx.unfreeze(step(anx.freeze(model, heads), X))
    assert len(traces) == 2


def test_the_optimizer_has_memory_for_trainables_only():
    model = Model()
    frozen = anx.freeze(model, BODY)
    moments = optax.scale_by_adam().init(anx.params(frozen))
    trained = sum(p.nbytes for p in anx.params(frozen).values())
    held = sum(x.nbytes for x in jax.tree.leaves(moments))
    assert held == 2 * trained + 4  # two moments and a counter
    body = sum(x.nbytes for x in anx.leaves(model, BODY).values())
    assert trained == sum(p.nbytes for p in anx.params(model).values()) - body
    assert body > trained


def test_abstract_models_masks_and_traced_models_freeze_alike():
    model = Model()
    skeleton = eqx.filter_eval_shape(Model)
    assert structure(anx.freeze(skeleton, BODY)) == structure(anx.freeze(model, BODY))
    frozen = anx.freeze(model, BODY)
    mask = jax.tree.map(lambda _: True, frozen)
    assert mask.body[0].weight is True
    inside = jax.jit(lambda m: anx.freeze(m, BODY))(model)
    assert structure(inside) == structure(frozen)
    grads = jax.grad(lambda m: loss(anx.freeze(m, BODY)))(model)
    assert not jnp.any(grads.body[0].weight)
    assert jnp.any(grads.heads["a"].weight)


def test_a_partitioned_model_is_put_together_and_thawed():
    frozen = anx.freeze(Model(), BODY)
    params, rest = eqx.partition(frozen, anx.trainable_filter(frozen))
    assert structure(eqx.combine(params, rest)) == structure(frozen)
    assert type(anx.unfreeze(params).body[0]) is Linear
    # What has no array here goes with the whole model, and only with it.
    assert structure(anx.unfreeze(params, anx.by_path("scale"))) == structure(params)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Box:
    weight: Any
    table: Any


anx.register(Box, weight=anx.Param, table=anx.Buffer)


def test_a_buffer_in_a_frozen_field_need_not_be_selected():
    class Holder(anx.Module):
        box: Any

    holder = Holder(Box(jnp.ones(1), jnp.ones(2)))
    chosen = anx.by_path("box.weight")
    frozen = anx.freeze(holder, chosen)
    assert [r.frozen for r in anx.records(frozen)] == [True, True]
    assert structure(anx.unfreeze(frozen, chosen)) == structure(holder)


def test_trees_without_leaves_are_thawed():
    assert anx.unfreeze(eqx.nn.Identity()) == eqx.nn.Identity()
    nothing = jax.tree.map(lambda _: None, anx.freeze(Linear(3, 2), anx.everything))
    assert type(anx.unfreeze(nothing)) is Linear


# --- variants ------------------------------------------------------------------------


def test_a_variant_looks_like_its_class():
    frozen = type(anx.freeze(Linear(3, 2), anx.everything))
    assert frozen is not Linear
    assert issubclass(frozen, Linear)
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(frozen, name) == getattr(Linear, name)
    assert typing.get_type_hints(frozen) == typing.get_type_hints(Linear)
    assert inspect.signature(frozen) == inspect.signature(Linear)
    assert (
        vars(anx.freeze(Linear(3, 2), anx.everything)).keys() == vars(Linear(3, 2)).keys()
    )


def test_variants_run_no_hook_of_the_user():
    made = []

    class Base(anx.Module):
        def __init_subclass__(cls, **kwargs):
            super().__init_subclass__(**kwargs)
            made.append(cls.__name__)

    class Layer(Base):
        weight: anx.Param[Any]

    class Plain(eqx.Module):
        weight: Any

        def __init_subclass__(cls, *, required, **kwargs):
            made.append(required)

    anx.freeze([Layer(jnp.ones(1)), Plain(jnp.ones(1))], anx.everything)
    assert made == ["Layer"]


def test_unfrozen_instances_pay_nothing():
    before = dict(vars(Linear))
    anx.freeze(Linear(3, 2), anx.everything)
    gc.collect()
    assert dict(vars(Linear)) == before


def test_the_second_freeze_makes_no_class(monkeypatch):
    frozen = anx.freeze(Model(), BODY)
    monkeypatch.setattr(_variant, "_make", None)
    assert structure(anx.freeze(Model(), BODY)) == structure(frozen)
    anx.freeze(anx.unfreeze(frozen), BODY)


def test_methods_with_super_and_constructors_work_on_variants():
    class Child(Linear):
        def __call__(self, x):
            return 2 * super().__call__(x)

        def again(self):
            return type(self)(3, 2, rate=self.rate)

    child = Child(3, 2)
    frozen = anx.freeze(child, anx.by_path("weight"))
    assert jnp.array_equal(frozen(X), child(X))
    assert isinstance(frozen, Child)
    assert list(anx.params(frozen.again())) == ["bias"]


def test_subclasses_of_a_variant_are_ordinary_classes():
    frozen = type(anx.freeze(Linear(3, 2), anx.everything))

    class Sub(frozen):
        extra: anx.Hyper[int] = 1

    assert list(anx.params(Sub(3, 2))) == ["weight", "bias"]
    assert jnp.any(jax.grad(lambda m: jnp.sum(m(X)))(Sub(3, 2)).weight)


def test_defaults_of_frozen_fields_stay():
    class Layer(anx.Module):
        weight: anx.Param[Any]
        scale: anx.Param[Any] = 2.0

        def __init__(self, weight):
            self.weight = weight

    frozen = anx.freeze(Layer(jnp.ones(2)), anx.everything)
    assert frozen.scale == 2.0
    assert list(anx.params(frozen)) == []
    assert type(frozen).scale == 2.0
    assert not hasattr(type(frozen), "weight")


def test_a_frozen_field_that_a_constructor_leaves_out_is_thawed():
    class Layer(anx.Module):
        weight: anx.Param[Any]
        scale: anx.Param[Any] = 2.0

        def __init__(self, weight, scale=None):
            self.weight = weight
            if scale is not None:
                self.scale = scale

    frozen = anx.freeze(Layer(jnp.ones(2), jnp.ones(2)), anx.everything)
    bare = type(frozen)(jnp.ones(2))
    assert bare.scale == 2.0
    thawed = anx.unfreeze(bare)
    assert (type(thawed), thawed.scale, list(anx.params(thawed))) == (
        Layer,
        2.0,
        ["weight"],
    )
    other, still = anx.unfreeze([frozen, bare], anx.by_path("0.weight"))
    assert list(anx.params(other)) == ["weight"]
    assert type(still) is type(bare)


def test_freezing_runs_no_converter():
    converted = []

    class Stack(anx.Module):
        layers: Any = anx.field(converter=lambda x: converted.append(x) or x)

    stack = Stack([Linear(3, 2)])
    frozen = anx.freeze(stack, anx.everything)
    assert anx.unfreeze(frozen) == stack
    assert len(converted) == 1


def test_many_threads_make_one_variant():
    class Layer(anx.Module):
        weight: anx.Param[Any]

    model, found = Layer(jnp.ones(2)), []
    barrier = threading.Barrier(8)

    def work():
        barrier.wait()
        found.append(type(anx.freeze(model, anx.everything)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


# --- what is refused -----------------------------------------------------------------


def test_a_selection_that_matches_nothing():
    with pytest.raises(anx.SelectionError) as info:
        anx.freeze(Linear(3, 2), anx.by_path("wieght"))
    assert str(info.value) == textwrap.dedent("""\
        freeze(Linear, by_path('wieght')): the selection matches nothing
          expected: some of weight, bias, mean
          found:    no leaf; static, so no leaves: rate
          fix:      selection.paths(model) tells what a selection matches""")
    with pytest.raises(anx.SelectionError, match=r"^unfreeze\(Linear"):
        anx.unfreeze(Linear(3, 2), anx.by_path("wieght"))
    with pytest.raises(anx.SelectionError, match=r"5\.rate and 2 more"):
        anx.freeze([Linear(3, 2)] * 8, anx.by_path("wieght"))
    with pytest.raises(anx.SelectionError, match=r"found:    no leaf\n"):
        anx.freeze([eqx.nn.Identity(), jnp.ones(2)], anx.by_path("wieght"))


def test_a_tree_without_leaves_has_nothing_to_freeze():
    with pytest.raises(anx.SelectionError, match="the selection matches nothing"):
        anx.freeze(eqx.nn.Identity(), anx.everything)


def test_a_hyper_cannot_be_frozen():
    with pytest.raises(anx.SelectionError, match="static, so no leaves: rate"):
        anx.freeze(Linear(3, 2), anx.by_path("rate"))
    with pytest.raises(anx.SelectionError) as info:
        anx.freeze([eqx.nn.Dropout(0.5)], anx.everything)
    assert str(info.value) == textwrap.dedent("""\
        freeze(list, everything): nothing in it could be trained
          expected: Params, or other arrays of floating point numbers
          found:    0.p (hyper), 0.inference (hyper)
          fix:      it stays as it is without freezing""")


def test_an_array_in_no_module_cannot_be_frozen():
    with pytest.raises(anx.SelectionError) as info:
        anx.freeze({"w": jnp.ones(2), "layer": Linear(3, 2)}, anx.everything)
    assert str(info.value) == textwrap.dedent("""\
        freeze(dict, everything): an array in no module cannot be frozen
          expected: arrays in fields of Equinox modules
          found:    w
          fix:      put it into a field, or keep it out of the selection""")


def test_a_bare_array_cannot_be_frozen():
    with pytest.raises(anx.SelectionError) as info:
        anx.freeze(jnp.ones(2), anx.everything)
    assert str(info.value) == textwrap.dedent("""\
        freeze(ArrayImpl, everything): an array in no module cannot be frozen
          expected: arrays in fields of Equinox modules
          found:    the array itself
          fix:      put it into a field, or keep it out of the selection""")


def test_what_could_not_be_trained_is_named_with_what_it_is():
    class Mixed(anx.Module):
        count: anx.Param[Any]
        name: Any

    with pytest.raises(anx.SelectionError) as info:
        anx.freeze([Mixed(jnp.arange(3), "x"), 0.5], anx.everything)
    assert "found:    0.count (an array int32[3]), 0.name (a str), 1 (a float)" in str(
        info.value
    )
    pool = eqx.tree_at(lambda pool: pool.init, eqx.nn.MaxPool1d(2), jnp.array(1))
    with pytest.raises(anx.SelectionError, match=r"found:    init \(an array int32\[\]\)"):
        anx.freeze(pool, anx.by_path("init"))


def test_a_part_of_a_field_cannot_be_frozen_nor_thawed():
    class Pair(anx.Module):
        arrays: anx.Param[tuple[Array, ...]]

    model = [Pair((jnp.ones(1), jnp.ones(2), jnp.ones(3)))]
    with pytest.raises(anx.SelectionError) as info:
        anx.freeze(model, anx.by_path("0.arrays.1"))
    assert str(info.value) == textwrap.dedent("""\
        freeze(list, by_path('0.arrays.1')): only some of the arrays of a field are selected
          expected: all arrays of a field, or none
          found:    0.arrays: without 0.arrays.0, 0.arrays.2
          fix:      select the whole field; for a part of it use a filter:
                    eqx.partition(model, (annotax.trainable_filter & ~selection)(model))""")
    with pytest.raises(anx.SelectionError, match=r"^unfreeze\(list"):
        anx.unfreeze(anx.freeze(model, anx.everything), anx.by_path("0.arrays.1"))
    two = [*model, Pair((jnp.ones(1), jnp.ones(2)))]
    with pytest.raises(anx.SelectionError) as info:
        anx.freeze(two, anx.by_path("*.arrays.1"))
    assert (
        "  found:    0.arrays: without 0.arrays.0, 0.arrays.2\n"
        "            1.arrays: without 1.arrays.0\n"
    ) in str(info.value)


def test_a_class_that_forbids_subclasses():
    class Final(type(eqx.Module)):
        def __new__(cls, name, bases, namespace, **kwargs):
            if any(isinstance(base, Final) for base in bases):
                raise TypeError("no subclasses")
            return super().__new__(cls, name, bases, namespace, **kwargs)

    class Sealed(eqx.Module, metaclass=Final):
        weight: Any

    for _ in range(2):  # the second time, from memory
        with pytest.raises(anx.AnnotationError) as info:
            anx.freeze(Sealed(jnp.ones(2)), anx.everything)
        assert str(info.value) == textwrap.dedent("""\
            Sealed: its class cannot be subclassed, so its instances cannot be frozen or \
adopted
              expected: a class that allows subclasses
              found:    TypeError: no subclasses
              fix:      use a filter:
                        eqx.partition(model, annotax.trainable_filter(model))""")


def test_a_state_index_that_somebody_trains_cannot_be_frozen():
    anx.register(eqx.nn.StateIndex, init=anx.Param)
    try:
        with pytest.raises(anx.AnnotationError) as info:
            anx.freeze([eqx.nn.StateIndex(jnp.ones(2))], anx.everything)
    finally:
        anx.register(eqx.nn.StateIndex, init=anx.Buffer)
    assert "found:    TypeError: Equinox takes no subclass of it" in str(info.value)


def test_a_model_must_be_named_by_a_selection():
    with pytest.raises(anx.SelectionError, match="this is no selection"):
        anx.freeze(Linear(3, 2), "weight")
    with pytest.raises(anx.SelectionError, match="the selection matches nothing"):
        anx.freeze(anx.freeze, anx.by_path("x"))
