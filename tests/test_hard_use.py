"""Many classes, many models, many structures: what is kept, and what is let go."""

import gc
import json
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import annotax as anx
from annotax import _locate, _path, _variant, _view
from annotax._registry import registry

SCRIPTS = Path(__file__).parent / "hard_scripts"


class Tag:
    """A static value that can be watched."""

    def __init__(self, n):
        self.n = n

    def __eq__(self, other):
        return isinstance(other, Tag) and other.n == self.n

    def __hash__(self):
        return hash(self.n)


class Layer(anx.Module):
    weight: anx.Param[Any]
    mean: anx.Buffer[Any]
    tag: anx.Hyper[Any]

    def __call__(self, x):
        return self.weight @ (x - self.mean)


class Net(anx.Module):
    layers: list[Layer]
    dropout: eqx.nn.Dropout

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return jnp.sum(x)


def net(n=0):
    layers = [Layer(jnp.full((2, 2), n + 1.0), jnp.zeros(2), Tag(n)) for _ in range(2)]
    return Net(layers, eqx.nn.Dropout(0.5))


def loss_fn(model, x):
    return model(x)


# --- many classes --------------------------------------------------------------------


def test_a_class_costs_little_more_than_its_plain_twin():
    command = [sys.executable, str(SCRIPTS / "classes.py"), "200"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    cost = json.loads(ended.stdout)
    assert 0 < cost["annotated"] - cost["plain"] < 5 * 1024, cost


# --- instances and arrays ------------------------------------------------------------


def selecting(model, _):
    selections = [anx.trainable_filter, anx.by_role(anx.Buffer), anx.by_path("**.mean")]
    selections += [anx.by(lambda record: record.ndim == 2), anx.at(lambda m: m.layers[0])]
    return [(s(model), s.paths(model), s.expect(s.count(model))(model)) for s in selections]


def training(model, _):
    tx = optax.adam(1e-3)
    params = anx.params(model)
    state = tx.init(params)
    _, grads = anx.value_and_grad(loss_fn)(model, jnp.ones(2))
    updates, state = tx.update(grads, state, params)
    model = anx.update(model, optax.apply_updates(params, updates))
    return model, anx.carry(state, tx.init(anx.params(model)))


def splitting(model, _):
    structure, params, rest = anx.split(anx.adopt(model), anx.trainable_filter)
    jax.jit(lambda params, rest: anx.merge(structure, params, rest)(jnp.ones(2)))(
        params, rest
    )
    return structure, params, rest


def looking(model, _):
    frozen = anx.freeze(model, anx.everything)
    shown = [anx.summary(model), anx.diff(model, frozen), anx.diff(model, net(3))]
    shown += [anx.explain(model, path) for path in ("layers.0.weight", "layers.1.tag")]
    shown += [anx.gradient_report(loss_fn, model, jnp.ones(2)), anx.audit(Net)]
    data = [anx.summary(model).to_dict(), anx.summary(model)._repr_html_()]
    return [*map(str, shown), *data, anx.records(model), repr(anx.params(model))]


def storing(model, folder):
    anx.save(folder / "model.safetensors", model)
    return anx.load(folder / "model.safetensors", model)


def failing(model, folder):
    attempts = [
        lambda: anx.freeze(model, anx.by_path("nothing")),
        lambda: anx.update(model, anx.params(net().layers)),
        lambda: Layer(1, 2, model.layers[0].weight),
        lambda: anx.adopt([model, 1.5]),
        lambda: anx.replace(model, {"nothing": model.layers[0].weight}),
        lambda: anx.trainable_filter(model.layers[0].weight),
        lambda: anx.explain(model, "nothing"),
        lambda: anx.load(folder / "nothing.safetensors", model),
    ]
    for attempt in attempts:
        with pytest.raises((anx.AnnotaxError, FileNotFoundError)):
            attempt()


USES = {
    "selecting": selecting,
    "flat": lambda model, _: [anx.params(model), anx.leaves(model, anx.everything)],
    "training": training,
    "splitting": splitting,
    "freezing": lambda model, _: anx.unfreeze(anx.freeze(model, anx.by_path("**.weight"))),
    "adopting": lambda model, _: anx.adopt([model, jnp.tanh]),
    "replacing": lambda model, _: anx.replace(model, {"layers.0.tag": Tag(9)}),
    "inference": lambda model, _: anx.inference_mode(model),
    "looking": looking,
    "sharding": lambda model, _: [
        anx.partition_specs(x, {}) for x in (model, anx.params(model))
    ],
    "labelling": lambda model, _: anx.labels({"a": anx.by_path("layers.**")}, default="b")(
        model
    ),
    "storing": storing,
    "failing": failing,
}


def watched(model):
    """Weak references to all that a model is made of."""
    layer = model.layers[0]
    values = {"model": model, "layer": layer, "tag": layer.tag, "weight": layer.weight}
    return {
        name: weakref.ref(value) for name, value in {**values, "mean": layer.mean}.items()
    }


def use(name, folder):
    """Do something with a model; returns what to watch when all else is gone."""
    model = net(5)
    watch = watched(model)
    made = USES[name](model, folder)
    if isinstance(made, eqx.Module):
        watch["result"] = weakref.ref(made)
    return watch


def alive(watch):
    gc.collect()
    return [name for name, value in watch.items() if value() is not None]


@pytest.mark.parametrize("name", USES)
def test_nothing_of_a_model_is_kept(name, tmp_path):
    watch = use(name, tmp_path)
    if name == "splitting":  # a compiled function knows its static arguments
        jax.clear_caches()
    assert alive(watch) == []


def test_static_values_beside_dictionaries_are_kept_for_a_while(monkeypatch):
    monkeypatch.setattr(_view, "_cache", _view._LayoutCache())
    monkeypatch.setattr(_view, "_CACHED_HASHES", 3)

    def select():
        model = net(5)
        anx.params({"model": model})
        return watched(model)

    watch = select()
    assert alive(watch) == ["tag"]
    for n in range(3):
        anx.trainable_filter([jnp.ones(1)] * n)
    assert alive(watch) == []


def test_what_was_unpickled_is_kept_by_equinox_alone():
    def through_pickle(model):
        return weakref.ref(pickle.loads(pickle.dumps(model)))

    kept_by_equinox = through_pickle(Dense(jnp.ones(2)))() is not None
    layer = Layer(jnp.ones((2, 2)), jnp.zeros(2), Tag(1))
    assert (through_pickle(layer)() is not None) == kept_by_equinox
    # Its original is unpickled, and the variant made of that.
    assert through_pickle(anx.freeze(layer, anx.everything))() is None


class Dense(eqx.Module):
    weight: Any


# --- variants and caches -------------------------------------------------------------


def test_caches_stay_bounded(monkeypatch):
    monkeypatch.setattr(_view, "_cache", _view._LayoutCache())
    monkeypatch.setattr(_view, "_CACHED_HASHES", 16)
    x = jnp.ones(1)
    for n in range(60):
        anx.trainable_filter([x] * n)
        anx.trainable_filter({f"key{n}": x})
    held = _view._cache._state[1]
    assert len(held) == 16
    assert sum(map(len, held.values())) <= 16 * _view._CACHED_PER_HASH
    for cached in (_path.segments, _path.compile_pattern):
        assert cached.cache_info().maxsize is not None


def test_files_that_were_read_are_forgotten(monkeypatch, tmp_path):
    monkeypatch.setattr(_locate, "_parsed", {})
    monkeypatch.setattr(_locate, "_LIMIT", 3)
    for n in range(5):
        file = tmp_path / f"file{n}.py"
        file.write_text("class A:\n    x: int\n")
        assert list(_locate._bodies(str(file))) == ["A"]
    assert len(_locate._parsed) == 3


def test_freezing_in_turns_makes_no_more_classes():
    model = net()
    ways = [anx.by_path("**.weight"), anx.by_path("layers.0.*"), anx.everything]
    for way in ways:
        anx.unfreeze(anx.adopt(anx.freeze(anx.adopt(model), way)))
    made, variants = len(_variant._made), len(registry.variants)
    for _ in range(3):
        for way in reversed(ways):
            anx.unfreeze(anx.adopt(anx.freeze(anx.adopt(net(7)), way)))
    assert (len(_variant._made), len(registry.variants)) == (made, variants)
