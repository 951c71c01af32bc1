"""What one does with a model, once; prints what came of it as JSON.

Run under other flags of Python and JAX, it must print the same. `assert` would be gone
under `-O`, so nothing is checked here. Dtypes are spelled out, so that 64 bits are no
difference.
"""

from __future__ import annotations

import json
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import annotax as anx

F32 = jnp.float32


class Linear(anx.Module):
    """A layer with one field of each role."""

    weight: anx.Param[Float[Array, "out_features in_features"]]
    bias: anx.Param[Float[Array, " out_features"] | None] = anx.field(tags=["no_decay"])
    mean: anx.Buffer[Float[Array, " in_features"]]
    rate: anx.Hyper[float] = 1

    def __call__(self, x: Array) -> Array:
        return self.weight @ (x - self.mean) * jnp.asarray(self.rate, F32) + self.bias


class Net(anx.Module):
    layers: list[Linear]
    head: eqx.nn.MLP
    dropout: eqx.nn.Dropout

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            x = jax.nn.tanh(layer(x))
        return self.head(self.dropout(x, inference=True))


def linear(seed: int) -> Linear:
    weight = jnp.asarray(np.linspace(-1, 1, 9).reshape(3, 3) * seed, F32)
    return Linear(weight, jnp.zeros(3, F32), jnp.full(3, 0.5, F32))


def net() -> Net:
    head = eqx.nn.MLP(3, 1, 4, 1, dtype=F32, key=jax.random.key(0))
    weights = [layer.weight for layer in head.layers]
    fixed = [jnp.asarray(np.linspace(-1, 1, w.size).reshape(w.shape), F32) for w in weights]
    head = eqx.tree_at(lambda m: [layer.weight for layer in m.layers], head, fixed)
    return Net([linear(1), linear(2)], head, eqx.nn.Dropout(0.25))


def loss_fn(model: Net, x: Array) -> Array:
    return jnp.mean(jax.vmap(model)(x) ** 2)


def train(model: Net, x: Array) -> tuple[Net, list[float]]:
    tx = optax.sgd(0.1, momentum=0.5)
    state = tx.init(anx.params(model))

    @jax.jit
    def step(model: Net, state: Any) -> tuple[Net, Any, Array]:
        loss, grads = anx.value_and_grad(loss_fn)(model, x)
        updates, state = tx.update(grads, state, anx.params(model))
        return (
            anx.update(model, optax.apply_updates(anx.params(model), updates)),
            state,
            loss,
        )

    losses: list[float] = []
    for _ in range(3):
        model, state, loss = step(model, state)
        losses.append(round(float(loss), 4))
    return model, losses


def declare_two_roles() -> None:
    class Wrong(anx.Module):
        x: anx.Param[anx.Buffer[Array]]


def declare_typo() -> None:
    """Declare a role that does not exist."""

    class Wrong(anx.Module):
        x: anx.Bufer[Array]


def refused(model: Any) -> dict[str, str]:
    """The messages of what is refused, by name."""
    other = anx.params(eqx.tree_at(lambda m: m.layers[0].weight, model, jnp.zeros(2, F32)))
    attempts = {
        "two roles": declare_two_roles,
        "typo": declare_typo,
        "hyper": lambda: Linear(jnp.ones((1, 1), F32), None, None, jnp.ones(2, F32)),
        "nothing selected": lambda: anx.freeze(model, anx.by_path("heda.**")),
        "no module": lambda: anx.freeze({"a": jnp.ones(2, F32)}, anx.everything),
        "does not fit": lambda: anx.update(model, other),
        "no field": lambda: anx.replace(model, {"layers.0.wieght": 1}),
        "register": lambda: anx.register(eqx.nn.Linear, wieght=anx.Param),
        "adopt": lambda: anx.adopt([1.5]),
    }
    messages: dict[str, str] = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except Exception as error:
            messages[name] = f"{type(error).__name__}: {error}"
    return messages


def saved(model: Net) -> bool:
    """Whether a model comes back from a file as it was."""
    with tempfile.TemporaryDirectory() as folder:
        anx.save(Path(folder) / "model.safetensors", model)
        empty = jax.tree.map(jnp.zeros_like, model)
        loaded = anx.load(Path(folder) / "model.safetensors", empty)
    return bool(eqx.tree_equal(loaded, model))


def main() -> dict[str, Any]:
    x = jnp.asarray(np.linspace(0, 1, 12).reshape(4, 3), F32)
    model, losses = train(anx.adopt(net()), x)
    frozen = anx.freeze(model, anx.by_path("head.**"))
    _, frozen_losses = train(frozen, x)
    layers = anx.freeze(model.layers, anx.by_path("1.*"))
    structure, params, rest = anx.split(model, anx.trainable_filter)
    report = anx.gradient_report(loss_fn, model, x)
    decayed = anx.trainable_filter & ~anx.by_tag("no_decay")
    return {
        "losses": losses,
        "frozen losses": frozen_losses,
        "params": list(anx.params(model)),
        "frozen params": list(anx.params(frozen)),
        "decayed": decayed.paths(model),
        "rate": repr(model.layers[0].rate),
        "dropout": (model.dropout.p, len(jax.tree.leaves(model.dropout))),
        "records": [
            (r.path, str(r.role), r.axes, str(r.dtype)) for r in anx.records(model)
        ],
        "summary": str(anx.summary(frozen)),
        "explain": str(anx.explain(frozen, "head.layers.0.weight")),
        "diff": str(anx.diff(model, frozen)),
        "gradients": str(report),
        "thawed": bool(anx.unfreeze(frozen) == model),
        "merged": bool(eqx.tree_equal(anx.merge(structure, params, rest), model)),
        "pickled": bool(eqx.tree_equal(pickle.loads(pickle.dumps(layers)), layers)),
        "saved": saved(frozen),
        "refused": refused(model),
    }


if __name__ == "__main__":
    flags = {"optimize": sys.flags.optimize, "docstrings": declare_typo.__doc__ is not None}
    print(json.dumps([main(), {**flags, "x64": jax.config.read("jax_enable_x64")}]))
