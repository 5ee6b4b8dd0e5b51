"""D3: what is stored, for how long, and how much at most."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btor import limits
from btor.dht.bloom import filter_of
from btor.dht.peer_store import PeerStore

HASH = b"h" * 20
LIFE = limits.DHT_PEER_LIFE


def address(number: int, port: int = 6881) -> bytes:
    return b"\x05" + number.to_bytes(3) + port.to_bytes(2)


def local(port: int) -> bytes:
    return b"\x7f\x00\x00\x01" + port.to_bytes(2)


def store(**options: bool) -> PeerStore:
    return PeerStore(6, random.Random(1), **options)


def test_what_was_announced_is_given_out() -> None:
    peers = store()
    assert peers.get(HASH, 10, 0.0) == ()
    for number in range(5):
        peers.add(HASH, address(number), False, 0.0)
    assert sorted(peers.get(HASH, 10, 0.0)) == [address(number) for number in range(5)]
    assert peers.get(HASH, 0, 0.0) == ()
    assert peers.get(b"g" * 20, 10, 0.0) == ()
    assert (len(peers), peers.peers) == (1, 5)


def test_a_run_from_anywhere() -> None:
    peers = store()
    for number in range(50):
        peers.add(HASH, address(number), False, 0.0)
    seen: set[bytes] = set()
    for _ in range(60):
        some = peers.get(HASH, 20, 0.0)
        assert len(set(some)) == 20
        seen.update(some)
    assert len(seen) == 50


def test_one_entry_an_address() -> None:
    peers = store()
    peers.add(HASH, address(1, 1), False, 0.0)
    peers.add(HASH, address(2, 2), False, 0.0)
    peers.add(HASH, address(1, 3), False, 1.0)
    assert peers.get(HASH, 9, 1.0) == (address(2, 2), address(1, 3))
    peers.add(HASH, address(2, 2), True, 2.0)
    assert peers.get(HASH, 9, 1.0) == (address(1, 3), address(2, 2))


def test_the_same_bytes_across_two_entries_are_no_entry() -> None:
    peers = store()
    peers.add(HASH, bytes([1, 2, 3, 4, 5, 6]), False, 0.0)
    peers.add(HASH, bytes([7, 8, 9, 9, 9, 9]), False, 0.0)
    peers.add(HASH, bytes([3, 4, 5, 6, 1, 1]), False, 0.0)
    peers.add(HASH, bytes([5, 6, 7, 8, 1, 1]), False, 0.0)
    assert peers.peers == 4


def test_eight_ports_on_loopback() -> None:
    peers = store()
    for port in range(1, limits.DHT_PORTS_PER_LOOPBACK + 2):
        peers.add(HASH, local(port), False, 0.0)
    assert sorted(peers.get(HASH, 20, 0.0)) == [local(port) for port in range(2, limits.DHT_PORTS_PER_LOOPBACK + 2)]
    peers.add(HASH, local(5), False, 0.0)
    assert peers.peers == limits.DHT_PORTS_PER_LOOPBACK
    strict = store(loopback_is_public=True)
    strict.add(HASH, local(1), False, 0.0)
    strict.add(HASH, local(2), False, 0.0)
    assert strict.get(HASH, 9, 0.0) == (local(2),)


def test_ipv6() -> None:
    peers = PeerStore(18, random.Random(1))
    here, there = bytes(15) + b"\x01", bytes.fromhex("20010db8") + bytes(12)
    peers.add(HASH, here + b"\x00\x01", False, 0.0)
    peers.add(HASH, here + b"\x00\x02", False, 0.0)
    peers.add(HASH, there + b"\x00\x01", False, 0.0)
    peers.add(HASH, there + b"\x00\x02", False, 0.0)
    assert peers.get(HASH, 9, 0.0) == (here + b"\x00\x01", here + b"\x00\x02", there + b"\x00\x02")


def test_peers_expire() -> None:
    peers = store()
    peers.add(HASH, address(1), False, 0.0)
    peers.add(HASH, address(2), False, 100.0)
    assert len(peers.get(HASH, 9, LIFE - 0.1)) == 2
    assert peers.get(HASH, 9, LIFE) == (address(2),)
    peers.add(HASH, address(2), False, LIFE)
    assert len(peers.get(HASH, 9, LIFE + 200)) == 1
    assert peers.get(HASH, 9, 2 * LIFE) == ()
    assert len(peers) == 0
    peers.add(HASH, address(3), False, 2 * LIFE)
    peers.add(HASH, address(4), False, 3 * LIFE)
    assert peers.get(HASH, 9, 3 * LIFE) == (address(4),)


def test_a_sweep_drops_whoever_has_expired() -> None:
    peers = store()
    for number in range(200):
        peers.add(number.to_bytes(20), address(1), False, 0.0 if number % 3 else 1000.0)
    peers.sweep(LIFE - 0.1)
    assert len(peers) == 200
    peers.sweep(LIFE)
    assert len(peers) == peers.peers == 67
    peers.sweep(LIFE + 1000)
    assert len(peers) == 0
    peers.sweep(LIFE + 1000)


def test_D3_storage_torrents() -> None:
    peers = store()
    for number in range(limits.DHT_TORRENTS):
        peers.add(number.to_bytes(20), address(1), False, 0.0)
        if number < 1000:
            peers.add(number.to_bytes(20), address(2), False, 0.0)
    assert len(peers) == limits.DHT_TORRENTS
    for number in range(500):
        peers.add(b"new" + number.to_bytes(17), address(1), False, 0.0)
    assert len(peers) == limits.DHT_TORRENTS
    lonely = sum(not peers.get(number.to_bytes(20), 1, 0.0) for number in range(1000, 2000))
    popular = sum(not peers.get(number.to_bytes(20), 1, 0.0) for number in range(1000))
    assert lonely > 5 * popular  # the smaller of those that are drawn makes room


def test_D3_storage_peers() -> None:
    peers = store()
    for number in range(limits.DHT_TORRENT_PEERS):
        peers.add(HASH, address(number), False, 0.0)
    assert peers.peers == limits.DHT_TORRENT_PEERS
    for number in range(1000):
        peers.add(HASH, address(10_000 + number), False, 0.0)
    assert peers.peers == limits.DHT_TORRENT_PEERS
    left = sum(address(number) in peers.get(HASH, 500, 0.0) for number in range(500))
    assert 100 < left < 300  # a flood replaces some, not all
    newest = sum(address(10_000 + number) in peers.get(HASH, 500, 0.0) for number in range(900, 1000))
    assert newest > 25


def test_seeds_are_left_out_if_asked() -> None:
    peers = store()
    for number in range(10):
        peers.add(HASH, address(number), number % 2 == 0, 0.0)
    assert sorted(peers.get(HASH, 20, 0.0, noseed=True)) == [address(number) for number in range(1, 10, 2)]
    assert len(peers.get(HASH, 3, 0.0, noseed=True)) == 3


def test_filters_of_a_scrape() -> None:
    peers = store()
    assert peers.filters(HASH, 0.0) == (bytes(256), bytes(256))
    peers.add(HASH, address(1), True, 0.0)
    peers.add(HASH, address(2), False, 0.0)
    both = (filter_of([address(1)[:4]]), filter_of([address(2)[:4]]))
    assert peers.filters(HASH, 0.0) == both
    peers.add(HASH, address(3), False, 0.0)
    assert peers.filters(HASH, limits.DHT_FILTER_AGE - 1) == both
    fresh = peers.filters(HASH, limits.DHT_FILTER_AGE)
    assert fresh == (both[0], filter_of([address(2)[:4], address(3)[:4]]))


def test_samples() -> None:
    peers = store()
    assert peers.sample() == b""
    for number in range(limits.DHT_SAMPLES):
        peers.add(number.to_bytes(20), address(1), False, 0.0)
    assert peers.sample() == b"".join(number.to_bytes(20) for number in range(limits.DHT_SAMPLES))
    peers.add(b"x" * 20, address(1), False, 0.0)
    sample = peers.sample()
    assert len({sample[at : at + 20] for at in range(0, len(sample), 20)}) == limits.DHT_SAMPLES


announces = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(1, 3), st.integers(0, 900)), max_size=60
)


@settings(max_examples=60)
@given(announces)
def test_like_a_dictionary(steps: list[tuple[int, int, int, int]]) -> None:
    peers, model, now = store(), dict[tuple[int, int], tuple[int, float]](), 0.0
    for torrent, host, port, seconds in steps:
        now += seconds
        peers.add(torrent.to_bytes(20), address(host, port), False, now)
        model[torrent, host] = (port, now)
    for torrent in range(3):
        expected = {
            address(host, port) for (one, host), (port, then) in model.items() if one == torrent and then > now - LIFE
        }
        assert set(peers.get(torrent.to_bytes(20), 100, now)) == expected


def test_a_million_peers_are_small() -> None:
    import tracemalloc

    tracemalloc.start()
    peers = store()
    for number in range(100):
        for peer in range(limits.DHT_TORRENT_PEERS):
            peers.add(number.to_bytes(20), address(peer), False, 0.0)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / peers.peers == pytest.approx(15, abs=5)
