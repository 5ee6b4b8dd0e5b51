"""KRPC: tables of message and bytes, the vectors of the BEPs, and bytes from hostile hands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor import limits
from btor.bencode import encode
from btor.errors import BtorError, PeerError
from btor.wire import krpc
from btor.wire.krpc import WANT4, WANT6, Failure, Message, Query, Reply, decode_message, encode_message

A = b"abcdefghij0123456789"
B = b"mnopqrstuvwxyz123456"
V = b"1:v4:BO\x01\x00"
VECTORS = json.loads((Path(__file__).parent / "krpc_vectors.json").read_text())

TABLE: list[tuple[Message, bytes]] = [
    (Query(b"aa", b"ping", A), b"d1:ad2:id20:%be1:q4:ping1:t2:aa%b1:y1:qe" % (A, V)),
    (
        Query(b"aa", b"ping", A, read_only=True),
        b"d1:ad2:id20:%be1:q4:ping2:roi1e1:t2:aa%b1:y1:qe" % (A, V),
    ),
    (
        Query(b"aa", b"find_node", A, B, WANT4 | WANT6),
        b"d1:ad2:id20:%b6:target20:%b4:wantl2:n42:n6ee1:q9:find_node1:t2:aa%b1:y1:qe" % (A, B, V),
    ),
    (
        Query(b"aa", b"find_node", A, B, WANT6),
        b"d1:ad2:id20:%b6:target20:%b4:wantl2:n6ee1:q9:find_node1:t2:aa%b1:y1:qe" % (A, B, V),
    ),
    (
        Query(b"aa", b"get_peers", A, B, WANT4, noseed=True, scrape=True),
        b"d1:ad2:id20:%b9:info_hash20:%b6:noseedi1e6:scrapei1e4:wantl2:n4ee1:q9:get_peers1:t2:aa%b1:y1:qe" % (A, B, V),
    ),
    (
        Query(b"aa", b"announce_peer", A, B, 0, b"aoeusnth", 6881, True, True),
        b"d1:ad2:id20:%b12:implied_porti1e9:info_hash20:%b4:porti6881e4:seedi1e5:token8:aoeusnthe"
        b"1:q13:announce_peer1:t2:aa%b1:y1:qe" % (A, B, V),
    ),
    (
        Query(b"aa", b"sample_infohashes", A, B),
        b"d1:ad2:id20:%b6:target20:%be1:q17:sample_infohashes1:t2:aa%b1:y1:qe" % (A, B, V),
    ),
    (Reply(b"aa", A), b"d1:rd2:id20:%be1:t2:aa%b1:y1:re" % (A, V)),
    (
        Reply(b"aa", A, b"\x01\x02\x03\x04\x1a\xe1", nodes=b"n" * 26, nodes6=b"m" * 38, token=b"tok"),
        b"d2:ip6:\x01\x02\x03\x04\x1a\xe11:rd2:id20:%b5:nodes26:%b6:nodes638:%b5:token3:toke1:t2:aa%b1:y1:re"
        % (A, b"n" * 26, b"m" * 38, V),
    ),
    (
        Reply(b"aa", A, nodes=b"", values=(b"axje.u", b"idhtnm"), seeds=bytes(256), peers=b"\xff" * 256),
        b"d1:rd4:BFpe256:%b4:BFsd256:%b2:id20:%b5:nodes0:6:valuesl6:axje.u6:idhtnmee1:t2:aa%b1:y1:re"
        % (b"\xff" * 256, bytes(256), A, V),
    ),
    (
        Reply(b"aa", A, values=(b"x" * 18,), interval=21600, num=2, samples=B + A),
        b"d1:rd2:id20:%b8:intervali21600e3:numi2e7:samples40:%b6:valuesl18:%bee1:t2:aa%b1:y1:re"
        % (A, B + A, b"x" * 18, V),
    ),
    (Failure(b"aa", 201, b"A Generic Error"), b"d1:eli201e15:A Generic Errore1:t2:aa%b1:y1:ee" % V),
    (
        Failure(b"aa", 204, b"", b"\x01\x02\x03\x04\x1a\xe1"),
        b"d1:eli204e0:e2:ip6:\x01\x02\x03\x04\x1a\xe11:t2:aa%b1:y1:ee" % V,
    ),
]


@pytest.mark.parametrize(("message", "data"), TABLE)
def test_table_both_ways(message: Message, data: bytes) -> None:
    assert encode_message(message) == data
    assert decode_message(data) == message


@pytest.mark.parametrize(("message", "data"), TABLE)
def test_truncated_and_with_a_tail(message: Message, data: bytes) -> None:
    for end in range(len(data)):
        with pytest.raises(BtorError):
            decode_message(data[:end])
    with pytest.raises(BtorError):
        decode_message(data + b"e")


@pytest.mark.parametrize(("message", "data"), TABLE)
def test_every_byte_changed(message: Message, data: bytes) -> None:
    for at in range(len(data)):
        for new in (0, 0x30, 0x39, 0x65, 0xFF):
            changed = data[:at] + bytes([new]) + data[at + 1 :]
            try:
                decode_message(changed)
            except BtorError:
                pass


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["source"])
def test_vectors_of_the_beps(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["bytes_hex"])
    if vector.get("refused"):  # its `nodes` is a placeholder of 9 bytes
        with pytest.raises(PeerError, match="bad nodes"):
            decode_message(data)
        return
    message = decode_message(data)
    for key, expected in vector["fields"].items():
        got = getattr(message, key)
        assert got == (expected.encode("latin-1") if isinstance(got, bytes) else expected), key
    assert decode_message(encode_message(message)) == message


def _with(kind: str, change: Callable[[dict[bytes, Any]], None]) -> bytes:
    """The bytes of a message that is right but for ``change``."""
    messages: dict[str, dict[bytes, Any]] = {
        "q": {
            b"t": b"aa",
            b"y": b"q",
            b"q": b"announce_peer",
            b"a": {b"id": A, b"info_hash": B, b"port": 1, b"token": b"t"},
        },
        "r": {b"t": b"aa", b"y": b"r", b"r": {b"id": A}},
        "e": {b"t": b"aa", b"y": b"e", b"e": [201, b"text"]},
    }
    value = messages[kind]
    change(value)
    return encode(value)


def _set(*path: bytes, to: Any) -> Callable[[dict[bytes, Any]], None]:
    def change(value: dict[bytes, Any]) -> None:
        for key in path[:-1]:
            value = value[key]
        if to is None:
            del value[path[-1]]
        else:
            value[path[-1]] = to

    return change


REFUSED: list[tuple[str, Callable[[dict[bytes, Any]], None]]] = [
    ("q", _set(b"t", to=None)),
    ("q", _set(b"t", to=7)),
    ("q", _set(b"t", to=b"")),
    ("q", _set(b"t", to=b"x" * (limits.DHT_TRANSACTION + 1))),
    ("q", _set(b"y", to=b"x")),
    ("q", _set(b"y", to=1)),
    ("q", _set(b"y", to=None)),
    ("q", _set(b"q", to=1)),
    ("q", _set(b"q", to=None)),
    ("q", _set(b"a", to=None)),
    ("q", _set(b"a", to=[])),
    ("q", _set(b"a", b"id", to=None)),
    ("q", _set(b"a", b"id", to=A[:19])),
    ("q", _set(b"a", b"id", to=A + b"x")),
    ("q", _set(b"a", b"id", to=20)),
    ("q", _set(b"a", b"info_hash", to=None)),
    ("q", _set(b"a", b"info_hash", to=B[:19])),
    ("q", _set(b"a", b"info_hash", to=[B])),
    ("q", _set(b"a", b"token", to=None)),
    ("q", _set(b"a", b"token", to=1)),
    ("q", _set(b"a", b"token", to=b"x" * (limits.DHT_TOKEN + 1))),
    ("q", _set(b"a", b"port", to=b"1")),
    ("q", _set(b"a", b"implied_port", to=b"1")),
    ("q", _set(b"a", b"seed", to=[])),
    ("q", _set(b"a", b"want", to=b"n4")),
    ("r", _set(b"r", to=None)),
    ("r", _set(b"r", to=b"")),
    ("r", _set(b"r", b"id", to=None)),
    ("r", _set(b"r", b"id", to=A[:19])),
    ("r", _set(b"r", b"token", to=1)),
    ("r", _set(b"r", b"token", to=b"x" * (limits.DHT_TOKEN + 1))),
    ("r", _set(b"r", b"nodes", to=b"x" * 27)),
    ("r", _set(b"r", b"nodes", to=[])),
    ("r", _set(b"r", b"nodes6", to=b"x" * 26)),
    ("r", _set(b"r", b"values", to=5)),
    ("r", _set(b"r", b"values", to=[5])),
    ("r", _set(b"r", b"values", to=[b"x" * 7])),
    ("r", _set(b"r", b"BFsd", to=b"x" * 255)),
    ("r", _set(b"r", b"BFpe", to=1)),
    ("r", _set(b"r", b"interval", to=-1)),
    ("r", _set(b"r", b"num", to=b"1")),
    ("r", _set(b"r", b"samples", to=b"x" * 21)),
    ("e", _set(b"e", to=None)),
    ("e", _set(b"e", to=b"201")),
    ("e", _set(b"e", to=[201])),
    ("e", _set(b"e", to=[b"201", b"text"])),
    ("e", _set(b"e", to=[201, 201])),
]


@pytest.mark.parametrize(("kind", "change"), REFUSED)
def test_refused(kind: str, change: Callable[[dict[bytes, Any]], None]) -> None:
    decode_message(_with(kind, lambda value: None))
    with pytest.raises(PeerError):
        decode_message(_with(kind, change))


def test_D4_bounds() -> None:
    long = _with("q", _set(b"t", to=b"x" * limits.DHT_TRANSACTION))
    assert decode_message(long).transaction == b"x" * 16
    query = decode_message(_with("q", _set(b"a", b"token", to=b"x" * limits.DHT_TOKEN)))
    assert isinstance(query, Query)
    assert len(query.token) == limits.DHT_TOKEN
    failure = decode_message(_with("e", _set(b"e", to=[201, b"x" * 300])))
    assert isinstance(failure, Failure)
    assert len(failure.text) == limits.DHT_ERROR_TEXT
    filler = limits.DHT_PACKET - len(_with("r", _set(b"x", to=b"x" * 1000)))
    assert decode_message(_with("r", _set(b"x", to=b"x" * (1000 + filler))))
    with pytest.raises(BtorError):
        decode_message(_with("r", _set(b"x", to=b"x" * (1001 + filler))))
    peers = Reply(b"aa", A, token=b"x" * 8, values=(b"peer--",) * 177)
    assert limits.DHT_PACKET - 8 < len(encode_message(peers)) <= limits.DHT_PACKET
    assert decode_message(encode_message(peers)) == peers
    containers = 3 * (limits.DHT_TOKEN_WEIGHT - 1)
    room = limits.DHT_TOKENS - 11 - containers  # the tokens of the rest
    assert decode_message(_with("r", _set(b"x", to=[b""] * room)))
    with pytest.raises(BtorError, match="too many tokens"):
        decode_message(_with("r", _set(b"x", to=[b""] * (room + 1))))
    costly: list[Any] = [1, [], {}]
    for one in costly:
        assert decode_message(_with("r", _set(b"x", to=[one] * (room // limits.DHT_TOKEN_WEIGHT))))
        with pytest.raises(BtorError, match="too many tokens"):
            decode_message(_with("r", _set(b"x", to=[one] * (room // limits.DHT_TOKEN_WEIGHT + 1))))
    deep: Any = []
    for _ in range(limits.DHT_DEPTH - 2):
        deep = [deep]
    assert decode_message(_with("r", _set(b"x", to=deep)))
    with pytest.raises(BtorError):
        decode_message(_with("r", _set(b"x", to=[deep])))


@pytest.mark.parametrize(
    "data", [b"", b"d", b"de", b"le", b"i1e", b"2:ab", b"d1:t2:aa", b"d1:t2:aa1:y1:qe", b"\xff" * 100]
)
def test_no_message_at_all(data: bytes) -> None:
    with pytest.raises(BtorError):
        decode_message(data)


def test_an_address_that_is_none_is_passed_over() -> None:
    for nonsense in (b"\x01\x02\x03\x04", 5, b""):
        reply = decode_message(_with("r", _set(b"ip", to=nonsense)))
        assert isinstance(reply, Reply)
        assert reply.ip == b""


def test_an_unknown_method_takes_either_name_of_its_target() -> None:
    for key in (b"target", b"info_hash"):
        query = decode_message(encode({b"t": b"a", b"y": b"q", b"q": b"get", b"a": {b"id": A, key: B}}))
        assert query == Query(b"a", b"get", A, B)
    query = decode_message(encode({b"t": b"a", b"y": b"q", b"q": b"put", b"a": {b"id": A}}))
    assert query == Query(b"a", b"put", A, None)


def test_unsorted_keys_are_taken() -> None:
    assert decode_message(b"d1:y1:q1:t2:aa1:q4:ping1:ad2:id20:%bee" % A) == Query(b"aa", krpc.PING, A)


ids = st.binary(min_size=20, max_size=20)
transactions = st.binary(min_size=1, max_size=limits.DHT_TRANSACTION)
addresses = st.sampled_from([0, 6, 18]).flatmap(lambda size: st.binary(min_size=size, max_size=size))


def _multiples(size: int) -> st.SearchStrategy[bytes | None]:
    return st.none() | st.integers(0, 8).flatmap(lambda n: st.binary(min_size=n * size, max_size=n * size))


replies = st.builds(
    Reply,
    transactions,
    ids,
    addresses,
    _multiples(26),
    _multiples(38),
    st.binary(max_size=limits.DHT_TOKEN),
    st.lists(st.binary(min_size=6, max_size=6), max_size=20).map(tuple),
    st.none() | st.binary(min_size=256, max_size=256),
    st.none(),
    st.none() | st.integers(0, 10**6),
    st.none() | st.integers(0, 10**6),
    _multiples(20),
)
queries = st.builds(
    Query,
    transactions,
    st.sampled_from([krpc.FIND_NODE, krpc.SAMPLE_INFOHASHES, b"get", b"x"]),
    ids,
    ids,
    st.integers(0, 3),
    st.just(b""),
    st.just(0),
    *[st.just(False)] * 4,
    st.booleans(),
)
announces = st.builds(
    Query,
    transactions,
    st.just(krpc.ANNOUNCE_PEER),
    ids,
    ids,
    st.integers(0, 3),
    st.binary(min_size=1, max_size=limits.DHT_TOKEN),
    st.integers(0, 65535),
    st.booleans(),
    st.booleans(),
    *[st.just(False)] * 2,
    st.booleans(),
)


@given(st.one_of(replies, queries, announces))
def test_round_trip(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


_KEYS = [b"id", b"info_hash", b"target", b"want", b"token", b"port", b"nodes", b"values", b"samples", b"BFsd", b"e"]
values: st.SearchStrategy[Any] = st.recursive(
    st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=30) | st.sampled_from([A, B, b"n4"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=6),
    max_leaves=20,
)


@given(
    st.fixed_dictionaries(
        {b"t": st.just(b"aa") | values, b"y": st.sampled_from([b"q", b"r", b"e"]) | values},
        optional={
            b"q": st.sampled_from([b"ping", b"get_peers", b"announce_peer", b"find_node", b"x"]) | values,
            b"a": values,
            b"r": values,
            b"e": values,
            b"ip": values,
            b"ro": values,
        },
    )
)
def test_only_our_errors_come_out(value: dict[bytes, Any]) -> None:
    try:
        decode_message(encode(value))
    except BtorError:
        pass


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(BtorError):
        decode_message(data)
