"""`Module` and its metaclass: where annotax hooks into Equinox, and nothing else.

Three hooks that only call what lies below. Class work that must come before Equinox makes
the dataclass is in `Module.__init_subclass__`, which Python runs inside `type.__new__`;
the rest is in `Meta.__init__`. Overriding `__new__` or `__call__` of the metaclass is
avoided: it would add a frame, and Equinox's warnings would point at us instead of at
the user. Instance work is in `__check_init__`, which Equinox runs whatever `__init__` or
metaclass `__call__` a class has.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
from typing_extensions import dataclass_transform

from ._buffer import enter_again
from ._compat import EquinoxMeta
from ._field import field
from ._mode import Mode, as_mode, current_mode
from ._registry import registry
from ._resolve import complete, declare
from ._settle import settle


def _import_and_check(module: object) -> None:
    """Check the first instance of all: a program that only declares imports no checks."""
    __tracebackhide__ = True
    from ._check import check_fields  # as much to import as all the rest

    global _check_fields  # noqa: PLW0603 -- later calls go straight to it
    _check_fields = check_fields
    check_fields(module)


_check_fields: Callable[[object], None] = _import_and_check


@dataclass_transform(field_specifiers=(dataclasses.field, eqx.field, field))
class Meta(EquinoxMeta):
    """The metaclass of `Module`: Equinox's, and `complete` on each finished class."""

    def __init__(  # pyright: ignore[reportInconsistentConstructor] -- `__new__` is Equinox's
        cls,  # noqa: N805 -- the instances of a metaclass are classes
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        /,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, bases, namespace)
        complete(cls)


class Module(eqx.Module, metaclass=Meta):
    """The base class of annotated models: an `equinox.Module` that reads its roles.

    Examples:
        >>> import annotax as anx
        >>> import jax, jax.numpy as jnp
        >>> from jaxtyping import Array, Float
        >>> class Linear(anx.Module):
        ...     weight: anx.Param[Float[Array, "out_features in_features"]]
        ...     mean: anx.Buffer[Float[Array, " in_features"]]
        ...     rate: anx.Hyper[float] = 0.1
        ...     def __call__(self, x):
        ...         return self.weight @ (x - self.mean)
        >>> layer = Linear(jnp.ones((2, 3)), jnp.zeros(3))
        >>> jax.tree_util.tree_leaves(layer)[0].shape    # rate is no leaf
        (2, 3)
        >>> list(anx.params(layer))
        ['weight']

    Everything else is as in Equinox: dataclass fields, `__init__`, `__check_init__`,
    abstract fields, methods as PyTrees.

    **Raises:** `AnnotationError` when a class is made whose roles contradict each other;
    `HyperError` when an instance is made with a value that cannot be static.
    """

    def __init_subclass__(cls, *, check: Mode | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        said = None if check is None else as_mode(f"class {cls.__name__}", check)
        for base in cls.__mro__:
            said = said or registry.modes.get(base)
        if "full" in (said, current_mode(said)):
            from ._methods import instrument  # only who asks for it waits for it

            said = "full"
            instrument(cls)
        if said:
            registry.modes[cls] = said
        declare(cls)

    def __check_init__(self) -> None:
        __tracebackhide__ = True
        cls = type(self)
        if cls in registry.unsettled:
            settle(self)
        if cls in registry.buffers:
            enter_again(self, registry.buffers[cls])
        _check_fields(self)
