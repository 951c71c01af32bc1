"""The most memory that saving or loading takes, in a process of its own.

Prints the megabytes by which the process grew beyond what it had when all was imported.
For saving the arrays themselves count, too.
"""

import pathlib
import re
import sys
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

import annotax as anx

COUNT, SIZE = 64, 1 << 24


def arrays(make: Any) -> dict[str, Any]:
    """A gigabyte."""
    return {f"{n}": make(np.full(SIZE // 4, n, np.float32)) for n in range(COUNT)}


def used() -> float:
    """The most so far, in megabytes; `ru_maxrss` would begin with what the parent has."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]) / 1024


def run(what: str, path: str) -> Any:
    """What is measured; the result is kept, for it counts."""
    if what == "ours save":
        anx.save(path, arrays(lambda x: jax.device_put(x).block_until_ready()))
    elif what == "ours load":
        like = jax.ShapeDtypeStruct((SIZE // 4,), "float32")
        return anx.load(path, {f"{n}": like for n in range(COUNT)})
    elif what == "twin save":
        save_file(arrays(lambda array: array), path)
    else:
        return load_file(path)
    return None


if __name__ == "__main__":
    jax.device_put(np.zeros(1)).block_until_ready()
    before = used()
    result = run(*sys.argv[1:])
    print(used() - before)
