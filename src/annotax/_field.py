"""What a field says of itself: `field`, its options, and the finished field spec."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

import equinox as eqx

from ._axes import Axes
from ._errors import AnnotationError, describe, explain_error
from ._hint import Hint
from ._hint_text import hint_text
from ._role import BUFFER, HYPER, Role

Origin = Literal["declared", "registered", "inferred", "undeclared"]
"""Who says what a leaf is: its class, a `register` call, `adopt`, or nobody."""

METADATA_KEY = "annotax"
"""Where `field` keeps its options in the metadata of the dataclass field."""

_NO_METADATA: Mapping[str, Any] = MappingProxyType({})


class FieldOptions(NamedTuple):
    """What `field` was told beyond what `equinox.field` takes."""

    role: Role | None = None
    tags: frozenset[str] = frozenset()
    axes: Axes | None = None
    doc: str = ""
    persistent: bool = True
    opaque_role: Role | None = None
    """The role of what the field holds that is no array: an activation, say."""
    whole: bool = False
    """Whether the class puts computed arrays into what the field holds. Freezing must
    stop the gradient at this field then: further in, it would stop what was computed."""


NO_OPTIONS = FieldOptions()


class FieldSpec(NamedTuple):
    """What one class says of one field. Immutable.

    Examples:
        >>> import annotax as anx, jax.numpy as jnp
        >>> from jaxtyping import Array, Float
        >>> class Scale(anx.Module):
        ...     weight: anx.Param[Float[Array, " d"]] = anx.field(doc="one a feature")
        >>> spec = anx.records(Scale(jnp.ones(3)))[0].spec
        >>> spec.name, spec.role, spec.axes, spec.doc
        ('weight', Role(param), ('d',), 'one a feature')

    `declared_by` is the class in whose body the annotation stands; `hint` is the type
    as far as it could be resolved (a string where it could not), `text` as written.
    `frozen` is said by `freeze`; `slot` tells that the gradient is stopped although no
    annotation says so.
    """

    name: str
    declared_by: type
    role: Role | None = None
    origin: Origin = "undeclared"
    hint: Any = Any
    written: str | None = None
    static: bool = False
    axes: Axes | None = None
    tags: frozenset[str] = frozenset()
    doc: str = ""
    metadata: Mapping[str, Any] = _NO_METADATA
    persistent: bool = True
    converter: Callable[[Any], Any] | None = None
    opaque_role: Role | None = None
    whole: bool = False
    frozen: bool = False
    slot: bool = False

    @property
    def stopped(self) -> bool:
        """Whether the class stops the gradient of what enters this field."""
        declared_buffer = self.origin == "declared" and is_buffer(self.role)
        return self.slot or declared_buffer

    @property
    def text(self) -> str:
        """The annotation as written. Made when asked: few ask."""
        return hint_text(self.hint) if self.written is None else self.written


def field(
    *,
    role: Any = None,
    tags: Iterable[str] = (),
    axes: Iterable[str | None] | None = None,
    doc: str = "",
    metadata: Mapping[str, Any] | None = None,
    persistent: bool = True,
    converter: Callable[[Any], Any] | None = None,
    static: bool = False,
    default: Any = dataclasses.MISSING,
    default_factory: Any = dataclasses.MISSING,
    **kwargs: Any,
) -> Any:
    """Options of a field; takes all that `equinox.field` takes.

    Examples:
        >>> import annotax as anx
        >>> from jaxtyping import Array, Float
        >>> class Scale(anx.Module):
        ...     weight: anx.Param[Float[Array, " d"]] = anx.field(tags=["no_decay"])
        ...     mean: Float[Array, " d"] = anx.field(role=anx.Buffer)  # the twin

    **Arguments:**

    - `role`: the role, where the annotation cannot carry it. If both say one, they must
      agree.
    - `tags`: words to select by (`by_tag`). They apply to everything inside the field.
    - `axes`: names of the array's axes for sharding; the jaxtyping dimensions if `None`.
    - `doc`: one line that says what the field is.
    - `metadata`: anything; kept in the dataclass field and in records.
    - `persistent`: `False` keeps the field out of checkpoints.
    - `converter`, `static`, `default`, `default_factory`, `init`, `repr`, `kw_only`, ...:
      as in `equinox.field`.

    **Returns:** a dataclass field, to be assigned in the class body.

    **Raises:** `AnnotationError` if `role` is no role, if `tags` or `axes` are a single
    string or hold something that is no string.
    """
    options = FieldOptions(
        role=None if role is None else Role.of(role),
        tags=frozenset(_strings("tags", tags)),
        axes=None if axes is None else tuple(_strings("axes", axes, none=True)),
        doc=doc,
        persistent=persistent,
    )
    if default is not dataclasses.MISSING:
        kwargs["default"] = default
    if default_factory is not dataclasses.MISSING:
        kwargs["default_factory"] = default_factory
    marked = {**(metadata or {}), METADATA_KEY: options}
    return eqx.field(converter=converter, static=static, metadata=marked, **kwargs)


def _strings(option: str, values: Any, *, none: bool = False) -> tuple[Any, ...]:
    """The values as a tuple; a lone string would silently become its letters."""
    listed: tuple[Any, ...] = ()
    if not isinstance(values, str) and hasattr(values, "__iter__"):
        listed = tuple(values)
        if all(isinstance(value, str) or (none and value is None) for value in listed):
            return listed
    kinds = [type(value).__name__ for value in listed]
    raise AnnotationError(
        explain_error(
            f"field({option}=...)",
            "not a sequence of strings",
            expected=f'{option}=("first", "second")',
            found=repr(values)
            if isinstance(values, str)
            else describe(values) + (f" of {', '.join(kinds)}" if kinds else ""),
            fix=f"{option}=({values!r},)" if isinstance(values, str) else None,
        )
    )


def field_metadata(value: object) -> Mapping[str, Any]:
    """The metadata of a dataclass field; none for anything else."""
    if isinstance(value, dataclasses.Field):
        return cast("dataclasses.Field[Any]", value).metadata
    return _NO_METADATA


def options_of(value: object) -> FieldOptions:
    """The options that a dataclass field carries; the defaults for anything else."""
    return field_metadata(value).get(METADATA_KEY, NO_OPTIONS)


def agreed_role(
    where: str, written: tuple[Role, ...], twin: Role | None, hint: Hint
) -> Role | None:
    """The one role that an annotation and `field(role=...)` say together.

    **Raises:** `AnnotationError` if they say two.
    """
    if len(written) > 1:
        raise AnnotationError(
            explain_error(
                where,
                "two roles in one annotation",
                expected="one of Param, Buffer, Hyper, or a role derived from one",
                found=f"{' and '.join(role.name for role in written)} in {hint.text!r}",
                fix="keep the one that is meant",
            )
        )
    if written and twin is not None and written[0] != twin:
        raise AnnotationError(
            explain_error(
                where,
                "the annotation and field(role=...) disagree",
                expected="the same role, or only one of the two",
                found=f"{written[0].name} in {hint.text!r}, {twin.name} in field(role=...)",
                fix="remove the role from field(...)",
            )
        )
    return written[0] if written else twin


def is_hyper(role: Role | None) -> bool:
    """Whether a role makes a field static."""
    return role is not None and role.kind is HYPER


def is_buffer(role: Role | None) -> bool:
    """Whether a role keeps gradients out of a field."""
    return role is not None and role.kind is BUFFER
