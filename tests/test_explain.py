"""`explain`: each answer in each variant, by the same facts as the records."""

import dataclasses
import importlib.util
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import annotax as anx
from annotax._node import every_path
from strategies import (
    ROLES as ALIASES,
)
from strategies import (
    Model,
    ancestry,
    crowded_models,
    flagged_models,
    layered_models,
    mix,
    models,
)
from test_messages import message, text

MODELS = mix(models(), layered_models(), crowded_models(), flagged_models())

SOURCE = """
from typing import Annotated, Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import annotax as anx

T = TypeVar("T")
LoRA = Annotated[T, anx.Role("lora", parent=anx.Param)]
Adapter = Annotated[T, anx.Role("adapter", parent=LoRA)]
Stat = Annotated[T, anx.Role("stat", parent=anx.Buffer)]


class Linear(anx.Module):
    weight: anx.Param[Float[Array, "m n"]] = anx.field(tags=["matrix"])
    bias: anx.Param[Float[Array, "*more n"]] | None = None
    size: anx.Hyper[int] = 3


class Norm(anx.Module):
    mean: anx.Buffer[Float[Array, " n"]] = anx.field(persistent=False)
    count: anx.Param[Int[Array, ""]]


class Model(anx.Module):
    layers: list[Linear] = anx.field(tags=["body", "wide"])
    norm: anx.Param[Norm]
    teacher: anx.Buffer[Linear] = anx.field(persistent=False, tags=["teacher"])
    extra: LoRA[Linear]
    deep: Adapter[dict]
    stat: Stat[Norm]
    free: Any
    nothing: anx.Param[Array] | None
    note: str = eqx.field(static=True, default="note")


class Foreign(eqx.Module):
    weight: Array
    fn: Any
    p: float
    items: Any
    n: int = eqx.field(static=True, default=1)


anx.register(Foreign, p=anx.Hyper, items=anx.field(role=anx.Buffer, tags=["far"]))


class Unknown(eqx.Module):
    weight: Array
    fn: Any


class Odd(eqx.Module):
    hyper: Any


anx.register(Odd, hyper=anx.Hyper)


class Promise(anx.Module):
    table: eqx.AbstractVar[anx.Buffer[Array]]
    scale: anx.Param[Array]


class Kept(Promise):
    table: Array
    scale: anx.Buffer[Array]


class Again(Kept):
    scale: "anx.Param[Array]" = anx.field(tags=["again"])


class Chain(anx.Module):
    child: "LoRA[Chain | None]"
    leaf: anx.Param[Array]


class Generically(anx.Module, Generic[T]):
    weight: anx.Param[Float[Array, " d"]]
    inner: anx.Buffer[T]
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "explained.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture(scope="module")
def written(file: Path) -> Any:
    """The module above, from a file: places have lines."""
    spec = importlib.util.spec_from_file_location("explained", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["explained"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["explained"]


def line(start: str, cls: str) -> int:
    """The line of a field in the source above."""
    lines = SOURCE.split("\n")
    first = next(i for i, row in enumerate(lines) if row.startswith(f"class {cls}("))
    return next(
        i + 1 for i in range(first, len(lines)) if lines[i].strip().startswith(start)
    )


def linear(module: Any, rows: int = 2) -> Any:
    return module.Linear(jnp.ones((rows, 3)))


@pytest.fixture(scope="module")
def model(written: Any) -> Any:
    norm = written.Norm(jnp.zeros(3), jnp.zeros((), "int32"))
    return written.Model(
        layers=[linear(written), linear(written)],
        norm=norm,
        teacher=linear(written),
        extra=linear(written),
        deep={"a.b": linear(written)},
        stat=norm,
        free=[jnp.ones(2), jnp.arange(2), jnp.tanh],
        nothing=None,
    )


@pytest.fixture
def said(file: Path) -> Any:
    """The text of an explanation, with `@` for the file, and for Equinox's folder."""

    def explain(model: Any, path: str) -> str:
        found = anx.explain(model, path)
        assert found.path == path
        assert repr(found) == str(found)
        assert all(len(row) <= 80 or str(file) in row for row in str(found).split("\n"))
        return str(found).replace(f"{file}:", "@")

    return explain


# --- full texts ----------------------------------------------------------------------


def test_a_leaf_with_a_role_tags_and_axes(model: Any, said: Any):
    assert said(model, "layers.1.weight") == text(
        f"""
        layers.1.weight: an array f32[2,3]
          layers: list[Linear]
            annotated in Model, @{line("layers", "Model")}
            nobody says a role
            tags body, wide
          1
            in a list
          weight: Param[Float[Array, 'm n']]
            annotated in Linear, @{line("weight", "Linear")}
            tags matrix
          role:       param, from Linear.weight
          trainable:  yes
          static:     no, it is an argument of a compiled function
          gradient:   flows
          checkpoint: saved
          tags:       body, matrix, wide
          axes:       m, n
        """
    )


def test_a_buffer_around(model: Any, said: Any):
    assert said(model, "teacher.weight") == text(
        f"""
        teacher.weight: an array f32[2,3]
          teacher: Buffer[Linear]
            annotated in Model, @{line("teacher", "Model")}
            tags teacher
            persistent=False
          weight: Param[Float[Array, 'm n']]
            annotated in Linear, @{line("weight", "Linear")}
            tags matrix
          role:       buffer, from Model.teacher: a Buffer around wins over
                      Linear.weight
          trainable:  no, it is a buffer
          static:     no, it is an argument of a compiled function
          gradient:   stopped where it enters Model.teacher
          checkpoint: left out by Model.teacher: persistent=False
          tags:       matrix, teacher
          axes:       m, n
        """
    )


def test_a_static_field(model: Any, said: Any):
    assert said(model, "layers.0.size") == text(
        f"""
        layers.0.size: an int 3
          layers: list[Linear]
            annotated in Model, @{line("layers", "Model")}
            nobody says a role
            tags body, wide
          0
            in a list
          size: Hyper[int]
            annotated in Linear, @{line("size", "Linear")}
          role:       hyper, from Linear.size
          trainable:  no, it is no leaf
          static:     yes, Linear.size is a Hyper; another value compiles anew
          change:     annotax.replace(model, {{'layers.0.size': ...}})
        """
    )


def test_a_field_that_holds_nothing(model: Any, said: Any):
    assert said(model, "nothing") == text(
        f"""
        nothing: None
          nothing: Param[Array] | None
            annotated in Model, @{line("nothing", "Model")}
          leaves:     none: nothing in it is trained, stopped or saved
        """
    )


def test_what_a_subclass_annotates_again(written: Any, said: Any):
    again = written.Again(jnp.ones(2), jnp.ones(3))
    assert said(again, "scale") == text(
        f"""
        scale: an array f32[2]
          scale: anx.Param[Array]
            annotated in Again, @{line("scale", "Again")}
            overrides Buffer[Array] in Kept, @{line("scale", "Kept")}
            overrides Param[Array] in Promise, @{line("scale", "Promise")}
            tags again
          role:       param, from Again.scale
          trainable:  yes
          static:     no, it is an argument of a compiled function
          gradient:   flows
          checkpoint: saved
          tags:       again
          axes:       none
        """
    )
    assert said(again, "table") == text(
        f"""
        table: an array f32[3]
          table: Array
            annotated in Kept, @{line("table", "Kept")}
            implements AbstractVar[Buffer[Array]] in Promise, @{line("table", "Promise")}
          role:       buffer, from Again.table
          trainable:  no, it is a buffer
          static:     no, it is an argument of a compiled function
          gradient:   stopped where it enters Again.table
          checkpoint: saved
          tags:       none
          axes:       none
        """
    )


def foreign(written: Any) -> Any:
    items = [jnp.ones(2), jnp.tanh, {"a": 1}]
    return written.Foreign(jnp.ones(3), jnp.tanh, 0.5, items)


def test_a_registered_class(written: Any, said: Any):
    assert said(foreign(written), "items.0") == text(
        f"""
        items.0: an array f32[2]
          items: Any
            annotated in Foreign, @{line("items", "Foreign")}
            registered for Foreign, @48: buffer
            tags far
          0
            in a list
          role:       buffer, from Foreign.items
          trainable:  no, it is a buffer
          static:     no, it is an argument of a compiled function
          gradient:   not stopped, only registered; annotax.adopt(model) stops it
          checkpoint: saved
          tags:       far
          axes:       none
        """
    )
    assert said(foreign(written), "p") == text(
        f"""
        p: a float 0.5
          p: float
            annotated in Foreign, @{line("p:", "Foreign")}
            registered for Foreign, @48: hyper
          role:       hyper, from Foreign.p
          trainable:  no, it is no array
          static:     no, only registered as a Hyper; annotax.adopt(model) makes it
                      static
          gradient:   none, it has no floating point numbers
          checkpoint: compared, not loaded: it is no array
          tags:       none
          axes:       none
        """
    )


def test_an_adopted_class(written: Any, said: Any):
    adopted = anx.adopt(foreign(written))
    assert said(adopted, "weight") == text(
        f"""
        weight: an array f32[3]
          weight: Array
            annotated in Foreign, @{line("weight", "Foreign")}
            inferred by adopt
          role:       param, inferred by adopt from what it is: nobody says a role
          trainable:  yes
          static:     no, it is an argument of a compiled function
          gradient:   flows
          checkpoint: saved
          tags:       none
          axes:       none
        """
    )
    assert said(adopted, "fn") == text(
        f"""
        fn: a PjitFunction tanh
          fn: Any
            annotated in Foreign, @{line("fn", "Foreign")}
            inferred by adopt from what it holds
          role:       hyper, from Foreign.fn
          trainable:  no, it is no leaf
          static:     yes, Foreign.fn holds no array, and its model was adopted; another
                      value compiles anew
          change:     annotax.replace(model, {{'fn': ...}})
        """
    )
    assert said(adopted, "items.2.a") == text(
        f"""
        items.2.a: an int 1
          items: Any
            annotated in Foreign, @{line("items", "Foreign")}
            registered for Foreign, @48: buffer
            tags far
          2
            in a list
          a
            in a dict
          trainable:  no, it is no leaf
          static:     yes, no array in Foreign.items, and its model was adopted; another
                      value compiles anew
        """
    )
    assert outcome(adopted, "p", "static") == (
        "yes, Foreign.p is registered as a Hyper, and its model was adopted; another value "
        "compiles anew"
    )
    assert (
        outcome(adopted, "items.0", "gradient") == "stopped where it enters Foreign.items"
    )
    assert outcome(adopted, "items.1", "leaves").startswith("none")
    assert outcome(adopted, "n", "static").startswith(
        "yes, Foreign.n is static in its class"
    )


def test_a_frozen_leaf(model: Any, said: Any):
    frozen = anx.freeze(model, anx.by_path("extra.**"))
    assert said(frozen, "extra.weight") == text(
        f"""
        extra.weight: an array f32[2,3]
          extra: lora[Linear]
            annotated in Model, @{line("extra", "Model")}
          weight: Param[Float[Array, 'm n']]
            annotated in Linear, @{line("weight", "Linear")}
            frozen by freeze
            tags matrix
          role:       lora (a param), from Model.extra: the more derived role wins over
                      Linear.weight
          trainable:  no, it is frozen; annotax.unfreeze(model, selection) undoes it
          static:     no, it is an argument of a compiled function
          gradient:   stopped where it enters Linear.weight
          checkpoint: saved
          tags:       matrix
          axes:       m, n
        """
    )
    assert outcome(frozen, "extra", "leaves") == "1 with 6 elements: 1 frozen"
    whole = anx.freeze(model, anx.everything)
    assert outcome(whole, "stat", "leaves") == ("2 with 4 elements: 2 buffers")


def test_an_array_registered_as_a_hyper(written: Any):
    odd = written.Odd({"a": jnp.ones(2), "b": 3})
    found = anx.explain(odd, "hyper.a").outcome
    assert found["trainable"] == "no, it is registered as a Hyper, though an array"
    assert found["gradient"] == "flows"
    adopted = anx.adopt(written.Odd({"b": 3}))
    found = anx.explain(adopted, "hyper.b")
    assert found.what == "an int 3"
    assert found.outcome["change"] == "annotax.replace(model, {'hyper': ...})"


def test_recursive_and_generic_classes(written: Any, said: Any):
    chain = written.Chain(written.Chain(None, jnp.ones(1)), jnp.ones(2))
    assert said(chain, "child.leaf").split("\n")[5:7] == [
        "  role:       lora (a param), from Chain.child: the more derived role wins over",
        "              Chain.leaf",
    ]
    deeper = written.Chain(chain, jnp.ones(3))
    assert outcome(deeper, "child.child.leaf", "role").startswith("lora")
    assert [link.path for link in anx.explain(deeper, "child.child.leaf").chain] == [
        "child",
        "child.child",
        "child.child.leaf",
    ]
    generic = written.Generically[int](jnp.ones(2), linear(written))
    assert said(generic, "inner.weight").split("\n")[1:3] == [
        "  inner: Buffer[~T]",
        f"    annotated in Generically, @{line('inner', 'Generically')}",
    ]


def test_layers_of_equinox():
    mlp = eqx.nn.MLP(2, 1, 3, 1, activation=eqx.nn.PReLU(), key=jax.random.key(0))
    assert outcome(mlp, "activation.negative_slope", "role") == (
        "param, from PReLU.negative_slope"
    )
    assert outcome(mlp, "final_activation", "role") == (
        "hyper, registered for what is no array"
    )
    reasons = anx.explain(mlp, "final_activation").chain[0].reasons()
    assert reasons[1] == "registered for MLP: hyper, for what is no array"
    assert reasons[0].startswith("annotated in MLP, equinox/nn/_mlp.py:")
    state = eqx.nn.State(eqx.nn.BatchNorm(3, "batch", mode="ema"))
    path = anx.records(state)[0].path
    found = anx.explain(state, path)
    assert found.chain[0].reasons() == ["in a State", "registered for State: buffer"]
    assert found.outcome["role"] == f"buffer, from State.{path}"
    inner = anx.explain([state], f"0.{path}")
    assert inner.outcome["role"] == f"buffer, from State.{path}"


def test_leaves_in_the_field_of_a_model(model: Any):
    class Averaged(anx.Module):
        mean: anx.Buffer[Any]
        model: anx.Param[Any]

    both = Averaged(anx.params(model), anx.params(model))
    name = "deep['a.b'].weight"
    assert outcome(both, f"mean.{name}", "role") == "buffer, from Averaged.mean"
    assert outcome(both, f"model.{name}", "role").endswith(", kept from its model")


def test_leaves_and_optimizer_states(model: Any, said: Any):
    params = anx.params(model)
    state = optax.adam(1e-3).init(params)
    assert said(state, "0.mu.deep['a.b'].weight") == text(
        """
        0.mu.deep['a.b'].weight: an array f32[2,3]
          0
            in a tuple
          mu
            in a ScaleByAdamState
          deep['a.b'].weight
            in Leaves, which keep what its classes say
          role:       adapter (a lora, a param), kept from its model
          trainable:  yes
          static:     no, it is an argument of a compiled function
          gradient:   flows
          checkpoint: saved
          tags:       matrix
          axes:       m, n
        """
    )
    assert outcome(state, "0.mu", "leaves") == "5 with 26 elements: 5 trainable"
    assert outcome(state, "0.count", "role").startswith("buffer, by Equinox's convention")
    everything = anx.leaves(model, anx.everything)
    assert outcome(everything, "norm.mean", "gradient") == (
        "not stopped: Leaves are arrays beside their model"
    )
    assert outcome(everything, "norm.mean", "checkpoint") == (
        "left out by its field: persistent=False"
    )
    pairs = jax.tree.map(lambda x: (x, x), params)
    assert said(pairs, "extra.weight.1").split("\n")[1:5] == [
        "  extra.weight",
        "    in Leaves, which keep what its classes say",
        "  1",
        "    in a tuple",
    ]
    alone = anx.params(jnp.ones(3))
    assert outcome(alone, "", "role") == "param, kept from its model"
    twice = jax.tree.map(lambda x: (x, x), alone)
    assert [link.path for link in anx.explain(twice, "1").chain] == ["1"]
    nothing = jax.tree.map(lambda x: None, params)
    assert said(nothing, "extra.weight").startswith("extra.weight: None\n")


def test_what_is_inside_is_told_by_steps_not_by_letters():
    assert outcome({"a": [jnp.ones(1)], "ab": [jnp.ones(1)]}, "a", "leaves").startswith(
        "1 "
    )


def test_a_buffer_in_what_is_frozen_as_a_whole_counts_as_a_buffer():
    class Centred(anx.Module):
        weight: anx.Param[Any]
        mean: anx.Buffer[Any]

    norm = eqx.nn.WeightNorm(Centred(jnp.ones((2, 2)), jnp.ones(2)), "weight")
    frozen = anx.freeze(norm, anx.by_path("layer.**"))
    assert [r.path for r in anx.records(frozen) if r.frozen] == [
        "layer.weight",
        "layer.mean",
    ]
    assert outcome(frozen, "layer", "leaves") == ("2 with 6 elements: 1 frozen, 1 buffer")


def test_no_models_at_all():
    assert str(anx.explain(jnp.ones(3), "")) == text(
        """
        the model: an array f32[3]
          role:       param, by Equinox's convention: nobody says a role of an inexact
                      array
          trainable:  yes
          static:     no, it is an argument of a compiled function
          gradient:   flows
          checkpoint: saved
          tags:       none
          axes:       none
        """
    )
    assert str(anx.explain(None, "")) == text(
        """
        the model: None
          leaves:     none: nothing in it is trained, stopped or saved
        """
    )
    assert anx.explain([], "").what == "a list []"
    assert anx.explain(3, "").outcome["role"].startswith("none: it is no array")


def test_the_model_itself(model: Any, said: Any):
    assert said(model, "") == text(
        """
        the model: a module Model
          leaves:     12 with 42 elements: 5 trainable, 5 buffers, 1 without gradients,
                      1 no array
        """
    )


def outcome(model: Any, path: str, answer: str) -> str:
    return anx.explain(model, path).outcome[answer]


ROLES = {
    "layers.0.weight": "param, from Linear.weight",
    "norm.mean": "buffer, from Norm.mean",
    "norm.count": "param, from Norm.count",
    "teacher.weight": "buffer, from Model.teacher: a Buffer around wins over Linear.weight",
    "extra.weight": "lora (a param), from Model.extra: the more derived role wins over "
    "Linear.weight",
    "deep['a.b'].weight": "adapter (a lora, a param), from Model.deep: the more derived "
    "role wins over Linear.weight",
    "stat.mean": "stat (a buffer), from Model.stat: the more derived role wins over "
    "Norm.mean",
    "stat.count": "stat (a buffer), from Model.stat: a Buffer around wins over Norm.count",
    "free.0": "param, by Equinox's convention: nobody says a role of an inexact array",
    "free.1": "buffer, by Equinox's convention: nobody says a role of an array that is "
    "not inexact",
    "free.2": "none: it is no array, and nobody says what it is",
}


@pytest.mark.parametrize("path", ROLES)
def test_roles(model: Any, path: str):
    assert outcome(model, path, "role") == ROLES[path]


OTHER_ANSWERS = {
    ("norm.count", "trainable"): "no, int32 has no gradient",
    ("free.2", "trainable"): "no, it is no array",
    ("free.2", "static"): "no, though no array; annotax.adopt(model) makes static what "
    "can be",
    ("free.1", "static"): "no, it is an argument of a compiled function",
    ("norm.count", "gradient"): "none, it has no floating point numbers",
    ("norm.mean", "gradient"): "stopped where it enters Norm.mean",
    ("stat.mean", "gradient"): "stopped where it enters Model.stat",
    ("extra.weight", "gradient"): "flows",
    ("norm.mean", "checkpoint"): "left out by Norm.mean: persistent=False",
    ("extra.weight", "checkpoint"): "saved",
    ("extra.weight", "tags"): "matrix",
    ("free.0", "tags"): "none",
    ("free.0", "axes"): "none",
    ("norm.count", "axes"): "none",
    ("norm.mean", "axes"): "n",
    ("note", "static"): "yes, Model.note is static in its class; another value compiles "
    "anew",
    ("note", "role"): "none",
    ("nothing", "leaves"): "none: nothing in it is trained, stopped or saved",
    ("layers", "leaves"): "2 with 12 elements: 2 trainable",
    ("norm", "leaves"): "2 with 4 elements: 1 buffer, 1 without gradients",
    ("free", "leaves"): "3 with 4 elements: 1 trainable, 1 buffer, 1 no array",
    ("deep", "leaves"): "1 with 6 elements: 1 trainable",
}


@pytest.mark.parametrize(("path", "answer"), OTHER_ANSWERS)
def test_other_answers(model: Any, path: str, answer: str):
    assert outcome(model, path, answer) == OTHER_ANSWERS[path, answer]


# --- consistent with the records -----------------------------------------------------


def kept(change: Any, tree: Any) -> Any:
    """A changed model, or the model where the change is refused."""
    try:
        return change(tree)
    except anx.AnnotaxError:
        return tree


def changed(model: Model) -> list[Any]:
    tree = model.tree
    return [
        tree,
        kept(anx.adopt, tree),
        kept(lambda tree: anx.freeze(tree, anx.trainable_filter), tree),
        anx.leaves(tree, anx.everything),
        eqx.filter(tree, anx.trainable_filter(tree)),
    ]


@settings(max_examples=150)
@given(MODELS)
def test_the_answers_are_those_of_the_records(model: Model):
    for tree in changed(model):
        for record in anx.records(tree):
            found = anx.explain(tree, record.path)
            answers = found.outcome
            assert found.record == record
            assert (answers["trainable"] == "yes") is record.trainable
            assert answers["trainable"].startswith(("yes", "no, "))
            name = "none" if record.role is None else record.role.name
            assert answers["role"].startswith((f"{name}:", f"{name},", f"{name} ("))
            assert ("Equinox's convention" in answers["role"]) is (
                record.undeclared and record.dtype is not None
            )
            assert ("inferred by adopt" in answers["role"]) is (
                record.inferred and record.dtype is not None
            )
            assert answers["tags"] == (", ".join(sorted(record.tags)) or "none")
            axes = [name or "_" for name in record.axes or ()]
            assert answers["axes"] == (", ".join(axes) or "none")
            assert (answers["checkpoint"] == "saved") is (
                record.persistent and record.dtype is not None
            )
            assert answers["static"].startswith("no, ")
            may_train = record.dtype is not None and record.role.is_a(anx.Param)
            inexact = may_train and jnp.issubdtype(record.dtype, jnp.inexact)
            assert ("frozen" in answers["trainable"]) is bool(record.frozen and inexact)


@settings(max_examples=150)
@given(MODELS)
def test_the_answers_are_those_of_the_contract(model: Model):
    for e in model.expected:
        answers = anx.explain(model.tree, e.path).outcome
        is_stopped = answers["gradient"].startswith("stopped where it enters")
        assert is_stopped is (e.stopped and e.kind == "inexact")
        if is_stopped:
            first = next(f for f in e.fields if f.ours and _is_buffer(f.role))
            assert answers["gradient"].endswith(f".{first.name}")
        is_layer = e.owner is not None and e.owner.__module__.startswith("equinox")
        if any(f.role for f in e.fields) and not is_layer:
            source = answers["role"].partition(", from ")[2].partition(":")[0]
            role = e.role.name
            fields = [f.name for f in e.fields if f.role and _role_name(f.role) == role]
            assert source.rpartition(".")[2] == fields[-1]


def _role_name(alias: str) -> str:
    return anx.Role.of(ALIASES[alias]).name


def _is_buffer(alias: str | None) -> bool:
    return alias is not None and "buffer" in ancestry(anx.Role.of(ALIASES[alias]))


@settings(max_examples=150)
@given(MODELS)
def test_every_path_is_explained(model: Model):
    for tree in changed(model):
        for path in {"", *every_path(tree), *(r.path for r in anx.records(tree))}:
            found = anx.explain(tree, path)
            assert found.path == path
            assert json.loads(json.dumps(found.to_dict(), allow_nan=False))
            assert str(found).startswith(path or "the model")
            assert found.chain[-1].path == path if path else not found.chain
            assert ("static" in found.outcome) or set(found.outcome) == {"leaves"}


@settings(max_examples=150)
@given(MODELS)
def test_static_fields_are_static(model: Model):
    for constant in model.constants:
        found = anx.explain(model.tree, constant.path)
        assert found.outcome["static"].startswith("yes, ")
        assert found.record is None


@given(MODELS, st.text(max_size=12))
def test_any_other_text_is_refused_or_explained(model: Model, path: str):
    try:
        found = anx.explain(model.tree, path)
    except anx.FieldError:
        return
    known = {"", *every_path(model.tree), *(r.path for r in anx.records(model.tree))}
    assert found.path in known


@given(MODELS)
def test_the_counts_of_a_module_are_those_of_its_leaves(model: Model):
    for tree in changed(model):
        found = anx.explain(tree, "").outcome.get("leaves")
        records = anx.records(tree)
        if not records or found is None:
            continue
        head, _, shares = found.partition(": ")
        assert head.startswith(
            f"{len(records)} with {sum(r.size for r in records)} element"
        )
        counts = {
            share.partition(" ")[2]: int(share.partition(" ")[0])
            for share in shares.split(", ")
        }
        assert sum(counts.values()) == len(records)
        assert counts.get("trainable", 0) == sum(r.trainable for r in records)


# --- what is refused -----------------------------------------------------------------


def refusal(tree: Any, path: Any) -> str:
    return message(anx.FieldError, lambda: anx.explain(tree, path))


def test_a_path_that_leads_nowhere(model: Any):
    assert refusal(model, "layers.0.wieght") == text(
        """
        explain(Model, 'layers.0.wieght'): there is nothing at this path
          expected: the path of a leaf, a field, a module or a container
          found:    layers.0 has no 'wieght'
          fix:      did you mean 'layers.0.weight'?
        """
    )
    assert refusal(model, "layer.0") == text(
        """
        explain(Model, 'layer.0'): there is nothing at this path
          expected: the path of a leaf, a field, a module or a container
          found:    the Model has no 'layer'
          fix:      did you mean 'layers'?
        """
    )
    assert refusal(model, "weight") == text(
        """
        explain(Model, 'weight'): there is nothing at this path
          expected: the path of a leaf, a field, a module or a container
          found:    the Model has no 'weight'
          fix:      did you mean 'layers.0.weight' or 'layers.1.weight' or 'teacher.weight'?
        """
    )
    assert refusal(model, "layers.7.xyz").endswith(
        "  found:    layers has no '7'\n  fix:      there is: layers.0, layers.1"
    )
    assert refusal(model, "layers.0.weight.T") == text(
        """
        explain(Model, 'layers.0.weight.T'): there is nothing at this path
          expected: the path of a leaf, a field, a module or a container
          found:    nothing is in layers.0.weight
        """
    )
    assert refusal(model, "deep.a.b").endswith("  fix:      there is: deep['a.b']")
    assert refusal(anx.params(model), "extra.wieght").endswith(
        "  found:    the Leaves has no 'extra.wieght'\n"
        "  fix:      did you mean 'extra.weight'?"
    )
    assert refusal([], "0").endswith("  found:    nothing is in the list")
    assert refusal(object(), "a").endswith("  found:    nothing is in the object")


def test_what_is_no_path(model: Any):
    assert refusal(model, 3) == text(
        """
        explain: this is no path
          expected: a path such as 'encoder.layers.0.weight'
          found:    an int
        """
    )
    assert refusal(model, jnp.ones(3)).endswith("  found:    an array float32[3]")


def test_a_path_with_a_dot_at_its_end(model: Any):
    assert anx.explain(model, "extra.weight.") == anx.explain(model, "extra.weight")


def test_containers_in_themselves():
    endless: list[Any] = []
    endless.append(endless)
    found = message(anx.StructureError, lambda: anx.explain(endless, "0"))
    assert found.startswith(
        "a list: this cannot be followed: it contains itself, or nests too deeply\n"
    )


# --- whatever is in the model --------------------------------------------------------


class BadRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


def test_values_that_cannot_be_shown():
    deleted = jnp.ones(3)
    deleted.delete()
    tree = {"a": BadRepr(), "b": deleted}
    assert anx.explain(tree, "a").what == "a BadRepr <BadRepr: repr raised RuntimeError>"
    assert anx.explain(tree, "b").what == "an array f32[3]"


def test_traced_and_abstract_models(model: Any):
    found: list[Any] = []

    @eqx.filter_jit
    def function(model: Any) -> Any:
        found.append(anx.explain(model, "layers.0.weight"))
        return model.layers[0].weight

    function(model)
    assert found[0] == anx.explain(model, "layers.0.weight")
    shaped = eqx.filter_eval_shape(lambda: model.layers)
    assert anx.explain(shaped, "0.weight").what == "an array f32[2,3]"


def test_a_hundred_thousand_leaves():
    many = [jnp.ones(())] * 100_000
    assert anx.explain(many, "99999").record is not None
    assert outcome(many, "", "leaves") == (
        "100,000 with 100,000 elements: 100,000 trainable"
    )
    assert "has no '100000'" in refusal(many, "100000")


def test_a_class_without_a_source(model: Any):
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Plain:
        x: Any

    namespace: dict[str, Any] = {"anx": anx, "Any": Any, "__name__": "nowhere"}
    exec(
        textwrap.dedent("""
        class Made(anx.Module):
            x: anx.Param[Any]
    """),
        namespace,
    )
    made = namespace["Made"](jnp.ones(3))
    assert anx.explain(made, "x").chain[0].reasons() == ["annotated in Made"]
    plain = anx.explain([Plain(jnp.ones(3))], "0.x")
    assert plain.chain[1].says == "x: Any"
    assert plain.chain[1].where == "Plain.x"
    assert plain.chain[1].reasons()[1:] == ["nobody says a role"]


def test_data(written: Any, file: Path):
    found = anx.explain(linear(written), "weight")
    assert found.to_dict() == {
        "path": "weight",
        "what": "an array f32[2,3]",
        "chain": [
            {
                "step": "weight",
                "where": "Linear.weight",
                "says": "weight: Param[Float[Array, 'm n']]",
                "reasons": [
                    f"annotated in Linear, {file}:{line('weight', 'Linear')}",
                    "tags matrix",
                ],
            }
        ],
        "outcome": {
            "role": "param, from Linear.weight",
            "trainable": "yes",
            "static": "no, it is an argument of a compiled function",
            "gradient": "flows",
            "checkpoint": "saved",
            "tags": "matrix",
            "axes": "m, n",
        },
    }


def test_an_array_in_several_places():
    tied = eqx.nn.Linear(2, 2, use_bias=False, key=jax.random.key(0))
    found = anx.explain([tied, anx.freeze(tied, anx.everything)], "0.weight")
    assert found.outcome["shared"] == (
        "the same array as 1.weight; each is trained apart: eqx.nn.Shared keeps them one"
    )
    found = anx.explain([tied, anx.freeze(tied, anx.everything)], "1.weight")
    assert found.outcome["shared"] == "the same array as 0.weight"
    assert "shared" not in anx.explain(tied, "weight").outcome
    stand_in = jax.ShapeDtypeStruct((2,), float)
    assert "shared" not in anx.explain([stand_in, stand_in], "0").outcome


def test_an_array_that_shared_took_out():
    tied = eqx.nn.Linear(2, 2, use_bias=False, key=jax.random.key(0))
    shared = eqx.nn.Shared([tied, tied], lambda x: x[0].weight, lambda x: x[1].weight)
    found = anx.explain(shared, "pytree.0.weight")
    assert found.what == "an array, taken out"
    assert found.outcome == {
        "shared": "eqx.nn.Shared took it out here; it stands, and is trained, where it "
        "keeps it"
    }


def test_a_class_has_no_leaves():
    found = message(anx.StructureError, lambda: anx.explain(eqx.nn.Linear, "weight"))
    assert found.startswith("explain(Linear): a class has no leaves\n")


def test_where_a_class_was_registered():
    class Theirs(eqx.Module):
        table: jax.Array
        scale: jax.Array

    anx.register(Theirs, table=anx.Buffer)
    line = sys._getframe().f_lineno - 1
    anx.register(Theirs, scale=anx.Param)
    theirs = Theirs(jnp.ones(2), jnp.ones(2))
    reasons = [
        anx.explain(theirs, name).chain[0].reasons()[1] for name in ("table", "scale")
    ]
    file = Path(__file__).name
    assert reasons[0].endswith(f"{file}:{line}: buffer")
    assert reasons[1].endswith(f"{file}:{line + 2}: param")
