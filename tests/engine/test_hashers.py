"""The hasher children of a session: started when there is work, replaced when they die, done without if need be."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from btor import limits
from btor.engine.contain import Container
from btor.engine.hashers import CHILD_IDLE, DEATHS, JOBS_IN_CHILD, Hashers
from btor.limits import BLOCK
from btor.storage.hashing import HashResult, Job, Segment

DATA = bytes(range(256)) * 1024


@asynccontextmanager
async def hashers(most: int, *, limit: float = 20.0) -> AsyncIterator[Hashers]:
    with trio.fail_after(limit):
        async with trio.open_nursery() as nursery:
            yield Hashers(most, nursery, Container(strict=True))
            nursery.cancel_scope.cancel()


class Results:
    """What came back, and waiting for it."""

    def __init__(self) -> None:
        self.by_number: dict[int, HashResult] = {}
        self._more = trio.Event()

    def into(self, number: int) -> Callable[[HashResult], None]:
        def done(result: HashResult) -> None:
            assert number not in self.by_number, "told twice"
            self.by_number[number] = result
            self._more.set()

        return done

    async def wait(self, count: int) -> None:
        while len(self.by_number) < count:
            self._more = trio.Event()
            await self._more.wait()


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return str(path)


def span(file: str, number: int) -> list[Segment]:
    return [(file, number * 1000, 1000)]


def digest(number: int) -> bytes:
    return hashlib.sha1(DATA[number * 1000 : number * 1000 + 1000]).digest()


def pids(found: Hashers) -> list[int]:
    return [child._process.pid for child in found._children if child._process is not None]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("most", [0, 1, 2])
async def test_every_job_is_answered_once(most: int, file: str) -> None:
    results = Results()
    async with hashers(most) as found:
        for number in range(100):
            found.submit(span(file, number), results.into(number), children=2)
            if number < 2:
                await trio.lowlevel.checkpoint()  # let a child start
        assert len(found._jobs) >= 98
        await results.wait(100)
        assert found._jobs == {}
        assert len(pids(found)) == most
    assert all(results.by_number[number].digest == digest(number) for number in range(100))


async def test_strides_padding_and_what_cannot_be_read(file: str, tmp_path: Path) -> None:
    results = Results()
    for most in (0, 1):
        async with hashers(most) as found:
            found.submit([(file, 0, 2 * BLOCK), (None, 0, 5)], results.into(4 * most), stride=BLOCK)
            found.submit([(str(tmp_path / "none"), 0, 5)], results.into(4 * most + 1))
            found.submit([(file, len(DATA) - 3, 5)], results.into(4 * most + 2))
            await results.wait(3 + 3 * most)
    for most in (0, 1):
        strided = results.by_number[4 * most]
        assert strided.digests == tuple(
            hashlib.sha1(part).digest() for part in (DATA[:BLOCK], DATA[BLOCK : 2 * BLOCK], bytes(5))
        )
        assert results.by_number[4 * most + 1].digest is None
        assert results.by_number[4 * most + 1].errno != 0
        assert results.by_number[4 * most + 2].digest is None


async def test_no_child_before_there_is_work(file: str) -> None:
    async with hashers(2) as found:
        assert pids(found) == []
        results = Results()
        found.submit(span(file, 0), results.into(0))
        await results.wait(1)
        found.submit(span(file, 1), results.into(1), children=2)
        await results.wait(2)
        assert len(pids(found)) == 1  # the one that is there has nothing else to do


async def test_as_many_children_as_the_job_is_worth(file: str) -> None:
    async with hashers(3) as found:
        results = Results()
        for number in range(60):
            found.submit(span(file, number), results.into(number))
        await results.wait(60)
        assert len(pids(found)) == 1


async def test_a_child_that_is_killed_with_work_in_hand(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results()
    async with hashers(1) as found:
        found.submit(span(file, 0), results.into(0))
        await results.wait(1)
        (pid,) = pids(found)
        os.kill(pid, signal.SIGSTOP)
        for number in range(1, 2 * JOBS_IN_CHILD):
            found.submit(span(file, number), results.into(number))
        os.kill(pid, signal.SIGKILL)
        await results.wait(2 * JOBS_IN_CHILD)
        (other,) = pids(found)
        assert other != pid
    assert not alive(other)
    assert all(result.digest == digest(number) for number, result in results.by_number.items())


async def test_children_that_keep_dying(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some deaths without one answer threads do the work, and no child is started any more."""
    started = []
    real = subprocess.Popen

    def popen(_command: Any, **options: Any) -> Any:
        started.append(1)
        return real(["/bin/sh", "-c", "exit 3"], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    results = Results()
    async with hashers(1) as found:
        for number in range(30):
            found.submit(span(file, number), results.into(number))
        await results.wait(30)
        assert len(started) == DEATHS
        found.submit(span(file, 30), results.into(30))
        await results.wait(31)
        assert len(started) == DEATHS
    assert all(result.digest == digest(number) for number, result in results.by_number.items())


async def test_no_child_can_be_started(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def popen(*_: Any, **__: Any) -> Any:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(subprocess, "Popen", popen)
    results = Results()
    async with hashers(2) as found:
        for number in range(30):
            found.submit(span(file, number), results.into(number), children=2)
        await results.wait(30)
        assert pids(found) == []
    assert all(result.digest == digest(number) for number, result in results.by_number.items())


async def test_the_work_of_a_dead_child_goes_to_an_idle_one(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no more are started, those that live take what the dead left, though they had nothing to do."""
    results = Results()
    async with hashers(2) as found:
        for number in range(2):
            found.submit(span(file, number), results.into(number), children=2)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
        await results.wait(2)
        idle, doomed = found._children
        found._deaths = DEATHS - 1
        doomed_pid = doomed._process.pid if doomed._process is not None else 0
        os.kill(doomed_pid, signal.SIGSTOP)
        found._number += 1
        job = Job(found._number, span(file, 2))
        found._jobs[job.job] = (job, results.into(2))
        doomed.send(job)
        os.kill(doomed_pid, signal.SIGKILL)
        await results.wait(3)
        assert found._children == [idle]
    assert results.by_number[2].digest == digest(2)


async def test_a_job_too_long_for_a_pipe(file: str) -> None:
    results = Results()
    async with hashers(1) as found:
        found.submit([(file, at, 1) for at in range(1000)], results.into(0))
        await results.wait(1)
        assert pids(found) == []
    assert results.by_number[0].digest == hashlib.sha1(DATA[:1000]).digest()


async def test_an_idle_child_is_let_go(file: str, mock_clock: MockClock) -> None:
    results = Results()
    async with hashers(1, limit=1000) as found:
        found.submit(span(file, 0), results.into(0))
        await results.wait(1)
        (pid,) = pids(found)
        mock_clock.jump(CHILD_IDLE - 1)
        await trio.testing.wait_all_tasks_blocked()
        assert pids(found) == [pid]
        mock_clock.jump(2)
        await trio.testing.wait_all_tasks_blocked()
        assert pids(found) == []
        while alive(pid):  # a process ends in real time
            await trio.to_thread.run_sync(os.sched_yield)
        found.submit(span(file, 1), results.into(1))
        await results.wait(2)
        assert len(pids(found)) == 1


async def test_at_rest_idle_children_end_and_busy_ones_go_on(file: str) -> None:
    results = Results()
    async with hashers(2) as found:
        for number in range(2):
            found.submit(span(file, number), results.into(number), children=2)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
        await results.wait(2)
        idle, busy = pids(found)
        os.kill(busy, signal.SIGSTOP)
        job = Job(3, span(file, 2))
        found._jobs[3] = (job, results.into(2))
        found._children[1].send(job)
        found.rest()
        while idle in pids(found):
            await trio.lowlevel.checkpoint()
        assert pids(found) == [busy]
        os.kill(busy, signal.SIGCONT)
        await results.wait(3)
        assert pids(found) == [busy]
    assert results.by_number[2].digest == digest(2)


async def test_a_slow_job_is_not_taken_for_idleness(file: str, mock_clock: MockClock) -> None:
    results = Results()
    async with hashers(1, limit=1000) as found:
        found.submit(span(file, 0), results.into(0))
        await results.wait(1)
        (pid,) = pids(found)
        os.kill(pid, signal.SIGSTOP)
        found.submit(span(file, 1), results.into(1))
        for _ in range(3):
            mock_clock.jump(CHILD_IDLE + 1)
            await trio.testing.wait_all_tasks_blocked()
        assert pids(found) == [pid]
        os.kill(pid, signal.SIGCONT)
        await results.wait(2)


async def test_nothing_is_left_behind(file: str) -> None:
    before = set(os.listdir("/proc/self/fd"))
    results = Results()
    async with hashers(2) as found:
        for number in range(40):
            found.submit(span(file, number), results.into(number), children=2)
        await results.wait(1)
        left = pids(found)
    assert left
    assert not any(map(alive, left))
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("how", ["in time", "never"])
async def test_a_killed_child_that_the_kernel_holds_is_not_waited_for(
    file: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """As one that reads from a disk that hangs. The loop goes on, and so does what follows."""
    free = threading.Event()
    real = subprocess.Popen.wait

    def wait(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        assert threading.current_thread() is not threading.main_thread()
        assert free.wait(10)
        return real(process, timeout)

    monkeypatch.setattr(limits, "HASHER_END", 5.0 if how == "in time" else 0.05)
    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    results = Results()
    with trio.fail_after(4):
        async with hashers(2) as found:
            for number in range(2):
                found.submit(span(file, number), results.into(number), children=2)
                await trio.lowlevel.checkpoint()
            await results.wait(2)
            for pid in pids(found):
                os.kill(pid, signal.SIGKILL)
            found.submit(span(file, 2), results.into(2))
            await results.wait(3)  # others do its work meanwhile
            if how == "in time":
                free.set()
    assert ("does not end" in caplog.text) == (how == "never")
    free.set()
