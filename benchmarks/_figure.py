"""The growth curves: as a table of numbers, and the picture that is drawn from it.

`python benchmarks/_figure.py` draws the picture anew from the numbers that are there.
"""

import csv
import pathlib
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from typing import Any

FOLDER = pathlib.Path(__file__).parent.parent / "docs" / "figures"
NUMBERS = FOLDER / "growth.csv"
PICTURE = FOLDER / "growth.svg"
NAMES = "docs/figures/growth.csv, growth.svg"

# Told apart also without colour vision, on white and on near black (Okabe and Ito's).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
MARKS = ("o", "s", "^", "D", "v", "P")
GREY = "#808080"


@dataclass(frozen=True)
class Point:
    """What one operation took for a tree of so many leaves."""

    panel: str
    operation: str
    leaves: int
    microseconds_per_leaf: float


def write(points: Iterable[Point]) -> None:
    """The numbers, and the picture drawn from them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with NUMBERS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Point))
        for point in points:
            *names, taken = astuple(point)
            writer.writerow([*names, f"{taken:.4g}"])
    draw(read())


def read() -> list[Point]:
    """The numbers as they were written."""
    with NUMBERS.open(newline="") as file:
        return [
            Point(row["panel"], row["operation"], int(row["leaves"]), float(row[TAKEN]))
            for row in csv.DictReader(file)
        ]


TAKEN = fields(Point)[-1].name


def curves(points: Iterable[Point]) -> dict[str, dict[str, list[Point]]]:
    """The points by panel and operation, each in the order in which it came first."""
    found: dict[str, dict[str, list[Point]]] = {}
    for point in points:
        panel = found.setdefault(point.panel, {})
        panel.setdefault(point.operation, []).append(point)
    return found


def draw(points: Iterable[Point]) -> None:
    """The picture: a panel for each kind of operation, with axes of the same scale.

    The background is left out and text is mid-grey, so that it is read on light and dark
    pages. Text stays text, and nothing in the file depends on when it was drawn.
    """
    import matplotlib as mpl  # only here: the other benchmarks do without

    mpl.use("svg")
    import matplotlib.pyplot as plt

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "annotax",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": GREY,
        "axes.labelcolor": GREY,
        "axes.edgecolor": GREY,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    panels = curves(points)
    with mpl.rc_context(style):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(11, 4.6), sharex=True, sharey=True, squeeze=False
        )
        for axis, (title, operations) in zip(axes[0], panels.items(), strict=True):
            _panel(axis, title, operations)
        axes[0][0].set_ylabel("microseconds a leaf")
        figure.tight_layout()
        figure.savefig(PICTURE, transparent=True, metadata={"Date": None})
        plt.close(figure)


def _panel(axis: Any, title: str, operations: dict[str, list[Point]]) -> None:
    for at, (name, points) in enumerate(operations.items()):
        axis.loglog(
            [point.leaves for point in points],
            [point.microseconds_per_leaf for point in points],
            color=COLOURS[at % len(COLOURS)],
            marker=MARKS[at % len(MARKS)],
            markersize=4,
            linewidth=1.4,
            label=name,
        )
    axis.set_title(title, fontsize=11, loc="left")
    axis.set_xlabel("leaves")
    axis.grid(visible=True, color=GREY, alpha=0.2, linewidth=0.6)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=9)


if __name__ == "__main__":
    draw(read())
