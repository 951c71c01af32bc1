"""What is known of the fields of any class: declared, registered, or neither.

Stands apart from `_resolve`, which makes classes of ours: this file only asks.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ._compat import own_annotations
from ._errors import AnnotationError, explain_error
from ._field import (
    METADATA_KEY,
    FieldOptions,
    FieldSpec,
    Origin,
    agreed_role,
    is_hyper,
    options_of,
)
from ._hint import Hint, read_hint
from ._registry import registry
from ._role import Role
from ._scope import class_scope, module_scope


def field_specs(cls: type) -> tuple[FieldSpec, ...]:
    """What is known of each dataclass field of `cls`, in the order of its fields.

    **Raises:** `AnnotationError` if a plain `equinox.Module` annotates roles and nobody
    registered it: they would have no effect.
    """
    specs = registry.field_specs.get(cls)
    if specs is None:
        specs = tuple(_effective_spec(cls, f) for f in dataclasses.fields(cls))
        registry.field_specs[cls] = specs
    return specs


def _effective_spec(cls: type, f: "dataclasses.Field[Any]") -> FieldSpec:
    owner = _declaring_class(cls, f.name)
    declaration = registry.declarations.get(owner)
    if declaration is not None and f.name in declaration.specs:
        spec, converter = declaration.specs[f.name], f.metadata.get("converter")
        if spec.converter is converter:
            return spec
        return dataclasses.replace(spec, converter=converter)
    options = _registered_options(cls, owner, f.name)
    hint = _foreign_hint(owner, f, refuse_roles=options is None)
    if options is None:
        return make_spec(owner, f.name, hint, FieldOptions(), None, "undeclared", f)
    return make_spec(owner, f.name, hint, options, options.role, "registered", f)


def _declaring_class(cls: type, name: str) -> type:
    """The class whose annotation made the field: the nearest dataclass that has one."""
    for base in cls.__mro__:
        if "__dataclass_fields__" in base.__dict__ and name in own_annotations(base):
            return base
    return cls


def _registered_options(cls: type, owner: type, name: str) -> FieldOptions | None:
    """What the registration nearest to `cls` says of a field declared by `owner`."""
    for base in cls.__mro__:
        options = registry.registrations.get(base, {})
        if name in options:
            return options[name]
        if base is owner:
            return None
    return None


def _foreign_hint(owner: type, f: "dataclasses.Field[Any]", *, refuse_roles: bool) -> Hint:
    try:
        hint = read_hint(f.type, module_scope(owner))
    except AnnotationError:  # a string that is no annotation: none of our business here
        return Hint(str(f.type), str(f.type))
    written = hint.roles or ((options_of(f).role,) if options_of(f).role else ())
    if refuse_roles and written:
        raise AnnotationError(
            explain_error(
                f"{owner.__name__}.{f.name}",
                "a role in a class that annotax does not know",
                expected="annotax.Module as a base, or @annotax.register on the class",
                found=f"{hint.text!r} in a plain equinox.Module",
                fix=f"class {owner.__name__}(annotax.Module)",
            )
        )
    return hint


def registered_annotations(cls: type) -> dict[str, FieldOptions]:
    """What the body of a class that is not ours says: its roles and `field` options."""
    annotations = own_annotations(cls)
    scope = class_scope(cls, annotations)
    found: dict[str, FieldOptions] = {}
    for f in dataclasses.fields(cls):
        if f.name in annotations:
            hint = read_hint(annotations[f.name], scope)
            options = options_of(f)
            role = agreed_role(f"{cls.__name__}.{f.name}", hint.roles, options.role, hint)
            if role is not None or options != FieldOptions():
                found[f.name] = dataclasses.replace(options, role=role)
    return found


def make_spec(  # noqa: PLR0917 -- the steps of reading a field, in their order
    cls: type,
    name: str,
    hint: Hint,
    options: FieldOptions,
    role: Role | None,
    origin: Origin,
    value: Any,
) -> FieldSpec:
    is_field = isinstance(value, dataclasses.Field)
    metadata: Mapping[str, Any] = value.metadata if is_field else {}
    reserved = (METADATA_KEY, "static", "converter")
    return FieldSpec(
        name=name,
        declared_by=cls,
        role=role,
        origin="undeclared" if role is None else origin,
        hint=hint.type,
        written=hint.written,
        static=is_hyper(role)
        if origin == "declared" and role
        else metadata.get("static", False),
        axes=hint.axes if options.axes is None else options.axes,
        tags=options.tags,
        doc=options.doc,
        metadata=MappingProxyType({k: v for k, v in metadata.items() if k not in reserved}),
        persistent=options.persistent,
        converter=metadata.get("converter"),
    )
