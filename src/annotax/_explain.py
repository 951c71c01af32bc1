"""`explain`: why a leaf, a static field or a module is what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from ._chain import Link, follow
from ._errors import FieldError, describe, explain_error, listing
from ._field import FieldSpec, is_buffer, is_hyper
from ._layout import Entry, is_array, is_inexact_array
from ._node import below, is_module
from ._path import segments
from ._records import Record, record, view_records
from ._registry import class_of
from ._role import Role
from ._specs import field_specs
from ._text import Report, value_text
from ._view import View, view


@dataclass(frozen=True, repr=False)
class Explanation(Report):
    """Why something in a model is what it is; made by `explain`.

    `what` says in a few words what stands at `path`; `chain` are the steps that lead there;
    `outcome` maps what is asked (`role`, `trainable`, `static`, `gradient`, `checkpoint`,
    `tags`, `axes`) to the answer with its reason; `record` is the leaf's, if it is one.
    """

    path: str
    what: str
    chain: tuple[Link, ...]
    outcome: Mapping[str, str]
    record: Record | None = field(default=None, compare=False)

    def __str__(self) -> str:
        lines = [f"{self.path or 'the model'}: {self.what}"]
        for link in self.chain:
            lines += [f"  {link.says}", *(f"    {reason}" for reason in link.reasons())]
        lines += [f"  {name + ':':<12}{text}" for name, text in self.outcome.items()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The same as data that `json.dumps` takes."""
        return {
            "path": self.path,
            "what": self.what,
            "chain": [
                {"step": link.step, "where": link.where, "says": link.says}
                | {"reasons": link.reasons()}
                for link in self.chain
            ],
            "outcome": dict(self.outcome),
        }


def explain(model: Any, path: str) -> Explanation:
    """Why a leaf, a static field or a module is what it is, by its path.

    Examples:
        >>> import annotax as anx, jax.numpy as jnp
        >>> from jaxtyping import Array, Float
        >>> class Linear(anx.Module):
        ...     weight: anx.Param[Float[Array, "m n"]]
        >>> class Pupil(anx.Module):
        ...     teacher: anx.Buffer[Linear] = anx.field(tags=["no_decay"])
        >>> anx.explain(Pupil(Linear(jnp.ones((2, 3)))), "teacher.weight")
        teacher.weight: an array f32[2,3]
          teacher: Buffer[Linear]
            annotated in Pupil...
            tags no_decay
          weight: Param[Float[Array, 'm n']]
            annotated in Linear...
          role:       buffer, from Pupil.teacher: a Buffer around wins over Linear.weight
          trainable:  no, it is a buffer
          static:     no, it is an argument of a compiled function
          gradient:   stopped where it enters Pupil.teacher
          checkpoint: saved
          tags:       no_decay
          axes:       m, n

    **Arguments:** `model` is any PyTree; `path` leads to a leaf, a static field, a field
    that holds nothing, a module or a container.

    **Returns:** an `Explanation`, which prints as above; where the source is known, with
    file and line of each annotation.

    **Raises:** `FieldError` if the path leads nowhere; the message names what is near.
    """
    if not isinstance(path, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- users without a type checker
        raise FieldError(
            explain_error(
                "explain",
                "this is no path",
                expected="a path such as 'encoder.layers.0.weight'",
                found=describe(path),
            )
        )
    seen = view(model)
    chain, value = follow(seen, path)
    at = seen.layout.paths.get(path)
    if at is not None:
        entry = seen.layout.entries[at]
        leaf = seen.leaves[at]
        known = record(entry, leaf)
        outcome = _leaf_outcome(_Leaf(known, entry, is_inexact_array(leaf)), chain)
        return Explanation(path, _what(leaf), chain, outcome, known)
    static = [link for link in chain if link.spec is not None and link.spec.static]
    outcome = _static_outcome(static[0]) if static else _inside(seen, path)
    return Explanation(path, _what(value), chain, outcome)


def _what(value: Any) -> str:
    if value is None:
        return "None"
    if is_array(value):
        return f"an array {value_text(value)}"
    if is_module(value):
        return f"a module {class_of(value).__name__}"
    return describe(value) if below(value) else f"{describe(value)} {value_text(value)}"


# --- what follows --------------------------------------------------------------------


class _Leaf(NamedTuple):
    record: Record
    entry: Entry
    inexact: bool


def _leaf_outcome(leaf: _Leaf, chain: Sequence[Link]) -> dict[str, str]:
    axes = leaf.record.axes
    return {
        "role": _why_role(leaf, chain),
        "trainable": _why_trainable(leaf),
        "static": _why_not_static(leaf.record),
        "gradient": _why_gradient(leaf, chain),
        "checkpoint": _why_saved(leaf.record.persistent, chain),
        "tags": listing(sorted(leaf.record.tags)) if leaf.record.tags else "none",
        "axes": "none" if axes is None else ", ".join(name or "_" for name in axes),
    }


def _why_role(leaf: _Leaf, chain: Sequence[Link]) -> str:
    role, entry = leaf.record.role, leaf.entry
    if role is None:
        return "none: it is no array, and nobody says what it is"
    if leaf.record.dtype is None and entry.opaque_role is not None:
        return f"{_ancestry(role)}, registered for what is no array"
    if leaf.record.undeclared:
        what = "an inexact array" if leaf.inexact else "an array that is not inexact"
        return f"{_ancestry(role)}, by Equinox's convention: nobody says a role of {what}"
    speaking = [link for link in chain if link.spec is not None and link.spec.role]
    deciding = [link for link in speaking if link.spec is entry.decider]
    if not deciding:
        return f"{_ancestry(role)}, kept from its model"
    text = f"{_ancestry(role)}, from {deciding[-1].where}"
    if deciding[-1] is speaking[-1]:
        return text
    wins = "a Buffer around wins" if is_buffer(role) else "the more derived role wins"
    return f"{text}: {wins} over {speaking[-1].where}"


def _ancestry(role: Role) -> str:
    return role.name if role.parent is None else f"{role.name} (a {role.parent.name})"


def _why_trainable(leaf: _Leaf) -> str:
    if leaf.record.trainable:
        return "yes"
    if leaf.record.dtype is None:
        return "no, it is no array"
    if is_buffer(leaf.record.role):
        return "no, it is a buffer"
    if not leaf.inexact:
        return f"no, {leaf.record.dtype} has no gradient"
    return "no, it is frozen; annotax.unfreeze(model, selection) undoes it"


def _why_not_static(leaf: Record) -> str:
    if leaf.dtype is not None:
        return "no, it is an argument of a compiled function"
    if is_hyper(leaf.role):
        return "no, only registered as a Hyper; annotax.adopt(model) makes it static"
    return "no, though no array; annotax.adopt(model) makes static what can be"


def _why_gradient(leaf: _Leaf, chain: Sequence[Link]) -> str:
    stopped = [link for link in chain if link.spec is not None and link.spec.stopped]
    if not leaf.inexact:
        return "none, it has no floating point numbers"
    if stopped:
        return f"stopped where it enters {stopped[0].where}"
    if is_buffer(leaf.record.role):
        return "not stopped, only registered; annotax.adopt(model) stops it"
    return "flows"


def _why_saved(persistent: bool, chain: Sequence[Link]) -> str:
    if persistent:
        return "saved"
    left_out = [
        link for link in chain if link.spec is not None and not link.spec.persistent
    ]
    return (
        f"left out by {left_out[-1].where if left_out else 'its field'}: persistent=False"
    )


def _static_outcome(link: Link) -> dict[str, str]:
    spec, owner = cast(FieldSpec, link.spec), cast(type, link.owner)
    by_itself = any(own.static for own in field_specs(owner) if own.name == link.step)
    if by_itself:
        is_declared = spec.origin == "declared"
        why = "is a Hyper" if is_declared else "is static in its class"
    else:
        is_registered = spec.origin == "registered"
        why = "is registered as a Hyper" if is_registered else "holds no array"
        why += ", and the model adopted"
    role = "none" if spec.role is None else f"{_ancestry(spec.role)}, from {link.where}"
    return {
        "role": role,
        "trainable": "no, it is no leaf",
        "static": f"yes, {link.where} {why}; another value compiles anew",
        "change": f"annotax.replace(model, {{{link.path!r}: ...}})",
    }


def _inside(seen: View, path: str) -> dict[str, str]:
    """What is known of a module, a container or an empty field: what its leaves are."""
    steps = segments(path)
    inside = [r for r in view_records(seen) if segments(r.path)[: len(steps)] == steps]
    if not inside:
        return {"leaves": "none: nothing in it is trained, stopped or saved"}
    shares = {
        "trainable": [r for r in inside if r.trainable],
        "frozen": [r for r in inside if r.frozen],
        "buffers": [r for r in inside if is_buffer(r.role)],
        "no arrays": [r for r in inside if r.dtype is None],
    }
    counts = [f"{len(found):,} {name}" for name, found in shares.items() if found]
    size = sum(r.size for r in inside)
    return {"leaves": f"{len(inside):,} with {size:,} elements: {', '.join(counts)}"}
