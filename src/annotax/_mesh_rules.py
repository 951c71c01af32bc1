"""Rules from axis names to mesh axes, and what they say of one array.

Stands apart from the trees that are laid out: an array is only names and sizes here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, cast

from ._axes import Axes
from ._errors import ShardingError, describe, did_you_mean, explain_error, listing

MeshAxes = str | Sequence[str] | None
"""Where an axis of an array lies: on one mesh axis, on several together, or on none."""

Rules = Mapping[str, MeshAxes] | Iterable[tuple[str, MeshAxes]]
"""A mapping must fit as it stands; of pairs, the first that fits and is free wins."""

Entry = str | tuple[str, ...] | None
"""An entry of a `PartitionSpec`."""


class Rule(NamedTuple):
    """A name and the mesh axes for it, none if its axes stay whole.

    `sizes` are those of the mesh axes if there is a mesh; `total` is their product.
    """

    name: str
    mesh_axes: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    total: int = 1


@dataclass(frozen=True)
class MeshRules:
    """Rules in one form, in the order in which they are followed."""

    rules: tuple[Rule, ...]
    strict: bool
    """Whether a rule that does not fit is an error, rather than passed over."""

    def lay_out(
        self, names: Axes, shape: tuple[int, ...]
    ) -> tuple[tuple[Entry, ...], list[str]]:
        """An entry for each axis of an array, and what does not fit.

        The rules are gone through in their order, as an earlier one goes before a later
        one also where they are about different axes. An axis of size 1 has nothing to
        lay out: it stands for a broadcast, or for a moment that an optimizer does without.
        """
        entries: dict[int, Entry] = {at: None for at, size in enumerate(shape) if size == 1}
        taken: dict[str, int] = {}
        problems: list[str] = []
        for rule in self.rules:
            for at, name in enumerate(names):
                if name != rule.name or at in entries:
                    continue
                if shape[at] % rule.total == 0 and taken.keys().isdisjoint(rule.mesh_axes):
                    entries[at] = _entry(rule.mesh_axes)
                    taken.update(dict.fromkeys(rule.mesh_axes, at))
                elif self.strict:
                    entries[at] = None
                    problems.append(_misfit(rule, at, names, shape, taken))
        return tuple(map(entries.get, range(len(shape)))), problems


def _entry(mesh_axes: tuple[str, ...]) -> Entry:
    return mesh_axes[0] if len(mesh_axes) == 1 else mesh_axes or None


def _misfit(
    rule: Rule, at: int, names: Axes, shape: tuple[int, ...], taken: Mapping[str, int]
) -> str:
    """Why an axis cannot lie on the mesh axes of its rule."""
    for mesh_axis in rule.mesh_axes:
        if mesh_axis in taken:
            other = taken[mesh_axis]
            return (
                f"dimensions {other} ({names[other]}) and {at} ({names[at]}) are both "
                f"on mesh axis {mesh_axis!r}"
            )
    size = " × ".join(map(str, rule.sizes))
    total = f"{size} = {rule.total}" if len(rule.sizes) > 1 else size
    return (
        f"dimension {at} ({names[at]}): size {shape[at]}, not divisible by {total} "
        f"({_on(rule.mesh_axes)})"
    )


def _on(mesh_axes: tuple[str, ...]) -> str:
    listed = " and ".join(map(repr, mesh_axes))
    return f"mesh ax{'e' if len(mesh_axes) > 1 else 'i'}s {listed}"


# --- reading what was given ----------------------------------------------------------


def read_rules(function: str, rules: Any, mesh: Any = None) -> MeshRules:
    """Rules as they were given, checked for their form and against a mesh.

    **Raises:** `ShardingError`, with everything that is wrong.
    """
    found: list[Rule] = []
    problems: list[str] = []
    known = None if mesh is None else dict(mesh.shape)
    for name, mesh_axes in _pairs(function, rules):
        read = _mesh_axes(mesh_axes)
        if not isinstance(name, str):
            problems.append(f"{describe(name)} is no name of an axis")
        elif read is None:
            problems.append(f"{name}: {_malformed(mesh_axes)}")
        elif known is None:
            found.append(Rule(name, read))
        elif unknown := _unknown(name, read, tuple(known)):
            problems += unknown
        else:
            sizes = tuple(known[mesh_axis] for mesh_axis in read)
            found.append(Rule(name, read, sizes, prod(sizes)))
    if problems:
        raise ShardingError(_rules_message(function, "\n".join(problems), mesh))
    return MeshRules(tuple(found), strict=isinstance(rules, Mapping))


def _pairs(function: str, rules: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(rules, str) or not isinstance(rules, Iterable):
        raise ShardingError(_rules_message(function, describe(rules), None))
    is_mapping = isinstance(rules, Mapping)
    for pair in cast("Iterable[Any]", cast(Any, rules).items() if is_mapping else rules):
        if not isinstance(pair, tuple | list) or len(cast("list[Any]", pair)) != 2:
            raise ShardingError(_rules_message(function, describe(pair), None))
        name, mesh_axes = cast("list[Any]", pair)
        yield name, mesh_axes


def _mesh_axes(given: Any) -> tuple[str, ...] | None:
    """Mesh axes as a tuple; `None` if these are none."""
    if given is None:
        return ()
    axes = (given,) if isinstance(given, str) else given
    if not isinstance(axes, tuple | list):
        return None
    listed = tuple(cast("list[Any]", axes))
    is_set = all(isinstance(axis, str) for axis in listed) and len({*listed}) == len(listed)
    return listed if is_set else None


def _malformed(given: Any) -> str:
    if isinstance(given, tuple | list):
        listed = cast("list[Any]", given)
        twice = [
            axis for axis in listed if isinstance(axis, str) and listed.count(axis) > 1
        ]
        if twice:
            return f"mesh axis {twice[0]!r} stands twice in its rule"
    return f"{describe(given)} is no mesh axis"


def _unknown(name: str, mesh_axes: tuple[str, ...], known: tuple[str, ...]) -> list[str]:
    return [
        f"{name}: the mesh has no axis {mesh_axis!r}; {did_you_mean(mesh_axis, known)}"
        for mesh_axis in mesh_axes
        if mesh_axis not in known
    ]


def _rules_message(function: str, found: str, mesh: Any) -> str:
    axes = "a mesh axis" if mesh is None else f"one of {listing(mesh.axis_names)}"
    return explain_error(
        function,
        "these rules cannot be followed",
        expected=f"for each name {axes}, several that differ, or None",
        found=found,
        fix='{"mlp": "model", "embed": ("fsdp", "data"), "heads": None}, or a list of '
        "such pairs",
    )


def read_stack(function: str, stack: Any) -> Axes:
    """The names of leading axes as a tuple.

    **Raises:** `ShardingError` for what is no name.
    """
    given = (stack,) if isinstance(stack, str) else () if stack is None else stack
    if isinstance(given, tuple | list):
        names = tuple(cast("list[Any]", given))
        if all(name is None or isinstance(name, str) for name in names):
            return names
    raise ShardingError(
        explain_error(
            f"{function}(stack=...)",
            "this names no axes",
            expected="the name of the leading axis, or several, outermost first; None for "
            "an axis that stays whole",
            found=describe(given),
            fix='stack="ensemble", or stack=("ensemble", None)',
        )
    )


def insist_on_mesh(function: str, mesh: Any) -> None:
    """Refuse what is no mesh, for instance arguments in another order.

    A mesh without axes is what `jax.sharding.get_abstract_mesh` gives where none is set.
    """
    if not hasattr(mesh, "axis_names"):
        found = describe(mesh)
    elif not mesh.axis_names:
        found = f"{describe(mesh)} without axes"
    else:
        return
    raise ShardingError(
        explain_error(
            function,
            "this is no mesh",
            expected="a jax.sharding.Mesh, as jax.make_mesh makes it",
            found=found,
            fix=f"{function}(tree, mesh, rules)",
        )
    )
