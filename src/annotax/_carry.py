"""`carry`: what an optimizer state knows, taken over into one of another structure."""

from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

import jax

from ._errors import StructureError, describe, explain_error, listing
from ._layout import is_array
from ._view import view

_State = TypeVar("_State")


@dataclass(frozen=True)
class CarryReport:
    """What `carry` did with each leaf, by path.

    Examples:
        >>> import annotax as anx, jax.numpy as jnp
        >>> _, report = anx.carry({"a": jnp.ones(2)}, {"a": 0, "b": 0}, report=True)
        >>> print(report)
        taken 0: nothing
        fresh 1: b
        dropped 0: nothing
        misfit 1: a (an array float32[2], now an int)
    """

    taken: tuple[str, ...]
    """Leaves that have the old value."""
    fresh: tuple[str, ...]
    """Leaves of the new state of which the old one knows nothing."""
    dropped: tuple[str, ...]
    """Leaves of the old state that have no place in the new one."""
    misfit: tuple[str, ...]
    """Leaves whose shape or dtype changed, with both; they have the new value."""

    def __str__(self) -> str:
        groups = {name: getattr(self, name) for name in self.__dataclass_fields__}
        rows = [f"{name} {len(paths)}: {listing(paths)}" for name, paths in groups.items()]
        return "\n".join(rows)


@overload
def carry(old: Any, new: _State, *, report: Literal[False] = False) -> _State: ...
@overload
def carry(
    old: Any, new: _State, *, report: Literal[True]
) -> tuple[_State, CarryReport]: ...
def carry(old: Any, new: Any, *, report: bool = False) -> Any:
    """A fresh optimizer state with what an old one knows of the same parameters.

    Examples:
        >>> import annotax as anx, equinox as eqx, jax, optax
        >>> model = eqx.nn.MLP(2, 1, 8, 1, key=jax.random.key(0))
        >>> tx = optax.adam(1e-3)
        >>> frozen = anx.freeze(model, anx.by_path("layers.0.*"))
        >>> opt_state = tx.init(anx.params(frozen))
        >>> # train for a while, then thaw
        >>> fresh = tx.init(anx.params(model))
        >>> opt_state, report = anx.carry(opt_state, fresh, report=True)
        >>> len(report.taken), report.fresh[:2]
        (5, ('0.mu.layers.0.weight', '0.mu.layers.0.bias'))

    Leaves are matched by path (`0.mu.layers.0.weight`), through `chain`, `masked`,
    `multi_transform`, `MultiSteps` and `inject_hyperparams`; where shape and dtype agree,
    the old value is taken. So after freezing, thawing or adding parameters the others keep
    their moments. Step counters and injected hyperparameters are taken, too. Adam's bias
    correction then takes fresh moments for settled ones, and their first steps are up to a
    few times longer: a lower learning rate helps for a while. States that are not kept by
    parameter have no paths to go by: begin anew with `optax.flatten`, and with L-BFGS,
    whose memory ties all parameters together.

    **Arguments:** `old` is the state so far; `new` a state as `tx.init` makes it for the
    parameters there are now.

    **Returns:** a tree of `new`'s structure; with `report=True` a pair of it and a
    `CarryReport`.

    **Raises:** `StructureError` if both have leaves and no path is in both.
    """
    before, after = view(old), view(new)
    known = dict(zip(before.layout.paths, before.leaves, strict=True))
    values = list(after.leaves)
    taken: list[str] = []
    misfit: list[str] = []
    for at, (path, fresh) in enumerate(zip(after.layout.paths, values, strict=True)):
        if path not in known:
            continue
        if _fits(known[path], fresh):
            values[at] = known[path]
            taken.append(path)
        else:
            misfit.append(f"{path} ({describe(known[path])}, now {describe(fresh)})")
    if not taken and not misfit and before.leaves and after.leaves:
        raise StructureError(
            explain_error(
                "carry",
                "the two states have no path in common",
                expected="states of one optimizer, for parameters of one model",
                found=" and ".join(listing(s.layout.paths, 3) for s in (before, after)),
                fix="carry(old_opt_state, tx.init(annotax.params(model)))",
            )
        )
    state = after.treedef.unflatten(values)
    if not report:
        return state
    return state, CarryReport(
        taken=tuple(taken),
        fresh=tuple(path for path in after.layout.paths if path not in known),
        dropped=tuple(path for path in known if path not in after.layout.paths),
        misfit=tuple(misfit),
    )


def _fits(old: Any, new: Any) -> bool:
    if isinstance(old, jax.ShapeDtypeStruct) and not isinstance(new, jax.ShapeDtypeStruct):
        return False  # it knows no value
    if is_array(old) and is_array(new):
        return old.shape == new.shape and old.dtype == new.dtype
    return type(old) is type(new)
