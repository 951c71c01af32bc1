"""Sharded and asynchronous checkpoints with Orbax, and training that is killed.

Everything runs in processes of its own, on eight virtual devices.
"""

import json
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from meshes import launch

SCRIPTS = Path(__file__).parent / "orbax_scripts"
STEPS = 16  # one more after the last checkpoint

# When the run is killed, at which step, and from which steps the next one may start. A
# checkpoint is written every third step. "writing": when `save` has returned, and what it
# started goes on. How far that gets is up to the machine, so it may even be complete.
KILLS = [
    ("writing", 3, {0, 3}),
    ("committing", 6, {3}),
    ("computing", 7, {6}),
    ("deleting the one before", 12, {12}),
    ("never", 0, {STEPS}),
]


def train(directory, when, at):
    """What one run of the training script said, and how it ended."""
    script = [SCRIPTS / "resumable.py", directory, STEPS, when, at]
    ended = subprocess.run(
        [sys.executable, "-W", "error", *map(str, script)],
        env=launch.environment(devices=8),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == (0 if when == "never" else -signal.SIGKILL), ended.stderr
    assert "Traceback" not in ended.stderr  # of a thread, which ends nothing else
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_leaves_and_orbax_on_eight_devices():
    command = ["-m", "pytest", "-q", "--tb=short", "-p", "no:xdist", SCRIPTS / "checks.py"]
    try:
        [printed] = launch.run_together([command], devices=8, timeout=240)
    except launch.LaunchError as error:
        pytest.fail(str(error), pytrace=False)
    assert re.search(r"^\d+ passed", printed, re.MULTILINE), printed


def test_a_run_killed_again_and_again_gives_the_numbers_of_one_that_was_not(tmp_path):
    with ThreadPoolExecutor() as pool:
        uninterrupted = pool.submit(train, tmp_path / "whole", "never", 0)
        runs = []
        for when, at, _ in KILLS:
            runs.append(train(tmp_path / "killed", when, at))
            if when == "committing":
                assert list((tmp_path / "killed").glob("6.orbax-checkpoint-tmp*"))
        whole = uninterrupted.result()

    losses = {line["step"]: line["loss"] for line in whole[1:-1]}
    assert list(losses) == list(range(1, STEPS + 1))
    assert len(set(losses.values())) == STEPS

    starts = [run[0]["start"] for run in runs]
    assert starts[0] == 0
    assert all(
        start in after for start, (*_, after) in zip(starts[1:], KILLS, strict=False)
    )
    for start, (_, *lines) in zip(starts, runs, strict=True):
        done = [line for line in lines if "loss" in line]
        steps = range(start + 1, start + 1 + len(done))
        assert [(line["step"], line["loss"]) for line in done] == [
            (step, losses[step]) for step in steps
        ]
    assert runs[-1][-1] == whole[-1]
    assert whole[-1]["left"] == ["15"]  # nothing that was abandoned
