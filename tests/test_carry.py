"""Carrying an optimizer state over to other parameters."""

import textwrap
from typing import Annotated, Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from jaxtyping import Array

import annotax as anx

T = TypeVar("T")
LoRA = Annotated[T, anx.Role("lora", parent=anx.Param)]


class Linear(anx.Module):
    weight: anx.Param[Array]
    bias: anx.Param[Array] = anx.field(tags=["no_decay"])
    extra: LoRA[Any] = None


def model():
    return {
        "body": Linear(jnp.ones((2, 2)), jnp.ones(2)),
        "head": Linear(jnp.ones(3), jnp.ones(1)),
    }


BODY = anx.by_path("body.*")
LABELS = anx.labels({"body": BODY}, default="head")


def hyper_adam():
    return optax.inject_hyperparams(optax.adam)(learning_rate=0.5)


OPTIMIZERS = {
    "adam": lambda: optax.adam(1e-1),
    "chain": lambda: optax.chain(optax.clip(1.0), optax.adamw(1e-1), optax.trace(0.9)),
    "masked": lambda: optax.masked(optax.adam(1e-1), ~anx.by_tag("no_decay")),
    "multi_transform": lambda: optax.multi_transform(
        {"body": optax.adam(1e-1), "head": optax.sgd(1e-1, momentum=0.9)}, LABELS
    ),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(1e-1), 2),
    "inject_hyperparams": hyper_adam,
}


def trained(tx, params, state, steps=3):
    """Parameters and state after some steps on gradients that tell leaves apart."""
    for step in range(steps):
        grads = anx.Leaves(
            params.static, [p * (step + 1 + i) for i, p in enumerate(params.values())]
        )
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def by_path(state):
    leaves = [leaf for _, leaf in jax.tree_util.tree_flatten_with_path(state)[0]]
    return dict(zip([r.path for r in anx.records(state)], leaves, strict=True))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_thawing_keeps_what_is_known_and_freezing_drops_the_rest(make):
    tx, frozen = make(), anx.freeze(model(), BODY)
    thawed = anx.unfreeze(frozen)
    _, old = trained(tx, anx.params(frozen), tx.init(anx.params(frozen)))
    fresh = tx.init(anx.params(thawed))
    carried, report = anx.carry(old, fresh, report=True)
    assert jax.tree.structure(carried) == jax.tree.structure(fresh)
    known, new = by_path(old), by_path(fresh)
    for path, leaf in by_path(carried).items():
        source = known if path in known else new
        assert jnp.array_equal(leaf, source[path]), path
    assert set(report.taken) == set(known)
    assert set(report.fresh) == set(new) - set(known)
    assert any("head.weight" in path for path in report.taken)
    assert not any(path.endswith(("body.weight", "body.bias")) for path in report.taken)
    trained(tx, anx.params(thawed), carried)

    back, report = anx.carry(carried, tx.init(anx.params(frozen)), report=True)
    assert set(report.dropped) == set(new) - set(known)
    assert jax.tree.structure(back) == jax.tree.structure(old)
    for mine, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(old), strict=True):
        assert mine is theirs


def test_training_goes_on_as_if_nothing_had_happened():
    tx, frozen = optax.adam(1e-1), anx.freeze(model(), BODY)
    params, state = trained(tx, anx.params(frozen), tx.init(anx.params(frozen)))
    straight, _ = trained(tx, params, state)
    again = anx.carry(state, tx.init(anx.params(frozen)))
    carried, _ = trained(tx, params, again)
    for path, value in straight.items():
        assert jnp.array_equal(value, carried[path])
    restarted, _ = trained(tx, params, tx.init(params))
    assert not jnp.array_equal(restarted["head.weight"], straight["head.weight"])


def test_added_parameters_start_fresh():
    tx, old = optax.adam(1e-1), model()
    _, state = trained(tx, anx.params(old), tx.init(anx.params(old)))
    added = anx.replace(old, {"head.extra": jnp.ones(2)})
    added = anx.freeze(added, anx.trainable_filter & ~anx.by_role(LoRA))
    carried, report = anx.carry(state, tx.init(anx.params(added)), report=True)
    assert report.fresh == ("0.mu.head.extra", "0.nu.head.extra")
    assert report.taken == ("0.count",)
    assert int(carried[0].count) == 3


def test_model_shaped_states_and_leaves_carry_into_each_other():
    tx, plain = optax.adam(1e-1), eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    flat = tx.init(anx.params(plain))
    flat = jax.tree.map(lambda x: x + 1, flat)
    shaped = tx.init(eqx.filter(plain, anx.trainable_filter(plain)))
    carried, report = anx.carry(flat, shaped, report=True)
    assert (report.fresh, report.dropped, report.misfit) == ((), (), ())
    assert jax.tree.structure(carried) == jax.tree.structure(shaped)
    assert all(jnp.all(leaf == 1) for leaf in jax.tree.leaves(carried))


def test_other_shapes_and_dtypes_are_not_taken():
    tx = optax.scale_by_adam()
    old = jax.tree.map(lambda x: x + 1, tx.init({"a": jnp.ones(2), "b": jnp.ones(2)}))
    fresh = tx.init({"a": jnp.ones(3), "b": jnp.ones(2, jnp.bfloat16)})
    carried, report = anx.carry(old, fresh, report=True)
    assert report.taken == ("count",)
    assert report.misfit[0] == "mu.a (an array float32[2], now an array float32[3])"
    assert len(report.misfit) == 4
    assert carried.mu["a"] is fresh.mu["a"]
    text = str(report).splitlines()
    assert text[:3] == ["taken 1: count", "fresh 0: nothing", "dropped 0: nothing"]
    assert text[3] == "misfit 4: " + ", ".join(report.misfit)


def test_leaves_of_other_types_and_abstract_old_ones_are_not_taken():
    old = {"a": 1, "b": 1.5, "c": jax.ShapeDtypeStruct((2,), jnp.float32), "d": 2}
    new = {"a": 1.0, "b": 2.5, "c": jnp.ones(2), "d": 3}
    carried, report = anx.carry(old, new, report=True)
    assert report.taken == ("b", "d")
    assert (carried["a"], carried["b"], carried["d"]) == (1.0, 1.5, 2)
    assert carried["c"] is new["c"]


def test_an_abstract_new_state_takes_the_old_values():
    tx, params = optax.adam(1e-1), anx.params(model())
    _, old = trained(tx, params, tx.init(params))
    carried = anx.carry(old, jax.eval_shape(tx.init, params))
    for mine, theirs in zip(jax.tree.leaves(carried), jax.tree.leaves(old), strict=True):
        assert mine is theirs


def test_states_without_anything_in_common_are_refused():
    params = anx.params(model())
    old = optax.adam(1e-1).init(params)
    with pytest.raises(anx.StructureError) as info:
        anx.carry(old, params)
    assert str(info.value) == textwrap.dedent("""\
        carry: the two states have no path in common
          expected: states of one optimizer, for parameters of one model
          found:    0.count, 0.mu.body.weight, 0.mu.body.bias and 6 more and body.weight,
                    body.bias, head.weight and 1 more
          fix:      carry(old_opt_state, tx.init(annotax.params(model)))""")


def test_states_without_leaves_carry_nothing():
    tx = optax.sgd(1e-1)
    state = tx.init(anx.params(model()))
    assert anx.carry(state, state) == state
    adam = optax.adam(1e-1).init(anx.params(model()))
    assert anx.carry(state, adam) == adam
