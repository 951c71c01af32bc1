"""Annotations that are strings, with names that exist for type checkers only."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

import annotax as anx

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class Tree(anx.Module):
    value: anx.Param[Float[Array, " n"]]
    child: anx.Param[Tree | None]
    depth: anx.Hyper[int] = 0


def fields(tree: Tree) -> None:
    assert_type(tree.value, Array)
    assert_type(tree.child, Tree | None)
    assert_type(tree.depth, int)
    assert_type(Tree(tree.value, tree), Tree)
    Tree(tree, tree)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
