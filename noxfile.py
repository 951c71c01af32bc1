"""All tests with every Python and with the oldest and newest of what annotax stands on.

`make matrix` runs all of it, `make lowest` the lower bounds alone. An interpreter that is
not found is named and counts as a failure; `--no-error-on-missing-interpreters` passes it
over, and says so.
"""

import os
import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = True

PYTHONS = ["3.11", "3.12", "3.13"]
OLDEST = PYTHONS[0]
WORKERS = os.environ.get("WORKERS", "2")
SHOWN = "numpy jax jaxlib equinox optax jaxtyping beartype typing_extensions"
SHOW = f"""
import platform, importlib.metadata as installed
print("python", platform.python_version(), end="")
for name in "{SHOWN}".split():
    print(",", name, installed.version(name), end="")
print()
"""


def lower_bounds() -> list[str]:
    """Every ">=" of the run-time dependencies read as "==": pyproject.toml says it once."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    return [bound.replace(">=", "==") for bound in project["dependencies"]]


def test(session: nox.Session, *pins: str) -> None:
    """Install annotax with pins, tell the versions, and run all tests."""
    session.install("--upgrade", "pip")
    session.install("--editable", ".[test]", *pins)
    session.run("python", "-c", SHOW)
    session.run("python", "-m", "pytest", "-q", "-n", WORKERS, *session.posargs)


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """The newest versions that there are for this Python."""
    test(session)


@nox.session(python=OLDEST)
def lowest(session: nox.Session) -> None:
    """The lower bounds of pyproject.toml."""
    test(session, *lower_bounds())


@nox.session(python=OLDEST)
def numpy1(session: nox.Session) -> None:
    """The last numpy 1, and the newest JAX that still takes it.

    orbax is of the same time: newer ones use `set_mesh` as JAX has it since 0.7.
    """
    test(session, "numpy<2", "orbax-checkpoint==0.11.25")
