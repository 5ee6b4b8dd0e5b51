"""The two streams of a command: answers go to standard output, everything else to standard error.

No text can raise an encoding error here. An answer that cannot be written ends the command: a reader that went away is
``ReaderGoneError``, a full device a ``StorageError``. Standard error takes what it can: no work ends because nobody can
be told of it.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO

from btor.errors import StorageError

READER_GONE_STATUS = 141  # 128 + SIGPIPE: what a shell sees of any filter whose reader left
READER_GONE = (errno.EPIPE, errno.ECONNRESET)


class ReaderGoneError(Exception):
    """Nobody reads our output any more: end quietly."""


def locale_is_utf8() -> bool:
    """Whether the person's locale says UTF-8.

    Python covers up a C locale (PEP 538, PEP 540) by setting LC_CTYPE and its UTF-8 mode; the person's terminal
    still is what the other variables say.
    """
    if not sys.flags.utf8_mode:
        return True  # then the encoding of the streams is the locale's own
    named = os.environ.get("LC_CTYPE", "")
    if named in ("C.UTF-8", "C.utf8", "UTF-8"):
        named = ""
    effective = os.environ.get("LC_ALL") or named or os.environ.get("LANG") or ""
    return "utf" in effective.lower()


def prepare_streams() -> None:
    """Make standard output and error unable to fail on any text; ASCII with escapes where the locale is not UTF-8."""
    utf8 = locale_is_utf8()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if utf8 else "ascii", errors="backslashreplace")


def is_unicode(stream: TextIO | None) -> bool:
    """Whether ``stream`` takes more than ASCII, as ``prepare_streams`` has left it."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    return encoding.lower().replace("-", "").startswith("utf")


def write(stream: TextIO | None, text: str) -> None:
    """Write ``text`` and flush it; no stream, no text.

    Standard error never fails, unless it is the same pipe as standard output (``2>&1 | head``). Of any other stream:
    ReaderGoneError if the other end is closed, StorageError if the system takes no more.
    """
    if stream is None:  # closed before we started: `btor … >&-`
        return
    try:
        if text:  # an empty text would be an empty write, which a full device refuses
            stream.write(text)
        stream.flush()
    except OSError as error:
        failure = failed(stream, error)
        if failure is not None:
            raise failure from error


def failed(stream: TextIO | None, error: OSError) -> ReaderGoneError | StorageError | None:
    """What it means that ``stream`` took no more, as ``write`` tells it."""
    gone = error.errno in READER_GONE
    if gone and (stream is not sys.stderr or _same_file(stream, sys.stdout)):
        return ReaderGoneError()
    _point_nowhere(stream)
    return None if stream is sys.stderr else StorageError.from_os_error("write", "standard output", error)


def _same_file(one: TextIO | None, other: TextIO | None) -> bool:
    try:
        return one is not None and other is not None and os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError):  # one is no file
        return False


def _point_nowhere(*streams: TextIO | None) -> None:
    """Let what waits in ``streams``, and all that follows, go nowhere: Python complains of nothing when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        try:
            if stream is not None:
                os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError):
            continue  # it is no file
    os.close(nowhere)


def answer(text: str) -> None:
    """Print ``text`` and a newline on standard output."""
    write(sys.stdout, f"{text}\n")


def answer_json(value: dict[str, Any]) -> None:
    """Print one JSON object as a line on standard output: ASCII, so no terminal is steered by what is in it."""
    import json

    answer(json.dumps(value, separators=(", ", ": ")))


def tell(text: str) -> None:
    """Print ``text`` and a newline on standard error."""
    write(sys.stderr, f"{text}\n")


def ellipsis(stream: TextIO | None) -> str:
    """The sign for what was left out, as ``stream`` can show it."""
    return "…" if is_unicode(stream) else "..."


def leave_quietly() -> int:
    """Point the streams nowhere; returns the exit status."""
    _point_nowhere(sys.stdout, sys.stderr)
    return READER_GONE_STATUS
