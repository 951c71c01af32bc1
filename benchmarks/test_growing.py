"""What `partition_specs` and `shardings` cost: on models of thousands of leaves.

The twin is `trainable_filter`, which takes the same model apart and puts it together again
with one value a leaf. What is asked once for arrays of the same names and shape has no aim
where all differ, which no real model comes near; nor have `Leaves`, which the twin takes
apart for next to nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

import annotax as anx
from _twins import Norm, Stack, norms

MODULES = 1000  # three leaves each
RULES = {"n": "model"}
MESH = Mesh(np.array(jax.devices()[:1]), ("model",))


def all_different() -> Stack:
    """A model in which no two arrays have the same shape, and none takes any memory."""
    shapes = iter(range(1, 3 * MODULES + 1))

    def array() -> Any:
        return jax.ShapeDtypeStruct((next(shapes),), np.float32)

    with anx.checking("off"):  # other sizes in each field, which the class does not allow
        return Stack([Norm(array(), array(), array(), 0.1) for _ in range(MODULES)])


def abstract() -> Stack:
    """A model of stand-ins of the same shape."""
    array: Any = jax.ShapeDtypeStruct((2,), np.float32)
    return Stack([Norm(array, array, array, 0.1) for _ in range(MODULES)])


MODELS = pytest.mark.parametrize(
    ("kind", "make", "aim"),
    [
        ("", lambda: Stack(norms(MODULES)), 1.5),
        (", abstract", abstract, 1.5),
        (", abstract, all shapes different", all_different, None),
    ],
    ids=["concrete", "abstract", "different"],
)


@MODELS
def test_partition_specs(
    compare: Any, kind: str, make: Callable[[], Stack], aim: float | None
) -> None:
    model = make()
    compare(
        f"partition_specs, 3000 leaves{kind}",
        lambda: anx.partition_specs(model, RULES),
        lambda: anx.trainable_filter(model),
        aim=aim,
    )


@MODELS
def test_shardings(
    compare: Any, kind: str, make: Callable[[], Stack], aim: float | None
) -> None:
    model = make()
    compare(
        f"shardings, 3000 leaves{kind}",
        lambda: anx.shardings(model, MESH, RULES),
        lambda: anx.trainable_filter(model),
        aim=aim,
    )


def test_leaves(compare: Any) -> None:
    params = anx.params(Stack(norms(MODULES)))
    compare(
        "partition_specs, Leaves of 2000 parameters",
        lambda: anx.partition_specs(params, RULES),
        lambda: anx.trainable_filter(params),
    )
