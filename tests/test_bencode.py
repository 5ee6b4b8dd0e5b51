"""Bencoding: the vectors, every bound, a naive model, and what hostile bytes cost."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import bencodepy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor import limits
from btor.bencode import Value, decode, decode_prefix, decode_with_spans, encode
from btor.errors import BencodeError

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "bencode.json").read_text("utf-8"))
BYTES = st.binary(max_size=12)
INT64 = st.integers(-(2**63), 2**63 - 1)
VALUES: st.SearchStrategy[Value] = st.recursive(
    INT64 | BYTES, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(BYTES, inner, max_size=5), max_leaves=20
)


def read(data: bytes | bytearray | memoryview, **bounds: Any) -> Value:
    return decode(data, **{"depth": 100, "tokens": 10_000, **bounds})


def refused(data: bytes, **bounds: Any) -> BencodeError:
    with pytest.raises(BencodeError) as caught:
        read(data, **bounds)
    assert 0 <= caught.value.offset <= len(data)
    return caught.value


def input_of(vector: dict[str, Any]) -> bytes:
    if "input_hex" in vector:
        return bytes.fromhex(vector["input_hex"])
    parts = (part.get("literal") or part["repeat"] * part["count"] for part in vector["generator"])
    return "".join(parts).encode("latin-1")


def expected(value: Any) -> Value:
    """A value of the vectors: strings stand for their bytes, what is not text is under ``hex``."""
    if isinstance(value, dict) and set(value) == {"hex"}:
        return bytes.fromhex(value["hex"])
    if isinstance(value, dict):
        return {_key(key): expected(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [expected(inner) for inner in value]
    return value.encode("latin-1") if isinstance(value, str) else int(value)


def _key(key: str) -> bytes:
    return bytes.fromhex(key[4:]) if key.startswith("hex:") else key.encode("latin-1")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector.get("input_hex", "generated"))[:60])
def test_vectors(vector: dict[str, Any]) -> None:
    data = input_of(vector)
    if vector["verdict"] == "reject":
        refused(data, strict_order=True)
        if vector["reason"] == "unsorted dictionary key":
            assert isinstance(read(data), dict)
        else:
            refused(data)
        return
    value = read(data, strict_order=True)
    if "value" in vector:
        assert value == expected(vector["value"])
    assert encode(value) == data
    for end in range(min(len(data), 100)):
        refused(data[:end])
    refused(data + b"e")


def naive(data: bytes, at: int = 0, depth: int = 0) -> tuple[Value, int]:
    """BEP 3 as it reads, one rule after the other. ValueError or IndexError for what it does not allow."""
    first = data[at : at + 1]
    if first == b"i":
        end = data.index(b"e", at)
        number = int(data[at + 1 : end].decode("ascii"))
        if b"%d" % number != data[at + 1 : end] or not -(2**63) <= number < 2**63:
            raise ValueError
        return number, end + 1
    if first in (b"l", b"d"):
        if depth == 100:
            raise ValueError
        items: list[Value] = []
        at += 1
        while data[at] != ord("e"):
            item, at = naive(data, at, depth + 1)
            items.append(item)
        return items if first == b"l" else naive_dict(items), at + 1
    colon = data.index(b":", at)
    length = int(data[at:colon].decode("ascii"))
    if b"%d" % length != data[at:colon] or length < 0 or colon + 1 + length > len(data):
        raise ValueError
    return data[colon + 1 : colon + 1 + length], colon + 1 + length


def naive_dict(items: list[Value]) -> dict[bytes, Value]:
    keys = [key for key in items[::2] if isinstance(key, bytes)]
    if len(items) % 2 or len(keys) != len(items) // 2 or len(set(keys)) != len(keys):
        raise ValueError
    return dict(zip(keys, items[1::2], strict=True))


def agree_with_the_model(data: bytes) -> None:
    try:
        value, end = naive(data)
        if end != len(data):
            raise ValueError
    except (ValueError, IndexError):
        refused(data)
    else:
        assert read(data) == value


@given(st.binary(max_size=24) | st.text("0123456789:ielda-", max_size=24).map(str.encode))
def test_any_bytes_against_the_model(data: bytes) -> None:
    agree_with_the_model(data)


@given(VALUES, st.data())
def test_damaged_bencoding_against_the_model(value: Value, data: st.DataObject) -> None:
    encoded = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(encoded)))
        encoded[start : start + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b"e", b"d", b"1:x", b"0"])
        )
    agree_with_the_model(bytes(encoded))


@given(VALUES)
def test_round_trip(value: Value) -> None:
    encoded = encode(value)
    assert encoded == bencodepy.encode(value)
    assert read(encoded, strict_order=True) == value
    assert read(bytearray(encoded)) == read(memoryview(encoded)) == value


@given(VALUES, st.binary(max_size=8))
def test_prefix(value: Value, tail: bytes) -> None:
    encoded = encode(value)
    assert decode_prefix(encoded + tail, depth=100, tokens=1000) == (value, len(encoded))


@given(st.dictionaries(BYTES, VALUES, max_size=6), st.binary(max_size=3), st.randoms(use_true_random=False))
def test_spans_are_those_of_the_values(table: dict[bytes, Value], tail: bytes, rng: Any) -> None:
    keys = list(table)
    rng.shuffle(keys)
    data = b"d" + b"".join(encode(key) + encode(table[key]) for key in keys) + b"e" + tail
    value, spans, _ = decode_with_spans(data, depth=100, tokens=1000)
    assert value == table
    assert list(spans) == keys
    assert all(data[start:end] == encode(table[key]) for key, (start, end) in spans.items())


@given(st.dictionaries(BYTES, VALUES, max_size=6), VALUES)
def test_spans_inside_one_dictionary(inner: dict[bytes, Value], other: Value) -> None:
    outer: dict[bytes, Value] = {b"a": other, b"in": inner, b"pieces": other}
    data = encode(outer)
    value, spans, inside = decode_with_spans(data, depth=100, tokens=1000, inside=b"in")
    assert value == outer
    assert inside.keys() == inner.keys()
    assert all(data[start:end] == encode(inner[key]) for key, (start, end) in inside.items())
    assert all(data[start:end] == encode(outer[key]) for key, (start, end) in spans.items())


def test_inside_something_else_there_are_no_spans() -> None:
    assert decode_with_spans(b"d2:ini1ee", depth=9, tokens=9, inside=b"in") == ({b"in": 1}, {b"in": (5, 8)}, {})
    assert decode_with_spans(b"d1:ade2:indee", depth=2, tokens=5, inside=b"in")[2] == {}


@pytest.mark.parametrize("data", [b"d2:ind1:alee1:blee", b"d2:ind1:ai1e1:bi1eee"])
def test_depth_and_tokens_count_inside_too(data: bytes) -> None:
    for depth, tokens in ((9, 9), (3, 7)):
        decode_with_spans(data, depth=depth, tokens=tokens, inside=b"in")
    assert (
        decode_with_spans(data, depth=3, tokens=7)[:2] == decode_with_spans(data, depth=3, tokens=7, inside=b"in")[:2]
    )
    for depth in range(1, 4):
        for tokens in range(1, 8):
            results = []
            for inside in (b"", b"in"):
                try:
                    results.append(decode_with_spans(data, depth=depth, tokens=tokens, inside=inside)[0])
                except BencodeError:
                    results.append({})
            assert results[0] == results[1], (depth, tokens)


@pytest.mark.parametrize(
    "data",
    [
        b"d2:ind1:ai1e1:ai2eee",
        b"d2:ind1:a",
        b"d2:indlei1eee",
        b"",
        b"i1e",
        b"le",
        b"3:abc",
        b"d",
        b"d1:a",
        b"d1:ai1e",
        b"di1e1:ae",
        b"dle1:ae",
        b"d1:ai1e1:ai2ee",
        b"d-e",
    ],
)
def test_spans_refuse(data: bytes) -> None:
    with pytest.raises(BencodeError):
        decode_with_spans(data, depth=100, tokens=1000)
    with pytest.raises(BencodeError):
        decode_with_spans(data, depth=100, tokens=1000, inside=b"in")


def test_T1_depth() -> None:
    assert read(b"l" * 100 + b"e" * 100)
    assert read(b"d0:" * 99 + b"de" + b"e" * 99)
    assert refused(b"l" * 101 + b"e" * 101).offset == 100
    assert refused(b"d0:" * 100 + b"de" + b"e" * 100).offset == 300
    assert read(b"le", depth=1) == []
    assert read(b"i1e", depth=0) == 1
    assert refused(b"le", depth=0)
    assert decode_with_spans(b"d0:lee", depth=2, tokens=9)
    with pytest.raises(BencodeError):
        decode_with_spans(b"d0:llee", depth=2, tokens=9)


@pytest.mark.parametrize(
    ("data", "tokens"),
    [(b"i1e", 1), (b"0:", 1), (b"le", 1), (b"l0:i1elee", 4), (b"d1:ai1e1:bdee", 5), (b"d1:a1:be", 3)],
)
def test_T1_tokens(data: bytes, tokens: int) -> None:
    read(data, tokens=tokens)
    assert "tokens" in str(refused(data, tokens=tokens - 1))
    if data[:1] == b"d":
        decode_with_spans(data, depth=9, tokens=tokens)
        with pytest.raises(BencodeError):
            decode_with_spans(data, depth=9, tokens=tokens - 1)


@pytest.mark.parametrize(
    ("data", "tokens"), [(b"i1e", 4), (b"0:", 1), (b"le", 4), (b"l0:i1elee", 13), (b"d1:ai1e1:bdee", 14)]
)
def test_what_is_no_string_may_count_for_more(data: bytes, tokens: int) -> None:
    read(data, tokens=tokens, weight=4)
    assert "tokens" in str(refused(data, tokens=tokens - 1, weight=4))


def test_size() -> None:
    assert read(b"3:abc", size=5) == b"abc"
    refused(b"3:abc", size=4)
    with pytest.raises(BencodeError):
        decode_prefix(b"3:abc", depth=1, tokens=1, size=4)
    with pytest.raises(BencodeError):
        decode_with_spans(b"de", depth=1, tokens=1, size=1)


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 99, 100, 101, 1000, 65536])
def test_T2_string_lengths(length: int) -> None:
    text = b"x" * length
    assert read(b"%d:%s" % (length, text)) == text
    refused(b"%d:%s" % (length + 1, text))
    refused(b"%d:%s" % (length, text + b"y"))
    refused(b"0%d:%s" % (length, text))


@pytest.mark.parametrize(
    "data", [b"1x:a", b"x", b"1", b"12", b"123", b"1x", b"12x", b"::", b"1;a", b"9" * 10 + b":", b"9" * 11 + b":", b"0"]
)
def test_string_length_is_digits_and_a_colon(data: bytes) -> None:
    refused(data)


def test_T2_integers_are_64_bits() -> None:
    for number in (-(2**63), 2**63 - 1, -1, 0):
        assert read(b"i%de" % number) == number
    for number in (-(2**63) - 1, 2**63, 10**19, -(10**19), 10**100):
        refused(b"i%de" % number)
    refused(b"i" + b"9" * 5001 + b"e")  # int() would raise ValueError
    refused(b"9" * 5001 + b":")


@pytest.mark.parametrize("value", ["text", True, None, 1.5, (1,), {"key": 1}, {1: 2}, [b"", "x"], {b"k": object()}])
def test_encode_refuses_what_would_not_come_back(value: Any) -> None:
    with pytest.raises(TypeError):
        encode(value)


def test_encode_sorts_keys_as_bytes() -> None:
    assert encode({b"\x80": 1, b"b": [], b"a": {b"d": b"", b"c": -1}}) == b"d1:ad1:ci-1e1:d0:e1:ble1:\x80i1ee"


def test_T1_ten_megabytes_of_lists_cost_nothing() -> None:
    data = b"l" * 10_000_000
    tracemalloc.start()
    try:
        start = time.perf_counter()
        refused(data)
        assert time.perf_counter() - start < 0.05
        assert tracemalloc.get_traced_memory()[1] < limits.MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "pattern", [b"l", b"d", b"d0:", b"i", b"1", b"9:", b"0:", b"i1e", b"le", b"de", b"d0:le", b"e", b":", b"-", b"\x00"]
)
@pytest.mark.parametrize("head", [b"", b"l", b"d0:l", b"d1:x"])
def test_hostile_bytes_take_linear_time(head: bytes, pattern: bytes) -> None:
    data = head + pattern * (300_000 // len(pattern))
    start = time.process_time()
    try:
        read(data, tokens=limits.TORRENT_TOKENS)
    except BencodeError:
        pass
    assert time.process_time() - start < 3  # about 0.1; quadratic would be minutes
