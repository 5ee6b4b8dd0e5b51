"""The extension protocol (BEP 10) and what is said in it: metadata (BEP 9), peer exchange (BEP 11), BEP 21, BEP 54.

Every payload is what follows the extension id in an extended message. Decoders raise PeerError for what is no such
message, and treat a key of the wrong type as absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from btor import bencode, limits
from btor.bencode import Value
from btor.errors import BencodeError, PeerError
from btor.wire.address import COMPACT4, COMPACT6, PORT_MAX, Address, pack_address, pack_ip, unpack_compact, unpack_ip

HANDSHAKE_ID: Final = 0
UT_METADATA: Final = "ut_metadata"
UT_PEX: Final = "ut_pex"
DONT_HAVE: Final = "lt_donthave"
UPLOAD_ONLY: Final = "upload_only"

OWN_IDS: Final[Mapping[str, int]] = {UT_METADATA: 1, UT_PEX: 2, DONT_HAVE: 3, UPLOAD_ONLY: 4}
"""The ids under which btor receives each extension."""

# flags of a peer in peer exchange
PEX_SEED: Final = 0x02  # or upload-only
PEX_REACHABLE: Final = 0x10  # who tells of it had connected to it

MetadataKind = Literal["request", "data", "reject"]
_METADATA_KINDS: Final[tuple[MetadataKind, ...]] = ("request", "data", "reject")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionHandshake:
    """What an extension handshake says; None where it says nothing.

    ``ids``: by the name of an extension the number under which the sender receives it, 0 to switch it off. ``port``:
    where the sender listens. ``client``: foreign text. ``your_ip``: how the sender sees the receiver. ``ipv4``,
    ``ipv6``: further addresses of the sender. ``reqq``: requests that the sender will hold. ``metadata_size``: bytes.
    ``complete_ago``: seconds since the sender last saw a whole copy, -1: never.
    """

    ids: Mapping[str, int] = field(default_factory=dict)
    port: int | None = None
    client: str | None = None
    your_ip: str | None = None
    ipv4: str | None = None
    ipv6: str | None = None
    reqq: int | None = None
    metadata_size: int | None = None
    upload_only: bool | None = None
    complete_ago: int | None = None


def encode_handshake(said: ExtensionHandshake) -> bytes:
    """The payload of an extension handshake."""
    table: dict[bytes, Value] = {b"m": {name.encode(): number for name, number in said.ids.items()}}
    for key, text in ((b"yourip", said.your_ip), (b"ipv4", said.ipv4), (b"ipv6", said.ipv6)):
        if text is not None:
            table[key] = pack_ip(text)
    for key, number in (
        (b"p", said.port),
        (b"reqq", said.reqq),
        (b"metadata_size", said.metadata_size),
        (b"complete_ago", said.complete_ago),
    ):
        if number is not None:
            table[key] = number
    if said.upload_only is not None:
        table[b"upload_only"] = int(said.upload_only)
    if said.client is not None:
        table[b"v"] = said.client.encode()
    return bencode.encode(table)


def decode_handshake(payload: bytes) -> ExtensionHandshake:
    """Read an extension handshake. Of the extensions only those that btor knows are kept. PeerError."""
    if len(payload) > limits.EXTENSION_HANDSHAKE:
        raise PeerError(f"extension handshake of {len(payload)} bytes")
    table = _dictionary(payload)
    listed = table.get(b"m")
    ids = {}
    for name in OWN_IDS if isinstance(listed, dict) else ():
        number = listed.get(name.encode()) if isinstance(listed, dict) else None
        if isinstance(number, int) and 0 <= number <= 255:
            ids[name] = number
    client = table.get(b"v")
    upload_only = _number(table, b"upload_only", 2**63 - 1)
    ago = table.get(b"complete_ago")
    return ExtensionHandshake(
        ids=ids,
        port=_number(table, b"p", PORT_MAX) or None,
        client=client.decode("utf-8", "replace") if isinstance(client, bytes) else None,
        your_ip=_ip(table, b"yourip", (4, 16)),
        ipv4=_ip(table, b"ipv4", (4,)),
        ipv6=_ip(table, b"ipv6", (16,)),
        reqq=_number(table, b"reqq", 2**63 - 1),
        metadata_size=_number(table, b"metadata_size", limits.METADATA_SIZE) or None,
        upload_only=None if upload_only is None else bool(upload_only),
        complete_ago=ago if isinstance(ago, int) and ago >= -1 else None,
    )


def _dictionary(payload: bytes) -> dict[bytes, Value]:
    table, end = _dictionary_prefix(payload)
    if end != len(payload):
        raise PeerError("an extended message with a tail")
    return table


def _dictionary_prefix(payload: bytes) -> tuple[dict[bytes, Value], int]:
    try:
        table, end = bencode.decode_prefix(payload, depth=limits.MESSAGE_DEPTH, tokens=limits.MESSAGE_TOKENS)
    except BencodeError as error:
        raise PeerError(f"an extended message is broken: {error}") from error
    if not isinstance(table, dict):
        raise PeerError("an extended message is no dictionary")
    return table, end


def _number(table: dict[bytes, Value], key: bytes, most: int) -> int | None:
    value = table.get(key)
    return value if isinstance(value, int) and 0 <= value <= most else None


def _ip(table: dict[bytes, Value], key: bytes, lengths: tuple[int, ...]) -> str | None:
    value = table.get(key)
    return unpack_ip(value) if isinstance(value, bytes) and len(value) in lengths else None


# --- metadata (BEP 9) --------------------------------------------------------------------------------------------


class MetadataMessage(NamedTuple):
    """A message of ``ut_metadata``. ``total_size`` and ``data`` only with ``kind`` "data"."""

    kind: MetadataKind
    piece: int
    total_size: int = 0
    data: bytes = b""


def encode_metadata(message: MetadataMessage) -> bytes:
    """The payload of ``message``."""
    table: dict[bytes, Value] = {b"msg_type": _METADATA_KINDS.index(message.kind), b"piece": message.piece}
    if message.kind == "data":
        table[b"total_size"] = message.total_size
    return bencode.encode(table) + message.data


def decode_metadata(payload: bytes) -> MetadataMessage | None:
    """Read a message of ``ut_metadata``; None for a kind that btor does not know. PeerError."""
    table, end = _dictionary_prefix(payload)
    kind = table.get(b"msg_type")
    if not isinstance(kind, int):
        raise PeerError("a metadata message of no kind")
    if not 0 <= kind < len(_METADATA_KINDS):
        return None
    piece = _number(table, b"piece", limits.METADATA_SIZE // limits.METADATA_PIECE)
    if piece is None:
        raise PeerError("a metadata message of no piece")
    if _METADATA_KINDS[kind] != "data":
        return MetadataMessage(_METADATA_KINDS[kind], piece)
    size = _number(table, b"total_size", limits.METADATA_SIZE)
    if size is None or len(payload) - end > limits.METADATA_PIECE:
        raise PeerError("a piece of metadata of a wrong size")
    return MetadataMessage("data", piece, size, payload[end:])


# --- peer exchange (BEP 11) --------------------------------------------------------------------------------------


class PexMessage(NamedTuple):
    """``added``: peers with their flags; ``dropped``: peers that the sender is not connected to any more."""

    added: tuple[tuple[Address, int], ...]
    dropped: tuple[Address, ...]


def encode_pex(message: PexMessage) -> bytes:
    """The payload of ``message``."""
    table: dict[bytes, Value] = {}
    for suffix, size in ((b"", COMPACT4), (b"6", COMPACT6)):
        added = [(packed, flags) for address, flags in message.added if len(packed := pack_address(address)) == size]
        table[b"added" + suffix] = b"".join(packed for packed, _ in added)
        table[b"added" + suffix + b".f"] = bytes(flags for _, flags in added)
        table[b"dropped" + suffix] = b"".join(
            packed for address in message.dropped if len(packed := pack_address(address)) == size
        )
    return bencode.encode({key: value for key, value in table.items() if value})


def decode_pex(payload: bytes) -> PexMessage:
    """Read a message of ``ut_pex``: the first PEX_PEERS added and dropped ones; who cannot be there is left out."""
    table = _dictionary(payload)
    added: list[tuple[Address, int]] = []
    dropped: list[Address] = []
    for suffix, size in ((b"", COMPACT4), (b"6", COMPACT6)):
        entries = _entries(table.get(b"added" + suffix), size, limits.PEX_PEERS - len(added))
        flags = table.get(b"added" + suffix + b".f")
        flags = flags if isinstance(flags, bytes) else b""
        for at, entry in enumerate(entries):
            added += [(address, flags[at] if at < len(flags) else 0) for address in unpack_compact(entry, size)]
        for entry in _entries(table.get(b"dropped" + suffix), size, limits.PEX_PEERS - len(dropped)):
            dropped += unpack_compact(entry, size)
    return PexMessage(tuple(added), tuple(dropped))


def _entries(packed: Value | None, size: int, most: int) -> Iterable[bytes]:
    """The first compact peers of a string."""
    if packed is None:
        return ()
    if not isinstance(packed, bytes) or len(packed) % size:
        raise PeerError("peer exchange: not a list of peers")
    return [packed[start : start + size] for start in range(0, min(len(packed), most * size), size)]


# --- the small ones ----------------------------------------------------------------------------------------------


def encode_dont_have(piece: int) -> bytes:
    """The payload of ``lt_donthave`` (BEP 54)."""
    return piece.to_bytes(4)


def decode_dont_have(payload: bytes) -> int:
    """The piece of a ``lt_donthave`` (BEP 54). PeerError."""
    if len(payload) != 4:
        raise PeerError(f"lt_donthave of {len(payload)} bytes")
    return int.from_bytes(payload)


def encode_upload_only(value: bool) -> bytes:
    """The payload of ``upload_only`` (BEP 21)."""
    return bytes((value,))


def decode_upload_only(payload: bytes) -> bool:
    """Read an ``upload_only``. PeerError."""
    if len(payload) != 1:
        raise PeerError(f"upload_only of {len(payload)} bytes")
    return payload != b"\0"
