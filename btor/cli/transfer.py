"""What `download` and `seed` do once the command line is understood: a session, a task per torrent, an exit status."""

from __future__ import annotations

import math
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import trio

from btor.cli import ending, interrupts, output, sources, words
from btor.cli.lines import Reporter, now
from btor.cli.logs import EventLog, logging_to
from btor.cli.options import Voice
from btor.engine import events
from btor.errors import BtorError, NetworkError, StorageError, UsageError
from btor.metainfo.paths import display

if TYPE_CHECKING:
    from btor.engine.events import Event, Progress
    from btor.metainfo.selection import Selection
    from btor.metainfo.torrent_file import Metainfo
    from btor.settings import Settings

LOOK_PERIOD = 1.0  # s between two looks at a torrent whose end depends on time or amounts
NOBODY_AFTER = 120.0  # s of seeding without a single connection, after which that is said
EVENTS_AFTER_CLOSE = 1.0  # s for the last events of a closed session


class TorrentLike(Protocol):
    """What this module needs of ``btor.engine.torrent.Torrent``."""

    @property
    def name(self) -> str: ...
    @property
    def info_hash(self) -> bytes: ...
    @property
    def complete(self) -> bool: ...
    @property
    def error(self) -> BtorError | None: ...
    @property
    def bug(self) -> BaseException | None: ...
    @property
    def ended(self) -> bool: ...
    @property
    def uploaded_before(self) -> int: ...
    def status(self) -> Progress: ...
    async def wait_complete(self) -> None: ...
    async def remove(self) -> None: ...


class SessionLike(Protocol):
    """What this module needs of ``btor.engine.session.Session``."""

    @property
    def port(self) -> int: ...
    def events(self) -> AsyncIterator[Event]: ...
    async def add(
        self,
        source: str | Path | Metainfo,
        *,
        directory: str | Path,
        output: str | Path | None,
        overwrite: bool,
        recheck: bool,
        seed_only: bool,
        partial: bool,
        peers: Sequence[str],
        trackers_enabled: bool,
        sync: bool,
        wait_for_space: bool,
        selection: Selection | None,
    ) -> TorrentLike: ...


OpenSession = Callable[["Settings"], AbstractAsyncContextManager[SessionLike]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One torrent that was asked for: ``source`` as given, and how ``Session.add`` is to take it."""

    source: str
    directory: str = "."
    output: str | None = None
    overwrite: bool = False
    recheck: bool = False
    seed_only: bool = False
    partial: bool = False
    peers: tuple[str, ...] = ()
    trackers_enabled: bool = True
    sync: bool = False
    wait_for_space: bool = False
    selection: Selection | None = None
    refused: BtorError | None = None  # found wrong before anything was opened: the job fails with it


_ADD_OPTIONS = [option.name for option in fields(Job) if option.name not in ("source", "refused")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """When to stop. ``seed``: go on when complete, until ``ratio`` (of the size, over all runs) or ``seed_seconds``.

    ``timeout``: seconds without a byte, in waking time, after which a download is given up; to fetch a torrent from the
    web no more.
    """

    seed: bool = False
    ratio: float | None = None
    seed_seconds: float | None = None
    timeout: float | None = None


@dataclass(slots=True)
class _Failure:
    error: BtorError
    event: events.Failed
    what: str = ""
    told: bool = False


class Transfer:
    """One run of ``download`` or ``seed``."""

    def __init__(
        self,
        jobs: Sequence[Job],
        goal: Goal,
        settings: Settings,
        voice: Voice,
        reporter: Reporter,
        open_session: OpenSession,
    ) -> None:
        self._jobs = jobs
        self._goal = goal
        self._settings = settings
        self._voice = voice
        self._reporter = reporter
        self._open_session = open_session
        self._failures: dict[int, _Failure] = {}
        self._running = len(jobs)
        self._connected = False
        self._unheard: Exception | None = None  # why nothing more can be said on standard output
        self._work = trio.CancelScope()
        self._all_told = trio.Event()

    def run(self) -> int:
        """Run to the end and return the exit status."""
        number = None
        if all(job.refused is not None for job in self._jobs):
            for index, job in enumerate(self._jobs):
                if job.refused is not None:
                    self._failures[index] = _Failure(job.refused, ending.failed_event(job.refused, job.source))
        else:
            number = self._run_session()
        if self._unheard is not None:
            raise self._unheard
        if number is not None:
            if not self._voice.quiet:
                output.tell("btor: interrupted: the same command goes on from here")
            return 128 + number
        return self._end()

    def _run_session(self) -> int | None:
        with logging_to(self._reporter.say, self._voice):
            try:
                return trio.run(self._main)
            finally:
                self._reporter.close()

    def _end(self) -> int:
        """Say what was not said yet, last of all the error of the first job that has one; its status."""
        if not self._failures:
            return 0
        count = len(self._failures)
        first = self._failures.pop(min(self._failures))
        last = first.event
        if first.told:
            why = f"failed, see above ({count} of {words.count(len(self._jobs), 'torrent')} failed)"
            last = replace(last, time=round(now(), 3), message=f"{first.what}: {why}")
        for event in [*(other.event for other in self._failures.values() if not other.told), last]:
            ending.say(event, json=self._voice.json)
        return first.error.exit_status

    async def _main(self) -> int | None:
        """The trio side. Returns the number of the signal that ended it, or None."""
        with interrupts.receive(self._reporter.leave) as signals:
            async with trio.open_nursery() as outer:
                outer.start_soon(signals.cancel_on_first, self._work)
                await self._session(outer)
                outer.cancel_scope.cancel()
        return signals.number

    async def _session(self, outer: trio.Nursery) -> None:
        """Open the session, run the jobs in it, close it, and let the last events be told."""
        opened = False
        try:
            with self._work:
                async with self._open_session(self._settings) as session, trio.open_nursery() as nursery:
                    outer.start_soon(self._report, session.events())
                    outer.start_soon(self._tick)
                    opened = True
                    for index, job in enumerate(self._jobs):
                        nursery.start_soon(self._job, session, index, job)
        except BtorError as error:  # of the session as a whole
            self._failures[-1] = _Failure(error, ending.failed_event(error))
        if opened:
            with trio.move_on_after(EVENTS_AFTER_CLOSE):
                await self._all_told.wait()

    async def _report(self, happenings: AsyncIterator[Event]) -> None:
        """Tell every event until the session has closed, or nobody listens any more."""
        log = EventLog()
        async for event in happenings:
            if isinstance(event, events.PeerChange) and event.change == "connected":
                self._connected = True
            if isinstance(event, events.Failed):
                continue  # the job's own task says that, once
            if isinstance(event, events.Seeding) and not self._goal.seed:
                continue  # it is about to end
            log.on_event(event)
            self._tell(event)
            if self._unheard is not None:
                break
        self._all_told.set()

    async def _tick(self) -> None:
        """Let the reporter speak now and then, and redraw when the terminal changes its size."""
        period = self._reporter.period
        if period is None:
            return
        resized = getattr(signal, "SIGWINCH", None)
        with trio.open_signal_receiver(*([] if resized is None else [resized])) as sizes:
            while self._unheard is None:
                with trio.move_on_after(period):
                    await anext(sizes)
                with self._leaving_when_unheard():
                    self._reporter.on_tick()

    def _tell(self, event: Event) -> None:
        with self._leaving_when_unheard():
            self._reporter.on_event(event)

    @contextmanager
    def _leaving_when_unheard(self) -> Iterator[None]:
        """End the work when what is said inside cannot be written."""
        try:
            yield
        except (output.ReaderGoneError, StorageError) as error:
            self._unheard = self._unheard or error
            self._work.cancel()

    async def _job(self, session: SessionLike, index: int, job: Job) -> None:
        """One torrent from its source to its goal. Its error is kept, never raised."""
        torrent: TorrentLike | None = None
        try:
            if job.refused is not None:
                raise job.refused
            torrent = await self._add(session, job)
            await self._reach_goal(session, torrent, job)
        except BtorError as error:
            self._running -= 1
            self._fail(index, job, error, torrent)
            if torrent is not None and self._running:
                await torrent.remove()
        else:
            self._running -= 1

    def _fail(self, index: int, job: Job, error: BtorError, torrent: TorrentLike | None = None) -> None:
        """Keep an error for the end, and say it at once where others go on."""
        what = job.source if torrent is None else torrent.name
        info_hash = None if torrent is None else torrent.info_hash.hex()
        failure = _Failure(error, ending.failed_event(error, what, info_hash=info_hash), display(what))
        self._failures[index] = failure
        if self._running:
            failure.told = True
            self._tell(failure.event)

    async def _add(self, session: SessionLike, job: Job) -> TorrentLike:
        source: str | Metainfo = job.source
        if sources.is_url(job.source):
            source = await self._fetch(job.source)
        options = {name: getattr(job, name) for name in _ADD_OPTIONS}
        return await session.add(source, **options)

    async def _fetch(self, url: str) -> Metainfo:
        """Get a torrent from the web, all of it within the time limit."""
        limit = self._goal.timeout
        with trio.move_on_after(math.inf if limit is None else limit):
            return await sources.fetch_torrent(url, self._settings.bind)
        raise NetworkError(f"{url}: not fetched within {words.duration(limit or 0)}")

    async def _reach_goal(self, session: SessionLike, torrent: TorrentLike, job: Job) -> None:
        """Return when the torrent has done what was asked. Raises the BtorError that stops it."""
        goal = self._goal
        if not job.partial:
            await self._complete(torrent)
        if not goal.seed:
            return
        begun = trio.current_time()
        warned = False
        while True:
            if torrent.ended:
                raise torrent.error or torrent.bug or UsageError("the torrent was removed")
            seconds = trio.current_time() - begun
            if goal.seed_seconds is not None and seconds >= goal.seed_seconds:
                return
            progress = torrent.status()
            uploaded = torrent.uploaded_before + progress.uploaded
            if goal.ratio is not None and uploaded >= goal.ratio * progress.total_bytes:
                return
            if seconds >= NOBODY_AFTER and not (self._connected or warned):
                warned = True
                self._nobody_connects(session, torrent)
            await trio.sleep(LOOK_PERIOD)

    async def _complete(self, torrent: TorrentLike) -> None:
        """Wait until everything is there; NetworkError when nothing arrives for the time limit."""
        if self._goal.timeout is None:
            await torrent.wait_complete()
            return
        patience = Patience(self._goal.timeout)
        while True:
            with trio.move_on_after(LOOK_PERIOD):
                await torrent.wait_complete()
                return
            progress = torrent.status()
            if patience.is_over(progress, trio.current_time()):
                why = progress.reason or words.count(progress.peers, "peer")
                raise NetworkError(f"nothing has arrived for {words.duration(self._goal.timeout)}: {why}")

    def _nobody_connects(self, session: SessionLike, torrent: TorrentLike) -> None:
        text = (
            f"nobody has connected for two minutes. Behind a router, forward TCP port {session.port} of it to this"
            " machine"
        )
        self._tell(events.Warned(time=now(), info_hash=torrent.info_hash.hex(), message=text))


class Patience:
    """Counts the waking time in which nothing arrived: a pause of the whole process counts as one look at most."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._idle = 0.0
        self._downloaded = -1
        self._looked: float | None = None

    def is_over(self, progress: Progress, now: float) -> bool:
        """Look at the torrent, ``now`` in monotonic seconds: whether nothing has arrived for the limit."""
        step = 0.0 if self._looked is None else min(now - self._looked, 2 * LOOK_PERIOD)
        self._looked = now
        if progress.downloaded != self._downloaded or progress.state in ("checking", "disk_full", "paused"):
            self._downloaded = progress.downloaded
            self._idle = 0.0
        else:
            self._idle += step
        return self._idle >= self._limit
