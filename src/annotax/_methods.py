"""Checks around the methods of a class that is made in mode `full`.

Inside a method the sizes that its instance's fields have are bound, so that `in_features`
means the size of this layer. Everything else is as for fields: the same checks, the same
messages. What a method is for others stays: its name, signature and documentation, and
Equinox makes the PyTree of a bound method from it as from any other.
"""

import inspect
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache, wraps
from typing import Any, ForwardRef, Literal, cast, get_args, get_origin

import jax
import jaxtyping

from ._arguments import method_checks
from ._check import bound_sizes
from ._compat import ARRAY_TYPES, own_annotations
from ._dims import Sizes
from ._inside import new_context, tell_jaxtyping
from ._mode import current_mode
from ._registry import registry
from ._scope import class_scope
from ._source import names_in

_PLAIN = (bool, int, float, complex, str, tuple, list, dict, type(None))
_tree_leaves: Any = jax.tree_util.tree_leaves

_NEVER = frozenset(
    {"__init__", "__new__", "__init_subclass__", "__class_getitem__", "__check_init__"}
    | {"__post_init__", "__getattr__", "__getattribute__"}
)
_SUSPENDING = (
    inspect.iscoroutinefunction,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
)


def instrument(cls: type) -> None:
    """Put checks around the annotated methods and properties in the body of a class."""
    fields = set(own_annotations(cls))
    for base in cls.__mro__[1:]:
        fields.update(getattr(base, "__dataclass_fields__", ()))
    for name, value in dict(vars(cls)).items():
        if name in _NEVER or name in fields:  # a function there is a value, no method
            continue
        checked = _instrumented(cls, value)
        if checked is not value:
            setattr(cls, name, checked)


def _instrumented(cls: type, value: Any) -> Any:
    """What stands in a class body, with checks if it is something to check."""
    if isinstance(value, types.FunctionType):
        return _checked(cls, value, _Kind.INSTANCE)
    if isinstance(value, property):
        function, wrap, kind = value.fget, value.getter, _Kind.INSTANCE
    elif isinstance(value, classmethod):
        function, wrap, kind = cast(Any, value).__func__, classmethod, _Kind.CLASS
    elif isinstance(value, staticmethod):
        function, wrap, kind = cast(Any, value).__func__, staticmethod, _Kind.STATIC
    else:
        return value
    if not isinstance(function, types.FunctionType):
        return cast(Any, value)
    checked = _checked(cls, function, kind)
    return cast(Any, value) if checked is function else cast(Any, wrap)(checked)


class _Kind(Enum):
    """What the first argument of a function in a class is."""

    INSTANCE = "instance"
    CLASS = "class"
    STATIC = "static"


def _checked(cls: type, function: Any, kind: _Kind) -> Any:
    """The function with checks around it, or the function if there is nothing to check."""
    annotations = inspect.get_annotations(function)
    if not annotations or not _is_checkable(function):
        return function
    skipped = 0 if kind is _Kind.STATIC else 1
    known = _known_names(cls, annotations)
    checks = cache(lambda: method_checks(cls, function, skipped, known))

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if skipped and not args:
            return function(*args, **kwargs)  # which refuses
        owner: Any = cls
        if kind is not _Kind.STATIC:
            owner = args[0] if kind is _Kind.CLASS else cast(Any, type(args[0]))
        if (
            current_mode(registry.mode(owner)) != "full"
            or not issubclass(owner, cls)
            or hasattr(checked, "__no_type_check__")  # set on a class that is finished
        ):
            return function(*args, **kwargs)
        sizes = bound_sizes(args[0]) if kind is _Kind.INSTANCE else Sizes()
        method = checks()
        method.give_arguments(args, kwargs, sizes)
        method.check_arguments(args[skipped:], kwargs, sizes)
        with new_context():
            tell_jaxtyping(sizes)
            result = function(*args, **kwargs)
        if not (kind is _Kind.INSTANCE and _is_stand_in(result, args[0])):
            method.check_result(result, sizes)
        return result

    return checked


def _is_stand_in(result: Any, module: object) -> bool:
    """Whether a method hands out a leaf of a tree that only has the shape of a model.

    `equinox.tree_at` and `at` ask with marks in place of arrays where a leaf is.
    """
    if isinstance(result, ARRAY_TYPES) or type(result) in _PLAIN:
        return False
    return any(result is leaf for leaf in _tree_leaves(module))


def _is_checkable(function: Any) -> bool:
    """Whether what is annotated is what goes in and comes out.

    Not of what runs later, nor under a decorator that may do anything with it.
    """
    while hasattr(function, "__wrapped__"):
        if not _hands_on(function):
            return False
        function = function.__wrapped__
    return not hasattr(function, "__no_type_check__") and not any(
        suspends(function) for suspends in _SUSPENDING
    )


_HANDING_ON = {
    "contextlib",
    cast(Any, jaxtyping).jaxtyped.__module__,
    type(cast(Any, jax).named_scope("annotax")).__module__,
}


def _hands_on(wrapper: Any) -> bool:
    """Whether a decorated function takes and returns what the function in it does.

    `functools.wraps` copies annotations whatever the decorator does: those of a function
    under `jax.vmap` are of one example. Nobody says which decorators change nothing, so
    those that many use are known by the module of their code: jaxtyping, named scopes and
    other context managers; and beartype by the name that it gives its code.
    """
    if not isinstance(wrapper, types.FunctionType):
        return False
    module, file = wrapper.__globals__.get("__name__"), wrapper.__code__.co_filename
    return module in _HANDING_ON or file.startswith("<@beartype(")


def _known_names(cls: type, annotations: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the names in string annotations stand for now: locals will be gone later."""
    texts = [text for hint in annotations.values() for text in _strings_in(hint)]
    if not texts:
        return {}
    scope = class_scope(cls, {})
    names = {name for text in texts for name in names_in(text)}
    return {name: scope[name] for name in names if name in scope}


def _strings_in(hint: Any) -> Iterator[str]:
    if isinstance(hint, str | ForwardRef):
        yield hint if isinstance(hint, str) else hint.__forward_arg__
    elif get_origin(hint) is not Literal:
        for argument in get_args(hint):
            yield from _strings_in(argument)
