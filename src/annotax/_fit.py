"""The rows of a table as lines of styled pieces, fitted to a width.

Stands apart from the rows because all that is cut off or wrapped is so here.
"""

import textwrap
from collections.abc import Sequence

from ._table import Cells, Line, Piece
from ._text import columns, padded, shorten, shorten_front

_SHAPE = 16
"""So many characters of what a leaf is are kept, however long the names are."""

_NAME = 6
"""So many characters of the name of a leaf are kept, however deep it is."""

_CLASS = 16
"""So many characters of the class of a module are kept, however long its name is."""


def lines(cells: Sequence[Cells], width: int) -> list[Line]:
    """The rows as lines that are no longer than `width`, under a line of headings."""
    fit = _Fit(cells, width)
    return [[(fit.line(0, "params", "bytes"), "head")], *map(fit.row, cells)]


class _Fit:
    """The widths of the columns: names come first, but what a leaf is must not vanish.

    In what is nested so deeply that guides would take all the room, they begin with `…`.
    """

    def __init__(self, cells: Sequence[Cells], width: int) -> None:
        leaves = [c for c in cells if c.is_leaf]
        self._count = max(6, *(len(c.parameters) for c in cells))
        self._bytes = max(5, *(len(c.bytes) for c in cells))
        self._left = max(width - self._count - self._bytes - 4, 20)
        self._guide = self._left // 4 * 2
        roles = max((columns(c.role) for c in leaves), default=0)
        self._role = min(roles, max(self._left // 3, 12))
        self._roles: dict[str, str] = {}
        what = max((len(c.what) for c in leaves), default=0)
        names = (min(len(c.guide), self._guide) + columns(c.name) for c in leaves)
        names = max(names, default=0)
        most = self._left - self._role - min(what, _SHAPE) - 4
        self._name = min(names, max(most, self._left // 3))

    def line(self, used: int, count: str, size: str) -> str:
        """The rest of a line, with its numbers at the right."""
        end = self._left + 2 + self._count
        return f"{count.rjust(end - used)}  {size.rjust(self._bytes)}"

    def row(self, row: Cells) -> Line:
        """One row, what is too long cut off."""
        guide = row.guide
        if len(guide) > self._guide:
            guide = f"… {guide[2 - self._guide :]}"
        room = self._left - len(guide)
        left = self._leaf(row, room) if row.is_leaf else self._node(row, room)
        used = len(guide) + sum([columns(text) for text, _ in left])
        return [(guide, "dim"), *left, (self.line(used, row.parameters, row.bytes), "")]

    def _leaf(self, row: Cells, room: int) -> Line:
        column = self._name + room - self._left
        name = padded(shorten_front(row.name, max(column, min(_NAME, room))), column)
        room -= columns(name)
        role = self._roles.get(row.role)
        if role is None:  # there are few, and many leaves
            role = padded(f"  {shorten(row.role, self._role)}", self._role + 2)
            self._roles[row.role] = role
        if self._role + 4 >= room:
            return [(name, ""), (shorten(role, room), row.style)]
        what = shorten(row.what, room - self._role - 4)
        return [(name, ""), (f"{role}  ", row.style), (what, "")]

    def _node(self, row: Cells, room: int) -> Line:
        kept = min(len(row.cls) + 1, _CLASS) if row.cls else 0
        pieces: Line = [(shorten_front(row.name, max(room - kept, 1)), "")]
        room -= columns(pieces[0][0])
        for text, style in ((row.cls, "class"), (row.what, "dim")):
            if text and room > 2:
                pieces.append((f" {shorten(text, room - 1)}", style))
                room -= columns(pieces[-1][0])
        return pieces


def wrapped(piece: Piece, width: int, indent: str) -> list[Line]:
    """A piece as lines of at most `width`, those behind the first indented."""
    text, style = piece
    texts = textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)
    return [[(line, style)] for line in texts]


def plain(line: Line) -> str:
    """A line without its styles."""
    return "".join([text for text, _ in line]).rstrip()


def trimmed(line: Line) -> Line:
    """A line without the blanks at its end."""
    while line and not line[-1][0].rstrip():
        line = line[:-1]
    return [*line[:-1], (line[-1][0].rstrip(), line[-1][1])] if line else line
