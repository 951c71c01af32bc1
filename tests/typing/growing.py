"""What grows a model takes any tree, and rules as a mapping or as pairs."""

from collections.abc import Mapping
from typing import Any, assert_type

from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array

import annotax as anx


class Linear(anx.Module):
    weight: anx.Param[Array]


def specs(layer: Linear, tree: dict[str, Array], given: Mapping[str, str | None]) -> None:
    assert_type(anx.partition_specs(layer, {"mlp": "model", "heads": None}), Any)
    anx.partition_specs(tree, {"embed": ("fsdp", "data"), "mlp": ["model"]})
    anx.partition_specs(anx.params(layer), [("mlp", "model"), ("mlp", None)])
    anx.partition_specs(layer, (pair for pair in [("mlp", ("data", "model"))]))
    anx.partition_specs(layer, given, "layers")
    anx.partition_specs(layer, {}, stack=("ens", None))


def on_a_mesh(layer: Linear, mesh: Mesh, abstract: AbstractMesh) -> None:
    found = anx.shardings(layer, mesh, {"mlp": "model"}, stack="layers")
    assert_type(found, Any)
    anx.shardings(layer, abstract, [("mlp", "model")])


def errors(error: anx.ShardingError) -> None:
    known: anx.AnnotaxError = error
    value: ValueError = error
    print(known, value)


def wrong_arguments(layer: Linear, mesh: Mesh) -> None:
    anx.partition_specs(layer)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    anx.partition_specs(layer, {"mlp": 1})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    anx.partition_specs(layer, {1: "model"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    anx.partition_specs(layer, ["mlp"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    anx.partition_specs(layer, {}, stack=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    anx.shardings(layer, mesh)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
