"""The `btor` command. Signals are taken before anything that is slow to import, so that none ends in a traceback."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def end_at_once(number: int, frame: FrameType | None) -> None:
    """Handle a signal while nothing needs saving: the process is gone, with 128 + ``number`` as its status."""
    os._exit(128 + number)


def main() -> None:
    """Run the command line of this process and exit with its status."""
    try:
        import signal

        numbers = [signal.SIGINT, signal.SIGTERM]
        hang_up = getattr(signal, "SIGHUP", None)  # not on Windows
        if hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN:  # nohup(1)
            numbers.append(hang_up)
        for number in numbers:
            signal.signal(number, end_at_once)

        from btor.cli.main import run

        status = run(sys.argv[1:])
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # the work is done: the interpreter may shut down in peace
    except KeyboardInterrupt:  # while Python's own handler was still there
        os._exit(130)
    sys.exit(status)


if __name__ == "__main__":
    main()
