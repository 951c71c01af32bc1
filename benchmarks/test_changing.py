"""What it costs to change a model, and what a changed model costs.

`freeze`, `adopt` and the like are measured with all variants made: the first time makes
classes. Their twin takes the same model apart and puts it together again, which a changed
copy has to do at least. A frozen or adopted model is measured against the original.
"""

import statistics
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import optax
import pytest

import annotax as anx
from _ratio import THREAD, Row, duration, without_gc
from _twins import Layer, PlainLayer, PlainStack, Stack, layers, mix, values
from test_module import ARRAYS, make_class

CHANGED = 1000  # modules, where changing is timed
MODULES = 200  # where flatten and unflatten are
FIRST = 15


def there_and_back(*models: Any) -> None:
    """The twin: flatten and unflatten."""
    for model in models:
        leaves, treedef = jax.tree_util.tree_flatten(model)
        treedef.unflatten(leaves)


def stack(count: int) -> Stack:
    """Layers with two Params and a Hyper each."""
    return Stack(layers(Layer, count))


def dropouts() -> list[eqx.nn.Dropout]:
    """Layers with a flag, and without arrays."""
    return [eqx.nn.Dropout(0.5) for _ in range(CHANGED)]


def retyped(model: Any, changed: Any) -> int:
    """How many layers have another class than before: nothing is timed that does less."""
    pairs = zip(model.layers, changed.layers, strict=True)
    return sum(type(before) is not type(after) for before, after in pairs)


FIELDS = pytest.mark.parametrize(
    ("text", "selection"),
    [("all fields", anx.everything), ("a field each", anx.by_path("layers.*.weight"))],
    ids=["all", "weight"],
)


# --- changing ------------------------------------------------------------------------


@FIELDS
def test_freeze(compare: Any, text: str, selection: anx.Selection) -> None:
    model = stack(CHANGED)
    assert retyped(model, anx.freeze(model, selection)) == CHANGED
    compare(
        f"freeze {CHANGED} modules, {text}",
        lambda: anx.freeze(model, selection),
        lambda: there_and_back(model),
        aim=10.0,
    )


@FIELDS
def test_unfreeze(compare: Any, text: str, selection: anx.Selection) -> None:
    model = anx.freeze(stack(CHANGED), selection)
    assert retyped(model, anx.unfreeze(model)) == CHANGED
    compare(
        f"unfreeze {CHANGED} modules, {text}",
        lambda: anx.unfreeze(model),
        lambda: there_and_back(model),
    )


def test_adopt(compare: Any) -> None:
    model = mix(CHANGED)
    assert retyped(model, anx.adopt(model)) == CHANGED // 2  # the others are right already
    compare(
        f"adopt {CHANGED} modules of other people",
        lambda: anx.adopt(model),
        lambda: there_and_back(model),
        aim=10.0,
    )


def test_adopt_what_is_adopted(compare: Any) -> None:
    model = anx.adopt(mix(CHANGED))
    assert retyped(model, anx.adopt(model)) == 0
    compare(
        "... once more: nothing changes",
        lambda: anx.adopt(model),
        lambda: there_and_back(model),
    )


def test_replace(compare: Any) -> None:
    model = stack(CHANGED)
    compare(
        f"replace a Hyper of one of {CHANGED} modules",
        lambda: anx.replace(model, {"layers.500.size": 3}),
        lambda: there_and_back(model),
    )


def test_replace_an_array(compare: Any) -> None:
    model, twin = stack(CHANGED), PlainStack(layers(PlainLayer, CHANGED))
    (new,) = values(1)
    compare(
        f"replace an array of one of {CHANGED} modules: eqx.tree_at",
        lambda: anx.replace(model, {"layers.500.weight": new}),
        lambda: eqx.tree_at(lambda m: m.layers[500].weight, twin, new),
    )


def test_inference_mode(compare: Any) -> None:
    model, twin = anx.adopt(dropouts()), dropouts()
    compare(
        f"inference_mode, {CHANGED} adopted dropouts: Equinox's on plain ones",
        lambda: anx.inference_mode(model),
        lambda: eqx.nn.inference_mode(twin),
    )


def test_carry(compare: Any) -> None:
    """From half of the parameters, a frozen field each, to all of them."""
    model, tx = stack(CHANGED // 2), optax.adam(1e-3)
    frozen = anx.freeze(model, anx.by_path("layers.*.bias"))
    old, new = (tx.init(anx.params(m)) for m in (frozen, model))
    compare(
        f"carry adam's state, {CHANGED // 2} of {CHANGED} parameters",
        lambda: anx.carry(old, new),
        lambda: there_and_back(old, new),
    )


def timed(call: Callable[[], object]) -> float:
    """Seconds for one call."""
    start = THREAD()
    call()
    return THREAD() - start


def test_first_freeze(report: Callable[[Row], None], benchmark: Any) -> None:
    """The first instance of a class that is frozen: a variant and a layout are made.

    The twin is making the class itself. Each round has a class of its own.
    """
    anx.freeze(make_class()(*ARRAYS, 0.1), anx.by_path("weight"))

    def first(cls: type) -> float:
        module = cls(*ARRAYS, 0.1)
        return timed(lambda: anx.freeze(module, anx.by_path("weight")))

    with without_gc():
        pairs = [(first(make_class()), timed(make_class)) for _ in range(FIRST)]
    ours, twin = (statistics.median(column) for column in zip(*pairs, strict=True))
    report(
        Row(
            "the first freeze of a class of four fields: making the class",
            statistics.median(mine / theirs for mine, theirs in pairs),
            note=f"{duration(ours)} against {duration(twin)}, {FIRST} rounds",
        )
    )
    benchmark.pedantic(lambda: first(make_class()), rounds=5)


# --- what is changed -----------------------------------------------------------------


@FIELDS
def test_flatten_frozen(compare: Any, text: str, selection: anx.Selection) -> None:
    model = stack(MODULES)
    frozen = anx.freeze(model, selection)
    compare(
        f"flatten {MODULES} modules, {text} frozen",
        lambda: jax.tree_util.tree_flatten(frozen),
        lambda: jax.tree_util.tree_flatten(model),
        aim=1.05,
    )


@FIELDS
def test_unflatten_frozen(compare: Any, text: str, selection: anx.Selection) -> None:
    model = stack(MODULES)
    leaves, treedef = jax.tree_util.tree_flatten(anx.freeze(model, selection))
    twins, plain_treedef = jax.tree_util.tree_flatten(model)
    compare(
        f"unflatten {MODULES} modules, {text} frozen",
        lambda: treedef.unflatten(leaves),
        lambda: plain_treedef.unflatten(twins),
        aim=1.30,
    )


def test_flatten_adopted(compare: Any) -> None:
    model = mix(MODULES)
    adopted = anx.adopt(model)
    compare(
        f"flatten {MODULES} modules, adopted",
        lambda: jax.tree_util.tree_flatten(adopted),
        lambda: jax.tree_util.tree_flatten(model),
        aim=1.05,
    )


def test_unflatten_adopted(compare: Any) -> None:
    model = mix(MODULES)
    leaves, treedef = jax.tree_util.tree_flatten(anx.adopt(model))
    twins, plain_treedef = jax.tree_util.tree_flatten(model)
    compare(
        f"unflatten {MODULES} modules, adopted",
        lambda: treedef.unflatten(leaves),
        lambda: plain_treedef.unflatten(twins),
        aim=1.30,
    )
