"""A training run that saves with Orbax, can be killed, and goes on where it was.

Stands apart because it has to be a process of its own: `test_orbax.py` starts it, has it
killed at a moment named on the command line, and starts it again. Every line that it
prints is JSON; losses and the last state are printed so that one bit more or less shows.
"""

import hashlib
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax import random
from jax.sharding import Mesh
from jaxtyping import Array, Float

import annotax as anx

RULES = {"hidden": "model", "features": "data"}
FEATURES, HIDDEN, BATCH, EVERY = 16, 8, 24, 3


class Net(anx.Module):
    up: anx.Param[Float[Array, "hidden features"]]
    down: anx.Param[Float[Array, " hidden"]]
    mean: anx.Buffer[Float[Array, " features"]]
    scale: anx.Buffer[Float[Array, " features"]] = anx.field(persistent=False)

    def __init__(self, key):
        k1, k2 = random.split(key)
        self.up = random.normal(k1, (HIDDEN, FEATURES)) * FEATURES**-0.5
        self.down = random.normal(k2, (HIDDEN,)) * HIDDEN**-0.5
        self.mean = jnp.zeros(FEATURES)
        self.scale = 1 / jnp.arange(1.0, FEATURES + 1)

    def __call__(self, x, key):
        hidden = jax.nn.relu(self.up @ ((x - self.mean) * self.scale))
        return self.down @ (hidden * random.bernoulli(key, 0.8, hidden.shape))


class State(NamedTuple):
    """All that a step changes on the devices."""

    model: Net
    opt_state: optax.OptState
    key: Array


saved = anx.by(lambda record: record.persistent)
tx = optax.adamw(3e-2)


def make_mesh(*shape):
    devices = np.array(jax.devices()[: np.prod(shape)])
    return Mesh(devices.reshape(shape), ("data", "model"))


def init(seed):
    model = Net(random.key(seed))
    return State(model, tx.init(anx.params(model)), random.key_data(random.key(seed + 1)))


def placed(mesh, seed=0):
    """A new state, made on its shards."""
    shardings = anx.shardings(eqx.filter_eval_shape(init, seed), mesh, RULES)
    return jax.jit(init, static_argnums=0, out_shardings=shardings)(seed)


def stored(state):
    """What of the state goes into a checkpoint, with the model as `Leaves`."""
    return {**state._asdict(), "model": anx.leaves(state.model, saved)}


def target(tree, mesh):
    """The same tree without values: what to restore, and where to put it."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        tree,
        anx.shardings(tree, mesh, RULES),
    )


def restored(manager, step, state, mesh):
    """The state and the position in the data of one checkpoint."""
    args = ocp.args.Composite(
        state=ocp.args.StandardRestore(target(stored(state), mesh)),
        data=ocp.args.JsonRestore(),
    )
    found = manager.restore(step, args=args)
    model = anx.update(state.model, found.state["model"])
    return State(**{**found.state, "model": model}), found.data["position"]


def save(manager, step, state, position):
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(stored(state)),
        data=ocp.args.JsonSave({"position": position}),
    )
    return manager.save(step, args=args)


def manager(directory, **options):
    """One checkpoint is kept, so that after each an older one is deleted."""
    keep = ocp.checkpoint_managers.LatestN(1)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=keep, cleanup_tmp_directories=True, **options
    )
    return ocp.CheckpointManager(directory, options=options)


def batch_at(position):
    """A batch of a stream without end, and where the next one begins."""
    rng = np.random.default_rng(position)
    x = rng.normal(1, 1, (BATCH, FEATURES)).astype(np.float32)
    return (x, np.sin(x).sum(-1)), position + BATCH + int(rng.integers(3))


def loss_fn(model, key, x, y):
    return jnp.mean((jax.vmap(model)(x, random.split(key, len(x))) - y) ** 2)


@partial(jax.jit, donate_argnums=0)
def train_step(state, x, y):
    model, opt_state, key_data = state
    key, dropout = random.split(random.wrap_key_data(key_data))
    params = anx.params(model)
    loss, grads = anx.value_and_grad(loss_fn)(model, dropout, x, y)
    updates, opt_state = tx.update(grads, opt_state, params)
    model = anx.update(model, optax.apply_updates(params, updates))
    model = anx.replace(model, mean=0.9 * model.mean + 0.1 * x.mean(0))
    return State(model, opt_state, random.key_data(key)), loss


def digest(state):
    """All bits of a state. Non-persistent buffers are among them."""
    arrays = jax.tree.leaves(jax.device_get(state))
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


# --- when it is killed ---------------------------------------------------------------


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_on(event, ends):
    """Be killed at the moment at which something is about to be done to a path.

    Orbax works on files in threads, so this is while an asynchronous save goes on.
    """

    def hook(name, args):
        if name == event and any(str(arg).endswith(ends) for arg in args):
            die()

    sys.addaudithook(hook)


def prepare_to_die(when, at):
    if when == "committing":
        die_on("os.rename", f"/{at}")
    if when == "deleting the one before":
        die_on("shutil.rmtree", f"/{at - EVERY}")


def say(**facts):
    print(json.dumps(facts), flush=True)


def main(directory, steps, when, at):
    mesh = make_mesh(4, 2)
    state, position, step = placed(mesh), 7, 0
    prepare_to_die(when, at)
    with manager(directory) as checkpoints:
        if checkpoints.latest_step() is not None:
            step = checkpoints.latest_step()
            state, position = restored(checkpoints, step, state, mesh)
        say(start=step)
        while step < steps:
            batch, position = batch_at(position)
            state, loss = train_step(state, *batch)
            step += 1
            say(step=step, loss=float(loss).hex())
            if step % EVERY == 0:
                save(checkpoints, step, state, position)
            if step == at and when == "writing":
                die()
            if step == at and when == "computing":
                checkpoints.wait_until_finished()
                die()
    left = sorted(path.name for path in Path(directory).iterdir())
    say(end=digest(state), position=position, left=left)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
