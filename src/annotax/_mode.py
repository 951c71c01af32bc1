"""How much is checked: by the environment, for a block of code, for a class."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from ._compat import jaxtyping_config
from ._errors import CheckError, did_you_mean, explain_error

Mode = Literal["off", "fields", "full"]

MODES: tuple[Mode, ...] = ("off", "fields", "full")
_ORDER: dict[Mode, int] = {"off": 0, "fields": 1, "full": 2}
VARIABLE = "ANNOTAX_CHECK"


def as_mode(where: str, mode: Any) -> Mode:
    """The mode of that name.

    **Raises:** `CheckError` if there is none.
    """
    if mode in MODES:
        return mode
    text = mode if isinstance(mode, str) else type(mode).__name__
    raise CheckError(
        explain_error(
            where,
            "this is no mode of checking",
            expected=" or ".join(map(repr, MODES)),
            found=repr(text),
            fix=did_you_mean(text, MODES),
        )
    )


def _from_environment() -> Mode | None:
    text = os.environ.get(VARIABLE)
    return as_mode(VARIABLE, text) if text else None


_asked: ContextVar[Mode | None] = ContextVar(VARIABLE)
_outside: Mode | None = _from_environment()


def current_mode(of_class: Mode | None) -> Mode:
    """What is checked now in a class that says `of_class`, or nothing.

    A class has the last word on how much at most, and alone it decides: what was asked
    for around it can only lower that. One that was made in mode `full` says so.
    """
    if jaxtyping_config.jaxtyping_disable:
        return "off"
    asked = _asked.get(_outside)
    if of_class is None or asked is None:
        return asked or of_class or "fields"
    return asked if _ORDER[asked] < _ORDER[of_class] else of_class


@contextmanager
def checking(mode: Mode) -> Generator[None]:
    """Check more or less inside a `with` block, in this thread or task alone.

    Examples:
        >>> import annotax as anx, jax.numpy as jnp
        >>> from jaxtyping import Array, Float
        >>> class Scale(anx.Module):
        ...     weight: anx.Param[Float[Array, " d"]]
        >>> with anx.checking("off"):
        ...     in_axes = Scale(0)      # a tree for `jax.vmap`, no model

    **Arguments:** `mode` is `"off"` for nothing; `"fields"`, the default, for the fields
    that have a role, when an instance is made; `"full"` for all fields, and for the methods
    of classes that are made inside the block. They stay so: later blocks can only lower
    how much of such a class is checked.

    The mode outside of any block is that of the environment variable `ANNOTAX_CHECK`. A
    class may say `class Layer(annotax.Module, check="off")`: how much is checked of it at
    most, and what holds where nothing else is said. jaxtyping's own switch,
    `JAXTYPING_DISABLE`, turns these checks off, too.

    **Raises:** `CheckError` if there is no such mode.
    """
    token = _asked.set(as_mode("checking", mode))
    try:
        yield
    finally:
        _asked.reset(token)
