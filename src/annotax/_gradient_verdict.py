"""What `gradient_report` has found, as a value, as text and as an error.

Stands apart from finding it out, which is the business of `_gradient_report`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._errors import GradientError, explain_error, rows
from ._text import Report, counted, shorten

REGISTERED = "a Buffer by registration alone"
LOOSE = "a Buffer that stands in no module"

_FIXES = {
    REGISTERED: "annotax.adopt(model) keeps gradients out of registered Buffers",
    LOOSE: "give a State or Leaves to the function beside the model, not in it",
}
"""What to do about a leaf that leaks for a reason."""

_LOOP = "passes a while_loop: jax.grad refuses it, jax.jvp does not"

_ROWS = 12
"""How many paths of a group the text shows."""


@dataclass(frozen=True, repr=False)
class GradientReport(Report):
    """Where gradients flow and where not; made by `gradient_report`. True if all is well.

    Leaves are named by their paths, as in `by_path`, in the order of the model.
    """

    function: str
    """The name of the function that was traced."""
    selection: str
    """The selection that had to get gradients."""
    selected: tuple[str, ...]
    """The inexact arrays that it selects."""
    dead: tuple[str, ...]
    """Those of them with no differentiable path to the result."""
    guarded: tuple[str, ...]
    """The other inexact arrays that are Buffers or frozen: they must get no gradient."""
    leaking: tuple[str, ...]
    """Those of them that get one."""
    reasons: Mapping[str, str] = field(hash=False)
    """Why each dead or leaking leaf is so."""
    integer: tuple[str, ...]
    """The arrays that have no gradient because of their dtype."""
    integer_params: tuple[str, ...]
    """Those of them that are declared Params, or selected: most likely an oversight."""
    undeclared: tuple[str, ...]
    """The inexact arrays that are Params only because nobody says a role."""
    assumed: tuple[str, ...]
    """The primitives on the way that JAX cannot differentiate. They are taken to pass on
    any gradient, so that whatever else is wrong is found, too."""
    refusals: Mapping[str, str] = field(hash=False)
    """For each of them, the first line of what JAX raises."""
    refused: tuple[str, ...]
    """Those of them that a selected leaf goes into: `jax.grad` by it raises."""
    through_while: bool
    """Whether a gradient of a selected leaf passes a `while_loop`: `jax.grad` raises, and
    `jax.jvp` does not."""

    @property
    def ok(self) -> bool:
        """Whether nothing is dead and nothing leaks."""
        return not self.dead and not self.leaking

    def __bool__(self) -> bool:
        return self.ok

    def check(self, *, allow_assumed: bool = False) -> "GradientReport":
        """The report itself, if it is `ok` and JAX refuses nothing: for a test suite.

        **Arguments:** `allow_assumed=True` accepts primitives that JAX cannot
        differentiate on the way of selected leaves.

        **Raises:** `GradientError` that names every dead and every leaking leaf, and
        every such primitive.
        """
        refused = () if allow_assumed else self.refused
        if self.ok and not refused:
            return self
        found = [f"{path} is dead: {self.reasons[path]}" for path in self.dead]
        found += [f"{path} leaks: {self.reasons[path]}" for path in self.leaking]
        found += [
            f"{name} cannot be differentiated: {self.refusals[name]}" for name in refused
        ]
        raise GradientError(
            explain_error(
                f"gradient_report({self.function})",
                "jax.grad will refuse this function"
                if self.ok
                else "gradients do not flow as the roles say",
                expected=f"a gradient for all of {self.selection}, none for Buffers and "
                "frozen leaves",
                found=rows(found),
                fix="\n".join(self._fixes(refused)) or None,
            )
        )

    def _fixes(self, refused: Sequence[str]) -> Iterator[str]:
        if refused:
            yield "give it a rule with jax.custom_jvp, or check(allow_assumed=True)"
        if self.dead:
            yield "use what is dead, freeze it, or declare it a Buffer"
        why = {self.reasons[path] for path in self.leaking}
        yield from (fix for reason, fix in _FIXES.items() if reason in why)

    def __str__(self) -> str:
        return "\n".join([f"{self.function}: {self._verdict()}", *self._groups()])

    def _verdict(self) -> str:
        selected, guarded = counted(len(self.selected), "leaf"), len(self.guarded)
        if self.ok and not self.refused:
            return f"ok. {selected} with a gradient, {guarded} rightly without."
        dead, leaking = len(self.dead), len(self.leaking)
        refused = ", and jax.grad refuses it" if self.refused else ""
        return f"{dead} of {selected} dead, {leaking} of {guarded} leaking{refused}."

    def _groups(self) -> Iterator[str]:
        yield from self._group("dead: selected, and no gradient reaches it", self.dead)
        yield from self._group("leaking: a gradient where none belongs", self.leaking)
        title = "integer: a Param or selected, and no gradient by its dtype"
        yield from _rows(title, self.integer_params)
        yield from _rows("undeclared: a Param by convention alone", self.undeclared)
        yield from self._refusals("cannot be differentiated: jax.grad raises", self.refused)
        others = [name for name in self.assumed if name not in self.refused]
        title = "cannot be differentiated, and no selected leaf goes into it"
        yield from self._refusals(title, others)
        if self.through_while:
            yield f"  {_LOOP}"

    def _group(self, title: str, paths: Sequence[str]) -> Iterator[str]:
        return _rows(title, [f"{path}: {self.reasons[path]}" for path in paths])

    def _refusals(self, title: str, names: Sequence[str]) -> Iterator[str]:
        rows = [f"{name}: {self.refusals[name]}" for name in names]
        return _rows(title, [shorten(row, 76) for row in rows])

    def to_dict(self) -> dict[str, Any]:
        """The same as data that `json.dumps` takes."""
        reasons = self.reasons
        return {
            "function": self.function,
            "selection": self.selection,
            "ok": self.ok,
            "selected": list(self.selected),
            "dead": [{"path": path, "reason": reasons[path]} for path in self.dead],
            "guarded": list(self.guarded),
            "leaking": [{"path": path, "reason": reasons[path]} for path in self.leaking],
            "integer": list(self.integer),
            "integer_params": list(self.integer_params),
            "undeclared": list(self.undeclared),
            "assumed": list(self.assumed),
            "refusals": dict(self.refusals),
            "refused": list(self.refused),
            "through_while": self.through_while,
        }


def _rows(title: str, rows: Sequence[str]) -> Iterator[str]:
    """A group of the text, the tail of a long one counted instead of shown."""
    if rows:
        yield f"  {title}"
        yield from (f"    {row}" for row in rows[:_ROWS])
    if len(rows) > _ROWS:
        yield f"    and {len(rows) - _ROWS} more"
