"""The models that the benchmarks compare, each beside its hand-written twin.

What annotax reads from an annotation, the twin writes out: `field(static=True)` for a
Hyper, `stop_gradient` for a Buffer.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import annotax as anx


class Layer(anx.Module):
    """Two Params and a Hyper."""

    weight: anx.Param[Float[Array, " n"]]
    bias: anx.Param[Float[Array, " n"]]
    size: anx.Hyper[int]

    def __call__(self, x: Array) -> Array:
        return self.weight * x + self.bias


class PlainLayer(eqx.Module):
    """The twin of `Layer`."""

    weight: Float[Array, " n"]
    bias: Float[Array, " n"]
    size: int = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        return self.weight * x + self.bias


class BufferLayer(anx.Module):
    """A Param, a Buffer and a Hyper."""

    weight: anx.Param[Float[Array, " n"]]
    mean: anx.Buffer[Float[Array, " n"]]
    size: anx.Hyper[int]


class PlainBufferLayer(eqx.Module):
    """The twin of `BufferLayer`, as far as flattening is concerned."""

    weight: Float[Array, " n"]
    mean: Float[Array, " n"]
    size: int = eqx.field(static=True)


class Norm(anx.Module):
    """Two Params, a Buffer and a Hyper: what a selection has to tell apart."""

    weight: anx.Param[Float[Array, " n"]]
    bias: anx.Param[Float[Array, " n"]]
    mean: anx.Buffer[Float[Array, " n"]]
    rate: anx.Hyper[float]


class Stack(anx.Module):
    """Layers one after the other; the loss is the sum of their outputs."""

    layers: list[Any]

    def __call__(self, x: Array) -> Array:
        return total(self.layers, x)


class PlainStack(eqx.Module):
    """The twin of `Stack`."""

    layers: list[Any]

    def __call__(self, x: Array) -> Array:
        return total(self.layers, x)


class Frozen(anx.Module):
    """A body that no gradient reaches, and a head that is trained."""

    body: anx.Buffer[Stack]
    head: anx.Param[Float[Array, " n"]]

    def __call__(self, x: Array) -> Array:
        return self.body(x) * self.head


class PlainFrozen(eqx.Module):
    """The twin of `Frozen`."""

    body: PlainStack
    head: Float[Array, " n"]

    def __call__(self, x: Array) -> Array:
        body = jax.tree.map(jax.lax.stop_gradient, self.body)
        return body(x) * self.head


def total(layers: list[Any], x: Array) -> Array:
    """The outputs of all layers for the same input, summed.

    Side by side rather than in a chain: the arithmetic then is next to nothing, and what
    is timed is the host.
    """
    result = jnp.zeros_like(x)
    for layer in layers:
        result = result + layer(x)
    return result


def values(count: int, size: int = 2) -> list[Array]:
    """`count` small arrays of their own."""
    return [jnp.full(size, 0.1 * at) for at in range(count)]


def layers(make: Any, count: int, size: int = 2) -> list[Any]:
    """`count` layers of a class with two arrays and a size."""
    arrays = values(2 * count, size)
    return [make(arrays[2 * i], arrays[2 * i + 1], size) for i in range(count)]


def norms(count: int, rate: float = 0.1) -> list[Norm]:
    """`count` modules with three leaves each. They share their arrays."""
    weight, bias, mean = values(3)
    return [Norm(weight, bias, mean, rate) for _ in range(count)]


class Activated(eqx.Module):
    """A foreign layer that nobody registered: arrays, and a function among its leaves."""

    weight: Array
    activation: Callable[[Array], Array]


def mix(count: int) -> PlainStack:
    """A model of other people's layers, `count` in all, a quarter of each kind."""
    key, (weight,) = jax.random.key(0), values(1)
    kinds: list[Callable[[], Any]] = [
        lambda: eqx.nn.Linear(2, 2, key=key),
        lambda: eqx.nn.Dropout(0.5),
        lambda: eqx.nn.LayerNorm(2),
        lambda: Activated(weight, jnp.tanh),
    ]
    return PlainStack([kinds[at % len(kinds)]() for at in range(count)])
