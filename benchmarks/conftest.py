"""The fixtures of the benchmarks, and the table of ratios at the end of a run.

No test here fails for being slow: a ratio is told with its aim, in the table and in
pytest-benchmark's `extra_info`, and whoever reads it judges.
"""

from collections.abc import Callable
from typing import Any

import pytest

from _ratio import THREAD, Call, Clock, Row, calls_per_round, duration, in_turns, table

_ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture
def report(request: pytest.FixtureRequest, benchmark: Any) -> Callable[[Row], None]:
    """A function that adds a row to the table."""

    def add(row: Row) -> None:
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
        seconds: float = 2.0,
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
        benchmark.pedantic(ours, rounds=10, iterations=calls_per_round(ours))

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Steps first: in a process full of classes and models all of them take longer."""
    items.sort(key=lambda item: item.path.name != "test_step.py")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash.get(_ROWS, [])
    if rows:
        terminalreporter.section("ratios to hand-written twins (medians)")
        for line in table(rows):
            terminalreporter.write_line(line)
