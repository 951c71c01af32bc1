"""What a `Hyper` field lets in: values that can be part of a tree structure.

JAX compares static values with `==` and hashes them, and takes `1` and `1.0` for the
same. The check runs as the field's converter, because Equinox calls converters before
it looks at static fields itself, so ours is the first word on a wrong value.
"""

import functools
import inspect
import types
from collections.abc import Callable
from typing import (
    Annotated,
    Any,
    Final,
    ForwardRef,
    NewType,
    Union,
    cast,
    get_args,
    get_origin,
)

import jax
import numpy as np
from jax.core import Tracer

from ._compat import ALIAS_TYPES, alias_value
from ._errors import HyperError, describe, explain_error


class HyperConverter:
    """Runs a field's own converter, then refuses what cannot be static."""

    __slots__ = ("__signature__", "_containers", "_converter", "_late", "hint", "where")

    def __init__(
        self,
        where: str,
        hint: Any,
        annotation: Any,
        converter: Callable[[Any], Any] | None,
        *,
        containers: bool = False,
        late: Callable[[], Any] | None = None,
    ) -> None:
        """`containers`: lists and dictionaries are let in; a slot makes them hashable.

        `late` gives the hint at the first call, if a name in it is missing until then.
        """
        self.where = where
        self.hint = hint
        self._converter = converter
        self._containers = containers
        self._late = late
        # Equinox writes the annotation of a converter's argument into `__init__`.
        self.__signature__ = _signature(annotation, converter)

    def __call__(self, value: Any) -> Any:
        if type(value) is self.hint and self._converter is None and _is_stored(value):
            return value
        if self._converter is not None:
            value = self._converter(value)
        late = self._late
        if late is not None:  # in this order: another thread may be at the same place
            self.hint = late()
            self._late = None
        value = as_number(value, self.hint)
        items = jax.tree_util.tree_leaves(value) if self._containers else [value]
        for item in items:
            refuse_dynamic(self.where, item)
        return value


def _signature(
    annotation: Any, converter: Callable[[Any], Any] | None
) -> inspect.Signature:
    if converter is not None:
        try:
            return inspect.signature(converter)
        except ValueError:  # builtins such as `str` have none
            annotation = Any
    kind = inspect.Parameter.POSITIONAL_ONLY
    return inspect.Signature([inspect.Parameter("value", kind, annotation=annotation)])


_NUMBERS: tuple[tuple[type, Any], ...] = (
    (bool, np.bool_),
    (int, bool | np.integer),
    (float, float | int | np.integer | np.floating),
)
"""A hint, and what is turned into a plain number of that type."""

_AS_IT_IS = frozenset({bool, int, str})


def _is_stored(value: Any) -> bool:
    """Whether a value of the hint's own type is stored as it is: nearly all there are."""
    if type(value) is float:
        return bool(value) and value == value  # noqa: PLR0124 -- neither -0.0 nor NaN
    return type(value) in _AS_IT_IS


_CONVERTED: Any = (int, float, np.generic, tuple)
_PLAIN_HINTS = frozenset({bool, int, float, str, Any})


def as_number(value: Any, hint: Any) -> Any:
    """A value as the plain Python number that `hint` asks for, also in tuples.

    An integer for a `float` becomes one, because JAX takes `1` and `1.0` for the same
    static value and would reuse the program of the other. For that reason `-0.0` becomes
    `0.0` as well. Numpy's scalars become plain ones: `np.float32(1)` equals `1.0` too, and
    yet computes in another dtype.
    """
    if not isinstance(value, _CONVERTED):
        return value
    hint = _plain(hint)
    for kind, accepted in _NUMBERS:
        if hint is kind:
            return kind(value) or kind() if isinstance(value, accepted) else value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        options = tuple(map(_plain, arguments))
        return value if type(value) in options else _as_first(value, options)
    if origin is tuple and type(value) is tuple and arguments:
        items = cast(tuple[Any, ...], value)
        each = arguments[:1] * len(items) if arguments[-1] is ... else arguments
        if len(each) == len(items):
            return tuple(map(as_number, items, each))
    return cast(Any, value)


def number_kind(hint: Any) -> type | None:
    """The type of number that a hint asks for, `None` if it asks for no single one."""
    plain = _plain(hint)
    return next((kind for kind, _ in _NUMBERS if kind is plain), None)


def _as_first(value: Any, options: tuple[Any, ...]) -> Any:
    """The value as the first member of a union that changes it, exact numbers first."""
    exact = [kind for kind, _ in _NUMBERS if kind in options]
    candidates = (as_number(value, option) for option in (*exact, *options))
    return next((new for new in candidates if new is not value), value)


def _plain(hint: Any) -> Any:
    """The type behind whatever names or marks it."""
    if isinstance(hint, type) and hint in _PLAIN_HINTS:
        return hint  # nearly all there are
    while True:
        head = get_origin(hint) or hint
        if head is Annotated or head is Final:
            hint = get_args(hint)[0] if get_args(hint) else Any
        elif isinstance(head, ALIAS_TYPES):
            try:
                hint = alias_value(hint)
            except NameError:  # it names what does not exist yet
                return hint
        elif isinstance(hint, NewType):
            hint = hint.__supertype__
        elif isinstance(hint, ForwardRef | str):
            text = hint if isinstance(hint, str) else hint.__forward_arg__
            return {"float": float, "int": int, "bool": bool}.get(text, hint)
        else:
            return hint


_DYNAMIC = jax.Array | np.ndarray | np.generic
_PLAIN = frozenset({bool, int, float, str, type(None)})


def refuse_dynamic(where: str, value: Any) -> None:
    """Refuse a value that JAX could not treat as static.

    **Raises:** `HyperError` for arrays and tracers, for what has no hash, and for what
    does not equal itself, also inside containers.
    """
    if type(value) in _PLAIN and _equals_itself(value):  # nearly all there are
        return
    leaves = _contents(value)
    arrays: list[Any] = [x for x in leaves if isinstance(x, _DYNAMIC)]
    if arrays:
        raise HyperError(_array_message(where, value, arrays[0]))
    try:
        hash(value)
    except TypeError as error:
        raise HyperError(_hash_message(where, value)) from error
    if not all(_equals_itself(item) for item in (value, *leaves)):
        raise HyperError(
            explain_error(
                where,
                "a Hyper must equal itself, or every call compiles anew",
                expected="a value with `value == value`",
                found=f"{describe(value)} that is or holds one unequal to itself (a NaN?)",
                fix="use None for 'not given'",
            )
        )


def why_not_static(value: Any) -> str | None:
    """In a few words why a value cannot be static; `None` if it can."""
    try:
        refuse_dynamic("", value)
    except HyperError as error:
        return str(error).partition("\n")[0].removeprefix(": ")
    return None


def _contents(value: Any) -> list[Any]:
    """The leaves of a value, also of those that hide in functions and frozen sets."""
    if isinstance(value, functools.partial):
        whole = cast("functools.partial[Any]", value)
        return _contents((whole.func, whole.args, whole.keywords))
    if isinstance(value, types.MethodType):
        return _contents(value.__self__)
    leaves: list[Any] = []
    for leaf in jax.tree_util.tree_leaves(value):
        hides = isinstance(leaf, functools.partial | types.MethodType) and leaf is not value
        leaves += _contents(leaf) if hides else [leaf]
        leaves += cast("frozenset[Any]", leaf) if isinstance(leaf, frozenset) else ()
    return leaves


def _equals_itself(value: Any) -> bool:
    try:
        return bool(value == value)  # noqa: PLR0124 -- that is the question
    except Exception:
        return False


def _array_message(where: str, value: object, array: Any) -> str:
    kind = "a traced array" if isinstance(array, Tracer) else "an array"
    source = "" if isinstance(array, jax.Array) else " of numpy"
    shape = ",".join(map(str, array.shape))
    inside = "" if value is array else f" inside {describe(value)}"
    return explain_error(
        where,
        f"{kind} cannot be a Hyper",
        expected="a hashable Python value, part of the tree structure",
        found=f"{kind}{source} {array.dtype}[{shape}]{inside}",
        fix="did you mean Buffer (an array that no gradient reaches) or Param? "
        "For a number, pass float(...) or int(...) of it",
    )


_HASHABLE_TWINS: dict[type[Any], str] = {
    list: "use a tuple",
    set: "use a frozenset",
    dict: "use a tuple of pairs, or a frozen dataclass",
    bytearray: "use bytes",
}


def _is_mutable(value: object) -> bool:
    return isinstance(value, tuple(_HASHABLE_TWINS))


def _has_no_hash(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return True
    return False


def _hash_message(where: str, value: Any) -> str:
    leaves = jax.tree_util.tree_leaves(value, is_leaf=_is_mutable)
    culprit = next(filter(_has_no_hash, leaves), value)
    mutable = [kind for kind in _HASHABLE_TWINS if isinstance(culprit, kind)]
    more = "" if mutable else " that has no hash, or holds something that has none"
    if culprit is not value:
        more = f" inside {describe(value)}"
    return explain_error(
        where,
        "a mutable or unhashable value cannot be a Hyper",
        expected="a hashable value: JAX keeps it in the tree structure",
        found=f"{describe(culprit)}{more}",
        fix=_HASHABLE_TWINS[mutable[0]]
        if mutable
        else "use a tuple, or a frozen dataclass",
    )
