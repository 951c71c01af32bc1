"""Every code block in the README and in the documentation runs.

A page that needs several devices says so at its top, `<!-- devices: 8 -->`, and is run in a
process of its own. One that says `<!-- processes: 2, devices: 4 -->` has a single program,
which is started so many times, with the number of the process and a free port.
"""

import contextlib
import io
import pathlib
import re
import sys
import warnings

import pytest

from meshes import launch

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted(DOCS.glob("*.md")),
    *sorted(DOCS.glob("recipes/*.md")),
]
BLOCK = re.compile(
    r"^```python\n(.*?)^```\n(?:\n^```\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL
)
PROGRAM = re.compile(
    r"^```python\n(.*?)^```\n.*?^```\n(.*?)^```\n", re.MULTILINE | re.DOTALL
)
NEEDS = re.compile(r"<!-- (?:processes: (\d+), )?devices: (\d+) -->\n")


def needs(page):
    """How many processes and devices a page asks for, `None` for what it does not say."""
    found = NEEDS.match(page.read_text())
    return [text and int(text) for text in found.groups()] if found else [None, None]


def named(pages):
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


def run_blocks(page):
    namespace = {"__name__": "__page__"}
    for code, expected in BLOCK.findall(page.read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(page), "exec"), namespace)
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
