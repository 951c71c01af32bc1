"""What is to be looked at: a package, a module or a class, as the classes in it.

Stands apart from what is said of these classes: here modules are imported and walked.
"""

import importlib
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal, NamedTuple, cast

import equinox as eqx

from ._errors import TargetError, describe, did_you_mean, explain_error, with_article
from ._registry import registry
from ._text import shorten


class Skipped(NamedTuple):
    """A module that could not be imported, with the reason in one line.

    It is optional if a package of somebody else is missing, and broken otherwise.
    """

    module: str
    reason: str
    kind: Literal["optional", "broken"]


@dataclass
class Target:
    """The module classes that one target names, each once and none of them a variant.

    `chosen` is the class that was named itself, `None` for a package or module; `looked`
    counts the modules below it that could be imported, `skipped` are those that could not.
    """

    name: str
    classes: list[type] = field(default_factory=list[type])
    chosen: type | None = None
    looked: int = 0
    skipped: list[Skipped] = field(default_factory=list[Skipped])


def find_targets(target: Any) -> list[Target]:
    """The classes of a package or module (or its name), of a class, or of several.

    **Raises:** `TargetError` for anything else, and for a name that cannot be imported.
    """
    if isinstance(target, Sequence) and not isinstance(target, str):
        found = [_find(one) for one in cast(Sequence[Any], target)]
        if found:
            return found
        raise TargetError(_no_target_message("an empty sequence"))
    return [_find(target)]


def _find(target: Any) -> Target:
    if isinstance(target, str):
        module, _, attribute = target.partition(":")
        named = attribute and not _is_path(target)
        target = _import_attribute(module, attribute) if named else _import(target)
    if isinstance(target, ModuleType):
        return _find_in_modules(target)
    if isinstance(target, type):
        return _find_class(target)
    if isinstance(target, eqx.Module):
        raise TargetError(_instance_message(type(target).__name__))
    raise TargetError(_no_target_message(describe(target)))


# --- classes -------------------------------------------------------------------------


def _find_class(cls: type) -> Target:
    """A class with the bases whose fields it inherits."""
    if not _is_module_class(cls):
        raise TargetError(
            explain_error(
                "audit",
                f"{cls.__name__} is no equinox.Module",
                expected="a class of modules, or the package that defines some",
                found=f"the class {cls.__module__}.{cls.__qualname__}",
            )
        )
    cls = registry.original(cls)
    homes = ("equinox", "annotax")
    bases = [
        base
        for base in cls.__mro__
        if _is_module_class(base) and base.__module__.partition(".")[0] not in homes
    ]
    classes = list(dict.fromkeys((cls, *bases)))
    return Target(f"{cls.__module__}.{cls.__qualname__}", classes, chosen=cls)


def _is_module_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, eqx.Module)


def _find_in_modules(module: ModuleType) -> Target:
    target = Target(module.__name__)
    found: dict[type, None] = {}
    for one in _modules(module, target):
        found.update(dict.fromkeys(_defined(vars(one), one.__name__, set())))
    target.classes += found
    return target


def _defined(namespace: Any, module: str, seen: set[type]) -> Iterator[type]:
    """The module classes that a module defines, also inside other classes of its own."""
    for value in list(namespace.values()):
        if not isinstance(value, type) or value in seen or value.__module__ != module:
            continue
        seen.add(value)
        if _is_module_class(value) and value not in registry.variants:
            yield value
        yield from _defined(vars(value), module, seen)


# --- modules -------------------------------------------------------------------------


def _modules(module: ModuleType, target: Target) -> Iterator[ModuleType]:
    """A module and, of a package, all below it that can be imported.

    `__main__` is left out: importing it would run the program.
    """
    yield module
    for info in pkgutil.iter_modules(getattr(module, "__path__", ())):
        name = f"{module.__name__}.{info.name}"
        if info.name == "__main__":
            continue
        try:
            below = _import_quietly(name)
        except (Exception, SystemExit) as error:
            kind = "optional" if _is_optional(error, name) else "broken"
            target.skipped.append(Skipped(name, _raised(error), kind))
        else:
            target.looked += 1
            yield from _modules(below, target)


def _is_optional(error: BaseException, name: str) -> bool:
    """Whether a module wants a package of somebody else, which is not installed.

    A module may say so in words of its own, raised from the error that names the package.
    """
    cause: BaseException | None = error
    while isinstance(cause, ImportError) and cause.name is None:
        cause = cause.__cause__ or cause.__context__
    # Of a package that is there, a name that is not is another version's: that is broken.
    missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
    return missing is not None and missing.partition(".")[0] != name.partition(".")[0]


def _import_quietly(name: str) -> ModuleType:
    """Import a module; what it warns of is for those who use it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def _import(name: str) -> Any:
    """A module by its name; a class by the name of its module and its own."""
    try:
        return _import_quietly(name)
    except (Exception, SystemExit) as error:
        if _is_path(name):
            raise TargetError(_path_message(name)) from None
        found = _attribute(name) if _is_missing(error, name) else None
        if found is not None:
            return found
        raise TargetError(_import_message(name, error)) from error


def _import_attribute(module: str, name: str) -> Any:
    """What `package.module:Class` names, as on the command line."""
    owner = _import(module)
    found = _attribute(f"{module}.{name}")
    if found is None:
        named = getattr(owner, "__dict__", {}).items()
        classes = [key for key, value in named if _is_module_class(value)]
        raise TargetError(
            explain_error(
                "audit",
                f"there is no {name!r} in {module}",
                expected="a class of modules",
                fix=did_you_mean(name, classes),
            )
        )
    return found


def _is_path(name: str) -> bool:
    return "/" in name or "\\" in name or name.startswith(".") or name.endswith(".py")


def _is_missing(error: BaseException, name: str) -> bool:
    """Whether the named module does not exist, as opposed to one that it imports."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    return missing is not None and f"{name}.".startswith(f"{missing}.")


def _attribute(name: str) -> Any:
    """What a dotted name stands for in the modules that importing it has loaded."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        value: Any = sys.modules.get(".".join(parts[:end]))
        if value is not None:
            for part in parts[end:]:
                value = getattr(value, part, None)
            return value
    return None


def _raised(error: BaseException) -> str:
    return shorten(f"{type(error).__name__}: {error}", 200)


# --- messages ------------------------------------------------------------------------


def _import_message(name: str, error: BaseException) -> str:
    if not _is_missing(error, name):
        return explain_error(
            "audit",
            f"{name!r} cannot be imported",
            found=_raised(error),
            fix=f"make `import {name}` work first",
        )
    return _missing_message(name)


def _missing_message(name: str) -> str:
    hint = did_you_mean(name, list(_siblings(name)))
    return explain_error(
        "audit",
        f"there is no module {name!r}",
        expected="a package or module that can be imported, or a class",
        fix=hint
        if hint.startswith("did you mean")
        else "install it, or start Python where it can be imported",
    )


def _path_message(name: str) -> str:
    parts = [part for part in re.split(r"[/\\]", name) if part.strip(".")]
    module = parts[-1].partition(":")[0].removesuffix(".py") if parts else "..."
    return explain_error(
        "audit",
        f"{name!r} is a path",
        expected="the name that is imported: a package, a module or a class",
        fix=f"audit({module!r}), where `import {module}` works",
    )


def _siblings(name: str) -> Iterable[str]:
    """What could have been meant: the modules and classes beside the one named."""
    parent = name.rpartition(".")[0]
    owner = sys.modules.get(parent)
    if owner is None:
        return [info.name for info in pkgutil.iter_modules()]
    below = [info.name for info in pkgutil.iter_modules(getattr(owner, "__path__", ()))]
    below += [key for key, value in vars(owner).items() if _is_module_class(value)]
    return [f"{parent}.{one}" for one in below if not one.startswith("_")]


def _instance_message(name: str) -> str:
    return explain_error(
        "audit",
        "this is an instance, and classes are looked at",
        found=with_article(name),
        fix=f"audit({name}), or summary(model) to look at the instance",
    )


def _no_target_message(found: str) -> str:
    return explain_error(
        "audit",
        "there is nothing to look at",
        expected="a package or module, its name, a class, or a sequence of these",
        found=found,
    )
