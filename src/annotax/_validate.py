"""`validate`: whether a whole model is as its annotations say, asked at any time.

Goes down to every module of a tree. An ensemble, made with `equinox.filter_vmap`, is
looked at without its leading axes.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from ._axes import is_variadic
from ._batch_axes import Axes, BatchAxes, axes_of_leaves, disagreements, without
from ._check import find_problems, fits_for_sure
from ._class_checks import class_checks
from ._errors import CheckError
from ._layout import is_array, is_inexact_array
from ._leaves import Leaves
from ._misfits import Problem, counted_axes, problems_text
from ._mismatch import Mismatch, found_text
from ._node import field_value, is_module
from ._path import join
from ._registry import class_of, registry
from ._view import View, careful_view, modules_of, view

_TOLD = 1000
"""Lines of an error: a report of everything is asked for."""


def validate(model: Any, *, batch_axes: BatchAxes = 0) -> tuple[str, ...]:
    """Check every field with a role in every module of a model, and all at once.

    Examples:
        >>> import annotax as anx, equinox as eqx, jax, jax.numpy as jnp
        >>> from jaxtyping import Array, Float
        >>> class Scale(anx.Module):
        ...     weight: anx.Param[Float[Array, " d"]]
        ...     d: anx.Hyper[int]
        >>> model = Scale(jnp.ones(3), d=3)
        >>> anx.validate(model)
        ()
        >>> anx.validate(eqx.tree_at(lambda m: m.weight, model, jnp.ones(4)))
        Traceback (most recent call last):
        ...
        annotax._errors.CheckError: Scale.weight: the value does not fit its annotation
          expected: Param[Float[Array, 'd']]
          found:    float32[4]
                    axis 0 is 4, but d is 3 (set by the Hyper)
        >>> ensemble = eqx.filter_vmap(lambda w: Scale(w, d=3))(jnp.ones((5, 3)))
        >>> anx.validate(ensemble, batch_axes=1)
        ()

    **Arguments:**

    - `model`: a model, an abstract one (of `jax.ShapeDtypeStruct`), any tree with models in
      it, or `Leaves`, of which the number of axes is compared with their names.
    - `batch_axes`: how many leading axes every array has more than its annotation says, or
      a name for each; where that is so of a part of the model, a dictionary with patterns
      of paths, `{"heads.**": 1}`, of which the first that fits counts. What has the same
      name or pattern has the same size.

    **Returns:** notes on what is no error: an array that stands in two places, of which the
    first update makes two.

    What a class with `check="off"` holds itself is not looked at. An array that
    `equinox.nn.Shared` took out is not there to be checked.

    **Raises:** `CheckError` with everything that does not fit, sorted by path.
    """
    seen = careful_view(model, "validate")
    axes = axes_of_leaves(seen, batch_axes)
    found = list(_problems(seen, axes))
    if isinstance(model, Leaves):
        found += _of_leaves(seen, axes)
    if found:
        found.sort(key=lambda one: one.path)
        where = class_of(model).__name__
        raise CheckError(problems_text(where, found, limit=_TOLD))
    return tuple(_notes(seen))


def _problems(seen: View, axes: Sequence[Axes], start: str = "") -> Iterator[Problem]:
    """What does not fit in a tree, or in one that is static in a tree."""
    unequal = {one.path: one for one in disagreements(seen, axes)}
    yield from unequal.values()
    if any(axes):
        bare = seen.treedef.unflatten(map(without, seen.leaves, axes))
        seen = seen._replace(tree=bare)
    modules = modules_of(seen)
    for entry, module in zip(seen.layout.modules, modules, strict=True):
        for one in _of_module(module):
            moved = _moved(one, entry.path, seen, axes)
            if moved.path not in unequal:
                yield moved._replace(path=join(start, moved.path))
    for static in seen.layout.statics:
        at, name = static.home
        inner = _static_tree(modules[at], name)
        if inner is not None:
            yield from _problems(inner, [()] * len(inner.leaves), join(start, static.path))


def _of_module(module: object) -> Sequence[Problem]:
    cls: type = type(module)
    if registry.modes and registry.mode(cls) == "off":  # it says that nothing holds
        return ()
    if fits_for_sure(module, class_checks(cls).roles):
        return ()
    return find_problems(module)


def _static_tree(module: object, name: str) -> View | None:
    """What a static field holds, if there may be modules in it."""
    try:
        value = field_value(module, name)
    except AttributeError:  # not set
        return None
    may_hold = is_module(value) or isinstance(value, list | tuple | dict)
    return view(value) if may_hold else None


def _moved(problem: Problem, path: str, seen: View, axes: Sequence[Axes]) -> Problem:
    """A problem of a module as one of the whole tree."""
    path, mismatch = join(path, problem.path), problem.mismatch
    at = seen.layout.paths.get(_ITEM.sub(r".\1", path))
    if at is not None and axes[at]:
        many = "axis" if len(axes[at]) == 1 else f"{len(axes[at])} axes"
        whole = found_text(seen.leaves[at])
        found = f"{whole}, without its leading {many}: {mismatch.found}"
        mismatch = mismatch._replace(found=found)
    return problem._replace(path=path, mismatch=mismatch)


_ITEM = re.compile(r"\[(\d+)\]")


def _of_leaves(seen: View, axes: Sequence[Axes]) -> Iterator[Problem]:
    """Leaves know the names of their axes, not their types: their number must agree."""
    for entry, leaf, leading in zip(seen.layout.entries, seen.leaves, axes, strict=True):
        if entry.axes is None or not is_array(leaf) or any(map(is_variadic, entry.axes)):
            continue
        names = [*(axis.name for axis in leading), *(name or "_" for name in entry.axes)]
        found = len(leaf.shape)
        if len(names) != found:
            detail = (f"{counted_axes(found)} instead of {len(names)}",)
            text = f"axes {' '.join(names)!r}"
            yield Problem(entry.path, text, Mismatch(found_text(leaf)), detail)


def _notes(seen: View) -> Iterator[str]:
    """Arrays that stand in more than one place."""
    places: dict[int, list[int]] = {}
    for at, leaf in enumerate(seen.leaves):
        if is_array(leaf) and not isinstance(leaf, jax.ShapeDtypeStruct):
            places.setdefault(id(leaf), []).append(at)
    for found in places.values():
        if len(found) > 1:
            yield _shared_note(seen, found)


def _shared_note(seen: View, found: Sequence[int]) -> str:
    paths = [seen.layout.entries[at].path for at in found]
    start = f"{', '.join(paths[:-1])} and {paths[-1]} are one array"
    may_train, leaves = seen.layout.may_train, seen.leaves
    trained = sum(may_train[at] and is_inexact_array(leaves[at]) for at in found)
    if trained < 2:
        return f"{start}, which cannot be donated twice"
    after = trained + (trained < len(found))
    return (
        f"{start}, of which the first update makes {after}: tie them with equinox.nn.Shared"
    )
