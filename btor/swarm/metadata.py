"""Getting the info dictionary of a magnet from peers of which some lie, stall or refuse (BEP 9).

A peer claims a size; the peers that claim the same one fill one buffer together, an *attempt*, which counts when the
whole has the right hash. Two attempts at most run at a time, and a buffer holds only what has come. When a whole is
wrong, all of it is thrown away. If it came from one peer, that peer lied; if from several, each of them is a *suspect*,
whom from then on only attempts of its own are made with, and the others go on without it. So a liar costs one attempt
at most, and one honest peer is enough.

Peers are known by keys. Times are monotonic seconds.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from itertools import islice

from btor.errors import PeerError
from btor.limits import (
    METADATA_ASKED,
    METADATA_ATTEMPTS,
    METADATA_PATIENCE,
    METADATA_PIECE,
    METADATA_REST,
    METADATA_STALL,
)
from btor.metainfo.info_hashes import InfoHashes

NEVER = float("-inf")


class _Peer:
    """What is known of one peer. ``asked``: pieces without an answer, and when each was asked for.

    ``late``: pieces that it was too slow to send, whose answer still counts. ``tries``: attempts that asked it.
    """

    __slots__ = ("asked", "heard", "late", "rests_until", "size", "suspect", "tries")

    def __init__(self) -> None:
        self.size: int | None = None
        self.asked: dict[int, float] = {}
        self.late: set[int] = set()
        self.tries = 0
        self.heard = NEVER  # the last answer
        self.rests_until = NEVER
        self.suspect = False


class _Attempt:
    """A buffer for metadata of ``size`` bytes, filled by all that claim it and are no suspects, or by ``only`` one."""

    __slots__ = ("_digests", "_hashed", "asked", "free", "only", "pieces", "senders", "size", "tried")

    def __init__(self, size: int, only: int | None, hashes: InfoHashes) -> None:
        self.size = size
        self._digests = _digests_for(hashes)
        self._hashed = 0  # pieces
        self.only = only
        self.pieces: dict[int, bytes] = {}
        self.senders: set[int] = set()
        self.tried: set[int] = set()  # who was asked
        # a missing piece is in one of these two
        self.free = dict.fromkeys(range(-(-size // METADATA_PIECE)))
        self.asked: dict[int, float] = {}  # and when last

    def takes(self, key: int, peer: _Peer) -> bool:
        """Whether the peer has a part in it."""
        return peer.size == self.size and (not peer.suspect if self.only is None else self.only == key)

    def piece_size(self, piece: int) -> int:
        return min(METADATA_PIECE, self.size - piece * METADATA_PIECE)

    def take_in(self, piece: int, data: bytes) -> None:
        """A piece has come. What follows on what is hashed is hashed at once, while others are still on the way."""
        self.pieces[piece] = data
        self.free.pop(piece, None)
        self.asked.pop(piece, None)
        while (following := self.pieces.get(self._hashed)) is not None:
            for digest, _ in self._digests:
                digest.update(following)
            self._hashed += 1

    def matches(self) -> bool:
        """Whether the whole has every hash that is known."""
        return all(digest.digest() == wanted for digest, wanted in self._digests)


def _digests_for(hashes: InfoHashes) -> list[tuple[hashlib._Hash, bytes]]:
    """What to compute of the info dictionary, and what must come of it."""
    v1, v2 = hashes
    found = [] if v1 is None else [(hashlib.sha1(usedforsecurity=False), v1)]
    return found if v2 is None else [*found, (hashlib.sha256(), v2)]


class MetadataFetch:
    """One for a torrent. ``result``: the info dictionary, as soon as it is there and its hashes are right."""

    def __init__(self, hashes: InfoHashes) -> None:
        self.result: bytes | None = None
        self._hashes = hashes
        self._peers: dict[int, _Peer] = {}
        self._attempts: list[_Attempt] = []
        self._guilty: list[int] = []

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes received and bytes wanted of the attempt that has come furthest; (0, 0) before there is one."""
        return max(
            ((sum(map(len, attempt.pieces.values())), attempt.size) for attempt in self._attempts), default=(0, 0)
        )

    @property
    def offers(self) -> int:
        """How many peers say that they have the metadata."""
        return sum(peer.size is not None for peer in self._peers.values())

    # -- what happens ---------------------------------------------------------------------------------------------

    def on_offer(self, key: int, size: int | None) -> None:
        """A peer says that it has metadata of ``size`` bytes, or (None) that it has none."""
        peer = self._peers.setdefault(key, _Peer())
        if peer.size != size:
            self._release(key, peer)
            peer.late.clear()
            peer.size = size

    def on_gone(self, key: int) -> None:
        """A peer left."""
        peer = self._peers.pop(key, None)
        if peer is not None:
            self._release(key, peer)

    def on_reject(self, key: int, piece: int, now: float) -> None:
        """A peer refused a piece: it is left alone for a while. A refusal of what was not asked is ignored."""
        peer = self._peers.get(key)
        if peer is not None and piece in peer.asked:
            del peer.asked[piece]
            self._free(key, peer, [piece])
            self._rest(key, peer, now)

    def on_data(self, key: int, piece: int, total_size: int, data: bytes, now: float) -> None:
        """A piece came. PeerError: it is not what the peer said it had. What was not asked for is ignored."""
        peer = self._peers.get(key)
        if peer is None or not (piece in peer.asked or piece in peer.late):
            return
        attempt = next((one for one in self._attempts if one.takes(key, peer)), None)
        # a breach leaves the piece with what the peer owes, so that it is free when the peer goes
        if total_size != peer.size:
            raise PeerError("metadata of another size than announced")
        if attempt is not None and len(data) != attempt.piece_size(piece):
            raise PeerError(f"a piece of metadata of {len(data)} bytes")
        peer.asked.pop(piece, None)
        peer.late.discard(piece)
        peer.heard, peer.rests_until = now, NEVER
        if attempt is not None and piece not in attempt.pieces:
            attempt.take_in(piece, data)
            attempt.senders.add(key)
            self._judge(attempt)

    def _judge(self, attempt: _Attempt) -> None:
        """If the attempt is whole: believe it, or throw it away."""
        if attempt.free or attempt.asked:
            return
        if attempt.matches():
            self.result = b"".join(attempt.pieces[piece] for piece in sorted(attempt.pieces))
            self._attempts.clear()
            return
        self._attempts.remove(attempt)
        for key, peer in self._peers.items():
            if attempt.takes(key, peer):
                peer.asked.clear()
                peer.late.clear()
        if len(attempt.senders) == 1:
            self._guilty += attempt.senders
        for key in attempt.senders & self._peers.keys():
            self._peers[key].suspect = True

    def take_guilty(self) -> list[int]:
        """The keys of those found out to have lied since the last call."""
        guilty, self._guilty = self._guilty, []
        return guilty

    # -- asking ---------------------------------------------------------------------------------------------------

    def take_requests(self, now: float) -> list[tuple[int, int]]:
        """(key, piece) of what to ask now; it counts as asked. Call it after every answer, and every second."""
        if self.result is not None:
            return []
        for key, peer in self._peers.items():
            if peer.asked and now - max(peer.heard, min(peer.asked.values())) >= METADATA_STALL:
                self._rest(key, peer, now)
        self._choose_attempts(now)
        requests = []
        for key, peer in self._peers.items():
            if peer.size is None or now < peer.rests_until or len(peer.asked) >= METADATA_ASKED:
                continue
            attempt = next((one for one in self._attempts if one.takes(key, peer)), None)
            if attempt is not None:
                wanted = self._wanted(attempt, peer, now)
                if wanted and key not in attempt.tried:
                    attempt.tried.add(key)
                    peer.tries += 1
                for piece in wanted:
                    peer.asked[piece] = attempt.asked[piece] = now
                    attempt.free.pop(piece, None)
                    requests.append((key, piece))
        return requests

    def _wanted(self, attempt: _Attempt, peer: _Peer, now: float) -> list[int]:
        """What to ask of the peer: free pieces, and if there are none, some that another is slow to send."""
        room = METADATA_ASKED - len(peer.asked)
        # what another gave back the peer itself may owe still
        wanted = list(islice((piece for piece in attempt.free if piece not in peer.asked), room))
        if not wanted and not peer.asked:
            slow = (piece for piece, when in attempt.asked.items() if now - when >= METADATA_PATIENCE)
            wanted = list(islice(slow, room))
        return wanted

    def _choose_attempts(self, now: float) -> None:
        """Fill the places for attempts; one that nobody feeds makes room for one that somebody would."""
        candidates = [
            candidate
            for candidate in self._candidates(now)
            if all((attempt.size, attempt.only) != candidate for attempt in self._attempts)
        ]
        for size, only in candidates:
            if len(self._attempts) >= METADATA_ATTEMPTS:
                idle = next((attempt for attempt in self._attempts if not self._is_fed(attempt, now)), None)
                if idle is None:
                    return
                self._attempts.remove(idle)
            self._attempts.append(_Attempt(size, only, self._hashes))

    def _candidates(self, now: float) -> list[tuple[int, int | None]]:
        """(size, only) of possible attempts, first those whose peers were tried least, then what most claim.

        Whoever stalls has had a try, so others get theirs, however many sizes liars think of.
        """
        claims: Counter[tuple[int, int | None]] = Counter()
        tries: dict[tuple[int, int | None], int] = {}
        for key, peer in self._peers.items():
            if peer.size is not None and now >= peer.rests_until:
                candidate = (peer.size, key if peer.suspect else None)
                claims[candidate] += 1
                tries[candidate] = min(peer.tries, tries.get(candidate, peer.tries))
        return sorted(claims, key=lambda candidate: (tries[candidate], -claims[candidate]))

    def _is_fed(self, attempt: _Attempt, now: float) -> bool:
        return any(now >= peer.rests_until and attempt.takes(key, peer) for key, peer in self._peers.items())

    def _rest(self, key: int, peer: _Peer, now: float) -> None:
        peer.rests_until = now + METADATA_REST
        peer.late |= peer.asked.keys()
        self._release(key, peer)

    def _release(self, key: int, peer: _Peer) -> None:
        """Nothing more is expected of the peer: others may be asked."""
        self._free(key, peer, peer.asked)
        peer.asked.clear()

    def _free(self, key: int, peer: _Peer, pieces: Iterable[int]) -> None:
        for attempt in self._attempts:
            if attempt.takes(key, peer):
                for piece in pieces:
                    if attempt.asked.pop(piece, None) is not None:
                        attempt.free[piece] = None
