"""The states in which a disk may be found after a crash, given the log of what was done to it.

What was synced is there. Of the rest, in the order of the log or in another, anything may be: writes missing or torn,
lengths, times and entries of folders lost. Where a system promises more, its states are among these.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

from tests.crash.recorder import FOLDER, FailedSync, Name, Operation, Sync, SyncFolder, Truncate, Write

Change = Write | Truncate
KEPT: Final = 4_000  # versions of files, so that a state costs little that differs from others in one write


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """A file as it may be found: ``parts`` written one after the other, then cut or extended to ``size``."""

    parts: tuple[tuple[int, bytes], ...]
    size: int

    def data(self) -> bytes:
        """All of it, zeros where nothing was written."""
        made = bytearray(self.size)
        for position, part in self.parts:
            made[position : position + len(part)] = part
        return bytes(made[: self.size])

    @classmethod
    def of(cls, changes: Iterable[Change]) -> Version:
        """What ``changes`` make of an empty file."""
        parts: list[tuple[int, bytes]] = []
        size = 0
        for change in changes:
            if isinstance(change, Write):
                parts.append((change.position, change.data))
                size = max(size, change.position + len(change.data))
            else:
                if change.size < size:
                    parts = [(at, part[: max(0, change.size - at)]) for at, part in parts]
                size = change.size
        return cls(tuple(parts), size)


@dataclass(frozen=True, slots=True)
class Found:
    """One state: the nodes by path, the version of each, its time, and a digest of all that but the times."""

    names: dict[str, int]
    versions: dict[int, Version]
    times: dict[int, int]
    digest: bytes
    why: str


@dataclass(slots=True)
class _File:
    durable: list[Change] = field(default_factory=list)
    pending: list[Change] = field(default_factory=list)
    doomed: int = 0  # so many of them are there since before a sync that failed
    time: int = 0  # durable


Lost = frozenset[int]  # positions among what is pending


class Disk:
    """What is durable and what is not, operation by operation."""

    def __init__(self) -> None:
        self.files: dict[int, _File] = {}
        self.names: dict[str, int] = {}
        self.folders: set[str] = set()  # ever made
        self.pending_names: list[Name] = []
        self._versions: dict[tuple[object, ...], tuple[Version, bytes]] = {}

    def do(self, operation: Operation) -> None:
        """It was done; nothing is lost yet."""
        match operation:
            case Write() | Truncate():
                self.files.setdefault(operation.node, _File()).pending.append(operation)
            case Sync(node):
                file = self.files.setdefault(node, _File())
                if file.pending:
                    file.time = file.pending[-1].mtime
                file.durable += file.pending[file.doomed :]
                del file.pending[file.doomed :]
            case FailedSync(node):
                self.files[node].doomed = len(self.files[node].pending)
            case Name():
                self.pending_names.append(operation)
                self.folders.update(path for path, node in operation.changes if node == FOLDER)
            case SyncFolder(path):
                prefix = path.rstrip("/") + "/"
                for name in self.pending_names:
                    if any(_is_in(changed, prefix) for changed, _ in name.changes):
                        _rename(self.names, name)
                self.pending_names = [
                    name for name in self.pending_names if not any(_is_in(path, prefix) for path, _ in name.changes)
                ]

    # ------------------------------------------------------------------------------------------ states

    def as_it_is(self) -> Found:
        """Nothing is lost: the process was killed, and the system lives."""
        return self._found(frozenset(), set(), "killed")

    def losses(self, rng: random.Random, share: float = 1.0) -> Iterator[Found]:
        """Power is cut: all, none, and all but up to two of what is pending, and the last write torn.

        ``share``: of the states with one or two lost, so many, chosen by ``rng``.
        """
        nodes = self._pending_nodes()
        everything = frozenset(range(self._count()))
        yield self._found(frozenset(), set(nodes), "power cut, only times are lost")
        yield self._found(everything, set(nodes), "power cut, all is lost that was not synced")
        yield self._found(everything - self._name_numbers(), set(nodes), "power cut, names are there")
        for count in (1, 2):
            for lost in combinations(everything, count):
                if share < 1.0 and rng.random() >= share:
                    continue
                stale = {node for node in nodes if rng.random() < 0.5}
                yield self._found(frozenset(lost), stale, f"power cut, {lost} of what is pending lost")
        for cut in (0.5, rng.random()):
            torn = self._torn(cut)
            if torn is not None:
                yield torn

    def reordered(self, rng: random.Random) -> Found:
        """Power is cut, and any part of what is pending has reached the disk, in any order."""
        versions, times = {}, {}
        for node, file in self.files.items():
            some = [change for change in file.pending if rng.random() < rng.choice((0.2, 0.5, 0.9))]
            rng.shuffle(some)
            if some and rng.random() < 0.3 and isinstance(some[-1], Write):
                last = some[-1]
                some[-1] = Write(node, last.position, last.data[: rng.randrange(len(last.data))], last.mtime)
            versions[node] = Version.of([*file.durable, *some])
            times[node] = rng.choice([file.time, *(change.mtime for change in file.pending)])
        names = dict(self.names)
        pending = [name for name in self.pending_names if rng.random() < 0.5]
        rng.shuffle(pending)
        for name in pending:
            _rename(names, name)
        return self._state(names, versions, times, "power cut, reordered")

    def _pending_nodes(self) -> list[int]:
        return [node for node, file in self.files.items() if file.pending]

    def _count(self) -> int:
        return sum(len(file.pending) for file in self.files.values()) + len(self.pending_names)

    def _name_numbers(self) -> Lost:
        count = self._count()
        return frozenset(range(count - len(self.pending_names), count))

    def _torn(self, cut: float) -> Found | None:
        """The last write has reached the disk in part."""
        file = max(self.files.values(), key=lambda file: file.pending[-1].mtime if file.pending else 0, default=None)
        if file is None or not file.pending:
            return None
        last = file.pending[-1]
        if not isinstance(last, Write):
            return None
        file.pending[-1] = Write(last.node, last.position, last.data[: int(len(last.data) * cut)], last.mtime)
        try:
            return self._found(frozenset(), set(), f"power cut, the last write torn at {cut:.2f}", torn=cut)
        finally:
            file.pending[-1] = last

    def _found(self, lost: Lost, stale: set[int], why: str, torn: float = 1.0) -> Found:
        """All is there but what is ``lost``, and the times of ``stale`` files, which are those of the last sync."""
        versions, times, digests = {}, {}, {}
        start = 0
        for node, file in self.files.items():
            end = start + len(file.pending)
            gone = tuple(number - start for number in lost if start <= number < end) if lost else ()
            key = (node, len(file.durable), len(file.pending), gone, torn)
            made = self._versions.get(key)
            if made is None:
                kept = [change for number, change in enumerate(file.pending) if number not in gone]
                version = Version.of([*file.durable, *kept])
                made = version, _digest(version)
                if len(self._versions) > KEPT:
                    self._versions.clear()
                self._versions[key] = made
            versions[node], digests[node] = made
            times[node] = file.time if node in stale or not file.pending else file.pending[-1].mtime
            start = end
        names = dict(self.names)
        for number, name in enumerate(self.pending_names, start):
            if number not in lost:
                _rename(names, name)
        return self._state(names, versions, times, why, digests)

    def _state(
        self,
        names: dict[str, int],
        versions: dict[int, Version],
        times: dict[int, int],
        why: str,
        digests: dict[int, bytes] | None = None,
    ) -> Found:
        if all(map(names.__contains__, self.folders)):
            there = names
        else:
            there = {path: node for path, node in names.items() if self._leads_there(path, names)}
        whole = hashlib.blake2b(digest_size=16)
        for path in sorted(there):
            node = there[path]
            whole.update(path.encode())
            if node != FOLDER and node in versions:
                whole.update(digests[node] if digests is not None else _digest(versions[node]))
        return Found(there, versions, times, whole.digest(), why)

    def _leads_there(self, path: str, names: dict[str, int]) -> bool:
        """Whether all the folders above ``path`` that were made in this log are there."""
        above = path.rpartition("/")[0]
        while above in self.folders:
            if above not in names:
                return False
            above = above.rpartition("/")[0]
        return True


def _is_in(path: str, prefix: str) -> bool:
    return path.startswith(prefix) and "/" not in path[len(prefix) :]


def _rename(names: dict[str, int], name: Name) -> None:
    for path, node in name.changes:
        if node is None:
            names.pop(path, None)
        else:
            names[path] = node


def _digest(version: Version) -> bytes:
    return hashlib.blake2b(version.data(), digest_size=16).digest()


def after(log: Sequence[Operation]) -> Iterator[Disk]:
    """The disk after each prefix of ``log``, the same object each time."""
    disk = Disk()
    yield disk
    for operation in log:
        disk.do(operation)
        yield disk
