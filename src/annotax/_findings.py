"""What a finding is, and the class that it is about.

Below the rules, which say what is wrong: here are the codes, and what a rule may ask of
a class. Nothing is changed by asking.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from ._compat import own_annotations
from ._errors import AnnotationError, listing
from ._field import FieldSpec
from ._held import Held, held_types
from ._hint import Hint
from ._locate import Location, locate_class, locate_field
from ._registry import Pending, registry
from ._role import Role
from ._scope import Scope, class_scope
from ._specs import field_specs, read_late
from ._unimported import unimported_names

Severity = Literal["warning", "note"]


class Code(NamedTuple):
    """A kind of finding: its stable code, the code in words, and how much it matters."""

    code: str
    name: str
    severity: Severity = "warning"


ARRAY_WITHOUT_ROLE = Code("ANX001", "array-without-role")
ARRAY_IN_HYPER = Code("ANX002", "array-in-hyper")
UNHASHABLE_IN_HYPER = Code("ANX003", "unhashable-in-hyper")
UNRESOLVED_ROLE = Code("ANX004", "unresolved-role")
UNCHECKED_HINT = Code("ANX005", "unchecked-hint")
PARAM_IN_BUFFER = Code("ANX006", "param-in-buffer", "note")
FOREIGN_CLASS = Code("ANX007", "foreign-class")
STATIC_ARRAY = Code("ANX008", "static-array")
ROLE_IN_PLAIN_MODULE = Code("ANX009", "role-in-plain-module")

CODES = (
    *(ARRAY_WITHOUT_ROLE, ARRAY_IN_HYPER, UNHASHABLE_IN_HYPER, UNRESOLVED_ROLE),
    *(UNCHECKED_HINT, PARAM_IN_BUFFER, FOREIGN_CLASS, STATIC_ARRAY, ROLE_IN_PLAIN_MODULE),
)


@dataclass(frozen=True)
class Finding:
    """One thing that `audit` found: what is wrong, where, and how to mend it.

    Examples:
        >>> from annotax._findings import Finding
        >>> print(Finding("ANX001", "array-without-role", "warning", "Scale.weight",
        ...               "models", None, "it holds arrays", "Param[...]"))
        models: ANX001 Scale.weight: it holds arrays
            fix: Param[...]
    """

    code: str
    """Stable: `ANX001`."""
    name: str
    """The code in words: `array-without-role`."""
    severity: Severity
    """A note tells of what may well be meant; `Audit.ok` does not count it."""
    where: str
    """`Class.field`, or the class."""
    module: str
    """The module that defines the class."""
    location: Location | None
    """File and line; `None` if there is no source."""
    problem: str
    fix: str

    def __str__(self) -> str:
        place = self.module if self.location is None else str(self.location)
        return f"{place}: {self.code} {self.where}: {self.problem}\n    fix: {self.fix}"


class Late(NamedTuple):
    """An annotation with names that its class could not see, read again.

    `hint` is read with the names that exist by now, `seen` also with those that type
    checkers see.
    """

    pending: Pending
    hint: Hint
    seen: Hint


class Subject:
    """A class that is looked at, and what its fields hold."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.ours = cls in registry.declarations

    @cached_property
    def refused(self) -> AnnotationError | None:
        """Why the class has no field specs, if it has none."""
        try:
            field_specs(self.cls)
        except AnnotationError as error:
            return error
        return None

    @property
    def specs(self) -> tuple[FieldSpec, ...]:
        return () if self.refused else field_specs(self.cls)

    @cached_property
    def own(self) -> tuple[tuple[FieldSpec, Held], ...]:
        """The fields that the class itself annotates, with what they hold."""
        names = own_annotations(self.cls)
        return tuple((spec, self.held(spec)) for spec in self.specs if spec.name in names)

    @property
    def dynamic(self) -> tuple[tuple[FieldSpec, Held], ...]:
        """All fields that are not static, inherited ones too."""
        return tuple((spec, self.held(spec)) for spec in self.specs if not spec.static)

    @cached_property
    def late(self) -> dict[str, Late]:
        """The pending annotations of the class by field; nothing is taken in."""
        declaration = registry.declarations.get(self.cls)
        if declaration is None or not declaration.pending:
            return {}
        unimported = unimported_names(self.cls.__module__)
        return {
            one.name: Late(
                one, read_late(self.cls, one), read_late(self.cls, one, unimported)
            )
            for one in declaration.pending
        }

    def role(self, name: str) -> Role | None:
        """The role that the class itself declares, of a field or an abstract one."""
        declaration = registry.declarations[self.cls]
        spec = declaration.specs.get(name)
        return declaration.abstract.get(name) if spec is None else spec.role

    def held(self, spec: FieldSpec) -> Held:
        """What the values of a field hold, as type checkers would read it."""
        owner = spec.declared_by
        late = self.late.get(spec.name)
        own = class_scope(owner, own_annotations(owner))
        scope = Scope(lambda: (*own.layers, unimported_names(owner.__module__)))
        return held_types(spec.hint if late is None else late.seen.type, scope)

    def finding(self, code: Code, field: str, problem: str, fix: str) -> Finding:
        """A finding about a field, or about the class if no field is named."""
        cls = self.cls
        place = locate_field(cls, field) or locate_class(cls)
        where = f"{cls.__name__}.{field}" if field else cls.__name__
        return Finding(*code, where, cls.__module__, place, problem, fix)


def static_arrays(held: Held) -> str | None:
    """What is wrong if a value of some type is static; `None` if nothing is for certain."""
    if held.arrays:
        return "its type holds arrays"
    if held.union:
        return None
    for module in held.modules:
        pairs = Subject(module).dynamic
        names = [spec.name for spec, inner in pairs if inner.arrays and not inner.union]
        if names:
            return f"a {module.__name__} has arrays ({listing(names, 3)})"
    return None


def undeclared_arrays(cls: type) -> dict[str, Held]:
    """The fields with arrays of a class that is neither ours nor registered."""
    known: tuple[Any, ...] = (registry.declarations, registry.registrations)
    if any(base in table for base in cls.__mro__ for table in known):
        return {}
    return {spec.name: held for spec, held in Subject(cls).dynamic if held.arrays}
