"""Axis names: what the dimensions of a jaxtyping array type are called."""

from collections.abc import Iterable
from functools import lru_cache

Axes = tuple[str | None, ...]
"""One name a dimension, `None` where nothing names it."""


def common_axes(dims: Iterable[str]) -> Axes | None:
    """The axis names on which all array types of a hint agree, else `None`."""
    candidates = {axis_names(text) for text in dims}
    return candidates.pop() if len(candidates) == 1 else None


@lru_cache(maxsize=1024)
def axis_names(text: str) -> Axes:
    """The axis names in the dimensions of a jaxtyping type, one entry a dimension.

    `"batch #heads d=3 _ 4 n+1"` gives `("batch", "heads", "d", None, None, "n+1")`.
    A variadic dimension keeps its star (`"*batch"`, or `"..."`): how many axes it
    covers is known only for an array.
    """
    return tuple(_axis_name(token) for token in text.split())


def is_variadic(name: str | None) -> bool:
    """Whether an axis name covers any number of axes: `*batch`, `...`."""
    return name is not None and (name == "..." or name.startswith("*"))


def _axis_name(token: str) -> str | None:
    if token == "...":
        return token
    name, _, _ = token.partition("=")
    star = "*" if "*" in name[:3] else ""
    name = name.lstrip("#*?")
    if name.startswith("_"):
        name = name.lstrip("_")
        return star + name if name else ("..." if star else None)
    return None if name.lstrip("-").isdigit() else star + name
