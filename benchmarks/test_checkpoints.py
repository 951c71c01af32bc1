"""What `save` and `load` of a gigabyte cost, beside the safetensors library alone.

The twin writes and reads the same arrays as numpy arrays, without manifest and checksums.
It maps its file and copies what is there, so nothing is left to be read later. On a disk it
waits until that has the file, as `save` does: otherwise what it leaves to be written would
be written on our time.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import annotax as anx
from _ratio import WALL, Call, Row, duration, in_turns

PEAK = pathlib.Path(__file__).with_name("_peak.py")
MEMORY = pathlib.Path("/dev/shm")
ROUNDS = 5

SIZES = {"64 arrays of 16 MB": (64, 1 << 24), "3000 arrays of 350 kB": (3000, 350_000)}
CASES = [(size, "memory") for size in SIZES] + [("64 arrays of 16 MB", "disk")]


@pytest.fixture
def folder(place: str, tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where files are held in memory, or on a disk."""
    if place == "disk":
        yield tmp_path
        return
    if not MEMORY.is_dir():
        pytest.skip("no file system in memory")
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield pathlib.Path(name)


def synced(path: str) -> None:
    """Have the disk hold a file, as `save` does."""
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize(("size", "place"), CASES)
def test_time(
    report: Callable[[Row], None],
    benchmark: Any,
    folder: pathlib.Path,
    size: str,
    place: str,
) -> None:
    count, itemsize = SIZES[size]
    random = np.random.default_rng(0)
    model = {
        f"{n}": jnp.asarray(random.standard_normal(itemsize // 4, np.float32))
        for n in range(count)
    }
    arrays = {name: np.asarray(array) for name, array in model.items()}
    mine, theirs = str(folder / "ours"), str(folder / "twin")

    def add(what: str, ours: Call, twin: Call, aim: float | None = 1.3) -> None:
        paired = in_turns(ours, twin, seconds=0, clock=WALL, min_rounds=ROUNDS)
        note = f"{duration(paired.ours)} against {duration(paired.twin)}"
        report(Row(what, paired.ratio, aim, note=f"{note}, {paired.rounds} rounds"))

    def ours() -> None:
        anx.save(mine, model)
        jax.block_until_ready(anx.load(mine, model))

    def twin() -> None:
        save_file(arrays, theirs)
        load_file(theirs)

    def synced_twin() -> None:
        save_file(arrays, theirs)
        synced(theirs)
        load_file(theirs)

    def twin_for_jax() -> None:
        save_file(arrays, theirs)
        synced(theirs)
        jax.block_until_ready([jnp.asarray(x) for x in load_file(theirs).values()])

    if place == "memory":
        add(f"save + load, {size}, in memory", ours, twin)
    else:
        add(f"save + load, {size}, on disk", ours, synced_twin)
        add("... the twin does not wait for the disk", ours, twin, aim=None)
        add("... it waits, and makes arrays of JAX", ours, twin_for_jax, aim=None)
    benchmark.pedantic(ours, rounds=1)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no such figures")
@pytest.mark.parametrize("what", ["save", "load"])
def test_memory(
    report: Callable[[Row], None], benchmark: Any, tmp_path: pathlib.Path, what: str
) -> None:
    def peak(side: str, action: str) -> float:
        command = [sys.executable, str(PEAK), f"{side} {action}", str(tmp_path / side)]
        return float(subprocess.run(command, capture_output=True, check=True).stdout)

    saved = {side: peak(side, "save") for side in ("ours", "twin")}
    found = saved if what == "save" else {side: peak(side, "load") for side in saved}
    note = f"{found['ours']:.0f} MB against {found['twin']:.0f} MB"
    report(Row(f"memory of {what}, 1 GB", found["ours"] / found["twin"], 1.2, note=note))
    benchmark.pedantic(lambda: None, rounds=1)
