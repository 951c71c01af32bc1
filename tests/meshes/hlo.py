"""What a compiled program does, read from its text: its collectives and its arrays.

Stands apart because the text of XLA differs between versions in how it is set.
"""

import math
import re
from typing import NamedTuple

_COLLECTIVES = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
_LINE = re.compile(
    rf"^\s*(?:ROOT )?%?\S+ = (.*?) ({_COLLECTIVES})(?:-start)?\(", re.MULTILINE
)
_ARRAY = re.compile(r"\b(?:pred|[a-z]+\d+)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One collective and the shapes of what it gives, on one device."""

    kind: str
    shapes: tuple[tuple[int, ...], ...]


def shapes_in(text):
    return [
        tuple(map(int, dims.split(","))) if dims else () for dims in _ARRAY.findall(text)
    ]


def collectives(compiled):
    found = _LINE.findall(compiled.as_text())
    return [Collective(kind, tuple(shapes_in(result))) for result, kind in found]


def results(compiled, kind):
    """The shapes of all that collectives of a kind give."""
    return [
        shape
        for found in collectives(compiled)
        if found.kind == kind
        for shape in found.shapes
    ]


def kinds(compiled):
    return {found.kind for found in collectives(compiled)}


def largest(compiled):
    """The number of elements of the largest array in the program of one device."""
    return max(math.prod(shape) for shape in shapes_in(compiled.as_text()))
