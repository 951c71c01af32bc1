"""Selections and labels."""

import dataclasses
import enum
import functools
from typing import Annotated, Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float

import annotax as anx

T = TypeVar("T")
LoRA = Annotated[T, anx.Role("lora", parent=anx.Param)]
QLoRA = Annotated[T, anx.Role("qlora", parent=LoRA)]
BatchStat = Annotated[T, anx.Role("batch_stat", parent=anx.Buffer)]


class Linear(anx.Module):
    weight: anx.Param[Float[Array, "o i"]] = anx.field(tags=["matrix"])
    bias: anx.Param[Float[Array, " o"]] = anx.field(tags=["no_decay"])


class Net(anx.Module):
    encoder: list[Linear]
    adapter: LoRA[Linear] = anx.field(tags=["small"])
    fixed: anx.Buffer[Linear]
    stats: BatchStat[dict[str, Array]]
    foreign: Any
    steps: Array
    name: anx.Hyper[str] = "net"


def linear():
    return Linear(jnp.ones((2, 2)), jnp.zeros(2))


def net():
    foreign = {"array": jnp.ones(2), "function": jnp.tanh, "rate": 0.5, "none": None}
    return Net(
        [linear(), linear()],
        linear(),
        linear(),
        {"a.b": jnp.ones(2)},
        foreign,
        jnp.array(3),
    )


TRAINABLE = (
    "encoder.0.weight",
    "encoder.0.bias",
    "encoder.1.weight",
    "encoder.1.bias",
    "adapter.weight",
    "adapter.bias",
    "foreign.array",
)


def test_the_trainable_filter_is_a_tree_of_booleans():
    flags = anx.trainable_filter(net())
    assert isinstance(flags, Net)
    assert all(type(flag) is bool for flag in jax.tree.leaves(flags))
    assert anx.trainable_filter.paths(net()) == TRAINABLE
    assert anx.trainable_filter.count(net()) == 7
    trained, rest = eqx.partition(net(), flags)
    assert eqx.tree_equal(eqx.combine(trained, rest), net())


def test_by_role_follows_the_tree_of_roles():
    assert anx.by_role(anx.Param).paths(net()) == TRAINABLE
    assert anx.by_role(LoRA).paths(net()) == ("adapter.weight", "adapter.bias")
    assert anx.by_role(anx.Role("lora", parent=anx.Param)).count(net()) == 2
    assert anx.by_role(QLoRA).count(net()) == 0
    assert anx.by_role(BatchStat).paths(net()) == ("stats['a.b']",)
    assert anx.by_role(anx.Buffer).paths(net()) == (
        "fixed.weight",
        "fixed.bias",
        "stats['a.b']",
        "steps",
    )
    assert anx.by_role(anx.Hyper).count(net()) == 0
    with pytest.raises(anx.AnnotationError, match="this is not a role"):
        anx.by_role("param")


def test_by_tag_adds_up_from_the_root():
    assert anx.by_tag("small").paths(net()) == ("adapter.weight", "adapter.bias")
    assert (anx.by_tag("small") & anx.by_tag("no_decay")).paths(net()) == ("adapter.bias",)


def test_by_path():
    assert anx.by_path("encoder.**.bias").count(net()) == 2
    assert anx.by_path("**.weight").count(net()) == 4
    assert anx.by_path("stats['a.b']").count(net()) == 1
    assert anx.by_path("*.*").paths(net()) == (
        "adapter.weight",
        "adapter.bias",
        "fixed.weight",
        "fixed.bias",
        "stats['a.b']",
        "foreign.array",
        "foreign.function",
        "foreign.rate",
    )


def test_by_asks_every_leaf_and_opaque_ones_have_no_dimensions():
    assert anx.by(lambda r: r.ndim >= 2).count(net()) == 4
    assert anx.by(lambda r: r.dtype is None).paths(net()) == (
        "foreign.function",
        "foreign.rate",
    )
    assert anx.by(lambda r: r.size == 2).count(net()) == 6
    assert anx.by(lambda r: r.role == anx.Buffer).paths(net())[-1] == "steps"
    assert anx.by(lambda r: r.axes == ("o", "i")).count(net()) == 4
    assert anx.by(lambda r: r.undeclared and r.trainable).paths(net()) == ("foreign.array",)


def test_at_takes_nodes_leaves_and_containers():
    assert anx.at(lambda m: m.encoder).count(net()) == 4
    assert anx.at(lambda m: (m.adapter.bias, m.stats)).paths(net()) == (
        "adapter.bias",
        "stats['a.b']",
    )
    assert anx.at(lambda m: m.foreign["none"]).count(net()) == 0
    assert anx.at(lambda m: m.encoder).count(anx.trainable_filter(net())) == 4


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (lambda m: m.name, "found:    a str"),
        (lambda m: jnp.ones(2), "found:    an array float32[2]"),
        (lambda m: m.encodr, "has no attribute 'encodr'"),
        (lambda m: m.steps + m.steps, "the function failed on it: unsupported operand"),
        (lambda m: m.steps.shape, "'Leaf' object has no attribute 'shape'"),
    ],
)
def test_at_refuses_what_is_not_in_the_model(where, words):
    with pytest.raises(anx.SelectionError, match=r"^at: ") as caught:
        anx.at(where)(net())
    assert words in str(caught.value)


def test_at_needs_a_model():
    with pytest.raises(anx.SelectionError, match="needs a model"):
        anx.at(lambda m: m.encoder)(anx.params(net()))


def test_selections_know_abstract_models_gradients_masks_and_leaves():
    model = net()
    gradients = eqx.filter_grad(lambda m: jnp.sum(m.encoder[0].weight))(model)
    for tree in (
        eqx.filter_eval_shape(net),
        gradients,
        anx.leaves(model, anx.everything),
        eqx.filter(model, eqx.is_array),
    ):
        assert anx.trainable_filter.paths(tree) == TRAINABLE
        assert anx.by_tag("no_decay").count(tree) == 4
        assert anx.by_role(BatchStat).paths(tree) == ("stats['a.b']",)
    inside = []
    eqx.filter_jit(lambda m: inside.append(anx.trainable_filter.paths(m)))(model)
    jax.vmap(lambda m: inside.append(anx.by_tag("no_decay").count(m)))(
        jax.tree.map(lambda x: x[None], eqx.filter(model, eqx.is_array))
    )
    assert inside == [TRAINABLE, 4]


def test_optimizer_states_have_the_paths_of_their_parameters():
    state = optax.adam(1e-3).init(anx.params(net()))
    assert anx.by_path("**.adapter.bias").paths(state) == (
        "0.mu.adapter.bias",
        "0.nu.adapter.bias",
    )
    assert anx.by_tag("no_decay").count(state) == 6
    assert anx.by_role(LoRA).count(state) == 4


def test_algebra_and_text():
    a, b = anx.by_tag("small"), anx.by_role(LoRA)
    assert repr(~(a | b) & anx.everything) == (
        "(~(by_tag('small') | by_role(lora)) & everything)"
    )
    assert (a | ~a).count(net()) == len(jax.tree.leaves(net()))
    assert (b & (lambda m: anx.by_tag("no_decay")(m))).paths(net()) == ("adapter.bias",)


def test_expect():
    assert anx.by_tag("small").expect(2).count(net()) == 2
    with pytest.raises(anx.SelectionError) as caught:
        anx.by_tag("small").expect(3)(net())
    assert str(caught.value) == (
        "by_tag('small'): matched another number of leaves\n"
        "  expected: 3\n"
        "  found:    2: adapter.weight, adapter.bias\n"
        "  fix:      annotax.records(model) tells what there is to match"
    )


def test_what_is_no_selection():
    with pytest.raises(anx.SelectionError, match="found:    a str"):
        anx.leaves(net(), "encoder")
    with pytest.raises(anx.SelectionError, match="the function is no selection"):
        anx.leaves(net(), lambda m: True)
    with pytest.raises(anx.SelectionError, match="this is no selection"):
        anx.leaves(net(), Net)


def test_a_selection_that_was_not_called_on_the_model_is_refused():
    """Equinox would call it on every leaf and take the answers for a filter."""
    for function in (eqx.partition, eqx.filter):
        with pytest.raises(
            anx.SelectionError, match="asked about a leaf on its own"
        ) as caught:
            function(net(), anx.trainable_filter)
    assert "call the selection on the model" in str(caught.value)
    assert anx.trainable_filter(None) is None


def test_and_or_not_are_refused():
    tag = anx.by_tag("small")
    for use in (lambda: tag and tag, lambda: tag or tag, lambda: not tag):
        with pytest.raises(anx.SelectionError, match="neither true nor false") as caught:
            use()
    assert "& for and, | for or, ~ for not" in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            lambda: anx.leaves(net(), anx.trainable_filter(net())),
            "not the tree that it makes",
        ),
        (lambda: anx.trainable_filter & anx.trainable_filter(net()), "found:    a Net"),
        (lambda: anx.leaves(net(), anx.params(net())), "found:    a Leaves"),
        (lambda: anx.leaves(net(), LoRA), "annotax.by_role(lora)"),
        (lambda: anx.leaves(net(), anx.Param), "found:    the role Param\n"),
        (lambda: anx.leaves(net(), "head.**"), "annotax.by_path('head.**')"),
        (lambda: anx.leaves(net(), lambda m: m.adapter), "annotax.at(...)"),
        (lambda: anx.by_tag(["a", "b"]), "by_tag('a') | by_tag('b')"),
        (lambda: anx.by_path(3), "found:    an int"),
        (lambda: anx.by(3), "found:    an int"),
        (lambda: anx.labels([1]), "found:    a list"),
        (lambda: anx.labels({"a": "head"}), "annotax.by_path('head')"),
    ],
)
def test_what_cannot_select_says_what_would(wrong, words):
    with pytest.raises(anx.SelectionError) as caught:
        wrong()
    assert words in str(caught.value)


def test_keys_that_are_enums_are_written_as_keys():
    class Key(enum.StrEnum):
        A = "a"

    (path,) = anx.by_path("x[*]").paths({"x": {Key.A: 1.0}})
    assert path == "x[<Key.A: 'a'>]"


def test_leaves_say_declared():
    assert {r.origin for r in anx.records(anx.params(net()))} == {"declared"}


def test_labels():
    params = anx.params(net())
    labelled = anx.labels({"lora": anx.by_role(LoRA)}, default="body")(params)
    assert dict(labelled) == {
        p: "lora" if p.startswith("adapter") else "body" for p in TRAINABLE
    }
    with pytest.raises(anx.SelectionError, match=r"two labels for adapter.bias \(a, b\)"):
        anx.labels({"a": anx.by_role(LoRA), "b": anx.by_tag("no_decay")}, default="c")(
            params
        )
    with pytest.raises(
        anx.SelectionError, match=r"none for encoder.0.weight, encoder.0.bias"
    ):
        anx.labels({"a": anx.by_role(LoRA)})(params)


# --- records and layouts -------------------------------------------------------------


def test_a_record_carries_everything():
    class Documented(anx.Module):
        w: anx.Param[Float[Array, "o i"]] = anx.field(
            tags=["t"],
            axes=("rows", "cols"),
            doc="a matrix",
            metadata={"unit": "m"},
            persistent=False,
        )

    (record,) = anx.records([Documented(jnp.ones((2, 3)))])
    found = {
        name: getattr(record, name) for name in ("path", "trainable", "origin", "owner")
    }
    assert found == {
        "path": "0.w",
        "trainable": True,
        "origin": "declared",
        "owner": Documented,
    }
    assert (record.shape, record.dtype, record.ndim, record.size) == (
        (2, 3),
        jnp.float32,
        2,
        6,
    )
    assert (record.tags, record.axes, record.doc) == ({"t"}, ("rows", "cols"), "a matrix")
    assert (dict(record.metadata), record.persistent) == ({"unit": "m"}, False)
    assert (record.declared, record.inferred, record.undeclared) == (True, False, False)
    assert (record.spec.name, record.spec.declared_by) == ("w", Documented)
    assert record.role == anx.Param


def test_persistence_and_doc_of_nested_fields():
    class Outer(anx.Module):
        cache: anx.Buffer[Linear] = anx.field(persistent=False, doc="outer", axes=("x",))

    records = anx.records(Outer(linear()))
    assert [r.persistent for r in records] == [False, False]
    assert [(r.doc, r.axes) for r in records] == [("", ("o", "i")), ("", ("o",))]


def test_records_of_things_that_are_no_models():
    assert anx.records(None) == ()
    (record,) = anx.records(jnp.ones(3))
    assert (record.path, record.role, record.spec, record.owner) == (
        "",
        anx.Param,
        None,
        None,
    )
    assert (record.doc, dict(record.metadata)) == ("", {})
    (record,) = anx.records("text")
    assert (record.role, record.shape, record.size, record.trainable) == (
        None,
        (),
        0,
        False,
    )
    assert (record.origin, record.frozen, record.enforced) == ("undeclared", False, False)
    assert [
        r.role.name for r in anx.records((np.ones(1), np.float32(1), np.arange(2)))
    ] == [
        "param",
        "param",
        "buffer",
    ]


def test_declared_params_that_are_no_inexact_arrays_are_not_trainable():
    class Model(anx.Module):
        x: anx.Param[Any]

    for value in (1.5, jnp.arange(2), jax.random.key(0), "text", True):
        assert anx.trainable_filter.count(Model(value)) == 0
    assert anx.trainable_filter.count(Model(jnp.ones(1, jnp.complex64))) == 1
    assert anx.trainable_filter.count(Model(jnp.ones(1, jnp.bfloat16))) == 1


def test_dictionary_keys_with_one_repr_still_have_two_paths():
    @dataclasses.dataclass(frozen=True, order=True)
    class Key:
        n: int

        def __repr__(self):
            return "Key"

    paths = [r.path for r in anx.records({Key(1): 1.0, Key(2): 2.0, Key(3): 3.0})]
    assert paths == ["[Key]", "[Key#2]", "[Key#3]"]


def test_arrays_in_static_fields_of_others_do_not_break_the_cache():
    class Careless(eqx.Module):
        w: Array
        table: Any = eqx.field(static=True)

    for _ in range(3):
        with pytest.warns(UserWarning, match="static"):
            model = Careless(jnp.ones(1), np.ones(3))
        assert anx.trainable_filter.paths(model) == ("w",)


def test_foreign_pytrees():
    point = optax.ScaleByAdamState(
        count=jnp.array(0), mu={"w": jnp.ones(1)}, nu=[jnp.ones(1)]
    )
    assert [r.path for r in anx.records(point)] == ["count", "mu.w", "nu.0"]

    @jax.tree_util.register_pytree_node_class
    class Unkeyed:
        def __init__(self, *children):
            self.children = children

        def tree_flatten(self):
            return self.children, None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(*children)

    assert [r.path for r in anx.records({"u": Unkeyed(1.0, [2.0], None)})] == [
        "u.0",
        "u.1.0",
    ]
    assert anx.records(Unkeyed()) == ()


# --- messages ------------------------------------------------------------------------

NO_SELECTION = """\
selection: this is no selection
  expected: a selection such as trainable_filter, or a function from a model to a tree
            of booleans
  found:    {}
  fix:      {}"""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda: anx.leaves(net(), LoRA),
            NO_SELECTION.format("the role lora", "annotax.by_role(lora)"),
        ),
        (
            lambda: anx.leaves(net(), "head.**"),
            NO_SELECTION.format("a str", "annotax.by_path('head.**')"),
        ),
        (
            lambda: anx.leaves(net(), anx.params(net())),
            NO_SELECTION.format(
                "a Leaves", "give the selection itself, not the tree that it makes"
            ),
        ),
        (
            lambda: anx.trainable_filter(jnp.ones(2)),
            """\
trainable_filter: asked about a leaf on its own, which has no path and no role
  expected: a model, Leaves, or another tree
  found:    an array float32[2]
  fix:      call the selection on the model: eqx.partition(model,
            trainable_filter(model));
            for optax.inject_hyperparams name it: static_args=('mask',)""",
        ),
        (
            lambda: bool(anx.by_tag("small")),
            """\
by_tag('small'): a selection is neither true nor false
  expected: & for and, | for or, ~ for not
  found:    `and`, `or`, `not` or `if`""",
        ),
        (
            lambda: anx.leaves(net(), lambda m: m.adapter),
            """\
<lambda>: the function is no selection
  expected: a tree of the model's own shape with a bool at every leaf
  found:    a Linear
  fix:      annotax.at(...) selects by nodes, annotax.by(...) by leaves""",
        ),
        (
            lambda: anx.by_tag(["a", "b"]),
            """\
by_tag(...): this cannot select
  expected: a tag
  found:    a list
  fix:      by_tag('a') | by_tag('b')""",
        ),
        (
            lambda: anx.by_path(3),
            """\
by_path(...): this cannot select
  expected: a pattern
  found:    an int
  fix:      by_path('**.bias')""",
        ),
        (
            lambda: anx.by(3),
            """\
by(...): this cannot select
  expected: a function of a record
  found:    an int
  fix:      by(lambda record: record.ndim >= 2)""",
        ),
        (
            lambda: anx.by_path("a..b"),
            """\
by_path('a..b'): the pattern is malformed
  expected: steps joined by dots; '*' within a step, '**' for any number of steps,
            ['...'] for dictionary keys that are no identifiers
  fix:      for instance 'encoder.**.weight', 'layers.*.bias', "table['a.b']\"""",
        ),
        (
            lambda: anx.at(lambda m: (m.name, m.steps, 3))(net()),
            """\
at: the function returns something that is no leaf of the model
  expected: leaves or nodes of the Net
  found:    a str, an int
  fix:      static fields (Hypers) and computed values cannot be selected""",
        ),
        (
            lambda: anx.at(lambda m: m.encodr)(net()),
            """\
at: the function failed on it: 'Net' object has no attribute 'encodr'
  found:    a Net
  fix:      return nodes of the model; arrays cannot be computed with here""",
        ),
        (
            lambda: anx.at(lambda m: m.encoder)(anx.params(net())),
            """\
at: needs a model
  found:    a Leaves
  fix:      use by_path(...) on Leaves""",
        ),
        (
            lambda: anx.labels([1]),
            """\
labels: these are no labels
  expected: a mapping from labels to selections
  found:    a list
  fix:      labels({"head": by_path("head.**")}, default="body")""",
        ),
        (
            lambda: anx.labels({"a": anx.by_role(LoRA), "b": anx.by_tag("no_decay")})(
                anx.params(net())
            ),
            """\
labels({'a': by_role(lora), 'b': by_tag('no_decay')}, default=None): every leaf needs one \
label
  expected: selections that do not overlap, and a default for the rest
  found:    two labels for adapter.bias (a, b)
            none for encoder.0.weight, encoder.1.weight, foreign.array
  fix:      subtract one from the other (a & ~b), and give default="...\"""",
        ),
    ],
)
def test_the_texts_of_messages(wrong, message):
    with pytest.raises(anx.SelectionError) as caught:
        wrong()
    assert str(caught.value) == message


def test_what_a_selection_is_called():
    assert repr(anx.by(lambda record: True)) == "by(<lambda>)"
    assert repr(anx.by(type("Odd", (), {"__call__": lambda self, r: True})())) == "by(...)"
    assert repr(anx.at(lambda model: model)) == "at(...)"
    assert repr(anx.by_tag("a").expect(2)) == "by_tag('a').expect(2)"
    assert repr(anx.trainable_filter) == "trainable_filter"
    assert repr(anx.everything & (lambda model: model)) == "(everything & <lambda>)"
    assert repr(anx.everything & functools.partial(max, 1)) == "(everything & partial)"
    assert repr(anx.labels({"a": anx.everything}, default="b")) == (
        "labels({'a': everything}, default='b')"
    )
