"""Whether the fields of an instance hold what their annotations say.

Runs at the end of every construction and when somebody asks, never in flatten or
unflatten: model-shaped trees of anything are legal. The methods of a class ask here for
what an instance has bound.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import MISSING
from typing import Any, TypeGuard

from ._array_check import Check
from ._class_checks import ClassChecks, Plan, class_checks, warn_unchecked_field
from ._compat import SharedNode, instance_dict
from ._dims import Sizes, UnboundError, ask_again
from ._errors import CheckError
from ._field import FieldSpec
from ._misfits import Problem, problem, problems_text
from ._mismatch import Mismatch
from ._mode import current_mode
from ._registry import class_of, registry


def check_fields(module: object) -> None:
    """Check the fields of an instance that is being made, as far as the mode says.

    **Raises:** `CheckError`, about all that does not fit at once.
    """
    __tracebackhide__ = True
    cls = type(module)
    mode = current_mode(registry.mode(cls) if registry.modes else None)
    if mode == "off":
        return
    checks = registry.checks.get(cls) or class_checks(cls)
    if fits_for_sure(module, checks.every if mode == "full" else checks.roles):
        return
    found = find_problems(module, every=mode == "full")
    if found:
        raise CheckError(problems_text(class_of(module).__name__, found))


def fits(module: object) -> bool:
    """Whether `check_fields` would find nothing in an instance."""
    cls = type(module)
    mode = current_mode(registry.mode(cls))
    if mode == "off" or registry.original(cls) not in registry.declarations:
        return True
    checks = class_checks(cls)
    plan = checks.every if mode == "full" else checks.roles
    return fits_for_sure(module, plan) or not find_problems(module, every=mode == "full")


def fits_for_sure(module: object, plan: Plan) -> bool:
    """Whether all fields fit. If not, some may fit all the same: the walk finds out."""
    sizes = plan.quick(instance_dict(module))
    return sizes is not None and (not plan.rest or _rest_fits(module, plan, sizes))


def _rest_fits(module: object, plan: Plan, single: dict[str, int]) -> bool:
    """Whether the other fields fit, too; what cannot be said yet is left to the walk."""
    values = instance_dict(module)
    sizes = Sizes()
    sizes.single = single
    for name in plan.sizes:
        size = values.get(name)
        if _is_size(size) and single.setdefault(name, size) != size:
            return False
    try:
        return not any(check(values[name], sizes) for name, check in plan.rest)
    except (UnboundError, KeyError):
        return False


def find_problems(module: object, *, every: bool = False) -> list[Problem]:
    """What does not fit of the fields with a role, or of all.

    What fits has bound the sizes that the rest is held against.
    """
    checks = class_checks(type(module))
    walk = _Walk(module, checks)
    left = ask_again(walk.check, checks.every_walk if every else checks.walk)
    for (name, _), reason in left:
        warn_unchecked_field(walk.specs[name], reason)
    return [one for name in walk.specs for one in walk.found.get(name, ())]


class _Walk:
    """One look at the fields of an instance."""

    def __init__(self, module: object, checks: ClassChecks) -> None:
        self.module = module
        self.values = instance_dict(module)
        self.specs: dict[str, FieldSpec] = {spec.name: spec for spec in checks.specs}
        self.sizes = Sizes()
        self.found: dict[str, list[Problem]] = {}
        _bind_hypers(checks, self.values, self.sizes)

    def check(
        self, wanted: Iterable[tuple[str, Check]]
    ) -> list[tuple[tuple[str, Check], str]]:
        """Check fields; returns those that could not be judged yet, and why."""
        left: list[tuple[tuple[str, Check], str]] = []
        for name, check in wanted:
            self.sizes.binder = name
            value = self._read(name)
            if value is MISSING or isinstance(value, SharedNode):
                continue
            try:
                wrong = check(value, self.sizes)
            except UnboundError as error:
                left.append(((name, check), str(error)))
                continue
            if wrong:
                self._keep(name, wrong)
        return left

    def _keep(self, name: str, wrong: Sequence[Mismatch]) -> None:
        text = self.specs[name].text
        self.found[name] = [problem(name, text, one, self.sizes) for one in wrong]

    def _read(self, name: str) -> Any:
        """A value, also if it is a default of the class, or if `adopt` has wrapped it."""
        try:
            return object.__getattribute__(self.module, name)
        except AttributeError:
            return MISSING


def bound_sizes(module: object) -> Sizes:
    """The sizes that the fields of an instance have bound; what does not fit binds none.

    In the middle of `__init__` some fields are not there yet.
    """
    cls: type = type(module)
    checks = class_checks(cls)
    values, sizes = instance_dict(module), Sizes()
    _bind_hypers(checks, values, sizes)
    for name, check in checks.every_walk:
        if name in values:
            sizes.binder = f"the field {name}"
            with suppress(UnboundError):
                check(values[name], sizes)
    return sizes


def _bind_hypers(checks: ClassChecks, values: dict[str, Any], sizes: Sizes) -> None:
    for name in checks.binding:
        size = values.get(name)
        if _is_size(size):
            sizes.single[name] = size
            sizes.bound_by[name] = "the Hyper"


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0
