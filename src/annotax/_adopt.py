"""`adopt`: foreign modules inside a model get their roles for real.

Registration makes selections right. Adoption makes the classes themselves right: Hypers
become static, gradients into Buffers are stopped, and no leaf is left that is no array.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import equinox as eqx

from ._compat import EXACT_TYPES, SharedNode
from ._edit import Edit, apply
from ._errors import AnnotationError, HyperError, describe, explain_error
from ._field import FieldSpec, is_buffer, is_hyper
from ._hyper import as_number, why_not_static
from ._layout import Home, ModuleEntry, is_array
from ._path import join
from ._registry import Changes, registry
from ._specs import field_specs
from ._static import needs_holding
from ._variant import changes_of, variant
from ._view import View, view

_Model = TypeVar("_Model")


class Function(eqx.nn.Lambda):
    """A function of a container as a node of the tree; called as the function is.

    `equinox.nn.Lambda` itself takes one argument and a key.
    """

    fn: Callable[..., Any] = eqx.field(static=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)


class Removed(eqx.Module):
    """Stands where `equinox.nn.Shared` has taken an array out: a node without leaves."""


def adopt(model: _Model) -> _Model:
    """A copy of a model in which foreign modules keep their roles; all leaves are arrays.

    Examples:
        >>> import annotax as anx, equinox as eqx, jax, jax.numpy as jnp
        >>> mlp = eqx.nn.MLP(2, 1, 8, 2, key=jax.random.key(0))
        >>> model = anx.adopt({"mlp": mlp, "head": [jnp.tanh, eqx.nn.Dropout(0.5)]})
        >>> jax.jit(lambda model, x: model["mlp"](x))(model, jnp.ones(2)).shape
        (1,)
        >>> model["head"][1].p, len(jax.tree.leaves(model)) == len(anx.params(model))
        (0.5, True)

    What is registered as a Hyper becomes static, and a gradient into a registered Buffer is
    stopped. A field that nobody speaks for becomes static if it holds no arrays, together
    with unregistered modules in it; it is read as before. Functions beside arrays or
    modules in a container are wrapped in an `equinox.nn.Lambda` that is called as they are.
    Parameters, their paths and the results stay the same, so gradients and optimizer states
    fit; only the tree structure of the model changes.

    **Arguments:** `model` is any PyTree. Instances of annotax modules are looked at too:
    fields without a role may hold functions.

    **Returns:** the model, its arrays shared. Adopting once more changes nothing, unless
    something was registered meanwhile.

    **Raises:** `HyperError`, listing every leaf that is no array and cannot become static,
    with the reason; `AnnotationError` for a class that cannot be subclassed.
    """
    seen = view(model)
    plan = _Plan(seen)
    for at in range(len(seen.layout.modules)):
        plan.module(at)
    for at, (entry, leaf) in enumerate(zip(seen.layout.entries, seen.leaves, strict=True)):
        if entry.home is None and not is_array(leaf):
            plan.refuse_loose([at])
    if plan.problems:
        raise HyperError(
            explain_error(
                f"adopt({type(model).__name__})",
                "not everything in it can be an array or static",
                expected="arrays, and hashable values in fields without arrays",
                found="\n".join(plan.problems),
                fix="make numbers arrays (jnp.asarray) or give them a field of their own;\n"
                "beside the arrays of a registered field, the rest is static",
            )
        )
    tree = model
    if plan.leaves:
        leaves = [plan.leaves.get(at, leaf) for at, leaf in enumerate(seen.leaves)]
        tree = seen.treedef.unflatten(leaves)
    return apply(plan.edit, tree)


class _Plan:
    """What has to change in a model, found without changing anything."""

    def __init__(self, seen: View) -> None:
        self._leaves = seen.leaves
        self._entries = seen.layout.entries
        self._modules = seen.layout.modules
        self._nested: dict[Home | None, list[int]] = {}
        for at, module in enumerate(self._modules):
            self._nested.setdefault(module.parent, []).append(at)
        self._static_homes: set[Home] = set()
        self._reasons: dict[int, str | None] = {}
        self.edit = Edit()
        self.leaves: dict[int, Any] = {}
        """What takes the place of a leaf."""
        self.problems: list[str] = []

    def module(self, at: int) -> None:
        """Look at one module: which of its fields become static or are stopped.

        Modules come after those that they stand in; what is in a static field is not
        looked at.
        """
        entry = self._modules[at]
        if entry.parent in self._static_homes:
            self._static_homes.update((at, name) for name in entry.spans)
            return
        original = registry.original(entry.cls)
        if original in EXACT_TYPES:
            for start, stop in entry.spans.values():
                self.refuse_loose(range(start, stop))
            return
        before = changes_of(entry.cls)
        static, held, mixed = set(before.static), set(before.held), set(before.mixed)
        stopped = set[str]()
        foreign, inferred = original not in registry.declarations, False
        for spec in field_specs(original):
            span = entry.spans.get(spec.name)
            if spec.name in before.static:
                self._refuse_static(entry, spec)
            if spec.static or span is None:
                continue
            if self._becomes_static(at, spec, range(*span)):
                static.add(spec.name)
                self._static_homes.add((at, spec.name))
                if self._is_held(spec, join(entry.path, spec.name), range(*span)):
                    held.add(spec.name)
                continue
            direct = [p for p in range(*span) if self._entries[p].home == (at, spec.name)]
            opaque = [p for p in direct if not is_array(self._leaves[p])]
            if self._is_mixed(spec, opaque):
                mixed.add(spec.name)
            if is_buffer(spec.role) and not spec.stopped:
                stopped.add(spec.name)
            if spec.role is None and foreign:
                inferred = inferred or len(opaque) < len(direct)
        groups = map(frozenset, (stopped, static, held, mixed))
        after = Changes(before.frozen, *groups, inferred=inferred)
        if after != before:
            self._change_class(entry, after)

    def _refuse_static(self, entry: ModuleEntry, spec: FieldSpec) -> None:
        """A field that was adopted as static and then registered as something else."""
        if spec.role is not None and not is_hyper(spec.role) and spec.opaque_role is None:
            path = join(entry.path, spec.name)
            self.problems.append(
                f"{path}: static since it was adopted, and registered as a "
                f"{spec.role.name} meanwhile; adopt the original"
            )

    def _change_class(self, entry: ModuleEntry, after: Changes) -> None:
        try:
            cls = variant(entry.cls, after)
        except AnnotationError:
            # Only to mark what was inferred, no class has to change.
            if after != changes_of(entry.cls)._replace(inferred=True):
                raise
        else:
            self.edit.at(entry.path).cls = cls

    def _becomes_static(self, at: int, spec: FieldSpec, span: range) -> bool:
        """Whether a field becomes static; what in it cannot be is a problem."""
        if not is_hyper(spec.role):
            no_arrays = span and not any(is_array(self._leaves[p]) for p in span)
            undeclared = spec.role is None or spec.opaque_role is not None
            if not (no_arrays and undeclared and self._nobody_speaks_for((at, spec.name))):
                return False
        self._refuse(p for p in span if self._why_not_static(p))
        return True

    def _nobody_speaks_for(self, home: Home) -> bool:
        """Whether no module in a field is annotated or registered, however deep."""
        for at in self._nested.get(home, ()):
            known = (registry.declarations.keys(), registry.registrations.keys())
            bases = set(self._modules[at].cls.__mro__)
            if any(bases & classes for classes in known):
                return False
            if not all(self._nobody_speaks_for((at, n)) for n in self._modules[at].spans):
                return False
        return True

    def _is_held(self, spec: FieldSpec, path: str, span: range) -> bool:
        """Whether a field that becomes static needs a slot for its value."""
        if not is_hyper(spec.role) and spec.opaque_role is None:
            return True  # nobody said what type of value it takes
        if len(span) != 1 or self._entries[span[0]].path != path:
            return True  # a container
        value = as_number(self._leaves[span[0]], spec.hint)
        return needs_holding(value, spec.hint)

    def _is_mixed(self, spec: FieldSpec, opaque: list[int]) -> bool:
        """Whether a field has items that only a slot can make static.

        Somebody must have said what the field is: then its arrays are that, and what else
        is in it is constant.
        """
        rest = self._unwrapped(opaque)
        allowed = spec.role is not None and all(self._is_item(p) for p in rest)
        self._refuse(p for p in rest if not allowed or self._why_not_static(p))
        return allowed and bool(rest)

    def refuse_loose(self, positions: Iterable[int]) -> None:
        """Wrap what can be wrapped of leaves that no field can make static."""
        self._refuse(self._unwrapped(positions))

    def _unwrapped(self, positions: Iterable[int]) -> list[int]:
        """Put nodes in the places of functions; returns the leaves that are none."""
        rest: list[int] = []
        for at in positions:
            leaf = self._leaves[at]
            if isinstance(leaf, SharedNode):
                self.leaves[at] = Removed()
            elif self._is_item(at) and _is_function(leaf) and not self._why_not_static(at):
                self.leaves[at] = Function(leaf)
            elif not is_array(leaf):
                rest.append(at)
        return rest

    def _is_item(self, at: int) -> bool:
        """Whether a leaf stands in a container, not alone in a field or in nothing."""
        entry = self._entries[at]
        if entry.home is None:
            return entry.path != ""
        module, name = entry.home
        return entry.path != join(self._modules[module].path, name)

    def _why_not_static(self, at: int) -> str | None:
        """As `why_not_static`, once for each object: a function is in many modules."""
        leaf = self._leaves[at]
        if id(leaf) not in self._reasons:
            self._reasons[id(leaf)] = why_not_static(leaf)
        return self._reasons[id(leaf)]

    def _refuse(self, positions: Iterable[int]) -> None:
        for at in positions:
            entry, leaf = self._entries[at], self._leaves[at]
            reason = self._why_not_static(at)
            if reason is None:
                role = None if entry.role is None else entry.role.name
                reason = "stands beside arrays or modules"
                if role is not None and not self._is_item(at):
                    reason = f"a {role} must be an array"
                elif entry.home is None:
                    reason = "stands in no module, so nothing can make it static"
            self.problems.append(f"{entry.path or 'the model'}: {describe(leaf)}; {reason}")


def _is_function(leaf: Any) -> bool:
    """Whether a leaf is a function: no class and no object that can be called as well."""
    if isinstance(leaf, type):
        return False
    return callable(leaf) and (hasattr(leaf, "__name__") or _is_partial(leaf))


def _is_partial(leaf: object) -> bool:
    return isinstance(leaf, functools.partial)
