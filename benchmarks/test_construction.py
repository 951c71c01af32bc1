"""Making an instance, without checks of shapes and with them.

Each row of the table has a class of the same four fields; what is left out is what the way
to write it cannot do.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
from beartype import beartype
from jaxtyping import Array, Float, jaxtyped

from _ratio import THREAD, Call
from test_module import ARRAYS, make_class, make_plain_class

TITLE = "Construction: an instance with four fields, as a ratio to plain Equinox"


@jaxtyped(typechecker=beartype)
class Jaxtyped(eqx.Module):
    """Equinox as jaxtyping checks it."""

    weight: Float[Array, "m n"]
    bias: Float[Array, " m"] | None
    mean: Float[Array, " n"]
    rate: float = eqx.field(static=True)


WAYS: dict[str, Callable[..., Any]] = {
    "Equinox": make_plain_class(),
    '**annotax**, `check="off"`': make_class(check="off"),
    "**annotax**, shapes checked": make_class(),
    "Equinox with `jaxtyped(typechecker=beartype)`": Jaxtyped,
}


def test_construct(peers: Any) -> None:
    def made(cls: Callable[..., Any]) -> Call:
        return lambda: cls(*ARRAYS, 0.1)

    sides = {name: made(cls) for name, cls in WAYS.items()}
    peers(TITLE, "ratio (time)", sides, clock=THREAD)
