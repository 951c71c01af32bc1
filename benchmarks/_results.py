"""What `make bench` leaves behind: `RESULTS.md`, in the same layout every time.

First the tables of peers, then every row that has a twin, section by section. Comments of
the form that pymdownx.snippets reads mark the parts, so that a page can include them.
"""

import datetime
import os
import pathlib
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from _figure import Point
from _ratio import Row, duration

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "RESULTS.md"

LIBRARIES = (
    "annotax",
    "jax",
    "jaxlib",
    "equinox",
    "flax",
    "paramax",
    "optax",
    "jaxtyping",
    "beartype",
    "safetensors",
    "numpy",
)

OPENING = """\
# What was measured

Written by `make bench`; not by hand. Everything ran in one process, in turns, so a ratio
says more than a time: it is the median of the ratios within the rounds. An aim that was
missed is shown as missed."""


@dataclass(frozen=True)
class Cell:
    """One figure of a table of peers.

    `text` is what is shown. The order of peers and columns is that in which they come.
    """

    table: str
    peer: str
    column: str
    text: str


def cell_of_time(table: str, peer: str, column: str, ratio: float, seconds: float) -> Cell:
    """A ratio to the first peer, and the time behind it."""
    return Cell(table, peer, column, f"{figure(ratio)} × ({duration(seconds)})")


def figure(number: float) -> str:
    """Two decimals where they mean something."""
    return f"{number:.2f}" if number < 10 else f"{number:.0f}"


def _first_line(path: str, start: str) -> str | None:
    """What stands behind the colon in the first line of a file that begins with a word."""
    try:
        lines = pathlib.Path(path).read_text().splitlines()
    except OSError:
        return None
    found = (line for line in lines if line.startswith(start))
    return next(found, ":").partition(":")[2].strip() or None


def machine() -> list[tuple[str, str]]:
    """What somebody needs to know of the computer, and nothing that names it."""
    processor = _first_line("/proc/cpuinfo", "model name") or platform.processor()
    memory = _first_line("/proc/meminfo", "MemTotal")
    gibibytes = f"{int(memory.split()[0]) / 2**20:.0f} GiB" if memory else "unknown"
    return [
        ("processor", f"{processor or platform.machine()}, {os.cpu_count()} cores"),
        ("memory", gibibytes),
        ("system", f"{platform.system()}, {platform.machine()}"),
        ("Python", platform.python_version()),
        ("libraries", ", ".join(f"{name} {version(name)}" for name in LIBRARIES)),
        ("date", datetime.datetime.now(datetime.UTC).date().isoformat()),
    ]


def lines_of_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A table in Markdown: the first column is text, the others are figures."""
    columns = list(head)
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *map(list, rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def part(name: str, lines: Iterable[str]) -> list[str]:
    """Lines that a page can include by name."""
    start, end = (f"<!-- --8<-- [{which}:{name}] -->" for which in ("start", "end"))
    return [start, "", *lines, "", end, ""]


def peers(cells: list[Cell]) -> list[str]:
    """One table of peers."""
    columns = list(dict.fromkeys(cell.column for cell in cells))
    rows: dict[str, dict[str, str]] = {}
    for cell in cells:
        rows.setdefault(cell.peer, {})[cell.column] = cell.text
    return lines_of_table(
        ["", *columns],
        [
            [peer, *(row.get(column, "") for column in columns)]
            for peer, row in rows.items()
        ],
    )


def against_twins(rows: list[Row]) -> list[str]:
    """The rows of one section."""
    return lines_of_table(
        ["what", "measured", "aim", "", "times"],
        [
            [
                row.what,
                row.shown,
                row.shown_aim,
                {None: "", True: "met", False: "**missed**"}[row.met],
                row.note,
            ]
            for row in rows
        ],
    )


def grown(points: list[Point]) -> list[str]:
    """The growth curves as one table, with the powers of ten as columns."""
    shown = [p for p in points if f"{p.leaves:e}".startswith("1.0")]
    cells = [
        Cell("", point.operation, f"{point.leaves:,}", f"{point.microseconds_per_leaf:.3g}")
        for point in shown
    ]
    return peers(cells)


def grouped(items: Iterable[Any], name: str) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for item in items:
        groups.setdefault(getattr(item, name), []).append(item)
    return groups


def render(cells: list[Cell], rows: list[Row], points: list[Point]) -> str:
    """The whole file."""
    lines = [OPENING, ""]
    lines += part("machine", [f"- {what}: {value}" for what, value in machine()])
    lines += ["## Beside the peers", ""]
    for title, group in grouped(cells, "table").items():
        lines += [f"### {title}", "", *part(_slug(title), peers(group))]
    lines += ["## Growth: microseconds a leaf", "", *part("growth", grown(points))]
    lines += ["## The aims", "", *part("aims", aims(rows))]
    return typeset("\n".join(lines))


def aims(rows: list[Row]) -> list[str]:
    """Every row that has a twin, section by section."""
    met = [row.met for row in rows if row.met is not None]
    lines = [f"{sum(met)} of {len(met)} aims are met.", ""]
    for title, group in sorted(grouped(rows, "section").items()):
        lines += [f"### {title}", "", *against_twins(group), ""]
    return lines


def typeset(text: str) -> str:
    """Units and relations as they are printed, not as a terminal shows them."""
    for plain, shown in {"<= ": "≤ ", ">= ": "≥ "}.items():
        text = text.replace(plain, shown)
    text = re.sub(r"(?<=\d) us\b", " µs", text)
    return re.sub(r"(?<=\d) x(?= )", " ×", text)


def _slug(title: str) -> str:
    """A title as the name of a part: its words up to a colon or bracket."""
    return "-".join(re.findall(r"[a-z0-9]+", re.split(r"[:(,]", title.lower())[0]))
