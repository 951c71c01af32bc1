"""The fixtures of the benchmarks, and what is told and written at the end of a run.

No test here fails for being slow: a ratio is told with its aim, in the table and in
pytest-benchmark's `extra_info`, and whoever reads it judges. `RESULTS.md` and the figures
are written only after all benchmarks ran: a part of them would replace the whole.
"""

import pathlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import _figure
import _results
from _ratio import (
    THREAD,
    WALL,
    Call,
    Clock,
    Paired,
    Row,
    calls_per_round,
    duration,
    in_turns,
    side_by_side,
    table,
)
from _results import Cell

HERE = pathlib.Path(__file__).parent
FILES = set(HERE.glob("test_*.py"))

_ROWS = pytest.StashKey[list[Row]]()
_CELLS = pytest.StashKey[list[Cell]]()
_GROWTH = pytest.StashKey[list[_figure.Point]]()
_PART = pytest.StashKey[bool]()


@pytest.fixture
def report(request: pytest.FixtureRequest, benchmark: Any) -> Callable[[Row], None]:
    """A function that adds a row to the table, under its file's first line."""
    section = request.module.__doc__.splitlines()[0].rstrip(".")

    def add(row: Row) -> None:
        row = replace(row, section=section)
        request.config.stash.setdefault(_ROWS, []).append(row)
        told = {"measured": row.measured, "unit": row.unit, "aim": row.aim, "met": row.met}
        benchmark.extra_info[row.what] = told

    return add


@pytest.fixture
def compare(report: Callable[[Row], None], benchmark: Any) -> Callable[..., None]:
    """A function that times two sides in turns and adds their ratio to the table.

    `at_least=True` is for a side that should be faster: the ratio is turned round.
    """

    def run(
        what: str,
        ours: Call,
        twin: Call,
        *,
        aim: float | None = None,
        at_least: bool = False,
        seconds: float = 1.0,
        clock: Clock = THREAD,
    ) -> None:
        paired = in_turns(ours, twin, seconds=seconds, clock=clock)
        report(
            Row(
                what,
                1 / paired.ratio if at_least else paired.ratio,
                aim,
                at_least,
                note=f"{duration(paired.ours)} against {duration(paired.twin)}"
                f", {paired.rounds} rounds",
            )
        )
        benchmark.pedantic(ours, rounds=3, iterations=calls_per_round(ours))

    return run


@pytest.fixture
def tell(request: pytest.FixtureRequest, benchmark: Any) -> Callable[[Cell], None]:
    """A function that puts a figure into a table of peers."""

    def add(cell: Cell) -> None:
        request.config.stash.setdefault(_CELLS, []).append(cell)
        benchmark.extra_info[f"{cell.peer}, {cell.column}"] = cell.text

    return add


@pytest.fixture
def peers(tell: Callable[[Cell], None], benchmark: Any) -> Callable[..., None]:
    """A function that times peers in turns and adds a column to a table of them.

    The ratios are to the first peer.
    """

    def run(
        title: str,
        column: str,
        sides: dict[str, Call],
        *,
        seconds: float = 3.0,
        min_rounds: int = 15,
        clock: Clock = WALL,
    ) -> dict[str, Paired]:
        found = side_by_side(sides, seconds=seconds, clock=clock, min_rounds=min_rounds)
        for peer, paired in found.items():
            tell(_results.cell_of_time(title, peer, column, paired.ratio, paired.ours))
        benchmark.pedantic(next(iter(sides.values())), rounds=5)
        return found

    return run


@pytest.fixture
def growth(request: pytest.FixtureRequest) -> list[_figure.Point]:
    """The points of the growth curves so far."""
    return request.config.stash.setdefault(_GROWTH, [])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Steps first: in a process full of classes and models all of them take longer."""
    items.sort(key=lambda item: item.path.name not in ("test_step.py", "test_peers.py"))
    config.stash[_PART] = not FILES.issubset(item.path for item in items)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Remember that a part was left out, whether by `-k` or in another way."""
    items[0].config.stash[_PART] = True


def is_whole(config: pytest.Config, exitstatus: int) -> bool:
    """Whether all benchmarks ran, and none failed. A name with `::` is a part, too."""
    named = any("::" in argument for argument in config.args)
    return exitstatus == 0 and not named and not config.stash.get(_PART, True)


def pytest_terminal_summary(
    terminalreporter: Any, exitstatus: int, config: pytest.Config
) -> None:
    rows, cells, points = (config.stash.get(key, []) for key in (_ROWS, _CELLS, _GROWTH))
    for title, group in _results.grouped(cells, "table").items():
        terminalreporter.section(title)
        for line in _results.peers(group):
            terminalreporter.write_line(line)
    if rows:
        terminalreporter.section("ratios to hand-written twins (medians)")
        for line in table(rows):
            terminalreporter.write_line(line)
    # Nothing was measured if tests were only collected, or all benchmarks skipped.
    if rows and cells and points and is_whole(config, exitstatus):
        _figure.write(points)
        _results.RESULTS.write_text(_results.render(cells, rows, points))
        terminalreporter.write_line(f"written: benchmarks/RESULTS.md, {_figure.NAMES}")
    elif rows or cells:
        terminalreporter.write_line("a part of the benchmarks ran: no file is written")
