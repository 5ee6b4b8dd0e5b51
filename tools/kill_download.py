"""Kill a download again and again with SIGKILL: while it checks, while its record is written, while it downloads.

After every kill the disk is hashed by this program. What must hold, or it ends 1:
- the record names no piece that the disk denies;
- the next start believes no piece that the disk denies (it is asked over the wire, as a peer would), and never fewer
  than the record named;
- at the end the content is right byte for byte, and the seeder has sent little more than the content.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import trio

from btor.storage import resume
from tools import _btor, _payload, _wire_peer
from tools._processes import Process, ProcessFailedError

MIB = 1024 * 1024
KINDS = ("checking", "first record", "downloading")
LOST_PER_KILL = 16 * MIB
OPEN_PIECES = 8  # at one seeder; each may be fetched again after a kill


@dataclass
class Trial:
    """One download that is killed and started again."""

    root: Path
    data: bytes  # of the .torrent
    peer: str
    random: random.Random

    @property
    def torrent(self) -> Path:
        return self.root / "payload.torrent"

    @property
    def folder(self) -> Path:
        return self.root / "here"

    @property
    def state(self) -> Path:
        return Path(_btor.state(self.root / "btor")["BTOR_STATE_DIR"])

    def start(self) -> Process:
        return _btor.download(self.torrent, self.folder, self.root / "btor", peers=[self.peer])

    def on_disk(self) -> set[int]:
        return _payload.good_pieces(self.data, self.folder / "payload.bin")

    def recorded(self) -> set[int]:
        """What the record names now."""
        record = resume.load(self.state, bytes.fromhex(_payload.info_hash(self.data)), self.folder / "payload.bin")
        return set() if record is None else set(record.have)


def moment(trial: Trial, kind: str, process: Process) -> str:
    """Wait for a random moment of this kind, kill, and say when it was."""
    begun = time.monotonic()
    if kind == "checking":
        time.sleep(trial.random.uniform(0.15, 0.7))
    elif kind in ("first record", "later record"):
        wait_record(trial, process, 1 if kind == "first record" else 2)
        time.sleep(trial.random.uniform(0, 0.004))
    else:
        process.wait_event("checked", 30)
        time.sleep(trial.random.uniform(0.1, 0.9))
    if not process.running:
        raise ProcessFailedError(f"ended before it was killed\n{process.tail()}")
    process.signal(signal.SIGKILL)
    process.popen.wait()
    return f"{kind}, after {time.monotonic() - begun:.2f} s"


def wait_record(trial: Trial, process: Process, number: int) -> None:
    """Until this run begins to write its first record (it says that btor is at work), or its second, 5 s later."""
    deadline = time.monotonic() + 10
    seen = records(trial.state)
    for _ in range(number):
        while records(trial.state) == seen:
            if time.monotonic() > deadline or not process.running:  # no sleep: a record takes a few milliseconds
                return
        if number > 1:
            time.sleep(0.2)
            seen = records(trial.state)


def records(folder: Path) -> set[tuple[str, int]]:
    """Names and times of the records in the state folder, the one that is being written too."""
    found = set()
    for path in folder.glob("resume/*.resume*"):
        try:
            found.add((path.name, path.stat().st_mtime_ns))
        except FileNotFoundError:
            continue
    return found


def believed(trial: Trial, process: Process) -> tuple[int, set[int]]:
    """(pieces said to be there after the check, pieces told to a peer soon after)."""
    started = process.wait_event("started", 30)
    checked = process.wait_event("checked", 60)
    info_hash = bytes.fromhex(_payload.info_hash(trial.data))
    told = trio.run(_wire_peer.bitfield_of, ("127.0.0.1", started["port"]), info_hash, started["pieces"])
    return checked["have_pieces"], told


def check_start(trial: Trial, before: set[int], record: set[int]) -> str:
    """Start once, ask what it believes, freeze it, hash the disk, kill it; what was found wrong, or nothing."""
    process = trial.start()
    try:
        count, told = believed(trial, process)
        process.signal(signal.SIGSTOP)
        now = trial.on_disk()
    finally:
        process.signal(signal.SIGKILL)
        process.popen.wait()
    if told - now:
        return f"told a peer of {len(told - now)} pieces that the disk denies"
    if count > len(before):
        return f"believed {count} pieces, the disk holds {len(before)}"
    if count < len(record):
        return f"believed {count} pieces, the record named {len(record)}"
    return ""


def kills(trial: Trial, number: int) -> list[str]:
    """Kill ``number`` times; the faults found."""
    faults = []
    plan = ["later record"] * min(2, number // 4)  # 5 s each: more would not fit into one download
    plan += [KINDS[index % 3] for index in range(number - len(plan))]
    trial.random.shuffle(plan)
    pieces = _payload.piece_count(trial.data)
    disk: set[int] = set()
    for index, planned in enumerate(plan):
        # All kills come before the end: late ones leave no time to download much.
        room = {"later record": 0.45, "downloading": 0.8}.get(planned, 1.0)
        kind = planned if len(disk) < room * pieces else trial.random.choice(("checking", "first record"))
        process = trial.start()
        try:
            when = moment(trial, kind, process)
        finally:
            process.signal(signal.SIGKILL)
        disk, record = trial.on_disk(), trial.recorded()
        print(f"  kill {index + 1:2}: {when}; disk {len(disk)}, record {len(record)} pieces", flush=True)
        if record - disk:
            faults.append(f"kill {index + 1}: the record names {len(record - disk)} pieces that the disk denies")
        fault = check_start(trial, disk, record) if index % 2 else ""
        if fault:
            faults.append(f"kill {index + 1}: {fault}")
    return faults


def run(trial: Trial, number: int, size: int, seeder: Process) -> list[str]:
    faults = kills(trial, number)
    before = trial.on_disk()
    process = trial.start()
    try:
        process.check(60 + size / (5 * MIB))
        checked = process.wait_event("checked")
        print(f"  last start: {checked['have_pieces']} pieces from {checked['from']}, the disk held {len(before)}")
    finally:
        process.end()
    content = trial.root / "source" / "payload.bin"
    if _payload.sha256_sums(content) != _payload.sha256_sums(trial.folder / "payload.bin"):
        faults.append("the content is wrong")
    time.sleep(0.5)
    uploaded = seeder.events()[-1]["uploaded"]
    all_kills = number + number // 2  # the starts that were only asked what they believe were killed too
    piece_length = 256 * 1024
    allowed = all_kills * (LOST_PER_KILL + OPEN_PIECES * piece_length)
    print(f"seeder sent {uploaded:,} bytes: {(uploaded - size) / MIB:.1f} MiB more than the content", end="")
    print(f" (allowed {allowed / MIB:.0f}), {(uploaded - size) / MIB / all_kills:.1f} MiB a kill")
    if uploaded - size > allowed:
        faults.append("too much was fetched again")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--size", type=int, default=256, metavar="MIB")
    parser.add_argument("--rate", type=int, default=20_000_000, help="of the seeder, bytes a second")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--where", type=Path, default=None, help="a folder on the disk to try")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="btor-kill-", dir=arguments.where))
    size = arguments.size * MIB
    print(f"{arguments.kills} kills of a download of {arguments.size} MiB, seed {arguments.seed}")
    try:
        _payload.write_random(root / "source" / "payload.bin", size, arguments.seed)
        data = _payload.torrent_of(root / "source" / "payload.bin", 256 * 1024)
        (root / "payload.torrent").write_bytes(data)
        command = [sys.executable, "-m", "tools.libtorrent_peer", "seed", str(root / "payload.torrent")]
        command += [str(root / "source"), "--upload-limit", str(arguments.rate)]
        with Process(command, root / "seeder") as seeder:
            peer = f"127.0.0.1:{seeder.wait_event('listening')['port']}"
            trial = Trial(root, data, peer, random.Random(arguments.seed))
            faults = run(trial, arguments.kills, size, seeder)
    finally:
        shutil.rmtree(root)
    for fault in faults:
        print(f"FAULT: {fault}")
    print("no false piece, content exact" if not faults else f"{len(faults)} faults, seed {arguments.seed}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
