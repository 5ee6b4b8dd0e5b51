"""What many peers cost: btor inside a program beside libtorrent, each in turn under the same crowd.

``load``: 500 peers that each move 40 KB/s both ways; ``idle``: 2,000 that say nothing; ``fast``: 20 that are as quick
as they can. btor unchokes everybody (as with --upload-slots 0), has the first pieces of a torrent and wants the
others, which the crowd has. Prints CPU time per second, memory per idle connection and the rates of both directions as
the crowd counts them; then, in a window of its own, as the probe costs something too, how late a task in btor's loop
woke that wants to run every 5 ms. Ends with 1 when a bound is broken: 1.5 of libtorrent's CPU time, 64 KiB and a
bitfield, 95 % of the rate, 50 ms at the 99th percentile.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio

from tools._crowd import Orders
from tools._fives import MIB, write_fives
from tools._latency import LatencyProbe, Lateness
from tools._measure import cpu_seconds, resident
from tools._processes import Process, wait_until
from tools.bench.__main__ import machine

PIECE = MIB
THERE = 128  # pieces that btor has at the start
START = 60.0
SETTLE = 6.0  # s between the last handshake and the window that is measured
CPU_RATIO, IDLE_BYTES, RATE_SHARE, P99 = 1.5, 64 * 1024, 0.95, 0.050


@dataclass(frozen=True)
class Case:
    """One load. ``rate``: bytes/s of each peer both ways, 0 for none, None for as much as goes."""

    name: str
    peers: int
    rate: float | None
    seconds: float
    processes: int

    @property
    def wanted(self) -> int:
        """Pieces that are missing at the start: they last until the end of the window, or about."""
        total = 6.0 * 1024 * MIB if self.rate is None else self.peers * self.rate * (2 * self.seconds + SETTLE + 8)
        return math.ceil(total / PIECE) + 64


CASES = (
    Case("load", 500, 40_000.0, 20.0, 2),
    Case("idle", 2_000, 0.0, 10.0, 2),
    Case("fast", 20, None, 6.0, 2),
)


# --- the two programs that are measured ---------------------------------------------------------------------------


async def serve_btor(orders: dict[str, Any]) -> None:
    """Until it is ended. SIGUSR1 begins to look how late the loop is, the next one prints that and ends it."""
    import btor

    settings = btor.Settings(
        port=0,
        max_peers=orders["peers"] + 50,
        upload_slots=0,
        dht=False,
        lsd=False,
        state_dir=Path(orders["state"]),
    )
    async with btor.open_session(settings) as session:
        torrent = await session.add(orders["torrent"], directory=orders["folder"])
        async for event in torrent.events():
            if event.event == "checked":
                break
        with trio.open_signal_receiver(signal.SIGUSR1) as signals:
            print(json.dumps({"event": "listening", "port": session.port}), flush=True)
            async for _ in signals:
                probe = LatencyProbe()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(probe.run)
                    await anext(signals)
                    nursery.cancel_scope.cancel()
                print(json.dumps({"event": "late", "late": asdict(probe.take())}), flush=True)


def serve_libtorrent(orders: dict[str, Any]) -> None:
    """Until it is ended; its tick is the one it comes with, as a short one costs more."""
    import libtorrent as lt

    from tools.bench.libtorrent_jobs import add, session_of, wait_for
    from tools.libtorrent_peer import say

    arguments = argparse.Namespace(
        address="127.0.0.1",
        port=0,
        slots=-1,
        upload_limit=0,
        download_limit=0,
        torrent=Path(orders["torrent"]),
        folder=Path(orders["folder"]),
    )
    session = session_of(arguments)
    session.apply_settings({"connections_limit": orders["peers"] + 50, "listen_queue_size": 512, "tick_interval": 500})
    add(session, arguments, seed_mode=False)
    wait_for(session, lt.torrent_checked_alert)
    say("listening", port=session.listen_port())
    while True:
        signal.pause()


@contextmanager
def served(who: str, case: Case, root: Path) -> Iterator[tuple[Process, Orders]]:
    """The program, ready, and the orders of a crowd that is made for it."""
    torrent, info_hash = write_fives(root, PIECE, THERE + case.wanted, THERE)
    orders = {
        "torrent": str(torrent),
        "folder": str(root / "here"),
        "state": str(root / "state"),
        "peers": case.peers,
    }
    (root / "state").mkdir()
    command = [sys.executable, "-m", "tools.many_peers", "--serve", who, json.dumps(orders)]
    with Process(command, root / who) as process:
        port = process.wait_event("listening", START)["port"]
        pieces = THERE + case.wanted
        yield process, Orders(port, info_hash, case.peers, pieces, PIECE, (THERE, pieces), (0, THERE), case.rate)


# --- measuring ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """``cpu``: seconds per second. ``sent``, ``received``: bytes/s of the crowd. ``memory``: bytes."""

    cpu: float
    sent: float
    received: float
    memory: int
    per_connection: float
    lost: int
    late: Lateness | None


@contextmanager
def crowd_of(orders: Orders, processes: int, root: Path) -> Iterator[list[Process]]:
    """The links shared out between some processes, all connected."""
    with ExitStack() as stack:
        crowds = []
        for number in range(processes):
            first = orders.links * number // processes
            links = orders.links * (number + 1) // processes - first
            part = Orders(**{**orders.__dict__, "links": links, "first": first})
            crowds.append(stack.enter_context(Process(part.command(), root / f"crowd-{number}")))
        for crowd in crowds:
            crowd.wait_event("connected", START)
        yield crowds


def last_status(crowd: Process) -> dict[str, Any]:
    found = [line for line in crowd.events() if line["event"] == "status"]
    return found[-1] if found else {"time": 0.0}


def fresh_status(crowds: Sequence[Process]) -> list[dict[str, Any]]:
    """The next status of each."""
    before = [last_status(crowd)["time"] for crowd in crowds]
    wait_until(
        "a status of the crowd",
        lambda: all(last_status(crowd)["time"] > old for crowd, old in zip(crowds, before, strict=True)),
        10,
    )
    return [last_status(crowd) for crowd in crowds]


def how_late(process: Process, seconds: float) -> Lateness:
    """Of btor's loop, from now on."""
    process.signal(signal.SIGUSR1)
    time.sleep(seconds)
    process.signal(signal.SIGUSR1)
    return Lateness(**process.wait_event("late", 10)["late"])


def measure(who: str, case: Case, root: Path) -> Figures:
    """One program under one crowd."""
    with served(who, case, root) as (process, orders):
        time.sleep(1.0)
        alone = resident(process.pid)
        with crowd_of(orders, case.processes, root) as crowds:
            time.sleep(SETTLE)
            before = fresh_status(crowds)
            begun, cpu = time.monotonic(), cpu_seconds(process.pid)
            time.sleep(case.seconds)
            cpu = (cpu_seconds(process.pid) - cpu) / (time.monotonic() - begun)
            memory = resident(process.pid)
            after = fresh_status(crowds)
            late = how_late(process, case.seconds) if who == "btor" else None
        if not process.running:
            raise SystemExit(process.tail())

    def rate(key: str) -> float:
        pairs = zip(before, after, strict=True)
        return float(sum((new[key] - old[key]) / (new["time"] - old["time"]) for old, new in pairs))

    lost = sum(status["lost"] for status in after)
    per_connection = (memory - alone) / case.peers
    return Figures(cpu, rate("sent"), rate("received"), memory, per_connection, lost, late)


def show(who: str, case: Case, figures: Figures) -> None:
    text = f"{who:10} {case.name:4} {case.peers:5} peers: CPU {figures.cpu:6.1%}, {figures.memory / MIB:6.1f} MiB"
    if case.rate == 0:
        text += f", {figures.per_connection / 1024:5.1f} KiB a connection"
    else:
        text += f", in {figures.sent / 1e6:6.1f} MB/s, out {figures.received / 1e6:6.1f} MB/s"
    if case.rate:
        asked = case.peers * case.rate
        text += f" ({figures.sent / asked:.0%}, {figures.received / asked:.0%} of what was asked)"
    if figures.late is not None:
        text += f"; late: {figures.late}"
    if figures.lost:
        text += f"; {figures.lost} LINKS LOST"
    print(text, flush=True)


def broken(case: Case, ours: Figures, theirs: Figures | None) -> list[str]:
    """Which bounds btor does not keep."""
    found = []
    if ours.late is not None and ours.late.p99 > P99:
        found.append(f"the loop's 99th percentile is {ours.late.p99 * 1e3:.0f} ms")
    if ours.lost:
        found.append(f"{ours.lost} links were lost")
    if case.rate == 0 and ours.per_connection > IDLE_BYTES + (THERE + case.wanted) / 8:
        found.append(f"{ours.per_connection / 1024:.0f} KiB for each idle connection")
    if case.rate and min(ours.sent, ours.received) < RATE_SHARE * case.peers * case.rate:
        found.append("the crowd did not get its rate")
    if case.name == "load" and theirs is not None and ours.cpu > CPU_RATIO * theirs.cpu:
        found.append(f"{ours.cpu / theirs.cpu:.2f} of libtorrent's CPU time")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.many_peers", description=__doc__)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="default: all")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="that are measured, instead of 20, 10 and 6, twice")
    parser.add_argument("--peers", type=int, help="of a single case")
    parser.add_argument("--without-libtorrent", action="store_true")
    parser.add_argument("--where", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        who, orders = arguments.serve[0], json.loads(arguments.serve[1])
        if who == "libtorrent":
            serve_libtorrent(orders)
        else:
            trio.run(serve_btor, orders)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    print(machine())
    complaints = []
    for case in CASES:
        if arguments.case and case.name not in arguments.case:
            continue
        case = Case(
            case.name, arguments.peers or case.peers, case.rate, arguments.seconds or case.seconds, case.processes
        )
        for _ in range(arguments.rounds):
            figures = {}
            for who in ["btor"] if arguments.without_libtorrent else ["btor", "libtorrent"]:
                root = Path(tempfile.mkdtemp(prefix="btor-peers-", dir=arguments.where))
                try:
                    figures[who] = measure(who, case, root)
                finally:
                    shutil.rmtree(root)
                show(who, case, figures[who])
            ours, theirs = figures["btor"], figures.get("libtorrent")
            if theirs is not None:
                memory = ours.memory / theirs.memory
                print(f"ratio      {case.name:4} CPU {ours.cpu / theirs.cpu:.2f}, memory {memory:.2f}", flush=True)
            complaints += [f"{case.name}: {text}" for text in broken(case, ours, theirs)]
    for complaint in complaints:
        print(complaint)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
