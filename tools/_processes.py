"""Processes that a tool or a test starts: output kept, lines of JSON read, each ended by its own id."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROJECT = Path(__file__).parent.parent
BTOR = [sys.executable, "-m", "btor"]
# Where the system can, a child ends with the tool that started it, however that ended.
DIES_WITH_PARENT = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []


class ProcessFailedError(Exception):
    """A process ended, or did not do what was expected in time; the message holds the end of what it printed."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port of ``host`` that is free for TCP and for UDP now."""
    while True:
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            stream.bind((host, 0))
            port: int = stream.getsockname()[1]
            try:
                datagram.bind((host, port))
            except OSError:
                continue
            return port


def wait_until(what: str, done: Callable[[], bool], timeout: float) -> None:
    """Return as soon as ``done()``; ProcessFailedError naming ``what`` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            raise ProcessFailedError(f"not within {timeout:.0f} s: {what}")
        time.sleep(0.02)


class Process:
    """One child process. Its standard output and error go to two files, from which ``wait_event`` reads JSON lines.

    As a context manager it ends the child on the way out: SIGTERM, then SIGKILL after ``grace`` seconds.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        log: Path,
        *,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        grace: float = 10.0,
    ) -> None:
        self.command = [os.fspath(part) for part in command]
        self.name = log.name
        self.grace = grace
        log.parent.mkdir(parents=True, exist_ok=True)
        self.stdout_path = log.with_name(log.name + ".out")
        self.stderr_path = log.with_name(log.name + ".err")
        self.seen: list[dict[str, Any]] = []  # every JSON line read so far
        self._offset = 0
        with self.stdout_path.open("wb") as out, self.stderr_path.open("wb") as err:
            self.popen = subprocess.Popen(
                [*DIES_WITH_PARENT, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=cwd or PROJECT,
                env={"BTOR_NO_LSD": "1", **os.environ, **(env or {})},  # nothing is told to the local network
                start_new_session=True,  # a Ctrl-C at the terminal reaches the tool, which then ends its children
            )
        self.pid = self.popen.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to this process, if it still runs."""
        if self.running:
            self.popen.send_signal(number)

    def end(self) -> int:
        """End it if it runs; its exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self.popen.wait(self.grace)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()

    def wait(self, timeout: float) -> int:
        """Its exit status when it ends by itself; ProcessFailedError after ``timeout`` seconds (it is then killed)."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise ProcessFailedError(f"{self.name} did not end within {timeout:.0f} s\n{self.tail()}") from None

    def check(self, timeout: float) -> None:
        """As ``wait``, and ProcessFailedError unless the exit status is 0."""
        status = self.wait(timeout)
        if status != 0:
            raise ProcessFailedError(f"{self.name} ended with {status}\n{self.tail()}")

    def output(self) -> str:
        return self.stdout_path.read_text(encoding="utf-8", errors="replace")

    def errors(self) -> str:
        return self.stderr_path.read_text(encoding="utf-8", errors="replace")

    def tail(self, characters: int = 3000) -> str:
        """The end of what it printed, for messages."""
        return f"$ {' '.join(self.command)}\n{self.output()[-characters:]}\n{self.errors()[-characters:]}"

    def events(self) -> list[dict[str, Any]]:
        """Every JSON line printed so far; lines that are not JSON are passed over."""
        with self.stdout_path.open("rb") as out:
            out.seek(self._offset)
            fresh = out.read()
        complete = fresh.rfind(b"\n") + 1
        self._offset += complete
        for line in fresh[:complete].splitlines():
            if line.startswith(b"{"):
                self.seen.append(json.loads(line))
        return self.seen

    def wait_event(self, event: str, timeout: float = 30.0, **fields: Any) -> dict[str, Any]:
        """The first JSON line whose ``event`` is this and whose fields have these values."""
        deadline = time.monotonic() + timeout
        while True:
            ended = not self.running  # asked before reading, so that the last lines are not missed
            for line in self.events():
                if line.get("event") == event and all(line.get(key) == value for key, value in fields.items()):
                    return line
            if ended:
                raise ProcessFailedError(f"{self.name} ended before {event!r}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ProcessFailedError(f"{self.name}: no {event!r} within {timeout:.0f} s\n{self.tail()}")
            time.sleep(0.01)


def run(command: Sequence[str | os.PathLike[str]], timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run to the end, output captured, whatever the exit status."""
    return subprocess.run(
        [os.fspath(part) for part in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=PROJECT,
        timeout=timeout,
        check=False,
    )
