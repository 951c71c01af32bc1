"""The verdicts of annotax on random classes and values are those of plain jaxtyping.

The reference asks jaxtyping for one field after the other, in one context in which the
numbers of the model are bound first; of containers it asks for every item, where beartype
would take one at random. It differs on purpose in one place: a computed dimension of which
nothing binds a name makes jaxtyping raise, and annotax say that it is not checked.
"""

import collections
import itertools
import random
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jaxtyping import Array, Bool, Float, Float32, Inexact, Int, PyTree, Shaped, jaxtyped

import annotax as anx

CLASSES, VALUES = 1_000, 20
"""Together the 20,000 cases that are compared, in shares that run side by side."""
SHARES = 20

NAMES = ("n", "m")
SIZES = (1, 2, 3)
DTYPES = (Float, Float32, Inexact, Int, Bool, Shaped)


class Unbound(Exception):
    """jaxtyping cannot say: a name in a computed dimension has no size."""


@jax.tree_util.register_pytree_node_class
class Pair:
    def __init__(self, one, two):
        self.children = (one, two)

    def tree_flatten(self):
        return self.children, None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


class Duck:
    def __init__(self, shape):
        self.shape, self.dtype = shape, np.dtype("float32")


# --- random hints --------------------------------------------------------------------


def random_dims(rng: random.Random, *, in_tree: bool = False) -> str:
    count = rng.choice((0, 1, 1, 2, 2, 3))
    dims = [random_dim(rng) for _ in range(count)]
    if rng.random() < 0.25:
        dims.insert(rng.randint(0, count), rng.choice(("...", "*s", "*#s", "*_")))
    if in_tree and dims and rng.random() < 0.5:
        dims[0] = f"?{rng.choice(NAMES)}"
    return " ".join(dims)


def random_dim(rng: random.Random) -> str:
    name, size = rng.choice(NAMES), rng.choice(SIZES)
    forms = [name] * 6 + [str(size), f"#{name}", f"k={size}", f"#{size}", "_", f"_{name}"]
    return rng.choice([*forms, f"{name}+1", f"2*{name}", "min(n,m)", f"#{name}+1"])


def random_array(rng: random.Random, *, in_tree: bool = False) -> Any:
    kind = rng.choice((Array, Array, Array, np.ndarray, jax.Array | np.ndarray))
    return rng.choice(DTYPES)[kind, random_dims(rng, in_tree=in_tree)]


def random_hint(rng: random.Random) -> Any:  # noqa: PLR0911
    form = rng.random()
    array = random_array(rng)
    if form < 0.55:
        return array
    if form < 0.65:
        return array | None
    if form < 0.72:
        return array | random_array(rng)
    if form < 0.77:
        return list[array]
    if form < 0.81:
        return tuple[array, random_array(rng)]
    if form < 0.85:
        return dict[str, array]
    if form < 0.88:
        return tuple[array, ...] | array
    leaf = random_array(rng, in_tree=form > 0.93)
    return PyTree[leaf, "T"] if form > 0.93 else PyTree[leaf]


# --- random values -------------------------------------------------------------------


def random_value(rng: random.Random, hint: Any) -> Any:  # noqa: PLR0911
    """A value that has a fair chance to fit."""
    if rng.random() < 0.03:
        return rng.choice((None, 1.0, "text", (), []))
    origin, inner = getattr(hint, "__origin__", None), getattr(hint, "__args__", ())
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return array_for(rng, hint)
    if origin is list:
        return [random_value(rng, inner[0]) for _ in range(rng.randint(0, 3))]
    if origin is dict:
        return {key: random_value(rng, inner[1]) for key in "ab"[: rng.randint(0, 2)]}
    if origin is tuple:
        items = inner[:1] * rng.randint(0, 3) if inner[-1] is ... else inner
        return tuple(random_value(rng, item) for item in items)
    if hasattr(hint, "leaftype"):
        one, two = (random_value(rng, hint.leaftype) for _ in range(2))
        return rng.choice((one, [one, two], {"a": one}, Pair(one, two), [], (one, [two])))
    return None if hint is type(None) else random_value(rng, rng.choice(inner))


_arrays: dict[Any, Any] = {}


def array_for(rng: random.Random, hint: Any) -> Any:
    shape = tuple(itertools.chain(*(sizes_for(rng, dim) for dim in hint.dim_str.split())))
    if rng.random() < 0.1:
        shape = shape[1:] if rng.random() < 0.5 else (*shape, 2)
    dtype = rng.choice(("float32", "float32", "float32", "int32", "bool"))
    takes_numpy = issubclass(np.ndarray, hint.array_type)
    library = np if takes_numpy != (rng.random() < 0.05) else jnp
    key = (library.__name__, shape, dtype)
    if key not in _arrays:
        _arrays[key] = library.zeros(shape, dtype)
    return _arrays[key]


def sizes_for(rng: random.Random, dim: str) -> tuple[int, ...]:
    likely = {"n": 2, "m": 3, "n+1": 3, "m+1": 4, "2*n": 4, "2*m": 6, "min(n,m)": 2}
    if dim == "..." or "*s" in dim or dim == "*_":
        return rng.choice(((), (2,), (1,), (2, 3), (1, 3)))
    bare = dim.lstrip("#?").rpartition("=")[2]
    size = likely.get(bare, int(bare) if bare.isdigit() else rng.choice(SIZES))
    if dim.startswith("#") and rng.random() < 0.4:
        size = 1
    return (rng.choice((*SIZES, 4)) if rng.random() < 0.1 else size,)


# --- the reference -------------------------------------------------------------------


def fits(value: Any, hint: Any) -> bool:
    """Whether a value fits, as jaxtyping says in the context that is open."""
    origin, inner = getattr(hint, "__origin__", None), getattr(hint, "__args__", ())
    if origin is list:
        return isinstance(value, list) and all(fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            fits(key, inner[0]) and fits(item, inner[1]) for key, item in value.items()
        )
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        items = inner[:1] * len(value) if inner[-1] is ... else inner
        return len(items) == len(value) and all(map(fits, value, items))
    if not isinstance(hint, type) and inner:
        return any(fits(value, member) for member in inner)
    return isinstance(value, hint)


def reference(hints: dict[str, Any], values: dict[str, Any], bound: dict[str, int]) -> bool:
    """Whether all values fit; fields with computed dimensions come last."""
    late = sorted(hints, key=lambda name: any(mark in str(hints[name]) for mark in "+(2*"))
    try:
        with jaxtyped("context"):
            if bound:
                names = " ".join(bound)
                assert isinstance(Duck(tuple(bound.values())), Shaped[Duck, names])
            return all(fits(values[name], hints[name]) for name in late)
    except jaxtyping.AnnotationError as error:
        raise Unbound from error


def random_class(rng: random.Random) -> tuple[type, dict[str, Any], dict[str, int]]:
    hints = {f"f{at}": random_hint(rng) for at in range(rng.randint(1, 4))}
    bound = {"n": 2} if rng.random() < 0.5 else {}
    annotations: dict[str, Any] = {name: anx.Param[hint] for name, hint in hints.items()}
    annotations.update(dict.fromkeys(bound, anx.Hyper[int]))
    names = list(annotations)
    rng.shuffle(names)  # the order of fields does not matter
    made = type(anx.Module)(
        "Random", (anx.Module,), {"__annotations__": {n: annotations[n] for n in names}}
    )
    return made, hints, bound


@pytest.mark.parametrize("share", range(SHARES))
def test_the_verdict_is_that_of_jaxtyping(share):
    outcomes: collections.Counter[str] = collections.Counter()
    for seed in range(share, CLASSES, SHARES):
        rng = random.Random(seed)
        cls, hints, bound = random_class(rng)
        for _ in range(VALUES):
            values = {name: random_value(rng, hint) for name, hint in hints.items()}
            outcomes[compare(cls, hints, values, bound, seed)] += 1
    # All the verdicts occur, often enough to mean something.
    cases = CLASSES * VALUES // SHARES
    assert sum(outcomes.values()) == cases
    assert outcomes["fits"] > cases / 20
    assert outcomes["does not fit"] > cases / 5
    assert outcomes["not checked"] > cases / 200


def compare(cls, hints, values, bound, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", anx.AnnotationWarning)
        try:
            cls(**values, **bound)
            ours = True
        except anx.CheckError:
            ours = False
    try:
        theirs = reference(hints, values, bound)
    except Unbound:
        return "not checked"
    told = {name: jax.tree.map(jnp.shape, value) for name, value in values.items()}
    assert ours == theirs, (seed, hints, told, bound)
    return "fits" if ours else "does not fit"
