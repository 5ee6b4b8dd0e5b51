"""Messages of the peer wire: a table of (bytes, meaning), fed whole, byte by byte and in random gulps."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.errors import PeerError
from btor.limits import BLOCK, EXTENDED_MESSAGE, UNKNOWN_MESSAGE
from btor.metainfo.geometry import Geometry
from btor.wire import messages as wire

GEOMETRY = Geometry(3 * 40_000 - 1_000, 40_000)  # three blocks a piece, the last of each short
ROOM = 256 * 1024


def block(piece: int, begin: int, size: int) -> bytes:
    """A piece message with recognisable content."""
    data = bytes((piece * 31 + begin // 7 + i) & 0xFF for i in range(size))
    return struct.pack(">IBII", size + 9, 7, piece, begin) + data


def whole(geometry: Geometry, piece: int, number: int) -> bytes:
    return block(piece, number * BLOCK, geometry.block_size(piece, number))


SMALL = [
    (b"\0\0\0\0", []),
    (b"\0\0\0\1\0", [(wire.CHOKE,)]),
    (b"\0\0\0\1\1", [(wire.UNCHOKE,)]),
    (b"\0\0\0\1\2", [(wire.INTERESTED,)]),
    (b"\0\0\0\1\3", [(wire.NOT_INTERESTED,)]),
    (b"\0\0\0\5\4\0\0\0\2", [(wire.HAVE, 2)]),
    (b"\0\0\0\2\5\xe0", [(wire.BITFIELD, b"\xe0")]),
    (struct.pack(">IBIII", 13, 6, 1, 16384, 100), [(wire.REQUEST, 1, 16384, 100)]),
    (struct.pack(">IBIII", 13, 8, 1, 2**32 - 1, 5), [(wire.CANCEL, 1, 2**32 - 1, 5)]),
    (b"\0\0\0\3\x09\x1a\xe1", [(wire.PORT, 6881)]),
    (b"\0\0\0\5\x14\0d1e", [(wire.EXTENDED, b"\0d1e")]),
    (b"\0\0\0\4\xffabc", []),
    (struct.pack(">IB", 1 + 300, 200) + bytes(300), []),
]


def feed(
    data: bytes,
    gulps: list[int] | None = None,
    geometry: Geometry = GEOMETRY,
    *,
    fast: bool = False,
    begun: bytes = b"",
) -> list[object]:
    """What a reader makes of ``data`` when it comes in those gulps: runs with their bytes joined."""
    reader = wire.MessageReader(geometry, fast=fast, begun=begun)
    shared = memoryview(bytearray(ROOM + 64 * 1024))
    seen: list[object] = []
    for size in gulps or [len(data)]:
        chunk, data = data[:size], data[size:]
        while chunk:
            views = reader.targets(shared, 64 * 1024)
            count = 0
            for view in views:
                part = chunk[: len(view)]
                view[: len(part)] = part
                chunk = chunk[len(part) :]
                count += len(part)
            reader.received(shared, count)
            while (items := reader.take()) is not None:
                seen += [_frozen(item) for item in items]
    return seen


def _frozen(item: wire.Run | wire.Message) -> object:
    if isinstance(item, list):
        views = item[4]
        assert isinstance(views, list)
        return ("run", *item[:4], b"".join(views))
    return item


def blocks_of(seen: list[object]) -> list[object]:
    """``seen`` with every run cut into its blocks, so that it does not depend on the gulps."""
    out: list[object] = []
    for item in seen:
        if isinstance(item, tuple) and item[0] == "run":
            _, piece, first, count, length, data = item
            assert len(data) == length
            for number in range(count):
                out.append((piece, first + number, data[number * BLOCK : (number + 1) * BLOCK]))
        else:
            out.append(item)
    return out


@pytest.mark.parametrize(("data", "expected"), SMALL)
def test_small_messages(data: bytes, expected: list[object]) -> None:
    assert feed(data) == expected
    assert feed(data, [1] * len(data)) == expected
    assert feed(data + b"\0\0\0\1\2") == [*expected, (wire.INTERESTED,)]
    assert feed(data[:-1]) == []


FAST = [
    (b"\0\0\0\5\x0d\0\0\0\2", (wire.SUGGEST, 2)),
    (b"\0\0\0\1\x0e", (wire.HAVE_ALL,)),
    (b"\0\0\0\1\x0f", (wire.HAVE_NONE,)),
    (struct.pack(">IBIII", 13, 16, 1, 16384, 100), (wire.REJECT, 1, 16384, 100)),
    (b"\0\0\0\5\x11\0\0\0\2", (wire.ALLOWED_FAST, 2)),
]


@pytest.mark.parametrize(("data", "expected"), FAST)
def test_messages_of_the_fast_extension(data: bytes, expected: object) -> None:
    assert feed(data, fast=True) == [expected]
    assert feed(data, [1] * len(data), fast=True) == [expected]
    assert feed(data[:-1], fast=True) == []
    longer = struct.pack(">I", len(data) - 3) + data[4:] + b"x"
    for wrong, fast in ((data, False), (longer, True)):
        with pytest.raises(PeerError):
            feed(wrong, fast=fast)
        with pytest.raises(PeerError):
            feed(wrong, [1] * len(wrong), fast=fast)


@pytest.mark.parametrize("kind", [wire.HAVE, wire.SUGGEST, wire.ALLOWED_FAST])
def test_a_piece_that_does_not_exist_ends_the_connection(kind: int) -> None:
    feed(struct.pack(">IBI", 5, kind, GEOMETRY.piece_count - 1), fast=True)
    with pytest.raises(PeerError):
        feed(struct.pack(">IBI", 5, kind, GEOMETRY.piece_count), fast=True)


def test_a_reader_goes_on_where_another_stopped() -> None:
    data = b"\0\0\0\5\4\0\0\0\2"
    for begun in range(len(data)):
        assert feed(data[begun:], begun=data[:begun]) == [(wire.HAVE, 2)]


def test_a_run_joins_consecutive_blocks_of_one_piece() -> None:
    data = b"".join(whole(GEOMETRY, 0, number) for number in range(3))
    first = data[13 : 13 + BLOCK] + data[26 + BLOCK : 26 + 2 * BLOCK]
    short = GEOMETRY.block_size(0, 2)
    assert feed(data) == [("run", 0, 0, 2, 2 * BLOCK, first), ("run", 0, 2, 1, short, data[-short:])]


def test_a_run_does_not_cross_pieces_nor_gaps() -> None:
    data = whole(GEOMETRY, 0, 1) + whole(GEOMETRY, 1, 0) + whole(GEOMETRY, 0, 0) + whole(GEOMETRY, 2, 1)
    assert [item[1:4] for item in feed(data) if isinstance(item, tuple)] == [(0, 1, 1), (1, 0, 1), (0, 0, 1), (2, 1, 1)]


def test_a_cut_block_goes_on_in_its_own_buffer_and_joins_the_next() -> None:
    geometry = Geometry(8 * BLOCK, 8 * BLOCK)
    data = b"".join(whole(geometry, 0, number) for number in range(4))
    seen = feed(data, [13 + BLOCK + 13 + 5, len(data)], geometry)
    assert [item[1:4] for item in seen if isinstance(item, tuple)] == [(0, 0, 1), (0, 1, 3)]
    assert blocks_of(seen) == blocks_of(feed(data, None, geometry))


def test_mid_block_receives_into_the_block_first() -> None:
    geometry = Geometry(8 * BLOCK, 8 * BLOCK)
    reader = wire.MessageReader(geometry)
    shared = memoryview(bytearray(ROOM))
    data = whole(geometry, 0, 0)
    reader.targets(shared, 1000)[0][:100] = data[:100]
    reader.received(shared, 100)
    assert reader.take() is None
    views = reader.targets(shared, 50_000)
    assert [len(view) for view in views] == [BLOCK + 13 - 100, 50_000 - (BLOCK + 13 - 100)]
    assert [len(view) for view in reader.targets(shared, 1_000)] == [1_000]


@pytest.mark.parametrize(
    ("data", "stray"),
    [
        (block(0, 1, BLOCK), (0, 1, BLOCK)),
        (block(0, BLOCK, BLOCK - 1), (0, BLOCK, BLOCK - 1)),
        (block(0, 2 * BLOCK, BLOCK), (0, 2 * BLOCK, BLOCK)),
        (block(0, 3 * BLOCK, 5), (0, 3 * BLOCK, 5)),
        (block(2, 2 * BLOCK, GEOMETRY.block_size(1, 2)), (2, 2 * BLOCK, GEOMETRY.block_size(1, 2))),
    ],
)
def test_blocks_nobody_can_have_asked_for(data: bytes, stray: tuple[int, int, int]) -> None:
    assert feed(data) == [(wire.STRAY_BLOCK, *stray)]
    # a whole block in front does not make it one of its run
    if stray[0] == 0 and stray[1] == 2 * BLOCK:
        assert feed(whole(GEOMETRY, 0, 1) + data)[-1] == (wire.STRAY_BLOCK, *stray)
    assert feed(data, [len(data) // 2, len(data)])[-1] == (wire.STRAY_BLOCK, *stray)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\xff\xff\xff\xff\x07\0\0\0\0\0\0\0\0",
        struct.pack(">IB", EXTENDED_MESSAGE + 1, 20),
        struct.pack(">IB", 1, 20),
        struct.pack(">IB", UNKNOWN_MESSAGE + 1, 77),
        struct.pack(">IBII", 9 + BLOCK + 1, 7, 0, 0),
        struct.pack(">IBI", 9, 7, 0) + bytes(4),
        b"\0\0\0\2\0\0",
        b"\0\0\0\4\4\0\0\0",
        b"\0\0\0\3\5\0\0",
        b"\0\0\0\1\5",
        b"\0\0\0\x0c\6" + bytes(11),
        b"\0\0\0\1\x0e",
        b"\0\0\0\5\4\0\0\0\3",
        block(3, 0, 20),
    ],
)
def test_P1_what_ends_the_connection(data: bytes) -> None:
    with pytest.raises(PeerError):
        feed(data)
    with pytest.raises(PeerError):
        feed(data, [1] * len(data))


def test_the_bound_on_an_extended_message_is_inside() -> None:
    data = struct.pack(">IB", EXTENDED_MESSAGE, 20) + bytes(EXTENDED_MESSAGE - 1)
    assert feed(data) == [(wire.EXTENDED, bytes(EXTENDED_MESSAGE - 1))]


def test_P1_an_oversize_length_is_refused_before_its_body_comes() -> None:
    reader = wire.MessageReader(GEOMETRY)
    shared = memoryview(bytearray(ROOM))
    reader.targets(shared, 10)[0][:5] = struct.pack(">IB", 2, 5)[:4] + b"\x06"
    reader.received(shared, 5)
    with pytest.raises(PeerError):
        reader.take()


def test_P1_a_flood_of_small_messages_comes_in_portions() -> None:
    count = wire.SMALL_MESSAGES_AT_ONCE + 10
    reader = wire.MessageReader(GEOMETRY)
    shared = memoryview(bytearray(ROOM))
    data = b"\0\0\0\5\4\0\0\0\1" * count
    reader.targets(shared, len(data))[0][: len(data)] = data
    reader.received(shared, len(data))
    sizes = []
    while (items := reader.take()) is not None:
        sizes.append(len(items))
    assert sizes == [wire.SMALL_MESSAGES_AT_ONCE, 10]


def test_what_follows_a_portion_without_meaning_is_not_lost() -> None:
    count = wire.SMALL_MESSAGES_AT_ONCE
    assert feed(b"\0\0\0\1\xc8" * (count + 5) + b"\0\0\0\1\2") == [(wire.INTERESTED,)]


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    parts = []
    for _ in range(draw(st.integers(1, 8))):
        if draw(st.booleans()):
            parts.append(draw(st.sampled_from(SMALL))[0])
        else:
            piece = draw(st.integers(0, 2))
            first = draw(st.integers(0, 2))
            for number in range(first, GEOMETRY.block_count(piece)):
                parts.append(whole(GEOMETRY, piece, number))
    data = b"".join(parts)
    cuts = draw(st.lists(st.integers(1, max(1, len(data))), max_size=12))
    return data, [*cuts, len(data)]


@given(conversations())
def test_gulps_do_not_matter(conversation: tuple[bytes, list[int]]) -> None:
    data, gulps = conversation
    assert blocks_of(feed(data, gulps)) == blocks_of(feed(data))


@given(st.binary(max_size=200), st.lists(st.integers(1, 50), max_size=10))
def test_P7_noise_ends_in_a_peer_error_or_nothing(data: bytes, gulps: list[int]) -> None:
    try:
        feed(data, [*gulps, len(data) or 1])
    except PeerError:
        pass


def test_encoders() -> None:
    assert wire.encode_state(wire.UNCHOKE) == b"\0\0\0\1\1"
    assert wire.encode_have(258) == b"\0\0\0\5\4\0\0\1\2"
    assert wire.encode_bitfield(b"\xe0") == b"\0\0\0\2\5\xe0"
    assert wire.encode_cancel(1, 2, 3) == struct.pack(">IBIII", 13, 8, 1, 2, 3)
    assert wire.encode_reject(1, 2, 3) == struct.pack(">IBIII", 13, 16, 1, 2, 3)
    assert wire.encode_allowed_fast(7) == b"\0\0\0\5\x11\0\0\0\7"
    assert wire.encode_port(6881) == b"\0\0\0\3\x09\x1a\xe1"
    assert wire.encode_extended(3, b"de") == b"\0\0\0\4\x14\3de"
    buffer = memoryview(bytearray(20))
    wire.put_block_header(buffer, 3, 5, BLOCK, 100)
    assert bytes(buffer) == bytes(3) + struct.pack(">IBII", 109, 7, 5, BLOCK) + bytes(4)


def test_requests_of_runs() -> None:
    short = GEOMETRY.block_size(0, 2)
    last = GEOMETRY.block_size(2, 2)
    assert wire.encode_requests(GEOMETRY, [(0, 1, 2), (2, 2, 1), (1, 0, 1)]) == (
        struct.pack(">IBIII", 13, 6, 0, BLOCK, BLOCK)
        + struct.pack(">IBIII", 13, 6, 0, 2 * BLOCK, short)
        + struct.pack(">IBIII", 13, 6, 2, 2 * BLOCK, last)
        + struct.pack(">IBIII", 13, 6, 1, 0, BLOCK)
    )
