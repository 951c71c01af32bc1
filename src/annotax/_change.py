"""Changed copies of models."""

from typing import Any, TypeVar

import equinox as eqx

from ._compat import instance_dict
from ._errors import FieldError, describe, explain_error, unknown_fields
from ._specs import field_specs

_Module = TypeVar("_Module", bound=eqx.Module)


def replace(module: _Module, /, **fields: Any) -> _Module:
    """A copy of a module with some fields changed, Hypers included.

    Examples:
        >>> import annotax as anx
        >>> class Dropout(anx.Module):
        ...     rate: anx.Hyper[float]
        >>> anx.replace(Dropout(0.5), rate=0.1)
        Dropout(rate=0.1)

    Converters run on what changed, then every `__check_init__` of the class; `__init__`
    does not run. `module` itself never changes, and what is not named is shared.

    **Raises:** `FieldError` for an unknown name or if `module` is no Equinox module;
    `HyperError` for a value that cannot be static; whatever the checks raise.
    """
    if not isinstance(module, eqx.Module):  # pyright: ignore[reportUnnecessaryIsInstance] -- users without a type checker
        raise FieldError(
            explain_error(
                "replace",
                "this has no fields",
                expected="an equinox.Module",
                found=describe(module),
            )
        )
    cls = type(module)
    specs = {spec.name: spec for spec in field_specs(cls)}
    unknown = [name for name in fields if name not in specs]
    if unknown:
        raise FieldError(unknown_fields(cls.__name__, unknown, tuple(specs)))
    copy = object.__new__(cls)
    instance_dict(copy).update(instance_dict(module))
    for name, value in fields.items():
        converter = specs[name].converter
        object.__setattr__(copy, name, value if converter is None else converter(value))
    for base in cls.__mro__:
        check = base.__dict__.get("__check_init__")
        if check is not None:
            check(copy)
    return copy
