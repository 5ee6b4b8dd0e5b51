"""A whole swarm as child processes on loopback, each a `btor` of its own that talks in JSON lines."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import trio

from btor import bencode
from btor.cli import ending, interrupts, output, words
from btor.cli.lines import Reporter, now
from btor.cli.logs import logging_to
from btor.cli.options import Voice
from btor.engine import events
from btor.errors import BtorError, StorageError
from btor.metainfo.paths import display
from btor.metainfo.torrent_file import Metainfo
from btor.storage.files import Content
from btor.storage.load import load_metainfo
from btor.storage.own import open_own
from btor.storage.pool import FilePool

LOOPBACK = "127.0.0.1"
ANNOUNCE_INTERVAL = "2s"
START_TIMEOUT = 60.0  # s within which a tracker or a seeder must be ready
END_TIMEOUT = 4.5  # s for children to end in order; below the grace that the parent has itself
LINE_BYTES = 1024 * 1024
READY = {"tracker": "listening", "node": "listening", "seeder": "seeding", "leecher": "complete"}  # by these events
NOT_COPIED = ("time", "info_hash")  # of a child's event: the parent puts the child's name there


def copied(line: dict[str, Any], event: type[events.Event]) -> dict[str, Any]:
    """What a child's line says, as arguments for ``event``."""
    return {field.name: line[field.name] for field in dataclasses.fields(event) if field.name not in NOT_COPIED}


class SwarmError(BtorError):
    """A process died, or content differs."""

    exit_status: ClassVar[int] = 1
    kind: ClassVar[str] = "swarm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked for. ``rates``: bytes a second of the leechers in turn, the last one also of the rest.

    ``trackerless``: seeders and leechers find each other by the DHT, and the leechers have a magnet link.
    """

    torrent: Path
    path: Path
    leechers: int
    seeders: int
    rates: tuple[int, ...]
    trackerless: bool
    keep: bool


def run(plan: Plan, voice: Voice, reporter: Reporter) -> int:
    """Run the swarm to its end; the exit status."""
    metainfo = load_metainfo(plan.torrent)
    content = open_own(metainfo, plan.path, FilePool())
    with work_folder(keep=plan.keep) as folder:
        swarm = LocalSwarm(plan, metainfo, content, folder, voice, reporter)
        with logging_to(reporter.say, voice):
            try:
                number = trio.run(swarm.main)
            finally:
                reporter.close()
        if swarm.unheard is not None:
            raise swarm.unheard
        if number is not None:
            return 128 + number
        if swarm.error is not None:
            return ending.end_with(swarm.error, json=voice.json)
        swarm.tell_result()
        if plan.keep and not voice.json:
            output.tell(f"kept in {folder}")
    return 0


@contextmanager
def work_folder(*, keep: bool) -> Iterator[Path]:
    """A folder for logs, state and downloads, removed afterwards unless ``keep``. Raises StorageError."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="btor-swarm-"))
    except OSError as error:
        raise StorageError.from_os_error("create a folder in", tempfile.gettempdir(), error) from error
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


class Child:
    """One process of the swarm. ``name`` is what the table calls it."""

    def __init__(self, name: str, arguments: Sequence[str], folder: Path) -> None:
        self.name = name
        self.folder = name.replace(" ", "-")
        self.command = [sys.executable, "-m", "btor", *arguments, "--json"]
        self.errors = folder / f"{self.folder}.log"
        self.process: trio.Process | None = None
        self.ready = trio.Event()  # it listens, seeds or is complete
        self.told: dict[str, Any] = {}  # the event that made it ready
        self.asked_to_end = False

    def ask_to_end(self) -> None:
        """Send what Ctrl-C sends."""
        self.asked_to_end = True
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it at once, by its own id."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()

    def last_words(self) -> str:
        """The last line that it wrote on standard error."""
        lines = self.errors.read_bytes()[-4096:].decode("utf-8", "replace").strip().splitlines()
        return display(lines[-1]).removeprefix("btor: ") if lines else "it said nothing"


class LocalSwarm:
    """The parent of all of them."""

    def __init__(
        self, plan: Plan, metainfo: Metainfo, content: Content, folder: Path, voice: Voice, reporter: Reporter
    ) -> None:
        self.error: BtorError | None = None
        self.unheard: Exception | None = None  # why nothing more can be said on standard output
        self._plan = plan
        self._metainfo = metainfo
        self._content = content
        self._folder = folder
        self._voice = voice
        self._reporter = reporter
        self._children: list[Child] = []
        self._leechers: list[Child] = []
        self._work = trio.CancelScope()
        self._meeting: list[str] = []  # options that tell seeders and leechers where to find each other
        self._began = 0.0
        self._seconds = 0.0

    async def main(self) -> int | None:
        """Run everything. Returns the number of the signal that ended it, or None."""
        with interrupts.receive(self._kill_all) as signals:
            async with trio.open_nursery() as outer:
                outer.start_soon(signals.cancel_on_first, self._work)
                outer.start_soon(self._tick)
                with self._work:
                    async with trio.open_nursery() as nursery:
                        await self._play(nursery)
                outer.cancel_scope.cancel()
        return signals.number

    async def _play(self, nursery: trio.Nursery) -> None:
        """Tracker or DHT node, seeders, leechers, comparison, in that order; then all of them end."""
        self._began = trio.current_time()
        torrent, source = await (self._dht_node(nursery) if self._plan.trackerless else self._tracker(nursery))
        seeders = [self._seeder(index, torrent) for index in range(self._plan.seeders)]
        for child in seeders:
            nursery.start_soon(self._live, child)
        await self._wait_ready(seeders, START_TIMEOUT)
        self._leechers = [self._leecher(index, source) for index in range(self._plan.leechers)]
        for child in self._leechers:
            nursery.start_soon(self._live, child)
        await self._wait_ready(self._leechers, math.inf)
        self._seconds = trio.current_time() - self._began
        if difference := await trio.to_thread.run_sync(self._compare, abandon_on_cancel=True):
            self._give_up(difference)
        for child in reversed(self._children):
            child.ask_to_end()

    async def _tracker(self, nursery: trio.Nursery) -> tuple[Path, str]:
        """Start a tracker: what seeders and leechers are given, a torrent that names it."""
        tracker = self._child("tracker", ["tracker", "--http", f"{LOOPBACK}:0", "--udp", f"{LOOPBACK}:0"])
        tracker.command += ["--interval", ANNOUNCE_INTERVAL]
        nursery.start_soon(self._live, tracker)
        await self._wait_ready([tracker], START_TIMEOUT)
        url = tracker.told["tracker"]["http"]
        url = url if "://" in url else f"http://{url}/announce"
        torrent = self._torrent(b"8:announce" + bencode.encode(url.encode()))
        return torrent, str(torrent)

    async def _dht_node(self, nursery: trio.Nursery) -> tuple[Path, str]:
        """Start a DHT node: what seeders are given, a torrent without a tracker, and leechers, its magnet link."""
        node = self._child("node", ["dht", "node", "--bind", LOOPBACK, "--dht-port", "0"])
        nursery.start_soon(self._live, node)
        await self._wait_ready([node], START_TIMEOUT)
        self._meeting = ["--dht-bootstrap", node.told["addresses"][0], "--no-trackers", "--no-lsd"]
        return self._torrent(), f"magnet:?xt=urn:btih:{self._metainfo.info_hash.hex()}"

    def _child(self, name: str, arguments: Sequence[str]) -> Child:
        child = Child(name, arguments, self._folder)
        self._children.append(child)
        return child

    def _seeder(self, index: int, torrent: Path) -> Child:
        child = self._child(f"seeder {index + 1}", ["seed", str(torrent), str(self._content.top)])
        child.command += self._peer_options(child)
        return child

    def _leecher(self, index: int, source: str) -> Child:
        child = self._child(f"leecher {index + 1}", ["download", source, "--seed"])
        child.command += ["-d", str(self._folder / child.folder), *self._peer_options(child)]
        if self._plan.rates:
            child.command += ["--max-download", str(self._plan.rates[min(index, len(self._plan.rates) - 1)])]
        return child

    def _peer_options(self, child: Child) -> list[str]:
        state = str(self._folder / "state" / child.folder)
        return ["-p", "0", "--bind", LOOPBACK, "--state-dir", state, *self._meeting]

    def _torrent(self, announce: bytes = b"") -> Path:
        """The same torrent, the same info dictionary byte for byte, with our tracker alone or none."""
        path = self._folder / "swarm.torrent"
        path.write_bytes(b"d" + announce + b"4:info" + self._metainfo.info + b"e")
        return path

    async def _wait_ready(self, children: Sequence[Child], timeout: float) -> None:
        for child in children:
            with trio.move_on_after(timeout) as scope:
                await child.ready.wait()
            if scope.cancelled_caught:
                self._give_up(f"{child.name}: not ready within {timeout:.0f} s: {child.last_words()}")
                await trio.sleep_forever()  # until the cancellation that this asked for

    async def _live(self, child: Child) -> None:
        """The life of one child, whose death before its time ends the swarm."""
        with child.errors.open("wb") as errors:
            child.process = await trio.lowlevel.open_process(
                child.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # a Ctrl-C at the terminal is ours; we pass it on
            )
        try:
            await self._listen(child, child.process)
            status = await child.process.wait()
            if not child.asked_to_end or status not in (0, 128 + signal.SIGINT):
                self._give_up(f"{child.name} (process {child.process.pid}) ended with {status}: {child.last_words()}")
        finally:
            child.ask_to_end()
            with trio.CancelScope(deadline=trio.current_time() + END_TIMEOUT, shield=True):
                await child.process.wait()
            child.kill()

    async def _listen(self, child: Child, process: trio.Process) -> None:
        """Read a child's lines until it closes its standard output."""
        assert process.stdout is not None  # it was asked for
        rest = b""
        async with process.stdout as stream:
            while data := await stream.receive_some(65_536):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._on_line(child, json.loads(line))
                if len(rest) > LINE_BYTES:
                    self._give_up(f"{child.name}: an endless line")
                    return

    def _on_line(self, child: Child, line: dict[str, Any]) -> None:
        """One event of a child: passed on under the child's name, as if each were a torrent."""
        with self._leaving_when_unheard():
            if self._voice.json:
                output.answer_json({"process": child.name, **line})
            else:
                self._show(child, line)
        if line["event"] == READY[child.name.split()[0]] and not child.ready.is_set():
            child.told = line
            child.ready.set()

    def _show(self, child: Child, line: dict[str, Any]) -> None:
        about: dict[str, Any] = {"time": line["time"], "info_hash": child.name}
        match line["event"]:
            case "started":
                about |= {key: line[key] for key in ("total_bytes", "piece_length", "pieces", "port")}
                pid = child.process.pid if child.process is not None else 0
                self._reporter.on_event(events.Started(name=f"{child.name} ({pid})", **about))
            case "progress":
                self._reporter.on_event(events.Progress(**about, **copied(line, events.Progress)))
            case "complete":
                self._reporter.on_event(events.Complete(**about, **copied(line, events.Complete)))
            case "warning":
                self._reporter.on_event(events.Warned(message=line["message"], **about))

    async def _tick(self) -> None:
        if self._reporter.period is None:
            return
        while True:
            await trio.sleep(self._reporter.period)
            with self._leaving_when_unheard():
                self._reporter.on_tick()

    @contextmanager
    def _leaving_when_unheard(self) -> Iterator[None]:
        """End the swarm when what is said inside cannot be written."""
        try:
            yield
        except (output.ReaderGoneError, StorageError) as error:
            self.unheard = self.unheard or error
            self._work.cancel()

    def _give_up(self, why: str) -> None:
        if self.error is None:
            self.error = SwarmError(f"swarm: {why}")
        self._work.cancel()

    def _kill_all(self) -> None:
        self._reporter.leave()
        for child in self._children:
            child.kill()

    def _compare(self) -> str:
        """Hold every leecher's files against the original, by their SHA-256 sums; what differs, or nothing."""
        for index, entry in enumerate(self._metainfo.files):
            if entry.pad:
                continue
            wanted = sha256(Path(self._content.path(index)))
            for child in self._leechers:
                copy = self._folder.joinpath(child.folder, *entry.path)
                if not copy.is_file() or sha256(copy) != wanted:
                    return f"{child.name}: {display(copy.name)} differs from the original"
        return ""

    def tell_result(self) -> None:
        """What came of it, on standard output."""
        total = self._metainfo.total_length
        if self._voice.json:
            done = {child.name: child.told for child in self._leechers}
            result = {
                "event": "verified",
                "time": round(now(), 3),
                "seconds": round(self._seconds, 3),
                "leechers": done,
            }
            output.answer_json(result)
            return
        for child in self._leechers:
            took = words.duration(child.told["seconds"])
            output.answer(f"{child.name}: {words.size(total)} in {took}, identical to the original (SHA-256)")


def sha256(path: Path) -> str:
    """The SHA-256 sum of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
