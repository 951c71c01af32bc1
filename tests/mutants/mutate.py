"""Mutants: the small changes that mutmut makes, and a living module with one of them.

A mutant is not written to a file: the code of the function that is there already is
exchanged, so that nothing is imported anew and every reference to it stays.
"""

import ast
import collections
import contextlib
import difflib
import functools
import gc
import inspect
from types import CodeType
from typing import Any


def mutants_of(name: str, source: str) -> list[dict[str, str]]:
    """What mutmut would change in a file, and in the functions that have decorators."""
    # Imported here: pytest imports every file below `tests` to look for doctests.
    import libcst as cst
    from mutmut.mutation import file_mutation as mutmut

    class Visitor(mutmut.MutationVisitor):
        def _skip_node_and_children(self, node):
            decorated = isinstance(node, cst.FunctionDef) and node.decorators
            return not decorated and super()._skip_node_and_children(node)

    wrapper = cst.MetadataWrapper(cst.parse_module(source))
    ignored = mutmut.get_ignored_lines(name, source, wrapper, None)
    visitor = Visitor(mutmut.mutation_operators, ignored)
    module = wrapper.visit(visitor)
    tops = {}
    for top in module.body:
        inside = top.body.body if isinstance(top, cst.ClassDef) else [top]
        prefix = f"{top.name.value}." if isinstance(top, cst.ClassDef) else ""
        for node in inside:
            if isinstance(node, cst.FunctionDef):
                tops[node] = (top, module.code_for_node(top), prefix + node.name.value)
    found, times = [], collections.Counter()
    for mutation in visitor.mutations:
        known = tops.get(mutation.contained_by_top_level_function)
        if known is not None:
            top, before, function = known
            after = top.deep_replace(mutation.original_node, mutation.mutated_node)
            text = module.code_for_node(after)
            label = f"{name}: {function}: {_difference(before, text)}"
            times[label] += 1  # the same change may be made to equal lines
            label += f" ({times[label]})" * (times[label] > 1)
            changed = source.replace(before, text, 1)
            found.append(
                {"file": name, "label": label, "function": function, "source": changed}
            )
    return found


def _difference(before: str, after: str) -> str:
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return " ".join(f"{s[0]} {s[2:].strip()}" for s in lines if s[0] in "+-")


# --- exchanging code -----------------------------------------------------------------


def function_at(module: object, qualname: str) -> object:
    """The plain function behind a name, whatever decorates it."""
    found = functools.reduce(inspect.getattr_static, qualname.split("."), module)
    for attribute in ("fget", "func", "__func__", "__wrapped__"):
        found = getattr(found, attribute, found)
    return inspect.unwrap(found)


def code_at(code: CodeType, qualname: str) -> CodeType:
    """The code of a function in that of its module."""
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    for one in inner:
        if one.co_qualname == qualname:
            return one
    return code_at(
        next(c for c in inner if qualname.startswith(c.co_qualname + ".")), qualname
    )


def defaults_at(source: str, qualname: str, names: dict) -> tuple[tuple, dict]:
    """The defaults of a function's arguments, positional and by keyword."""
    body = ast.parse(source).body
    for step in qualname.split("."):
        node = next(n for n in body if getattr(n, "name", None) == step)
        body = node.body
    values = {
        at: eval(compile(ast.Expression(at), "<default>", "eval"), names)
        for at in (*node.args.defaults, *node.args.kw_defaults)
        if at is not None
    }
    keywords = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return (
        tuple(values[at] for at in node.args.defaults),
        {arg.arg: values[at] for arg, at in keywords if at is not None},
    )


Code = tuple[CodeType, tuple | None, dict | None]
"""That of a function, and its defaults."""


def code_of(module, qualname: str, source: str) -> Code:
    """What a function of a module is in another source."""
    code = code_at(compile(source, module.__file__, "exec"), qualname)
    positional, keyword = defaults_at(source, qualname, vars(module))
    return code, positional or None, keyword or None


@contextlib.contextmanager
def mutated(module, qualname: str, code: Code):
    """A module with the code of one of its functions exchanged."""
    function = function_at(module, qualname)
    kept = function.__code__, function.__defaults__, function.__kwdefaults__
    function.__code__, function.__defaults__, function.__kwdefaults__ = code
    try:
        yield
    finally:
        function.__code__, function.__defaults__, function.__kwdefaults__ = kept


# --- forgetting ------------------------------------------------------------------------


class Memory:
    """What annotax has stored, to be put back and derived anew for each mutant."""

    def __init__(self) -> None:
        from annotax import _class_checks, _layout, _unchecked, _variant, _view
        from annotax._registry import registry

        self.registry, self.view = registry, _view
        self.made = (
            *(_variant._made, _variant._refused, _layout._inexact_dtypes),
            *(_class_checks._made, _unchecked._warned),
        )
        self.caches: list[Any] = []
        self.variants = dict(registry.variants)
        self.keep()

    def keep(self) -> None:
        known = vars(self.registry)
        stores = "declarations", "registrations", "places", "buffers", "unsettled"
        self.stores = {name: known[name].copy() for name in stores}

    def restore(self) -> None:
        for name, value in self.stores.items():
            getattr(self.registry, name).update(value)
        self.registry.variants.clear()
        self.registry.variants.update(self.variants)
        for made in self.made:
            made.clear()
        self.view._cache.__init__()
        self.registry._invalidate()
        for cache in self.caches:
            cache.cache_clear()

    def find_caches(self) -> None:
        """Find every cache of a function of annotax, also those in closures."""
        kind = type(functools.cache(len))
        found = [one for one in gc.get_objects() if type(one) is kind]
        self.caches = [one for one in found if str(one.__module__).startswith("annotax.")]
