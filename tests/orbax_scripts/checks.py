"""Orbax and `Leaves` on eight devices. `test_orbax.py` runs these tests in a process of
its own, because the number of devices is fixed when JAX starts.
"""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray
from packaging.version import Version
from resumable import (
    RULES,
    Net,
    batch_at,
    digest,
    make_mesh,
    manager,
    placed,
    restored,
    save,
    saved,
    stored,
    target,
    train_step,
)

import annotax as anx

MESHES = [(4, 2), (2, 4), (8, 1), (1, 1)]


class Block(anx.Module):
    """Names and dtypes that could give trouble."""

    layers: list[Net]
    table: dict[str, anx.Param[Float[Array, " features"]]]
    half: anx.Param[Float[Array, "hidden features"]]
    eighth: anx.Buffer[Array]
    complex: anx.Buffer[Array]
    flags: anx.Buffer[Array]
    count: anx.Buffer[Array]

    def __init__(self):
        self.layers = [Net(key) for key in random.split(random.key(3), 2)]
        names = ("plain", "a.b", "a/b", "a[0]", "a b", "ü'\"", "..", "%2e", "a\\b", "")
        self.table = {name: jnp.full(16, float(at)) for at, name in enumerate(names)}
        self.half = random.normal(random.key(4), (8, 16), jnp.bfloat16)
        self.eighth = jnp.arange(4.0).astype(jnp.float8_e4m3fn)
        self.complex = jnp.arange(3) * (1 + 2j)
        self.flags = jnp.array([True, False])
        self.count = jnp.array(5)


def leaves_on(mesh, model):
    chosen = anx.leaves(model, saved)
    return jax.device_put(chosen, anx.shardings(chosen, mesh, RULES))


def same(left, right):
    """Equal to the last bit, wherever the arrays lie."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return jax.tree.structure(left) == jax.tree.structure(right) and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs
    )


@pytest.fixture(scope="module")
def stored_block(tmp_path_factory):
    """A directory with the leaves of a `Block`, saved on 4 × 2 devices."""
    directory = tmp_path_factory.mktemp("block")
    leaves = leaves_on(make_mesh(4, 2), Block())
    with ocp.CheckpointManager(directory) as checkpoints:
        checkpoints.save(0, args=ocp.args.StandardSave(leaves))
    return directory, leaves


def test_the_checkpoint_knows_every_path(stored_block):
    directory, leaves = stored_block
    with ocp.CheckpointManager(
        directory, item_handlers=ocp.StandardCheckpointHandler()
    ) as found:
        stored_arrays = found.item_metadata(0).tree
    assert set(stored_arrays) == set(leaves)
    for path, array in leaves.items():
        assert tuple(stored_arrays[path].shape) == array.shape, path
        assert stored_arrays[path].dtype == array.dtype, path


@pytest.mark.parametrize("shape", MESHES)
def test_leaves_are_restored_onto_any_mesh_shard_by_shard(stored_block, shape):
    directory, leaves = stored_block
    mesh = make_mesh(*shape)
    shardings = anx.shardings(leaves, mesh, RULES)
    with ocp.CheckpointManager(directory) as checkpoints:
        args = ocp.args.StandardRestore(target(leaves, mesh))
        found = checkpoints.restore(0, args=args)
    assert type(found) is anx.Leaves
    assert found.static == leaves.static
    assert same(found, leaves)
    for path, array in found.items():
        assert array.sharding == shardings[path], path
        on_each = shardings[path].shard_shape(array.shape)
        assert {shard.data.shape for shard in array.addressable_shards} == {on_each}, path
    data, model = shape
    assert found["half"].addressable_shards[0].data.shape == (8 // model, 16 // data)


def test_restored_leaves_go_into_a_model(stored_block):
    directory, leaves = stored_block
    with ocp.CheckpointManager(directory) as checkpoints:
        target_leaves = target(leaves, make_mesh(2, 4))
        found = checkpoints.restore(0, args=ocp.args.StandardRestore(target_leaves))
    model = anx.update(jax.tree.map(jnp.zeros_like, Block()), found)
    assert same(anx.leaves(model, saved), leaves)


def test_non_persistent_buffers_are_left_out_and_stay_as_they_were(tmp_path):
    mesh = make_mesh(4, 2)
    state = placed(mesh)
    other = placed(mesh, seed=5)
    scale = jax.device_put(jnp.full(16, 7.0), other.model.scale.sharding)
    other = other._replace(model=anx.replace(other.model, scale=scale))
    with manager(tmp_path) as checkpoints:
        save(checkpoints, 0, state, 0)
        checkpoints.wait_until_finished()
        found, _ = restored(checkpoints, 0, other, mesh)
        names = checkpoints.item_metadata(0).state.tree
    assert set(names["model"]) == {"up", "down", "mean"}
    assert same(anx.leaves(found.model, saved), anx.leaves(state.model, saved))
    assert np.array_equal(found.model.scale, np.full(16, 7.0))


def restore(directory, wanted):
    with ocp.CheckpointManager(directory) as checkpoints:
        return checkpoints.restore(0, args=ocp.args.StandardRestore(wanted))


def test_other_paths_are_refused_by_orbax(stored_block):
    directory, _ = stored_block
    more = anx.leaves({"model": Block(), "more": jnp.ones(2)}, saved)
    with pytest.raises(ValueError, match="more"):
        restore(directory, target(more, make_mesh(1, 1)))
    fewer = anx.leaves(Block(), saved & ~anx.by_path("half"))
    with pytest.raises(ValueError, match="half"):
        restore(directory, target(fewer, make_mesh(1, 1)))


def test_values_are_cast_to_the_dtype_of_the_target(stored_block):
    directory, leaves = stored_block
    wanted = {**target(leaves, make_mesh(2, 4))}
    half = wanted["half"]
    wanted["half"] = jax.ShapeDtypeStruct(half.shape, jnp.float16, sharding=half.sharding)
    found = restore(directory, wanted)
    assert found["half"].dtype == jnp.float16
    assert np.array_equal(found["half"], leaves["half"].astype(jnp.float16))


def test_a_part_is_restored_by_way_of_a_dictionary(stored_block):
    """`Leaves` are a Mapping, and Orbax would make a smaller one from pairs."""
    directory, _ = stored_block
    part = anx.leaves(Block(), saved & anx.by_path("layers.**"))
    wanted = dict(target(part, make_mesh(2, 4)))
    args = ocp.args.PyTreeRestore(
        wanted,
        restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
        partial_restore=True,
    )
    with ocp.CheckpointManager(directory) as checkpoints:
        found = checkpoints.restore(0, args=args)
    found = jax.tree.unflatten(jax.tree.structure(part), [found[path] for path in part])
    assert same(found, anx.leaves(Block(), saved & anx.by_path("layers.**")))
    assert all(found[path].sharding == wanted[path].sharding for path in part)


@pytest.mark.skipif(
    Version(ocp.__version__) < Version("0.11.31"), reason="no typed keys in a target before"
)
def test_typed_keys(tmp_path):
    class Noise(anx.Module):
        key: anx.Buffer[PRNGKeyArray]

    leaves = leaves_on(make_mesh(4, 2), Noise(random.key(9)))
    with ocp.CheckpointManager(tmp_path) as checkpoints:
        checkpoints.save(0, args=ocp.args.StandardSave(leaves))
        checkpoints.wait_until_finished()
        args = ocp.args.StandardRestore(target(leaves, make_mesh(2, 4)))
        found = checkpoints.restore(0, args=args)
    assert found["key"].dtype == leaves["key"].dtype
    assert np.array_equal(*(random.key_data(each["key"]) for each in (found, leaves)))


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path):
    """The step donates the arrays that are being written, and overwrites them."""
    state, before = placed(make_mesh(4, 2)), stored(placed(make_mesh(4, 2)))
    writing = threading.Event()
    hold = ocp.AsyncOptions(post_finalization_callback=lambda: writing.wait(60))
    with manager(tmp_path, async_options=hold) as checkpoints:
        assert save(checkpoints, 0, state, 0)
        first = state
        state, _, losses = steps(state, 7, 3)
        assert all(array.is_deleted() for array in jax.tree.leaves(stored(first)))
        assert np.isfinite(losses).all()
        assert checkpoints.is_saving_in_progress()
        writing.set()
        checkpoints.wait_until_finished()
        assert not checkpoints.is_saving_in_progress()
        found, _ = restored(checkpoints, 0, state, make_mesh(4, 2))
    assert same(stored(found), before)
    assert not same(stored(state), before)


def test_the_optimizer_state_lies_where_the_parameters_lie(tmp_path):
    state, mesh = placed(make_mesh(4, 2)), make_mesh(2, 4)
    with manager(tmp_path) as checkpoints:
        save(checkpoints, 0, state, 0)
        checkpoints.wait_until_finished()
        found, _ = restored(checkpoints, 0, placed(mesh, seed=1), mesh)
        names = checkpoints.item_metadata(0).state.tree
    assert same(found.opt_state, state.opt_state)
    for path, moment in found.opt_state[0].mu.items():
        assert moment.sharding == anx.params(found.model)[path].sharding
    assert set(names["opt_state"][0]["mu"]) == {"up", "down"}


def steps(state, position, count):
    losses = []
    for _ in range(count):
        batch, position = batch_at(position)
        state, loss = train_step(state, *batch)
        losses.append(float(loss))
    return state, position, losses


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (1, 1)])
def test_training_goes_on_on_another_mesh(tmp_path, shape):
    state, position, _ = steps(placed(make_mesh(4, 2)), 7, 3)
    with manager(tmp_path) as checkpoints:
        save(checkpoints, 3, state, position)
        whole, _, losses = steps(state, position, 4)
        mesh = make_mesh(*shape)
        resumed, found_position = restored(checkpoints, 3, placed(mesh, seed=1), mesh)
    assert found_position == position
    resumed, _, resumed_losses = steps(resumed, position, 4)
    np.testing.assert_allclose(resumed_losses, losses, rtol=1e-5)
    for path, array in stored(resumed)["model"].items():
        np.testing.assert_allclose(array, stored(whole)["model"][path], atol=1e-5)
    if shape == (4, 2):
        assert resumed_losses == losses
        assert digest(resumed) == digest(whole)
