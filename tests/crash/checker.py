"""Wakes btor up in every state in which a crash may leave the disk, and looks at what it believes.

What must hold in each: btor starts, believes no piece that is not on disk, and forgets none that a record named which
was durable. The loader is the real one and reads real files, whose inodes are those of the recorded transfer. That a
piece which is hashed is believed if it is right, and only then, is taken for granted: what the disk holds is known.
"""

from __future__ import annotations

import functools
import hashlib
import operator
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from btor.errors import StorageError
from btor.metainfo.bitfield import Bitfield
from btor.metainfo.torrent_file import Metainfo
from btor.storage.files import Content
from btor.storage.pool import FilePool
from btor.storage.resume import decode, load
from btor.storage.survey import refuse, settle, survey
from tests.crash.recorder import FOLDER, Recorder
from tests.crash.states import Disk, Found, Version, after


@dataclass(frozen=True)
class Recording:
    """A transfer that was recorded. ``content``: of the whole torrent; ``top`` and ``state``: below the root."""

    recorder: Recorder
    metainfo: Metainfo
    content: bytes
    top: Path
    state: Path


@dataclass
class Verdict:
    """What came of it. ``images``: distinct by names and bytes; ``with_times``: and by times, and by what is promised.

    ``refused``: how often btor takes a file for somebody else's and asks, with what is in it untouched. That is so
    where the length of a file was lost which was made after the last record, and bytes of it were not.
    """

    images: set[bytes] = field(default_factory=set)
    with_times: set[bytes] = field(default_factory=set)
    tried: int = 0
    believed: Counter[int] = field(default_factory=Counter)  # how many pieces, how often
    refused: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def fault(self, what: str, found: Found, number: int) -> None:
        self.faults[what] += 1
        self.examples.setdefault(what, f"after operation {number}: {found.why}")


class Replay:
    """Puts states onto the real disk, where the recorded transfer was: only what differs from the last one."""

    def __init__(self, recording: Recording) -> None:
        root = recording.recorder.root
        self._stash = root.with_name(root.name + ".stash")
        self._stash.mkdir()
        self._fds: dict[int, int] = {}
        self._now: dict[int, tuple[Version, int]] = {}
        self._names: dict[str, int] = {}
        self._folders = sorted(
            (path for path, node in recording.recorder.names.items() if node == FOLDER), reverse=True
        )
        for path, node in recording.recorder.names.items():
            if node != FOLDER and node not in self._fds:
                self._keep(node, path)
        for path, node in sorted(recording.recorder.names.items(), reverse=True):
            if node == FOLDER:
                os.rmdir(path)
            else:
                os.unlink(path)

    def _keep(self, node: int, path: str) -> None:
        os.link(path, self._stash / str(node))
        self._fds[node] = os.open(path, os.O_RDWR)

    def show(self, found: Found) -> None:
        """Make the disk as ``found``."""
        for node in set(found.names.values()) - {FOLDER}:
            version, time = found.versions.get(node, Version((), 0)), found.times.get(node, 0)
            now = self._now.get(node)
            if now is None or now[0] is not version or now[1] != time:
                self._fill(node, version, time, same=now is not None and now[0] is version)
                self._now[node] = version, time
        if found.names == self._names:
            return
        for path in self._folders:
            if path not in self._names and os.path.isdir(path):
                os.rmdir(path)  # btor has made it to look for records in it
        for path, node in sorted(self._names.items(), reverse=True):
            if found.names.get(path) != node:
                (os.rmdir if node == FOLDER else os.unlink)(path)
        for path, node in sorted(found.names.items()):
            if self._names.get(path) != node:
                if node == FOLDER:
                    os.mkdir(path, 0o700)
                else:
                    os.link(self._stash / str(node), path)
        self._names = dict(found.names)

    def _fill(self, node: int, version: Version, time: int, *, same: bool) -> None:
        fd = self._fds.get(node)
        if fd is None:
            fd = self._fds[node] = os.open(self._stash / str(node), os.O_RDWR | os.O_CREAT, 0o600)
        if not same:
            os.ftruncate(fd, 0)
            os.ftruncate(fd, version.size)
            for position, part in version.parts:
                os.pwrite(fd, part, position)
            os.ftruncate(fd, version.size)
        os.utime(fd, ns=(time, time))

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)


class Truth:
    """Which pieces a state holds, file by file. ``places``: (path, offset in it, content offset, length) of all."""

    def __init__(self, recording: Recording, content: Content) -> None:
        geometry = recording.metainfo.geometry
        self.all = (1 << geometry.piece_count) - 1
        self._parts: dict[str, list[tuple[int, int, int, bytes]]] = {}
        self._wrong: dict[tuple[int, str], tuple[Version, int]] = {}
        for piece in range(geometry.piece_count):
            at = geometry.piece_offset(piece)
            for path, position, length in content.segments(at, geometry.piece_size(piece)):
                if path is not None:
                    right = recording.content[at : at + length]
                    self._parts.setdefault(path, []).append((piece, position, position + length, right))
                at += length

    def pieces(self, found: Found) -> int:
        """A mask, piece 0 its lowest bit."""
        wrong = 0
        for path in self._parts:
            node = found.names.get(path)
            if node is None:
                wrong |= self._denied(path, b"")
                continue
            version = found.versions.get(node, Version((), 0))
            known = self._wrong.get((id(version), path))
            if known is None or known[0] is not version:
                if len(self._wrong) > 20_000:
                    self._wrong.clear()
                known = self._wrong[id(version), path] = version, self._denied(path, version.data())
            wrong |= known[1]
        return self.all & ~wrong

    def _denied(self, path: str, data: bytes) -> int:
        return sum({1 << piece for piece, start, end, right in self._parts[path] if data[start:end] != right})


class Promise:
    """What may not be forgotten: the pieces that a durable record named, and every one since has named too."""

    def mask(self, disk: Disk) -> int | None:
        """A mask, all ones if no record of these can be read; None where none is durable."""
        masks: list[int | None] = []
        for path, number in disk.names.items():
            if path.endswith(".resume"):
                masks.append(self._have(Version.of(disk.files[number].durable)))
        if not masks:
            return None
        for name in disk.pending_names:
            for path, node in name.changes:
                file = None if node is None else disk.files.get(node)
                if file is not None and path.endswith(".resume"):
                    masks.append(self._have(Version.of([*file.durable, *file.pending])))
        return functools.reduce(operator.and_, (mask for mask in masks if mask is not None), -1)

    @staticmethod
    def _have(version: Version) -> int | None:
        record = decode(version.data())
        return None if record is None else mask_of(record.have)


def mask_of(pieces: Iterable[int]) -> int:
    """A mask, piece 0 its lowest bit."""
    return sum(1 << piece for piece in pieces)


class Loader:
    """What btor does before it starts a torrent (`engine.keeper`), without threads and hashers."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._pool = FilePool()
        self.named: int | None = None  # by the record that was loaded

    def content(self) -> Content:
        """As a download opens it."""
        return Content(self._recording.metainfo, self._recording.top, self._pool, writable=True)

    def believed(self, on_disk: int) -> int:
        """The pieces that are believed, as a mask; ``on_disk``: those whose hash would be right. StorageError."""
        content = self.content()
        record = load(self._recording.state, self._recording.metainfo.info_hash, self._recording.top)
        self.named = None if record is None else mask_of(record.have)
        found = survey(content, record)
        refuse(content, found, None)
        have = mask_of(found.trusted) | (mask_of(found.to_hash) & on_disk)
        if found.doubts:
            found = settle(content, found, _bitfield(have, content))
            again = mask_of(found.to_hash)
            have = (have & ~again) | (again & on_disk)
        refuse(content, found, _bitfield(have, content))
        return have


def _bitfield(mask: int, content: Content) -> Bitfield:
    made = Bitfield(content.geometry.piece_count)
    for piece in range(made.size):
        if mask >> piece & 1:
            made.add(piece)
    return made


States = Callable[[Disk, int], Iterable[Found]]


def check(recording: Recording, states: States, verdict: Verdict, *, until: str = "") -> None:
    """Wake btor up in each of ``states``, which is asked after every operation of the log, and judge.

    ``until``: a fault that is enough.
    """
    loader, promise = Loader(recording), Promise()
    truth = Truth(recording, loader.content())
    replay = Replay(recording)
    try:
        for number, disk in enumerate(after(recording.recorder.log)):
            promised = promise.mask(disk)
            for found in states(disk, number):
                verdict.tried += 1
                verdict.images.add(found.digest)
                times = sorted((path, found.times.get(node, 0)) for path, node in found.names.items())
                whole = hashlib.blake2b(repr((found.digest, times, promised)).encode(), digest_size=16).digest()
                if whole in verdict.with_times:
                    continue
                verdict.with_times.add(whole)
                replay.show(found)
                judge(loader, found, truth.pieces(found), promised, number, verdict)
                if verdict.faults[until]:
                    return
    finally:
        replay.close()


def judge(loader: Loader, found: Found, on_disk: int, promised: int | None, number: int, verdict: Verdict) -> None:
    """What btor believes in the state that the disk shows, and whether it may."""
    try:
        believed = loader.believed(on_disk)
    except StorageError as error:
        if "not one valid piece" in str(error):
            verdict.refused += 1
            verdict.examples.setdefault("refused", f"after operation {number}: {found.why}: {error}")
        else:
            verdict.fault("it does not start", found, number)
        return
    verdict.believed[believed.bit_count()] += 1
    if believed & ~on_disk:
        verdict.fault("a piece is believed that is not on disk", found, number)
    if promised is not None and loader.named is None:
        verdict.fault("no record is there, and one was durable", found, number)
    elif promised is not None and loader.named is not None and promised & ~loader.named:
        verdict.fault("the record names less than one that was durable", found, number)


def all_states(rng: random.Random, orders: int, length: int) -> States:
    """Every prefix of ``length`` operations, every loss of up to two, and ``orders`` reorderings."""
    chosen = Counter(rng.randrange(length + 1) for _ in range(orders))

    def states(disk: Disk, number: int) -> Iterator[Found]:
        yield disk.as_it_is()
        yield from disk.losses(rng)
        for _ in range(chosen[number]):
            yield disk.reordered(rng)

    return states


def some_states(rng: random.Random, share: float, often: float = 0.15) -> States:
    """A seeded slice: after ``often`` of the operations, and then ``share`` of the losses of one or two."""

    def states(disk: Disk, number: int) -> Iterator[Found]:
        if rng.random() < often:
            yield disk.as_it_is()
            yield from disk.losses(rng, share)
            yield disk.reordered(rng)

    return states
