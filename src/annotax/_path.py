"""Paths: where a leaf stands, as text, and patterns over that text.

Attributes and sequence indices are joined by dots (`layers.0.weight`). A dictionary
key that is a plain identifier stands bare; any other stands as its repr in brackets,
attached to what comes before (`table['a.b'].w`).
"""

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from ._errors import SelectionError, explain_error

_SEPARATOR = "\0"  # stands in no segment: repr escapes it, attributes cannot hold it


def steps_of(keys: Sequence[Any]) -> list[str]:
    """The steps from one node to its children, no two of them the same.

    Keys that differ may have the same repr: the later ones are numbered (`[Key#2]`).
    """
    steps = [segment(key) for key in keys]
    if len(set(steps)) == len(steps):
        return steps
    taken: set[str] = set()
    for at, step in enumerate(steps):
        body, end = (step[:-1], "]") if step.endswith("]") else (step, "")
        count = 1
        while steps[at] in taken:
            count += 1
            steps[at] = f"{body}#{count}{end}"
        taken.add(steps[at])
    return steps


def segment(key: Any) -> str:
    """One step of a key path, as JAX names it, in the text of a path."""
    if isinstance(key, SequenceKey):
        return str(key.idx)
    if isinstance(key, FlattenedIndexKey):
        return str(key.key)
    name = key.name if isinstance(key, GetAttrKey) else key
    name = name.key if isinstance(name, DictKey) else name
    if type(name) is str and name.isidentifier():
        return name
    try:
        shown = repr(name)
    except Exception:  # somebody else's; `steps_of` numbers what looks the same
        shown = f"<{type(name).__name__}>"
    text = f"[{shown}]"
    # A repr that does not close its own brackets and quotes would run into what follows.
    return text if _bracket_end(text, 0) == len(text) else f"[{shown!r}]"


def join(prefix: str, step: str) -> str:
    """The path that leads one step (or one path) further than `prefix`."""
    if not prefix or not step:
        return prefix or step
    return f"{prefix}{step}" if step.startswith("[") else f"{prefix}.{step}"


def join_all(steps: Iterable[str]) -> str:
    """The path of some steps: what `segments` takes apart."""
    return functools.reduce(join, steps, "")


@functools.lru_cache(maxsize=65536)
def segments(path: str) -> tuple[str, ...]:
    """The steps of a path: `segments("a.0['x.y'].w")` is `("a", "0", "['x.y']", "w")`."""
    if "[" not in path:  # nearly every path, and ten times as fast
        plain = path.split(".")
        return tuple(plain if plain[-1] else plain[:-1])
    steps: list[str] = []
    start = 0
    while start < len(path):
        if path[start] == "[":
            closed = _bracket_end(path, start)
            end = closed if closed > 0 else len(path)
        else:
            stops = [at for at in (path.find(".", start), path.find("[", start)) if at >= 0]
            end = min(stops, default=len(path))
        steps.append(path[start:end])
        start = end + 1 if path[end : end + 1] == "." else end
    return tuple(steps)


def _bracket_end(path: str, start: int) -> int:
    """The index behind the bracket that opens at `start`, or -1 if it stays open.

    Quotes may hold brackets.
    """
    depth, quote, at = 0, "", start
    while at < len(path):
        char = path[at]
        if quote:
            if char == "\\":
                at += 1
            elif char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        else:
            depth += (char == "[") - (char == "]")
            if depth == 0:
                return at + 1
        at += 1
    return -1


@functools.lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression over steps; match with `matches`.

    `*` is one step or, within a step, any characters; `**` is any number of steps,
    none included. Each is a group of the expression.

    **Raises:** `SelectionError` for an empty pattern or step, an open bracket, or `**`
    that is only part of a step.
    """
    parts = segments(pattern)
    joined = join_all(parts)
    if not parts or joined != pattern or not all(map(_is_step, parts)):
        raise SelectionError(
            explain_error(
                f"by_path({pattern!r})",
                "the pattern is malformed",
                expected="steps joined by dots; '*' within a step, '**' for any number "
                "of steps, ['...'] for dictionary keys that are no identifiers",
                fix="for instance 'encoder.**.weight', 'layers.*.bias', \"table['a.b']\"",
            )
        )
    text = ""
    for part in parts:
        if part == "**":
            text += f"((?:[^{_SEPARATOR}]*{_SEPARATOR})*)"
        else:
            inner = f"([^{_SEPARATOR}]*)".join(map(re.escape, part.split("*")))
            text += inner + _SEPARATOR
    return re.compile(text)


def _is_step(part: str) -> bool:
    """Whether a part of a pattern is one step: a whole bracket, or none and `**` alone."""
    if _SEPARATOR in part:
        return False
    if part.startswith("["):
        return _bracket_end(part, 0) == len(part)
    return part == "**" or not ("**" in part or "]" in part or part == "")


def matches(pattern: re.Pattern[str], path: str) -> bool:
    """Whether the whole of a path fits a compiled pattern."""
    return pattern.fullmatch(_terminated(segments(path))) is not None


def begins(pattern: re.Pattern[str], path: str) -> bool:
    """Whether the first steps of a path, or all of them, fit a compiled pattern."""
    return pattern.match(_terminated(segments(path))) is not None


def moved(pattern: re.Pattern[str], place: str, path: str) -> str:
    """A path whose first steps fit a pattern, with these steps at another place.

    `*` and `**` in `place` are, in order, what they stood for in the pattern.

    **Raises:** `ValueError` if the first steps do not fit.
    """
    steps = _terminated(segments(path))
    found = pattern.match(steps)
    if found is None:
        raise ValueError(path)
    groups = iter(found.groups())
    text = ""
    for part in segments(place):
        if part == "**":
            text += next(groups)
        else:
            pieces = part.split("*")
            text += pieces[0] + "".join(next(groups) + piece for piece in pieces[1:])
            text += _SEPARATOR
    parts = (text + steps[found.end() :]).split(_SEPARATOR)[:-1]
    return join_all(parts)


def _terminated(steps: Iterable[str]) -> str:
    return "".join(step + _SEPARATOR for step in steps)
