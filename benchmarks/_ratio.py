"""Timing two things against each other, in turns.

A machine that others use is faster or slower from one second to the next, so an absolute
time says little and neither does the ratio of two times taken one after the other. Here
both sides run in many short rounds, in turns and each first in every other round; the
result is the median of the ratios within the rounds.

What runs in one thread is timed by that thread's own clock, which stands still while
others have the processor. What XLA runs in threads of its own needs the clock on the wall.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Call = Callable[[], Any]
Clock = Callable[[], float]

THREAD: Clock = time.thread_time
WALL: Clock = time.perf_counter


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, against which aim.

    `aim` is `None` where there is none; `at_least` turns it round.
    """

    what: str
    measured: float
    aim: float | None = None
    at_least: bool = False
    unit: str = "x"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the aim was met, `None` without an aim. Told, never asserted."""
        if self.aim is None:
            return None
        if self.at_least:
            return self.measured >= self.aim
        return self.measured <= self.aim


@dataclass(frozen=True)
class Paired:
    """The outcome of `in_turns`; times are seconds for one call."""

    ratio: float
    ours: float
    twin: float
    rounds: int


@contextmanager
def without_gc() -> Iterator[None]:
    """No garbage collection meanwhile: its cost falls on whoever allocates next."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _timed(call: Call, calls: int, clock: Clock = WALL) -> float:
    start = clock()
    for _ in range(calls):
        call()
    return (clock() - start) / calls


def calls_per_round(call: Call, seconds: float = 1e-3) -> int:
    """How many calls take about `seconds`, at least one."""
    calls = 1
    while (taken := _timed(call, calls) * calls) < seconds and calls < 1_000_000:
        calls = max(2 * calls, int(calls * seconds / max(taken, 1e-7)))
    return calls


def in_turns(
    ours: Call, twin: Call, *, seconds: float, clock: Clock, min_rounds: int = 15
) -> Paired:
    """Run both sides in turns for about `seconds` (and `min_rounds` at least).

    Both have run once before: what happens at the first call only is not in the result.
    """
    ours()
    twin()
    ratios: list[float] = []
    ours_times: list[float] = []
    twin_times: list[float] = []
    with without_gc():
        calls = calls_per_round(twin)
        deadline = time.perf_counter() + seconds
        while len(ratios) < min_rounds or time.perf_counter() < deadline:
            if len(ratios) % 2:
                ours_time = _timed(ours, calls, clock)
                twin_time = _timed(twin, calls, clock)
            else:
                twin_time = _timed(twin, calls, clock)
                ours_time = _timed(ours, calls, clock)
            ours_times.append(ours_time)
            twin_times.append(twin_time)
            ratios.append(ours_time / twin_time)
    return Paired(
        ratio=statistics.median(ratios),
        ours=statistics.median(ours_times),
        twin=statistics.median(twin_times),
        rounds=len(ratios),
    )


def duration(seconds: float) -> str:
    """A time as a reader would write it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def table(rows: list[Row]) -> list[str]:
    """The rows as aligned text."""
    width = max(len(row.what) for row in rows)
    lines = [f"{'what':<{width}}  {'aim':>9}  {'measured':>9}          times"]
    for row in rows:
        aim = "-"
        if row.aim is not None:
            aim = f"{'>=' if row.at_least else '<='} {row.aim:.2f} {row.unit}"
        verdict = {None: "", True: "met", False: "missed"}[row.met]
        measured = f"{row.measured:.2f} {row.unit}"
        lines.append(
            f"{row.what:<{width}}  {aim:>9}  {measured:>9}  {verdict:<8}{row.note}"
        )
    return lines
