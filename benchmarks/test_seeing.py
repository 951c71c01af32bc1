"""What looking into a model costs: milliseconds, for nothing else does the same.

Of each both kinds of model: a thousand equal layers, which a table folds into one line, and
a thousand different ones, of which every line is shown.
"""

import statistics
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import pytest

import annotax as anx
from _ratio import THREAD, Row, without_gc
from _twins import Norm, Stack

MODULES = 1000  # three leaves each
ROUNDS = 25


def stack(size: Callable[[int], int]) -> Stack:
    """A thousand layers with arrays of their own; a size for each."""

    def layer(n: int) -> Norm:
        weight, bias, mean = (jnp.ones(size(n)) for _ in range(3))
        return Norm(weight, bias, mean, 0.1)

    return Stack([layer(n) for n in range(MODULES)])


SIZES: dict[str, Callable[[int], int]] = {
    "equal": lambda n: 8,
    "different": lambda n: n + 1,
}


def milliseconds(function: Callable[[], Any]) -> float:
    """The median of some calls, after a first one."""
    function()
    times: list[float] = []
    with without_gc():
        for _ in range(ROUNDS):
            start = THREAD()
            function()
            times.append(THREAD() - start)
    return 1000 * statistics.median(times)


@pytest.mark.parametrize("kind", SIZES)
def test_summary(report: Callable[[Row], None], benchmark: Any, kind: str) -> None:
    model = stack(SIZES[kind])
    found = anx.summary(model)
    what = f"summary, 3000 leaves, {kind} layers"
    report(Row(what, milliseconds(lambda: anx.summary(model)), 50.0, unit="ms"))
    lines = len(str(found).splitlines())
    printed = milliseconds(lambda: str(anx.summary(model)))
    report(Row(f"... and its text, {lines} lines", printed, 50.0, unit="ms"))
    benchmark.pedantic(lambda: anx.summary(model), rounds=5)


def test_diff(report: Callable[[Row], None], benchmark: Any) -> None:
    model, equal = (stack(SIZES["different"]) for _ in range(2))
    other = anx.replace(model, {"layers.500.rate": 5.0})
    for what, pair in {"equal": equal, "one Hyper apart": other}.items():
        taken = milliseconds(lambda pair=pair: anx.diff(model, pair))
        report(Row(f"diff, 3000 leaves, {what}", taken, unit="ms"))
    benchmark.pedantic(lambda: anx.diff(model, other), rounds=5)


def test_gradient_report(report: Callable[[Row], None], benchmark: Any) -> None:
    model = stack(SIZES["equal"])

    def loss(model: Stack) -> Any:
        layers = model.layers
        return sum(jnp.sum(layer.weight * layer.mean + layer.bias) for layer in layers)

    taken = milliseconds(lambda: anx.gradient_report(loss, model))
    report(Row("gradient_report, 3000 leaves, 5000 equations", taken, unit="ms"))
    benchmark.pedantic(lambda: anx.gradient_report(loss, model), rounds=3)
