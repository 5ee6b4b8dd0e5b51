"""One row of the bench: contenders take turns, and btor is compared with each other one pair by pair."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

from tools._measure import Usage
from tools.bench.workshop import MIB, Workshop

OURS = "btor"


@dataclass(frozen=True)
class Contender:
    """A program that does the work of a row. ``run`` does it once, verifies the result and tells the cost.

    ``missing``: why it cannot take part. ``settings``: all it was told, but what the work itself is.
    """

    name: str
    settings: str
    run: Callable[[], Usage]
    missing: str = ""


@dataclass(frozen=True)
class Row:
    """``open`` prepares what all contenders of one run share. ``notes`` say what is counted where it is not plain."""

    key: str
    title: str
    open: Callable[[Workshop], AbstractContextManager[list[Contender]]]
    columns: tuple[str, ...] = ("wall", "cpu", "peak_rss")
    notes: str = ""


@dataclass(frozen=True)
class Spread:
    """Of several rounds."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(min(values), statistics.median(values), max(values))


UNITS = {"wall": ("wall s", 1.0), "cpu": ("CPU s", 1.0), "peak_rss": ("peak MiB", MIB), "read": ("read MiB", MIB)}


def take_turns(contenders: list[Contender], rounds: int, warm_ups: int) -> dict[str, list[Usage]]:
    """Every contender runs once in each round, the order turned about from one to the next."""
    results: dict[str, list[Usage]] = {contender.name: [] for contender in contenders}
    for number in range(-warm_ups, rounds):
        for contender in contenders if number % 2 else reversed(contenders):
            usage = contender.run()
            if number >= 0:
                results[contender.name].append(usage)
    return results


def ratios(ours: list[Usage], theirs: list[Usage], column: str) -> Spread:
    """btor's share of the other's, round by round; without bound where the other's was too little to be seen."""
    pairs = [(getattr(one, column), getattr(other, column)) for one, other in zip(ours, theirs, strict=True)]
    return Spread.of([one / other if other else math.inf for one, other in pairs])


def run_row(row: Row, workshop: Workshop, rounds: int, warm_ups: int) -> dict[str, Any]:
    """Run one row and print its table; the figures, for a file."""
    with row.open(workshop) as contenders:
        present = [contender for contender in contenders if not contender.missing]
        results = take_turns(present, rounds, warm_ups) if len(present) > 1 else {}
    print(f"\n{row.key}. {row.title}{' – a sixteenth of it' if workshop.quick else ''}")
    for contender in contenders:
        print(f"   {contender.name}: {contender.missing or contender.settings}")
    if row.notes:
        print(f"   {row.notes}")
    if not results:
        print("   skipped: nobody to compare with")
        return {}
    _print_table(row, results)
    return {
        "row": row.key,
        "title": row.title,
        "runs": {name: [asdict(usage) for usage in usages] for name, usages in results.items()},
    }


def _print_table(row: Row, results: dict[str, list[Usage]]) -> None:
    print(f"   {'':24}" + "".join(f"{UNITS[column][0]:>24}" for column in row.columns))
    for name, usages in results.items():
        spreads = [Spread.of([getattr(usage, column) / UNITS[column][1] for usage in usages]) for column in row.columns]
        print(f"   {name:24}" + "".join(map(_cell, spreads)))
    for name, usages in results.items():
        if name != OURS:
            shares = [ratios(results[OURS], usages, column) for column in row.columns]
            print(f"   {OURS + ' / ' + name:24}" + "".join(map(_cell, shares)), flush=True)


def _cell(spread: Spread) -> str:
    """The median, and in brackets the least and the most."""
    digits = 2 if spread.median < 20 else 0
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f}–{spread.high:.{digits}f})".rjust(24)
