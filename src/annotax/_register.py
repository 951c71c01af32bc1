"""`register`: roles and metadata for classes that are not ours."""

import dataclasses
from typing import Any, TypeVar, cast

from ._compat import outer_frames
from ._errors import AnnotationError, FieldError, describe, explain_error, unknown_fields
from ._field import FieldOptions, is_hyper, options_of
from ._registry import Place, registry
from ._role import Role
from ._specs import registered_annotations

_Class = TypeVar("_Class", bound=type)


def register(cls: _Class, /, **fields: Any) -> _Class:
    """Say what the fields of somebody else's class are.

    Examples:
        >>> import annotax as anx, equinox as eqx, jax
        >>> class Embedding(eqx.Module):
        ...     table: jax.Array
        ...     positions: jax.Array
        >>> anx.register(
        ...     Embedding,
        ...     table=anx.Param,
        ...     positions=anx.field(role=anx.Buffer, axes=("length", "embed")),
        ... )
        <class '...Embedding'>

    As a decorator on a plain `equinox.Module` it reads the class's own annotations.
    Later calls win, field by field, and take effect at once, whatever annotax has cached;
    what JAX has compiled stays as it is. Registration makes selections right; the class
    itself stays as it is.

    **Arguments:** `cls` is a dataclass that is a PyTree; `fields` maps its field names
    to a role, an alias such as `Param`, or `field(role=..., tags=..., axes=...)`.

    **Returns:** `cls`.

    **Raises:** `FieldError` for a name that is no field; `AnnotationError` for a class
    that is no dataclass or is an annotax module, and for what is no role.
    """
    if not _has_fields(cls):
        raise AnnotationError(
            explain_error(
                "register",
                "this class has no fields to register",
                expected="an equinox.Module or another dataclass",
                found=describe(cls),
                fix="give the role to the field that holds it",
            )
        )
    original = registry.original(cls)
    if original in registry.declarations:
        raise AnnotationError(
            explain_error(
                cls.__name__,
                "an annotax module says itself what its fields are",
                found=f"register({cls.__name__}, ...)",
                fix="annotate its fields, or derive a class that annotates them anew",
            )
        )
    names = [f.name for f in dataclasses.fields(cls)]
    unknown = [name for name in fields if name not in names]
    if unknown:
        raise FieldError(unknown_fields(cls.__name__, unknown, names))
    given = {name: _options(value) for name, value in fields.items()}
    _refuse_static(original, given)
    said = {**registered_annotations(original), **given}
    registry.register(original, said, _caller())
    return cls


def _caller() -> Place | None:
    """Where the user calls `register`, for `explain` to tell."""
    for frame in outer_frames():
        if frame.f_globals.get("__name__", "").partition(".")[0] != "annotax":
            return frame.f_code.co_filename, frame.f_lineno
    return None


def _has_fields(cls: object) -> bool:
    return isinstance(cls, type) and dataclasses.is_dataclass(cls)


def _refuse_static(cls: type, given: dict[str, FieldOptions]) -> None:
    """A static field holds no arrays, whatever is said of it."""
    for f in dataclasses.fields(cls):
        role = given[f.name].role if f.name in given else None
        if f.metadata.get("static", False) and role is not None and not is_hyper(role):
            raise AnnotationError(
                explain_error(
                    f"{cls.__name__}.{f.name}",
                    f"a {role.name} cannot be static",
                    expected="Hyper, or no role",
                    found=f"register({cls.__name__}, {f.name}=...) of a static field",
                    fix=f"{f.name}=annotax.Hyper, or derive a class that annotates it anew",
                )
            )


def _options(value: Any) -> FieldOptions:
    if isinstance(value, dataclasses.Field):
        return options_of(cast("dataclasses.Field[Any]", value))
    return FieldOptions(role=Role.of(value))
