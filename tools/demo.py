"""The main job, live: a local swarm of separate processes through which `btor download` fetches a sample torrent.

A tracker, a seeder and two leechers run in the background; the download is drawn on this terminal, held to a rate that
makes it last about ten seconds. At the end every copy is compared with the content by SHA-256, without btor.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tools import _btor, _payload
from tools._processes import BTOR, PROJECT, Process, ProcessFailedError

TORRENT = PROJECT / "torrents" / "many-files.torrent"
CONTENT = PROJECT / "torrents" / "content"
NAME = "Vårt album – 写真"
LEECHERS = 2
DOWNLOAD_RATE = "250K"  # of the 2.5 MB: ten seconds
SEEDER_RATE = "400K"  # less than three leechers want, so that they give to each other
TIMEOUT = 120.0


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def foreground(torrent: Path, folder: Path, log: Path) -> int:
    """``btor download`` on this terminal; its exit status."""
    command = [*BTOR, "download", str(torrent), "--directory", str(folder), "--port", "0"]
    command += ["--max-download", DOWNLOAD_RATE]
    print(f"$ btor {' '.join(command[3:])}\n", flush=True)
    with subprocess.Popen(command, cwd=PROJECT, env={**os.environ, **_btor.state(log)}) as process:
        try:
            return process.wait(TIMEOUT)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.terminate()
            process.wait(10)
            raise


def swarm(root: Path) -> list[Path]:
    """Run the whole swarm; the folders that then hold a copy. ProcessFailedError names a process that died."""
    with ExitStack() as stack:
        tracker = stack.enter_context(_btor.tracker(root / "tracker"))
        torrent = root / TORRENT.name
        torrent.write_bytes(_payload.with_trackers(TORRENT.read_bytes(), [tracker.http, tracker.udp]))
        seeder = stack.enter_context(
            _btor.seed(torrent, CONTENT, root / "seeder", options=["--max-upload", SEEDER_RATE])
        )
        print(f"tracker  process {tracker.process.pid}  {tracker.http} and {tracker.udp}")
        print(f"seeder   process {seeder.process.pid}  port {seeder.port}, {SEEDER_RATE}B/s")
        background = [tracker.process, seeder.process]
        folders = []
        for number in range(LEECHERS):
            folders.append(root / f"leecher{number}")
            options = ["--seed", "--max-download", DOWNLOAD_RATE]
            leecher = _btor.download(torrent, folders[-1], root / f"leecher{number}-log", options=options)
            background.append(stack.enter_context(leecher))
            print(f"leecher  process {leecher.pid}")
        folders.append(root / "here")
        status = foreground(torrent, folders[-1], root / "here-log")
        if status != 0:
            raise ProcessFailedError(f"btor download ended with {status}")
        for leecher in background[2:]:
            leecher.wait_event("complete", TIMEOUT)
        check_alive_and_end(background)
        return folders


def check_alive_and_end(processes: list[Process]) -> None:
    """All of them must still run, and end as asked."""
    for process in processes:
        if not process.running:
            raise ProcessFailedError(f"{process.name} died\n{process.tail()}")
    for process in processes:
        status = process.end()
        if status not in (0, 143):  # 143: ended by SIGTERM, state saved
            raise ProcessFailedError(f"{process.name} ended with {status}\n{process.tail()}")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="btor-demo-") as scratch:
        try:
            folders = swarm(Path(scratch))
        except ProcessFailedError as error:
            print(f"\ndemo failed: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            return 130
        wanted = sums(CONTENT / NAME)
        good = [sums(folder / NAME) == wanted for folder in folders]
        print(f"\n{len(folders)} copies of {len(wanted)} files compared by SHA-256, without btor:")
        for folder, same in zip(folders, good, strict=True):
            print(f"  {'the same' if same else 'DIFFERENT'}  {folder.name}")
        return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
