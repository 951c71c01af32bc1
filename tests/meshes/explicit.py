"""A mesh that is set, and axes whose shardings are part of the type of an array."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hlo import kinds
from jax import random
from jax.sharding import PartitionSpec
from transformer import EMBED, NAMES, FeedForward, make_mesh, tx

import annotax as anx

KEY = random.key(0)
RULES = {"mlp": "tensor", "embed": "fsdp"}


@pytest.fixture(scope="module")
def mesh():
    explicit = (jax.sharding.AxisType.Explicit,) * 3
    return jax.make_mesh((2, 2, 2), NAMES, axis_types=explicit)


@pytest.fixture(scope="module")
def layer():
    return FeedForward(KEY)


def typed(array):
    """What the type of an array says of its sharding."""
    return tuple(jax.typeof(array).sharding.spec)


SPECS = {
    "up": ("fsdp", "tensor"),
    "up_bias": ("tensor",),
    "down": ("tensor", "fsdp"),
    "down_bias": ("fsdp",),
}


def test_types_show_what_the_rules_say(mesh, layer):
    placed = jax.device_put(layer, anx.shardings(layer, mesh, RULES))
    assert {path: typed(x) for path, x in anx.params(placed).items()} == SPECS


def test_specs_stand_for_shardings_where_a_mesh_is_set(mesh, layer):
    with jax.set_mesh(mesh):
        placed = jax.device_put(layer, anx.partition_specs(layer, RULES))
        skeleton = eqx.filter_eval_shape(FeedForward, KEY)
        specs = anx.partition_specs(skeleton, RULES)
        made = jax.jit(FeedForward, out_shardings=specs)(KEY)
    for tree in (placed, made):
        assert {path: typed(x) for path, x in anx.params(tree).items()} == SPECS
    assert made.up.addressable_shards[0].data.shape == (16, 24)
    np.testing.assert_allclose(made.up, layer.up, rtol=1e-6)


def test_specs_on_a_set_mesh_that_is_left_to_the_partitioner(layer):
    specs = anx.partition_specs(layer, RULES)
    with jax.set_mesh(make_mesh((2, 2, 2))):
        placed = jax.jit(lambda x: jax.lax.with_sharding_constraint(x, specs))(layer)
    assert {path: tuple(x.sharding.spec) for path, x in anx.params(placed).items()} == SPECS
    assert typed(placed.up) == (None, None)  # such axes are no part of the type


def test_resharding_inside_jit_by_the_abstract_mesh(mesh, layer):
    @jax.jit
    def reshard(layer):
        here = jax.sharding.get_abstract_mesh()
        placed = jax.tree.map(
            jax.sharding.reshard, layer, anx.shardings(layer, here, RULES)
        )
        assert typed(placed.up) == ("fsdp", "tensor")
        return placed

    with jax.set_mesh(mesh):
        placed = reshard(layer)
    assert {path: typed(x) for path, x in anx.params(placed).items()} == SPECS


class TensorParallel(FeedForward):
    """Says how its result lies, as an explicit mesh wants it where it cannot be told."""

    def __call__(self, x):
        hidden = jax.nn.gelu(x @ self.up + self.up_bias)
        out_sharding = PartitionSpec("data", None)
        return jnp.matmul(hidden, self.down, out_sharding=out_sharding) + self.down_bias


def test_a_training_step_keeps_the_types(mesh):
    def loss_fn(layer, x):
        return jnp.mean((layer(x) - 1) ** 2)

    @jax.jit
    def train_step(layer, opt_state, x):
        params, grads = anx.params(layer), anx.grad(loss_fn)(layer, x)
        assert {p: typed(g) for p, g in grads.items()} == {
            p: typed(x) for p, x in params.items()
        }
        updates, opt_state = tx.update(grads, opt_state, params)
        return anx.update(layer, optax.apply_updates(params, updates)), opt_state

    x = random.normal(random.key(1), (16, EMBED))
    plain = FeedForward(KEY)
    expected, _ = train_step(plain, tx.init(anx.params(plain)), x)
    with jax.set_mesh(mesh):
        layer = TensorParallel(KEY)
        layer = jax.device_put(layer, anx.shardings(layer, mesh, {"mlp": "tensor"}))
        x = jax.device_put(x, PartitionSpec("data", None))
        opt_state = tx.init(anx.params(layer))
        assert "all-gather" not in kinds(train_step.lower(layer, opt_state, x).compile())
        layer, opt_state = train_step(layer, opt_state, x)
    assert typed(layer.up) == typed(opt_state[0].mu["up"]) == (None, "tensor")
    assert typed(layer.down) == typed(opt_state[0].nu["down"]) == ("tensor", None)
    np.testing.assert_allclose(layer.up, expected.up, atol=1e-5)


def test_abstract_and_real_arrays_of_a_mesh_in_one_tree(mesh, layer):
    placed = jax.device_put(layer, anx.shardings(layer, mesh, RULES))
    with jax.set_mesh(mesh):
        skeleton = eqx.filter_eval_shape(FeedForward, KEY)
    specs = anx.partition_specs({"model": placed, "skeleton": skeleton}, RULES)
    assert tuple(specs["skeleton"].up) == tuple(specs["model"].up) == ("fsdp", "tensor")
