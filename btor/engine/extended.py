"""The extension protocol (BEP 10) on one connection of a torrent whose metadata is there."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from btor import limits
from btor.errors import PeerError
from btor.metainfo.paths import display
from btor.settings import CLIENT_NAME
from btor.swarm.pex import PexPace, PexTeller
from btor.wire import extension
from btor.wire.extension import OWN_IDS, ExtensionHandshake, MetadataMessage
from btor.wire.messages import encode_extended

if TYPE_CHECKING:
    from btor.engine.peer import Peer
    from btor.engine.session import Session
    from btor.swarm.extensions import Extensions
    from btor.wire.address import Address

_NAMES = {number: name for name, number in OWN_IDS.items()}


def greeting(
    session: Session,
    remote_ip: str,
    *,
    pex: bool,
    metadata_size: int | None = None,
    upload_only: bool | None = None,
    complete_ago: int | None = None,
) -> bytes:
    """The message with our handshake. ``pex``: whether peers are exchanged in this torrent."""
    said = ExtensionHandshake(
        ids={name: number for name, number in OWN_IDS.items() if pex or name != extension.UT_PEX},
        port=session.port or None,
        client=CLIENT_NAME,
        your_ip=remote_ip,
        reqq=limits.REQUEST_QUEUE_ANNOUNCED,
        metadata_size=metadata_size,
        upload_only=upload_only,
        complete_ago=complete_ago,
    )
    return encode_extended(extension.HANDSHAKE_ID, extension.encode_handshake(said))


class Extended:
    """``settled``: what the other side has said. ``pex``: what it was told of other peers."""

    def __init__(self, peer: Peer, settled: Extensions) -> None:
        self.settled = settled
        self.pex = PexTeller()
        self._peer = peer
        self._pace = PexPace()
        self._asked: deque[int] = deque()  # pieces of the metadata that it waits for
        self._served = 0
        self._dont_haves = 0
        if settled.heard:  # while the metadata was not there
            self._apply()

    def greet(self) -> bytes:
        """Our handshake."""
        transfer = self._peer.transfer
        return greeting(
            self._peer.session,
            self._peer.address[0],
            pex=transfer.pex.enabled,
            metadata_size=len(transfer.metainfo.info),
            upload_only=transfer.only_uploads or None,
            complete_ago=transfer.complete_ago,
        )

    def on_message(self, payload: bytes, now: float) -> None:
        """An extended message; ``payload`` begins with its id. One of an extension that we did not name is ignored."""
        body = payload[1:]
        if payload[0] == extension.HANDSHAKE_ID:
            self.settled.on_handshake(said := extension.decode_handshake(body))
            if said.your_ip is not None:
                self._peer.session.on_own_ip(self._peer.address[0], said.your_ip)
            self._apply()
            return
        name = _NAMES.get(payload[0])
        if name == extension.UT_METADATA:
            self._on_metadata(body)
        elif name == extension.UT_PEX:
            self._on_pex(body, now)
        elif name == extension.DONT_HAVE:
            self._on_dont_have(extension.decode_dont_have(body))
        elif name == extension.UPLOAD_ONLY:
            self.settled.upload_only = extension.decode_upload_only(body)
            self._apply()

    def _apply(self) -> None:
        """The other side has said something about itself."""
        peer, settled = self._peer, self.settled
        peer.queue.reqq = limits.REQUEST_QUEUE_UNSAID if settled.reqq is None else settled.reqq
        if settled.client:
            peer.client = display(settled.client)
        address = self.listen_address
        if peer.incoming and address is not None:
            peer.transfer.book.on_listen_port(peer.address, address[1], peer.last_received)
        if settled.upload_only and peer.transfer.only_uploads:
            peer.close("both only upload")

    @property
    def listen_address(self) -> Address | None:
        """Where the peer can be reached, as far as is known."""
        peer = self._peer
        if not peer.incoming:
            return peer.address
        return None if self.settled.port is None else (peer.address[0], self.settled.port)

    # -- metadata (BEP 9) -----------------------------------------------------------------------------------------

    def _on_metadata(self, body: bytes) -> None:
        message = extension.decode_metadata(body)
        if message is None or message.kind != "request" or not self.settled.takes(extension.UT_METADATA):
            return
        info = self._peer.transfer.metainfo.info
        pieces = -(-len(info) // limits.METADATA_PIECE)
        generous = self._served + len(self._asked) < limits.METADATA_COPIES * pieces
        if message.piece < pieces and generous and len(self._asked) < limits.METADATA_QUEUE:
            self._asked.append(message.piece)
            self._peer.say(b"")
        else:
            self._peer.say(self._metadata(MetadataMessage("reject", message.piece)))

    def _metadata(self, message: MetadataMessage) -> bytes:
        return self.settled.message(extension.UT_METADATA, extension.encode_metadata(message))

    def take_metadata(self, backlog: int) -> bytes:
        """Pieces of the metadata that are waited for, with ``backlog`` bytes waiting to be sent already."""
        if not self._asked or not self.settled.takes(extension.UT_METADATA):
            return b""
        info = self._peer.transfer.metainfo.info
        said = b""
        while self._asked and backlog + len(said) < limits.METADATA_BACKLOG:
            piece = self._asked.popleft()
            start = piece * limits.METADATA_PIECE
            data = info[start : start + limits.METADATA_PIECE]
            said += self._metadata(MetadataMessage("data", piece, len(info), data))
            self._served += 1
        return said

    # -- peers (BEP 11) -------------------------------------------------------------------------------------------

    def _on_pex(self, body: bytes, now: float) -> None:
        transfer = self._peer.transfer
        if transfer.pex.enabled:
            self._pace.on_message(now)
            message = extension.decode_pex(body)
            transfer.add_peers([address for address, _ in message.added], "pex", self._peer.address[0])

    # -- what it has ----------------------------------------------------------------------------------------------

    def _on_dont_have(self, piece: int) -> None:
        peer, transfer = self._peer, self._peer.transfer
        self._dont_haves += 1
        if piece >= transfer.geometry.piece_count or self._dont_haves > limits.DONT_HAVES:
            raise PeerError("lt_donthave of a piece that does not exist, or too many of them")
        owed = peer.source.outstanding.get(piece, 0)
        if owed:
            peer.queue.on_dropped([(piece, block, 1) for block in range(owed.bit_length()) if owed >> block & 1])
            transfer.on_requests_dropped(owed.bit_count())
        transfer.picker.on_dont_have(peer.source, piece)

    def tell_upload_only(self) -> bytes:
        """We download nothing more (BEP 21)."""
        if not self.settled.takes(extension.UPLOAD_ONLY):
            return b""
        return self.settled.message(extension.UPLOAD_ONLY, extension.encode_upload_only(True))

    def on_tick(self) -> None:
        """Once a second."""
        self._dont_haves = 0
