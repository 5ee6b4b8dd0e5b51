"""Rate limits hold, whoever asks, and are shared fairly. What is measured is what arrives at the far end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

from btor.engine.limiter import PACE, Pacer, UploadGate
from btor.engine.torrent import Torrent
from btor.limits import BLOCK, RATE_BURST, SEND_GULP
from btor.swarm.rates import TokenBucket
from tests.engine.support import Lab, Sample, hear_interest, sample, scenario, until
from tests.simulated.schedule import simulate
from tests.simulated.scripted_peer import INTERESTED, PIECE, UNCHOKE, DisconnectedError, ScriptedPeer

SLOW, FAST = 50_000, 50_000_000
SECONDS = 10.0
TOLERANCE = 0.05


class Sender:
    """Sends as much as its gate allows."""

    def __init__(self, gate: UploadGate) -> None:
        self.gate = gate
        self.moved = 0
        self._left = 0  # of the block that is half sent

    async def run(self) -> None:
        while True:
            count = await self.gate.allowance(inside_block=self._left > 0)
            assert 0 < count <= SEND_GULP
            if count >= self._left:  # it ends with a block if it can
                count = self._left + (count - self._left) // BLOCK * BLOCK or count
            self.gate.bucket.take(count, trio.current_time())
            self.moved += count
            self._left = (self._left - count) % BLOCK
            await trio.lowlevel.checkpoint()


class Peer:
    """Answers what it is asked after a moment. ``room``: blocks that may be outstanding."""

    def __init__(self, nursery: trio.Nursery, room: int = 500, latency: float = 0.05) -> None:
        self.nursery = nursery
        self.room = room
        self.latency = latency
        self.outstanding = 0
        self.moved = 0

    def fill_requests(self, _now: float, allowance: int | None = None) -> int:
        asked = min(self.room - self.outstanding, allowance or 0)
        if asked > 0:
            self.outstanding += asked
            self.nursery.start_soon(self._answer, asked)
        return asked

    async def _answer(self, blocks: int) -> None:
        await trio.sleep(self.latency)
        self.outstanding -= blocks
        self.moved += blocks * BLOCK

    def flush(self) -> None:
        """Requests leave at once."""


class Stub:
    """What the pacer needs of a torrent."""

    def __init__(self, upload: TokenBucket, download: TokenBucket) -> None:
        self.upload = UploadGate(upload)
        self.download = download
        self.peers: list[Peer] = []
        self._turn = 0

    def peers_in_turn(self) -> list[Peer]:
        self._turn = (self._turn + 1) % len(self.peers) if self.peers else 0
        return self.peers[self._turn :] + self.peers[: self._turn]


async def measure(stubs: list[Stub], movers: Sequence[Sender | Peer], seconds: float = SECONDS) -> list[int]:
    """Let the pacer and the senders go on; how much each of the movers moved in so long, after a moment to settle."""
    async with trio.open_nursery() as nursery:
        pacer = Pacer(lambda: stubs)  # type: ignore[arg-type, return-value]  # stubs will do
        pacer.wake()
        nursery.start_soon(pacer.run)
        for mover in movers:
            if isinstance(mover, Sender):
                nursery.start_soon(mover.run)
        await trio.sleep(2)
        before = [mover.moved for mover in movers]
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    return [mover.moved - had for mover, had in zip(movers, before, strict=True)]


def fair(amounts: list[int], within: float) -> bool:
    mean = sum(amounts) / len(amounts)
    return all(abs(amount - mean) <= within * mean for amount in amounts)


@pytest.mark.parametrize("rate", [SLOW, FAST])
@pytest.mark.parametrize("count", [1, 50])
def test_upload(rate: int, count: int) -> None:
    async def main() -> None:
        stub = Stub(TokenBucket(rate), TokenBucket(None))
        senders = [Sender(stub.upload) for _ in range(count)]
        amounts = await measure([stub], senders)
        assert sum(amounts) == pytest.approx(rate * SECONDS, rel=TOLERANCE)
        assert max(amounts) - min(amounts) <= max(2 * BLOCK, 0.2 * rate * SECONDS / count)

    simulate(main)


@pytest.mark.parametrize("rate", [SLOW, FAST])
@pytest.mark.parametrize("count", [1, 50])
def test_download(rate: int, count: int) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            stub = Stub(TokenBucket(None), TokenBucket(rate))
            stub.peers = [Peer(nursery) for _ in range(count)]
            amounts = await measure([stub], stub.peers)
            assert sum(amounts) == pytest.approx(rate * SECONDS, rel=TOLERANCE)
            assert max(amounts) - min(amounts) <= max(2 * BLOCK, 0.2 * rate * SECONDS / count)
            nursery.cancel_scope.cancel()

    simulate(main)


@pytest.mark.parametrize("session", [30_000, 3_000_000])
def test_the_limit_of_a_session_holds_over_its_torrents(session: int) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            up, down = TokenBucket(session), TokenBucket(session)
            stubs = [Stub(TokenBucket(None, up), TokenBucket(session // 10, down)) for _ in range(3)]
            stubs.append(Stub(TokenBucket(session // 10, up), TokenBucket(None, down)))
            for stub in stubs:
                stub.peers = [Peer(nursery) for _ in range(3)]
            senders = [Sender(stub.upload) for stub in stubs for _ in range(3)]
            peers = [peer for stub in stubs for peer in stub.peers]
            moved = await measure(stubs, [*senders, *peers], 20.0)
            sent = [sum(moved[at : at + 3]) for at in range(0, 12, 3)]
            received = [sum(moved[at : at + 3]) for at in range(12, 24, 3)]
            assert sum(sent) == pytest.approx(20 * session, rel=TOLERANCE)
            assert sent[3] <= 2 * session * (1 + TOLERANCE)
            assert sum(received) == pytest.approx(20 * session, rel=TOLERANCE)
            for amount in received[:3]:
                assert amount == pytest.approx(2 * session, rel=TOLERANCE, abs=2 * BLOCK)
            nursery.cancel_scope.cancel()

    simulate(main)


def test_one_that_wants_little_leaves_the_rest_to_others() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            stub = Stub(TokenBucket(None), TokenBucket(1_000_000))
            stub.peers = [Peer(nursery, room=1, latency=1.0), Peer(nursery), Peer(nursery)]
            amounts = await measure([stub], stub.peers)
            assert sum(amounts) == pytest.approx(1_000_000 * SECONDS, rel=TOLERANCE)
            assert amounts[0] <= 10 * BLOCK
            assert amounts[1] == pytest.approx(amounts[2], rel=0.25)
            nursery.cancel_scope.cancel()

    simulate(main)


async def test_without_a_limit_nobody_waits() -> None:
    gate = UploadGate(TokenBucket(None))
    with trio.fail_after(1):
        assert await gate.allowance(inside_block=False) == SEND_GULP


def test_after_a_silence_no_more_than_a_burst() -> None:
    async def main() -> None:
        stub = Stub(TokenBucket(1_000_000), TokenBucket(None))
        await measure([stub], [], 60.0)
        sender = Sender(stub.upload)
        await measure([stub], [sender], 1.0)
        assert sender.moved <= 1_000_000 * (3 + RATE_BURST)

    simulate(main)


def test_who_waits_longest_is_first() -> None:
    async def main() -> None:
        stub = Stub(TokenBucket(20_000), TokenBucket(None))
        order: list[int] = []

        async def wait(number: int) -> None:
            await stub.upload.allowance(inside_block=number == 7)
            order.append(number)
            stub.upload.bucket.take(BLOCK, trio.current_time())

        async with trio.open_nursery() as nursery:
            pacer = Pacer(lambda: [stub])  # type: ignore[list-item]  # a stub
            pacer.wake()
            nursery.start_soon(pacer.run)
            for number in range(10):
                nursery.start_soon(wait, number)
                await trio.testing.wait_all_tasks_blocked()
            await until(lambda: len(order) == 10)
            nursery.cancel_scope.cancel()
        assert order == [7, 0, 1, 2, 3, 4, 5, 6, 8, 9]  # who is inside a block goes first

    simulate(main)


# --- whole sessions --------------------------------------------------------------------------------------------------


async def devour(peer: ScriptedPeer, content: Sample, ahead: int) -> None:
    """Ask for blocks without end, ``ahead`` at a time."""
    pieces = content.pieces
    await peer.send(INTERESTED)
    await peer.wait_for(UNCHOKE)
    asked = 0
    try:
        for asked in range(ahead):
            await peer.request(asked // 2 % pieces, asked % 2 * BLOCK)
        while True:
            await peer.wait_for(PIECE)
            asked += 1
            await peer.request(asked // 2 % pieces, asked % 2 * BLOCK)
    except DisconnectedError:
        return


def got(peer: ScriptedPeer) -> int:
    """Bytes of messages with blocks in them that the peer has had, framing included."""
    return sum(13 + len(said.payload) - 8 for said in peer.heard if said.id == PIECE)


@scenario()
@pytest.mark.parametrize(("rate", "count", "seconds"), [(50_000, 1, 20.0), (50_000, 50, 20.0), (5_000_000, 5, 5.0)])
async def test_a_session_sends_no_more_and_no_less(lab: Lab, rate: int, count: int, seconds: float) -> None:
    content = sample(20 * 2 * BLOCK)
    seeder = await lab.seed(content, max_upload=rate, upload_slots=0)
    peers = [await lab.join(seeder, lab.host()) for _ in range(count)]
    for peer in peers:
        lab.nursery.start_soon(devour, peer, content, 20)
    await trio.sleep(3)
    network: Any = seeder.session.network
    before = network.sent
    await trio.sleep(seconds)
    assert network.sent - before == pytest.approx(rate * seconds, rel=TOLERANCE)
    amounts = [got(peer) for peer in peers]
    assert max(amounts) - min(amounts) <= max(2 * BLOCK, 0.2 * rate * seconds / count)


async def answers(peer: ScriptedPeer, content: Sample) -> None:
    await hear_interest(peer)
    await peer.send(UNCHOKE)
    await peer.serve(content.content, content.metainfo.geometry.piece_length)


@scenario()
@pytest.mark.parametrize(
    ("rate", "count", "seconds", "pieces"), [(50_000, 1, 20.0, 100), (50_000, 50, 20.0, 100), (5_000_000, 5, 5.0, 2000)]
)
async def test_a_session_receives_no_more_and_no_less(
    lab: Lab, rate: int, count: int, seconds: float, pieces: int
) -> None:
    content = sample(pieces * 2 * BLOCK)
    leecher: Torrent = await lab.leech(content, max_download=rate)
    network: Any = leecher.session.network
    for _ in range(count):
        peer = await lab.join(leecher, lab.host(), has=range(content.pieces))
        lab.nursery.start_soon(answers, peer, content)
    await trio.sleep(3)
    before = network.received
    await trio.sleep(seconds)
    assert network.received - before == pytest.approx(rate * seconds, rel=TOLERANCE)


@scenario()
async def test_both_directions_at_once(lab: Lab) -> None:
    content = sample(200 * 2 * BLOCK)
    seeder = await lab.seed(content)
    leecher = await lab.leech(content, seeder, max_download=100_000, max_upload=60_000, upload_slots=0, pex=False)
    other = await lab.leech(content, leecher)
    await trio.sleep(5)
    assert leecher.transfer is not None
    network: Any = leecher.session.network
    sent, received = network.sent, network.received
    await trio.sleep(20)
    assert network.received - received == pytest.approx(100_000 * 20, rel=TOLERANCE)
    assert network.sent - sent == pytest.approx(60_000 * 20, rel=TOLERANCE)
    assert other.status().downloaded > 0


@scenario()
async def test_the_limit_of_one_torrent(lab: Lab) -> None:
    contents = [sample(200 * 2 * BLOCK, name=name, seed=seed) for seed, name in enumerate(("one", "other"))]
    session = await lab.session()
    found = []
    for content, limit in zip(contents, (50_000, None), strict=True):
        seeder = await lab.seed(content)
        peers = [lab.address(seeder.session)]
        found.append(await session.add(content.metainfo, directory=lab.place(), peers=peers, max_download=limit))
    await found[1].wait_complete()
    await trio.sleep(20 - trio.current_time() % 1)
    assert found[0].status().down_rate == pytest.approx(50_000, rel=0.15)
    assert not found[0].complete


def test_it_sleeps_while_nothing_is_limited() -> None:
    simulate(asleep)


async def asleep() -> None:
    looks = []

    def transfers() -> list[Stub]:
        looks.append(trio.current_time())
        return stubs

    stubs = [Stub(TokenBucket(None), TokenBucket(None))]
    async with trio.open_nursery() as nursery:
        pacer = Pacer(transfers)  # type: ignore[arg-type]  # stubs will do
        nursery.start_soon(pacer.run)
        await trio.sleep(100)
        assert looks == []
        pacer.wake()  # an unlimited one: one look, and it sleeps on
        await trio.sleep(100)
        assert looks == [100 + PACE]
        stubs.append(Stub(TokenBucket(20_000), TokenBucket(None)))
        pacer.wake()
        await trio.sleep(1)
        assert looks[1] == pytest.approx(200 + PACE)
        assert len(looks) == pytest.approx(1 + 1 / PACE, abs=1)
        nursery.cancel_scope.cancel()
