"""What a value is that does not fit its type, and what may help.

Made only once something is wrong, so nothing here has to be quick. Nothing of a value is
kept or shown but its class, its dtype and its shape.
"""

from itertools import permutations
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from ._compat import dtype_names
from ._dims import Dims, Misfit, Sizes, UnboundError, fit
from ._errors import describe


class Mismatch(NamedTuple):
    """One value that does not fit. `where` is its path below what was checked."""

    found: str
    expected: str | None = None
    """The type, where it is not all of the annotation."""
    misfits: tuple[Misfit, ...] = ()
    tip: str | None = None
    near: int = 0
    """How close it is: of a union, the closest member is told."""
    where: str = ""


OK: tuple[Mismatch, ...] = ()

_MOST_AXES = 5
"""An array of more axes is not tried in every order of them."""
_NUMPY: Any = (np.ndarray, np.generic)
_ARRAY_LIKE: Any = (bool, int, float, complex, list, tuple, np.ndarray, np.generic)
_WIDE = {"float64", "int64", "uint64", "complex128"}
_NONE_TIP = "write `| None` into the annotation if it may be missing"


def no_array(value: Any, wanted: Any) -> Mismatch:
    """A value that is not of the array type."""
    tip = None
    library = "np" if wanted is np.ndarray else "jnp"
    if value is None:
        tip = _NONE_TIP
    elif isinstance(value, _NUMPY) and _takes_jax(wanted):
        tip = "an array of numpy is no jax.Array: jnp.asarray(...)"
    elif isinstance(value, jax.Array) and wanted is np.ndarray:
        tip = "a jax.Array is no array of numpy: np.asarray(...)"
    elif isinstance(value, _ARRAY_LIKE):
        tip = f"make it an array: {library}.asarray(...)"
    return Mismatch(found_text(value), tip=tip)


def wrong_dtype(value: Any, hint: Any) -> Mismatch:
    """An array of a dtype that the type does not take."""
    # There may be patterns among them; what takes every dtype never comes here.
    names = [name for name in dtype_names(hint) if isinstance(name, str)]
    dtype = str(value.dtype)
    tip = None
    x64: bool = cast(Any, jax.config).jax_enable_x64
    if names and not x64 and _WIDE.issuperset(names):
        tip = 'JAX keeps 32 bits unless jax.config.update("jax_enable_x64", True)'
    elif dtype.replace("64", "32") in names or dtype.replace("128", "64") in names:
        tip = f"jax_enable_x64 makes {dtype} the default: give the dtype where it is made"
    return Mismatch(found_text(value), tip=tip, near=1)


def wrong_shape(value: Any, dims: Dims, sizes: Sizes, misfits: list[Misfit]) -> Mismatch:
    """An array whose shape does not fit; `sizes` are those that others have bound."""
    shape = tuple(value.shape)
    tip = None
    order = _fitting_order(dims, shape, sizes)
    if order is not None:
        tip = "it fits transposed"
        tip += f": jnp.transpose(..., {order})" if len(order) > 2 else ""
    elif shape and _fits(dims, shape[1:], sizes):
        tip = (
            f"it fits without its leading axis of {shape[0]}: is it a batch (jax.vmap), "
            "or a stack of models (eqx.filter_vmap)?"
        )
    near = 3 if misfits[0].axis is not None else 2
    return Mismatch(found_text(value), misfits=tuple(misfits), tip=tip, near=near)


def wrong_type(value: object) -> Mismatch:
    """A value that is no instance of a class, or no member of anything."""
    return Mismatch(found_text(value), tip=_NONE_TIP if value is None else None)


def found_text(value: Any) -> str:
    """A value without its contents: `float32[2,3]`, `an int`."""
    kind = "numpy " if isinstance(value, _NUMPY) else ""
    return kind + describe(value).removeprefix("an array ")


def _fitting_order(
    dims: Dims, shape: tuple[int, ...], sizes: Sizes
) -> tuple[int, ...] | None:
    """The order of axes in which a shape fits; the reversed one comes first."""
    if not 2 <= len(shape) <= _MOST_AXES:
        return None
    for order in permutations(reversed(range(len(shape)))):
        if _fits(dims, tuple(shape[at] for at in order), sizes):
            return order
    return None


def _fits(dims: Dims, shape: tuple[int, ...], sizes: Sizes) -> bool:
    saved = sizes.save()
    try:
        return not fit(dims, shape, sizes)
    except UnboundError:
        return False
    finally:
        sizes.restore(saved)


def _takes_jax(wanted: Any) -> bool:
    return isinstance(wanted, type) and issubclass(wanted, jax.Array)
