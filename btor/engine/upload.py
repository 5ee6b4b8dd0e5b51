"""Laying out blocks for sending: one buffer for the whole session, headers written around content read in place.

A peer keeps only its queue of requests and how much of the first reply is gone; what a socket did not take is read
again from the page cache the next time, so a slow peer holds no memory and a CANCEL still bites.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import Protocol

from btor.engine.counters import Counters
from btor.limits import BLOCK, PIECE_HEADER, SEND_GULP
from btor.metainfo.geometry import Geometry
from btor.wire.messages import put_block_header

Request = tuple[int, int, int]  # piece, begin, length

BLOCKS_AT_ONCE = SEND_GULP // BLOCK
_STRIDE = BLOCK + PIECE_HEADER


class ContentReader(Protocol):
    """Where blocks come from."""

    def read_into(self, offset: int, views: Sequence[memoryview], *, cached_only: bool = False) -> bool:
        """Fill the views with content; False when ``cached_only`` and the page cache lacks it. StorageError."""


class SendBuffer:
    """The buffer. ``lay_out`` fills it; its result is valid until the next call."""

    def __init__(self, counters: Counters | None = None) -> None:
        self._counters = counters or Counters()
        self._view = memoryview(bytearray(_STRIDE * BLOCKS_AT_ONCE))
        # nearly all blocks are whole and stand at multiples of the stride: their slices are made once
        self._payloads = [self._view[i * _STRIDE + PIECE_HEADER : (i + 1) * _STRIDE] for i in range(BLOCKS_AT_ONCE)]

    def lay_out(
        self, requests: Iterable[Request], budget: int, geometry: Geometry, content: ContentReader, *, cached_only: bool
    ) -> tuple[memoryview, int]:
        """Frame the first replies of ``requests``, at least one and otherwise about ``budget`` bytes of them.

        Returns the framed bytes and how many requests they answer: 0 when the first block is not in the page cache and
        ``cached_only``. StorageError.
        """
        at = 0
        spans: list[tuple[int, memoryview]] = []
        for piece, begin, length in requests:
            if len(spans) == BLOCKS_AT_ONCE or (spans and at >= budget):
                break
            put_block_header(self._view, at, piece, begin, length)
            if length == BLOCK and at == len(spans) * _STRIDE:
                payload = self._payloads[len(spans)]
            else:
                payload = self._view[at + PIECE_HEADER : at + PIECE_HEADER + length]
            spans.append((geometry.piece_offset(piece) + begin, payload))
            at += PIECE_HEADER + length
        started = perf_counter()
        ready = _read_spans(spans, content, cached_only=cached_only)
        self._counters.framing += perf_counter() - started
        self._counters.framings += 1
        if ready < len(spans):
            at = sum(PIECE_HEADER + len(payload) for _, payload in spans[:ready])
        return self._view[:at], ready


def _read_spans(spans: list[tuple[int, memoryview]], content: ContentReader, *, cached_only: bool) -> int:
    """Read every span, neighbours in one call; how many are there."""
    done = 0
    while done < len(spans):
        offset, payload = spans[done]
        views = [payload]
        end = offset + len(payload)
        while done + len(views) < len(spans) and spans[done + len(views)][0] == end:
            payload = spans[done + len(views)][1]
            views.append(payload)
            end += len(payload)
        if not content.read_into(offset, views, cached_only=cached_only):
            # part of a long run may be there: the first block decides whether the caller must wait for the disk
            return done if len(views) == 1 or not content.read_into(offset, views[:1], cached_only=True) else done + 1
        done += len(views)
    return done
