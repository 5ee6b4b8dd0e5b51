"""Fetching metadata from peers that are honest, lie, stall or refuse: what comes out is right, and honest ones stay."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.errors import PeerError
from btor.limits import (
    METADATA_ASKED,
    METADATA_ATTEMPTS,
    METADATA_PATIENCE,
    METADATA_PIECE,
    METADATA_REST,
    METADATA_STALL,
)
from btor.metainfo.info_hashes import InfoHashes
from btor.swarm.metadata import MetadataFetch


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def fetch_of(info: bytes) -> MetadataFetch:
    return MetadataFetch(InfoHashes(hashlib.sha1(info).digest(), None))


def piece_of(info: bytes, piece: int) -> bytes:
    return info[piece * METADATA_PIECE : (piece + 1) * METADATA_PIECE]


def answer(fetch: MetadataFetch, info: bytes, requests: list[tuple[int, int]], now: float) -> None:
    for key, piece in requests:
        fetch.on_data(key, piece, len(info), piece_of(info, piece), now)


INFO = content(2 * METADATA_PIECE + 100)


def test_one_honest_peer() -> None:
    fetch = fetch_of(INFO)
    assert fetch.take_requests(0.0) == [] and fetch.progress == (0, 0) and fetch.offers == 0
    fetch.on_offer(1, len(INFO))
    requests = fetch.take_requests(0.0)
    assert requests == [(1, 0), (1, 1), (1, 2)]
    answer(fetch, INFO, requests[:2], 0.1)
    assert fetch.progress == (2 * METADATA_PIECE, len(INFO)) and fetch.offers == 1
    assert fetch.result is None and fetch.take_requests(0.2) == []
    answer(fetch, INFO, requests[2:], 0.3)
    assert fetch.result == INFO
    assert fetch.take_requests(0.4) == [] and fetch.take_guilty() == []
    fetch.on_data(1, 0, len(INFO), b"", 0.5)  # too late to matter
    fetch.on_reject(1, 0, 0.5)
    fetch.on_gone(1)
    fetch.on_gone(1)


@pytest.mark.parametrize("v1", [True, False])
@pytest.mark.parametrize("v2", [True, False])
def test_both_hashes_of_a_hybrid_count(v1: bool, v2: bool) -> None:
    hashes = InfoHashes(
        hashlib.sha1(INFO).digest() if v1 else bytes(20), hashlib.sha256(INFO).digest() if v2 else bytes(32)
    )
    fetch = MetadataFetch(hashes)
    fetch.on_offer(1, len(INFO))
    answer(fetch, INFO, fetch.take_requests(0.0), 0.1)
    assert (fetch.result is not None) == (v1 and v2)
    assert fetch.take_guilty() == ([] if v1 and v2 else [1])


def test_a_v2_hash_alone_counts() -> None:
    fetch = MetadataFetch(InfoHashes(None, hashlib.sha256(INFO).digest()))
    fetch.on_offer(1, len(INFO))
    answer(fetch, INFO, fetch.take_requests(0.0), 0.1)
    assert fetch.result == INFO


def test_so_many_pieces_are_asked_of_a_peer_at_once() -> None:
    info = content(METADATA_PIECE * (METADATA_ASKED + 2))
    fetch = fetch_of(info)
    fetch.on_offer(1, len(info))
    requests = fetch.take_requests(0.0)
    assert len(requests) == METADATA_ASKED
    answer(fetch, info, requests[:1], 0.1)
    assert fetch.take_requests(0.1) == [(1, METADATA_ASKED)]


def test_two_peers_share_the_work() -> None:
    info = content(METADATA_PIECE * (METADATA_ASKED + 2))
    fetch = fetch_of(info)
    for key in (1, 2):
        fetch.on_offer(key, len(info))
    requests = fetch.take_requests(0.0)
    assert sorted(piece for _, piece in requests) == list(range(METADATA_ASKED + 2))
    assert {key for key, _ in requests} == {1, 2}
    answer(fetch, info, requests, 0.1)
    assert fetch.result == info


def test_what_one_is_slow_to_send_another_is_asked_too() -> None:
    fetch = fetch_of(INFO)
    for key in (1, 2):
        fetch.on_offer(key, len(INFO))
    first = fetch.take_requests(0.0)
    assert {key for key, _ in first} == {1}
    assert fetch.take_requests(METADATA_PATIENCE - 0.01) == []
    second = fetch.take_requests(METADATA_PATIENCE)
    assert second == [(2, piece) for _, piece in first]
    answer(fetch, INFO, second[:2], 2.0)
    answer(fetch, INFO, first[:1], 2.1)  # a piece that is there already
    answer(fetch, INFO, second[2:], 2.2)
    assert fetch.result == INFO


def test_who_stalls_rests_and_what_comes_late_counts() -> None:
    fetch = fetch_of(INFO)
    fetch.on_offer(1, len(INFO))
    requests = fetch.take_requests(0.0)
    assert fetch.take_requests(METADATA_STALL - 0.01) == []
    assert fetch.take_requests(METADATA_STALL) == []
    assert fetch.take_requests(METADATA_STALL + METADATA_REST - 0.01) == []
    assert fetch.take_requests(METADATA_STALL + METADATA_REST) == requests
    answer(fetch, INFO, requests[:1], 80.0)
    fetch.take_requests(80.0 + METADATA_STALL)
    answer(fetch, INFO, requests[1:], 95.0)
    assert fetch.result == INFO


def test_who_refuses_rests() -> None:
    fetch = fetch_of(INFO)
    fetch.on_offer(1, len(INFO))
    requests = fetch.take_requests(0.0)
    fetch.on_reject(1, 77, 0.5)  # never asked
    fetch.on_reject(1, 0, 1.0)
    fetch.on_offer(2, len(INFO))
    assert sorted(fetch.take_requests(1.0)) == [(2, piece) for _, piece in requests]


def test_two_that_were_asked_the_same_leave() -> None:
    fetch = fetch_of(INFO)
    for key in (1, 2):
        fetch.on_offer(key, len(INFO))
    requests = fetch.take_requests(0.0)
    assert fetch.take_requests(METADATA_PATIENCE)
    for key in (1, 2):
        fetch.on_gone(key)
    fetch.on_offer(3, len(INFO))
    assert fetch.take_requests(METADATA_PATIENCE) == [(3, piece) for _, piece in requests]


@pytest.mark.parametrize(("size", "data"), [(len(INFO) + 1, INFO[:METADATA_PIECE]), (len(INFO), INFO[:5])])
def test_a_piece_that_cannot_be_is_the_peers_fault(size: int, data: bytes) -> None:
    fetch = fetch_of(INFO)
    fetch.on_offer(1, len(INFO))
    fetch.take_requests(0.0)
    with pytest.raises(PeerError):
        fetch.on_data(1, 0, size, data, 0.1)


def test_what_was_not_asked_is_ignored() -> None:
    fetch = fetch_of(INFO)
    fetch.on_data(1, 0, len(INFO), INFO[:METADATA_PIECE], 0.0)
    fetch.on_offer(1, len(INFO))
    fetch.on_data(1, 0, len(INFO), INFO[:METADATA_PIECE], 0.0)
    assert fetch.progress == (0, 0)


def test_a_peer_that_leaves_or_changes_its_word_leaves_its_share_to_others() -> None:
    for change in ("leaves", "withdraws", "resizes"):
        fetch = fetch_of(INFO)
        fetch.on_offer(1, len(INFO))
        fetch.on_offer(1, len(INFO))
        requests = fetch.take_requests(0.0)
        answer(fetch, INFO, requests[:1], 0.0)
        fetch.on_offer(2, len(INFO))
        if change == "leaves":
            fetch.on_gone(1)
        else:
            fetch.on_offer(1, None if change == "withdraws" else 5)
        assert [piece for key, piece in fetch.take_requests(0.1) if key == 2] == [1, 2]


def test_T11_a_single_liar_is_named() -> None:
    fetch = fetch_of(INFO)
    fetch.on_offer(1, len(INFO))
    answer(fetch, content(len(INFO), 2), fetch.take_requests(0.0), 0.1)
    assert fetch.result is None
    assert fetch.take_guilty() == [1] and fetch.take_guilty() == []
    assert fetch.progress == (0, 0)


def test_of_several_suspects_each_is_tried_alone() -> None:
    info = content(METADATA_PIECE * (METADATA_ASKED + 2))
    fetch = fetch_of(info)
    for key in (1, 2):
        fetch.on_offer(key, len(info))
    for key, piece in fetch.take_requests(0.0):
        data = piece_of(info, piece)
        fetch.on_data(key, piece, len(info), data if key == 1 else b"\0" * len(data), 0.1)
    assert fetch.take_guilty() == []
    while fetch.result is None:
        for key, piece in fetch.take_requests(0.2):
            data = piece_of(info, piece)
            fetch.on_data(key, piece, len(info), data if key == 1 else b"\0" * len(data), 0.2)
    assert fetch.take_guilty() in ([2], [])


def test_T11_two_sizes_are_tried_at_once_and_the_third_when_one_has_stalled() -> None:
    fetch = fetch_of(INFO)
    for key, size in enumerate((10, 20, 20, len(INFO))):
        fetch.on_offer(key, size)
    first = fetch.take_requests(0.0)
    assert len({fetch._peers[key].size for key, _ in first}) == METADATA_ATTEMPTS == len(fetch._attempts)
    now = 0.0
    while fetch.result is None:
        now += 1.0
        assert now < 60.0
        answer(fetch, INFO, [one for one in fetch.take_requests(now) if one[0] == 3], now)


def test_T11_claims_cost_no_memory() -> None:
    fetch = fetch_of(INFO)
    for key in range(1_000):
        fetch.on_offer(key, 48 * 1024 * 1024 - key)
    fetch.take_requests(0.0)
    assert fetch.progress[0] == 0
    assert len(fetch._attempts) == METADATA_ATTEMPTS


@dataclass
class Player:
    """A peer of a certain character. ``said``: what it will send, by time."""

    character: str
    size: int
    queue: list[tuple[float, int]] = field(default_factory=list)


CHARACTERS = ["honest", "liar", "half a liar", "staller", "refuser", "wrong size", "slow"]


@given(
    st.lists(st.sampled_from(CHARACTERS), max_size=8),
    st.integers(1, 11 * METADATA_PIECE),
    st.randoms(use_true_random=False),
)
def test_one_honest_peer_is_enough(characters: list[str], size: int, rng: random.Random) -> None:
    info = content(size)
    fetch = fetch_of(info)
    players = {
        key: Player(character, size)
        for key, character in enumerate(rng.sample([*characters, "honest"], len(characters) + 1))
    }
    for key, player in players.items():
        if player.character == "wrong size":
            player.size = size + key + 1
        fetch.on_offer(key, player.size)
    now = 0.0
    banned: set[int] = set()
    while fetch.result is None:
        now += 0.5
        assert now < 400.0, characters
        for key, piece in fetch.take_requests(now):
            if key not in banned and players[key].character != "staller":
                players[key].queue.append((now + (15.0 if players[key].character == "slow" else 0.1), piece))
        for key, player in players.items():
            due = [piece for when, piece in player.queue if when <= now]
            player.queue = [(when, piece) for when, piece in player.queue if when > now]
            for piece in due:
                if key in banned:
                    continue
                length = min(METADATA_PIECE, player.size - piece * METADATA_PIECE)
                data = (piece_of(info, piece) + bytes(METADATA_PIECE))[:length]
                if player.character == "refuser":
                    fetch.on_reject(key, piece, now)
                    continue
                if player.character == "liar" or (player.character == "half a liar" and rng.random() < 0.5):
                    data = bytes(length)
                fetch.on_data(key, piece, player.size, data, now)
        for key in fetch.take_guilty():
            assert players[key].character not in ("honest", "slow", "staller")
            banned.add(key)
            fetch.on_gone(key)
    assert fetch.result == info


@pytest.mark.parametrize("size", [len(INFO), len(INFO) + 1])
def test_a_piece_that_breaks_off_a_connection_is_free_for_others(size: int) -> None:
    fetch = fetch_of(INFO)
    fetch.on_offer(1, len(INFO))
    asked = fetch.take_requests(0.0)
    with pytest.raises(PeerError):
        fetch.on_data(1, 0, size, b"short", 0.1)
    fetch.on_gone(1)
    fetch.on_offer(2, len(INFO))
    assert {piece for _, piece in fetch.take_requests(0.1)} == {piece for _, piece in asked}


def test_what_one_of_two_rejects_is_not_asked_again_of_the_other_who_still_owes_it() -> None:
    fetch = fetch_of(INFO)
    fetch.on_offer(1, len(INFO))
    assert fetch.take_requests(0.0) == [(1, 0), (1, 1), (1, 2)]
    fetch.on_offer(2, len(INFO))
    assert (2, 0) in fetch.take_requests(METADATA_PATIENCE)
    fetch.on_reject(2, 0, METADATA_PATIENCE)
    assert (1, 0) not in fetch.take_requests(METADATA_PATIENCE)
