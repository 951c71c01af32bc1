"""The names that a module imports for type checkers alone.

Stands apart because these names do not exist at run time: only the module's source tells
of them. Whoever looks at a class from outside can still ask what they stand for.
"""

import ast
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple


class _Import(NamedTuple):
    """`from source import name as local`, or `import source as local` without a name."""

    local: str
    source: str
    name: str | None


def unimported_names(module: str) -> dict[str, Any]:
    """What the imports under `if TYPE_CHECKING:` would give, as far as it is loaded.

    Nothing is imported for it, and nothing is raised.
    """
    try:
        owner = sys.modules[module]
        package = getattr(owner, "__package__", None) or ""
        imports = _imports(inspect.getsource(owner))
        values = {one.local: _loaded(one, package) for one in imports}
    except Exception:  # no source, or a module that does as it likes
        return {}
    return {name: value for name, value in values.items() if value is not None}


def _loaded(one: _Import, package: str) -> Any:
    """What an import would give, if its module is loaded; else `None`."""
    source = importlib.util.resolve_name(one.source, package)
    if one.name is None:
        return sys.modules.get(source)
    submodule = sys.modules.get(f"{source}.{one.name}")
    return getattr(sys.modules.get(source), one.name, submodule)


@lru_cache(maxsize=64)
def _imports(source: str) -> tuple[_Import, ...]:
    """The imports under `if TYPE_CHECKING:` in a source text."""
    found: list[_Import] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for inner in (inner for one in node.body for inner in ast.walk(one)):
                found += _read_import(inner)
    return tuple(found)


def _read_import(node: ast.AST) -> Iterator[_Import]:
    if isinstance(node, ast.ImportFrom):
        source = "." * node.level + (node.module or "")
        for alias in node.names:
            yield _Import(alias.asname or alias.name, source, alias.name)
    elif isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.partition(".")[0]
            yield _Import(alias.asname or top, alias.name if alias.asname else top, None)
