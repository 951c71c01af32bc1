"""`partition_specs` and `shardings`: mesh axes for named axes, or a clear refusal."""

import math
import random
import subprocess
import sys
import textwrap
from functools import cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

import annotax as anx
from test_messages import message, text

MESH = AbstractMesh((2, 4), ("data", "model"))
CUBE = AbstractMesh((2, 2, 4), ("fsdp", "data", "model"))


class Dense(anx.Module):
    weight: anx.Param[Float[Array, "embed mlp"]]
    bias: anx.Param[Float[Array, " mlp"]]
    mean: anx.Buffer[Float[Array, " embed"]]
    size: anx.Hyper[int] = 8


class Net(anx.Module):
    blocks: list[Dense]
    heads: dict[str, Dense]
    scale: anx.Param[Float[Array, ""]]


class ConvBlock(anx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    flat: eqx.nn.LayerNorm


class ConvNet(anx.Module):
    stem: eqx.nn.Conv2d
    blocks: ConvBlock
    head: eqx.nn.Linear


RULES = {"embed": "data", "mlp": "model"}
CONV_RULES = {"out_channels": "model", "channels": "model", "out_features": "data"}


def dense(embed=8, mlp=16):
    return Dense(jnp.ones((embed, mlp)), jnp.ones(mlp), jnp.zeros(embed))


def net():
    return Net([dense(), dense()], {"a.b": dense(), "c": dense()}, jnp.ones(()))


def dense_of(key):
    return dense()


def conv_block(key, channels=8):
    conv = eqx.nn.Conv2d(channels, channels, 3, key=key)
    norm = eqx.nn.GroupNorm(2, channels)
    return ConvBlock(conv, norm, eqx.nn.LayerNorm(channels))


def conv_net(copies=3, channels=8):
    key = jax.random.key(0)
    blocks = stacked(partial(conv_block, channels=channels), copies)
    stem = eqx.nn.Conv2d(3, channels, 3, key=key)
    return ConvNet(stem, blocks, eqx.nn.Linear(channels, 4, key=key))


def stacked(make, *copies):
    """What `make` makes from a key, stacked as often as there are numbers of copies."""
    keys = jax.random.split(jax.random.key(0), math.prod(copies)).reshape(copies)
    for _ in copies:
        make = eqx.filter_vmap(make)
    return make(keys)


def by_path(tree, specs):
    """The entries of each spec by the path of its leaf; `None` for what is no array."""
    paths = [record.path for record in anx.records(tree)]
    found = jax.tree.leaves(specs, is_leaf=lambda x: x is None or type(x) is PartitionSpec)
    wanted = [x for x in found if type(x) is PartitionSpec]
    arrays = [r.path for r in anx.records(tree) if r.dtype is not None]
    assert len(wanted) == len(arrays)
    result = dict.fromkeys(paths)
    return result | {path: tuple(x) for path, x in zip(arrays, wanted, strict=True)}


def specs(tree, rules=RULES, stack=None):
    return by_path(tree, anx.partition_specs(tree, rules, stack))


def meshed(tree, rules=RULES, stack=None, mesh=MESH):
    """The specs in the shardings, which are all on the mesh."""
    found = anx.shardings(tree, mesh, rules, stack)
    flat = jax.tree.leaves(found)
    assert all(type(x) is NamedSharding and x.mesh is mesh for x in flat)
    return by_path(tree, jax.tree.map(lambda x: x.spec, found))


DENSE = {"weight": ("data", "model"), "bias": ("model",), "mean": ("data",)}


def under(*prefixes, of=DENSE):
    return {f"{prefix}{path}": spec for prefix in prefixes for path, spec in of.items()}


# --- names ---------------------------------------------------------------------------


def test_axes_of_nested_models_lie_where_the_rules_say():
    wanted = under("blocks.0.", "blocks.1.", "heads['a.b'].", "heads.c.") | {"scale": ()}
    assert specs(net()) == meshed(net()) == wanted


def test_the_result_is_a_tree_like_the_model():
    found = anx.partition_specs(net(), RULES)
    assert type(found) is Net
    assert jax.tree.structure(found) == jax.tree.structure(net())
    assert type(found.blocks[0].weight) is PartitionSpec
    assert type(found.heads["a.b"].mean) is PartitionSpec


def test_without_a_rule_nothing_is_split():
    assert set(specs(net(), {}).values()) == {(None, None), (None,), ()}
    assert specs(dense(), {"mlp": None}) == {
        "weight": (None, None),
        "bias": (None,),
        "mean": (None,),
    }
    assert specs(dense(), {"mlp": ()}) == specs(dense(), {})


def test_axes_together():
    rules = {"mlp": "model", "embed": ("fsdp", "data")}
    wanted = {
        "weight": (("fsdp", "data"), "model"),
        "bias": ("model",),
        "mean": (("fsdp", "data"),),
    }
    assert specs(dense(), rules) == meshed(dense(), rules, mesh=CUBE) == wanted
    assert specs(dense(), {"mlp": ["model"]})["bias"] == ("model",)
    assert specs(dense(), {"mlp": ["model", "data"]})["bias"] == (("model", "data"),)


def test_names_as_jaxtyping_writes_them():
    class Odd(anx.Module):
        broadcast: anx.Param[Float[Array, "#a b"]]
        per_leaf: anx.Param[Float[Array, "?a _ b"]]
        hidden: anx.Param[Float[Array, "_a 4 d=8"]]
        sum: anx.Param[Float[Array, "b+1 b"]]
        rest: anx.Param[Float[Array, "... a"]]
        named_rest: anx.Param[Float[Array, "a *rest b"]]
        two_rests: anx.Param[Any] = anx.field(axes=("*one", "a", "*two"))
        optional: anx.Param[Float[Array, "a b"] | None] = None

    odd = Odd(
        jnp.ones((4, 4)),
        jnp.ones((4, 4, 4)),
        jnp.ones((4, 4, 8)),
        jnp.ones((5, 4)),
        jnp.ones((4, 4, 4)),
        jnp.ones((4, 4, 4, 4)),
        jnp.ones((4, 4, 4)),
    )
    assert specs(odd, {"a": "A", "b": "B", "d": "D", "b+1": "C"}) == {
        "broadcast": ("A", "B"),
        "per_leaf": ("A", None, "B"),
        "hidden": ("A", None, "D"),
        "sum": ("C", "B"),
        "rest": (None, None, "A"),
        "named_rest": ("A", None, None, "B"),
        "two_rests": (None, None, None),
    }


def test_names_given_to_the_field_come_before_those_of_the_annotation():
    class Given(anx.Module):
        w: anx.Param[Float[Array, "a b"]] = anx.field(axes=("rows", None))
        x: anx.Param[Array] = anx.field(axes=("rows", "columns"))
        y: anx.Param[Array]

    given_names = Given(*[jnp.ones((4, 4))] * 3)
    assert specs(given_names, {"rows": "R", "columns": "C"}) == {
        "w": ("R", None),
        "x": ("R", "C"),
        "y": (None, None),
    }


def test_registered_layers():
    key = jax.random.key(0)
    layers = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(4, 8, (3, 5), key=key),
            eqx.nn.LayerNorm((8, 4)),
            eqx.nn.Linear(8, 4, key=key),
            eqx.nn.Lambda(jnp.tanh),
        ]
    )
    rules = {
        "out_channels": "model",
        "in_channels": "data",
        "out_features": "model",
        "in_features": "data",
    }
    assert specs(layers, rules) == {
        "layers.0.weight": ("model", "data", None, None),
        "layers.0.bias": ("model", None, None),
        "layers.1.weight": (None, None),
        "layers.1.bias": (None, None),
        "layers.2.weight": ("model", "data"),
        "layers.2.bias": ("model",),
        "layers.3.fn": None,
    }


def test_leaves_of_every_kind():
    class Mixed(anx.Module):
        w: anx.Param[Float[Array, "embed mlp"]]
        key: anx.Buffer[Array]
        keys: anx.Buffer[Array] = anx.field(axes=("embed",))
        numpy: anx.Buffer[Any] = anx.field(axes=("embed", "mlp"))
        scalar: Any
        number: float
        function: Any

    key = jax.random.key(0)
    mixed = Mixed(
        jax.ShapeDtypeStruct((4, 4), jnp.bfloat16),
        key,
        jax.random.split(key, 4),
        np.ones((2, 4)),
        np.float32(1.0),
        1.0,
        jnp.tanh,
    )
    assert meshed(mixed) == {
        "w": ("data", "model"),
        "key": (),
        "keys": ("data",),
        "numpy": ("data", "model"),
        "scalar": (),
        "number": None,
        "function": None,
    }
    found = anx.partition_specs(mixed, RULES)
    assert (found.number, found.function) == (None, None)


def test_an_axis_of_size_1_is_never_split_and_one_of_size_0_may_be():
    assert meshed(dense(1, 4)) == {
        "weight": (None, "model"),
        "bias": ("model",),
        "mean": (None,),
    }
    # The mesh axis is free for another axis then.
    assert specs(dense(1, 4), {"embed": "model", "mlp": "model"})["weight"] == (
        None,
        "model",
    )
    assert meshed(dense(0, 4))["weight"] == ("data", "model")


# --- rules ---------------------------------------------------------------------------


class Square(anx.Module):
    w: anx.Param[Float[Array, "n n"]]


def test_the_first_of_a_list_that_is_free_wins():
    pairs = [("embed", "model"), ("mlp", "model"), ("mlp", "data")]
    assert specs(dense(), pairs) == {
        "weight": ("model", "data"),
        "bias": ("model",),
        "mean": ("model",),
    }
    square = Square(jnp.ones((4, 4)))
    assert specs(square, [("n", "model")]) == {"w": ("model", None)}
    assert specs(square, [("n", "model"), ("n", "data")]) == {"w": ("model", "data")}


def test_an_earlier_rule_goes_before_a_later_one_for_another_axis():
    assert specs(dense(), [("mlp", "model"), ("embed", "model")])["weight"] == (
        None,
        "model",
    )
    assert specs(dense(), [("embed", "model"), ("mlp", "model")])["weight"] == (
        "model",
        None,
    )


def test_none_in_a_list_ends_the_search():
    pairs = [("embed", "model"), ("mlp", "model"), ("mlp", None), ("mlp", "data")]
    assert specs(dense(), pairs)["weight"] == ("model", None)
    assert specs(dense(), pairs)["bias"] == ("model",)


def test_axes_together_are_taken_all_or_none():
    pairs = [("mlp", "data"), ("embed", ("model", "data")), ("embed", "model")]
    assert specs(dense(), pairs) == {
        "weight": ("model", "data"),
        "bias": ("data",),
        "mean": (("model", "data"),),
    }


def test_of_a_list_only_what_divides_is_followed():
    pairs = [("mlp", ("data", "model")), ("mlp", "model"), ("mlp", "data")]
    found = {size: meshed(dense(8, size), pairs)["bias"] for size in (16, 12, 6, 5)}
    assert found == {
        16: (("data", "model"),),
        12: ("model",),
        6: ("data",),
        5: (None,),
    }
    # Without a mesh nobody knows what divides.
    assert specs(dense(8, 5), pairs)["bias"] == (("data", "model"),)


def test_any_iterable_of_pairs_will_do():
    pairs = (pair for pair in [["mlp", "model"], ("embed", ["data"])])
    assert specs(dense(), pairs) == DENSE


# --- what else has the same names ----------------------------------------------------


def test_leaves_and_gradients_follow_the_model():
    model = net()
    wanted = {path: spec for path, spec in specs(model).items() if "mean" not in path}
    params = anx.params(model)
    assert specs(params) == wanted
    found = anx.partition_specs(params, RULES)
    assert type(found) is anx.Leaves
    assert tuple(found["blocks.0.weight"]) == ("data", "model")
    grads = anx.grad(lambda m: m.blocks[0].weight.sum())(model)
    assert specs(grads) == wanted


def labelled(params):
    return anx.labels({"w": anx.by_path("**.weight")}, default="b")(params)


OPTIMIZERS = {
    "adamw": lambda: optax.adamw(1e-3, mask=anx.by_path("**.weight")),
    "momentum": lambda: optax.sgd(1e-2, momentum=0.9),
    "lion": lambda: optax.lion(1e-3),
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)),
    "masked": lambda: optax.masked(optax.adam(1e-3), anx.by_path("**.weight")),
    "several": lambda: optax.multi_transform(
        {"w": optax.adam(1e-3), "b": optax.sgd(1e-3, momentum=0.9)}, labelled
    ),
    "multi-steps": lambda: optax.MultiSteps(optax.adam(1e-3), every_k_schedule=2),
    "schedule-free": lambda: optax.contrib.schedule_free_adamw(1e-3),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(1e-3),
    "adafactor": lambda: optax.adafactor(1e-3, momentum=0.9),
    "lbfgs": lambda: optax.lbfgs(memory_size=3),
}
MODELS = {
    "net": (net, RULES, None),
    "stacked": (lambda: stacked(dense_of, 6), {**RULES, "layers": None}, "layers"),
    "convolutions": (conv_net, CONV_RULES, "layers"),
}
STYLES = {
    "leaves": anx.params,
    "module": lambda model: eqx.filter(model, anx.trainable_filter(model)),
}


def owner_of(path, params):
    """The parameter that an array in an optimizer state belongs to."""
    owners = [own for own in params if path == own or path.endswith(f".{own}")]
    return max(owners, key=len, default=None)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_moments_follow_their_parameters_and_counters_are_replicated(
    optimizer, kind, style
):
    make, rules, stack = MODELS[kind]
    model = make()
    shapes = {record.path: record.shape for record in anx.records(model)}
    wanted = meshed(model, rules, stack)
    state = jax.eval_shape(OPTIMIZERS[optimizer]().init, STYLES[style](model))
    found, moments = meshed(state, rules, stack), 0
    for record in anx.records(state):
        own, spec = owner_of(record.path, shapes), found[record.path]
        if own is None:
            assert not any(spec), record.path
        elif record.shape == shapes[own]:
            assert spec == wanted[own], record.path
            moments += 1
        elif "memory" in record.path:  # L-BFGS keeps several, one above the other
            assert record.shape == (3, *shapes[own])
            assert spec == (None, *wanted[own]), record.path
        else:
            assert not any(spec), record.path
    assert moments


@pytest.mark.parametrize("style", STYLES)
def test_factored_moments_are_replicated_whatever_else_their_sizes_fit(style):
    """Of three axes `adafactor` drops one of the two largest: two are left, as named."""

    class Wide(anx.Module):
        w: anx.Param[Float[Array, "embed mlp"]]
        b: anx.Param[Float[Array, " mlp"]]
        conv: eqx.nn.Conv2d

    def make(key):
        conv = eqx.nn.Conv2d(128, 256, 3, key=key)
        return Wide(jnp.ones((128, 256)), jnp.ones(256), conv)

    state = jax.eval_shape(
        optax.adafactor(1e-3).init, STYLES[style](eqx.filter_eval_shape(stacked, make, 3))
    )
    rules = {"embed": "data", "mlp": "model", "out_channels": "model"}
    found, shapes = meshed(state, rules), {r.path: r.shape for r in anx.records(state)}
    assert (shapes["0.v_row.w"], shapes["0.v_col.w"]) == ((3, 128), (3, 256))
    assert (found["0.v_row.w"], found["0.v_col.w"]) == ((None, None), (None, None))
    assert len(shapes["0.v_row.conv.weight"]) == 4
    assert set(found["0.v_row.conv.weight"] + found["0.v_col.conv.weight"]) == {None}
    assert found["0.v.b"] == (None, "model")
    assert found["0.v.w"] == found["0.v_row.b"] == (None,)


def test_fields_of_a_model_are_not_taken_for_factored_moments():
    class Attention(anx.Module):
        v_row: anx.Param[Float[Array, "embed mlp"]]
        v: anx.Param[Float[Array, " embed"]]
        one: anx.Param[Float[Array, " one"]]

    model = Attention(jnp.ones((8, 8)), jnp.ones(8), jnp.ones(1))
    assert specs([model])["0.v_row"] == ("data", "model")


def test_a_list_of_rules_fits_moments_of_any_shape():
    state = jax.eval_shape(optax.sm3(1e-3).init, anx.params(stacked(dense_of, 3)))
    with pytest.raises(anx.ShardingError, match="size 3, not divisible by"):
        meshed(state)
    assert meshed(state, list(RULES.items()))["0.mu.bias.0"] == (None,)


def test_adopted_frozen_and_abstract_models_have_the_specs_of_the_original():
    model = eqx.nn.MLP(4, 4, 8, 2, key=jax.random.key(0))
    rules = {"out_features": "model", "in_features": "data"}
    arrays = {path: spec for path, spec in specs(model, rules).items() if spec is not None}
    frozen = anx.freeze(model, anx.by_path("layers.0.*"))
    assert specs(anx.adopt(model), rules) == arrays
    assert specs(frozen, rules) == specs(model, rules)
    assert type(anx.partition_specs(frozen, rules)) is type(frozen)
    abstract = eqx.filter_eval_shape(lambda: anx.adopt(model))
    assert meshed(abstract, rules) == arrays


def test_tracers_have_the_specs_of_their_arrays():
    found: list[Any] = []

    def look(model):
        found.append(specs(model))
        return jax.tree.map(jnp.sin, model)

    jax.jit(lambda model: look(model))(net())
    jax.eval_shape(lambda model: look(model), net())
    jax.grad(lambda model: look(model).scale)(net())
    assert found == [specs(net())] * 3
    jax.vmap(look)(stacked(dense_of, 3))
    assert found[-1] == DENSE


def test_a_trained_part_of_a_model_takes_the_rules_for_all_of_it():
    """Of a frozen embedding no name is left in the parameters, nor in their moments."""

    class Reader(anx.Module):
        table: anx.Param[Float[Array, "vocab embed"]]
        head: anx.Param[Float[Array, "embed classes"]]

    model = anx.freeze(Reader(jnp.ones((4, 4)), jnp.ones((4, 4))), anx.by_path("table"))
    rules = {"vocab": "model", "classes": "model"}
    assert meshed(anx.params(model), rules) == {"head": (None, "model")}
    state = optax.adam(1e-3).init(anx.params(model))
    assert meshed(state, rules)["0.mu.head"] == (None, "model")
    filtered = eqx.filter(model, anx.trainable_filter(model))
    assert meshed(filtered, rules) == {"head": (None, "model")}
    assert meshed(optax.adam(1e-3).init(filtered), rules)["0.nu.head"] == (None, "model")
    # Nor need any rule be about what is left.
    assert meshed(anx.params(model), {"vocab": "model"}) == {"head": (None, None)}
    assert meshed(optax.sgd(1e-3).init(anx.params(model)), rules) == {}
    masked = optax.masked(optax.adam(1e-3), anx.by_path("head"))
    everything = anx.params(anx.unfreeze(model))
    assert "0.mu.head" not in meshed(masked.init(everything), rules)
    assert meshed(masked.init(everything), rules)["inner_state.0.mu.head"][1] == "model"


# --- stacked models ------------------------------------------------------------------


def leading(*axes):
    return {path: (*axes, *spec) for path, spec in DENSE.items()}


def test_models_stacked_once():
    model = stacked(dense_of, 4)
    rules = {**RULES, "ens": "fsdp"}
    assert specs(model) == specs(model, RULES, "ens") == leading(None)
    assert specs(model, rules, "ens") == specs(model, rules, ("ens",)) == leading("fsdp")
    assert specs(model, RULES, (None,)) == specs(model, RULES, ()) == leading(None)


def test_models_stacked_twice():
    model = stacked(dense_of, 4, 2)
    rules = {**RULES, "ens": "E", "layers": "L"}
    assert specs(model, rules, ("ens", "layers")) == leading("E", "L")
    assert specs(model, {**RULES, "ens": "E"}, "ens") == leading("E", None)
    assert specs(model, {**RULES, "layers": "L"}, (None, "layers")) == leading(None, "L")
    assert specs(model) == leading(None, None)


def test_scalars_are_stacked_too():
    class Scale(anx.Module):
        scale: anx.Param[Float[Array, ""]]

    model = stacked(lambda key: Scale(jnp.ones(())), 4)
    assert specs(model, {"ens": "E"}, "ens") == {"scale": ("E",)}


def test_names_of_a_stack_follow_the_rules_like_any_other():
    model = stacked(dense_of, 4)
    assert specs(model, [("ens", "model"), *RULES.items()], "ens") == {
        "weight": ("model", "data", None),
        "bias": ("model", None),
        "mean": ("model", "data"),
    }


STACKED_CONV = {
    "stem.weight": ("model", None, None, None),
    "stem.bias": ("model", None, None),
    "blocks.conv.weight": ("L", "model", None, None, None),
    "blocks.conv.bias": ("L", "model", None, None),
    "blocks.norm.weight": ("L", "model"),
    "blocks.norm.bias": ("L", "model"),
    "blocks.flat.weight": ("L", None),
    "blocks.flat.bias": ("L", None),
    "head.weight": ("data", None),
    "head.bias": ("data",),
}


def without_layers(wanted):
    return {
        path: tuple(None if axis == "L" else axis for axis in spec)
        for path, spec in wanted.items()
    }


@pytest.mark.parametrize("part", STYLES.values(), ids=STYLES)
def test_in_a_model_stacked_in_part_variadic_names_follow_what_is_around_them(part):
    model = part(conv_net())
    rules = {**CONV_RULES, "layers": "L"}
    assert specs(model, rules, "layers") == STACKED_CONV
    assert specs(model, CONV_RULES) == without_layers(STACKED_CONV)


def test_variadic_names_in_a_model_stacked_as_a_whole():
    model = stacked(lambda key: [conv_block(key), eqx.nn.Linear(4, 8, key=key)], 3)
    wanted = {
        f"0.{path.removeprefix('blocks.')}": spec
        for path, spec in STACKED_CONV.items()
        if path.startswith("blocks.")
    } | {"1.weight": ("L", "data", None), "1.bias": ("L", "data")}
    assert specs(model, {**CONV_RULES, "layers": "L"}, "layers") == wanted
    assert specs(model, CONV_RULES) == without_layers(wanted)


def test_where_all_names_are_variadic_the_stack_tells():
    conv = stacked(lambda key: eqx.nn.Conv2d(4, 8, 3, key=key), 3)
    rules = {"out_channels": "model"}
    wanted = {
        "weight": (None, "model", None, None, None),
        "bias": (None, "model", None, None),
    }
    assert specs(conv, rules, (None,)) == specs(conv, rules, "ens") == wanted
    rules["ens"] = "E"
    assert specs(conv, rules, "ens")["weight"] == ("E", "model", None, None, None)
    norm = stacked(lambda key: eqx.nn.LayerNorm((4, 8)), 3)
    assert specs(norm, {"ens": "E"}, "ens") == {
        "weight": ("E", None, None),
        "bias": ("E", None, None),
    }


def test_what_has_fewer_axes_than_names_is_something_else():
    model = {"conv": stacked(lambda key: eqx.nn.Conv2d(4, 8, 3, key=key), 3)}
    model["dense"] = stacked(dense_of, 3)
    less = eqx.tree_at(lambda m: m["conv"].weight, model, jnp.ones((8, 8)))
    rules = {**RULES, "out_channels": "model"}
    assert specs(less, rules)["conv.weight"] == (None, None)
    less = eqx.tree_at(lambda m: m["dense"].weight, model, jnp.ones(8))
    assert specs(less, rules)["dense.weight"] == (None,)


def test_what_nobody_names_is_not_taken_for_stacked():
    model = {"dense": stacked(dense_of, 4), "steps": jnp.ones(4)}
    assert specs(model, {**RULES, "ens": "E"}, "ens")["steps"] == (None,)


# --- what is refused -----------------------------------------------------------------


def refused(*args, mesh=MESH, tree=None, stack=None):
    """The message of `shardings` for rules."""
    tree = dense() if tree is None else tree
    return message(anx.ShardingError, lambda: anx.shardings(tree, mesh, *args, stack=stack))


def test_sharding_errors_are_value_errors():
    assert issubclass(anx.ShardingError, ValueError)


def test_a_mesh_axis_that_does_not_exist():
    assert refused({"mlp": "modle", "embed": ("fsdp", "data")}) == text(
        """
    shardings: these rules cannot be followed
      expected: for each name one of data, model, several that differ, or None
      found:    mlp: the mesh has no axis 'modle'; did you mean 'model'?
                embed: the mesh has no axis 'fsdp'; there is: data, model
      fix:      {"mlp": "model", "embed": ("fsdp", "data"), "heads": None}, or a list of
                such pairs
    """
    )
    # Of a list, too: whatever does not exist will never be free.
    assert "no axis 'fsdp'" in refused([("mlp", "fsdp"), ("mlp", "model")])


def test_two_axes_on_one_mesh_axis():
    wanted = """
    {}: the rules do not fit the arrays
      expected: each mesh axis once in an array, and sizes that the mesh axes divide
      found:    weight: dimensions 0 (embed) and 1 (mlp) are both on mesh axis 'model'
      fix:      give the rules as a list of pairs, in which the first that fits and is free
                wins, or None for the axis
    """
    rules = {"embed": "model", "mlp": "model"}
    assert refused(rules) == text(wanted.format("shardings"))
    found = message(anx.ShardingError, lambda: specs(dense(), rules))
    assert found == text(wanted.format("partition_specs"))
    # Which of the two rules comes first is no matter.
    assert "dimensions 1 (mlp) and 0 (embed)" in refused({"mlp": "model", "embed": "model"})


def test_one_name_twice_in_an_array():
    square = {"layers": [Square(jnp.ones((4, 4)))]}
    assert refused({"n": "model"}, tree=square) == text(
        """
    shardings: the rules do not fit the arrays
      expected: each mesh axis once in an array, and sizes that the mesh axes divide
      found:    layers.0.w: dimensions 0 (n) and 1 (n) are both on mesh axis 'model'
      fix:      give the rules as a list of pairs, in which the first that fits and is free
                wins, or None for the axis
    """
    )


def test_a_stack_on_the_mesh_axis_of_another_name():
    model = stacked(dense_of, 4)
    found = refused({**RULES, "ens": "model"}, tree=model, stack="ens")
    assert "weight: dimensions 2 (mlp) and 0 (ens) are both on mesh axis 'model'" in found


def test_sizes_that_a_mesh_axis_does_not_divide():
    model = Net([dense(8, 6)], {"a.b": dense(6, 8)}, jnp.ones(()))
    rules = {"embed": ("data", "fsdp"), "mlp": "model"}
    assert refused(rules, tree=model, mesh=CUBE) == text(
        """
    shardings: the rules do not fit the arrays
      expected: each mesh axis once in an array, and sizes that the mesh axes divide
      found:    blocks.0.weight: dimension 1 (mlp): size 6, not divisible by 4 (mesh axis
                'model')
                blocks.0.bias: dimension 0 (mlp): size 6, not divisible by 4 (mesh axis
                'model')
                heads['a.b'].weight: dimension 0 (embed): size 6, not divisible by 2 × 2 = 4
                (mesh axes 'data' and 'fsdp')
                heads['a.b'].mean: dimension 0 (embed): size 6, not divisible by 2 × 2 = 4
                (mesh axes 'data' and 'fsdp')
      fix:      give the rules as a list of pairs, in which the first that fits and is free
                wins, or None for the axis
    """
    )


def test_more_than_twenty_problems_are_counted():
    found = refused(RULES, tree=[dense(3, 4)] * 11)
    assert found.count("not divisible by") == 20
    assert "\n            and 2 more\n  fix:" in found
    rules = {f"name{at}": None for at in range(25)}
    found = refused(rules)
    assert "name11 and 13 more" in found
    assert found.count("there is: embed, mlp") == 20
    assert found.endswith("\n            and 5 more")


def test_rules_for_names_that_nothing_has():
    wanted = """
    {}: rules for axes that no leaf has
      expected: names of axes: embed, mlp
      found:    emebd, vocab
      fix:      emebd: did you mean 'embed'?
                vocab: there is: embed, mlp
    """
    rules = {"emebd": "data", "vocab": None, "mlp": "model"}
    assert (
        refused(rules) == refused(list(rules.items())) == text(wanted.format("shardings"))
    )
    found = message(anx.ShardingError, lambda: specs(dense(), rules))
    assert found == text(wanted.format("partition_specs"))


def test_names_with_signs_and_variadic_names_are_no_names_for_rules():
    conv = eqx.nn.Conv2d(4, 4, 3, key=jax.random.key(0))
    assert refused({"*kernel_size": "data", "...": "data"}, tree=conv) == text(
        """
    shardings: rules for axes that no leaf has
      expected: names of axes: in_channels, out_channels
      found:    *kernel_size, ...
      fix:      *kernel_size: there is: in_channels, out_channels
                ...: there is: in_channels, out_channels
    """
    )
    assert "#embed: did you mean 'embed'?" in refused({"#embed": "data"})


def test_rules_for_a_model_that_names_nothing():
    class Plain(anx.Module):
        w: anx.Param[Array]

    assert refused({"mlp": "model"}, tree=Plain(jnp.ones(4))) == text(
        """
    shardings: rules for axes that no leaf has
      expected: axes with names
      found:    mlp
      fix:      annotate the arrays, Param[Float[Array, "mlp embed"]], or field(axes=...)
    """
    )


def test_what_a_model_could_hold_is_named_by_its_classes():
    class Optional(anx.Module):
        w: anx.Param[Float[Array, " mlp"]]
        adapter: anx.Param[Float[Array, "mlp rank"] | None] = None

    assert specs(Optional(jnp.ones(4)), {"mlp": "model", "rank": None})["w"] == ("model",)


def test_of_leaves_only_what_looks_misspelt_is_refused():
    params = anx.params(dense())
    assert refused({"emebd": "data"}, tree=params) == text(
        """
    shardings: rules for axes that no leaf has
      expected: names of axes: embed, mlp
      found:    emebd
      fix:      emebd: did you mean 'embed'?
    """
    )
    assert meshed(params, {"vocab": "data"})["bias"] == (None,)
    assert meshed(params, {"vocab": "data", "mlp": "model"})["bias"] == ("model",)
    found = refused({"embd": "data", "mlp": "model"}, tree=params)
    assert "fix:      embd: did you mean 'embed'?" in found


def test_names_for_leading_axes_that_no_array_has():
    wanted = """
    shardings(stack={}): no array has so many axes in front of those with names
      expected: a name for each time that equinox.filter_vmap made the model
      found:    {} in front
      fix:      {}
    """
    assert refused(RULES, stack="ens") == text(
        wanted.format("'ens'", "none", "leave stack out")
    )
    found = refused(RULES, tree=stacked(dense_of, 4), stack=("ens", None))
    assert found == text(wanted.format("('ens', None)", "1", "name fewer"))
    # Nor do variadic names excuse it where others tell.
    layers = [eqx.nn.LayerNorm(4), dense()]
    assert "leave stack out" in refused(RULES, tree=layers, stack="ens")


def test_a_stack_may_be_in_the_part_that_is_not_trained():
    class Headed(anx.Module):
        body: Dense
        head: Dense

    model = anx.freeze(Headed(stacked(dense_of, 4), dense()), anx.by_path("body.**"))
    for part in STYLES.values():
        found = meshed(part(model), {**RULES, "layers": None}, "layers")
        assert found == {f"head.{name}": DENSE[name] for name in ("weight", "bias")}


def meshes():
    """Two meshes over the one device that tests have."""
    device = np.array(jax.devices()[:1])
    return Mesh(device, ("x",)), Mesh(device.reshape(1, 1), ("data", "model"))


def test_a_tree_on_different_meshes():
    one, other = (NamedSharding(mesh, PartitionSpec()) for mesh in meshes())
    tree = {
        "a": jax.device_put(jnp.ones(4), one),
        "b": [jax.device_put(jnp.ones(4), other), jnp.ones(4)],
        "c": jax.device_put(jnp.ones(4), one),
    }
    wanted = """
    {}: the arrays of this tree lie on different meshes
      expected: one mesh
      found:    a on a mesh (x: 1)
                b.0 on a mesh (data: 1, model: 1)
      fix:      bring them onto one: jax.device_put(tree, NamedSharding(mesh,
                PartitionSpec()))
    """
    assert refused({}, tree=tree) == text(wanted.format("shardings"))
    found = message(anx.ShardingError, lambda: anx.partition_specs(tree, {}))
    assert found == text(wanted.format("partition_specs"))


def test_a_tree_on_one_mesh_may_go_to_another():
    one, other = meshes()
    tree = jax.device_put({"a": jnp.ones(4), "b": 1.0}, NamedSharding(one, PartitionSpec()))
    assert meshed(tree, {}, mesh=other)["a"] == (None,)
    # What is abstract lies nowhere yet.
    planned = jax.ShapeDtypeStruct(
        (8,), jnp.float32, sharding=NamedSharding(MESH, PartitionSpec())
    )
    assert meshed([tree, planned], {}, mesh=other)["1"] == (None,)


@pytest.mark.parametrize(
    ("mesh", "found"),
    [
        (RULES, "a dict"),
        (None, "None"),
        (jnp.ones(3), "an array float32[3]"),
        (AbstractMesh((), ()), "an AbstractMesh without axes"),
    ],
    ids=["rules", "None", "array", "empty"],
)
def test_what_is_no_mesh(mesh, found):
    wanted = """
    shardings: this is no mesh
      expected: a jax.sharding.Mesh, as jax.make_mesh makes it
      found:    {}
      fix:      shardings(tree, mesh, rules)
    """
    assert refused(RULES, mesh=mesh) == text(wanted.format(found))


class Other(anx.Module):
    x: anx.Param[Array]


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ("mlp", "a str"),
        (None, "None"),
        (3, "an int"),
        (Other(jnp.ones(1)), "an Other"),
        (["mlp", "embed"], "a str"),
        ([("mlp", "model", "data")], "a tuple"),
        ({1: "model"}, "an int is no name of an axis"),
        ({"mlp": 1}, "mlp: an int is no mesh axis"),
        ({"mlp": {"model"}}, "mlp: a set is no mesh axis"),
        ({"mlp": ("model", None)}, "mlp: a tuple is no mesh axis"),
        ({"mlp": ("model", "model")}, "mlp: mesh axis 'model' stands twice in its rule"),
    ],
    ids=str,
)
def test_rules_that_are_none(rules, found):
    wanted = """
    partition_specs: these rules cannot be followed
      expected: for each name a mesh axis, several that differ, or None
      found:    {}
      fix:      {{"mlp": "model", "embed": ("fsdp", "data"), "heads": None}}, or a list of
                such pairs
    """
    action = partial(anx.partition_specs, dense(), rules)
    assert message(anx.ShardingError, action) == text(wanted.format(found))


def test_all_that_is_wrong_with_rules_comes_at_once():
    found = refused({1: "model", "mlp": 2, "embed": ("modal", "data")})
    assert "an int is no name of an axis\n" in found
    assert "mlp: an int is no mesh axis\n" in found
    assert "embed: the mesh has no axis 'modal'; did you mean 'model'?\n" in found


@pytest.mark.parametrize(
    ("stack", "found"),
    [(3, "an int"), (("ens", 3), "a tuple"), ({"ens"}, "a set"), (b"ens", "a bytes")],
    ids=str,
)
def test_stacks_that_name_no_axes(stack, found):
    wanted = """
    partition_specs(stack=...): this names no axes
      expected: the name of the leading axis, or several, outermost first; None for an axis
                that stays whole
      found:    {}
      fix:      stack="ensemble", or stack=("ensemble", None)
    """
    action = partial(anx.partition_specs, dense(), RULES, stack)
    assert message(anx.ShardingError, action) == text(wanted.format(found))


# --- properties ----------------------------------------------------------------------

NAMES = ("a", "b", "c", "a+1", None)
SIZES = {"x": 2, "y": 3, "z": 4}
XYZ = AbstractMesh(tuple(SIZES.values()), tuple(SIZES))


@cache
def holder(axes):
    """A class with one array whose axes have these names. JAX never forgets a class."""
    namespace = {
        "__annotations__": {"w": anx.Param[Array]},
        "__module__": __name__,
        "w": anx.field(axes=axes),
    }
    return type(anx.Module)("Holder", (anx.Module,), namespace)


@st.composite
def held_arrays(draw):
    """A holder of an array that may have more axes than names, or fewer."""
    axes = draw(st.lists(st.sampled_from(NAMES), max_size=3).map(tuple))
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 6, 12, 24]), max_size=4))
    return holder(axes)(jax.ShapeDtypeStruct(tuple(shape), jnp.float32))


def with_witness(held):
    """The tree with one array more, so that no rule and no stack is about nothing."""
    shape = (1,) * (2 + len(NAMES))
    return [*held, holder(NAMES)(jax.ShapeDtypeStruct(shape, jnp.float32))]


TREES = st.lists(held_arrays(), max_size=4).map(with_witness)
PLACES = (
    st.none()
    | st.lists(st.sampled_from([*SIZES]), max_size=3, unique=True).map(tuple)
    | st.sampled_from([*SIZES])
)
PAIRS = st.lists(st.tuples(st.sampled_from(NAMES[:-1]), PLACES), max_size=6)
STACKS = st.none() | st.lists(st.sampled_from(NAMES), max_size=2).map(tuple)


def as_tuple(place):
    return (place,) if isinstance(place, str) else tuple(place or ())


def flat(spec):
    """All mesh axes in a spec."""
    return [axis for entry in spec for axis in as_tuple(entry)]


@given(TREES, PAIRS, STACKS)
def test_specs_are_legal_and_a_list_never_fails_for_sizes(tree, pairs, stack):
    found = meshed(tree, pairs, stack, XYZ)
    for record in anx.records(tree):
        spec = found[record.path]
        assert len(spec) == len(record.shape)
        assert len({*flat(spec)}) == len(flat(spec))
        for size, entry in zip(record.shape, spec, strict=True):
            assert size % math.prod(SIZES[axis] for axis in flat([entry])) == 0
            assert entry is None or size != 1


def names_in(record, stack):
    """A name for each axis of an array, by the words of the contract."""
    extra = len(record.shape) - len(record.axes)
    if extra < 0:
        return (None,) * len(record.shape)
    return (*(*(stack or ()), *(None,) * extra)[:extra], *record.axes)


def by_hand(names, shape, pairs):
    """What a list of pairs says of one array, by the words of the contract."""
    spec: list[Any] = [None] * len(shape)
    settled = [size == 1 for size in shape]
    for name, place in pairs:
        axes = as_tuple(place)
        for at, (own, size) in enumerate(zip(names, shape, strict=True)):
            total = math.prod(SIZES[axis] for axis in axes)
            if own != name or settled[at] or {*axes} & {*flat(spec)} or size % total:
                continue
            settled[at] = True
            spec[at] = axes[0] if len(axes) == 1 else axes or None
    return tuple(spec)


@given(TREES, PAIRS, STACKS)
def test_a_list_of_pairs_means_what_the_contract_says(tree, pairs, stack):
    found = meshed(tree, pairs, stack, XYZ)
    for record in anx.records(tree):
        wanted = by_hand(names_in(record, stack), record.shape, pairs)
        assert found[record.path] == wanted


@given(TREES, st.dictionaries(st.sampled_from(NAMES[:-1]), PLACES), STACKS)
def test_a_mapping_says_what_a_list_says_or_is_refused(tree, rules, stack):
    lenient = meshed(tree, [*rules.items()], stack, XYZ)
    left = [
        (record.path, at)
        for record in anx.records(tree)
        for at, name in enumerate(names_in(record, stack))
        if as_tuple(rules.get(name))
        and record.shape[at] != 1
        and lenient[record.path][at] is None
    ]
    if left:
        with pytest.raises(anx.ShardingError, match="the rules do not fit the arrays"):
            meshed(tree, rules, stack, XYZ)
    else:
        assert meshed(tree, rules, stack, XYZ) == lenient


@given(TREES, PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_the_leaves_does_not_matter(tree, pairs, shuffle: random.Random):
    order = list(range(len(tree)))
    shuffle.shuffle(order)
    found = meshed(tree, pairs, mesh=XYZ)
    other = meshed([tree[at] for at in order], pairs, mesh=XYZ)
    assert {f"{order.index(at)}.w": found[f"{at}.w"] for at in order} == other


@given(TREES, PAIRS, STACKS)
def test_leaves_have_the_specs_of_their_model(tree, pairs, stack):
    leaves = anx.leaves(tree, anx.everything)
    assert meshed(leaves, pairs, stack, XYZ) == meshed(tree, pairs, stack, XYZ)


# --- eight devices -------------------------------------------------------------------

SCRIPT = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float
import annotax as anx

class Layer(anx.Module):
    w: anx.Param[Float[Array, "embed mlp"]]
    numpy: anx.Buffer[Float[np.ndarray, " mlp"]]
    empty: anx.Buffer[Float[Array, "embed none"]]
    rate: float
    function: object = jnp.tanh

class Noise(anx.Module):
    keys: anx.Buffer[Array] = anx.field(axes=("embed",))

mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))
rules = {"embed": "data", "mlp": "model"}
layer = Layer(jnp.ones((4, 8)), np.ones(8), jnp.ones((4, 0)), 0.5)
on_mesh = anx.shardings(layer, mesh, rules)

def show(name, *made):
    print(name, *[tuple(x.sharding.spec) for x in made])

def arrays_of(m):
    return m.w, m.numpy, m.empty

show("filter_shard", *arrays_of(eqx.filter_shard(layer, on_mesh)))
inside = eqx.filter_jit(lambda m: eqx.filter_shard(m, on_mesh))
show("in filter_jit", *arrays_of(inside(layer))[:2])
arrays = anx.leaves(layer, anx.by(lambda r: r.dtype is not None))
flat = anx.shardings(arrays, mesh, rules)
placed = jax.device_put(arrays, flat)
show("device_put", *placed.values())
jitted = jax.jit(lambda a: a, in_shardings=(flat,), out_shardings=flat, donate_argnums=0)
show("jit", *jitted(placed).values())
noise = Noise(jax.random.split(jax.random.key(0), 4))
show("keys", jax.device_put(noise, anx.shardings(noise, mesh, {"embed": "data"})).keys)
w = eqx.filter_shard(layer, on_mesh).w
print({shard.data.shape for shard in w.addressable_shards})
numbers = eqx.tree_at(lambda m: m.function, layer, 1.0)
there = anx.shardings(numbers, mesh, rules)
run = jax.jit(lambda m: m.w * m.rate, in_shardings=(there,), out_shardings=there.w)
print(tuple(run(numbers).sharding.spec))
other = Mesh(np.array(jax.devices()), ("all",))
elsewhere = anx.shardings(layer, other, {"embed": None})
moved = eqx.filter_shard(eqx.filter_shard(layer, on_mesh), elsewhere)
print(moved.w.sharding.mesh.axis_names)
half = Mesh(np.array(jax.devices()[:4]), ("all",))
split = [NamedSharding(m, PartitionSpec("all")) for m in (other, half)]
parts = [jax.device_put(jnp.ones(8), sharding) for sharding in split]
try:
    anx.shardings(parts, mesh, {})
except anx.ShardingError as error:
    print(error)
    """


def test_on_eight_devices():
    run = [sys.executable, "-W", "error", "-c", SCRIPT]
    printed = subprocess.run(run, capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    everywhere = "('data', 'model') ('model',) ('data', None)"
    assert printed.stdout == textwrap.dedent(
        f"""\
    filter_shard {everywhere}
    in filter_jit ('data', 'model') ('model',)
    device_put {everywhere}
    jit {everywhere}
    keys ('data',)
    {{(2, 2)}}
    ('data', 'model')
    ('all',)
    shardings: the arrays of this tree lie on different meshes
      expected: one mesh
      found:    0 on a mesh (all: 8)
                1 on a mesh (all: 4)
      fix:      bring them onto one: jax.device_put(tree, NamedSharding(mesh,
                PartitionSpec()))
    """
    )


def test_factored_moments_of_a_stack_are_replicated():
    params = anx.params(stacked(dense_of, 2))
    for size in (4, 128):  # factored, and not
        tx = optax.adafactor(1e-3, min_dim_size_to_factor=size)
        state = eqx.filter_vmap(tx.init)(params)
        laid_out = anx.partition_specs(state, {**RULES, "ens": "e"}, stack="ens")
        for record in anx.records(state):
            if ".v_row." in record.path or ".v_col." in record.path:
                at = [r.path for r in anx.records(state)].index(record.path)
                spec = jax.tree.leaves(laid_out, is_leaf=lambda x: x is None)[at]
                assert tuple(spec) == (None,) * record.ndim


def test_meshes_that_look_alike_are_told_apart():
    devices = np.array(jax.devices()[:1]).reshape(1)
    meshes = [jax.sharding.Mesh(devices, ("x",))]
    kinds = getattr(jax.sharding, "AxisType", None)
    if kinds is None or not hasattr(jax, "set_mesh"):
        pytest.skip("this JAX has no meshes with explicit axes")
    meshes.append(jax.sharding.Mesh(devices, ("x",), axis_types=(kinds.Explicit,)))
    whole = jax.sharding.PartitionSpec()
    tree = [
        jax.device_put(jnp.ones(2), jax.sharding.NamedSharding(m, whole)) for m in meshes
    ]
    with pytest.raises(anx.ShardingError) as caught:
        anx.partition_specs(tree, {})
    assert "0 on Mesh(" in str(caught.value)
    assert "Explicit" in str(caught.value)
    assert "of devices 0" in " ".join(str(caught.value).split())
