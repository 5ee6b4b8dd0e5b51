"""A disk that takes 20 ms for each MiB and once stands still for 3 s: does the loop go on?

A program that embeds btor downloads from one quick peer while every write that its storage makes, and no other part of
it, is held up; nobody tells it. Prints how late a task woke, that wants to run every 5 ms, over the 10 s around the
stall, and the memory. Once the disk is slow from the start, so that the stall meets a thread; once it is quick until
the stall, so that one write on the loop finds it, which is left out. Ends with 1 when the 99th percentile is above
50 ms, a pause above 250 ms, or the memory above 128 MiB.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trio

from tools._cases import run_each
from tools._crowd import Orders
from tools._fives import write_fives
from tools._latency import LatencyProbe, Lateness
from tools._measure import PeakMemory
from tools._processes import Process

MIB = 1024 * 1024
PER_MIB, STALL = 0.020, 3.0  # s
AROUND = 10.0  # s that are looked at
PIECES = 3_000  # of 1 MiB
P99, PAUSE, MEMORY = 0.050, 0.250, 128 * MIB
START = 30.0
CASES = {"slow from the start": PER_MIB, "quick until the stall": 0.0}  # s for each MiB


class SlowDisk:
    """Stands below `storage.system.writev`, the one call that writes content."""

    def __init__(self, per_mib: float) -> None:
        from btor.storage import system

        self.per_mib = per_mib
        self.stall_at: float | None = None
        self.stalled_on_loop = False
        self._write = system.writev
        self._loop_thread = threading.get_ident()
        system.writev = self.write

    def write(self, fd: int, views: Sequence[memoryview], position: int) -> int:
        if self.stall_at is not None and time.perf_counter() >= self.stall_at:
            self.stall_at = None
            self.stalled_on_loop = threading.get_ident() == self._loop_thread
            time.sleep(STALL)
        taken = self._write(fd, views, position)
        if self.per_mib:
            time.sleep(self.per_mib * taken / MIB)
        return taken


async def serve(orders: dict[str, Any]) -> None:
    """Download for a while, stall in the middle, print how late the loop was."""
    import btor
    from btor.engine.events import Progress

    disk = SlowDisk(orders["per_mib"])
    probe = LatencyProbe()
    settings = btor.Settings(port=0, upload_slots=0, dht=False, lsd=False)
    async with btor.open_session(settings) as session, trio.open_nursery() as nursery:
        torrent = await session.add(orders["torrent"], directory=orders["folder"])
        print(json.dumps({"event": "listening", "port": session.port}), flush=True)
        async for event in torrent.events():
            if isinstance(event, Progress) and event.downloaded:
                break
        nursery.start_soon(probe.run)
        disk.stall_at = time.perf_counter() + AROUND / 2 - STALL / 2
        await trio.sleep(AROUND)
        found = {
            "late": asdict(probe.take(leave_out=int(disk.stalled_on_loop))),
            "on_loop": disk.stalled_on_loop,
            "stalled": disk.stall_at is None,
            "done": torrent.status().done_bytes,
        }
        print(json.dumps({"event": "late", **found}), flush=True)
        nursery.cancel_scope.cancel()


def measure(case: tuple[str, float], root: Path) -> list[str]:
    """Prints what was found; what of it is out of bounds."""
    name, per_mib = case
    torrent, info_hash = write_fives(root, MIB, PIECES, 0)
    (root / "here" / "fives").unlink()
    orders = {"torrent": str(torrent), "folder": str(root / "here"), "per_mib": per_mib}
    with Process([sys.executable, "-m", "tools.slow_disk", "--serve", json.dumps(orders)], root / "btor") as process:
        port = process.wait_event("listening", START)["port"]
        memory = PeakMemory([process.pid])
        memory.start()
        peer = Orders(port, info_hash, 1, PIECES, MIB, (0, PIECES), (0, 0), None)
        with Process(peer.command(), root / "peer"):
            found = process.wait_event("late", START + AROUND)
        peak = memory.stop()
    late = Lateness(**found["late"])
    where = "on the loop, whose one write is left out" if found["on_loop"] else "in a thread"
    came = f"{found['done'] / MIB:.0f} MiB came, peak memory {peak / MIB:.0f} MiB"
    print(f"{name}: the stall was {where}; late: {late}; {came}", flush=True)
    complaints = []
    if not found["stalled"]:
        complaints.append("it never stalled")
    if late.p99 > P99:
        complaints.append(f"99th percentile {late.p99 * 1e3:.0f} ms")
    if late.most > PAUSE:
        complaints.append(f"a pause of {late.most * 1e3:.0f} ms")
    if peak > MEMORY:
        complaints.append(f"{peak / MIB:.0f} MiB")
    return [f"{name}: {complaint}" for complaint in complaints]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.slow_disk", description=__doc__)
    parser.add_argument("--where", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        trio.run(serve, json.loads(arguments.serve))
        return 0
    return run_each(CASES.items(), arguments.where, measure)


if __name__ == "__main__":
    sys.exit(main())
