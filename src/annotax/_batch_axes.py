"""The leading axes of an ensemble, in front of those that annotations name.

Stands apart from `validate` because it is about what a caller says of a model, and about
sizes that have to agree among arrays of different modules.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from ._compat import ArrayImpl
from ._errors import CheckError, did_you_mean, explain_error
from ._layout import is_array
from ._misfits import Problem
from ._mismatch import Mismatch, found_text
from ._path import compile_pattern, matches
from ._view import View

BatchAxes = int | Sequence[str] | Mapping[str, int | Sequence[str]]


class Axis(NamedTuple):
    """A leading axis. Equal ones have the same size.

    Those with a name are equal by it, others by their place in the arrays of one pattern.
    """

    name: str
    pattern: str = ""
    place: int = 0


Axes = tuple[Axis, ...]


def axes_of_leaves(seen: View, given: Any) -> list[Axes]:
    """The leading axes of each leaf, as the caller says.

    **Raises:** `CheckError` if that cannot be meant, or if a pattern matches nothing;
    `SelectionError` if a pattern is malformed.
    """
    paths = [entry.path for entry in seen.layout.entries]
    if not isinstance(given, Mapping):
        return [_axes(given)] * len(paths)
    mapping: Mapping[Any, Any] = cast(Any, given)
    if not all(isinstance(pattern, str) for pattern in mapping):
        raise _malformed(mapping)
    axes = {pattern: _axes(said, pattern) for pattern, said in mapping.items()}
    compiled = {pattern: compile_pattern(pattern) for pattern in axes}
    chosen: list[Axes] = []
    for path in paths:
        fitting = (pattern for pattern in axes if matches(compiled[pattern], path))
        chosen.append(axes.get(next(fitting, ""), ()))
    for pattern in axes:
        if not any(matches(compiled[pattern], path) for path in paths):
            raise CheckError(
                explain_error(
                    "validate",
                    "a pattern of batch_axes matches nothing",
                    found=repr(pattern),
                    fix=did_you_mean(pattern, paths),
                )
            )
    return chosen


def _axes(said: Any, pattern: str = "") -> Axes:
    if isinstance(said, int) and not isinstance(said, bool) and said >= 0:
        return tuple(Axis("batch", pattern, at + 1) for at in range(said))
    if isinstance(said, list | tuple):
        names: Sequence[Any] = cast(Any, said)
        if all(isinstance(name, str) for name in names):
            return tuple(map(Axis, names))
    raise _malformed(said)


def _malformed(said: Any) -> CheckError:
    text = repr(said) if isinstance(said, int | str) else found_text(said)
    return CheckError(
        explain_error(
            "validate",
            "these are no batch axes",
            expected="how many leading axes there are, or a name for each; or a dictionary "
            "with that for patterns of paths",
            found=text,
            fix='batch_axes=1, batch_axes=["ensemble"] or batch_axes={"heads.**": 1}',
        )
    )


def without(leaf: Any, axes: Axes) -> Any:
    """What stands for a leaf without its leading axes; itself if it has not so many."""
    if not axes or not is_array(leaf) or len(leaf.shape) < len(axes):
        return leaf
    shape = tuple(leaf.shape[len(axes) :])
    if type(leaf) is not ArrayImpl and isinstance(leaf, np.ndarray):
        return np.broadcast_to(np.zeros((), cast(Any, leaf).dtype), shape)
    return _stand_in(shape, leaf.dtype)


_stand_in = lru_cache(maxsize=1024)(jax.ShapeDtypeStruct)


def disagreements(seen: View, chosen: Sequence[Axes]) -> Iterator[Problem]:
    """The arrays whose leading axes have other sizes than those of most."""
    sizes = _most_common(seen, chosen)
    for entry, leaf, axes in zip(seen.layout.entries, seen.leaves, chosen, strict=True):
        if not is_array(leaf) or not axes:
            continue
        details = tuple(_details(leaf.shape, axes, sizes))
        if details:
            text = entry.spec.text if entry.spec else "an array"
            tip = 'if only a part is an ensemble: batch_axes={"heads.**": 1}'
            yield Problem(entry.path, text, Mismatch(found_text(leaf), tip=tip), details)


def _details(
    shape: Sequence[int], axes: Axes, sizes: Mapping[Axis, tuple[int, str]]
) -> Iterator[str]:
    if len(shape) < len(axes):
        names = ", ".join(axis.name for axis in axes)
        yield f"it has too few axes for {names}"
        return
    for at, axis in enumerate(axes):
        size, path = sizes[axis]
        if shape[at] != size:
            yield f"axis {at} is {shape[at]}, but {axis.name} is {size} (set by {path})"


def _most_common(seen: View, chosen: Sequence[Axes]) -> dict[Axis, tuple[int, str]]:
    """The size of each axis in most arrays, and the first one that has it."""
    counts: dict[Axis, Counter[int]] = {}
    first: dict[tuple[Axis, int], str] = {}
    for entry, leaf, axes in zip(seen.layout.entries, seen.leaves, chosen, strict=True):
        if not is_array(leaf):
            continue
        for axis, size in zip(axes, leaf.shape, strict=False):
            counts.setdefault(axis, Counter())[size] += 1
            first.setdefault((axis, size), entry.path)
    common = {axis: count.most_common(1)[0][0] for axis, count in counts.items()}
    return {axis: (size, first[axis, size]) for axis, size in common.items()}
