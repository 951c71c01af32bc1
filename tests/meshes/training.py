"""Training over a mesh: the numbers of the unsharded run, and every moment in its place."""

from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.sharding import NamedSharding, PartitionSpec
from transformer import (
    RULES,
    Block,
    FeedForward,
    Transformer,
    batch_sharding,
    make_batches,
    make_mesh,
    train,
    train_step,
    tx,
)

import annotax as anx

# Shape of the mesh, and whether embedding and head are the same array.
CASES = [((2, 2, 2), False), ((1, 4, 2), True), ((8, 1, 1), False), ((2, 4, 1), True)]


@cache
def untrained(tied):
    model = jax.jit(partial(Transformer, tied=tied))(random.key(0))
    return model, tx.init(anx.params(model))


@cache
def unsharded(tied):
    return train(jax.jit(train_step), *untrained(tied), make_batches())


@cache
def trained(shape, tied):
    mesh = make_mesh(shape)
    copies = jax.tree.map(jnp.copy, untrained(tied))  # as they are given away below
    model_shardings, state_shardings = anx.shardings(copies, mesh, RULES)
    model, opt_state = jax.device_put(copies, (model_shardings, state_shardings))
    step = jax.jit(
        train_step,
        in_shardings=(model_shardings, state_shardings, batch_sharding(mesh)),
        out_shardings=(model_shardings, state_shardings, None),
        donate_argnums=(0, 1),
    )
    batches = [jax.device_put(batch, batch_sharding(mesh)) for batch in make_batches()]
    result = train(step, model, opt_state, batches)
    donated = jax.tree.leaves((model, opt_state))
    assert all(array.is_deleted() for array in donated)
    return mesh, *result


@pytest.mark.parametrize(("shape", "tied"), CASES)
def test_five_steps_are_those_of_the_unsharded_run(shape, tied):
    model, _, losses = unsharded(tied)
    _, sharded_model, _, sharded_losses = trained(shape, tied)
    assert losses[-1] < 0.9 * losses[0]
    np.testing.assert_allclose(sharded_losses, losses, rtol=1e-5)
    expected = anx.leaves(model, anx.everything)
    for path, array in anx.leaves(sharded_model, anx.everything).items():
        np.testing.assert_allclose(array, expected[path], atol=2e-5, err_msg=path)


@pytest.mark.parametrize(("shape", "tied"), CASES)
def test_moments_lie_where_their_parameter_lies_and_counters_everywhere(shape, tied):
    mesh, model, opt_state, _ = trained(shape, tied)
    params = anx.params(model)
    for moments in (opt_state[0].mu, opt_state[0].nu):
        assert list(moments) == list(params)
        for path, moment in moments.items():
            assert moment.sharding == params[path].sharding, path
    assert opt_state[0].count.sharding == NamedSharding(mesh, PartitionSpec())
    assert int(opt_state[0].count) == 5


@pytest.mark.parametrize(("shape", "tied"), CASES)
def test_parameters_are_cut_as_the_rules_say(shape, tied):
    mesh, model, _, _ = trained(shape, tied)
    tensor, fsdp = mesh.shape["tensor"], mesh.shape["fsdp"]
    block = model.blocks[0]
    cut = {
        "embedding": (model.embedding.weight, (64 // tensor, 32 // fsdp)),
        "positions": (model.positions, (10, 32 // fsdp)),
        "query": (block.attention.query, (32 // fsdp, 4 // tensor, 6)),
        "out": (block.attention.out, (4 // tensor, 6, 32 // fsdp)),
        "up": (block.feed_forward.up, (32 // fsdp, 48 // tensor)),
        "down": (block.feed_forward.down, (48 // tensor, 32 // fsdp)),
        "norm": (model.norm.weight, (32,)),
    }
    for name, (array, expected) in cut.items():
        shapes = {shard.data.shape for shard in array.addressable_shards}
        assert shapes == {expected}, name
        assert len(array.addressable_shards) == 8


class Stacked(anx.Module):
    """Layers as one, with an axis in front, which `scan` goes through."""

    layers: FeedForward

    def __init__(self, keys):
        self.layers = eqx.filter_vmap(FeedForward)(keys)

    def __call__(self, x):
        return jax.lax.scan(lambda x, layer: (x + layer(x), None), x, self.layers)[0]


def test_layers_that_are_scanned_are_laid_out_behind_their_stack():
    def loss_fn(model, x):
        return (model(x) ** 2).mean()

    keys = random.split(random.key(0), 4)
    rules = {"layers": "data", "mlp": "tensor", "embed": "fsdp"}
    skeleton = eqx.filter_eval_shape(Stacked, keys)
    shardings = anx.shardings(skeleton, make_mesh((2, 2, 2)), rules, stack="layers")
    model = jax.jit(Stacked, out_shardings=shardings)(keys)
    up = model.layers.up
    assert tuple(up.sharding.spec) == ("data", "fsdp", "tensor")
    assert up.addressable_shards[0].data.shape == (2, 16, 24)

    x = random.normal(random.key(1), (40, 32))
    value_and_grad = jax.jit(anx.value_and_grad(loss_fn))
    close = partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-6)
    jax.tree.map(close, value_and_grad(model, x), value_and_grad(jax.jit(Stacked)(keys), x))


def test_layers_of_equinox_in_a_stack_are_laid_out_behind_it():
    rules = {"layers": "data", "heads": "tensor", "mlp": "tensor", "embed": "fsdp"}
    skeleton = eqx.filter_eval_shape(eqx.filter_vmap(Block), random.split(random.key(0), 4))
    specs = jax.tree.map(tuple, anx.partition_specs(skeleton, rules, stack="layers"))
    assert specs.attention.query == ("data", "fsdp", "tensor", None)
    assert specs.feed_forward.up_bias == ("data", "tensor")
    assert specs.first_norm.weight == ("data", None)
