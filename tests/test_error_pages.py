"""The pages about errors: their messages are real, and no message is without an entry.

The pages are run while whatever makes a message is watched. So each place in the source
that makes one is known to be shown on some page, or stands below with a reason.
"""

import ast
import functools
import importlib
import importlib.util
import pathlib
import re
import sys
from types import FrameType
from typing import Any, NamedTuple

import pytest

import annotax as anx
from annotax import __main__ as command_line
from annotax import _errors

ROOT = pathlib.Path(__file__).parent.parent
SOURCE = pathlib.Path(anx.__file__).parent

_spec = importlib.util.spec_from_file_location(
    "generate", ROOT / "docs" / "errors" / "generate.py"
)
generate: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)

NAMES = [page.stem for page in generate.PAGES]

MAKERS = ("explain_error", "of_field", "refuse")
"""Functions that make a message of what is wrong, wherever they are called."""

OTHER = "a file of another version, or made to be wrong: its header has a checksum"
UNSHOWN = {
    "CheckpointError(_message(path, 'cannot be written', str(error)))":
        "a header of more than 100 MB, from some hundred thousand arrays",
    "AnnotationError(_refused_message(wanted.original, changes, error))":
        "about a class of Equinox that somebody registers in another way",
    "AnnotationError(_refused[wanted])":
        "the second time, with the text that the page has from the first",
    "self.refuse('ended while it was read', f'{filled} bytes of {len(buffer)}')":
        "somebody cuts the file short at that moment",
    "self.refuse(f'holds {name!r} in a dtype that JAX does not have', tensor.dtype)": OTHER,
    "self.refuse(f'holds {name!r} in a shape that numpy does not have', found, error)":
        OTHER,
    "file.refuse(f'does not hold {path!r} as its manifest says', found)": OTHER,
    "file.refuse(f'does not hold {path!r} as its manifest says', str(error), error)": OTHER,
    "file.refuse('lacks tensors of its manifest', listing(lost))": OTHER,
    "file.refuse('cannot be loaded', str(error), error)": OTHER,
}  # fmt: skip
"""What makes a message that no page shows, and why."""


class Made(NamedTuple):
    """A message, with the lines of annotax that made it."""

    text: str
    lines: frozenset[tuple[str, int]]


class Walk(NamedTuple):
    """What came of running all pages: outcomes by page, and all messages made."""

    outcomes: dict[str, list[Any]]
    made: list[Made]


def texts():
    return {page.stem: page.read_text(encoding="utf-8") for page in generate.PAGES}


def lines_of(frame: FrameType | None):
    while frame is not None:
        file = pathlib.Path(frame.f_code.co_filename)
        if file.parent == SOURCE:
            yield file.name, frame.f_lineno
        frame = frame.f_back


@functools.cache
def walk() -> Walk:
    """Run all pages, once."""
    made: list[Made] = []
    explain = _errors.explain_error

    def watched_explain(*args, **kwargs):
        text = explain(*args, **kwargs)
        made.append(Made(text, frozenset(lines_of(sys._getframe(1)))))
        return text

    def watched_init(self, *args):
        Exception.__init__(self, *args)
        made.append(Made(str(self), frozenset(lines_of(sys._getframe(1)))))

    modules = [
        importlib.import_module(f"annotax.{p.stem}") for p in SOURCE.glob("_[!_]*.py")
    ]
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            if hasattr(module, "explain_error"):
                patch.setattr(module, "explain_error", watched_explain)
        for error in (anx.AnnotaxError, command_line.CommandError):
            patch.setattr(error, "__init__", watched_init)
        return Walk({name: generate.run(page) for name, page in texts().items()}, made)


class Site(NamedTuple):
    """A place in the source that makes a message."""

    file: str
    text: str
    first: int
    last: int


def errors_by_name():
    known = vars(_errors) | vars(command_line)
    kinds = (anx.AnnotaxError, command_line.CommandError)
    return {n for n, v in known.items() if isinstance(v, type) and issubclass(v, kinds)}


def making(node: ast.AST, errors: set[str]) -> ast.Call | None:
    """The call that makes a message, if this is one: of an error, or of its text."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        return node.exc if ast.unparse(node.exc.func) in errors else None
    called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    return node if called.rpartition(".")[2] in MAKERS else None


def sites():
    errors = errors_by_name()
    for path in sorted(SOURCE.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for call in (making(node, errors) for node in ast.walk(tree)):
            if call is not None:
                yield Site(path.name, ast.unparse(call), call.lineno, call.end_lineno)


def is_shown(site: Site, shown: set[tuple[str, int]]) -> bool:
    return any((site.file, line) in shown for line in range(site.first, site.last + 1))


def shown_lines():
    """The lines that made a message which stands on a page."""
    said = "".join(one.text for each in walk().outcomes.values() for one in each)
    return {line for made in walk().made if made.text in said for line in made.lines}


@pytest.mark.parametrize("name", NAMES)
def test_a_page_shows_what_its_examples_say(name):
    page = texts()[name]
    assert generate.written(page, walk().outcomes[name]) == page, (
        "run docs/errors/generate.py"
    )


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_messages_of_annotax_comes_out(name):
    ours = anx.AnnotaxError | AttributeError | KeyError
    warned = anx.AnnotationWarning | anx.CheckpointWarning
    for outcome in walk().outcomes[name]:
        assert outcome.raised is None or isinstance(outcome.raised, ours)
        assert all(isinstance(one.message, warned) for one in outcome.warned)


def test_the_list_of_first_lines_is_that_of_the_pages():
    first = generate.INDEX.read_text(encoding="utf-8")
    assert generate.first_page(first, texts()) == first, "run docs/errors/generate.py"
    assert set(generate.FOLDER.glob("*.md")) == {generate.INDEX, *generate.PAGES}


def test_every_message_stands_on_a_page():
    shown = shown_lines()
    unshown = {site.text for site in sites() if not is_shown(site, shown)}
    assert unshown - UNSHOWN.keys() == set(), "give it an entry in docs/errors"
    assert UNSHOWN.keys() - unshown == set(), "it has an entry, or is gone"


def said(entry: str) -> str:
    """What stands below the examples of an entry."""
    examples = generate.EXAMPLE.finditer(entry)
    return "".join(one[0].removeprefix(f"```python\n{one['code']}") for one in examples)


@pytest.mark.parametrize("name", NAMES)
def test_a_heading_is_a_first_line_without_the_names(name):
    _, *entries = re.split(generate.HEADING, texts()[name])
    for heading, entry in zip(entries[::2], entries[1::2], strict=True):
        words = map(re.escape, heading.replace("`", "").split("…"))
        assert re.search(".*".join(words), said(entry)), heading
