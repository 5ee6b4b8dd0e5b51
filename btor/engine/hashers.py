"""The hasher children of a session, fed and read through their pipes without ever holding the loop up.

A child that dies is replaced and its jobs are done again. Where none can be started, or a job is too long for a pipe,
a thread does it.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import trio

from btor import limits
from btor.engine.contain import Container
from btor.storage.hasher import Worker
from btor.storage.hashing import HashResult, Job, ResultDecoder, Segment, command, encode_job, hash_inline

_log = logging.getLogger(__name__)

JOBS_IN_CHILD: Final = 8  # sent to a child before it answers; more wait here
JOB_BYTES: Final = 4 * 1024  # a longer job could fill the pipe and hold the loop up
CHILD_IDLE: Final = 30.0  # s after which a child without work ends
DEATHS: Final = 3  # of children in a row without an answer; after that threads do the work
PIPE_READ: Final = 64 * 1024

Done = Callable[[HashResult], None]


class Hashers:
    """Up to ``most`` children, started when there is work for them (0: threads only)."""

    def __init__(self, most: int, nursery: trio.Nursery, container: Container) -> None:
        self._most = most
        self._nursery = nursery
        self._container = container
        self._jobs: dict[int, tuple[Job, Done]] = {}
        self._waiting: deque[int] = deque()
        self._children: list[_Child] = []
        self._number = 0
        self._deaths = 0
        self._threads = trio.CapacityLimiter(max(1, most))

    def submit(self, segments: Sequence[Segment], done: Done, *, stride: int = 0, children: int = 1) -> None:
        """Hash ``segments`` laid end to end; ``done`` hears of it. At most ``children`` processes are started."""
        self._number += 1
        job = Job(self._number, segments, stride)
        self._jobs[job.job] = (job, done)
        frame = encode_job(job.job, segments, stride=stride)
        if self._deaths >= DEATHS or not self._most or len(frame) > JOB_BYTES:
            self._nursery.start_soon(self._container.run, "a hash", self._in_thread, job)
            return
        self._waiting.append(job.job)
        wanted = min(children, self._most)
        if len(self._children) < wanted and all(child.sent for child in self._children):
            self._start()
        self._hand_out()

    def rest(self) -> None:
        """Much work is done, and no more is known of: children without any end now, for each holds 12 MB."""
        for child in self._children:
            if not child.sent:
                child.patience.cancel()

    def _start(self) -> None:
        child = _Child()
        self._children.append(child)
        self._nursery.start_soon(self._container.run, "a hasher", self._serve, child)

    def _hand_out(self) -> None:
        while self._waiting:
            ready = [child for child in self._children if child.ready and len(child.sent) < JOBS_IN_CHILD]
            if not ready:
                return
            job = self._jobs[self._waiting.popleft()][0]
            min(ready, key=lambda child: len(child.sent)).send(job)

    async def _in_thread(self, job: Job) -> None:
        result = await trio.to_thread.run_sync(
            hash_inline, job, Worker(), limiter=self._threads, abandon_on_cancel=True
        )
        self._answer(result)

    def _answer(self, result: HashResult) -> None:
        _, done = self._jobs.pop(result.job)
        done(result)

    async def _serve(self, child: _Child) -> None:
        """The life of a child. When it dies with work undone, that work is done again."""
        try:
            try:
                child.start()
                await self._talk(child)
            finally:
                process = child.close()
                if process is not None:  # who gives it work meanwhile must not find it here
                    self._nursery.start_soon(self._container.run, "a hasher's end", _see_off, process)
                self._children.remove(child)
                self._waiting.extendleft(reversed(child.sent))
        except OSError as error:
            _log.warning("no hasher process can be started (%s): threads hash", error)
            self._deaths = DEATHS
        else:
            if not child.sent:
                return  # it was idle and has been let go
            _log.warning("a hasher process died; its %d jobs are done again", len(child.sent))
            self._deaths += 1
        if self._deaths < DEATHS:
            self._start()
            return
        self._hand_out()  # children that live may have nothing to do
        while self._waiting and not self._children:
            job = self._jobs[self._waiting.popleft()][0]
            self._nursery.start_soon(self._container.run, "a hash", self._in_thread, job)

    async def _talk(self, child: _Child) -> None:
        """Hand out jobs and pass answers on, until the child ends or has long been idle."""
        self._hand_out()
        while True:
            chunk = None
            with trio.move_on_after(CHILD_IDLE) as child.patience:
                chunk = await child.receive()
            if chunk is None and (child.sent or self._waiting):
                continue
            if not chunk:
                return
            for result in child.decoder.feed(chunk):
                child.sent.remove(result.job)
                self._deaths = 0
                self._answer(result)
            self._hand_out()


class _Child:
    """One process; ``sent`` are the jobs it has not answered."""

    def __init__(self) -> None:
        self.decoder = ResultDecoder()
        self.sent: list[int] = []
        self.patience = trio.CancelScope()  # with it, nothing is waited for any more
        self._process: subprocess.Popen[bytes] | None = None
        self._jobs = -1
        self._results = -1

    @property
    def ready(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start the process. OSError."""
        # in a process group of its own: the terminal's Ctrl-C is for btor, which ends its children by itself
        process = subprocess.Popen(command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, process_group=0)
        assert process.stdin is not None and process.stdout is not None
        self._process = process
        self._jobs = process.stdin.fileno()
        self._results = process.stdout.fileno()
        os.set_blocking(self._results, False)

    def send(self, job: Job) -> None:
        """Hand over a job. Never waits: what a child is sent before it answers fits into its pipe."""
        self.sent.append(job.job)
        try:
            os.write(self._jobs, encode_job(job.job, job.segments, stride=job.stride))
        except BrokenPipeError:
            pass  # its end is noticed where its answers are read

    async def receive(self) -> bytes:
        """What it answered; empty when it has ended."""
        while True:
            try:
                return os.read(self._results, PIPE_READ)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._results)

    def close(self) -> subprocess.Popen[bytes] | None:
        """Kill it; the process, whose end is to be waited for."""
        process, self._process = self._process, None
        if process is None:
            return None
        assert process.stdin is not None and process.stdout is not None
        trio.lowlevel.notify_closing(process.stdout)
        process.stdin.close()
        process.stdout.close()
        process.kill()
        return process


async def _see_off(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a killed process. One that the kernel holds, as a disk that hangs does, is left to it."""
    with trio.move_on_after(limits.HASHER_END, shield=True) as waiting:
        await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))
    if waiting.cancelled_caught:
        _log.warning("the hasher process %d was killed and does not end: it is left to the system", process.pid)
