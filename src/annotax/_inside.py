"""What a method's instance has bound, told to jaxtyping for the body of the method.

Many assert shapes there: `assert isinstance(x, Float[Array, " in_features"])`. jaxtyping
keeps sizes in a place of its own, which opens with `jaxtyped("context")`; a stand-in for
an array with the right shape binds them in it. All of this is public.
"""

from functools import lru_cache
from typing import Any

import jaxtyping
import numpy as np

from ._dims import Shape, Sizes

_jaxtyping: Any = jaxtyping  # the types of what is used here are partly unknown


def new_context() -> Any:
    """A place for sizes, open inside a `with` block."""
    return _jaxtyping.jaxtyped("context")


class _Sized:
    """An array as far as its shape goes."""

    dtype = np.dtype(bool)

    def __init__(self, shape: Shape) -> None:
        self.shape = shape


@lru_cache(maxsize=1024)
def _hint(dims: str) -> Any:
    return _jaxtyping.Shaped[_Sized, dims]


def tell_jaxtyping(sizes: Sizes) -> None:
    """Bind sizes in the context that is open."""
    single = sizes.single
    if single:
        if any("." in name for name in single):  # of one leaf of a tree
            single = {name: size for name, size in single.items() if "." not in name}
        isinstance(_Sized(tuple(single.values())), _hint(" ".join(single)))
    for name, (broadcast, shape) in sizes.variadic.items():
        if "." not in name:
            mark = "*#" if broadcast else "*"
            isinstance(_Sized(shape), _hint(mark + name))
