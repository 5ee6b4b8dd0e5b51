"""Faults at every place of a fixed transfer, and peers that say anything in any order."""

from __future__ import annotations

import errno
import math
import os
import random
import signal
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio

from btor.engine import disk
from btor.engine.torrent import Torrent
from btor.engine.transport import Address, Listener, Network, Transport
from btor.engine.udp import UdpSocket
from btor.errors import StorageError
from btor.limits import BLOCK, MIB
from btor.storage import system
from tests.engine.support import Lab, message, piece_message, sample, scenario, until
from tests.simulated.network import Host
from tests.simulated.scripted_peer import (
    BITFIELD,
    CANCEL,
    CHOKE,
    EXTENDED,
    HAVE,
    INTERESTED,
    NOT_INTERESTED,
    REQUEST,
    UNCHOKE,
    DisconnectedError,
    ScriptedPeer,
    bitfield_of,
)
from tests.storage.torrents import good_pieces

CONTENT = sample(12 * 2 * BLOCK)


# --- a bug at every place where a peer waits or moves bytes ----------------------------------------------------------


class Trap:
    """Raises what nobody expects at one of the calls, the ``at``-th."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.calls = 0

    def step(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise ZeroDivisionError(f"call {self.at}")


class TrappedTransport:
    """A transport with a trap in front of each operation."""

    def __init__(self, real: Transport, trap: Trap) -> None:
        self.real = real
        self.trap = trap
        self.remote = real.remote
        self.local = real.local

    async def wait_readable(self) -> None:
        self.trap.step()
        await self.real.wait_readable()

    async def wait_writable(self) -> None:
        self.trap.step()
        await self.real.wait_writable()

    def recv_into(self, views: Sequence[memoryview]) -> int:
        self.trap.step()
        return self.real.recv_into(views)

    def send(self, views: Sequence[memoryview | bytes | bytearray]) -> int:
        self.trap.step()
        return self.real.send(views)

    def close(self) -> None:
        self.real.close()


class TrappedNetwork:
    """The network of a host, with a trap in the connections to one address."""

    def __init__(self, host: Network, trap: Trap) -> None:
        self.host = host
        self.trap = trap
        self.trapped: Address | None = None

    async def connect(self, address: Address, *, local: str | None = None) -> Transport:
        made = await self.host.connect(address, local=local)
        return TrappedTransport(made, self.trap) if address == self.trapped else made

    async def listen(self, host: str, port: int) -> Listener:
        return await self.host.listen(host, port)

    async def resolve(self, host: str, port: int) -> list[Address]:
        return await self.host.resolve(host, port)

    def open_udp_sockets(self, bind: Sequence[str], port: int) -> list[UdpSocket]:
        return self.host.open_udp_sockets(bind, port)


async def transfer_with_trap(lab: Lab, at: int) -> tuple[Trap, Torrent]:
    """Two seeders, one of them behind a trap; the other is slow, so that both are needed for a while."""
    bad, good = await lab.seed(CONTENT), await lab.seed(CONTENT, lab.host(up=200_000))
    trap = Trap(at)
    network = TrappedNetwork(lab.host(), trap)
    network.trapped = lab.address(bad.session)
    found = await lab.leech(CONTENT, bad, good, network=network, strict=False)
    await found.wait_complete()
    return trap, found


@scenario()
@pytest.mark.parametrize("at", range(1, 24))
async def test_a_bug_at_any_call_of_one_peer(lab: Lab, at: int) -> None:
    """The peer ends, nobody else: the torrent completes, and nothing is left behind."""
    trap, found = await transfer_with_trap(lab, at)
    assert CONTENT.is_at(found.keeper.content.top)
    assert found.error is None
    assert trap.calls >= at
    assert found.session.container.failures == 1
    transfer = found.transfer
    assert transfer is not None
    await until(lambda: transfer.dialling == found.session.dial_budget.half_open == 0)
    assert found.session.disk.queued == 0
    transfer.picker.check_invariants()


# --- an error of the system at every place ---------------------------------------------------------------------------


CALLS = ("write_all", "read_all", "readv_cached", "open_below", "sync_folder")


@scenario()
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("at", [*range(1, 12), 15, 20, 30])
async def test_any_operation_of_the_disk_fails_once(
    lab: Lab, at: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The torrent ends with an error of storage or completes; what it believes is on disk; the next run goes on."""
    address = await lab.serving(CONTENT, up=300_000)
    calls = 0

    def trapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                raise OSError(code, os.strerror(code))
            return real(*args, **options)

        return call

    folder, state = lab.place(), lab.place()
    async with lab.open(state_dir=state) as session:
        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(system, name, trapped(getattr(system, name)))
            found = await session.add(CONTENT.metainfo, directory=folder, peers=[address])
            try:
                await found.wait_complete()
            except StorageError as error:
                assert error.errno == code
                assert found.error is error
        believed = found.transfer.have if found.transfer is not None else found.keeper.have
        good = good_pieces(CONTENT.metainfo, folder / "content") if (folder / "content").exists() else set()
        assert {piece for piece in range(CONTENT.pieces) if piece in believed} <= good
    async with lab.open(state_dir=state) as session:
        found = await session.add(CONTENT.metainfo, directory=folder, peers=[address])
        await found.wait_complete()
    assert CONTENT.is_at(folder / "content")


# --- peers that say anything -----------------------------------------------------------------------------------------


def anything(rng: random.Random) -> bytes:
    """A message that is legal in itself, more or less likely here."""
    pieces = CONTENT.pieces
    piece, block = rng.randrange(pieces), rng.randrange(2)
    where = struct.pack(">III", piece, block * BLOCK, BLOCK)
    choices: list[Callable[[], bytes]] = [
        lambda: bytes(4),
        lambda: message(CHOKE),
        lambda: message(UNCHOKE),
        lambda: message(INTERESTED),
        lambda: message(NOT_INTERESTED),
        lambda: message(HAVE, struct.pack(">I", piece)),
        lambda: message(BITFIELD, bitfield_of(rng.sample(range(pieces), rng.randrange(pieces + 1)), pieces)),
        lambda: message(REQUEST, where),
        lambda: message(CANCEL, where),
        lambda: message(EXTENDED, b"\x00de"),
        lambda: message(99, b"what"),
        lambda: piece_message(piece, block * BLOCK, CONTENT.block(piece, block)),
        lambda: piece_message(piece, block * BLOCK, rng.randbytes(BLOCK)),
    ]
    return rng.choice(choices)()


EVERY_EXTENSION = b"\0\0\0\0\0\x10\0\x05"
DICTIONARIES = [
    b"d1:md11:lt_donthavei7e11:upload_onlyi8e11:ut_metadatai5e6:ut_pexi6eee",
    b"d1:md11:ut_metadatai0e6:ut_pexi0eee",
    b"d13:metadata_sizei9e4:reqqi1e11:upload_onlyi1e6:yourip4:\x28\0\0\1e",
    b"d5:added6:\x28\0\7\1\x1b\x587:added.f1:\x10e",
    b"d8:msg_typei0e5:piecei0ee",
    b"d8:msg_typei1e5:piecei0e10:total_sizei5eeabcde",
    b"d8:msg_typei2e5:piecei0ee",
]


def anything_of_extensions(rng: random.Random) -> bytes:
    """Likewise, of the fast extension and of what is said by the extension protocol."""
    piece = struct.pack(">I", rng.randrange(CONTENT.pieces))
    choices: list[Callable[[], bytes]] = [
        lambda: anything(rng),
        lambda: message(EXTENDED, bytes([rng.randrange(5)]) + rng.choice(DICTIONARIES)),
        lambda: message(EXTENDED, b"\3" + piece),  # lt_donthave
        lambda: message(EXTENDED, b"\4" + bytes([rng.randrange(2)])),  # upload_only
        lambda: message(rng.choice([13, 17]), piece),  # suggest, allowed fast
        lambda: message(rng.choice([14, 15])),  # have all, have none
        lambda: message(16, piece + struct.pack(">II", rng.randrange(2) * BLOCK, BLOCK)),  # reject
        lambda: message(9, rng.randbytes(2)),  # port
    ]
    return rng.choice(choices)()


async def babble(lab: Lab, found: Torrent, rng: random.Random, answers: bool) -> None:
    """Peers that come, babble and go."""
    while True:
        reserved, say = rng.choice([(bytes(8), anything), (EVERY_EXTENSION, anything_of_extensions)])
        try:
            peer = await lab.join(found, reserved=reserved)
            lab.nursery.start_soon(drain, peer, answers)
            for _ in range(rng.randrange(1, 40)):
                await peer.raw(b"".join(say(rng) for _ in range(rng.randrange(1, 4))))
                await trio.sleep(rng.choice([0, 0.01, 1.0]))
            peer.transport.close()
        except DisconnectedError:
            await trio.sleep(0.5)


async def drain(peer: ScriptedPeer, answers: bool) -> None:
    if answers:
        await peer.serve(CONTENT.content, CONTENT.metainfo.geometry.piece_length, spoil=lambda piece, _: piece == 3)
    else:
        await peer.wait_closed()


@scenario()
@pytest.mark.parametrize("seed", range(12))
async def test_any_order_of_messages(lab: Lab, seed: int) -> None:
    """It is borne or ends the connection; what is counted stays true; the torrent completes, byte for byte."""
    rng = random.Random(seed)
    found = await lab.leech(CONTENT)
    await until(lambda: found.transfer is not None)
    assert found.transfer is not None
    for number in range(4):
        lab.nursery.start_soon(babble, lab, found, random.Random(rng.random()), number % 2 == 0)
    for _ in range(40):
        await trio.sleep(rng.random())
        found.transfer.picker.check_invariants()
        found.transfer.book.check_invariants()
        found.session.choking.choker.check_invariants()
    honest = await lab.join(found, has=range(CONTENT.pieces))
    lab.nursery.start_soon(honest.serve, CONTENT.content, CONTENT.metainfo.geometry.piece_length)
    await found.wait_complete()
    assert CONTENT.is_at(found.keeper.content.top)
    assert found.session.container.failures == 0


@scenario()
@pytest.mark.parametrize("seed", range(6))
async def test_random_bytes_after_the_handshake(lab: Lab, seed: int) -> None:
    rng = random.Random(seed)
    found = await lab.leech(CONTENT)
    for _ in range(30):
        peer = await lab.join(found)
        try:
            for _ in range(5):
                await peer.raw(rng.randbytes(rng.randrange(1, 3000)))
        except DisconnectedError:
            pass
        peer.transport.close()
    honest = await lab.join(found, has=range(CONTENT.pieces))
    lab.nursery.start_soon(honest.serve, CONTENT.content, CONTENT.metainfo.geometry.piece_length)
    await found.wait_complete()
    assert CONTENT.is_at(found.keeper.content.top)


# --- hashers that die under a download -------------------------------------------------------------------------------


def on_loopback(test: Callable[[Lab], Awaitable[None]], tmp_path: Any) -> None:
    async def bounded() -> None:
        with trio.fail_after(20):
            await Lab(tmp_path, real=True).run(test)

    trio.run(bounded)


@pytest.mark.parametrize("kills", [0, 2, 10])
def test_pieces_that_children_hash(tmp_path: Any, kills: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens to the children, every piece is hashed, and the torrent completes."""
    content = sample(24 * MIB, piece_length=MIB)
    monkeypatch.setattr(disk, "INLINE_RATE", 0)
    monkeypatch.setattr(disk, "INLINE_SPEED", math.inf)
    killed: set[int] = set()

    async def kill(found: Torrent) -> None:
        while len(killed) < kills:
            for child in found.session.disk.hashers._children:
                if child._process is not None and child._process.pid not in killed:
                    killed.add(child._process.pid)
                    os.kill(child._process.pid, signal.SIGKILL)
            await trio.sleep(0.005)

    async def transfer(lab: Lab) -> None:
        seeder = await lab.seed(content)
        found = await lab.leech(content, seeder)
        lab.nursery.start_soon(kill, found)
        await found.wait_complete()
        assert content.is_at(found.keeper.content.top)
        assert found.status().wasted == 0

    on_loopback(transfer, tmp_path)
    assert bool(killed) == bool(kills)


@scenario()
async def test_the_simulated_host_is_what_the_session_dials_from(lab: Lab) -> None:
    """Else the traps above would trap nothing."""
    trap, found = await transfer_with_trap(lab, 10**9)
    assert isinstance(found.session.network, TrappedNetwork)
    assert isinstance(found.session.network.host, Host)
    assert trap.calls > 24
    assert found.session.container.failures == 0
