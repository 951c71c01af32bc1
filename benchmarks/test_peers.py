"""The same training step for each way to write a model, in turns, in one process.

Nothing is timed that computes something else: after two steps all losses are the same.
"""

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from _peers import (
    Peer,
    filter_jit,
    flat_list,
    partitioned,
    readme_idiom,
    split_leaves,
    whole_model,
    with_paramax,
)
from _peers_nnx import cached_partial, nnx_jit, split_merge
from _ratio import THREAD

PEERS: dict[str, Callable[[int], Peer]] = {
    "a flat list in `jax.jit`, the floor": flat_list,
    "**annotax**, `split` Leaves in `jax.jit`": split_leaves,
    "**annotax**, the model in `jax.jit`, `params` and `update`": readme_idiom,
    "**annotax**, the model in `jax.jit`, `jax.grad` on all of it": whole_model,
    "Equinox, partitioned once, `jax.jit`": partitioned,
    "Equinox, `eqx.filter_jit`": filter_jit,
    "paramax with Equinox, `eqx.filter_jit`": with_paramax,
    "Flax NNX, `nnx.split`, `jax.jit`, `nnx.merge`": split_merge,
    "Flax NNX, `nnx.jit` with `nnx.cached_partial`": cached_partial,
    "Flax NNX, `nnx.jit`": nnx_jit,
}

STEP = "Step: time on the host for one step of sgd, as a ratio to a flat list"
LOWER = "Tracing: time to trace and lower that step, as a ratio to a flat list"

SIZES = pytest.mark.parametrize("leaves", [30, 300, 3_000])


@SIZES
def test_step(peers: Any, leaves: int) -> None:
    sides = {name: make(leaves // 3).running() for name, make in PEERS.items()}
    losses = {name: [float(call()) for _ in range(2)] for name, call in sides.items()}
    expected, *others = losses.values()
    assert all(np.allclose(other, expected, rtol=1e-3) for other in others), losses
    peers(STEP, f"{leaves:,} leaves", sides, seconds=3)


@SIZES
def test_lower(peers: Any, leaves: int) -> None:
    sides = {name: make(leaves // 3).lowering() for name, make in PEERS.items()}
    gc.collect()
    peers(LOWER, f"{leaves:,} leaves", sides, seconds=2, min_rounds=3, clock=THREAD)
