"""A name for each axis of each array of a tree, also of axes in front of those declared.

Annotations name the axes of one layer's own array. In a tree it may be stacked, kept by an
optimizer in another shape, or have a variadic name. What that means for the axes is asked
before any rule is, so it stands apart from the rules.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache, partial

from ._axes import Axes, is_variadic
from ._compat import ArrayImpl
from ._layout import is_array
from ._path import segments
from ._view import View


@dataclass(frozen=True, eq=False, slots=True)
class NamedArray:
    """The axes of an array: `axes` as declared, `names` one for each axis it has.

    `lead` is how many stand in front of the declared ones, `None` where nothing is named.
    Arrays alike are the same object, and looked up as such: a model has thousands.
    """

    axes: Axes | None
    shape: tuple[int, ...]
    lead: int | None
    names: Axes


_Kind = tuple[Axes | None, tuple[int, ...]]
"""What the names of an array depend on, but for its place. A model has few kinds."""

_PLACEHOLDER = (1,)
"""The shape of a moment that an optimizer does without."""

_FACTORED = re.compile(r"((?:.*\.)?)v_row([.\[].*)?")
"""A path in `optax.FactoredState`, whose rows and columns have an axis less than their
parameter; `v` holds a placeholder instead of it then."""


def named_arrays(seen: View, front: Axes) -> list[NamedArray | None]:
    """The arrays among the leaves of a tree, `None` for what is no array.

    `front` names the axes of a stack, outermost first.
    """
    kinds: list[_Kind | None] = [
        (entry.axes, leaf.shape) if type(leaf) is ArrayImpl or is_array(leaf) else None
        for entry, leaf in zip(seen.layout.entries, seen.leaves, strict=True)
    ]
    few = _without_none(kinds)
    if any(map(_holds_place, few)):
        kinds = _without_factored(seen, kinds)
        few = _without_none(kinds)
    leads = {lead for kind in few if (lead := _own_lead(kind)) is not None}
    named = cache(partial(_named, front))
    if len(leads) > 1 and any(_depend_on_place(axes) for axes, _ in few):
        least = _least_leads(seen, kinds)
        return [
            None if kind is None else named(kind, _nearest(least, entry.path))
            for entry, kind in zip(seen.layout.entries, kinds, strict=True)
        ]
    lead = min(leads, default=len(front))
    known = {None: None, **{kind: named(kind, lead) for kind in few}}
    return list(map(known.__getitem__, kinds))


def _without_none(kinds: Iterable[_Kind | None]) -> set[_Kind]:
    return {kind for kind in {*kinds} if kind is not None}


def _named(front: Axes, kind: _Kind, lead: int) -> NamedArray:
    """The names of an array; `lead` counts only where its own names do not tell."""
    axes, shape = kind
    if axes is not None and _depend_on_place(axes):
        axes = _spread(axes, len(shape) - lead)
    extra = -1 if axes is None else len(shape) - len(axes)
    if axes is None or extra < 0:
        return NamedArray(kind[0], shape, None, (None,) * len(shape))
    stacked = (*front, *(None,) * extra)[:extra]
    return NamedArray(kind[0], shape, extra, (*stacked, *axes))


def _spread(axes: Axes, ndim: int) -> Axes | None:
    """Axes with the variadic name replaced by an unnamed axis for each that it covers.

    It covers what the other names leave; of two such nobody can tell.
    """
    at = next(at for at, name in enumerate(axes) if is_variadic(name))
    covered = ndim - len(axes) + 1
    if covered < 0 or any(map(is_variadic, axes[at + 1 :])):
        return None
    return (*axes[:at], *(None,) * covered, *axes[at + 1 :])


# --- how many axes are in front ------------------------------------------------------


@lru_cache(maxsize=1024)
def _depend_on_place(axes: Axes | None) -> bool:
    return axes is not None and any(map(is_variadic, axes))


def _own_lead(kind: _Kind) -> int | None:
    """How many axes are in front, if the array itself tells."""
    axes, shape = kind
    if axes is None or _depend_on_place(axes):
        return None
    return len(shape) - len(axes) if len(shape) >= len(axes) else None


def _least_leads(
    seen: View, kinds: Iterable[_Kind | None]
) -> Mapping[tuple[str, ...], int]:
    """For each place on the way to an array that tells, how many axes all have there.

    Whatever stacks a module stacks all that is in it, so the number grows inwards.
    """
    least: dict[tuple[str, ...], int] = {}
    for entry, kind in zip(seen.layout.entries, kinds, strict=True):
        lead = None if kind is None else _own_lead(kind)
        if lead is not None:
            steps = segments(entry.path)
            for place in (steps[:end] for end in range(len(steps))):
                least[place] = min(lead, least.get(place, lead))
    return least


def _nearest(least: Mapping[tuple[str, ...], int], path: str) -> int:
    steps = segments(path)
    places = (steps[:end] for end in reversed(range(len(steps))))
    return next(least[place] for place in places if place in least)


def _without_factored(seen: View, kinds: list[_Kind | None]) -> list[_Kind | None]:
    """The same without names for factored moments, and the placeholders beside them.

    Rows and columns never have the axes of their parameter: which one is gone depends on
    sizes, and without factoring they are placeholders. Either may be stacked.
    """
    at = seen.layout.paths
    bare = list(kinds)
    for path, row in at.items():
        found = _FACTORED.fullmatch(path)
        if found is None:
            continue
        start, end = found[1], found[2] or ""
        whole, column = at.get(f"{start}v{end}"), at.get(f"{start}v_col{end}")
        if whole is None or column is None:
            continue
        if _holds_place(kinds[row]) and _holds_place(kinds[column]):
            nameless = (row, column)
        elif _holds_place(kinds[whole]):
            nameless = (whole, row, column)
        else:
            continue
        for place in nameless:
            kind = kinds[place]
            bare[place] = kind and (None, kind[1])
    return bare


def _holds_place(kind: _Kind | None) -> bool:
    return kind is not None and kind[1][-1:] == _PLACEHOLDER
