"""The same model and the same training step in Flax NNX, in its three idioms."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array

from _peers import TX, Peer, Step, X, loss_of, sgd, triples


class Buffer(nnx.Variable):
    """A variable that is no `nnx.Param`."""


class Layer(nnx.Module):
    """Two parameters, a buffer and a size."""

    def __init__(self, weight: Array, bias: Array, mean: Array, size: int) -> None:
        self.weight = nnx.Param(weight)
        self.bias = nnx.Param(bias)
        self.mean = Buffer(mean)
        self.size = size

    def __call__(self, x: Array) -> Array:
        mean = jax.lax.stop_gradient(self.mean[...])
        return self.weight * (x - mean) + self.bias


class Stack(nnx.Module):
    """Layers side by side."""

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = nnx.List(layers)


def stack(layers: int) -> Stack:
    """The model."""
    return Stack([Layer(*arrays, 2) for arrays in triples(layers)])


def _make_step() -> Step:
    def step(model: Stack, optimizer: nnx.Optimizer, x: Array) -> tuple[tuple[()], Array]:
        loss, grads = nnx.value_and_grad(loss_of)(model, x)
        optimizer.update(model, grads)
        return (), loss

    return step


def nnx_jit(layers: int) -> Peer:
    """As the documentation begins: model and optimizer are changed in place."""
    model = stack(layers)
    optimizer = nnx.Optimizer(model, TX, wrt=nnx.Param)
    return Peer(_make_step, (), (model, optimizer, X), nnx.jit)


class Cached:
    """`nnx.jit` whose walk over model and optimizer is kept between the calls."""

    def __init__(self, step: Step) -> None:
        self.compiled = nnx.jit(step, graph=True, graph_updates=True)
        self.called: Any = None

    def __call__(self, model: Stack, optimizer: nnx.Optimizer, x: Array) -> Any:
        with nnx.set_graph_mode(True), nnx.set_graph_updates(True):
            if self.called is None:
                self.called = nnx.cached_partial(self.compiled, model, optimizer)
            return self.called(x)

    def lower(self, *args: Any) -> Any:
        with nnx.set_graph_mode(True), nnx.set_graph_updates(True):
            return self.compiled.lower(*args)


def cached_partial(layers: int) -> Peer:
    """As the documentation advises for speed while everything stays in place."""
    peer = nnx_jit(layers)
    return Peer(_make_step, (), peer.fixed, Cached)


def split_merge(layers: int) -> Peer:
    """NNX for lean loops: `nnx.split` once, `nnx.merge` in the loss."""
    graph, params, rest = nnx.split(stack(layers), nnx.Param, ...)

    def loss(params: Any, rest: Any, x: Array) -> Array:
        return loss_of(nnx.merge(graph, params, rest), x)

    return Peer(lambda: sgd(loss), (params, TX.init(params)), (rest, X))
