"""Names in a checkpoint as paths of a model that calls the same things otherwise."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from ._errors import CheckpointError, describe, did_you_mean, explain_error, rows
from ._path import begins, compile_pattern, moved

Rename = Mapping[str, str | None] | Callable[[str], str | None] | None
"""From names in the file to paths of the model; `None` leaves something out."""

_WILDCARD = re.compile(r"\*\*?")


def renamed(where: str, names: Iterable[str], rename: Any) -> dict[str, str]:
    """The names in a file by the paths that they have in the model.

    **Raises:** `CheckpointError`, with everything that is wrong: a rule that no name fits,
    or that cannot be followed, and two names for one path.
    """
    names = tuple(names)
    if rename is None:
        return {name: name for name in names}
    if isinstance(rename, Mapping):
        places = _by_rules(where, names, cast("Mapping[Any, Any]", rename))
    elif callable(rename):
        places = {name: rename(name) for name in names}
    else:
        raise CheckpointError(_message(where, [f"{describe(rename)} is no renaming"]))
    problems: list[str] = []
    found: dict[str, str] = {}
    for name, path in places.items():
        if path is not None and not isinstance(path, str):
            problems.append(f"{name}: the new name is {describe(path)}")
        elif path is not None and path in found:
            problems.append(f"{name} and {found[path]}: both become {path}")
        elif path is not None:
            found[path] = name
    if problems:
        raise CheckpointError(_message(where, problems))
    return found


def _by_rules(
    where: str, names: tuple[str, ...], rename: Mapping[Any, Any]
) -> dict[str, Any]:
    """The new name of each name, by the first rule whose pattern fits its first steps."""
    problems = [text for old, new in rename.items() for text in _malformed(old, new)]
    if problems:
        raise CheckpointError(_message(where, problems))
    rules = {old: compile_pattern(old) for old in rename}
    fitting = {
        name: [old for old, pattern in rules.items() if begins(pattern, name)]
        for name in names
    }
    used = {old for olds in fitting.values() for old in olds}
    unused = [
        f"{old}: nothing in the file; {did_you_mean(old, names)}"
        for old in rules
        if old not in used
    ]
    if unused:
        raise CheckpointError(_message(where, unused))
    places: dict[str, Any] = dict(zip(names, names, strict=True))
    for name, olds in fitting.items():
        if olds:  # the first rule that fits
            new = rename[olds[0]]
            places[name] = None if new is None else moved(rules[olds[0]], new, name)
    return places


def _malformed(old: Any, new: Any) -> list[str]:
    if not isinstance(old, str) or not (new is None or isinstance(new, str)):
        return [f"{describe(old)} to {describe(new)}: names are strings"]
    if new is not None and len(_WILDCARD.findall(new)) > len(_WILDCARD.findall(old)):
        return [f"{old!r} to {new!r}: more wildcards than there are to take from"]
    return []


def _message(where: str, problems: list[str]) -> str:
    return explain_error(
        where,
        "rename does not fit the file",
        expected="names in the file, or the steps that they begin with, to paths of the "
        "model, or None; or a function of a name",
        found=rows(problems),
        fix='rename={"encoder.fc1": "encoder.layers.0", "blocks.*.lin": "layers.*.linear"}',
    )
