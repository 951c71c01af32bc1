"""`explain`: why a leaf, a static field or a module is what it is."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ._chain import Link, follow
from ._compat import SharedNode
from ._errors import FieldError, describe, explain_error
from ._layout import is_array, is_inexact_array
from ._node import below, is_module
from ._outcome import (
    TAKEN_OUT,
    LeafFacts,
    constant_outcome,
    inside_outcome,
    leaf_outcome,
    shared_outcome,
    static_outcome,
)
from ._records import Record, record
from ._registry import class_of
from ._text import Report, value_text
from ._view import careful_view


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
            lines += _wrapped(link.says, "  ")
            lines += [f"    {reason}" for reason in link.reasons()]  # files stay whole
        for name, text in self.outcome.items():
            lines += _wrapped(text, f"  {name + ':':<12}")
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


def _wrapped(text: str, start: str) -> list[str]:
    """A text behind its start, in lines of 80 columns as far as its words allow."""
    further = " " * max(len(start), 6)
    return textwrap.wrap(
        text,
        80,
        initial_indent=start,
        subsequent_indent=further,
        break_long_words=False,
        break_on_hyphens=False,
    )


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
    seen = careful_view(model, "explain")
    chain, value = follow(seen, path)
    path = chain[-1].path if chain else ""  # 'weight.' is 'weight'
    at = seen.layout.paths.get(path)
    if at is not None:
        entry = seen.layout.entries[at]
        leaf = seen.leaves[at]
        known = record(entry, leaf)
        if isinstance(leaf, SharedNode):
            return Explanation(path, "an array, taken out", chain, TAKEN_OUT, known)
        outcome = leaf_outcome(LeafFacts(known, entry, is_inexact_array(leaf)), chain)
        outcome |= shared_outcome(seen, at, known)
        return Explanation(path, _what(leaf), chain, outcome, known)
    static = [link for link in chain if link.spec is not None and link.spec.static]
    if static:
        outcome = static_outcome(static[0])
    elif value is None or below(value) or is_module(value) or not chain:
        outcome = inside_outcome(seen, path)
    else:
        outcome = constant_outcome(chain)
    return Explanation(path, _what(value), chain, outcome)


def _what(value: Any) -> str:
    if value is None:
        return "None"
    if is_array(value):
        return f"an array {value_text(value)}"
    if is_module(value):
        return f"a module {class_of(value).__name__}"
    return describe(value) if below(value) else f"{describe(value)} {value_text(value)}"
