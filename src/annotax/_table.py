"""An outline as a table: its rows.

Plain text, colours in a terminal and HTML are made from the same rows, so what is shown
does not depend on what shows it. Equal neighbours are folded into one: a hundred layers
are one line with `×100`, and their contents are shown once.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ._axes import is_variadic
from ._field import is_buffer
from ._outline import Node
from ._path import segments
from ._records import Record
from ._text import (
    array_text,
    bytes_text,
    count_text,
)

Piece = tuple[str, str]
"""A text and its style: the name of a role, `frozen`, `class`, `dim`, `head` or nothing."""

Line = list[Piece]

MARKS = {
    "?": "nobody says a role: Equinox's convention",
    "~": "inferred by adopt",
    "!": "only registered: adopt makes it so",
    "=": "the same array as there, counted once",
    "×": "equal neighbours: the line counts all, its contents are those of one",
}
_FOLDED = 3
"""So many equal neighbours are shown as one."""


class Cells(NamedTuple):
    """One row, its columns not yet fitted: `what` follows `cls` or stands in a column."""

    guide: str
    name: str
    cls: str
    role: str
    style: str
    what: str
    parameters: str
    bytes: str
    is_leaf: bool
    marks: str


def rows(root: Node, depth: int | None) -> list[Cells]:
    """The rows of an outline, down to a depth, equal neighbours folded."""
    found = _Rows(depth)
    found.add(root, "", "", 1)
    return found.cells


def role_text(record: Record) -> str:
    """A role with its marks: `param`, `lora (param)`, `param frozen`, `param ?`."""
    role = record.role
    if role is None:
        return "opaque"
    text = role.name if role.parent is None else f"{role.name} ({role.kind.name})"
    return " ".join([text, *["frozen"] * record.frozen, *_marks(record)])


def _marks(record: Record) -> str:
    if record.role is None:
        return ""
    only_registered = record.origin == "registered" and not record.enforced
    return "?" * record.undeclared + "~" * record.inferred + "!" * only_registered


def role_style(record: Record) -> str:
    """The name of the colour for a leaf."""
    if record.frozen and not is_buffer(record.role):
        return "frozen"
    return "opaque" if record.role is None else record.role.kind.name


def leaf_text(node: Node, record: Record) -> str:
    """What a leaf is: `f32[8,2] out_features in_features`."""
    if record.dtype is None:
        return node.value
    parts = [array_text(record.shape, record.dtype)]
    if node.same_as is not None:
        parts.append(f"= {node.same_as}")
    if node.sharding is not None:
        parts.append(node.sharding)
    if record.axes:
        # Leading axes that nobody names: a stacked model has them.
        more = 0 if any(map(is_variadic, record.axes)) else record.ndim - len(record.axes)
        parts.append(" ".join(["_"] * more + [axis or "_" for axis in record.axes]))
    return " ".join(parts)


def constants_text(node: Node) -> str:
    """The fields of a module without leaves: `size=4, bias=None, function~=tanh`."""
    return ", ".join([f"{c.name}{'~' * c.inferred}={c.value}" for c in node.constants])


class _Rows:
    """The rows of nodes; what two neighbours would look like decides if they are equal."""

    def __init__(self, depth: int | None) -> None:
        self.cells: list[Cells] = []
        self._depth = depth
        self._looks: dict[tuple[object, ...], int] = {}
        self._look_of: dict[int, int] = {}
        self._texts: dict[int, tuple[str, str]] = {}

    def add(self, node: Node, guide: str, below: str, times: int) -> None:
        """Add a node and those in it; `below` continues the guide for its children."""
        self.cells.append(self._cells(node, guide, times))
        level = len(below) // 2
        if self._depth is not None and level >= self._depth:
            return
        runs = self._runs(node.children)
        for at, run in enumerate(runs, start=1):
            first = run[0] if len(run) == 1 else _folded(run)
            end, inner = ("├ ", "│ ") if at < len(runs) else ("└ ", "  ")
            self.add(first, below + end, below + inner, len(run))

    def _runs(self, nodes: Sequence[Node]) -> list[list[Node]]:
        """Neighbours that look the same and are numbered on, together if they are many."""
        runs: list[list[Node]] = []
        for node in nodes:
            if runs and self._goes_on(runs[-1][-1], node):
                runs[-1].append(node)
            else:
                runs.append([node])
        folded: list[list[Node]] = []
        for run in runs:
            folded += [run] if len(run) >= _FOLDED else [[node] for node in run]
        return folded

    def _goes_on(self, before: Node, after: Node) -> bool:
        # Cheap first: most neighbours differ in size, or are not numbered.
        return (
            before.bytes == after.bytes
            and before.parameters == after.parameters
            and _is_next(before.name, after.name)
            and self._look(before) == self._look(after)
        )

    def _look(self, node: Node) -> int:
        """A number that is the same for nodes that look the same but for their name."""
        known = self._look_of.get(id(node))
        if known is None:
            inner = tuple((child.name, self._look(child)) for child in node.children)
            look = (node.cls, self._text(node), node.parameters, node.bytes, inner)
            known = self._looks.setdefault(look, len(self._looks))
            self._look_of[id(node)] = known
        return known

    def _text(self, node: Node) -> tuple[str, str]:
        """The role and what else there is to say, made once: both are asked for twice."""
        texts = self._texts.get(id(node))
        if texts is None:
            texts = self._texts[id(node)] = _texts(node)
        return texts

    def _cells(self, node: Node, guide: str, times: int) -> Cells:
        repeated = f" ×{times}" if times > 1 else ""
        marks = "×" * bool(repeated) + "=" * bool(node.same_as)
        record = node.record
        role, what = self._text(node)
        numbers = (
            count_text(node.parameters) if node.parameters else "",
            bytes_text(node.bytes) if node.bytes else "",
        )
        if record is None:
            marks += "~" * any(constant.inferred for constant in node.constants)
            left = (guide, node.name, node.cls + repeated, role, "", what)
            return Cells(*left, *numbers, is_leaf=False, marks=marks)
        left = (guide, node.name + repeated, "", role, role_style(record), what)
        return Cells(*left, *numbers, is_leaf=True, marks=marks + _marks(record))


def _is_next(one: str, other: str) -> bool:
    """Whether two names are numbered, one after the other: `layers.1`, `layers.2`."""
    if not other[-1:].isdigit():
        return False
    first, second = segments(one), segments(other)
    if first[:-1] != second[:-1] or not (first[-1].isdigit() and second[-1].isdigit()):
        return False
    return int(first[-1]) + 1 == int(second[-1])


def _folded(run: list[Node]) -> Node:
    """One node for a run of equal ones: the first one's contents, the sums of all."""
    first, last = run[0], run[-1]
    return Node(
        first.path,
        name=f"{first.name}–{segments(last.name)[-1]}",
        cls=first.cls,
        is_module=first.is_module,
        constants=first.constants,
        record=first.record,
        leaf=first.leaf,
        value=first.value,
        sharding=first.sharding,
        children=first.children,
        parameters=sum(node.parameters for node in run),
        bytes=sum(node.bytes for node in run),
    )


def _texts(node: Node) -> tuple[str, str]:
    record = node.record
    if record is None:
        return "", constants_text(node)
    return role_text(record), leaf_text(node, record)


def marks(cells: Sequence[Cells]) -> list[Piece]:
    """What the marks in some rows mean."""
    used = {mark for row in cells for mark in row.marks}
    return [(f"{mark} {meaning}", "dim") for mark, meaning in MARKS.items() if mark in used]
