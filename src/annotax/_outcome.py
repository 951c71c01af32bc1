"""What follows from the chain of steps: the answers of `explain`, each with its reason.

Stands apart from `_explain`, which is the report: here is what there is to say of a leaf,
of what is static, and of what holds leaves.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import jax

from ._chain import IN_LEAVES, Link
from ._errors import listing, with_article
from ._field import FieldSpec, is_buffer, is_hyper
from ._layout import Entry
from ._path import segments
from ._records import Record, view_records
from ._role import Role
from ._specs import field_specs
from ._text import counted
from ._view import View


class LeafFacts(NamedTuple):
    """What there is to know of a leaf."""

    record: Record
    entry: Entry
    inexact: bool


def leaf_outcome(leaf: LeafFacts, chain: Sequence[Link]) -> dict[str, str]:
    """What is known of a leaf, each with its reason."""
    axes = leaf.record.axes
    return {
        "role": _why_role(leaf, chain),
        "trainable": _why_trainable(leaf),
        "static": _why_not_static(leaf.record),
        "gradient": _why_gradient(leaf, chain),
        "checkpoint": _why_saved(leaf.record, chain),
        "tags": listing(sorted(leaf.record.tags)) if leaf.record.tags else "none",
        "axes": ", ".join(name or "_" for name in axes) if axes else "none",
    }


TAKEN_OUT = {
    "shared": "eqx.nn.Shared took it out here; it stands, and is trained, where it keeps it"
}
"""What there is to say of the place of an array that `equinox.nn.Shared` took out."""


def shared_outcome(seen: View, at: int, leaf: Record) -> dict[str, str]:
    """Whether the same array stands in other places, too."""
    array = seen.leaves[at]
    if leaf.dtype is None or type(array) is jax.ShapeDtypeStruct:
        return {}
    paths = zip(seen.layout.paths, seen.leaves, strict=True)
    others = [path for path, other in paths if other is array and path != leaf.path]
    if not others:
        return {}
    apart = "; each is trained apart: eqx.nn.Shared keeps them one" * leaf.trainable
    return {"shared": f"the same array as {listing(others, 3)}{apart}"}


def _why_role(leaf: LeafFacts, chain: Sequence[Link]) -> str:
    role = leaf.record.role
    if role is None:
        return "none: it is no array, and nobody says what it is"
    return f"{_ancestry(role)}, {_who_says(role, leaf, chain)}"


def _who_says(role: Role, leaf: LeafFacts, chain: Sequence[Link]) -> str:
    entry = leaf.entry
    if leaf.record.dtype is None and entry.opaque_role is not None:
        return "registered for what is no array"
    if leaf.record.undeclared:
        what = "an inexact array" if leaf.inexact else "an array that is not inexact"
        return f"by Equinox's convention: nobody says a role of {what}"
    if entry.role is None:
        return "inferred by adopt from what it is: nobody says a role"
    speaking = [link for link in chain if link.spec is not None and link.spec.role]
    deciding = [link for link in speaking if _is_same(link.spec, entry.decider)]
    if not deciding:
        return "kept from its model"
    if deciding[-1] is speaking[-1]:
        return f"from {deciding[-1].where}"
    inner = speaking[-1].spec
    is_stopped = is_buffer(role) and inner is not None and not is_buffer(inner.role)
    wins = "a Buffer around wins" if is_stopped else "the more derived role wins"
    return f"from {deciding[-1].where}: {wins} over {speaking[-1].where}"


def _is_same(spec: FieldSpec | None, other: FieldSpec | None) -> bool:
    """Whether a field's spec decides: what is registered of contents is made anew."""
    return spec is other or (spec is not None and not spec.name and spec == other)


def _ancestry(role: Role) -> str:
    """A role and what it derives from: `adapter (a lora, a param)`."""
    names: list[str] = []
    parent = role.parent
    while parent is not None:
        names.append(with_article(parent.name))
        parent = parent.parent
    return f"{role.name} ({', '.join(names)})" if names else role.name


def _why_trainable(leaf: LeafFacts) -> str:
    if leaf.record.trainable:
        return "yes"
    if leaf.record.dtype is None:
        return "no, it is no array"
    if is_buffer(leaf.record.role):
        return "no, it is a buffer"
    if is_hyper(leaf.record.role):
        return "no, it is registered as a Hyper, though an array"
    if not leaf.inexact:
        return f"no, {leaf.record.dtype} has no gradient"
    return "no, it is frozen; annotax.unfreeze(model, selection) undoes it"


def _why_not_static(leaf: Record) -> str:
    if leaf.dtype is not None:
        return "no, it is an argument of a compiled function"
    if is_hyper(leaf.role):
        return "no, only registered as a Hyper; annotax.adopt(model) makes it static"
    return "no, though no array; annotax.adopt(model) makes static what can be"


def _why_gradient(leaf: LeafFacts, chain: Sequence[Link]) -> str:
    stopped = [link for link in chain if link.spec is not None and link.spec.stopped]
    if not leaf.inexact:
        return "none, it has no floating point numbers"
    if stopped:
        return f"stopped where it enters {stopped[0].where}"
    if is_buffer(leaf.record.role) and not _is_in_leaves(chain):
        return "not stopped, only registered; annotax.adopt(model) stops it"
    if is_buffer(leaf.record.role):
        return "not stopped: Leaves are arrays beside their model"
    return "flows"


def _is_in_leaves(chain: Sequence[Link]) -> bool:
    return any(link.container == IN_LEAVES for link in chain)


def _why_saved(leaf: Record, chain: Sequence[Link]) -> str:
    if leaf.dtype is None:
        return "compared, not loaded: it is no array"
    if leaf.persistent:
        return "saved"
    left_out = [
        link for link in chain if link.spec is not None and not link.spec.persistent
    ]
    return (
        f"left out by {left_out[-1].where if left_out else 'its field'}: persistent=False"
    )


def static_outcome(link: Link) -> dict[str, str]:
    """What is known of a static field, and of what is in it."""
    spec, owner = cast(FieldSpec, link.spec), cast(type, link.owner)
    by_itself = any(own.static for own in field_specs(owner) if own.name == link.step)
    if by_itself:
        is_declared = spec.origin == "declared"
        why = "is a Hyper" if is_declared else "is static in its class"
    else:
        is_registered = spec.origin == "registered"
        why = "is registered as a Hyper" if is_registered else "holds no array"
        why += ", and its model was adopted"
    role = "none" if spec.role is None else f"{_ancestry(spec.role)}, from {link.where}"
    return {
        "role": role,
        "trainable": "no, it is no leaf",
        "static": f"yes, {link.where} {why}; another value compiles anew",
        "change": f"annotax.replace(model, {{{link.path!r}: ...}})",
    }


def constant_outcome(chain: Sequence[Link]) -> dict[str, str]:
    """What is no leaf in a container of arrays: `adopt` has made it a constant."""
    fields = [link for link in chain if link.spec is not None]
    where = fields[-1].where if fields else chain[-1].step
    return {
        "trainable": "no, it is no leaf",
        "static": f"yes, no array in {where}, and its model was adopted; "
        "another value compiles anew",
    }


def inside_outcome(seen: View, path: str) -> dict[str, str]:
    """What is known of a module, a container or an empty field: what its leaves are."""
    steps = segments(path)
    inside = [r for r in view_records(seen) if segments(r.path)[: len(steps)] == steps]
    if not inside:
        return {"leaves": "none: nothing in it is trained, stopped or saved"}
    constants = [r for r in inside if r.dtype is None]
    arrays = [r for r in inside if r.dtype is not None]
    buffers = [r for r in arrays if is_buffer(r.role)]
    trained = [r for r in arrays if r.trainable]
    frozen = [r for r in arrays if r.frozen and not is_buffer(r.role)]
    other = len(arrays) - len(buffers) - len(trained) - len(frozen)
    counts = {
        f"{len(trained):,} trainable": trained,
        f"{len(frozen):,} frozen": frozen,
        counted(len(buffers), "buffer"): buffers,
        f"{other:,} without gradients": other,
        f"{len(constants):,} no array{'s' * (len(constants) != 1)}": constants,
    }
    size = counted(sum(r.size for r in inside), "element")
    listed = ", ".join(text for text, found in counts.items() if found)
    return {"leaves": f"{len(inside):,} with {size}: {listed}"}
