"""What the base class costs: flattening, reading, making instances and classes, importing.

The twins are plain Equinox modules with the same fields, `field(static=True)` for Hypers.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float

import annotax as anx
from _ratio import Row
from _twins import (
    BufferLayer,
    Layer,
    PlainBufferLayer,
    PlainLayer,
    PlainStack,
    Stack,
    layers,
    values,
)

MODULES = 200
READS = 20
CLASSES = 20


def test_the_twin_against_itself(compare: Any) -> None:
    """How far from 1 a ratio may be for no reason at all."""
    one, other = (PlainStack(layers(PlainLayer, MODULES)) for _ in range(2))
    compare(
        "control: a plain model's flatten against another's",
        lambda: jax.tree_util.tree_flatten(one),
        lambda: jax.tree_util.tree_flatten(other),
    )


KINDS = pytest.mark.parametrize(
    ("text", "ours", "plain", "unflatten_aim"),
    [
        ("no Buffers", Layer, PlainLayer, 1.05),
        ("a Buffer each", BufferLayer, PlainBufferLayer, 1.30),
    ],
    ids=["params", "buffers"],
)


@KINDS
def test_flatten(
    compare: Any, text: str, ours: type, plain: type, unflatten_aim: float
) -> None:
    model, twin = Stack(layers(ours, MODULES)), PlainStack(layers(plain, MODULES))
    compare(
        f"flatten {MODULES} modules, {text}",
        lambda: jax.tree_util.tree_flatten(model),
        lambda: jax.tree_util.tree_flatten(twin),
        aim=1.05,
    )


@KINDS
def test_unflatten(
    compare: Any, text: str, ours: type, plain: type, unflatten_aim: float
) -> None:
    leaves, treedef = jax.tree_util.tree_flatten(Stack(layers(ours, MODULES)))
    twins, plain_treedef = jax.tree_util.tree_flatten(PlainStack(layers(plain, MODULES)))
    compare(
        f"unflatten {MODULES} modules, {text}",
        lambda: treedef.unflatten(leaves),
        lambda: plain_treedef.unflatten(twins),
        aim=unflatten_aim,
    )


def test_construct(compare: Any) -> None:
    weight, mean = values(2)
    compare(
        "make an instance (Param, Buffer, Hyper)",
        lambda: BufferLayer(weight, mean, 2),
        lambda: PlainBufferLayer(weight, mean, 2),
    )


ARRAYS = (jnp.ones((2, 3)), jnp.ones(2), jnp.ones(3))
"""What fits the annotations of the two classes."""


def make_class(**options: Any) -> Any:
    """Two Params, a Buffer and a Hyper."""

    class Made(anx.Module, **options):
        weight: anx.Param[Float[Array, "m n"]]
        bias: anx.Param[Float[Array, " m"] | None]
        mean: anx.Buffer[Float[Array, " n"]]
        rate: anx.Hyper[float]

    return Made


def make_plain_class() -> type:
    """The twin."""

    class Made(eqx.Module):
        weight: Float[Array, "m n"]
        bias: Float[Array, " m"] | None
        mean: Float[Array, " n"]
        rate: float = eqx.field(static=True)

    return Made


def test_make_class(compare: Any) -> None:
    compare("make a class of four fields", make_class, make_plain_class, aim=1.3)


def readers(make: Callable[[], Any], name: str) -> Callable[[], None]:
    """A function that reads an attribute of instances of several classes, many times.

    Each instance is read by code of its own: Python specialises a read for one class, and
    would undo it for the next. And there are several classes because a single one may
    happen to collide in Python's cache of attribute lookups, which costs a tenth.
    """
    reads: list[Callable[[Any], None]] = []
    instances = [make()(*ARRAYS, 0.1) for _ in range(CLASSES)]
    for _ in instances:
        names: dict[str, Any] = {}
        exec("def read(module):\n" + f"    module.{name}\n" * READS, names)
        reads.append(names["read"])
    pairs = list(zip(reads, instances, strict=True))

    def call() -> None:
        for read, instance in pairs:
            read(instance)

    return call


@pytest.mark.parametrize(
    ("role", "name", "aim"), [("Param", "weight", 1.1), ("Buffer", "mean", 1.5)]
)
def test_read(compare: Any, role: str, name: str, aim: float) -> None:
    compare(
        f"read a {role} ({CLASSES} classes, {READS} times each)",
        readers(make_class, name),
        readers(make_plain_class, name),
        aim=aim,
    )


IMPORT_EQUINOX = """
import time
start = time.perf_counter()
import equinox
print(time.perf_counter() - start)
"""

IMPORT_ANNOTAX = """
import time
start = time.perf_counter()
import jax, equinox, optax, jaxtyping
between = time.perf_counter()
import annotax
print(time.perf_counter() - between, between - start)
"""


def test_import(report: Callable[[Row], None], benchmark: Any) -> None:
    """What `import annotax` adds, in new processes that have what it builds on."""

    def times_of(code: str) -> list[float]:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [1e3 * float(taken) for taken in done.stdout.split()]

    both = [(times_of(IMPORT_EQUINOX), times_of(IMPORT_ANNOTAX)) for _ in range(9)]
    equinox = statistics.median(alone for (alone,), _ in both)
    added = statistics.median(added for _, (added, _) in both)
    before = statistics.median(before for _, (_, before) in both)
    what = "import annotax after jax, equinox, optax and jaxtyping"
    note = f"on top of {before:.0f} ms"
    report(Row(what, added, 30.0, unit="ms", note=note))
    report(Row("... import equinox, with jax", equinox, unit="ms"))
    benchmark.pedantic(lambda: times_of(IMPORT_ANNOTAX), rounds=1)
