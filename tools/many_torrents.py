"""What many torrents cost that nobody wants anything of: 1,000 seeded by one session of a program, beside libtorrent.

Each has 1,000 pieces in 10 files and two trackers, an HTTP and a UDP one on this machine, which only take note. Prints
how long a session took from its start until all torrents were ready, trusting resume records (libtorrent: told that all
is there), how long until every torrent was announced to each tracker and how many announces a second came at most, and
memory and CPU time while all is quiet. Ends with 1 when a bound is broken: 5 s, 60 s, 100 announces a second, 150 MB,
1 %.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import bencodepy
import trio

from tools._announces import Announces, taking_note
from tools._fives import FILLER
from tools._measure import cpu_seconds, resident
from tools._processes import Process, ProcessFailedError, wait_until
from tools.bench.__main__ import machine

PIECES, PIECE, FILES = 1_000, 1024, 10
START_MOST, ANNOUNCED_MOST, BURST_MOST, MEMORY_MOST, CPU_MOST = 5.0, 60.0, 100, 150e6, 0.01
START = 300.0  # s that anything may take at all


def write_torrents(root: Path, count: int, trackers: list[str]) -> None:
    """``root/torrents/N.torrent`` and their content in ``root/content/N``, of small pieces: nothing is read of them."""
    (root / "torrents").mkdir()
    length = PIECES * PIECE // FILES
    pieces = hashlib.sha1(FILLER * PIECE).digest() * PIECES
    for number in range(count):
        name = f"album-{number:04}"
        info = {
            b"name": name.encode(),
            b"piece length": PIECE,
            b"pieces": pieces,
            b"files": [{b"length": length, b"path": [b"%02d some title.bin" % part]} for part in range(FILES)],
        }
        torrent = {b"announce-list": [[url.encode()] for url in trackers], b"info": info}
        (root / "torrents" / f"{number:04}.torrent").write_bytes(bencodepy.encode(torrent))
        folder = root / "content" / name
        folder.mkdir(parents=True)
        for part in range(FILES):
            (folder / f"{part:02} some title.bin").write_bytes(FILLER * length)


def torrents_of(root: Path) -> list[Path]:
    return sorted((root / "torrents").iterdir())


# --- the two programs that are measured ---------------------------------------------------------------------------


async def serve_btor(root: Path, once: bool) -> None:
    """Seed them all. ``once``: only until all are ready, so that there are resume records."""
    began = time.monotonic()
    import btor

    settings = btor.Settings(port=0, dht=False, lsd=False, trackers=not once, state_dir=root / "state")
    async with btor.open_session(settings) as session:
        torrents = [await session.add(path, directory=root / "content", seed_only=True) for path in torrents_of(root)]
        for torrent in torrents:
            await torrent.wait_complete()
        print(json.dumps({"event": "ready", "seconds": time.monotonic() - began}), flush=True)
        if not once:
            await trio.sleep_forever()


def serve_libtorrent(root: Path) -> None:
    began = time.monotonic()
    import libtorrent as lt

    from tools.bench.libtorrent_jobs import session_of
    from tools.libtorrent_peer import say

    session = session_of(argparse.Namespace(address="127.0.0.1", port=0, slots=-1, upload_limit=0, download_limit=0))
    session.apply_settings({"tick_interval": 500, "alert_queue_size": 100_000})
    paths = torrents_of(root)
    for path in paths:
        parameters = lt.add_torrent_params()
        parameters.ti = lt.torrent_info(str(path))
        parameters.save_path = str(root / "content")
        parameters.flags |= lt.torrent_flags.seed_mode
        parameters.flags &= ~lt.torrent_flags.auto_managed
        parameters.flags &= ~lt.torrent_flags.paused
        session.async_add_torrent(parameters)
    ready = 0
    while ready < len(paths):
        session.wait_for_alert(1000)
        ready += sum(isinstance(alert, lt.torrent_checked_alert) for alert in session.pop_alerts())
    say("ready", seconds=time.monotonic() - began)
    signal.pause()


# --- measuring ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """Seconds; ``announced``: by kind of tracker, from the start to the last torrent's first. ``cpu``: s per second."""

    start: float
    announced: dict[str, float]
    burst: int
    memory: int
    cpu: float


def command(who: str, root: Path) -> list[str]:
    return [sys.executable, "-m", "tools.many_torrents", "--serve", who, str(root)]


def measure(who: str, root: Path, count: int, announces: Announces, quiet: float) -> Figures:
    announces.seen.clear()
    began = time.monotonic()
    with Process(command(who, root), root / who) as process:
        start = process.wait_event("ready", START)["seconds"]
        try:
            wait_until(
                "announces of all", lambda: all(len(announces.reached(kind)) == count for kind in ("http", "udp")), 120
            )
        except ProcessFailedError:
            print({kind: len(announces.reached(kind)) for kind in ("http", "udp")}, "announced within two minutes")
        announced = {kind: max(announces.reached(kind).values(), default=0.0) - began for kind in ("http", "udp")}
        time.sleep(3.0)
        burst = announces.most_in_a_second()
        cpu, since = cpu_seconds(process.pid), time.monotonic()
        time.sleep(quiet)
        cpu = (cpu_seconds(process.pid) - cpu) / (time.monotonic() - since)
        memory = resident(process.pid)
        if not process.running:
            raise SystemExit(process.tail())
    return Figures(start, announced, burst, memory, cpu)


def broken(figures: Figures) -> list[str]:
    found = []
    if figures.start > START_MOST:
        found.append(f"ready after {figures.start:.1f} s")
    if max(figures.announced.values()) > ANNOUNCED_MOST:
        found.append("announced too late")
    if figures.burst > BURST_MOST:
        found.append(f"{figures.burst} announces in a second")
    if figures.memory > MEMORY_MOST:
        found.append(f"{figures.memory / 1e6:.0f} MB")
    if figures.cpu > CPU_MOST:
        found.append(f"{figures.cpu:.1%} of a processor")
    return found


def show(who: str, figures: Figures) -> None:
    announced = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in figures.announced.items())
    print(
        f"{who:10} ready after {figures.start:.2f} s; all announced: {announced}, at most {figures.burst} in a second;"
        f" then {figures.memory / 1e6:.1f} MB, CPU {100 * figures.cpu:.2f} %",
        flush=True,
    )


def compare(count: int, where: Path, quiet: float, *, beside: bool = True) -> dict[str, Figures]:
    """Figures of btor and, ``beside``, of libtorrent, with so many torrents."""
    root = Path(tempfile.mkdtemp(prefix="btor-torrents-", dir=where))
    found = {}
    try:
        with taking_note() as announces:
            write_torrents(root, count, [announces.http, announces.udp])
            with Process(command("once", root), root / "once") as process:
                process.check(START)
            for who in ("btor", "libtorrent") if beside else ("btor",):
                found[who] = measure(who, root, count, announces, quiet)
    finally:
        shutil.rmtree(root)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.many_torrents", description=__doc__)
    parser.add_argument("--torrents", type=int, default=1_000)
    parser.add_argument("--quiet", type=float, default=30.0, metavar="SECONDS", help="that CPU time is measured over")
    parser.add_argument("--without-libtorrent", action="store_true")
    parser.add_argument("--where", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        who, root = arguments.serve[0], Path(arguments.serve[1])
        if who == "libtorrent":
            serve_libtorrent(root)
        else:
            trio.run(serve_btor, root, who == "once")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    print(machine())
    found = compare(arguments.torrents, arguments.where, arguments.quiet, beside=not arguments.without_libtorrent)
    for who, figures in found.items():
        show(who, figures)
    complaints = broken(found["btor"])
    for complaint in complaints:
        print(complaint)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
