"""Changed copies: `replace` by keyword and path, `inference_mode`."""

import textwrap
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array

import annotax as anx

KEY = jax.random.key(0)


class Dropout(anx.Module):
    rate: anx.Hyper[float]
    inference: anx.Hyper[bool] = False


class Layer(anx.Module):
    weight: anx.Param[Array] = anx.field(converter=jnp.asarray)
    mean: anx.Buffer[Array]
    dropout: Dropout
    sizes: anx.Hyper[tuple[int, ...]] = (1, 2)


class Pair(NamedTuple):
    first: Any
    second: Any


checked: list[str] = []


class Model(anx.Module):
    layers: list[Layer]
    table: dict[str, Any]
    pair: Pair
    limit: anx.Hyper[float] = 1.0

    def __check_init__(self):
        checked.append("model")
        if any(layer.dropout.rate > self.limit for layer in self.layers):
            raise ValueError("a rate over the limit")


def layer(rate=0.5):
    return Layer(jnp.ones(2), jnp.zeros(2), Dropout(rate))


def model():
    table = {"a.b": layer(), "scale": jnp.ones(1)}
    return Model([layer(), layer(0.25)], table, Pair(layer(), 1.5))


def unchanged(new, old, *paths):
    """All leaves are the same objects, but for those at some paths."""
    pairs = zip(anx.records(new), jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
    return all(mine is theirs for r, mine, theirs in pairs if r.path not in paths)


# --- replace -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "read"),
    [
        ("layers.0.weight", jnp.zeros(2), lambda m: m.layers[0].weight),
        ("layers.1.mean", jnp.ones(2), lambda m: m.layers[1].mean),
        ("layers.1.dropout.rate", 0.75, lambda m: m.layers[1].dropout.rate),
        ("table['a.b'].weight", jnp.zeros(2), lambda m: m.table["a.b"].weight),
        ("table.scale", 3.5, lambda m: m.table["scale"]),
        ("pair.second", 2.5, lambda m: m.pair.second),
        ("pair.first.dropout.inference", True, lambda m: m.pair.first.dropout.inference),
        ("layers.0.sizes.1", 7, lambda m: m.layers[0].sizes[1]),
        ("limit", 2.0, lambda m: m.limit),
    ],
)
def test_a_path_leads_anywhere(path, value, read):
    old = model()
    before = read(old)
    new = anx.replace(old, {path: value})
    assert read(new) is value or read(new) == value
    assert read(old) is before or read(old) == before
    assert unchanged(new, old, path)
    assert type(new) is Model


def test_submodules_and_whole_containers():
    old, new_layer = model(), layer(0.1)
    assert anx.replace(old, {"layers.1": new_layer}).layers[1] is new_layer
    assert anx.replace(old, layers=[new_layer]).layers == [new_layer]
    mixed = anx.replace(old, {"table": {}, "layers.0.dropout": Dropout(0.0)}, limit=0.5)
    assert (mixed.table, mixed.layers[0].dropout.rate, mixed.limit) == ({}, 0.0, 0.5)
    assert mixed.layers[1] is old.layers[1]


def test_trees_that_are_no_modules():
    changed = anx.replace([layer(), {"x": layer()}], {"0.dropout.rate": 0.0, "1.x": 3})
    assert (changed[0].dropout.rate, changed[1]) == (0.0, {"x": 3})


def test_patterns_change_all_they_fit():
    changed = anx.replace(model(), {"**.dropout.rate": 0.0, "layers.*.mean": jnp.ones(2)})
    assert [x.dropout.rate for x in (*changed.layers, changed.table["a.b"])] == [0, 0, 0]
    assert all(float(x.mean[0]) == 1.0 for x in changed.layers)
    assert float(changed.table["a.b"].mean[0]) == 0.0


def test_patterns_reach_into_static_modules():
    class Noise(eqx.Module):
        sigma: float

    class Both(eqx.Module):
        noise: Noise
        sigma: float
        weight: Array

    plain = Both(Noise(0.1), 0.2, jnp.ones(1))
    for model in (plain, anx.adopt(plain)):
        changed = anx.replace(model, {"**.sigma": 0.0})
        assert (changed.noise.sigma, changed.sigma) == (0.0, 0.0)


def test_leaves_inside_a_tree_are_replaced_as_a_whole():
    state = [anx.params(layer())]
    with pytest.raises(anx.FieldError, match="what stands there is replaced as a whole"):
        anx.replace(state, {"0.weight": jnp.ones(2)})


def test_a_key_with_a_star_in_it_is_no_pattern():
    changed = anx.replace({"a*": 1, "ab": 1}, {"['a*']": 2})
    assert changed == {"a*": 2, "ab": 1}


def test_converters_run_on_what_changed():
    changed = anx.replace(model(), {"layers.0.weight": 2.0, "layers.1.dropout.rate": 1})
    assert isinstance(changed.layers[0].weight, jax.Array)
    assert type(changed.layers[1].dropout.rate) is float


def test_the_converter_of_a_module_does_not_run_when_the_module_changed_inside():
    converted = []

    class Holder(anx.Module):
        part: Any = anx.field(converter=lambda part: converted.append(part) or part)

    holder = Holder(Dropout(0.5))
    changed = anx.replace(holder, {"part.rate": 0.25})
    assert (changed.part.rate, converted) == (0.25, [holder.part])
    anx.replace(holder, {"part": changed.part})
    assert converted == [holder.part, changed.part]


def test_a_converter_of_a_container_runs_when_an_item_changed():
    class Holder(anx.Module):
        items: anx.Hyper[tuple[float, ...]] = anx.field(converter=tuple)

    changed = anx.replace(Holder([0.5, 1.5]), {"items.0": 2})
    assert changed.items == (2.0, 1.5)
    assert type(changed.items[0]) is float


def test_the_checks_of_all_modules_on_the_way_run():
    checked.clear()
    old = model()
    assert checked == ["model"]
    anx.replace(old, {"layers.0.dropout.rate": 0.75})
    assert checked == ["model", "model"]
    with pytest.raises(ValueError, match="over the limit"):
        anx.replace(old, {"layers.0.dropout.rate": 1.5})
    assert anx.replace(old, {"layers.0.dropout.rate": 1.5, "limit": 2.0}).limit == 2.0
    assert old.layers[0].dropout.rate == 0.5


def test_the_checks_of_bases_run_on_what_changed():
    class Base(anx.Module):
        n: anx.Hyper[int]

        def __check_init__(self):
            if self.n < 0:
                raise ValueError("negative")

    class Sub(Base):
        def __check_init__(self):
            if self.n > 9:
                raise ValueError("large")

    for value, text in ((-1, "negative"), (10, "large")):
        with pytest.raises(ValueError, match=text):
            anx.replace([Sub(1)], {"0.n": value})


def test_what_enters_a_buffer_by_replace_is_stopped():
    def loss(mean):
        return jnp.sum(anx.replace(model(), {"layers.0.mean": mean}).layers[0].mean)

    assert not jnp.any(jax.grad(loss)(jnp.ones(2)))


def test_frozen_and_foreign_modules_keep_their_class():
    mlp = anx.freeze(eqx.nn.MLP(2, 2, 4, 1, key=KEY), anx.by_path("layers.0.*"))
    changed = anx.replace(mlp, {"layers.0.weight": jnp.zeros((4, 2))})
    assert jax.tree.structure(changed) == jax.tree.structure(mlp)
    assert anx.replace(eqx.nn.Dropout(0.5), {"p": 0.1}).p == 0.1


def test_modules_in_static_fields_are_reached():
    class Config(eqx.Module):
        width: int

    class Holder(anx.Module):
        config: anx.Hyper[Config]

    assert anx.replace(Holder(Config(1)), {"config.width": 2}).config.width == 2


def test_all_unknown_paths_are_named_at_once_with_near_ones():
    old = model()
    with pytest.raises(anx.FieldError) as info:
        anx.replace(old, {"layers.0.wieght": 1, "layers.2.weight": 1, "limit": 2.0})
    assert str(info.value) == textwrap.dedent("""\
        replace(Model): there is nothing at these paths
          expected: paths of fields, leaves, submodules or items of containers
          found:    layers.0.wieght, layers.2
          fix:      layers.0.wieght: did you mean 'layers.0.weight'?
                    layers.2: there is: layers.0, layers.1""")
    assert old.limit == 1.0
    with pytest.raises(anx.FieldError, match="did you mean 'limit'"):
        anx.replace(old, {"limti": 1.0})
    with pytest.raises(anx.FieldError, match=r"Model\.limti: the class has no such field"):
        anx.replace(old, limti=1.0)
    with pytest.raises(anx.FieldError, match="there is nothing at this path"):
        anx.replace(old, {"limit.x": 1.0})


def test_all_paths_that_lead_nowhere_are_listed():
    paths = ["limits", "layers.0.wieght", "layers.7", "table.sclae", "pair.third.x"]
    with pytest.raises(anx.FieldError) as info:
        anx.replace(model(), dict.fromkeys(paths, 1.0))
    found = str(info.value).partition("found:")[2].partition("fix:")[0]
    assert sorted(found.replace(",", " ").split()) == sorted([*paths[:-1], "pair.third"])


def test_a_pattern_that_fits_nothing():
    with pytest.raises(anx.FieldError) as info:
        anx.replace(layer(), {"**.rates": 0.5})
    assert str(info.value) == textwrap.dedent("""\
        replace(Layer, {'**.rates': ...}): the pattern fits nothing
          expected: the path of at least one field or leaf
          found:    weight, mean, dropout, dropout.rate, dropout.inference, sizes, sizes.0,
                    sizes.1
          fix:      rates: did you mean 'rate'?""")
    with pytest.raises(anx.FieldError) as info:
        anx.replace(layer(), {"weight.*": 0.5})
    assert "fix" not in str(info.value)


@pytest.mark.parametrize("bad", ["", "a..b", "layers[", 3])
def test_malformed_paths(bad):
    with pytest.raises(anx.SelectionError, match="the pattern is malformed"):
        anx.replace(model(), {bad: 1})


def test_paths_that_lead_into_one_another():
    with pytest.raises(anx.FieldError) as info:
        anx.replace(model(), {"layers.0": layer(), "layers.0.dropout.rate": 0.5})
    assert str(info.value) == textwrap.dedent("""\
        replace(Model): two changes mean the same place
          expected: paths of which none leads into another
          found:    layers.0 and layers.0.dropout.rate
          fix:      change the inner one first, in a call of its own""")
    with pytest.raises(anx.FieldError, match="the same place"):
        anx.replace(model(), {"limit": 1.0}, limit=2.0)


def test_values_that_a_field_refuses():
    old = model()
    with pytest.raises(anx.HyperError, match=r"Dropout\.rate: an array cannot be a Hyper"):
        anx.replace(old, {"layers.0.dropout.rate": jnp.ones(())})
    assert old.layers[0].dropout.rate == 0.5


def test_what_is_no_change():
    with pytest.raises(anx.FieldError, match="these are no changes"):
        anx.replace(model(), [("limit", 1.0)])
    with pytest.raises(anx.FieldError, match="this has no fields"):
        anx.replace([1], rate=0.5)
    with pytest.raises(anx.FieldError, match="this has no fields"):
        anx.replace(anx.params(model()), {"layers.0.weight": 1})


# --- inference_mode ------------------------------------------------------------------


class Mixed(eqx.Module):
    norm: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout
    ours: list[Dropout]
    inference: Any
    network: Any


def mixed(flag=False, network=None):
    norm = eqx.nn.BatchNorm(2, "batch", mode="batch", inference=flag)
    drop = eqx.nn.Dropout(0.5, inference=flag)
    return Mixed(norm, drop, [Dropout(0.5, flag)], flag, network)


def flags(m):
    return [m.norm.inference, m.drop.inference, m.ours[0].inference, m.inference]


def test_flags_are_set_whether_leaf_or_hyper():
    old = mixed()
    new = anx.inference_mode(old)
    assert flags(new) == [True] * 4
    assert flags(old) == [False] * 4
    assert flags(anx.inference_mode(new, False)) == [False] * 4
    assert flags(anx.inference_mode(new, value=False)) == [False] * 4
    assert flags(anx.inference_mode(anx.adopt(old))) == [True] * 4


def test_it_agrees_with_equinox_on_plain_models():
    plain = eqx.nn.Sequential([eqx.nn.Dropout(0.5), eqx.nn.Sequential([eqx.nn.Dropout()])])
    assert anx.inference_mode(plain) == eqx.nn.inference_mode(plain)
    attention = eqx.nn.MultiheadAttention(2, 4, key=KEY)
    assert anx.inference_mode(attention) == eqx.nn.inference_mode(attention)


def test_the_halves_of_a_partitioned_model():
    old = mixed()
    params, rest = eqx.partition(old, eqx.is_array)
    halves = anx.inference_mode(params), anx.inference_mode(rest)
    assert flags(halves[0]) == [None, None, True, None]
    assert flags(eqx.combine(*halves)) == [True] * 4
    assert eqx.combine(*halves) == anx.inference_mode(old)


def test_a_network_called_inference_is_no_flag():
    class Model(anx.Module):
        inference: Any

    for network in (eqx.nn.Linear(2, 2, key=KEY), jnp.ones(2), "name", 1, None):
        assert anx.inference_mode(Model(network)).inference is network


def test_a_flag_that_is_an_array_stays_one():
    class Model(anx.Module):
        inference: anx.Buffer[Any]

    flag = anx.inference_mode(Model(jnp.array(False))).inference
    assert flag.dtype == bool
    assert bool(flag)
    inside = jax.jit(anx.inference_mode)(Model(jnp.array([False, False])))
    assert inside.inference.all()


def test_flags_in_static_modules_are_reached():
    class Holder(anx.Module):
        parts: anx.Hyper[tuple[Dropout, ...]]
        name: anx.Hyper[str] = "x"

    holder = anx.inference_mode(Holder((Dropout(0.5),)))
    assert holder.parts[0].inference is True


def test_flags_inside_something_called_inference_are_reached():
    class Holder(eqx.Module):
        inference: Any

    for holder in (Holder(Dropout(0.5)), Holder([eqx.nn.Dropout(0.5)])):
        for model in (holder, anx.adopt(holder)):
            inner = anx.inference_mode(model).inference
            assert (inner if isinstance(inner, Dropout) else inner[0]).inference is True


def test_checks_do_not_run():
    checked.clear()
    old = model()
    anx.inference_mode(jax.tree.map(lambda _: None, old))
    new = anx.inference_mode(old)
    assert checked == ["model"]
    assert new.layers[0].dropout.inference
    assert unchanged(new, old)


def test_a_model_without_flags_is_returned_as_it_is():
    linear = eqx.nn.Linear(2, 2, key=KEY)
    assert anx.inference_mode(linear) is linear
    assert anx.inference_mode(1.5) == 1.5
