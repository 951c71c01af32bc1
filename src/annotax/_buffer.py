"""How a `Buffer` field keeps gradients out: it stops them where a value enters.

The slot is a data descriptor, so it sees the assignment in `__init__` and every
unflatten. Flattening and JAX never see it. Stopping on *read* instead was tried and
rejected: two reads would be two objects, and `equinox.tree_at` compares by identity.
Outside of tracing nothing happens at all, and whatever is not a traced array passes
through as the same object.
"""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any, cast
from weakref import WeakValueDictionary

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from ._compat import ArrayImpl, instance_dict, tree_flatten

_PASSING: frozenset[type[Any]] = frozenset(
    {ArrayImpl, np.ndarray, jax.ShapeDtypeStruct, type(None), bool, int, float, object}
    | {PartitionSpec, NamedSharding}
)


_stopped: WeakValueDictionary[int, Any] = WeakValueDictionary()
"""The traced arrays that were made here, by their `id`, as long as they live."""

_lax: Any = jax.lax  # its types are partly unknown


def stop_gradient(value: Any) -> Any:
    """`value` with the gradient of every traced array in it stopped.

    What was stopped once stays the same object when it enters again: in the same trace
    there is nothing left to stop, and another transformation makes objects of its own.
    """
    if type(value) in _PASSING:
        return value
    if _is_traced_array(value):
        return _stop(value)
    leaves, treedef = tree_flatten(value)
    stopped = [_stop(x) if _is_traced_array(x) else x for x in leaves]
    if all(map(operator.is_, stopped, leaves)):
        return value
    return treedef.unflatten(stopped)


def _stop(array: Any) -> Any:
    if _stopped.get(id(array)) is array:
        return array
    stopped = _lax.stop_gradient(array)
    if _is_traced_array(stopped):  # up to JAX 0.6 it may be a number of numpy
        _stopped[id(stopped)] = stopped
    return stopped


def enter_again(module: object, names: Sequence[str]) -> None:
    """Stop what an `__init__` put into a list or a dictionary after assigning it."""
    values = instance_dict(module)
    for name in names:
        value = values.get(name)
        if isinstance(value, list | dict):
            values[name] = stop_gradient(cast(Any, value))


def _is_traced_array(value: object) -> bool:
    # A mutable array (`jax.new_ref`) is traced too, and is no array.
    return isinstance(value, Tracer) and isinstance(cast(Any, value), jax.Array)


class UnsetField:
    """Stands in a class where a base has a `BufferSlot` that must not act any more.

    It is no data descriptor: an instance's own value is read past it, at full speed.
    """

    __slots__ = ("default", "name")

    def __init__(self, name: str, default: Any = dataclasses.MISSING) -> None:
        self.name = name
        self.default = default

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        # Also asked by `dataclasses`, which takes what a class attribute gives for the
        # default of a field that is annotated again.
        if self.default is not dataclasses.MISSING:
            return self.default
        if instance is not None:
            raise AttributeError(
                f"{type(instance).__name__!r} object has no attribute {self.name!r}"
            )
        # Python passes one of the two.
        name = cast(type, owner).__name__
        raise AttributeError(f"type object {name!r} has no attribute {self.name!r}")


class BufferSlot(UnsetField):
    """The data descriptor of a `Buffer` field: stops gradients on the way in."""

    __slots__ = ()

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        try:
            return instance_dict(instance)[self.name]
        except (KeyError, TypeError):  # unset, or read from the class
            return super().__get__(instance, owner)

    def __set__(self, instance: Any, value: Any) -> None:
        if type(value) is not ArrayImpl and type(value) not in _PASSING:
            value = stop_gradient(value)
        instance_dict(instance)[self.name] = value

    def __delete__(self, instance: Any) -> None:
        try:
            del instance_dict(instance)[self.name]
        except KeyError:
            raise AttributeError(self.name) from None


class RegisteredSlot(BufferSlot):
    """The slot of a field that is a Buffer because somebody registered it as one.

    Registrations may change: what holds now is asked when a traced array enters.
    """

    __slots__ = ("_is_buffer",)

    def __init__(self, name: str, default: Any, *, is_buffer: Callable[[], bool]) -> None:
        super().__init__(name, default)
        self._is_buffer = is_buffer

    def __set__(self, instance: Any, value: Any) -> None:
        if type(value) in _PASSING or self._is_buffer():
            super().__set__(instance, value)
        else:
            instance_dict(instance)[self.name] = value
