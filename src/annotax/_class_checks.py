"""What is checked of the fields of a class: made at its first construction, and kept.

Fields without a role are checked in mode `full` alone, and nothing is made for them before:
an annotation that nobody checks may say what it likes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ._array_check import Check
from ._checker import Checkers
from ._compat import dim_text, is_array_hint
from ._dims import Dims, read_dims
from ._errors import AnnotationError
from ._field import FieldSpec, is_hyper
from ._held import held_types
from ._quick import Quick, make_quick, quick_field
from ._registry import registry
from ._scope import Scope, class_scope
from ._specs import field_specs
from ._unchecked import warn_unchecked, wrong_annotation

Checks = tuple[tuple[str, Check], ...]
"""By the name of the field, in the order in which they are made."""


class Plan(NamedTuple):
    """How some fields of a class are checked: all of them, or those with a role.

    `quick` looks at the plain ones; `rest` are the others. `sizes` are the Hypers that may
    bind a size and that `quick` does not look at.
    """

    quick: Quick
    rest: Checks
    sizes: tuple[str, ...]


class ClassChecks:
    """The checks of a class: at once those of most constructions, others when wanted.

    A plan says yes; a walk says what is wrong, which of most classes nobody ever asks. Two
    threads may both make what is wanted: to wait for each other could last for ever, for
    what an annotation says may be imported now.
    """

    __slots__ = ("_cls", "_every", "_every_walk", "_walk", "binding", "roles", "specs")

    def __init__(self, cls: type, specs: tuple[FieldSpec, ...]) -> None:
        self._cls = cls
        self.specs = specs
        self.binding = tuple(spec.name for spec in specs if is_hyper(spec.role))
        """The Hypers that may bind a size."""
        self.roles = _plan(cls, self._with_role(), self.binding)
        """How the fields with a role are checked."""
        self._every: Plan | None = None
        self._walk: Checks | None = None
        self._every_walk: Checks | None = None

    def _with_role(self) -> list[FieldSpec]:
        return [spec for spec in self.specs if spec.role is not None]

    @property
    def every(self) -> Plan:
        """How all fields are checked."""
        if self._every is None:
            self._every = _plan(self._cls, self.specs, self.binding)
        return self._every

    @property
    def walk(self) -> Checks:
        """What is wrong with the fields with a role."""
        if self._walk is None:
            self._walk = _checks(self._cls, self._with_role())
        return self._walk

    @property
    def every_walk(self) -> Checks:
        """What is wrong with all fields."""
        if self._every_walk is None:
            self._every_walk = _checks(self._cls, self.specs)
        return self._every_walk


class _FieldCheck(NamedTuple):
    """The check of one field; `rank` says how late it comes."""

    spec: FieldSpec
    check: Check
    rank: int


_made: dict[type, ClassChecks] = {}
"""What has been made, to be taken again if the specs are found to be the same."""


def class_checks(cls: type) -> ClassChecks:
    """The checks of a class.

    **Raises:** `AnnotationError` if an annotation is itself wrong. Warns, once, of one
    that nothing can check.
    """
    known = registry.checks  # replaced, not emptied: what is made from old facts is lost
    found = known.get(cls)
    if found is None:
        specs = field_specs(cls)
        found = _made.get(cls)
        if found is None or found.specs != specs:
            found = _made[cls] = ClassChecks(cls, specs)
        known[cls] = found
    return found


def _plan(cls: type, specs: Sequence[FieldSpec], binding: Sequence[str]) -> Plan:
    looks = {
        spec.name: quick_field(spec.name, spec.hint, is_hyper=is_hyper(spec.role))
        for spec in specs
    }
    quick = [look for look in looks.values() if look is not None]
    rest = _checks(cls, [spec for spec in specs if looks[spec.name] is None])
    seen = {look.name for look in quick if look.binds}
    return Plan(
        quick=make_quick(quick, tells=bool(rest)),
        rest=rest,
        sizes=tuple(name for name in binding if name not in seen),
    )


def _checks(cls: type, specs: Sequence[FieldSpec]) -> Checks:
    made = [_make(cls, spec) for spec in specs]
    # Where the first that comes decides, as in unions, the order of fields must not.
    made.sort(key=lambda one: (one.rank, one.spec.name if one.rank else ""))
    return tuple((one.spec.name, one.check) for one in made)


def _make(cls: type, spec: FieldSpec) -> _FieldCheck:
    made, unchecked = _judged(cls, spec)
    if unchecked:
        warn_unchecked_field(spec, unchecked)
    return made


def why_unchecked(cls: type, spec: FieldSpec) -> str | None:
    """Why the annotation of a field is not checked, `None` if it is."""
    try:
        return _judged(cls, spec)[1] or None
    except AnnotationError as error:
        return str(error).partition("\n")[0].partition(": ")[2]


def _judged(cls: type, spec: FieldSpec) -> tuple[_FieldCheck, str]:
    """The check of a field, and what of its annotation nothing can judge."""
    owner = spec.declared_by
    scope = class_scope(owner, {one.name: one for one in field_specs(cls)})
    checkers = Checkers(registry.original(cls), scope)
    try:
        check = checkers.make(spec.hint)
        rank = _rank(spec.hint, scope)
    except ValueError as error:
        raise wrong_annotation(_place(spec), spec.text, error) from error
    return _FieldCheck(spec, check, rank), "; ".join(dict.fromkeys(checkers.unchecked))


def _rank(hint: Any, scope: Scope) -> int:
    """Plain names first: they bind, whatever the order of the fields is."""
    held = held_types(hint, scope)
    arrays = filter(is_array_hint, held.arrays)
    ranks = [_dims_rank(read_dims(dim_text(array))) for array in arrays]
    return max([*ranks, 1 if len(ranks) > 1 else 0])


def _dims_rank(dims: Dims) -> int:
    if any(dim.kind == "symbolic" for dim in dims.all):
        return 2
    return 0 if dims.simple is not None else 1


def warn_unchecked_field(spec: FieldSpec, reason: str) -> None:
    """Warn of a field that nothing can check, once for the class that declares it."""
    warn_unchecked(spec.declared_by, _place(spec), spec.text, reason)


def _place(spec: FieldSpec) -> str:
    return f"{spec.declared_by.__name__}.{spec.name}"
