"""Changed copies have the type of what they are copies of."""

from typing import Any, assert_type

import equinox as eqx
from jaxtyping import Array

import annotax as anx


class Linear(anx.Module):
    weight: anx.Param[Array]
    rate: anx.Hyper[float]


def one_module(layer: Linear, other: eqx.nn.Linear) -> None:
    assert_type(anx.freeze(layer, anx.everything), Linear)
    assert_type(anx.unfreeze(layer), Linear)
    assert_type(anx.unfreeze(layer, anx.by_path("weight")), Linear)
    assert_type(anx.adopt(layer), Linear)
    assert_type(anx.adopt(other), eqx.nn.Linear)
    assert_type(anx.inference_mode(layer), Linear)
    assert_type(anx.inference_mode(layer, value=False), Linear)
    assert_type(anx.replace(layer, rate=0.5), Linear)
    assert_type(anx.replace(layer, {"rate": 0.5}), Linear)
    assert_type(anx.replace(layer, {"rate": 0.5}, weight=layer.weight), Linear)


def containers(layers: list[Linear], named: dict[str, Linear]) -> None:
    assert_type(anx.freeze(layers, anx.everything), list[Linear])
    assert_type(anx.adopt(named), dict[str, Linear])
    assert_type(anx.replace(layers, {"0.rate": 0.5}), list[Linear])


def wrong_arguments(layer: Linear) -> None:
    anx.freeze(layer)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    anx.replace(layer, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    anx.adopt()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def a_state(old: Any, new: dict[str, Array]) -> None:
    assert_type(anx.carry(old, new), dict[str, Array])
    assert_type(anx.carry(old, new, report=False), dict[str, Array])
    carried, report = anx.carry(old, new, report=True)
    assert_type(carried, dict[str, Array])
    assert_type(report, anx.CarryReport)
    assert_type(report.taken, tuple[str, ...])
