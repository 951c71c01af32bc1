"""Two leaves side by side: in what they differ, and what JAX makes of it.

Stands apart from `_compare`, which follows two trees to the leaves that stand in one place.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from ._layout import is_array
from ._text import shorten, value_text

_jax: Any = jax  # the types of its functions on dtypes and shapes are partly unknown


class Difference(NamedTuple):
    """One difference: where, of which kind, and both sides in words.

    `kind` says what differs. Of an array: its `shape`, `dtype`, `weak type`, `sharding`, or
    `numpy dtype`, which is one dtype inside of `jax.jit`. Of another leaf: its `value`,
    the `type` of a number, the `sign` of a zero; `leaf` for an array in place of something
    else. In the structure: a `static` field, the `class` of a module, whether a field is
    `frozen`, the type of a `container`, `None` in place of something, what is known of a
    `key` of `Leaves`, their `order`, or other `static data` of a node. `missing` is only in
    the first tree, `extra` only in the second.
    """

    path: str
    kind: str
    old: str
    new: str
    note: str = ""


HARMLESS = frozenset({"sign", "numpy dtype"})
"""The kinds for which nothing compiles anew."""

STATIC_LEAVES = HARMLESS | {"value"}
"""The kinds for which `eqx.filter_jit` compiles anew at most."""

OF_LEAVES = STATIC_LEAVES | {"type", "shape", "dtype", "weak type", "sharding", "leaf"}
"""The kinds that are no part of the tree structure."""

UNKNOWN = object()
"""Stands for a leaf of which nothing is known."""

UNKNOWN_ARRAY = object()
"""Stands for an array of which nothing is known."""

_NUMBERS = (bool, int, float, complex)


def equal(one: Any, other: Any) -> bool:
    """Whether two values are equal; not if they cannot be compared."""
    if one is other:
        return True
    try:
        return bool(one == other)
    except Exception:  # somebody keeps an array in a static field
        return False


def leaf_differences(one: Any, other: Any, path: str) -> Iterator[Difference]:
    """The differences between two leaves."""
    if one is other or one is UNKNOWN or other is UNKNOWN:
        return
    arrays = [x is UNKNOWN_ARRAY or is_array(x) for x in (one, other)]
    if not any(arrays):
        yield from _values(one, other, path)
    elif not all(arrays):
        alike = _traced_alike(one, other) if arrays[1] else _traced_alike(other, one)
        words = (leaf_text(one), leaf_text(other))
        yield Difference(path, "value" if alike else "leaf", *words)
    elif one is not UNKNOWN_ARRAY and other is not UNKNOWN_ARRAY:
        yield from _arrays(one, other, path)


def leaf_text(leaf: Any) -> str:
    """A leaf in a few words."""
    if leaf is UNKNOWN or leaf is UNKNOWN_ARRAY:
        return "a leaf" if leaf is UNKNOWN else "an array"
    return value_text(leaf)


# --- arrays --------------------------------------------------------------------------


def _arrays(one: Any, other: Any, path: str) -> Iterator[Difference]:
    words = (leaf_text(one), leaf_text(other))
    if one.shape != other.shape:
        yield Difference(path, "shape", *words)
    if one.dtype != other.dtype:
        traced = _traced_dtype(one)
        is_one = traced == _traced_dtype(other)
        note = f"inside jax.jit both are {traced}" if is_one else ""
        yield Difference(path, "numpy dtype" if is_one else "dtype", *words, note)
    weak = [_is_weak(x) for x in (one, other)]
    if weak[0] != weak[1]:
        kinds = ("weakly typed", "strongly typed")[:: 1 if weak[0] else -1]
        note = "a Python number made it: jnp.asarray(x, dtype) makes it strong"
        yield Difference(path, "weak type", kinds[0], kinds[1], note)
    if one.shape == other.shape and not _same_sharding(one, other):
        yield Difference(path, "sharding", _sharding_text(one), _sharding_text(other))


def _is_weak(array: Any) -> bool:
    return bool(getattr(array, "weak_type", False))


def _traced_dtype(array: Any) -> Any:
    """The dtype inside of `jax.jit`, which may take an array of numpy for a smaller one."""
    if isinstance(array, jax.Array):
        return array.dtype
    try:
        return _jax.dtypes.canonicalize_dtype(array.dtype)
    except (TypeError, ValueError):  # strings and objects are nothing to JAX, keys are
        return array.dtype


def _same_sharding(one: Any, other: Any) -> bool:
    """Whether `jax.jit` takes the two for sharded in one way, as far as is known.

    It traces anew for another mesh, even if both have one device.
    """
    old, new = (getattr(x, "sharding", None) for x in (one, other))
    meshes = [getattr(sharding, "mesh", None) for sharding in (old, new)]
    if not all(_is_placed(x) for x in (one, other)):
        return True
    if meshes[0] != meshes[1]:
        return False
    if old is None or new is None:  # no mesh on either side
        return True
    if not old.is_equivalent_to(new, one.ndim):
        return False
    return not _is_explicit(meshes[0]) or _entries(old, one) == _entries(new, one)


def _is_placed(array: Any) -> bool:
    """Whether it is known where an array is: on no mesh, if it is of numpy."""
    sharding = getattr(array, "sharding", None)
    is_numpy = isinstance(array, np.ndarray | np.generic)
    return is_numpy or isinstance(sharding, jax.sharding.Sharding)


def _is_explicit(mesh: Any) -> bool:
    """Whether the types of arrays on a mesh say how they are sharded."""
    return any("Explicit" in str(kind) for kind in getattr(mesh, "axis_types", None) or ())


def _entries(sharding: Any, array: Any) -> tuple[Any, ...]:
    """The entries of a partition spec, one an axis."""
    spec = tuple(sharding.spec)
    return spec + (None,) * (array.ndim - len(spec))


def _sharding_text(array: Any) -> str:
    sharding = getattr(array, "sharding", None)
    return "none, an array of numpy" if sharding is None else str(sharding)


def _traced_alike(number: Any, array: Any) -> bool:
    """Whether a Python number is to `jax.jit` what an array is."""
    sharding = getattr(array, "sharding", None)
    if type(number) not in _NUMBERS or not is_array(array) or hasattr(sharding, "mesh"):
        return False
    try:
        made = _jax.eval_shape(lambda x: x, number)  # pyright: ignore[reportUnknownLambdaType] -- any number
    except OverflowError:
        return False
    found = (array.shape, _traced_dtype(array), _is_weak(array))
    return found == (made.shape, made.dtype, _is_weak(made))


# --- other leaves --------------------------------------------------------------------


def _values(one: Any, other: Any, path: str) -> Iterator[Difference]:
    same, both = equal(one, other), set[Any]({type(one), type(other)})
    mistaken = "equal in Python: eqx.filter_jit runs what it compiled for the other"
    if len(both) == 2 and (same or both <= set(_NUMBERS)):
        words = (leaf_text(one), leaf_text(other))
        yield Difference(path, "type", *words, mistaken if same else "")
    elif not same:
        yield Difference(path, "value", *unequal_texts(one, other))
    elif both <= {float, complex} and repr(one) != repr(other):
        yield Difference(path, "sign", repr(one), repr(other), mistaken)


def unequal_texts(one: Any, other: Any) -> tuple[str, str, str]:
    """Two unequal values in words that tell them apart, and a note if no words do."""
    texts = [value_text(x) for x in (one, other)]
    if texts[0] != texts[1]:
        return texts[0], texts[1], ""
    longer = [value_text(x, 10_000) for x in (one, other)]
    if longer[0] != longer[1]:
        return *_from_difference(*longer), ""
    homes = [getattr(cast(object, x), "__module__", None) for x in (one, other)]
    if callable(one) and callable(other) and homes[0] != homes[1]:
        return f"{homes[0]}.{texts[0]}", f"{homes[1]}.{texts[1]}", ""
    if texts[0] == "nan":
        return "nan", "nan", "no NaN equals another one: make it once"
    note = "two objects that are not equal: made anew each time? Make it once"
    return texts[0], texts[1], note


def _from_difference(old: str, new: str) -> tuple[str, str]:
    """Two long texts from shortly before the place where they begin to differ."""
    pairs = zip(old, new, strict=False)
    place = next((at for at, (x, y) in enumerate(pairs) if x != y), min(len(old), len(new)))
    start = max(place - 20, 0)
    return (
        shorten(f"…{old[start:]}" if start else old, 60),
        shorten(f"…{new[start:]}" if start else new, 60),
    )
