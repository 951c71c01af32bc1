"""What adam keeps for a model of which only the last of ten layers is trained.

Bytes, counted: no clock is read. Beside the state stands what a compiled step takes in all,
arguments, results and what it needs meanwhile, as XLA plans it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import paramax
import pytest
from flax import nnx
from jaxtyping import Array

import annotax as anx
from _peers import is_wrapped, loss_of
from _peers_nnx import Stack as NnxStack
from _results import Cell
from _twins import Layer, PlainLayer, PlainStack, Stack, layers

LAYERS = 10
SIZE = 1 << 18  # numbers in an array: a mebibyte
MEBIBYTE = 1 << 20
TX = optax.adam(1e-3)
TITLE = "Memory: adam on a model whose last of ten layers is trained"


@dataclass(frozen=True)
class Trained:
    """What the optimizer is given, what stays as it is, and the model made of both."""

    params: Any
    rest: Any
    model: Callable[[Any, Any], Any]


def stopped(model: PlainStack) -> PlainStack:
    """The layers but the last without gradients, by hand."""
    *body, head = model.layers
    return PlainStack([*jax.tree.map(jax.lax.stop_gradient, body), head])


def annotax_freeze() -> Trained:
    model = Stack(layers(Layer, LAYERS, SIZE))
    model = anx.freeze(model, ~anx.by_path(f"layers.{LAYERS - 1}.**"))
    structure, params, rest = anx.split(model, anx.trainable_filter)
    return Trained(params, rest, lambda params, rest: anx.merge(structure, params, rest))


def plain() -> PlainStack:
    return PlainStack(layers(PlainLayer, LAYERS, SIZE))


def equinox_unfiltered() -> Trained:
    params, rest = eqx.partition(plain(), eqx.is_inexact_array)
    return Trained(params, rest, lambda *parts: stopped(eqx.combine(*parts)))


def equinox_by_hand() -> Trained:
    model = plain()
    nothing = jax.tree.map(lambda _: False, model)
    head = jax.tree.map(lambda _: True, model.layers[-1])
    trained = eqx.tree_at(lambda m: m.layers[-1], nothing, head)
    return Trained(*eqx.partition(model, trained), eqx.combine)


def wrapped() -> PlainStack:
    *body, head = plain().layers
    return PlainStack([*paramax.non_trainable(body), head])


def paramax_unfiltered() -> Trained:
    params, rest = eqx.partition(wrapped(), eqx.is_inexact_array)
    return Trained(params, rest, lambda *parts: paramax.unwrap(eqx.combine(*parts)))


def paramax_filtered() -> Trained:
    parts = eqx.partition(wrapped(), eqx.is_inexact_array, is_leaf=is_wrapped)
    return Trained(*parts, lambda *parts: paramax.unwrap(eqx.combine(*parts)))


class NnxLayer(nnx.Module):
    """The layer in Flax NNX."""

    def __init__(self, weight: Array, bias: Array, size: int) -> None:
        self.weight, self.bias = nnx.Param(weight), nnx.Param(bias)

    def __call__(self, x: Array) -> Array:
        return self.weight * x + self.bias


def in_nnx(wrt: Any) -> Trained:
    model = NnxStack(layers(NnxLayer, LAYERS, SIZE))
    graph, params, rest = nnx.split(model, wrt, ...)
    return Trained(params, rest, lambda *parts: stopped_nnx(nnx.merge(graph, *parts)))


def stopped_nnx(model: NnxStack) -> NnxStack:
    """The same layers, those but the last stopped by hand."""
    *body, head = model.layers
    graph, arrays = nnx.split(nnx.List(body))
    return NnxStack([*nnx.merge(graph, jax.tree.map(jax.lax.stop_gradient, arrays)), head])


WAYS: dict[str, Callable[[], Trained]] = {
    "**annotax**, `freeze`": annotax_freeze,
    "Equinox, no filter": equinox_unfiltered,
    "Equinox, a filter by hand": equinox_by_hand,
    "paramax, `non_trainable`, no filter": paramax_unfiltered,
    "paramax, `non_trainable`, a filter by hand": paramax_filtered,
    "Flax NNX, `wrt=nnx.Param`": lambda: in_nnx(nnx.Param),
    "Flax NNX, `wrt` by hand": lambda: in_nnx(
        nnx.All(nnx.Param, nnx.PathContains(LAYERS - 1))
    ),
}


def bytes_of(tree: Any) -> int:
    return sum(array.nbytes for array in jax.tree.leaves(tree))


def step_bytes(trained: Trained, opt_state: Any) -> int:
    """What XLA plans for one compiled step."""

    def loss(params: Any, rest: Any, x: Array) -> Array:
        return loss_of(trained.model(params, rest), x)

    @jax.jit
    def step(params: Any, opt_state: Any, rest: Any, x: Array) -> tuple[Any, ...]:
        value, grads = jax.value_and_grad(loss)(params, rest, x)
        updates, opt_state = TX.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    x = jnp.ones(SIZE)
    compiled = step.lower(trained.params, opt_state, trained.rest, x).compile()
    plan = compiled.memory_analysis()
    arguments, results = plan.argument_size_in_bytes, plan.output_size_in_bytes
    return arguments + results + plan.temp_size_in_bytes


@pytest.mark.parametrize("way", WAYS)
def test_bytes(tell: Callable[[Cell], None], benchmark: Any, way: str) -> None:
    trained = WAYS[way]()
    opt_state = TX.init(trained.params)
    kept = bytes_of(opt_state) / MEBIBYTE
    tell(Cell(TITLE, way, "state of adam", f"{kept:.1f} MiB"))
    total = step_bytes(trained, opt_state) / MEBIBYTE
    tell(Cell(TITLE, way, "one step in all", f"{total:.1f} MiB"))
    benchmark.pedantic(lambda: TX.init(trained.params), rounds=1)
