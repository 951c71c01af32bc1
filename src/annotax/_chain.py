"""The chain of steps from a model to what stands at a path, each with what it says.

Stands apart from `_explain`, which draws the conclusions: here the tree is followed, and
the classes on the way are asked through their field specs.
"""

from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any, NamedTuple

from ._errors import FieldError, describe, explain_error, listing, nearest
from ._field import FieldSpec
from ._leaves import Leaves
from ._locate import locate_field
from ._node import below
from ._path import join, segments
from ._registry import class_of
from ._specs import field_specs, overridden, registered_at
from ._view import View


class Link(NamedTuple):
    """One step of the way from the model to what is explained.

    `spec` is what the field says that the step leads through, `owner` the class of the
    module; both are `None` where the step leads into a `container`.
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
        return self.step if self.spec is None else f"{self.step}: {self.spec.text}"

    def reasons(self) -> list[str]:
        """What follows from the step, a line each."""
        spec, owner = self.spec, self.owner
        if spec is None or owner is None:
            return [f"in {self.container}"]
        lines = [f"annotated in {_place(spec.declared_by, self.step)}"]
        registered = registered_at(owner, self.step)
        said = spec.role or spec.opaque_role
        if registered is not None and said is not None:
            only = ", for what is no array" * (spec.role is None)
            lines.append(f"registered for {registered.__name__}: {said.name}{only}")
        elif spec.origin == "inferred":
            lines.append("inferred by adopt" + " from what it holds" * spec.static)
        elif spec.role is None:
            lines.append("nobody says a role")
        lines += [
            f"overrides {text} in {_place(base, self.step)}"
            for base, text in overridden(owner, self.step)
        ]
        lines += ["frozen by freeze"] * spec.frozen
        lines += [f"tags {listing(sorted(spec.tags))}"] * bool(spec.tags)
        lines += ["persistent=False"] * (not spec.persistent)
        return lines


def _place(cls: type, name: str) -> str:
    """A class, with the file and line where it annotates a field if they are known."""
    location = locate_field(cls, name)
    return cls.__name__ if location is None else f"{cls.__name__}, {location}"


def follow(seen: View, path: str) -> tuple[tuple[Link, ...], Any]:
    """The steps that lead to a path, and what stands there."""
    chain: list[Link] = []
    node, so_far = seen.tree, ""
    for step in segments(path):
        if isinstance(node, Leaves):
            break
        steps = below(node)
        if step not in steps:
            raise FieldError(_nowhere_message(seen, path, so_far, step, steps))
        chain.append(_link(node, step, join(so_far, step)))
        node, so_far = steps[step], join(so_far, step)
    if isinstance(node, Leaves) and path != so_far:
        key = path.removeprefix(so_far).removeprefix(".")
        if key not in node:
            raise FieldError(_nowhere_message(seen, path, so_far, key, node))
        chain.append(Link(key, path, "Leaves, which keep what its classes say"))
        node = node[key]
    return tuple(chain), node


def _link(node: object, step: str, path: str) -> Link:
    specs = field_specs(type(node)) if is_dataclass(node) else ()
    for spec in specs:
        if spec.name == step:
            return Link(step, path, owner=class_of(node), spec=spec)
    return Link(step, path, describe(node))


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
