"""What does not fit, as the text of an error: one value or many."""

from collections.abc import Sequence
from textwrap import shorten
from typing import NamedTuple

from ._dims import Misfit, Sizes
from ._errors import explain_error
from ._mismatch import Mismatch

_LINES = 12
_AXES = 5
"""Of more axes, in one message, the rest is counted."""
_WIDTH = 200
"""A longer annotation is cut."""


class Problem(NamedTuple):
    """A value that does not fit: where it is, and its annotation as written."""

    path: str
    annotation: str
    mismatch: Mismatch
    details: tuple[str, ...]
    """A line for each axis."""


def problem(path: str, annotation: str, mismatch: Mismatch, sizes: Sizes) -> Problem:
    """A mismatch with what was bound when it was found."""
    details = [_detail(misfit, sizes) for misfit in mismatch.misfits]
    if len(details) > _AXES:
        details[_AXES:] = [f"and {len(details) - _AXES} more axes"]
    text = shorten(annotation, _WIDTH, placeholder=" ...")
    return Problem(path + mismatch.where, text, mismatch, tuple(details))


def problems_text(where: str, found: Sequence[Problem], limit: int = _LINES) -> str:
    """The text of the error about some problems; `where` is a class or a function."""
    if len(found) == 1:
        return _one(where, found[0])
    lines: list[str] = []
    told = 0
    for one in found:
        block = _block(one)
        if lines and len(lines) + len(block) > limit - 2:
            break
        lines += block
        told += 1
    if told < len(found):
        lines.append(f"  and {len(found) - told:,} more")
    return "\n".join(
        [f"{where}: {len(found):,} values do not fit their annotations", *lines]
    )


def _one(where: str, one: Problem) -> str:
    return explain_error(
        where + one.path if one.path[0] in "[(" else f"{where}.{one.path}",
        "the value does not fit its annotation",
        expected=_expected(one),
        found="\n".join([one.mismatch.found, *one.details]),
        fix=one.mismatch.tip,
    )


def _expected(one: Problem) -> str:
    inner = one.mismatch.expected
    return one.annotation if inner is None else f"{inner} in {one.annotation}"


def _block(one: Problem) -> list[str]:
    lines = [f"  {one.path}: {_expected(one)}, found {one.mismatch.found}"]
    lines += [f"    {detail}" for detail in one.details]
    lines += [f"    {one.mismatch.tip}"] if one.mismatch.tip else []
    return lines


def _detail(misfit: Misfit, sizes: Sizes) -> str:
    if misfit.bound is None:  # the number of axes
        return f"{counted_axes(misfit.found)} instead of {misfit.text}"
    if misfit.axis is None:
        start = f"the axes are {misfit.found}"
    else:
        start = f"axis {misfit.axis} is {misfit.found}"
    if misfit.text == str(misfit.bound):
        return f"{start}, not {misfit.text}"
    who = sizes.bound_by.get(misfit.name)
    by = "" if who is None else f" (set by {who})"
    return f"{start}, but {misfit.text} is {misfit.bound}{by}"


def counted_axes(count: int) -> str:
    """A number of axes in words."""
    return "1 axis" if count == 1 else f"{count} axes"
