"""The exceptions of annotax, and the one shape in which every message is written.

This file stands at the bottom so that any other file can raise: a message names the
place (`Class.field` or a path), what was expected, what was found and how to mend it.
"""

import inspect
import os
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import equinox as eqx


class AnnotaxError(Exception):
    """The root of all errors raised by annotax."""


class AnnotationError(AnnotaxError, TypeError):
    """An annotation or a registration says something that cannot be meant.

    It comes when a class is made, or at its first instance.
    """

    field: str = ""
    problem: str = ""
    fix: str
    """What `audit` tells of it, where a field of a finished class is meant."""

    def __init__(self, text: str, *, fix: str = "") -> None:
        super().__init__(text)
        self.fix = fix

    @classmethod
    def of_field(
        cls, owner: type, field: str, problem: str, *, expected: str, found: str, fix: str
    ) -> "AnnotationError":
        """The error about a field, its facts kept beside its text."""
        where = f"{owner.__name__}.{field}"
        text = explain_error(where, problem, expected=expected, found=found, fix=fix)
        error = cls(text, fix=fix)
        error.field, error.problem = field, problem
        return error


class AnnotationWarning(UserWarning):
    """An annotation cannot be read at run time, or nothing can check what it says."""


class HyperError(AnnotaxError, TypeError, ValueError):
    """A value that cannot be static was given to a `Hyper` field.

    It is a `TypeError` and a `ValueError`, because both are what is wrong with an array
    or a NaN in a place where JAX compares and hashes values.
    """


class CheckError(AnnotaxError, TypeError, ValueError):
    """Values do not fit the annotations of the fields or arguments they were given to.

    It is a `TypeError` and a `ValueError`, because a dtype or a class may be wrong as well
    as a shape.
    """


class SelectionError(AnnotaxError, ValueError):
    """A selection is malformed, or selects something other than what was meant."""


class StructureError(AnnotaxError, ValueError):
    """Leaves do not fit the model they are put into, or a tree cannot be followed."""


class FieldError(AnnotaxError, TypeError):
    """A name or a path leads to no field, or two lead to the same."""


class TargetError(AnnotaxError, TypeError, ValueError):
    """What was given to be looked at is no package, module or class of modules."""


class GradientError(AnnotaxError, ValueError):
    """Gradients flow where they must not, or do not flow where they must.

    Also raised where `gradient_report` cannot be asked.
    """


class FindingError(AnnotaxError, ValueError):
    """An audit found something wrong, or could not look at all there is."""


class ShardingError(AnnotaxError, ValueError):
    """Arrays cannot be laid out over a mesh as the rules say."""


class CheckpointError(AnnotaxError, ValueError):
    """A checkpoint cannot be read, or does not fit the model it is loaded into."""


class CheckpointWarning(UserWarning):
    """A checkpoint was loaded, and not all in it and in the model is the same."""


def explain_error(
    where: str,
    problem: str,
    *,
    expected: str | None = None,
    found: str | None = None,
    fix: str | None = None,
) -> str:
    """The text of a message: one line that says what is wrong, then the details.

    **Arguments:** `where` is `Class.field`, a path, or the name of a function;
    `problem` completes the first line; the others become lines of their own.

    **Returns:** the text, without a newline at its end.
    """
    lines = [f"{where}: {problem}"]
    details = {"expected": expected, "found": found, "fix": fix}
    for label, text in details.items():
        if text is not None:
            body = "\n".join(_wrap(line) for line in text.split("\n"))
            lines.append(f"  {label + ':':<9} {body}".replace("\n", "\n" + " " * 12))
    return "\n".join(lines)


def _wrap(line: str) -> str:
    return textwrap.fill(line, 76, break_long_words=False, break_on_hyphens=False)


def describe(value: Any) -> str:
    """What a value is, without its contents: `an int`, `an array float32[2,3]`."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        return f"an array {dtype}[{','.join(map(str, cast(Any, shape)))}]"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else with_article(type(value).__name__)


def with_article(name: str) -> str:
    """A name behind its article: `an Identity`, `a Linear`."""
    return f"{'an' if name[:1] in 'aeiouAEIOU' else 'a'} {name}"


def listing(names: Iterable[object], limit: int = 12) -> str:
    """Names joined by commas, the tail of a long list counted instead of shown."""
    texts = [str(name) for name in names]
    if len(texts) <= limit:
        return ", ".join(texts) or "nothing"
    return ", ".join(texts[:limit]) + f" and {len(texts) - limit} more"


def rows(found: Sequence[str], limit: int = 20) -> str:
    """Problems a line each, the tail of a long list counted instead of shown."""
    more = [f"and {len(found) - limit:,} more"] if len(found) > limit else []
    return "\n".join([*found[:limit], *more])


def unknown_fields(owner: str, unknown: Sequence[str], known: Sequence[str]) -> str:
    """The message for names that are no fields of a class, all at once."""
    return explain_error(
        f"{owner}.{', '.join(unknown)}",
        "the class has no such field",
        fix="\n".join(did_you_mean(name, known) for name in unknown),
    )


def did_you_mean(name: str, known: Sequence[str], shown: Callable[[str], str] = str) -> str:
    """A hint that names what comes nearest to `name`, or lists what there is."""
    near = nearest(name, known)
    if near:
        return f"did you mean {' or '.join(repr(shown(text)) for text in near)}?"
    return f"there is: {listing(map(shown, known))}"


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """The up to three that look most like `name`, if any does."""
    from difflib import get_close_matches  # only messages need it: a millisecond of import

    return get_close_matches(name, known, n=3, cutoff=0.6)


_PASSED = (
    *(f"{os.path.dirname(file)}{os.sep}" for file in (__file__, inspect.getfile(eqx))),
    *("<string>", "<generated", "<annotax"),
)
"""Where code lies that is not the user's: annotax, Equinox, and what they generate."""


def level_of_user() -> int:
    """The `stacklevel` that makes the caller's warning point at the code of the user.

    How many frames lie between depends on Python: newer ones have none for what is
    written in brackets.
    """
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_code.co_filename.startswith(_PASSED):
        frame, level = frame.f_back, level + 1
    return level
