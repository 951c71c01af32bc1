"""What the values of a field hold, as far as its type hint says: arrays, modules.

Stands apart from `_hint`, which looks for roles and names wherever they stand. Here it
matters what a value consists of: a `Callable[[Array], Array]`, a `type[Array]` and a
`Literal` hold no array. What is not known to hold one (`Any`, a bare `PyTree`, a class
of somebody else) counts as holding none.
"""

import collections
import collections.abc
import inspect
import types
from collections.abc import Iterable
from typing import (
    Annotated,
    Any,
    Final,
    ForwardRef,
    NamedTuple,
    NewType,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
)

import equinox as eqx
import jax
import numpy as np
import typing_extensions

from ._compat import (
    ALIAS_TYPES,
    alias_value,
    dtype_names,
    is_array_hint,
    pytree_leaf_hint,
)
from ._scope import Scope
from ._source import UnresolvedError, evaluate, parse

_ABC = collections.abc

_MUTABLE: frozenset[Any] = frozenset(
    {
        *(list, dict, set, bytearray),
        *(collections.deque, collections.OrderedDict, collections.defaultdict),
        *(_ABC.MutableSequence, _ABC.MutableMapping, _ABC.MutableSet),
    }
)
"""Containers without a hash: no value of these types can be static."""

_CONTAINERS = _MUTABLE | {
    *(tuple, frozenset, _ABC.Sequence, _ABC.Mapping, _ABC.Set),
    *(_ABC.Collection, _ABC.Iterable),
}


class Held(NamedTuple):
    """The array types, module classes and classes without a hash in a type hint.

    `nested` tells that one without a hash stands inside a container, `union` that a value
    may be something else as well.
    """

    arrays: tuple[Any, ...] = ()
    modules: tuple[type, ...] = ()
    unhashable: tuple[type, ...] = ()
    nested: bool = False
    union: bool = False

    @property
    def trainable(self) -> bool:
        """Whether an array in it may be trained: integers, booleans and keys are not."""
        return not self.arrays or any(map(_is_trainable, self.arrays))


def held_types(hint: Any, scope: Scope) -> Held:
    """What a value of a type holds; strings in it are read in `scope`.

    A union that takes numpy's scalar types is an `ArrayLike`, which is written where a
    number is as welcome as an array: it holds no arrays.
    """
    found = _Walk(scope)
    found.enter(hint)
    return Held(
        arrays=tuple(dict.fromkeys(found.arrays)),
        modules=tuple(dict.fromkeys(found.modules)),
        unhashable=tuple(dict.fromkeys(found.unhashable)),
        nested=found.nested,
        union=found.union,
    )


class _Walk:
    """A walk through one hint; `entered` ends it where an alias names itself."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.arrays: list[Any] = []
        self.modules: list[type] = []
        self.unhashable: list[type] = []
        self.nested = False
        self.union = False
        self.depth = 0  # how many containers stand around what is entered
        self.entered: list[Any] = []

    def enter(self, hint: Any) -> None:
        head = get_origin(hint) or hint
        if isinstance(hint, ForwardRef | str):
            self._enter_text(hint if isinstance(hint, str) else hint.__forward_arg__)
        elif head is Union or head is types.UnionType:
            self._enter_union(get_args(hint))
        elif head is Annotated or head is Final:
            self._enter_all(get_args(hint)[:1])
        elif isinstance(head, ALIAS_TYPES):
            self._enter_alias(hint, head)
        elif isinstance(head, NewType):
            self.enter(head.__supertype__)
        elif isinstance(head, TypeVar):
            self._enter_all(head.__constraints__ or (head.__bound__,))
        elif (leaf := pytree_leaf_hint(hint)) is not None:
            self.enter(leaf)
        elif isinstance(head, type):
            self._enter_class(hint, head)

    def _enter_all(self, hints: Iterable[Any]) -> None:
        for hint in hints:
            self.enter(hint)

    def _enter_class(self, hint: Any, head: type) -> None:
        if is_array_hint(head) or issubclass(head, jax.Array | np.ndarray):
            self.arrays.append(hint)
        elif issubclass(head, eqx.Module):
            self.modules.append(head)
        else:
            if _has_no_hash(cast(Any, head)):
                self.unhashable.append(cast(Any, head))
                self.nested |= self.depth > 0
            if head in _CONTAINERS:
                self._enter_container(get_args(hint))

    def _enter_container(self, contents: tuple[Any, ...]) -> None:
        self.depth += 1
        self._enter_all(contents)
        self.depth -= 1

    def _enter_union(self, members: tuple[Any, ...]) -> None:
        self.union = True
        known = len(self.arrays)
        self._enter_all(members)
        if any(isinstance(member, type) and _is_scalar(member) for member in members):
            del self.arrays[known:]

    def _enter_alias(self, alias: Any, head: Any) -> None:
        if any(head is entered for entered in self.entered):
            return
        self.entered.append(head)
        try:
            value = alias_value(alias)
        except NameError:  # it names what does not exist yet
            return
        self.enter(value)

    def _enter_text(self, text: str) -> None:
        tree = parse(text)
        if tree is None or text in self.entered:
            return
        self.entered.append(text)
        try:
            value = evaluate(tree, self.scope)
        except UnresolvedError:
            return
        self.enter(value)


def _has_no_hash(cls: Any) -> bool:
    """Whether no value of a class has a hash.

    Of an abstract class, subclasses may have one, as numpy's scalars do: `np.number`.
    """
    if cls in _CONTAINERS or issubclass(cls, np.generic):
        return cls in _MUTABLE
    abstract = inspect.isabstract(cls) or typing_extensions.is_protocol(cls)
    return cls.__hash__ is None and not abstract


def _is_trainable(hint: Any) -> bool:
    """Whether an array of some type may have a gradient, as far as the type tells."""
    if is_array_hint(hint):
        names: Any = dtype_names(hint)
        # What takes every dtype (`Shaped`) names none.
        return not isinstance(names, tuple) or any(map(_is_inexact, cast(Any, names)))
    dtypes = [get_args(dtype) for dtype in get_args(hint)[1:]]  # ndarray[..., dtype[...]]
    scalars = [one for found in dtypes for one in found if isinstance(one, type)]
    return not any(issubclass(one, np.integer | np.bool_) for one in scalars)


def _is_inexact(dtype: object) -> bool:
    """A pattern, which jaxtyping takes as well, may fit anything."""
    exact = ("int", "uint", "bool", "prng_key")
    return not (isinstance(dtype, str) and dtype.startswith(exact))


def _is_scalar(member: type) -> bool:
    return not is_array_hint(member) and issubclass(member, np.generic)
