"""What the extension protocol (BEP 10) has settled on one connection: handshakes may come again and change it."""

from __future__ import annotations

from btor.wire.extension import ExtensionHandshake
from btor.wire.messages import encode_extended


class Extensions:
    """What the other side said so far.

    ``port``: where it listens, None while unknown; ``client``: foreign text; ``reqq``, ``metadata_size``,
    ``complete_ago``: as in `ExtensionHandshake`, the latest word; ``upload_only``: it downloads nothing more (BEP 21).
    ``heard``: whether it has said anything.
    """

    __slots__ = ("_ids", "client", "complete_ago", "heard", "metadata_size", "port", "reqq", "upload_only")

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self.heard = False
        self.port: int | None = None
        self.client: str | None = None
        self.reqq: int | None = None
        self.metadata_size: int | None = None
        self.complete_ago: int | None = None
        self.upload_only = False

    def on_handshake(self, said: ExtensionHandshake) -> None:
        """A handshake came, the first or another: it adds to what was said, and an id of 0 switches one off."""
        self.heard = True
        for name, number in said.ids.items():
            if number:
                self._ids[name] = number
            else:
                self._ids.pop(name, None)
        self.port = said.port if said.port is not None else self.port
        self.client = said.client if said.client is not None else self.client
        self.reqq = said.reqq if said.reqq is not None else self.reqq
        self.metadata_size = said.metadata_size if said.metadata_size is not None else self.metadata_size
        self.complete_ago = said.complete_ago if said.complete_ago is not None else self.complete_ago
        self.upload_only = said.upload_only if said.upload_only is not None else self.upload_only

    def takes(self, name: str) -> bool:
        """Whether the other side receives messages of the extension ``name``."""
        return name in self._ids

    def message(self, name: str, payload: bytes) -> bytes:
        """The whole message that carries ``payload``. KeyError: the other side does not take the extension."""
        return encode_extended(self._ids[name], payload)
