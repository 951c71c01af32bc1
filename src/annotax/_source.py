"""An annotation in a string: its syntax tree, its value, and what its names stand for."""

import ast
import re
from types import ModuleType
from typing import Any, cast

from ._errors import AnnotationError, did_you_mean
from ._role import role_or_none
from ._scope import Scope

ROLE_NAMES = ("Param", "Buffer", "Hyper")

_HEADS = re.compile(r"[^\W\d]\w*(?:\.\w+)*(?=\[)")
"""The names in front of brackets, in what may be no Python."""

MISSING: Any = object()
"""What a name stands for that its scope does not have."""


class UnresolvedError(Exception):
    """A name that the scope does not have."""


def parse(text: str) -> ast.expr | None:
    """The syntax tree of a string, `None` if it is no Python, or nested beyond reading."""
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # half a surrogate, too
        return None


def evaluate(tree: ast.expr, scope: Scope) -> Any:
    """The value of an expression, if every name in it is known.

    A name that is known but cannot be used as written (a class under construction that
    is not generic yet, say) counts as unknown: the walk over the tree decides.
    """
    try:
        code = compile(ast.Expression(tree), "<annotation>", "eval")  # refuses `yield`
        # As `typing` does. Any object with `__getitem__` will do for the locals.
        return eval(code, {"__builtins__": {}}, cast(Any, scope))
    except Exception as error:
        raise UnresolvedError from error


def names_in(text: str) -> set[str]:
    """The names that a string annotation mentions, outside of strings inside it."""
    tree = parse(text)
    nodes = () if tree is None else ast.walk(tree)
    return {node.id for node in nodes if isinstance(node, ast.Name)}


def lookup(tree: ast.AST | None, scope: Scope) -> Any:
    """What a dotted name stands for, or `MISSING`."""
    try:
        if isinstance(tree, ast.Name):
            return scope[tree.id]
        if isinstance(tree, ast.Attribute):
            owner = lookup(tree.value, scope)
            return MISSING if owner is MISSING else getattr(owner, tree.attr)
    except (KeyError, AttributeError):
        pass
    return MISSING


def refuse_typo(tree: ast.Name | ast.Attribute, scope: Scope) -> None:
    """`anx.Bufer` will never exist: not a name to wait for."""
    owner = lookup(tree.value, scope) if isinstance(tree, ast.Attribute) else None
    if isinstance(owner, ModuleType) and owner.__name__ == "annotax":
        hint = did_you_mean(ast.unparse(tree).rpartition(".")[2], owner.__all__)
        raise AnnotationError(f"annotax has no {ast.unparse(tree)!r}; {hint}")


def mentions_role(text: str, scope: Scope, *, bare: bool = True) -> bool:
    """Whether a string that is no Python was meant to have a role in it.

    Roles have brackets; with `bare`, the names of ours count without them, too.
    """
    if bare and any(name in text for name in ROLE_NAMES):
        return True
    heads = set(_HEADS.findall(text))
    known = (lookup(parse(head), scope) for head in heads)
    return not heads.isdisjoint(ROLE_NAMES) or any(map(role_or_none, known))
