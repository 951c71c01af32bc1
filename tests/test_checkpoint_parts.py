"""`save` and `load`: a part of a model, other names, files of others, the file itself."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from jaxtyping import Array, Float

import annotax as anx
from annotax._leaves import LeafKey, LeafKeys
from strategies import ARRAYS, models
from test_checkpoint import (
    KEY,
    LoRA,
    assert_same,
    file,
    is_key,
    layer,
    linear,
    through_file,
    zeroed,
)

__all__ = ["file"]  # a fixture


def manifest(file: Any) -> dict[str, Any]:
    with safetensors.safe_open(file, "np") as opened:
        return json.loads(opened.metadata()["annotax"])


# --- a part --------------------------------------------------------------------------


def test_fields_that_are_not_persistent_are_neither_saved_nor_asked_for(file):
    anx.save(file, layer(1.0))
    assert set(safetensors.numpy.load_file(file)) == {"weight", "down", "mean"}
    loaded = anx.load(file, layer(2.0))
    assert (loaded.cache == 2).all()
    assert (loaded.weight == 1).all()


def test_an_old_file_may_hold_what_is_not_persistent_any_more(file):
    arrays = {"weight": (2, 3), "down": (2, 1), "mean": (3,), "cache": (9,)}
    anx.save(file, {name: jnp.ones(shape) for name, shape in arrays.items()})
    assert (anx.load(file, layer(2.0)).cache == 2).all()


def test_save_and_load_a_part(file):
    anx.save(file, {"a": layer(1.0), "b": layer(1.0)}, select=anx.by_role(LoRA))
    assert set(safetensors.numpy.load_file(file)) == {"a.down", "b.down"}
    like = {"a": layer(2.0), "b": layer(2.0)}
    loaded = anx.load(file, like, select=anx.by_role(LoRA) & anx.by_path("a.**"))
    assert (loaded["a"].down == 1).all()
    assert loaded["a"].weight is like["a"].weight
    assert loaded["b"].down is like["b"].down


def test_what_is_not_selected_may_be_another_model(file):
    anx.save(file, {"body": linear(), "head": linear(2)})
    like = {"body": zeroed(linear()), "head": linear(5)}
    loaded = anx.load(file, like, select=~anx.by_path("head.**"), hypers="error")
    assert_same(loaded, {"body": linear(), "head": like["head"]})
    both = {"body": linear(), "head": eqx.nn.Sequential([eqx.nn.Dropout(0.5), linear(2)])}
    like = {"body": linear(), "head": eqx.nn.Sequential([eqx.nn.Dropout(0.1), linear(5)])}
    anx.save(file, both)
    anx.load(file, like, select=anx.by_path("body.**"), hypers="error")
    with pytest.raises(anx.CheckpointError, match=r"layers\.0\.p 0\.5 in the file"):
        anx.load(file, like, strict=False, hypers="error")


def test_hypers_around_what_is_selected_are_compared(file):
    class Model(anx.Module):
        layers: list[Any]
        depth: anx.Hyper[int]

    anx.save(file, Model([layer(), eqx.nn.Dropout(0.5)], 2))
    like = Model([layer(), eqx.nn.Dropout(0.1)], 3)
    with pytest.raises(anx.CheckpointError) as caught:
        anx.load(file, like, select=anx.by_role(LoRA), hypers="error")
    assert "depth 2 in the file, 3 in the model" in str(caught.value)
    assert "layers.1.p 0.5 in the file, 0.1 in the model" in str(caught.value)


def test_loading_what_fits(file):
    anx.save(file, {"a": jnp.ones(2), "b": jnp.ones(3), "c": jnp.ones(4), "d": KEY})
    like = {"a": jnp.zeros(2), "b": jnp.zeros(5), "d": jnp.zeros(2), "e": jnp.zeros(1)}
    with pytest.warns(anx.CheckpointWarning, match="only what fits was loaded"):
        loaded = anx.load(file, like, strict=False)
    assert_same(loaded, {**like, "a": jnp.ones(2)})
    assert all(loaded[name] is like[name] for name in "bde")
    assert anx.load(file, {**like, "a": 3.0, "b": jnp.ones(3)}, select=anx.by_path("b"))


# --- other names ---------------------------------------------------------------------

NAMES = ["enc.0.lin.w", "enc.1.lin.w", "enc.1.lin.b", "head.w", "table['a.b'].w"]
RENAMINGS: list[tuple[Any, list[str | None]]] = [
    ({"head.w": "out"}, [None, None, None, "out", None]),
    ({"head": "a.b"}, [None, None, None, "a.b.w", None]),
    ({"enc": "", "head": None}, ["0.lin.w", "1.lin.w", "1.lin.b", "", None]),
    ({"": "m"}, ["m." + name for name in NAMES]),
    ({"**": "m.**"}, ["m." + name for name in NAMES]),
    ({"enc.*.lin": "body.*"}, ["body.0.w", "body.1.w", "body.1.b", None, None]),
    ({"enc.*.lin.*": "*.of.*"}, ["0.of.w", "1.of.w", "1.of.b", None, None]),
    ({"**.w": "**.v"}, ["enc.0.lin.v", "enc.1.lin.v", None, "head.v", "table['a.b'].v"]),
    ({"enc.1.**": None}, [None, "", "", None, None]),
    ({"enc.0": "enc.1", "enc.1": "enc.0"}, ["enc.1.lin.w", "enc.0.lin.w", "enc.0.lin.b",
      None, None]),
    ({"enc.1.lin": "x", "enc.1": "y"}, [None, "x.w", "x.b", None, None]),
    ({"enc.1": "y", "enc.1.lin": "x"}, [None, "y.lin.w", "y.lin.b", None, None]),
    ({"table['a.b']": "table.ab"}, [None, None, None, None, "table.ab.w"]),
    ({"head": "table['c.d']"}, [None, None, None, "table['c.d'].w", None]),
    ({"h*": "t*"}, [None, None, None, "tead.w", None]),
    (lambda name: name.replace(".lin", ""), ["enc.0.w", "enc.1.w", "enc.1.b", None, None]),
    (lambda name: name if name == "head.w" else None, ["", "", "", None, ""]),
    ({}, [None] * 5),
]  # fmt: skip


def at_paths(arrays: dict[str, Any]) -> anx.Leaves:
    """`Leaves` with any paths."""
    keys = (LeafKey(path, None, frozenset(), None, True) for path in arrays)
    return anx.Leaves(LeafKeys(tuple(keys)), arrays.values())


@pytest.mark.parametrize("at", range(len(RENAMINGS)))
def test_renaming(at, file):
    """`None` in the table: the name is kept; the empty string: it is left out."""
    rename, places = RENAMINGS[at]
    arrays = {name: np.full(2, i, "float32") for i, name in enumerate(NAMES)}
    safetensors.numpy.save_file(arrays, file)
    pairs = zip(NAMES, places, strict=True)
    new = {name: name if path is None else path for name, path in pairs}
    expected = {path: arrays[name] for name, path in new.items() if path}
    like = at_paths({path: np.zeros(2, "float32") for path in expected})
    assert_same(anx.load(file, like, rename=rename), at_paths(expected))


def test_hypers_are_renamed_along(file):
    anx.save(file, {"old": layer(rate=0.1), "head": linear()})
    like = {"new": layer(2.0, rate=0.2), "head": linear()}
    with pytest.warns(anx.CheckpointWarning, match="new.rate: 0.1 in the file, 0.2 in the"):
        anx.load(file, like, rename={"old": "new"})
    like = {"head": layer(rate=0.1)}
    anx.load(file, like, rename={"head": None, "old": "head"}, hypers="error")
    anx.load(file, {"new": layer(rate=0.2)}, rename={"head": None, "old.rate": None,
             "old": "new"}, hypers="error")  # fmt: skip


def test_a_function_is_asked_about_arrays_alone(file):
    anx.save(file, {"old": layer(rate=0.1)})
    table = {f"old.{name}": f"new.{name}" for name in ("weight", "down", "mean")}
    loaded = anx.load(file, {"new": layer(2.0, rate=0.2)}, rename=table.__getitem__)
    assert (loaded["new"].weight == 1).all()


def test_a_setting_is_in_no_array_s_way(file):
    anx.save(file, {"scale": 2.0, "factor": jnp.ones(3)})
    loaded = anx.load(file, {"scale": jnp.zeros(3)}, rename={"factor": "scale"})
    assert_same(loaded, {"scale": jnp.ones(3)})


# --- files of others -----------------------------------------------------------------


def write_raw(file: pathlib.Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    header: dict[str, Any] = {}
    start = 0
    for name, (dtype, shape, data) in tensors.items():
        end = start + len(data)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(data for _, _, data in tensors.values())
    file.write_bytes(len(text).to_bytes(8, "little") + text + body)


def test_a_file_without_a_manifest(file):
    arrays = {"weight": np.ones((2, 3), "float32"), "bias": np.ones(2, "float32")}
    safetensors.numpy.save_file(arrays, file, metadata={"format": "pt"})
    loaded = anx.load(file, zeroed(linear()), hypers="error")
    assert_same(loaded, jax.tree.map(jnp.ones_like, linear()))


@pytest.mark.parametrize(
    ("dtype", "shape", "data"), [("F4", [2, 2], b"\0\0"), ("F6_E2M3", [4], b"\0\0\0")]
)
def test_a_dtype_that_jax_does_not_have_hurts_only_who_asks_for_it(
    dtype, shape, data, file
):
    try:
        write_raw(file, {"w": ("F32", [1], b"\0\0\x80\x3f"), "q": (dtype, shape, data)})
        with safetensors.safe_open(file, "np"):
            pass
    except safetensors.SafetensorError:
        pytest.skip("this safetensors library does not know the dtype either")
    like = {"w": jnp.zeros(1)}
    assert anx.load(file, like, select=anx.by_path("w"))["w"] == 1
    assert anx.load(file, like, rename={"q": None})["w"] == 1
    with pytest.raises(anx.CheckpointError, match=rf"not in the model: q {dtype}\["):
        anx.load(file, like)
    with pytest.raises(anx.CheckpointError, match=rf"q {dtype}\[.* in the file, f32"):
        anx.load(file, {**like, "q": jnp.zeros(shape)})


# --- the file ------------------------------------------------------------------------


class Table(anx.Module):
    weight: anx.Param[Float[Array, "rows columns"]] = anx.field(tags=["slow", "big"])
    size: anx.Hyper[tuple[int, ...]]


def test_what_the_file_tells_without_annotax(file):
    table = Table(jnp.ones((2, 3)), (2, 3))
    anx.save(file, {"table": table, "step": 3, "x": jnp.ones(2, "int4"), "key": KEY})
    arrays = safetensors.numpy.load_file(file)
    assert {name: (x.dtype, x.shape) for name, x in arrays.items()} == {
        "table.weight": ("float32", (2, 3)),
        "x": ("uint8", (2,)),
        "key": ("uint32", (2,)),
    }
    told = manifest(file)
    assert told == {
        "version": 1,
        "leaves": {
            "key": {"dtype": "key<fry>", "shape": [], "key_impl": "threefry2x32",
                    "role": "buffer"},
            "table.weight": {"dtype": "float32", "shape": [2, 3], "role": "param",
                             "axes": ["rows", "columns"], "tags": ["big", "slow"]},
            "x": {"dtype": "int4", "shape": [2], "role": "buffer"},
        },
        "settings": {"table.size": [2, 3], "step": 3},
        "classes": {"table": f"{__name__}.Table"},
    }  # fmt: skip


@pytest.mark.parametrize("kind", [str, pathlib.Path, os.fsencode])
def test_any_kind_of_path(kind, tmp_path, file):
    anx.save(kind(file), [jnp.ones(2)])
    assert_same(anx.load(kind(file), [jnp.zeros(2)]), [jnp.ones(2)])
    assert os.listdir(tmp_path) == ["model.safetensors"]


REFUSED: list[Callable[[], Any]] = [
    lambda: {"a": jnp.ones(2), "b": jax.ShapeDtypeStruct((2,), "float32")},
    lambda: {"a": jnp.ones(2), "b": np.array([object()])},
    lambda: {"__metadata__": jnp.ones(2)},
]


@pytest.mark.parametrize("make", REFUSED)
def test_a_refused_save_touches_nothing(make, tmp_path, file):
    with pytest.raises(anx.CheckpointError):
        anx.save(file, make())
    assert os.listdir(tmp_path) == []
    anx.save(file, [jnp.ones(2)])
    before = file.read_bytes()
    with pytest.raises(anx.CheckpointError):
        anx.save(file, make())
    with pytest.raises(anx.SelectionError):
        anx.save(file, [jnp.ones(2)], select=anx.by_path("no.such"))
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert file.read_bytes() == before


@given(models(ARRAYS))
@settings(max_examples=15)
def test_neither_the_saved_nor_the_given_model_is_changed(model):
    like = zeroed(model.tree)
    leaves = jax.tree.leaves(like)
    kept = [np.array(jax.random.key_data(x) if is_key(x) else x) for x in leaves]
    through_file(model.tree, like)
    assert all(
        one is other for one, other in zip(jax.tree.leaves(like), leaves, strict=True)
    )
    for leaf, copy in zip(leaves, kept, strict=True):
        data = jax.random.key_data(leaf) if is_key(leaf) else leaf
        assert np.array_equal(np.asarray(data), copy)


def test_loaded_arrays_of_numpy_can_be_written_to(file):
    anx.save(file, {"a": np.ones(3), "b": np.ones(3)})
    loaded = anx.load(file, {"a": np.zeros(3), "b": np.zeros(3)})
    loaded["a"][0] = 5
    assert loaded["b"][0] == 1
    assert anx.load(file, {"a": np.zeros(3), "b": np.zeros(3)})["a"][0] == 1
