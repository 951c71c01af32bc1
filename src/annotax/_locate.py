"""Where a class and its fields stand in a source file.

Stands apart because it reads files instead of classes. A place is a courtesy of whoever
prints it: what has no source, or changed since, has no place, and nothing is raised.
"""

import ast
import inspect
import linecache
import os
import re
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from ._compat import own_annotations
from ._registry import registry


class Location(NamedTuple):
    """A line of a source file; prints as `file:line`.

    Examples:
        >>> from annotax._locate import Location
        >>> print(Location("/models/layers.py", 12))
        /models/layers.py:12
    """

    file: str
    line: int

    def __str__(self) -> str:
        return f"{_near(self.file)}:{self.line}"


def locate_class(cls: type) -> Location | None:
    """The first line of the statement that defines a class, decorators included."""
    found = _body(cls)
    return None if found is None else Location(found[0], found[1].first)


def locate_field(cls: type, name: str) -> Location | None:
    """The line in the body of `cls` itself that annotates a field.

    **Returns:** `None` if the field is not annotated there, or there is no source.
    """
    found = _body(cls)
    line = None if found is None else found[1].fields.get(name)
    return None if found is None or line is None else Location(found[0], line)


# --- which file, which of its classes ------------------------------------------------


class _Body(NamedTuple):
    """A class statement: its lines, and the line of each annotation in it."""

    first: int
    last: int
    fields: dict[str, int]


def _body(cls: type) -> tuple[str, _Body] | None:
    """The file of a class and its statement there; a variant's are its original's."""
    try:
        cls = registry.original(cls)
        code = next(_own_code(cls), None)
        file = _module_file(cls) if code is None else code.co_filename
        if file is None:
            return None
        bodies = _bodies(file).get(cls.__qualname__)
        return (file, _chosen(bodies, cls, code)) if bodies else None
    except Exception:  # somebody's descriptor, loader or file: see the top
        return None


def _chosen(bodies: list[_Body], cls: type, code: CodeType | None) -> _Body:
    """Of several statements with one name, the one that made the class; else the last."""
    first = cls.__dict__.get("__firstlineno__")  # Python 3.13+
    line = first if first is not None else code and code.co_firstlineno
    if line is not None:
        fitting = [body for body in bodies if body.first <= line <= body.last]
    else:
        names = own_annotations(cls).keys()
        fitting = [body for body in bodies if body.fields.keys() == names]
    return (fitting or bodies)[-1]


def _own_code(cls: type) -> Iterator[CodeType]:
    """The code of the functions in the class body, behind whatever decorates them.

    Generated methods, such as the `__init__` of a dataclass, have other names.
    """
    for value in list(cls.__dict__.values()):
        inner: Any = value.fget if isinstance(value, property) else value
        inner = inspect.unwrap(inner)
        if isinstance(inner, FunctionType):
            code = inner.__code__
            if code.co_qualname == f"{cls.__qualname__}.{code.co_name}":
                yield code


def _module_file(cls: type) -> str | None:
    """The source file of a class's module; a notebook's `__main__` has none."""
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    return None if file is None else inspect.getsourcefile(module) if module else None


_CELL = re.compile(r"[/\\]ipykernel_\d+[/\\]\d+\.py$")


def _near(file: str) -> str:
    """A path as its reader would tell it: from the current directory, or the library's.

    A cell of a notebook is a file to Python, with a name that says nothing.
    """
    if _CELL.search(file):
        return "cell"
    _, installed, inside = file.replace(os.sep, "/").rpartition("/site-packages/")
    if installed:
        return inside
    try:
        relative = os.path.relpath(file)
    except (OSError, ValueError):  # another drive; a directory that was removed
        return file
    return file if relative.startswith(os.pardir) or file.startswith("<") else relative


# --- reading a file ------------------------------------------------------------------

_BLOCKS = ast.If | ast.Try | ast.With | ast.For | ast.Match
_PARTS = ast.excepthandler | ast.match_case

_LIMIT = 64
_parsed: dict[str, tuple[list[str], dict[str, list[_Body]]]] = {}


def _bodies(file: str) -> dict[str, list[_Body]]:
    """The class statements of a file by qualified name, read again if it has changed."""
    linecache.checkcache(file)
    lines = linecache.getlines(file)
    known = _parsed.get(file)
    if known is not None and known[0] == lines:
        return known[1]
    bodies: dict[str, list[_Body]] = {}
    _collect(ast.parse("".join(lines)), "", bodies)
    for oldest in list(_parsed)[: 1 - _LIMIT]:
        _parsed.pop(oldest, None)
    _parsed[file] = (lines, bodies)
    return bodies


def _collect(node: ast.AST, prefix: str, bodies: dict[str, list[_Body]]) -> None:
    """Note the classes below a node, in the order of their lines."""
    for child in ast.iter_child_nodes(node):
        inner = prefix
        if isinstance(child, ast.ClassDef):
            name = f"{prefix}{child.name}"
            bodies.setdefault(name, []).append(_read_body(child))
            inner = f"{name}."
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = f"{prefix}{child.name}.<locals>."
        if isinstance(child, ast.stmt | _PARTS):
            _collect(child, inner, bodies)


def _read_body(tree: ast.ClassDef) -> _Body:
    first = min(node.lineno for node in (tree, *tree.decorator_list))
    return _Body(first, tree.end_lineno or tree.lineno, dict(_annotated(tree)))


def _annotated(node: ast.AST) -> Iterator[tuple[str, int]]:
    """The names that a class body annotates, also under `if`, and their lines."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            yield child.target.id, child.lineno
        elif isinstance(child, _BLOCKS | _PARTS):
            yield from _annotated(child)
