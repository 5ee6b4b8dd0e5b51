"""Any order of events, against a model that knows nothing but sets of blocks (P7)."""

from __future__ import annotations

import random

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize, rule

from btor.limits import BLOCK, BLOCK_OWNERS
from btor.metainfo.bitfield import Bitfield
from btor.metainfo.geometry import Geometry
from btor.swarm.availability import Availability
from btor.swarm.picker import Picker, Run
from btor.swarm.source import Source
from tests.machine import Bug, Machine, explore, finds, named

Block = tuple[int, int]


def blocks_of(runs: list[Run]) -> set[Block]:
    found = {(piece, block) for piece, first, count in runs for block in range(first, first + count)}
    assert len(found) == sum(count for _, _, count in runs)  # no run overlaps another
    return found


class PickerMachine(Machine):
    """The model: which pieces are had, which blocks have come, what each source was asked and may still answer."""

    sources = Bundle("sources")

    @initialize(pieces=st.integers(1, 12), blocks=st.integers(1, 5), short=st.booleans(), seed=st.integers(0, 9))
    def begin(self, pieces: int, blocks: int, short: bool, seed: int) -> None:
        length = blocks * BLOCK
        self.geometry = Geometry(pieces * length - (length // 2 if short else 0), length)
        self.picker = Picker(self.geometry, Bitfield(pieces), random.Random(seed))
        self.now = 0.0
        self.keys = 0
        self.had: set[int] = set()
        self.came: set[Block] = set()  # blocks of pieces without a verdict
        self.due: set[int] = set()  # pieces whose verdict is due
        self.failed: set[int] = set()  # pieces that failed and have not passed
        self.senders: dict[int, set[int]] = {}
        self.has: dict[int, set[int]] = {}
        self.asked: dict[int, set[Block]] = {}
        self.late: dict[int, set[Block]] = {}

    def every_block(self, piece: int) -> set[Block]:
        return {(piece, block) for block in range(self.geometry.block_count(piece))}

    def missing(self) -> set[Block]:
        pieces = set(range(self.geometry.piece_count)) - self.had
        return {block for piece in pieces for block in self.every_block(piece)} - self.came

    # --- sources -------------------------------------------------------------------------------------------------

    @rule(target=sources, choked=st.booleans(), rate=st.sampled_from([0.0, 1e9]))
    def join(self, choked: bool, rate: float) -> Source:
        source = self.picker.add_source(self.keys)
        self.has[self.keys], self.asked[self.keys], self.late[self.keys] = set(), set(), set()
        self.keys += 1
        source.choked, source.rate = choked, rate
        return source

    @rule(source=consumes(sources))
    def leave(self, source: Source) -> None:
        self.picker.remove_source(source)
        del self.has[source.key], self.asked[source.key], self.late[source.key]
        self.settle()

    @rule(source=sources, numbers=st.sets(st.integers(0, 11)), everything=st.booleans())
    def bitfield(self, source: Source, numbers: set[int], everything: bool) -> None:
        count = self.geometry.piece_count
        pieces = set(range(count)) if everything else {piece for piece in numbers if piece < count}
        bits = Bitfield(count)
        for piece in pieces:
            bits.add(piece)
        self.picker.on_bitfield(source, bits)
        self.has[source.key] = pieces
        self.settle()

    @rule(source=sources, number=st.integers(0, 11))
    def have(self, source: Source, number: int) -> None:
        piece = number % self.geometry.piece_count
        assert self.picker.on_have(source, piece) == (piece not in self.has[source.key])
        self.has[source.key].add(piece)
        self.settle()

    @rule(source=sources, number=st.integers(0, 11))
    def dont_have(self, source: Source, number: int) -> None:
        piece = number % self.geometry.piece_count
        self.picker.on_dont_have(source, piece)
        self.has[source.key].discard(piece)
        dropped = self.every_block(piece) & self.asked[source.key]
        self.asked[source.key] -= dropped
        self.late[source.key] |= dropped
        self.settle()

    @rule(source=sources, number=st.integers(0, 11))
    def suggest(self, source: Source, number: int) -> None:
        self.picker.on_suggest(source, number % self.geometry.piece_count, self.now)

    @rule(source=sources, snubbed=st.booleans())
    def snub(self, source: Source, snubbed: bool) -> None:
        source.snubbed = snubbed

    @rule(source=sources)
    def unchoke(self, source: Source) -> None:
        source.choked = False

    @rule(source=sources, told=st.booleans())
    def choke(self, source: Source, told: bool) -> None:
        source.choked = True
        if not told:  # without the fast extension
            self.picker.on_choked(source)
            self.late[source.key] |= self.asked[source.key]
            self.asked[source.key].clear()
        self.settle()

    # --- asking and answering ------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.05, 1.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(source=sources, room=st.integers(0, 12))
    def take(self, source: Source, room: int) -> None:
        free = self.obtainable() - set().union(*self.asked.values())
        idle = not self.asked[source.key]
        runs = self.picker.take(source, room, self.now)
        restarted = set(self.picker.take_restarts())
        assert restarted <= self.failed | self.alone()
        for piece in restarted:
            self.came -= self.every_block(piece)
            self.senders.pop(piece, None)
        self.drain_cancels()
        blocks = blocks_of(runs)
        assert len(blocks) <= max(room, 0)
        assert not blocks & self.asked[source.key]
        assert blocks <= self.missing()
        assert {piece for piece, _ in blocks} <= self.has[source.key]
        if source.choked:
            assert not blocks
        doubled = blocks & set().union(*self.asked.values())
        if doubled:
            assert idle and not free and len(blocks) == 1 and not source.on_parole
            assert sum(doubled <= asked for asked in self.asked.values()) < BLOCK_OWNERS
        self.asked[source.key] |= blocks
        self.settle()

    @rule(source=sources, numbers=st.lists(st.integers(0, 11), max_size=4), room=st.integers(0, 12))
    def take_allowed(self, source: Source, numbers: list[int], room: int) -> None:
        pieces = [number % self.geometry.piece_count for number in numbers]
        blocks = blocks_of(self.picker.take_allowed(source, pieces, room))
        assert len(blocks) <= room
        assert not blocks & set().union(*self.asked.values())
        assert blocks <= self.missing()
        assert {piece for piece, _ in blocks} <= self.has[source.key] & set(pieces)
        self.asked[source.key] |= blocks
        self.settle()

    def obtainable(self) -> set[tuple[int, int]]:
        """What is missing and not with nobody."""
        somewhere = set().union(*self.has.values())
        return {block for block in self.missing() if block[0] in somewhere}

    def alone(self) -> set[int]:
        return {piece for piece, open_ in self.picker._open.items() if open_.alone is not None}

    def drain_cancels(self) -> None:
        for source, piece, block in self.picker.take_cancels():
            self.asked[source.key].remove((piece, block))
            self.late[source.key].add((piece, block))

    @rule(source=sources, number=st.integers(0, 11), first=st.integers(0, 4), count=st.integers(1, 5))
    def any_blocks(self, source: Source, number: int, first: int, count: int) -> None:
        piece = number % self.geometry.piece_count
        first %= self.geometry.block_count(piece)
        self.receive(source, piece, first, min(count, self.geometry.block_count(piece) - first))

    @rule(source=sources, which=st.randoms(use_true_random=False))
    def asked_block(self, source: Source, which: random.Random) -> None:
        if self.asked[source.key]:
            piece, block = which.choice(sorted(self.asked[source.key]))
            self.receive(source, piece, block, 1)

    @rule(source=sources)
    def all_asked_blocks(self, source: Source) -> None:
        for piece, block in sorted(self.asked[source.key]):
            if (piece, block) in self.asked[source.key]:
                self.receive(source, piece, block, 1)

    def receive(self, source: Source, piece: int, first: int, count: int) -> None:
        key = source.key
        sent = blocks_of([(piece, first, count)])
        answered = sent & self.asked[key]
        forgiven = (sent - answered) & self.late[key]
        requested, new, complete = self.picker.on_blocks(source, piece, first, count)
        assert requested == sum(1 << block for _, block in answered | forgiven)
        self.asked[key] -= answered
        self.late[key] -= forgiven
        useful = {block for block in (answered | forgiven) & self.missing() if piece not in self.due}
        got = {(piece, block) for block in range(5) if new >> block & 1}
        if got != useful:  # what another fills alone refuses blocks that it lacks, and on parole none opens a piece
            assert not got
            assert piece in self.alone() or (source.on_parole and piece not in self.picker._open)
        self.came |= got
        if got:
            self.senders.setdefault(piece, set()).add(key)
        if piece in self.failed:
            assert len(self.senders.get(piece, ())) <= 1
        assert complete == bool(got and self.every_block(piece) <= self.came)
        if complete:
            self.due.add(piece)
        self.drain_cancels()
        self.settle()

    @rule(source=sources, number=st.integers(0, 11), first=st.integers(0, 4), count=st.integers(1, 5))
    def time_out(self, source: Source, number: int, first: int, count: int) -> None:
        run = (number % self.geometry.piece_count, first, count)
        dropped = blocks_of([run]) & self.asked[source.key]
        self.picker.release(source, [run])
        self.asked[source.key] -= dropped
        self.late[source.key] |= dropped
        self.settle()

    # --- verdicts ------------------------------------------------------------------------------------------------

    @rule(passes=st.booleans(), which=st.randoms(use_true_random=False))
    def verdict(self, passes: bool, which: random.Random) -> None:
        if self.due:
            piece = which.choice(sorted(self.due))
            self.judge(piece, passes)

    def judge(self, piece: int, passes: bool) -> None:
        self.due.remove(piece)
        self.came -= self.every_block(piece)
        senders = self.senders.pop(piece)
        if passes:
            self.had.add(piece)
            self.failed.discard(piece)
            self.picker.on_verified(piece)
        else:
            self.failed.add(piece)
            self.picker.on_failed(piece, senders)
        self.settle()

    @rule(number=st.integers(0, 11))
    def found_on_disk(self, number: int) -> None:
        piece = number % self.geometry.piece_count
        if piece not in self.due:
            self.picker.on_verified(piece)
            self.had.add(piece)
            self.came -= self.every_block(piece)
            self.failed.discard(piece)
            self.senders.pop(piece, None)
            self.drain_cancels()
            self.settle()

    # --- what must hold ------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Facts of the picker against those of the model, after each step."""
        picker = self.picker
        picker.check_invariants()
        for piece in picker.take_restarts():  # an owner has left
            self.came -= self.every_block(piece)
            self.senders.pop(piece, None)
        self.drain_cancels()
        assert set(picker.have) == self.had
        for key, source in picker.sources.items():
            outstanding = {
                (piece, block) for piece, mask in source.outstanding.items() for block in range(5) if mask >> block & 1
            }
            assert outstanding == self.asked[key]
            assert picker.is_interesting(source) == bool(self.has[key] - self.had)
        for piece in range(self.geometry.piece_count):
            missing = picker._open[piece].missing if piece in picker._open else ~0
            arrived = {block for block in self.every_block(piece) if not missing >> block[1] & 1}
            assert arrived == {block for block in self.came if block[0] == piece}
        if picker.in_endgame:
            assert not self.obtainable() - set().union(*self.asked.values())

    def teardown(self) -> None:
        """Whatever has happened, one honest source is enough to finish: no piece is stuck."""
        if not hasattr(self, "picker"):
            return
        picker = self.picker
        for piece in list(self.due):
            self.judge(piece, True)
        self.join(False, 0.0)
        last = next(iter(picker.sources.values()))
        for source in list(picker.sources.values()):
            if source is not last:
                self.leave(source)
        last.choked = last.snubbed = False
        self.bitfield(last, set(), True)
        for _ in range(300):
            if picker.have.complete:
                break
            self.now += 5.0
            self.take(last, 8)
            self.all_asked_blocks(last)
            for piece in list(self.due):
                self.judge(piece, True)
        assert picker.have.complete


def test_any_order_of_events() -> None:
    explore(PickerMachine)


BUGS = [
    Bug("a block whose request is given back is free for nobody", Picker, "_give_back", "open_.free |= mask", "pass"),
    Bug("a block that is asked stays free", Picker, "_ask", "open_.free ^= taken", "pass"),
    Bug(
        "a source that leaves is taken off the counts wrongly",
        Availability,
        "remove",
        "borrow &= planes[k]",
        "borrow &= plane",
    ),
]


@named(BUGS)
def test_planted_bugs_are_found(bug: Bug) -> None:
    finds(PickerMachine, bug)
