"""A model made directly on its shards: no device ever holds the whole."""

import equinox as eqx
import jax
import numpy as np
import pytest
from hlo import kinds, largest
from jax import random
from transformer import RULES, FeedForward, Transformer, make_mesh

import annotax as anx

KEY = random.key(0)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh((2, 2, 2))


@pytest.fixture(scope="module")
def whole():
    return jax.jit(Transformer).lower(KEY).compile()


@pytest.fixture(scope="module")
def in_shards(mesh):
    skeleton = eqx.filter_eval_shape(Transformer, KEY)
    shardings = anx.shardings(skeleton, mesh, RULES)
    return jax.jit(Transformer, out_shardings=shardings).lower(KEY).compile()


def bytes_on(device, model):
    shards = [x for a in jax.tree.leaves(model) for x in a.addressable_shards]
    return sum(shard.data.nbytes for shard in shards if shard.device == device)


def test_values_are_those_of_the_unsharded_model(whole, in_shards):
    expected = anx.leaves(whole(KEY), anx.everything)
    for path, array in anx.leaves(in_shards(KEY), anx.everything).items():
        np.testing.assert_allclose(array, expected[path], rtol=1e-6, err_msg=path)


def test_every_device_holds_its_share_alone(in_shards):
    model = in_shards(KEY)
    total = sum(array.nbytes for array in jax.tree.leaves(model))
    norms = 6 * 32 * 4  # weights and biases of three norms, which are replicated
    # Weights, embedding and head are in four parts; biases and positions in two.
    halves = 4 * (48 + 32 + 10 * 32)
    share = norms + halves // 2 + (total - norms - halves) // 4
    assert {bytes_on(device, model) for device in jax.devices()} == {share}
    assert share < 0.3 * total


def test_the_program_of_a_device_makes_nothing_larger_than_a_shard(whole, in_shards):
    assert largest(whole) == 64 * 32  # the embedding, and the head
    assert largest(in_shards) == 32 * 16


def test_random_numbers_are_drawn_without_talking(mesh):
    def draw(key):
        return random.normal(key, (64, 32))

    rules = {"vocab": "tensor", "embed": "fsdp"}
    sharding = anx.shardings(_Table(jax.eval_shape(draw, KEY)), mesh, rules).weight
    assert kinds(jax.jit(draw, out_shardings=sharding).lower(KEY).compile()) == set()


class _Table(anx.Module):
    weight: anx.Param[jax.Array] = anx.field(axes=("vocab", "embed"))


def test_memory_at_the_time_of_making_is_a_share_too(whole, in_shards):
    def peak(compiled):
        memory = compiled.memory_analysis()
        return memory.temp_size_in_bytes + memory.output_size_in_bytes

    assert peak(in_shards) < 0.4 * peak(whole)


def test_stacked_layers_can_lie_on_a_mesh_axis_of_their_own(mesh):
    keys = random.split(KEY, 2)
    rules = {"layers": "data", "mlp": "tensor", "embed": "fsdp"}

    def make(keys):
        return eqx.filter_vmap(FeedForward)(keys)

    skeleton = eqx.filter_eval_shape(make, keys)
    shardings = anx.shardings(skeleton, mesh, rules, stack="layers")
    layers = jax.jit(make, out_shardings=shardings)(keys)
    assert layers.up.shape == (2, 32, 48)
    assert layers.up.addressable_shards[0].data.shape == (1, 16, 24)
    assert layers.up_bias.addressable_shards[0].data.shape == (1, 24)


def test_an_adopted_model_is_made_on_its_shards(mesh):
    def make(key):
        return anx.adopt(eqx.nn.MLP(16, 8, 32, 1, key=key))

    skeleton = jax.eval_shape(make, KEY)
    rules = {"out_features": "tensor", "in_features": "fsdp"}
    model = jax.jit(make, out_shardings=anx.shardings(skeleton, mesh, rules))(KEY)
    weight = model.layers[0].weight
    assert weight.addressable_shards[0].data.shape == (16, 8)
    np.testing.assert_allclose(weight, make(KEY).layers[0].weight, rtol=1e-6)
