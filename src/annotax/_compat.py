"""Every place where annotax depends on a version or on something not public.

Each entry says why it is needed; `tests/test_compat.py` fails when one of them moves.

Python 3.14 (read in its documentation, not run): annotations are computed on demand,
so `own_annotations` asks `annotationlib` for values in which unknown names stay forward
references. Equinox itself evaluates annotations when a class is made there, so a name
that is missing at that moment fails in Equinox before annotax sees it.
"""

import importlib
import inspect
import os
import sys
import typing
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.extend.core  # not imported by `jax` itself
import jaxtyping
import numpy as np
import typing_extensions

# What these packages hold without types, or do not export, is reached through `Any`.
_jax: Any = jax
_jaxtyping: Any = jaxtyping

tree_flatten: Callable[..., tuple[list[Any], Any]] = _jax.tree_util.tree_flatten
"""JAX's own function, under a type that says what a treedef is to us: anything."""

if TYPE_CHECKING:
    # A type checker takes no call for a base class, so it is told the name.
    import equinox._module._module as _equinox_module

    EquinoxMeta = _equinox_module._ModuleMeta  # pyright: ignore[reportPrivateUsage] -- not exported
else:
    EquinoxMeta = type(eqx.Module)
    """The metaclass of Equinox modules: not exported, but this expression is public."""

instance_dict: Callable[[object], dict[str, Any]] = eqx.Module.__dict__["__dict__"].__get__
"""A module's `__dict__`, past Equinox's `__getattribute__` and without a Python call."""

ArrayImpl: type = getattr(_jax._src.array, "ArrayImpl", jax.Array)
"""The class of concrete JAX arrays. `type(x) is ArrayImpl` is the only way to tell a
concrete array from a tracer in 30 ns; everything works without, only slower."""

_HERE = f"{os.path.dirname(__file__)}{os.sep}"
_GENERATED = ("<string>", "<generated")  # by `dataclasses` and by Equinox

ARRAY_TYPES: tuple[type[Any], ...] = (
    jax.Array,
    np.ndarray,
    np.generic,
    jax.ShapeDtypeStruct,
)
"""What counts as an array: what Equinox's `is_inexact_array` takes, and stand-ins."""

ALIAS_TYPES: tuple[Any, ...] = tuple(
    {
        module.TypeAliasType
        for module in (typing, typing_extensions)
        if hasattr(module, "TypeAliasType")
    }
)
"""The classes of PEP 695 aliases: `typing`'s from Python 3.12 on, and the backport's."""


SharedNode: type = importlib.import_module("equinox.nn._shared").SharedNode
"""The leaf that `equinox.nn.Shared` leaves where it took an array out. Not exported."""

EXACT_TYPES: tuple[type, ...] = (eqx.nn.StateIndex,)
"""Classes that Equinox tells by `type(x) is ...`, so that no subclass will do."""


def alias_value(alias: Any) -> Any:
    """What a PEP 695 alias stands for, with its arguments put in where they belong.

    **Raises:** `NameError` if it names what does not exist yet: it is computed on demand.
    """
    head = typing.get_origin(alias) or alias
    value = head.__value__
    arguments = dict(zip(head.__type_params__, typing.get_args(alias), strict=False))
    if isinstance(value, typing.TypeVar):  # type Same[T] = T
        return arguments.get(value, value)
    free = getattr(value, "__parameters__", ())
    if arguments and free:
        value = value[tuple(arguments.get(parameter, parameter) for parameter in free)]
    return value


def _hash_covers_nodes() -> bool:
    structures: list[Any] = [
        (0, [1]),
        [0, (1,)],
        (0, (1,)),
        (0, [None]),
        (None, [1]),
        (0, [1, 2]),
    ]
    structures += [(0, OrderedDict(a=1)), (0, defaultdict(int, a=1)), (0, {"a": 1})]
    hashes = {hash(_jax.tree_util.tree_structure(structure)) for structure in structures}
    return len(hashes) == len(structures)


HASH_COVERS_NODES: bool = _hash_covers_nodes()
"""Whether the hash of a treedef covers kind, arity and class of every node.

JAX does so without a promise. It is looked at when annotax is imported, so that a JAX
that does otherwise makes layouts slower to find and never wrong."""


def own_annotations(cls: type) -> dict[str, Any]:
    """The annotations written in the body of `cls`, none of its bases'."""
    if sys.version_info >= (3, 14):  # pragma: no cover - not run yet, see above
        import annotationlib  # the module exists from 3.14 on

        return dict(
            annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
        )
    return dict(cls.__dict__.get("__annotations__", {}))  # noqa: RUF063 -- the same, quicker


def is_array_hint(hint: object) -> bool:
    """Whether a hint is one of jaxtyping's array types, `Float[Array, "n"]`."""
    return isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)


def dim_text(hint: Any) -> str:
    """The dimensions of an array type as written: `dim_str` is not documented."""
    return hint.dim_str


def dtype_names(hint: Any) -> Any:
    """The dtypes that an array type takes, by name: an attribute without documentation."""
    return hint.dtype.dtypes


def array_type(hint: Any) -> Any:
    """The class of arrays that an array type is for: an attribute without documentation."""
    return hint.array_type


class _Duck:
    """An array to jaxtyping, as far as its dtype goes."""

    shape = ()

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype


def accepts_dtype(hint: Any, dtype: Any) -> bool:
    """Whether an array type takes a dtype, by jaxtyping's own judgement.

    Nested types, `Float[Float32[Array, "n"], "m"]`, have their dtypes in an attribute
    without documentation; a class with such an attribute is how users make dtypes.
    """
    own = type(hint.dtype)("Dtype", (jaxtyping.AbstractDtype,), {"dtypes": hint.dtypes})
    return isinstance(_Duck(dtype), own[_Duck, ""])


def is_array_dtype(hint: object) -> bool:
    """Whether a hint is one of jaxtyping's dtypes, `Float`, whose subscript names axes."""
    return isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractDtype)


def pytree_leaf_hint(hint: object) -> Any:
    """The `X` of jaxtyping's `PyTree[X]`, or `None`.

    jaxtyping builds a class whose attribute `leaftype` is not documented.
    """
    pytree = _jaxtyping.PyTree
    is_pytree = isinstance(hint, type(pytree)) and hint is not pytree
    return getattr(hint, "leaftype", None) if is_pytree else None


def pytree_structure_name(hint: Any) -> str | None:
    """The `"T"` of jaxtyping's `PyTree[X, "T"]`: as undocumented as `leaftype`."""
    return hint.structure


jaxtyping_config: Any = _jaxtyping.config
"""Its `jaxtyping_disable` tells whether jaxtyping's checks are switched off. Asked at each
construction, so directly."""


def children(node: object) -> list[tuple[Any, Any]]:
    """The (key, child) pairs one level down; empty for a leaf and for an empty node."""
    return one_level(node)[0]


def one_level(node: object) -> tuple[list[tuple[Any, Any]], Any]:
    """The (key, child) pairs one level down, and the treedef that puts children together.

    JAX has no public function for one level with keys: stopping below the root does it.
    """

    def below(x: object) -> bool:
        return x is not node

    pairs, treedef = _jax.tree_util.tree_flatten_with_path(node, is_leaf=below)
    if len(pairs) == 1 and not pairs[0][0]:
        return [], treedef
    return [(path[0], child) for path, child in pairs], treedef


def node_data(treedef: Any) -> tuple[type, Any] | None:
    """The node type and static data at the root of a treedef, `None` for a leaf.

    A method of the treedef without documentation; nothing else tells two structures
    apart that differ only in static data.
    """
    return treedef.node_data()


def outer_frames() -> Iterator[FrameType]:
    """The frames of the callers, innermost first.

    Strings in the annotations of a class that is local to a function may name locals
    of that function, and nothing but its frame knows them.
    """
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


# --- traced programs -----------------------------------------------------------------

CUSTOM_RULES: dict[str, str] = {
    "custom_jvp_call": "custom_jvp",
    "custom_vjp_call": "custom_vjp",
    "custom_vjp_call_jaxpr": "custom_vjp",  # until JAX 0.6
}
"""The primitives whose derivative is the user's own rule, by what the user calls them.

Their names are no promise. Taken for something else, the rule would be ignored."""


def equation_function(program: Any, equation: Any) -> tuple[list[Any], list[Any], Any]:
    """One equation of a jaxpr as a function.

    `Jaxpr.replace` is not documented, and it alone keeps the debug information that a
    jaxpr must have in newer versions of JAX.

    **Returns:** the variables that it takes, each once; those that it gives; the function.
    """
    literal: Any = jax.extend.core.Literal
    taken = list(dict.fromkeys(x for x in equation.invars if not isinstance(x, literal)))
    given = [variable for variable in equation.outvars if not is_dropped(variable)]
    parts = {"constvars": [], "invars": taken, "outvars": given, "eqns": [equation]}
    closed = _jax.extend.core.ClosedJaxpr(program.replace(**parts), [])
    return taken, given, _jax.extend.core.jaxpr_as_fun(closed)


def scan_counts(params: Any) -> tuple[int, int]:
    """How many of the operands of a `scan` are constants, and how many are carried.

    The parameters of an equation are no promise: JAX 0.12 has trees in the place of these
    numbers.
    """
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(list(consts)), len(list(carry))


def is_dropped(variable: object) -> bool:
    """Whether an output of an equation is not used: its class is not exported of old."""
    return type(variable).__name__ == "DropVar"


def is_ref(variable: Any) -> bool:
    """Whether a variable of a jaxpr stands for a mutable array: their type is private."""
    return hasattr(variable.aval, "inner_aval")


def equation_frames(equation: Any) -> list[tuple[str, int]]:
    """The files and lines that an equation comes from, innermost first.

    That is not public: none, if JAX does not tell. Passed over are JAX itself, annotax,
    generated code, and whoever asks for a report.
    """
    places: list[tuple[str, int]] = []
    try:
        source = equation.source_info
        frames: Any = _jax._src.source_info_util.user_frames
        is_new = next(iter(inspect.signature(frames).parameters)) == "traceback"
        if is_new:  # pragma: no branch - until JAX 0.7 it is not
            source = source.traceback
        for frame in frames(source):
            if frame.file_name == f"{_HERE}_gradient_paths.py":
                break
            if not frame.file_name.startswith((_HERE, *_GENERATED)):
                places.append((frame.file_name, frame.start_line))
    except Exception:  # a report without a line is better than none
        places.clear()
    return places


def wraps_numpy(keys: Any) -> bool:
    """Whether an array of PRNG keys has its data in numpy.

    In JAX 0.5 these are arrays of JAX, and fail when asked where they are.
    """
    return isinstance(getattr(keys, "_base_array", None), np.ndarray)
