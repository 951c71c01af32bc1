"""Reading one annotation: its role, its kind, its type and its axis names.

An annotation may be an object, a string, or an object with strings inside. Strings are
evaluated in the scope of the class. If a name in one is not defined yet (or only under
`TYPE_CHECKING`), its syntax tree is searched instead, so that the role is found although
the type around or inside it is still unknown. Nothing is guessed: what could not be
resolved is listed, and it is for the caller to try again or to refuse.
"""

import ast
from collections.abc import Iterator
from typing import (
    Annotated,
    Any,
    ForwardRef,
    Literal,
    NamedTuple,
    cast,
    get_args,
    get_origin,
)

import typing_extensions

from ._axes import Axes, common_axes
from ._compat import (
    ALIAS_TYPES,
    alias_value,
    dim_text,
    is_array_dtype,
    is_array_hint,
    pytree_leaf_hint,
)
from ._errors import AnnotationError
from ._form import FORMS, Kind, is_form, is_init_var, peel
from ._hint_text import hint_text
from ._role import Role
from ._scope import Scope
from ._source import (
    MISSING,
    ROLE_NAMES,
    UnresolvedError,
    evaluate,
    lookup,
    mentions_role,
    parse,
    refuse_typo,
)

_LITERALS = {Literal, typing_extensions.Literal}
_CLOSE = "close every bracket and quote"


class Hint(NamedTuple):
    """What one annotation says.

    `written` is the annotation if it is a string; `type` is the annotation with its
    strings replaced by what they name, or the string itself while a name in it is
    missing; `missing` lists these names; `inner_form` is a special form that stands where
    only a type may stand.
    """

    written: str | None
    type: Any
    kind: Kind = "field"
    roles: tuple[Role, ...] = ()
    axes: Axes | None = None
    missing: tuple[str, ...] = ()
    inner_form: str | None = None

    @property
    def text(self) -> str:
        """The annotation as a reader would write it. Made when asked: few ask."""
        return hint_text(self.type) if self.written is None else self.written

    @property
    def lost_roles(self) -> tuple[str, ...]:
        """The missing names that can only be roles: `Buffer[...]` under TYPE_CHECKING."""
        lost = (name for name in self.missing if name.rpartition(".")[2] in ROLE_NAMES)
        return tuple(name for name in lost if f"{name}[" in self.text)


class _Found:
    """What a walk through an annotation comes across."""

    __slots__ = ("aliases", "dims", "forms", "missing", "roles", "strings")

    def __init__(self) -> None:
        self.roles: list[Role] = []
        self.missing: list[str] = []
        self.dims: list[str] = []
        self.forms: list[str] = []
        # Entered: one may be recursive, as in `Json = dict[str, "Json"]`.
        self.aliases: list[Any] = []
        self.strings: set[str] = set()

    def hint(self, written: str | None, type_: Any, kind: Kind) -> Hint:
        """What was found, as the answer."""
        return Hint(
            written=written,
            type=type_,
            kind=kind,
            roles=tuple(dict.fromkeys(self.roles)),
            axes=common_axes(self.dims),
            missing=tuple(dict.fromkeys(self.missing)),
            inner_form=next(iter(self.forms), None),
        )


def read_hint(annotation: Any, scope: Scope) -> Hint:
    """Read an annotation as far as `scope` allows.

    **Raises:** `AnnotationError` if a string that mentions a role is not Python, or if
    types are nested beyond reading.
    """
    try:
        return _read(annotation, scope)
    except RecursionError as error:
        if isinstance(annotation, str) and not mentions_role(annotation, scope):
            return Hint(annotation, annotation)
        problem = "its annotation is nested too deeply to be read"
        fix = "name the outer type only: Param[list]"
        raise AnnotationError(problem, fix=fix) from error


def _read(annotation: Any, scope: Scope) -> Hint:
    written, value = None, annotation
    if isinstance(annotation, str):
        written, tree = annotation, parse(annotation)
        if tree is None:
            return _read_remark(annotation, scope)
        try:
            value = evaluate(tree, scope)
        except UnresolvedError:
            return _read_partly(annotation, tree, scope)
    kind, inner = peel(value)
    found = _Found()
    _walk(inner, scope, found)
    return found.hint(written, value, kind)


def _read_remark(text: str, scope: Scope) -> Hint:
    """A string that is no Python: dataclasses allow it, and so do we without a role."""
    if mentions_role(text, scope):
        raise AnnotationError(f"the annotation {text!r:.200} is not Python", fix=_CLOSE)
    return Hint(text, text)


# --- objects -------------------------------------------------------------------------


def _walk(hint: Any, scope: Scope, found: _Found) -> None:
    """Collect roles, array types, missing names and misplaced forms below `hint`."""
    if isinstance(hint, ForwardRef):
        hint = hint.__forward_arg__
    if isinstance(hint, str):
        _walk_string(hint, scope, found)
        return
    origin = get_origin(hint)
    if origin in _LITERALS:
        return
    if isinstance(hint, Role):
        found.roles.append(hint)
        return
    if isinstance(hint, ALIAS_TYPES) or isinstance(origin, ALIAS_TYPES):
        _walk_alias(hint, scope, found)
    elif is_array_hint(hint):
        found.dims.append(dim_text(hint))
    elif is_form(origin) or is_init_var(hint):
        form = cast(Any, origin or type(hint))
        found.forms.append(getattr(form, "__name__", str(origin)))
    elif origin is Annotated:
        found.roles += [mark for mark in hint.__metadata__ if isinstance(mark, Role)]
        _walk(hint.__origin__, scope, found)
    elif (leaf := pytree_leaf_hint(hint)) is not None:
        _walk(leaf, scope, found)
    else:
        for part in _parts(hint):
            _walk(part, scope, found)


def _walk_string(text: str, scope: Scope, found: _Found) -> None:
    """Walk a string inside an annotation; one that is no Python is no annotation."""
    if text in found.strings:
        return
    found.strings.add(text)
    tree = parse(text)
    if tree is None:
        if mentions_role(text, scope, bare=False):
            problem = f"{text!r:.200} in the annotation is not Python"
            raise AnnotationError(problem, fix=_CLOSE)
        return
    try:
        _walk(evaluate(tree, scope), scope, found)
    except UnresolvedError:
        _walk_tree(tree, scope, found)


def _parts(hint: Any) -> Iterator[Any]:
    """The types inside a hint; the arguments of a `Callable` come as a list."""
    yield from hint if isinstance(hint, list) else get_args(hint)


def _walk_alias(alias: Any, scope: Scope, found: _Found) -> None:
    """Walk what a PEP 695 alias stands for; its value may name what does not exist yet."""
    head = get_origin(alias) or alias
    for argument in get_args(alias):
        _walk(argument, scope, found)
    if any(head is entered for entered in found.aliases):
        return
    found.aliases.append(head)
    try:
        value = alias_value(alias)
    except NameError as error:
        found.missing.append(error.name or str(error))
        return
    _walk(value, scope, found)


# --- strings -------------------------------------------------------------------------


def _read_partly(text: str, tree: ast.expr, scope: Scope) -> Hint:
    """Read a string of which some name is missing, by its syntax tree."""
    kind: Kind = "field"
    inner = tree
    if isinstance(tree, ast.Subscript):
        head = lookup(tree.value, scope)
        if is_form(head):
            kind, inner = FORMS[head], tree.slice
    found = _Found()
    _walk_tree(inner, scope, found)
    return found.hint(text, text, kind)


def _walk_tree(tree: ast.AST, scope: Scope, found: _Found) -> None:
    """Collect from a syntax tree what its known names stand for."""
    if isinstance(tree, ast.Name | ast.Attribute):
        _walk_name(tree, scope, found)
    elif isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        _walk(tree.value, scope, found)
    elif isinstance(tree, ast.Subscript):
        head = lookup(tree.value, scope)
        _walk_tree(tree.value, scope, found)
        if head is MISSING:
            _walk_unknown(tree.slice, scope, found)
        elif is_array_dtype(head):
            _walk_array(tree.slice, scope, found)
        elif not any(head is literal for literal in _LITERALS):
            _walk_tree(_without_metadata(head, tree.slice), scope, found)
    else:
        for child in ast.iter_child_nodes(tree):
            _walk_tree(child, scope, found)


def _walk_unknown(arguments: ast.expr, scope: Scope, found: _Found) -> None:
    """The arguments of a missing name: a string there may be an annotation or not.

    `"n m"` names axes if the name is jaxtyping's. So only roles count that it holds.
    """
    for part in arguments.elts if isinstance(arguments, ast.Tuple) else [arguments]:
        if isinstance(part, ast.Constant):
            inside = _Found()
            inside.strings = found.strings.copy()
            _walk_tree(part, scope, inside)
            found.roles += inside.roles
        else:
            _walk_tree(part, scope, found)


def _walk_array(arguments: ast.expr, scope: Scope, found: _Found) -> None:
    """`Float[Array, "n m"]`: the second argument names axes and is no annotation."""
    if not isinstance(arguments, ast.Tuple):
        return _walk_tree(arguments, scope, found)
    array, *dims = arguments.elts
    found.dims += [
        part.value
        for part in dims
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]
    return _walk_tree(array, scope, found)


def _without_metadata(head: Any, arguments: ast.expr) -> ast.AST:
    """Strings among the metadata of `Annotated` are no annotations."""
    if head is Annotated and isinstance(arguments, ast.Tuple):
        kept = [
            part
            for at, part in enumerate(arguments.elts)
            if at == 0 or not isinstance(part, ast.Constant)
        ]
        return ast.Tuple(kept, ast.Load())
    return arguments


def _walk_name(tree: ast.Name | ast.Attribute, scope: Scope, found: _Found) -> None:
    value = lookup(tree, scope)
    if value is MISSING:
        refuse_typo(tree, scope)
        found.missing.append(ast.unparse(tree))
    elif isinstance(value, Role):
        found.roles.append(value)
    elif is_form(value):
        found.forms.append(ast.unparse(tree).rpartition(".")[2])
    elif not isinstance(value, str):  # a string constant that happens to have that name
        _walk(value, scope, found)
