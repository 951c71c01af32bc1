"""The chain of steps from a model to what stands at a path, each with what it says.

Stands apart from `_explain`, which draws the conclusions: here the tree is followed, and
the classes on the way are asked through their field specs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass
from typing import Any, NamedTuple

from ._errors import FieldError, describe, explain_error, listing, nearest
from ._field import FieldSpec
from ._leaves import Leaves
from ._locate import Location, locate_field
from ._node import below
from ._path import join, join_all, segments
from ._registry import CONTENTS, class_of, registry
from ._specs import Overridden, content_spec, field_specs, overridden, registered_at
from ._view import View

IN_LEAVES = "Leaves, which keep what its classes say"


class Link(NamedTuple):
    """One step of the way from the model to what is explained.

    `spec` is what the field says that the step leads through, `owner` the class of the
    module; both are `None` where the step leads into a `container`, unless somebody
    registered a role for all that is in it.
    """

    step: str
    path: str
    container: str = ""
    owner: type | None = None
    spec: FieldSpec | None = None

    @property
    def where(self) -> str:
        """The field as `Class.field`."""
        return self.step if self.owner is None else f"{self.owner.__name__}.{self.step}"

    @property
    def says(self) -> str:
        """The step with its annotation."""
        is_field = self.spec is not None and self.spec.name
        return f"{self.step}: {self.spec.text}" if self.spec and is_field else self.step

    def reasons(self) -> list[str]:
        """What follows from the step, a line each."""
        spec, owner = self.spec, self.owner
        lines = [f"in {self.container}"] * bool(self.container)
        if spec is None or owner is None:
            return lines
        if spec.name:
            lines.append(f"annotated in {_place(spec.declared_by, self.step)}")
            lines += self._who_says(spec, owner)
            lines += map(self._other_text, overridden(owner, self.step))
        elif spec.role is not None:
            place = _registered_place(owner, CONTENTS)
            lines.append(f"registered for {owner.__name__}{place}: {spec.role.name}")
        lines += ["frozen by freeze"] * spec.frozen
        lines += [f"tags {listing(sorted(spec.tags))}"] * bool(spec.tags)
        lines += ["persistent=False"] * (not spec.persistent)
        return lines

    def _other_text(self, other: Overridden) -> str:
        verb = "implements" if other.abstract else "overrides"
        return f"{verb} {other.text} in {_place(other.base, self.step)}"

    def _who_says(self, spec: FieldSpec, owner: type) -> list[str]:
        """Who says the role, where it is not the annotation."""
        registered = registered_at(owner, spec.name)
        said = spec.role or spec.opaque_role
        if registered is not None and said is not None:
            only = ", for what is no array" * (spec.role is None)
            place = _registered_place(registered, spec.name)
            return [f"registered for {registered.__name__}{place}: {said.name}{only}"]
        if spec.origin == "inferred":
            return ["inferred by adopt" + " from what it holds" * spec.static]
        return ["nobody says a role"] if spec.role is None else []


def _place(cls: type, name: str) -> str:
    """A class, with the file and line where it annotates a field if they are known."""
    location = locate_field(cls, name)
    return cls.__name__ if location is None else f"{cls.__name__}, {location}"


def _registered_place(cls: type, name: str) -> str:
    """The file and line of a user's registration; annotax's own have none."""
    place = registry.places.get(cls, {}).get(name)
    return "" if place is None else f", {Location(*place)}"


def follow(seen: View, path: str) -> tuple[tuple[Link, ...], Any]:
    """The steps that lead to a path, and what stands there."""
    chain: list[Link] = []
    node, so_far, ahead = seen.tree, "", segments(path)
    while ahead:
        steps = dict(node) if isinstance(node, Leaves) else below(node)
        count = _steps_at_once(node, ahead)
        step = join_all(ahead[:count])
        if step not in steps:
            raise FieldError(_nowhere_message(seen, path, so_far, step, steps))
        so_far, ahead = join(so_far, step), ahead[count:]
        if step:
            chain.append(_link(node, step, so_far))
        node = steps[step]
    return tuple(chain), node


def _steps_at_once(node: object, ahead: Sequence[str]) -> int:
    """One step; in `Leaves` as many as a key of theirs has, or all if none fits."""
    if not isinstance(node, Leaves):
        return 1
    counts = range(len(ahead), -1, -1)
    return next((n for n in counts if join_all(ahead[:n]) in node), len(ahead))


def _link(node: object, step: str, path: str) -> Link:
    if isinstance(node, Leaves):
        return Link(step, path, IN_LEAVES)
    specs = field_specs(type(node)) if is_dataclass(node) else ()
    for spec in specs:
        if spec.name == step:
            return Link(step, path, owner=class_of(node), spec=spec)
    contents = content_spec(type(node))
    owner = None if contents is None else class_of(node)
    return Link(step, path, describe(node), owner, contents)


def _nowhere_message(
    seen: View, path: str, so_far: str, step: str, steps: Iterable[str]
) -> str:
    here = list(steps)
    near = [join(so_far, other) for other in nearest(step, here)]
    if not near:
        last = segments(path)[-1:]
        near = [p for p in seen.layout.paths if segments(p)[-1:] == last][:3]
    fix = f"did you mean {' or '.join(map(repr, near))}?" if near else None
    if fix is None and here:
        fix = f"there is: {listing(join(so_far, other) for other in here)}"
    where = so_far or f"the {type(seen.tree).__name__}"
    return explain_error(
        f"explain({type(seen.tree).__name__}, {path!r})",
        "there is nothing at this path",
        expected="the path of a leaf, a field, a module or a container",
        found=f"{where} has no {step!r}" if here else f"nothing is in {where}",
        fix=fix,
    )
