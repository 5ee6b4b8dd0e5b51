"""Torrents at the bounds: 1 TiB in 262,144 pieces of 4 MiB, and 2,000,000 pieces. Does anything take long at once?

A program that embeds btor loads the torrent over a sparse file, tells how it stands, and downloads from 50 peers that
have half of the pieces each. Prints for each phase how late a task woke that wants to run every 5 ms, and the memory
for each piece while there are no peers. Ends with 1 when the loop paused for more than 50 ms, or above 40 bytes a
piece.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio

from tools._cases import run_each
from tools._crowd import Orders
from tools._fives import MIB, write_fives
from tools._latency import LatencyProbe, Lateness
from tools._measure import resident
from tools._processes import Process

PEERS, RATE = 50, 400_000.0
SECONDS = 15.0  # of downloading
PAUSE, PIECE_BYTES = 0.050, 40
START = 120.0


@dataclass(frozen=True)
class Case:
    name: str
    pieces: int
    piece_length: int


CASES = (Case("1tib", 262_144, 4 * MIB), Case("2m", 2_000_000, 16 * 1024))


async def serve(orders: dict[str, Any]) -> None:
    """Load, tell, and download until it is ended; after each phase a line with how late the loop was."""
    import btor

    probe = LatencyProbe()

    def say(phase: str, **fields: Any) -> None:
        fields["late"] = asdict(probe.take())
        print(json.dumps({"event": phase, **fields}), flush=True)

    settings = btor.Settings(port=0, upload_slots=0, dht=False, lsd=False, state_dir=Path(orders["state"]))
    async with btor.open_session(settings) as session, trio.open_nursery() as nursery:
        await trio.sleep(1)
        gc.collect()
        before = resident(os.getpid())
        nursery.start_soon(probe.run)
        torrent = await session.add(orders["torrent"], directory=orders["folder"])
        async for event in torrent.events():
            if event.event == "checked":
                break
        say("loaded")
        gc.collect()  # what was needed to load it; a pause of its own making
        await trio.sleep(1)
        probe.take()
        memory = resident(os.getpid()) - before
        events = torrent.events()
        with trio.move_on_after(3):
            async for _ in events:
                torrent.status()
        events.close()
        say("told", memory=memory, port=session.port)
        with trio.open_signal_receiver(signal.SIGUSR1) as signals:
            await anext(signals)
            status = torrent.status()
            say("downloaded", downloaded=status.downloaded, have=status.have_pieces, peers=status.peers)
        nursery.cancel_scope.cancel()


def measure(case: Case, root: Path, seconds: float) -> list[str]:
    """Prints what was found; what of it is out of bounds."""
    torrent, info_hash = write_fives(root, case.piece_length, case.pieces, 0)
    (root / "here" / "fives").unlink()
    (root / "state").mkdir()
    orders = {"torrent": str(torrent), "folder": str(root / "here"), "state": str(root / "state")}
    complaints = []
    with Process(
        [sys.executable, "-m", "tools.huge_torrents", "--serve", json.dumps(orders)], root / "btor"
    ) as process:
        told = process.wait_event("told", START)
        crowd = Orders(told["port"], info_hash, PEERS, case.pieces, case.piece_length, None, (0, 0), RATE)
        with Process(crowd.command(), root / "crowd") as peers:
            peers.wait_event("connected", START)
            time.sleep(seconds)
            process.signal(signal.SIGUSR1)
            process.wait_event("downloaded", START)
        process.check(30)
    for line in process.events():
        late = Lateness(**line["late"])
        print(f"{case.name:5} {line['event']:10} late: {late}", flush=True)
        if late.most > PAUSE:
            complaints.append(f"{case.name}, {line['event']}: a pause of {late.most * 1e3:.0f} ms")
    per_piece = told["memory"] / case.pieces
    line = process.events()[-1]
    came = f"{line['downloaded'] / MIB:.0f} MiB from {line['peers']} peers, {line['have']} pieces"
    print(f"{case.name:5} {per_piece:.1f} bytes a piece at rest; then {came}", flush=True)
    if per_piece > PIECE_BYTES:
        complaints.append(f"{case.name}: {per_piece:.1f} bytes a piece")
    if not line["have"]:
        complaints.append(f"{case.name}: nothing came")
    return complaints


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.huge_torrents", description=__doc__)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="default: all")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of downloading")
    parser.add_argument("--where", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        trio.run(serve, json.loads(arguments.serve))
        return 0
    cases = [case for case in CASES if not arguments.case or case.name in arguments.case]
    return run_each(cases, arguments.where, lambda case, root: measure(case, root, arguments.seconds))


if __name__ == "__main__":
    sys.exit(main())
