"""What can be wrong in classes that annotax does not know, and with static fields.

Stands apart from the rules for annotax classes: these must make sense to somebody who
has never heard of roles.
"""

from collections.abc import Collection, Iterator

from ._errors import listing
from ._findings import (
    FOREIGN_CLASS,
    ROLE_IN_PLAIN_MODULE,
    STATIC_ARRAY,
    Finding,
    Subject,
    static_arrays,
    undeclared_arrays,
)
from ._held import Held


def static_findings(subject: Subject) -> Iterator[Finding]:
    """Arrays in fields that `static=True` makes part of the tree structure."""
    for spec, held in subject.own:
        what = static_arrays(held) if spec.static and spec.role is None else None
        if what is not None:
            yield subject.finding(
                STATIC_ARRAY,
                spec.name,
                f"it is compared and hashed as static data, and {what}",
                "Buffer[...] without static=True"
                if subject.ours
                else "drop static=True; jax.lax.stop_gradient if it is not trained"
                if held.trainable
                else "drop static=True",
            )


def plain_role_findings(subject: Subject, audited: Collection[type]) -> Iterator[Finding]:
    """Roles in a class that is neither ours nor registered: they have no effect.

    A class inherits the trouble of its bases; the base alone is reported.
    """
    error = subject.refused
    bases = [base for base in subject.cls.__mro__[1:] if base in audited]
    if error is not None and not any(Subject(base).refused for base in bases):
        yield subject.finding(ROLE_IN_PLAIN_MODULE, error.field, error.problem, error.fix)


def foreign_finding(subject: Subject) -> Iterator[Finding]:
    """A plain class with arrays among annotax classes."""
    names = undeclared_arrays(subject.cls)
    if names:
        call = _registration(subject.cls, names)
        yield subject.finding(
            FOREIGN_CLASS,
            "",
            f"nobody says what its arrays are ({listing(names, 3)})",
            f"annotax.Module as its base, with roles; or {call}",
        )


def foreign_findings(subject: Subject, audited: Collection[type]) -> Iterator[Finding]:
    """Foreign classes, as bases or in fields of an annotax class, that nobody registered.

    A field with a role says it of all that is in it.
    """
    for base in _foreign_bases(subject, audited):
        yield from _foreign(subject, "", base)
    for spec, held in subject.own:
        for module in held.modules if spec.role is None else ():
            if module not in audited:
                yield from _foreign(subject, spec.name, module)


def _foreign_bases(subject: Subject, audited: Collection[type]) -> list[type]:
    """The classes elsewhere whose fields are inherited, at the first that does so."""
    owners = {spec.declared_by for spec in subject.specs if spec.role is None}
    bases = [base for base in subject.cls.__mro__[1:] if base in audited]
    return [
        owner
        for owner in subject.cls.__mro__[1:]
        if owner in owners and not any(issubclass(base, owner) for base in bases)
    ]


def _foreign(subject: Subject, field: str, cls: type) -> Iterator[Finding]:
    names = undeclared_arrays(cls)
    if names:
        yield subject.finding(
            FOREIGN_CLASS,
            field,
            f"nobody says what the arrays of {cls.__name__} are ({listing(names, 3)})",
            _registration(cls, names),
        )


def _registration(cls: type, fields: dict[str, Held]) -> str:
    """The call that says it; the first three fields show how."""
    shown = list(fields.items())[:3]
    roles = [f"{n}=annotax.{'Param' if h.trainable else 'Buffer'}" for n, h in shown]
    more = ["..."] if len(fields) > len(shown) else []
    call = f"annotax.register({', '.join([cls.__name__, *roles, *more])})"
    if any(held.trainable for held in fields.values()):
        return f"{call}, with annotax.Buffer for what is not trained"
    return call
