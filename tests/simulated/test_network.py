"""The simulated network tells the truth: order, latency, bandwidth, back-pressure, closing, faults, repetition."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from btor.engine.transport import LISTEN_BACKLOG, Listener, Network, Transport
from btor.engine.udp import UdpSocket
from tests.simulated.network import RECEIVE_WINDOW, SEND_BUFFER, Host, World
from tests.simulated.schedule import Schedule, simulate
from tests.simulated.stream import SMALLEST_SEGMENT, SimulatedTransport

MB = 1_000_000
PORT = 6881
Clock = trio.testing.MockClock
ROOM = memoryview(bytearray(1 << 20))


@pytest.fixture
async def world(nursery: trio.Nursery, autojump_clock: Clock) -> World:
    made = World(seed=1)
    await nursery.start(made.run)
    return made


def pattern(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


async def pair(world: World, one: Host, other: Host) -> tuple[SimulatedTransport, SimulatedTransport]:
    """A connection: the end that dialled and the end that accepted."""
    listener = await other.listen("", 0)
    try:
        near = await one.connect((other.ips[0], listener.port))
        return near, await listener.accept()
    finally:
        listener.close()


async def send_all(end: Transport, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[end.send([view]) :]
        except BlockingIOError:
            await end.wait_writable()


async def receive(end: Transport, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        try:
            got = end.recv_into([ROOM[: count - len(found)]])
        except BlockingIOError:
            await end.wait_readable()
            continue
        assert got, f"end of stream after {len(found)} bytes"
        found += ROOM[:got]
    return bytes(found)


async def receive_to_the_end(end: Transport) -> bytes:
    found = bytearray()
    while True:
        try:
            got = end.recv_into([ROOM])
        except BlockingIOError:
            await end.wait_readable()
            continue
        if not got:
            return bytes(found)
        found += ROOM[:got]


def uses(end: Transport) -> list[Callable[[], int]]:
    """What fails at once on a broken or closed end."""
    return [lambda: end.send([b"x"]), lambda: end.recv_into([ROOM])]


async def seconds(action: Awaitable[object]) -> float:
    before = trio.current_time()
    with trio.fail_after(1000):
        await action
    return trio.current_time() - before


async def test_has_the_shape_of_the_seams(autojump_clock: Clock, world: World) -> None:
    host = world.host("10.0.0.1")
    network: Network = host
    listener: Listener = await network.listen("", 0)
    transport: Transport = await network.connect(("10.0.0.1", listener.port))
    sock: UdpSocket = host.open_udp("10.0.0.1", 0)
    assert transport.remote == ("10.0.0.1", listener.port)
    assert sock.local[0] == "10.0.0.1"


# --- connecting ------------------------------------------------------------------------------------------------------


async def test_connecting_takes_a_round_trip(autojump_clock: Clock, world: World) -> None:
    one, other = world.host("10.0.0.1", latency=0.03), world.host("10.0.0.2", latency=0.02)
    listener = await other.listen("", PORT)
    assert await seconds(one.connect(("10.0.0.2", PORT))) == pytest.approx(0.1, abs=0.003)
    far = await listener.accept()
    assert far.local == ("10.0.0.2", PORT)
    assert far.remote[0] == "10.0.0.1"
    assert one.dialled == [(0.0, ("10.0.0.2", PORT))]
    assert len(one.ends) == len(other.ends) == 1


async def test_refused(autojump_clock: Clock, world: World) -> None:
    one = world.host("10.0.0.1")
    world.host("10.0.0.2")
    with pytest.raises(ConnectionRefusedError):
        await one.connect(("10.0.0.2", PORT))
    assert trio.current_time() == pytest.approx(0.04, abs=0.003)


@pytest.mark.parametrize("silent", [False, True])
async def test_hangs_where_nobody_is_or_answers(autojump_clock: Clock, world: World, silent: bool) -> None:
    one = world.host("10.0.0.1")
    if silent:
        other = world.host("10.0.0.2")
        await other.listen("", PORT)
        other.silent = True
    with trio.move_on_after(100) as scope:
        await one.connect(("10.0.0.2", PORT))
    assert scope.cancelled_caught


async def test_a_full_backlog_answers_nobody_more(autojump_clock: Clock, world: World) -> None:
    one, other = world.host("10.0.0.1"), world.host("10.0.0.2")
    listener = await other.listen("", PORT)
    ends = [await one.connect(("10.0.0.2", PORT)) for _ in range(LISTEN_BACKLOG)]
    with trio.move_on_after(10) as scope:
        await one.connect(("10.0.0.2", PORT))
    assert scope.cancelled_caught
    await listener.accept()
    await one.connect(("10.0.0.2", PORT))
    listener.close()
    with trio.fail_after(1):
        await ends[5].wait_readable()
    with pytest.raises(ConnectionResetError):
        ends[5].recv_into([ROOM])


async def test_giving_up_a_connect_leaves_nothing(autojump_clock: Clock, world: World) -> None:
    one, other = world.host("10.0.0.1", latency=0.5), world.host("10.0.0.2", latency=0.5)
    listener = await other.listen("", PORT)
    for patience in (0.5, 1.5):  # before and after it has arrived
        with trio.move_on_after(patience):
            await one.connect(("10.0.0.2", PORT))
    far = await listener.accept()
    assert await receive_to_the_end(far) == b""
    far.close()
    await trio.sleep(5)
    assert not listener.backlog
    assert not one.ends
    assert not other.ends


async def test_addresses_and_families(autojump_clock: Clock, world: World) -> None:
    one, other = world.host("10.0.0.1", "fd00::1"), world.host("10.0.0.2", "fd00::2")
    only4 = world.host("10.0.0.3")
    listener = await other.listen("fd00::2", PORT)
    await other.listen("10.0.0.2", PORT)
    end = await one.connect(("fd00::2", PORT), local="fd00::1")
    assert end.local[0] == "fd00::1"
    assert (await listener.accept()).remote == end.local
    refused: list[Callable[[], Awaitable[object]]] = [
        lambda: only4.connect(("fd00::2", PORT)),
        lambda: one.connect(("10.0.0.2", PORT), local="10.9.9.9"),
        lambda: one.connect(("10.0.0.2", PORT), local="fd00::1"),
        lambda: other.listen("10.0.0.1", 0),
        lambda: other.listen("", PORT),
        lambda: other.listen("10.0.0.2", PORT),
    ]
    for dial in refused:
        with pytest.raises(OSError):
            await dial()
    with pytest.raises(ValueError, match=r"10\.0\.0\.2"):
        world.host("10.0.0.2")


async def test_names(autojump_clock: Clock, world: World) -> None:
    one = world.host("10.0.0.1")
    world.names = {"tracker.example": ["10.0.0.7", "fd00::7"], "dead.example": []}
    assert await one.resolve("tracker.example", 80) == [("10.0.0.7", 80), ("fd00::7", 80)]
    assert trio.current_time() == pytest.approx(world.look_up)
    assert await one.resolve("10.1.1.1", 80) == [("10.1.1.1", 80)]
    with pytest.raises(socket.gaierror):
        await one.resolve("nowhere.example", 80)
    with trio.move_on_after(100) as scope:
        await one.resolve("dead.example", 80)
    assert scope.cancelled_caught


# --- moving bytes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [None, 300_000.0])
async def test_bytes_arrive_whole_and_in_order(
    autojump_clock: Clock, world: World, nursery: trio.Nursery, rate: float | None
) -> None:
    one, other = world.host("10.0.0.1", up=rate, down=rate), world.host("10.0.0.2", up=rate, down=rate)
    near, far = await pair(world, one, other)
    there, back = pattern(777_777, 1), pattern(555_555, 2)
    nursery.start_soon(send_all, near, there)
    nursery.start_soon(send_all, far, back)
    with trio.fail_after(60):
        assert await receive(far, len(there)) == there
        assert await receive(near, len(back)) == back
    assert (one.sent, other.received) == (len(there), len(there))
    assert (other.sent, one.received) == (len(back), len(back))


async def test_small_sends_and_small_reads(autojump_clock: Clock, world: World) -> None:
    near, far = await pair(world, world.host("10.0.0.1"), world.host("10.0.0.2"))
    data = pattern(5000)
    for start in range(0, 5000, 50):
        assert near.send([data[start : start + 20], memoryview(data)[start + 20 : start + 50]]) == 50
    assert near.send([b""]) == 0
    found = bytearray()
    buffers = bytearray(7), bytearray(0), bytearray(3)
    while len(found) < 5000:
        await far.wait_readable()
        got = far.recv_into([memoryview(buffer) for buffer in buffers])
        found += (buffers[0] + buffers[2])[:got]
    assert found == data


async def test_what_was_sent_may_be_overwritten(autojump_clock: Clock, world: World) -> None:
    near, far = await pair(world, world.host("10.0.0.1"), world.host("10.0.0.2"))
    buffer = bytearray(b"first")
    near.send([memoryview(buffer)])
    buffer[:] = b"later"
    assert await receive(far, 5) == b"first"


async def test_latency_is_the_sum_of_both(autojump_clock: Clock, world: World) -> None:
    near, far = await pair(world, world.host("10.0.0.1", latency=0.2), world.host("10.0.0.2", latency=0.1))
    near.send([b"ping"])
    assert await seconds(far.wait_readable()) == pytest.approx(0.3, abs=0.003)


RATES = [50_000.0, 1.0 * MB, 50.0 * MB]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("side", ["up", "down"])
async def test_bandwidth_of_one_connection(
    autojump_clock: Clock, world: World, nursery: trio.Nursery, rate: float, side: str
) -> None:
    one = world.host("10.0.0.1", up=rate if side == "up" else None)
    other = world.host("10.0.0.2", down=rate if side == "down" else None)
    near, far = await pair(world, one, other)
    amount = int(min(4 * rate, 20 * MB))
    nursery.start_soon(send_all, near, bytes(amount))
    assert await seconds(receive(far, amount)) == pytest.approx(amount / rate, rel=0.03, abs=0.03)


@pytest.mark.parametrize("rate", RATES[:2])
async def test_an_uplink_is_shared_evenly(
    autojump_clock: Clock, world: World, nursery: trio.Nursery, rate: float
) -> None:
    seed = world.host("10.0.0.1", up=rate)
    ends = [await pair(world, seed, world.host(f"10.0.1.{index}")) for index in range(8)]
    for near, far in ends:
        nursery.start_soon(send_all, near, bytes(int(rate) * 100))
        nursery.start_soon(receive, far, 1 << 60)
    await trio.sleep(10)
    got = [far.host.received for _, far in ends]
    assert sum(got) == pytest.approx(10 * rate, rel=0.03)
    assert min(got) > 0.9 * max(got)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("rate", RATES[:2])
async def test_a_downlink_is_shared_by_all_who_send(
    autojump_clock: Clock, world: World, nursery: trio.Nursery, rate: float
) -> None:
    sink = world.host("10.0.0.1", down=rate)
    ends = [await pair(world, world.host(f"10.0.1.{index}", latency=0.01 * index), sink) for index in range(8)]
    for near, far in ends:
        nursery.start_soon(send_all, near, bytes(int(rate) * 100))
        nursery.start_soon(receive, far, 1 << 60)
    await trio.sleep(10)
    assert sink.received == pytest.approx(10 * rate, rel=0.05)
    nursery.cancel_scope.cancel()


async def test_the_slowest_link_decides(autojump_clock: Clock, world: World, nursery: trio.Nursery) -> None:
    one, other = world.host("10.0.0.1", up=5.0 * MB, latency=0.1), world.host("10.0.0.2", down=1.0 * MB, latency=0.1)
    near, far = await pair(world, one, other)
    nursery.start_soon(send_all, near, bytes(5 * MB))
    assert await seconds(receive(far, 5 * MB)) == pytest.approx(5.2, rel=0.03)


async def test_an_idle_link_saves_nothing_up(autojump_clock: Clock, world: World, nursery: trio.Nursery) -> None:
    near, far = await pair(world, world.host("10.0.0.1", up=1.0 * MB), world.host("10.0.0.2", down=1.0 * MB))
    await trio.sleep(100)
    nursery.start_soon(send_all, near, bytes(MB))
    assert await seconds(receive(far, MB)) == pytest.approx(1.0, rel=0.06)


# --- back-pressure ---------------------------------------------------------------------------------------------------


async def fill(end: Transport) -> int:
    """Send until nothing is taken for ten seconds."""
    taken = 0
    while True:
        try:
            taken += end.send([bytes(100_000)])
        except BlockingIOError:
            with trio.move_on_after(10) as scope:
                await end.wait_writable()
            if scope.cancelled_caught:
                return taken


@pytest.mark.parametrize("rate", [None, 1.0 * MB])
async def test_buffers_are_bounded(autojump_clock: Clock, world: World, rate: float | None) -> None:
    near, far = await pair(world, world.host("10.0.0.1", up=rate), world.host("10.0.0.2", down=rate))
    bound = SEND_BUFFER + RECEIVE_WINDOW
    assert bound - SMALLEST_SEGMENT < await fill(near) <= bound
    with pytest.raises(BlockingIOError):
        near.send([b"x"])
    await receive(far, SEND_BUFFER)
    assert 0 < await fill(near) <= SEND_BUFFER
    assert await seconds(receive(far, RECEIVE_WINDOW)) < 1


async def test_nothing_to_read_and_room_to_write(autojump_clock: Clock, world: World) -> None:
    near, far = await pair(world, world.host("10.0.0.1"), world.host("10.0.0.2"))
    with pytest.raises(BlockingIOError):
        far.recv_into([ROOM])
    assert await seconds(near.wait_writable()) == 0.0
    near.send([b"x"])
    await far.wait_readable()
    assert await seconds(far.wait_readable()) == 0.0


async def test_two_tasks_cannot_wait_for_the_same(autojump_clock: Clock, world: World, nursery: trio.Nursery) -> None:
    near, _ = await pair(world, world.host("10.0.0.1"), world.host("10.0.0.2"))
    nursery.start_soon(near.wait_readable)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.BusyResourceError):
        await near.wait_readable()
    nursery.cancel_scope.cancel()


# --- closing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [None, 100_000.0])
async def test_eof_comes_after_the_data(autojump_clock: Clock, world: World, rate: float | None) -> None:
    near, far = await pair(world, world.host("10.0.0.1", up=rate), world.host("10.0.0.2", down=rate))
    data = pattern(100_000)
    assert near.send([data]) == len(data)
    near.close()
    with trio.fail_after(10):
        assert await receive_to_the_end(far) == data
    assert far.recv_into([ROOM]) == 0
    await far.wait_readable()


async def test_eof_when_all_has_arrived_before(autojump_clock: Clock, world: World) -> None:
    near, far = await pair(world, world.host("10.0.0.1", latency=1), world.host("10.0.0.2", latency=1))
    near.send([b"last words"])
    await trio.sleep(10)
    near.close()
    assert await receive(far, 10) == b"last words"
    assert await seconds(receive_to_the_end(far)) == pytest.approx(2.0, abs=0.003)


async def test_closing_wakes_whoever_waits(autojump_clock: Clock, world: World, nursery: trio.Nursery) -> None:
    near, _ = await pair(world, world.host("10.0.0.1"), world.host("10.0.0.2"))
    listener = await near.host.listen("", 0)
    await fill(near)
    woken: list[str] = []

    async def waiting(name: str, wait: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await wait()
        woken.append(name)

    nursery.start_soon(waiting, "reader", near.wait_readable)
    nursery.start_soon(waiting, "writer", near.wait_writable)
    nursery.start_soon(waiting, "accepter", listener.accept)
    await trio.testing.wait_all_tasks_blocked()
    near.close()
    listener.close()
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(woken) == ["accepter", "reader", "writer"]
    near.close()
    listener.close()
    for use in uses(near):
        with pytest.raises(trio.ClosedResourceError):
            use()
    for wait in (near.wait_readable, near.wait_writable, listener.accept):
        with pytest.raises(trio.ClosedResourceError):
            await wait()


async def test_closing_with_unread_data_resets(autojump_clock: Clock, world: World) -> None:
    near, far = await pair(world, world.host("10.0.0.1"), world.host("10.0.0.2"))
    near.send([b"never read"])
    await far.wait_readable()
    far.send([b"never sent"])
    await trio.sleep(1)
    far.close()
    await trio.sleep(1)
    assert await receive(near, 10) == b"never sent"
    with pytest.raises(ConnectionResetError):
        near.recv_into([ROOM])


async def test_sending_to_a_closed_end_resets(autojump_clock: Clock, world: World) -> None:
    near, far = await pair(world, world.host("10.0.0.1"), world.host("10.0.0.2"))
    far.close()
    assert await receive_to_the_end(near) == b""
    near.send([b"too late"])
    await trio.sleep(1)
    for use in uses(near):
        with pytest.raises(ConnectionResetError):
            use()
    await near.wait_readable()
    await near.wait_writable()


@pytest.mark.parametrize("rate", [None, 10_000.0])
async def test_abort_drops_what_is_queued_and_resets(
    autojump_clock: Clock, world: World, nursery: trio.Nursery, rate: float | None
) -> None:
    near, far = await pair(world, world.host("10.0.0.1", up=rate), world.host("10.0.0.2", down=rate))
    near.send([pattern(100_000)])
    near.abort()
    near.abort()
    found = 0
    with trio.fail_after(60), pytest.raises(ConnectionResetError):
        while True:
            await far.wait_readable()
            found += far.recv_into([ROOM])
    assert found == (100_000 if rate is None else 0)
    assert not near.host.ends
    far.close()
    assert not far.host.ends


async def test_the_network_breaks_a_connection(autojump_clock: Clock, world: World) -> None:
    near, far = await pair(world, world.host("10.0.0.1"), world.host("10.0.0.2"))
    near.send([b"lost"])
    near.break_connection()
    for end in (near, far):
        with pytest.raises(TimeoutError):
            end.recv_into([ROOM])
        with pytest.raises(TimeoutError):
            end.send([b"x"])
        end.close()
    near.break_connection()


async def test_connections_break_by_themselves(nursery: trio.Nursery, autojump_clock: Clock) -> None:
    world = World(seed=4, connection_life=60.0)
    await nursery.start(world.run)
    one, other = world.host("10.0.0.1"), world.host("10.0.0.2")
    lives = []
    for _ in range(200):
        near, _far = await pair(world, one, other)
        lives.append(await seconds(near.wait_readable()))
    assert sum(lives) / 200 == pytest.approx(60, rel=0.2)


# --- faults of hosts -------------------------------------------------------------------------------------------------


async def test_a_crash_resets_everything(autojump_clock: Clock, world: World) -> None:
    one, other = world.host("10.0.0.1"), world.host("10.0.0.2")
    near, _far = await pair(world, one, other)
    await other.listen("", PORT)
    other.open_udp("10.0.0.2", PORT)
    other.crash()
    await near.wait_readable()
    with pytest.raises(ConnectionResetError):
        near.recv_into([ROOM])
    with pytest.raises(ConnectionRefusedError):
        await one.connect(("10.0.0.2", PORT))
    assert not other.udp


async def test_a_partition_holds_streams_back_until_it_heals(
    autojump_clock: Clock, world: World, nursery: trio.Nursery
) -> None:
    one, other, third = (world.host(f"10.0.0.{index}") for index in range(1, 4))
    near, far = await pair(world, one, other)
    await other.listen("", PORT)
    near.send([b"under way"])
    world.partition([other, third])
    near.send([b", held back"])
    dialled: list[SimulatedTransport] = []

    async def dial() -> None:
        dialled.append(await one.connect(("10.0.0.2", PORT)))

    nursery.start_soon(dial)
    await third.connect(("10.0.0.2", PORT))
    await trio.sleep(100)
    with pytest.raises(BlockingIOError):
        far.recv_into([ROOM])
    assert await fill(near) == SEND_BUFFER + RECEIVE_WINDOW - 20
    assert not dialled
    world.heal()
    assert await receive(far, 20) == b"under way, held back"
    await trio.sleep(1)
    assert len(dialled) == 1


async def test_an_unplugged_host_is_silent(autojump_clock: Clock, world: World) -> None:
    one, other = world.host("10.0.0.1"), world.host("10.0.0.2")
    near, far = await pair(world, one, other)
    other.unplug()
    far.close()
    with trio.move_on_after(1000) as scope:
        await near.wait_readable()
    assert scope.cancelled_caught
    world.heal()
    assert await receive_to_the_end(near) == b""


async def test_a_host_that_moves_is_not_found_at_its_old_address(autojump_clock: Clock, world: World) -> None:
    """What was connected stays so at both ends and is of no use."""
    one, other = world.host("10.0.0.1"), world.host("10.0.0.2")
    near, far = await pair(world, one, other)
    sock = other.open_udp("10.0.0.2", 53)
    listener = await other.listen("", PORT)
    other.move("10.0.0.3")
    near.send([b"x"])
    with trio.move_on_after(1000) as scope:
        await far.wait_readable()
    assert scope.cancelled_caught
    far.close()
    with trio.move_on_after(1000) as scope:
        await near.wait_readable()
    assert scope.cancelled_caught
    assert sock.local == ("10.0.0.3", 53)
    here = one.open_udp("10.0.0.1", 0)
    for ip in ("10.0.0.2", "10.0.0.3"):
        here.sendto(ip.encode(), (ip, 53))
    await sock.wait_readable()
    assert sock.recvfrom()[0] == b"10.0.0.3"
    again = await one.connect(("10.0.0.3", PORT))
    assert (await listener.accept()).local[0] == again.remote[0] == "10.0.0.3"
    with pytest.raises(ValueError, match="there is a host"):
        other.move("10.0.0.1")


async def test_a_connection_that_is_half_open(autojump_clock: Clock, world: World) -> None:
    """One end is gone without a word; the other finds out when it says something."""
    one, other = world.host("10.0.0.1"), world.host("10.0.0.2")
    near, far = await pair(world, one, other)
    other.vanish()
    with pytest.raises(ConnectionAbortedError):
        far.recv_into([ROOM])
    far.close()
    with trio.move_on_after(1000) as scope:
        await near.wait_readable()
    assert scope.cancelled_caught
    near.send([b"are you there?"])
    await near.wait_readable()
    with pytest.raises(ConnectionResetError):
        near.recv_into([ROOM])


# --- datagrams -------------------------------------------------------------------------------------------------------


async def test_datagrams(autojump_clock: Clock, world: World) -> None:
    one, other = world.host("10.0.0.1", latency=0.2), world.host("10.0.0.2", latency=0.1)
    here, there = one.open_udp("10.0.0.1", 0), other.open_udp("10.0.0.2", 53)
    for port in (53, 54):
        here.sendto(b"question", ("10.0.0.2", port))
    here.sendto(b"to nobody", ("10.0.0.9", 53))
    assert await seconds(there.wait_readable()) == pytest.approx(0.3, abs=0.003)
    await there.wait_readable()
    assert there.recvfrom() == (b"question", here.local)
    with pytest.raises(BlockingIOError):
        there.recvfrom()
    for ip, port in [("10.0.0.2", 53), ("10.0.0.1", 9)]:
        with pytest.raises(OSError):
            other.open_udp(ip, port)
    there.close()
    there.close()
    with pytest.raises(trio.ClosedResourceError):
        there.recvfrom()
    other.open_udp("10.0.0.2", 53)


async def test_datagrams_are_cut_and_lost_when_nobody_reads(autojump_clock: Clock, world: World) -> None:
    one, other = world.host("10.0.0.1"), world.host("10.0.0.2")
    here, there = one.open_udp("10.0.0.1", 0), other.open_udp("10.0.0.2", 53)
    for _ in range(20):
        here.sendto(bytes(20_000), there.local)
    await trio.sleep(1)
    found = 0
    with pytest.raises(BlockingIOError):
        while True:
            data, _ = there.recvfrom()
            assert len(data) == 16 * 1024 + 1
            found += 1
    assert found == 13
    one.unplug()
    here.sendto(b"x", there.local)
    await trio.sleep(1)
    world.heal()
    await trio.sleep(1)
    with pytest.raises(BlockingIOError):
        there.recvfrom()


async def test_datagrams_by_chance(nursery: trio.Nursery, autojump_clock: Clock) -> None:
    world = World(seed=3, datagram_loss=0.3, datagram_repeats=0.2, datagram_jitter=0.5)
    await nursery.start(world.run)
    here = world.host("10.0.0.1").open_udp("10.0.0.1", 0)
    there = world.host("10.0.0.2").open_udp("10.0.0.2", 53)
    for number in range(1000):
        here.sendto(number.to_bytes(2), there.local)
    await trio.sleep(10)
    found = []
    with pytest.raises(BlockingIOError):
        while True:
            found.append(int.from_bytes(there.recvfrom()[0]))
    assert len(set(found)) == pytest.approx(700, rel=0.1)
    assert len(found) / len(set(found)) == pytest.approx(1.2, rel=0.05)
    assert found != sorted(found)


async def test_of_the_first_datagrams_one_is_surely_lost_and_one_comes_twice(
    nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    world = World(seed=1, datagram_loss=1e-9, datagram_repeats=1e-9)
    await nursery.start(world.run)
    world.surely = 2
    here = world.host("10.0.0.1").open_udp("10.0.0.1", 0)
    there = world.host("10.0.0.2").open_udp("10.0.0.2", 53)
    for number in range(5):
        here.sendto(bytes([number]), there.local)
    await trio.sleep(1)
    found = b""
    with pytest.raises(BlockingIOError):
        while True:
            found += there.recvfrom()[0]
    assert sorted(found) == [0, 1, 3, 3, 4]
    assert (world.datagrams, world.lost, world.repeated, world.overtaken) == (5, 1, 1, 0)


# --- the clockwork ---------------------------------------------------------------------------------------------------


async def test_actions_come_in_order(nursery: trio.Nursery, autojump_clock: Clock) -> None:
    schedule = Schedule()
    nursery.start_soon(schedule.run)
    done: list[tuple[str, float]] = []

    def do(name: str) -> None:
        done.append((name, trio.current_time()))

    schedule.at(5.0, do, "third")
    schedule.at(1.0, do, "first")
    await trio.testing.wait_all_tasks_blocked()
    schedule.at(0.5, schedule.at, 0.2, do, "at once")
    schedule.at(1.0, do, "second")
    await trio.sleep(10)
    schedule.at(3.0, do, "late")
    await trio.sleep(10)
    expected = [("at once", 0.5), ("first", 1.0), ("second", 1.0), ("third", 5.0), ("late", 10.0)]
    assert [name for name, _ in done] == [name for name, _ in expected]
    assert [when for _, when in done] == pytest.approx([when for _, when in expected], abs=0.0015)
    nursery.cancel_scope.cancel()


async def chatter(seed: int) -> list[tuple[float, int]]:
    """A small swarm of senders; when how much was read."""
    log: list[tuple[float, int]] = []

    async def read(end: Transport) -> None:
        while True:
            await end.wait_readable()
            try:
                log.append((trio.current_time(), end.recv_into([ROOM])))
            except OSError:
                return

    async with trio.open_nursery() as nursery:
        world = World(seed=seed, connection_life=5.0)
        await nursery.start(world.run)
        hosts = [world.host(f"10.0.0.{index}", up=200_000.0, down=300_000.0) for index in range(5)]
        for one in hosts:
            for other in hosts:
                if one is not other:
                    near, far = await pair(world, one, other)
                    near.send([bytes(world.rng.randrange(100_000))])
                    nursery.start_soon(read, far)
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    return log


def test_the_same_seed_repeats_everything() -> None:
    first = simulate(lambda: chatter(1), seed=1)
    assert len(first) > 50
    assert simulate(lambda: chatter(1), seed=1) == first
    assert simulate(lambda: chatter(2), seed=1) != first


def test_a_simulation_has_a_limit() -> None:
    with pytest.raises(trio.TooSlowError):
        simulate(trio.sleep_forever, limit=100.0)


def test_threads_are_inline_and_take_no_virtual_time() -> None:
    async def main() -> tuple[int, float]:
        return await trio.to_thread.run_sync(threading.get_ident, limiter=None), trio.current_time()

    assert simulate(main) == (threading.get_ident(), 0.0)
    assert trio.run(trio.to_thread.run_sync, threading.get_ident) != threading.get_ident()
