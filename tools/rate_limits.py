"""Do rate limits hold? Measured at the far end: bytes that scripted peers sent and received in ten seconds.

btor has the first half of a torrent and wants the second; its peers have the second and want the first, so that both
directions run at once. Tried with 1 and with 50 peers, at 50 KB/s and at 50 MB/s, with the limit on the session and
with the limit on the torrent. Fails when a direction is more than five in a hundred off.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from tools import _btor
from tools._fives import FILLER, write_fives
from tools._processes import Process
from tools._wire_peer import BLOCK, WirePeer, bytes_of_pieces, until

KIB, MIB = 1024, 1024 * 1024
PIECE = MIB
WINDOW = 10.0  # s
SETTLE = 4.0  # s before the window begins
TOLERANCE = 0.05


@dataclass(frozen=True)
class Case:
    """One measurement; ``rate`` in bytes a second holds for each direction."""

    level: str
    peers: int
    rate: int

    @property
    def half(self) -> int:
        """Bytes of each half of the torrent: enough to last until the window ends, whole pieces."""
        return -(-int(self.rate * (WINDOW + SETTLE + 6) + 4 * MIB) // PIECE) * PIECE


def make_peers(case: Case, info_hash: bytes) -> list[WirePeer]:
    first, pieces = case.half // PIECE, 2 * case.half // PIECE
    field = bytes_of_pieces(range(first, pieces), pieces)
    wanted = [(piece, begin, BLOCK) for piece in range(first) for begin in range(0, PIECE, BLOCK)]
    data = FILLER * BLOCK
    return [
        WirePeer(
            info_hash,
            b"-XX0000-%012d" % number,
            field,
            lambda piece, begin, length: data[:length],
            asks=lambda: wanted,
        )
        for number in range(case.peers)
    ]


async def measure(case: Case, root: Path) -> tuple[float, float]:
    """(bytes a second that btor received, that it sent), as its peers counted."""
    half = case.half // PIECE
    torrent, info_hash = await trio.to_thread.run_sync(write_fives, root, PIECE, 2 * half, half)
    peers = make_peers(case, bytes.fromhex(info_hash))
    async with trio.open_nursery() as nursery:
        addresses = []
        for peer in peers:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            addresses.append(f"127.0.0.1:{listener.socket.getsockname()[1]}")
            nursery.start_soon(peer.serve, listener)
        command = client_command(case, torrent, root / "here", addresses)
        with Process(command, root / "btor", env=_btor.state(root / "btor")) as process:
            await until(lambda: all(peer.connections for peer in peers) or not process.running, 120)
            await trio.sleep(SETTLE)
            begun = trio.current_time()
            before = sum(peer.bytes_sent for peer in peers), sum(peer.bytes_received for peer in peers)
            await trio.sleep(WINDOW)
            seconds = trio.current_time() - begun
            after = sum(peer.bytes_sent for peer in peers), sum(peer.bytes_received for peer in peers)
            if not process.running:
                raise SystemExit(process.tail())
            nursery.cancel_scope.cancel()
    return (after[0] - before[0]) / seconds, (after[1] - before[1]) / seconds


def client_command(case: Case, torrent: Path, folder: Path, addresses: Sequence[str]) -> list[str]:
    if case.level == "session":
        options = ["--max-download", str(case.rate), "--max-upload", str(case.rate), "--upload-slots", "0"]
        return _btor.download_command(torrent, folder, peers=addresses, options=options)
    arguments = {"torrent": str(torrent), "folder": str(folder), "rate": case.rate, "peers": list(addresses)}
    return [sys.executable, "-m", "tools.rate_limits", "--client", json.dumps(arguments)]


async def client(arguments: dict[str, object]) -> None:
    """A program that embeds btor and limits one torrent; runs until it is ended."""
    import btor

    async with btor.open_session(btor.Settings(port=0, upload_slots=0, dht=False, lsd=False)) as session:
        torrent = await session.add(
            str(arguments["torrent"]),
            directory=str(arguments["folder"]),
            peers=arguments["peers"],  # type: ignore[arg-type]  # from JSON
            max_download=arguments["rate"],  # type: ignore[arg-type]  # from JSON
            max_upload=arguments["rate"],  # type: ignore[arg-type]  # from JSON
        )
        await torrent.wait_complete()
        await trio.sleep_forever()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, nargs="+", default=[1, 50])
    parser.add_argument("--rates", type=int, nargs="+", default=[50_000, 50_000_000], help="bytes a second")
    parser.add_argument("--levels", nargs="+", default=["session", "torrent"], choices=["session", "torrent"])
    parser.add_argument("--where", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--client", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        trio.run(client, json.loads(arguments.client))
        return 0
    good = True
    for level, peers, rate in itertools.product(arguments.levels, arguments.peers, arguments.rates):
        root = Path(tempfile.mkdtemp(prefix="btor-rates-", dir=arguments.where))
        try:
            down, up = trio.run(measure, Case(level, peers, rate), root)
        finally:
            shutil.rmtree(root)
        errors = down / rate - 1, up / rate - 1
        held = all(abs(error) <= TOLERANCE for error in errors)
        good &= held
        print(
            f"limit on the {level:7} {rate:>11,} B/s, {peers:2} peers: down {errors[0]:+.1%}, up {errors[1]:+.1%}",
            end="",
        )
        print("" if held else "  NOT WITHIN 5 %", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
