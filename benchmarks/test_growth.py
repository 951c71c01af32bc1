"""How the costs grow with the number of leaves, from ten to a hundred thousand.

Layers side by side with two Params, a Buffer and a Hyper, which differs from one to the
next, so that a summary folds nothing. What is drawn is the time a leaf: a level line means
that the cost is in proportion. The jitted call takes a whole tree and returns one number.
It is no training step: to compile one for so many arrays takes XLA too long.
"""

import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import annotax as anx
from _figure import Point
from _peers import Layer, PlainLayer
from _ratio import THREAD, Call, side_by_side
from _twins import PlainStack, Stack

SIZES = (10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
RULES = {"n": "model"}


def arrays_of(count: int) -> list[jax.Array]:
    """Arrays of their own, made at once."""
    return list(jnp.zeros((count, 2)))


def layers_of(make: Callable[..., Any], count: int) -> list[Any]:
    """Layers with three arrays of their own, neighbours with different sizes."""
    arrays = arrays_of(3 * count)
    triples = zip(arrays[::3], arrays[1::3], arrays[2::3], strict=True)
    return [make(*three, at % 2) for at, three in enumerate(triples)]


def there_and_back(model: Any) -> Call:
    """Flatten and unflatten."""

    def call() -> Any:
        leaves, treedef = jax.tree_util.tree_flatten(model)
        return treedef.unflatten(leaves)

    return call


def cold(layers: list[Any]) -> Call:
    """A filter for a structure never seen, of the same size at each call.

    Twelve places without leaves tell one structure from the others: a number in binary,
    with `None` for nought and an empty tuple for one.
    """
    numbers = itertools.count()

    def call() -> Any:
        bits = f"{next(numbers) % 4096:012b}"
        return anx.trainable_filter(
            Stack([*layers, *(() if b == "1" else None for b in bits)])
        )

    return call


def handed_in(compiled: Any, tree: Any) -> Call:
    """A call of a compiled function that waits for its result."""
    return lambda: compiled(tree).block_until_ready()


def first(tree: Any) -> jax.Array:
    """What the compiled function computes."""
    return jax.tree.leaves(tree)[0] * 2.0


def in_each_step(layers: list[Any], plain: list[Any]) -> dict[str, Call]:
    """What a loop that keeps the model whole may do at every step."""
    model, twin = Stack(layers), PlainStack(plain)
    return {
        "flatten + unflatten, plain Equinox": there_and_back(twin),
        "flatten + unflatten, annotax": there_and_back(model),
        "trainable_filter, known structure": lambda: anx.trainable_filter(model),
        "params": lambda: anx.params(model),
        "split": lambda: anx.split(model, anx.trainable_filter),
    }


def now_and_then(layers: list[Any], plain: list[Any]) -> dict[str, Call]:
    """What is done once, or when somebody looks."""
    model = Stack(layers)
    return {
        "trainable_filter, new structure": cold(layers),
        "freeze": lambda: anx.freeze(model, anx.everything),
        "partition_specs": lambda: anx.partition_specs(model, RULES),
        "summary": lambda: anx.summary(model),
        "summary and its text": lambda: str(anx.summary(model)),
    }


def a_jitted_call(layers: list[Any], plain: list[Any]) -> dict[str, Call]:
    """What it costs to hand everything to a compiled function."""
    model, twin = Stack(layers), PlainStack(plain)
    _, params, rest = anx.split(model, anx.trainable_filter)
    return {
        "a flat list": handed_in(jax.jit(first), jax.tree.leaves(model)),
        "split Leaves": handed_in(jax.jit(first), (params, rest)),
        "the whole model": handed_in(jax.jit(first), model),
        "eqx.filter_jit, plain Equinox": handed_in(eqx.filter_jit(first), twin),
    }


PANELS: dict[str, Callable[..., dict[str, Call]]] = {
    "at every step": in_each_step,
    "now and then": now_and_then,
    "a jitted call": a_jitted_call,
}


@pytest.mark.parametrize("panel", PANELS)
def test_growth(benchmark: Any, growth: list[Point], panel: str) -> None:
    for size in SIZES:
        count = size // 3
        layers, plain = layers_of(Layer, count), layers_of(PlainLayer, count)
        sides = PANELS[panel](layers, plain)
        found = side_by_side(sides, seconds=0.5, clock=THREAD, min_rounds=3)
        for operation, paired in found.items():
            growth.append(Point(panel, operation, size, paired.ours / (3 * count) * 1e6))
    benchmark.pedantic(lambda: None, rounds=1)
