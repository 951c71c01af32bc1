"""What a Buffer costs while a program is traced.

Gradients are stopped where values enter a module, so the more often JAX rebuilds a model
while tracing, the more often it happens. The twin stops them once, by hand, in `__call__`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from _twins import (
    BufferLayer,
    Frozen,
    Layer,
    PlainBufferLayer,
    PlainFrozen,
    PlainLayer,
    PlainStack,
    Stack,
    layers,
    values,
)

LAYERS = 100
X = jnp.ones(2)


def loss_of(model: Any, x: jax.Array) -> jax.Array:
    return jnp.sum(model(x))


def traced(loss: Any, model: Any) -> Any:
    """The program of a loss's gradient, traced anew at each call.

    `jax.grad` makes a new function each time: JAX remembers what it traced for an old one.
    """
    return jax.make_jaxpr(jax.grad(loss))(model, X)


def traced_jit(loss: Any, model: Any) -> Any:
    """The same with `jit` outside: one more time through the PyTree."""
    return jax.jit(jax.grad(loss)).trace(model, X)


def frozen() -> tuple[Frozen, PlainFrozen]:
    """A model and its twin; nothing is timed that does not compute the same."""
    head = values(2)[1]
    model = Frozen(Stack(layers(Layer, LAYERS)), head)
    twin = PlainFrozen(PlainStack(layers(PlainLayer, LAYERS)), head)
    ours, theirs = (jax.tree.leaves(jax.grad(loss_of)(side, X)) for side in (model, twin))
    assert all(bool((a == b).all()) for a, b in zip(ours, theirs, strict=True))
    return model, twin


def test_trace_of_a_frozen_body(compare: Any) -> None:
    model, twin = frozen()
    compare(
        f"trace grad, {LAYERS} layers in a Buffer[...]",
        lambda: traced(loss_of, model),
        lambda: traced(loss_of, twin),
        aim=1.2,
        seconds=3,
    )


def test_trace_in_jit_of_a_frozen_body(compare: Any) -> None:
    model, twin = frozen()
    compare(
        f"trace jit of grad, {LAYERS} layers in a Buffer[...]",
        lambda: traced_jit(loss_of, model),
        lambda: traced_jit(loss_of, twin),
        aim=1.2,
        seconds=3,
    )


def normalized(model: Any, x: jax.Array) -> jax.Array:
    """A loss that uses each layer's own buffer."""
    result = jnp.zeros_like(x)
    for layer in model.layers:
        result = result + layer.weight * (x - layer.mean)
    return jnp.sum(result)


def normalized_by_hand(model: Any, x: jax.Array) -> jax.Array:
    """The twin: each buffer stopped where it is used."""
    result = jnp.zeros_like(x)
    for layer in model.layers:
        result = result + layer.weight * (x - jax.lax.stop_gradient(layer.mean))
    return jnp.sum(result)


def test_trace_of_layers_with_a_buffer_each(compare: Any) -> None:
    model = Stack(layers(BufferLayer, LAYERS))
    twin = PlainStack(layers(PlainBufferLayer, LAYERS))
    compare(
        f"trace grad, {LAYERS} layers with a Buffer each",
        lambda: traced(normalized, model),
        lambda: traced(normalized_by_hand, twin),
        seconds=3,
    )
