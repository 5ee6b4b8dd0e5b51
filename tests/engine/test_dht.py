"""The DHT of a session in virtual time: nothing before it is needed, where it begins, searches, and what is private."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from btor import limits
from btor.dht.contact import Contact
from btor.engine.dht import Dht, open_dht
from btor.engine.dht_state import DhtState
from btor.engine.session import open_session
from btor.engine.transport import TcpNetwork
from btor.engine.udp import SystemUdpSocket, UdpHub, UdpSocket, open_udp_sockets
from btor.errors import NetworkError, UsageError
from btor.settings import Settings
from btor.wire.address import Address
from btor.wire.krpc import Query, decode_message
from tests.engine.support import Lab, Sample, sample, scenario, until
from tests.simulated.network import Host, World
from tests.simulated.schedule import repeatable

HASH = b"h" * 20
PORT = 6881


class Net:
    """Dhts on hosts of a simulated world, and what arrives at hosts that only listen."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.world = World(1)
        self.nursery = nursery

    async def dht(self, *ips: str, begin: Sequence[str] = (), **options: Any) -> Dht:
        """A DHT at these addresses, running."""
        host = self.world.host(*ips)
        sockets = [host.open_udp(ip, PORT) for ip in ips]
        options = {"rng": random.Random(ips[0]), "bootstrap": begin, **options}
        made = Dht(sockets, host, **options)
        hub = UdpHub(sockets)
        hub.on_dht = made.on_datagram
        await self.nursery.start(hub.run)
        self.nursery.start_soon(made.run)
        return made

    def listener(self, ip: str) -> list[tuple[bytes, Address]]:
        """What arrives at a host that answers nothing; a list that grows."""
        heard: list[tuple[bytes, Address]] = []
        self.nursery.start_soon(_hear, self.world.host(ip), ip, heard)
        return heard


async def _hear(host: Host, ip: str, heard: list[tuple[bytes, Address]]) -> None:
    sock = host.open_udp(ip, PORT)
    while True:
        await sock.wait_readable()
        heard.append(sock.recvfrom())


@asynccontextmanager
async def net() -> AsyncIterator[Net]:
    with repeatable(1), trio.fail_after(100_000):
        async with trio.open_nursery() as nursery:
            made = Net(nursery)
            await nursery.start(made.world.run)
            yield made
            nursery.cancel_scope.cancel()


async def test_what_one_announced_the_other_finds(autojump_clock: MockClock) -> None:
    async with net() as some:
        first = await some.dht("5.0.0.1")
        first.start()
        dhts = [await some.dht(f"5.0.{number}.1", begin=[f"5.0.0.1:{PORT}"]) for number in range(1, 8)]
        answers = await dhts[0].search(HASH)
        assert dhts[0].announce(answers, 7777, seed=True) >= 1
        await trio.sleep(1)
        told: list[tuple[list[Address], str]] = []
        await dhts[5].search(HASH, lambda peers, ip: told.append((peers, ip)))
        assert {tuple(peers) for peers, _ in told} == {(("5.0.1.1", 7777),)}
        assert {ip for _, ip in told} <= {f"5.0.{number}.1" for number in range(8)}
        assert await dhts[5].search(HASH, peers=False) != []


async def test_peers_are_handed_on_while_others_are_still_asked(autojump_clock: MockClock) -> None:
    async with net() as some:
        holder = await some.dht("5.0.0.1")
        holder.nodes[0].answers.store.add(HASH, b"\x05\x09\x09\x09\x00\x07", False, 0.0)
        holder.start()
        some.listener("5.0.1.1")
        asker = await some.dht("5.0.2.1", begin=[f"5.0.0.1:{PORT}", f"5.0.1.1:{PORT}"])
        when: list[float] = []
        await asker.search(HASH, lambda peers, ip: when.append(trio.current_time()))
        assert when[0] < 1.0
        assert trio.current_time() >= limits.DHT_TIMEOUT  # for the one that never answered


async def test_ping(autojump_clock: MockClock) -> None:
    async with net() as some:
        one = await some.dht("5.0.0.1")
        other = await some.dht("5.0.1.1")
        other.start()
        answered = await one.ping(("5.0.1.1", PORT))
        assert answered is not None
        assert answered[0].id == other.nodes[0].id
        assert answered[1] == pytest.approx(0.04, abs=0.01)
        assert await one.ping(("5.0.9.9", PORT)) is None
        assert trio.current_time() >= limits.DHT_TIMEOUT
        assert await one.ping(("2001:db9::1", PORT)) is None


async def test_nothing_is_sent_before_it_is_needed(autojump_clock: MockClock) -> None:
    async with net() as some:
        heard = some.listener("5.0.0.1")
        one = await some.dht("5.0.1.1", begin=[f"5.0.0.1:{PORT}"])
        asker = await some.dht("5.0.2.1")
        assert await asker.ping(("5.0.1.1", PORT)) is None  # nor is anybody answered
        await trio.sleep(3600)
        one.add_named(())
        assert (heard, one.started, one.port(ipv6=False)) == ([], False, 0)
        one.start()
        await trio.sleep(1)
        assert [sender for _, sender in heard] == [("5.0.1.1", PORT)]
        assert (one.port(ipv6=False), one.port(ipv6=True)) == (PORT, 0)


async def test_where_it_begins(autojump_clock: MockClock) -> None:
    """Names given and named; addresses told by peers; and none nearer than where it listens."""
    async with net() as some:
        some.world.names = {"given.example": ["5.0.1.1"], "named.example": ["5.0.2.1"], "near.example": ["10.0.0.1"]}
        some.world.names["both.example"] = ["2001:db9::1", "5.0.3.1"]
        heard = {ip: some.listener(ip) for ip in ("5.0.1.1", "5.0.2.1", "5.0.3.1", "10.0.0.1", "127.0.0.1", "5.0.4.1")}
        one = await some.dht("5.0.0.1", begin=["given.example:6881", "none.example:1", "both.example:6881"])
        one.add_named([("named.example", PORT), ("near.example", PORT), ("127.0.0.1", PORT)])
        one.add_node(("5.0.4.1", PORT))
        one.add_node(("5.0.4.1", 0))
        await trio.sleep(5)
        assert {ip for ip, packets in heard.items() if packets} == {"5.0.1.1", "5.0.2.1", "5.0.3.1", "5.0.4.1"}


async def test_few_of_the_names_of_a_torrent(autojump_clock: MockClock) -> None:
    async with net() as some:
        heard = [some.listener(f"5.1.{number}.1") for number in range(20)]
        one = await some.dht("5.0.0.1")
        one.add_named([(f"5.1.{number}.1", PORT) for number in range(20)])
        await trio.sleep(100)
        assert sum(bool(packets) for packets in heard) == 8


@pytest.mark.parametrize(("ip", "asked"), [("127.0.0.1", False), ("5.0.0.1", True)])
async def test_public_routers_are_not_for_loopback(ip: str, asked: bool, autojump_clock: MockClock) -> None:
    async with net() as some:
        some.world.names = {"router.example": ["5.0.1.1"]}
        heard = some.listener("5.0.1.1")
        one = await some.dht(ip, begin=["router.example:6881"], public=True)
        answers = await one.search(HASH)
        assert bool(heard) is asked
        assert [answer.lookup.answered for answer in answers] == [0]


async def test_two_addresses_are_two_nodes(autojump_clock: MockClock) -> None:
    """BEP 45; one of each family know of each other (BEP 32)."""
    async with net() as some:
        one = await some.dht("5.0.0.1", "5.0.0.2", "2001:db9::1")
        first, second, six = one.nodes
        assert len({first.id, second.id, six.id}) == 3
        assert first.sibling is six
        assert six.sibling is first
        assert second.sibling is None
        asker = await some.dht("5.0.1.1")
        one.start()
        for ip, node in (("5.0.0.1", first), ("5.0.0.2", second)):
            answered = await asker.ping((ip, PORT))
            assert answered is not None
            assert answered[0].id == node.id


async def test_a_search_that_is_given_up(autojump_clock: MockClock) -> None:
    async with net() as some:
        some.listener("5.0.1.1")
        one = await some.dht("5.0.0.1", begin=[f"5.0.1.1:{PORT}"])
        with trio.move_on_after(2) as scope:
            await one.search(HASH)
        assert scope.cancelled_caught
        await trio.sleep(60)
        assert one.nodes[0].take_ended() == []


async def test_without_a_socket_there_is_nothing_to_wait_for(autojump_clock: MockClock) -> None:
    async with net() as some:
        one = Dht([], some.world.host("5.0.0.1"), rng=random.Random(1), bootstrap=["5.0.1.1:1"])
        some.nursery.start_soon(one.run)
        assert await one.search(HASH) == []
        assert one.announce([], 1) == 0


async def test_a_socket_that_cannot_send(autojump_clock: MockClock) -> None:
    class Broken(SystemUdpSocket):
        def sendto(self, data: bytes, address: Address) -> None:
            raise OSError(101, "Network is unreachable")

    sock = Broken("127.0.0.1", 0)
    async with net() as some:
        one = Dht([sock], some.world.host("5.0.0.1"), rng=random.Random(1))
        some.nursery.start_soon(one.run)
        assert await one.ping(("127.0.0.1", 9)) is None
    sock.close()


async def test_datagrams_of_strangers(autojump_clock: MockClock) -> None:
    async with net() as some:
        one = await some.dht("5.0.0.1")
        one.start()
        other = some.world.host("5.0.1.1").open_udp("5.0.1.1", PORT)
        one.on_datagram(other, b"d1:y1:qe", ("5.0.1.1", PORT))
        assert one.nodes[0].received == 0
        other.sendto(b"d1:y1:qe", ("5.0.0.1", PORT))
        other.sendto(b"\0\0\0\0", ("5.0.0.1", PORT))
        await trio.sleep(1)
        assert (one.nodes[0].received, one.nodes[0].malformed) == (1, 1)


# --- over restarts -------------------------------------------------------------------------------------------------


def contact(number: int) -> Contact:
    return Contact(number.to_bytes(20) + bytes([5, 0, number, 1]) + b"\x1a\xe1")


def test_what_is_kept(tmp_path: Path) -> None:
    state = DhtState(
        {False: HASH, True: b"6" * 20},
        {False: contact(1).compact + contact(2).compact, True: b"6" * 20 + bytes(15) + b"\x01\x00\x07"},
    )
    state.write(tmp_path)
    found = DhtState.read(tmp_path)
    assert found == state
    assert found.addresses(False) == [("5.0.1.1", PORT), ("5.0.2.1", PORT)]
    assert found.addresses(True) == [("::1", 7)]
    DhtState({False: HASH}, {False: b""}).write(tmp_path)
    assert DhtState.read(tmp_path).addresses(True) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"d",
        b"le",
        b"de",
        b"d2:id3:abce",
        b"d5:nodes3:abce",
        b"d2:idi1e5:nodesi1e6:nodes6i1ee",
        b"d1:ad1:ad1:adeeee",
    ],
)
def test_a_file_that_cannot_be_used(data: bytes, tmp_path: Path) -> None:
    DhtState({False: HASH}, {False: b""}).write(tmp_path)
    (file,) = [path for path in (tmp_path / "resume").iterdir() if path.name == "dht"]
    file.write_bytes(data)
    assert DhtState.read(tmp_path) == DhtState()


def test_a_folder_that_cannot_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert DhtState.read(tmp_path / "file") == DhtState()
    DhtState({False: HASH}, {False: b""}).write(tmp_path / "file")
    assert "the DHT's nodes are not kept" in caplog.text


@asynccontextmanager
async def on_loopback(*begin: str, **options: Any) -> AsyncIterator[tuple[Dht, str]]:
    """A DHT on a real socket, and where it is."""
    sockets = open_udp_sockets(("127.0.0.1",), 0)
    async with open_dht(sockets, TcpNetwork(), rng=random.Random(), bootstrap=begin, **options) as dht:
        yield dht, f"127.0.0.1:{sockets[0].local[1]}"


def session_settings(**changes: Any) -> Settings:
    return Settings(**{"port": 0, "bind": ("127.0.0.1",), "strict": True, "trackers": False, "lsd": False, **changes})


def test_a_session_comes_back_to_the_nodes_it_knew(tmp_path: Path) -> None:
    async def main() -> None:
        with trio.fail_after(20):
            async with on_loopback() as (other, where):
                other.start()
                async with open_session(session_settings(state_dir=tmp_path, dht_bootstrap=(where,))) as session:
                    session.dht.start()
                    await until(lambda: len(session.dht.nodes[0].table) == 1)
                    own = session.dht.nodes[0].id
                async with open_session(session_settings(state_dir=tmp_path, dht_bootstrap=())) as session:
                    session.dht.start()
                    await until(lambda: len(session.dht.nodes[0].table) == 1)
                    assert session.dht.nodes[0].id == own

    trio.run(main)


def test_what_was_never_needed_is_not_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_session(session_settings(state_dir=tmp_path, dht_bootstrap=("127.0.0.1:9",))):
            pass

    trio.run(main)
    assert not list(tmp_path.rglob("dht"))


def test_it_is_kept_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DHT_SAVE", 0.01)

    async def main() -> None:
        with trio.fail_after(20):
            async with on_loopback() as (other, where):
                other.start()
                async with open_session(session_settings(state_dir=tmp_path, dht_bootstrap=(where,))) as session:
                    session.dht.start()
                    await until(lambda: bool(DhtState.read(tmp_path).addresses(False)))

    trio.run(main)


# --- in a session --------------------------------------------------------------------------------------------------


def private(of: Sample) -> Sample:
    """The same content in a private torrent."""
    from btor.metainfo.torrent_file import parse_torrent

    return Sample(parse_torrent(b"d4:info" + of.metainfo.info[:-1] + b"7:privatei1ee" + b"e"), of.content)


class UdpOnHosts:
    """Sessions on simulated hosts have a UDP socket there, too; every datagram between any two is written down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[tuple[Address, Address, bytes]] = []
        outer = self

        def open_udp(host: Host, bind: Sequence[str], port: int) -> list[UdpSocket]:
            sock = host.open_udp(host.ips[0], port)
            plain = sock.sendto

            def sendto(data: bytes, address: Address) -> None:
                outer.sent.append((sock.local, address, data))
                plain(data, address)

            sock.sendto = sendto  # type: ignore[method-assign]  # a tap
            return [sock]

        monkeypatch.setattr(Host, "open_udp_sockets", open_udp)


@scenario()
async def test_a_torrent_is_found_by_the_dht_alone(lab: Lab) -> None:
    with pytest.MonkeyPatch.context() as patch:
        UdpOnHosts(patch)
        meeting = await lab.session(lab.host("10.0.0.250"), dht_bootstrap=())
        meeting.dht.start()
        begin: dict[str, Any] = {"dht_bootstrap": (f"10.0.0.250:{meeting.port}",)}
        content = sample()
        await lab.seed(content, lab.host("10.0.1.1"), **begin)
        await trio.sleep(1)
        leecher = await lab.leech(content, network=lab.host("10.0.2.1"), **begin)
        with trio.fail_after(120):
            await leecher.wait_complete()


@scenario()
async def test_private_torrents_never_touch_it(lab: Lab) -> None:
    """Neither the seeder nor the leecher sends a datagram, though both know where a DHT is, and are asked by it."""
    with pytest.MonkeyPatch.context() as patch:
        tap = UdpOnHosts(patch)
        meeting = await lab.session(lab.host("10.0.0.250"), dht_bootstrap=())
        meeting.dht.start()
        begin: dict[str, Any] = {"dht_bootstrap": (f"10.0.0.250:{meeting.port}",)}
        content = private(sample())
        assert content.metainfo.private
        seeder = await lab.seed(content, lab.host("10.0.1.1"), **begin)
        leecher = await lab.leech(content, seeder, network=lab.host("10.0.2.1"), **begin)
        await leecher.wait_complete()
        asked = meeting.dht.ping(lab.address(seeder.session))
        assert await asked is None
        await trio.sleep(3000)
        ours = [sent for sent in tap.sent if sent[0][0] != "10.0.0.250"]
        assert ours == []
        assert len(meeting.dht.nodes[0].table) == 0


@scenario()
async def test_beside_a_public_torrent_a_private_one_is_not_named(lab: Lab) -> None:
    with pytest.MonkeyPatch.context() as patch:
        tap = UdpOnHosts(patch)
        meeting = await lab.session(lab.host("10.0.0.250"), dht_bootstrap=())
        meeting.dht.start()
        public, hidden = sample(), private(sample())
        seeder = await lab.seed(public, lab.host("10.0.1.1"), dht_bootstrap=(f"10.0.0.250:{meeting.port}",))
        top = hidden.write(lab.place() / hidden.metainfo.name)
        await seeder.session.add(hidden.metainfo, output=top, seed_only=True)
        await trio.sleep(1000)
        queries = [message for _, _, data in tap.sent if isinstance(message := decode_message(data), Query)]
        assert any(query.target == public.metainfo.info_hash for query in queries)
        assert not any(hidden.metainfo.info_hash in data for _, _, data in tap.sent)


@scenario()
async def test_a_torrent_that_leaves_is_not_announced(lab: Lab) -> None:
    with pytest.MonkeyPatch.context() as patch:
        tap = UdpOnHosts(patch)
        meeting = await lab.session(lab.host("10.0.0.250"), dht_bootstrap=())
        meeting.dht.start()
        content = sample()
        seeder = await lab.seed(content, lab.host("10.0.1.1"), dht_bootstrap=(f"10.0.0.250:{meeting.port}",))
        await trio.sleep(100)
        await seeder.pause()
        await trio.sleep(1)
        before = len(tap.sent)
        await trio.sleep(2000)
        later = [data for _, _, data in tap.sent[before:]]
        assert not any(content.metainfo.info_hash in data for data in later)
        await seeder.resume()
        await trio.sleep(100)
        assert any(content.metainfo.info_hash in data for _, _, data in tap.sent[before:])


def test_settings_of_a_session() -> None:
    async def main() -> None:
        with trio.fail_after(20):
            async with open_session(session_settings(dht=False)) as session:
                assert session.dht.nodes == []
                assert await session.dht.search(HASH) == []
            async with open_session(session_settings(dht_port=0, dht_bootstrap=())) as session:
                session.dht.start()
                port = session.dht.port(ipv6=False)
                assert port not in (0, session.port)
                async with on_loopback() as (other, _):
                    assert await other.ping(("127.0.0.1", port)) is not None
                with pytest.raises(NetworkError, match=f"cannot listen on UDP port {port}"):
                    async with open_session(session_settings(dht_port=port)):
                        pass
            with pytest.raises(UsageError):
                async with open_session(session_settings(dht_bootstrap=("nowhere",))):
                    pass

    trio.run(main)


def test_it_ends_with_the_session_while_names_are_looked_up() -> None:
    class Slow(TcpNetwork):
        async def resolve(self, host: str, port: int) -> list[Address]:
            await trio.sleep_forever()
            raise AssertionError

    async def main() -> None:
        settings = session_settings(dht_bootstrap=("slow.example:1",))
        with trio.fail_after(10):
            async with open_session(settings, network=Slow()) as session, trio.open_nursery() as nursery:
                nursery.start_soon(session.dht.search, HASH)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()

    trio.run(main)
