"""One of several processes that train a model together, and what it saw.

    python several.py PROCESS COUNT PORT

prints, as JSON, the losses and what this process holds of each array.
"""

import json
import sys
from functools import partial

import equinox as eqx
import jax
import numpy as np
from jax import random
from transformer import (
    BATCH,
    LENGTH,
    RULES,
    Transformer,
    batch_sharding,
    make_batches,
    make_mesh,
    train,
    train_step,
    tx,
)

import annotax as anx


def main(process, count, port):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", count, process)
    assert (jax.device_count(), jax.local_device_count()) == (8, 4)
    batches = [np.asarray(batch) for batch in make_batches()]

    mesh = make_mesh((2, 2, 2))
    key = random.key(0)
    skeleton = eqx.filter_eval_shape(Transformer, key)
    in_model = anx.shardings(skeleton, mesh, RULES)
    model = jax.jit(Transformer, out_shardings=in_model)(key)
    params = anx.params(model)
    in_state = anx.shardings(jax.eval_shape(tx.init, params), mesh, RULES)
    opt_state = jax.jit(tx.init, out_shardings=in_state)(params)

    own = [np.split(batch, count)[process] for batch in batches]
    place = partial(jax.make_array_from_process_local_data, batch_sharding(mesh))
    batches = [place(rows) for rows in own]
    assert batches[0].shape == (BATCH, LENGTH + 1)
    step = jax.jit(
        train_step, out_shardings=(in_model, in_state, None), donate_argnums=(0, 1)
    )
    model, opt_state, losses = train(step, model, opt_state, batches)
    for path, moment in opt_state[0].mu.items():
        assert moment.sharding == anx.params(model)[path].sharding, path
    held = {path: describe(x) for path, x in anx.leaves(model, anx.everything).items()}
    print(json.dumps({"losses": losses, "held": held}))


def describe(array):
    """The shape of the whole, and of each part that is here."""
    shards = [shard.data.shape for shard in array.addressable_shards]
    return {"whole": array.shape, "here": shards, "all": array.is_fully_addressable}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
