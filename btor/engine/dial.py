"""Opening connections: outgoing ones within the session's budget, and the handshake of both directions."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import TYPE_CHECKING, Protocol

import trio

from btor import limits
from btor.engine.connection import Connection
from btor.errors import PeerError
from btor.wire.handshake import (
    INFO_HASH_END,
    Features,
    Handshake,
    check_protocol,
    decode_handshake,
    decode_info_hash,
    encode_handshake,
)

if TYPE_CHECKING:
    from btor.engine.session import Session
    from btor.engine.transport import Address, Transport
    from btor.swarm.peerbook import PeerBook

DIAL_PERIOD = 1.0  # s between looks at who became due, when nothing wakes the dialler
OUT_OF_DESCRIPTORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
REST = 1.0  # s without dials, when the system has no descriptor left


async def read_exactly(transport: Transport, size: int, received: bytes = b"") -> bytes:
    """Read on from ``received`` until there are ``size`` bytes of a handshake. PeerError, OSError."""
    buffer = bytearray(received) + bytes(size - len(received))
    view = memoryview(buffer)
    have = len(received)
    while have < size:
        try:
            count = transport.recv_into([view[have:]])
        except BlockingIOError:
            await transport.wait_readable()
            continue
        if count == 0:
            raise PeerError("closed during the handshake")
        have += count
        check_protocol(bytes(view[: min(have, INFO_HASH_END)]))
    return bytes(buffer)


async def send_all(transport: Transport, data: bytes) -> None:
    """Send all of a handshake. OSError."""
    while data:
        try:
            data = data[transport.send([data]) :]
        except BlockingIOError:
            await transport.wait_writable()


async def initiate(transport: Transport, info_hash: bytes, peer_id: bytes, features: Features) -> Handshake:
    """Our side of an outgoing handshake. PeerError, OSError."""
    await send_all(transport, encode_handshake(info_hash, peer_id, features.encode()))
    answer = decode_handshake(await read_exactly(transport, limits.HANDSHAKE))
    if answer.info_hash != info_hash:
        raise PeerError("answered for another torrent")
    return answer


async def accept(
    transport: Transport, find: Callable[[bytes], Joinable | None], peer_id: bytes
) -> tuple[Joinable, Handshake]:
    """Our side of an incoming handshake. PeerError for a torrent that is not here; OSError."""
    head = await read_exactly(transport, INFO_HASH_END)
    found = find(decode_info_hash(head))
    if found is None:
        raise PeerError("asks for a torrent that is not here")
    await send_all(transport, encode_handshake(found.info_hash, peer_id, found.features.encode()))
    return found, decode_handshake(await read_exactly(transport, limits.HANDSHAKE, head))


class Joinable(Protocol):
    """What a connection can join: the exchange of one torrent, of content or before that of its metadata."""

    book: PeerBook
    dialling: int
    info_hash: bytes

    @property
    def features(self) -> Features:
        """What we promise in a handshake."""

    @property
    def active(self) -> bool:
        """Whether connections are taken in."""

    @property
    def peers(self) -> Mapping[int, object]:
        """Those that are connected, by key."""

    @property
    def wants_peers(self) -> bool:
        """Whether to dial."""

    def adopt(self, connection: Connection) -> None:
        """A handshake is complete: take the connection in, or close it."""

    def on_dial_failed(self, address: Address, error: BaseException) -> None:
        """A peer could not be reached."""


class Dialler:
    """One for the session. Transfers say `wake` when they have somebody new to dial."""

    def __init__(self, session: Session, transfers: Callable[[], Iterable[Joinable]]) -> None:
        self._session = session
        self._transfers = transfers
        self._wake = trio.Event()
        self._first = 0
        self._rests_until = -inf
        self._next_probe = -inf

    def wake(self) -> None:
        """Look at once."""
        self._wake.set()

    async def run(self, nursery: trio.Nursery) -> None:
        """For ever; the attempts are children of ``nursery``."""
        while True:
            self._wake = trio.Event()
            self._round(nursery)
            with trio.move_on_after(DIAL_PERIOD):
                await self._wake.wait()

    def _round(self, nursery: trio.Nursery) -> None:
        """Dial whom the torrents and the budget allow now, the torrents taking turns."""
        session = self._session
        budget = session.dial_budget
        now = trio.current_time()
        if now < self._rests_until:
            return
        waiting = [transfer for transfer in self._transfers() if len(transfer.book) and transfer.wants_peers]
        if waiting:
            self._first = (self._first + 1) % len(waiting)
            waiting = waiting[self._first :] + waiting[: self._first]
        room = session.room if waiting else 0
        while waiting and room > 0:
            still = []
            for transfer in waiting:
                address = transfer.book.next_to_dial(now, budget) if room > 0 else None
                if address is None:
                    continue
                self._start(nursery, transfer, address, now)
                room -= 1
                if transfer.wants_peers:
                    still.append(transfer)
            waiting = still
        if now >= self._next_probe and session.outage.cut_off(now):
            self._next_probe = now + limits.CUT_OFF_PROBE
            self._probe(nursery, now)

    def _probe(self, nursery: trio.Nursery, now: float) -> None:
        """Nobody answers: try one that did before, of whichever torrent, to find out whether the network is back."""
        for transfer in self._transfers():
            address = transfer.book.next_to_probe(now, self._session.dial_budget) if transfer.wants_peers else None
            if address is not None:
                self._start(nursery, transfer, address, now)
                return

    def _start(self, nursery: trio.Nursery, transfer: Joinable, address: Address, now: float) -> None:
        transfer.book.on_dialled(address, now)
        self._session.dial_budget.on_dialled(address[0], now)
        transfer.dialling += 1
        nursery.start_soon(self._session.container.run, "a dial", self._dial, transfer, address)

    def _on_failed(self, transfer: Joinable, address: Address, error: BaseException) -> None:
        now = trio.current_time()
        if isinstance(error, OSError) and error.errno in OUT_OF_DESCRIPTORS:
            self._rests_until = now + REST
            transfer.book.on_not_tried(address, now)
        else:
            transfer.book.on_failed(address, now)
            self._session.outage.on_failure()
        transfer.on_dial_failed(address, error)

    async def _dial(self, transfer: Joinable, address: Address) -> None:
        session = self._session
        transport = None
        answer = None
        try:
            try:
                with trio.fail_after(limits.CONNECT_TIMEOUT):
                    transport = await session.connect(address)
            finally:
                session.dial_budget.on_finished(address[0])
            with trio.fail_after(limits.HANDSHAKE_TIMEOUT):
                answer = await initiate(transport, transfer.info_hash, session.peer_id, transfer.features)
            session.outage.on_contact(trio.current_time())
        except (OSError, PeerError, trio.TooSlowError, trio.ClosedResourceError) as error:
            self._on_failed(transfer, address, error)
        finally:
            transfer.dialling -= 1
            self.wake()
            if answer is None and transport is not None:
                transport.close()
        if answer is not None and transport is not None:
            transfer.adopt(
                Connection(
                    transport=transport,
                    peer_id=answer.peer_id,
                    address=address,
                    incoming=False,
                    features=transfer.features & Features.decode(answer.reserved),
                )
            )
