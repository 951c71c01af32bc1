"""Every code block in the README and in the documentation runs.

A page that needs several devices says so at its top, `<!-- devices: 8 -->`, and is run in a
process of its own. One that says `<!-- processes: 2, devices: 4 -->` has a single program,
which is started so many times, with the number of the process and a free port.

Blocks that stand side by side have titles. Those of one title are a program of their own,
which sees what the blocks without a title made. PyTorch is too large to be installed for
this: its blocks are only parsed.
"""

import contextlib
import importlib.metadata
import io
import json
import pathlib
import re
import sys
import warnings

import pytest

import annotax
from meshes import launch

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(
    r'^```python(?: title="([^"]*)")?\n(.*?)^```\n(?:\n^```\n(.*?)^```\n)?',
    re.MULTILINE | re.DOTALL,
)
TITLES = {"", "annotax", "Equinox", "Flax NNX", "PyTorch"}
INCLUDED = '--8<-- "'  # a script, which `make demo` runs
PROGRAM = re.compile(
    r"^```python\n(.*?)^```\n.*?^```\n(.*?)^```\n", re.MULTILINE | re.DOTALL
)
NEEDS = re.compile(r"<!-- (?:processes: (\d+), )?devices: (\d+) -->\n")
ELSEWHERE = DOCS / "errors"  # what raises there is run by test_error_pages.py


def blocks(page):
    """Title, code and printed text of each block that stands in the page itself."""
    found = BLOCK.findall(page.read_text())
    return [block for block in found if not block[1].startswith(INCLUDED)]


PAGES = [
    page
    for page in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    if ELSEWHERE not in page.parents and blocks(page)
]


def needs(page):
    """How many processes and devices a page asks for, `None` for what it does not say."""
    found = NEEDS.match(page.read_text())
    return [text and int(text) for text in found.groups()] if found else [None, None]


def named(pages):
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


def is_only_parsed(title):
    """Whether the library that a block is written for is absent, or too old for it."""
    if title != "Flax NNX":
        return title == "PyTorch"
    try:
        version = importlib.metadata.version("flax")
    except importlib.metadata.PackageNotFoundError:
        return True
    return tuple(map(int, version.split(".")[:2])) < (0, 12)


def run_blocks(page):
    shared = {"__name__": "__page__"}
    programs = {"": shared}
    for title, code, expected in blocks(page):
        assert title in TITLES
        compiled = compile(code, str(page), "exec")
        if is_only_parsed(title):
            continue
        namespace = programs.setdefault(title, {})
        namespace |= {name: shared[name] for name in shared.keys() - namespace.keys()}
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compiled, namespace)
        if expected:
            assert printed.getvalue() == expected, printed.getvalue()


@pytest.mark.parametrize("page", named(p for p in PAGES if needs(p) == [None, None]))
def test_code_blocks_run_and_print_what_stands_below(page):
    run_blocks(page)


@pytest.mark.parametrize("page", named(p for p in PAGES if needs(p)[1] and not needs(p)[0]))
def test_code_blocks_run_on_several_devices(page):
    launch.run_together([launch.script(__file__, page)], devices=needs(page)[1])


@pytest.mark.parametrize("page", named(p for p in PAGES if needs(p)[0]))
def test_a_program_runs_in_several_processes(page, tmp_path):
    processes, devices = needs(page)
    [(code, expected)] = PROGRAM.findall(page.read_text())
    program, port = tmp_path / "train.py", launch.free_port()
    program.write_text(code)
    commands = [launch.script(program, process, port) for process in range(processes)]
    assert launch.run_together(commands, devices) == [expected, *[""] * (processes - 1)]


def code_cells(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_the_tutorial_runs(monkeypatch):
    """Its cells one after another, as a kernel would, which `make docs` starts."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = ["".join(cell["source"]) for cell in code_cells(DOCS / "tutorial.ipynb")]
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile("\n".join(cells), "tutorial.ipynb", "exec"), {"__name__": "__page__"})


def test_the_tutorial_is_stored_as_written():
    """Outputs are made when the site is built; in the repository they would go stale."""
    for cell in code_cells(DOCS / "tutorial.ipynb"):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_each_public_name_is_on_one_page_of_the_api():
    named = [
        name
        for page in DOCS.glob("api/*.md")
        for name in re.findall(r"^::: annotax\.(\w+)$", page.read_text(), re.MULTILINE)
    ]
    assert sorted(named) == sorted(annotax.__all__)


def test_the_readme_is_short_and_starts_with_an_example():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) < 100
    assert lines.index("```python") < 12
    assert BLOCK.search((ROOT / "README.md").read_text())


def test_the_readme_names_the_lowest_python_of_the_package():
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'requires-python = ">=([\d.]+)"', project).group(1)
    assert f"Python {version}" in (ROOT / "README.md").read_text()


if __name__ == "__main__":  # started on devices of its own
    warnings.simplefilter("error")
    run_blocks(pathlib.Path(sys.argv[1]))
