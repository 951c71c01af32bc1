"""The command line: `annotax summary pkg.mod:make_model`, `annotax audit pkg`.

Exit status: 0 if all is well, 1 if an audit found something, 2 if the command could not be
carried out; then one line on the standard error says why, and what to do.
"""

import argparse
import codecs
import importlib
import inspect
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, cast

import equinox as eqx
import jax

from . import __version__
from ._audit import audit
from ._errors import AnnotaxError, nearest
from ._summary import summary
from ._text import Report, shorten

_eqx: Any = eqx  # the types of its filtered transformations are partly unknown


class CommandError(Exception):
    """What keeps a command from being carried out, and the fix: one line."""


class _Parser(argparse.ArgumentParser):
    """Errors in one line, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message}; {self.prog} --help tells what there is")


def _parser() -> _Parser:
    parser = _Parser(prog="annotax", description="Look into models and packages.")
    parser.add_argument("--version", action="version", version=f"annotax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    table = commands.add_parser("summary", help="what is in a model")
    table.add_argument(
        "target",
        metavar="PKG.MOD:CALLABLE",
        help="a function or class that makes the model when it is called without "
        "arguments (one that is called `key` is given), or the model itself",
    )
    table.add_argument("--depth", type=int, help="how many levels to show")
    table.add_argument(
        "--abstract",
        action="store_true",
        help="trace the callable instead of running it: shapes only, no memory",
    )
    check = commands.add_parser("audit", help="what is wrong in the classes of a package")
    check.add_argument("target", metavar="PKG", nargs="+", help="a package or module")
    check.add_argument(
        "--ignore", metavar="CODE", action="append", default=[], help="ANX006, say"
    )
    for command in (table, check):
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    **Arguments:** `arguments` are those behind the program's name, or `None` for
    `sys.argv`'s.

    **Returns:** the exit status.
    """
    _replace_what_cannot_be_shown()
    try:
        options = _parser().parse_args(arguments)
        if os.getcwd() not in sys.path:  # as `python -m` does, for the script
            sys.path.insert(0, os.getcwd())
        run = _summary if options.command == "summary" else _audit
        status = run(options)
        sys.stdout.flush()  # here, where a closed pipe is caught
    except BrokenPipeError:  # whoever reads has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (AnnotaxError, CommandError) as error:
        print(f"annotax: {_one_line(str(error))}", file=sys.stderr)
        return 2
    except Exception as error:  # a traceback exits with 1, which means findings
        print(f"annotax: {_unexpected(error)}", file=sys.stderr)
        return 2
    return status


def _unexpected(error: Exception) -> str:
    what = f"{type(error).__name__}: {shorten(str(error), 200)}"
    return f"{what}; call annotax.summary or annotax.audit in Python to see where"


_ALIKE = {"│": "|", "├": "|", "└": "`", "…": ".", "×": "x", "–": "-"}
"""What stands for the characters of a table where the output cannot show them."""


def _replace_what_cannot_be_shown() -> None:
    def alike(error: UnicodeError) -> tuple[str, int]:
        shown = cast(UnicodeEncodeError, error)  # nothing is read here
        lost = shown.object[shown.start : shown.end]
        return "".join(_ALIKE.get(character, "?") for character in lost), shown.end

    output: Any = sys.stdout
    if isinstance(output, io.TextIOWrapper):
        codecs.register_error("annotax.alike", alike)
        output.reconfigure(errors="annotax.alike")


def _summary(options: argparse.Namespace) -> int:
    found = summary(_model(options.target, options.abstract), depth=options.depth)
    if options.json:
        _print_json(found)
    else:
        try:
            found.show()
        except SystemExit as error:  # rich leaves so when a pipe is closed
            raise BrokenPipeError from error
    return 0


def _audit(options: argparse.Namespace) -> int:
    found = audit(options.target, ignore=options.ignore)
    if options.json:
        _print_json(found)
    else:
        print(found)
    return 0 if found.ok else 1


def _print_json(report: Report) -> None:
    print(json.dumps(report.to_dict(), indent=2))


def _one_line(message: str) -> str:
    """A message in one line: what is wrong, what was found, and the fix."""
    wrapped = f"\n{' ' * 12}"  # how a detail goes on in its next line
    lines = message.replace(wrapped, " ").splitlines()
    return "; ".join(" ".join(line.split()) for line in lines if line.strip())


# --- finding the model ---------------------------------------------------------------


def _model(target: str, abstract: bool) -> Any:
    module_name, colon, name = target.partition(":")
    if not (colon and name and module_name):
        parts = target.strip(":").rpartition(".")
        example = f"{parts[0]}:{parts[2]}" if parts[0] else "package.module:callable"
        raise CommandError(f"{target!r} names no callable; write it as {example}")
    found: Any = _import(module_name)
    for step in name.split("."):
        found = _attribute(found, step, target)
    if isinstance(found, eqx.Module) or not callable(found):
        return found
    try:
        given = {"key": jax.random.key(0)} if _needs_key(found) else {}
        made = _eqx.filter_eval_shape(found, **given) if abstract else found(**given)
    except (Exception, SystemExit) as error:
        raise CommandError(
            f"{target} raised {type(error).__name__}: {shorten(str(error), 200)}; "
            "it must make the model when it is called without arguments, or with a key"
        ) from error
    if made is None:
        raise CommandError(f"{target} returned None; it must return the model")
    return made


def _needs_key(make: Any) -> bool:
    """Whether a callable takes a random key, as models in Equinox do, and nothing else."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = [p for p in parameters if p.default is p.empty]
    collecting = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in needed if p.kind not in collecting] == ["key"]


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise CommandError(
            f"cannot import {name!r}: {type(error).__name__}: {shorten(str(error), 200)}; "
            "give a module that can be imported from here"
        ) from error


def _attribute(owner: Any, name: str, target: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        known = [other for other in dir(owner) if not other.startswith("_")]
        near = nearest(name, known)
        hint = f"did you mean {near[0]!r}?" if near else "look at what the module defines"
        raise CommandError(f"{target}: there is no {name!r}; {hint}") from None


if __name__ == "__main__":
    sys.exit(main())
