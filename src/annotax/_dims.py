"""Dimensions of jaxtyping's array types: what they say, and whether a shape fits them.

jaxtyping answers yes or no, and remembers sizes in a place of its own. Here a shape that
does not fit is told axis by axis, against sizes that a model's own fields have bound. The
rules are jaxtyping's; `tests/test_agreement.py` holds the two together.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import CodeType
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

Shape = tuple[int, ...]
T = TypeVar("T")


class Dim(NamedTuple):
    """One dimension: `text` as written; `name`, `size` or `code` by its `kind`."""

    text: str
    kind: Literal["named", "fixed", "symbolic", "any"]
    name: str = ""
    size: int = 0
    code: CodeType | None = None
    broadcast: bool = False
    variadic: bool = False
    by_leaf: bool = False
    """`?name`: another size for each leaf of a PyTree."""
    template: bool = False
    """`{name}`: `code` gives the text to compute, from the arguments of a method."""


class Dims(NamedTuple):
    """The dimensions of one array type, `variadic` the place of the one with a star."""

    all: tuple[Dim, ...]
    variadic: int | None

    @property
    def simple(self) -> tuple[int | str, ...] | None:
        """Sizes and names, if there is nothing else: the case that has to be quick."""
        items = [dim.name or dim.size for dim in self.all]
        plain = ("named", "fixed")
        ok = all(
            dim.kind in plain and not (dim.broadcast or dim.variadic or dim.by_leaf)
            for dim in self.all
        )
        return tuple(items) if ok else None


class Misfit(NamedTuple):
    """An axis (or all those of a `*name`) whose size is another than it should be."""

    axis: int | None
    text: str
    found: Any
    bound: Any = None
    name: str = ""
    """Under this name the size was bound, if it was."""


class Sizes:
    """What is known in one scope, and for the message: who said so first."""

    __slots__ = (
        "arguments",
        "binder",
        "bound_by",
        "leaf",
        "single",
        "structures",
        "variadic",
    )

    def __init__(self) -> None:
        self.single: dict[str, int] = {}
        self.variadic: dict[str, tuple[bool, Shape]] = {}
        self.structures: dict[str, Any] = {}
        self.bound_by: dict[str, str] = {}
        self.arguments: Mapping[str, Any] = {}
        """What a method was called with, for `{name}`."""
        self.binder = ""
        """Who binds now."""
        self.leaf = ""
        """The leaf of a PyTree with structure name that is looked at."""

    def save(self) -> tuple[dict[Any, Any], ...]:
        """All that is bound, for `restore`."""
        return self.single.copy(), self.variadic.copy(), self.structures.copy()

    def restore(self, saved: tuple[dict[Any, Any], ...]) -> None:
        """Forget what was bound since: what does not fit binds nothing."""
        self.single, self.variadic, self.structures = map(dict, saved)

    def note(self, name: str) -> None:
        """Keep who bound a name first."""
        self.bound_by[name] = self.binder


class UnboundError(Exception):
    """What cannot be judged: a computed dimension names what nothing has bound, say."""


def ask_again(
    check: Callable[[Iterable[T]], list[tuple[T, str]]], wanted: Iterable[T]
) -> list[tuple[T, str]]:
    """Check some things until none binds a size any more that another one needs.

    `check` returns what it could not judge and why, and so does this.
    """
    left = check(wanted)
    while left:
        late = check([one for one, _ in left])
        if len(late) == len(left):
            break
        left = late
    return left


@lru_cache(maxsize=1024)
def read_dims(text: str) -> Dims:
    """The dimensions in the string of an array type, which jaxtyping has found valid.

    **Raises:** `ValueError` for what no field can mean, as `{n}`.
    """
    dims = tuple(_read_dim(token) for token in text.split())
    variadic = [at for at, dim in enumerate(dims) if dim.variadic]
    return Dims(dims, variadic[0] if variadic else None)


def _read_dim(token: str) -> Dim:
    if token == "...":
        return Dim(token, "any", variadic=True)
    rest = token
    marks: set[str] = set()
    while rest:
        if rest[0] in "#*?_":
            marks.add(rest[0])
            rest = rest[1:]
        elif rest.count("=") == 1:
            rest = rest.partition("=")[2]
        else:
            break
    broadcast, variadic = "#" in marks, "*" in marks
    if "_" in marks or not rest:
        return Dim(token, "any", variadic=variadic)
    if rest.isidentifier():
        return Dim(
            token,
            "named",
            rest,
            broadcast=broadcast,
            variadic=variadic,
            by_leaf="?" in marks,
        )
    try:
        return Dim(token, "fixed", size=int(rest), broadcast=broadcast)
    except ValueError:
        template = "{" in rest
        code = _compiled(f"f{rest!r}" if template else rest)
        return Dim(token, "symbolic", code=code, broadcast=broadcast, template=template)


def _compiled(text: str) -> CodeType:
    try:
        return compile(text, "<dimension>", "eval")
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"the dimension {text!r} is no Python expression") from error


# --- shapes --------------------------------------------------------------------------


def fit(dims: Dims, shape: Shape, sizes: Sizes) -> list[Misfit]:
    """The axes of a shape that do not fit; those that do bind their names.

    **Raises:** `UnboundError` if a computed dimension names what is not bound.
    """
    few, many = len(dims.all), len(shape)
    at = dims.variadic
    if at is None:
        if few != many:
            return [_rank_misfit(dims, shape)]
        return _fit_each(dims.all, shape, 0, sizes)
    if many < few - 1:
        return [_rank_misfit(dims, shape)]
    end = many - (few - 1 - at)
    found = _fit_each(dims.all[:at], shape[:at], 0, sizes)
    found += _fit_each(dims.all[at + 1 :], shape[end:], end, sizes)
    return found or _fit_variadic(dims.all[at], shape[at:end], sizes)


def _rank_misfit(dims: Dims, shape: Shape) -> Misfit:
    few = len(dims.all)
    wanted = f"at least {few - 1}" if dims.variadic is not None else str(few)
    return Misfit(None, wanted, len(shape))


def _fit_each(
    dims: Sequence[Dim], shape: Sequence[int], start: int, sizes: Sizes
) -> list[Misfit]:
    found: list[Misfit] = []
    unbound: str | None = None
    for at, (dim, size) in enumerate(zip(dims, shape, strict=True), start):
        if dim.kind == "any" or (dim.broadcast and size == 1):
            continue
        name = _scoped(dim, sizes) if dim.kind == "named" else ""
        try:
            known = _known(dim, name, sizes)
        except UnboundError as error:
            unbound = str(error)
            continue
        if known is None:
            sizes.single[name] = size
            sizes.note(name)
        elif known != size:
            found.append(Misfit(at, dim.text, size, known, name))
    if unbound is not None and not found:  # it does not fit, whatever is not known
        raise UnboundError(unbound)
    return found


def _scoped(dim: Dim, sizes: Sizes) -> str:
    return sizes.leaf + dim.name if dim.by_leaf else dim.name


def _known(dim: Dim, name: str, sizes: Sizes) -> Any:
    if dim.kind == "named":
        return sizes.single.get(name)
    if dim.code is None:
        return dim.size
    try:
        code = dim.code
        if dim.template:
            code = compile(eval(code, {}, sizes.arguments), "<dimension>", "eval")
        return eval(code, {}, sizes.single)
    except NameError as error:
        raise UnboundError(f"{dim.text!r} needs the size of {error.name!r}") from error
    except Exception as error:
        reason = f"{dim.text!r} cannot be computed ({type(error).__name__})"
        raise UnboundError(reason) from error


def _fit_variadic(dim: Dim, shape: Shape, sizes: Sizes) -> list[Misfit]:
    if dim.kind == "any":
        return []
    name = _scoped(dim, sizes)
    if name not in sizes.variadic:
        sizes.variadic[name] = (dim.broadcast, shape)
        sizes.note(f"*{name}")
        return []
    was_broadcast, known = sizes.variadic[name]
    both = _broadcast(shape, known)
    if not (was_broadcast or dim.broadcast):
        fits = shape == known
    elif not was_broadcast:
        fits = both == known
    else:
        fits = both is not None and (dim.broadcast or both == shape)
    if not fits:
        return [Misfit(None, dim.text, shape, known, f"*{name}")]
    if was_broadcast and both is not None:
        sizes.variadic[name] = (dim.broadcast, both)
    return []


def _broadcast(one: Shape, other: Shape) -> Shape | None:
    try:
        return np.broadcast_shapes(one, other)
    except ValueError:
        return None
