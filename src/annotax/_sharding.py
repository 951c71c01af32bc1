"""Axis names to mesh axes: `partition_specs` and `shardings`.

The annotations name the axes of arrays, rules say on which axes of a device mesh these
names lie, and JAX's own partitioner does the rest.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ._axes import Axes, is_variadic
from ._errors import ShardingError, did_you_mean, explain_error, listing, nearest, rows
from ._mesh_rules import MeshRules, Rules, insist_on_mesh, read_rules, read_stack
from ._named_axes import NamedArray, named_arrays
from ._specs import field_specs
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
      outermost first, with rules of their own; without it they are replicated. An array
      with a variadic name has as many as all the others around it. Where there are none
      (a stack of nothing but convolutions), it has those that `stack` names; `None` is a
      name for an axis that stays whole.

    **Returns:** the tree with a spec for each array, and `None` for other leaves.

    **Raises:** `ShardingError`, with all problems of a kind: malformed rules; a mapping
    that lays two axes of an array on one mesh axis; rules for names, or a `stack`, that
    nothing in a model has (`Leaves` and states of optimizers may be of a part of a model,
    and there only what looks misspelt is refused); arrays that lie on different meshes.
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

    Fit for `jax.device_put`, for `in_shardings` and `out_shardings` of `jax.jit`, and on a
    mesh with `AxisType.Auto` for `jax.lax.with_sharding_constraint`; explicit axes, which
    newer versions of `jax.make_mesh` make, want `jax.sharding.reshard` there. Where leaves
    are no arrays, for `equinox.filter_shard`.

    **Arguments:** as for `partition_specs`, and the `mesh`, of devices or abstract.

    **Returns:** the tree with a sharding for each array, and `None` for other leaves.

    **Raises:** `ShardingError` as `partition_specs` does, and if a rule names an axis that
    the mesh does not have, or a mapping lays an axis on mesh axes that do not divide it.
    """
    insist_on_mesh("shardings", mesh)
    read = read_rules("shardings", rules, mesh)
    return _laid_out("shardings", tree, read, stack, lambda s: NamedSharding(mesh, s))


def _laid_out(
    function: str,
    tree: Any,
    rules: MeshRules,
    stack: Stack,
    wrap: Callable[[PartitionSpec], Any],
) -> Any:
    """The tree with what `wrap` makes of the spec of each array."""
    front, seen = read_stack(function, stack), view(tree)
    arrays = named_arrays(seen, front)
    few = {array for array in {*arrays} if array is not None}
    _refuse_unknown(function, seen, few, rules, front)
    _refuse_idle_stack(function, seen, few, front)
    _refuse_mixed_meshes(function, seen)
    laid_out: dict[NamedArray | None, Any] = {None: None}
    misfits: dict[NamedArray | None, list[str]] = {}
    for array in few:
        entries, problems = rules.lay_out(array.names, array.shape)
        laid_out[array] = wrap(PartitionSpec(*entries))
        if problems:
            misfits[array] = problems
    if misfits:
        pairs = zip(seen.layout.entries, arrays, strict=True)
        found = [f"{e.path}: {problem}" for e, a in pairs for problem in misfits.get(a, ())]
        raise ShardingError(_misfit_message(function, found))
    return seen.treedef.unflatten(list(map(laid_out.__getitem__, arrays)))


# --- what is refused -----------------------------------------------------------------


def _refuse_unknown(
    function: str, seen: View, arrays: Collection[NamedArray], rules: MeshRules, front: Axes
) -> None:
    """Refuse rules for names that nothing has: they were meant for something.

    What a model does not hold, say a bias that is `None`, its classes name all the same.
    """
    names = {*front, *_plain(array.axes or () for array in arrays)}
    wanted = tuple(dict.fromkeys(rule.name for rule in rules.rules))
    if names.issuperset(wanted):
        return
    if seen.layout.modules:
        names |= _plain(axes for axes, _ in _declared(seen))
    known = sorted(name for name in names if name is not None)
    unknown = [name for name in wanted if name not in known]
    if unknown and (seen.layout.modules or _are_misspelt(wanted, known)):
        raise ShardingError(_unknown_message(function, unknown, known))


def _plain(several: Iterable[Axes]) -> set[str | None]:
    """The names of axes but for variadic ones, which no rule can be about."""
    return {name for axes in several for name in axes if not is_variadic(name)}


def _are_misspelt(wanted: Sequence[str], known: Sequence[str]) -> bool:
    """Whether a rule looks as if it was meant for a name that has none.

    `Leaves` and optimizer states may be of a part of a model, and the rules for all of it.
    """
    idle = [name for name in known if name not in wanted]
    return any(nearest(name, idle) for name in wanted if name not in known)


def _declared(seen: View) -> Iterator[tuple[Axes, bool]]:
    """The names in the fields of each module, and whether it holds such an array."""
    for module in seen.layout.modules:
        for spec in field_specs(module.cls):
            if spec.axes is not None:
                start, end = module.spans.get(spec.name, (0, 0))
                yield spec.axes, start < end


def _unknown_message(function: str, unknown: list[str], known: list[str]) -> str:
    name_them = 'annotate the arrays, Param[Float[Array, "mlp embed"]], or field(axes=...)'
    near = [f"{name}: {did_you_mean(name, known)}" for name in unknown]
    return explain_error(
        function,
        "rules for axes that no leaf has",
        expected=f"names of axes: {listing(known)}" if known else "axes with names",
        found=listing(unknown),
        fix=rows(near) if known else name_them,
    )


def _refuse_idle_stack(
    function: str, seen: View, arrays: Collection[NamedArray], front: Axes
) -> None:
    """Refuse names for leading axes that no array of a whole model has."""
    deepest = max((array.lead for array in arrays if array.lead is not None), default=None)
    if not seen.layout.modules or deepest is None or deepest >= len(front):
        return
    if not all(held for _, held in _declared(seen)):
        return  # what was taken out of the model may be what is stacked
    raise ShardingError(
        explain_error(
            f"{function}(stack={front[0] if len(front) == 1 else front!r})",
            "no array has so many axes in front of those with names",
            expected="a name for each time that equinox.filter_vmap made the model",
            found=f"{deepest or 'none'} in front",
            fix="name fewer" if deepest else "leave stack out",
        )
    )


def _refuse_mixed_meshes(function: str, seen: View) -> None:
    """Refuse a tree whose arrays lie on different meshes: no program takes them all."""
    meshes: dict[Mesh, int] = {}
    for at, leaf in enumerate(seen.leaves):
        sharding = getattr(leaf, "sharding", None)
        if type(sharding) is NamedSharding and type(sharding.mesh) is Mesh:
            meshes.setdefault(sharding.mesh, at)
    if len(meshes) > 1:
        texts = list(map(_mesh_text, meshes))
        if len({*texts}) < len(texts):  # they differ in kinds of axes, or in devices
            texts = [f"{mesh!r} of devices {_devices(mesh)}" for mesh in meshes]
        places = [seen.layout.entries[at].path for at in meshes.values()]
        found = [f"{path} on {text}" for path, text in zip(places, texts, strict=True)]
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


def _devices(mesh: Any) -> str:
    return listing((device.id for device in mesh.devices.flat), 8)


def _misfit_message(function: str, found: list[str]) -> str:
    return explain_error(
        function,
        "the rules do not fit the arrays",
        expected="each mesh axis once in an array, and sizes that the mesh axes divide",
        found=rows(found),
        fix="give the rules as a list of pairs, in which the first that fits and is free "
        "wins, or None for the axis",
    )
