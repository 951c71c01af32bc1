"""A type hint → a function that says how a value does not fit it.

jaxtyping's types, unions and containers are walked here: every item, with one scope of
sizes, and with an answer that names the axis. Whatever else a hint may be is for beartype
to judge.
"""

import collections
import collections.abc
import types
from collections.abc import Callable, Sequence
from typing import (
    Annotated,
    Any,
    Final,
    ForwardRef,
    Literal,
    NewType,
    ParamSpecArgs,
    ParamSpecKwargs,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

import typing_extensions

from ._array_check import Check, array_check, pytree_check
from ._beartype import judged, validated
from ._checks import (
    any_callable,
    anything,
    each,
    in_turn,
    instance,
    is_checkable,
    items,
    literal,
    none,
    optional,
    pairs,
    subclass,
)
from ._compat import (
    ALIAS_TYPES,
    alias_value,
    dim_text,
    is_array_dtype,
    is_array_hint,
    pytree_leaf_hint,
    pytree_structure_name,
)
from ._dims import Sizes, UnboundError
from ._form import validators
from ._mismatch import OK, Mismatch
from ._scope import Scope
from ._source import MISSING, UnresolvedError, evaluate, parse

_ABC = collections.abc
_CALLABLE: Any = _ABC.Callable
_EACH = {
    *(list, set, frozenset, collections.deque),
    *(_ABC.Sequence, _ABC.MutableSequence, _ABC.Set, _ABC.MutableSet),
    *(_ABC.Collection, _ABC.Iterable, _ABC.Container, _ABC.Reversible),
}
_PAIRS = {
    *(dict, collections.OrderedDict, collections.defaultdict),
    *(_ABC.Mapping, _ABC.MutableMapping),
}
_ARGUMENTS = (ParamSpecArgs, ParamSpecKwargs)
"""`*args: P.args`: whatever some function takes."""
_NOTHING = (typing_extensions.Never, typing_extensions.NoReturn)
_GUARDS = (typing_extensions.TypeGuard, typing_extensions.TypeIs)
_LITERALS = {Literal, typing_extensions.Literal}


class Checkers:
    """Makes checks for the hints of one class: strings in them are read in its scope.

    `unchecked` collects what nothing can judge, with the reason.
    """

    def __init__(self, owner: type, scope: Scope, *, in_method: bool = False) -> None:
        self.in_method = in_method
        self.owner = owner
        self.scope = scope
        self.unchecked: list[str] = []
        self._entered: dict[Any, Check | None] = {}

    def make(self, hint: Any) -> Check:  # noqa: PLR0911, PLR0912 -- a line for each kind
        """The check for a hint.

        **Raises:** `ValueError` if the hint itself is wrong.
        """
        head: Any = get_origin(hint) or hint
        if hint is Any or hint is object or isinstance(hint, _ARGUMENTS):
            return anything
        if hint is None or hint is type(None):
            return none
        if is_array_hint(hint):
            text = dim_text(hint)
            if "{" in text and not self.in_method:
                raise ValueError(f"a field has nothing to put into the dimension {text!r}")
            return array_check(hint)
        if isinstance(hint, ForwardRef | str):
            return self._string(hint if isinstance(hint, str) else hint.__forward_arg__)
        if head is Union or head is types.UnionType:
            return self._union(hint)
        if head is Annotated:
            return self._annotated(hint)
        if head is Final:
            return self.make(get_args(hint)[0]) if get_args(hint) else anything
        if isinstance(head, ALIAS_TYPES):
            return self._entering(head, lambda: self.make(alias_value(hint)))
        if isinstance(hint, NewType):
            return self.make(hint.__supertype__)
        if isinstance(hint, TypeVar):
            return self._variable(hint)
        if head in _LITERALS:
            return literal(get_args(hint))
        if hint in _NOTHING:
            return literal(())
        if head in _GUARDS:
            return instance(bool)
        if head is typing_extensions.Self:
            return instance(self.owner)
        if (leaf := pytree_leaf_hint(hint)) is not None:
            return pytree_check(self.make(leaf), leaf, pytree_structure_name(hint))
        return self._class(hint, head)

    def _class(self, hint: Any, head: Any) -> Check:  # noqa: PLR0911 -- the same
        """A class, plain or with arguments."""
        if is_array_dtype(hint):
            raise ValueError(
                f"{hint.__name__} alone is no type, write {hint.__name__}[Array, '...']"
            )
        arguments = get_args(hint)
        if head is tuple and arguments != ():
            return self._tuple(arguments)
        if head is tuple and get_origin(hint) is tuple:
            return self._tuple(())
        if arguments and head in _EACH:
            return each(head, self.make(arguments[0]))
        if arguments and head in _PAIRS:
            return pairs(head, *map(self.make, arguments))
        if arguments and head is collections.Counter:
            return pairs(head, self.make(arguments[0]), instance(int))
        if head is _CALLABLE:
            return any_callable
        if head is type and len(arguments) == 1:
            return self._subclass(arguments[0])
        if isinstance(hint, type) and is_checkable(hint):
            return instance(hint)
        if typing_extensions.is_protocol(head) and not is_checkable(head):
            self.unchecked.append(f"{head.__name__} is a Protocol, not @runtime_checkable")
            return anything
        return judged(hint, self.unchecked) or anything

    def _subclass(self, wanted: Any) -> Check:
        """What `type[...]` says."""
        if isinstance(wanted, ForwardRef | str):
            text = wanted if isinstance(wanted, str) else wanted.__forward_arg__
            wanted = self._value(text)
        if get_origin(wanted) in (Union, types.UnionType):
            members = get_args(wanted)
            if all(isinstance(member, type) for member in members):
                return subclass(members)
        if wanted is Any or wanted is MISSING:
            return instance(type)
        if isinstance(wanted, type):
            return subclass(wanted)
        return judged(type[wanted], self.unchecked) or anything

    def _union(self, hint: Any) -> Check:
        members = tuple(map(self.make, get_args(hint)))
        others = tuple(member for member in members if member is not none)
        if len(others) == 1:
            return optional(others[0])

        def check(value: Any, sizes: Sizes) -> Sequence[Mismatch]:
            found: list[Mismatch] = []
            unbound: str | None = None
            for member in members:
                saved = sizes.save()
                try:
                    wrong = member(value, sizes)
                except UnboundError as error:
                    unbound = str(error)
                    sizes.restore(saved)
                    continue
                if not wrong:
                    return OK
                sizes.restore(saved)
                found += wrong
            if unbound is not None:
                raise UnboundError(unbound)
            return [max(found, key=lambda mismatch: mismatch.near)]

        return check

    def _annotated(self, hint: Any) -> Check:
        return in_turn(self.make(hint.__origin__), *map(validated, validators(hint)))

    def _variable(self, variable: TypeVar) -> Check:
        if variable.__constraints__:
            return self.make(Union[variable.__constraints__])  # noqa: UP007 -- a tuple
        return anything if variable.__bound__ is None else self.make(variable.__bound__)

    def _tuple(self, arguments: tuple[Any, ...]) -> Check:
        if len(arguments) == 2 and arguments[1] is ...:
            return each(tuple, self.make(arguments[0]))
        return items(tuple(map(self.make, arguments)))

    def _string(self, text: str) -> Check:
        value = self._value(text)
        return (
            anything if value is MISSING else self._entering(text, lambda: self.make(value))
        )

    def _value(self, text: str) -> Any:
        """What a string stands for, `MISSING` if its names do not exist."""
        tree = parse(text)
        if tree is None:
            raise ValueError(f"{text!r} is not Python")
        try:
            return evaluate(tree, self.scope)
        except UnresolvedError as error:
            if isinstance(error.__cause__, ValueError):  # jaxtyping's, of dimensions
                raise ValueError(str(error.__cause__)) from error  # noqa: TRY004 -- it is what `make` raises
            self.unchecked.append(f"{error.__cause__}")
            return MISSING

    def _entering(self, key: Any, make: Callable[[], Check]) -> Check:
        """The check of what a name stands for, which may contain the name itself."""
        if key in self._entered:
            return self._later(key)
        self._entered[key] = None
        try:
            check = self._entered[key] = make()
        except NameError as error:
            del self._entered[key]
            self.unchecked.append(f"{error}")
            return anything
        return check

    def _later(self, key: Any) -> Check:
        def check(value: Any, sizes: Sizes) -> Sequence[Mismatch]:
            made = self._entered[key]
            return OK if made is None else made(value, sizes)

        return check
