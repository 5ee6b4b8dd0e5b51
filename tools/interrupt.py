"""A hundred Ctrl-C's spread over the whole life of a command: it always ends 130 within 6 s and leaves nothing behind.

The moments: while modules are imported, while a name is looked up, while content is checked, while a tracker hangs,
while the disk stalls, while downloading, while seeding. After each: no traceback, the port is free again, and no child
process is left.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tools import _btor, _payload
from tools._measure import tree_of
from tools._processes import BTOR, Process, ProcessFailedError

MIB = 1024 * 1024
WITHIN = 6.0  # s from the signal to the end
SLOW_LOOKUP = """
import socket, time
def getaddrinfo(*arguments, **named):
    time.sleep(60)
    raise socket.gaierror(socket.EAI_AGAIN, "no answer")
socket.getaddrinfo = getaddrinfo
"""
STALLED_DISK = """
import os, threading, time
write, main = os.pwritev, threading.main_thread()
def pwritev(file, views, *more):
    if sum(map(len, views)) >= 16384:  # content; where btor keeps its state another disk may be at work
        time.sleep(0.06 if threading.current_thread() is main else 60)
    return write(file, views, *more)
def sync(descriptor):
    time.sleep(60)
os.pwritev, os.fdatasync = pwritev, sync
"""


@dataclass
class Stage:
    """What every run needs: a seeder, a leecher's place, torrents, and patches that make a system call hang."""

    root: Path
    random: random.Random
    seeder: str = ""
    hung: tuple[str, ...] = ()  # trackers that accept and never answer
    runs: int = field(default=0)
    early: int = field(default=0)  # signals that came before the interpreter ran a line of btor

    @property
    def torrent(self) -> Path:
        return self.root / "payload.torrent"

    @property
    def content(self) -> Path:
        return self.root / "source" / "payload.bin"

    def start(self, arguments: Sequence[str], patch: str = "") -> Process:
        """One btor command. ``patch`` is run by the interpreter before it, as sitecustomize."""
        self.runs += 1
        log = self.root / "runs" / str(self.runs) / "btor"
        env = _btor.state(log)
        if patch:
            folder = log.parent / "patch"
            folder.mkdir(parents=True)
            (folder / "sitecustomize.py").write_text(patch)
            env["PYTHONPATH"] = str(folder)
        return Process([*BTOR, *arguments], log, env=env)

    def download(self, *options: str, torrent: Path | None = None) -> list[str]:
        folder = self.root / "runs" / str(self.runs + 1) / "here"
        return ["download", str(torrent or self.torrent), "-d", str(folder), "--json", "--port", "0", *options]


@contextmanager
def importing(stage: Stage) -> Iterator[Process]:
    with stage.start(stage.download("--peer", stage.seeder)) as process:
        time.sleep(stage.random.uniform(0.03, 0.5))
        yield process


@contextmanager
def looking_up(stage: Stage) -> Iterator[Process]:
    named = stage.root / "named.torrent"
    named.write_bytes(_payload.with_trackers(stage.torrent.read_bytes(), ["http://tracker.invalid/announce"]))
    arguments = stage.download("--peer", "peer.invalid:6881", torrent=named)
    with stage.start(arguments, SLOW_LOOKUP) as process:
        process.wait_event("started")
        time.sleep(stage.random.uniform(0, 1.0))
        yield process


@contextmanager
def checking(stage: Stage) -> Iterator[Process]:
    arguments = ["seed", str(stage.root / "large.torrent"), str(stage.root / "source"), "--json", "--port", "0"]
    with stage.start(arguments) as process:
        process.wait_event("started")
        time.sleep(stage.random.uniform(0, 0.3))
        yield process


@contextmanager
def tracker_hangs(stage: Stage) -> Iterator[Process]:
    hung = stage.root / "hung.torrent"
    hung.write_bytes(_payload.with_trackers(stage.torrent.read_bytes(), stage.hung))
    with stage.start(stage.download(torrent=hung)) as process:
        process.wait_event("started")
        time.sleep(stage.random.uniform(0, 1.0))
        yield process


@contextmanager
def disk_stalls(stage: Stage) -> Iterator[Process]:
    with stage.start(stage.download("--peer", stage.seeder), STALLED_DISK) as process:
        process.wait_event("peer", change="connected")
        time.sleep(stage.random.uniform(0, 2.0))
        yield process


@contextmanager
def downloading(stage: Stage) -> Iterator[Process]:
    with stage.start(stage.download("--peer", stage.seeder, "--max-download", "2M")) as process:
        process.wait_event("peer", change="connected")
        time.sleep(stage.random.uniform(0, 1.5))
        yield process


@contextmanager
def seeding(stage: Stage) -> Iterator[Process]:
    arguments = ["seed", str(stage.torrent), str(stage.content), "--json", "--port", "0", "--max-upload", "2M"]
    with stage.start(arguments) as process:
        port = process.wait_event("seeding")["port"]
        folder = stage.root / "runs" / str(stage.runs)
        command = [sys.executable, "-m", "tools.libtorrent_peer", "get", str(stage.torrent), str(folder / "there")]
        with Process([*command, "--peer", f"127.0.0.1:{port}"], folder / "leecher"):
            process.wait_event("peer", change="connected")
            time.sleep(stage.random.uniform(0, 1.5))
            yield process


MOMENTS = (importing, looking_up, checking, tracker_hangs, disk_stalls, downloading, seeding)


def faults_of(stage: Stage, process: Process) -> tuple[float, list[str]]:
    """Interrupt it; how long it took to end, and what was wrong."""
    family = {pid: started(pid) for pid in tree_of(process.pid)[1:]}
    begun = time.monotonic()
    if not process.running:
        return 0.0, [f"had ended with {process.popen.returncode} before\n{process.tail()}"]
    process.signal(signal.SIGINT)
    try:
        status = process.wait(WITHIN + 4)
    except ProcessFailedError as error:
        return time.monotonic() - begun, [str(error)]
    seconds = time.monotonic() - begun
    faults = []
    if before_btor(process, status):
        stage.early += 1
        return seconds, []
    if status != 130:
        faults.append(f"ended with {status}")
    if seconds > WITHIN:
        faults.append(f"took {seconds:.1f} s")
    if "Traceback" in process.errors():
        faults.append("printed a traceback")
    left = [pid for pid, start in family.items() if start is not None and started(pid) == start]
    if left:
        faults.append(f"left the processes {left}")
    ports = {line["port"] for line in process.events() if line["event"] in ("started", "seeding")}
    faults += [f"port {port} is not free" for port in ports if not is_free(port)]
    if faults:
        faults.append(process.tail(1500))
    return seconds, faults


def before_btor(process: Process, status: int) -> bool:
    """Whether the interpreter was still starting: it ended in its own way, before it ran a line of btor."""
    printed = process.errors()
    own = status == -signal.SIGINT or (status == 1 and printed.rstrip().endswith("KeyboardInterrupt"))
    return own and "btor/__main__.py" not in printed


def started(pid: int) -> str | None:
    """When a process began, in ticks; None when there is none of that number, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]


def is_free(port: int) -> bool:
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger do not count
        try:
            link.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@contextmanager
def silent_tracker() -> Iterator[tuple[str, str]]:
    """A tracker over HTTP and over UDP that takes every request and answers none."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as stream:
        port = stream.getsockname()[1]
        with socket.socket(type=socket.SOCK_DGRAM) as datagram:
            datagram.bind(("127.0.0.1", port))
            kept: list[socket.socket] = []

            def accept() -> None:
                while True:
                    try:
                        kept.append(stream.accept()[0])
                    except OSError:
                        return

            threading.Thread(target=accept, daemon=True).start()
            yield f"http://127.0.0.1:{port}/announce", f"udp://127.0.0.1:{port}/announce"
            for link in kept:
                link.close()
            stream.shutdown(socket.SHUT_RDWR)


def prepare(root: Path) -> None:
    _payload.write_random(root / "source" / "payload.bin", 32 * MIB, seed=5)
    _payload.write_random(root / "source" / "large.bin", 384 * MIB, seed=6)
    for name, length in (("payload", 256 * 1024), ("large", MIB)):
        (root / f"{name}.torrent").write_bytes(_payload.torrent_of(root / "source" / f"{name}.bin", length))


def run(stage: Stage, count: int) -> int:
    worst: dict[str, float] = {}
    runs: Counter[str] = Counter()
    failed = 0
    for number in range(count):
        moment = MOMENTS[number % len(MOMENTS)]
        name = moment.__name__.replace("_", " ")
        try:
            with moment(stage) as process:
                seconds, faults = faults_of(stage, process)
        except ProcessFailedError as error:
            seconds, faults = 0.0, [str(error)]
        runs[name] += 1
        worst[name] = max(worst.get(name, 0.0), seconds)
        if faults:
            failed += 1
            print(f"FAULT {number + 1}, {name}: {'; '.join(faults)}", flush=True)
        shutil.rmtree(stage.root / "runs" / str(stage.runs), ignore_errors=True)
    print(f"  {stage.early} of {count} came before the interpreter ran a line of btor, which nobody can answer for")
    for name, seconds in worst.items():
        print(f"  {name:14} {runs[name]:3} times, at most {seconds:.2f} s")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    arguments = parser.parse_args()
    print(f"{arguments.count} interrupts, seed {arguments.seed}", flush=True)
    root = Path(tempfile.mkdtemp(prefix="btor-interrupt-"))
    try:
        prepare(root)
        stage = Stage(root, random.Random(arguments.seed))
        with ExitStack() as stack:
            command = [sys.executable, "-m", "tools.libtorrent_peer", "seed", str(stage.torrent), str(root / "source")]
            seeder = stack.enter_context(Process([*command, "--upload-limit", "8000000"], root / "seeder"))
            stage.seeder = f"127.0.0.1:{seeder.wait_event('listening')['port']}"
            stage.hung = stack.enter_context(silent_tracker())
            failed = run(stage, arguments.count)
    finally:
        shutil.rmtree(root)
    print(f"{arguments.count - failed} of {arguments.count} ended as they should")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
