"""Where the bench works: content made once, folders for results, and the comparison of both byte for byte."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tools import _payload
from tools._processes import ProcessFailedError

KIB = 1024
MIB = 1024 * KIB
SMALL_FILES = (16 * KIB, 100 * KIB)  # bounds of their lengths
QUICK = 16  # times less content


@dataclass(frozen=True)
class Payload:
    """A torrent and the content it was made of: ``folder`` holds the file or folder ``name`` of ``size`` bytes."""

    torrent: Path
    folder: Path
    name: str
    size: int
    piece_length: int

    @property
    def content(self) -> Path:
        return self.folder / self.name

    @property
    def timeout(self) -> float:
        return 60 + self.size / (10 * MIB)

    def verify(self, folder: Path) -> None:
        """ProcessFailedError unless ``folder`` holds the same bytes under the same names, and nothing more of them."""
        theirs = folder / self.name
        for path in _files(self.content) | _files(theirs):
            if not same_bytes(self.content / path, theirs / path):
                raise ProcessFailedError(f"{theirs / path} is not what was seeded")


def _files(root: Path) -> set[Path]:
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file()} or {Path()}


def same_bytes(one: Path, other: Path) -> bool:
    """Whether both are files of the same bytes."""
    try:
        with one.open("rb") as first, other.open("rb") as second:
            while (data := first.read(MIB)) == second.read(MIB):
                if not data:
                    return True
    except FileNotFoundError:
        pass
    return False


@dataclass
class Workshop:
    """``root`` is where nothing waits for a disk, ``disk`` a folder on one. ``quick``: little of everything."""

    root: Path
    disk: Path
    quick: bool = False
    _payloads: dict[tuple[object, ...], Payload] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def scaled(self, amount: int) -> int:
        return amount // QUICK if self.quick else amount

    def single(self, mebibytes: int, piece_length: int) -> Payload:
        """One file of random bytes; a sixteenth of them when quick."""
        return self.fixed(self.scaled(mebibytes), piece_length)

    def fixed(self, mebibytes: int, piece_length: int) -> Payload:
        """One file of random bytes, quick or not."""
        size = mebibytes * MIB
        folder = self.root / f"source-{size}"
        if not folder.exists():
            _payload.write_random(folder / "payload.bin", size, seed=1)
        return self._torrent(folder, "payload.bin", size, piece_length)

    def album(self, count: int, piece_length: int) -> Payload:
        """So many small files in folders of a thousand."""
        folder = self.root / f"source-{self.scaled(count)}-files"
        chance = random.Random(2)
        sizes = [chance.randint(*SMALL_FILES) for _ in range(self.scaled(count))]
        if not folder.exists():
            for number, size in enumerate(sizes):
                _payload.write_random(folder / "album" / f"{number // 1000:02}" / f"{number:05}", size, number)
        return self._torrent(folder, "album", sum(sizes), piece_length)

    def _torrent(self, folder: Path, name: str, size: int, piece_length: int) -> Payload:
        key = folder, piece_length
        if key not in self._payloads:
            torrent = self.root / f"{folder.name}-{piece_length}.torrent"
            torrent.write_bytes(_payload.torrent_of(folder / name, piece_length))
            self._payloads[key] = Payload(torrent, folder, name, size, piece_length)
        return self._payloads[key]

    def log(self, name: str) -> Path:
        """Where a process of that name may log and keep its state: new each time, so that it knows of nothing."""
        return self.root / "logs" / f"{next(self._numbers):04}" / name

    @contextmanager
    def folder(self, *, on_disk: bool = False) -> Iterator[Path]:
        """An empty folder for results, removed afterwards. On a disk nothing of another run is still to be written."""
        if on_disk:
            os.sync()
        path = (self.disk if on_disk else self.root) / f"result-{next(self._numbers):04}"
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path)
