"""The compiled program is the one a careful expert would have written by hand."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from jaxtyping import Array, Float

import annotax as anx


class Norm(anx.Module):
    scale: anx.Param[Float[Array, " d"]]
    mean: anx.Buffer[Float[Array, " d"]]
    eps: anx.Hyper[float]

    def __call__(self, x):
        return self.scale * (x - self.mean) + self.eps


class Net(anx.Module):
    norms: list[Norm]
    body: anx.Buffer[Norm]
    w: anx.Param[Float[Array, "o d"]]
    rate: anx.Hyper[float]

    def __call__(self, x):
        for norm in self.norms:
            x = norm(x)
        return self.w @ self.body(x) * self.rate


class HandNorm(eqx.Module):
    scale: Array
    mean: Array
    eps: float = eqx.field(static=True)

    def __call__(self, x):
        return self.scale * (x - jax.lax.stop_gradient(self.mean)) + self.eps


class HandNet(eqx.Module):
    norms: list[HandNorm]
    body: HandNorm
    w: Array
    rate: float = eqx.field(static=True)

    def __call__(self, x):
        for norm in self.norms:
            x = norm(x)
        body = jax.tree.map(jax.lax.stop_gradient, self.body)
        return self.w @ body(x) * self.rate


def make(net: Any, norm: Any) -> Any:
    def one():
        return norm(jnp.ones(3), jnp.zeros(3), 1e-3)

    return net([one(), one()], one(), jnp.ones((2, 3)), 0.5)


OURS, HAND = make(Net, Norm), make(HandNet, HandNorm)
X = jnp.arange(3.0)


def loss(model, x):
    return jnp.sum(model(x) ** 2)


def lowered(function, *args):
    text = jax.jit(function).lower(*args).as_text()
    return re.sub(r'\s*\{?jax\.result_info = "[^"]*"\}?', "", text)


def step(model, x):
    grads = jax.grad(loss)(model, x)
    return jax.tree.map(lambda p, g: p - 0.1 * g, model, grads)


@pytest.mark.parametrize(
    "function",
    [
        loss,
        step,
        jax.grad(loss),
        jax.value_and_grad(loss, argnums=(0, 1)),
        jax.grad(jax.checkpoint(loss)),
        jax.jacfwd(loss),
        lambda m, x: jax.vmap(jax.grad(loss), in_axes=(None, 0))(m, jnp.stack([x, x])),
        lambda m, x: jax.lax.scan(lambda c, _: (step(c, x), None), m, length=3)[0],
    ],
)
def test_programs_on_the_whole_model_are_the_same_text(function):
    ours = lowered(function, OURS, X)
    assert ours == lowered(function, HAND, X)
    assert len(ours) > 300


def test_a_training_step_on_split_leaves_is_the_same_text_as_one_on_a_list():
    tx = optax.adamw(1e-2)
    structure, params, rest = anx.split(OURS, anx.trainable_filter)

    def program(params, rest, state, x):
        grads = jax.grad(lambda p: loss(anx.merge(structure, p, rest), x))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    ours = lowered(program, params, rest, tx.init(params), X)
    trained = [HAND.norms[0].scale, HAND.norms[1].scale, HAND.w]
    fixed = [HAND.norms[0].mean, HAND.norms[1].mean, HAND.body.scale, HAND.body.mean]

    def program(params, rest, state, x):
        def of_params(params):
            first, second, w = params
            model = eqx.tree_at(
                lambda m: jax.tree.leaves(m),
                HAND,
                [first, rest[0], second, rest[1], rest[2], rest[3], w],
            )
            return loss(model, x)

        updates, state = tx.update(jax.grad(of_params)(params), state, params)
        return optax.apply_updates(params, updates), state

    assert ours == lowered(program, trained, fixed, tx.init(trained), X)


def test_value_and_grad_costs_nothing_in_the_program():
    def program(model, x):
        return anx.value_and_grad(loss)(model, x)

    ours = lowered(program, OURS, X)

    def program(model, x):
        params, rest = eqx.partition(
            model,
            eqx.tree_at(
                lambda m: (m.norms[0].mean, m.norms[1].mean, m.body.scale, m.body.mean),
                jax.tree.map(lambda _: True, model),
                (False,) * 4,
            ),
        )
        return jax.value_and_grad(lambda p: loss(eqx.combine(p, rest), x))(params)

    assert ours == lowered(program, HAND, X)
