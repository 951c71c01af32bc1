"""What is left to beartype: hints that are not walked here, and its own validators.

It is imported when the first of them is met, for that takes 80 ms.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from ._array_check import Check
from ._compat import SharedNode
from ._dims import Sizes, UnboundError
from ._hint_text import hint_text
from ._mismatch import OK, Mismatch, found_text, wrong_type
from ._text import shorten


def judged(hint: Any, unchecked: list[str]) -> Check | None:
    """The judgement of beartype, `None` if even it cannot judge: why not is noted."""
    from beartype import door

    try:
        door.is_bearable(None, hint)
    except Exception as error:  # beartype's, or a class's whose isinstance refuses
        unchecked.append(_reason(hint, error))
        return None

    def check(value: Any, sizes: Sizes) -> Sequence[Mismatch]:
        try:
            fits = door.is_bearable(value, hint)
        except Exception as error:  # a string, met only with this value
            raise UnboundError(_reason(hint, error)) from error
        return OK if fits else [wrong_type(value)]

    return check


def validated(validator: Any) -> Check:
    """The judgement of one of beartype's validators, which may ask for values."""
    from beartype import door

    hint: Any = Annotated[object, validator]

    def text() -> str:
        return shorten(hint_text(validator), 100)

    def check(value: Any, sizes: Sizes) -> Sequence[Mismatch]:
        if isinstance(value, SharedNode):  # it is checked where it is
            return OK
        try:
            fits = door.is_bearable(value, hint)
        except Exception as error:  # of a traced array, say, nobody knows the values
            kind = type(error.__cause__ or error).__name__
            raise UnboundError(f"{text()} cannot be computed ({kind})") from error
        return OK if fits else [Mismatch(found_text(value), expected=text())]

    return check


def _reason(hint: Any, error: Exception) -> str:
    """Why nothing can judge a hint, in a line."""
    text = str(error).partition("\n")[0].removeprefix("Is_bearable() ")
    return f"{hint_text(hint)}: {text}"
