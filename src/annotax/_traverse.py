"""The traversal: a tree and what its classes say → a layout.

It is the only one of annotax, and visits a tree once per structure.
"""

import dataclasses
from typing import Any, NamedTuple

import jax

from ._compat import HASH_COVERS_NODES, ArrayImpl, EquinoxMeta, children, instance_dict
from ._errors import StructureError, explain_error, listing
from ._field import FieldSpec, Origin
from ._layout import Entry, Home, Layout, ModuleEntry, StaticEntry, is_array
from ._leaves import Leaves
from ._path import join, steps_of
from ._registry import registry
from ._role import BUFFER, Role
from ._specs import content_spec, field_specs


class _Way(NamedTuple):
    """What the fields from the root to here say together."""

    role: Role | None = None
    origin: Origin = "undeclared"
    owner: type | None = None
    fields: tuple[FieldSpec, ...] = ()
    tags: frozenset[str] = frozenset()
    persistent: bool = True
    opaque_role: Role | None = None
    frozen: bool = False
    stopped: bool = False
    home: Home | None = None
    unit: Home | None = None
    decider: FieldSpec | None = None

    def into(self, spec: FieldSpec, owner: type, home: Home | None) -> "_Way":
        """The way one field further; `home` if it is a field of a module."""
        role, origin, opaque_role = self.role, self.origin, self.opaque_role
        decider = self.decider
        if spec.role is None:
            origin = origin if role is not None else spec.origin
        elif _prevails(spec.role, role):
            role, origin, opaque_role, decider = spec.role, spec.origin, None, spec
        if spec.opaque_role is not None and _prevails(spec.opaque_role, self.role):
            opaque_role = spec.opaque_role
        # Whatever stands in such a field is frozen there or not at all.
        in_whole = any(field.whole for field in self.fields)
        return _Way(
            role=role,
            origin=origin,
            owner=owner,
            fields=(*self.fields, spec),
            tags=self.tags | spec.tags if spec.tags else self.tags,
            persistent=self.persistent and spec.persistent,
            opaque_role=opaque_role,
            frozen=self.frozen or spec.frozen,
            stopped=self.stopped or spec.stopped,
            home=self.home if home is None else home,
            unit=self.unit if in_whole or home is None else home,
            decider=decider,
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
        self.modules: list[ModuleEntry] = []
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
        self.entries.append(Entry(path, axes, *way))

    def _module(self, node: object, path: str, way: _Way) -> None:
        values, cls, at = instance_dict(node), type(node), len(self.modules)
        owner = registry.original(cls)
        spans: dict[str, tuple[int, int]] = {}
        self.modules.append(ModuleEntry(path, cls, way.home, len(self.entries), spans))
        for spec in field_specs(cls):
            name = spec.name
            inner = join(path, name)
            if spec.static:
                self.statics.append(StaticEntry(inner, spec, owner, (at, name)))
            elif name in values:
                start = len(self.entries)
                self.visit(values[name], inner, way.into(spec, owner, (at, name)))
                spans[name] = (start, len(self.entries))

    def _leaves(self, node: Leaves, path: str, way: _Way) -> None:
        """The keys of `Leaves` know what their classes said; the way adds to it."""
        self.hash_tells = False
        for key, child in zip(node.static.keys, node.values(), strict=True):
            start = len(self.entries)
            self.visit(child, join(path, key.path), way)
            for at in range(start, len(self.entries)):
                entry = self.entries[at]
                role, origin, decider = entry.role, entry.origin, entry.decider
                if key.role is not None and _prevails(key.role, role):
                    role, origin, decider = key.role, "declared", None
                self.entries[at] = entry._replace(
                    role=role,
                    origin=origin,
                    decider=decider,
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
        cls: type = type(node)
        specs, contents = _dataclass_specs(cls), content_spec(cls)
        for (_, child), step in zip(
            pairs, steps_of([key for key, _ in pairs]), strict=True
        ):
            spec = specs.get(step, contents)
            further = way if spec is None else way.into(spec, cls, None)
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
    return Layout(
        tuple(entries),
        tuple(traversal.statics),
        tuple(traversal.modules),
        traversal.hash_tells,
    )
