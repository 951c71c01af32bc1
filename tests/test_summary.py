"""That the figures of `summary` are right for any model, and that nothing breaks it."""

import json
from functools import partial
from itertools import pairwise
from typing import Annotated

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array

import annotax as anx
from annotax import StructureError
from annotax._path import segments
from annotax._text import columns, shorten, value_text
from annotax._totals import Total
from annotax._view import careful_view, modules_of, view
from shown_models import (
    Fixed,
    Plain,
    T,
    Tied,
    layer,
    linears,
    message,
    text,
)
from strategies import (
    FLOATS,
    OPAQUE,
    ancestry,
    crowded_models,
    joined,
    layered_models,
)


def leaf_rows(found):
    return [row for row in found.to_dict()["rows"] if row["kind"] == "leaf"]


# --- figures, for any model ----------------------------------------------------------

MODELS = layered_models() | crowded_models()
DEPTHS = st.none() | st.integers(0, 4)


def size_of(leaf):
    return 0 if leaf.kind == "opaque" else int(np.prod(leaf.leaf.shape))


def bytes_of(leaf):
    return size_of(leaf) * leaf.leaf.dtype.itemsize if size_of(leaf) else 0


def is_param(leaf):
    return leaf.kind != "opaque" and "param" in ancestry(leaf.role)


def state_bytes(optimizer, model):
    leaves = jax.tree.leaves(optimizer.init(anx.params(model)))
    return sum(leaf.nbytes for leaf in leaves)


@given(MODELS, DEPTHS, st.integers(40, 200))
def test_no_line_is_longer_than_the_width(model, depth, width):
    found = anx.summary(model.tree, depth=depth)
    lines = found.text(width).split("\n")
    assert max(map(columns, lines)) <= width
    assert all(line == line.rstrip() and line.isprintable() for line in lines)
    assert lines == ["".join(text for text, _ in line) for line in found.lines(width)]


@given(MODELS)
def test_every_leaf_has_one_row_in_order(model):
    rows = leaf_rows(anx.summary(model.tree))
    assert [row["path"] for row in rows] == [leaf.path for leaf in model.expected]
    for row, leaf in zip(rows, model.expected, strict=True):
        is_array = leaf.kind != "opaque"
        assert row["shape"] == (list(leaf.leaf.shape) if is_array else [])
        assert row["dtype"] == (str(leaf.leaf.dtype) if is_array else None)
        assert (row["value"] is None) == is_array
        if is_array:
            assert (row["role"], row["trainable"]) == (leaf.role.name, leaf.trainable)
            assert (row["parameters"], row["bytes"]) == (
                size_of(leaf) if is_param(leaf) else 0,
                bytes_of(leaf),
            )


@given(MODELS)
def test_every_row_counts_what_is_in_it(model):
    for row in anx.summary(model.tree).to_dict()["rows"]:
        steps = segments(row["path"])
        inside = [leaf for leaf in model.expected if leaf.steps[: len(steps)] == steps]
        assert row["bytes"] == sum(map(bytes_of, inside))
        assert row["parameters"] == sum(map(size_of, filter(is_param, inside)))


@given(MODELS)
def test_what_stands_twice_counts_in_the_first_place(model):
    twice = anx.summary([model.tree, {"again": model.tree}])
    once = anx.summary([model.tree])
    assert (twice.root.parameters, twice.root.bytes) == (
        once.root.parameters,
        once.root.bytes,
    )
    rows = leaf_rows(twice)
    again = {row["path"]: row for row in rows if row["path"].startswith("1.again")}
    for leaf in model.expected:
        first, second = (joined((*way, *leaf.steps)) for way in (("0",), ("1", "again")))
        is_array = leaf.kind != "opaque"
        assert again[second]["same_as"] == (first if is_array else None)
        assert again[second]["bytes"] == again[second]["parameters"] == 0
    for name, total in twice.totals.items():
        assert total.leaves == 2 * once.totals[name].leaves
        assert total.places == 2 * once.totals[name].places
        assert (total.arrays, total.elements, total.bytes) == (
            once.totals[name].arrays,
            once.totals[name].elements,
            once.totals[name].bytes,
        )
    assert twice.optimizer_bytes == 2 * once.optimizer_bytes - 4
    assert twice.optimizer_bytes == state_bytes(optax.adam(1e-3), twice_tree(model))


def twice_tree(model):
    return [model.tree, {"again": model.tree}]


def expected_total(leaves, kind):
    arrays = [leaf for leaf in leaves if leaf.kind != "opaque"]
    return Total(
        kind=kind,
        leaves=len(leaves),
        places=len(arrays),
        arrays=len(arrays),
        elements=sum(map(size_of, arrays)),
        bytes=sum(map(bytes_of, arrays)),
    )


def share(leaf, frozen):
    if leaf.kind == "opaque":
        return "other"
    if "buffer" in ancestry(leaf.role):
        return "buffers"
    if leaf.path in frozen:
        return "frozen"
    return "trainable" if leaf.trainable else "untrained"


KINDS = {"trainable": "param", "frozen": "param", "buffers": "buffer"}


@given(MODELS, st.booleans())
def test_totals_are_sums_over_the_leaves(model, freeze):
    tree, leaves = model.tree, model.expected
    chosen = {leaf.path for leaf in leaves if freeze and leaf.freezable}
    if chosen:
        tree = anx.freeze(tree, anx.by(lambda record: record.path in chosen))
    records = anx.records(tree)
    frozen = {record.path for record in records if record.frozen}
    found = anx.summary(tree)
    for name, total in found.totals.items():
        some = [leaf for leaf in leaves if share(leaf, frozen) == name]
        assert total == expected_total(some, KINDS.get(name, ""))
    by_role = {}
    for record, leaf in zip(records, leaves, strict=True):
        by_role.setdefault(record.role, []).append(leaf)
    assert found.roles == {
        role.name if role else "opaque": expected_total(
            some, role.kind.name if role else ""
        )
        for role, some in by_role.items()
    }
    assert found.root.bytes == sum(total.bytes for total in found.totals.values())
    params = [total for total in found.roles.values() if total.kind == "param"]
    assert found.root.parameters == sum(total.elements for total in params)
    assert found.totals["trainable"].elements == sum(
        array.size for array in anx.params(tree).values()
    )


@given(MODELS)
def test_adam_needs_as_many_bytes_as_said(model):
    found = anx.summary(model.tree)
    assert found.optimizer_bytes == state_bytes(optax.adam(1e-3), model.tree)
    assert found.optimizer_bytes == anx.summary(anx.params(model.tree)).optimizer_bytes
    assert found.optimizer == "adam"


OPTIMIZERS = (
    optax.adamw(1e-3),
    optax.sgd(1e-2),
    optax.sgd(1e-2, momentum=0.9),
    optax.adam(optax.linear_schedule(1e-3, 0.0, 10)),
    optax.multi_transform(
        {"one": optax.adam(1e-3), "two": optax.sgd(1e-3, momentum=0.9)},
        anx.labels({"one": anx.by(lambda record: record.ndim >= 2)}, default="two"),
    ),
)


@settings(max_examples=15)
@given(MODELS, st.sampled_from(OPTIMIZERS))
def test_any_optimizer_needs_as_many_bytes_as_said(model, optimizer):
    found = anx.summary(model.tree, optimizer=optimizer)
    assert found.optimizer_bytes == state_bytes(optimizer, model.tree)
    assert found.optimizer == "the given optimizer"


@given(MODELS, DEPTHS)
def test_the_data_is_json(model, depth):
    data = anx.summary(model.tree, depth=depth).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    levels = [row["level"] for row in data["rows"]]
    assert levels[0] == 0
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert depth is None or max(levels) <= depth
    whole = anx.summary(model.tree).to_dict()["rows"]
    assert data["rows"] == [row for row in whole if depth is None or row["level"] <= depth]


@given(MODELS)
def test_modules_come_in_the_order_of_the_layout(model):
    seen = view(model.tree)
    modules = modules_of(seen)
    assert len(modules) == len(seen.layout.modules) == len(model.nodes)
    for module, entry, node in zip(modules, seen.layout.modules, model.nodes, strict=True):
        assert type(module) is entry.cls
        assert entry.path == joined(node.steps)


@given(layered_models([*FLOATS, *OPAQUE]))
def test_an_abstract_model_looks_like_the_model(model):
    arrays, rest = eqx.partition(model.tree, eqx.is_array)
    abstract = eqx.combine(jax.eval_shape(lambda: arrays), rest)
    assert str(anx.summary(abstract)) == str(anx.summary(model.tree))


@given(layered_models(FLOATS))
def test_the_halves_of_a_partition_add_up(model):
    whole = anx.summary(model.tree)
    parts = eqx.partition(model.tree, anx.trainable_filter(model.tree))
    one, two = map(anx.summary, parts)
    assert whole.root.bytes == one.root.bytes + two.root.bytes
    assert one.totals["trainable"] == whole.totals["trainable"]
    assert two.totals["trainable"].leaves == one.totals["buffers"].leaves == 0
    assert two.totals["buffers"] == whole.totals["buffers"]
    flat = anx.summary(anx.params(model.tree))
    assert flat.totals["trainable"] == whole.totals["trainable"]
    assert [row["path"] for row in leaf_rows(flat)] == [
        row["path"] for row in leaf_rows(whole) if row["trainable"]
    ]


# --- values that are somebody else's ---------------------------------------------------


class Says:
    """An object with such a `repr`."""

    def __init__(self, said):
        self.said = said

    def __repr__(self):
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


class Endless:
    def __repr__(self):
        return repr(self)


class Elusive:
    def __getattr__(self, name):
        raise OSError(name)


class Holder:
    def __init__(self, x):
        self.x = x

    def __repr__(self):
        return f"Holder({self.x!r})"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "None"),
        ("a\nb", r"'a\nb'"),
        (1e-5, "1e-05"),
        (jax.nn.relu, "relu"),
        (lambda x: x, "<lambda>"),
        (eqx.nn.Linear, "Linear"),
        (partial(print, sep=""), "functools.partial(<built-in function print>, sep='')"),
        (object(), "<object object>"),
        (jnp.ones((2, 3)), "f32[2,3]"),
        (np.float32(1), "f32[]"),
        ([1, jnp.ones(3)], "list with arrays"),
        (linears(1)[0], "Linear with arrays"),
        (Holder(jnp.ones(3)), "Holder with arrays"),
        (Holder([np.ones(3)]), "Holder with arrays"),
        (Says("subarray(3)"), "subarray(3)"),
        (Says("x" * 10**6), "x" * 59 + "…"),
        (Says("日本" * 100), "日本" * 14 + "日…"),
        (Says("two\n  lines\tand\rmore"), "two lines and more"),
        (Says("\x1b[31mred\x1b[0m\x07\x00"), r"\x1b[31mred\x1b[0m\x07\x00"),
        (Says("\u202eabc\u200b\ud800\x9b"), r"\u202eabc\u200b\ud800\x9b"),
        (Says(""), ""),
        (Says(ValueError("no")), "<Says: repr raised ValueError>"),
        (Says(3), "<Says: repr raised TypeError>"),
        (Endless(), "<Endless: repr raised RecursionError>"),
    ],
)
def test_values_in_one_line(value, shown):
    assert value_text(value) == shown
    model = Fixed({"leaf": jnp.ones(2)}, Says(shown))
    assert value_text(value, 9) == shorten(shown, 9)
    object.__setattr__(model, "value", value)  # Equinox warns of arrays
    assert f"Fixed value={shown[:20]}" in str(anx.summary(model))


def test_values_that_refuse_to_be_looked_at():
    assert value_text(Elusive()) == "<Elusive: repr raised OSError>"


def test_no_value_of_an_array_is_shown():
    secret = jnp.full((3,), 123.0)
    model = Plain({"a": secret}, Holder([secret, np.asarray(secret)]))
    found = anx.summary(model)
    assert "123" not in str(found) + json.dumps(found.to_dict())


def test_leaves_that_are_no_arrays_do_not_break_the_table():
    shows(
        {"bad": Says(ValueError()), "lines": Says("a\nb"), "red": Says("\x1b[31m")},
        """
                                                                           params  bytes
        dict
        ├ bad    opaque  <Says: repr raised ValueError>
        ├ lines  opaque  a b
        └ red    opaque  \\x1b[31m

        trainable   0 parameters in 0 arrays, 0 B
        other       3 leaves that are no arrays
        """,
    )


def test_keys_do_not_break_the_table():
    class Key:
        def __repr__(self):
            return "\x1b[31mred\n"

    shows(
        {"a": {Key(): 1}},
        r"""
                                                                           params  bytes
        dict
        └ a['\x1b[31mred\n']  opaque  1

        trainable   0 parameters in 0 arrays, 0 B
        other       1 leaf that is no array
        """,
    )


def test_long_roles_and_classes():
    alias = Annotated[T, anx.Role("low_rank_adapter_of_the_head\n", parent=anx.Param)]
    name = "A" + "b" * 99
    cls = type(anx.Module)(name, (anx.Module,), {"__annotations__": {"x": alias[Array]}})
    shows(
        [cls(jnp.ones(3))],
        r"""
                                                                           params  bytes
        list                                                                    3   12 B
        └ 0 Abbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb…       3   12 B
          └ x  low_rank_adapter_of_…  f32[3]                                    3   12 B

        trainable                 3 parameters in 1 array, 12 B
        low_rank_adapter_of_the_… 3 parameters in 1 array, 12 B
        optimizer                 28 B of state for adam
        """,
    )


def test_deleted_arrays():
    deleted = jnp.ones(3)
    deleted.delete()
    found = anx.summary({"a": deleted}, optimizer=optax.adam(1e-3))
    assert " ".join(str(found).split("\n")[2].split()) == "└ a param ? f32[3] 3 12 B"
    assert found.optimizer_bytes == 28
    assert found._repr_html_()


def test_tracers():
    texts = []

    @jax.jit
    def step(params):
        texts.append(str(anx.summary(params, optimizer=optax.adam(1e-3))))
        texts.append(anx.summary(params)._repr_html_())
        return params

    step(anx.params(layer()))
    assert texts[0].replace("the given optimizer", "adam") == str(
        anx.summary(anx.params(layer()))
    )
    assert jax.jit(lambda x: anx.summary(x).root.name == "Array")(1.0)


def test_arrays_in_the_place_of_a_hyper_are_no_parameters():
    found = anx.summary(eqx.nn.Dropout(p=jnp.array(0.5)))
    assert found.root.parameters == 0
    assert "\nuntrained   1 element in 1 array, 4 B\n" in str(found)


def test_stand_ins_are_not_the_same_array():
    stand_in = jax.ShapeDtypeStruct((np.int64(2), 3), "float32")
    found = anx.summary({"a": stand_in, "b": stand_in})
    assert [row["same_as"] for row in leaf_rows(found)] == [None, None]
    assert found.root.parameters == 12
    assert json.dumps(found.to_dict())


def test_a_hundred_thousand_leaves():
    leaves = [np.zeros(i % 3) for i in range(100_000)]
    found = anx.summary([leaves[at : at + 10] for at in range(0, 100_000, 10)])
    assert found.totals["trainable"].leaves == 100_000
    assert found.root.parameters == sum(leaf.size for leaf in leaves)
    assert len(str(found).split("\n")) > 100_000
    assert len(found.to_dict()["rows"]) == 110_001


def shows(model, block, **options):
    """Whether a summary is this text."""
    assert str(anx.summary(model, **options)) == text(block)


# --- errors ----------------------------------------------------------------------------


def cyclic_list():
    cyclic = []
    cyclic.append(cyclic)
    return cyclic


def cyclic_dict():
    cyclic = {}
    cyclic["a"] = [cyclic]
    return cyclic


def cyclic_module():
    cyclic = Plain([], None)
    cyclic.scale.append(cyclic)
    return cyclic


def too_deep():
    deep = 1
    for _ in range(700):
        deep = {"a": deep, "b": 0}
    return deep


ENDLESS = text(
    """
    this cannot be followed: it contains itself, or nests too deeply
      expected: containers that do not contain themselves, and less than some hundreds of
                modules in one another
      fix:      look for a list or a dictionary that was put into itself; or stack the
                layers (equinox.filter_vmap)
    """
)


@pytest.mark.parametrize("look", [anx.summary, lambda tree: careful_view(tree, "look")])
@pytest.mark.parametrize(
    ("tree", "kind"),
    [(cyclic_list, "list"), (cyclic_dict, "dict"), (cyclic_module, "Plain")],
)
def test_what_contains_itself(look, tree, kind):
    expected = f"a {kind}: {ENDLESS}"
    for _ in range(3):  # it must not use up the recursion that Python allows
        assert message(StructureError, lambda: look(tree())) == expected
    if kind != "Plain":
        assert message(StructureError, lambda: view(tree())) == expected


def test_what_nests_too_deeply():
    deep = too_deep()
    assert message(StructureError, lambda: anx.summary(deep)) == f"a dict: {ENDLESS}"


def test_errors_of_others_stay_theirs():
    @jax.tree_util.register_pytree_node_class
    class Broken:
        def tree_flatten(self):
            raise self.error

        @classmethod
        def tree_unflatten(cls, data, children):
            raise NotImplementedError

    broken = Broken()
    for broken.error in (ZeroDivisionError("theirs"), SystemError("theirs")):
        with pytest.raises(type(broken.error), match="theirs"):
            view([broken])
        for look in (anx.summary, lambda x: anx.diff(x, 1), lambda x: anx.explain(x, "0")):
            found = message(StructureError, lambda look=look: look([broken]))
            assert f"found:    {type(broken.error).__name__}: theirs" in found


def test_dictionaries_whose_keys_cannot_be_sorted():
    found = message(StructureError, lambda: anx.summary({1: 1.0, "a": 2.0}))
    assert found.startswith("summary(dict): JAX cannot take this apart\n")
    assert "expected: a PyTree: dictionaries whose keys can be sorted" in found


@pytest.mark.parametrize("order", [1, -1])
def test_an_array_in_a_buffer_and_in_a_param_is_one_of_each(order):
    class Tie(anx.Module):
        teacher: anx.Buffer[jax.Array]
        student: anx.Param[jax.Array]

    array = jnp.ones((3, 2))
    tied = [Tie(array, jnp.zeros(1)), Tie(jnp.zeros(2), array)][::order]
    found = anx.summary(tied)
    assert found.totals["trainable"].elements == 7
    assert found.totals["buffers"].elements == 8
    assert found.root.parameters == 7
    assert found.root.bytes == 4 * (6 + 1 + 2)
    assert found.optimizer_bytes == 4 + 2 * 4 * 7


def test_names_of_the_axes_of_stacked_models():
    make = eqx.filter_vmap(lambda key: eqx.nn.Linear(3, 2, key=key))
    stacked = make(jax.random.split(jax.random.key(0), 4))
    assert "f32[4,2,3] _ out_features in_features" in str(anx.summary(stacked))


def test_a_class():
    assert message(StructureError, lambda: anx.summary(Tied)) == text(
        """
        summary(Tied): a class has no leaves
          expected: a model, or an abstract one
          found:    a class
          fix:      eqx.filter_eval_shape(Tied, ...) makes an abstract instance; annotax.audit
                    looks at classes
        """  # noqa: E501 -- as it is printed
    )


@pytest.mark.parametrize(
    ("depth", "found"), [(-1, "-1"), (1.5, "a float"), ("2", "a str"), ([], "a list")]
)
def test_a_depth_that_is_none(depth, found):
    assert message(StructureError, lambda: anx.summary([], depth=depth)) == text(
        f"""
        summary(depth=...): this is no depth
          expected: None, or how many levels to show: 0, 1, 2, ...
          found:    {found}
        """
    )


@pytest.mark.parametrize(
    ("optimizer", "found"),
    [
        (3, "an int"),
        (optax.adam, "a function"),
        (optax.GradientTransformation, "the class GradientTransformation"),
        (jnp.ones(3), "an array float32[3]"),
    ],
)
def test_an_optimizer_that_is_none(optimizer, found):
    look = partial(anx.summary, layer(), optimizer=optimizer)
    assert message(StructureError, look) == text(
        f"""
        summary(optimizer=...): this is no optimizer
          expected: an optax.GradientTransformation
          found:    {found}
          fix:      summary(model, optimizer=optax.adamw(1e-3))
        """
    )
