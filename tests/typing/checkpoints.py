"""`load` returns what it was given to load into."""

from pathlib import Path
from typing import Any, assert_type

from jaxtyping import Array

import annotax as anx


class Linear(anx.Module):
    weight: anx.Param[Array]


def name_of(name: str) -> str | None:
    return name.removeprefix("module.") if name.startswith("module.") else None


def checkpoints(path: Path, layer: Linear, state: dict[str, Any]) -> None:
    anx.save(path, layer)
    anx.save("layer.safetensors", state, select=anx.by_role(anx.Param))
    assert_type(anx.load(path, layer), Linear)
    assert_type(anx.load("layer.safetensors", state), dict[str, Any])
    assert_type(anx.load(path, anx.params(layer), select=anx.trainable_filter), anx.Leaves)
    assert_type(anx.load(path, layer, strict=False, hypers="ignore"), Linear)
    assert_type(anx.load(path, layer, rename={"enc": "encoder", "head": None}), Linear)
    assert_type(anx.load(path, layer, rename=name_of), Linear)
    assert_type(anx.load(path, layer, rename=lambda name: name.lower()), Linear)


def wrong_arguments(path: Path, layer: Linear) -> None:
    anx.save(path)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    anx.save(3, layer)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    anx.save(path, layer, anx.everything)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    anx.load(path, layer, hypers="raise")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    anx.load(path, layer, rename="enc")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
