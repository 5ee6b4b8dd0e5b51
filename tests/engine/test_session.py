"""A session as a program sees it: ports, events, several torrents, how it ends and what it leaves behind."""

from __future__ import annotations

import errno
import gc
import os
import random
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

import btor
from btor import bencode
from btor.engine.events import Checked, Complete, Event, Failed, Progress, Seeding, Started, Stopped
from btor.engine.session import Session, open_session
from btor.engine.torrent import Torrent
from btor.engine.transport import Listener, TcpNetwork
from btor.errors import MetainfoError, NetworkError, StorageError, UsageError
from btor.limits import BLOCK, EVENT_QUEUE
from btor.settings import DEFAULT_PORT, Settings
from tests.engine.support import Lab, next_event, sample, scenario, until
from tests.simulated.scripted_peer import DisconnectedError

CONTENT = sample(40 * 2 * BLOCK)
OTHER = sample(30 * 2 * BLOCK, name="other", seed=2)


# --- ports -----------------------------------------------------------------------------------------------------------


@scenario()
async def test_the_usual_port(lab: Lab) -> None:
    session = await lab.session(port=None)
    assert session.port == DEFAULT_PORT


@scenario()
async def test_F8_the_next_ports_when_the_default_is_in_use(lab: Lab) -> None:
    host = lab.host()
    sessions = [await lab.session(host, port=None) for _ in range(11)]
    assert [session.port for session in sessions] == list(range(DEFAULT_PORT, DEFAULT_PORT + 11))
    one_more = await lab.session(host, port=None)
    assert one_more.port >= 49_152  # any


@scenario()
@pytest.mark.parametrize("wanted", [DEFAULT_PORT, 65_535])
async def test_a_port_that_was_asked_for_is_that_one_or_none(lab: Lab, wanted: int) -> None:
    host = lab.host()
    assert (await lab.session(host, port=wanted)).port == wanted
    with pytest.raises(NetworkError, match=f"cannot listen on port {wanted}: Address already in use"):
        async with lab.open(host, port=wanted):
            raise AssertionError


@scenario()
async def test_a_port_that_is_not_ours_to_take(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    host: Any = lab.host()
    listen = host.listen

    async def refuse(ip: str, port: int) -> Listener:
        if 0 < port < 1024:
            raise PermissionError(errno.EACCES, "Permission denied")
        found: Listener = await listen(ip, port)
        return found

    monkeypatch.setattr(host, "listen", refuse)
    with pytest.raises(NetworkError, match="cannot listen on port 80: Permission denied"):
        async with lab.open(host, port=80):
            raise AssertionError
    monkeypatch.setattr("btor.engine.session.DEFAULT_PORT", 80)
    assert (await lab.session(host, port=None)).port >= 1024


@scenario()
async def test_an_address_that_is_not_ours(lab: Lab) -> None:
    with pytest.raises(NetworkError, match=r"cannot listen on 203\.0\.113\.1:\d+: Cannot assign requested address"):
        async with lab.open(bind=("203.0.113.1",)):
            raise AssertionError


def on_loopback(main: Any) -> None:
    async def bounded() -> None:
        with trio.fail_after(20):
            await main()

    trio.run(bounded)


def real_settings(**changes: Any) -> Settings:
    return Settings(**{"port": 0, "bind": ("127.0.0.1",), "strict": True, "trackers": False, **changes})


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_real_port_in_use(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP and UDP have one number."""

    async def main() -> None:
        with socket.socket(socket.AF_INET, kind) as taken:
            taken.bind(("127.0.0.1", 0))
            if kind == socket.SOCK_STREAM:
                taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(NetworkError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
                async with open_session(real_settings(port=port)):
                    raise AssertionError
            monkeypatch.setattr("btor.engine.session.DEFAULT_PORT", port)
            async with open_session(real_settings(port=None)) as session:
                assert session.port != port

    on_loopback(main)


def test_a_real_address_that_is_not_ours() -> None:
    async def main() -> None:
        with pytest.raises(NetworkError):
            async with open_session(real_settings(bind=("203.0.113.1",))):
                raise AssertionError

    on_loopback(main)


def listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("bind", "reached", "not_reached"),
    [
        ((), ["127.0.0.1", "::1"], []),
        (("127.0.0.1",), ["127.0.0.1"], ["::1", "127.0.0.2"]),
        (("::1",), ["::1"], ["127.0.0.1"]),
        (("127.0.0.1", "::1"), ["127.0.0.1", "::1"], ["127.0.0.2"]),
    ],
)
def test_addresses_that_are_bound(bind: tuple[str, ...], reached: list[str], not_reached: list[str]) -> None:
    async def main() -> None:
        async with open_session(real_settings(bind=bind)) as session:
            for host in reached:
                assert await trio.to_thread.run_sync(listens, host, session.port), host
            for host in not_reached:
                assert not await trio.to_thread.run_sync(listens, host, session.port), host

    on_loopback(main)


def test_connections_leave_from_the_bound_address(tmp_path: Path) -> None:
    async def main() -> None:
        listener = await TcpNetwork().listen("127.0.0.1", 0)
        async with open_session(real_settings(bind=("127.0.0.3",))) as session:
            await session.add(CONTENT.metainfo, directory=tmp_path, peers=[("127.0.0.1", listener.port)])
            transport = await listener.accept()
            assert transport.remote[0] == "127.0.0.3"
            transport.close()
        listener.close()

    on_loopback(main)


@scenario()
async def test_no_address_of_that_family_is_bound(lab: Lab) -> None:
    host = lab.host()
    session = await lab.session(host, bind=(lab.ip_of(host),))
    found = await session.add(CONTENT.metainfo, directory=lab.place(), peers=[("2001:db8::1", 6881)])
    await trio.sleep(5)
    assert lab.dialled(host) == []
    assert found.error is None


def test_ipv6(tmp_path: Path) -> None:
    async def main() -> None:
        top = tmp_path / "seed"
        top.write_bytes(CONTENT.content)
        async with open_session(real_settings(bind=("::1",))) as one, open_session(real_settings(bind=())) as other:
            seeder = await one.add(CONTENT.metainfo, output=top, seed_only=True)
            await seeder.wait_complete()
            leecher = await other.add(CONTENT.metainfo, directory=tmp_path, peers=[f"[::1]:{one.port}"])
            await leecher.wait_complete()
            assert leecher.keeper.content.top.read_bytes() == CONTENT.content

    on_loopback(main)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """No descriptor, no task, no child, and the port is free again; also when a dial and a handshake hang."""

    async def main() -> None:
        before = set(os.listdir("/proc/self/fd"))
        top = tmp_path / "seed"
        top.write_bytes(CONTENT.content)
        listener = await TcpNetwork().listen("127.0.0.1", 0)
        async with open_session(real_settings()) as one, open_session(real_settings()) as other:
            port = other.port
            seeder = await one.add(CONTENT.metainfo, output=top, seed_only=True)
            await seeder.wait_complete()
            leecher = await other.add(
                CONTENT.metainfo,
                directory=tmp_path,
                peers=[("127.0.0.1", one.port), ("127.0.0.1", listener.port)],
            )
            await leecher.wait_complete()
            hanging = await listener.accept()  # a handshake that is never answered
            silent = await TcpNetwork().connect(("127.0.0.1", other.port))  # and one that never comes
            await trio.testing.wait_all_tasks_blocked()
        assert not listens("127.0.0.1", port)
        hanging.close()
        silent.close()
        listener.close()
        gc.collect()
        assert set(os.listdir("/proc/self/fd")) <= before

    on_loopback(main)


@pytest.mark.parametrize("at", range(12))
def test_cut_off_while_it_starts(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the start is cancelled: nothing stays open."""
    before = set(os.listdir("/proc/self/fd"))
    steps = 0
    checkpoint = trio.lowlevel.checkpoint

    async def main() -> None:
        nonlocal steps
        with trio.CancelScope() as scope:

            class Cut(trio.abc.Instrument):
                def before_task_step(self, _task: trio.lowlevel.Task) -> None:
                    nonlocal steps
                    steps += 1
                    if steps == at:
                        scope.cancel()

            trio.lowlevel.add_instrument(Cut())
            async with open_session(real_settings()):
                await checkpoint()
        gc.collect()

    on_loopback(main)
    assert set(os.listdir("/proc/self/fd")) <= before


# --- adding ----------------------------------------------------------------------------------------------------------


@scenario(both=True)
async def test_a_torrent_file(lab: Lab) -> None:
    path = lab.folder / "a.torrent"
    path.write_bytes(bencode.encode({b"info": bencode.decode(CONTENT.metainfo.info, depth=9, tokens=999)}))
    session = await lab.session()
    seeder = await lab.seed(CONTENT)
    for source in (path, str(path)):
        found = await session.add(source, directory=lab.place(), peers=[lab.address(seeder.session)])
        await found.wait_complete()
        assert found.info_hash == CONTENT.metainfo.info_hash
        assert found.name == "content"
        await found.remove()


@scenario()
async def test_torrent_files_that_are_none(lab: Lab) -> None:
    session = await lab.session()
    with pytest.raises(StorageError):
        await session.add(lab.folder / "none.torrent")
    (lab.folder / "bad.torrent").write_bytes(b"d4:infod4:name1:aee")
    with pytest.raises(MetainfoError):
        await session.add(lab.folder / "bad.torrent")
    assert session.torrents == {}


@scenario()
@pytest.mark.parametrize(
    "peer", ["", "host", "host:", "host:0", "host:65536", "host:x", "1.2.3.4", "[::1]", "\udcff:1", "n\u0000:1"]
)
async def test_peers_that_are_none(lab: Lab, peer: str) -> None:
    session = await lab.session()
    with pytest.raises(UsageError):
        await session.add(CONTENT.metainfo, directory=lab.place(), peers=[peer])
    assert session.torrents == {}


@scenario(both=True)
@pytest.mark.parametrize("name", ["a..b", "x" * 64, "nowhere.invalid"])
async def test_names_that_cannot_be_looked_up(lab: Lab, name: str) -> None:
    """A warning: the other peers are still there."""
    seeder = await lab.seed(CONTENT)
    ip, port = lab.address(seeder.session)
    session = await lab.session()
    found = await session.add(CONTENT.metainfo, directory=lab.place(), peers=[f"{name}:1", f"{ip}:{port}"])
    await found.wait_complete()
    assert found.error is None


# --- events ----------------------------------------------------------------------------------------------------------


@scenario(both=True)
async def test_events_of_a_download(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    leecher = await lab.leech(CONTENT, seeder)
    heard: list[Event] = []
    async for event in leecher.events():
        heard.append(event)
        if leecher.complete and isinstance(event, Seeding):
            break
    names = [event.event for event in heard if not isinstance(event, Progress)]
    assert names[:2] == ["started", "checked"]
    assert "peer" in names
    assert names[-2:] == ["complete", "seeding"]
    assert all(event.info_hash == CONTENT.metainfo.info_hash.hex() for event in heard)


@scenario()
async def test_a_late_listener_begins_with_a_snapshot(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    events = seeder.events()
    first = [await anext(events) for _ in range(4)]
    assert [type(event) for event in first] == [Started, Checked, Complete, Progress]
    assert isinstance(first[3], Progress)
    assert first[3].state == "seeding"
    events.close()


@scenario()
async def test_events_end_with_the_torrent(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    events = seeder.events()
    await seeder.remove()
    heard = [event async for event in events]
    assert isinstance(heard[-1], Stopped)
    assert heard[-1].reason == "removed"
    assert [type(event) async for event in seeder.events()][-1] is Progress


@scenario()
async def test_events_of_a_session(lab: Lab) -> None:
    session = await lab.session()
    one = await lab.seed(CONTENT, session.network)
    other = await lab.seed(OTHER)
    found = [
        await session.add(content.metainfo, directory=lab.place(), peers=[lab.address(seeder.session)])
        for content, seeder in ((CONTENT, one), (OTHER, other))
    ]
    events = session.events()
    for torrent in found:
        await torrent.wait_complete()
    await found[0].remove()
    await trio.sleep(2)
    by_torrent: dict[str, list[str]] = {}
    with trio.move_on_after(0.5):
        async for event in events:
            by_torrent.setdefault(event.info_hash or "", []).append(event.event)
    assert set(by_torrent) == {torrent.info_hash.hex() for torrent in found}
    for torrent in found:
        assert by_torrent[torrent.info_hash.hex()][0] == "started"
        assert "complete" in by_torrent[torrent.info_hash.hex()]
    assert by_torrent[found[0].info_hash.hex()][-1] == "stopped"


@scenario()
async def test_the_events_of_a_session_end_with_it(lab: Lab) -> None:
    async with lab.open() as session:
        events = session.events()
        await session.add(CONTENT.metainfo, directory=lab.place())
        await trio.sleep(1)
    names = [event.event async for event in events]
    assert names[0] == "started"
    assert names[-1] == "stopped"


@scenario()
async def test_a_listener_that_never_reads(lab: Lab) -> None:
    """It costs a bounded queue, and nobody waits for it."""
    seeder = await lab.seed(CONTENT, lab.host(up=20_000))
    leecher = await lab.leech(CONTENT, seeder)
    idle = [leecher.events(), leecher.session.events()]
    await leecher.wait_complete()
    await trio.sleep(1_000)
    for events in idle:
        assert len(events._queue) <= EVENT_QUEUE
    kinds = [(await anext(idle[0])).event for _ in range(len(idle[0]._queue))]
    assert kinds.count("progress") == 1
    assert kinds.count("complete") == 1


@scenario()
async def test_progress_every_second(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT, lab.host(up=100_000))
    leecher = await lab.leech(CONTENT, seeder)
    heard: list[Progress] = []
    async for event in leecher.events():
        if isinstance(event, Progress):
            heard.append(event)
        if isinstance(event, Complete):
            break
    last = heard[-1]
    assert 11 <= len(heard) <= 15
    assert [event.done_bytes for event in heard] == sorted(event.done_bytes for event in heard)
    assert last.state == "downloading"
    assert last.down_rate == pytest.approx(100_000, rel=0.1)
    assert last.eta == pytest.approx((len(CONTENT.content) - last.done_bytes) / last.down_rate)
    assert (last.peers, last.seeds, last.pieces) == (1, 1, CONTENT.pieces)


@scenario()
async def test_why_it_waits(lab: Lab) -> None:
    leecher = await lab.leech(CONTENT)
    await trio.sleep(2)
    assert (leecher.status().state, leecher.status().reason) == ("waiting", "0 peers, no source of peers")
    peer = await lab.join(leecher, has=[])
    await trio.sleep(1)
    assert leecher.status().reason == "1 peer, none has what is missing"
    await peer.have(0)
    await trio.sleep(1)
    assert leecher.status().reason == "1 peer, all choke us"
    await peer.send(1)
    await trio.sleep(1)
    assert (leecher.status().state, leecher.status().reason) == ("downloading", "")


@scenario()
async def test_seeding_is_said_at_the_start_and_every_ten_seconds(lab: Lab) -> None:
    session = await lab.session()
    top = CONTENT.write(lab.place() / "content")
    seeder = await session.add(CONTENT.metainfo, output=top, seed_only=True)
    heard: list[float] = []
    with trio.move_on_after(35):
        async for event in seeder.events():
            if isinstance(event, Seeding):
                assert event.port == session.port
                heard.append(trio.current_time())
    assert len(heard) == 4
    assert [later - heard[0] for later in heard] == pytest.approx([0, 10, 20, 30], abs=1.1)


# --- several torrents ------------------------------------------------------------------------------------------------


@scenario(both=True)
async def test_several_torrents(lab: Lab) -> None:
    contents = [sample(600_000 + number, name=f"torrent{number}", seed=number) for number in range(5)]
    seeding, leeching = await lab.session(), await lab.session()
    found: list[Torrent] = []
    for content in contents:
        top = content.write(lab.place() / content.metainfo.name)
        await (await seeding.add(content.metainfo, output=top, seed_only=True)).wait_complete()
        peers = [lab.address(seeding)]
        found.append(await leeching.add(content.metainfo, directory=lab.folder / "in", peers=peers))
    for torrent, content in zip(found, contents, strict=True):
        await torrent.wait_complete()
        assert content.is_at(lab.folder / "in" / content.metainfo.name)


# --- how it ends -----------------------------------------------------------------------------------------------------


@scenario(both=True)
@pytest.mark.parametrize("error", [StorageError("write", "/x", "no"), KeyError("k"), KeyboardInterrupt()])
async def test_what_is_raised_inside_comes_out_as_it_is(lab: Lab, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        async with lab.open() as session:
            await session.add(CONTENT.metainfo, directory=lab.place())
            raise error
    assert caught.value is error


@scenario()
async def test_the_error_of_a_torrent_matches(lab: Lab) -> None:
    blocked = lab.place()
    blocked.write_bytes(b"")
    with pytest.raises(StorageError):
        async with lab.open() as session:
            found = await session.add(CONTENT.metainfo, directory=blocked)
            await found.wait_complete()


@scenario()
async def test_cancelled_from_outside(lab: Lab) -> None:
    with trio.move_on_after(5) as scope:
        async with lab.open() as session:
            await session.add(CONTENT.metainfo, directory=lab.place())
            await trio.sleep_forever()
    assert scope.cancelled_caught


@scenario()
async def test_a_torrent_that_is_checked_when_the_session_ends(lab: Lab) -> None:
    top = CONTENT.write(lab.place() / "content")
    async with lab.open(state_dir=lab.place()) as session:
        found = await session.add(CONTENT.metainfo, output=top)
    assert not found.complete
    assert found.status().state == "stopped"


@scenario()
async def test_pause_of_a_torrent_that_has_ended(lab: Lab) -> None:
    found = await lab.leech(CONTENT)
    await trio.sleep(1)
    await found.remove()
    await found.pause()
    await found.resume()
    await found.remove()
    assert found.status().state == "stopped"


@scenario()
async def test_a_failed_torrent_can_be_removed_and_added_again(lab: Lab) -> None:
    blocked = lab.place()
    blocked.write_bytes(b"")
    session = await lab.session(state_dir=lab.place())
    found = await session.add(CONTENT.metainfo, directory=blocked)
    failed = await next_event(found, Failed)
    assert failed.code == 4
    await until(lambda: found.status().state == "error")
    await found.remove()
    blocked.unlink()
    seeder = await lab.seed(CONTENT)
    again = await session.add(CONTENT.metainfo, directory=blocked, peers=[lab.address(seeder.session)])
    await again.wait_complete()


# --- bugs are contained ----------------------------------------------------------------------------------------------


@scenario()
async def test_a_bug_in_one_torrent_stops_no_other(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await lab.session(strict=False)
    seeder = await lab.seed(OTHER)
    found = await session.add(CONTENT.metainfo, directory=lab.place())

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    await until(lambda: found.transfer is not None and found.transfer.active)
    monkeypatch.setattr(found.transfer, "on_tick", fail)
    other = await session.add(OTHER.metainfo, directory=lab.place(), peers=[lab.address(seeder.session)])
    await trio.sleep(3)
    await other.wait_complete()
    await trio.sleep(3)
    assert other.status().state == "seeding"
    assert session.container.failures > 0


@scenario()
async def test_a_bug_that_ends_a_torrent_ends_who_waits_for_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await lab.session(strict=False)

    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Torrent, "_check", fail)
    found = await session.add(CONTENT.metainfo, directory=lab.place())
    with pytest.raises(ExceptionGroup) as caught:
        await found.wait_complete()
    assert caught.group_contains(ZeroDivisionError)
    assert found.status().state == "stopped"


# --- the documented way ----------------------------------------------------------------------------------------------


def test_the_names_of_the_package(tmp_path: Path) -> None:
    async def main() -> None:
        async with btor.open_session(btor.Settings(port=0, bind=("127.0.0.1",))) as session:
            assert isinstance(session, Session)
            found = await session.add(CONTENT.metainfo, directory=tmp_path)
            async for event in found.events():
                assert event.event == "started"
                break

    on_loopback(main)


@scenario()
async def test_randomness_and_network_are_arguments(lab: Lab) -> None:
    ids = []
    for _ in range(2):
        host = lab.host()
        async with open_session(Settings(port=0, hashers=0), network=host, rng=random.Random(5)) as session:
            ids.append(session.peer_id)
    assert ids[0] == ids[1]
    assert ids[0].startswith(b"-BO")


@scenario()
async def test_a_peer_of_another_torrent_of_ours_is_refused_there(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await lab.call(seeder.session)
    with pytest.raises(DisconnectedError):
        await peer.handshake(OTHER.metainfo.info_hash)
