"""Arrays as a safetensors file can hold them.

The format has no name for some dtypes of JAX, and none for PRNG keys: their bits are stored
under another dtype, and what they are is told beside them.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

_jax: Any = jax  # the types of some of its functions are partly unknown

CODES: dict[str, str] = {
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{
        f"{sign}int{bits}": f"{sign.upper() or 'I'}{bits}"
        for bits in (8, 16, 32, 64)
        for sign in ("", "u")
    },
    "bool": "BOOL",
    "complex64": "C64",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}
"""The dtypes that the format has, by their names in numpy, with their names in a file."""

NAMES = {code: name for name, code in CODES.items()}


class StoredArray(NamedTuple):
    """An array in a dtype that the format has, and what it is meant to be.

    `dtype` is the name of the dtype that the array has in the model; `key_impl` is the
    implementation of PRNG keys, whose data are stored.
    """

    data: np.ndarray[Any, Any]
    dtype: str
    key_impl: str | None = None


def is_key(leaf: Any) -> bool:
    """Whether an array holds PRNG keys."""
    return bool(_jax.numpy.issubdtype(leaf.dtype, _jax.dtypes.prng_key))


def stored(leaf: Any) -> StoredArray:
    """An array as it is stored; contiguous, in the byte order of the machine, not copied
    unless it has to be.

    **Raises:** `ValueError`, in a few words, for a dtype that cannot be stored.
    """
    dtype = str(leaf.dtype)
    if is_key(leaf):
        data = np.asarray(_jax.random.key_data(leaf), order="C")
        return StoredArray(data, dtype, _key_impl(leaf))
    data = np.asarray(leaf, order="C")
    data = data.astype(data.dtype.newbyteorder("="), copy=False)
    name = leaf.dtype.name
    if name == data.dtype.name and name in CODES:
        return StoredArray(data, name)
    if name == "complex128":
        pairs = data.reshape(-1).view(np.float64).reshape(*data.shape, 2)
        return StoredArray(pairs, name)
    if data.dtype.itemsize == 1 and _jax_dtype(name) is not None:  # int1 may come as bool
        return StoredArray(data.view(np.uint8), name)
    raise ValueError(f"{dtype} is no dtype of JAX")


def _key_impl(keys: Any) -> str:
    impl = _jax.random.key_impl(keys)
    if isinstance(impl, str):
        return impl
    raise ValueError("keys of an implementation that JAX has no name for")


def restored(data: np.ndarray[Any, Any], dtype: str, key_impl: str | None) -> Any:
    """What `stored` was given; PRNG keys as an array of JAX, any other of numpy.

    **Raises:** `ValueError`, in a few words, if the data cannot be of that dtype.
    """
    if key_impl is not None:
        return _jax.random.wrap_key_data(_jax.numpy.asarray(data), impl=key_impl)
    if data.dtype.name == dtype:
        return data
    if dtype == "complex128" and data.dtype == np.float64 and data.shape[-1:] == (2,):
        whole: Any = data.reshape(-1).view(np.complex128)
        return whole.reshape(data.shape[:-1])
    wanted = _jax_dtype(dtype)
    if data.dtype == np.uint8 and wanted is not None and wanted.itemsize == 1:
        return data.view(wanted)
    raise ValueError(f"{data.dtype.name} stored for {dtype}")


def _jax_dtype(name: str) -> Any:
    """The dtype of a name, `None` if JAX has none of it."""
    try:
        return np.dtype(getattr(_jax.numpy, name, name))
    except TypeError:
        return None
