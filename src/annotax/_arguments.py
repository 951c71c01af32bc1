"""The arguments of a method and its result, against its annotations.

The checks are those of fields; here is only who is held against which annotation, and in
what order. Sizes that the instance has bound come in from outside.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ._array_check import Check
from ._checker import Checkers
from ._checks import anything
from ._dims import Sizes, UnboundError, ask_again
from ._errors import CheckError
from ._hint_text import hint_text
from ._misfits import Problem, problem, problems_text
from ._scope import Scope, class_scope
from ._unchecked import warn_unchecked, wrong_annotation


class Argument(NamedTuple):
    """One thing to check: an argument or the result."""

    name: str
    text: str
    check: Check


_Given = tuple[Argument, Any]


class MethodChecks(NamedTuple):
    """The checks of one method, by how its arguments may be given."""

    owner: type
    where: str
    positional: tuple[Argument, ...]
    rest: Argument | None
    named: Mapping[str, Argument]
    others: Argument | None
    result: Argument
    signature: inspect.Signature | None
    """If a dimension is computed from arguments, as `{size}`."""

    def give_arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], sizes: Sizes
    ) -> None:
        """Keep what `{size}` in a dimension may name."""
        if self.signature is None:
            return
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError:  # for the method to refuse
            return
        bound.apply_defaults()
        sizes.arguments = bound.arguments

    def check_arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], sizes: Sizes
    ) -> None:
        """Check what is given. Too many or unknown ones are for the method to refuse."""
        __tracebackhide__ = True
        pairs = list(zip(self.positional, args, strict=False))
        if self.rest is not None:
            pairs += [(self.rest, value) for value in args[len(self.positional) :]]
        for name, value in kwargs.items():
            argument = self.named.get(name, self.others)
            if argument is not None:
                pairs.append((argument, value))
        self._check(pairs, sizes)

    def check_result(self, value: Any, sizes: Sizes) -> None:
        """Check what is returned, with the sizes that the arguments have bound."""
        __tracebackhide__ = True
        self._check([(self.result, value)], sizes)

    def _check(self, pairs: list[_Given], sizes: Sizes) -> None:
        __tracebackhide__ = True
        found: list[Problem] = []

        def check(wanted: Iterable[_Given]) -> list[tuple[_Given, str]]:
            left: list[tuple[_Given, str]] = []
            for argument, value in wanted:
                sizes.binder = argument.name
                try:
                    wrong = argument.check(value, sizes)
                except UnboundError as error:
                    left.append(((argument, value), str(error)))
                    continue
                name = f"({argument.name})"
                found.extend(problem(name, argument.text, one, sizes) for one in wrong)
            return left

        for (argument, _), reason in ask_again(check, pairs):
            where = f"{self.where}({argument.name})"
            warn_unchecked(self.owner, where, argument.text, reason)
        if found:
            raise CheckError(problems_text(self.where, found))


def method_checks(
    cls: type, function: Any, skipped: int, known: Mapping[str, Any]
) -> MethodChecks:
    """The checks of a function in a class: all arguments but the first `skipped`.

    `known` is what names in strings stood for when the class was made.

    **Raises:** `AnnotationError` if an annotation is itself wrong.
    """
    where = f"{cls.__name__}.{function.__name__}"
    own = {p.__name__: p for p in getattr(function, "__type_params__", ())}
    outside: Any = getattr(inspect.unwrap(function), "__globals__", {})
    scope = Scope(lambda: (own, known, *class_scope(cls, {}).layers, outside))
    annotations = inspect.get_annotations(function)

    def argument(name: str, shown: str) -> Argument:
        if name not in annotations:
            return Argument(shown, "", anything)
        return _argument(cls, where, shown, annotations[name], scope)

    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[skipped:]
    made = {p.name: argument(p.name, p.name) for p in parameters}
    by_kind = {kind: [p.name for p in parameters if p.kind is kind] for kind in _KINDS}
    only, both, rest, named, others = (by_kind[kind] for kind in _KINDS)
    texts = [a if isinstance(a, str) else hint_text(a) for a in annotations.values()]
    return MethodChecks(
        owner=cls,
        where=where,
        positional=tuple(made[name] for name in (*only, *both)),
        rest=made[rest[0]] if rest else None,
        named={name: made[name] for name in (*both, *named)},
        others=made[others[0]] if others else None,
        result=argument("return", "result"),
        signature=signature if any("{" in text for text in texts) else None,
    )


_KINDS = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.KEYWORD_ONLY,
    inspect.Parameter.VAR_KEYWORD,
)


def _argument(cls: type, where: str, name: str, hint: Any, scope: Scope) -> Argument:
    checkers = Checkers(cls, scope, in_method=True)
    text = hint if isinstance(hint, str) else hint_text(hint)
    try:
        check = checkers.make(hint)
    except ValueError as error:
        raise wrong_annotation(f"{where}({name})", text, error) from error
    if checkers.unchecked:
        warn_unchecked(cls, f"{where}({name})", text, "; ".join(checkers.unchecked))
    return Argument(name, text, check)
