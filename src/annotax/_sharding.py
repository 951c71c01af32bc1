"""Axis names to mesh axes: `partition_specs` and `shardings`.

The annotations name the axes of arrays, rules say on which axes of a device mesh these
names lie, and JAX's own partitioner does the rest.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from jax.sharding import NamedSharding, PartitionSpec

from ._axes import Axes, is_variadic
from ._errors import ShardingError, did_you_mean, explain_error, listing, rows
from ._layout import is_array
from ._mesh_rules import MeshRules, Rules, insist_on_mesh, read_rules, read_stack
from ._view import View, view

Stack = str | Sequence[str | None] | None
"""Names of the leading axes that `vmap` puts in front, outermost first."""


def partition_specs(tree: Any, rules: Rules, stack: Stack = None) -> Any:
    """A `PartitionSpec` for every array of a tree, by the names of its axes.

    Examples:
        >>> import annotax as anx, jax.numpy as jnp
        >>> from jaxtyping import Array, Float
        >>> class Dense(anx.Module):
        ...     weight: anx.Param[Float[Array, "mlp embed"]]
        ...     bias: anx.Param[Float[Array, " mlp"]]
        >>> layer = Dense(jnp.ones((8, 4)), jnp.ones(8))
        >>> specs = anx.partition_specs(layer, {"mlp": "model", "embed": ("fsdp", "data")})
        >>> tuple(specs.weight), tuple(specs.bias)
        (('model', ('fsdp', 'data')), ('model',))

    A spec has one entry an axis. Replicated are names without a rule, axes that nobody
    names, axes of size 1, and what a variadic name (`*kernel_size`) covers. In optimizer
    states moments follow their parameters; counters, and factored moments, which have
    fewer axes than their parameter, are replicated.

    **Arguments:**

    - `tree`: any PyTree: a model, an abstract one, `Leaves`, gradients, an optimizer state.
    - `rules`: a mapping from axis names to a mesh axis, several together, or `None`, which
      must fit as it stands. Or a list of pairs, in which a name may stand more than once:
      of those that are about the same array, the first wins whose mesh axes are free in it
      and (for `shardings`) divide its size.
    - `stack`: names of the leading axes that `equinox.filter_vmap` has put in front,
      outermost first, with rules of their own. Without it they are replicated; only beside
      a variadic name annotax has to be told of them (`stack=(None,)`).

    **Returns:** the tree with a spec for each array, and `None` for other leaves.

    **Raises:** `ShardingError`, all problems at once: malformed rules, a mapping that lays
    two axes of an array on one mesh axis, a rule or a `stack` for what no leaf has, arrays
    that lie on different meshes.
    """
    read = read_rules("partition_specs", rules)
    return _laid_out("partition_specs", tree, read, stack, lambda spec: spec)


def shardings(tree: Any, mesh: Any, rules: Rules, stack: Stack = None) -> Any:
    """A `NamedSharding` for every array of a tree, by the names of its axes.

    Examples:
        >>> import annotax as anx, jax, jax.numpy as jnp
        >>> mesh = jax.make_mesh((1,), ("model",))
        >>> params = {"w": jnp.ones((4, 2))}
        >>> placed = jax.device_put(params, anx.shardings(params, mesh, {}))
        >>> tuple(placed["w"].sharding.spec)
        (None, None)

    Fit for `jax.device_put`, for `in_shardings` and `out_shardings` of `jax.jit`, and for
    `jax.lax.with_sharding_constraint`; where leaves are no arrays, for
    `equinox.filter_shard`.

    **Arguments:** as for `partition_specs`, and the `mesh`, of devices or abstract.

    **Returns:** the tree with a sharding for each array, and `None` for other leaves.

    **Raises:** `ShardingError` as `partition_specs` does, and if a rule names an axis that
    the mesh does not have, or a mapping lays an axis on mesh axes that do not divide it.
    """
    insist_on_mesh("shardings", mesh)
    read = read_rules("shardings", rules, mesh)
    return _laid_out("shardings", tree, read, stack, lambda s: NamedSharding(mesh, s))


class _Array(NamedTuple):
    """What matters of an array, and what follows."""

    axes: Axes | None
    shape: tuple[int, ...]
    laid_out: Any
    problems: list[str]


def _laid_out(
    function: str,
    tree: Any,
    rules: MeshRules,
    stack: Stack,
    wrap: Callable[[PartitionSpec], Any],
) -> Any:
    """The tree with what `wrap` makes of the spec of each array."""
    front, seen = read_stack(function, stack), view(tree)
    known: dict[tuple[Axes | None, tuple[int, ...]], _Array] = {}
    arrays: list[_Array | None] = []
    for entry, leaf in zip(seen.layout.entries, seen.leaves, strict=True):
        if not is_array(leaf):
            arrays.append(None)
            continue
        key = (entry.axes, leaf.shape)  # a model has thousands of arrays, of a few kinds
        array = known.get(key)
        if array is None:
            entries, problems = rules.lay_out(_names(*key, front), leaf.shape)
            array = known[key] = _Array(*key, wrap(PartitionSpec(*entries)), problems)
        arrays.append(array)
    _refuse_unknown(function, known.values(), rules, front)
    _refuse_mixed_meshes(function, seen)
    if any(array.problems for array in known.values()):
        raise ShardingError(_misfit_message(function, seen, arrays))
    return seen.treedef.unflatten(
        None if array is None else array.laid_out for array in arrays
    )


def _names(axes: Axes | None, shape: tuple[int, ...], front: Axes) -> Axes:
    """A name for each axis of an array, `None` where there is none.

    A variadic name covers the axes that the others leave, and only then it has to be taken
    on trust that the axes of a stack are there. An array with fewer axes than names is
    something else that is kept by parameter.
    """
    ndim = len(shape)
    if axes is None:
        return (None,) * ndim
    variadic = [at for at, name in enumerate(axes) if is_variadic(name)]
    if variadic:
        at, covered = variadic[0], ndim - len(front) - len(axes) + 1
        axes = (*axes[:at], *(None,) * covered, *axes[at + 1 :])
    extra = ndim - len(axes)
    if extra < 0 or len(variadic) > 1:
        return (None,) * ndim
    return (*(*front, *(None,) * extra)[:extra], *axes)


# --- what is refused -----------------------------------------------------------------


def _refuse_unknown(
    function: str, arrays: Collection[_Array], rules: MeshRules, front: Axes
) -> None:
    """Refuse rules and stacks that are about nothing: they were meant for something."""
    axes = {array.axes for array in arrays if array.axes is not None}
    if not axes:
        return  # counters alone, or a model in which nothing is named
    names = {name for own in axes for name in own if name and not is_variadic(name)}
    known = sorted({*names, *filter(None, front)})
    unknown = dict.fromkeys(name for name, _ in rules.pairs if name not in known)
    if unknown:
        raise ShardingError(
            explain_error(
                function,
                "rules for axes that no leaf has",
                expected=f"names of axes: {listing(known)}",
                found=listing(unknown),
                fix="\n".join(f"{name}: {did_you_mean(name, known)}" for name in unknown),
            )
        )
    if front and not any(len(a.shape) > _fixed(a.axes) for a in arrays if a.axes):
        raise ShardingError(
            explain_error(
                f"{function}(stack={front[0] if len(front) == 1 else front!r})",
                "no array has an axis in front of those with names",
                expected="a model made under equinox.filter_vmap",
                found="arrays with as many axes as names",
                fix="leave stack out",
            )
        )


def _fixed(axes: Axes) -> int:
    return sum(not is_variadic(name) for name in axes)


def _refuse_mixed_meshes(function: str, seen: View) -> None:
    """Refuse a tree whose arrays lie on different meshes: no program takes them all."""
    meshes: dict[Any, str] = {}
    for entry, leaf in zip(seen.layout.entries, seen.leaves, strict=True):
        sharding = getattr(leaf, "sharding", None)
        if type(sharding) is NamedSharding and sharding.mesh.axis_names:
            meshes.setdefault(sharding.mesh, entry.path)
    if len(meshes) > 1:
        found = [f"{path} on {_mesh_text(mesh)}" for mesh, path in meshes.items()]
        raise ShardingError(
            explain_error(
                function,
                "the arrays of this tree lie on different meshes",
                expected="one mesh",
                found=rows(found),
                fix="bring them onto one: jax.device_put(tree, "
                "NamedSharding(mesh, PartitionSpec()))",
            )
        )


def _mesh_text(mesh: Any) -> str:
    sizes = ", ".join(f"{name}: {size}" for name, size in mesh.shape.items())
    return f"a mesh ({sizes})"


def _misfit_message(function: str, seen: View, arrays: list[_Array | None]) -> str:
    found = [
        f"{entry.path}: {problem}"
        for entry, array in zip(seen.layout.entries, arrays, strict=True)
        if array is not None
        for problem in array.problems
    ]
    return explain_error(
        function,
        "the rules do not fit the arrays",
        expected="each mesh axis once in an array, and sizes that the mesh axes divide",
        found=rows(found),
        fix="give the rules as a list of pairs, in which the first that fits and is free "
        "wins, or None for the axis",
    )
