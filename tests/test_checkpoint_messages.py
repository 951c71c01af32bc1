"""What `save` and `load` say: the full text of every error and every warning."""

import functools
import inspect
import sys
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jaxtyping import Array

import annotax as anx
from test_checkpoint import KEY, LoRA, layer, linear
from test_messages import message, text

FILE = "m.safetensors"
CHOICES = 'hypers="error" refuses, hypers="ignore" is silent'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # so that names are short


def said(*arguments: Any, **options: Any) -> list[str]:
    """The warnings of `load`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        anx.load(FILE, *arguments, **options)
    assert all(warning.category is anx.CheckpointWarning for warning in caught)
    return [str(warning.message) for warning in caught]


def refused(saved: Any, like: Any, **options: Any) -> str:
    anx.save(FILE, saved)
    return message(anx.CheckpointError, lambda: anx.load(FILE, like, **options))


def zeros(*shape: int) -> Array:
    return jnp.zeros(shape)


# --- what does not fit ---------------------------------------------------------------


def test_everything_that_does_not_fit_is_one_error():
    saved = {
        "a": zeros(2),
        "b": zeros(2, 3),
        "c": zeros(3, 2),
        "d": zeros(5),
        "e": zeros(4),
    }
    like = {
        "a": zeros(2), "b": zeros(3, 2), "c": zeros(7), "d": jnp.zeros(5, "int8"),
        "f": zeros(1), "z": KEY,
    }  # fmt: skip
    assert refused(saved, like) == text(
        """
        load('m.safetensors', dict): the checkpoint does not fit the model
          expected: the paths, shapes and dtypes of the model
          found:    not in the file: f f32[1]
                    not in the file: z key<fry>[]
                    not the same: b f32[2,3] in the file, f32[3,2] in the model: transposed?
                    not the same: c f32[3,2] in the file, f32[7] in the model
                    not the same: d f32[5] in the file, i8[5] in the model
                    not in the model: e f32[4]
          fix:      load into a model of the file's dtypes, and cast it then
                    strict=False loads what fits, select=... a part of the model
        """
    )


def test_twenty_rows_and_a_count():
    found = refused({"x": zeros(1)}, [zeros(2, at) for at in range(30)])
    rows = [line for line in found.splitlines() if "not in the file" in line]
    assert len(rows) == 20
    assert found.endswith(
        "not in the file: 19 f32[2,19]\n"
        "            and 11 more\n"
        "  fix:      is it the file of another model?"
    )


def test_one_array_too_few():
    assert refused([zeros(1)], [zeros(1), zeros(2)]) == text(
        """
        load('m.safetensors', list): the checkpoint does not fit the model
          expected: the paths, shapes and dtypes of the model
          found:    not in the file: 1 f32[2]
          fix:      strict=False loads what fits, select=... a part of the model
        """
    )


def test_one_array_too_many():
    assert refused({"a": zeros(1), "b.c": zeros(2)}, {"a": zeros(1)}) == text(
        """
        load('m.safetensors', dict): the checkpoint does not fit the model
          expected: the paths, shapes and dtypes of the model
          found:    not in the model: ['b.c'] f32[2]
          fix:      rename={"['b.c']": None} leaves out what only the file has
                    strict=False loads what fits, select=... a part of the model
        """
    )


def test_an_ensemble():
    assert refused([zeros(7, 2, 3)], [zeros(2, 3)]) == text(
        """
        load('m.safetensors', list): the checkpoint does not fit the model
          expected: the paths, shapes and dtypes of the model
          found:    not the same: 0 f32[7,2,3] in the file, f32[2,3] in the model: a leading
                    axis more: of an ensemble?
        """
    )


def test_keys_of_another_implementation():
    assert refused([jax.random.key(0, impl="rbg")], [KEY]) == text(
        """
        load('m.safetensors', list): the checkpoint does not fit the model
          expected: the paths, shapes and dtypes of the model
          found:    not the same: 0 key<rbg>[] in the file, key<fry>[] in the model
        """
    )


@pytest.mark.parametrize("strict", [True, False])
def test_nothing_fits(strict):
    assert refused({"a": zeros(1)}, {"x": zeros(2)}, strict=strict) == text(
        """
        load('m.safetensors', dict): the checkpoint does not fit the model
          expected: the paths, shapes and dtypes of the model
          found:    not in the file: x f32[2]
                    not in the model: a f32[1]
          fix:      is it the file of another model?
        """
    )


RENAMED: list[tuple[Any, Any, str | None]] = [
    ({"enc": [zeros(2)], "h": zeros(3)}, {"encoder": [zeros(2)], "h": zeros(3)},
     "rename={'enc': 'encoder'}?"),
    ({"a": {"w": zeros(2)}}, {"b": {"c": {"w": zeros(2)}}}, "rename={'a': 'b.c'}?"),
    ({"w": zeros(2)}, {"model": {"w": zeros(2)}}, "rename={'': 'model'}?"),
    ({"model": {"w": zeros(2)}}, {"w": zeros(2)}, "rename={'model': ''}?"),
    ({"w": zeros(2), "h": zeros(3)}, {"m": {"w": zeros(2)}, "h": zeros(3)},
     "rename={'w': 'm.w'}?"),
    ({"a": {"w": zeros(2)}}, {"b": {"w": zeros(3)}}, None),
    ({"a": {"w": zeros(2)}}, {"b": {"v": zeros(2)}}, "rename={'a.w': 'b.v'}?"),
    ({"a": zeros(2), "c": zeros(2)}, {"b": zeros(2)}, None),
    ({"net": [{"w": zeros(1)}, {}, {"w": zeros(3)}]},
     {"of": [{"w": zeros(1)}, {"w": zeros(3)}]},
     "rename={'net.0': 'of.0'}?"),
    ({"a": {"w": zeros(2)}, "x": {"y": {"w": zeros(2)}}}, {"z": {"y": {"w": zeros(2)}}},
     "rename={'x': 'z'}?"),
]  # fmt: skip


@pytest.mark.parametrize(("saved", "like", "hint"), RENAMED)
def test_a_renaming_is_proposed_where_one_would_help(saved, like, hint):
    found = refused(saved, like)
    assert (hint in found) if hint else ("rename" not in found)


def test_no_renaming_is_proposed_of_what_is_renamed():
    anx.save(FILE, {"net": {"w": zeros(2), "v": zeros(3)}})
    like = {"enc": {"w": zeros(2), "v": zeros(3)}}
    load = functools.partial(anx.load, FILE, like, rename={"net": "encoder"})
    assert "rename=" not in message(anx.CheckpointError, load)


def test_a_name_that_would_write_to_the_terminal():
    name = "\x1b[31mw\n"
    safetensors.numpy.save_file({name: np.ones(2, "float32")}, FILE)
    found = message(anx.CheckpointError, lambda: anx.load(FILE, {"x": zeros(3)}))
    assert "not in the model: \\x1b[31mw f32[2]\n" in found
    renaming = {"nothing like it": "w"}
    found = message(anx.CheckpointError, lambda: anx.load(FILE, {}, rename=renaming))
    assert found.isascii()
    assert "\x1b" not in found


# --- what is said of what fits -------------------------------------------------------


def test_what_was_skipped():
    anx.save(FILE, {"a": zeros(1), "b": zeros(2), "c": zeros(3)})
    like = {"a": zeros(1), "b": zeros(9), "d": zeros(4)}
    assert said(like, strict=False) == [
        text(
            """
            load('m.safetensors', dict): only what fits was loaded
              found:    not in the file: d f32[4]
                        not the same: b f32[2] in the file, f32[9] in the model
                        not in the model: c f32[3]
              fix:      where the file does not fit, the model is as it was
            """
        )
    ]
    skeleton = jax.eval_shape(lambda: like)
    assert said(skeleton, strict=False)[0].endswith(
        "where the file does not fit, the model is as it was: abstract;\n"
        "            annotax.replace gives values"
    )
    assert said({"a": zeros(1), "b": zeros(2), "c": zeros(3)}, strict=False) == []


def test_hypers_that_differ():
    anx.save(FILE, {"b": layer(rate=0.5), "a": eqx.nn.Dropout(0.5)})
    like = {"b": layer(rate=0.25), "a": eqx.nn.Dropout(0.5, inference=True)}
    assert said(like) == [
        text(
            """
            load('m.safetensors', dict): Hypers differ from those in the file
              found:    b.rate: 0.5 in the file, 0.25 in the model
                        a.inference: False in the file, True in the model
              fix:      those of the model hold; {0}
            """
        ).format(CHOICES)
    ]
    assert said(like, hypers="ignore") == []
    assert refused({"b": layer(rate=0.5)}, {"b": layer(rate=0.25)}, hypers="error") == text(
        """
        load('m.safetensors', dict): the checkpoint does not fit the model
          expected: its Hypers
          found:    not the same: b.rate 0.5 in the file, 0.25 in the model
          fix:      hypers="warn" loads it nevertheless
        """
    )


def test_arrays_and_hypers_that_one_insists_on():
    saved, like = {"a": linear(2), "b": zeros(1)}, {"a": linear(5), "b": zeros(1)}
    expected = text(
        """
        load('m.safetensors', dict): the checkpoint does not fit the model
          expected: the paths, shapes and dtypes of the model, and its Hypers
          found:    not the same: a.weight f32[2,3] in the file, f32[5,3] in the model
                    not the same: a.bias f32[2] in the file, f32[5] in the model
                    not the same: a.out_features 2 in the file, 5 in the model
          fix:      strict=False loads what fits, select=... a part of the model
                    hypers="warn" loads it nevertheless
        """
    )
    assert refused(saved, like, hypers="error") == expected
    assert refused(saved, like, hypers="error", strict=False) == text(
        """
        load('m.safetensors', dict): the checkpoint does not fit the model
          expected: its Hypers
          found:    not the same: a.out_features 2 in the file, 5 in the model
          fix:      hypers="warn" loads it nevertheless
        """
    )


def test_values_that_are_no_arrays_are_not_loaded():
    saved = {"step": 7, "act": jnp.tanh, "on": True, "w": zeros(1)}
    anx.save(FILE, saved)
    like = {"step": 0, "act": jnp.exp, "on": True, "w": zeros(1)}
    assert said(like) == [
        text(
            """
            {0}: values that are no arrays differ from those in the file
              found:    act: tanh in the file, exp in the model
                        step: 7 in the file, 0 in the model
              fix:      those of the model hold; {1}
                        to have a number loaded, make it an array: step
            """
        ).format("load('m.safetensors', dict)", CHOICES)
    ]
    assert "make it an array" not in said({**like, "step": 7})[0]
    assert anx.load(FILE, like, hypers="ignore")["step"] == 0


def test_what_stays_abstract():
    anx.save(FILE, {"a": layer(), "b": layer()})
    skeleton = eqx.filter_eval_shape(lambda: {"a": layer(), "b": layer()})
    assert said(skeleton) == [
        text(
            """
            {0}: some leaves stay abstract, for checkpoints do not hold them
              found:    a.cache, b.cache
              fix:      load into a real model, or give them values with annotax.replace
            """
        ).format("load('m.safetensors', dict)")
    ]
    assert said(skeleton, select=anx.by_role(LoRA)) == []


@pytest.mark.parametrize("options", [{"strict": False}, {}])
def test_a_warning_points_to_the_line_that_loads(options):
    anx.save(FILE, {"a": layer(rate=1), "b": zeros(1)})
    like = {"a": layer(rate=2), "b": zeros(1 if not options else 2)}
    line = inspect.currentframe().f_lineno + 2
    with pytest.warns(anx.CheckpointWarning) as caught:
        anx.load(FILE, like, **options)
    assert {(warning.filename, warning.lineno) for warning in caught} == {(__file__, line)}


# --- what cannot be saved, and what cannot be asked ----------------------------------


def test_what_cannot_be_saved():
    deleted = jnp.ones(2)
    deleted.delete()
    tree = {
        "__metadata__": zeros(1),
        "abstract": jax.ShapeDtypeStruct((2,), "float32"),
        "dates": np.array(["2020"], "M8[s]"),
        "deleted": deleted,
        "fine": zeros(1),
        "long": np.ones(1, np.longdouble),
        "masked": np.ma.masked_array([1.0, 2.0], [True, False]),
        "objects": np.array([{}]),
        "texts": np.array(["a"]),
    }
    long = str(np.dtype(np.longdouble))
    assert message(anx.CheckpointError, lambda: anx.save(FILE, tree)) == text(
        f"""
        save('m.safetensors'): not everything can be saved
          expected: arrays with values, all in this process, of dtypes of JAX
          found:    __metadata__: a name that the file format keeps for itself
                    abstract: abstract, it has no values
                    dates: datetime64[s] is no dtype of JAX
                    deleted: deleted, or donated to a compiled function
                    long: {long} is no dtype of JAX
                    masked: a masked array, whose mask would be lost
                    objects: object is no dtype of JAX
                    texts: <U1 is no dtype of JAX
          fix:      select=... leaves something out, and so does persistent=False in a field
        """
    )
    anx.save(FILE, tree, select=anx.by_path("fine"))


def test_tracers_cannot_be_saved():
    save = jax.jit(functools.partial(anx.save, FILE))
    found = message(anx.CheckpointError, lambda: save({"x": 1.0}))
    assert found == text(
        """
        save('m.safetensors'): not everything can be saved
          expected: arrays with values, all in this process, of dtypes of JAX
          found:    x: traced, it has no values yet: save outside of compiled functions
          fix:      select=... leaves something out, and so does persistent=False in a field
        """
    )
    found = message(anx.CheckpointError, lambda: save(1.0))
    assert "found:    the array itself: traced," in found


def test_arrays_of_other_processes_cannot_be_saved(monkeypatch):
    array = zeros(2)
    for name in ("is_fully_addressable", "is_fully_replicated"):
        monkeypatch.setattr(type(array), name, False)
    found = message(anx.CheckpointError, lambda: anx.save(FILE, {"x": array}))
    assert "found:    x: partly in other processes, which orbax can save\n" in found


def test_keys_without_a_name_cannot_be_saved(monkeypatch):
    monkeypatch.setattr(jax.random, "key_impl", lambda keys: object())
    found = message(anx.CheckpointError, lambda: anx.save(FILE, {"x": KEY}))
    assert "found:    x: keys of an implementation that JAX has no name for\n" in found


@pytest.mark.parametrize("function", ["save", "load"])
def test_a_selection_of_no_array(function):
    anx.save(FILE, layer())
    selection = anx.by_path("cache")
    found = message(
        anx.SelectionError, lambda: getattr(anx, function)(FILE, layer(), select=selection)
    )
    assert found == text(
        f"""
        {function}(Layer, select=by_path('cache')): {{0}}
          expected: some of: weight, down, mean
          found:    nothing
        """
    ).format("the selection matches no array that is for checkpoints")


@pytest.mark.parametrize("selection", [None, "a.**", anx.Param])
def test_what_is_no_selection(selection):
    anx.save(FILE, layer())
    for action in (anx.save, anx.load):
        found = message(
            anx.SelectionError, lambda a=action: a(FILE, layer(), select=selection)
        )
        assert found.startswith("selection: this is no selection")


def test_hypers_is_one_of_three_words():
    found = message(anx.CheckpointError, lambda: anx.load(FILE, {}, hypers="raise"))
    assert found == text(
        """
        load(hypers='raise'): there is no such choice
          expected: "warn", "error" or "ignore"
        """
    )


def test_the_safetensors_library_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    anx.save(FILE, {"x": jnp.ones(1)})
    assert anx.load(FILE, {"x": zeros(1)})["x"] == 1


# --- renaming ------------------------------------------------------------------------

WRONG_RENAMINGS: list[tuple[Any, str]] = [
    ("enc", "a str is no renaming"),
    ({"enk": "x"}, "enk: not in the file; did you mean 'enc'?"),
    ({"x.y": None}, "x.y: not in the file; there is: enc, rate, enc.b, enc.w"),
    ({"enc.w": "enc.b"}, "enc.b and enc.w: both become enc.b"),
    ({1: "x"}, "an int to a str: names are strings"),
    ({"enc": 2}, "a str to an int: names are strings"),
    ({"enc.*": "*.*"}, "'enc.*' to '*.*': more wildcards than there are to take from"),
    ({"enc..w": "x"}, "'enc..w': no path, and no pattern of paths"),
    ({"enc": "x..y"}, "'x..y': no path, and no pattern of paths"),
    (lambda name: 1, "enc.b: the new name is an int\nenc.w: the new name is an int"),
    (lambda name: "x", "enc.b and enc.w: both become x"),
]  # fmt: skip


@pytest.mark.parametrize(("rename", "problem"), WRONG_RENAMINGS)
def test_renamings_that_do_not_fit(rename, problem):
    saved = {"enc": {"w": zeros(1), "b": zeros(2)}, "rate": 0.1}
    found = refused(saved, saved, rename=rename)
    assert found == text(
        f"""
        load('m.safetensors', dict): rename does not fit the file
          expected: names in the file, or the steps that they begin with, to paths of {{0}}
                    or None; or a function of a name
          found:    {problem.replace(chr(10), chr(10) + " " * 20)}
          fix:      rename={{{{"encoder.fc1": "encoder.layers.0", "blocks.*.lin":
                    "layers.*.linear"}}}}
        """
    ).format("the model,")


def test_all_that_is_wrong_with_a_renaming_is_said_at_once():
    saved = {"a": zeros(1), "b": zeros(2)}
    found = refused(saved, saved, rename={"x": "y", "z": "y"})
    assert found.count("not in the file") == 2
    found = refused(saved, saved, rename={1: "y", "a..": "y", "a": "*"})
    assert found.count("names are strings") + found.count("pattern of paths") == 2
    assert "more wildcards" in found


def test_an_error_in_the_function_is_its_own():
    anx.save(FILE, {"a": zeros(1)})
    with pytest.raises(KeyError):
        anx.load(FILE, {"a": zeros(1)}, rename={"b": "a"}.__getitem__)


def test_a_model_in_the_place_of_the_path():
    assert message(anx.CheckpointError, lambda: anx.save({"a": zeros(2)}, FILE)) == text(
        """
        save(a dict, ...): the path of the file comes first
          expected: a path, then a model
          fix:      save(path, model)
        """
    )
    found = message(anx.CheckpointError, lambda: anx.load(eqx.nn.Identity(), FILE))
    assert found.startswith("load(an Identity, ...): the path of the file comes first")


def test_a_class_in_the_place_of_a_model():
    anx.save(FILE, {"a": zeros(2)})
    assert message(anx.CheckpointError, lambda: anx.load(FILE, eqx.nn.Linear)) == text(
        """
        load(..., Linear): a class has no arrays to load
          expected: a model, or an abstract one
          found:    a class
          fix:      eqx.filter_eval_shape(Linear, ...) makes an abstract one
        """
    )
