"""A tree as an outline: its modules, containers and leaves, nested, with subtotals.

The layout is flat, as optimizers want it. People read models as they nest, so here the
records are hung under the modules they stand in, each array counted once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from ._compat import SharedNode
from ._node import field_value
from ._path import join, segments
from ._records import Record, view_records
from ._registry import class_of, registry
from ._role import PARAM
from ._static import Static
from ._text import value_text
from ._view import View, modules_of


class Constant(NamedTuple):
    """A field of a module that holds no leaf: it is static, or empty (`None`)."""

    name: str
    value: str
    role: str | None
    static: bool = True
    inferred: bool = False


@dataclass(slots=True)
class Node:
    """A module, a container or a leaf, and what is in it.

    `name` leads here from the node above it in the outline: containers that only lengthen
    names are no nodes of their own. `parameters` are the elements of Params, `bytes` those
    of all arrays; an array in several places counts in the first, and as parameters where
    it is first a Param.
    """

    path: str
    name: str = ""
    cls: str = ""
    """The class of a module, or of a leaf that is no array; empty for a container."""
    is_module: bool = False
    constants: tuple[Constant, ...] = ()
    record: Record | None = None
    leaf: Any = None
    value: str = ""
    """What a leaf is that is no array."""
    same_as: str | None = None
    """The earlier path of the same array."""
    sharding: str | None = None
    children: list["Node"] = field(default_factory=list["Node"])
    identity: int = 0
    """Of a leaf: equal for the same array in several places."""
    elements: int = 0
    own_bytes: int = 0
    """The size of an array, wherever it counts."""
    parameters: int = 0
    bytes: int = 0


def walk(
    node: Node, depth: int | None = None, level: int = 0
) -> Iterator[tuple[int, Node]]:
    """A node and those in it with their level, down to a depth if there is one."""
    yield level, node
    if depth is None or level < depth:
        for child in node.children:
            yield from walk(child, depth, level + 1)


def outline(seen: View) -> Node:
    """The outline of a tree already taken apart."""
    trunk = _Branch()
    for node in _in_order(seen):
        trunk.put(segments(node.path), node)
    root = trunk.grown("")
    is_array = isinstance(seen.tree, jax.Array)  # or a tracer: their classes are private
    root.name = "Array" if is_array else class_of(seen.tree).__name__
    root.cls = ""
    return root


# --- what there is -------------------------------------------------------------------


def _in_order(seen: View) -> Iterator[Node]:
    """All modules and leaves as nodes, in the order in which JAX comes across them."""
    modules = _module_nodes(seen)
    starts = [entry.start for entry in seen.layout.modules]
    records = view_records(seen)
    known: dict[int, str] = {}
    params: set[int] = set()
    begun = 0
    for at, (record, leaf) in enumerate(zip(records, seen.leaves, strict=True)):
        while begun < len(modules) and starts[begun] <= at:
            yield modules[begun]
            begun += 1
        node = _leaf_node(record, leaf, known)
        if is_param(record) and node.identity not in params:
            params.add(node.identity)
            node.parameters = node.elements
        yield node
    yield from modules[begun:]


def _module_nodes(seen: View) -> list[Node]:
    layout, instances = seen.layout, modules_of(seen)
    constants: list[list[Constant]] = [[] for _ in layout.modules]
    occupied = {entry.parent for entry in layout.modules}
    for at, entry in enumerate(layout.modules):
        for name, (start, stop) in entry.spans.items():
            if start == stop and (at, name) not in occupied:
                value = value_text(field_value(instances[at], name))
                constants[at].append(Constant(name, value, None, static=False))
    for _, spec, _, (at, name) in layout.statics:
        role = None if spec.role is None else spec.role.name
        value, inferred = _static_text(instances[at], name), spec.origin == "inferred"
        constants[at].append(Constant(name, value, role, inferred=inferred))
    return [
        Node(
            entry.path,
            cls=registry.original(entry.cls).__name__,
            is_module=True,
            constants=tuple(constants[at]),
        )
        for at, entry in enumerate(layout.modules)
    ]


def _static_text(module: Any, name: str) -> str:
    try:
        value = field_value(module, name)
    except AttributeError:
        return "unset"
    return value_text(value.value if type(value) is Static else value)


def _leaf_node(record: Record, leaf: Any, known: dict[int, str]) -> Node:
    """A leaf, its size counted unless the same array came before."""
    node = Node(record.path, record=record, leaf=leaf)
    node.identity = id(node)
    if record.dtype is None:
        node.cls = class_of(leaf).__name__
        is_shared = isinstance(leaf, SharedNode)
        node.value = "taken out by eqx.nn.Shared" if is_shared else value_text(leaf)
        return node
    node.elements = int(record.size)  # shapes of stand-ins may hold numbers of numpy
    node.own_bytes = node.elements * record.dtype.itemsize
    # Two equal stand-ins may be one object and yet mean two arrays.
    if type(leaf) is not jax.ShapeDtypeStruct:
        node.identity = id(leaf)
        first = known.setdefault(id(leaf), record.path)
        node.same_as = None if first == record.path else first
    node.sharding = sharding_text(leaf)
    node.bytes = node.own_bytes if node.same_as is None else 0
    return node


def is_param(record: Record) -> bool:
    """Whether a leaf is an array of parameters, trained or frozen."""
    is_array = record.dtype is not None
    return is_array and record.role is not None and record.role.kind is PARAM


def sharding_text(leaf: Any) -> str | None:
    """How an array is laid out over several devices; `None` if it is on one."""
    sharding: Any = getattr(leaf, "sharding", None)
    if sharding is None or type(sharding) is jax.sharding.SingleDeviceSharding:
        return None
    if len(sharding.device_set) == 1:
        return None
    spec = getattr(sharding, "spec", None)
    return type(sharding).__name__ if spec is None else f"P({', '.join(map(repr, spec))})"


# --- how it nests --------------------------------------------------------------------


class _Branch:
    """One step of the paths that leads further: what stands there, and what is below."""

    __slots__ = ("children", "node")

    def __init__(self) -> None:
        self.node: Node | None = None
        self.children: dict[str, _Branch | Node] = {}

    def put(self, steps: Sequence[str], node: Node) -> None:
        """Put a node where some steps lead to: leaves are ends, and need no branch."""
        branch = self
        for step in steps[:-1]:
            branch = branch.below(step)
        if steps and node.record is not None:
            branch.children[steps[-1]] = node
        else:
            branch = branch.below(steps[-1]) if steps else branch
            branch.node = node

    def below(self, step: str) -> "_Branch":
        """The branch one step further."""
        found = self.children.get(step)
        if not isinstance(found, _Branch):
            found = self.children[step] = _Branch()
        return found

    def grown(self, path: str) -> Node:
        """The node with its children in it, summed up."""
        node = Node(path) if self.node is None else self.node
        for step, child in self.children.items():
            node.children += _shown(child, path, step)
        for child in node.children:
            node.parameters += child.parameters
            node.bytes += child.bytes
        return node


def _shown(branch: _Branch | Node, above: str, name: str) -> list[Node]:
    """The nodes that a branch comes to in the outline: itself, or those in it.

    A list of nodes, or a container of a single thing, only lengthens their names.
    """
    if isinstance(branch, Node):
        branch.name = name
        return [branch]
    if branch.node is None and _only_lengthens(branch):
        inner = branch.children.items()
        below = (_shown(child, above, join(name, step)) for step, child in inner)
        return [node for nodes in below for node in nodes]
    node = branch.grown(join(above, name))
    node.name = name
    return [node]


def _only_lengthens(branch: _Branch) -> bool:
    inner = branch.children
    if len(inner) == 1:
        return True
    is_list = all(map(str.isdigit, inner))
    return is_list and not any(isinstance(child, Node) for child in inner.values())
