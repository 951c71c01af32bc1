"""Whether a checkpoint and a model agree: what is missing, unexpected, or other.

Stands apart from reading: nothing is read from the file before this is known.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from ._errors import explain_error, rows
from ._leaf_diff import unequal_texts
from ._manifest import SavedLeaf
from ._path import join_all, segments
from ._plain import Shown
from ._selection import Mask
from ._stored import CODES
from ._text import array_text, printable
from ._view import View

_jax: Any = jax  # the types of some of its functions are partly unknown


@dataclass(frozen=True)
class Agreement:
    """A checkpoint beside a model, by path.

    `fitting` are the leaves to load, by their position in the model; `missing` are in the
    model alone, `unexpected` in the file alone, `misfits` in both and not the same;
    of these, `recast` have only another dtype.
    """

    fitting: dict[int, SavedLeaf] = field(default_factory=dict[int, SavedLeaf])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    unexpected: dict[str, str] = field(default_factory=dict[str, str])
    misfits: dict[str, str] = field(default_factory=dict[str, str])
    recast: list[str] = field(default_factory=list[str])

    @property
    def is_whole(self) -> bool:
        """Whether everything fits."""
        return not (self.missing or self.unexpected or self.misfits)

    @property
    def fits_in_part(self) -> bool:
        """Whether anything can be loaded, or the model asks for nothing."""
        return bool(self.fitting) or not (self.missing or self.misfits)

    def lines(self) -> list[str]:
        """What does not fit, a line each."""
        groups = {
            "not in the file": self.missing,
            "not the same": self.misfits,
            "not in the model": self.unexpected,
        }
        return [
            printable(f"{group}: {path} {what}")
            for group, found in groups.items()
            for path, what in found.items()
        ]

    def fix(self, *, is_renamed: bool = False) -> str | None:
        """What might mend it, if anything; no renaming where there is one."""
        fixes: list[str] = []
        renaming = None if is_renamed else _suggested(self)
        if renaming is not None:
            old, new = renaming
            fixes.append(f"rename={{{old!r}: {new!r}}}?")
        elif self.unexpected and not self.missing and not is_renamed:
            first = next(iter(self.unexpected))
            fixes.append(f"rename={{{first!r}: None}} leaves out what only the file has")
        if self.recast:
            fixes.append("load into a model of the file's dtypes, and cast it then")
        if self.fits_in_part:
            fixes.append("strict=False loads what fits, select=... a part of the model")
        elif not (fixes or self.misfits):
            fixes.append("is it the file of another model?")
        return "\n".join(map(printable, fixes)) or None


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
            continue
        found.misfits[entry.path] = problem
        if saved.shape == tuple(leaf.shape) and _is_castable(leaf, saved):
            found.recast.append(entry.path)
    if whole:
        known = zip(seen.layout.entries, mask, strict=True)
        passed = {entry.path for entry, asked in known if asked or not entry.persistent}
        for path, saved in held.items():
            if path not in passed:
                found.unexpected[path] = _array_text(saved.shape, saved.dtype)
    return found


def _array_text(shape: Iterable[int], dtype: Any) -> str:
    return array_text(tuple(shape), dtype)


def _misfit(leaf: Any, saved: SavedLeaf) -> str | None:
    """How an array in the file differs from the one in the model."""
    shape, dtype, name = tuple(leaf.shape), leaf.dtype, _dtype_name(leaf)
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


def _dtype_name(leaf: Any) -> str:
    """As in a manifest: without the order of bytes, of which `str` would tell."""
    dtype = leaf.dtype
    return dtype.name if isinstance(dtype, np.dtype) else str(dtype)


def _is_castable(leaf: Any, saved: SavedLeaf) -> bool:
    """Whether a cast could make the one of the other: not of keys, and not of itself."""
    here, there = _dtype_name(leaf), saved.dtype
    is_known = there in CODES or hasattr(_jax.numpy, there)  # a foreign F4 is not
    is_key = here.startswith("key<") or there.startswith("key<")
    return is_known and here != there and not is_key


def _needs_x64(name: str) -> bool:
    wide = name in ("float64", "int64", "uint64", "complex128")
    return wide and not _jax.config.jax_enable_x64


def _suggested(found: Agreement) -> tuple[str, str] | None:
    """A renaming that would bring the first missing leaf where something like it is.

    Whatever else it moves must then be where something like it is missing, too.
    """
    for path, what in found.missing.items():
        steps = segments(path)
        twins = [segments(other) for other, its in found.unexpected.items() if its == what]
        alike = max(twins, key=lambda twin: _common_end(twin, steps), default=())
        least = 0 if len(twins) == 1 else 1
        for end in range(_common_end(alike, steps), least - 1, -1):
            old, new = alike[: len(alike) - end], steps[: len(steps) - end]
            if alike and _leads_home(found, old, new):
                return join_all(old), join_all(new)
    return None


def _leads_home(found: Agreement, old: tuple[str, ...], new: tuple[str, ...]) -> bool:
    """Whether all that a renaming moves is missing where it comes to."""
    if not old and found.fitting:
        return False  # the empty name moves everything, what fits included
    moved = {
        join_all((*new, *segments(path)[len(old) :])): what
        for path, what in found.unexpected.items()
        if segments(path)[: len(old)] == old
    }
    return all(found.missing.get(path) == what for path, what in moved.items())


def _common_end(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    count = 0
    while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
        count += 1
    return count


def differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, str]:
    """The settings that both have, and not with the same value.

    Equal numbers are the same, whatever their type: what was `0` is `0.0` once adopted.
    """
    found: dict[str, str] = {}
    for path, value in here.items():
        if path in there and there[path] != value:
            old, new, _ = unequal_texts(Shown(there[path]), Shown(value))
            found[path] = f"{old} in the file, {new} in the model"
    return found


def misfit_message(
    where: str, found: Agreement, other: Mapping[str, str], *, is_renamed: bool = False
) -> str:
    """The message for what does not fit: arrays, and Hypers where one insists on them."""
    lines = found.lines()
    lines += [printable(f"not the same: {path} {what}") for path, what in other.items()]
    fits = found.is_whole
    expected = [] if fits else ["the paths, shapes and dtypes of the model"]
    expected += ["its Hypers"] if other else []
    fix = None if fits else found.fix(is_renamed=is_renamed)
    fixes = [fix] if fix else []
    fixes += ['hypers="warn" loads it nevertheless'] if other else []
    return explain_error(
        where,
        "the checkpoint does not fit the model",
        expected=", and ".join(expected),
        found=rows(lines),
        fix="\n".join(fixes) or None,
    )
