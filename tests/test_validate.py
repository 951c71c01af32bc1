"""`validate`: everything that does not fit in a whole model, in one error."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float, Int

import annotax as anx

ones = jnp.ones


class Linear(anx.Module):
    weight: anx.Param[Float[Array, "out in"]]
    bias: anx.Param[Float[Array, " out"] | None]
    size: anx.Hyper[int | None] = None


class Net(anx.Module):
    layers: list[Linear]
    heads: dict[str, Linear]
    scale: anx.Buffer[Float[Array, ""]]


def linear(rows: int = 2, columns: int = 3) -> Linear:
    return Linear(ones((rows, columns)), ones(rows))


def net(scale: Any = None) -> Net:
    scale = ones(()) if scale is None else scale
    return Net([linear(), linear(2, 2)], {"a": linear(5, 2)}, scale)


def changed(model: Any, **values: Any) -> Any:
    """A model with other leaves, past every check: by path, `__` for a dot."""
    pairs, treedef = jax.tree_util.tree_flatten(model)
    paths = [record.path for record in anx.records(model)]
    new = {name.replace("__", "."): value for name, value in values.items()}
    assert new.keys() <= {*paths}
    return treedef.unflatten(
        [new.get(path, leaf) for path, leaf in zip(paths, pairs, strict=True)]
    )


def text_of(model: Any, **options: Any) -> str:
    with pytest.raises(anx.CheckError) as info:
        anx.validate(model, **options)
    return str(info.value)


# --- models --------------------------------------------------------------------------


def test_everything_wrong_is_told_at_once_sorted_by_path():
    model = changed(
        net(),
        scale=ones((1, 1)),
        layers__1__bias=ones(3),
        layers__0__weight=np.ones((2, 3)),
        heads__a__weight=None,
    )
    assert anx.validate(net()) == ()
    assert text_of(model) == (
        "Net: 4 values do not fit their annotations\n"
        "  heads.a.weight: Param[Float[Array, 'out in']], found None\n"
        "    write `| None` into the annotation if it may be missing\n"
        "  layers.0.weight: Param[Float[Array, 'out in']], found numpy float64[2,3]\n"
        "    an array of numpy is no jax.Array: jnp.asarray(...)\n"
        "  layers.1.bias: Param[Float[Array, 'out'] | None], found float32[3]\n"
        "    axis 0 is 3, but out is 2 (set by weight)\n"
        "  scale: Buffer[Float[Array, '']], found float32[1,1]\n"
        "    2 axes instead of 0"
    )


def test_one_that_is_wrong():
    assert text_of(changed(net(), layers__1__bias=ones(3))) == (
        "Net.layers.1.bias: the value does not fit its annotation\n"
        "  expected: Param[Float[Array, 'out'] | None]\n"
        "  found:    float32[3]\n"
        "            axis 0 is 3, but out is 2 (set by weight)"
    )


def test_a_report_leaves_nothing_out():
    model = [changed(linear(), bias=ones(7)) for _ in range(100)]
    assert text_of(model).count("set by weight") == 100


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        (lambda x: [linear(), x], "1"),
        (lambda x: {"x": (x, 3), "other": "text"}, "x.0"),
        (lambda x: {"a.b": x}, "['a.b']"),
        (lambda x: eqx.nn.Lambda(jnp.tanh) and (x,), "0"),
    ],
)
def test_trees_of_models(tree, path):
    assert anx.validate(tree(linear())) == ()
    assert f"{path}.bias: the value" in text_of(tree(changed(linear(), bias=ones(3))))


def test_fields_without_a_role_are_nobodys_business():
    class Loose(anx.Module):
        x: Float[Array, " n"]
        inner: Any

    model = Loose("text", changed(linear(), bias=ones(3)))
    assert "Loose.inner.bias" in text_of(model)
    for mode in ("off", "fields", "full"):  # it is asked for
        with anx.checking(mode):
            assert "Loose.inner.bias" in text_of(model)


def test_a_class_that_says_off_is_left_alone():
    class Off(anx.Module, check="off"):
        x: anx.Param[Float[Array, " n"]]
        inner: Any = None

    assert anx.validate(Off("text")) == ()
    assert "Off.inner.x" not in text_of(Off("text", changed(linear(), bias=ones(3))))


def test_static_modules():
    class Shape(anx.Module):
        size: anx.Hyper[int]
        other: Any = None

    class Model(anx.Module):
        shape: anx.Hyper[Shape]
        more: anx.Hyper[tuple[Shape, ...]] = ()

    with anx.checking("off"):
        wrong = Shape("text")
    assert anx.validate(Model(Shape(1), (Shape(2),))) == ()
    assert "Model.shape.size: the value" in text_of(Model(wrong))
    assert "Model.more.1.size: the value" in text_of(Model(Shape(1), (Shape(1), wrong)))

    class Outer(anx.Module):
        model: anx.Hyper[Model]

    text = text_of({"a": Outer(Model(Shape(1), (wrong,)))})
    assert "dict.a.model.more.0.size: the value" in text
    assert "list.0.more.0.size" in text_of([Model(Shape(1), (wrong,))])


def test_a_size_of_an_outer_module_is_not_that_of_an_inner_one():
    class Outer(anx.Module):
        inner: Linear
        weight: anx.Param[Float[Array, "out in"]]

    assert anx.validate(Outer(linear(2, 3), ones((4, 5)))) == ()


# --- abstract, frozen, adopted, foreign ----------------------------------------------


def test_abstract_models():
    abstract = eqx.filter_eval_shape(net)
    assert anx.validate(abstract) == ()
    wrong = changed(abstract, layers__1__bias=jax.ShapeDtypeStruct((3,), jnp.float32))
    assert "Net.layers.1.bias" in text_of(wrong)
    wrong = changed(abstract, layers__1__bias=jax.ShapeDtypeStruct((2,), jnp.int32))
    assert "found:    int32[2]" in text_of(wrong)


def test_frozen_models():
    frozen = anx.freeze(net(), anx.by_path("layers.**"))
    assert anx.validate(frozen) == ()
    assert "Net.layers.1.bias" in text_of(changed(frozen, layers__1__bias=ones(3)))


class Foreign(eqx.Module):
    weight: Float[Array, "rows columns"]
    bias: Float[Array, " rows"]
    rows: int
    options: list
    unknown: Int[Array, " rows"]


anx.register(Foreign, weight=anx.Param, bias=anx.Buffer, rows=anx.Hyper, options=anx.Hyper)


def foreign(rows: int = 2, bias: Any = None) -> Foreign:
    return Foreign(ones((2, 3)), ones(2) if bias is None else bias, rows, [1, "x"], ones(7))


@pytest.mark.parametrize("change", [lambda x: x, anx.adopt], ids=["as it is", "adopted"])
def test_registered_classes(change):
    assert anx.validate(change(foreign())) == ()
    assert "Foreign.bias" in text_of(change(foreign(bias=ones(3))))
    text = text_of(change(foreign(rows=3)))
    assert "Foreign: 2 values" in text
    assert "weight" in text
    assert "axis 0 is 2, but rows is 3 (set by the Hyper)" in text


def test_modules_of_equinox():
    model = eqx.nn.MLP(2, 3, 4, 2, key=jax.random.key(0))
    for one in (model, anx.adopt(model), anx.freeze(model, anx.by_path("layers.0.**"))):
        assert anx.validate(one) == ()
    assert "MLP.layers.0.weight" in text_of(changed(model, layers__0__weight="text"))


def test_plain_modules_that_say_nothing():
    class Plain(eqx.Module):
        x: Float[Array, " n"]

    assert anx.validate([Plain("text"), 1, None, "text", jnp.tanh]) == ()


# --- leaves --------------------------------------------------------------------------


def test_leaves():
    model = net()
    assert anx.validate(anx.params(model)) == ()
    wrong = changed(model, layers__1__bias=ones((2, 2)), scale=ones(1))
    assert text_of(anx.params(wrong)) == (
        "Leaves.layers.1.bias: the value does not fit its annotation\n"
        "  expected: axes 'out'\n"
        "  found:    float32[2,2]\n"
        "            2 axes instead of 1"
    )
    assert "Leaves.scale" in text_of(anx.leaves(wrong, anx.by_path("scale")))
    stacked = jax.tree.map(lambda x: jnp.stack([x] * 4), anx.params(model))
    assert anx.validate(stacked, batch_axes=1) == ()
    assert "axes 'ens out in'" in text_of(anx.params(model), batch_axes=["ens"])


class Kinds(anx.Module):
    named: anx.Param[Float[Array, " n"]]
    open: anx.Param[Float[Array, "... out"]]
    nameless: anx.Param[Array]
    square: anx.Param[Float[Array, "_ n"]]


def kinds() -> Kinds:
    return Kinds(ones(3), ones(3), ones(()), ones((2, 3)))


def test_leaves_of_every_kind():
    params = anx.params(kinds())
    assert anx.validate(params) == ()
    assert anx.validate(jax.tree.map(lambda _: "text", params)) == ()
    assert text_of(jax.tree.map(lambda _: ones((2, 2, 2, 2)), params)) == (
        "Leaves: 2 values do not fit their annotations\n"
        "  named: axes 'n', found float32[2,2,2,2]\n"
        "    4 axes instead of 1\n"
        "  square: axes '_ n', found float32[2,2,2,2]\n"
        "    4 axes instead of 2"
    )


def test_states_of_optimizers_hold_no_models():
    params = anx.params(net())
    assert anx.validate(optax.adafactor(1e-3).init(params)) == ()


# --- ensembles -----------------------------------------------------------------------


def stacked(model: Any, *sizes: int) -> Any:
    """A model with leading axes."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*sizes, *x.shape)), model)


def test_ensembles():
    keys = jax.random.split(jax.random.key(0), 5)
    ensemble = eqx.filter_vmap(lambda key: Linear(jax.random.normal(key, (2, 3)), ones(2)))(
        keys
    )
    assert anx.validate(ensemble, batch_axes=1) == ()
    assert anx.validate(ensemble, batch_axes=["member"]) == ()
    assert "it fits without its leading axis of 5" in text_of(ensemble)
    assert text_of(changed(ensemble, bias=ones((5, 3))), batch_axes=1) == (
        "Linear.bias: the value does not fit its annotation\n"
        "  expected: Param[Float[Array, 'out'] | None]\n"
        "  found:    float32[5,3], without its leading axis: float32[3]\n"
        "            axis 0 is 3, but out is 2 (set by weight)"
    )
    abstract = eqx.filter_eval_shape(lambda: ensemble)
    assert anx.validate(abstract, batch_axes=1) == ()


def test_ensembles_of_unequal_sizes():
    ensemble = changed(stacked(net(), 5), layers__0__weight=ones((6, 2, 3)))
    assert text_of(ensemble, batch_axes=["member"]) == (
        "Net.layers.0.weight: the value does not fit its annotation\n"
        "  expected: Param[Float[Array, 'out in']]\n"
        "  found:    float32[6,2,3]\n"
        "            axis 0 is 6, but member is 5 (set by layers.0.bias)\n"
        '  fix:      if only a part is an ensemble: batch_axes={"heads.**": 1}'
    )


def test_ensembles_of_ensembles():
    twice = stacked(net(), 4, 5)
    assert anx.validate(twice, batch_axes=2) == ()
    assert anx.validate(twice, batch_axes=["outer", "inner"]) == ()
    assert "Net: 7 values" in text_of(twice, batch_axes=1)
    text = text_of(changed(stacked(kinds(), 4, 5), named=ones((4, 5, 7))), batch_axes=2)
    assert "found:    float32[4,5,2,3], without its leading 2 axes: float32[2,3]\n" in text
    wrong = changed(twice, scale=ones((4, 6)))
    assert "axis 1 is 6, but inner is 5" in text_of(wrong, batch_axes=["outer", "inner"])
    assert "axis 1 is 6, but batch is 5" in text_of(wrong, batch_axes=2)
    assert "axis 1 is 5, but same is 4" in text_of(twice, batch_axes=["same", "same"])
    assert anx.validate(stacked(net(), 4, 4), batch_axes=["same", "same"]) == ()


def test_an_array_without_the_axis():
    part = changed(stacked(net(), 5), scale=ones(()))
    assert "it has too few axes for batch" in text_of(part, batch_axes=1)
    part = changed(stacked(net(), 5), layers__0__bias=ones(2))
    text = text_of(part, batch_axes=1)
    assert text.startswith("Net.layers.0.bias: the value")  # and is told once
    assert "axis 0 is 2, but batch is 5" in text


def test_a_part_is_an_ensemble():
    model = net()
    part = eqx.tree_at(lambda m: m.heads, model, stacked(model.heads, 5))
    assert anx.validate(part, batch_axes={"heads.**": 1}) == ()
    assert anx.validate(part, batch_axes={"heads.**": ["member"]}) == ()
    other = eqx.tree_at(lambda m: m.layers, part, stacked(model.layers, 4))
    both = {"heads.**": 1, "layers.**": 1}
    assert anx.validate(other, batch_axes=both) == ()
    named = dict.fromkeys(both, ("member",))
    assert "but member is 4 (set by layers.0.weight)" in text_of(other, batch_axes=named)
    assert anx.validate(other, batch_axes={"scale": 0, "heads.*.*": 1, "**": 1}) == ()
    assert "Net: 2 values" in text_of(part)
    assert text_of(part, batch_axes={"head.**": 1}) == (
        "validate: a pattern of batch_axes matches nothing\n"
        "  found:    'head.**'\n"
        "  fix:      there is: layers.0.weight, layers.0.bias, layers.1.weight, "
        "layers.1.bias,\n"
        "            heads.a.weight, heads.a.bias, scale"
    )
    with pytest.raises(anx.SelectionError, match="malformed"):
        anx.validate(part, batch_axes={"heads..": 1})


def test_what_is_no_array_has_no_leading_axes():
    class Model(anx.Module):
        rate: anx.Param[float]
        weights: anx.Param[list[Float[Array, " n"]]]

    with anx.checking("off"):
        model = Model(0.1, [ones((5, 2)), ones((5, 2))])
    assert anx.validate(model, batch_axes=1) == ()
    text = text_of(changed(model, weights__1=ones((5, 3))), batch_axes=1)
    assert "Model.weights[1]" in text
    assert "float32[5,3], without its leading axis: float32[3]" in text


def test_numpy_in_an_ensemble_is_still_numpy():
    for dtype in ("float64", "int8"):
        wrong = changed(stacked(linear(), 5), bias=np.ones((5, 2), dtype))
        assert f"numpy {dtype}[2]" in text_of(wrong, batch_axes=1)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (-1, "-1"),
        (True, "True"),
        ("ens", "'ens'"),
        (1.5, "a float"),
        ([1], "a list"),
        (None, "None"),
        ({1: 1}, "a dict"),
        ({"**": "x"}, "'x'"),
        (ones(2), "float32[2]"),
    ],
)
def test_what_are_no_batch_axes(wrong, found):
    assert text_of(linear(), batch_axes=wrong) == (
        "validate: these are no batch axes\n"
        "  expected: how many leading axes there are, or a name for each; or a dictionary "
        "with\n"
        "            that for patterns of paths\n"
        f"  found:    {found}\n"
        '  fix:      batch_axes=1, batch_axes=["ensemble"] or batch_axes={"heads.**": 1}'
    )


def test_which_arrays_disagree_and_with_what():
    arrays = {"a": ones((5, 2)), "b": "text", "c": ones((5,)), "d": ones((4, 3))}
    assert text_of(arrays, batch_axes=1) == (
        "dict.d: the value does not fit its annotation\n"
        "  expected: an array\n"
        "  found:    float32[4,3]\n"
        "            axis 0 is 4, but batch is 5 (set by a)\n"
        '  fix:      if only a part is an ensemble: batch_axes={"heads.**": 1}'
    )
    text = text_of(arrays, batch_axes=["outer", "inner"])
    assert (
        "c: an array, found float32[5]\n    it has too few axes for outer, inner\n" in text
    )


# --- notes ---------------------------------------------------------------------------


def test_an_array_in_two_places_is_noted():
    weight = ones((2, 2))
    model = [Linear(weight, None), Linear(ones((2, 2)), None), Linear(weight, None)]
    assert anx.validate(model) == (
        "0.weight and 2.weight are one array, of which the first update makes 2: tie "
        "them with equinox.nn.Shared",
    )
    three = [Linear(weight, None) for _ in range(3)]
    assert "0.weight, 1.weight and 2.weight are one array" in anx.validate(three)[0]


def test_what_is_not_trained_in_two_places():
    scale = ones(())
    donated = "0.scale and 1.scale are one array, which cannot be donated twice"
    assert anx.validate([net(scale), net(scale)]) == (donated,)
    teacher = anx.freeze(Linear(ones((2, 3)), None), anx.everything)
    student = anx.unfreeze(teacher)
    assert "donated" in anx.validate([teacher, student])[0]
    assert "the first update makes 3" in anx.validate([teacher, student, student])[0]


def test_what_is_shared_is_not_noted():
    class Tied(anx.Module):
        shared: eqx.nn.Shared

        def __init__(self) -> None:
            pair = [Linear(ones((2, 2)), None), Linear(ones((2, 2)), None)]
            self.shared = eqx.nn.Shared(
                pair, where=lambda p: p[1].weight, get=lambda p: p[0].weight
            )

    assert anx.validate(Tied()) == ()


def test_what_is_shared_is_checked_where_it_is():
    class Many(anx.Module):
        table: anx.Param[Array]
        items: anx.Param[list[Float[Array, " n"]]]

    model = Many(ones(3), [ones(3), ones(3)])
    for place in (lambda m: m.table, lambda m: m.items[0]):
        tied = eqx.nn.Shared(model, where=place, get=lambda m: m.items[1])
        assert anx.validate(tied) == ()


def test_abstract_arrays_are_no_arrays_in_two_places():
    one = jax.ShapeDtypeStruct((2,), jnp.float32)
    weight = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    assert anx.validate([Linear(weight, one), Linear(weight, one)]) == ()


# --- anything ------------------------------------------------------------------------


def test_deleted_arrays():
    model = linear()
    model.weight.delete()
    assert anx.validate(model) == ()
    model = changed(linear(), bias=ones(3))
    model.bias.delete()
    assert "found:    float32[3]" in text_of(model)


def test_under_jit():
    @jax.jit
    def run(model, x):
        assert anx.validate(model) == ()
        assert "Net.scale" in text_of(changed(model, scale=x))
        assert len(anx.validate([linear(), changed(model, layers__0__bias=x[0])])) == 0
        return x

    run(net(), ones((2, 2)))


def test_values_never_show():
    model = changed(linear(), bias=jnp.full(3, 123.0))
    assert "123" not in text_of(model)


@pytest.mark.parametrize("tree", [None, 1, 1.5, "text", (), [], {}, ones(3), jnp.tanh])
def test_what_holds_no_model_has_nothing_wrong(tree):
    assert anx.validate(tree) == ()


def test_what_is_no_tree():
    with pytest.raises(
        anx.StructureError, match=r"^validate\(Linear\): a class has no leaves"
    ):
        anx.validate(Linear)
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    with pytest.raises(anx.StructureError, match="it contains itself"):
        anx.validate(cyclic)
    with pytest.raises(anx.StructureError, match="cannot take this apart"):
        anx.validate({1: linear(), "a": linear()})


def test_a_wide_model():
    model = [linear() for _ in range(1000)]
    assert anx.validate(model) == ()
    assert anx.validate(stacked(model, 3), batch_axes=1) == ()
    model[500] = changed(model[500], bias=ones(3))
    assert text_of(model).startswith("list.500.bias: the value")


def test_what_is_registered_meanwhile_counts():
    class Foreign(eqx.Module):
        weight: Float[Array, " n"]
        n: int

    model = Foreign(ones(3), 2)
    assert anx.validate(model) == ()
    anx.register(Foreign, weight=anx.Param)
    assert anx.validate(model) == ()
    anx.register(Foreign, n=anx.Hyper)
    with pytest.raises(anx.CheckError, match="axis 0 is 3, but n is 2"):
        anx.validate(model)


def test_what_stands_behind_an_array_that_was_taken_out():
    class Tied(anx.Module):
        a: anx.Param[Float[Array, " n"]]
        b: anx.Param[Float[Array, " n"]]
        c: anx.Param[Float[Array, "m m"]]

    def shared(c):
        tied = eqx.tree_at(lambda m: m.c, Tied(ones(2), ones(2), ones((3, 3))), c)
        return eqx.nn.Shared(tied, where=lambda m: m.a, get=lambda m: m.b)

    assert anx.validate(shared(ones((2, 2)))) == ()
    with pytest.raises(anx.CheckError, match=r"c: the value does not fit"):
        anx.validate(shared(ones((2, 3))))
