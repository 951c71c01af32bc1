"""Where shardings go: `device_put`, `jit`, constraints, donation, and layers of others."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.sharding import NamedSharding, PartitionSpec
from transformer import FeedForward, make_mesh

import annotax as anx

RULES = {"mlp": "tensor", "embed": "fsdp"}
NN_RULES = {"out_features": "tensor", "in_features": "fsdp"}


@pytest.fixture(scope="module")
def mesh():
    return make_mesh((2, 2, 2))


@pytest.fixture(scope="module")
def layer():
    return FeedForward(random.key(0))


def spec(array):
    return tuple(array.sharding.spec)


def doubled(tree):
    return jax.tree.map(lambda array: 2 * array, tree)


def test_leaves_go_through_plain_jit(mesh, layer):
    structure, params, rest = anx.split(layer, anx.trainable_filter)
    shardings = anx.shardings(params, mesh, RULES)
    jitted = jax.jit(doubled, in_shardings=(shardings,), out_shardings=shardings)
    result = jitted(jax.device_put(params, shardings))
    assert isinstance(result, anx.Leaves)
    assert {path: spec(array) for path, array in result.items()} == {
        "up": ("fsdp", "tensor"),
        "up_bias": ("tensor",),
        "down": ("tensor", "fsdp"),
        "down_bias": ("fsdp",),
    }
    merged = anx.merge(structure, result, rest)
    np.testing.assert_array_equal(merged.up, 2 * layer.up)


def test_a_constraint_inside_jit(mesh, layer):
    shardings = anx.shardings(layer, mesh, RULES)

    @jax.jit
    def constrained(layer):
        return jax.lax.with_sharding_constraint(doubled(layer), shardings)

    result = constrained(layer)
    assert spec(result.up) == ("fsdp", "tensor")
    assert spec(result.down_bias) == ("fsdp",)


def test_donated_buffers_are_used_again(mesh, layer):
    shardings = anx.shardings(layer, mesh, RULES)
    # A copy, as putting an array where it already is may give its own buffer.
    placed = jax.device_put(doubled(layer), shardings)
    shares = [array.addressable_shards[0].data.nbytes for array in jax.tree.leaves(placed)]
    jitted = jax.jit(
        doubled, in_shardings=(shardings,), out_shardings=shardings, donate_argnums=0
    )
    program = jitted.lower(placed).compile()
    assert program.memory_analysis().alias_size_in_bytes == sum(shares)
    result = jitted(placed)
    assert all(array.is_deleted() for array in jax.tree.leaves(placed))
    np.testing.assert_array_equal(result.up, 4 * layer.up)


def test_a_frozen_model_and_its_optimizer_state_lie_as_they_did(mesh, layer):
    frozen = anx.freeze(layer, anx.by_path("up*"))
    placed = jax.device_put(frozen, anx.shardings(frozen, mesh, RULES))
    assert type(placed) is type(frozen)
    assert spec(placed.up) == ("fsdp", "tensor")
    assert spec(anx.params(placed)["down"]) == ("tensor", "fsdp")


def test_an_adopted_model_goes_through_plain_jit(mesh):
    model = anx.adopt(eqx.nn.MLP(16, 8, 32, 1, key=random.key(0)))
    x = random.normal(random.key(1), (4, 16))
    shardings = anx.shardings(model, mesh, NN_RULES)

    def apply(model, x):
        return jax.vmap(model)(x)

    result = jax.jit(apply, in_shardings=(shardings, None))(model, x)
    np.testing.assert_allclose(result, apply(model, x), rtol=1e-4, atol=1e-6)


def test_a_foreign_model_with_functions_goes_through_filter_shard(mesh):
    model = eqx.nn.Sequential(
        [
            eqx.nn.Linear(16, 8, key=random.key(0)),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.Dropout(0.5),
        ]
    )
    shardings = anx.shardings(model, mesh, NN_RULES)
    assert not all(map(eqx.is_array, jax.tree.leaves(model)))  # a function and a number

    outside = eqx.filter_shard(model, shardings)
    assert spec(outside.layers[0].weight) == ("tensor", "fsdp")
    assert outside.layers[1].fn is jnp.tanh
    assert outside.layers[2].p == 0.5

    inside = eqx.filter_jit(lambda model: eqx.filter_shard(model, shardings))(model)
    assert spec(inside.layers[0].weight) == ("tensor", "fsdp")
    assert spec(inside.layers[0].bias) == ("tensor",)

    x = jax.device_put(jnp.ones((4, 16)), NamedSharding(mesh, PartitionSpec("data")))
    result = eqx.filter_jit(
        eqx.filter_vmap(lambda model, x: model.layers[0](x), in_axes=(None, 0))
    )(outside, x)
    np.testing.assert_allclose(result, jax.vmap(model.layers[0])(x), rtol=1e-5, atol=1e-6)
