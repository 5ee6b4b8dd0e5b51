"""btor beside libtorrent: one downloads from a libtorrent seeder, then the other; each seeds to a libtorrent leecher.

The two alternate in one run, so that a busy machine slows both. What is measured is the whole process tree. A download
counts from the start of the command to its end, imports included, and is compared with the content by SHA-256. A seeder
counts from when it is ready. Prints medians and btor's share of libtorrent's; the bounds are on the download.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools import _btor, _payload
from tools._measure import PeakMemory, Usage, cpu_seconds, measure
from tools._processes import Process, ProcessFailedError

MIB = 1024 * 1024
PEER = [sys.executable, "-m", "tools.libtorrent_peer"]


@dataclass(frozen=True)
class Place:
    """Where one measurement happens: the torrent, the folder with its content, and room for downloads."""

    root: Path
    torrent: Path
    content: Path
    digest: dict[str, str]
    timeout: float

    def empty(self, name: str) -> Path:
        folder = self.root / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder


def prepare(root: Path, size: int, piece_length: int) -> Place:
    content = root / "source"
    _payload.write_random(content / "payload.bin", size, seed=1)
    torrent = root / "payload.torrent"
    torrent.write_bytes(_payload.torrent_of(content / "payload.bin", piece_length))
    return Place(root, torrent, content, _payload.sha256_sums(content), timeout=60 + size / (10 * MIB))


def verified(place: Place, folder: Path, usage: Usage) -> Usage:
    if _payload.sha256_sums(folder) != place.digest:
        raise ProcessFailedError(f"{folder} is not what was seeded")
    return usage


def libtorrent_downloads(place: Place, peer: str) -> Usage:
    folder = place.empty("libtorrent")
    command = [*PEER, "get", str(place.torrent), str(folder), "--peer", peer, "--exit"]
    return verified(place, folder, measure(command, timeout=place.timeout))


def btor_downloads(place: Place, peer: str) -> Usage:
    folder, log = place.empty("btor"), place.empty("btor-log") / "btor"
    command = _btor.download_command(place.torrent, folder, peers=[peer])
    return verified(place, folder, measure(command, timeout=place.timeout, env=_btor.state(log)))


def bench_download(place: Place, rounds: int) -> dict[str, list[Usage]]:
    results: dict[str, list[Usage]] = {"libtorrent": [], "btor": []}
    runs: dict[str, Callable[[Place, str], Usage]] = {"libtorrent": libtorrent_downloads, "btor": btor_downloads}
    with Process([*PEER, "seed", str(place.torrent), str(place.content)], place.root / "seeder") as seeder:
        peer = f"127.0.0.1:{seeder.wait_event('listening')['port']}"
        for number in range(rounds):
            for name, download in runs.items():
                usage = download(place, peer)
                results[name].append(usage)
                print(f"  round {number + 1}, {name}: {line(usage)}", flush=True)
    return results


def seed_once(place: Place, name: str, seeder: Process, port: int) -> Usage:
    """One libtorrent leecher gets everything from a seeder that is ready: what that cost the seeder."""
    folder = place.empty("leecher")
    memory = PeakMemory(seeder.pid)
    memory.start()
    before = cpu_seconds(seeder.pid)
    command = [*PEER, "get", str(place.torrent), str(folder), "--peer", f"127.0.0.1:{port}"]
    with Process(command, place.root / f"{name}-leecher") as leecher:
        seconds = leecher.wait_event("complete", place.timeout)["seconds"]
        usage = Usage(seconds, cpu_seconds(seeder.pid) - before, memory.stop(), 0)
    return verified(place, folder, usage)


def bench_seed(place: Place, rounds: int) -> dict[str, list[Usage]]:
    results: dict[str, list[Usage]] = {"libtorrent": [], "btor": []}
    for number in range(rounds):
        with Process([*PEER, "seed", str(place.torrent), str(place.content)], place.root / "seeder") as process:
            port = process.wait_event("listening")["port"]
            results["libtorrent"].append(seed_once(place, "libtorrent", process, port))
        with _btor.seed(place.torrent, place.content, place.empty("btor-log") / "btor") as seeder:
            results["btor"].append(seed_once(place, "btor", seeder.process, seeder.port))
        for name, usages in results.items():
            print(f"  round {number + 1}, {name}: {line(usages[-1])}", flush=True)
    return results


def line(usage: Usage) -> str:
    return f"{usage.wall:.2f} s, {usage.cpu:.2f} CPU s, {usage.peak_rss / MIB:.0f} MiB"


def median(usages: list[Usage]) -> Usage:
    return Usage(
        statistics.median(usage.wall for usage in usages),
        statistics.median(usage.cpu for usage in usages),
        max(usage.peak_rss for usage in usages),
        0,
    )


def compare(what: str, results: dict[str, list[Usage]]) -> tuple[float, float, float]:
    """Print the medians; btor's share of libtorrent's wall and CPU time, and its own peak memory in MiB."""
    medians = {name: median(usages) for name, usages in results.items()}
    for name, usage in medians.items():
        print(f"{what:8} {name:10} {line(usage)}")
    ours, theirs = medians["btor"], medians["libtorrent"]
    shares = ours.wall / theirs.wall, ours.cpu / theirs.cpu, ours.peak_rss / MIB
    print(f"{what:8} btor / libtorrent: wall {shares[0]:.2f}, CPU {shares[1]:.2f}")
    return shares


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024, metavar="MIB")
    parser.add_argument("--piece-length", type=int, default=1024, metavar="KIB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--where", type=Path, default=Path("/dev/shm"), help="a folder with three times the size free")
    parser.add_argument("--max-wall", type=float, default=1.5, help="fail above this share of libtorrent's wall time")
    parser.add_argument("--max-cpu", type=float, default=1.3, help="fail above this share of libtorrent's CPU time")
    parser.add_argument("--max-memory", type=float, default=64.0, metavar="MIB")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="btor-bench-", dir=arguments.where))
    try:
        place = prepare(root, arguments.size * MIB, arguments.piece_length * 1024)
        print(f"download of {arguments.size} MiB in pieces of {arguments.piece_length} KiB into {arguments.where}")
        downloads = bench_download(place, arguments.rounds)
        print("the same from each as the seeder, to a libtorrent leecher")
        seeds = bench_seed(place, arguments.rounds)
    finally:
        shutil.rmtree(root)
    wall, cpu, memory = compare("download", downloads)
    compare("seed", seeds)
    good = wall <= arguments.max_wall and cpu <= arguments.max_cpu and memory <= arguments.max_memory
    print("within bounds" if good else "OUT OF BOUNDS")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
