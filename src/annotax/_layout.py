"""The layout: what the classes of a tree say of each of its leaves and static fields.

Filters, leaves, labels and all other views read layouts, which `_traverse` makes. A layout
depends on the classes and keys in a tree, never on values, and not on the values of static
fields either.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from ._axes import Axes
from ._compat import (
    ARRAY_TYPES,
    ArrayImpl,
)
from ._field import FieldSpec, Origin
from ._leaves import LeafKey
from ._role import BUFFER, PARAM, Role


class Entry(NamedTuple):
    """What the classes say of one leaf.

    `role` is `None` if no field on the way to the leaf has one; then the leaf decides
    (see `leaf_role`). `fields` are the fields on the way, outermost first; `owner` is
    the class of the module that holds the innermost. `opaque_role` is the role if the
    leaf is no array, where that is another. `home` is the field of the innermost module
    on the way; `unit` the one at which the leaf can be frozen.
    """

    path: str
    axes: Axes | None
    role: Role | None
    origin: Origin
    owner: type | None
    fields: tuple[FieldSpec, ...]
    tags: frozenset[str]
    persistent: bool
    opaque_role: Role | None
    frozen: bool
    stopped: bool
    home: "Home | None"
    unit: "Home | None"
    decider: FieldSpec | None

    @property
    def spec(self) -> FieldSpec | None:
        """The innermost field on the way."""
        return self.fields[-1] if self.fields else None


Home = tuple[int, str]
"""A field of a module: the module's position in `Layout.modules`, the field's name."""


class ModuleEntry(NamedTuple):
    """An Equinox module in a tree.

    `parent` is the field that it stands in; `start` is the position of the first leaf that
    comes after it begins; `spans` are the positions of the leaves in each of its fields
    that is set and not static, from the first to behind the last.
    """

    path: str
    cls: type
    parent: Home | None
    start: int
    spans: dict[str, tuple[int, int]]


class StaticEntry(NamedTuple):
    """A static field: no leaf, but part of the structure. `home` says where it stands."""

    path: str
    spec: FieldSpec
    owner: type
    home: Home


@dataclass(frozen=True)
class Layout:
    """All entries of one tree structure, in the order in which JAX flattens it."""

    entries: tuple[Entry, ...]
    statics: tuple[StaticEntry, ...]
    modules: tuple[ModuleEntry, ...]
    hash_tells: bool = False
    """Whether a layout depends on nothing that the hash of a structure leaves out."""

    @cached_property
    def may_train(self) -> tuple[bool, ...]:
        """Per leaf, whether it is trainable if it is an inexact array."""
        return tuple(
            not e.frozen and (e.role is None or e.role.kind is PARAM) for e in self.entries
        )

    @cached_property
    def paths(self) -> dict[str, int]:
        """Path to position."""
        return {entry.path: at for at, entry in enumerate(self.entries)}

    def key(self, at: int, leaf: Any) -> LeafKey:
        """What `Leaves` keep of a leaf."""
        entry = self.entries[at]
        role = leaf_role(entry, leaf)
        return LeafKey(entry.path, role, entry.tags, entry.axes, entry.persistent)


# --- leaves --------------------------------------------------------------------------


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array: of JAX or numpy, traced, or a `ShapeDtypeStruct`."""
    return type(leaf) is ArrayImpl or isinstance(leaf, ARRAY_TYPES)


_inexact_dtypes: dict[Any, bool] = {}


def is_inexact_array(leaf: Any) -> bool:
    """Whether a leaf is an array of floating point or complex numbers."""
    if type(leaf) is not ArrayImpl and not isinstance(leaf, ARRAY_TYPES):
        return False
    dtype = leaf.dtype
    inexact = _inexact_dtypes.get(dtype)
    if inexact is None:
        inexact = bool(jax.numpy.issubdtype(dtype, np.inexact))
        _inexact_dtypes[dtype] = inexact
    return inexact


def leaf_role(entry: Entry, leaf: Any) -> Role | None:
    """The role of a leaf: what its classes say, or else Equinox's convention.

    Undeclared, an inexact array is a Param and another array a Buffer; anything else is
    opaque and has none.
    """
    if entry.opaque_role is not None and not is_array(leaf):
        return entry.opaque_role
    if entry.role is not None:
        return entry.role
    if not is_array(leaf):
        return None
    return PARAM if is_inexact_array(leaf) else BUFFER
