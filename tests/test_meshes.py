"""Models on meshes of several devices, in processes of their own.

How many virtual devices there are must be known before JAX starts. The checks are in
`tests/meshes`, one file for each question, and are run there by pytest.
"""

import json
import os
import pathlib
import re

import jax
import pytest

import annotax as anx
from meshes import launch, transformer

FOLDER = pathlib.Path(__file__).parent / "meshes"


def check(name):
    options = ["-q", "--tb=short", "-p", "no:xdist", "-p", "no:randomly"]
    try:
        [printed] = launch.run_together(
            [["-m", "pytest", *options, FOLDER / name]], devices=8
        )
    except launch.LaunchError as error:
        pytest.fail(str(error), pytrace=False)
    assert re.search(r"^\d+ passed in", printed, re.MULTILINE), printed


def test_training_over_a_mesh():
    check("training.py")


def test_initialisation_on_the_shards():
    check("initialising.py")


def test_compiled_programs():
    check("programs.py")


def test_where_shardings_go():
    check("placing.py")


@pytest.mark.skipif(not hasattr(jax, "set_mesh"), reason="this JAX has no jax.set_mesh")
def test_explicit_axes_and_meshes_that_are_set():
    check("explicit.py")


# --- several processes ----------------------------------------------------------------


def test_two_processes_train_as_one_does():
    port = launch.free_port()
    commands = [launch.script(FOLDER / "several.py", n, 2, port) for n in range(2)]
    try:
        printed = launch.run_together(commands, devices=4)
    except launch.LaunchError as error:
        missing = re.search(launch.NO_COLLECTIVES, str(error), re.MULTILINE)
        if missing:
            pytest.skip(f"this jaxlib has no collectives for the CPU: {missing[0]}")
        pytest.fail(str(error), pytrace=False)
    reports = [json.loads(text) for text in printed]
    assert reports[0]["losses"] == reports[1]["losses"]
    assert reports[0]["losses"] == pytest.approx(losses_of_one_process(), rel=1e-5)
    for report in reports:
        held = report["held"]
        assert not any(array["all"] for array in held.values())
        assert held["embedding.weight"] == {
            "whole": [64, 32],
            "here": [[32, 16]] * 4,
            "all": False,
        }
        assert held["blocks.0.feed_forward.up"]["here"] == [[32 // 2, 48 // 2]] * 4
        assert held["norm.weight"]["here"] == [[32]] * 4


def losses_of_one_process():
    """On one device, in this process."""
    model = jax.jit(transformer.Transformer)(jax.random.key(0))
    opt_state = transformer.tx.init(anx.params(model))
    step = jax.jit(transformer.train_step)
    return transformer.train(step, model, opt_state, transformer.make_batches())[2]


@pytest.mark.parametrize(
    "last",
    [
        "AttributeError: Unrecognized config option: jax_cpu_collectives_implementation",
        "AttributeError: module 'jaxlib._jax' has no attribute 'make_gloo_tcp_collectives'",
    ],
)
def test_missing_collectives_are_told_from_other_errors(last):
    assert re.search(launch.NO_COLLECTIVES, f"Traceback\n  gloo\n{last}\n", re.MULTILINE)
    other = "Traceback\n  gloo\nValueError: no gloo today\n"
    assert not re.search(launch.NO_COLLECTIVES, other, re.MULTILINE)


# --- starting and stopping ------------------------------------------------------------

FAILS = "import sys; print('seen', flush=True); sys.exit('no luck')"
WAITS = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


def test_a_process_that_fails_takes_the_others_with_it(tmp_path):
    path = tmp_path / "pid"
    waits = f"import os; open({str(path)!r}, 'w').write(str(os.getpid())); {WAITS}"
    fails = (
        f"import os, time\nwhile not os.path.exists({str(path)!r}): time.sleep(0.01)\n"
        "time.sleep(0.2)\n" + FAILS
    )
    with pytest.raises(
        launch.LaunchError, match=r"(?s)exit status: None, 1.*seen.*no luck"
    ):
        launch.run_together([("-c", waits), ("-c", fails)], devices=1)
    assert not is_running(int(path.read_text()))


def test_a_process_that_does_not_end_is_stopped():
    with pytest.raises(launch.LaunchError, match="not done after 2 seconds") as caught:
        launch.run_together([("-c", WAITS)], devices=1, timeout=2)
    assert not is_running(int(str(caught.value).split()[-1]))


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
