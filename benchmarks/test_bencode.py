"""Scanning bencoding: a large torrent file, and the small messages of the DHT."""

from __future__ import annotations

import random

from pytest_benchmark.fixture import BenchmarkFixture

from btor import bencode, limits
from btor.metainfo.torrent_file import parse_torrent
from btor.wire.krpc import decode_message

MEGABYTE = 1_000_000


def torrent(files: int) -> bytes:
    """About a megabyte: the hashes of many pieces, or the names of many files."""
    rng = random.Random(1)
    info: dict[bytes, bencode.Value] = {b"name": b"album", b"piece length": 1 << 20}
    if files:
        info[b"files"] = [
            {b"length": 1 << 20, b"path": [b"folder %d" % (number // 100), b"file %06d" % number]}
            for number in range(files)
        ]
        pieces = files
    else:
        pieces = MEGABYTE // 20
        info[b"length"] = pieces << 20
    info[b"pieces"] = rng.randbytes(20 * pieces)
    return bencode.encode({b"info": info})


def decode_torrent(data: bytes) -> bencode.Value:
    return bencode.decode(data, depth=limits.TORRENT_DEPTH, tokens=limits.TORRENT_TOKENS, size=limits.TORRENT_FILE_SIZE)


def test_torrent_of_one_file(benchmark: BenchmarkFixture) -> None:
    data = torrent(0)
    assert len(data) > MEGABYTE
    benchmark(decode_torrent, data)


def test_torrent_of_many_files(benchmark: BenchmarkFixture) -> None:
    data = torrent(14_000)
    assert len(data) > MEGABYTE
    benchmark(decode_torrent, data)


def test_metainfo_of_many_files(benchmark: BenchmarkFixture) -> None:
    """The same, checked and understood."""
    data = torrent(14_000)
    metainfo = benchmark(parse_torrent, data)
    assert len(metainfo.files) == 14_000


REPLY = b"d1:rd2:id20:abcdefghij01234567895:nodes208:%s5:token8:aoeusnthe1:t2:aa1:y1:re" % random.Random(2).randbytes(
    208
)


def test_scan_of_a_dht_message(benchmark: BenchmarkFixture) -> None:
    benchmark(bencode.decode, REPLY, depth=limits.DHT_DEPTH, tokens=limits.DHT_TOKENS, size=limits.DHT_PACKET)


def test_a_dht_message(benchmark: BenchmarkFixture) -> None:
    benchmark(decode_message, REPLY)
