"""Every code block in the README and in the documentation runs."""

import contextlib
import io
import pathlib
import re

import pytest

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks_run_and_print_what_stands_below(page):
    namespace = {"__name__": "__page__"}
    for code, expected in BLOCK.findall(page.read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(page), "exec"), namespace)
        if expected:
            assert printed.getvalue() == expected


def test_the_readme_is_short_and_starts_with_an_example():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) < 100
    assert lines.index("```python") < 12
    assert BLOCK.search((ROOT / "README.md").read_text())


def test_the_readme_names_the_lowest_python_of_the_package():
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'requires-python = ">=([\d.]+)"', project).group(1)
    assert f"Python {version}" in (ROOT / "README.md").read_text()
