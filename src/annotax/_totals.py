"""How much of a model is what: totals by role, and the optimizer state to expect."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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

    kind: str = ""
    """The kind of its roles: `param`, `buffer` or `hyper`; empty without one."""
    leaves: int = 0
    places: int = 0
    """How many of the leaves are arrays."""
    arrays: int = 0
    elements: int = 0
    bytes: int = 0

    seen: set[int] = field(default_factory=set[int], repr=False, compare=False)

    def add(self, node: Node, record: Record) -> None:
        """Count one leaf. An array in a Buffer and in a Param is one of each."""
        self.leaves += 1
        if record.dtype is None:
            return
        self.places += 1
        if node.identity not in self.seen:
            self.seen.add(node.identity)
            self.arrays += 1
            self.elements += node.elements
            self.bytes += node.own_bytes

    def to_dict(self) -> dict[str, Any]:
        """The figures as data that `json.dumps` takes."""
        names = ("kind", "leaves", "places", "arrays", "elements", "bytes")
        return {name: getattr(self, name) for name in names}


def _share(record: Record) -> str:
    """What training does with a leaf."""
    if record.dtype is None:
        return "other"
    if record.trainable:
        return "trainable"
    if is_buffer(record.role):
        return "buffers"
    return "frozen" if record.frozen else "untrained"


class Share(NamedTuple):
    """A part of a model in the totals: its style, and the kind of what it counts."""

    style: str
    kind: str = ""


SHARES = {
    "trainable": Share("param", "param"),
    "frozen": Share("frozen", "param"),
    "buffers": Share("buffer", "buffer"),
    "untrained": Share(""),
    "other": Share("dim"),
}


Leaf = tuple[Node, Record]


def totals(leaves: Iterable[Leaf]) -> tuple[dict[str, Total], dict[str, Total]]:
    """What there is, by what training does with it and by the name of the role."""
    shares = {name: Total(share.kind) for name, share in SHARES.items()}
    roles: dict[str, Total] = {}
    for node, record in leaves:
        role = record.role
        name, kind = ("opaque", "") if role is None else (role.name, role.kind.name)
        if name not in roles:
            roles[name] = Total(kind)
        shares[_share(record)].add(node, record)
        roles[name].add(node, record)
    return shares, roles


def adam_bytes(leaves: Iterable[Leaf]) -> int:
    """The bytes of Adam's state: two moments of each trainable array, and a counter.

    An array that stands in two places is trained in both. Moments have the dtype that JAX
    gives to arrays: those of a `float64` of numpy are `float32`, unless JAX is told
    otherwise.
    """
    sizes: dict[Any, int] = {}
    total = 4
    for node, record in leaves:
        if record.trainable:
            size = sizes.get(record.dtype)
            if size is None:
                dtype = _jax.dtypes.canonicalize_dtype(record.dtype)
                size = sizes[record.dtype] = dtype.itemsize
            total += 2 * node.elements * size
    return total


def state_bytes(optimizer: Any, model: Any) -> int:
    """The bytes of an optimizer's state, found without making it."""
    init = getattr(optimizer, "init", None)
    if not callable(init):
        raise StructureError(
            explain_error(
                "summary(optimizer=...)",
                "this is no optimizer",
                expected="an optax.GradientTransformation",
                found=describe(optimizer),
                fix="summary(model, optimizer=optax.adamw(1e-3))",
            )
        )
    leaves, _ = tree_flatten(_jax.eval_shape(init, params(model)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves if is_array(leaf))


def total_text(total: Total) -> str:
    """A total in words: `24 parameters in 4 arrays, 96 B`."""
    texts: list[str] = []
    others = total.leaves - total.places
    if total.places or not others:
        what = counted(total.elements, "parameter" if total.kind == "param" else "element")
        shared = total.places > total.arrays
        places = f" in {counted(total.places, 'place')}" if shared else ""
        texts.append(f"{what} in {counted(total.arrays, 'array')}{places}")
        texts.append(bytes_text(total.bytes))
    if others:
        ending = "is no array" if others == 1 else "are no arrays"
        texts.append(f"{counted(others, 'leaf')} that {ending}")
    return ", ".join(texts)
