"""TCP behind the seam: addresses, what a closed transport says, connections that are gone before they are taken."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from btor.engine.transport import Listener, TcpNetwork, Transport, open_listening_socket

RESET = struct.pack("ii", 1, 0)  # linger for no time: close resets


@asynccontextmanager
async def pair(host: str = "127.0.0.1", bind: str | None = None) -> AsyncIterator[tuple[Transport, Transport]]:
    network = TcpNetwork()
    with trio.fail_after(10):
        listener = await network.listen(host if bind is None else bind, 0)
        one = await network.connect((host, listener.port))
        other = await listener.accept()
        yield one, other
        for closing in (one, other, listener):
            closing.close()
            closing.close()


@pytest.mark.parametrize(("host", "bind"), [("127.0.0.1", None), ("::1", None), ("127.0.0.1", ""), ("::1", "")])
async def test_addresses(host: str, bind: str | None) -> None:
    """Those of IPv4 are told as such, also where one socket listens for both families."""
    async with pair(host, bind) as (one, other):
        assert one.remote[0] == one.local[0] == other.remote[0] == other.local[0] == host
        assert one.local == other.remote
        assert one.remote == other.local


async def test_there_and_back() -> None:
    async with pair() as (one, other):
        assert one.send([b"ab", memoryview(b"cd")]) == 4
        assert one.send([b"e"]) == 1
        room = bytearray(10)
        await other.wait_readable()
        await trio.sleep(0.01)
        view = memoryview(room)
        assert other.recv_into([view[:3], view[3:]]) == 5
        assert room[:5] == b"abcde"
        with pytest.raises(BlockingIOError):
            other.recv_into([view])
        one.close()
        await other.wait_readable()
        assert other.recv_into([view]) == 0


async def test_a_full_socket() -> None:
    async with pair() as (one, other):
        with pytest.raises(BlockingIOError):
            while True:
                one.send([bytes(1 << 20)])
        room = memoryview(bytearray(1 << 20))

        async def drain() -> None:
            while True:
                await other.wait_readable()
                other.recv_into([room])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            await one.wait_writable()
            assert one.send([b"more"]) == 4
            nursery.cancel_scope.cancel()


async def test_closed() -> None:
    async with pair() as (one, _):
        one.close()
        with pytest.raises(trio.ClosedResourceError):
            one.recv_into([memoryview(bytearray(1))])
        with pytest.raises(trio.ClosedResourceError):
            one.send([b"x"])
        for wait in (one.wait_readable, one.wait_writable):
            with pytest.raises(trio.ClosedResourceError):
                await wait()


async def test_closing_wakes_who_waits() -> None:
    async with pair() as (one, _):
        woken = []

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await one.wait_readable()
            woken.append(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            one.close()
        assert woken


async def test_a_reset() -> None:
    async with pair() as (one, other):
        with socket.socket(fileno=os.dup(one._socket.fileno())) as raw:  # type: ignore[attr-defined]  # of TCP
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            one.close()
        await other.wait_readable()
        with pytest.raises(ConnectionResetError):
            other.recv_into([memoryview(bytearray(1))])


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with trio.fail_after(10), pytest.raises(ConnectionRefusedError):
        await TcpNetwork().connect(("127.0.0.1", port))


async def test_a_local_address() -> None:
    network = TcpNetwork()
    with trio.fail_after(10):
        listener = await network.listen("127.0.0.1", 0)
        one = await network.connect(("127.0.0.1", listener.port), local="127.0.0.9")
        other = await listener.accept()
        assert one.local[0] == other.remote[0] == "127.0.0.9"
        with pytest.raises(OSError, match="annot assign"):
            await network.connect(("127.0.0.1", listener.port), local="203.0.113.1")
        for closing in (one, other, listener):
            closing.close()


async def test_a_connection_that_is_reset_before_it_is_accepted() -> None:
    """An error of this one connection: nothing is left of it, and the next one comes through."""
    network = TcpNetwork()
    with trio.fail_after(10):
        listener: Listener = await network.listen("127.0.0.1", 0)
        before = set(os.listdir("/proc/self/fd"))
        raw = socket.create_connection(("127.0.0.1", listener.port))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        raw.close()
        with pytest.raises(OSError, match=r"not connected|reset") as caught:
            (await listener.accept()).close()
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNRESET, errno.EINVAL)
        assert set(os.listdir("/proc/self/fd")) == before
        one = await network.connect(("127.0.0.1", listener.port))
        other = await listener.accept()
        for closing in (one, other, listener):
            closing.close()


async def test_names() -> None:
    found = await TcpNetwork().resolve("localhost", 80)
    assert found
    assert all(ip in ("127.0.0.1", "::1") and port == 80 for ip, port in found)
    assert len(found) == len(set(found))


@pytest.mark.parametrize("host", ["", "127.0.0.1", "::1"])
def test_a_port_is_taken_once(host: str) -> None:
    with open_listening_socket(host, 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            open_listening_socket(host, port)
