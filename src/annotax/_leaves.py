"""`Leaves`: selected leaves of a model as one flat PyTree node keyed by path.

It stands below the layout, which must recognise it: what a leaf is goes along in the
static data, so selections and labels apply to parameters, gradients and optimizer
states as they do to models. Nothing else of the model is kept.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jax.tree_util import DictKey

from ._axes import Axes
from ._errors import did_you_mean, explain_error
from ._role import Role

# Their types for PyTrees are partly unknown.
_equinox: Any = eqx
_jax: Any = jax


class LeafKey(NamedTuple):
    """What is known of one leaf apart from its value."""

    path: str
    role: Role | None
    tags: frozenset[str]
    axes: Axes | None
    persistent: bool


class LeafKeys:
    """The static data of `Leaves`. Equal to itself at the cost of one comparison."""

    __slots__ = ("_hash", "_index", "keys")

    def __init__(self, keys: tuple[LeafKey, ...]) -> None:
        self.keys = keys
        self._hash: int | None = None
        self._index: dict[str, int] | None = None

    @property
    def index(self) -> dict[str, int]:
        """Path to position."""
        if self._index is None:
            self._index = {key.path: at for at, key in enumerate(self.keys)}
        return self._index

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, LeafKeys) and self.keys == other.keys

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self.keys)
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return (LeafKeys, (self.keys,))

    def __repr__(self) -> str:
        return f"({', '.join(key.path for key in self.keys)})"


class Leaves(Mapping[str, Any]):
    """Leaves of a model by path: a mapping, and one PyTree node.

    Examples:
        >>> import annotax as anx, jax.numpy as jnp
        >>> from jaxtyping import Array, Float
        >>> class Scale(anx.Module):
        ...     weight: anx.Param[Float[Array, " d"]]
        >>> params = anx.params(Scale(jnp.ones(3)))
        >>> params["weight"].shape, list(params), len(params)
        ((3,), ['weight'], 1)

    Made by `params`, `leaves`, `split` and the gradients; immutable, not callable, and
    flattened at the cost of a tuple. Any transformation of its values (optax, `tree_map`)
    gives `Leaves` with the same paths. Equality compares paths and values, as Equinox
    compares modules; the hash depends on the paths alone.
    """

    __slots__ = ("__weakref__", "_values", "static")

    static: LeafKeys
    _values: tuple[Any, ...]

    def __init__(self, static: LeafKeys, values: Iterable[Any]) -> None:
        object.__setattr__(self, "static", static)
        object.__setattr__(self, "_values", tuple(values))

    def __getitem__(self, path: str) -> Any:
        try:
            return self._values[self.static.index[path]]
        except KeyError:
            raise KeyError(
                f"no leaf {path!r}; {did_you_mean(str(path), tuple(self.static.index))}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return (key.path for key in self.static.keys)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, path: object) -> bool:
        return path in self.static.index

    def __eq__(self, other: object) -> Any:
        if not isinstance(other, Leaves):
            return NotImplemented
        return _equinox.tree_equal(self, other)

    def __hash__(self) -> int:
        return hash(self.static)

    def __setattr__(self, name: str, value: object) -> None:
        fix = (
            "jax.tree.map(...) makes new Leaves, annotax.update(model, leaves) a new model"
        )
        raise AttributeError(
            explain_error("Leaves", f"cannot be changed: {name!r}", fix=fix)
        )

    def __delattr__(self, name: str) -> None:
        setattr(self, name, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Leaves, (self.static, self._values))

    def __repr__(self) -> str:
        if not self:
            return "Leaves()"
        rows = [f"    {path!r}: {_short(value)}," for path, value in self.items()]
        return "\n".join(["Leaves(", *rows, ")"])


def _short(value: Any) -> str:
    return eqx.tree_pformat(value).replace("\n", " ")


def _flatten(leaves: Leaves) -> tuple[tuple[Any, ...], LeafKeys]:
    return leaves._values, leaves.static  # pyright: ignore[reportPrivateUsage] -- same file


def _flatten_with_keys(leaves: Leaves) -> tuple[list[tuple[Any, Any]], LeafKeys]:
    pairs = [(DictKey(path), value) for path, value in leaves.items()]
    return pairs, leaves.static


def _unflatten(static: LeafKeys, values: Iterable[Any]) -> Leaves:
    return Leaves(static, values)


_jax.tree_util.register_pytree_with_keys(Leaves, _flatten_with_keys, _unflatten, _flatten)
