"""Draws what `tools.growth` measured: a PNG beside each data file, with the straight line that fits btor's points best.

Needs matplotlib (the dev extra).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PANELS = {
    "size": (("wall", "wall s"), ("cpu", "CPU s")),
    "pieces": (("wall", "wall s"), ("cpu", "CPU s")),
    "peers": (("cpu", "CPU s per s"), ("late_p99", "p99 of the loop's lateness, s")),
    "torrents": (("wall", "s from the start until all are ready"), ("cpu", "idle CPU s per s")),
}
LOGARITHMIC = {"pieces"}  # in x: lengths are powers of two, and no line is expected
COLOURS = {"btor": "tab:blue", "libtorrent": "tab:orange"}


def line_through(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(slope, intercept) of the least squares."""
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    return slope, mean_y - slope * mean_x


def points_of(rows: Sequence[dict[str, Any]], who: str, key: str, *, on_disk: bool) -> list[tuple[float, float]]:
    return [
        (row["x"], row[key])
        for row in rows
        if row["who"] == who and row.get(key) is not None and row.get("on_disk", False) == on_disk
    ]


def draw(path: Path) -> Path:
    """The picture of one data file."""
    import matplotlib  # of the dev extra, only for this

    matplotlib.use("Agg")
    from matplotlib import pyplot

    data = json.loads(path.read_text(encoding="utf-8"))
    panels = PANELS[data["series"]]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(11, 4), layout="constrained")
    for axis, (key, label) in zip(axes, panels, strict=True):
        for who, colour in COLOURS.items():
            for on_disk, marker in ((False, "o"), (True, "^")):
                points = points_of(data["rows"], who, key, on_disk=on_disk)
                if points:
                    name = f"{who}, to a disk" if on_disk else who
                    axis.plot(*zip(*points, strict=True), marker=marker, linestyle="", color=colour, label=name)
        points = points_of(data["rows"], "btor", key, on_disk=False)
        if data["series"] in LOGARITHMIC:
            axis.set_xscale("log", base=2)
        elif len(points) > 1:
            slope, start = line_through(points)
            ends = [min(x for x, _ in points), max(x for x, _ in points)]
            axis.plot(ends, [slope * x + start for x in ends], color=COLOURS["btor"], linewidth=1, linestyle="--")
        axis.set_xlabel(data["x"])
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.legend()
        axis.grid(alpha=0.3)
    figure.suptitle(f"{data['machine']}, {data['date']}", fontsize=8)
    picture = path.with_suffix(".png")
    figure.savefig(picture, dpi=90, metadata={"Software": None})
    pyplot.close(figure)
    return picture


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.plot_growth", description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", default=Path("docs/performance"), help="the folder of data files")
    arguments = parser.parse_args()
    paths = sorted(arguments.data.glob("*.json"))
    for path in paths:
        print(draw(path))
    return 0 if paths else 1


if __name__ == "__main__":
    sys.exit(main())
