"""Edits: what to change in a tree, by path, and the tree with it changed.

An edit mirrors the tree as far as something changes in it. Applying one copies the nodes
on the way and shares all others, so the original stays as it is.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ._check import fits
from ._compat import one_level
from ._leaves import Leaves
from ._mode import checking
from ._node import below, field_value, is_module
from ._path import join, segments, steps_of
from ._specs import field_specs
from ._static import with_static_items
from ._variant import changes_of, recast


@dataclass(slots=True)
class Edit:
    """What changes in one node.

    `cls` is the class that a module becomes an instance of; `values` replace what stands
    at a step (the name of a field, an index, a key), `updates` compute from what stands in
    a field what shall; `inner` are the edits further in.
    """

    cls: type | None = None
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    updates: dict[str, Callable[[Any], Any]] = field(
        default_factory=dict[str, Callable[[Any], Any]]
    )
    inner: dict[str, "Edit"] = field(default_factory=dict[str, "Edit"])

    def at(self, path: str) -> "Edit":
        """The edit of the node at a path below this one, an empty one at first."""
        edit = self
        for step in segments(path):
            found = edit.inner.get(step)
            if found is None:
                found = edit.inner[step] = Edit()
            edit = found
        return edit


def apply(edit: Edit, node: Any, *, check: bool = False) -> Any:
    """The node with the changes made.

    **Arguments:** with `check`, converters run on fields that are given a value or whose
    containers changed, and then every `__check_init__` of the modules on the way, the
    inner ones first.
    """
    __tracebackhide__ = True
    if not (check or edit.cls or edit.values or edit.updates or edit.inner):
        return node
    if is_module(node):
        return _module(edit, node, check)
    pairs, treedef = one_level(node)
    steps = steps_of([key for key, _ in pairs])
    return treedef.unflatten(
        _child(edit, step, child, check)
        for step, (_, child) in zip(steps, pairs, strict=True)
    )


def _child(edit: Edit, step: str, child: Any, check: bool) -> Any:
    __tracebackhide__ = True
    if step in edit.values:
        return edit.values[step]
    return apply(edit.inner[step], child, check=check) if step in edit.inner else child


def _module(edit: Edit, module: object, check: bool) -> Any:
    __tracebackhide__ = True
    changed = dict(edit.values)
    assigned = set(changed)
    for name, inner in edit.inner.items():
        value = field_value(module, name)
        changed[name] = apply(inner, value, check=check)
        if not is_module(value):
            assigned.add(name)
    for name, change in edit.updates.items():
        old = field_value(module, name)
        value = change(old)
        if value is not old:
            changed[name] = value
    if not (check or changed or edit.cls):
        return module
    cls = edit.cls or type(module)
    new = recast(module, cls)
    converters = {s.name: s.converter for s in field_specs(cls)} if check else {}
    mixed = changes_of(cls).mixed
    for name, value in changed.items():
        converter = converters.get(name) if name in assigned else None
        given = value if converter is None else converter(value)
        object.__setattr__(new, name, with_static_items(given) if name in mixed else given)
    if check:
        _check_again(new, fields=fits(module))
    return new


_MODULE = f"{__package__}._module"


def _check_again(module: object, *, fields: bool) -> None:
    """Run every `__check_init__` of a changed module.

    Annotations are held against the `fields` if they did fit before: an ensemble, or a half
    of a partitioned model, does not fit, and its Hypers may be changed all the same.
    """
    __tracebackhide__ = True
    for base in type(module).__mro__:
        check_init = base.__dict__.get("__check_init__")
        if check_init is not None:
            is_ours = base.__module__ == _MODULE and base.__name__ == "Module"
            with checking("off") if is_ours and not fields else nullcontext():
                check_init(module)


class Missing(NamedTuple):
    """A step of an edit that the tree does not have below a path, and those it has."""

    above: str
    step: str
    steps: tuple[str, ...]

    @property
    def path(self) -> str:
        return join(self.above, self.step)


def missing(edit: Edit, node: Any, path: str = "") -> list[Missing]:
    """What an edit means to change and the tree does not have."""
    steps = {} if isinstance(node, Leaves) else below(node)
    found: list[Missing] = []
    for step in (*edit.inner, *edit.values):
        if step not in steps:
            found.append(Missing(path, step, tuple(steps)))
        elif step in edit.inner:
            found += missing(edit.inner[step], steps[step], join(path, step))
    return found
