"""`summary`: what is in a model, as a table, as HTML, and as plain data."""

import operator
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from shutil import get_terminal_size
from typing import Any, TextIO

from ._errors import StructureError, describe, explain_error
from ._fit import lines, plain, trimmed, wrapped
from ._outline import Node, outline, walk
from ._table import Line, marks, rows
from ._text import Report, bytes_text, padded, shorten
from ._totals import SHARES, Total, adam_bytes, state_bytes, total_text, totals
from ._view import careful_view, endless_message

_WIDEST = 120
"""Wider than this, numbers stand too far from their names."""

_STYLES = {
    "param": "green",
    "frozen": "cyan",
    "buffer": "yellow",
    "hyper": "magenta",
    "class": "bold",
    "head": "dim",
    "dim": "dim",
    "opaque": "dim",
}
"""The colours of a terminal for the styles of a line."""


@dataclass(frozen=True, repr=False)
class Summary(Report):
    """What is in a model; made by `summary`.

    Examples:
        >>> import annotax as anx, jax.numpy as jnp
        >>> found = anx.summary({"w": jnp.ones((2, 3))})
        >>> found.totals["trainable"].elements, found.optimizer_bytes
        (6, 52)

    It prints as a table of 80 columns. `show()` fits the terminal and uses colours where
    rich is installed; rich prints it in colour, too. Notebooks show it as HTML: with
    treescope installed as a tree in which modules and arrays can be unfolded.
    """

    root: Node
    totals: Mapping[str, Total]
    """By what training does with the leaves: `trainable`, `frozen`, `buffers`,
    `untrained` (other arrays, as Params of integers) and `other` (no arrays)."""
    roles: Mapping[str, Total]
    """By the name of the role, derived roles apart; `opaque` has none."""
    optimizer_bytes: int
    """The bytes of optimizer state to expect: Adam's, unless `summary` was given one."""
    optimizer: str
    depth: int | None = None

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int = 80) -> str:
        """The table in so many columns, at least 40."""
        return "\n".join(map(plain, self.lines(width)))

    def lines(self, width: int = 80) -> list[Line]:
        """The table as lines of (text, style) pairs."""
        width = max(width, 40)
        cells = rows(self.root, self.depth)
        table = map(trimmed, lines(cells, width))
        legend = [line for piece in marks(cells) for line in wrapped(piece, width, "  ")]
        return [*table, [], *self.footer(width), *legend]

    def footer(self, width: int = 80) -> list[Line]:
        """The totals as lines."""
        found = self._totals()
        longest = max(len(name) for name, _, _ in found)
        column = max(12, min(longest + 2, width // 3))
        pieces = [
            (f"{padded(shorten(name, column - 1), column)}{text}", style)
            for name, text, style in found
        ]
        return [line for piece in pieces for line in wrapped(piece, width, " " * column)]

    def _totals(self) -> list[tuple[str, str, str]]:
        """The names, texts and styles of the totals."""
        found = [
            (name, total_text(total), SHARES[name].style)
            for name, total in self.totals.items()
            if total.leaves or name == "trainable"
        ]
        derived = [
            (f"  {name}", total_text(total), "")
            for name, total in self.roles.items()
            if name not in ("param", "buffer", "hyper", "opaque")
        ]
        state = f"{bytes_text(self.optimizer_bytes)} of state for {self.optimizer}"
        is_trained = self.totals["trainable"].leaves > 0
        return [*found, *derived, *[("optimizer", state, "")] * is_trained]

    def to_dict(self) -> dict[str, Any]:
        """The rows down to `depth`, none folded, and the totals, as data for JSON."""
        return {
            "class": self.root.name,
            "rows": [_row(level, node) for level, node in walk(self.root, self.depth)],
            "totals": {name: t.to_dict() for name, t in self.totals.items()},
            "roles": {name: t.to_dict() for name, t in self.roles.items()},
            "optimizer": {"name": self.optimizer, "bytes": self.optimizer_bytes},
        }

    def show(self, file: TextIO | None = None) -> None:
        """Print the table: as wide as the terminal, and in colour if rich is there."""
        try:
            rich: Any = import_module("rich.console")
        except ImportError:
            print(self.text(min(get_terminal_size().columns, _WIDEST)), file=file)
        else:
            rich.Console(file=file or sys.stdout, highlight=False).print(self)

    def __rich_console__(self, console: Any, options: Any) -> Any:
        rich: Any = import_module("rich.text")  # rich calls this, so it is there
        del console
        for line in self.lines(min(options.max_width, _WIDEST)):
            pieces = [(text, _STYLES.get(style, "")) for text, style in line]
            yield rich.Text.assemble(*pieces, no_wrap=True, overflow="crop")

    def _repr_html_(self) -> str:
        from ._notebook import html  # only notebooks need it

        return html(self)

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        from ._notebook import treescope_tree  # treescope calls this, so it is there

        del path
        return treescope_tree(self, subtree_renderer)


def summary(model: Any, *, depth: int | None = None, optimizer: Any = None) -> Summary:
    """What is in a model: every module and leaf with role, shape and size, and totals.

    Examples:
        >>> import annotax as anx, equinox as eqx, jax
        >>> mlp = eqx.nn.MLP(2, 1, 8, 1, key=jax.random.key(0))
        >>> anx.summary(anx.freeze(mlp, anx.by_path("layers.0.*")))
                                                                           params  bytes
        MLP use_bias=True, use_final_bias=True, in_size=2, out_size=1, w…      33  132 B
        ├ layers.0 Linear in_features=2, out_features=8, use_bias=True         24   96 B
        │ ├ weight          param frozen  f32[8,2] out_features in_featu…      16   64 B
        │ └ bias            param frozen  f32[8] out_features                   8   32 B
        ├ layers.1 Linear in_features=8, out_features=1, use_bias=True          9   36 B
        │ ├ weight          param         f32[1,8] out_features in_featu…       8   32 B
        │ └ bias            param         f32[1] out_features                   1    4 B
        ├ activation        hyper !       relu
        └ final_activation  hyper !       <lambda>
        <BLANKLINE>
        trainable   9 parameters in 2 arrays, 36 B
        frozen      24 parameters in 2 arrays, 96 B
        other       2 leaves that are no arrays
        optimizer   76 B of state for adam
        ! only registered: adopt makes it so

    Static fields, and fields that hold nothing, stand in the line of their module. Equal
    neighbours are folded into one line (`layers.0–99 Linear ×100`), and their contents are
    shown once. An array in several places counts in the first.

    **Arguments:**

    - `model`: any PyTree: a model, an abstract one, gradients, `Leaves`, half a partition.
    - `depth`: how many levels below the model are shown; all if `None`. What is deeper
      still counts.
    - `optimizer`: an optax transformation whose state is measured, without making it;
      if `None`, Adam's: two moments of each trainable array, and a counter.

    **Returns:** a `Summary`, which prints as the table.

    **Raises:** `StructureError` for a class, for a container that contains itself, and
    for a `depth` that is no natural number.
    """
    _insist_on_depth(depth)
    root = _outline(model)
    leaves = [(node, node.record) for _, node in walk(root) if node.record is not None]
    name = "adam" if optimizer is None else "the given optimizer"
    state = adam_bytes(leaves) if optimizer is None else state_bytes(optimizer, model)
    return Summary(root, *totals(leaves), state, name, depth)


def _outline(model: Any) -> Node:
    seen = careful_view(model, "summary")
    try:
        return outline(seen)
    except RecursionError as error:
        raise StructureError(endless_message(model)) from error


def _insist_on_depth(depth: Any) -> None:
    try:
        fits = depth is None or operator.index(depth) >= 0
    except TypeError:
        fits = False
    if not fits:
        raise StructureError(
            explain_error(
                "summary(depth=...)",
                "this is no depth",
                expected="None, or how many levels to show: 0, 1, 2, ...",
                found=repr(depth) if isinstance(depth, int) else describe(depth),
            )
        )


# --- texts and plain data ------------------------------------------------------------


def _row(level: int, node: Node) -> dict[str, Any]:
    record = node.record
    kind = "leaf" if record is not None else "module" if node.is_module else "container"
    row = {
        "path": node.path,
        "kind": kind,
        "level": level,
        "class": (node.cls or None) if level else node.name,
        "parameters": node.parameters,
        "bytes": node.bytes,
    }
    if record is None:
        return {**row, "fields": [field._asdict() for field in node.constants]}
    return {
        **row,
        "role": None if record.role is None else record.role.name,
        "kind_of_role": None if record.role is None else record.role.kind.name,
        "trainable": record.trainable,
        "origin": record.origin,
        "frozen": record.frozen,
        "enforced": record.enforced,
        "dtype": None if record.dtype is None else str(record.dtype),
        "shape": list(map(int, record.shape)),
        "axes": None if record.axes is None else list(record.axes),
        "tags": sorted(record.tags),
        "sharding": node.sharding,
        "same_as": node.same_as,
        "value": node.value or None,
        "doc": record.doc,
    }
