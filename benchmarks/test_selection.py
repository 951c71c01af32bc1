"""What `trainable_filter` costs: on a known structure, among many alike, on new ones.

The twin takes the same model apart and puts it together again, which any function from
a model to a tree of its shape has to do.
"""

import itertools
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import jax
import pytest

import annotax as anx
from _ratio import THREAD, Row, duration, without_gc
from _twins import Stack, norms

MODULES = 1000  # three leaves each
STRUCTURES = 1000
ROUNDS = 15


def there_and_back(model: Any) -> Any:
    """The twin: flatten and unflatten."""
    leaves, treedef = jax.tree_util.tree_flatten(model)
    return treedef.unflatten(leaves)


def filtered(model: Any) -> Any:
    """Our side."""
    return anx.trainable_filter(model)


def alike(position: int) -> list[Stack]:
    """Models that differ in the Hyper of one layer only; the others are shared."""
    shared = norms(MODULES)
    models: list[Stack] = []
    for number in range(STRUCTURES):
        layers = list(shared)
        layers[position] = anx.replace(shared[position], rate=1.0 + number)
        models.append(Stack(layers))
    return models


def in_order(function: Callable[[Any], Any], models: Iterable[Any]) -> Callable[[], Any]:
    """A call that applies a function to the next model, round and round."""
    endless = itertools.cycle(models)
    return lambda: function(next(endless))


def test_hot(compare: Any) -> None:
    model = Stack(norms(MODULES))
    compare(
        "trainable_filter, 3000 leaves, hot",
        lambda: filtered(model),
        lambda: there_and_back(model),
        aim=1.3,
    )


POSITIONS = pytest.mark.parametrize(
    ("where", "position"), [("first", 0), ("last", -1)], ids=["first", "last"]
)


@POSITIONS
def test_one_of_many(compare: Any, where: str, position: int) -> None:
    models = alike(position)
    for model in models:
        filtered(model)
    model = models[0]
    compare(
        f"... one model after 1000 alike (Hyper in the {where} layer)",
        lambda: filtered(model),
        lambda: there_and_back(model),
        aim=1.3,
    )


@POSITIONS
def test_all_of_many(compare: Any, where: str, position: int) -> None:
    models = alike(position)
    for model in models:
        filtered(model)
    compare(
        f"... 1000 alike in turn (Hyper in the {where} layer)",
        in_order(filtered, models),
        in_order(there_and_back, models),
        aim=1.3,
    )


class Cold:
    """Calls on structures never seen: each model has one layer more than the last."""

    def __init__(self, leaves: int) -> None:
        self.modules = leaves // 3
        self.pool = norms(self.modules + 2 * ROUNDS + 16)
        self.used = 0

    def per_leaf(self, function: Callable[[Any], Any]) -> float:
        """Seconds a leaf of one call on the next model."""
        self.used += 1
        modules = self.modules + self.used
        model = Stack(self.pool[:modules])
        start = THREAD()
        function(model)
        return (THREAD() - start) / (3 * modules)


def test_cold(report: Callable[[Row], None], benchmark: Any) -> None:
    """Time a leaf for 300, 3,000 and 30,000 leaves: linear if it stays the same.

    Without garbage collection. With it a layout of 30,000 leaves costs half as much
    again, like any 30,000 objects made at once.
    """
    sizes = {leaves: Cold(leaves) for leaves in (300, 3_000, 30_000)}
    ours: dict[int, list[float]] = {leaves: [] for leaves in sizes}
    twin: dict[int, list[float]] = {leaves: [] for leaves in sizes}
    with without_gc():
        for _ in range(ROUNDS):
            for leaves, cold in sizes.items():
                ours[leaves].append(cold.per_leaf(filtered))
                twin[leaves].append(cold.per_leaf(there_and_back))
    medians = {leaves: statistics.median(ours[leaves]) for leaves in sizes}
    for leaves in sizes:
        pairs = zip(ours[leaves], twin[leaves], strict=True)
        ratio = statistics.median(mine / theirs for mine, theirs in pairs)
        note = f"{duration(medians[leaves])} a leaf"
        report(Row(f"trainable_filter, {leaves} leaves, cold", ratio, note=note))
    for leaves in (3_000, 30_000):
        pairs = zip(ours[leaves], ours[300], strict=True)
        growth = statistics.median(large / small for large, small in pairs)
        report(Row(f"... a leaf of {leaves} against one of 300", growth))
    cold = sizes[300]
    benchmark.pedantic(lambda: cold.per_leaf(filtered), rounds=10)
