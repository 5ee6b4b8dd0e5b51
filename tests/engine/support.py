"""Whole sessions for tests: on the simulated network with virtual time, and the same on loopback.

``@scenario`` makes a test of an async function: it gets a ``Lab``, in which it opens sessions and scripted peers. The
seed of everything that is left to chance is printed, so a test that failed can fail again.
"""

from __future__ import annotations

import functools
import inspect
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from btor.engine.events import Event
from btor.engine.session import Session, open_session
from btor.engine.torrent import Torrent
from btor.engine.transport import Address, Listener, Network, TcpNetwork
from btor.limits import BLOCK
from btor.metainfo.torrent_file import Metainfo
from btor.settings import Settings
from tests.simulated.network import Host, World
from tests.simulated.schedule import simulate
from tests.simulated.scripted_peer import BITFIELD, INTERESTED, PIECE, REQUEST, DisconnectedError, ScriptedPeer, never
from tests.storage.torrents import File, random_bytes, stream, torrent

E = TypeVar("E", bound=Event)

AT_ONCE = 5.0  # s
REAL_LIMIT = 20.0  # s that a test on loopback may take


@dataclass(frozen=True)
class Sample:
    """A torrent and its content, one byte after the other."""

    metainfo: Metainfo
    content: bytes

    @property
    def pieces(self) -> int:
        return self.metainfo.geometry.piece_count

    def piece(self, number: int) -> bytes:
        length = self.metainfo.geometry.piece_length
        return self.content[number * length : (number + 1) * length]

    def block(self, piece: int, block: int) -> bytes:
        return self.piece(piece)[block * BLOCK : (block + 1) * BLOCK]

    def write(self, top: Path) -> Path:
        """Put the content on disk, ``top`` standing for the torrent's name."""
        for entry in self.metainfo.files:
            path = top.joinpath(*entry.path[1:])
            path.parent.mkdir(parents=True, exist_ok=True)
            if not entry.pad:
                path.write_bytes(self.content[entry.offset : entry.offset + entry.length])
        return top

    def is_at(self, top: Path) -> bool:
        """Whether the content is there, byte for byte."""
        return all(
            entry.pad
            or top.joinpath(*entry.path[1:]).read_bytes() == self.content[entry.offset : entry.offset + entry.length]
            for entry in self.metainfo.files
        )


@functools.lru_cache
def sample(length: int = 300_000, *, piece_length: int = 2 * BLOCK, name: str = "content", seed: int = 1) -> Sample:
    """A torrent of one file."""
    content = random_bytes(length, seed)
    return Sample(torrent(content=content, piece_length=piece_length, name=name), content)


def folder_sample(files: Sequence[File], *, piece_length: int = 2 * BLOCK, name: str = "folder") -> Sample:
    """A torrent of several files."""
    content = stream(files)
    return Sample(torrent(files, content=content, piece_length=piece_length, name=name), content)


def message(id_: int, payload: bytes = b"") -> bytes:
    """One message of the peer wire."""
    return struct.pack(">IB", 1 + len(payload), id_) + payload


def piece_message(piece: int, begin: int, data: bytes) -> bytes:
    """A block, framed."""
    return message(PIECE, struct.pack(">II", piece, begin) + data)


class Lab:
    """Hosts, sessions and scripted peers of one test. ``folder``: where content goes; ``real``: on loopback."""

    def __init__(self, folder: Path, *, real: bool = False, seed: int = 1) -> None:
        self.folder = folder
        self.real = real
        self.rng = random.Random(seed)
        self.world = World(seed)
        self._hosts = 0
        self._places = 0
        self.nursery: trio.Nursery
        self._stack = AsyncExitStack()

    async def run(self, test: Callable[[Lab], Awaitable[None]]) -> None:
        """Run ``test``, then end its sessions in good order."""
        try:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                if not self.real:
                    await nursery.start(self.world.run)
                async with self._stack:
                    await test(self)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            failed: BaseException = group
            while isinstance(failed, BaseExceptionGroup) and len(failed.exceptions) == 1:
                failed = failed.exceptions[0]  # easier to read
            raise failed from None

    # -- network --------------------------------------------------------------------------------------------------

    def host(self, ip: str = "", *, up: float | None = None, down: float | None = None) -> Network:
        """A machine of its own; on loopback all are one."""
        if self.real:
            return TcpNetwork()
        self._hosts += 1
        return self.world.host(ip or f"10.0.{self._hosts >> 8}.{self._hosts & 255}", up=up, down=down)

    def ip_of(self, network: Network) -> str:
        """Its first address."""
        return network.ips[0] if isinstance(network, Host) else "127.0.0.1"

    def dialled(self, network: Network) -> list[Address]:
        """Every attempt to connect from a simulated host, in order."""
        assert isinstance(network, Host)
        return [address for _, address in network.dialled]

    def address(self, session: Session) -> Address:
        """Where peers can reach ``session``."""
        return self.ip_of(session.network), session.port

    # -- sessions -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def open(self, network: Network | None = None, **settings: Any) -> AsyncIterator[Session]:
        """A session on a host of its own."""
        network = network if network is not None else self.host()
        settings = {"strict": True, "port": 0, **settings}
        if self.real:
            settings.setdefault("bind", ("127.0.0.1",))
        else:
            settings.setdefault("hashers", 0)  # a child lives in real time
        async with open_session(Settings(**settings), network=network, rng=random.Random(self.rng.random())) as session:
            yield session

    async def session(self, network: Network | None = None, **settings: Any) -> Session:
        """A session until the end of the test."""
        return await self._stack.enter_async_context(self.open(network, **settings))

    def place(self) -> Path:
        """A folder that nobody has used."""
        self._places += 1
        return self.folder / f"place{self._places}"

    async def seed(self, sample: Sample, network: Network | None = None, **settings: Any) -> Torrent:
        """A session that has all of ``sample``."""
        session = await self.session(network, **settings)
        top = sample.write(self.place() / sample.metainfo.name)
        found = await session.add(sample.metainfo, output=top, seed_only=True)
        await found.wait_complete()
        return found

    async def leech(
        self,
        sample: Sample,
        *peers: Torrent | Address,
        network: Network | None = None,
        add: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Torrent:
        """A session that downloads ``sample`` from ``peers``."""
        session = await self.session(network, **settings)
        return await session.add(
            sample.metainfo,
            directory=self.place(),
            peers=[self.address(peer.session) if isinstance(peer, Torrent) else peer for peer in peers],
            **(add or {}),
        )

    async def serving(
        self, sample: Sample, *, up: float | None = None, ip: str = "", spoil: Callable[[int, int], bool] = never
    ) -> Address:
        """Where a scripted peer seeds ``sample`` to everybody who calls: no session and no disk is behind it."""
        caller = await self.listen(self.host(ip, up=up))

        async def accept() -> None:
            while True:
                try:
                    peer = await caller.accept(sample, has=range(sample.pieces))
                except DisconnectedError:
                    continue
                except trio.ClosedResourceError:
                    return
                length = sample.metainfo.geometry.piece_length
                self.nursery.start_soon(functools.partial(peer.serve, sample.content, length, spoil=spoil))

        self.nursery.start_soon(accept)
        return caller.address

    # -- scripted peers -------------------------------------------------------------------------------------------

    async def call(
        self, session: Session, network: Network | None = None, peer_id: bytes | None = None
    ) -> ScriptedPeer:
        """A scripted peer that has connected to ``session`` and said nothing yet."""
        network = network if network is not None else self.host()
        transport = await network.connect(self.address(session))
        self._stack.callback(transport.close)
        return ScriptedPeer(transport, peer_id=peer_id or self.peer_id())

    async def join(
        self,
        found: Torrent,
        network: Network | None = None,
        *,
        peer_id: bytes | None = None,
        has: Sequence[int] | None = None,
        reserved: bytes = bytes(8),
    ) -> ScriptedPeer:
        """A scripted peer of ``found`` that has said its handshake, and which pieces it has."""
        await until(lambda: found.transfer is not None and found.transfer.active)
        peer = await self.call(found.session, network, peer_id)
        await peer.handshake(found.info_hash, reserved=reserved)
        if has is not None:
            await peer.bitfield(has, found.metainfo.geometry.piece_count)
        return peer

    async def listen(self, network: Network | None = None) -> Caller:
        """A port at which a scripted peer waits."""
        network = network if network is not None else self.host()
        ip = self.ip_of(network)
        listener = await network.listen(ip, 0)
        self._stack.callback(listener.close)
        return Caller(self, listener, (ip, listener.port))

    def peer_id(self) -> bytes:
        """One that nobody else has."""
        return b"-XX0000-" + self.rng.randbytes(12)


class Caller:
    """An open port of a scripted peer."""

    def __init__(self, lab: Lab, listener: Listener, address: Address) -> None:
        self._lab = lab
        self._listener = listener
        self.address = address

    async def accept(
        self, sample: Sample, *, peer_id: bytes | None = None, has: Sequence[int] | None = None, after: float = 0.0
    ) -> Any:
        """The next one who calls, after the handshakes, ours ``after`` s late; ``has`` as in ``Lab.join``."""
        transport = await self._listener.accept()
        self._lab._stack.callback(transport.close)
        await trio.sleep(after)
        peer = ScriptedPeer(transport, peer_id=peer_id or self._lab.peer_id())
        await peer.handshake(sample.metainfo.info_hash)
        if has is not None:
            await peer.bitfield(has, sample.pieces)
        return peer


async def next_event(found: Torrent, kind: type[E], where: Callable[[E], bool] = lambda _: True) -> E:
    """The first event of this kind, those of the snapshot included."""
    events = found.events()
    try:
        async for event in events:
            if isinstance(event, kind) and where(event):
                return event
    finally:
        events.close()
    raise AssertionError(f"the torrent ended without {kind.__name__}: {found.error}")


async def until(condition: Callable[[], bool], *, step: float = 0.01) -> None:
    """Look every ``step`` seconds; the test's deadline ends it."""
    while not condition():  # noqa: ASYNC110  # what is looked at has no event
        await trio.sleep(step)


def said(peer: ScriptedPeer, id_: int | None) -> list[bytes]:
    """The payloads of the messages with this id that the peer has heard."""
    return [heard.payload for heard in peer.heard if heard.id == id_]


def requests_of(peer: ScriptedPeer) -> list[tuple[int, int, int]]:
    """(piece, begin, length) of every request that the peer has heard."""
    return [struct.unpack(">III", payload) for payload in said(peer, REQUEST)]


async def hear_requests(peer: ScriptedPeer, count: int) -> list[tuple[int, int, int]]:
    """Listen until ``count`` requests have come; all of them."""
    while len(said(peer, REQUEST)) < count:
        await peer.receive()
    return requests_of(peer)


async def hear_interest(peer: ScriptedPeer) -> None:
    """Listen until they say that they are interested."""
    await peer.wait_for(INTERESTED)


async def closes_at_once(peer: ScriptedPeer) -> None:
    """Listen until the other side closes, which it must do now: much later it closes every silent connection."""
    with trio.fail_after(AT_ONCE):
        await peer.wait_closed()


def scenario(
    *, both: bool = False, seed: int = 1, limit: float = 3_600.0
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Make a test of ``async def test(lab, …)``. ``both``: on the simulated network and on loopback; ``limit`` s."""

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        def run(tmp_path: Path, network_kind: str = "simulated", **fixtures: Any) -> None:
            print(f"seed {seed}")  # noqa: T201  # what pytest shows of a test that failed
            real = network_kind == "loopback"
            lab = Lab(tmp_path, real=real, seed=seed)

            async def main() -> None:
                await lab.run(lambda lab: test(lab, **fixtures))

            async def bounded() -> None:
                with trio.fail_after(REAL_LIMIT):
                    await main()

            if real:
                trio.run(bounded)
            else:
                simulate(main, seed=seed, limit=limit)

        functools.update_wrapper(run, test)
        del run.__wrapped__  # type: ignore[attr-defined]  # set by update_wrapper; pytest would look through it
        own = inspect.signature(test).parameters
        names = ["tmp_path", *(["network_kind"] if both else []), *(name for name in own if name not in ("lab",))]
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what pytest reads
            [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in dict.fromkeys(names)]
        )
        return pytest.mark.parametrize("network_kind", ["simulated", "loopback"])(run) if both else run

    return decorate


__all__ = [
    "BITFIELD",
    "Caller",
    "Lab",
    "Sample",
    "folder_sample",
    "hear_interest",
    "hear_requests",
    "message",
    "next_event",
    "piece_message",
    "requests_of",
    "said",
    "sample",
    "scenario",
    "until",
]
