"""The arrays of a model as a checkpoint takes them, or why it cannot.

Stands apart from the file: nothing is written before all of this is known.
"""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from ._compat import wraps_numpy
from ._errors import CheckpointError, SelectionError, explain_error, listing, rows
from ._layout import is_array
from ._records import Record
from ._select import everything
from ._selection import Mask, Selection
from ._stored import StoredArray, stored
from ._view import View


def checkpoint_mask(function: str, seen: View, select: Any) -> Mask:
    """The selected arrays that are for checkpoints."""
    chosen = Selection.of(select)
    entries = zip(seen.layout.entries, seen.leaves, chosen.mask(seen), strict=True)
    mask = [flag and entry.persistent and is_array(leaf) for entry, leaf, flag in entries]
    if not any(mask) and select is not everything:
        arrays = [
            e.path
            for e, x in zip(seen.layout.entries, seen.leaves, strict=True)
            if e.persistent and is_array(x)
        ]
        raise SelectionError(
            explain_error(
                f"{function}({type(seen.tree).__name__}, select={chosen!r})",
                "the selection matches no array that is for checkpoints",
                expected=f"some of: {listing(arrays)}",
                found="nothing",
            )
        )
    return mask


def stored_arrays(where: str, chosen: list[tuple[Record, Any]]) -> dict[str, StoredArray]:
    """The arrays as they are stored, by path.

    **Raises:** `CheckpointError` for all that cannot be.
    """
    arrays: dict[str, StoredArray] = {}
    problems: list[str] = []
    for record, leaf in chosen:
        problem = _why_valueless(record.path, leaf)
        if problem is None:
            try:
                arrays[record.path] = stored(leaf)
            except ValueError as error:
                problem = str(error)
        place = record.path or "the array itself"
        problems += [f"{place}: {problem}"] if problem else []
    if problems:
        raise CheckpointError(
            explain_error(
                f"save({where!r})",
                "not everything can be saved",
                expected="arrays with values, all in this process, of dtypes of JAX",
                found=rows(problems),
                fix="select=... leaves something out, and so does persistent=False in a "
                "field",
            )
        )
    return arrays


def _why_valueless(path: str, leaf: Any) -> str | None:
    """In a few words why an array cannot be read, if it cannot."""
    if path == "__metadata__":
        return "a name that the file format keeps for itself"
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return "abstract, it has no values"
    if isinstance(leaf, Tracer):
        return "traced, it has no values yet: save outside of compiled functions"
    if isinstance(leaf, np.ma.MaskedArray):
        return "a masked array, whose mask would be lost"
    is_on_devices = isinstance(leaf, jax.Array) and not wraps_numpy(leaf)
    return _why_unreadable(leaf) if is_on_devices else None


def _why_unreadable(array: jax.Array) -> str | None:
    if array.is_deleted():
        return "deleted, or donated to a compiled function"
    if not (array.is_fully_addressable or array.is_fully_replicated):
        return "partly in other processes, which orbax can save"
    return None
