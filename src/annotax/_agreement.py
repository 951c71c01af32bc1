"""Whether a checkpoint and a model agree: what is missing, unexpected, or other.

Stands apart from reading: nothing is read from the file before this is known.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from ._errors import explain_error, rows
from ._manifest import SavedLeaf
from ._path import join, segments
from ._plain import plain_text
from ._selection import Mask
from ._text import array_text
from ._view import View

_jax: Any = jax  # the types of some of its functions are partly unknown


@dataclass(frozen=True)
class Agreement:
    """A checkpoint beside a model, by path.

    `fitting` are the leaves to load, by their position in the model; `missing` are in the
    model alone, `unexpected` in the file alone, `misfits` in both and not the same.
    """

    fitting: dict[int, SavedLeaf] = field(default_factory=dict[int, SavedLeaf])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    unexpected: dict[str, str] = field(default_factory=dict[str, str])
    misfits: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def is_whole(self) -> bool:
        """Whether everything fits."""
        return not (self.missing or self.unexpected or self.misfits)

    def lines(self) -> list[str]:
        """What does not fit, a line each."""
        groups = {
            "not in the file": self.missing,
            "not the same": self.misfits,
            "not in the model": self.unexpected,
        }
        return [
            f"{group}: {path} {what}"
            for group, found in groups.items()
            for path, what in found.items()
        ]

    def fix(self) -> str:
        """What might mend it."""
        other = "strict=False loads what fits"
        renaming = _suggested(self.missing, self.unexpected)
        if renaming is None:
            return f"{other}, select=... a part of the model"
        old, new = renaming
        return f'rename={{"{old}": "{new}"}}? {other}'


def compare(
    seen: View, mask: Mask, held: Mapping[str, SavedLeaf], *, whole: bool
) -> Agreement:
    """The agreement of what a file holds, by path, with the selected leaves of a model.

    **Arguments:** if `whole` is true, nothing else may be in the file. Leaves that are not
    for checkpoints (`persistent=False`) are not asked for, and passed over.
    """
    found = Agreement()
    for at, (entry, leaf) in enumerate(zip(seen.layout.entries, seen.leaves, strict=True)):
        saved = held.get(entry.path)
        if not mask[at]:
            continue
        if saved is None:
            found.missing[entry.path] = _array_text(leaf.shape, leaf.dtype)
            continue
        problem = _misfit(leaf, saved)
        if problem is None:
            found.fitting[at] = saved
        else:
            found.misfits[entry.path] = problem
    if whole:
        asked = {e.path for e, m in zip(seen.layout.entries, mask, strict=True) if m}
        passed = {entry.path for entry in seen.layout.entries if not entry.persistent}
        for path, saved in held.items():
            if path not in asked and path not in passed:
                found.unexpected[path] = _array_text(saved.shape, saved.dtype)
    return found


def _array_text(shape: Iterable[int], dtype: Any) -> str:
    return array_text(tuple(shape), dtype)


def _misfit(leaf: Any, saved: SavedLeaf) -> str | None:
    """How an array in the file differs from the one in the model."""
    shape = tuple(leaf.shape)
    dtype = leaf.dtype
    name = dtype.name if isinstance(dtype, np.dtype) else str(dtype)
    if saved.shape == shape and saved.dtype == name:
        if isinstance(leaf, np.ndarray | np.generic) or not _needs_x64(name):
            return None
        return f"{_array_text(shape, dtype)}, for which jax_enable_x64 must be set"
    hint = ""
    if saved.dtype == name and saved.shape == shape[::-1]:
        hint = ": transposed?"
    elif saved.dtype == name and saved.shape[1:] == shape:
        hint = ": a leading axis more: of an ensemble?"
    there, here = _array_text(saved.shape, saved.dtype), _array_text(shape, dtype)
    return f"{there} in the file, {here} in the model{hint}"


def _needs_x64(name: str) -> bool:
    wide = name in ("float64", "int64", "uint64", "complex128")
    return wide and not _jax.config.jax_enable_x64


def _suggested(
    missing: Mapping[str, str], unexpected: Mapping[str, str]
) -> tuple[str, str] | None:
    """A renaming that would bring the first missing leaf where something like it is."""
    for path, what in missing.items():
        steps = segments(path)
        twins = [segments(other) for other, its in unexpected.items() if its == what]
        alike = max(twins, key=lambda twin: _common_end(twin, steps), default=None)
        if alike is not None and _common_end(alike, steps):
            end = _common_end(alike, steps)
            if end < min(len(alike), len(steps)):
                return _joined(alike[:-end]), _joined(steps[:-end])
    return None


def _common_end(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    count = 0
    while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
        count += 1
    return count


def _joined(steps: tuple[str, ...]) -> str:
    path = ""
    for step in steps:
        path = join(path, step)
    return path


def differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, str]:
    """The settings that both have, and not with the same value."""
    return {
        path: f"{plain_text(there[path])} in the file, {plain_text(value)} in the model"
        for path, value in here.items()
        if path in there and there[path] != value
    }


def misfit_message(where: str, found: Agreement, settings: Mapping[str, str]) -> str:
    """The message for what does not fit, Hypers included where one insists on them."""
    lines = [*found.lines(), *(f"not the same: {p} {what}" for p, what in settings.items())]
    return explain_error(
        where,
        "the checkpoint does not fit the model",
        expected="the paths, shapes and dtypes of the model"
        + ", and its Hypers" * bool(settings),
        found=rows(lines),
        fix=None if found.is_whole else found.fix(),
    )
