"""Twenty btor leechers started together, one seeder limited to 20 MB/s: what does the seeder have to send?

All must complete, byte for byte, and the seeder (libtorrent, counted by itself) must send less than twice the content.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tools import _btor, _payload
from tools._processes import Process

MIB = 1024 * 1024


def run(root: Path, leechers: int, size: int, rate: int) -> int:
    content = root / "source" / "payload.bin"
    _payload.write_random(content, size, seed=3)
    wanted = _payload.sha256_sums(content)
    with ExitStack() as stack:
        tracker = stack.enter_context(_btor.tracker(root / "tracker"))
        torrent = root / "payload.torrent"
        torrent.write_bytes(_payload.torrent_of(content, 256 * 1024, [tracker.http]))
        command = [sys.executable, "-m", "tools.libtorrent_peer", "seed", str(torrent), str(content.parent)]
        seeder = stack.enter_context(Process([*command, "--upload-limit", str(rate)], root / "seeder"))
        seeder.wait_event("listening")
        begun = time.monotonic()
        processes = [
            stack.enter_context(_btor.download(torrent, root / f"leecher{number}", root / f"log{number}"))
            for number in range(leechers)
        ]
        for process in processes:
            process.check(120 + size / (MIB / 2))
        seconds = time.monotonic() - begun
        time.sleep(0.5)
        uploaded = seeder.events()[-1]["uploaded"]
        completes = [process.wait_event("complete") for process in processes]
        wrong = [
            number
            for number in range(leechers)
            if _payload.sha256_sums(root / f"leecher{number}" / content.name) != wanted
        ]
    wasted = sum(line["wasted"] for line in completes)
    failures = sum(line["hash_failures"] for line in completes)
    shares = sorted(line["uploaded"] / size for line in completes)
    print(
        f"{leechers} leechers, {size // MIB} MiB each: {seconds:.1f} s (the seeder alone: {size / rate:.1f} s a copy)"
    )
    print(f"the seeder sent {uploaded / size:.2f} copies; leechers gave {shares[0]:.2f} to {shares[-1]:.2f} copies")
    print(f"wasted {wasted:,} bytes in all, {failures} hash failures, {len(wrong)} wrong copies")
    good = not wrong and uploaded < 2 * size
    print("good" if good else "FAILED")
    return 0 if good else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leechers", type=int, default=20)
    parser.add_argument("--size", type=int, default=128, metavar="MIB")
    parser.add_argument("--rate", type=int, default=20_000_000, help="of the seeder, bytes a second")
    parser.add_argument("--where", type=Path, default=Path("/dev/shm"))
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="btor-swarm-", dir=arguments.where))
    try:
        return run(root, arguments.leechers, arguments.size * MIB, arguments.rate)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    sys.exit(main())
