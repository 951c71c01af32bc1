"""Static values that JAX cannot be given as they are: compared exactly, always hashable.

JAX compares static data with `==`, for which `1`, `1.0` and `True` are one value although
they compute in different dtypes, and it hashes them, which a list or a dictionary has no
answer to. `Opaque` compares one leaf exactly; `Static` holds a PyTree of such leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax

from ._buffer import BufferSlot, UnsetField
from ._compat import ARRAY_TYPES, EquinoxMeta, instance_dict, tree_flatten
from ._hyper import number_kind

_jax: Any = jax  # the types of its functions on trees are partly unknown
_NUMBERS = bool | int | float | complex


@dataclass(frozen=True)
class Opaque:
    """A leaf that is no array, compared so that what computes differently is not equal.

    Python has `1 == 1.0 == True`, `0.0 == -0.0` and `nan != nan`: compared are the type,
    and of floating point numbers the text.
    """

    kind: type
    identity: Any
    value: Any = field(compare=False)

    @staticmethod
    def of(leaf: object) -> "Opaque":
        """The leaf in comparable form; it must have a hash."""
        text = repr(leaf) if isinstance(leaf, float | complex) else None
        return Opaque(type(leaf), leaf if text is None else text, leaf)


class Static:
    """A PyTree without arrays as one hashable, immutable value.

    A dictionary in it has its keys in JAX's order, as after any unflatten.
    """

    __slots__ = ("_leaves", "_treedef")

    def __init__(self, value: Any) -> None:
        leaves, self._treedef = tree_flatten(value)
        self._leaves = tuple(map(Opaque.of, leaves))

    @property
    def value(self) -> Any:
        """The PyTree, in containers of its own: changing them changes nothing here."""
        return self._treedef.unflatten(leaf.value for leaf in self._leaves)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Static)
            and self._leaves == other._leaves
            and self._treedef == other._treedef
        )

    def __hash__(self) -> int:
        return hash((self._treedef, self._leaves))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Static, (self.value,))

    def __repr__(self) -> str:
        return repr(self.value)


def _flatten(static: Static) -> tuple[tuple[()], Static]:
    return (), static


def _unflatten(static: Static, _: Any) -> Static:
    return static


# A node without leaves, where it stands among arrays.
_jax.tree_util.register_pytree_node(Static, _flatten, _unflatten)


class StaticSlot(UnsetField):
    """The data descriptor of a field whose value is stored as `Static`, and read plain."""

    __slots__ = ()

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        try:
            stored = instance_dict(instance)[self.name]
        except (KeyError, TypeError):  # unset, or read from the class
            return super().__get__(instance, owner)
        return stored.value if type(stored) is Static else stored

    def __set__(self, instance: Any, value: Any) -> None:
        held = value if type(value) is Static else Static(value)
        instance_dict(instance)[self.name] = held


class MixedSlot(BufferSlot):
    """The data descriptor of a field that holds `Static` nodes among arrays, read plain.

    Values are stored as they come: in a tree of booleans the leaves are no constants.
    """

    __slots__ = ("_stops",)

    def __init__(self, name: str, default: Any, *, stops: Callable[[], bool]) -> None:
        super().__init__(name, default)
        self._stops = stops

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        stored = super().__get__(instance, owner)
        return stored if instance is None else with_plain_items(stored)

    def __set__(self, instance: Any, value: Any) -> None:
        if self._stops():
            super().__set__(instance, value)
        else:
            instance_dict(instance)[self.name] = value


def with_static_items(value: Any) -> Any:
    """The containers of a field with everything static that is neither array nor node."""
    return _map_items(lambda x: x if _is_kept(x) else Static(x), value)


def with_plain_items(value: Any) -> Any:
    """The containers of a field as they were before `with_static_items`."""
    return _map_items(lambda x: x.value if type(x) is Static else x, value)


def _is_kept(leaf: object) -> bool:
    return isinstance(leaf, ARRAY_TYPES) or isinstance(type(leaf), EquinoxMeta)


def _map_items(change: Callable[[Any], Any], value: Any) -> Any:
    """Map over the containers of a field: what is in the modules in it is theirs."""

    def is_item(node: object) -> bool:
        return type(node) is Static or isinstance(type(node), EquinoxMeta)

    return _jax.tree_util.tree_map(change, value, is_leaf=is_item)


def needs_holding(value: Any, hint: Any) -> bool:
    """Whether a static value must be stored as `Static`.

    That is so if it has no hash, and if it is or holds a number of a type that its
    field's hint leaves open.
    """
    try:
        hash(value)
    except TypeError:
        return True
    if isinstance(value, _NUMBERS):
        return type(value) is not number_kind(hint)
    leaves: list[Any] = _jax.tree_util.tree_leaves(value)
    return any(isinstance(leaf, _NUMBERS) for leaf in leaves)
