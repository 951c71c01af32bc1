"""How much of a model is what: totals by role, and the optimizer state to expect."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax

from ._compat import tree_flatten
from ._errors import StructureError, describe, explain_error
from ._field import is_buffer
from ._flat import params
from ._layout import is_array
from ._outline import Node
from ._records import Record
from ._text import bytes_text, counted

_jax: Any = jax  # the types of its functions are partly unknown


@dataclass(slots=True)
class Total:
    """How much of a model is something: leaves, different arrays, elements and bytes.

    An array that stands in several places is several leaves, and counts once.
    """

    leaves: int = 0
    arrays: int = 0
    elements: int = 0
    bytes: int = 0

    def add(self, node: Node, record: Record) -> None:
        """Count one leaf."""
        self.leaves += 1
        if record.dtype is not None and node.same_as is None:
            self.arrays += 1
            self.elements += node.elements
            self.bytes += node.own_bytes


def _share(record: Record) -> str:
    """What training does with a leaf."""
    if record.dtype is None:
        return "other"
    if record.trainable:
        return "trainable"
    if is_buffer(record.role):
        return "buffers"
    return "frozen" if record.frozen else "untrained"


SHARES = {
    "trainable": "param",
    "frozen": "frozen",
    "buffers": "buffer",
    "untrained": "",
    "other": "dim",
}
"""The parts of a model in the totals, and their styles."""


Leaf = tuple[Node, Record]


def totals(leaves: Iterable[Leaf]) -> tuple[dict[str, Total], dict[str, Total]]:
    """What there is, by what training does with it and by the name of the role."""
    shares = {name: Total() for name in SHARES}
    roles: dict[str, Total] = {}
    for node, record in leaves:
        role = "opaque" if record.role is None else record.role.name
        shares[_share(record)].add(node, record)
        roles.setdefault(role, Total()).add(node, record)
    return shares, roles


def adam_bytes(leaves: Iterable[Leaf]) -> int:
    """The bytes of Adam's state: two moments of each trainable array, and a counter.

    An array that stands in two places is trained in both.
    """
    return 4 + sum(2 * node.own_bytes for node, record in leaves if record.trainable)


def state_bytes(optimizer: Any, model: Any) -> int:
    """The bytes of an optimizer's state, found without making it."""
    try:
        init = optimizer.init
    except AttributeError:
        raise StructureError(
            explain_error(
                "summary(optimizer=...)",
                "this is no optimizer",
                expected="an optax.GradientTransformation",
                found=describe(optimizer),
                fix="summary(model, optimizer=optax.adamw(1e-3))",
            )
        ) from None
    leaves, _ = tree_flatten(_jax.eval_shape(init, params(model)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves if is_array(leaf))


def total_text(name: str, total: Total) -> str:
    if name == "other":
        ending = "is no array" if total.leaves == 1 else "are no arrays"
        return f"{counted(total.leaves, 'leaf')} that {ending}"
    what = counted(total.elements, "element" if name == "buffers" else "parameter")
    places = f" in {total.leaves:,} places" if total.leaves > total.arrays else ""
    return f"{what} in {counted(total.arrays, 'array')}{places}, {bytes_text(total.bytes)}"
