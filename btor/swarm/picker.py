"""Which blocks to ask of whom. Pure: told what happens by ``on_*``, asked by ``take`` and ``take_*``.

What always holds (``check_invariants``):

- A piece is in exactly one of four sets: had (verified), untouched, open, or neither had nor wanted.
- In an open piece a block is arrived, free, or outstanding at 1 … BLOCK_OWNERS sources; more than one only since an
  endgame. So a missing block is never forgotten: it is free, or somebody owes it to us.
- An open piece with free blocks is in exactly one index (``partials``): shared, reserved for one fast source, or alone.
- A piece filled *alone* has one owner, and nobody else's block enters it: pieces that failed their hash, and pieces
  of a source that had a part in one (parole). The next verdict on the piece is then a verdict on its owner.

Blocks are handled in runs, and sets of blocks of a piece are masks: bit i is block i. There is an object for an open
piece and none for a block.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Final

from btor import limits
from btor.metainfo.bitfield import Bitfield
from btor.metainfo.geometry import Geometry
from btor.swarm.holdings import Holdings
from btor.swarm.partials import Alone, OpenPiece, Partials
from btor.swarm.source import Source

if TYPE_CHECKING:
    import random

Run = tuple[int, int, int]  # (piece, first block, count): consecutive blocks of one piece
Cancel = tuple[Source, int, int]  # (source, piece, block)

SHARE: Final = 0.5  # of what is missing, over all that download beside us: see Picker._fair_room
SHARE_MIN: Final = 16  # blocks
SHARE_LATENCIES: Final = 2.0
RETRY: Final = 2.0  # s between requests of blocks that the source let time out or rejected, if nobody else has them


class Picker(Holdings):
    """The picker of one torrent: what is asked of the sources, on top of what they have (``Holdings``)."""

    def __init__(self, geometry: Geometry, have: Bitfield, rng: random.Random, wanted: Bitfield | None = None) -> None:
        super().__init__(geometry, have, rng, wanted)
        self._open: dict[int, OpenPiece] = {}
        self._partials = Partials()
        self._cancels: list[Cancel] = []
        self._restarts: list[int] = []

    def remove_source(self, source: Source) -> None:
        """The source is gone: what was asked of it is free again, what it has no longer counts."""
        for piece, mask in list(source.outstanding.items()):
            self._give_back(source, piece, mask)
        for open_ in list(source.own.values()):
            if open_.alone is None:
                self._partials.share(open_)
            else:
                self._restart(open_)
                self._close_if_idle(open_)
        self._forget(source)

    # --- asking --------------------------------------------------------------------------------------------------

    def take(self, source: Source, room: int, now: float) -> list[Run]:
        """Up to ``room`` blocks to ask of ``source`` now; they count as outstanding there.

        Nothing while the source is choked or ``room`` < 1. In this order: pieces kept for it, pieces that failed,
        partial pieces, new pieces by rarity, partial pieces kept for others; and if it is idle then, in the endgame
        one block that was asked of others too. The answer can change with time alone: ask idle sources every second.
        """
        runs: list[Run] = []
        if source.choked:
            return runs
        room = self._fair_room(source, room)
        if room < 1:
            return runs
        if source.own:
            room = self._take_partials(source, source.own, room, runs)
        if room and self._partials.alone:
            room = self._adopt(source, room, now, runs)
        # a snubbed source must not hold up what others share, and one on parole must not have a part in it
        aloof = source.snubbed or source.on_parole
        if room and not aloof:
            if self._partials.shared:
                room = self._take_partials(source, self._partials.shared, room, runs)
            if room and self._partials.reserved and self._crowded():
                room = self._take_partials(source, self._partials.reserved, room, runs)
        if room and self._choices.count:
            room = self._take_new(source, room, now, runs)
        if room and (not aloof or not (runs or source.outstanding_count)):
            for index in (self._partials.shared, self._partials.reserved):
                if room and index:
                    room = self._take_partials(source, index, room, runs)
        if not runs and not source.outstanding_count:
            if source.avoid and now >= source.retry_at:
                source.retry_at = now + RETRY
                self._choices.trust_again(source)
                return self.take(source, room, now)
            if self.in_endgame and not source.on_parole:
                self._take_busy(source, runs)
        return runs

    def _fair_room(self, source: Source, room: int) -> int:
        """Of ``room`` what may be asked of ``source`` while others download beside us.

        They ask it too, and what two of us have asked it sends twice, though one could pass it on to the other. So
        where little is missing no more is asked ahead than a share of that, or what keeps the source busy.
        """
        leechers = len(self.sources) - self._availability.seeds - (not source.complete)
        if not leechers:
            return room
        missing = self.missing * self.geometry.blocks_per_piece
        share = int(SHARE * missing / (leechers + 1))
        busy = int(SHARE_LATENCIES * source.latency * source.rate / limits.BLOCK)
        most = max(share, busy, SHARE_MIN)
        asked = source.outstanding_count
        return min(room, most - asked) if 4 * asked <= 3 * most else 0  # in batches, as RequestQueue.room

    def _crowded(self) -> bool:
        """Whether so many pieces are partial that they come before new ones, whoever they are kept for."""
        partial = len(self._partials.shared) + len(self._partials.reserved)
        return (
            partial > limits.OPEN_PIECES_PER_PEER * len(self.sources)
            or partial * self.geometry.blocks_per_piece > limits.OPEN_BLOCKS
        )

    def _take_partials(self, source: Source, index: dict[int, OpenPiece], room: int, runs: list[Run]) -> int:
        """Ask free blocks of the pieces in ``index``; the room that is left."""
        avoid = source.avoid
        chosen: list[tuple[OpenPiece, int]] = []
        left = room
        for piece, open_ in index.items():
            if source.has(piece):
                mask = open_.free
                if avoid:
                    mask ^= mask & avoid.get(piece, 0)
                if mask:
                    chosen.append((open_, mask))
                    left -= mask.bit_count()
                    if left <= 0:
                        break
        for open_, mask in chosen:
            room = self._ask(source, open_, mask, room, runs)
        return room

    def _ask(self, source: Source, open_: OpenPiece, mask: int, room: int, runs: list[Run]) -> int:
        """Ask the lowest ``room`` blocks of ``mask``, which are free; the room that is left."""
        piece = open_.index
        taken = asked = 0
        while mask and room:
            first = (mask & -mask).bit_length() - 1
            rest = mask >> first
            count = min((~rest & (rest + 1)).bit_length() - 1, room)
            run = ((1 << count) - 1) << first
            runs.append((piece, first, count))
            mask ^= run
            taken |= run
            asked += count
            room -= count
        source.ask(piece, taken, asked)
        if open_.alone is not None:
            open_.alone.stalled = False
        elif open_.owner is not None and open_.owner is not source:
            self._partials.share(open_)
        open_.free ^= taken
        if not open_.free:
            self._partials.remove(open_)
        return room

    def _take_new(self, source: Source, room: int, now: float, runs: list[Run]) -> int:
        geometry = self.geometry
        blocks = geometry.blocks_per_piece
        last = geometry.piece_count - 1
        per_owner = source.rate * limits.AFFINITY_SECONDS
        while room:
            random_first = limits.RANDOM_FIRST_PIECES - self.have.count - len(self._open)
            picked = self._choices.pick(source, -(-room // blocks), now, random_first)
            if not picked:
                break
            for piece in picked:
                count = blocks if piece != last else geometry.block_count(piece)
                every = (1 << count) - 1
                asked = count if count <= room else room
                mask = (1 << asked) - 1
                self._open[piece] = open_ = OpenPiece(piece, every, every ^ mask)
                source.outstanding[piece] = mask
                source.outstanding_count += asked
                runs.append((piece, 0, asked))
                room -= asked
                if source.on_parole:
                    open_.alone = Alone(set())
                    open_.owner = source
                elif open_.free and per_owner >= geometry.piece_size(piece) and not self._crowded():
                    open_.owner = source
                if open_.free:
                    self._partials.put(open_)
        return room

    def take_allowed(self, source: Source, pieces: Iterable[int], room: int) -> list[Run]:
        """As ``take``, of a source that chokes us but lets us have these pieces (allowed fast, BEP 6).

        What it refused or was slow to send is not asked again while it chokes us.
        """
        runs: list[Run] = []
        if source.snubbed or source.on_parole:
            return runs
        for piece in pieces:
            if room > 0 and source.has(piece) and piece not in source.avoid:
                open_ = self._reopen(piece) if piece in self._choices else self._open.get(piece)
                if open_ is not None and open_.alone is None and open_.free:
                    room = self._ask(source, open_, open_.free, room, runs)
        return runs

    # --- pieces that one source fills alone ----------------------------------------------------------------------

    def _adopt(self, source: Source, room: int, now: float, runs: list[Run]) -> int:
        """Become the owner of pieces that must be filled alone and that nobody is filling; the room that is left."""
        for open_ in list(self._partials.alone.values()):
            if room and open_.owner is not source and source.has(open_.index):
                owner, alone = open_.owner, open_.alone
                assert alone is not None
                if owner is not None and not (owner.choked or owner.snubbed or alone.stalled):
                    continue
                if alone.waiting_since is None:
                    alone.waiting_since = now
                patient = now < alone.waiting_since + limits.AFFINITY_SECONDS
                if patient and source.key in alone.suspects and self._has_stranger(open_.index, alone.suspects):
                    continue
                self._restart(open_)
                open_.owner = source
                source.own[open_.index] = open_
                room = self._ask(source, open_, open_.free, room, runs)
        return room

    def _has_stranger(self, piece: int, suspects: set[int]) -> bool:
        """Whether a source that had no part in the failed ``piece`` could send it."""
        return any(
            not (other.choked or other.snubbed) and other.key not in suspects and other.has(piece)
            for other in self.sources.values()
        )

    def _restart(self, open_: OpenPiece) -> None:
        """Void what came of a piece that is filled alone; it has no owner then."""
        piece, owner, alone = open_.index, open_.owner, open_.alone
        assert alone is not None
        every = self.geometry.all_blocks(piece)
        if owner is not None:
            owed = owner.outstanding.get(piece, 0)
            if owed:
                owner.drop(piece, owed)
                self._cancel(owner, piece, owed)
            owner.own.pop(piece, None)
            open_.owner = None
        if open_.missing != every:
            self._restarts.append(piece)
        open_.missing = open_.free = every
        alone.stalled = False
        alone.waiting_since = None
        self._partials.alone[piece] = open_

    # --- the endgame ---------------------------------------------------------------------------------------------

    @property
    def in_endgame(self) -> bool:
        """Whether every missing block is asked of somebody, those apart that nobody here has."""
        return bool(self._open) and not (self._choices.obtainable() or any(map(self.availability, self._partials)))

    def _take_busy(self, source: Source, runs: list[Run]) -> None:
        """Ask one block that others owe us, of a random piece, with few owners if there is one; the source is idle.

        If all that it could send has its full number of owners, one that is snubbed makes room for it.
        """
        pieces = list(self._open.values())
        start = self._rng.randrange(len(pieces))
        for open_ in pieces[start:] + pieces[:start]:
            busy = open_.missing
            if busy and open_.alone is None and source.has(open_.index):
                if open_.extra is None:
                    open_.extra = [0] * (limits.BLOCK_OWNERS - 1)
                busy ^= busy & source.avoid.get(open_.index, 0)
                for layer, owned in enumerate(open_.extra):
                    fewer = busy ^ (busy & owned)
                    if fewer:
                        block = self._any_block(fewer)
                        open_.extra[layer] |= 1 << block
                        source.ask(open_.index, 1 << block, 1)
                        runs.append((open_.index, block, 1))
                        return
        if not source.snubbed:
            self._take_over(source, runs)

    def _take_over(self, source: Source, runs: list[Run]) -> None:
        """Ask one block that a snubbed source owes us, in its place; the source, which answers, is idle.

        Without this a few silent sources would keep the last block from all others, each for a whole time-out.
        """
        for other in self.sources.values():
            if other.snubbed:
                for piece, owed in other.outstanding.items():
                    owed ^= owed & source.avoid.get(piece, 0)
                    if owed and self._open[piece].alone is None and source.has(piece):
                        block = self._any_block(owed)
                        other.drop(piece, 1 << block)
                        self._cancel(other, piece, 1 << block)
                        source.ask(piece, 1 << block, 1)
                        runs.append((piece, block, 1))
                        return

    def _any_block(self, mask: int) -> int:
        shift = self._rng.randrange(mask.bit_length())
        high = mask >> shift
        return shift + (high & -high).bit_length() - 1

    # --- what comes back -----------------------------------------------------------------------------------------

    def on_blocks(self, source: Source, piece: int, first: int, count: int) -> tuple[int, int, bool]:
        """``count`` blocks of ``piece`` from block ``first`` on have come from ``source``; all inside the piece.

        Returns three things about them. A mask of those that were outstanding at this source or are forgiven (timed
        out, cancelled or choked away before): any other was not requested. A mask of those that are new: keep them,
        and only them. Whether the piece now has all its blocks: a verdict is due (``on_verified``, ``on_failed``).

        A late block opens a piece that became untouched meanwhile: else a source that is slower than our patience
        would send everything for nothing.
        """
        mask = ((1 << count) - 1) << first
        owed = source.outstanding.get(piece, 0)
        asked = owed & mask
        if asked:
            if owed == asked:
                del source.outstanding[piece]
            else:
                source.outstanding[piece] = owed ^ asked
            source.outstanding_count -= count if asked == mask else asked.bit_count()
        late = source.pardon(piece, mask ^ asked) if asked != mask else 0
        if source.avoid:
            self._choices.trust_again(source)
        open_ = self._open.get(piece)
        if open_ is None and late and piece in self._choices and not source.on_parole:
            open_ = self._reopen(piece)
        if open_ is None or (open_.alone is not None and open_.owner is not source):
            return asked | late, 0, False
        new = open_.missing & (asked | late)
        if not new:
            return asked | late, 0, False
        open_.missing ^= new
        if late or open_.extra is not None:
            self._settle(open_, new)
        return asked | late, new, not open_.missing

    def _reopen(self, piece: int) -> OpenPiece:
        """Open the untouched ``piece``, all of whose blocks are free."""
        self._choices.take_out(piece)
        every = self.geometry.all_blocks(piece)
        self._open[piece] = open_ = OpenPiece(piece, every, every)
        self._partials.put(open_)
        return open_

    def _settle(self, open_: OpenPiece, new: int) -> None:
        """Blocks have arrived that may be free, or still owed by others: nobody else is to send them."""
        piece = open_.index
        if open_.free & new:
            open_.free ^= open_.free & new
            if not open_.free:
                self._partials.remove(open_)
        if open_.extra is not None:
            open_.extra = [layer ^ (layer & new) for layer in open_.extra]
        for other in self.sources.values():
            owed = other.outstanding.get(piece, 0) & new
            if owed:
                other.drop(piece, owed)
                self._cancel(other, piece, owed)

    def _cancel(self, source: Source, piece: int, mask: int) -> None:
        while mask:
            block = mask.bit_length() - 1
            mask ^= 1 << block
            self._cancels.append((source, piece, block))

    def take_cancels(self) -> list[Cancel]:
        """Requests that are void since the last call; they are outstanding no more, and forgiven if they come."""
        cancels = self._cancels
        if cancels:
            self._cancels = []
        return cancels

    def take_restarts(self) -> list[int]:
        """Open pieces that began anew from nothing since the last call: what had come of them is void."""
        restarts = self._restarts
        if restarts:
            self._restarts = []
        return restarts

    def on_choked(self, source: Source) -> None:
        """The source chokes us and will answer nothing of what is outstanding; what is on its way is forgiven."""
        source.choked = True
        for piece, mask in list(source.outstanding.items()):
            self._give_back(source, piece, mask)

    def on_dont_have(self, source: Source, piece: int) -> None:
        """The source has ``piece`` no longer (BEP 54): what was asked of it there is free again."""
        owed = source.outstanding.get(piece, 0)
        if owed:
            self._give_back(source, piece, owed)
        open_ = source.own.get(piece)
        if open_ is not None and open_.alone is None:
            self._partials.share(open_)
        elif open_ is not None:
            self._restart(open_)
            self._close_if_idle(open_)
        self._lose(source, piece)

    def release(self, source: Source, runs: Iterable[Run]) -> None:
        """Those of the blocks that are outstanding have taken too long: others may be asked, late ones are forgiven."""
        for piece, first, count in runs:
            mask = source.outstanding.get(piece, 0) & ((1 << count) - 1) << first
            if mask:
                source.shun(piece, mask)
                self._give_back(source, piece, mask)

    def _give_back(self, source: Source, piece: int, mask: int) -> None:
        """The blocks in ``mask`` are outstanding at ``source`` no more, and free unless others owe them."""
        source.drop(piece, mask)
        open_ = self._open[piece]
        if open_.extra is not None:
            for layer in reversed(range(len(open_.extra))):
                shared = open_.extra[layer] & mask
                open_.extra[layer] ^= shared
                mask ^= shared
        open_.free |= mask
        if open_.alone is not None:
            open_.alone.stalled = True
        elif open_.owner is not None:
            self._partials.share(open_)
        if open_.free:
            self._partials.put(open_)
            self._close_if_idle(open_)

    # --- verdicts ------------------------------------------------------------------------------------------------

    def on_verified(self, piece: int) -> None:
        """``piece`` is had: its hash is right and its bytes are written."""
        if not self.have.add(piece) or piece not in self.wanted:
            return
        self.missing -= 1
        open_ = self._open.pop(piece, None)
        if open_ is None:
            self._choices.take_out(piece)
            return
        if open_.missing:
            self._settle(open_, open_.missing)
        if open_.alone is not None:
            if open_.owner is not None:
                open_.owner.on_parole = False
            suspects = set().union(*(other.alone.suspects for other in self._open.values() if other.alone))
            for key in (open_.alone.suspects & self.sources.keys()) - suspects:
                self.sources[key].on_parole = False

    def on_lost(self, piece: int) -> None:
        """``piece`` was had and is no more: somebody has changed it on the disk."""
        if self.have.discard(piece) and piece in self.wanted:
            self.missing += 1
            self._choices.put_back(piece)
            for source in self.sources.values():
                source.witness = None

    def on_failed(self, piece: int, contributors: Collection[int]) -> None:
        """All blocks of the open ``piece`` had come and its hash is wrong: it begins anew, filled by one at a time.

        ``contributors``: the keys of those who sent its blocks (``Blame.contributors``); those still here are on
        parole from now on. None: it was nobody's fault, the piece is untouched again. KeyError: it is not open.
        """
        open_ = self._open[piece]
        suspects = set(contributors)
        if open_.alone is not None:
            suspects |= open_.alone.suspects
        if not suspects:
            del self._open[piece]
            self._choices.put_back(piece)
            return
        open_.owner = None
        open_.extra = None
        open_.alone = Alone(suspects)
        open_.missing = open_.free = self.geometry.all_blocks(piece)
        self._partials.put(open_)
        for key in suspects & self.sources.keys():
            self.sources[key].on_parole = True

    def _close_if_idle(self, open_: OpenPiece) -> None:
        """A piece of which nothing has come and nothing is asked is untouched again, unless it has failed."""
        piece = open_.index
        if open_.free == self.geometry.all_blocks(piece) and not (open_.alone and open_.alone.suspects):
            self._partials.remove(open_)
            del self._open[piece]
            self._choices.put_back(piece)

    # --- looking in ----------------------------------------------------------------------------------------------

    def check_invariants(self) -> None:
        """AssertionError unless what the head of this module says holds. Slow: for tests."""
        partials = self._partials
        assert self.missing == sum(piece not in self.have for piece in self.wanted)
        assert self._choices.count == sum(piece in self._choices for piece in range(self.geometry.piece_count))
        for piece in range(self.geometry.piece_count):
            sought = (piece in self._choices) + (piece in self._open)
            assert sought == (piece in self.wanted and piece not in self.have)
            assert self.availability(piece) == sum(source.has(piece) for source in self.sources.values())
        for piece, open_ in self._open.items():
            layers = [0] * (limits.BLOCK_OWNERS + 1)
            for source in self.sources.values():
                carry = source.outstanding.get(piece, 0)
                assert not carry or open_.alone is None or open_.owner is source
                for level, layer in enumerate(layers):
                    layers[level], carry = layer | carry, layer & carry
            assert open_.missing | self.geometry.all_blocks(piece) == self.geometry.all_blocks(piece)
            assert not open_.free & layers[0]
            assert open_.free | layers[0] == open_.missing
            assert layers[1:] == [*(open_.extra or [0] * (limits.BLOCK_OWNERS - 1)), 0]
            where = partials.alone if open_.alone else partials.reserved if open_.owner else partials.shared
            found = [index for index in (partials.alone, partials.reserved, partials.shared) if piece in index]
            assert found == ([where] if open_.free else [])
            for source in self.sources.values():
                assert (piece in source.own) == (bool(open_.free) and open_.owner is source)
        for source in self.sources.values():
            assert self._open.keys() >= source.outstanding.keys()
            assert all(source.outstanding.values())
            assert source.outstanding_count == sum(mask.bit_count() for mask in source.outstanding.values())
            assert max(len(source.forgiven), len(source.avoid)) <= limits.FORGIVEN_PIECES
            assert source.complete == (source.have_count == self.geometry.piece_count)
