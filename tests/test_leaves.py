"""The flat view: plain optax on it, and the way back."""

import copy
import pickle
from typing import Any

import cloudpickle
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from jaxtyping import Array, Float

import annotax as anx


class Linear(anx.Module):
    weight: anx.Param[Float[Array, "o i"]]
    bias: anx.Param[Float[Array, " o"]] = anx.field(tags=["no_decay"])

    def __call__(self, x):
        return self.weight @ x + self.bias


class Net(anx.Module):
    body: list[Linear]
    head: Linear
    mean: anx.Buffer[Float[Array, " i"]]
    rate: anx.Hyper[float] = 0.5
    act: Any = jnp.tanh

    def __call__(self, x):
        x = x - self.mean
        for layer in self.body:
            x = self.act(layer(x))
        return self.head(x) * self.rate


def linear(n=3):
    return Linear(0.1 * jnp.ones((n, n)), 0.2 * jnp.ones(n))


def net(**kwargs):
    return Net([linear(), linear()], linear(), jnp.full(3, 0.5), **kwargs)


def loss(model, x):
    return jnp.sum(model(x) ** 2)


X = jnp.arange(3.0)
PATHS = [f"{m}.{w}" for m in ("body.0", "body.1", "head") for w in ("weight", "bias")]


def test_params_are_the_very_arrays_by_path():
    model = net()
    params = anx.params(model)
    assert list(params) == PATHS
    assert params["head.bias"] is model.head.bias
    assert dict(params).keys() == set(PATHS)
    assert len(params) == len(params.values()) == 6
    assert "head" not in params
    with pytest.raises(KeyError, match=r"did you mean 'head.bias'"):
        params["head.bia"]


def test_leaves_are_one_pytree_node():
    params = anx.params(net())
    pairs, treedef = jax.tree_util.tree_flatten_with_path(params)
    assert [path for path, _ in pairs] == [(jax.tree_util.DictKey(p),) for p in PATHS]
    assert treedef.num_nodes == 7
    assert not callable(params)
    with pytest.raises(AttributeError, match="cannot be changed"):
        params.x = 1
    with pytest.raises(AttributeError, match="cannot be changed"):
        del params.static
    with pytest.raises(TypeError):
        params["head.bias"] = 1


def test_leaves_compare_hash_copy_and_pickle():
    params = anx.params(net())
    for again in (
        pickle.loads(pickle.dumps(params)),
        cloudpickle.loads(cloudpickle.dumps(params)),
        copy.deepcopy(params),
        copy.copy(params),
        anx.params(net(rate=0.1)),
    ):
        assert again == params
        assert hash(again) == hash(params)
        assert jax.tree.structure(again) == jax.tree.structure(params)
        assert anx.by_tag("no_decay").count(again) == 3
        assert anx.trainable_filter.count(again) == 6
    assert params != jax.tree.map(lambda x: x + 1, params)
    assert params != anx.leaves(net(), anx.by_path("head.*"))
    assert params != dict(params)


def said(tree):
    return [(r.role, r.tags, r.axes, r.persistent, r.frozen) for r in anx.records(tree)]


def test_leaves_say_of_themselves_what_their_fields_say():
    class Layer(anx.Module):
        weight: anx.Param[Any] = anx.field(tags=["t"], axes=("rows", "columns"))
        cache: anx.Buffer[Any] = anx.field(persistent=False)

    model = [Layer(jnp.ones((2, 3)), jnp.ones(2)), jnp.ones(2)]
    leaves = anx.leaves(model, anx.everything)
    assert said(leaves) == said(model)
    assert said(leaves)[:2] == [
        (anx.Param, {"t"}, ("rows", "columns"), True, False),
        (anx.Buffer, frozenset(), None, False, False),
    ]


def test_what_is_around_leaves_adds_to_what_they_say():
    class Teacher(anx.Module):
        average: anx.Buffer[Any] = anx.field(tags=["outer"], axes=("x",), persistent=False)

    class Student(anx.Module):
        learned: anx.Param[Any]

    params = anx.params(linear())
    assert said(Teacher(params)) == [
        (anx.Buffer, {"outer"}, ("o", "i"), False, False),
        (anx.Buffer, {"outer", "no_decay"}, ("o",), False, False),
    ]
    # A Param around a Buffer does not make it one.
    model = Student(anx.leaves(net(), anx.by_path("mean")))
    assert said(model) == [(anx.Buffer, frozenset(), ("i",), True, False)]
    assert anx.records(model)[0].origin == "declared"


def test_changing_a_hyper_leaves_the_structure_alone():
    def structure(model):
        return jax.tree.structure(optax.adam(1e-3).init(anx.params(model)))

    assert structure(net()) == structure(anx.replace(net(), rate=0.1, act=jnp.sin))


def test_repr_shows_shapes_not_values():
    text = repr(anx.params(net()))
    assert text.splitlines()[1] == "    'body.0.weight': f32[3,3],"
    assert repr(anx.leaves(net(), anx.by_tag("none"))) == "Leaves()"


# --- update --------------------------------------------------------------------------


def test_update_puts_back_and_leaves_the_original_alone():
    model = net()
    head = anx.leaves(model, anx.by_path("head.**"))
    new = anx.update(model, jax.tree.map(lambda x: x + 1, head))
    assert new.head.bias.tolist() == pytest.approx([1.2] * 3)
    assert new.body[0].weight is model.body[0].weight
    assert model.head.bias.tolist() == pytest.approx([0.2] * 3)
    assert type(new) is Net


def test_update_lists_everything_that_does_not_fit():
    bigger = Net([linear(), linear(), linear()], linear(), jnp.ones(3))
    with pytest.raises(anx.StructureError) as caught:
        anx.update(net(), anx.params(bigger))
    text = str(caught.value)
    assert "body.2.weight: no such leaf; did you mean" in text
    assert "body.2.bias" in text
    wrong = jax.tree.map(lambda x: x[None].astype(jnp.float16), anx.params(net()))
    with pytest.raises(anx.StructureError) as caught:
        anx.update(net(), wrong)
    assert "head.bias: float16[1,3], where the model has float32[3]" in str(caught.value)
    flags = anx.trainable_filter(anx.params(net()))
    with pytest.raises(anx.StructureError, match="a bool, where the model has float32"):
        anx.update(net(), flags)
    with pytest.raises(anx.StructureError, match="found:    a dict"):
        anx.update(net(), dict(anx.params(net())))


def test_update_on_abstract_models_and_inside_jit():
    abstract = eqx.filter_eval_shape(net)
    assert anx.update(abstract, anx.params(net())).head.bias.tolist() == pytest.approx(
        [0.2] * 3
    )
    out = jax.jit(lambda p, x: anx.update(net(), p)(x))(anx.params(net()), X)
    assert jnp.allclose(out, net()(X))


# --- split and merge -----------------------------------------------------------------


def test_every_array_goes_to_the_first_selection_that_matches():
    model = net()
    parts = anx.split(model, anx.by_path("head.**"), anx.trainable_filter)
    structure, head, body, rest = parts
    assert list(head) == PATHS[4:]
    assert list(body) == PATHS[:4]
    assert list(rest) == ["mean"]
    merged = anx.merge(*parts)
    assert jax.tree.structure(merged) == jax.tree.structure(model)
    assert all(
        a is b for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(model), strict=True)
    )
    assert [list(p) for p in anx.split(model)[1:]] == [[*PATHS, "mean"]]
    assert hash(structure) == hash(
        anx.split(net(), anx.by_path("head.**"), anx.trainable_filter)[0]
    )


def test_the_structure_is_a_static_argument():
    traced = []

    def run(structure, params, rest, x):
        traced.append(structure)
        return anx.merge(structure, params, rest)(x)

    step = jax.jit(run, static_argnums=0)
    for rate in (0.5, 0.5, 0.1, 0.5):
        assert jnp.allclose(
            step(*anx.split(net(rate=rate), anx.trainable_filter), X), net(rate=rate)(X)
        )
    assert len(traced) == 2


def test_structures_tell_opaque_leaves_apart_by_type():
    def structure(leaf):
        return anx.split({"a": leaf, "w": jnp.ones(1)})[0]

    assert structure(1) == structure(1)
    assert structure(1) != structure(1.0)
    assert structure(1) != structure(True)
    assert structure(0.0) != structure(-0.0)
    assert structure(float("nan")) == structure(float("nan")) != structure(0.0)
    assert structure(1) != 1
    assert "leaves=[1]" in repr(structure(1))


def test_merge_refuses_other_leaves():
    structure, params, rest = anx.split(net(), anx.trainable_filter)
    with pytest.raises(anx.StructureError, match="expected: 2\n  found:    1"):
        anx.merge(structure, params)
    with pytest.raises(anx.StructureError, match="merge, Leaves 0") as caught:
        anx.merge(structure, rest, params)
    assert "missing body.0.weight" in str(caught.value)
    assert "unexpected mean" in str(caught.value)
    with pytest.raises(anx.StructureError, match="this is no Leaves"):
        anx.merge(structure, params, {})
    with pytest.raises(anx.StructureError, match="the structure comes first"):
        anx.merge(params, rest, structure)


def test_leaves_in_another_order_are_merged_by_path():
    structure, params, rest = anx.split(net(), anx.trainable_filter)
    keys = tuple(reversed(params.static.keys))
    turned = anx.Leaves(type(params.static)(keys), [params[key.path] for key in keys])
    assert eqx.tree_equal(anx.merge(structure, turned, rest), net())


def test_an_unhashable_opaque_leaf_is_refused_by_path():
    class Unhashable:
        __hash__ = None

    with pytest.raises(anx.StructureError, match=r"^a\.0: a leaf that is no array"):
        anx.split({"a": [Unhashable()]})


# --- gradients -----------------------------------------------------------------------


def test_value_and_grad_have_the_paths_of_params():
    value, grads = anx.value_and_grad(loss)(net(), X)
    expected = jax.grad(lambda p: loss(anx.update(net(), p), X))(anx.params(net()))
    assert value == loss(net(), X)
    assert grads == expected
    assert jax.tree.structure(grads) == jax.tree.structure(anx.params(net()))


def test_aux_wrt_and_argnums():
    def both(x, model, other, *, scale):
        return scale * (loss(model, x) + 2 * loss(other, x)), {"n": 3}

    kwargs = {"wrt": anx.by_path("head.*"), "has_aux": True}
    (value, aux), grads = anx.value_and_grad(both, argnums=(1, 2), **kwargs)(
        X, net(), net(), scale=1.0
    )
    assert (aux, value.shape) == ({"n": 3}, ())
    assert [list(g) for g in grads] == [PATHS[4:]] * 2
    assert jnp.allclose(2 * grads[0]["head.bias"], grads[1]["head.bias"])
    grads, aux = anx.grad(both, argnums=-2, **kwargs)(X, net(), net(), scale=1.0)
    assert (list(grads), aux) == (PATHS[4:], {"n": 3})


def test_buffers_may_be_asked_for_and_get_zero():
    grads = anx.grad(loss, wrt=anx.everything)(net(), X)
    assert list(grads) == [*PATHS, "mean"]
    assert grads["mean"].tolist() == [0, 0, 0]


def test_a_bound_method_differentiates_its_arguments():
    class Trainer(anx.Module):
        scale: anx.Param[Array]

        def loss(self, model, x):
            return self.scale * loss(model, x)

    trainer = Trainer(jnp.array(2.0))
    grads = anx.grad(trainer.loss)(net(), X)
    assert jnp.allclose(grads["head.bias"], 2 * anx.grad(loss)(net(), X)["head.bias"])


def test_grad_refuses_what_has_nothing_to_differentiate():
    with pytest.raises(anx.SelectionError, match="trainable_filter selects nothing"):
        anx.grad(lambda m: 0.0)([jnp.arange(3)])
    with pytest.raises(anx.SelectionError, match="no such positional argument"):
        anx.grad(lambda m: 0.0)(m=net())
    with pytest.raises(anx.SelectionError, match="this is no selection"):
        anx.grad(loss, wrt="head")


def test_argnums_are_positions_each_meant_once():
    def both(a, b):
        return loss(a, X) + loss(b, X)

    assert isinstance(anx.grad(both, argnums=np.int64(1))(net(), net()), anx.Leaves)
    for argnums in ((0, 0), (1, -1)):
        with pytest.raises(anx.SelectionError, match="one argument is meant twice"):
            anx.grad(both, argnums=argnums)(net(), net())
    for argnums, found in (("01", "a str"), ((0, "a"), "a str"), (0.5, "a float")):
        with pytest.raises(anx.SelectionError, match="this is no position") as caught:
            anx.grad(both, argnums=argnums)
        assert f"found:    {found}\n  fix:      argnums=0" in str(caught.value)
    with pytest.raises(anx.SelectionError, match=r"^grad\(argnums='01'\)"):
        anx.grad(both, argnums="01")
    with pytest.raises(anx.SelectionError, match="0 positional arguments, and a, b by"):
        anx.grad(both)(a=net(), b=net())


def test_grad_keeps_the_name_and_doc_of_the_loss():
    assert anx.grad(loss).__name__ == anx.value_and_grad(loss).__name__ == "loss"


# --- optax ---------------------------------------------------------------------------

NO_DECAY = anx.by_tag("no_decay")
LABELS = anx.labels({"head": anx.by_path("head.**")}, default="body")


def make_optimizers(no_decay, decay, head, labels):
    """The same optimizers with our selections, and with masks written by hand."""
    return {
        "adamw(mask)": lambda: optax.adamw(1e-2, weight_decay=0.5, mask=decay),
        "masked": lambda: optax.masked(optax.sgd(1e-2), head),
        "masked(tree)": lambda p: optax.masked(optax.sgd(1e-2), no_decay(p)),
        "multi_transform": lambda: optax.multi_transform(
            {"head": optax.adam(1e-2), "body": optax.sgd(1e-3)}, labels
        ),
        "multi_transform(tree)": lambda p: optax.multi_transform(
            {"head": optax.adam(1e-2), "body": optax.set_to_zero()}, labels(p)
        ),
        "inject_hyperparams": lambda: optax.inject_hyperparams(
            optax.adamw, static_args=("mask",)
        )(learning_rate=optax.linear_schedule(1e-2, 0.0, 10), mask=decay),
        "chain": lambda: optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.add_decayed_weights(0.1, mask=decay),
            optax.scale_by_adam(),
            optax.masked(optax.scale(0.5), head),
            optax.scale(-1e-2),
        ),
        "MultiSteps": lambda: optax.MultiSteps(optax.adamw(1e-2, mask=decay), 2),
        "schedule_free": lambda: optax.contrib.schedule_free(optax.sgd(1e-2), 1e-2, b1=0.9),
        "lion": lambda: optax.lion(1e-3, mask=decay),
        "adafactor": lambda: optax.adafactor(1e-2),
        "lamb": lambda: optax.lamb(1e-2, mask=decay),
    }


OURS = make_optimizers(NO_DECAY, ~NO_DECAY, anx.by_path("head.**"), LABELS)
BY_HAND = make_optimizers(
    lambda tree: {path: path.endswith("bias") for path in tree},
    lambda tree: {path: not path.endswith("bias") for path in tree},
    lambda tree: {path: path.startswith("head") for path in tree},
    lambda tree: {path: "head" if path.startswith("head") else "body" for path in tree},
)


def train(make, params, grad_fn):
    tx = make(params) if make.__code__.co_argcount else make()
    state = tx.init(params)
    structure = jax.tree.structure(state)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(grad_fn(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(4):
        params, state = step(params, state)
    assert jax.tree.structure(state) == structure
    return params


@pytest.mark.parametrize("name", OURS)
def test_plain_optax_on_leaves_equals_optax_on_a_dictionary(name):
    model = net()
    start = anx.params(model)
    ours = train(OURS[name], start, lambda p: anx.grad(loss)(anx.update(model, p), X))

    def of_dictionary(params):
        leaves = jax.tree.unflatten(jax.tree.structure(start), [params[p] for p in start])
        return loss(anx.update(model, leaves), X)

    by_hand = train(BY_HAND[name], dict(start), jax.grad(of_dictionary))
    assert isinstance(ours, anx.Leaves)
    assert ours.keys() == by_hand.keys()
    for path, value in ours.items():
        assert jnp.allclose(value, by_hand[path], atol=1e-6), path
    assert any(not np.array_equal(ours[path], start[path]) for path in start)
    assert anx.update(model, ours).mean is model.mean


def test_weight_decay_spares_tagged_leaves_exactly():
    params = anx.params(net())
    tx = optax.adamw(1.0, weight_decay=0.5, mask=~NO_DECAY)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zero, tx.init(params), params)
    for path, step in updates.items():
        expected = 0 if path.endswith("bias") else -0.5 * params[path]
        assert jnp.allclose(step, expected), path


def test_optimizer_memory_holds_trainables_only():
    sizes = [x.size for x in jax.tree.leaves(optax.adam(1e-3).init(anx.params(net())))]
    assert sum(sizes) == 1 + 2 * 3 * (9 + 3)


def test_an_average_of_parameters_is_a_buffer():
    class Averaged(anx.Module):
        net: Net
        average: anx.Buffer[anx.Leaves]

    model = Averaged(net(), anx.params(net()))
    assert list(anx.params(model)) == [f"net.{path}" for path in PATHS]
    grads = anx.grad(lambda m: loss(anx.update(m.net, m.average), X), wrt=anx.everything)(
        model
    )
    assert not any(
        jnp.any(g != 0) for path, g in grads.items() if path.startswith("average")
    )
    assert {r.role.name for r in anx.records(model.average)} == {"param"}
    assert {r.role.name for r in anx.records(model) if r.path.startswith("average")} == {
        "buffer"
    }
