"""A summary in a notebook: HTML, through treescope where it is installed.

With treescope modules can be folded and arrays unfolded. Without it the HTML is the table,
with the colours that a terminal shows. Loaded when a notebook asks for HTML.
"""

import importlib
import importlib.util
from collections.abc import Iterator
from html import escape
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from ._outline import Node, walk
from ._table import Line, constants_text, leaf_text, marks, role_style, role_text, rows
from ._text import bytes_text, count_text

_COLOURS = {
    "param": "#2a7d3c",
    "frozen": "#1f78b4",
    "buffer": "#a6761d",
    "hyper": "#a03a8c",
    "opaque": "#777777",
    "dim": "#777777",
    "head": "#777777",
}
"""Colours of roles that can be read on white and on black."""

_PRE = "line-height:1.25;overflow-x:auto;white-space:pre;font-family:monospace"


_MOST_LINES = 5_000
_MOST_ARRAYS = 1_000
"""What more there is would make a page that no browser shows, and take minutes."""


def html(summary: Any) -> str:
    """The HTML of a summary."""
    if importlib.util.find_spec("treescope") is None:
        return f'<pre style="{_PRE}">{_lines(_first_lines(summary))}</pre>'
    treescope: Any = importlib.import_module("treescope")
    return treescope.render_to_html(_Shown(summary))


def _first_lines(summary: Any) -> list[Line]:
    lines: list[Line] = summary.lines(100)
    if len(lines) <= _MOST_LINES:
        return lines
    more = f"… {len(lines) - _MOST_LINES:,} more lines: summary(..., depth=1) shows fewer"
    return [*lines[:_MOST_LINES], [(more, "dim")], [], *summary.footer(100)]


class _Shown:
    """A summary without `_repr_html_`: treescope would ask for it, and so us again."""

    def __init__(self, summary: Any) -> None:
        self._summary = summary

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        del path
        return treescope_tree(self._summary, subtree_renderer)


def _lines(lines: list[Line]) -> str:
    return "\n".join("".join(map(_span, line)) for line in lines)


def _span(piece: tuple[str, str]) -> str:
    text, style = piece
    if style == "class":
        return f"<b>{escape(text)}</b>"
    colour = _COLOURS.get(style)
    return f'<span style="color:{colour}">{escape(text)}</span>' if colour else escape(text)


def treescope_tree(summary: Any, subtree_renderer: Any) -> Any:
    """A summary as a part of treescope's: modules that fold, arrays that unfold."""
    return _Tree(subtree_renderer).whole(summary)


_SHORT = 40
"""With so few lines two levels are unfolded to begin with, otherwise one."""


class _Tree:
    def __init__(self, subtree_renderer: Any) -> None:
        self._parts: Any = importlib.import_module("treescope.rendering_parts")
        self._render = subtree_renderer
        self._open = 1
        self._lines = 0
        self._arrays = 0

    def whole(self, summary: Any) -> Any:
        """The tree, and the totals under it."""
        is_short = sum(1 for _ in walk(summary.root, 2)) <= _SHORT
        self._open = 2 if is_short else 1
        tree = self._node(summary.root, 0, summary.depth)
        lines = [*summary.footer(100), *self._left_out(), *_legend(summary)]
        totals = [self._parts.siblings(*map(self._text, line)) for line in lines]
        return self._parts.on_separate_lines([tree, *totals])

    def _left_out(self) -> Iterator[Line]:
        if self._arrays > _MOST_ARRAYS:
            yield [(f"only the first {_MOST_ARRAYS:,} arrays can be unfolded", "dim")]

    def _node(self, node: Node, level: int, depth: int | None) -> Any:
        self._lines += 1
        if node.record is not None:
            return self._leaf(node)
        parts = self._parts
        title = parts.siblings(*self._title(node))
        if not node.children or level == depth:
            return parts.build_one_line_tree_node(title, path=node.path or None)
        inside = list(self._inside(node, level, depth))
        state, is_open = parts.ExpandState, level < self._open
        return parts.build_custom_foldable_tree_node(
            label=title,
            contents=parts.fold_condition(expanded=parts.indented_children(inside)),
            # The button to copy a path has a line of its own below what is unfolded.
            path=None if is_open else node.path,
            expand_state=state.EXPANDED if is_open else state.COLLAPSED,
        )

    def _inside(self, node: Node, level: int, depth: int | None) -> Iterator[Any]:
        for at, child in enumerate(node.children):
            if self._lines >= _MOST_LINES:
                yield self._text((f"… {len(node.children) - at:,} more", "dim"))
                return
            yield self._node(child, level + 1, depth)

    def _title(self, node: Node) -> list[Any]:
        sums = f"  {count_text(node.parameters)} params, {bytes_text(node.bytes)}"
        pieces = [(node.name, ""), (f" {node.cls}", "class"), (sums, "")]
        return [
            self._text(piece) for piece in (*pieces, (f"  {constants_text(node)}", "dim"))
        ]

    def _leaf(self, node: Node) -> Any:
        """A leaf: what is known of it, and the array itself to be unfolded."""
        record: Any = node.record
        pieces = [
            (f"{node.name}  ", ""),
            (f"{role_text(record)}  ", role_style(record)),
            (f"{leaf_text(node, record)}  ", "dim"),
        ]
        line = [self._text(piece) for piece in pieces]
        can_be_shown = _can_be_shown(node.leaf)
        self._arrays += can_be_shown
        if not can_be_shown or self._arrays > _MOST_ARRAYS:
            return self._parts.build_one_line_tree_node(
                self._parts.siblings(*line), path=node.path
            )
        array = self._render(node.leaf, path=node.path)
        return self._parts.siblings_with_annotations(*line, array)

    def _text(self, piece: tuple[str, str]) -> Any:
        text, style = piece
        part = self._parts.text(text)
        css = "font-weight:bold" if style == "class" else f"color:{_COLOURS.get(style)}"
        return self._parts.custom_style(part, css) if style else part


def _legend(summary: Any) -> list[Line]:
    """What the marks mean; nothing is folded here."""
    used = marks(rows(summary.root, summary.depth))
    return [[piece] for piece in used if not piece[0].startswith("×")]


def _can_be_shown(leaf: Any) -> bool:
    """Whether the values of a leaf are here: it is not abstract, deleted or elsewhere."""
    if isinstance(leaf, np.ndarray):
        return True
    if not isinstance(leaf, jax.Array) or isinstance(leaf, Tracer):
        return False
    return leaf.is_fully_addressable and not leaf.is_deleted()
