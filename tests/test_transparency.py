"""Nobody sees a difference: one scenario on an annotated model and on its plain twin.

The twin writes by hand what an annotation says: `static=True` for a Hyper, `stop_gradient`
for a Buffer. Results, their structures and the lowered programs are the same.
"""

import io
import pickle
import re
import subprocess
import sys
import tempfile
from collections import Counter
from typing import Any

import diffrax as dfx
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.export  # until JAX 0.7 not imported by `jax` itself
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest
from jax import Array
from jaxtyping import Float

import annotax as anx


class Affine(anx.Module):
    weight: anx.Param[Float[Array, "out in_"]]
    bias: anx.Param[Float[Array, " out"] | None]
    mean: anx.Buffer[Float[Array, " in_"]]
    rate: anx.Hyper[float]
    activation: anx.Hyper[Any]

    def __call__(self, x):
        return self.activation(self.rate * self.weight @ (x - self.mean) + self.bias)


class PlainAffine(eqx.Module):
    weight: Float[Array, "out in_"]
    bias: Float[Array, " out"] | None
    mean: Float[Array, " in_"]
    rate: float = eqx.field(static=True)
    activation: Any = eqx.field(static=True)

    def __call__(self, x):
        mean = jax.lax.stop_gradient(self.mean)
        return self.activation(self.rate * self.weight @ (x - mean) + self.bias)


class Pair(anx.Module):
    first: Any
    others: list[Any]
    size: anx.Hyper[int] = 2

    def __call__(self, x):
        x = self.first(x)
        for other in self.others:
            x = other(x)
        return x


class PlainPair(eqx.Module):
    first: Any
    others: list[Any]
    size: int = eqx.field(static=True, default=2)

    def __call__(self, x):
        x = self.first(x)
        for other in self.others:
            x = other(x)
        return x


X = jnp.array([0.5, -1.0])


def squash(x):
    return jnp.tanh(x)  # as a function of this file it pickles


def affine(cls, seed=0.0):
    weight = jnp.array([[0.9, -0.3], [0.2, 0.7]]) + seed
    return cls(weight, jnp.array([0.1, 0.2]), jnp.array([0.3, -0.1]), 0.5, squash)


def pair(cls, inner):
    return cls(
        affine(inner), [affine(inner, 0.1), eqx.nn.Linear(2, 2, key=jax.random.key(1))]
    )


OURS, PLAIN = pair(Pair, Affine), pair(PlainPair, PlainAffine)


def loss(model, x):
    return jnp.sum(model(x) ** 2)


def told(tree):
    """A result as what others see of it: key paths, and arrays with all that traces see."""
    return [
        (jax.tree_util.keystr(path), np.shape(leaf), jnp.result_type(leaf), weak(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if eqx.is_array_like(leaf)
    ]


def weak(leaf):
    return getattr(leaf, "weak_type", None)


def structure(tree):
    """The structure of a tree, the twins' names and what they keep static left out."""
    text = str(jax.tree.structure(tree)).replace("Plain", "")
    return re.sub(r"0x[0-9a-f]+", "", text)


def agree(ours, plain):
    assert told(ours) == told(plain)
    arrays = [
        [leaf for leaf in jax.tree.leaves(tree) if eqx.is_array_like(leaf)]
        for tree in (ours, plain)
    ]
    for one, other in zip(*arrays, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


SCENARIOS: dict[str, Any] = {}
UNTRACED: set[str] = set()
"""Scenarios that look at values or files, so that nothing is lowered."""


def scenario(name, *, traced=True):
    def add(function):
        assert name not in SCENARIOS
        SCENARIOS[name] = function
        if not traced:
            UNTRACED.add(name)
        return function

    return add


# --- equinox.filter_* ----------------------------------------------------------------


@scenario("filter")
def _(model, x):
    return eqx.filter(model, eqx.is_inexact_array)


@scenario("filter_jit")
def _(model, x):
    return eqx.filter_jit(loss)(model, x), eqx.filter_jit(model)(x)


@scenario("filter_grad")
def _(model, x):
    return eqx.filter_grad(loss)(model, x)


@scenario("filter_value_and_grad")
def _(model, x):
    return eqx.filter_value_and_grad(lambda m: (loss(m, x), m.first.bias), has_aux=True)(
        model
    )


@scenario("filter_jvp")
def _(model, x):
    tangent = eqx.filter(model, eqx.is_inexact_array)
    return eqx.filter_jvp(loss, (model, x), (tangent, x))


@scenario("filter_vjp")
def _(model, x):
    out, pullback = eqx.filter_vjp(lambda m, x: m(x), model, x)
    return out, pullback(out)


@scenario("filter_jacfwd")
def _(model, x):
    return eqx.filter_jacfwd(lambda m: m(x))(model)


@scenario("filter_jacrev")
def _(model, x):
    return eqx.filter_jacrev(lambda m: m(x))(model)


@scenario("filter_hessian")
def _(model, x):
    return eqx.filter_hessian(loss)(model.first, x)


@scenario("filter_vmap")
def _(model, x):
    def make(shift):
        return eqx.tree_at(lambda m: m.first.bias, model, replace_fn=lambda b: b + shift)

    ensemble = eqx.filter_vmap(make)(jnp.arange(3.0))
    return ensemble, eqx.filter_vmap(lambda m: m(x))(ensemble)


@scenario("filter_vmap, in_axes as a model")
def _(model, x):
    axes = jax.tree.map(lambda leaf: None, eqx.filter(model, eqx.is_array))
    return eqx.filter_vmap(lambda m, x: m(x), in_axes=(axes, 0))(
        model, jnp.stack([x, x + 1])
    )


@scenario("filter_pmap", traced=False)
def _(model, x):
    return eqx.filter_pmap(lambda m, x: m(x), in_axes=(None, 0))(model, x[None])


@scenario("filter_checkpoint")
def _(model, x):
    return eqx.filter_grad(eqx.filter_checkpoint(loss))(model, x)


@scenario("filter_closure_convert")
def _(model, x):
    closed = eqx.filter_closure_convert(lambda x: model(x), x)
    return closed(x), eqx.filter_grad(
        lambda m: jnp.sum(eqx.filter_closure_convert(m, x)(x))
    )(model)


@scenario("filter_custom_jvp")
def _(model, x):
    @eqx.filter_custom_jvp
    def call(model, x):
        return model(x)

    @call.def_jvp
    def call_jvp(primals, tangents):
        (model, x), (t_model, t_x) = primals, tangents
        return eqx.filter_jvp(lambda m, x: m(x), (model, x), (t_model, t_x))

    return eqx.filter_grad(lambda m: jnp.sum(call(m, x)))(model)


@scenario("filter_custom_vjp")
def _(model, x):
    @eqx.filter_custom_vjp
    def call(model, x):
        return model(x)

    @call.def_fwd
    def call_fwd(perturbed, model, x):
        return model(x), None

    @call.def_bwd
    def call_bwd(residuals, grad_out, perturbed, model, x):
        _, pullback = eqx.filter_vjp(lambda m: m(x), model)
        return pullback(2 * grad_out)[0]

    return eqx.filter_grad(lambda m: jnp.sum(call(m, x)))(model)


@scenario("filter_eval_shape", traced=False)
def _(model, x):
    abstract = eqx.filter_eval_shape(lambda m: (m, m(x)), model)
    return jax.tree.map(lambda s: (s.shape, str(s.dtype)) and jnp.zeros(s.shape), abstract)


@scenario("filter_make_jaxpr", traced=False)
def _(model, x):
    jaxpr, out, _ = eqx.filter_make_jaxpr(eqx.filter_grad(loss))(model, x)
    return np.array(len(jaxpr.jaxpr.invars)), jax.tree.map(jnp.ones_like, out)


@scenario("filter_pure_callback")
def _(model, x):
    return eqx.filter_pure_callback(
        lambda m, x: np.asarray(m.first.weight) @ np.asarray(x),
        model,
        x,
        result_shape_dtypes=x,
    )


@scenario("filter_shard")
def _(model, x):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return eqx.filter_shard(model, sharding)(x)


def test_every_filtered_transformation_of_equinox_is_there():
    public = {name for name in dir(eqx) if name.startswith("filter")}
    assert public <= {name.split(",")[0] for name in SCENARIOS}


# --- jax -----------------------------------------------------------------------------


@scenario("jax.jit")
def _(model, x):
    return jax.jit(loss)(model, x)


@scenario("jax.grad")
def _(model, x):
    return jax.grad(loss)(model, x), jax.value_and_grad(loss, argnums=(0, 1))(model, x)


@scenario("jax.jvp")
def _(model, x):
    return jax.jvp(loss, (model, x), (model, x))


@scenario("jax.vjp")
def _(model, x):
    out, pullback = jax.vjp(loss, model, x)
    return out, pullback(out)


@scenario("jax.linearize")
def _(model, x):
    out, linear = jax.linearize(loss, model, x)
    return out, linear(model, x)


@scenario("jax.jacfwd and jacrev")
def _(model, x):
    return jax.jacfwd(lambda m: m(x))(model), jax.jacrev(lambda m: m(x))(model)


@scenario("jax.hessian")
def _(model, x):
    return jax.hessian(lambda m: loss(m, x))(model.first)


@scenario("jax.vmap")
def _(model, x):
    return jax.vmap(jax.grad(loss), in_axes=(None, 0))(model, jnp.stack([x, 2 * x]))


@scenario("jax.vmap over the model")
def _(model, x):
    models = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 1]), model)
    return jax.vmap(jax.grad(loss), in_axes=(0, None))(models, x)


@scenario("jax.pmap", traced=False)
def _(model, x):
    return jax.pmap(loss, in_axes=(None, 0))(model, x[None])


@scenario("jax.lax.scan")
def _(model, x):
    def step(model, _):
        return jax.tree.map(
            lambda p, g: p - 0.1 * g, model, jax.grad(loss)(model, x)
        ), model(x)

    return jax.lax.scan(step, model, length=3)


@scenario("jax.lax.scan over the model")
def _(model, x):
    models = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), model.first)
    return jax.grad(lambda ms: jnp.sum(jax.lax.scan(lambda x, m: (m(x), x), x, ms)[0]))(
        models
    )


@scenario("jax.lax.cond and while_loop")
def _(model, x):
    chosen = jax.lax.cond(x[0] > 0, lambda m: m(x), lambda m: -m(x), model)
    _, last = jax.lax.while_loop(
        lambda carry: carry[0] < 3, lambda carry: (carry[0] + 1, model(carry[1])), (0, x)
    )
    return chosen, last


@scenario("jax.lax.map")
def _(model, x):
    return jax.lax.map(model, jnp.stack([x, x]))


@scenario("jax.checkpoint")
def _(model, x):
    return jax.grad(jax.checkpoint(loss))(model, x)


@scenario("jax.custom_jvp")
def _(model, x):
    call = jax.custom_jvp(loss)
    call.defjvp(lambda primals, tangents: jax.jvp(loss, primals, tangents))
    return jax.grad(call)(model, x)


@scenario("jax.custom_vjp")
def _(model, x):
    @jax.custom_vjp
    def call(model, x):
        return loss(model, x)

    call.defvjp(
        lambda m, x: (loss(m, x), (m, x)), lambda kept, g: jax.grad(loss, (0, 1))(*kept)
    )
    return jax.grad(call)(model, x)


@scenario("jax.eval_shape", traced=False)
def _(model, x):
    abstract = jax.eval_shape(jax.grad(loss), model, x)
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), abstract)


@scenario("jax.closure_convert")
def _(model, x):
    converted, arrays = jax.closure_convert(lambda x: model(x), x)
    return converted(x, *arrays)


@scenario("jax.pure_callback")
def _(model, x):
    return jax.pure_callback(lambda m: np.asarray(m.first.bias), model.first.bias, model)


@scenario("jax.device_put", traced=False)
def _(model, x):
    return jax.device_put(model, jax.devices()[0])


@scenario("jax.block_until_ready", traced=False)
def _(model, x):
    return jax.block_until_ready(model)


@scenario("jax.export", traced=False)
def _(model, x):
    def program(leaves, x):
        return loss(jax.tree.unflatten(jax.tree.structure(model), leaves), x)

    leaves = jax.tree.leaves(model)
    exported = jax.export.export(jax.jit(program))(leaves, x)
    return exported.call(leaves, x)


@scenario("shard_map")
def _(model, x):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    specs = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")
    shard_map = getattr(jax, "shard_map", None)
    if shard_map is None:
        from jax.experimental.shard_map import shard_map  # its place before JAX 0.6
    mapped = shard_map(
        lambda m, x: jax.vmap(m)(x), mesh=mesh, in_specs=specs, out_specs=specs[1]
    )
    return mapped(model, x[None])


@scenario("jax.tree_util")
def _(model, x):
    flat, treedef = jax.tree_util.tree_flatten(model)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, treedef.unflatten(flat))
    total = jax.tree.reduce(lambda a, b: a + jnp.sum(b), doubled, 0.0)
    return (
        doubled,
        total,
        jax.tree.transpose(treedef, None, jax.tree.map(lambda a: [a], model)),
    )


@scenario("jax.flatten_util")
def _(model, x):
    vector, unravel = jax.flatten_util.ravel_pytree(model)
    return vector, unravel(2 * vector)


# --- equinox.tree_*, state, loops ----------------------------------------------------


@scenario("tree_at")
def _(model, x):
    def where(m):
        return m.first.mean, m.others[0].weight, m.first.bias

    moved = eqx.tree_at(where, model, replace_fn=lambda a: a + 1)
    return moved, eqx.tree_at(lambda m: m.first.bias, model, None)


@scenario("tree_at inside grad")
def _(model, x):
    def moved_loss(m):
        return loss(eqx.tree_at(lambda m: m.first.weight, m, replace_fn=lambda w: w * 2), x)

    return jax.grad(moved_loss)(model)


@scenario("tree_equal, tree_check", traced=False)
def _(model, x):
    eqx.tree_check(model)
    other = eqx.tree_at(lambda m: m.first.mean, model, replace_fn=lambda a: a + 1)
    return eqx.tree_equal(model, model), eqx.tree_equal(model, other)


@scenario("partition, combine, apply_updates")
def _(model, x):
    trained, rest = eqx.partition(model, eqx.is_inexact_array)
    updated = eqx.apply_updates(model, jax.tree.map(jnp.ones_like, trained))
    return eqx.combine(trained, rest), updated


@scenario("tree_serialise_leaves", traced=False)
def _(model, x):
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, model)
    file.seek(0)
    return eqx.tree_deserialise_leaves(file, jax.tree.map(jnp.zeros_like, model))


@scenario("tree_inference", traced=False)
def _(model, x):
    return eqx.nn.inference_mode(model)


@scenario("tree_flatten_one_level", traced=False)
def _(model, x):
    return jax.tree.leaves(eqx.tree_flatten_one_level(model)[0])


@scenario("tree_pformat", traced=False)
def _(model, x):
    text = re.sub("Plain|0x[0-9a-f]+", "", eqx.tree_pformat(model) + repr(model))
    return np.frombuffer(text.encode(), np.uint8)


@scenario("equinox.internal.while_loop")
def _(model, x):
    def run(model):
        def body(carry):
            return carry[0] + 1, model(carry[1])

        return jnp.sum(
            eqxi.while_loop(
                lambda carry: carry[0] < 3, body, (0, x), max_steps=4, kind="checkpointed"
            )[1]
        )

    return jax.grad(run)(model)


@scenario("equinox.internal.scan")
def _(model, x):
    def run(model):
        carry, _ = eqxi.scan(
            lambda c, _: (model(c), None),
            x,
            None,
            length=3,
            kind="checkpointed",
            checkpoints=2,
        )
        return jnp.sum(carry)

    return jax.grad(run)(model)


@scenario("equinox.internal.noinline", traced=False)  # it numbers its functions
def _(model, x):
    return eqxi.noinline(lambda m, x: m(x))(model, x)


@scenario("error_if")
def _(model, x):
    return eqx.error_if(model, x[0] > 10, "never")(x)


# --- other libraries -----------------------------------------------------------------


@scenario("diffrax: a vector field")
def _(model, x):
    def end(model):
        return dfx.diffeqsolve(
            dfx.ODETerm(lambda t, y, m: m(y)),
            dfx.Tsit5(),
            t0=0.0,
            t1=0.5,
            dt0=0.1,
            y0=x,
            args=model,
        ).ys[-1]

    return end(model), jax.grad(lambda m: jnp.sum(end(m)))(model)


@scenario("diffrax: the model is the field", traced=False)  # a few operations more: its
# loop carries the field, and a stopped array is not seen to stay the same
def _(model, x):
    class Field(eqx.Module):
        inner: Any

        def __call__(self, t, y, args):
            return self.inner(y)

    def end(field):
        adjoint = dfx.BacksolveAdjoint()
        term, solver = dfx.ODETerm(field), dfx.Tsit5()
        solution = dfx.diffeqsolve(term, solver, 0.0, 0.5, 0.1, x, adjoint=adjoint)
        return jnp.sum(solution.ys)

    return eqx.filter_value_and_grad(end)(Field(model))


@scenario("lineax: the model in an operator")
def _(model, x):
    def solved(model):
        operator = lx.JacobianLinearOperator(lambda y, m: y + m(y), x, model)
        return lx.linear_solve(operator, x, lx.LU()).value

    return solved(model), jax.grad(lambda m: jnp.sum(solved(m)))(model)


@scenario("lineax: its weight as an operator")
def _(model, x):
    operator = lx.MatrixLinearOperator(model.first.weight)
    return lx.linear_solve(operator, x).value, operator.mv(x)


@scenario("optimistix: a root")
def _(model, x):
    def root(model):
        solver = optx.Newton(rtol=1e-4, atol=1e-4)
        return optx.root_find(lambda y, m: y - 0.1 * m(y) - x, solver, x, args=model).value

    return root(model), jax.grad(lambda m: jnp.sum(root(m)))(model)


@scenario("optimistix: fitting the model")
def _(model, x):
    solver = optx.LevenbergMarquardt(rtol=1e-3, atol=1e-3)
    fitted = optx.least_squares(
        lambda m, y: m(y) - y, solver, model.first, args=x, max_steps=8, throw=False
    )
    return fitted.value


# --- the comparison ------------------------------------------------------------------

ALL = pytest.mark.parametrize("name", SCENARIOS)


@ALL
def test_results_and_structures_are_the_same(name):
    ours, plain = SCENARIOS[name](OURS, X), SCENARIOS[name](PLAIN, X)
    agree(ours, plain)
    assert structure(ours) == structure(plain)
    assert jax.tree.leaves(ours)


REORDERED = {
    "jax.lax.cond and while_loop",
    "jax.lax.map",
    "equinox.internal.while_loop",
    "equinox.internal.scan",
    "diffrax: a vector field",
    "lineax: the model in an operator",
    "optimistix: a root",
}
"""Here the gradient is stopped where the model enters a loop or a solver, and in the twin
inside of it. The operands come in another order, and gradients that are zero are known to
be so earlier: there are no more operations than in the twin, and sometimes fewer."""
if jax.__version_info__ < (0, 7):
    REORDERED.add("jax.lax.scan over the model")


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in UNTRACED])
def test_programs_are_the_same(name):
    def program(model, x):
        return eqx.filter(SCENARIOS[name](model, x), eqx.is_array)

    ours, plain = (_text(jax.jit(program).lower(m, X)) for m in (OURS, PLAIN))
    if name in REORDERED:
        assert _operations(ours) <= _operations(plain)
    else:
        assert ours == plain


def _text(lowered):
    """A lowered program without names of results and of callbacks."""
    text = re.sub(r'\s*\{?jax\.result_info = "[^"]*"\}?|Plain', "", lowered.as_text())
    return re.sub(r"\d{6,}", "", text)


def _operations(text):
    """How often each operation stands in a program, with the types it is about."""
    return Counter(re.findall(r"stablehlo\.(?!return|while|case)\w+", text))


# --- models with state ---------------------------------------------------------------


class Counting(anx.Module):
    norm: eqx.nn.BatchNorm
    count: anx.Buffer[eqx.nn.StateIndex]
    layer: Affine

    def __init__(self, layer):
        self.norm = eqx.nn.BatchNorm(2, axis_name="batch", mode="ema")
        self.count = eqx.nn.StateIndex(jnp.array(0))
        self.layer = layer

    def __call__(self, x, state):
        state = state.set(self.count, state.get(self.count) + 1)
        return self.norm(self.layer(x), state)


class PlainCounting(eqx.Module):
    norm: eqx.nn.BatchNorm
    count: eqx.nn.StateIndex
    layer: PlainAffine

    def __init__(self, layer):
        self.norm = eqx.nn.BatchNorm(2, axis_name="batch", mode="ema")
        self.count = eqx.nn.StateIndex(jnp.array(0))
        self.layer = layer

    def __call__(self, x, state):
        state = state.set(self.count, state.get(self.count) + 1)
        return self.norm(self.layer(x), state)


def trained(cls, inner):
    """What two steps of training make of a model with state, and of its state."""
    model, state = eqx.nn.make_with_state(lambda: cls(affine(inner)))()
    batch = jnp.stack([X, 2 * X, -X])

    @eqx.filter_jit
    def step(model, state):
        def batch_loss(model, state):
            call = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
            out, state = call(batch, state)
            return jnp.sum(out**2), state

        grads, state = eqx.filter_grad(batch_loss, has_aux=True)(model, state)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, grads)), state

    for _ in range(2):
        model, state = step(model, state)
    return eqx.filter(model, eqx.is_inexact_array), state.get(model.count), state


def test_models_with_state():
    ours, plain = trained(Counting, Affine), trained(PlainCounting, PlainAffine)
    agree(ours[:2], plain[:2])
    assert int(ours[1]) == 2
    for one, other in zip(jax.tree.leaves(ours[2]), jax.tree.leaves(plain[2]), strict=True):
        np.testing.assert_array_equal(one, other)


# --- other processes -----------------------------------------------------------------

READ = """
import pickle, sys, jax
model, x = pickle.load(open(sys.argv[1], "rb"))
print(type(model).__name__, [float(v) for v in model(x)], len(jax.tree.leaves(model)))
"""


@pytest.mark.parametrize("model", [OURS, PLAIN], ids=["ours", "plain"])
def test_a_model_pickles_into_another_process(model):
    module = sys.modules[__name__]
    with tempfile.NamedTemporaryFile(suffix=".pickle") as file:
        pickle.dump((model, X), file)
        file.flush()
        folder = str(__import__("pathlib").Path(module.__file__).parent)
        run = [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r})\n{READ}"]
        found = subprocess.run(
            [*run, file.name], capture_output=True, text=True, check=True
        )
    values = [float(value) for value in model(X)]
    name = type(model).__name__
    assert found.stdout.strip() == f"{name} {values} {len(jax.tree.leaves(model))}"
