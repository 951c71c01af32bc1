"""The same results and the same words under other flags of Python and of JAX."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "hard_scripts" / "everyday.py"

# Every run has warnings as errors.
STRICT = {
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_CHECK_TRACER_LEAKS": "1",
    "JAX_DEBUG_NANS": "1",
}
RUNS = {
    "as it is": ([], {}),
    "asserts gone, 64 bits": (["-O"], {"JAX_ENABLE_X64": "1", "PYTHONHASHSEED": "1"}),
    "docstrings gone, another seed": (["-OO"], {"PYTHONHASHSEED": "2"}),
    "strict": (["-X", "dev"], {**STRICT, "JAX_ENABLE_X64": "0"}),
}


def run(name):
    options, variables = RUNS[name]
    # The warnings of others that `-X dev` shows are not ours: those that fail are.
    command = [sys.executable, *options, "-W", "error", str(SCRIPT)]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    ended = subprocess.run(
        command,
        env={**kept, "JAX_PLATFORMS": "cpu", **variables},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, f"{name}: {ended.stderr}"
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def printed():
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(RUNS, pool.map(run, RUNS), strict=True))


def test_the_flags_were_in_force(printed):
    flags = {
        name: (f["optimize"], f["docstrings"], f["x64"]) for name, (_, f) in printed.items()
    }
    assert flags == {
        "as it is": (0, True, False),
        "asserts gone, 64 bits": (1, True, True),
        "docstrings gone, another seed": (2, False, False),
        "strict": (0, True, False),
    }


@pytest.mark.parametrize("name", list(RUNS)[1:])
def test_nothing_else_comes_out(printed, name):
    expected, _ = printed["as it is"]
    found, _ = printed[name]
    assert found == expected


def test_what_comes_out(printed):
    found, _ = printed["as it is"]
    assert found["losses"] == sorted(found["losses"], reverse=True)
    assert len(set(found["losses"])) == 3
    assert [p for p in found["params"] if not p.startswith("head")] == found[
        "frozen params"
    ]
    assert [p for p in found["params"] if p not in found["decayed"]] == [
        "layers.0.bias",
        "layers.1.bias",
    ]
    assert found["rate"] == "1.0"
    assert found["dropout"] == [0.25, 0]
    assert all(found[name] is True for name in ("thawed", "merged", "pickled", "saved"))
    heads = {name: text.partition("\n")[0] for name, text in found["refused"].items()}
    assert heads == {
        "two roles": "AnnotationError: Wrong.x: two roles in one annotation",
        "typo": "AnnotationError: Wrong.x: annotax has no 'anx.Bufer'; did you mean "
        "'Buffer'?",
        "hyper": "HyperError: Linear.rate: an array cannot be a Hyper",
        "nothing selected": "SelectionError: freeze(Net, by_path('heda.**')): the "
        "selection matches nothing",
        "no module": "SelectionError: freeze(dict, everything): an array in no module "
        "cannot be frozen",
        "does not fit": "StructureError: update(Net): the leaves do not fit the model",
        "no field": "FieldError: replace(Net): there is nothing at this path",
        "register": "FieldError: Linear.wieght: the class has no such field",
        "adopt": "HyperError: adopt(list): not everything in it can be an array or static",
    }
