"""`save` and `load`: what comes back, into which models, and what never changes."""

import os
import subprocess
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

import annotax as anx
from strategies import ODD_KEYS, layered_models, models

T = TypeVar("T")
LoRA = Annotated[T, anx.Role("lora", parent=anx.Param)]
KEY = jax.random.key(0)


class Layer(anx.Module):
    weight: anx.Param[Array]
    down: LoRA[Array]
    mean: anx.Buffer[Array]
    cache: anx.Buffer[Array] = anx.field(persistent=False)
    rate: anx.Hyper[float] = 0.1


def layer(value: float = 1.0, rate: float = 0.1) -> Layer:
    arrays = (jnp.full(shape, value) for shape in ((2, 3), (2, 1), (3,), (4,)))
    return Layer(*arrays, rate)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.safetensors"


# --- comparing -----------------------------------------------------------------------


def is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def is_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, np.ndarray | np.generic)


def assert_same_leaf(one: Any, other: Any) -> None:
    """The same to the bit: kind, dtype, weak type, shape, bytes."""
    if not is_array(other):
        assert one is other
        return
    assert type(one) is type(other)
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    assert getattr(one, "weak_type", None) == getattr(other, "weak_type", None)
    if is_key(other):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def assert_same(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for leaf, expected in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert_same_leaf(leaf, expected)


def zeroed(tree: Any) -> Any:
    """The same tree with nothing but zeros in its arrays."""

    def zero(leaf):
        if not is_array(leaf):
            return leaf
        if is_key(leaf):
            data = jnp.zeros_like(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        if isinstance(leaf, np.ndarray | np.generic):
            zeros = np.zeros(leaf.shape, leaf.dtype)
            return zeros[()] if isinstance(leaf, np.generic) else zeros
        if leaf.weak_type:
            return leaf * 0
        return jnp.zeros_like(leaf)

    return jax.tree.map(zero, tree)


def through_file(tree: Any, like: Any, **options: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "model.safetensors")
        anx.save(file, tree)
        return anx.load(file, like, **options)


def assert_comes_back(tree: Any) -> None:
    assert_same(through_file(tree, zeroed(tree)), tree)


# --- everything comes back -----------------------------------------------------------


@given(models() | layered_models())
def test_any_model_comes_back_but_what_is_not_persistent(model):
    like = zeroed(model.tree)
    loaded = through_file(model.tree, like)
    assert jax.tree.structure(loaded) == jax.tree.structure(model.tree)
    leaves = map(jax.tree.leaves, (loaded, model.tree, like))
    for expected, found, saved, blank in zip(model.expected, *leaves, strict=True):
        assert_same_leaf(found, saved if expected.persistent else blank)


WIDE = ("int64", "uint64", "float64", "complex128")
NARROW = ("int1", "uint1", "int2", "uint2", "int4", "uint4", "float4_e2m1fn")
DTYPES = [
    "bool", "int8", "int16", "int32", "uint8", "uint16", "uint32", "float16", "float32",
    "bfloat16", "complex64", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz",
    "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
    "float8_e8m0fnu", *NARROW, *WIDE,
]  # fmt: skip
DTYPES = [name for name in DTYPES if hasattr(jnp, name)]


@st.composite
def numpy_arrays(draw, name):
    shape = draw(st.sampled_from([(), (1,), (5,), (0,), (2, 3), (2, 0, 3), (1, 2, 2)]))
    dtype, size = np.dtype(getattr(jnp, name)), int(np.prod(shape))
    if name in NARROW or name == "bool":
        bits = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
        return np.array(bits).astype(dtype).reshape(shape)
    count = size * dtype.itemsize
    raw = draw(st.binary(min_size=count, max_size=count))
    return np.frombuffer(raw, dtype).reshape(shape).copy()


@pytest.mark.parametrize("name", DTYPES)
@settings(max_examples=15)
@given(st.data())
def test_every_dtype_comes_back_to_the_bit(name, data):
    array = data.draw(numpy_arrays(name))
    assert_comes_back({"array": array, "scalars": list(array.reshape(-1)[:2])})
    if name not in (*WIDE, "int1", "uint1"):  # JAX itself mistakes these for booleans
        assert_comes_back({"array": jnp.asarray(array)})


@pytest.mark.skipif(not hasattr(jnp, "int1"), reason="this JAX has no such dtype")
def test_a_dtype_for_which_jax_hands_out_booleans():
    loaded = through_file([jnp.asarray(np.ones((), jnp.int1))], [np.zeros((), jnp.int1)])
    assert loaded[0].dtype == jnp.int1
    assert loaded[0] != 0


IMPLEMENTATIONS = ("threefry2x32", "rbg", "unsafe_rbg")


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (0,)])
def test_keys_of_all_implementations(impl, shape):
    keys = jax.random.split(jax.random.key(7, impl=impl), shape)
    assert_comes_back({"keys": keys, "old": jax.random.PRNGKey(3)})
    skeleton = eqx.filter_eval_shape(lambda: {"keys": keys})
    assert_same(through_file({"keys": keys}, skeleton), {"keys": keys})


def test_wide_arrays_of_jax():
    script = """
        import jax, jax.numpy as jnp, tempfile, annotax as anx
        tree = {
            **{d: jnp.ones((2, 3), d) for d in ("float64", "complex128")},
            **{d: jnp.ones((2, 3), d) for d in ("int64", "uint64")},
            "weak": jnp.asarray(1.0), "empty": jnp.zeros((0, 2), "complex128"),
        }
        with tempfile.TemporaryDirectory() as folder:
            anx.save(f"{folder}/m", tree)
            skeleton = jax.eval_shape(lambda: tree)
            for like in (jax.tree.map(jnp.zeros_like, tree), skeleton):
                loaded = anx.load(f"{folder}/m", {**like, "weak": skeleton["weak"]})
                for name, x in tree.items():
                    found = loaded[name]
                    assert (found.dtype, found.weak_type) == (x.dtype, x.weak_type), name
                    assert found.shape == x.shape and (found == x).all(), name
            jax.config.update("jax_enable_x64", False)
            try:
                anx.load(f"{folder}/m", skeleton)
            except anx.CheckpointError as error:
                assert "int64 i64[2,3]" in str(error), error
                assert str(error).count("for which jax_enable_x64 must be set") == 6, error
            else:
                raise AssertionError("loaded float64 as something else")
    """
    environment = {**os.environ, "JAX_ENABLE_X64": "1"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    subprocess.run(command, env=environment, check=True)


def test_any_order_in_memory():
    array = np.arange(24.0).reshape(2, 3, 4)
    tree = {
        "turned": array.T,
        "backwards": array[::-1, :, ::2],
        "fortran": np.asfortranarray(array[0]),
        "spread": np.broadcast_to(np.float32(3), (2, 3)),
        "big": array.astype(">f4"),
        "big complex": (array[0] * 1j).astype(">c16"),
        "big number": np.array(7, ">i2"),
    }
    assert_comes_back(tree)
    loaded = through_file(tree, zeroed(tree))
    assert all(np.array_equal(loaded[name], tree[name]) for name in tree)
    assert through_file({"x": tree["big"]}, {"x": jnp.zeros((2, 3, 4))})["x"][1, 2, 3] == 23


def test_weak_types_are_those_of_the_model(file):
    weak = {"float": jnp.asarray(2.5), "int": jnp.full((3,), 3)}
    assert all(array.weak_type for array in weak.values())
    anx.save(file, weak)
    assert_same(anx.load(file, zeroed(weak)), weak)
    assert_same(anx.load(file, jax.eval_shape(lambda: weak)), weak)
    strong = {"float": jnp.zeros(()), "int": jnp.zeros(3, int)}
    assert not any(x.weak_type for x in anx.load(file, strong).values())
    half = jnp.ones((), "bfloat16")
    assert (anx.load(file, zeroed(weak))["float"] * half).dtype == "bfloat16"


@pytest.mark.parametrize(
    "tree", [{}, None, [], 3, "text", jnp.arange(3.0), KEY, np.ones(2)]
)
def test_trees_without_paths(tree):
    assert_comes_back(tree)


def test_names_that_are_no_identifiers():
    assert_comes_back({key: np.full(2, at) for at, key in enumerate(ODD_KEYS)})
    assert_comes_back({key: np.full(2, key) for key in range(-2, 12)})
    assert_comes_back({"x": {(1, "a"): jnp.ones(2)}, "y": {b"\0": jnp.ones(3)}})
    assert_comes_back({"__metadata__": [jnp.ones(2)]})


# --- shared arrays -------------------------------------------------------------------


def test_a_shared_array_is_saved_once_and_loaded_as_one(file):
    array, number, key = jnp.arange(3.0), np.arange(2), jax.random.key(1)
    tree = {"a": array, "b": [array, number, key], "c": number, "d": key}
    anx.save(file, tree)
    assert set(safetensors.numpy.load_file(file)) == {"a", "b.1", "b.2"}
    apart = anx.load(file, zeroed(tree))
    assert_same(apart, tree)
    assert apart["a"] is not apart["b"][0]  # two in the model, which may donate both
    assert apart["c"] is not apart["b"][1]
    loaded = anx.load(file, tree)
    assert_same(loaded, tree)
    assert loaded["a"] is loaded["b"][0]
    assert loaded["c"] is loaded["b"][1]
    assert loaded["d"] is loaded["b"][2]


def test_a_shared_array_goes_into_arrays_of_different_kinds(file):
    array = jnp.arange(3.0)
    anx.save(file, {"a": array, "b": array, "c": array})
    like = {"a": jnp.zeros(3), "b": np.zeros(3, "float32"), "c": np.zeros(3, ">f4")}
    loaded = anx.load(file, like)
    assert [type(loaded[name]) for name in "abc"] == [type(array), np.ndarray, np.ndarray]
    assert loaded["c"].dtype == ">f4"
    assert all(np.array_equal(loaded[name], array) for name in "abc")


def test_an_array_whose_first_place_is_left_out_is_saved_in_the_second(file):
    array = jnp.arange(3.0)
    anx.save(file, {"a": array, "b": array}, select=anx.by_path("b"))
    assert list(safetensors.numpy.load_file(file)) == ["b"]


# --- models --------------------------------------------------------------------------


class Tied(eqx.Module):
    shared: eqx.nn.Shared

    def __init__(self):
        pair = eqx.nn.Embedding(3, 2, key=KEY), eqx.nn.Linear(2, 3, key=KEY)
        self.shared = eqx.nn.Shared(pair, lambda p: p[1].weight, lambda p: p[0].weight)


def with_state(make: Callable[[], Any]) -> Any:
    return eqx.nn.make_with_state(make)()


def linear(rows: int = 2) -> eqx.nn.Linear:
    return eqx.nn.Linear(3, rows, key=KEY)


MODELS: dict[str, Callable[[], Any]] = {
    "annotated": layer,
    "mlp": lambda: eqx.nn.MLP(2, 2, 4, 2, key=KEY),
    "prelu": lambda: eqx.nn.MLP(2, 2, 4, 1, activation=eqx.nn.PReLU(), key=KEY),
    "attention": lambda: eqx.nn.MultiheadAttention(2, 4, key=KEY),
    "gru": lambda: eqx.nn.GRUCell(2, 3, key=KEY),
    "conv": lambda: eqx.nn.Conv2d(1, 2, 3, key=KEY),
    "weight norm": lambda: eqx.nn.WeightNorm(linear()),
    "spectral norm": lambda: with_state(
        lambda: eqx.nn.SpectralNorm(linear(), "weight", key=KEY)
    ),
    "batch norm": lambda: with_state(lambda: eqx.nn.BatchNorm(3, "batch", mode="batch")),
    "tied": Tied,
    "sequential": lambda: eqx.nn.Sequential(
        [linear(), eqx.nn.Lambda(jax.nn.relu), eqx.nn.Dropout(0)]
    ),
    "ensemble": lambda: eqx.filter_vmap(lambda key: eqx.nn.Linear(2, 2, key=key))(
        jax.random.split(KEY, 3)
    ),
    "in a dictionary": lambda: {"a.b": linear(), "3": [layer(), jnp.tanh]},
}
VARIANTS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda model: model,
    "adopted": anx.adopt,
    "frozen": lambda model: anx.freeze(model, frozen_part),
    "adopted and frozen": lambda model: anx.freeze(anx.adopt(model), frozen_part),
    "for inference": anx.inference_mode,
    "abstract": lambda model: eqx.filter_eval_shape(lambda: model),
    "adopted, abstract": lambda model: eqx.filter_eval_shape(lambda: anx.adopt(model)),
}
frozen_part = anx.trainable_filter & anx.by(lambda record: record.owner is not None)


@pytest.mark.parametrize("name", MODELS)
def test_plain_adopted_frozen_and_abstract_models_exchange_checkpoints(name, file):
    model = MODELS[name]()
    variants = {name: change(model) for name, change in VARIANTS.items()}
    for writer in variants.values():
        if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(writer)):
            continue
        anx.save(file, writer)
        for reader in variants.values():
            with warnings.catch_warnings():  # the abstract cache, the mode of dropout
                warnings.simplefilter("ignore", anx.CheckpointWarning)
                loaded = anx.load(file, zeroed(reader))
            assert jax.tree.structure(loaded) == jax.tree.structure(reader)
            kept = anx.by(lambda record: record.persistent and record.dtype is not None)
            pairs = [anx.leaves(tree, kept).values() for tree in (loaded, model)]
            for one, other in zip(*pairs, strict=True):
                assert_same_leaf(one, other)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_said_of_models_that_are_the_same(name):
    model = MODELS[name]()
    changes = [VARIANTS[v] for v in ("plain", "adopted", "frozen", "adopted and frozen")]
    for writer in changes:
        for reader in changes:
            through_file(writer(model), reader(model), hypers="error")  # nor does it warn


def test_leaves_and_models_exchange_checkpoints():
    model, like = layer(1.0), layer(2.0)
    assert_same(through_file(anx.leaves(model, anx.everything), like).mean, model.mean)
    params = anx.params(model)
    assert_same(
        through_file(model, anx.params(like), select=anx.by_role(anx.Param)), params
    )
    assert_same(through_file(params, anx.params(like)), params)


@pytest.mark.parametrize("abstract", [False, True])
def test_a_resumed_training_goes_on_as_if_uninterrupted(abstract, file):
    tx = optax.adamw(optax.warmup_cosine_decay_schedule(0, 1e-2, 2, 9))
    key = jax.random.key(5)

    def start():
        model = anx.adopt(eqx.nn.MLP(2, 1, 4, 1, key=KEY))
        return {"model": model, "opt_state": tx.init(anx.params(model)), "key": key}

    @jax.jit
    def step(state):
        key, data = jax.random.split(state["key"])
        x = jax.random.normal(data, (8, 2))
        grads = anx.grad(lambda m: jnp.mean(jax.vmap(m)(x) ** 2))(state["model"])
        params = anx.params(state["model"])
        updates, opt_state = tx.update(grads, state["opt_state"], params)
        model = anx.update(state["model"], optax.apply_updates(params, updates))
        return {"model": model, "opt_state": opt_state, "key": key}

    state = start()
    for _ in range(3):
        state = step(state)
    anx.save(file, state)
    resumed = anx.load(file, eqx.filter_eval_shape(start) if abstract else start())
    for _ in range(3):
        state, resumed = step(state), step(resumed)
    assert_same(resumed, state)
    assert step._cache_size() <= 2  # of fresh and of committed inputs, at most


# --- placement -----------------------------------------------------------------------


def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()[:1]), ("data",))


@pytest.mark.parametrize("abstract", [False, True])
def test_arrays_go_where_those_of_the_model_are(abstract, file):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = {
        "named": NamedSharding(mesh(), PartitionSpec("data")),
        "single": one,
        "free": None,
    }
    tree = {name: jax.device_put(jnp.arange(4.0), s) for name, s in shardings.items()}
    anx.save(file, tree)
    like = tree
    if abstract:
        like = {
            name: jax.ShapeDtypeStruct((4,), "float32", sharding=s)
            for name, s in shardings.items()
        }
    loaded = anx.load(file, like)
    assert_same(loaded, tree)
    for name in ("named", "single"):
        assert loaded[name].sharding == shardings[name]
        assert loaded[name].committed
    assert not loaded["free"].committed


def test_a_shared_array_is_one_for_each_sharding(file):
    array = jnp.arange(4.0)
    anx.save(file, {"a": array, "b": array, "c": array})
    sharding = NamedSharding(mesh(), PartitionSpec())
    there = jax.device_put(jnp.zeros(4), sharding)
    loaded = anx.load(file, {"a": there, "b": jnp.zeros(4), "c": there})
    assert loaded["a"] is loaded["c"] is not loaded["b"]


def test_a_sharding_without_devices_does_not_count(file):
    anx.save(file, [jnp.arange(4.0)])
    try:
        bare = AbstractMesh((1,), ("data",))
    except TypeError:  # until JAX 0.5
        bare = AbstractMesh((("data", 1),))
    sharding = NamedSharding(bare, PartitionSpec("data"))
    like = [jax.ShapeDtypeStruct((4,), "float32", sharding=sharding)]
    assert_same(anx.load(file, like), [jnp.arange(4.0)])


def test_load_works_inside_of_a_compiled_function(file):
    anx.save(file, layer(3.0))

    @jax.jit
    def warm(model):
        loaded = anx.load(file, model)
        return loaded, loaded.weight.sum()

    model, total = warm(layer(0.0))
    assert total == 18
    assert (model.cache == 0).all()


def test_a_donated_model_can_still_be_loaded_into(file):
    anx.save(file, [jnp.arange(3.0)])
    like = [jnp.zeros(3)]
    like[0].delete()
    assert_same(anx.load(file, like), [jnp.arange(3.0)])
