"""What a session's work cost, counted once for each system call or gulp and never for a block; told at -vv at the end.

``recv`` and ``send`` count calls on peers' sockets, those included that found nothing or no room. Seconds are those of
the loop's thread, or of the thread that writes where a device is slow; ``deciding`` is all that happens to a gulp:
decoding, accounting, and also the hashing and writing within it, which are counted apart, too.
"""

from __future__ import annotations

import os

from btor.limits import BLOCK, KIB, MIB, PIECE_HEADER


class Counters:
    """Plain numbers; whoever does the work adds to them."""

    __slots__ = (
        "deciding",
        "framing",
        "framings",
        "gulps",
        "hashing",
        "received",
        "recvs",
        "sends",
        "sent",
        "writes",
        "writing",
    )

    def __init__(self) -> None:
        self.recvs = 0
        self.gulps = 0  # calls that brought something
        self.received = 0  # bytes, headers included
        self.sends = 0
        self.sent = 0  # bytes, headers included
        self.writes = 0  # runs of content handed to the kernel
        self.framings = 0  # of blocks to send, read in place
        self.deciding = 0.0
        self.writing = 0.0
        self.hashing = 0.0  # of pieces that are hashed as they come
        self.framing = 0.0

    def lines(self) -> list[str]:
        """The sums in words, ready for the log; nothing if no peer ever spoke."""
        if not self.recvs:
            return []
        moved = max((self.received + self.sent) / MIB, 1 / MIB)
        gulps = max(self.gulps, 1)
        user, system, children_user, children_system, _ = os.times()
        rest = self.deciding - self.writing - self.hashing
        return [
            f"received {self.received / MIB:.1f} MiB in {self.gulps} gulps: {self.received / gulps / KIB:.1f} KiB,"
            f" {self.received / gulps / (BLOCK + PIECE_HEADER):.1f} blocks each; sent {self.sent / MIB:.1f} MiB",
            f"calls a MiB moved: {self.recvs / moved:.2f} recv, {self.sends / moved:.2f} send,"
            f" {self.writes / moved:.2f} write, {self.framings / moved:.2f} read",
            f"seconds: {max(rest, 0.0):.2f} decoding and deciding, {self.writing:.2f} writing,"
            f" {self.hashing:.2f} hashing in line, {self.framing:.2f} reading to send",
            f"CPU seconds of the process: {user:.2f} user, {system:.2f} system; of its hashers:"
            f" {children_user:.2f} and {children_system:.2f}",
        ]
