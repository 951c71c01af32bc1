"""How many bytes a class costs, a plain Equinox one and its annotated twin, as JSON.

Each class is made, given an instance, and asked for its parameters. The first ones fill
the cache of layouts, which is small here; counted are those that come after.
"""

import gc
import json
import sys
import tracemalloc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import annotax as anx
from annotax import _view

ROLES = {
    "weight": anx.Param[Float[Array, "m n"]],
    "bias": anx.Param[Float[Array, " m"] | None],
    "mean": anx.Buffer[Float[Array, " n"]],
    "rate": anx.Hyper[float],
    "size": anx.Hyper[int],
}
PLAIN = {
    "weight": Float[Array, "m n"],
    "bias": Float[Array, " m"] | None,
    "mean": Float[Array, " n"],
    "rate": float,
    "size": int,
}


def annotated(n: int) -> Any:
    namespace = {"__module__": __name__, "__annotations__": dict(ROLES)}
    return type(anx.Module)(f"Annotated{n}", (anx.Module,), namespace)


def plain(n: int) -> Any:
    static = {name: eqx.field(static=True) for name in ("rate", "size")}
    namespace = {"__module__": __name__, "__annotations__": dict(PLAIN), **static}
    return type(eqx.Module)(f"Plain{n}", (eqx.Module,), namespace)


def make(kind: str, numbers: range) -> None:
    arrays = (jnp.ones((2, 3)), None, jnp.ones(3))
    for n in numbers:
        if kind == "annotated":
            anx.params(annotated(n)(*arrays, 0.5, 2))
        else:
            jax.tree.leaves(plain(n)(*arrays, 0.5, 2))


def measure(count: int) -> dict[str, float]:
    _view._CACHED_HASHES = 8
    for kind in ("plain", "annotated"):
        make(kind, range(-20, 0))
    bytes_of: dict[str, float] = {}
    for kind in ("plain", "annotated"):
        gc.collect()
        tracemalloc.start()
        make(kind, range(count))
        gc.collect()
        bytes_of[kind] = tracemalloc.get_traced_memory()[0] / count
        tracemalloc.stop()
    return bytes_of


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
