"""No gradient reaches a buffer, and nothing else changes."""

import copy
import gc
import pickle
from typing import Annotated, Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float

import annotax as anx
from annotax import _buffer

T = TypeVar("T")


class Norm(anx.Module):
    scale: anx.Param[Float[Array, " d"]]
    mean: anx.Buffer[Float[Array, " d"]]

    def __call__(self, x):
        return self.scale * (x - self.mean)

    def total(self, x):
        return jnp.sum(self(x) ** 2)


class Body(anx.Module):
    layers: anx.Buffer[list[Norm]]
    table: anx.Buffer[dict[str, Array]]
    out: anx.Param[Float[Array, " d"]]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x * self.table["gain"] * self.out


def norm():
    return Norm(jnp.full(3, 2.0), jnp.full(3, 0.5))


def body():
    return Body([norm(), norm()], {"gain": jnp.full(3, 3.0)}, jnp.ones(3))


def loss(model, x):
    return jnp.sum(model(x) ** 2)


X = jnp.array([1.0, 2.0, 3.0])

TRANSFORMS = {
    "grad": jax.grad,
    "jit(grad)": lambda f: jax.jit(jax.grad(f)),
    "grad(jit)": lambda f: jax.grad(jax.jit(f)),
    "grad(checkpoint)": lambda f: jax.grad(jax.checkpoint(f)),
    "checkpoint(jit(grad))": lambda f: jax.jit(jax.grad(jax.checkpoint(jax.jit(f)))),
    "jacfwd": jax.jacfwd,
    "jacrev": jax.jacrev,
    "grad of vmap": lambda f: jax.grad(
        lambda m, x: jnp.mean(jax.vmap(f, in_axes=(None, 0))(m, jnp.stack([x, x])))
    ),
    "grad of vmap over the model": lambda f: jax.grad(
        lambda m, x: jnp.mean(
            jax.vmap(f, in_axes=(0, None))(jax.tree.map(lambda a: jnp.stack([a, a]), m), x)
        )
    ),
    "vmap of grad": lambda f: (
        lambda m, x: jax.tree.map(
            lambda g: g[0], jax.vmap(jax.grad(f), in_axes=(None, 0))(m, jnp.stack([x, x]))
        )
    ),
    "grad of scan": lambda f: jax.grad(
        lambda m, x: jax.lax.scan(lambda c, _: (c + f(m, x), None), 0.0, length=3)[0]
    ),
    "grad of scan, carried": lambda f: jax.grad(
        lambda m, x: jax.lax.scan(lambda c, _: (c, f(c, x)), m, length=3)[1].sum()
    ),
    "grad of cond": lambda f: jax.grad(
        lambda m, x: jax.lax.cond(x[0] > 0, f, lambda m, x: 0.0, m, x)
    ),
    "linearize": lambda f: (
        lambda m, x: jax.linear_transpose(jax.linearize(lambda m: f(m, x), m)[1], m)(1.0)[0]
    ),
    "eqx.filter_grad": eqx.filter_grad,
    "jit(eqx.filter_grad(eqx.filter_jit))": lambda f: eqx.filter_jit(
        eqx.filter_grad(eqx.filter_jit(f))
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("make", [norm, body])
def test_buffers_have_zero_gradients_and_params_the_right_ones(name, make):
    grads = TRANSFORMS[name](loss)(make(), X)
    for record, grad in zip(anx.records(make()), jax.tree.leaves(grads), strict=True):
        assert record.trainable == bool(jnp.any(grad != 0)), record.path


def test_second_derivatives():
    hessian = jax.hessian(loss)(norm(), X)
    assert jnp.any(hessian.scale.scale != 0)
    assert not any(jnp.any(x != 0) for x in (hessian.scale.mean, hessian.mean.scale))
    assert not jnp.any(hessian.mean.mean != 0)


def test_while_and_forward_mode():
    def looped(model, x):
        return jax.lax.while_loop(
            lambda c: c[0] < 3, lambda c: (c[0] + 1, model(c[1])), (0, x)
        )[1]

    ones = jax.tree.map(jnp.ones_like, norm())
    moved = eqx.tree_at(lambda m: m.scale, ones, jnp.zeros(3))
    _, along_mean = jax.jvp(lambda m: looped(m, X), (norm(),), (moved,))
    _, along_both = jax.jvp(lambda m: looped(m, X), (norm(),), (ones,))
    assert not jnp.any(along_mean != 0)
    assert jnp.any(along_both != 0)


def test_custom_vjp():
    @jax.custom_vjp
    def scaled(model, x):
        return jnp.sum(model(x))

    def forward(model, x):
        return scaled(model, x), (model, x)

    def backward(saved, g):
        model, x = saved
        return jax.tree.map(lambda a: jnp.full_like(a, 7.0) * g, model), g * jnp.ones_like(
            x
        )

    scaled.defvjp(forward, backward)
    grads = jax.grad(lambda m: scaled(m, X))(norm())
    assert grads.scale.tolist() == [7, 7, 7]
    assert grads.mean.tolist() == [0, 0, 0]


def test_gradients_flow_through_a_buffered_layer_to_its_input():
    model = body()
    through = jax.grad(lambda x: loss(model, x))(X)
    expected = jax.grad(lambda x: jnp.sum(((((x - 0.5) * 2) - 0.5) * 2 * 3) ** 2))(X)
    assert jnp.allclose(through, expected)
    both = jax.grad(loss, argnums=(0, 1))(model, X)[1]
    assert jnp.allclose(both, expected)


def test_integer_boolean_and_key_buffers():
    class Model(anx.Module):
        steps: anx.Buffer[Any]
        mask: anx.Buffer[Any]
        key: anx.Buffer[Any]
        w: anx.Param[Array]

        def __call__(self, x):
            noise = jax.random.uniform(self.key, x.shape)
            return jnp.sum(jnp.where(self.mask, self.w * x + noise, 0.0)) * self.steps

    model = Model(
        jnp.array(2), jnp.array([True, False, True]), jax.random.key(0), jnp.ones(3)
    )
    grads = anx.grad(lambda m: m(X))(model)
    assert dict(grads)["w"].tolist() == [2, 0, 6]
    filtered = eqx.filter_grad(lambda m: m(X))(model)
    assert (filtered.steps, filtered.mask, filtered.key) == (None, None, None)


def test_construction_inside_transformations():
    def built(v):
        return loss(Norm(v, v), X)

    only_scale = jax.grad(lambda v: loss(Norm(v, jnp.full(3, 0.5)), X))(jnp.full(3, 0.5))
    assert jnp.allclose(jax.grad(built)(jnp.full(3, 0.5)), only_scale)
    assert jnp.allclose(jax.jit(jax.grad(built))(jnp.full(3, 0.5)), only_scale)

    def replaced(v):
        return loss(anx.replace(norm(), mean=v), X)

    assert not jnp.any(jax.grad(replaced)(X) != 0)
    assert not jnp.any(
        jax.grad(lambda v: loss(eqx.tree_at(lambda m: m.mean, norm(), v), X))(X)
    )


def test_containers_that_init_goes_on_filling():
    class Model(anx.Module):
        items: anx.Buffer[list[Array]]
        table: anx.Buffer[dict[str, Array]]

        def __init__(self, x):
            self.items = [jnp.ones(3)]
            self.items.append(x)
            self.table = {}
            self.table["x"] = x

    def built(x):
        model = Model(x)
        return jnp.sum(model.items[1] + model.table["x"])

    for transform in (
        jax.grad,
        lambda f: jax.jit(jax.grad(f)),
        lambda f: jax.grad(jax.jit(f)),
    ):
        assert transform(built)(X).tolist() == [0, 0, 0]
    assert float(built(X)) == 12


def test_construction_under_vmap_equals_plain_construction():
    keys = jax.random.split(jax.random.key(0), 4)

    def make(key):
        return Norm(jax.random.normal(key, (3,)), jax.random.uniform(key, (3,)))

    ensemble = eqx.filter_vmap(make)(keys)
    for i, key in enumerate(keys):
        single = jax.tree.map(lambda a, i=i: a[i], ensemble)
        assert jnp.array_equal(single.mean, make(key).mean)


def test_reads_are_the_same_object_inside_every_transformation():
    def check(model, x):
        assert model.mean is model.mean
        assert model.scale is model.scale
        return jnp.sum(model(x))

    for transform in (jax.grad, jax.jit, lambda f: jax.jit(jax.grad(f)), jax.checkpoint):
        transform(check)(norm(), X)

    def check_body(model, x):
        assert model.layers[0] is model.layers[0]
        assert model.layers[0].mean is model.layers[0].mean
        return loss(model, x)

    jax.jit(jax.grad(check_body))(body(), X)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.grad, jax.checkpoint])
def test_tree_at_works_everywhere(transform):
    def run(model, x):
        model = eqx.tree_at(lambda m: m.layers[0].mean, model, jnp.zeros(3))
        model = eqx.tree_at(lambda m: m.table["gain"], model, replace_fn=lambda g: 2 * g)
        model = eqx.tree_at(lambda m: m.layers[1], model, norm())
        return loss(model, x)

    transform(run)(body(), X)
    expected = Body(
        [Norm(jnp.full(3, 2.0), jnp.zeros(3)), norm()],
        {"gain": jnp.full(3, 6.0)},
        jnp.ones(3),
    )
    assert jnp.allclose(run(body(), X), loss(expected, X))


def test_what_is_no_traced_array_passes_by_identity():
    markers = [
        None,
        True,
        object(),
        jax.ShapeDtypeStruct((2,), jnp.float32),
        np.ones(2),
        jnp.ones(2),
        [jnp.ones(2), None],
        {"a": object()},
        norm(),
        "text",
        3,
    ]
    for marker in markers:
        with anx.checking("off"):
            assert Norm(None, marker).mean is marker
        tree = jax.tree_util.tree_structure(norm()).unflatten([None, marker])
        assert tree.mean is marker


def test_nothing_happens_outside_of_tracing(monkeypatch):
    def refuse(x):
        raise AssertionError("stop_gradient on a concrete array")

    model = body()
    monkeypatch.setattr(jax.lax, "stop_gradient", refuse)
    copied = jax.tree.map(lambda x: x, body())
    assert copied.layers[0].mean.tolist() == model.layers[0].mean.tolist()
    with pytest.raises(AssertionError):
        jax.jit(lambda m: m.table)(model)


@pytest.mark.skipif(not hasattr(jax, "new_ref"), reason="this JAX has no mutable arrays")
def test_mutable_arrays_pass_through():
    class Model(anx.Module):
        count: anx.Buffer[Any]
        nested: anx.Buffer[list[Any]]

    model = Model(jax.new_ref(jnp.zeros(())), [jax.new_ref(jnp.zeros(()))])

    @jax.jit
    def step(model):
        model.count[...] = model.count[...] + 1
        model.nested[0][...] = 5.0

    step(model)
    step(model)
    assert (float(model.count[...]), float(model.nested[0][...])) == (2, 5)


@pytest.mark.parametrize(
    "transform", [jax.jit, jax.grad, jax.checkpoint, lambda f: jax.jit(jax.grad(f))]
)
def test_a_stopped_array_that_enters_again_is_the_same_object(transform):
    """Whatever takes a model apart and puts it together twice may compare leaves."""
    seen = []

    def program(model):
        again = jax.tree.map(lambda leaf: leaf, [model])[0]
        seen.append(again.mean is model.mean)
        doubled = eqx.tree_at(
            lambda m: jax.tree.leaves(jax.tree.map(lambda leaf: leaf, m)),
            model,
            replace_fn=lambda leaf: 2 * leaf,
        )
        return loss(doubled, X)

    transform(program)(norm())
    assert seen == [True] * len(seen) != []


def test_stopped_arrays_are_not_kept():
    gc.collect()
    before = set(_buffer._stopped)
    jax.jit(lambda model: loss(model, X))(norm())
    gc.collect()
    assert set(_buffer._stopped) <= before


def test_equations_do_not_double_with_nesting():
    class Nest(anx.Module):
        inner: anx.Buffer[Any]

    def depth(n):
        node = jnp.ones(3)
        for _ in range(n):
            node = Nest(node)
        return node

    counts = [
        str(jax.make_jaxpr(jax.tree.leaves)(depth(n))).count("stop_gradient")
        for n in (4, 8)
    ]
    assert counts[1] <= 2 * counts[0] + 4


def test_copies_and_pickles():
    for make in (norm, body):
        model = make()
        for other in (
            copy.copy(model),
            copy.deepcopy(model),
            pickle.loads(pickle.dumps(model)),
        ):
            assert type(other) is type(model)
            assert eqx.tree_equal(other, model)


def test_serialisation_and_other_tree_functions_of_equinox(tmp_path):
    model = body()
    eqx.tree_serialise_leaves(tmp_path / "m.eqx", model)
    assert eqx.tree_equal(eqx.tree_deserialise_leaves(tmp_path / "m.eqx", body()), model)
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    assert eqx.tree_equal(eqx.combine(params, rest), model)
    doubled = eqx.apply_updates(model, jax.tree.map(lambda x: x, model))
    assert doubled.table["gain"].tolist() == [6, 6, 6]
    assert eqx.filter_eval_shape(body).table["gain"].shape == (3,)


def test_a_bound_method_stays_a_pytree():
    grads = eqx.filter_grad(lambda total, x: total(x))(norm().total, X)
    assert jnp.any(grads.__self__.scale != 0)
    assert not jnp.any(grads.__self__.mean != 0)


def test_deleting_and_subclass_instances():
    model = copy.copy(norm())
    del model.mean
    with pytest.raises(AttributeError, match=r"^'Norm' object has no attribute 'mean'$"):
        model.mean
    with pytest.raises(AttributeError, match=r"^mean$"):
        del model.mean
    with pytest.raises(AttributeError, match=r"^type object 'Norm' has no attribute"):
        Norm.mean


def test_a_field_that_a_subclass_annotates_again_without_a_role():
    class Plain(Norm):
        mean: Any

    plain = copy.copy(Plain(jnp.ones(1), jnp.ones(1)))
    assert jnp.any(jax.grad(lambda m: jnp.sum(m.mean))(plain).mean)
    del plain.mean
    with pytest.raises(AttributeError, match=r"^'Plain' object has no attribute 'mean'$"):
        plain.mean
    with pytest.raises(AttributeError, match=r"^type object 'Plain' has no attribute"):
        Plain.mean


# --- training ------------------------------------------------------------------------

Ema = Annotated[T, anx.Role("ema", parent=anx.Buffer)]


class Net(anx.Module):
    body: anx.Buffer[Norm]
    head: anx.Param[Float[Array, "o d"]]
    average: Ema[Float[Array, " d"]]
    rate: anx.Hyper[float]
    inference: anx.Hyper[bool] = False

    def __call__(self, x):
        keep = 1.0 if self.inference else 1 - self.rate
        return self.head @ (self.body(x) * keep + self.average)


def net(rate=0.5):
    return Net(norm(), jnp.ones((2, 3)), jnp.full(3, 0.1), rate)


def as_bytes(model):
    return {
        r.path: np.asarray(x).tobytes()
        for r, x in zip(anx.records(model), jax.tree.leaves(model), strict=True)
    }


def test_buffers_are_bit_identical_after_100_steps_of_adamw_with_decay():
    model, tx = net(), optax.adamw(1e-1, weight_decay=0.5)
    params = anx.params(model)
    state = tx.init(params)

    @jax.jit
    def step(model, params, state):
        model = anx.update(model, params)
        _, grads = anx.value_and_grad(loss)(model, X)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(100):
        params, state = step(model, params, state)
    before, after = as_bytes(model), as_bytes(anx.update(model, params))
    assert [path for path in before if before[path] != after[path]] == ["head"]


def test_the_equinox_way_of_training():
    model, tx = net(), optax.adamw(1e-1, weight_decay=0.5)
    state = tx.init(eqx.filter(model, anx.trainable_filter(model)))

    @eqx.filter_jit
    def step(model, state):
        params, rest = eqx.partition(model, anx.trainable_filter(model))
        grads = eqx.filter_grad(lambda p: loss(eqx.combine(p, rest), X))(params)
        updates, state = tx.update(grads, state, params)
        return eqx.apply_updates(model, updates), state

    trained = model
    for _ in range(5):
        trained, state = step(trained, state)
    before, after = as_bytes(model), as_bytes(trained)
    assert [path for path in before if before[path] != after[path]] == ["head"]


def test_a_loss_that_knows_nothing_of_annotax():
    grads = jax.grad(loss)(net(), X)
    assert grads.body.scale.tolist() == grads.average.tolist() == [0, 0, 0]
    assert jnp.any(grads.head != 0)
    assert grads.rate == 0.5  # static: the gradient has the model's own structure


def test_a_buffer_stays_an_argument_of_the_compiled_function():
    text = jax.jit(loss).lower(net(), X).as_text()
    assert text.count("%arg") >= 5


def test_hypers_are_neither_none_nor_traced():
    seen = []

    def watched(model, x):
        seen.append(model.rate)
        return loss(model, x)

    model, tx = net(0.25), optax.adamw(1e-2)
    state = tx.init(model)

    @jax.jit
    def step(model, state):
        updates, state = tx.update(jax.grad(watched)(model, X), state, model)
        return optax.apply_updates(model, updates), state

    for _ in range(2):
        model, state = step(model, state)
    assert model.rate == 0.25
    stacked = jax.tree.map(lambda a: jnp.stack([a, a]), model)
    jax.vmap(watched, in_axes=(0, None))(stacked, X)
    jax.lax.scan(lambda c, m: (c, watched(m, X)), 0, stacked)
    assert seen
    assert all(type(rate) is float and rate == 0.25 for rate in seen)


@pytest.mark.parametrize("number", [np.float32(2), np.float64(2), np.array(2.0), 2.0])
def test_numbers_in_buffers(number):
    class Model(anx.Module):
        weight: anx.Param[Any]
        rate: anx.Buffer[Any]

    model = Model(jnp.ones(()), number)
    grads = jax.grad(lambda m: m.weight * m.rate)(model)
    assert (float(grads.weight), float(grads.rate)) == (2.0, 0.0)
