"""Power cuts and kills at every moment of recorded transfers: what btor believes when it wakes up is on disk.

Transfers are recorded call by call: a whole session with a lying peer, a kill, an orderly end and a change by somebody
else; the storage alone with writes in the middle of checkpoints; and with syncs that fail. Of every prefix of each log
every state is tried that lacks one or two of the writes that are not durable, or has the last one torn, and so are
1,000 reorderings in all. It ends 1 if one piece is believed that is not on disk, or a durable record is forgotten.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.crash.checker import Recording, Verdict, all_states, check
from tests.crash.scenarios import steps, transfer

ORDERS = 1_000
MEMORY = Path("/dev/shm")

Make = Callable[[Path, int], Recording]


def session(folder: Path, seed: int) -> Recording:
    return transfer(folder, seed=seed)


def coarse_clock(folder: Path, seed: int) -> Recording:
    return steps(folder, seed=seed, tick=25)


def long_intervals(folder: Path, seed: int) -> Recording:
    return steps(folder, seed=seed, between=24)


def syncs_fail(folder: Path, seed: int) -> Recording:
    return steps(folder, seed=seed, syncs_fail=0.02)


TRANSFERS: dict[str, Make] = {
    "a whole session": session,
    "the storage, a coarse clock": coarse_clock,
    "the storage, few checkpoints": long_intervals,
    "the storage, syncs fail": syncs_fail,
}


def examine(what: str, seed: int) -> tuple[str, int, Verdict]:
    """Record one transfer and try its states; (name, operations, verdict)."""
    with tempfile.TemporaryDirectory(prefix="btor-crash-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as made:
        os.environ["XDG_STATE_HOME"] = str(Path(made) / "home")  # where a running torrent says what it writes to
        recording = TRANSFERS[what](Path(made), seed)
        log = recording.recorder.log
        verdict = Verdict()
        orders = -(-ORDERS // len(TRANSFERS))
        check(recording, all_states(random.Random(seed), orders, len(log)), verdict)
        return what, len(log), verdict


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    began = time.monotonic()
    faults, images, tried = 0, 0, 0
    with multiprocessing.get_context("spawn").Pool(arguments.processes, maxtasksperchild=1) as pool:
        jobs = [pool.apply_async(examine, (what, arguments.seed)) for what in TRANSFERS]
        for job in jobs:
            what, operations, verdict = job.get()
            images += len(verdict.images)
            tried += len(verdict.with_times)
            faults += sum(verdict.faults.values())
            print(f"{what}: {operations} operations, {len(verdict.images):,} distinct disks", end="")
            print(
                f", {len(verdict.with_times):,} with times and promises; {verdict.refused:,} times it asked", flush=True
            )
            for fault, count in verdict.faults.items():
                print(f"FAULT: {count} times {fault}; {verdict.examples[fault]}")
    print(f"{images:,} distinct disks, {tried:,} starts in {time.monotonic() - began:.0f} s: ", end="")
    print(f"{faults} faults, seed {arguments.seed}" if faults else "no piece believed that is not on disk")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
