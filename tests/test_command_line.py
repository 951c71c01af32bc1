"""The command line: what it prints, its exit status, and errors in one line."""

import contextlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import tomllib
from importlib import import_module

import jax
import pytest

import annotax as anx
from annotax.__main__ import main

ROOT = pathlib.Path(__file__).parent.parent

FILES = {
    "models": """
        import equinox as eqx
        import jax
        import jax.numpy as jnp
        import annotax as anx

        class Scale(anx.Module):
            weight: anx.Param[jax.Array]
            mean: anx.Buffer[jax.Array]

            def __init__(self, size=3):
                self.weight = jnp.ones(size)
                self.mean = jnp.zeros(size)

            @classmethod
            def large(cls):
                return cls(100)

        class Wide(anx.Module):
            weight: anx.Param[jax.Array]

        def make():
            return [Scale(), {"more": Scale(2)}]

        def with_key(key):
            return eqx.nn.Linear(2, 3, key=key)

        def with_key_and_more(*args, key, size=2, **options):
            return eqx.nn.Linear(size, size, key=key)

        def two(key, size):
            return None

        def huge():
            return Scale(10 ** 12)

        def fails():
            raise ValueError("no luck,\\n\\x1b[31mreally")

        def leaves():
            raise SystemExit("bye")

        def long():
            raise ValueError("x" * 1000)

        def cyclic():
            inside = []
            inside.append(inside)
            return inside

        def nothing():
            return None

        def unsortable():
            return {1: Scale(), "a": Scale()}

        instance = Scale(4)
        layers = {"a": Scale(1), "b": jnp.ones(2)}
        number = 3
    """,
    "raising": "raise ValueError('broken\\nfor good')",
    "leaving": "import sys\nsys.exit('not today')",
    "typo": "def f(:",
    "clean": """
        import jax
        import annotax as anx

        class Clean(anx.Module):
            weight: anx.Param[jax.Array]
    """,
    "dirty": """
        import jax
        import annotax as anx

        class Dirty(anx.Module):
            weight: jax.Array

        class Teacher(anx.Module):
            weight: anx.Param[jax.Array]

        class Student(anx.Module):
            teacher: anx.Buffer[Teacher]
    """,
}


def write(folder):
    for name, source in FILES.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command line in a folder with these modules: status, output, errors."""
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in FILES:
        monkeypatch.delitem(sys.modules, name, raising=False)

    def run(*arguments):
        status = main(arguments)
        return status, *capsys.readouterr()

    yield run
    for name in FILES:
        sys.modules.pop(name, None)


def process(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "annotax", *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


# --- summary ---------------------------------------------------------------------------

SCALE = """\
                                                                   params  bytes
Scale                                                                   3   24 B
├ weight  param   f32[3]                                                3   12 B
└ mean    buffer  f32[3]                                                    12 B

trainable   3 parameters in 1 array, 12 B
buffers     3 elements in 1 array, 12 B
optimizer   28 B of state for adam
"""


def test_a_class(run):
    assert run("summary", "models:Scale") == (0, SCALE, "")


@pytest.mark.parametrize(
    ("target", "head"),
    [
        ("models:make", "list 5 40 B"),
        ("models:Scale.large", "Scale 100 800 B"),
        ("models:instance", "Scale 4 32 B"),
        ("models:layers", "dict 3 16 B"),
        ("models:number", "int opaque 3"),
        (
            "models:with_key",
            "Linear in_features=2, out_features=3, use_bias=True 9 36 B",
        ),
        (
            "models:with_key_and_more",
            "Linear in_features=2, out_features=2, use_bias=True 6 24 B",
        ),
    ],
)
def test_what_can_be_summarised(run, target, head):
    status, output, errors = run("summary", target)
    assert (status, errors) == (0, "")
    assert " ".join(output.split("\n")[1].split()) == head


def test_the_model_that_is_given_a_key_is_the_one_of_key_zero(run):
    _, output, _ = run("summary", "models:with_key", "--json")
    model = sys.modules["models"].with_key(jax.random.key(0))
    assert json.loads(output) == anx.summary(model).to_dict()


def test_options_of_summary(run):
    status, output, errors = run("summary", "models:make", "--depth", "0")
    assert (status, errors, output.count("Scale")) == (0, "", 0)
    status, output, errors = run("summary", "--json", "--depth=1", "models:make")
    assert (status, errors) == (0, "")
    data = json.loads(output)
    assert data == anx.summary(sys.modules["models"].make(), depth=1).to_dict()
    assert {row["level"] for row in data["rows"]} == {0, 1}


def test_an_abstract_model_needs_no_memory(run):
    status, output, _ = run("summary", "models:huge", "--abstract", "--json")
    assert status == 0
    assert json.loads(output)["totals"]["trainable"]["elements"] == 10**12
    status, output, _ = run("summary", "models:with_key", "--abstract")
    assert (status, output) == run("summary", "models:with_key")[:2]


# --- audit -----------------------------------------------------------------------------


def test_a_package_without_findings(run):
    assert run("audit", "clean") == (0, "clean: nothing found in 1 class\n", "")


def test_a_package_with_findings(run):
    status, output, errors = run("audit", "dirty")
    assert (status, errors) == (1, "")
    assert output == f"{anx.audit('dirty')}\n"
    assert "ANX001" in output
    assert output.endswith("dirty: 1 warning and 1 note in 3 classes\n")


def test_several_packages_and_what_to_ignore(run):
    status, output, errors = run("audit", "clean", "dirty", "--ignore", "ANX001")
    assert (status, errors) == (0, "")
    assert "ANX006" in output
    ignored = ("--ignore", "ANX001", "--ignore", "ANX006")
    status, output, errors = run("audit", "clean", "dirty", *ignored)
    assert (status, errors, "ANX" in output) == (0, "", False)


def test_an_audit_as_json(run):
    status, output, errors = run("audit", "dirty", "--json")
    assert (status, errors) == (1, "")
    assert json.loads(output) == anx.audit("dirty").to_dict()


# --- errors ----------------------------------------------------------------------------

HELP = "annotax summary --help tells what there is"
CALLABLE = "write it as package.module:callable"
WITHOUT = "it must make the model when it is called without arguments, or with a key"
IMPORTED = "give a module that can be imported from here"
NO_TREE = (
    "a list: this cannot be followed: it contains itself, or nests too deeply; "
    "expected: containers that do not "
    "contain themselves, and less than some hundreds of modules in one another; fix: look "
    "for a list or a dictionary that was put into itself; or stack the layers "
    "(equinox.filter_vmap)"
)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            [],
            "the following arguments are required: COMMAND; annotax --help tells what "
            "there is",
        ),
        (
            ["summary"],
            f"the following arguments are required: PKG.MOD:CALLABLE; {HELP}",
        ),
        (
            ["audit"],
            "the following arguments are required: PKG; annotax audit --help tells what "
            "there is",
        ),
        (
            ["summary", "models:make", "--deep"],
            "unrecognized arguments: --deep; annotax --help tells what there is",
        ),
        (
            ["summary", "models:make", "--depth", "x"],
            f"argument --depth: invalid int value: 'x'; {HELP}",
        ),
        (
            ["summary", "models:make", "--depth", "-1"],
            "summary(depth=...): this is no depth; expected: None, or how many levels to "
            "show: 0, 1, 2, ...; found: -1",
        ),
        (["summary", "models"], f"'models' names no callable; {CALLABLE}"),
        (["summary", "models:"], f"'models:' names no callable; {CALLABLE}"),
        (["summary", ":make"], f"':make' names no callable; {CALLABLE}"),
        (
            ["summary", "models.make"],
            "'models.make' names no callable; write it as models:make",
        ),
        (
            ["summary", "models:mkae"],
            "models:mkae: there is no 'mkae'; did you mean 'make'?",
        ),
        (
            ["summary", "models:Scale.lagre"],
            "models:Scale.lagre: there is no 'lagre'; did you mean 'large'?",
        ),
        (
            ["summary", "models:zzz"],
            "models:zzz: there is no 'zzz'; look at what the module defines",
        ),
        (
            ["summary", "no_such:x"],
            "cannot import 'no_such': ModuleNotFoundError: No module named 'no_such'; "
            f"{IMPORTED}",
        ),
        (
            ["summary", "raising:x"],
            f"cannot import 'raising': ValueError: broken for good; {IMPORTED}",
        ),
        (
            ["summary", "leaving:x"],
            f"cannot import 'leaving': SystemExit: not today; {IMPORTED}",
        ),
        (
            ["summary", "models:Wide"],
            "models:Wide raised TypeError: Wide.__init__() missing 1 required positional "
            f"argument: 'weight'; {WITHOUT}",
        ),
        (
            ["summary", "models:two"],
            "models:two raised TypeError: two() missing 2 required positional arguments: "
            f"'key' and 'size'; {WITHOUT}",
        ),
        (
            ["summary", "models:fails"],
            rf"models:fails raised ValueError: no luck, \x1b[31mreally; {WITHOUT}",
        ),
        (
            ["summary", "models:long"],
            f"models:long raised ValueError: {'x' * 199}…; {WITHOUT}",
        ),
        (
            ["summary", "models:leaves"],
            f"models:leaves raised SystemExit: bye; {WITHOUT}",
        ),
        (["summary", "models:cyclic"], NO_TREE),
        (
            ["audit", "zzz_qqq"],
            "audit: there is no module 'zzz_qqq'; expected: a package or module that can "
            "be imported, or a class; fix: install it, or start Python where it can be "
            "imported",
        ),
        (
            ["audit", "raising"],
            "audit: 'raising' cannot be imported; found: ValueError: broken for good; "
            "fix: make `import raising` work first",
        ),
        (
            ["audit", "leaving"],
            "audit: 'leaving' cannot be imported; found: SystemExit: not today; "
            "fix: make `import leaving` work first",
        ),
        (
            ["audit", "clean", "--ignore", "ANX999"],
            "audit(ignore=...): there is no code 'ANX999'; fix: did you mean 'ANX009'?",
        ),
        (
            ["audit", "clean", "--ignore", "E501"],
            "audit(ignore=...): there is no code 'E501'; fix: there is: ANX001, ANX002, "
            "ANX003, ANX004, ANX005, ANX006, ANX007, ANX008, ANX009",
        ),
    ],
)
def test_errors_are_one_line(run, arguments, error):
    assert run(*arguments) == (2, "", f"annotax: {error}\n")


def test_what_is_no_model_is_one_line(run):
    assert run("summary", "models:nothing") == (
        2,
        "",
        "annotax: models:nothing returned None; it must return the model\n",
    )
    status, output, errors = run("summary", "models:unsortable")
    assert (status, output) == (2, "")
    assert errors.startswith("annotax: summary(dict): JAX cannot take this apart; ")
    assert errors.count("\n") == 1


def test_an_unexpected_error_is_one_line_and_no_finding(run, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("annotax.__main__.summary", broken)
    assert run("summary", "models:make") == (
        2,
        "",
        "annotax: RuntimeError: first second; call annotax.summary or annotax.audit in "
        "Python to see where\n",
    )


def test_the_version(run, capsys):
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"annotax {anx.__version__}\n"


def test_other_errors_are_one_line_too(run):
    """Their words are those of Python, and change with it."""
    for arguments in (["sumary"], ["summary", "typo:f"], ["audit", "typo"]):
        status, output, errors = run(*arguments)
        assert (status, output) == (2, "")
        assert re.fullmatch(r"annotax: .+; .+\n", errors)


# --- the program -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["summary", "audit", "what is in a model"]),
        (["summary"], ["PKG.MOD:CALLABLE", "--depth", "--abstract", "--json"]),
        (["audit"], ["PKG", "--ignore", "--json"]),
    ],
)
def test_help(capsys, command, words):
    with pytest.raises(SystemExit) as left:
        main([*command, "--help"])
    assert left.value.code == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert output.startswith(f"usage: {' '.join(['annotax', *command])} ")
    assert all(word in output for word in words)


def test_the_script_is_this_program():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"annotax": "annotax.__main__:main"}
    assert import_module("annotax.__main__").main is main


def test_the_program_runs_from_the_folder_with_the_model(tmp_path):
    write(tmp_path)
    found = process(tmp_path, "summary", "models:Scale")
    assert (found.returncode, found.stdout, found.stderr) == (0, SCALE, "")
    found = process(tmp_path, "audit", "dirty", "--json")
    assert (found.returncode, found.stderr) == (1, "")
    assert json.loads(found.stdout)["ok"] is False
    found = process(tmp_path, "summary", "models:mkae")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == (
        "annotax: models:mkae: there is no 'mkae'; did you mean 'make'?\n"
    )


def test_an_output_that_knows_no_lines_gets_similar_characters(tmp_path):
    write(tmp_path)
    found = process(tmp_path, "summary", "models:Scale", PYTHONIOENCODING="ascii")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == SCALE.replace("├", "|").replace("└", "`")


def test_a_stream_that_is_no_file_will_do(run):
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert run("summary", "models:Scale")[0] == 0
    assert "3 parameters in 1 array" in shown.getvalue()


def test_a_callable_without_a_signature_is_called_without_arguments(run):
    assert "max expected" in run("summary", "builtins:max")[2]


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    write(tmp_path)
    for arguments in (["summary", "models:make"], ["audit", "dirty"]):
        reader, writer = os.pipe()
        os.close(reader)
        found = subprocess.run(
            [sys.executable, "-m", "annotax", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        os.close(writer)
        assert (found.returncode, found.stderr) == (0, "")
