"""The one place where code is generated: a yes, quickly, for what most fields hold.

A checked construction should cost what a plain one does, and a call for each field is too
much for that. So the fields of a class whose types are plain (arrays with names and sizes,
such arrays or `None`, classes) are looked at by one function, written out for the class.
It says yes, or nothing: then the walk in `_check` finds out what is wrong, if anything is.
`inspect.getsource` shows it.
"""

import itertools
import linecache
import types
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, Union, cast, get_args, get_origin

import jax
import numpy as np

from ._compat import ArrayImpl, accepts_dtype, array_type, dim_text, is_array_hint
from ._dims import read_dims
from ._form import validators

Quick = Callable[[Mapping[str, Any]], dict[str, int] | None]
"""From the values of an instance to the sizes they bind; `None` for "not sure"."""


_numbers = itertools.count(1)


class QuickField(NamedTuple):
    """A field that is quick to look at. `dims` are those of an array type, else `None`.

    `binds` tells that the value is itself a size, under the name of the field.
    """

    name: str
    accepts: Any
    dims: tuple[int | str, ...] | None = None
    optional: bool = False
    binds: bool = False


_COMMON = tuple(map(np.dtype, ("float32", "int32", "uint32", "bool", "complex64")))


class _Dtypes(dict[Any, bool]):
    """Whether an array type takes a dtype, asked of jaxtyping once for each.

    `likely` is the one that comes first to mind: it is compared by identity.
    """

    def __init__(self, hint: Any) -> None:
        self._hint = hint
        self.likely: Any = next(filter(self.__getitem__, _COMMON), None)

    def __missing__(self, dtype: Any) -> bool:
        fits = self[dtype] = accepts_dtype(self._hint, dtype)
        return fits


@lru_cache(maxsize=1024)
def _dtypes(hint: Any) -> _Dtypes:
    return _Dtypes(hint)


def quick_field(name: str, hint: Any, *, is_hyper: bool) -> QuickField | None:
    """What to look at in a field, `None` if its type is not plain."""
    if get_origin(hint) is Annotated:
        if validators(hint):
            return None
        return quick_field(name, hint.__origin__, is_hyper=is_hyper)
    if get_origin(hint) in (Union, types.UnionType):
        members = [member for member in get_args(hint) if member is not type(None)]
        inner = quick_field(name, members[0], is_hyper=False) if len(members) == 1 else None
        is_plain = inner is not None and inner.dims is not None
        return inner._replace(optional=True) if inner and is_plain else None
    if is_array_hint(hint):
        dims, wanted = _simple_dims(hint), array_type(hint)
        is_ours = isinstance(wanted, type) and issubclass(jax.Array, wanted)
        plain = dims is not None and is_ours
        return QuickField(name, _dtypes(hint), dims) if plain else None
    if hint in (bool, int, float, str):
        return QuickField(name, hint, binds=is_hyper and hint is int)
    return None


def _simple_dims(hint: Any) -> tuple[int | str, ...] | None:
    try:
        return read_dims(dim_text(hint)).simple
    except ValueError:  # a wrong one, of which the walk tells
        return None


def make_quick(fields: Iterable[QuickField], *, tells: bool) -> Quick:
    """The function for some fields, from source. Unless it `tells`, it gives no sizes."""
    ordered = sorted(fields, key=lambda field: (field.dims is not None, field.optional))
    source = _Source()
    for field in ordered:
        source.add(field)
    return source.compiled(tells)


class _Source:
    """The source of one such function, field by field: those that bind for sure first."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._constants: dict[str, Any] = {
            "ArrayImpl": ArrayImpl,
            "Others": (jax.ShapeDtypeStruct, jax.Array),  # abstract, and traced ones
        }
        self._variables: dict[str, str] = {}
        self._perhaps: set[str] = set()
        """Names that have no size if some fields are `None`."""

    def add(self, field: QuickField) -> None:
        """Write out one field."""
        constant = self._constant(field.accepts)
        self._lines.append(f"v = values[{field.name!r}]")
        if field.dims is None:
            self._lines.append(f"if type(v) is not {constant}: return None")
            if field.binds:
                self._lines.append("if v < 0: return None")
                self._lines.append(f"{self._variable(field.name)} = v")
            return
        lines = [
            "if type(v) is ArrayImpl: a = v.aval",
            "elif isinstance(v, Others): a = v",
            "else: return None",
            "d = a.dtype",
            f"if d is not {self._constant(field.accepts.likely)} and not {constant}[d]:",
            "  return None",
            *self._shape(field.dims, perhaps=field.optional),
        ]
        if field.optional:
            lines = ["if v is not None:", *(f"  {line}" for line in lines)]
        self._lines += lines

    def _constant(self, value: Any) -> str:
        known = (name for name, one in self._constants.items() if one is value)
        name = next(known, f"c{len(self._constants)}")
        self._constants[name] = value
        return name

    def _shape(self, dims: tuple[int | str, ...], *, perhaps: bool) -> list[str]:
        """The lines for a shape: compared where all is known, else taken apart."""
        if all(self._is_known(dim) for dim in dims):
            wanted = "".join(f"{self._term(dim)}, " for dim in dims)
            return [f"if a.shape != ({wanted}): return None"]
        items = [f"x{at}" for at in range(len(dims))]
        lines = ["x = a.shape", f"if len(x) != {len(dims)}: return None"]
        lines.append(f"{', '.join(items)}, = x")
        for item, dim in zip(items, dims, strict=True):
            if self._is_known(dim):
                lines.append(f"if {item} != {self._term(dim)}: return None")
                continue
            if perhaps:
                self._perhaps.add(cast(str, dim))
            name = self._variable(cast(str, dim))
            lines.append(f"{name} = {item}")
            if perhaps:
                lines[-1] = f"if {name} is None: {lines[-1]}"
                lines.append(f"if {name} != {item}: return None")
        return lines

    def _is_known(self, dim: int | str) -> bool:
        return isinstance(dim, int) or (dim in self._variables and dim not in self._perhaps)

    def _term(self, dim: int | str) -> str:
        return str(dim) if isinstance(dim, int) else self._variables[dim]

    def _variable(self, name: str) -> str:
        return self._variables.setdefault(name, f"s{len(self._variables)}")

    def compiled(self, tells: bool) -> Quick:
        """The function."""
        told = self._variables.items() if tells else ()
        pairs = ", ".join(f"{name!r}: {variable}" for name, variable in told)
        start = [f"  {self._variables[name]} = None" for name in sorted(self._perhaps)]
        lines = [
            f"def make({', '.join(self._constants)}):",
            " def quick(values):",
            "  # an attribute that is not set is for the walk to find elsewhere",
            "  try:",
            *(f"  {line}" for line in start),
            *(f"    {line}" for line in self._lines),
            f"    return {{{pairs}}}",
            "  except KeyError: return None",
            " return quick",
        ]
        return _maker("\n".join(lines) + "\n")(*self._constants.values())


@lru_cache(maxsize=1024)
def _maker(text: str) -> Callable[..., Quick]:
    """What makes a function from its constants: classes that look alike share the code.

    The source is put where `inspect` and debuggers look for it.
    """
    file = f"<annotax checks {next(_numbers)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    space: dict[str, Any] = {}
    exec(compile(text, file, "exec"), space)
    return space["make"]
