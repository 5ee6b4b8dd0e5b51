"""Lookups: whom they ask, in which order, when they end, and how they keep a crowd of strangers off."""

from __future__ import annotations

import random

import pytest

from btor import limits
from btor.dht.bloom import filter_of
from btor.dht.contact import Contact, make_id
from btor.dht.lookup import Lookup
from btor.wire.address import Address, pack_ip
from btor.wire.krpc import Reply
from tests.dht.build import contact, global_ip, local

TARGET = bytes(20)
OWN = 1 << 158
K = limits.DHT_BUCKET


def lookup(target: bytes = TARGET, *, want_peers: bool = True) -> Lookup:
    return Lookup(target, own=OWN, want_peers=want_peers)


def reply(token: bytes = b"token", **fields: object) -> Reply:
    return Reply(b"aa", TARGET, token=token, **fields)  # type: ignore[arg-type]  # the fields of a test


def nodes(count: int, *, first: int = 1) -> list[Contact]:
    """Loopback nodes, the closest first."""
    return [local(number, number << 100) for number in range(first, first + count)]


def fitting(count: int) -> list[Contact]:
    """Nodes on the internet with ids that fit, the closest to TARGET first."""
    made = []
    for number in range(count):
        ip = global_ip(number)
        made.append(contact(ip, make_id(pack_ip(ip), random.Random(number))))
    return sorted(made, key=lambda node: node.number)


def crowd(count: int) -> list[Contact]:
    """Nodes on the internet nearer to TARGET than any of ``fitting``, with ids that do not fit."""
    found = [contact(f"6.0.{number}.1", (number + 1) << 60) for number in range(count)]
    assert not any(node.fits for node in found)
    return found


def answer_all(found: Lookup, **fields: object) -> list[Contact | Address]:
    """Answer every question until there are no more; who was asked."""
    asked: list[Contact | Address] = []
    while who := found.take():
        asked += who
        for one in who:
            assert isinstance(one, Contact)
            found.on_reply(one, one, reply(**fields), [])  # type: ignore[arg-type]  # as above
    return asked


def test_the_closest_first_and_four_at_a_time() -> None:
    search, known = lookup(), nodes(12)
    search.add(reversed(known))
    assert search.take() == known[:4]
    assert search.take() == []
    assert not search.done
    search.on_reply(known[1], known[1], reply(), [])
    assert search.take() == [known[4]]


def test_it_ends_when_the_eight_closest_have_answered() -> None:
    search, known = lookup(), nodes(12)
    search.add(known)
    assert answer_all(search) == known[:K]
    assert search.done
    assert [candidate.contact for candidate in search.closest()] == known[:K]
    assert (search.asked, search.answered, search.failed) == (K, K, 0)


def test_who_is_named_nearer_is_asked_before() -> None:
    search, far, near = lookup(), nodes(4, first=100), nodes(8)
    search.add(far)
    assert search.take() == far
    search.on_reply(far[0], far[0], reply(), near)
    assert search.take() == [near[0]]
    for one in far[1:]:
        search.on_reply(one, one, reply(), [])
    answer = near[0]
    search.on_reply(answer, answer, reply(), [])
    assert answer_all(search) == near[1:]
    assert search.done


def test_we_are_not_asked_ourselves() -> None:
    search = lookup()
    search.add([local(1, OWN)])
    assert search.take() == []
    assert search.done


def test_the_silent_leave_their_place() -> None:
    search, known = lookup(), nodes(12)
    search.add(known)
    search.take()
    search.on_slow(known[0])
    assert search.take() == [known[4]]
    search.on_failure(known[1])
    assert search.take() == [known[5]]
    for one in (2, 3, 4, 5):
        search.on_reply(known[one], known[one], reply(), [])
    assert search.take() == known[6:10]
    search.on_reply(known[0], known[0], reply(), [])  # late but not too late
    for one in (6, 7, 8):
        search.on_reply(known[one], known[one], reply(), [])
    assert search.done
    assert [candidate.contact for candidate in search.closest()] == [known[one] for one in (0, 2, 3, 4, 5, 6, 7, 8)]
    assert search.failed == 1


def test_the_slow_are_waited_for_where_there_are_few() -> None:
    search, known = lookup(), nodes(2)
    search.add(known)
    search.take()
    search.on_reply(known[0], known[0], reply(), [])
    search.on_slow(known[1])
    assert not search.done
    search.on_failure(known[1])
    assert search.done


def test_strangers_are_asked_while_there_are_few_others() -> None:
    search, known = lookup(), nodes(9)
    strangers = [node.address for node in known[:6]]
    search.add_strangers(strangers)
    search.add_strangers(strangers[:1])
    assert search.take() == strangers[:4]
    assert not search.done
    search.on_slow(strangers[0])
    assert search.take() == [strangers[4]]
    search.on_failure(strangers[0])
    search.on_reply(strangers[1], known[1], reply(), [known[8]])
    assert search.take() == [known[8]]
    search.on_reply(strangers[2], known[1], reply(), [])  # the same node at another address
    assert search.take() == [strangers[5]]
    for number in (3, 4, 5):
        search.on_reply(strangers[number], known[number], reply(), [])
    search.on_reply(known[8], known[8], reply(), [])
    assert search.done
    assert (search.asked, search.failed) == (7, 1)


@pytest.mark.parametrize("second", ["answers", "is slow and answers", "fails", "is slow and fails"])
@pytest.mark.parametrize("first", ["stranger", "node"])
@pytest.mark.parametrize("fits", [True, False])
def test_a_stranger_that_is_asked_as_a_node_too(fits: bool, first: str, second: str) -> None:
    """Whatever becomes of the other question, it has answered, and the search ends."""
    node, other = fitting(1)[0] if fits else crowd(1)[0], nodes(1)[0]
    search = lookup()
    search.add_strangers([node.address, other.address])
    assert search.take() == [node.address, other.address]
    search.on_slow(node.address)
    search.on_reply(other.address, other, reply(), [node])
    assert search.take() == [node]
    questions: list[Contact | Address] = [node.address, node]
    if first == "node":
        questions.reverse()
    search.on_reply(questions[0], node, reply(b"first"), [])
    if "slow" in second and first == "stranger":  # the stranger is slow by now
        search.on_slow(questions[1])
    if "answers" in second:
        search.on_reply(questions[1], node, reply(b"first"), [])
    else:
        search.on_failure(questions[1])
    assert search.done
    assert search.answered == 2
    assert {candidate.contact: candidate.token for candidate in search.closest()} == {other: b"token", node: b"first"}
    assert not +search._networks


def test_no_strangers_once_eight_have_answered() -> None:
    search = lookup()
    search.add(nodes(K))
    search.add_strangers([("127.0.0.1", 9)])
    assert answer_all(search) == nodes(K)
    assert search.done


def test_peers_and_where_they_are_from() -> None:
    search, known = lookup(), nodes(2)
    search.add(known[:1])
    search.take()
    search.on_reply(known[0], known[0], reply(), known[1:])
    search.take()
    search.on_reply(known[1], known[1], reply(values=(b"peer01", b"peer02")), [])
    assert search.take_peers() == [(b"peer01", "127.0.0.1"), (b"peer02", "127.0.0.1")]
    assert search.take_peers() == []
    assert search.hops == 1
    search.add(nodes(1, first=50))
    search.take()
    (third,) = nodes(1, first=50)
    search.on_reply(third, third, reply(values=(b"peer02", b"peer03")), [])
    assert search.take_peers() == [(b"peer03", "127.0.0.1")]
    assert search.hops == 1


def test_peers_are_bounded() -> None:
    search, known = lookup(), nodes(2)
    search.add(known)
    search.take()
    values = tuple(number.to_bytes(6) for number in range(limits.DHT_LOOKUP_PEERS + 1))
    search.on_reply(known[0], known[0], reply(values=values[:-1]), [])
    assert len(search.peers) == limits.DHT_LOOKUP_PEERS
    search.on_reply(known[1], known[1], reply(values=values), [])
    assert len(search.peers) == limits.DHT_LOOKUP_PEERS


def test_a_search_for_nodes_takes_no_peers() -> None:
    search = lookup(want_peers=False)
    search.add(nodes(1))
    search.take()
    search.on_reply(nodes(1)[0], nodes(1)[0], reply(values=(b"peer01",)), [])
    assert search.peers == {}


def test_filters_are_joined() -> None:
    search, known = lookup(), nodes(3)
    search.add(known)
    search.take()
    filters = [filter_of([number.to_bytes(4)]) for number in range(4)]
    search.on_reply(known[0], known[0], reply(), [])
    assert (search.seeds, search.others) == (None, None)
    search.on_reply(known[1], known[1], reply(seeds=filters[0], peers=filters[1]), [])
    search.on_reply(known[2], known[2], reply(seeds=filters[2], peers=filters[3]), [])
    assert search.seeds == filter_of([(0).to_bytes(4), (2).to_bytes(4)])
    assert search.others == filter_of([(1).to_bytes(4), (3).to_bytes(4)])


def test_announces_need_a_token() -> None:
    search, known = lookup(), nodes(3)
    search.add(known)
    search.take()
    search.on_reply(known[0], known[0], reply(b""), [])
    search.on_reply(known[1], known[1], reply(b"t"), [])
    search.on_failure(known[2])
    assert [(candidate.contact, candidate.token) for candidate in search.closest()] == [(known[1], b"t")]


def test_candidates_are_bounded() -> None:
    search = lookup()
    many = nodes(limits.DHT_CANDIDATES + 50)
    search.add(many[50:])
    search.add(many[:50])  # nearer: the farthest go
    search.add(many)
    asked = []
    while who := search.take():
        asked += who
        for one in who:
            search.on_failure(one)
    assert asked == many[: limits.DHT_CANDIDATES]


def test_one_that_was_asked_is_not_forgotten() -> None:
    search = lookup()
    far = nodes(4, first=1000)
    search.add(far)
    search.take()
    search.add(nodes(limits.DHT_CANDIDATES))
    for one in far:
        search.on_reply(one, one, reply(), [])
    assert search.answered == 4


def test_a_stranger_that_is_too_far_is_no_candidate() -> None:
    search = lookup()
    search.add_strangers([("127.0.0.1", 9)])
    search.take()
    search.add(nodes(limits.DHT_CANDIDATES))
    search.on_reply(("127.0.0.1", 9), local(9, (1 << 159) - 1), reply(), [])
    assert search.answered == 0


def test_questions_are_bounded() -> None:
    search = lookup()
    number = limits.DHT_LOOKUP_QUERIES + 100
    search.add([local(number, number << 100)])
    while who := search.take():
        (one,) = who
        number -= 1
        search.on_slow(one)
        search.on_failure(one)
        search.add([local(number, number << 100)])
    assert search.asked == limits.DHT_LOOKUP_QUERIES
    assert search.done


def test_D2_two_questions_at_most_to_one_network() -> None:
    search = lookup(want_peers=False)
    rng = random.Random(1)
    neighbours = [contact(f"5.6.7.{number}", make_id(bytes([5, 6, 7, number]), rng)) for number in range(1, 7)]
    search.add(neighbours)
    asked = search.take()
    assert len(asked) == limits.DHT_PARALLEL_PER_NETWORK
    assert not search.done
    assert isinstance(asked[0], Contact)
    search.on_reply(asked[0], asked[0], reply(), [])
    assert len(search.take()) == 1
    on_loopback = Lookup(TARGET, own=OWN, loopback_is_public=True, plausible_bits=160)
    on_loopback.add([local(number, rng.randbytes(20)) for number in range(9)])
    assert len(on_loopback.take()) == limits.DHT_PARALLEL_PER_NETWORK


def test_D2_a_crowd_is_asked_one_at_a_time_and_does_not_count() -> None:
    search, honest, sybils = lookup(), fitting(20), crowd(60)
    search.add([*honest, *sybils])
    first = search.take()
    assert [one in sybils for one in first] == [True, False, False, False]
    asked: list[Contact | Address] = list(first)
    while first or (first := search.take()):
        one = first.pop(0)
        asked.append(one)
        assert isinstance(one, Contact)
        search.on_reply(one, one, reply(), sybils if one in sybils else [])
    assert search.done
    assert set(honest[:K]) <= set(asked)
    assert sum(one in sybils for one in set(asked)) <= limits.DHT_OUTSIDERS
    assert [candidate.contact for candidate in search.closest()] == honest[:K]


def test_D2_implausibly_near_nodes_do_not_count() -> None:
    """Ids that fit, but nearer to the target than chance explains."""
    ip = global_ip(7)
    suspect = contact(ip, make_id(pack_ip(ip), random.Random(7)))
    search = Lookup(suspect.id, own=OWN, want_peers=True, plausible_bits=20)
    search.add([suspect, *fitting(K + 1)])
    answer_all(search)
    assert suspect not in [candidate.contact for candidate in search.closest()]
    trusting = Lookup(suspect.id, own=OWN, want_peers=True)
    trusting.add([suspect, *fitting(K + 1)])
    answer_all(trusting)
    assert trusting.closest()[0].contact == suspect


def test_where_nobody_has_a_fitting_id_they_are_asked_like_others() -> None:
    search, unfit = lookup(), crowd(30)
    search.add(unfit)
    assert len(search.take()) == limits.DHT_PARALLEL
    search = lookup()
    search.add(unfit)
    answer_all(search)
    assert search.done
    assert [candidate.contact for candidate in search.closest()] == unfit[:K]


def test_few_fitting_nodes_are_filled_up() -> None:
    search, honest, others = lookup(), fitting(3), crowd(10)
    search.add([*honest, *others])
    answer_all(search)
    assert search.done
    assert [candidate.contact for candidate in search.closest()] == [*honest, *others[: K - 3]]


def test_outsiders_farther_than_the_eighth_are_left_alone() -> None:
    search, honest = lookup(), fitting(K)
    far = contact("6.1.1.1", (1 << 160) - 1)
    assert not far.fits
    search.add([*honest, far])
    asked = answer_all(search)
    assert search.done
    near = [one for one in asked if one != far]
    assert near == honest


def test_outsiders_are_asked_so_often_and_no_more() -> None:
    """However many nearer ones they name, where a few others have answered."""
    search, sybils = lookup(), list(reversed(crowd(100)))
    search.add([*fitting(K // 2), sybils[0]])
    asked = 0
    while who := search.take():
        for one in who:
            assert isinstance(one, Contact)
            asked += one in sybils
            search.on_reply(one, one, reply(), [sybils[asked]] if one in sybils else [])
    assert asked == limits.DHT_OUTSIDERS
    assert search.done


def test_outsiders_of_a_busy_network_wait() -> None:
    search = lookup()
    neighbours = [contact(f"6.1.1.{number}", number << 60) for number in range(1, 5)]
    search.add(neighbours)
    asked = search.take()
    assert asked == neighbours[:2]
    search.on_failure(neighbours[0])
    assert search.take() == [neighbours[2]]
    search.on_failure(neighbours[1])
    search.on_failure(neighbours[2])
    assert search.take() == [neighbours[3]]
