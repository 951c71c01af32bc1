"""Savers that are killed with SIGKILL, and what they leave of a file.

A process of its own, because it forks: nothing here may have started threads. Prints how
often the file was the old one or the new one afterwards. Anything else fails.
"""

import json
import os
import random
import signal
import sys
import time
from collections import Counter

import numpy as np
from safetensors.numpy import load_file

import annotax as anx
from annotax import _tensor_file, _tensor_header

FILES = {_tensor_file.__file__, _tensor_header.__file__}


def version(number, size=3):
    """A model that tells which version it is in every array."""
    return {name: np.full(size, number, np.int32) for name in ("first", "second", "third")}


def version_in(path, size=3):
    """The number of the version that a file holds, and nothing of another."""
    return number_of(anx.load(path, version(0, size)))


def number_of(arrays):
    [number] = {int(x) for array in arrays.values() for x in array}
    return number


def forked(action):
    """The child that runs an action."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException as error:  # said and left at once: this is a copy
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return child


def kill_self_at(line):
    """Save with a tracer that kills at a line of the file side, counted as it runs."""
    left = line

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def killed_at_every_line(path):
    """Kill before each line that writing runs, up to the last."""
    outcomes = Counter()
    for line in range(1, 1000):
        anx.save(path, version(1))

        def save(line=line):
            kill_self_at(line)
            anx.save(path, version(2))

        _, status = os.waitpid(forked(save), 0)
        outcomes[version_in(path)] += 1
        assert number_of(load_file(path)) == version_in(path)
        if os.WIFEXITED(status):
            assert (os.WEXITSTATUS(status), version_in(path)) == (0, 2)
            return outcomes
        assert os.WTERMSIG(status) == signal.SIGKILL
    raise AssertionError("writing runs no end of lines")


def killed_at_random(path, times=40, size=50_000):
    """Kill a process that saves one version after the other."""
    outcomes = Counter()
    anx.save(path, version(0, size))

    def save():
        for number in range(1, 1_000_000):
            anx.save(path, version(number, size))

    delays = random.Random(0)
    for _ in range(times):
        child = forked(save)
        time.sleep(delays.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        outcomes[version_in(path, size)] += 1
    return outcomes


def written_by_many(path, writers=3, size=20_000):
    """Several processes save to one path, and the file is whole whenever it is read."""
    anx.save(path, version(0, size))

    def save(number):
        for _ in range(30):
            anx.save(path, version(number, size))

    children = [forked(lambda n=n: save(n)) for n in range(1, writers + 1)]
    outcomes = Counter()
    while children:
        outcomes[version_in(path, size)] += 1
        done, status = os.waitpid(-1, os.WNOHANG)
        if done:
            assert status == 0
            children.remove(done)
    assert number_of(load_file(path)) in range(1, writers + 1)
    return outcomes


if __name__ == "__main__":
    name, path = sys.argv[1:]
    print(json.dumps(globals()[name](path)))
