"""Roles: what a field is for.

A role is a name with a parent, so that roles form a tree under `Param`, `Buffer` and
`Hyper`. The public spellings are aliases, `Annotated[T, Role(...)]`: type checkers see
the plain type, and every tool that does not know annotax ignores the marker.
"""

from typing import Annotated, Any, TypeVar, get_args, get_origin

from ._compat import ALIAS_TYPES, alias_value
from ._errors import AnnotationError, describe, explain_error

T = TypeVar("T")


class Role:
    """What a field is for: trained, constant, static, or a kind of one of these.

    Examples:
        >>> from typing import Annotated, TypeVar
        >>> import annotax as anx
        >>> T = TypeVar("T")
        >>> BatchStat = Annotated[T, anx.Role("batch_stat", parent=anx.Buffer)]
        >>> anx.Role.of(BatchStat).is_a(anx.Buffer)
        True

    **Arguments:** `name` is shown in summaries; `parent` is the role or alias that this
    one derives from.

    Roles compare, hash and pickle by name and ancestry, so a role made twice in the
    same way is one role. A role also equals its alias (`record.role == anx.Buffer`).

    **Raises:** `AnnotationError` if `name` is not a string with something in it, if
    `parent` is missing (only Param, Buffer and Hyper have none) or is no role.
    """

    __slots__ = ("_ancestry", "name", "parent")

    name: str
    parent: "Role | None"
    _ancestry: tuple[str, ...]

    def __init__(self, name: str, parent: Any = None) -> None:
        given: Any = name
        if not isinstance(given, str) or not given:
            raise AnnotationError(
                explain_error(
                    "Role",
                    "a role needs a name",
                    expected="a non-empty string",
                    found="an empty string" if isinstance(given, str) else describe(given),
                    fix='Role("batch_stat", parent=Buffer)',
                )
            )
        if parent is None and name not in ("param", "buffer", "hyper"):
            raise AnnotationError(
                explain_error(
                    f"Role({name!r})",
                    "a role derives from another",
                    expected="parent=Param, parent=Buffer, parent=Hyper, or a role "
                    "derived from one of them",
                    found="no parent",
                    fix=f"Role({name!r}, parent=Param)",
                )
            )
        over = None if parent is None else Role.of(parent)
        ancestry = (name,) if over is None else (*over._ancestry, name)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "parent", over)
        object.__setattr__(self, "_ancestry", ancestry)

    @staticmethod
    def of(role: Any) -> "Role":
        """The role that an alias such as `Param` stands for; a role is its own.

        Examples:
            >>> import annotax as anx
            >>> anx.Role.of(anx.Param)
            Role(param)

        **Raises:** `AnnotationError` if `role` is neither a role nor an alias of one.
        """
        found = role_or_none(role)
        if found is None:
            origin = get_origin(role)
            written = repr(role) if isinstance(role, str) else describe(role)
            raise AnnotationError(
                explain_error(
                    "role",
                    "this is not a role",
                    expected="Param, Buffer, Hyper, a Role, or an alias "
                    "Annotated[T, Role(...)]",
                    found=f"{origin.__name__}[...]" if origin else written,
                    fix="annotax.Param, or Role('lora', parent=annotax.Param)",
                )
            )
        return found

    @property
    def kind(self) -> "Role":
        """The root of this role: the role of `Param`, `Buffer` or `Hyper`."""
        return _KINDS[self._ancestry[0]]

    @property
    def depth(self) -> int:
        """How many roles this one derives from."""
        return len(self._ancestry) - 1

    def is_a(self, other: Any) -> bool:
        """Whether this role is `other` (a role or an alias) or derives from it."""
        ancestry = Role.of(other)._ancestry
        return self._ancestry[: len(ancestry)] == ancestry

    def __eq__(self, other: object) -> bool:
        found = role_or_none(other)
        return NotImplemented if found is None else self._ancestry == found._ancestry

    def __hash__(self) -> int:
        return hash(self._ancestry)

    def __setattr__(self, name: str, value: object) -> None:
        fix = "Role(..., parent=...) makes another"
        raise AttributeError(
            explain_error(repr(self), f"a role cannot be changed: {name!r}", fix=fix)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (Role, (self.name, self.parent))

    def __repr__(self) -> str:
        return f"Role({' < '.join(reversed(self._ancestry))})"


def role_or_none(value: object) -> Role | None:
    """The role that a value is, or of which it is an alias; PEP 695 aliases too."""
    if value is None or isinstance(value, Role):
        return value
    origin = get_origin(value)
    if origin is Annotated:
        roles = [mark for mark in get_args(value)[1:] if isinstance(mark, Role)]
        return roles[0] if len(roles) == 1 else None
    head: Any = origin or value
    if isinstance(head, ALIAS_TYPES):
        try:
            return role_or_none(alias_value(value))
        except NameError:  # it names what does not exist yet
            return None
    return None


def role_text(role: Role) -> str:
    """A role as it is written: `Param`; one that derives from another by its name."""
    return role.name if role.parent else role.name.capitalize()


PARAM = Role("param")
BUFFER = Role("buffer")
HYPER = Role("hyper")

_KINDS = {"param": PARAM, "buffer": BUFFER, "hyper": HYPER}

Param = Annotated[T, PARAM]
"""A field whose arrays are trained: `weight: Param[Float[Array, "out in"]]`."""

Buffer = Annotated[T, BUFFER]
"""A field whose arrays no gradient reaches: `mean: Buffer[Float[Array, " d"]]`."""

Hyper = Annotated[T, HYPER]
"""A static field, part of the tree structure: `rate: Hyper[float]`."""
