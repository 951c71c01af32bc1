"""Every public class of `equinox.nn`: its roles, and what adoption makes of it."""

import dataclasses
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from equinox import nn

import annotax as anx
from annotax._compat import own_annotations
from annotax._equinox_nn import TABLE

KEY = jax.random.key(0)
PUBLIC = {name: cls for name, cls in vars(nn).items() if isinstance(cls, type)}


def image(*shape):
    return jax.random.normal(jax.random.key(1), shape)


X = image(3)


def batch_norm(mode):
    return nn.make_with_state(nn.BatchNorm)(3, "batch", mode=mode)


def spectral_norm():
    linear = nn.Linear(3, 4, key=KEY)
    return nn.make_with_state(nn.SpectralNorm)(linear, "weight", key=KEY)


def shared():
    pair = (nn.Embedding(4, 3, key=KEY), nn.Linear(3, 4, key=KEY))
    return nn.Shared(pair, lambda pair: pair[1].weight, lambda pair: pair[0].weight)


def tied(module, index):
    embedding, linear = module()
    return linear(embedding(index))


def batched(layer, x, state):
    forward = jax.vmap(layer, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    return forward(x, state)[0]


def stateful(layer, x, state):
    return layer(x, jax.tree.map(jnp.copy, state))[0]


def keyed(layer, *args):
    return layer(*args, key=KEY)


def plain(layer, *args):
    return layer(*args)


CONVS = {
    f"{name}{n}d": (getattr(nn, f"{name}{n}d")(2, 4, 3, key=KEY), (image(2, *[6] * n),))
    for name in ("Conv", "ConvTranspose")
    for n in (1, 2, 3)
}
POOLS = {
    f"{name}Pool{n}d": (getattr(nn, f"{name}Pool{n}d")(2), (image(2, *[4] * n),))
    for name in ("Avg", "Max", "AdaptiveAvg", "AdaptiveMax")
    for n in (1, 2, 3)
}
EXAMPLES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    **CONVS,
    **POOLS,
    "Conv": (nn.Conv(1, 2, 4, 3, groups=2, key=KEY), (image(2, 6),)),
    "ConvTranspose": (nn.ConvTranspose(1, 2, 4, 3, key=KEY), (image(2, 6),)),
    "Pool": (nn.Pool(0, jax.lax.add, 1, 2), (image(2, 4),)),
    "AdaptivePool": (nn.AdaptivePool(2, 1, jnp.max), (image(2, 4),)),
    "Dropout": (nn.Dropout(0.5), (X,)),
    "Embedding": (nn.Embedding(4, 3, key=KEY), (jnp.array(2),)),
    "GRUCell": (nn.GRUCell(3, 4, key=KEY), (X, image(4))),
    "GroupNorm": (nn.GroupNorm(1, 3), (X,)),
    "Identity": (nn.Identity(), (X,)),
    "LSTMCell": (nn.LSTMCell(3, 4, key=KEY), (X, (image(4), image(4)))),
    "Lambda": (nn.Lambda(jnp.tanh), (X,)),
    "LayerNorm": (nn.LayerNorm(3), (X,)),
    "Linear": (nn.Linear(3, 4, key=KEY), (X,)),
    "MLP": (nn.MLP(3, 2, 4, 2, activation=jnp.tanh, key=KEY), (X,)),
    "MLP, PReLU": (nn.MLP(3, 2, 4, 2, activation=nn.PReLU(), key=KEY), (X,)),
    "MLP, scan": (nn.MLP(3, 2, 4, 4, scan=True, key=KEY), (X,)),
    "MultiheadAttention": (
        nn.MultiheadAttention(2, 4, dropout_p=0.5, key=KEY),
        (image(5, 4), image(5, 4), image(5, 4)),
    ),
    "PReLU": (nn.PReLU(), (X,)),
    "RMSNorm": (nn.RMSNorm(3), (X,)),
    "RotaryPositionalEmbedding": (nn.RotaryPositionalEmbedding(4), (image(5, 4),)),
    "Sequential": (
        nn.Sequential([nn.Linear(3, 4, key=KEY), nn.Lambda(jnp.tanh), nn.Dropout(0.5)]),
        (X,),
    ),
    "Shared": (shared(), (jnp.array(1),)),
    "WeightNorm": (nn.WeightNorm(nn.Linear(3, 4, key=KEY)), (X,)),
    "SpectralNorm": (spectral_norm()[0], (X, spectral_norm()[1])),
    "BatchNorm": (batch_norm("batch")[0], (image(5, 3), batch_norm("batch")[1])),
    "BatchNorm, ema": (batch_norm("ema")[0], (image(5, 3), batch_norm("ema")[1])),
}
CALLS = {
    "Dropout": keyed,
    "MultiheadAttention": keyed,
    "Sequential": keyed,
    "Shared": tied,
    "SpectralNorm": stateful,
    "BatchNorm": batched,
    "BatchNorm, ema": batched,
}
TRAINED = {
    **dict.fromkeys([*CONVS, "Conv", "ConvTranspose", "Linear"], ("weight", "bias")),
    **dict.fromkeys([*POOLS, "Pool", "AdaptivePool", "Dropout", "Identity", "Lambda"], ()),
    **dict.fromkeys(["GroupNorm", "LayerNorm", "RMSNorm"], ("weight", "bias")),
    **dict.fromkeys(["BatchNorm", "BatchNorm, ema"], ("weight", "bias")),
    "Embedding": ("weight",),
    "GRUCell": ("weight_ih", "weight_hh", "bias", "bias_n"),
    "LSTMCell": ("weight_ih", "weight_hh", "bias"),
    "MLP": tuple(f"layers.{i}.{name}" for i in range(3) for name in ("weight", "bias")),
    "MLP, PReLU": (
        *(f"layers.{i}.{name}" for i in range(3) for name in ("weight", "bias")),
        "activation.negative_slope",
    ),
    "MLP, scan": tuple(
        f"layers.{i}.{name}" for i in range(3) for name in ("weight", "bias")
    ),
    "MultiheadAttention": tuple(
        f"{part}_proj.weight" for part in ("query", "key", "value", "output")
    ),
    "PReLU": ("negative_slope",),
    "RotaryPositionalEmbedding": (),
    "Sequential": ("layers.0.weight", "layers.0.bias"),
    "Shared": ("pytree.0.weight", "pytree.1.bias"),
    "WeightNorm": ("layer.weight", "layer.bias", "g"),
    "SpectralNorm": ("layer.weight", "layer.bias"),
}


def call_of(name):
    return CALLS.get(name, plain)


# --- the table -----------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLIC)
def test_the_table_knows_every_field_of_every_public_class(name):
    cls = PUBLIC[name]
    if not dataclasses.is_dataclass(cls):
        assert cls is nn.State
        assert cls in TABLE
        return
    own = [f.name for f in dataclasses.fields(cls) if f.name in own_annotations(cls)]
    assert cls in TABLE or (not own and any(base in TABLE for base in cls.__mro__))
    assert set(own) <= set(TABLE.get(cls, {}))


@pytest.mark.parametrize("name", PUBLIC)
def test_there_is_an_example_of_every_public_class(name):
    bases = {"State", "StateIndex", "StatefulLayer"}  # parts of the stateful examples
    assert name in EXAMPLES or name in bases


@pytest.mark.parametrize("cls", TABLE, ids=lambda cls: cls.__name__)
def test_the_table_names_no_field_that_is_gone(cls):
    if cls is not nn.State:
        assert set(TABLE[cls]) == {f.name for f in dataclasses.fields(cls)}


@pytest.mark.parametrize(
    "name",
    [name for name in EXAMPLES if name not in {"Shared", "MLP, scan", "Lambda"}],
)
def test_axis_names_fit_the_arrays(name):
    for record in anx.records(EXAMPLES[name][0]):
        if record.axes is not None and record.dtype is not None:
            fixed = [
                axis for axis in record.axes if not (axis or "").startswith(("*", "."))
            ]
            variadic = len(fixed) < len(record.axes)
            assert record.ndim >= len(fixed) if variadic else record.ndim == len(fixed)


def test_axis_names():
    def axes(model):
        return {r.path: r.axes for r in anx.records(model) if r.axes is not None}

    assert axes(EXAMPLES["Linear"][0]) == {
        "weight": ("out_features", "in_features"),
        "bias": ("out_features",),
    }
    assert axes(EXAMPLES["Conv2d"][0])["weight"] == (
        "out_channels",
        "in_channels",
        "*kernel_size",
    )
    assert axes(EXAMPLES["Embedding"][0]) == {
        "weight": ("num_embeddings", "embedding_size")
    }
    assert axes(EXAMPLES["GRUCell"][0])["weight_hh"] == ("gates", "hidden_size")


# --- roles, before and after adoption ------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_roles_are_right_without_adoption(name):
    model = EXAMPLES[name][0]
    assert anx.trainable_filter.paths(model) == TRAINED[name]
    for record in anx.records(model):
        assert record.origin == "registered", record.path
        if record.dtype is None and "pytree" not in record.path:
            assert record.role == anx.Hyper, record.path


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_adopted_layer_has_arrays_only_and_the_same_trainables(name):
    model = EXAMPLES[name][0]
    adopted = anx.adopt(model)
    assert all(map(eqx.is_array, jax.tree.leaves(adopted)))
    assert isinstance(adopted, type(model))
    assert jax.tree.structure(anx.params(adopted)) == jax.tree.structure(anx.params(model))
    again = anx.adopt(adopted)
    assert jax.tree.structure(again) == jax.tree.structure(adopted)
    assert all(record.enforced for record in anx.records(adopted))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_adopted_layer_computes_and_trains_as_before_under_plain_jax(name):
    model, args = EXAMPLES[name]
    adopted, call, tx = anx.adopt(model), call_of(name), optax.adamw(1e-2)

    def loss(model):
        out = call(model, *args)
        return sum(jnp.sum(x**3 + x) for x in jax.tree.leaves(out)), out

    @jax.jit
    def step(adopted, opt_state):
        grads, out = jax.grad(loss, has_aux=True)(adopted)
        params = anx.params(adopted)
        updates, opt_state = tx.update(anx.params(grads), opt_state, params)
        return anx.update(adopted, optax.apply_updates(params, updates)), opt_state, out

    @eqx.filter_jit
    def twin_step(model):
        params, rest = eqx.partition(model, anx.trainable_filter(model))
        grads, out = eqx.filter_grad(lambda p: loss(eqx.combine(p, rest)), has_aux=True)(
            params
        )
        updates, _ = tx.update(grads, tx.init(params), params)
        return eqx.apply_updates(model, updates), out

    stepped, _, out = step(adopted, tx.init(anx.params(adopted)))
    twin, expected = twin_step(model)
    for mine, theirs in zip(jax.tree.leaves(out), jax.tree.leaves(expected), strict=True):
        assert jnp.allclose(mine, theirs, atol=1e-6)
    assert jax.tree.structure(stepped) == jax.tree.structure(adopted)
    assert len(anx.params(stepped)) == len(TRAINED[name])
    for path, value in anx.params(twin).items():
        assert jnp.allclose(anx.params(stepped)[path], value, atol=1e-6), path


@pytest.mark.parametrize("name", ["Linear", "Dropout", "LayerNorm", "MLP, PReLU"])
def test_adopted_layers_go_through_vmap_and_scan(name):
    model, args = EXAMPLES[name]
    adopted, call = anx.adopt(model), call_of(name)
    stacked = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), adopted)
    if jax.tree.leaves(stacked):
        out = jax.vmap(call, in_axes=(0, *[None] * len(args)))(stacked, *args)
        _, scanned = jax.lax.scan(lambda c, m: (c, call(m, *args)), 0, stacked)
        assert jnp.allclose(jax.tree.leaves(out)[0], jax.tree.leaves(scanned)[0])
        assert jnp.allclose(
            jax.tree.leaves(out)[0][0], jax.tree.leaves(call(adopted, *args))[0]
        )
    else:
        assert call(adopted, *args).shape == X.shape


def test_adopted_layers_of_the_same_kind_have_the_same_structure():
    for make in (
        lambda: nn.MLP(3, 2, 4, 2, key=KEY),
        lambda: nn.Dropout(0.5),
        lambda: nn.MultiheadAttention(2, 4, key=KEY),
        lambda: nn.MaxPool2d(2),
    ):
        one, other = anx.adopt(make()), anx.adopt(make())
        assert jax.tree.structure(one) == jax.tree.structure(other)
        assert type(one) is type(other)


# --- single classes ------------------------------------------------------------------


def test_what_dropout_says_of_itself():
    dropout = nn.Dropout(0.5)
    assert {r.path: (r.role, r.enforced) for r in anx.records(dropout)} == {
        "p": (anx.Hyper, False),
        "inference": (anx.Hyper, False),
    }
    adopted = anx.adopt(dropout)
    assert (adopted.p, adopted.inference) == (0.5, False)
    assert jax.tree.leaves(adopted) == []
    assert type(anx.adopt(nn.Dropout(1)).p) is float


def test_a_dropout_rate_that_is_an_array_is_refused_by_adopt_and_never_trained():
    dropout = [nn.Dropout(jnp.array(0.5))]
    assert anx.trainable_filter.count(dropout) == 0
    with pytest.raises(anx.HyperError, match=r"0\.p: an array float32\[\]"):
        anx.adopt(dropout)


def test_the_state_has_no_parameters():
    _, state = batch_norm("batch")
    assert anx.trainable_filter.count({"state": state}) == 0
    assert {record.role for record in anx.records(state)} == {anx.Role.of(anx.Buffer)}


def test_initial_states_are_buffers_and_stay_usable_as_keys():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        norm = nn.BatchNorm(3, "batch", mode="ema")
    assert anx.trainable_filter.paths(norm) == ("weight", "bias")
    adopted = anx.adopt(norm)
    assert type(adopted.ema_state_index) is nn.StateIndex
    grads = jax.grad(
        lambda m: jnp.sum(m.ema_state_index.init[0]) + jnp.sum(m.weight), allow_int=True
    )(adopted)
    assert not jnp.any(grads.ema_state_index.init[0])
    assert jnp.all(grads.weight == 1)
    state = nn.State(adopted)
    assert state.get(adopted.ema_state_index)[0].shape == (3,)
    assert anx.trainable_filter.paths(anx.freeze(norm, anx.everything)) == ()


def test_several_axis_names_in_a_list_are_read_as_they_were():
    norm, _ = nn.make_with_state(nn.BatchNorm)(3, ["a", "b"], mode="batch")
    adopted = anx.adopt(norm)
    assert adopted.axis_name == ["a", "b"]
    assert type(adopted.axis_name) is list
    assert all(map(eqx.is_array, jax.tree.leaves(adopted)))


def test_the_initial_value_of_a_pool_is_never_trained():
    pool = nn.Pool(jnp.array(0.0), jax.lax.add, 1, 2)
    assert anx.trainable_filter.count(pool) == 0
    adopted = anx.adopt(pool)
    assert eqx.is_array(adopted.init)
    assert jnp.array_equal(adopted(image(2, 4)), pool(image(2, 4)))


def test_an_activation_of_ones_own_is_trained_unless_it_is_a_function():
    class Swish(eqx.Module):
        beta: jax.Array

        def __call__(self, x):
            return x * jax.nn.sigmoid(self.beta * x)

    mlp = nn.MLP(2, 2, 4, 1, activation=Swish(jnp.ones(())), key=KEY)
    assert "activation.beta" in anx.params(mlp)
    assert "activation.beta" in anx.params(anx.adopt(mlp))


def test_what_users_register_overrides_the_table():
    class Mine(nn.Linear):
        pass

    linear = Mine(3, 4, key=KEY)
    adopted = anx.adopt({"layer": linear})
    assert list(anx.params(adopted)) == ["layer.weight", "layer.bias"]
    anx.register(Mine, bias=anx.field(role=anx.Buffer, tags=["constant"]))
    assert list(anx.params(linear)) == list(anx.params(adopted["layer"])) == ["weight"]
    assert anx.by_tag("constant").paths(adopted) == ("layer.bias",)
    assert not anx.records(adopted)[1].enforced
    grads = jax.grad(lambda m: jnp.sum(m["layer"](X)))(anx.adopt(adopted))
    assert not jnp.any(grads["layer"].bias)
    assert jnp.any(grads["layer"].weight)
    assert list(anx.params(nn.Linear(3, 4, key=KEY))) == ["weight", "bias"]
