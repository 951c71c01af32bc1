"""What may stand around a type: a special form, as `AbstractVar`, or validators."""

import dataclasses
from typing import Any, ClassVar, Literal, get_args, get_origin

import equinox as eqx

Kind = Literal["field", "abstract", "abstract class", "class", "init"]
"""What an annotation makes: a field, or what its form says instead."""

FORMS: dict[Any, Kind] = {
    eqx.AbstractVar: "abstract",
    eqx.AbstractClassVar: "abstract class",
    ClassVar: "class",
    dataclasses.InitVar: "init",
}


def peel(value: Any) -> tuple[Kind, Any]:
    """The special form around a whole annotation, and what is inside it."""
    if is_init_var(value):
        return "init", value.type
    origin = get_origin(value)
    if is_form(origin):
        return FORMS[origin], get_args(value)[0]
    return FORMS[value] if is_form(value) else "field", value


def is_init_var(value: object) -> bool:
    """Whether this is an `InitVar` of some type: `get_origin` knows nothing of these."""
    return isinstance(value, dataclasses.InitVar)


def is_form(value: object) -> bool:
    """Whether this is one of the forms; it may be any object, and have no hash."""
    return any(value is form for form in FORMS)


def validators(hint: Any) -> list[Any]:
    """What an `Annotated` type has for beartype to judge: `beartype.vale.Is[...]`.

    Told by where its class is from, so that beartype need not be imported.
    """
    return [m for m in hint.__metadata__ if type(m).__module__.startswith("beartype.vale")]
