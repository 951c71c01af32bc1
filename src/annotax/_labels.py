"""Labels: a word for every leaf, for optimizers that treat groups differently."""

from collections.abc import Mapping
from typing import Any

from ._errors import SelectionError, describe, explain_error, listing
from ._layout import Layout
from ._selection import Selection
from ._view import view


class Labels:
    """A function from a tree to the same tree with a label at every leaf."""

    __slots__ = ("_default", "_selections")

    def __init__(self, selections: Mapping[str, Selection], default: str | None) -> None:
        self._selections = dict(selections)
        self._default = default

    def __call__(self, tree: Any) -> Any:
        seen = view(tree)
        masks = {label: sel.mask(seen) for label, sel in self._selections.items()}
        chosen: list[str | None] = []
        overlaps: list[str] = []
        for position, entry in enumerate(seen.layout.entries):
            given = [label for label, mask in masks.items() if mask[position]]
            if len(given) > 1:
                overlaps.append(f"{entry.path} ({', '.join(given)})")
            chosen.append(given[0] if given else self._default)
        self._refuse(seen.layout, overlaps, chosen)
        return seen.treedef.unflatten(chosen)

    def _refuse(
        self, layout: Layout, overlaps: list[str], chosen: list[str | None]
    ) -> None:
        bare = [e.path for e, c in zip(layout.entries, chosen, strict=True) if c is None]
        if not overlaps and not bare:
            return
        problems: list[str] = []
        if overlaps:
            problems.append(f"two labels for {listing(overlaps)}")
        if bare:
            problems.append(f"none for {listing(bare)}")
        raise SelectionError(
            explain_error(
                repr(self),
                "every leaf needs one label",
                expected="selections that do not overlap, and a default for the rest",
                found="\n".join(problems),
                fix='subtract one from the other (a & ~b), and give default="..."',
            )
        )

    def __repr__(self) -> str:
        rows = ", ".join(f"{name!r}: {sel!r}" for name, sel in self._selections.items())
        return f"labels({{{rows}}}, default={self._default!r})"


def labels(selections: Mapping[str, Any], default: str | None = None) -> Labels:
    """Label every leaf by the selection that matches it, for `optax.multi_transform`.

    Examples:
        >>> import annotax as anx, optax
        >>> tx = optax.multi_transform(
        ...     {"head": optax.adam(1e-3), "body": optax.sgd(1e-4)},
        ...     anx.labels({"head": anx.by_path("head.**")}, default="body"),
        ... )

    **Arguments:** `selections` maps labels to selections; `default` labels the rest.

    **Returns:** a function from a model or `Leaves` to the same tree of strings. Give
    optax `Leaves`: it calls a label tree that can be called, and a model often can.

    **Raises:** `SelectionError`, when it is applied, if two labels overlap or a leaf has
    none; the message lists the paths.
    """
    if not isinstance(selections, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] -- users without a type checker
        raise SelectionError(
            explain_error(
                "labels",
                "these are no labels",
                expected="a mapping from labels to selections",
                found=describe(selections),
                fix='labels({"head": by_path("head.**")}, default="body")',
            )
        )
    return Labels({name: Selection.of(s) for name, s in selections.items()}, default)
