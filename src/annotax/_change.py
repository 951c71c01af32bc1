"""Changed copies of models."""

import functools
import re
from collections.abc import Mapping
from typing import Any, TypeVar, overload

import equinox as eqx
import jax
import numpy as np

from ._edit import Edit, Missing, apply, missing
from ._errors import (
    FieldError,
    describe,
    did_you_mean,
    explain_error,
    listing,
    rows,
    unknown_fields,
)
from ._layout import is_array
from ._leaves import Leaves
from ._node import every_path, is_module
from ._path import compile_pattern, join, join_all, matches, segments
from ._registry import registry
from ._specs import field_specs
from ._view import view

_Model = TypeVar("_Model")
_Module = TypeVar("_Module", bound=eqx.Module)
_jnp: Any = jax.numpy  # its types are partly unknown


@overload
def replace(
    model: _Module, changes: Mapping[str, Any] | None = None, /, **fields: Any
) -> _Module: ...
@overload
def replace(model: _Model, changes: Mapping[str, Any], /) -> _Model: ...
def replace(model: Any, changes: Mapping[str, Any] | None = None, /, **fields: Any) -> Any:
    """A copy of a model with some fields changed, Hypers included.

    Examples:
        >>> import annotax as anx
        >>> class Dropout(anx.Module):
        ...     rate: anx.Hyper[float]
        >>> class Model(anx.Module):
        ...     dropouts: list[Dropout]
        ...     name: anx.Hyper[str]
        >>> model = Model([Dropout(0.5), Dropout(0.1)], "first")
        >>> anx.replace(model, {"dropouts.0.rate": 0.2}, name="second")
        Model(dropouts=[Dropout(rate=0.2), Dropout(rate=0.1)], name='second')
        >>> anx.replace(model, {"dropouts.*.rate": 0.0})
        Model(dropouts=[Dropout(rate=0.0), Dropout(rate=0.0)], name='first')

    Converters run on what changed, then every `__check_init__` of the modules on the way
    to it, the inner ones first; `__init__` does not run. `model` itself never changes, and
    what is not on the way is shared.

    **Arguments:** `changes` maps paths, as in `by_path`, to new values: of fields, leaves,
    submodules, items of containers. A path with `*` or `**` is a pattern, and gives the
    value to every field, item and leaf it fits. `fields` are fields of `model` itself,
    which must be a module then.

    **Raises:** `FieldError` for unknown paths, patterns that fit nothing, and paths of
    which one leads into another; `HyperError` for a value that cannot be static; whatever
    converters and checks raise.
    """
    __tracebackhide__ = True
    _insist_on_changes(model, changes, fields)
    wanted: dict[str, Any] = dict(fields)
    for key, value in (changes or {}).items():
        for path in _paths(model, key):
            if path in wanted:
                raise FieldError(_overlap_message(model, path, path))
            wanted[path] = value
    edit = Edit()
    for path, value in wanted.items():
        *way, last = segments(path)
        edit.at(join_all(way)).values[last] = value
    _refuse_overlaps(model, wanted)
    unknown = missing(edit, model)
    if unknown:
        raise FieldError(_unknown_message(model, unknown))
    return apply(edit, model, check=True)


def inference_mode(model: _Model, value: bool = True) -> _Model:
    """A copy of a model in which every `inference` flag has a value.

    Examples:
        >>> import annotax as anx, equinox as eqx
        >>> model = [eqx.nn.Dropout(0.5), anx.adopt(eqx.nn.Dropout(0.5))]
        >>> [layer.inference for layer in anx.inference_mode(model)]
        [True, True]

    As `equinox.nn.inference_mode`, whether the flag is a leaf or a Hyper: fields named
    `inference` that hold a boolean. A flag that a partitioned model holds no value of
    (`None`) stays so. Converters run, `__check_init__` does not, since half a model may
    not pass it.

    **Arguments:** `model` is any PyTree; `value` is `True` for inference, `False` for
    training.

    **Returns:** the model; if a flag is a Hyper, with another tree structure.
    """
    edit = Edit()
    for module in view(model).layout.modules:
        for spec in field_specs(module.cls):
            if spec.name == "inference":
                new = value if spec.converter is None else spec.converter(value)
                change = functools.partial(_flag, value, new)
            elif spec.static:
                change = functools.partial(_flags_inside, value)
            else:
                continue
            edit.at(module.path).updates[spec.name] = change
    return apply(edit, model)


def _flags_inside(value: bool, static: Any) -> Any:
    """A static value with the flags of modules in it set."""
    if type(static) in (int, str, float, bool, type(None)):
        return static
    nodes = jax.tree_util.tree_leaves(static, is_leaf=is_module)
    return inference_mode(static, value) if any(map(is_module, nodes)) else static


def _flag(value: bool, new: Any, old: Any) -> Any:
    """The new value of a flag, an array if the old one is; what is no flag stays."""
    if is_array(old):
        is_flag = old.dtype == np.bool_ and not isinstance(old, jax.ShapeDtypeStruct)
        return _jnp.full_like(old, new) if is_flag else old
    return new if isinstance(old, bool) else _flags_inside(value, old)


# --- paths ---------------------------------------------------------------------------


def _insist_on_changes(model: object, changes: Any, fields: Mapping[str, Any]) -> None:
    if not is_module(model) and (fields or not changes or isinstance(model, Leaves)):
        raise FieldError(
            explain_error(
                "replace",
                "this has no fields",
                expected="an equinox.Module, or paths into another PyTree",
                found=describe(model),
                fix='replace(model, {"0.rate": 0.5})',
            )
        )
    if not (changes is None or isinstance(changes, Mapping)):
        raise FieldError(
            explain_error(
                "replace",
                "these are no changes",
                expected="a mapping from paths to new values",
                found=describe(changes),
                fix='replace(model, {"encoder.dropout.p": 0.1})',
            )
        )
    known = [spec.name for spec in field_specs(type(model))] if fields else []
    unknown = [name for name in fields if name not in known]
    if unknown:
        cls = registry.original(type(model))
        raise FieldError(unknown_fields(cls.__name__, unknown, known))


def _paths(model: Any, key: Any) -> list[str]:
    """The paths that a key means: itself, or all that fit it as a pattern."""
    pattern = compile_pattern(key if isinstance(key, str) else "")
    if "*" not in re.sub(r"\[.*?\]", "", key):
        return [key]
    known = tuple(every_path(model))
    found = [path for path in known if matches(pattern, path)]
    if not found:
        steps = list(dict.fromkeys(step for path in known for step in segments(path)))
        strange = [s for s in segments(key) if "*" not in s and s not in steps]
        raise FieldError(
            explain_error(
                f"replace({type(model).__name__}, {{{key!r}: ...}})",
                "the pattern fits nothing",
                expected="the path of at least one field or leaf",
                found=listing(known),
                fix=rows([f"{s}: {did_you_mean(s, steps)}" for s in strange]) or None,
            )
        )
    return found


def _refuse_overlaps(model: Any, wanted: Mapping[str, Any]) -> None:
    ways = {segments(path): path for path in wanted}
    for steps, path in ways.items():
        for end in range(1, len(steps)):
            outer = ways.get(steps[:end])
            if outer is not None:
                raise FieldError(_overlap_message(model, outer, path))


def _overlap_message(model: Any, outer: str, inner: str) -> str:
    return explain_error(
        f"replace({type(model).__name__})",
        "two changes mean the same place",
        expected="paths of which none leads into another",
        found=outer if outer == inner else f"{outer} and {inner}",
        fix="change the inner one first, in a call of its own",
    )


def _unknown_message(model: Any, unknown: list[Missing]) -> str:
    hints = [
        f"{m.path}: {did_you_mean(m.step, m.steps, functools.partial(join, m.above))}"
        if m.steps
        else f"{m.path}: what stands there is replaced as a whole"
        for m in unknown
    ]
    return explain_error(
        f"replace({type(model).__name__})",
        "there is nothing at " + ("this path" if len(unknown) == 1 else "these paths"),
        expected="paths of fields, leaves, submodules or items of containers",
        found=listing(m.path for m in unknown),
        fix="\n".join(hints),
    )
