"""Several processes at once: started, watched, and stopped whatever happens.

Stands apart because a process that waits for another one waits for ever when that one
is gone.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time

VIRTUAL = "--xla_force_host_platform_device_count={}"
QUICKLY = "--xla_backend_optimization_level=0"  # half the time to compile, same numbers


NO_COLLECTIVES = (
    r"^\w*Error: .*(?:jax_cpu_collectives_implementation|gloo_tcp_collectives).*$"
)
"""What a process ends with whose JAX cannot talk to another one from the CPU."""

# What C++ code prints, as Gloo does, goes to where the errors go.
_RUN = """
import os, runpy, sys
sys.stdout = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def script(path, *arguments):
    """Arguments for Python that run a file, so that only what it prints itself is seen."""
    return ["-c", _RUN, path, *arguments]


def environment(devices):
    """Variables for a process with virtual devices."""
    own = {name: text for name, text in os.environ.items() if name != "XLA_FLAGS"}
    flags = f"{VIRTUAL.format(devices)} {QUICKLY}"
    return {**own, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def run_together(commands, devices, timeout=400):
    """Start Python once for each list of arguments; what each process printed.

    Each has as many virtual devices as are asked for. No process outlives this call, and
    the first that fails ends it.

    **Raises:** `LaunchError`, with all that was printed.
    """
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        errors = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        processes = []
        for arguments, output, error in zip(commands, outputs, errors, strict=True):
            process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=error,
                env=environment(devices),
            )
            stack.callback(_stop, process)
            processes.append(process)
        problem = _watch(processes, timeout)
        if problem:
            texts = [
                _read(file) for pair in zip(outputs, errors, strict=True) for file in pair
            ]
            raise LaunchError("\n".join([problem, *texts]))
        return [_read(file) for file in outputs]


class LaunchError(Exception):
    """A process failed, or did not end."""


def _watch(processes, timeout):
    """Wait until all have ended, or one has failed: what is wrong, if anything is."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        codes = [process.poll() for process in processes]
        if any(codes):  # neither None nor 0
            return f"exit status: {', '.join(map(str, codes))}"
        if None not in codes:
            return None
        time.sleep(0.05)
    return f"not done after {timeout} seconds"


def _stop(process):
    process.kill()  # does nothing to a process that has ended and been waited for
    process.wait()


def _read(file):
    file.seek(0)
    return file.read()
