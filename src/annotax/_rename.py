"""Names in a checkpoint as paths of a model that calls the same things otherwise."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from ._errors import (
    CheckpointError,
    SelectionError,
    describe,
    did_you_mean,
    explain_error,
    rows,
)
from ._path import begins, compile_pattern, join, moved, segments
from ._text import printable

Rename = Mapping[str, str | None] | Callable[[str], str | None] | None
"""From names in the file to paths of the model; `None` leaves something out."""

_WILDCARD = re.compile(r"\*\*?")

_ANYTHING = re.compile("")
"""What the empty name stands for: the steps of any path, none of them taken away."""


def renamed(
    where: str, names: Sequence[str], told: Sequence[str], rename: Any
) -> tuple[dict[str, str], dict[str, str]]:
    """The names in a file by the paths that they have in the model.

    **Arguments:** `names` are those of arrays. `told` are the paths of settings: a mapping
    moves them along, a function is asked about arrays alone.

    **Returns:** new to old names, of arrays and of settings.

    **Raises:** `CheckpointError`, with everything that is wrong: a rule that no name fits,
    or that cannot be followed, and two arrays for one path.
    """
    if rename is None:
        return dict(zip(names, names, strict=True)), dict(zip(told, told, strict=True))
    if isinstance(rename, Mapping):
        rules = cast("Mapping[Any, Any]", rename)
        places = _by_rules(where, [*names, *told], rules)
    elif callable(rename):
        places = {name: rename(name) for name in names}
        places |= {path: path for path in told if path not in places}
    else:
        raise CheckpointError(_message(where, [f"{describe(rename)} is no renaming"]))
    problems = [
        f"{name}: the new name is {describe(places[name])}"
        for name in names
        if not isinstance(places[name], str | None)
    ]
    arrays, twice = _turned(names, places)
    if problems or twice:
        raise CheckpointError(_message(where, problems + twice))
    return arrays, _turned(told, places)[0]


def _turned(
    names: Iterable[str], places: Mapping[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """The names by their new ones, and what is wrong where two have the same."""
    found: dict[str, str] = {}
    twice: list[str] = []
    for name in names:
        path = places[name]
        if path in found:
            twice.append(f"{found[path]} and {name}: both become {path}")
        elif isinstance(path, str):
            found[path] = name
    return found, twice


# --- rules ---------------------------------------------------------------------------


def _by_rules(
    where: str, names: Sequence[str], rename: Mapping[Any, Any]
) -> dict[str, Any]:
    """The new name of each name, by the first rule whose pattern fits its first steps."""
    problems = [text for old, new in rename.items() for text in _malformed(old, new)]
    if problems:
        raise CheckpointError(_message(where, problems))
    rules = {old: compile_pattern(old) if old else _ANYTHING for old in rename}
    fitting = {
        name: [old for old, pattern in rules.items() if begins(pattern, name)]
        for name in names
    }
    used = {old for olds in fitting.values() for old in olds}
    unused = [old for old in rules if old not in used]
    if unused:
        known = _beginnings(names)
        texts = [f"{old}: not in the file; {did_you_mean(old, known)}" for old in unused]
        raise CheckpointError(_message(where, texts))
    places: dict[str, Any] = dict(zip(names, names, strict=True))
    for name, olds in fitting.items():
        if olds:  # the first rule that fits
            new = rename[olds[0]]
            places[name] = None if new is None else moved(rules[olds[0]], new, name)
    return places


def _malformed(old: Any, new: Any) -> list[str]:
    if not isinstance(old, str) or not isinstance(new, str | None):
        return [f"{describe(old)} to {describe(new)}: names are strings"]
    broken = [name for name in (old, new) if name and not _is_pattern(name)]
    if broken:
        return [f"{name!r}: no path, and no pattern of paths" for name in broken]
    if new is not None and len(_WILDCARD.findall(new)) > len(_WILDCARD.findall(old)):
        return [f"{old!r} to {new!r}: more wildcards than there are to take from"]
    return []


def _is_pattern(name: str) -> bool:
    try:
        compile_pattern(name)
    except SelectionError:
        return False
    return True


def _beginnings(names: Iterable[str]) -> list[str]:
    """The names and all that they begin with, shorter ones first."""
    found: set[str] = set()
    for name in names:
        path = ""
        for step in segments(name):
            path = join(path, step)
            found.add(path)
    return sorted(found, key=lambda path: (len(segments(path)), path))


def _message(where: str, problems: list[str]) -> str:
    return explain_error(
        where,
        "rename does not fit the file",
        expected="names in the file, or the steps that they begin with, to paths of the "
        "model, or None; or a function of a name",
        found=rows(list(map(printable, problems))),
        fix='rename={"encoder.fc1": "encoder.layers.0", "blocks.*.lin": "layers.*.linear"}',
    )
