"""Random models together with what the contract says of each of their leaves.

A strategy draws a *plan*, a tree of plain values; `grow` makes the model from it and
writes down, leaf by leaf and without asking annotax, what is expected: path, roles on the
way, tags. Growing a plan twice gives equal models made of different arrays.

JAX never forgets a class, so classes come from a bounded pool, each made at its first use.
"""

import random
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Annotated, Any, NamedTuple, Optional, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import annotax as anx
from annotax import Buffer, Hyper, Param, Role

T = TypeVar("T")

Lora = Annotated[T, Role("lora", parent=Param)]
Adapter = Annotated[T, Role("adapter", parent=Lora)]
Head = Annotated[T, Role("head", parent=Param)]
Stat = Annotated[T, Role("batch_stat", parent=Buffer)]
Cache = Annotated[T, Role("cache", parent=Buffer)]

ARRAY_ROLES = {
    "Param": Param, "Lora": Lora, "Adapter": Adapter, "Head": Head,
    "Buffer": Buffer, "Stat": Stat, "Cache": Cache,
}  # fmt: skip
"""The roles that an array can have, by the name of their alias."""

ROLES = {**ARRAY_ROLES, "Hyper": Hyper}
PARAM, BUFFER = Role.of(Param), Role.of(Buffer)
TAGS = ("no_decay", "head", "slow")


class Short:
    """Shown by its `repr`: Hypothesis spells dataclasses out, and warns of long text."""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))


# --- classes -------------------------------------------------------------------------


@dataclass(frozen=True)
class FieldPlan:
    """One field as its class says it, in the test's own words."""

    name: str
    role: str | None = None  # a key of ROLES
    static: bool = False
    tags: tuple[str, ...] = ()
    axes: tuple[str | None, ...] | None = None
    persistent: bool = True
    ours: bool = True  # its annotation stands in an annotax class, not in a plain one
    whole: bool = False  # its class puts computed arrays into what is in it


@dataclass(frozen=True)
class ClassPlan(Short):
    """A class of the pool, with its fields in order."""

    cls: type
    fields: tuple[FieldPlan, ...]
    known: bool = True  # an annotax class, a registered one, or derived from such

    def __repr__(self) -> str:
        return self.cls.__name__

    @property
    def dynamic(self) -> tuple[FieldPlan, ...]:
        return tuple(f for f in self.fields if not f.static)


POOL = 64
_NAMES = ("a", "b", "w", "weight", "bias", "_hidden", "größe", "x1", "class_", "keys")
_SPELLINGS = (
    "{R}[Any]",
    "'{R}[Any]'",
    "{R}[Any] | None",
    "'{R}[Any] | None'",
    "{R}[Optional[Any]]",
    "Optional[{R}[Any]]",
    "anx_roles.{R}[Any]",
    "{R}['Any']",
    "twin",
)


class _Roles:
    """The roles as attributes, for annotations with a dot."""


for _name, _alias in ROLES.items():
    setattr(_Roles, _name, _alias)


def _namespace() -> dict[str, Any]:
    return {
        "__name__": __name__,
        "Any": Any,
        "Optional": Optional,
        "anx": anx,
        "anx_roles": _Roles,
        "eqx": eqx,
        **ROLES,
    }


def _draw_field(draw: random.Random, name: str) -> FieldPlan:
    if draw.random() < 0.2:
        return FieldPlan(name, static=True)
    return FieldPlan(
        name,
        role=draw.choice([None, None, *ARRAY_ROLES]),
        tags=tuple(tag for tag in TAGS if draw.random() < 0.2),
        axes=draw.choice([None, None, ("rows", None), ("rows", "columns")]),
        persistent=draw.random() < 0.8,
    )


def _written(draw: random.Random, plan: FieldPlan) -> str:
    """A field of an annotax class as source text."""
    spelling = draw.choice(_SPELLINGS)
    role = "Hyper" if plan.static else plan.role
    options: list[str] = []
    if role is None:
        annotation = draw.choice(["Any", "'Any'"])
    elif spelling == "twin":
        annotation, options = "Any", [f"role={role}"]
    else:
        annotation = spelling.format(R=role)
    options += [f"tags={plan.tags!r}"] if plan.tags else []
    options += [f"axes={plan.axes!r}"] if plan.axes else []
    options += [] if plan.persistent else ["persistent=False"]
    assigned = f" = anx.field({', '.join(options)})" if options else ""
    return f"{plan.name}: {annotation}{assigned}"


def _execute(name: str, bases: str, body: list[str], *, future: bool, **names: Any) -> type:
    head = ["from __future__ import annotations"] if future else []
    source = "\n".join([*head, f"class {name}({bases}):", *(f"    {row}" for row in body)])
    namespace = {**_namespace(), **names}
    exec(source, namespace)
    globals()[name] = namespace[name]  # where pickle looks for it
    return namespace[name]


# Sets the fields in another order than they are declared in.
_OWN_INIT = (
    "def __init__(self, **values):",
    "    for name in reversed(list(values)):",
    "        setattr(self, name, values[name])",
)


@cache
def annotated_class(number: int) -> ClassPlan:
    """An annotax class of the pool: plain, derived, or derived from a foreign one."""
    draw = random.Random(f"annotated {number}")
    bases, base_plan = "anx.Module", None
    if number and draw.random() < 0.3:
        base_plan, bases = annotated_class(draw.randrange(number)), "Base"
    elif draw.random() < 0.15:
        base_plan, bases = foreign_class(draw.randrange(POOL // 4)), "Base, anx.Module"
    inherited = base_plan.fields if base_plan else ()
    names = draw.sample(_NAMES, k=draw.choice([0, 1, 1, 2, 2, 3, 4]))
    own = {name: _draw_field(draw, name) for name in names}
    body = [_written(draw, plan) for plan in own.values()] or ["pass"]
    body += _OWN_INIT if draw.random() < 0.2 else ()
    cls = _execute(
        f"Annotated{number}",
        bases,
        body,
        future=draw.random() < 0.3,
        Base=base_plan.cls if base_plan else None,
    )
    # As in any dataclass: a field keeps its place when it is annotated again.
    return ClassPlan(cls, tuple({**{f.name: f for f in inherited}, **own}.values()))


@cache
def foreign_class(number: int) -> ClassPlan:
    """A plain Equinox module; every other one is registered."""
    draw = random.Random(f"foreign {number}")
    names = draw.sample(_NAMES, k=draw.choice([1, 2, 3]))
    plans = [replace(_draw_field(draw, name), ours=False) for name in names]
    body = [f"{p.name}: Any" + " = eqx.field(static=True)" * p.static for p in plans]
    cls = _execute(f"Foreign{number}", "eqx.Module", body, future=False)
    if number % 2:
        plain = [FieldPlan(p.name, static=p.static, ours=False) for p in plans]
        return ClassPlan(cls, tuple(plain), known=False)
    options = {
        p.name: anx.field(
            role=ARRAY_ROLES[p.role], tags=p.tags, axes=p.axes, persistent=p.persistent
        )
        for p in plans
        if p.role is not None
    }
    anx.register(cls, **options)
    silent = {p.name: FieldPlan(p.name, static=p.static, ours=False) for p in plans}
    return ClassPlan(cls, tuple(p if p.role else silent[p.name] for p in plans))


class HyperFlag(anx.Module):
    """A flag that is static because its role says so."""

    x: Param[Any]
    inference: Hyper[Any]


class LeafFlag(eqx.Module):
    """A flag that is a leaf, as in most layers of `eqx.nn`."""

    inference: Any
    x: Any


class StaticFlag(eqx.Module):
    """A flag that is static in the way of Equinox."""

    x: Any
    inference: Any = eqx.field(static=True)


_FLAG = FieldPlan("inference", ours=False)
_X = FieldPlan("x", ours=False)
FLAGGED = (
    ClassPlan(HyperFlag, (FieldPlan("x", "Param"), FieldPlan("inference", static=True))),
    ClassPlan(LeafFlag, (_FLAG, _X), known=False),
    ClassPlan(StaticFlag, (_X, replace(_FLAG, static=True)), known=False),
)
"""Classes with a field `inference`, which no class of the pool has."""

# --- what is expected of a leaf ------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Expected(Short):
    """What the contract says of one leaf, put together without annotax."""

    at: int
    path: str
    steps: tuple[str, ...]
    leaf: Any
    kind: str  # "inexact", "array" or "opaque"
    fields: tuple[FieldPlan, ...]  # on the way, outermost first
    homes: tuple[str, ...]  # the paths of these fields
    owner: type | None

    def __repr__(self) -> str:
        return f"{self.path or 'root'}: {self.leaf!r}"

    @property
    def role(self) -> Role | None:
        roles = [Role.of(ROLES[f.role]) for f in self.fields if f.role is not None]
        return combined_role(roles, self.kind)

    @property
    def tags(self) -> frozenset[str]:
        return frozenset(tag for f in self.fields for tag in f.tags)

    @property
    def persistent(self) -> bool:
        return all(f.persistent for f in self.fields)

    @property
    def axes(self) -> tuple[str | None, ...] | None:
        return self.fields[-1].axes if self.fields else None

    @property
    def trainable(self) -> bool:
        return self.kind == "inexact" and "param" in ancestry(self.role)

    @property
    def stopped(self) -> bool:
        """Whether the class keeps gradients out, which registration alone does not."""
        return any(f.ours and f.role in ("Buffer", "Stat", "Cache") for f in self.fields)

    @property
    def unit(self) -> str | None:
        """The path of the field at which it can be frozen; `None` outside of modules."""
        whole = [home for home, f in zip(self.homes, self.fields, strict=True) if f.whole]
        return next(iter((*whole, *self.homes[-1:])), None)

    @property
    def freezable(self) -> bool:
        """Whether `freeze` is about it: it is trained, and a module holds it."""
        return self.trainable and self.unit is not None

    @property
    def ndim(self) -> int:
        return 0 if self.kind == "opaque" else self.leaf.ndim


@dataclass(frozen=True, eq=False)
class Constant:
    """A static field, and what is in it."""

    path: str
    steps: tuple[str, ...]
    plan: FieldPlan
    value: Any


@dataclass(frozen=True, eq=False)
class Node:
    """A module in a model; `homes` are the paths of the fields that it stands in."""

    steps: tuple[str, ...]
    homes: tuple[str, ...]
    known: bool


def ancestry(role: Role | None) -> tuple[str, ...]:
    """The names of a role and of those it derives from."""
    return () if role is None else (role.name, *ancestry(role.parent))


def combined_role(roles: list[Role], kind: str) -> Role | None:
    """From the root to the leaf: Buffer-kind anywhere wins; then the most derived role;
    the innermost on a tie. Without any: by what the leaf is."""
    if not roles:
        return {"inexact": PARAM, "array": BUFFER, "opaque": None}[kind]
    buffers = [role for role in roles if "buffer" in ancestry(role)]
    best = (buffers or roles)[0]
    for role in (buffers or roles)[1:]:
        if len(ancestry(role)) >= len(ancestry(best)):
            best = role
    return best


# --- plans ---------------------------------------------------------------------------


class Pair(NamedTuple):
    """A named tuple: its steps are attributes."""

    left: Any
    right: Any


@dataclass(frozen=True)
class Leaf:
    kind: str
    make: Callable[[int], Any] = field(repr=False)


@dataclass(frozen=True)
class Sequence:
    make: Callable[[list[Any]], Any]
    children: tuple[Any, ...]


@dataclass(frozen=True)
class Keyed:
    make: Callable[[Any], Any]
    items: tuple[tuple[Any, Any], ...]


@dataclass(frozen=True)
class Instance:
    plan: ClassPlan
    children: tuple[Any, ...]
    statics: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Layer(Short):
    """A layer of `eqx.nn`; `roles` are those of its fields and of fields further in."""

    template: Any
    roles: dict[str, str]
    whole: str = ""  # the name of the field that is frozen as a whole

    def __repr__(self) -> str:
        return f"Layer({type(self.template).__name__})"


@dataclass(frozen=True, eq=False)
class Model(Short):
    """A grown plan: the model, and what is expected of its leaves in JAX's order."""

    plan: Any
    tree: Any
    expected: tuple[Expected, ...]
    constants: tuple[Constant, ...]
    nodes: tuple[Node, ...]

    def __repr__(self) -> str:
        return f"<{type(self.tree).__name__} with {len(self.expected)} leaves>"

    def again(self, statics: Callable[[Any], Any] = lambda value: value) -> "Model":
        """An equal model of new arrays; `statics` may change the static fields."""
        return grow(self.plan, statics)

    def without(self, paths: Container[str]) -> "Model":
        """The same model with `None` in the places of some leaves."""
        return grow(self.plan, without=paths)


def _array(shape: tuple[int, ...], dtype: str, seed: int) -> jax.Array:
    size = int(np.prod(shape))
    values = (np.arange(size) + seed) % (2 if dtype == "bool" else 100)
    return jnp.asarray(values.reshape(shape).astype(jnp.dtype(dtype)))


def _numpy(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    return np.array(_array(shape, dtype, seed))


def _key(seed: int) -> jax.Array:
    return jax.random.wrap_key_data(np.array([0, seed], dtype="uint32"))


def _numpy_scalar(seed: int) -> np.generic:
    return np.float32(seed)


_SHAPES = ((), (3,), (2, 3), (0,), (2, 0))
_OPAQUE: tuple[Any, ...] = (
    jnp.tanh, len, "relu", "", 1, 0, True, 1.5, 1j, b"x", int, frozenset({1}), ...,
)  # fmt: skip

FLOATS = [Leaf("inexact", partial(_array, shape, "float32")) for shape in _SHAPES]
"""Leaves that `jax.grad` takes."""

ARRAYS = [
    *FLOATS,
    *(
        Leaf("inexact", partial(_array, (3,), dtype))
        for dtype in ("float16", "bfloat16", "complex64")
    ),
    *(Leaf("array", partial(_array, (3,), dtype)) for dtype in ("int32", "uint8", "bool")),
    Leaf("array", partial(_array, (0,), "int32")),
    Leaf("array", _key),
    Leaf("inexact", partial(_numpy, (2, 3), "float32")),
    Leaf("array", partial(_numpy, (3,), "int32")),
    Leaf("inexact", _numpy_scalar),
]
OPAQUE = [Leaf("opaque", partial(lambda value, _: value, value)) for value in _OPAQUE]
FLAGS = [
    *(Leaf("opaque", partial(lambda value, _: value, value)) for value in (True, False)),
    Leaf("array", partial(_array, (), "bool")),
]
PORTABLE = [
    *(leaf for leaf in ARRAYS if leaf.make is not _key),
    *(leaf for leaf in OPAQUE if leaf.make(0) is not jnp.tanh),
]
"""Leaves that pickle."""

ODD_KEYS = (
    "a", "b", "a.b", "a[0]", "[", "]", "['a']", "'", '"', "it's", "\"'", "\\", "\\'", "\\]",
    "", " ", ".", "..", "0", "1", "*", "**", "a*", "#2", "é", "größe", "日本", "\n", "\0",
    "\ud800", "class", "a b", "w.", ".w", "-", "\u2028",
)  # fmt: skip
_WORDS = st.sampled_from(ODD_KEYS) | st.text(max_size=4)
_KEYS = (
    _WORDS,
    st.integers(-2, 12),
    st.tuples(st.integers(0, 2), _WORDS),
    st.binary(max_size=3),
    st.sampled_from([0.5, 1.5, -0.5, 1e300]),
)

_ONE_LINEAR = eqx.nn.Linear(3, 2, key=jax.random.key(0))
_LINEAR = ClassPlan(
    eqx.nn.Linear, (FieldPlan("weight", ours=False), FieldPlan("bias", ours=False))
)
_LINEARS = st.just(Instance(_LINEAR, (FLOATS[2], FLOATS[1]), ()))
STATICS = st.sampled_from([0, 3, "relu", None, (1, 2), 2.5, frozenset({"x"}), True])


@cache
def layers(*, portable: bool = False) -> tuple[Layer, ...]:
    """Layers of `eqx.nn`; `portable` are those that come back from pickle as they were."""
    key, nn = jax.random.key(0), eqx.nn
    linear, weights = nn.Linear(3, 2, key=key), {"weight": "Param", "bias": "Param"}
    dropout = {"p": "Hyper", "inference": "Hyper"}
    here = (
        Layer(nn.Dropout(0.25), dropout),
        Layer(nn.LayerNorm(3), weights),
        Layer(nn.PReLU(), {"negative_slope": "Param"}),
        Layer(nn.MultiheadAttention(1, 2, key=key), {**weights, **dropout}),
    )
    indices = ("ema_first_time_index", "ema_state_index", "uv_index", "init")
    states = {**dict.fromkeys(indices, "Buffer"), "axis_name": "Hyper", **dropout}
    functions = dict.fromkeys(("activation", "final_activation", "fn", "_norm"), "Hyper")
    bound = (  # to functions that pickle cannot find, or to the identity of a marker
        Layer(nn.MLP(2, 1, 3, 1, key=key), {**weights, **functions}),
        Layer(
            nn.Sequential([linear, nn.Lambda(jnp.tanh), nn.Dropout(0.5)]),
            {**weights, **functions, **dropout},
        ),
        Layer(nn.WeightNorm(linear), {**weights, **functions, "g": "Param"}, "layer"),
        Layer(nn.SpectralNorm(linear, "weight", key=key), {**weights, **states}, "layer"),
        Layer(nn.BatchNorm(3, "batch", mode="ema"), {**weights, **states}),
    )
    return here if portable else here + bound


def mix(*strategies: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """Each as often as the others, which `one_of` would not do: it joins their parts."""
    return st.sampled_from(strategies).flatmap(lambda strategy: strategy)


Children = st.SearchStrategy[Any]
"""Draws a plan of what stands in a field or a container."""


def plans(
    leaves: list[Leaf], nested: Callable[[Children], Children] | None = None
) -> Children:
    """Trees of containers and modules over such leaves."""
    single = st.sampled_from([*leaves, None])
    return st.recursive(single, nested or _nested, max_leaves=12)


def _nested_with_layers(children: Children, *, portable: bool) -> Children:
    made = st.deferred(lambda: st.sampled_from(layers(portable=portable)))
    crowded = _instances(_CLASSES, _crowds(children))
    return st.one_of(_nested(children), crowded, made, _flagged(children))


def _crowds(children: Children) -> Children:
    """Containers of several things, which stand beside each other in one field then."""
    several = st.lists(children, min_size=2, max_size=4).map(tuple)
    return st.one_of(
        st.builds(Sequence, st.sampled_from([list, tuple]), several),
        st.builds(Keyed, st.just(dict), _items(children)),
    )


_CLASSES = st.one_of(
    st.integers(0, POOL - 1).map(annotated_class),
    st.integers(0, POOL // 4 - 1).map(foreign_class),
)


def _flagged(children: Children) -> Children:
    flags = st.sampled_from((*FLAGS, None)) | children
    return st.sampled_from(FLAGGED).flatmap(
        lambda plan: st.builds(
            Instance,
            st.just(plan),
            st.tuples(*(flags if f is _FLAG else children for f in plan.dynamic)),
            st.tuples(*[st.booleans() | STATICS for f in plan.fields if f.static]),
        )
    )


def _nested(children: Children) -> Children:
    several = st.lists(children, min_size=1, max_size=3).map(tuple) | st.just(())
    modules = _instances(st.integers(0, POOL - 1).map(annotated_class), children)
    return st.one_of(
        modules,
        modules,
        modules,
        _instances(st.integers(0, POOL // 4 - 1).map(foreign_class), children),
        st.builds(Sequence, st.sampled_from([list, tuple]), several),
        st.tuples(children, children).map(partial(Sequence, _pair)),
        st.builds(Keyed, st.just(dict) | st.just(OrderedDict), _items(children)),
        _LINEARS,
    )


def _pair(children: list[Any]) -> Pair:
    return Pair(*children)


def _items(children: Children) -> Children:
    return st.sampled_from(_KEYS).flatmap(
        lambda keys: st.dictionaries(keys, children, min_size=1, max_size=3).map(
            lambda drawn: tuple(drawn.items())
        )
    )


def _instances(
    classes: st.SearchStrategy[ClassPlan], children: Children
) -> st.SearchStrategy[Instance]:
    def of(plan: ClassPlan) -> st.SearchStrategy[Instance]:
        static = len(plan.fields) - len(plan.dynamic)
        return st.builds(
            Instance,
            st.just(plan),
            st.tuples(*[children] * len(plan.dynamic)),
            st.tuples(*[STATICS] * static),
        )

    return classes.flatmap(of)


# --- growing -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Way:
    """From the root to a node."""

    path: str = ""
    steps: tuple[str, ...] = ()
    fields: tuple[FieldPlan, ...] = ()
    homes: tuple[str, ...] = ()
    owner: type | None = None

    def step(self, step: str) -> "_Way":
        dot = "." if self.path and step[0] != "[" else ""
        return replace(self, path=self.path + dot + step, steps=(*self.steps, step))

    def into(self, plan: FieldPlan, owner: type) -> "_Way":
        way = self.step(plan.name)
        fields, homes = (*self.fields, plan), (*self.homes, way.path)
        return replace(way, fields=fields, homes=homes, owner=owner)


class _Growth:
    def __init__(self, statics: Callable[[Any], Any], without: Container[str]) -> None:
        self.statics = statics
        self.without = without
        self.expected: list[Expected] = []
        self.constants: list[Constant] = []
        self.nodes: list[Node] = []

    def grow(self, node: Any, way: _Way) -> Any:
        """Make a node; its leaves are written down in the order in which JAX finds them."""
        if node is None:
            return None
        if isinstance(node, Leaf):
            if way.path in self.without:
                return None
            return self._leaf(way, node.make(len(self.expected)), node.kind)
        if isinstance(node, Sequence):
            names = Pair._fields if node.make is _pair else map(str, range(99))
            pairs = zip(names, node.children, strict=False)
            return node.make([self.grow(child, way.step(name)) for name, child in pairs])
        if isinstance(node, Keyed):
            items = sorted(node.items) if node.make is dict else node.items
            made = {key: self.grow(child, way.step(step_of(key))) for key, child in items}
            # Inserted in the order drawn, which JAX ignores for a plain dict.
            return node.make((key, made[key]) for key, _ in node.items)
        return (self._layer if isinstance(node, Layer) else self._instance)(node, way)

    def _leaf(self, way: _Way, leaf: Any, kind: str) -> Any:
        at, fields = len(self.expected), (way.fields, way.homes, way.owner)
        self.expected.append(Expected(at, way.path, way.steps, leaf, kind, *fields))
        return leaf

    def _instance(self, node: Instance, way: _Way) -> Any:
        children, statics = iter(node.children), iter(node.statics)
        values: dict[str, Any] = {}
        self.nodes.append(Node(way.steps, way.homes, node.plan.known))
        for plan in node.plan.fields:
            inner = way.into(plan, node.plan.cls)
            if plan.static:
                value = values[plan.name] = self.statics(next(statics))
                self.constants.append(Constant(inner.path, inner.steps, plan, value))
            else:
                values[plan.name] = self.grow(next(children), inner)
        if node.plan is _LINEAR:
            return jax.tree_util.tree_structure(_ONE_LINEAR).unflatten(values.values())
        return node.plan.cls(**values)

    def _layer(self, layer: Layer, way: _Way) -> Any:
        pairs, treedef = jax.tree_util.tree_flatten_with_path(layer.template)
        seen: set[tuple[str, ...]] = set()
        leaves = [self._layer_leaf(layer, way, keys, leaf, seen) for keys, leaf in pairs]
        return treedef.unflatten(leaves)

    def _layer_leaf(
        self, layer: Layer, way: _Way, keys: Any, leaf: Any, seen: set[tuple[str, ...]]
    ) -> Any:
        node = layer.template
        for key in keys:
            if not isinstance(node, eqx.Module):
                way, node = way.step(str(key.idx)), node[key.idx]
                continue
            if way.steps not in seen:
                seen.add(way.steps)
                self.nodes.append(Node(way.steps, way.homes, known=True))
            role, whole = layer.roles.get(key.name), key.name == layer.whole
            plan = FieldPlan(key.name, role, ours=False, whole=whole)
            way, node = way.into(plan, type(node)), getattr(node, key.name)
        if not eqx.is_array(leaf):
            return self._leaf(way, leaf, "opaque")
        kind = "inexact" if eqx.is_inexact_array(leaf) else "array"
        return self._leaf(way, jnp.array(leaf), kind)


def step_of(key: Any) -> str:
    """The step to an item of a dictionary, by the words of the contract."""
    return key if isinstance(key, str) and key.isidentifier() else f"[{key!r}]"


def grow(
    plan: Any,
    statics: Callable[[Any], Any] = lambda value: value,
    without: Container[str] = (),
) -> Model:
    """The model that a plan describes, with `None` for the leaves `without` names."""
    growth = _Growth(statics, without)
    tree = growth.grow(plan, _Way())
    found = (growth.expected, growth.constants, growth.nodes)
    return Model(plan, tree, *map(tuple, found))


def models(leaves: list[Leaf] | None = None) -> st.SearchStrategy[Model]:
    """Models with any leaves, or only with the given ones; never a leaf alone."""
    return _models(ARRAYS + OPAQUE if leaves is None else leaves, _nested)


def layered_models(
    leaves: list[Leaf] | None = None, *, portable: bool = False
) -> st.SearchStrategy[Model]:
    """Models in which layers of `eqx.nn` and flags named `inference` stand, too."""
    nested = partial(_nested_with_layers, portable=portable)
    return _models(ARRAYS + OPAQUE if leaves is None else leaves, nested)


def flagged_models() -> st.SearchStrategy[Model]:
    """Models of little else than flags named `inference`, in modules with and without
    arrays."""
    few = st.sampled_from([*FLAGS, *OPAQUE, *FLOATS[:2], None])
    made = st.deferred(lambda: st.sampled_from([*layers()[:1], *layers()[-2:]]))
    inner = _flagged(few)
    several = st.lists(_flagged(inner | inner | few | made), min_size=1, max_size=3)
    return several.map(lambda drawn: grow(Sequence(list, tuple(drawn))))


def crowded_models() -> st.SearchStrategy[Model]:
    """Models with containers in their fields, in which arrays, modules and whatever else
    stand side by side, and with layers that are frozen as a whole."""
    leaf = mix(*map(st.sampled_from, (FLOATS, ARRAYS, OPAQUE)))
    made = st.deferred(lambda: st.sampled_from([x for x in layers() if x.whole]))
    inner = _instances(_CLASSES, leaf) | _LINEARS
    crowds = _crowds(mix(leaf, inner))
    outer = _instances(_CLASSES, mix(crowds, crowds, leaf | made))
    return st.tuples(outer, outer).map(lambda two: grow(Sequence(list, two)))


def _models(
    leaves: list[Leaf], nested: Callable[[Children], Children]
) -> st.SearchStrategy[Model]:
    inner = plans(leaves, nested)
    return st.one_of(nested(inner), nested(nested(inner))).map(grow)


# --- selections ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Choice:
    """A selection, and what it should choose."""

    selection: anx.Selection
    holds: Callable[[Expected], bool] = field(repr=False)

    def __and__(self, other: "Choice") -> "Choice":
        return Choice(
            self.selection & other.selection, lambda e: self.holds(e) and other.holds(e)
        )

    def __or__(self, other: "Choice") -> "Choice":
        return Choice(
            self.selection | other.selection, lambda e: self.holds(e) or other.holds(e)
        )

    def __invert__(self) -> "Choice":
        return Choice(~self.selection, lambda e: not self.holds(e))


PATTERNS: tuple[tuple[str, ...], ...] = (
    ("**",), ("*",), ("*", "*"), ("**", "*"), ("*", "**"), ("a", "**"), ("**", "a"),
    ("**", "w", "**"), ("**", "weight"), ("w*",), ("**", "*a*"), ("**", "0"), ("0", "**"),
    ("**", "[*]"), ("**", "[*]", "**"), ("*", "*", "*"), ("**", "b*", "**"), ("*_*",),
    ("**", "['a.b']"), ("**", "['*']"), ("no", "such"), ("**", "größe"), ("**", "**"),
    ("**", "*", "**"), ("[*]", "**"), ("**", "['*.*']"), ("**", "[(0, *)]"), ("*a*", "*0*"),
)  # fmt: skip


def joined(steps: tuple[str, ...]) -> str:
    """Steps as text: dots between them, none before a bracket."""
    return "".join(
        step if step[0] == "[" or not at else f".{step}" for at, step in enumerate(steps)
    )


def fits(pattern: tuple[str, ...], steps: tuple[str, ...]) -> bool:
    """Whether steps fit a pattern cut into steps, by the words of the contract."""
    if not pattern:
        return not steps
    if pattern[0] == "**":
        return any(fits(pattern[1:], steps[skip:]) for skip in range(len(steps) + 1))
    return bool(steps) and _step_fits(pattern[0], steps[0]) and fits(pattern[1:], steps[1:])


def _step_fits(pattern: str, step: str) -> bool:
    if not pattern:
        return not step
    if pattern[0] == "*":
        return any(_step_fits(pattern[1:], step[skip:]) for skip in range(len(step) + 1))
    return bool(step) and pattern[0] == step[0] and _step_fits(pattern[1:], step[1:])


def _by_path(steps: tuple[str, ...]) -> Choice:
    return Choice(anx.by_path(joined(steps)), lambda e: fits(steps, e.steps))


def _by_role(name: str) -> Choice:
    return Choice(
        anx.by_role(ARRAY_ROLES[name]),
        lambda e: Role.of(ARRAY_ROLES[name]).name in ancestry(e.role),
    )


def _choices() -> Iterator[Choice]:
    yield Choice(anx.everything, lambda e: True)
    yield Choice(anx.trainable_filter, lambda e: e.trainable)
    yield Choice(anx.by(lambda r: r.ndim >= 1), lambda e: e.ndim >= 1)
    yield Choice(anx.by(lambda r: not r.persistent), lambda e: not e.persistent)
    yield from map(_by_role, ARRAY_ROLES)
    yield from map(_by_path, PATTERNS)
    for tag in TAGS:
        yield Choice(anx.by_tag(tag), lambda e, tag=tag: tag in e.tags)


def _every_other(model: Any) -> Any:
    return jax.tree_util.tree_leaves(model)[::2]


CHOICES = tuple(_choices())
ON_MODELS_ONLY = (Choice(anx.at(_every_other), lambda e: e.at % 2 == 0),)


def choices(*more: Choice) -> st.SearchStrategy[Choice]:
    """Selections and their algebra; all of them can be applied to `Leaves` too."""
    return st.recursive(
        st.sampled_from((*CHOICES, *more)),
        lambda inner: st.one_of(
            st.builds(lambda a, b: a & b, inner, inner),
            st.builds(lambda a, b: a | b, inner, inner),
            st.builds(lambda a: ~a, inner),
        ),
        max_leaves=4,
    )
