"""What the tests of summaries look at: small models, one of each kind."""

import textwrap
from typing import Annotated, Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax import Array
from jaxtyping import Float

import annotax as anx

T = TypeVar("T")
Lora = Annotated[T, anx.Role("lora", parent=anx.Param)]
Stat = Annotated[T, anx.Role("batch_stat", parent=anx.Buffer)]
KEY = jax.random.key(0)


class Layer(anx.Module):
    weight: anx.Param[Float[Array, "out_features in_features"]]
    down: Lora[Float[Array, "rank in_features"]]
    mean: Stat[Float[Array, " in_features"]]
    bias: anx.Param[Float[Array, " out_features"] | None]
    activation: Any
    size: anx.Hyper[int]
    name: str = eqx.field(static=True)


class Plain(eqx.Module):
    scale: Any
    function: Any


class Fixed(eqx.Module):
    x: Any
    value: Any = eqx.field(static=True)


class Tied(eqx.Module):
    embedding: eqx.nn.Embedding
    head: eqx.nn.Linear


def embedding_weight(tied):
    return tied.embedding.weight


def head_weight(tied):
    return tied.head.weight


def layer():
    arrays = jnp.ones((3, 4)), jnp.ones((2, 4)), jnp.zeros(4)
    return Layer(*arrays, None, jax.nn.relu, 4, "first")


def linears(count):
    return [eqx.nn.Linear(2, 2, key=KEY) for _ in range(count)]


def message(error, action):
    with pytest.raises(error) as caught:
        action()
    return str(caught.value)


def text(block):
    return textwrap.dedent(block).strip("\n")
