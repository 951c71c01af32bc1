"""What can be wrong in the annotations of an annotax class, rule by rule.

A rule speaks only where a maintainer would agree: what is not known for certain (`Any`,
`ArrayLike`, what a missing name stands for) is passed over, not guessed.
"""

import dataclasses
from collections.abc import Iterator

import typing_extensions

from ._class_checks import why_unchecked
from ._errors import listing, with_article
from ._field import FieldSpec, is_buffer, is_hyper
from ._findings import (
    ARRAY_IN_HYPER,
    ARRAY_WITHOUT_ROLE,
    PARAM_IN_BUFFER,
    UNCHECKED_HINT,
    UNHASHABLE_IN_HYPER,
    UNRESOLVED_ROLE,
    Finding,
    Late,
    Subject,
    static_arrays,
)
from ._held import Held
from ._hint import Hint
from ._registry import registry
from ._role import PARAM
from ._settle import is_known_type


def role_findings(subject: Subject) -> Iterator[Finding]:
    """What the annotations of an annotax class say wrongly, or do not say."""
    for spec, held in subject.own:
        if is_hyper(spec.role):
            yield from _hyper_findings(subject, spec, held)
        elif is_buffer(spec.role):
            yield from _buffer_findings(subject, spec, held)
        elif held.arrays and _lacks_role(subject, spec):
            yield subject.finding(
                ARRAY_WITHOUT_ROLE,
                spec.name,
                "it holds arrays, and no role says whether they are trained",
                "Param[...] around the type if they are, Buffer[...] if not"
                if held.trainable
                else _NOT_TRAINED,
            )
    for spec, _ in subject.own:
        if spec.role is not None and spec.name not in subject.late:
            yield from _unchecked_findings(subject, spec)
    for late in subject.late.values():
        yield from _late_findings(subject, late)


_NOT_TRAINED = "Buffer[...]: integers, booleans and keys are not trained"


def _lacks_role(subject: Subject, spec: FieldSpec) -> bool:
    late = _role_came_late(subject, spec.name)  # a finding of its own
    return spec.role is None and not spec.static and not late


# --- Hypers and Buffers --------------------------------------------------------------

_INSTEAD = {
    list: "tuple[...]; field(converter=tuple) takes lists as well",
    set: "frozenset[...]; field(converter=frozenset) takes sets as well",
    dict: "a tuple of pairs; field(converter=...) can make it from a dict",
    bytearray: "bytes",
}
_INSTEAD_INSIDE = {
    list: "tuples all the way down",
    set: "tuples and frozensets all the way down",
    dict: "tuples all the way down, of pairs in place of a dict",
    bytearray: "bytes",
}


def _hyper_findings(subject: Subject, spec: FieldSpec, held: Held) -> Iterator[Finding]:
    what = static_arrays(held)
    # The spec of a finished class has the converter that guards the Hyper.
    written = registry.declarations[subject.cls].specs[spec.name].converter
    if what is not None:
        yield subject.finding(
            ARRAY_IN_HYPER,
            spec.name,
            f"a Hyper is static, and {what}",
            "Buffer[...] for arrays that are not trained, Param[...] for those that are"
            if held.trainable
            else _NOT_TRAINED,
        )
    elif held.unhashable and written is None:
        kind = held.unhashable[0].__name__
        yield subject.finding(
            UNHASHABLE_IN_HYPER,
            spec.name,
            f"a Hyper is compared and hashed, and {with_article(kind)} has no hash",
            _hashable_fix(held),
        )


def _hashable_fix(held: Held) -> str:
    """What to write instead; a converter is named only if it does all that is needed."""
    kind = held.unhashable[0]
    if typing_extensions.is_typeddict(kind):
        return f"a NamedTuple in place of the TypedDict {kind.__name__}"
    if dataclasses.is_dataclass(kind):
        return f"@dataclass(frozen=True) on {kind.__name__}"
    if kind not in _INSTEAD:
        return "a type whose values have a hash"
    if held.nested:
        return _INSTEAD_INSIDE[kind]
    return _INSTEAD[kind].partition(";")[0] if held.union else _INSTEAD[kind]


def _buffer_findings(subject: Subject, spec: FieldSpec, held: Held) -> Iterator[Finding]:
    for module in held.modules:
        names = list(_params(module, set()))
        if names:
            yield subject.finding(
                PARAM_IN_BUFFER,
                spec.name,
                f"the Params of {module.__name__} ({listing(names, 3)}) are not trained "
                "in a Buffer",
                "nothing, if a copy that is not trained is meant (a teacher, a moving "
                "average); else drop Buffer",
            )


def _params(cls: type, entered: set[type]) -> Iterator[str]:
    """The paths of the Param fields in a module class, as far as annotations tell."""
    entered.add(cls)
    for spec, held in Subject(cls).dynamic:
        if spec.role is not None and spec.role.kind is PARAM:
            yield spec.name
        elif spec.role is None:
            for module in held.modules:
                if module not in entered:
                    yield from (f"{spec.name}.{path}" for path in _params(module, entered))


# --- annotations that could not be read ----------------------------------------------


def _unchecked_findings(subject: Subject, spec: FieldSpec) -> Iterator[Finding]:
    """A type that is known, and that nothing can judge."""
    reason = why_unchecked(subject.cls, spec)
    if reason is not None:
        yield subject.finding(
            UNCHECKED_HINT,
            spec.name,
            f"its type cannot be checked: {reason}",
            "a type that can be, or Any to say that nothing is known",
        )


def _late_findings(subject: Subject, late: Late) -> Iterator[Finding]:
    """What is to be said of an annotation with names that its class could not see."""
    name, missing = late.pending.name, listing(late.hint.missing)
    role = subject.role(name)
    if role is not None:
        if late.hint.missing and _is_unchecked(subject, late):
            yield subject.finding(
                UNCHECKED_HINT,
                name,
                f"its type cannot be checked: {missing} does not exist at run time",
                f"import or define {missing}, not under TYPE_CHECKING",
            )
    elif _role_came_late(subject, name):
        problem = (
            f"its role cannot be read: {missing} does not exist at run time"
            if late.hint.missing
            else "its role could not be read when the class was made"
        )
        yield subject.finding(UNRESOLVED_ROLE, name, problem, _role_fix(name, late.seen))
    elif _may_be_role(subject, name, late.seen):
        problem = f"{missing} does not exist at run time, and may be a role"
        yield subject.finding(UNRESOLVED_ROLE, name, problem, _role_fix(name, late.seen))


def _role_came_late(subject: Subject, name: str) -> bool:
    """Whether a role stands in an annotation that the class could not read."""
    late = subject.late.get(name)
    return late is not None and bool(late.seen.roles or late.seen.lost_roles)


def _role_fix(name: str, hint: Hint) -> str:
    kinds = [f"annotax.{role.kind.name.capitalize()}" for role in hint.roles]
    kinds += [f"annotax.{lost.rpartition('.')[2]}" for lost in hint.lost_roles]
    return (
        "define the role before the class (not under TYPE_CHECKING), or write the twin: "
        f"{name}: ... = annotax.field(role={(*kinds, '...')[0]})"
    )


def _may_be_role(subject: Subject, name: str, seen: Hint) -> bool:
    """Whether a role may stand in an annotation that nobody can read.

    As at the first construction: only in a class that has roles, and not if the name is
    that of a type which many import for type checkers alone.
    """
    unknown = [name for name in seen.missing if not is_known_type(name)]
    names = [spec.name for spec, _ in subject.own]
    has_roles = any(spec.role is not None for spec in subject.specs)
    return bool(unknown) and has_roles and name in names


def _is_unchecked(subject: Subject, late: Late) -> bool:
    """Whether a check is missed: of the class of a module, say, there is none to miss."""
    if late.seen.missing:
        return True
    return any(spec.name == late.pending.name and held.arrays for spec, held in subject.own)
