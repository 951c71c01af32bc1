"""The types of the public functions."""

from collections.abc import Callable, Mapping
from typing import Any, assert_type

import equinox as eqx
from jaxtyping import Array, Float

import annotax as anx


class Linear(anx.Module):
    weight: anx.Param[Float[Array, "n m"]]
    n: anx.Hyper[int]


def leaves(model: Linear) -> None:
    params = anx.params(model)
    assert_type(params, anx.Leaves)
    assert_type(anx.leaves(model, anx.everything), anx.Leaves)
    assert_type(list(params), list[str])
    assert_type(params["weight"], Any)
    _as_mapping: Mapping[str, Any] = params
    params["weight"] = 1  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
    params()  # type: ignore[operator]  # pyright: ignore[reportCallIssue]


def the_way_back(model: Linear, params: anx.Leaves) -> None:
    assert_type(anx.update(model, params), Linear)
    assert_type(anx.update([model], params), list[Linear])
    anx.update(model, {"weight": 1})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def splitting(model: Linear) -> None:
    # `tuple[Structure, *tuple[Leaves, ...]]` would say more, but mypy does not let it be
    # unpacked without a star.
    assert_type(anx.split(model, anx.trainable_filter), tuple[Any, ...])
    structure, params, rest = anx.split(model, anx.trainable_filter)
    assert_type(anx.merge(structure, params, rest), Any)


def merging(structure: anx.Structure, params: anx.Leaves) -> None:
    assert_type(anx.merge(structure, params), Any)
    anx.merge(params, params)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    anx.merge(structure, structure)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def selections() -> None:
    assert_type(anx.trainable_filter, anx.Selection)
    assert_type(anx.everything, anx.Selection)
    assert_type(anx.by_role(anx.Param), anx.Selection)
    assert_type(anx.by_role(anx.Role("lora", parent=anx.Param)), anx.Selection)
    assert_type(anx.by_path("head.**"), anx.Selection)
    assert_type(anx.by_tag("no_decay"), anx.Selection)
    assert_type(anx.by(lambda record: record.ndim >= 2), anx.Selection)
    assert_type(anx.at(lambda model: model.head), anx.Selection)
    anx.by_path(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def algebra(head: anx.Selection, model: Linear) -> None:
    assert_type(head & anx.everything, anx.Selection)
    assert_type(head | anx.everything, anx.Selection)
    assert_type(~head, anx.Selection)
    assert_type(head.expect(3), anx.Selection)
    assert_type(head.paths(model), tuple[str, ...])
    assert_type(head.count(model), int)
    assert_type(head(model), Any)
    head & 1  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]


def labels(head: anx.Selection, params: anx.Leaves) -> None:
    label = anx.labels({"head": head}, default="body")
    assert_type(label(params), Any)
    anx.labels({"head": head}, default=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def records(model: Linear) -> None:
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


def changed_copies(model: Linear) -> None:
    assert_type(anx.replace(model, n=3), Linear)
    anx.replace({"n": 2}, n=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


@anx.register
class Table(eqx.Module):
    rows: anx.Param[Array]
    names: tuple[str, ...] = ()


def registering(rows: Array) -> None:
    assert_type(Table(rows), Table)
    assert_type(Table(rows).rows, Array)
    assert_type(anx.register(eqx.nn.Linear, weight=anx.Param), type[eqx.nn.Linear])
    Table()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    anx.register(rows)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


def loss(model: Linear, x: Array) -> Array:
    return (model.weight @ x).sum()


def gradients(head: anx.Selection) -> None:
    assert_type(anx.grad(loss), Callable[..., Any])
    assert_type(
        anx.value_and_grad(loss, wrt=head, argnums=(0,)), Callable[..., tuple[Any, Any]]
    )
    anx.grad(loss, has_aux=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    anx.grad(loss, of=head)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
