"""The compiled programs talk as an expert expects, under each kind of parallelism.

Nothing here is about numbers, so nothing is run.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from hlo import collectives, kinds, results
from jax import random
from jax.sharding import NamedSharding, PartitionSpec
from transformer import (
    BATCH,
    EMBED,
    LENGTH,
    MLP,
    RULES,
    FeedForward,
    Transformer,
    batch_sharding,
    make_mesh,
    train_step,
    tx,
)

import annotax as anx

KEY = random.key(0)
ROWS = 160


def compiled(fn, mesh, rules, outputs):
    """A function of the feed-forward layer and of rows that the devices share."""
    layer = eqx.filter_eval_shape(FeedForward, KEY)
    place = batch_sharding(mesh)
    out_shardings = place if outputs is None else anx.shardings(outputs(layer), mesh, rules)
    inputs = (anx.shardings(layer, mesh, rules), place)
    jitted = jax.jit(fn, in_shardings=inputs, out_shardings=out_shardings)
    return jitted.lower(layer, jax.ShapeDtypeStruct((ROWS, EMBED), jnp.float32)).compile()


def forward(shape):
    rules = {"mlp": "tensor", "embed": "fsdp"}
    return compiled(lambda layer, x: layer(x), make_mesh(shape), rules, None)


def gradients(shape):
    def loss_fn(layer, x):
        return jnp.mean(layer(x) ** 2)

    rules = {"mlp": "tensor", "embed": "fsdp"}
    return compiled(anx.grad(loss_fn), make_mesh(shape), rules, anx.params)


WHOLE = [(EMBED, MLP), (MLP,), (MLP, EMBED), (EMBED,)]
"""The parameters of the feed-forward layer."""


def test_column_then_row_parallel_is_one_sum_of_the_result():
    assert collectives(forward((1, 8, 1))) == [("all-reduce", ((ROWS, EMBED),))]


def test_tensor_parallel_gradients_stay_where_their_parameters_are():
    assert collectives(gradients((1, 8, 1))) == [("all-reduce", ((ROWS, EMBED),))]


def test_data_parallel_sums_gradients_and_nothing_else():
    assert collectives(forward((8, 1, 1))) == []
    program = gradients((8, 1, 1))
    assert kinds(program) == {"all-reduce"}
    assert sorted(results(program, "all-reduce")) == sorted(WHOLE)


def test_fully_sharded_parameters_are_gathered_and_their_gradients_summed():
    cut = [(EMBED, MLP), (EMBED,), (MLP, EMBED)]  # those that have the axis "embed"
    program = forward((1, 1, 8))
    assert kinds(program) == {"all-gather"}
    assert sorted(results(program, "all-gather")) == sorted(cut)

    program = gradients((1, 1, 8))
    assert sorted(results(program, "all-gather")) == sorted(cut)
    # XLA sums on the CPU and takes a part; elsewhere it may scatter as it sums.
    assert kinds(program) - {"all-gather"} <= {"all-reduce", "reduce-scatter"}
    summed = results(program, "all-reduce") + results(program, "reduce-scatter")
    assert len(summed) == len(WHOLE)


def test_under_both_only_the_part_of_a_tensor_group_is_gathered():
    program = forward((1, 4, 2))
    part = [(EMBED, MLP // 4), (EMBED,), (MLP // 4, EMBED)]
    assert sorted(results(program, "all-gather")) == sorted(part)
    assert results(program, "all-reduce") == [(ROWS // 2, EMBED)]


# --- a training step of the whole transformer ----------------------------------------


def step_program(shape):
    mesh = make_mesh(shape)
    model = eqx.filter_eval_shape(Transformer, KEY)
    model = anx.replace(model, activations=NamedSharding(mesh, PartitionSpec()))
    opt_state = jax.eval_shape(tx.init, anx.params(model))
    placed = [anx.shardings(tree, mesh, RULES) for tree in (model, opt_state)]
    step = jax.jit(
        train_step,
        in_shardings=(*placed, batch_sharding(mesh)),
        out_shardings=(*placed, None),
    )
    tokens = jax.ShapeDtypeStruct((BATCH, LENGTH + 1), jnp.int32)
    whole = {path: x.shape for path, x in anx.params(model).items()}
    return step.lower(model, opt_state, tokens).compile(), whole


@pytest.mark.parametrize("shape", [(1, 4, 1), (2, 4, 1)])
def test_a_tensor_parallel_step_gathers_no_parameter(shape):
    program, whole = step_program(shape)
    assert not {*results(program, "all-gather")} & {*whole.values()}
    assert kinds(program) == {"all-reduce"}
    activations = (BATCH // shape[0], LENGTH, EMBED)
    assert activations in results(program, "all-reduce")


def test_a_data_parallel_step_sums_gradients_and_the_loss():
    program, whole = step_program((8, 1, 1))
    assert kinds(program) == {"all-reduce"}
    summed = {
        tuple(sorted(shape)) for shape in results(program, "all-reduce")
    }  # or transposed
    assert summed == {(), *(tuple(sorted(shape)) for shape in whole.values())}


def test_a_fully_sharded_step_gathers_every_matrix():
    program, whole = step_program((1, 1, 8))
    gathered = {*results(program, "all-gather")}
    matrices = {shape for path, shape in whole.items() if len(shape) > 1}
    # Rows of the embedding are looked up where they are, and exchanged afterwards.
    assert gathered >= matrices - {whole["embedding.weight"]}
    assert not any(dims[:2] == (BATCH, LENGTH) and dims[-1] > 1 for dims in gathered)
    assert kinds(program) >= {"all-reduce"} or kinds(program) >= {"reduce-scatter"}
