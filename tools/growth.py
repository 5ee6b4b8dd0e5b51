"""How cost grows: wall and CPU time of btor and libtorrent against one amount at a time, kept as data for plots.

``size``: downloads of 64 MiB to 4 GiB into memory, and of 8 GiB to a disk; ``pieces``: of 1 GiB by piece length;
``peers``: CPU time a second with 1 to 500 peers that each move 40 KB/s both ways; ``torrents``: start, announces and
idle cost of 1 to 1,000 torrents. Each series goes to a file of its own; `tools.plot_growth` draws them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tools import many_peers, many_torrents
from tools._measure import Usage
from tools.bench import contenders as who
from tools.bench.__main__ import machine
from tools.bench.contest import take_turns
from tools.bench.transfers import download_once
from tools.bench.workshop import KIB, MIB, Payload, Workshop

Row = dict[str, Any]  # "who", "x", and the figures
DATA = Path("docs/performance")


def downloads(payload: Payload, workshop: Workshop, x: float, rounds: int, *, on_disk: bool = False) -> Iterator[Row]:
    """The medians of both programs as leechers of one libtorrent seeder, by turns, after a warm-up."""
    with who.libtorrent_seed(payload, workshop) as (_, port):
        peer = f"127.0.0.1:{port}"
        pair = [
            who.btor(lambda: download_once(workshop, payload, who.btor_get, peer, on_disk=on_disk)),
            who.libtorrent(lambda: download_once(workshop, payload, who.libtorrent_get, peer, on_disk=on_disk)),
        ]
        for name, usages in take_turns(pair, rounds, 1).items():
            yield {"who": name, "x": x, "on_disk": on_disk, **medians(usages)}


def medians(usages: list[Usage]) -> dict[str, float]:
    return {key: statistics.median(getattr(usage, key) for usage in usages) for key in ("wall", "cpu", "peak_rss")}


def by_size(workshop: Workshop, rounds: int, quick: bool) -> Iterator[Row]:
    sizes = (16, 32, 64) if quick else (64, 256, 1024, 2048, 4096)
    for size in sizes:
        yield from downloads(workshop.fixed(size, MIB), workshop, size, rounds)
        shutil.rmtree(workshop.root / f"source-{size * MIB}")
    size = 64 if quick else 8192
    yield from downloads(workshop.fixed(size, MIB), workshop, size, 1, on_disk=True)
    shutil.rmtree(workshop.root / f"source-{size * MIB}")


def by_piece_length(workshop: Workshop, rounds: int, quick: bool) -> Iterator[Row]:
    for length in (16, 256, 4096) if quick else (16, 64, 256, 1024, 4096, 16384):
        payload = workshop.fixed(64 if quick else 1024, length * KIB)
        yield from downloads(payload, workshop, length, rounds)


def by_peers(workshop: Workshop, rounds: int, quick: bool) -> Iterator[Row]:
    for peers in (1, 20, 50) if quick else (1, 20, 50, 100, 200, 350, 500):
        case = many_peers.Case("load", peers, 40_000.0, 4.0 if quick else 10.0, 2 if peers > 1 else 1)
        for name in ("btor", "libtorrent"):
            root = Path(tempfile.mkdtemp(dir=workshop.root))
            figures = many_peers.measure(name, case, root)
            shutil.rmtree(root)
            late = figures.late
            yield {
                "who": name,
                "x": peers,
                "cpu": figures.cpu,
                "memory": figures.memory,
                "rate": figures.sent / (peers * 40_000.0),
                "late_p99": None if late is None else late.p99,
            }


def by_torrents(workshop: Workshop, rounds: int, quick: bool) -> Iterator[Row]:
    for count in (1, 50) if quick else (1, 100, 250, 500, 1000):
        for name, figures in many_torrents.compare(count, workshop.root, 5.0 if quick else 20.0).items():
            announced = max(figures.announced.values())
            yield {
                "who": name,
                "x": count,
                "wall": figures.start,
                "announced": announced,
                "cpu": figures.cpu,
                "memory": figures.memory,
            }


SERIES: dict[str, tuple[str, Callable[[Workshop, int, bool], Iterator[Row]]]] = {
    "size": ("size of the content, MiB", by_size),
    "pieces": ("piece length, KiB", by_piece_length),
    "peers": ("peers that each move 40 KB/s both ways", by_peers),
    "torrents": ("idle torrents", by_torrents),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.growth", description=__doc__)
    parser.add_argument("--series", action="append", choices=list(SERIES), help="default: all")
    parser.add_argument("--rounds", type=int, default=3, help="of each download; the medians are kept")
    parser.add_argument("--quick", action="store_true", help="little of everything: does all work?")
    parser.add_argument("--where", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER", help=f"default: {DATA}")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed command is compiled once, not at every start
    root = Path(tempfile.mkdtemp(prefix="btor-growth-", dir=arguments.where))
    disk = Path(tempfile.mkdtemp(prefix="btor-growth-", dir=arguments.disk))
    arguments.data.mkdir(parents=True, exist_ok=True)
    try:
        for name in arguments.series or SERIES:
            title, measure = SERIES[name]
            rows = []
            begun = time.monotonic()
            for row in measure(Workshop(root, disk), arguments.rounds, arguments.quick):
                rows.append(row)
                print(name, json.dumps(row), flush=True)
            head = {"series": name, "x": title, "machine": machine(), "date": time.strftime("%Y-%m-%d")}
            data = {**head, "quick": arguments.quick, "rows": rows}
            (arguments.data / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
            print(f"{name}: {time.monotonic() - begun:.0f} s")
    finally:
        shutil.rmtree(root)
        shutil.rmtree(disk)
    return 0


if __name__ == "__main__":
    sys.exit(main())
