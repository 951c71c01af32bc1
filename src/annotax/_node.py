"""One node of a tree: whether it is a module, and what stands one step below it.

The layout says what the leaves of a tree are. Here the tree itself is followed by path,
also into what is no leaf: static fields, containers, fields that hold `None`.
"""

from collections.abc import Iterator
from typing import Any

from ._compat import EquinoxMeta, one_level
from ._layout import is_array
from ._leaves import Leaves
from ._path import join, steps_of
from ._specs import field_specs


def is_module(node: object) -> bool:
    """Whether a node is an instance of an `equinox.Module`."""
    return isinstance(type(node), EquinoxMeta)


def field_value(module: object, name: str) -> Any:
    """What is in a field, past Equinox's `__getattribute__`, which wraps methods."""
    return object.__getattribute__(module, name)


def below(node: object) -> dict[str, Any]:
    """The steps one level down and what stands there; a field that is not set has none."""
    if is_module(node):
        names = [spec.name for spec in field_specs(type(node))]
        return {name: field_value(node, name) for name in names if hasattr(node, name)}
    pairs, _ = one_level(node)
    steps = steps_of([key for key, _ in pairs])
    return dict(zip(steps, (child for _, child in pairs), strict=True))


def every_path(node: Any, path: str = "") -> Iterator[str]:
    """The paths of all fields, items and leaves below a node, static ones included."""
    if is_array(node) or isinstance(node, Leaves):
        return
    for step, child in below(node).items():
        inner = join(path, step)
        yield inner
        yield from every_path(child, inner)
