"""Targets: what peers say."""

from __future__ import annotations

from hashlib import sha1, sha256

from btor.dht import contact
from btor.errors import PeerError
from btor.metainfo.bitfield import Bitfield
from btor.metainfo.geometry import Geometry
from btor.metainfo.info_hashes import InfoHashes
from btor.swarm import metadata as metadata_exchange
from btor.swarm.early import EarlyMessages
from btor.swarm.extensions import Extensions
from btor.wire import client_id, extension, handshake, krpc, lsd, messages
from btor.wire.messages import MessageReader
from tests.fuzz.harness import target

GEOMETRY = Geometry(5 * 32_768 + 20_000, 32_768)
GULP = 65_536


@target("handshake", handshake.decode_handshake, handshake.decode_info_hash, handshake.Features.decode)
def fuzz_handshake(data: bytes) -> None:
    for end in range(len(data)):
        handshake.check_protocol(data[:end])  # what is refused whole is not taken back when more comes
    found = handshake.decode_handshake(data)
    assert handshake.decode_info_hash(data[: handshake.INFO_HASH_END]) == found.info_hash
    assert handshake.encode_handshake(found.info_hash, found.peer_id, found.reserved) == data
    features = handshake.Features.decode(found.reserved)
    assert handshake.Features.decode(features.encode()) == features


@target("client_id", client_id.client_name)
def fuzz_client_id(data: bytes) -> None:
    name = client_id.client_name(data[:20])
    assert name.isprintable() and 0 < len(name) < 40


class _Stream:
    """What a reader made of a stream so far, blocks apart, and how it ended."""

    def __init__(self, fast: bool) -> None:
        self.reader = MessageReader(GEOMETRY, fast=fast)
        self.shared = memoryview(bytearray(GULP + 128 * 1024 + 64))
        self.made: list[tuple[object, ...]] = []
        self.ended = False

    def feed(self, data: bytes) -> None:
        """PeerError, once only."""
        while data:
            views = self.reader.targets(self.shared, min(GULP, len(data)))
            count = 0
            for view in views:
                part = data[count : count + len(view)]
                view[: len(part)] = part
                count += len(part)
            data = data[count:]
            self.reader.received(self.shared, count)
            while (taken := self.reader.take()) is not None:
                for one in taken:
                    self._note(one)

    def _note(self, one: messages.Run | messages.Message) -> None:
        if not isinstance(one, list):
            self.made.append(one)
            return
        piece, first, count, length, views = one
        assert isinstance(views, list) and isinstance(first, int) and isinstance(piece, int) and isinstance(length, int)
        assert count == len(views) and sum(map(len, views)) == length == GEOMETRY.run_size(piece, first, len(views))
        self.made += [(piece, first + at, bytes(view)) for at, view in enumerate(views)]


@target("messages", MessageReader, without=("__init__",))
def fuzz_messages(data: bytes) -> None:
    """The first byte: the fast extension or not, and how large the pieces are in which the stream comes."""
    if not data:
        return
    fast, step, stream = bool(data[0] & 1), data[0] // 2 + 1, data[1:]
    whole, cut = _Stream(fast), _Stream(fast)
    failed = []
    for reader, size in ((whole, len(stream) or 1), (cut, step)):
        try:
            for start in range(0, len(stream), size):
                reader.feed(stream[start : start + size])
        except PeerError as error:
            failed.append((reader, str(error)))
    if not failed:
        assert whole.made == cut.made
    else:  # what was read before is the same; a message that is wrong may be noticed a little later or sooner
        assert {id(reader) for reader, _ in failed} == {id(whole), id(cut)}
        assert whole.made == cut.made[: len(whole.made)]


@target("early_messages", EarlyMessages, without=("__init__",))
def fuzz_early_messages(data: bytes) -> None:
    if not data:
        return
    fast, step, stream = bool(data[0] & 1), data[0] // 2 + 1, data[1:]
    whole, cut = EarlyMessages(fast=fast), EarlyMessages(fast=fast)
    made: list[messages.Message] = []
    try:
        said = whole.feed(stream)
    except PeerError:
        said = None
    try:
        for start in range(0, len(stream), step):
            made += cut.feed(stream[start : start + step])
    except PeerError:
        assert said is None
        return
    assert said == made and whole.tail == cut.tail
    replayed = whole.replay(GEOMETRY.piece_count)
    assert replayed == cut.replay(GEOMETRY.piece_count)


@target("bitfield", Bitfield.from_wire)
def fuzz_bitfield(data: bytes) -> None:
    size = 8 * len(data[1:]) - data[0] % 16 if data else 0
    try:
        made = Bitfield.from_wire(data[1:], size)
    except ValueError:
        return
    assert made.to_wire() == data[1:] and len(made) == sum(1 for _ in made) == size - sum(1 for _ in made.missing())


@target("extension_handshake", extension.decode_handshake, Extensions.on_handshake)
def fuzz_extension_handshake(data: bytes) -> None:
    said = extension.decode_handshake(data)
    assert extension.decode_handshake(extension.encode_handshake(said)) == said
    kept = Extensions()
    kept.on_handshake(said)
    kept.on_handshake(said)
    assert all(kept.takes(name) is bool(number) for name, number in said.ids.items())


@target("metadata_message", extension.decode_metadata)
def fuzz_metadata_message(data: bytes) -> None:
    said = extension.decode_metadata(data)
    if said is not None:
        assert extension.decode_metadata(extension.encode_metadata(said)) == said
        assert data.endswith(said.data)


@target("pex", extension.decode_pex)
def fuzz_pex(data: bytes) -> None:
    said = extension.decode_pex(data)
    assert len(said.added) <= 100 and len(said.dropped) <= 100
    assert all(port > 0 and 0 <= flags < 256 for (_, port), flags in said.added)
    again = extension.decode_pex(extension.encode_pex(said))
    assert set(again.added) == set(said.added) and set(again.dropped) == set(said.dropped)


@target("small_extensions", extension.decode_dont_have, extension.decode_upload_only)
def fuzz_small_extensions(data: bytes) -> None:
    if len(data) == 4:
        assert extension.decode_dont_have(data).to_bytes(4) == data
    else:
        said = extension.decode_upload_only(data)
        assert extension.decode_upload_only(extension.encode_upload_only(said)) is said
    extension.decode_dont_have(data)


@target("metadata_exchange", metadata_exchange.MetadataFetch)
def fuzz_metadata_exchange(data: bytes) -> None:
    """Peers 0–7 offer sizes and answer, reject or leave; each step is three bytes. The metadata is 16,385 zeros."""
    right = bytes(16_385)
    known = InfoHashes(None, sha256(right).digest()) if data[:1] == b"\x08" else InfoHashes(sha1(right).digest(), None)
    exchange = metadata_exchange.MetadataFetch(known)
    sizes = (None, 1, 5, 16_384, 16_385, 40_000, 48 * 1024 * 1024)
    for now, at in enumerate(range(0, len(data) - 2, 3)):
        key, action, value = data[at] & 7, data[at + 1], data[at + 2]
        if action < 64:
            exchange.on_offer(key, sizes[value % len(sizes)])
        elif action < 80:
            exchange.on_gone(key)
        elif action < 112:
            exchange.on_reject(key, value, now)
        else:
            size = sizes[value % len(sizes)] or 0
            piece = value >> 5
            length = min(16_384, max(0, size - piece * 16_384)) if action < 240 else value
            try:
                exchange.on_data(key, piece, size, bytes(length), now)
            except PeerError:
                exchange.on_gone(key)
        for peer, piece in exchange.take_requests(now * 0.7):
            assert 0 <= peer < 8 and 0 <= piece * 16_384 < 48 * 1024 * 1024
        assert exchange.result in (None, right)
        assert set(exchange.take_guilty()) <= set(range(8))
        have, wanted = exchange.progress
        assert 0 <= have <= wanted


@target("lsd", lsd.decode_local)
def fuzz_lsd(data: bytes) -> None:
    said = lsd.decode_local(data)
    if said is not None:
        assert 0 < len(said.info_hashes) <= 20
        for group in (lsd.GROUP4, lsd.GROUP6):
            again = lsd.decode_local(lsd.encode_local(said, group))
            assert again == said or again is None  # a long cookie makes ours longer than a datagram may be


@target("krpc", krpc.decode_message)
def fuzz_krpc(data: bytes) -> None:
    said = krpc.decode_message(data)
    if isinstance(said, krpc.Reply) and len({len(value) for value in said.values}) > 1:
        return  # we never send both families in one answer
    if isinstance(said, krpc.Query) and said.method not in (
        krpc.PING,
        krpc.FIND_NODE,
        krpc.GET_PEERS,
        krpc.ANNOUNCE_PEER,
    ):
        return  # an unknown method is not sent on
    sent = krpc.encode_message(said)
    if len(sent) <= 1_400:
        assert krpc.decode_message(sent) == said


@target("dht_contacts", contact.contacts_in, contact.id_fits, contact.is_exempt, contact.Contact, without=("__repr__",))
def fuzz_dht_contacts(data: bytes) -> None:
    """The nodes of an answer; the first byte says of which family."""
    size = krpc.NODE6 if data[:1] == b"6" else krpc.NODE4
    found = contact.contacts_in(data[1 : 1 + (len(data) - 1) // size * size], size)
    assert b"".join(one.compact for one in found) == data[1 : 1 + (len(data) - 1) // size * size]
    for one in found:
        assert len(one.id) == 20 and one == contact.Contact(one.compact) and hash(one) == hash(one.compact)
        assert one.reach != "never" or not one.may_be_named_by(found[0])
        assert one.fits in (True, False)
        one.may_be_named_by(found[0])
