"""What is known of the fields of any class: declared, registered, or neither.

Stands apart from `_resolve`, which makes classes of ours: this file only asks.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ._compat import own_annotations
from ._errors import AnnotationError, explain_error
from ._field import (
    METADATA_KEY,
    NO_OPTIONS,
    FieldOptions,
    FieldSpec,
    Origin,
    agreed_role,
    field_metadata,
    is_buffer,
    is_hyper,
    options_of,
)
from ._hint import Hint, read_hint
from ._hint_text import hint_text
from ._registry import CONTENTS, Changes, Pending, registry
from ._role import HYPER, Role
from ._scope import Scope, class_scope


def field_specs(cls: type) -> tuple[FieldSpec, ...]:
    """What is known of each dataclass field of `cls`, in the order of its fields.

    **Raises:** `AnnotationError` if a plain `equinox.Module` annotates roles and nobody
    registered it: they would have no effect.
    """
    return registry.specs(cls, _make_specs)


def _make_specs(cls: type) -> tuple[FieldSpec, ...]:
    fields = dataclasses.fields(cls)
    variant = registry.variants.get(cls)
    if variant is None:
        return tuple(_effective_spec(cls, f) for f in fields)
    pairs = zip(field_specs(variant.original), fields, strict=True)
    return tuple(_changed_spec(spec, f, variant.changes) for spec, f in pairs)


def content_spec(cls: type) -> FieldSpec | None:
    """What is registered of all contents of a PyTree class that has no fields."""
    options = registry.registrations.get(cls, {}).get(CONTENTS)
    if options is None:
        return None
    return make_spec(cls, "", Hint(None, Any), options, options.role, "registered", None)


def _changed_spec(
    spec: FieldSpec, f: "dataclasses.Field[Any]", changes: Changes
) -> FieldSpec:
    """What a variant says of a field of its original class."""
    name = spec.name
    if name in changes.static:
        said = spec.role if is_hyper(spec.role) else spec.opaque_role
        return spec._replace(
            role=HYPER if said is None else said,
            origin="inferred" if said is None else "registered",
            static=True,
            converter=f.metadata["converter"],
        )
    if changes.inferred and spec.role is None and not spec.static:
        spec = spec._replace(origin="inferred")
    frozen = name in changes.frozen
    stopped = name in changes.stopped and is_buffer(spec.role)
    return spec._replace(frozen=frozen, slot=frozen or stopped)


def _effective_spec(cls: type, f: "dataclasses.Field[Any]") -> FieldSpec:
    spec = _own_spec(cls, f)
    role = promised_role(cls.__mro__, f.name) if spec.role is None else None
    if role is None:
        return spec
    if is_hyper(role) and not spec.static:
        raise AnnotationError.of_field(
            cls,
            f.name,
            "a base promises a Hyper, and the field that implements it is not static",
            expected="Hyper[...] where the field is annotated",
            found=f"{spec.text!r} in {spec.declared_by.__name__}",
            fix=f"annotate {f.name} again in {cls.__name__}, as Hyper[...]",
        )
    return spec._replace(role=role, origin="declared")


def _own_spec(cls: type, f: "dataclasses.Field[Any]") -> FieldSpec:
    """What the class that declares the field says, or who registered it."""
    owner = _declaring_class(cls, f)
    declaration = registry.declarations.get(owner)
    if declaration is not None and f.name in declaration.specs:
        spec, converter = declaration.specs[f.name], f.metadata.get("converter")
        if spec.converter is converter:
            return spec
        return spec._replace(converter=converter)
    options = _registered_options(cls, owner, f.name)
    hint = _foreign_hint(owner, f, refuse_roles=options is None)
    if options is None:
        return make_spec(owner, f.name, hint, NO_OPTIONS, None, "undeclared", f)
    return make_spec(owner, f.name, hint, options, options.role, "registered", f)


def promised_role(bases: Sequence[type], name: str) -> Role | None:
    """The role that an abstract declaration promises for a field which names none.

    The nearest base that names a role counts. A field of its own ends the promise: who
    annotates that one again says everything anew.
    """
    for base in bases:
        declaration = registry.declarations.get(base)
        if declaration is None:
            role = _foreign_promise(base, name)
        elif name in declaration.specs and declaration.specs[name].role is not None:
            return None
        else:
            role = declaration.abstract.get(name)
        if role is not None:
            return role
    return None


def _foreign_promise(base: type, name: str) -> Role | None:
    annotations = own_annotations(base)
    if name not in annotations:
        return None
    hint = _tolerant_hint(annotations[name], class_scope(base, annotations))
    return hint.roles[0] if hint.roles and hint.kind == "abstract" else None


def _tolerant_hint(annotation: Any, scope: Scope) -> Hint:
    """An annotation of somebody else, who may mean no annotation by it."""
    try:
        return read_hint(annotation, scope)
    except AnnotationError:
        return Hint(str(annotation), str(annotation))


def _declaring_class(cls: type, f: "dataclasses.Field[Any]") -> type:
    """The class whose annotation made the field; `dataclasses` hands the object on."""
    for base in cls.__mro__:
        own = base.__dict__.get("__dataclass_fields__", {})
        if own.get(f.name) is f and f.name in own_annotations(base):
            return base
    return cls


def registered_at(cls: type, name: str) -> type | None:
    """The class whose registration counts for a field of `cls`, if one does."""
    found = [f for f in dataclasses.fields(cls) if f.name == name]
    return _registered_at(cls, _declaring_class(cls, found[0]), name) if found else None


class Overridden(NamedTuple):
    """An annotation of a field in a base, where another one counts."""

    base: type
    text: str
    abstract: bool


def overridden(cls: type, name: str) -> list[Overridden]:
    """What bases say of a field of `cls` that is annotated again: nearest first."""
    found = [base for base in cls.__mro__ if name in own_annotations(base)]
    return [_overridden(base, name) for base in found[1:]]


def _overridden(base: type, name: str) -> Overridden:
    annotations = own_annotations(base)
    hint = _tolerant_hint(annotations[name], class_scope(base, annotations))
    return Overridden(base, _annotation_text(base, name), hint.kind == "abstract")


def _annotation_text(base: type, name: str) -> str:
    declaration = registry.declarations.get(base)
    if declaration is not None and name in declaration.specs:
        return declaration.specs[name].text
    annotation = own_annotations(base)[name]
    return annotation if isinstance(annotation, str) else hint_text(annotation)


def _registered_options(cls: type, owner: type, name: str) -> FieldOptions | None:
    """What the registration nearest to `cls` says of a field declared by `owner`."""
    base = _registered_at(cls, owner, name)
    return None if base is None else registry.registrations[base][name]


def _registered_at(cls: type, owner: type, name: str) -> type | None:
    for base in cls.__mro__:
        if name in registry.registrations.get(base, {}):
            return base
        if base is owner:
            return None
    return None


def _foreign_hint(owner: type, f: "dataclasses.Field[Any]", *, refuse_roles: bool) -> Hint:
    hint = _tolerant_hint(f.type, class_scope(owner, own_annotations(owner)))
    if refuse_roles and (hint.roles or hint.lost_roles or options_of(f).role):
        raise AnnotationError.of_field(
            owner,
            f.name,
            "a role in a class that annotax does not know",
            expected="annotax.Module as a base, or @annotax.register on the class",
            found=f"{hint.text!r} in a plain equinox.Module",
            fix=f"class {owner.__name__}(annotax.Module)",
        )
    return hint


def registered_annotations(cls: type) -> dict[str, FieldOptions]:
    """What the body of a class that is not ours says: its roles and `field` options."""
    annotations = own_annotations(cls)
    scope = class_scope(cls, annotations)
    found: dict[str, FieldOptions] = {}
    for f in dataclasses.fields(cls):
        if f.name in annotations:
            hint = _tolerant_hint(annotations[f.name], scope)
            options, where = options_of(f), f"{cls.__name__}.{f.name}"
            role = agreed_role(where, hint.roles, options.role, hint)
            if role is None and hint.lost_roles:
                raise AnnotationError(lost_role_message(where, hint))
            if role is not None or options != NO_OPTIONS:
                found[f.name] = options._replace(role=role)
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
    metadata = field_metadata(value)
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
        metadata=_users_metadata(metadata) if metadata else metadata,
        persistent=options.persistent,
        converter=metadata.get("converter"),
        opaque_role=options.opaque_role,
        whole=options.whole,
    )


def _users_metadata(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    reserved = (METADATA_KEY, "static", "converter")
    return MappingProxyType({k: v for k, v in metadata.items() if k not in reserved})


def read_late(cls: type, late: Pending, more: Mapping[str, Any] | None = None) -> Hint:
    """A pending annotation of `cls`, read with the names that exist by now.

    `more` holds names that the file of the class does not know at run time.
    """
    scope = class_scope(cls, registry.declarations[cls].specs)
    return read_hint(
        late.annotation, Scope(lambda: (late.known, *scope.layers, more or {}))
    )


def lost_role_message(where: str, hint: Hint) -> str:
    """The message for a role whose name does not exist at run time."""
    field = where.rpartition(".")[2]
    role = hint.lost_roles[0].rpartition(".")[2]
    return explain_error(
        where,
        "its role cannot be read: a name in the annotation does not exist at run time",
        expected="the name of the role to be defined before the class",
        found=f"{hint.text!r} without {', '.join(hint.lost_roles)}",
        fix="import or define it first (not under TYPE_CHECKING), or write the twin:\n"
        f"{field}: ... = annotax.field(role=annotax.{role})",
    )
