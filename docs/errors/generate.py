"""Writes the messages into the pages about them, by running the code that stands above.

`python docs/errors/generate.py` brings the pages and their index up to date;
`tests/test_error_pages.py` fails where they are not. An example that raises, warns or
prints has what it says in the block below it, a command in its own block. All examples of
a page share a namespace, and a directory of their own.
"""

import contextlib
import io
import os
import pathlib
import re
import shlex
import sys
import tempfile
import types
import unicodedata
import warnings
from collections.abc import Iterator
from typing import NamedTuple

FOLDER = pathlib.Path(__file__).parent
INDEX = FOLDER / "index.md"
PAGES = [
    FOLDER / f"{name}.md"
    for name in (
        "declaring",
        "registering",
        "hypers",
        "selecting",
        "leaves",
        "changing",
        "checking",
        "gradients",
        "looking",
        "growing",
        "checkpoints",
        "command-line",
        "warnings",
    )
]
"""In the order in which the index lists them."""

LIST = "<!-- the list below is written by generate.py -->\n"
EXAMPLE = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n^```\n.*?^```\n)?"
    r"|^```console\n(?P<command>\$ .*?\n).*?^```\n",
    re.MULTILINE | re.DOTALL,
)
HEADING = re.compile(r"^## (.*)$", re.MULTILINE)


class Outcome(NamedTuple):
    """What an example did: what it printed, what it warned of, what it raised."""

    printed: str
    warned: list[warnings.WarningMessage]
    raised: Exception | None

    @property
    def text(self) -> str:
        """All of it, a message with the class that Python names in front of it."""
        said = [*(warning.message for warning in self.warned), self.raised]
        messages = [f"{type(one).__name__}: {one}\n" for one in said if one is not None]
        return self.printed + "".join(messages)


def run(page: str) -> list[Outcome]:
    """Run the examples of a page, in a module and a directory of their own."""
    with _module() as namespace, _directory():
        return [_run(found, namespace) for found in EXAMPLE.finditer(page)]


def _run(example: re.Match[str], namespace: dict[str, object]) -> Outcome:
    printed, raised = io.StringIO(), None
    with (
        warnings.catch_warnings(record=True) as warned,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        warnings.simplefilter("always")
        try:
            if example["command"]:
                _command(example["command"])
            else:
                exec(compile(example["code"], "<page>", "exec"), namespace)
        except Exception as error:
            raised = error
    return Outcome(printed.getvalue(), warned, raised)


def _command(line: str) -> None:
    from annotax.__main__ import main as annotax  # a page may have none

    _prompt, _program, *arguments = shlex.split(line)
    annotax(arguments)


@contextlib.contextmanager
def _module() -> Iterator[dict[str, object]]:
    """The namespace of a module: annotations in strings look for their names in one."""
    module = sys.modules["page"] = types.ModuleType("page")
    try:
        yield vars(module)
    finally:
        del sys.modules["page"]


@contextlib.contextmanager
def _directory() -> Iterator[None]:
    """An empty directory to work in, from which modules are imported, too."""
    with tempfile.TemporaryDirectory() as folder:
        here, path = pathlib.Path.cwd(), [*sys.path]
        os.chdir(folder)
        sys.path.insert(0, folder)
        try:
            yield
        finally:
            os.chdir(here)
            sys.path[:] = path
            _forget(folder)


def _forget(folder: str) -> None:
    """Forget the modules of a directory that will be gone."""
    for name, module in [*sys.modules.items()]:
        if (getattr(module, "__file__", None) or "").startswith(folder):
            del sys.modules[name]


def written(page: str, outcomes: list[Outcome]) -> str:
    """The page with what its examples say below each."""
    left = iter(outcomes)

    def block(found: re.Match[str]) -> str:
        text = next(left).text
        if found["command"]:
            return f"```console\n{found['command']}{text}```\n"
        return f"```python\n{found['code']}```\n" + (f"\n```\n{text}```\n" if text else "")

    return EXAMPLE.sub(block, page)


def index(pages: dict[str, str]) -> str:
    """The list of all first lines, with links, from the pages by their names."""
    parts: list[str] = []
    for name, page in pages.items():
        title = page.removeprefix("# ").partition("\n")[0]
        parts.append(f"\n## [{title}]({name}.md)\n\n")
        parts += [
            f"- [{head}]({name}.md#{anchor(head)})\n" for head in HEADING.findall(page)
        ]
    return "".join(parts)


def anchor(heading: str) -> str:
    """The anchor that Markdown gives to a heading."""
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def first_page(page: str, pages: dict[str, str]) -> str:
    """The first page, its message and its list of first lines made anew."""
    return written(page, run(page)).partition(LIST)[0] + LIST + index(pages)


def main() -> None:
    """Bring all pages up to date."""
    pages: dict[str, str] = {}
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        pages[path.stem] = written(page, run(page))
        path.write_text(pages[path.stem], encoding="utf-8")
    first = first_page(INDEX.read_text(encoding="utf-8"), pages)
    INDEX.write_text(first, encoding="utf-8")


if __name__ == "__main__":
    main()
