"""How long btor takes to start: `btor --version` and `btor info`, beside an interpreter that does nothing.

The bounds, 0.12 s and 0.2 s, are for a machine where `python -c 0` takes 0.02 s; they grow with it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

from tools._processes import BTOR, PROJECT

ROUNDS = 15
REFERENCE = 0.02  # s, of `python -c 0`
TORRENT = str(PROJECT / "torrents" / "many-files.torrent")
COMMANDS: dict[str, tuple[Sequence[str], float]] = {
    "btor --version": ([*BTOR, "--version"], 0.12),
    "btor info": ([*BTOR, "info", TORRENT], 0.2),
}


def once(command: Sequence[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=True, timeout=60)
    return time.perf_counter() - begun


def main() -> int:
    """Commands alternate, and the best of many rounds counts: others use the machine too."""
    every = {"python -c 0": [sys.executable, "-c", "0"], **{name: command for name, (command, _) in COMMANDS.items()}}
    best = dict.fromkeys(every, float("inf"))
    for _ in range(ROUNDS):
        for name, command in every.items():
            best[name] = min(best[name], once(command))
    slower = max(1.0, best["python -c 0"] / REFERENCE)
    print(f"python -c 0     {best['python -c 0']:.3f} s")
    good = True
    for name, (_, bound) in COMMANDS.items():
        within = best[name] <= bound * slower
        good &= within
        print(f"{name:15} {best[name]:.3f} s, at most {bound * slower:.3f} s{'' if within else '  TOO SLOW'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
