"""Every operation of the disk of a 64-piece transfer fails once, in every way: no crash, no hang, no false piece.

The N-th operation fails with ENOSPC, EIO, EACCES, EMFILE or EINTR, or writes only a part, for every N. The torrent
ends with that error or completes; what it believes is on disk; no descriptor is left; and the next run completes.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.crash.disk_faults import CODES, SHORT, transfer

MEMORY = Path("/dev/shm")


def main() -> int:
    began = time.monotonic()
    faults = 0
    root = Path(tempfile.mkdtemp(prefix="btor-faults-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    os.environ["XDG_STATE_HOME"] = str(root / "home")
    try:
        total = transfer(root / "counted", -1, errno.EIO).count
        print(f"{total} operations", flush=True)
        for code in CODES:
            fired: Counter[str] = Counter()
            for at in range(1, total + 1):
                place = root / f"{code}-{at}"
                try:
                    fired[transfer(place, at, code).fired] += 1
                except Exception:  # noqa: BLE001  # whatever it is, it is what this looks for
                    faults += 1
                    print(f"FAULT: operation {at}, {errno.errorcode.get(code, 'short')}\n{traceback.format_exc()}")
                shutil.rmtree(place, ignore_errors=True)
            name = "short write" if code == SHORT else errno.errorcode[code]
            print(
                f"{name}: {', '.join(f'{call} {count}' for call, count in sorted(fired.items()) if call)}", flush=True
            )
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"{time.monotonic() - began:.0f} s, {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
