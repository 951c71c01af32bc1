"""What strangers get: a wheel and an sdist with all that belongs in them and nothing else.

The wheel is installed where the source is not: into an environment of its own, which sees
the dependencies of this one and not its annotax.
"""

import email.parser
import importlib.util
import os
import pathlib
import re
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile

import pytest

import annotax

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SHIPPED = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
pytestmark = pytest.mark.skipif(
    not (ROOT / "src").exists(), reason="the source is absent, and nothing to be built"
)
CACHES = {"__pycache__", ".ipynb_checkpoints", ".mypy_cache"}


def run(*command, **options):
    """What a command prints, in an environment that leads to no other annotax."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, **options
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def build(source, target, kind):
    run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", target, cwd=source)
    [built] = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The folder that an sdist unpacks to."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(ROOT, folder, "sdist")) as packed:
        packed.extractall(folder, filter="data")
    return folder / f"annotax-{annotax.__version__}"


def contents(path):
    with zipfile.ZipFile(path) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def files_below(folder):
    """The files below a folder that are not made by running something."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and CACHES.isdisjoint(path.parts) and path.suffix != ".pyc"
    }


def test_a_wheel_holds_the_package_and_nothing_else(wheel):
    package = {f"annotax/{name}" for name in files_below(ROOT / "src" / "annotax")}
    assert "annotax/py.typed" in package
    about = f"annotax-{annotax.__version__}.dist-info"
    files = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    assert contents(wheel).keys() == package | {f"{about}/{name}" for name in files}


def test_a_wheel_says_what_the_project_says(wheel):
    held = contents(wheel)
    about = f"annotax-{annotax.__version__}.dist-info"
    told = email.parser.Parser().parsestr(held[f"{about}/METADATA"].decode())
    project = PROJECT["project"]
    assert told["Name"] == "annotax"
    assert told["Version"] == annotax.__version__
    assert told["License-Expression"] == project["license"] == "Apache-2.0"
    assert told["Requires-Python"] == project["requires-python"] == ">=3.11"
    assert told.get_payload() == (ROOT / "README.md").read_text()
    required = [text for text in told.get_all("Requires-Dist") if "extra ==" not in text]
    names = {re.match(r"[\w-]+", text)[0].replace("_", "-") for text in required}
    told_names = {re.match(r"[\w-]+", text)[0] for text in project["dependencies"]}
    assert names == {name.replace("_", "-") for name in told_names}
    assert b"annotax = annotax.__main__:main" in held[f"{about}/entry_points.txt"]
    assert b"Tag: py3-none-any" in held[f"{about}/WHEEL"]


def test_the_newest_changes_are_those_of_this_version():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == annotax.__version__


def test_an_sdist_holds_what_builds_tests_and_documents_the_project(sdist):
    expected = {"PKG-INFO", ".gitignore"}
    for name in [name.strip("/") for name in SHIPPED]:
        path = ROOT / name
        expected |= {f"{name}/{file}" for file in files_below(path)} or {name}
    assert files_below(sdist) == expected
    for name in ("Makefile", "CONTRIBUTING.md", "mkdocs.yml", "benchmarks", ".ci"):
        assert (sdist / name).exists(), name


def test_the_wheel_of_an_sdist_is_the_wheel_of_the_source(wheel, sdist, tmp_path):
    assert contents(build(sdist, tmp_path, "wheel")) == contents(wheel)


# --- installed, with the source absent -----------------------------------------------

FILES = ["README.md", "pyproject.toml"]
FILES += [f"tests/{name}.py" for name in ("conftest", "test_layout", "test_select")]
FILES += [f"tests/{name}.py" for name in ("test_messages", "test_readme", "meshes/launch")]
README = "tests/test_readme.py::test_code_blocks_run_and_print_what_stands_below[README.md]"
WHERE = """
import annotax

def test_where():
    assert annotax.__file__.startswith({!r})
"""


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A new environment with the wheel in it, beside the dependencies of this one."""
    folder = tmp_path_factory.mktemp("installed") / "environment"
    venv.create(folder, with_pip=False)
    [packages] = folder.glob("lib/python*/site-packages")
    # Folders named in such a file are searched, but the files like it in them are not read:
    # one of these leads to the source.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python"]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", wheel)
    return folder


needs_pip = pytest.mark.skipif(
    not importlib.util.find_spec("pip") or os.name == "nt",
    reason="pip is not installed, or environments have no bin",
)


@needs_pip
def test_what_is_installed_is_found_without_the_source(installed, tmp_path):
    code = "import annotax, importlib.metadata as m, sys; print(annotax.__file__)\n"
    code += "print(m.version('annotax') == annotax.__version__, *sys.path, sep='\\n')"
    file, is_one_version, *path = run(
        installed / "bin" / "python", "-c", code, cwd=tmp_path
    ).splitlines()
    assert pathlib.Path(file).is_relative_to(installed)
    assert is_one_version == "True"
    assert str(ROOT / "src") not in path
    usage = run(installed / "bin" / "annotax", "--help", cwd=tmp_path)
    assert usage.startswith("usage: annotax")


@needs_pip
def test_what_is_installed_passes_tests(installed, tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "tests" / "test_where.py").write_text(WHERE.format(str(installed)))
    chosen = [f"tests/test_{name}.py" for name in ("where", "layout", "select", "messages")]
    command = ["-m", "pytest", "-q", "-p", "no:xdist", *chosen, README]
    printed = run(installed / "bin" / "python", *command, cwd=tmp_path)
    assert re.fullmatch(r"\d+ passed in .*", printed.splitlines()[-1])
