"""The names that an annotation in a class can see."""

import sys
from collections.abc import Mapping
from typing import Any

from ._compat import outer_frames
from ._hint import Scope


def class_scope(cls: type, annotations: Mapping[str, Any]) -> Scope:
    """The names that the body of `cls` sees: its own, its functions', its module's."""

    def layers() -> list[Mapping[str, Any]]:
        own = {k: v for k, v in vars(cls).items() if k not in annotations}
        parameters = {p.__name__: p for p in getattr(cls, "__type_params__", ())}
        return [own, parameters, {cls.__name__: cls}, *_enclosing_scopes(cls)]

    return Scope(layers)


def module_scope(cls: type) -> Scope:
    """The names of the module in which a class stands."""
    return Scope(
        lambda: [vars(sys.modules[cls.__module__])] if cls.__module__ in sys.modules else []
    )


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
