"""The two streams of a command: answers go to standard output, everything else to standard error.

No text can raise an encoding error here, and a reader that went away is one exception, ``ReaderGoneError``.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO

READER_GONE_STATUS = 141  # 128 + SIGPIPE: what a shell sees of any filter whose reader left


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
    """Write ``text`` and flush it. Raises ReaderGoneError if the other end is closed; no stream, no text."""
    if stream is None:  # closed before we started: `btor … >&-`
        return
    try:
        stream.write(text)
        stream.flush()
    except (BrokenPipeError, ConnectionResetError) as error:
        raise ReaderGoneError from error


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
    """Point the streams nowhere, so that nothing complains while Python ends; returns the exit status."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (AttributeError, OSError, ValueError):
            continue  # no stream, or one that is no file
    os.close(nowhere)
    return READER_GONE_STATUS
