"""Three liars among three honest seeders: each liar that served bad data is found and banned, nobody else is.

A liar changes every tenth block, is there before the honest ones, and carries the peer id of one of them. The honest
ones are slow, so that every liar is asked. What was served is counted by the peers, what btor decided is read from its
JSON events, and the content is compared byte for byte. Runs with many seeds.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import trio

from tools import _btor, _payload
from tools._processes import Process, ProcessFailedError
from tools._wire_peer import WirePeer, full_bitfield, until

KIB = 1024
PIECE_LENGTH = 128 * KIB
HONEST = LIARS = 3
CORRUPT_EVERY = 10
TIMEOUT = 120.0


@dataclass
class Outcome:
    """What one run showed."""

    served_bad: list[int]  # bad blocks, by liar
    liars_banned: int
    faults: list[str]
    seconds: float


async def one_run(root: Path, torrent: Path, data: bytes, content: bytes, seed: int, rate: float) -> Outcome:
    chance = random.Random(seed)
    pieces = math.ceil(len(content) / PIECE_LENGTH)
    info_hash = bytes.fromhex(_payload.info_hash(data))

    def read(piece: int, begin: int, length: int) -> bytes:
        start = piece * PIECE_LENGTH + begin
        return content[start : start + length]

    ids = [b"-LT2110-" + chance.randbytes(12) for _ in range(HONEST)]
    honest = [WirePeer(info_hash, peer_id, full_bitfield(pieces), read, upload_rate=rate) for peer_id in ids]
    liars = [
        WirePeer(info_hash, peer_id, full_bitfield(pieces), read, upload_rate=2 * rate, corrupt_every=CORRUPT_EVERY)
        for peer_id in ids
    ]
    async with trio.open_nursery() as nursery:
        addresses: dict[str, list[str]] = {"liars": [], "honest": []}
        listeners: dict[str, list[trio.SocketListener]] = {"liars": [], "honest": []}
        for kind in ("liars", "honest"):
            for _ in range(3):
                (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=50)
                listeners[kind].append(listener)
                addresses[kind].append(f"127.0.0.1:{listener.socket.getsockname()[1]}")
        for liar, listener in zip(liars, listeners["liars"], strict=True):
            nursery.start_soon(liar.serve, listener)
        begun = trio.current_time()
        peers = [*addresses["liars"], *addresses["honest"]]
        with _btor.download(torrent, root / "here", root / "btor", peers=peers) as process:
            await until(lambda: all(liar.connections for liar in liars), 1.0)  # a client need not dial them all
            for peer, listener in zip(honest, listeners["honest"], strict=True):
                nursery.start_soon(peer.serve, listener)
            await until(lambda: not process.running, TIMEOUT)
            seconds = trio.current_time() - begun
            nursery.cancel_scope.cancel()
        return judge(process, liars, addresses, seconds)


def judge(process: Process, liars: list[WirePeer], addresses: dict[str, list[str]], seconds: float) -> Outcome:
    events = process.events()
    banned = {line["address"] for line in events if line["event"] == "peer" and line["change"] == "banned"}
    faults = []
    status = process.popen.returncode
    if status != 0:  # None: it still runs, and is ended now
        faults.append(f"ended with {status}: {process.tail(600)}")
    served_bad = [liar.bad_blocks_served for liar in liars]
    for liar, address in zip(liars, addresses["liars"], strict=True):
        if liar.bad_blocks_served and address not in banned:
            faults.append(f"{address} served {liar.bad_blocks_served} bad blocks and was not banned")
        if not liar.bad_blocks_served and address in banned:
            faults.append(f"{address} was banned though it served nothing bad")
    for address in banned & set(addresses["honest"]):
        faults.append(f"{address} is honest and was banned")
    return Outcome(served_bad, len(banned & set(addresses["liars"])), faults, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=8192, metavar="KIB")
    parser.add_argument("--rate", type=float, default=1e6, help="of an honest seeder, bytes a second")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="btor-liars-"))
    failed = 0
    try:
        _payload.write_random(root / "payload.bin", arguments.size * KIB, seed=4)
        content = (root / "payload.bin").read_bytes()
        torrent = root / "payload.torrent"
        data = _payload.torrent_of(root / "payload.bin", PIECE_LENGTH)
        torrent.write_bytes(data)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            place = root / str(seed)
            try:
                outcome = trio.run(one_run, place, torrent, data, content, seed, arguments.rate)
            except* ProcessFailedError as errors:
                outcome = Outcome([], 0, [str(error) for error in errors.exceptions], 0.0)
            if not outcome.faults and (place / "here" / "payload.bin").read_bytes() != content:
                outcome.faults.append("the content is wrong")
            shutil.rmtree(place, ignore_errors=True)
            failed += bool(outcome.faults)
            print(f"seed {seed}: bad blocks {outcome.served_bad}, banned {outcome.liars_banned}", end="")
            print(f", {outcome.seconds:.1f} s", *outcome.faults, sep="; ", flush=True)
    finally:
        shutil.rmtree(root)
    print(f"{arguments.seeds - failed} of {arguments.seeds} seeds good")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
