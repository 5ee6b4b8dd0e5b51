"""Rate limits as the engine applies them: who may send how much now, and who may ask.

An upload limit is a gate in front of every send. A download limit paces the *requests*: what was not asked for is not
sent, so the far end sees the limit too, and nothing piles up in the kernel. One pacer for the session moves both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from btor.limits import BLOCK, SEND_GULP
from btor.swarm.rates import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from btor.engine.transfer import Transfer

PACE: Final = 0.05  # s between two rounds of the pacer; a fifth of the burst
GRANT_AT_ONCE: Final = 64 * 1024  # with that much in the bucket and nobody waiting, no need to wait for the pacer


class UploadGate:
    """What stands before each send of a torrent's peers.

    Whole blocks go to one peer after the other: a peer that is inside a block comes first, because nothing else can be
    sent to it before the block is whole. Shared out evenly, a small limit would leave every peer inside a block.
    """

    def __init__(self, bucket: TokenBucket) -> None:
        self.bucket = bucket
        self._waiting = trio.lowlevel.ParkingLot()
        self._inside_block = trio.lowlevel.ParkingLot()
        self._share = 0

    async def allowance(self, *, inside_block: bool) -> int:
        """How many bytes the caller may send now; waits, first come first served, until there are some."""
        if not self.bucket.limited:
            return SEND_GULP
        if not self._waiting and not self._inside_block:
            available = self.bucket.available(trio.current_time())
            if available >= GRANT_AT_ONCE:
                return min(available, SEND_GULP)
        await (self._inside_block if inside_block else self._waiting).park()
        return min(self._share, SEND_GULP)

    def pace(self, now: float) -> None:
        """Let as many go on as there are tokens for."""
        waiting = len(self._inside_block) + len(self._waiting)
        available = self.bucket.available(now) if waiting else 0
        if available > 0:
            self._share = max(available // waiting, min(available, BLOCK))
            count = max(1, available // self._share)
            first = min(count, len(self._inside_block))
            self._inside_block.unpark(count=first)
            self._waiting.unpark(count=count - first)


class Pacer:
    """Moves the limits of a session. Sleeps while nothing is limited, until ``wake``."""

    def __init__(self, transfers: Callable[[], Iterable[Transfer]]) -> None:
        self._transfers = transfers
        self._limited = trio.Event()

    def wake(self) -> None:
        """A transfer has begun that may be limited."""
        self._limited.set()

    async def run(self) -> None:
        """For ever."""
        rounds = 0
        while True:
            await self._limited.wait()
            await trio.sleep(PACE)
            now = trio.current_time()
            limited = False
            transfers = list(self._transfers())
            rounds += 1
            first = rounds % max(1, len(transfers))  # another one each time: the first may take all that there is
            for transfer in transfers[first:] + transfers[:first]:
                if transfer.upload.bucket.limited:
                    limited = True
                    transfer.upload.pace(now)
                if transfer.download.limited:
                    limited = True
                    share_requests(transfer, now)
            if not limited:
                self._limited = trio.Event()


def share_requests(transfer: Transfer, now: float) -> None:
    """Hand the download bucket's tokens to the peers of ``transfer`` in turn, at least a block each."""
    available = transfer.download.available(now)
    if available <= 0:
        return
    blocks = -(-available // BLOCK)
    peers = transfer.peers_in_turn()
    share = max(1, blocks // max(1, len(peers)))
    while blocks > 0:
        asked_by_anyone = 0
        for peer in peers:
            asked = peer.fill_requests(now, min(share, blocks))
            if asked:
                transfer.download.take(asked * BLOCK, now)
                peer.flush()
                blocks -= asked
                asked_by_anyone += asked
            if blocks <= 0:
                break
        if not asked_by_anyone:
            return
