"""The same model and the same training step for each way to write them.

Layers side by side, each with two trained arrays, a buffer and a size. A step computes
the loss and its gradient, applies sgd and hands back what it was given, changed. Arrays
have two numbers, so the arithmetic is next to nothing, and what is timed is the host.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import paramax
from jaxtyping import Array, Float

import annotax as anx
from _ratio import Call
from _twins import PlainStack, Stack, values

X = jnp.ones(2)
TX = optax.sgd(1e-3)

Step = Callable[..., tuple[tuple[Any, ...], Array]]


@dataclass(frozen=True)
class Peer:
    """One way to train: `jit(make_step())(*carried, *fixed)`.

    A step returns what is carried on to the next one, and the loss. `make_step` makes a new
    function each time, because JAX remembers what it traced for an old one.
    """

    make_step: Callable[[], Step]
    carried: tuple[Any, ...]
    fixed: tuple[Any, ...]
    jit: Callable[[Step], Any] = jax.jit

    def running(self) -> Call:
        """A call that takes one step further and waits for it."""
        step, carried = self.jit(self.make_step()), self.carried

        def call() -> Array:
            nonlocal carried
            carried, loss = step(*carried, *self.fixed)
            return loss.block_until_ready()

        return call

    def lowering(self) -> Call:
        """A call that traces and lowers the step anew."""
        return lambda: self.jit(self.make_step()).lower(*self.carried, *self.fixed)


class Layer(anx.Module):
    """Two Params, a Buffer and a Hyper."""

    weight: anx.Param[Float[Array, " n"]]
    bias: anx.Param[Float[Array, " n"]]
    mean: anx.Buffer[Float[Array, " n"]]
    size: anx.Hyper[int]

    def __call__(self, x: Array) -> Array:
        return self.weight * (x - self.mean) + self.bias


class PlainLayer(eqx.Module):
    """The same in plain Equinox."""

    weight: Float[Array, " n"]
    bias: Float[Array, " n"]
    mean: Float[Array, " n"]
    size: int = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        mean = jax.lax.stop_gradient(self.mean)
        return self.weight * (x - mean) + self.bias


class ParamaxLayer(eqx.Module):
    """The same with paramax: the mean is wrapped until the whole model is unwrapped."""

    weight: Float[Array, " n"]
    bias: Float[Array, " n"]
    mean: Any
    size: int = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        return self.weight * (x - self.mean) + self.bias


def triples(layers: int) -> list[tuple[Array, Array, Array]]:
    """The arrays of each layer."""
    arrays = values(3 * layers)
    return list(zip(arrays[::3], arrays[1::3], arrays[2::3], strict=True))


def annotated(layers: int) -> Stack:
    """The model in annotax."""
    return Stack([Layer(*arrays, 2) for arrays in triples(layers)])


def plain(layers: int) -> PlainStack:
    """The model in plain Equinox."""
    return PlainStack([PlainLayer(*arrays, 2) for arrays in triples(layers)])


def by_hand(model: PlainStack) -> PlainStack:
    """The filter that plain Equinox needs: all arrays but the means."""
    trained = jax.tree.map(eqx.is_inexact_array, model)
    means = [False] * len(model.layers)
    return eqx.tree_at(lambda m: [layer.mean for layer in m.layers], trained, means)


def loss_of(model: Any, x: Array) -> Array:
    """The outputs of all layers, summed.

    They are stacked first: XLA takes several times as long to compile a chain of a thousand
    additions.
    """
    return jnp.sum(jnp.stack([layer(x) for layer in model.layers]))


def sgd(loss: Callable[..., Array]) -> Step:
    """One step for parameters that are a PyTree of floats."""

    def step(params: Any, opt_state: Any, *rest: Any) -> tuple[tuple[Any, Any], Array]:
        value, grads = jax.value_and_grad(loss)(params, *rest)
        updates, opt_state = TX.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return step


def flat_list(layers: int) -> Peer:
    """The least that is possible: no structure at all."""
    arrays = triples(layers)
    params = [array for weight, bias, _ in arrays for array in (weight, bias)]

    def loss(params: list[Array], means: list[Array], x: Array) -> Array:
        layers = zip(params[::2], params[1::2], means, strict=True)
        outputs = [weight * (x - mean) + bias for weight, bias, mean in layers]
        return jnp.sum(jnp.stack(outputs))

    means = [mean for _, _, mean in arrays]
    return Peer(lambda: sgd(loss), (params, TX.init(params)), (means, X))


def split_leaves(layers: int) -> Peer:
    """annotax's lean loop: `split` once, `merge` in the loss."""
    structure, params, rest = anx.split(annotated(layers), anx.trainable_filter)

    def loss(params: anx.Leaves, rest: anx.Leaves, x: Array) -> Array:
        return loss_of(anx.merge(structure, params, rest), x)

    return Peer(lambda: sgd(loss), (params, TX.init(params)), (rest, X))


def readme_idiom(layers: int) -> Peer:
    """annotax as its README has it: the model is the argument, `params` and `update`."""
    model = annotated(layers)

    def make_step() -> Step:
        def step(model: Any, opt_state: Any, x: Array) -> tuple[tuple[Any, Any], Array]:
            params = anx.params(model)
            loss, grads = anx.value_and_grad(loss_of)(model, x)
            updates, opt_state = TX.update(grads, opt_state, params)
            model = anx.update(model, optax.apply_updates(params, updates))
            return (model, opt_state), loss

        return step

    return Peer(make_step, (model, TX.init(anx.params(model))), (X,))


def whole_model(layers: int) -> Peer:
    """annotax without a call of annotax: `jax.grad` and optax on the model itself."""
    model = annotated(layers)
    return Peer(lambda: sgd(loss_of), (model, TX.init(model)), (X,))


def partitioned(layers: int) -> Peer:
    """Equinox for lean loops: `eqx.partition` once, `eqx.combine` in the loss."""
    model = plain(layers)
    params, rest = eqx.partition(model, by_hand(model))

    def loss(params: Any, rest: Any, x: Array) -> Array:
        return loss_of(eqx.combine(params, rest), x)

    return Peer(lambda: sgd(loss), (params, TX.init(params)), (rest, X))


def filter_jit(layers: int) -> Peer:
    """Equinox as its documentation freezes a parameter."""
    model = plain(layers)
    trained = by_hand(model)

    def make_step() -> Step:
        @eqx.filter_value_and_grad
        def loss_and_grads(params: Any, rest: Any, x: Array) -> Array:
            return loss_of(eqx.combine(params, rest), x)

        def step(model: Any, opt_state: Any, x: Array) -> tuple[tuple[Any, Any], Array]:
            params, rest = eqx.partition(model, trained)
            loss, grads = loss_and_grads(params, rest, x)
            updates, opt_state = TX.update(grads, opt_state, params)
            return (eqx.apply_updates(model, updates), opt_state), loss

        return step

    state = TX.init(eqx.filter(model, trained))
    return Peer(make_step, (model, state), (X,), eqx.filter_jit)


def is_wrapped(leaf: Any) -> bool:
    """What paramax keeps out of a partition, as its documentation advises."""
    return isinstance(leaf, paramax.NonTrainable)


def with_paramax(layers: int) -> Peer:
    """paramax as flowjax, its home, trains: partitioned, unwrapped in the loss."""
    model = PlainStack(
        [
            ParamaxLayer(weight, bias, paramax.non_trainable(mean), 2)
            for weight, bias, mean in triples(layers)
        ]
    )
    params, rest = eqx.partition(model, eqx.is_inexact_array, is_leaf=is_wrapped)

    def loss(params: Any, rest: Any, x: Array) -> Array:
        return loss_of(paramax.unwrap(eqx.combine(params, rest)), x)

    return Peer(lambda: sgd(loss), (params, TX.init(params)), (rest, X), eqx.filter_jit)
