"""The layout: what the classes of a tree say of each of its leaves and static fields.

Here is the only traversal of annotax. It visits a tree once per structure; filters,
leaves, labels and all other views read the result. A layout depends on the classes and
keys in a tree, never on values, and not on the values of static fields either.
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from ._axes import Axes
from ._compat import (
    ARRAY_TYPES,
    HASH_COVERS_NODES,
    ArrayImpl,
    EquinoxMeta,
    children,
    instance_dict,
)
from ._errors import StructureError, explain_error, listing
from ._field import FieldSpec, Origin
from ._leaves import LeafKey, Leaves
from ._path import join, steps_of
from ._role import BUFFER, PARAM, Role
from ._specs import field_specs


class Entry(NamedTuple):
    """What the classes say of one leaf.

    `role` is `None` if no field on the way to the leaf has one; then the leaf decides
    (see `leaf_role`). `fields` are the fields on the way, outermost first; `owner` is
    the class of the module that holds the innermost.
    """

    path: str
    role: Role | None
    origin: Origin
    owner: type | None
    fields: tuple[FieldSpec, ...]
    tags: frozenset[str]
    axes: Axes | None
    persistent: bool

    @property
    def spec(self) -> FieldSpec | None:
        """The innermost field on the way."""
        return self.fields[-1] if self.fields else None


class StaticEntry(NamedTuple):
    """A static field: no leaf, but part of the structure."""

    path: str
    spec: FieldSpec
    owner: type


@dataclass(frozen=True)
class Layout:
    """All entries of one tree structure, in the order in which JAX flattens it."""

    entries: tuple[Entry, ...]
    statics: tuple[StaticEntry, ...]
    hash_tells: bool = False
    """Whether a layout depends on nothing that the hash of a structure leaves out."""

    @cached_property
    def may_train(self) -> tuple[bool, ...]:
        """Per leaf, whether it is trainable if it is an inexact array."""
        return tuple(e.role is None or e.role.kind is PARAM for e in self.entries)

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
    if entry.role is not None:
        return entry.role
    if not is_array(leaf):
        return None
    return PARAM if is_inexact_array(leaf) else BUFFER


# --- the traversal -------------------------------------------------------------------


class _Way(NamedTuple):
    """What the fields from the root to here say together."""

    role: Role | None = None
    origin: Origin = "undeclared"
    owner: type | None = None
    fields: tuple[FieldSpec, ...] = ()
    tags: frozenset[str] = frozenset()
    persistent: bool = True

    def into(self, spec: FieldSpec, owner: type) -> "_Way":
        """The way one field further."""
        role, origin = self.role, self.origin
        if spec.role is not None and _prevails(spec.role, role):
            role, origin = spec.role, spec.origin
        return _Way(
            role=role,
            origin=origin,
            owner=owner,
            fields=(*self.fields, spec),
            tags=self.tags | spec.tags if spec.tags else self.tags,
            persistent=self.persistent and spec.persistent,
        )


def _prevails(inner: Role, outer: Role | None) -> bool:
    """Whether the role of an inner field counts against what is around it."""
    if outer is None:
        return True
    if (inner.kind is BUFFER) != (outer.kind is BUFFER):
        return inner.kind is BUFFER
    return inner.depth >= outer.depth


class _Traversal:
    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.statics: list[StaticEntry] = []
        self.hash_tells = HASH_COVERS_NODES

    def visit(self, node: Any, path: str, way: _Way) -> None:
        """Visit a node in JAX's order: a leaf becomes an entry, a field changes the way."""
        cls: type = type(node)  # pyright: ignore[reportUnknownVariableType] -- of Any
        if node is None:
            return
        if cls is ArrayImpl:
            self._leaf(path, way)
        elif isinstance(cls, EquinoxMeta):
            self._module(node, path, way)
        elif cls is list or cls is tuple:
            for at, child in enumerate(node):
                self.visit(child, join(path, str(at)), way)
        elif cls is dict:
            self.hash_tells = False
            keys = sorted(node)
            for key, step in zip(keys, steps_of(keys), strict=True):
                self.visit(node[key], join(path, step), way)
        elif cls is Leaves:
            self._leaves(node, path, way)
        else:
            self._other(node, path, way)

    def _leaf(self, path: str, way: _Way) -> None:
        axes = way.fields[-1].axes if way.fields else None
        self.entries.append(
            Entry(
                path,
                way.role,
                way.origin,
                way.owner,
                way.fields,
                way.tags,
                axes,
                way.persistent,
            )
        )

    def _module(self, node: object, path: str, way: _Way) -> None:
        values, cls = instance_dict(node), type(node)
        for spec in field_specs(cls):
            inner = join(path, spec.name)
            if spec.static:
                self.statics.append(StaticEntry(inner, spec, cls))
            elif spec.name in values:
                self.visit(values[spec.name], inner, way.into(spec, cls))

    def _leaves(self, node: Leaves, path: str, way: _Way) -> None:
        """The keys of `Leaves` know what their classes said; the way adds to it."""
        self.hash_tells = False
        for key, child in zip(node.static.keys, node.values(), strict=True):
            start = len(self.entries)
            self.visit(child, join(path, key.path), way)
            for at in range(start, len(self.entries)):
                entry = self.entries[at]
                role, origin = entry.role, entry.origin
                if key.role is not None and _prevails(key.role, role):
                    role, origin = key.role, "declared"
                self.entries[at] = entry._replace(
                    role=role,
                    origin=origin,
                    tags=entry.tags | key.tags,
                    axes=key.axes,
                    persistent=entry.persistent and key.persistent,
                )

    def _other(self, node: object, path: str, way: _Way) -> None:
        """Any other PyTree node, or a leaf, which is a node without children."""
        pairs = [] if is_array(node) else children(node)
        if not pairs and (is_array(node) or jax.tree_util.all_leaves([node])):
            self._leaf(path, way)
            return
        self.hash_tells = False
        specs = _dataclass_specs(type(node))
        for (_, child), step in zip(
            pairs, steps_of([key for key, _ in pairs]), strict=True
        ):
            spec = specs.get(step)
            further = way if spec is None else way.into(spec, type(node))
            self.visit(child, join(path, step), further)


def _dataclass_specs(cls: type) -> dict[str, FieldSpec]:
    """The specs of a dataclass that is a PyTree but no Equinox module."""
    specs = field_specs(cls) if dataclasses.is_dataclass(cls) else ()
    return {spec.name: spec for spec in specs}


def traverse(tree: Any, treedef: Any) -> Layout:
    traversal = _Traversal()
    traversal.visit(tree, "", _Way())
    entries = traversal.entries
    if len(entries) != treedef.num_leaves:
        raise StructureError(
            explain_error(
                type(tree).__name__,
                "the fields of its classes do not account for its leaves",
                expected=f"{treedef.num_leaves} leaves, as JAX counts them",
                found=f"{len(entries)}: {listing(entry.path for entry in entries)}",
                fix="a module class registered as a PyTree in its own way is not supported",
            )
        )
    return Layout(tuple(entries), tuple(traversal.statics), traversal.hash_tells)
