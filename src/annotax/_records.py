"""Records: a layout's entries together with the leaves at hand."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from ._axes import Axes
from ._field import FieldSpec, Origin, is_buffer
from ._layout import Entry, is_array, is_inexact_array, leaf_role
from ._role import PARAM, Role
from ._view import View, view


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one leaf of one model; never its values.

    Examples:
        >>> import annotax as anx, jax.numpy as jnp
        >>> record = anx.records({"w": jnp.ones((2, 3))})[0]
        >>> record.path, record.ndim, record.size, record.trainable, record.undeclared
        ('w', 2, 6, True, True)

    A leaf that is no array is *opaque*: its `role` is `None` unless declared, its
    `dtype` is `None`, its `shape` `()`, its `size` 0.
    """

    path: str
    """Where the leaf stands, as in `by_path`."""
    role: Role | None
    """The role that counts: Buffer outside wins, then the most derived."""
    trainable: bool
    """Whether it is a Param, an inexact array, and not frozen."""
    origin: Origin
    """Who says so: `"declared"`, `"registered"`, `"inferred"` or `"undeclared"`."""
    owner: type | None
    """The class of the module that holds the leaf."""
    spec: FieldSpec | None
    """The innermost field on the way to the leaf."""
    shape: tuple[int, ...]
    dtype: Any
    tags: frozenset[str]
    """The tags of all fields on the way."""
    axes: Axes | None
    """The axis names, one a dimension, if anything names them."""
    persistent: bool
    """Whether its fields let it into checkpoints, which hold what is an array."""
    frozen: bool
    """Whether `freeze` keeps it from being trained."""
    enforced: bool
    """Whether the classes themselves keep the role: a Buffer's gradient is stopped, a
    Hyper is static. `False` where it is only registered: `adopt` mends that."""

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements; 0 for an opaque leaf."""
        return 0 if self.dtype is None else prod(self.shape)

    @property
    def doc(self) -> str:
        """What the field says of itself."""
        return "" if self.spec is None else self.spec.doc

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the field."""
        return {} if self.spec is None else self.spec.metadata

    @property
    def declared(self) -> bool:
        """Whether an annotation says the role."""
        return self.origin == "declared"

    @property
    def inferred(self) -> bool:
        """Whether the role was inferred, by `adopt`."""
        return self.origin == "inferred"

    @property
    def undeclared(self) -> bool:
        """Whether nobody says a role: Equinox's convention decided."""
        return self.origin == "undeclared"


def record(entry: Entry, leaf: Any) -> Record:
    """One entry with its leaf."""
    role, array = leaf_role(entry, leaf), is_array(leaf)
    inexact = array and is_inexact_array(leaf)
    is_param = role is not None and role.kind is PARAM
    by_opaque_role = not array and entry.opaque_role is not None
    return Record(
        path=entry.path,
        role=role,
        trainable=is_param and inexact and not entry.frozen,
        origin="registered" if by_opaque_role else entry.origin,
        owner=entry.owner,
        spec=entry.spec,
        shape=tuple(leaf.shape) if array else (),
        dtype=leaf.dtype if array else None,
        tags=entry.tags,
        axes=entry.axes,
        persistent=entry.persistent,
        frozen=entry.frozen,
        enforced=is_param or (array and is_buffer(role) and (entry.stopped or not inexact)),
    )


def view_records(seen: View) -> tuple[Record, ...]:
    """The records of a tree already taken apart."""
    return tuple(map(record, seen.layout.entries, seen.leaves))


def records(model: Any) -> tuple[Record, ...]:
    """One record a leaf, in the order in which JAX flattens the model.

    Examples:
        >>> import annotax as anx, jax.numpy as jnp
        >>> from jaxtyping import Array, Float
        >>> class Scale(anx.Module):
        ...     weight: anx.Param[Float[Array, " d"]] = anx.field(tags=["no_decay"])
        ...     mean: anx.Buffer[Float[Array, " d"]]
        >>> for r in anx.records(Scale(jnp.ones(3), jnp.zeros(3))):
        ...     print(r.path, r.role.name, r.trainable, r.shape, r.axes, sorted(r.tags))
        weight param True (3,) ('d',) ['no_decay']
        mean buffer False (3,) ('d',) []

    **Arguments:** `model` is any PyTree: a model, an abstract one, `Leaves`, gradients.

    **Returns:** the records. Static fields are no leaves and have none.
    """
    return view_records(view(model))
