"""The types of the public functions."""

from collections.abc import Callable, Mapping
from typing import Any

import annotax as anx
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float
from typing_extensions import assert_type


class Linear(anx.Module):
    weight: anx.Param[Float[Array, "n m"]]
    n: anx.Hyper[int]


model = Linear(jnp.ones((2, 3)), 2)


# --- leaves --------------------------------------------------------------------------

params = anx.params(model)
assert_type(params, anx.Leaves)
assert_type(anx.leaves(model, anx.everything), anx.Leaves)
assert_type(list(params), list[str])
assert_type(params["weight"], Any)
as_mapping: Mapping[str, Any] = params
params["weight"] = 1  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
params()  # type: ignore[operator]  # pyright: ignore[reportCallIssue]

assert_type(anx.update(model, params), Linear)
assert_type(anx.update([model], params), list[Linear])
anx.update(model, {"weight": 1})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

structure, trained, rest = anx.split(model, anx.trainable_filter)
assert_type(structure, anx.Structure)
assert_type(trained, anx.Leaves)
assert_type(rest, anx.Leaves)
assert_type(anx.merge(structure, trained, rest), Any)
anx.merge(trained, rest)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# --- selections ----------------------------------------------------------------------

head = anx.by_path("head.**")
assert_type(head, anx.Selection)
assert_type(anx.trainable_filter, anx.Selection)
assert_type(anx.everything, anx.Selection)
assert_type(anx.by_role(anx.Param), anx.Selection)
assert_type(anx.by_role(anx.Role("lora", parent=anx.Param)), anx.Selection)
assert_type(anx.by_tag("no_decay"), anx.Selection)
assert_type(anx.by(lambda record: record.ndim >= 2), anx.Selection)
assert_type(anx.at(lambda m: m.head), anx.Selection)
assert_type(head & ~anx.by_tag("no_decay") | anx.everything, anx.Selection)
assert_type(head.expect(3), anx.Selection)
assert_type(head.paths(model), tuple[str, ...])
assert_type(head.count(model), int)
assert_type(head(model), Any)
anx.by_path(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
head & 1  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]

label = anx.labels({"head": head}, default="body")
assert_type(label(params), Any)
assert_type(eqx.filter(model, head(model)), Any)


# --- records -------------------------------------------------------------------------

assert_type(anx.records(model), tuple[anx.Record, ...])
for record in anx.records(model):
    assert_type(record.path, str)
    assert_type(record.role, anx.Role | None)
    assert_type(record.spec, anx.FieldSpec | None)
    assert_type(record.shape, tuple[int, ...])
    assert_type(record.size, int)
    assert_type(record.trainable, bool)
    assert_type(record.tags, frozenset[str])
    record.path = ""  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


# --- changed copies ------------------------------------------------------------------

assert_type(anx.replace(model, n=3), Linear)
anx.replace({"n": 2}, n=3)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


# --- registering ---------------------------------------------------------------------


@anx.register
class Table(eqx.Module):
    rows: anx.Param[Array]
    names: tuple[str, ...] = ()


assert_type(Table(jnp.ones(2)), Table)
assert_type(Table(jnp.ones(2)).rows, Array)
assert_type(anx.register(eqx.nn.Linear, weight=anx.Param), type[eqx.nn.Linear])
Table()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
anx.register(model)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


# --- gradients -----------------------------------------------------------------------


def loss(linear: Linear, x: Array) -> Array:
    return (linear.weight @ x).sum()


assert_type(anx.grad(loss), Callable[..., Any])
assert_type(
    anx.value_and_grad(loss, wrt=head, argnums=(0,)), Callable[..., tuple[Any, Any]]
)
anx.grad(loss, argnums="0", has_aux=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
anx.grad(loss, with_respect_to=head)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
