"""Timing things against each other, in turns.

A machine that others use is faster or slower from one second to the next, so an absolute
time says little and neither does the ratio of two times taken one after the other. Here
all sides run in many short rounds, in turns and each first as often as the others; the
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

    `aim` is `None` where there is none; `at_least` turns it round. `section` is a heading:
    rows with the same one stand together.
    """

    what: str
    measured: float
    aim: float | None = None
    at_least: bool = False
    unit: str = "x"
    note: str = ""
    section: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the aim was met, `None` without an aim. Told, never asserted."""
        if self.aim is None:
            return None
        if self.at_least:
            return self.measured >= self.aim
        return self.measured <= self.aim

    @property
    def shown(self) -> str:
        return f"{self.measured:.2f} {self.unit}"

    @property
    def shown_aim(self) -> str:
        if self.aim is None:
            return "-"
        return f"{'>=' if self.at_least else '<='} {self.aim:.2f} {self.unit}"


@dataclass(frozen=True)
class Paired:
    """One side against another, its twin; times are seconds for one call."""

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


def side_by_side(
    sides: dict[str, Call], *, seconds: float, clock: Clock, min_rounds: int = 15
) -> dict[str, Paired]:
    """Run all sides in turns for about `seconds`; each against the first one's time.

    All have run once before: what happens at the first call only is not in the result.
    Each begins a round in its turn.
    """
    for call in sides.values():
        call()
    names = list(sides)
    times: dict[str, list[float]] = {name: [] for name in names}
    rounds = 0
    with without_gc():
        calls = {name: calls_per_round(call) for name, call in sides.items()}
        deadline = time.perf_counter() + seconds
        while rounds < min_rounds or time.perf_counter() < deadline:
            first = rounds % len(names)
            for name in names[first:] + names[:first]:
                times[name].append(_timed(sides[name], calls[name], clock))
            rounds += 1
    base = times[names[0]]
    return {name: _paired(taken, base) for name, taken in times.items()}


def _paired(ours: list[float], twin: list[float]) -> Paired:
    return Paired(
        ratio=statistics.median(a / b for a, b in zip(ours, twin, strict=True)),
        ours=statistics.median(ours),
        twin=statistics.median(twin),
        rounds=len(ours),
    )


def in_turns(
    ours: Call, twin: Call, *, seconds: float, clock: Clock, min_rounds: int = 15
) -> Paired:
    """Run two sides in turns for about `seconds` (and `min_rounds` at least)."""
    sides = {"twin": twin, "ours": ours}
    paired = side_by_side(sides, seconds=seconds, clock=clock, min_rounds=min_rounds)
    return paired["ours"]


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
        verdict = {None: "", True: "met", False: "missed"}[row.met]
        figures = f"{row.shown_aim:>9}  {row.shown:>9}  {verdict:<8}{row.note}"
        lines.append(f"{row.what:<{width}}  {figures}")
    return lines
