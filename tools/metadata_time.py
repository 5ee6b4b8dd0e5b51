"""How long a magnet takes to become metadata on loopback, with btor and with libtorrent in turn.

libtorrent is measured as it comes, when it starts a magnet at its next look at the queue, and with the magnet started
at once by hand; both over plain TCP, without the time-outs of uTP and encryption that btor does not speak.

One seeder that the magnet names (x.pe), no tracker, no DHT. Every fetch is a process of its own, started anew, and the
time is from adding the magnet to its open session until the metadata is there, verified and parsed. Seeders: libtorrent
and btor. Sizes: a small torrent, and one whose 262,144 pieces make 5 MiB of metadata. Ends with 1 when the median of
btor is above that of libtorrent as it comes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import bencodepy

from tools import _btor
from tools._processes import PROJECT, Process, run

SEEDERS = ("btor", "libtorrent")
AT_ONCE = "libtorrent at once"
FETCHERS = ("btor", "libtorrent", AT_ONCE)
PIECE = 16 * 1024
SIZES = {"small": 128, "5 MiB": 262_144}  # pieces
BOUND = 1.0  # of libtorrent's median
TIMEOUT = 60.0  # s for one fetch


def torrent_of_zeros(folder: Path, pieces: int) -> tuple[Path, str]:
    """A torrent of so many pieces of zeros, whose content nobody needs; its info-hash in hex.

    Beside it is an empty folder, ``content``, for those who serve the metadata alone.
    """
    (folder / "content").mkdir(parents=True)
    hashes = hashlib.sha1(bytes(PIECE)).digest() * pieces
    info = {b"name": b"zeros", b"piece length": PIECE, b"length": pieces * PIECE, b"pieces": hashes}
    path = folder / "zeros.torrent"
    path.write_bytes(bencodepy.encode({b"info": info}))
    return path, hashlib.sha1(bencodepy.encode(info)).hexdigest()


def fetch_with_btor(uri: str) -> tuple[float, float]:
    """Seconds from the magnet to the metadata, and of the CPU."""
    import trio

    import btor

    async def main() -> tuple[float, float]:
        settings = btor.Settings(port=0, bind=("127.0.0.1",), dht=False, lsd=False)
        async with btor.open_session(settings) as session:
            begun, used = time.monotonic(), time.process_time()
            torrent = await session.add(uri, metadata_only=True)
            await torrent.wait_metadata()
            return time.monotonic() - begun, time.process_time() - used

    return trio.run(main)


def fetch_with_libtorrent(uri: str, *, at_once: bool) -> tuple[float, float]:
    """Likewise."""
    import libtorrent as lt

    from tools._libtorrent import QUIET

    make: Any = lt.session  # its stub lacks the form that takes a dictionary
    session = make(
        {
            **QUIET,
            "listen_interfaces": "127.0.0.1:0",
            "alert_mask": int(lt.alert.category_t.status_notification),
        }
    )
    while not session.listen_port():
        time.sleep(0.001)
    parameters = lt.parse_magnet_uri(uri)
    parameters.save_path = tempfile.gettempdir()
    parameters.flags |= lt.torrent_flags.upload_mode  # no byte of content is asked for
    if at_once:
        parameters.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    begun, used = time.monotonic(), time.process_time()
    session.add_torrent(parameters)
    while not any(isinstance(alert, lt.metadata_received_alert) for alert in session.pop_alerts()):
        session.wait_for_alert(1000)
    return time.monotonic() - begun, time.process_time() - used


def measure(fetcher: str, uri: str) -> tuple[float, float, float]:
    """One fetch in a new process: seconds from magnet to metadata, of the CPU meanwhile, and of the whole process."""
    begun = time.monotonic()
    done = run([sys.executable, "-m", "tools.metadata_time", "--fetch", fetcher, uri], timeout=TIMEOUT)
    whole = time.monotonic() - begun
    if done.returncode != 0:
        raise SystemExit(f"{fetcher} failed: {done.stderr}")
    took, used = json.loads(done.stdout)
    return took, used, whole


def compare(seeder: str, size: str, uri: str, rounds: int) -> bool:
    """Print medians; whether btor is within the bound."""
    found: dict[str, list[tuple[float, float, float]]] = {fetcher: [] for fetcher in FETCHERS}
    for number in range(rounds):
        for fetcher in FETCHERS if number % 2 else reversed(FETCHERS):
            found[fetcher].append(measure(fetcher, uri))
    medians = {fetcher: [statistics.median(kind) for kind in zip(*found[fetcher], strict=True)] for fetcher in FETCHERS}
    figures = "  ".join(
        f"{fetcher} {took * 1000:6.1f} ms (CPU {used * 1000:5.1f} ms, process {whole:.2f} s)"
        for fetcher, (took, used, whole) in medians.items()
    )
    ratios: list[float] = [medians["btor"][0] / medians[fetcher][0] for fetcher in FETCHERS[1:]]
    print(f"{size:>6} from {seeder:10}  {figures}  ratios {ratios[0]:.2f}, {ratios[1]:.2f}", flush=True)
    return ratios[0] <= BOUND


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", choices=sorted(SIZES), action="append")
    parser.add_argument("--seeder", choices=SEEDERS, action="append")
    parser.add_argument("--fetch", nargs=2, metavar=("CLIENT", "MAGNET"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fetch:
        client, uri = arguments.fetch
        at_once = client == AT_ONCE
        print(json.dumps(fetch_with_btor(uri) if client == "btor" else fetch_with_libtorrent(uri, at_once=at_once)))
        return 0
    good = True
    with tempfile.TemporaryDirectory(prefix="btor-metadata-") as scratch, ExitStack() as stack:
        for number, size in enumerate(arguments.size or SIZES):
            folder = Path(scratch) / str(number)
            torrent, info_hash = torrent_of_zeros(folder, SIZES[size])
            for seeder in arguments.seeder or SEEDERS:
                if seeder == "btor":
                    options = ["--bind", "127.0.0.1", "--partial"]
                    serving = _btor.seed(torrent, folder / "content", folder / "btor", options=options)
                    port = stack.enter_context(serving).port
                else:
                    command = [
                        sys.executable,
                        "-m",
                        "tools.libtorrent_peer",
                        "seed",
                        str(torrent),
                        str(folder / "content"),
                    ]
                    process = stack.enter_context(Process(command, folder / "libtorrent", cwd=PROJECT))
                    port = process.wait_event("listening")["port"]
                uri = f"magnet:?xt=urn:btih:{info_hash}&x.pe=127.0.0.1:{port}"
                good = compare(seeder, size, uri, arguments.rounds) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
