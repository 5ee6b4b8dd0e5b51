"""How far the hashing of `create` and `verify` is: on a terminal in place, elsewhere a line every ten seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from btor.cli import output, words
from btor.cli.lines import PLAIN_PERIOD
from btor.cli.options import Voice
from btor.metainfo.paths import display

DRAW_PERIOD = 0.25  # seconds between two drawings on a terminal


def can_draw(stream: TextIO | None) -> bool:
    """Whether ``stream`` is a terminal on which a line can be drawn over."""
    return stream is not None and stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


class Meter:
    """Call it with (done, all), as often as it goes on; it speaks when it is time to."""

    def __init__(self, verb: str, stream: TextIO | None) -> None:
        self._verb = display(verb)
        self._stream = stream
        self._drawing = can_draw(stream)
        self._period = DRAW_PERIOD if self._drawing else PLAIN_PERIOD
        self._began = self._spoke = time.monotonic()

    def __call__(self, done: int, whole: int) -> None:
        """``done`` of ``whole`` pieces are hashed."""
        now = time.monotonic()
        if now - self._spoke < self._period:
            return
        self._spoke = now
        left = (now - self._began) / done * (whole - done)
        line = f"{self._verb}: {words.percent(done, whole)}, eta {words.duration(left)}"
        output.write(self._stream, f"\r{line[: self._columns()]}\x1b[K" if self._drawing else f"{line}\n")

    def clear(self) -> None:
        """Take the line off the terminal again."""
        if self._drawing:
            output.write(self._stream, "\r\x1b[K")

    def _columns(self) -> int:
        assert self._stream is not None  # it draws
        try:
            return max(os.get_terminal_size(self._stream.fileno()).columns - 1, 1)
        except OSError:
            return 79


@contextmanager
def meter(verb: str, voice: Voice) -> Iterator[Meter | None]:
    """A meter on standard error, or None where nothing is to be said."""
    if voice.json or voice.quiet:
        yield None
        return
    shown = Meter(verb, sys.stderr)
    try:
        yield shown
    finally:
        shown.clear()
