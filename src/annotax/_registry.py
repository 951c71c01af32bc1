"""Which class says what of its fields: the only lasting mutable state of annotax.

Classes are held strongly. JAX's PyTree registry keeps every module class alive anyway,
and a field spec refers to the class that declares it, so weak keys would free nothing.
Instances and arrays are never stored.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ._field import FieldOptions, FieldSpec
from ._role import Role


class Pending(NamedTuple):
    """An annotation with names that did not exist yet when its class was made.

    `known` keeps just those of the other names that the class body could see.
    """

    name: str
    annotation: Any
    known: Mapping[str, Any]


class Declaration(NamedTuple):
    """What the body of one annotax class says.

    `abstract` holds the roles of `AbstractVar`s, which are not fields.
    """

    specs: Mapping[str, FieldSpec]
    abstract: Mapping[str, Role]
    pending: tuple[Pending, ...] = ()


class Changes(NamedTuple):
    """In which fields a variant differs from its original class."""

    frozen: frozenset[str] = frozenset()
    """By `freeze`: not trained, gradient stopped."""
    stopped: frozenset[str] = frozenset()
    """By `adopt`: Buffers of a registered class, gradient stopped."""
    static: frozenset[str] = frozenset()
    """By `adopt`: Hypers, and what holds no array."""
    held: frozenset[str] = frozenset()
    """Those of the static ones whose values are stored as `Static`."""
    mixed: frozenset[str] = frozenset()
    """By `adopt`: containers of arrays with `Static` nodes for what is none."""
    inferred: bool = False
    """Whether `adopt` looked at what has no role, and took it for what it is."""

    @property
    def groups(self) -> tuple[frozenset[str], ...]:
        """All the sets of names, in order."""
        return self[:-1]


class Variant(NamedTuple):
    """Where a class comes from that `freeze` or `adopt` has made."""

    original: type
    changes: Changes


Place = tuple[str, int]
"""A source file and a line in it."""

CONTENTS = "*"
"""Under this name stands what is said of all contents of a class without fields."""


class _Registry:
    def __init__(self) -> None:
        self.declarations: dict[type, Declaration] = {}
        self.variants: dict[type, Variant] = {}
        self.registrations: dict[type, dict[str, FieldOptions]] = {}
        self.places: dict[type, dict[str, Place]] = {}
        self.unsettled: set[type] = set()
        self.buffers: dict[type, tuple[str, ...]] = {}
        self.modes: dict[type, Any] = {}
        self.checks: dict[type, Any] = {}
        """What is to be checked of a class, as long as nothing changes."""
        self.version = 0
        self._specs: dict[type, tuple[FieldSpec, ...]] = {}
        self._lock = threading.Lock()

    def declare(self, cls: type, declaration: Declaration) -> None:
        """Record what a class says, for the first time or with more names resolved."""
        known_before = cls in self.declarations
        self.declarations[cls] = declaration
        if known_before:
            self._invalidate()

    def register(
        self, cls: type, options: Mapping[str, FieldOptions], place: Place | None = None
    ) -> None:
        """Record what somebody says of a class that is not ours; the last word wins.

        `place` is where it is said; annotax's own table has none.
        """
        with self._lock:
            if place is not None:
                known_places = self.places.get(cls, {})
                self.places[cls] = {**known_places, **dict.fromkeys(options, place)}
            known = self.registrations.get(cls, {})
            self.registrations[cls] = {**known, **options}
        self._invalidate()

    def mode(self, cls: type) -> Any:
        """How much a class says is to be checked; it takes over what its bases say."""
        return self.modes.get(self.original(cls))

    def original(self, cls: type) -> type:
        """The class that a variant was made of; any other class is its own."""
        variant = self.variants.get(cls)
        return cls if variant is None else variant.original

    def specs(
        self, cls: type, make: Callable[[type], tuple[FieldSpec, ...]]
    ) -> tuple[FieldSpec, ...]:
        """The cached specs of a class, made if there are none."""
        cache = self._specs  # replaced, not emptied: what is made from old facts is lost
        found = cache.get(cls)
        if found is None:
            found = cache[cls] = make(cls)
        return found

    def _invalidate(self) -> None:
        """Make everything derived from the registry be derived anew."""
        with self._lock:
            self._specs = {}
            self.checks = {}
            self.version += 1


registry = _Registry()


def class_of(value: object) -> type[Any]:
    """The class of a value; that of a variant's instance is the original."""
    return registry.original(type(value))
