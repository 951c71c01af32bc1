"""How figures, values and lines look in what annotax prints.

Every report (a summary, an explanation, a difference) is a value that prints as its text
and turns into plain data for JSON; `Report` says so once.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Any, cast

import jax

from ._compat import ARRAY_TYPES


class Report:
    """What annotax has found out, as text and as plain data.

    `str()` and the prompt show the text; subclasses write it, and `to_dict`.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def to_dict(self) -> dict[str, Any]:
        """What the text says, as data that `json.dumps` takes."""
        raise NotImplementedError


def count_text(count: int) -> str:
    """A count in at most seven characters: exact below 100,000, then three digits."""
    if count < 100_000:
        return f"{count:,}"
    units = (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3))
    unit, size = next(one for one in units if count >= 0.9995 * one[1])
    return f"{_three_digits(count / size)} {unit}"


def counted(count: int, noun: str) -> str:
    """A number of things: `1 leaf`, `2 leaves`, `3 classes`."""
    if count == 1:
        return f"1 {noun}"
    plural = (
        "leaves" if noun == "leaf" else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    )
    return f"{count:,} {plural}"


def bytes_text(size: int) -> str:
    """A number of bytes in at most eight characters: `999 B`, `1.50 KiB`, `2.00 GiB`."""
    if size < 1024:
        return f"{size} B"
    units = (("TiB", 1024**4), ("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024))
    unit, one = next(pair for pair in units if size >= 0.9995 * pair[1])
    return f"{_three_digits(size / one)} {unit}"


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def shorten(text: str, width: int) -> str:
    """A text in one line of at most `width` columns, its tail cut off."""
    if not text.isprintable():
        text = printable(text[: 8 * width])
    if columns(text) <= width:
        return text
    text = text[: max(width - 1, 0)]
    while columns(text) >= max(width, 1):  # characters of two columns
        text = text[:-1]
    return f"{text}…"[:width]


def shorten_front(text: str, width: int) -> str:
    """As `shorten`, with the front cut off: of a path, how one gets there."""
    if not text.isprintable():
        text = printable(text)
    if columns(text) <= width:
        return text
    text = text[len(text) - max(width - 1, 0) :]
    while columns(text) >= max(width, 1):
        text = text[1:]
    return f"…{text}"[:width]


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: Chinese characters take two."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


@lru_cache(maxsize=1024)
def _columns_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, width: int) -> str:
    """A text with blanks behind it, up to `width` columns."""
    return text + " " * (width - columns(text))


def printable(text: str) -> str:
    """A text in one line that no terminal obeys: whatever else is not shown is spelled.

    A value of somebody else's may hold colours, or move the cursor, or turn the direction
    of writing.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))


@lru_cache(maxsize=256)
def dtype_text(dtype: Any) -> str:
    """A dtype as Equinox prints it: `f32`, `bf16`, `i8`, `key<fry>`."""
    text = str(dtype)
    pairs = (("bfloat", "bf"), ("float", "f"), ("uint", "u"), ("complex", "c"))
    for long, short in (*pairs, ("int", "i")):
        if text.startswith(long):
            return short + text.removeprefix(long)
    return text


@lru_cache(maxsize=1024)
def array_text(shape: tuple[int, ...], dtype: Any) -> str:
    """What an array is, without its values: `f32[2,3]`."""
    return f"{dtype_text(dtype)}[{','.join(map(str, shape))}]"


_PLAIN = frozenset({bool, int, float, str, type(None)})


def value_text(value: Any, width: int = 60) -> str:
    """A value that is no array, in one line; an array without its values.

    Never fails: a `repr` that raises, or runs on for ever, is somebody else's.
    """
    if type(value) in _PLAIN:  # nearly all there are
        return shorten(repr(value), width)
    if isinstance(value, ARRAY_TYPES):
        return array_text(tuple(value.shape), value.dtype)
    try:
        return shorten(_described(value), width)
    except Exception as error:
        name = type(cast(object, value)).__name__
        return shorten(f"<{name}: repr raised {type(error).__name__}>", width)


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_ARRAY = re.compile(r"\b[Aa]rray\(")


def _described(value: Any) -> str:
    """The `repr` of a value; without addresses, which say nothing, and without arrays."""
    name = getattr(value, "__qualname__", None)
    if callable(value) and isinstance(name, str):
        return name
    if not _holds_arrays(value):
        text = repr(value)
        if not _ARRAY.search(text):  # not in a container: in an object that shows it
            return _ADDRESS.sub("", text)
    return f"{type(value).__name__} with arrays"


def _holds_arrays(value: Any) -> bool:
    leaves: list[Any] = jax.tree_util.tree_leaves(value)
    return any(isinstance(leaf, ARRAY_TYPES) for leaf in leaves)
