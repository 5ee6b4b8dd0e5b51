"""Writes, checkpoints, failing syncs, kills and power cuts in any order: the record never names what is not there."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from btor.errors import StorageError
from btor.storage.checkpoint import Checkpoint, Snapshot
from btor.storage.resume import ResumeRecord, decode, load
from btor.storage.survey import survey
from tests.machine import Bug, Machine, explore, finds, named
from tests.storage.torrents import File, good_pieces, open_content, stream, torrent

PIECE = 1_000
FILES: list[File] = [("a", 2_300), ("b", 150), ("c", 3_550)]
DATA = stream(FILES)
METAINFO = torrent(FILES, content=DATA, piece_length=PIECE)
COUNT = METAINFO.geometry.piece_count
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # thousands of small files, each for a moment
pieces = st.integers(0, COUNT - 1)


class ResumeMachine(Machine):
    """The model: what the disk would still hold of each file after a power cut, which is what its last sync saw."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="btor-machine-", dir=MEMORY))
        self.top, self.state = self.folder / "content", self.folder / "state"
        self.durable: dict[str, bytes] = {}
        self.fsync = os.fsync
        os.fsync = lambda fd: None  # only its place in the order counts here, and it is slow
        self.failing: set[int] = set()  # files whose next sync fails
        self.start()

    def start(self) -> None:
        """As a session does: survey, hash what is not trusted, begin."""
        self.content = open_content(METAINFO, self.top)
        real = self.content.sync
        frozen: set[int] = set()

        def sync(indexes: list[int]) -> object:
            for index in indexes:
                if index in self.failing:
                    self.failing.discard(index)
                    frozen.add(index)  # what the disk has of it nobody knows in this run, and no later sync tells
                    raise StorageError("sync", self.content.path(index), "Input/output error", errno.EIO)
            states = real(indexes)
            for index in set(indexes) - frozen:
                path = self.content.path(index)
                self.durable[path] = Path(path).read_bytes()
            return states

        self.content.sync = sync  # type: ignore[method-assign, assignment]  # what it saw is what a power cut leaves
        found = survey(self.content, load(self.state, METAINFO.info_hash, self.top))
        good = good_pieces(METAINFO, self.top)
        assert set(found.trusted) <= good
        self.have = found.trusted.copy()
        for piece in found.to_hash:
            if piece in good:
                self.have.add(piece)
        self.checkpoint = Checkpoint(self.state, self.content, have=self.have, trusted=found.trusted, files=found.files)
        self.pending: list[Snapshot] = []
        self.checkpoint.begin()
        self.content.prepare()
        self.settle()

    @rule(numbers=st.lists(pieces, min_size=1, max_size=3))
    def receive(self, numbers: list[int]) -> None:
        """Whole pieces come and are verified."""
        for piece in numbers:
            if piece not in self.have:
                start = piece * PIECE
                data = DATA[start : start + PIECE]
                self.content.write(start, [memoryview(data)], len(data))
                self.have.add(piece)
        self.settle()

    @rule(piece=pieces)
    def receive_rubbish(self, piece: int) -> None:
        """A piece that does not match: it is written and not believed."""
        if piece not in self.have:
            start = piece * PIECE
            size = METAINFO.geometry.piece_size(piece)
            self.content.write(start, [memoryview(b"?" * size)], size)
            self.settle()

    @rule(piece=pieces)
    def lose(self, piece: int) -> None:
        """What somebody else has changed is believed no more."""
        if self.have.discard(piece):
            self.pending.clear()
            self.save()

    @rule()
    def snapshot(self) -> None:
        if not self.pending:
            self.pending.append(self.checkpoint.snapshot(self.have, finished=False, uploaded=0, downloaded=0))

    @rule(fails=st.sets(st.integers(0, 2), max_size=1))
    def save(self, fails: set[int] = frozenset()) -> None:  # type: ignore[assignment]  # empty, and only read
        self.failing = set(fails)
        if not self.pending:
            self.snapshot()
        try:
            self.checkpoint.save(self.pending.pop())
        except StorageError:
            assert fails
        self.failing.clear()
        self.settle()

    @rule()
    def end_well(self) -> None:
        """All is durable, and the next run trusts it without hashing."""
        self.pending.clear()
        before = set(self.have)
        try:
            self.checkpoint.save(self.checkpoint.snapshot(self.have, finished=True, uploaded=0, downloaded=0))
        finally:
            self.content.close()
        suspects = {piece for index in self.checkpoint._suspect for piece in self.content.pieces_of(index)}
        found = survey(open_content(METAINFO, self.top), load(self.state, METAINFO.info_hash, self.top))
        assert before - suspects <= set(found.trusted) <= before
        self.start()

    @rule()
    def end_in_haste(self) -> None:
        """No time for a sync."""
        self.pending.clear()
        self.checkpoint.end(uploaded=0, downloaded=0)
        self.settle()
        self.content.close()
        self.start()

    @rule()
    def kill(self) -> None:
        """The process ends; what the kernel has it keeps."""
        self.content.close()
        before = set(self.have)
        self.start()
        assert set(self.have) >= before & good_pieces(METAINFO, self.top)

    @rule()
    def cut_the_power(self) -> None:
        """Of each file the disk has what its last sync saw."""
        self.content.close()
        for entry in METAINFO.files:
            path = os.path.join(self.top, *entry.path[1:])
            if os.path.exists(path):
                data = self.durable.get(path, b"")
                with open(path, "r+b") as file:
                    file.truncate(0)
                    file.write(data)
        self.start()

    @rule(damage=st.integers(0, 200))
    def damage_the_record(self, damage: int) -> None:
        """The newest record is spoiled; the one before it is as true."""
        (path,) = self.state.glob("resume/*.resume")
        data = path.read_bytes()
        spoiled = bytearray(data)
        spoiled[damage % len(data)] ^= 0x40
        assert decode(bytes(spoiled)) is None
        path.write_bytes(spoiled)
        record = load(self.state, METAINFO.info_hash, self.top)
        if record is not None:
            self.check(record)
        path.write_bytes(data)

    def settle(self) -> None:
        record = load(self.state, METAINFO.info_hash, self.top)
        assert record is not None
        self.check(record)

    def check(self, record: ResumeRecord) -> None:
        assert set(record.have) <= set(self.have)
        data = bytearray()
        for entry in METAINFO.files:
            path = os.path.join(self.top, *entry.path[1:])
            data += self.durable.get(path, b"").ljust(entry.length, b"?")[: entry.length]
        for piece in record.have:
            assert data[piece * PIECE : (piece + 1) * PIECE] == DATA[piece * PIECE : (piece + 1) * PIECE], piece

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            os.fsync = self.fsync
            if hasattr(self, "content"):
                self.content.close()
            shutil.rmtree(self.folder)


def test_any_order_of_events() -> None:
    explore(ResumeMachine)


BUGS = [
    Bug("the record is written without a sync", Checkpoint, "save", "sorted(snapshot.owed)", "()", seed=7),
    Bug("a snapshot follows what comes after it", Checkpoint, "snapshot", "have.copy()", "have", seed=7),
    Bug(
        "what was found by hashing counts as durable",
        Checkpoint,
        "__init__",
        "_files_with(content, have, trusted)",
        "set()",
        seed=7,
    ),
    Bug(
        "a generation that names what is lost is kept",
        Checkpoint,
        "_write",
        "not (forgotten or self._first)",
        "True",
        seed=7,
    ),
]


@named(BUGS)
def test_planted_bugs_are_found(bug: Bug) -> None:
    finds(ResumeMachine, bug)
