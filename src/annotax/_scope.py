"""The names that an annotation in a class can see."""

import builtins
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from ._compat import outer_frames


class Scope:
    """Where the names of an annotation are looked up: innermost first.

    The layers are asked for when the first name is: most annotations have no string in
    them, and finding the locals of a function costs a walk over the stack.
    """

    def __init__(self, find_layers: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        self._find_layers = find_layers

    @cached_property
    def layers(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(self._find_layers())

    def __getitem__(self, name: str) -> Any:
        for layer in (*self.layers, vars(builtins)):
            if name in layer:
                return layer[name]
        raise KeyError(name)

    def __contains__(self, name: str) -> bool:
        return any(name in layer for layer in self.layers)


def class_scope(cls: type, annotations: Mapping[str, Any]) -> Scope:
    """The names that the body of `cls` sees: its own, its functions', its module's."""

    def layers() -> list[Mapping[str, Any]]:
        own = {k: v for k, v in vars(cls).items() if k not in annotations}
        parameters = {p.__name__: p for p in getattr(cls, "__type_params__", ())}
        return [own, parameters, {cls.__name__: cls}, *_enclosing_scopes(cls)]

    return Scope(layers)


def _enclosing_scopes(cls: type) -> list[Mapping[str, Any]]:
    """The locals of the functions around a class, as far as they run now, and globals."""
    around = cls.__qualname__.split(".<locals>.")[:-1]
    wanted = [".<locals>.".join(around[: end + 1]) for end in range(len(around))]
    found: dict[str, Mapping[str, Any]] = {}
    global_names: list[Mapping[str, Any]] = []
    for frame in outer_frames():
        if frame.f_globals.get("__name__", "builtins") == cls.__module__:
            if not global_names:
                global_names.append(frame.f_globals)
            name = frame.f_code.co_qualname
            if name in wanted and name not in found:
                found[name] = frame.f_locals
    module = sys.modules.get(cls.__module__)
    if module is not None:
        global_names.append(vars(module))
    return [found[name] for name in reversed(wanted) if name in found] + global_names
