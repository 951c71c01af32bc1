"""Variants: classes with other roles than their original, for some instances only.

A variant is a subclass with the same name, module, fields and methods. `freeze` and
`adopt` swap an instance's class for one; it is made once for each combination of changes,
so the same changes give the same tree structure and nothing compiles twice. Whoever does
not freeze or adopt pays nothing.
"""

import copy
import dataclasses
import functools
import threading
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from inspect import getattr_static
from types import MappingProxyType
from typing import Any, cast

from ._buffer import BufferSlot, RegisteredSlot, UnsetField
from ._compat import EXACT_TYPES, instance_dict
from ._errors import AnnotationError, explain_error
from ._field import is_hyper
from ._hyper import HyperConverter, as_number
from ._registry import Changes, Variant, registry
from ._specs import field_specs
from ._static import (
    MixedSlot,
    Static,
    StaticSlot,
    with_plain_items,
    with_static_items,
)

NO_CHANGES = Changes()

_made: dict[Variant, type] = {}
_refused: dict[Variant, str] = {}
_lock = threading.RLock()


def changes_of(cls: type) -> Changes:
    """In what a class differs from its original: in nothing, for any ordinary class."""
    known = registry.variants.get(cls)
    return NO_CHANGES if known is None else known.changes


def variant(cls: type, changes: Changes) -> type:
    """The variant of the original of `cls` with just these changes; made once.

    **Raises:** `AnnotationError` if the class cannot be subclassed.
    """
    wanted = Variant(registry.original(cls), changes)
    if changes == NO_CHANGES:
        return wanted.original
    if wanted.original in EXACT_TYPES:
        error = TypeError("Equinox takes no subclass of it")
        raise AnnotationError(_refused_message(wanted.original, changes, error))
    found = _made.get(wanted)
    if found is None:
        with _lock:  # two classes for the same changes would be two tree structures
            found = _made.get(wanted)
            if found is None:
                found = _made[wanted] = _make(wanted)
    return found


def recast(module: object, cls: type) -> Any:
    """A copy of a module as an instance of a variant or the original of its class.

    Values go in through the slots of `cls`, so that what is newly frozen or a Buffer is
    stopped, and what is newly static is stored in hashable form.
    """
    before, after = changes_of(type(module)), changes_of(cls)
    new = cast(Any, object.__new__(cls))
    values = instance_dict(new)
    values.update(instance_dict(module))
    for name in before.held - after.held:
        if type(values.get(name)) is Static:
            values[name] = values[name].value
    for name in before.mixed - after.mixed:
        values[name] = with_plain_items(values[name])
    for name in after.mixed - before.mixed:
        values[name] = with_static_items(values[name])
    newly_static = after.static - before.static
    if newly_static:
        hints = _static_hints(cls)
        for name in newly_static.intersection(values):
            object.__setattr__(new, name, as_number(values[name], hints[name]))
    for name in (after.frozen | after.stopped) - (before.frozen | before.stopped):
        if name in values:
            object.__setattr__(new, name, values[name])
    return new


@functools.cache
def _static_hints(cls: type) -> dict[str, Any]:
    converters = {f.name: f.metadata.get("converter") for f in dataclasses.fields(cls)}
    return {n: c.hint for n, c in converters.items() if isinstance(c, HyperConverter)}


# --- making one ----------------------------------------------------------------------


def _make(wanted: Variant) -> type:
    if wanted in _refused:
        raise AnnotationError(_refused[wanted])
    original, changes = wanted
    fields = {f.name: f for f in dataclasses.fields(original)}
    static = {name: _static_field(original, fields[name]) for name in changes.static}
    namespace: dict[str, Any] = {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "__annotations__": {name: fields[name].type for name in changes.static},
        "__reduce_ex__": _reduce,
        **static,
    }
    metaclass: Any = type(original)
    try:
        with _no_second_warning(original):
            made = metaclass(original.__name__, (_quiet(wanted), original), namespace)
    except Exception as error:
        for cls in [c for c, known in registry.variants.items() if known is wanted]:
            del registry.variants[cls]
        # Trying again would make one more class, and JAX may keep it for ever.
        _refused[wanted] = _refused_message(original, changes, error)
        raise AnnotationError(_refused[wanted]) from error
    # `dataclasses` has read them. Type hints are those of the classes that wrote them,
    # whose modules have the names in them.
    made.__annotations__ = {}
    for name in changes.stopped - changes.mixed:
        asked = functools.partial(_stops, made, name)
        _put_slot(made, name, functools.partial(RegisteredSlot, is_buffer=asked))
    for name in changes.frozen - changes.mixed:
        _put_slot(made, name, BufferSlot)
    for name in changes.held:
        _put_slot(made, name, StaticSlot)
    for name in changes.mixed:
        asked = functools.partial(_stops, made, name)
        _put_slot(made, name, functools.partial(MixedSlot, stops=asked))
    stopped = {*registry.buffers.get(original, ()), *changes.frozen, *changes.stopped}
    if stopped:
        registry.buffers[made] = tuple(sorted(stopped))
    return made


def _stops(cls: type, name: str) -> bool:
    """Whether a field is frozen or a Buffer, as far as is known now."""
    return next(spec.stopped for spec in field_specs(cls) if spec.name == name)


@contextmanager
def _no_second_warning(original: type) -> Generator[None]:
    """Equinox warned of a `__post_init__` that does not run when it made the original."""
    if not hasattr(original, "__post_init__"):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _quiet(wanted: Variant) -> type:
    """A base that stands in front of the original's, so that no user's hook runs."""

    class Quiet:
        __slots__ = ()

        def __init_subclass__(cls, **kwargs: Any) -> None:
            if cls.__bases__[0] is Quiet:
                registry.variants[cls] = wanted
            else:  # somebody derives from a variant
                super().__init_subclass__(**kwargs)

    return Quiet


def _static_field(original: type, f: "dataclasses.Field[Any]") -> Any:
    new = copy.copy(f)
    converter = f.metadata.get("converter")
    spec = next(s for s in field_specs(original) if s.name == f.name)
    where = f"{original.__name__}.{f.name}"
    hyper = is_hyper(spec.role) or spec.opaque_role is not None
    # What is only inferred keeps its type, whatever the annotation says.
    hint = spec.hint if hyper else Any
    guard = HyperConverter(where, hint, f.type, converter, containers=True)
    new.metadata = MappingProxyType({**f.metadata, "static": True, "converter": guard})
    return new


def _put_slot(cls: type, name: str, slot: Callable[[str, Any], UnsetField]) -> None:
    found = getattr_static(cls, name, dataclasses.MISSING)
    if isinstance(found, property):
        return
    default = found.default if isinstance(found, UnsetField) else found
    setattr(cls, name, slot(name, default))


def _refused_message(original: type, changes: Changes, error: Exception) -> str:
    return explain_error(
        original.__name__,
        "its class cannot be subclassed, so its instances cannot be frozen or adopted",
        expected="a class that allows subclasses",
        found=f"{type(error).__name__}: {error}",
        fix="use a filter:\neqx.partition(model, annotax.trainable_filter(model))"
        if changes.frozen
        else f"annotax.register({original.__name__}, ...) makes selections right",
    )


# --- pickling ------------------------------------------------------------------------


def _reduce(self: object, protocol: Any) -> tuple[Any, ...]:
    """Pickle as the original does, and become the variant again when it is read."""
    del protocol
    changes = changes_of(type(self))
    plain = recast(self, registry.original(type(self)))
    return _revive, (plain, tuple(map(sorted, changes.groups)), changes.inferred)


def _revive(plain: object, groups: tuple[list[str], ...], inferred: bool) -> Any:
    cls = type(plain)
    known = {f.name for f in dataclasses.fields(cast(Any, cls))}  # the class may be newer
    given = (frozenset(known.intersection(group)) for group in groups)
    return recast(plain, variant(cls, Changes(*given, inferred=inferred)))
