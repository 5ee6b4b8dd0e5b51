"""One node: what it does with each packet and with time, and small nets of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor import limits
from btor.bencode import encode
from btor.dht.contact import id_fits
from btor.dht.lookup import Lookup
from btor.dht.node import Node, Question
from btor.wire import krpc
from btor.wire.address import Address, pack_address
from btor.wire.krpc import Failure, Message, Query, Reply, decode_message, encode_message
from tests.dht.build import contact, global_ip, local

ASKER, HASH = b"a" * 20, b"h" * 20
THERE: Address = ("5.6.7.8", 6881)


def node(seed: int = 1, **options: bool) -> Node:
    return Node(random.Random(seed), 0.0, **options)


def sent(one: Node, now: float = 0.0) -> list[tuple[Message, Address]]:
    return [(decode_message(data), address) for data, address in one.take_packets(now)]


def ask(one: Node, query: Query, address: Address = THERE, now: float = 0.0) -> list[Message]:
    """What comes back to a query."""
    one.on_packet(encode_message(query), address, now)
    return [message for message, to in sent(one, now) if to == address]


def answer(one: Node, query: Message, address: Address, now: float = 0.0, **fields: object) -> None:
    """The node at ``address``, whose id is its IP four times over and more, answers."""
    assert isinstance(query, Query)
    node_id = fields.pop("node_id", pack_address(address)[:4] * 5)
    reply = Reply(query.transaction, node_id, **fields)  # type: ignore[arg-type]  # the fields of a test
    one.on_packet(encode_message(reply), address, now)


class Net:
    """Nodes on loopback that reach each other at once, on a clock moved by hand."""

    def __init__(self, count: int, **options: bool) -> None:
        self.now = 0.0
        self.ipv6 = bool(options.get("ipv6"))
        self.nodes = [Node(random.Random(number), 0.0, **options) for number in range(count)]
        self.ended: list[Lookup | Question] = []
        self.down: set[int] = set()
        for number in range(1, count):
            self.nodes[number].add_node(self.address(number - 1), 0.0)

    def address(self, number: int) -> Address:
        return ("::1" if self.ipv6 else "127.0.0.1", 1000 + number)

    def settle(self, seconds: float = 0.0) -> None:
        """Deliver all there is, and let that much time pass."""
        end = self.now + seconds
        while True:
            moved = True
            while moved:
                moved = False
                for number, one in enumerate(self.nodes):
                    for data, (_, port) in one.take_packets(self.now):
                        moved = True
                        if not {number, port - 1000} & self.down:
                            self.nodes[port - 1000].on_packet(data, self.address(number), self.now)
                    self.ended += one.take_ended()
            due = min(one.next_due() for one in self.nodes)
            if due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            for one in self.nodes:
                one.on_time(self.now)


# --- questions of others -------------------------------------------------------------------------------------------


def test_it_answers_and_asks_back() -> None:
    one = node()
    replies = ask(one, Query(b"aa", krpc.PING, ASKER))
    assert replies[0] == Reply(b"aa", one.id, pack_address(THERE))
    assert isinstance(replies[1], Query)
    assert replies[1].method == krpc.PING
    assert len(one.table) == 0
    answer(one, replies[1], THERE, node_id=ASKER)
    assert [entry.contact.id for entry in one.table] == [ASKER]
    assert len(ask(one, Query(b"ab", krpc.PING, ASKER))) == 1


def test_read_only_nodes_are_answered_and_never_asked() -> None:
    one = node()
    assert len(ask(one, Query(b"aa", krpc.PING, ASKER, read_only=True))) == 1
    assert one.next_due() > 0


def test_a_read_only_node_asks_and_does_not_answer() -> None:
    one = node(read_only=True)
    assert ask(one, Query(b"aa", krpc.PING, ASKER)) == []
    one.ping(THERE, 0.0)
    ((query, _),) = sent(one)
    assert isinstance(query, Query)
    assert query.read_only


def test_port_0_is_nobody() -> None:
    assert ask(node(), Query(b"aa", krpc.PING, ASKER), ("5.6.7.8", 0)) == []


def test_few_newcomers_at_a_time() -> None:
    one = node()
    pings = []
    for number in range(20):
        replies = ask(one, Query(b"aa", krpc.PING, bytes([number]) * 20), (global_ip(number), 1))
        pings += [reply for reply in replies if isinstance(reply, Query)]
    assert len(pings) == limits.DHT_UNKNOWN_PINGS
    one.on_time(limits.DHT_TIMEOUT + 1)
    again = ask(one, Query(b"aa", krpc.PING, b"x" * 20), ("9.9.9.9", 1), limits.DHT_TIMEOUT + 1)
    assert any(isinstance(reply, Query) for reply in again)


def test_siblings_name_each_others_nodes() -> None:
    four, six = node(1), node(2, ipv6=True)
    four.sibling, six.sibling = six, four
    four.table.on_reply(contact("5.9.9.9"), 0.0)
    six.table.on_reply(contact("2001:db9::7"), 0.0)
    both = krpc.WANT4 | krpc.WANT6
    for one, address in ((four, THERE), (six, ("2001:db9::1", 1))):
        reply = ask(one, Query(b"aa", krpc.FIND_NODE, ASKER, HASH, both, read_only=True), address)[0]
        assert isinstance(reply, Reply)
        assert (reply.nodes, reply.nodes6) == (contact("5.9.9.9").compact, contact("2001:db9::7").compact)


# --- hostile packets -----------------------------------------------------------------------------------------------


def test_D4_unchecked_types() -> None:
    one = node(guarded=False)
    for bad in (b"", b"d", b"de", encode({b"t": b"a", b"y": b"q", b"q": b"ping", b"a": {b"id": b"short"}})):
        one.on_packet(bad, THERE, 0.0)
    assert (one.malformed, one.received) == (4, 4)
    assert sent(one) == []


keys = [b"id", b"target", b"info_hash", b"token", b"port", b"want", b"nodes", b"values", b"seed", b"scrape"]
atoms = st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=30) | st.sampled_from([ASKER, HASH, b"n4", b"x" * 26])
trees = st.recursive(
    atoms, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(keys), inner, max_size=6)
)
arguments = st.dictionaries(st.sampled_from(keys), trees, max_size=8).map(lambda found: {b"id": ASKER, **found})


@given(
    st.sampled_from([b"ping", b"find_node", b"get_peers", b"announce_peer", b"sample_infohashes", b"get", b"x"])
    | trees,
    arguments | trees,
    arguments | trees,
    st.sampled_from([b"q", b"r", b"e"]),
)
def test_D4_whatever_comes_nothing_leaves_the_handler(method: object, a: object, r: object, kind: bytes) -> None:
    one = node(guarded=False)
    question = one.ping(THERE, 0.0)
    ((query, _),) = sent(one)
    assert isinstance(query, Query)
    message = {b"t": query.transaction, b"y": kind, b"q": method, b"a": a, b"r": r, b"e": [201, r]}
    one.on_packet(encode(message), THERE, 0.0)  # type: ignore[arg-type]  # trees are values of bencoding
    one.take_packets(0.0)
    one.on_time(20.0)
    assert question.ended
    one.table.check_invariants()


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    one = node()
    one.on_packet(data, THERE, 0.0)
    assert sent(one) == []


def test_D1_floods() -> None:
    one = node()
    replies = [len(ask(one, Query(b"aa", krpc.PING, ASKER, read_only=True))) for _ in range(60)]
    assert replies == [1] * limits.DHT_FLOOD_PACKETS + [0] * 10
    assert one.ignored == 10
    assert ask(one, Query(b"aa", krpc.PING, ASKER), now=limits.DHT_FLOOD_BLOCK - 1) == []
    assert ask(one, Query(b"aa", krpc.PING, ASKER), ("5.6.7.9", 1))


def test_D1_answers_have_a_rate() -> None:
    one = node()
    size = 0
    for number in range(1000):
        one.on_packet(encode_message(Query(b"aa", krpc.PING, ASKER, read_only=True)), (global_ip(number), 1), 0.0)
        size += sum(len(data) for data, _ in one.take_packets(0.0))
    assert limits.DHT_ANSWER_BURST - 100 < size <= limits.DHT_ANSWER_BURST


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("public", [False, True])
def test_on_loopback_no_bound_holds_unless_asked_for(ip: str, public: bool) -> None:
    one = node(ipv6=":" in ip, loopback_is_public=public)
    replies = [ask(one, Query(b"aa", krpc.PING, ASKER, read_only=True), (ip, 7)) for _ in range(300)]
    assert (sum(map(len, replies)) == 300) is not public
    assert node(guarded=False, loopback_is_public=public).ignored == 0


def test_an_answer_counts_only_from_whom_was_asked() -> None:
    one = node()
    question = one.ping(THERE, 0.0)
    ((query, _),) = sent(one)
    answer(one, query, ("5.6.7.9", 6881))
    assert isinstance(query, Query)
    answer(one, query._replace(transaction=b"zz"), THERE)
    assert not question.ended
    answer(one, query, THERE, now=0.25)
    assert question.reply is not None
    assert (question.reply.id, question.seconds) == (b"\x05\x06\x07\x08" * 5, 0.25)
    assert one.take_ended() == [question]


# --- questions of ours ---------------------------------------------------------------------------------------------


def test_a_question_that_fails() -> None:
    one = node()
    silent, refused = one.ping(THERE, 0.0), one.ping(("5.6.7.9", 1), 0.0)
    (_, (query, address)) = sent(one)
    assert isinstance(query, Query)
    one.on_packet(encode_message(Failure(query.transaction, 202, b"no")), address, 1.0)
    assert one.take_ended() == [refused]
    one.on_time(limits.DHT_TIMEOUT)
    assert one.take_ended() == [silent]
    assert (silent.reply, refused.reply, silent.seconds) == (None, None, limits.DHT_TIMEOUT)


def test_nobody_known() -> None:
    one = node()
    search = one.lookup(HASH, 0.0)
    assert one.take_ended() == [search]
    assert (search.answered, one.announce(search, 1, 0.0), sent(one)) == (0, 0, [])


def test_a_small_net_finds_itself_and_what_was_announced() -> None:
    net = Net(12)
    net.settle(30.0)
    assert all(one.settled for one in net.nodes)
    assert all(len(one.table) >= limits.DHT_BUCKET for one in net.nodes)
    search = net.nodes[3].lookup(HASH, net.now)
    net.settle()
    assert net.ended == [search]
    assert net.nodes[3].announce(search, 7777, net.now, seed=True) == limits.DHT_BUCKET
    net.settle()
    found = net.nodes[8].lookup(HASH, net.now)
    net.settle()
    assert list(found.peers) == [pack_address(("127.0.0.1", 7777))]
    scrape = net.nodes[9].lookup(HASH, net.now, scrape=True)
    net.settle()
    assert scrape.seeds is not None
    assert any(scrape.seeds)
    assert scrape.others == bytes(256)
    implied = net.nodes[5].lookup(b"i" * 20, net.now)
    net.settle()
    net.nodes[5].announce(implied, 1, net.now, implied=True)
    net.settle()
    found = net.nodes[2].lookup(b"i" * 20, net.now)
    net.settle()
    assert list(found.peers) == [pack_address(net.address(5))]


def test_the_same_over_ipv6() -> None:
    net = Net(5, ipv6=True)
    net.settle(1.0)
    search = net.nodes[1].lookup(HASH, net.now)
    net.settle()
    net.nodes[1].announce(search, 7777, net.now)
    net.settle()
    found = net.nodes[4].lookup(HASH, net.now)
    net.settle()
    assert list(found.peers) == [pack_address(("::1", 7777))]


def test_silent_nodes_are_found_out_and_replaced() -> None:
    net = Net(12)
    net.settle(1.0)
    net.down = {0, 1, 2}
    gone = [net.nodes[number].id for number in net.down]
    net.settle(3 * limits.DHT_GOOD)
    for number in range(3, 12):
        named = [node.id for node in net.nodes[number].table.closest(0, 12)]
        assert not set(named) & set(gone)
        assert len(named) >= 8


def test_after_an_outage_they_find_each_other_again() -> None:
    net = Net(4)
    net.settle(1.0)
    net.down = set(range(4))
    net.settle(3 * limits.DHT_GOOD)
    assert all(one.table.closest(0) == [] for one in net.nodes)
    net.down = set()
    search = net.nodes[2].lookup(HASH, net.now)
    net.settle(1.0)
    assert search.answered == 3


def test_where_nobody_answers_it_tries_again_and_more_seldom() -> None:
    one = node()
    one.add_node(THERE, 0.0)
    tries, now = [], 0.0
    while now < 2000:
        now = max(now, one.next_due())
        one.on_time(now)
        if one.take_packets(now):
            tries.append(now)
    waits = [later - before - limits.DHT_TIMEOUT for before, later in pairwise(tries)]
    assert waits[0] == pytest.approx(limits.DHT_BOOTSTRAP_RETRY_MIN, rel=0.2)
    assert waits[1] == pytest.approx(2 * limits.DHT_BOOTSTRAP_RETRY_MIN, rel=0.2)
    assert max(waits) <= limits.DHT_BOOTSTRAP_RETRY_MAX * 1.2
    assert len(tries) < 20


def test_a_waiting_lookup_begins_where_it_is_told() -> None:
    one = node()
    one.add_node(("5.1.1.1", 1), 0.0)
    search = one.lookup(HASH, 0.0)
    assert [address for _, address in sent(one)] == [("5.1.1.1", 1)]
    one.add_node(THERE, 0.5)
    one.add_node(THERE, 0.5)
    assert [address for _, address in sent(one)] == [THERE]
    assert not search.done


def test_a_lookup_that_has_begun_needs_no_beginning() -> None:
    one = node()
    one.add_node(THERE, 0.0)
    search = one.lookup(HASH, 0.0)
    ((query, _),) = sent(one)
    answer(one, query, THERE, nodes=contact("5.9.9.9").compact)
    assert [address for _, address in sent(one)] == [("5.9.9.9", 6881)]
    one.add_node(("5.1.1.1", 1), 0.0)
    assert sent(one) == []
    assert (search.asked, search.done) == (2, False)


def test_a_node_with_a_full_enough_table_pings_what_it_is_told() -> None:
    one = node()
    for number in range(limits.DHT_BUCKET):
        one.table.on_reply(contact(global_ip(number), bytes([number * 16]) * 20), 0.0)
    one.add_node(THERE, 0.0)
    ((query, address),) = sent(one)
    assert isinstance(query, Query)
    assert (query.method, address) == (krpc.PING, THERE)
    answer(one, query, THERE)
    assert any(entry.contact.address == THERE for entry in one.table)
    one.add_node(("5.6.7.9", 1), 0.0, router=True)
    assert sent(one) == []


def test_routers_stay_out_of_the_table() -> None:
    one = node()
    one.add_node(THERE, 0.0, router=True)
    one.on_time(0.0)
    ((query, _),) = sent(one)
    answer(one, query, THERE, nodes=contact("5.9.9.9").compact)
    assert len(one.table) == 0
    ((query, address),) = sent(one)
    assert address == ("5.9.9.9", 6881)
    answer(one, query, address)
    assert len(one.table) == 1


def test_known_addresses_are_bounded() -> None:
    one = node()
    for number in range(limits.DHT_KNOWN_ADDRESSES + 1):
        one.add_node((global_ip(number), 1), 0.0, router=True)
    search = one.lookup(HASH, 0.0)
    asked: list[Address] = []
    now = 0.0
    while not search.done:
        asked += [address for message, address in sent(one, now)]
        now += limits.DHT_SLOW
        one.on_time(now)
    assert (global_ip(0), 1) not in asked
    assert (global_ip(1), 1) in asked


def test_what_was_saved_is_begun_with_the_freshest_first() -> None:
    one = node()
    for number in range(limits.DHT_SAVED_NODES):
        one.add_node((global_ip(number), 6881), 0.0)
    one.add_node(THERE, 0.0)
    one.on_time(0.0)
    assert [address[0] for _, address in sent(one)] == [global_ip(number) for number in range(limits.DHT_PARALLEL)]


def test_it_does_not_take_itself_for_another() -> None:
    one = node()
    one.add_node(THERE, 0.0)
    search = one.lookup(HASH, 0.0)
    ((query, _),) = sent(one)
    answer(one, query, THERE, node_id=one.id)
    assert search.done
    assert len(one.table) == 0
    assert one.take_ended() == [search]


def test_a_node_that_changed_its_id() -> None:
    one = node()
    old = contact("5.6.7.8", b"\x05\x06\x07\x09" * 5)
    one.table.on_reply(old, 0.0)
    search = one.lookup(HASH, 0.0)
    ((query, _),) = sent(one)
    answer(one, query, THERE)
    assert [entry.contact.id for entry in one.table] == [b"\x05\x06\x07\x08" * 5]
    assert search.failed == 1


def test_lookups_are_bounded_and_wait_their_turn() -> None:
    one = node()
    one.add_node(THERE, 0.0)
    searches = [one.lookup(bytes([number]) * 20, 0.0) for number in range(limits.DHT_LOOKUPS + 2)]
    assert len(sent(one)) == limits.DHT_LOOKUPS
    one.abandon(searches[-1], 0.0)
    one.abandon(searches[-1], 0.0)
    one.abandon(searches[0], 0.0)
    ((query, _),) = sent(one)
    assert isinstance(query, Query)
    assert query.target == bytes([limits.DHT_LOOKUPS]) * 20
    assert one.take_ended() == []


def test_nodes_nobody_may_name_are_not_asked() -> None:
    one = node()
    one.add_node(THERE, 0.0)
    one.lookup(HASH, 0.0)
    ((query, _),) = sent(one)
    named = [contact("10.0.0.1"), contact("127.0.0.1"), contact("5.9.9.9", port=0), contact("6.6.6.6")]
    answer(one, query, THERE, nodes=b"".join(node.compact for node in named))
    assert [address for _, address in sent(one)] == [("6.6.6.6", 6881)]


def test_siblings_hear_of_each_others_nodes() -> None:
    four, six = node(1), node(2, ipv6=True)
    four.sibling, six.sibling = six, four
    four.add_node(THERE, 0.0)
    four.lookup(HASH, 0.0)
    ((query, _),) = sent(four)
    assert isinstance(query, Query)
    assert query.want == krpc.WANT4 | krpc.WANT6
    named = b"".join(contact(f"2001:db9:{number}::1").compact for number in range(5))
    answer(four, query, THERE, nodes6=named)
    pings = sent(six)
    assert len(pings) == 2
    query, address = pings[0]
    answer(six, query, address, node_id=contact("2001:db9:0::1").id, nodes=contact("5.9.9.9").compact)
    assert len(six.table) == 1
    assert [address for _, address in sent(four)] == [("5.9.9.9", 6881)]


def test_answers_to_the_tables_own_questions_bring_newcomers() -> None:
    one = node()
    one.table.on_reply(contact("5.6.7.8", b"\x05\x06\x07\x08" * 5), 0.0)
    one.on_time(limits.DHT_GOOD + 10)
    ((query, address),) = sent(one)
    assert isinstance(query, Query)
    assert (query.method, address) == (krpc.FIND_NODE, THERE)
    named = b"".join(contact(global_ip(number)).compact for number in range(4))
    answer(one, query, THERE, nodes=named)
    assert len(sent(one)) == 2


# --- its own address -----------------------------------------------------------------------------------------------


def _vote(one: Node, ip: bytes, voters: range, now: float = 0.0) -> None:
    for number in voters:
        address = (global_ip(number), 6881)
        one.ping(address, now)
        query = sent(one)[-1][0]
        answer(one, query, address, now, ip=ip + b"\x1a\xe1")


def test_the_id_follows_the_address() -> None:
    one = node()
    before = one.id
    _vote(one, b"\x05\x05\x05\x05", range(4))
    assert one.id == before
    _vote(one, b"\x05\x05\x05\x05", range(4, 5))
    assert one.id != before
    assert id_fits(one.id, b"\x05\x05\x05\x05")
    assert len(one.table) >= 4
    one.table.check_invariants()
    first = one.id
    _vote(one, b"\x05\x05\x05\x05", range(5, 20))
    assert one.id == first
    one.on_time(1.0)  # it looks for its new place
    assert any(isinstance(message, Query) and message.target == one.id for message, _ in sent(one))
    _vote(one, b"\x09\x09\x09\x09", range(100, 170))  # in the middle of that, the address changes again
    one.on_time(2.0)
    assert id_fits(one.id, b"\x09\x09\x09\x09")
    assert any(isinstance(message, Query) and message.target == one.id for message, _ in sent(one))


def test_an_id_that_fits_stays() -> None:
    one = node()
    one.take_id(contact("5.5.5.5").id)
    _vote(one, b"\x05\x05\x05\x05", range(9))
    assert one.id == contact("5.5.5.5").id
    assert one.votes.address == b"\x05\x05\x05\x05"


def test_an_address_of_the_other_family_is_no_vote() -> None:
    one = node()
    _vote(one, bytes(16), range(9))
    assert one.votes.address is None


def test_plausible_ids_once_it_knows_how_many_nodes_there_are() -> None:
    net = Net(24)
    net.settle(100.0)
    one = net.nodes[5]
    search = one.lookup(HASH, net.now)
    assert one.settled
    assert 3 <= one.table.network_bits() <= 8
    net.settle()
    assert search.answered >= limits.DHT_BUCKET


def test_what_is_saved() -> None:
    one = node()
    nodes = [local(number, random.Random(number).randbytes(20)) for number in range(limits.DHT_SAVED_NODES * 3)]
    for number, found in enumerate(nodes):
        one.table.on_reply(found, float(number))
    saved = one.saved()
    assert len(saved) == min(limits.DHT_SAVED_NODES, len(one.table))
    one.table.on_failure(saved[0])
    assert saved[0] not in one.saved()
    heard = [entry.heard for entry in (one.table.find(found) for found in one.saved()) if entry is not None]
    assert heard == sorted(heard, reverse=True)


def _steps(one: Node, until: float) -> list[float]:
    """When it wants to be woken."""
    woken, now = [], 0.0
    while (now := one.next_due()) < until:
        woken.append(now)
        one.on_time(now)
        one.take_packets(now)
    return woken


def test_a_node_with_nothing_to_do_sleeps() -> None:
    one = node()
    assert _steps(one, 3600.0) == []
    one.table.on_reply(contact(global_ip(1)), 0.0)
    assert one.next_due() == limits.DHT_GOOD


def test_what_is_stored_expires_though_nobody_asks() -> None:
    one, peer = node(), pack_address(THERE)
    one.answers.store.add(HASH, peer, False, 0.0)
    woken = _steps(one, limits.DHT_PEER_LIFE + limits.DHT_SWEEP)
    assert len(one.answers.store) == 0
    assert len(woken) == limits.DHT_PEER_LIFE // limits.DHT_SWEEP + 1
    assert _steps(one, 2 * limits.DHT_PEER_LIFE) == []


@pytest.mark.parametrize("prepare", [lambda one: None, lambda one: one.add_node(THERE, 0.0)])
def test_it_never_spins(prepare: Callable[[Node], None]) -> None:
    one = node()
    prepare(one)
    assert len(_steps(one, 3600.0)) < 1000
