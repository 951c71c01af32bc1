"""What one optimizer step costs the host, for each way to pass a model through `jit`.

200 layers, 400 arrays of two numbers: the arithmetic is next to nothing. The state goes
round: what a step returns, the next one takes.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import annotax as anx
from _ratio import WALL
from _twins import Layer, PlainLayer, PlainStack, Stack, layers, values

LAYERS = 200
X = jnp.ones(2)
TX = optax.sgd(1e-3)

Step = Callable[..., tuple[Any, Any]]


def loss_of(model: Any, x: jax.Array) -> jax.Array:
    return jnp.sum(model(x))


def loss_of_list(params: list[jax.Array], x: jax.Array) -> jax.Array:
    result = jnp.zeros_like(x)
    for weight, bias in zip(params[::2], params[1::2], strict=True):
        result = result + (weight * x + bias)
    return jnp.sum(result)


def running(step: Step, params: Any, opt_state: Any) -> Callable[[], None]:
    """A call that takes one step further and waits for it."""
    state = (params, opt_state)

    def call() -> None:
        nonlocal state
        state = jax.block_until_ready(step(*state, X))

    return call


def sgd(loss: Callable[..., jax.Array]) -> Step:
    """One step for whatever PyTree of floats the parameters are."""

    def step(params: Any, opt_state: Any, x: jax.Array) -> tuple[Any, Any]:
        grads = jax.grad(loss)(params, x)
        updates, opt_state = TX.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return step


def flat_list() -> Callable[[], None]:
    """The least that is possible: no structure at all."""
    params = values(2 * LAYERS)
    return running(jax.jit(sgd(loss_of_list)), params, TX.init(params))


def split_closure() -> Callable[[], None]:
    """`split` once; the step closes over what is not trained."""
    structure, params, rest = anx.split(Stack(layers(Layer, LAYERS)), anx.trainable_filter)

    def loss(params: anx.Leaves, x: jax.Array) -> jax.Array:
        return loss_of(anx.merge(structure, params, rest), x)

    return running(jax.jit(sgd(loss)), params, TX.init(params))


def split_static() -> Callable[[], None]:
    """`split` once; the structure is a static argument."""
    structure, params, rest = anx.split(Stack(layers(Layer, LAYERS)), anx.trainable_filter)

    def step(
        structure: anx.Structure,
        params: anx.Leaves,
        rest: anx.Leaves,
        opt_state: Any,
        x: jax.Array,
    ) -> tuple[Any, Any]:
        def loss(params: anx.Leaves, x: jax.Array) -> jax.Array:
            return loss_of(anx.merge(structure, params, rest), x)

        return sgd(loss)(params, opt_state, x)

    compiled = jax.jit(step, static_argnums=0)

    def called(params: Any, opt_state: Any, x: jax.Array) -> tuple[Any, Any]:
        return compiled(structure, params, rest, opt_state, x)

    return running(called, params, TX.init(params))


def whole_model(model: Any) -> Callable[[], None]:
    """The model itself is the argument of `jax.jit`."""
    return running(jax.jit(sgd(loss_of)), model, TX.init(model))


def filter_jit() -> Callable[[], None]:
    """Equinox's idiom, as its documentation has it."""
    model = PlainStack(layers(PlainLayer, LAYERS))

    @eqx.filter_jit
    def step(model: Any, opt_state: Any, x: jax.Array) -> tuple[Any, Any]:
        _, grads = eqx.filter_value_and_grad(loss_of)(model, x)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = TX.update(grads, opt_state, params)
        return eqx.apply_updates(model, updates), opt_state

    return running(step, model, TX.init(eqx.filter(model, eqx.is_inexact_array)))


@pytest.mark.parametrize(
    ("text", "ours"),
    [("structure closed over", split_closure), ("structure static", split_static)],
    ids=["closure", "static"],
)
def test_split(compare: Any, text: str, ours: Callable[[], Any]) -> None:
    compare(
        f"step on split Leaves, {text}: a flat list",
        ours(),
        flat_list(),
        aim=1.10,
        clock=WALL,
    )


def test_whole_model(compare: Any) -> None:
    compare(
        "step on the whole model in jax.jit: plain Equinox",
        whole_model(Stack(layers(Layer, LAYERS))),
        whole_model(PlainStack(layers(PlainLayer, LAYERS))),
        aim=1.05,
        clock=WALL,
    )


def test_split_is_faster_than_filter_jit(compare: Any) -> None:
    compare(
        "eqx.filter_jit's step: ours on split Leaves",
        split_closure(),
        filter_jit(),
        aim=2.5,
        at_least=True,
        clock=WALL,
    )
