"""An annotation as text, the way its author would write it.

Messages and reports show annotations. The repr of an object names modules that nobody
wrote, and shows a role as the marker that it is inside.
"""

import collections.abc
import dataclasses
import re
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

from ._role import Role, role_text

_CALLABLE: Any = collections.abc.Callable  # its arguments are a list
_LIBRARIES = re.compile(
    r"\b(typing|collections\.abc|beartype\.vale|jaxtyping|jax\.jaxlib\._jax|jaxlib\._jax)\."
)


def hint_text(annotation: Any) -> str:
    """An annotation as a reader would write it; falls back on its repr."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(cast(object, annotation), dataclasses.InitVar):  # no form to `get_origin`
        origin, arguments = dataclasses.InitVar, (annotation.type,)
    if annotation is None or annotation is type(None):
        return "None"
    if origin is None and isinstance(annotation, type):
        return _LIBRARIES.sub("", getattr(annotation, "__name__", repr(annotation)))
    if origin is Annotated:
        text = hint_text(arguments[0])
        for role in [mark for mark in arguments[1:] if isinstance(mark, Role)]:
            text = f"{role_text(role)}[{text}]"
        return text
    if origin in (Union, UnionType):
        return " | ".join(map(hint_text, arguments))
    if arguments and origin is not _CALLABLE:
        return f"{hint_text(origin)}[{', '.join(map(hint_text, arguments))}]"
    return "..." if annotation is ... else _LIBRARIES.sub("", repr(annotation))
