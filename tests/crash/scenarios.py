"""Transfers to record: whole sessions on the simulated network, and the storage alone with syncs that fail.

Whatever comes to be kept beside the content (below the root, through the same calls) is recorded without a change
here; who lays content over other files hands their places to the checker through `Content.segments`.
"""

from __future__ import annotations

import errno
import random
from pathlib import Path

import trio

from btor.engine.torrent import Torrent
from btor.errors import StorageError
from btor.limits import BLOCK, CHECKPOINT_PERIOD
from btor.storage.checkpoint import Checkpoint, Snapshot
from btor.storage.files import Content
from btor.storage.pool import FilePool
from btor.storage.resume import load
from btor.storage.survey import survey
from tests.crash.checker import Recording
from tests.crash.recorder import Recorder
from tests.engine.support import Lab, Sample, folder_sample
from tests.simulated.schedule import simulate
from tests.storage.torrents import File

PIECE = BLOCK + 4_096  # two blocks, the second one short
FILES: list[File] = [
    ("a", 5 * PIECE - 900),
    ("b/empty", 0),
    ("b/c", 700),
    ("b/d", 9 * PIECE + 200),
    *((f"c/{number}", 5 * PIECE + 11 * number) for number in range(8)),
    ("d/last", 9 * PIECE - 308),
]
SAMPLE = folder_sample(FILES, piece_length=PIECE)
RATE = 35_000  # bytes/s: so many writes between two checkpoints that all pairs of them are many


async def _download(lab: Lab, recorder: Recorder, seconds: float, *, ends: str, spoil: bool = False) -> Torrent:
    """One run of ``seconds``. ``ends``: "killed", "removed" in good order, or "complete" and some time after."""
    peers = [await lab.serving(SAMPLE, up=RATE)]
    if spoil:
        peers.append(await lab.serving(SAMPLE, up=RATE / 3, spoil=lambda piece, _: piece % 5 == 3))
    root = recorder.root
    async with lab.open(state_dir=root / "state") as session:
        found = await session.add(SAMPLE.metainfo, directory=root / "here", peers=peers)
        if ends == "complete":
            await found.wait_complete()
        await trio.sleep(seconds)
        if ends == "killed":
            recorder.kill()
        elif ends == "removed":
            await found.remove()
    return found


def transfer(folder: Path, *, tick: int = 1, seed: int = 1) -> Recording:
    """A whole download in runs that end in all ways, one peer lying, one file changed by somebody between two runs."""
    root = folder / "disk"
    root.mkdir(parents=True)
    recorder = Recorder(root, tick)

    async def runs(lab: Lab) -> None:
        for seconds, ends in ((1.6 * CHECKPOINT_PERIOD, "killed"), (1.3 * CHECKPOINT_PERIOD, "removed")):
            with recorder.installed():
                await _download(lab, recorder, seconds, ends=ends, spoil=True)
        recorder.somebody_writes(root / "here" / "folder" / "b" / "d", 3 * PIECE, b"not this")
        with recorder.installed():
            await _download(lab, recorder, 1.5 * CHECKPOINT_PERIOD, ends="complete")

    lab = Lab(folder, seed=seed)
    simulate(lambda: lab.run(runs), seed=seed)
    top = root / "here" / "folder"
    assert SAMPLE.is_at(top)
    return Recording(recorder, SAMPLE.metainfo, SAMPLE.content, top, root / "state")


# --- storage alone -----------------------------------------------------------------------------------------------


class Steps:
    """A download's calls of the storage: pieces in halves and any order, and writes in the middle of checkpoints."""

    def __init__(self, recorder: Recorder, sample: Sample, rng: random.Random) -> None:
        self.sample = sample
        self.rng = rng
        self.content = Content(sample.metainfo, recorder.root / "here", FilePool(), writable=True)
        self.state = recorder.root / "state"
        found = survey(self.content, load(self.state, sample.metainfo.info_hash, self.content.top))
        self.have = found.trusted.copy()
        for piece in found.to_hash:
            self._look_at(piece)
        self.checkpoint = Checkpoint(self.state, self.content, have=self.have, trusted=found.trusted, files=found.files)
        self.checkpoint.begin()
        self.content.prepare()
        self.halves = [(piece, half) for piece in self.have.missing() for half in (0, 1)]
        rng.shuffle(self.halves)

    def write(self) -> None:
        """The next half of a piece."""
        if not self.halves:
            return
        piece, half = self.halves.pop()
        geometry = self.sample.metainfo.geometry
        middle = geometry.piece_offset(piece) + min(BLOCK, geometry.piece_size(piece))
        start = middle if half else geometry.piece_offset(piece)
        end = geometry.piece_offset(piece) + geometry.piece_size(piece) if half else middle
        if start < end:
            self.content.write(start, [memoryview(self.sample.content)[start:end]], end - start)
        if not any(other == piece for other, _ in self.halves):
            self._look_at(piece)

    def now_and_then(self) -> None:
        """Write in the middle of something else."""
        if self.rng.random() < 0.2:
            self.write()

    def save(self, *, finished: bool = False) -> None:
        """A checkpoint, during which writes go on. One that fails is passed over, as the engine does."""
        snapshot: Snapshot = self.checkpoint.snapshot(self.have, finished=finished, uploaded=0, downloaded=0)
        for _ in range(0 if finished else self.rng.randrange(3)):
            self.write()
        try:
            self.checkpoint.save(snapshot)
        except StorageError:
            pass

    def _look_at(self, piece: int) -> None:
        into = bytearray(len(self.sample.piece(piece)))
        try:
            self.content.read_into(self.sample.metainfo.geometry.piece_offset(piece), [memoryview(into)])
        except StorageError:  # a file is not there yet
            return
        if into == self.sample.piece(piece):
            self.have.add(piece)


def steps(folder: Path, *, tick: int = 1, seed: int = 1, syncs_fail: float = 0.0, between: int = 14) -> Recording:
    """Two runs of the storage alone, the first one killed; about ``between`` writes from one checkpoint to the next.

    Where syncs fail there is one run: what the next one reads from the system's cache, it cannot tell from the disk.
    """
    root = folder / "disk"
    root.mkdir(parents=True)
    recorder = Recorder(root, tick)
    rng = random.Random(seed)
    for run in (1,) if syncs_fail else (0, 1):
        with recorder.installed():
            run_of = Steps(recorder, SAMPLE, rng)
            recorder.fail_sync = lambda path: errno.EIO if "here" in path and rng.random() < syncs_fail else 0
            recorder.on_sync = run_of.now_and_then
            while len(run_of.halves) > (0 if run else 60):
                for _ in range(rng.randrange(between // 2, between * 2)):
                    run_of.write()
                run_of.save()
            if run:
                recorder.on_sync = lambda: None
                run_of.save(finished=True)
            run_of.content.close()
    assert SAMPLE.is_at(root / "here")
    return Recording(recorder, SAMPLE.metainfo, SAMPLE.content, root / "here", root / "state")
