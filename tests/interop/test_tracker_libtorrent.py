"""libtorrent finds another libtorrent through btor's tracker, over HTTP and over UDP, with no other hint."""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from btor.tracker.server import Bound, TrackerSettings, serve_tracker
from tools._payload import torrent_of

lt = pytest.importorskip("libtorrent")

TRANSFER = 30.0
CONTENT = bytes(range(256)) * 1_000


@contextmanager
def session(host: str) -> Iterator[Any]:
    """A libtorrent session that looks for peers nowhere but at trackers."""
    make: Any = lt.session  # its stub lacks the form that takes a dictionary
    running = make(
        {
            "listen_interfaces": f"[{host}]:0" if ":" in host else f"{host}:0",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "allow_multiple_connections_per_ip": True,
            "enable_outgoing_utp": False,
            "enable_incoming_utp": False,
            "min_reconnect_time": 1,
            "stop_tracker_timeout": 2,
            "alert_mask": lt.alert.category_t.tracker_notification,
        }
    )
    try:
        yield running
    finally:
        running.pause()
        del running


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def add(running: Any, torrent: bytes, folder: Path, url: str) -> Any:
    parameters = lt.load_torrent_buffer(torrent)
    parameters.save_path = str(folder)
    parameters.trackers = [url]
    parameters.flags &= ~lt.torrent_flags.auto_managed
    parameters.flags &= ~lt.torrent_flags.paused
    return running.add_torrent(parameters)


async def figures(bound: Bound) -> dict[str, int]:
    """The tracker's own statistics."""
    async with await trio.open_tcp_stream(*bound.http[0]) as stream:
        await stream.send_all(b"GET /stats?format=json HTTP/1.0\r\n\r\n")
        answer = b"".join([data async for data in stream])
    found: dict[str, int] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


async def until(what: str, done: Callable[[], Awaitable[bool]]) -> None:
    with trio.move_on_after(TRANSFER):
        while not await done():  # noqa: ASYNC110  # libtorrent's threads set no event of trio's
            await trio.sleep(0.02)
        return
    pytest.fail(f"not within {TRANSFER:.0f} s: {what}")


@pytest.mark.interop
@pytest.mark.parametrize("scheme", ["http", "udp"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_libtorrent_finds_a_peer(scheme: str, host: str, tmp_path: Path) -> None:
    if host == "::1" and not has_ipv6():
        pytest.skip("this machine has no ::1")
    content = tmp_path / "seed" / "content.bin"
    content.parent.mkdir()
    content.write_bytes(CONTENT)
    torrent = torrent_of(content, 16 * 1024)
    settings = TrackerSettings(http=((host, 0),), udp=((host, 0),), interval=60, strict=True)
    async with trio.open_nursery() as nursery:
        bound: Bound = await nursery.start(serve_tracker, settings)
        url = bound.http_url if scheme == "http" else bound.udp_url

        async def are(**expected: int) -> bool:
            found = await figures(bound)
            return all(found[name] == number for name, number in expected.items())

        with session(host) as seeder, session(host) as leecher:
            seed = add(seeder, torrent, content.parent, url)
            await until("the seed is known", partial(are, seeders=1, leechers=0))
            leech = add(leecher, torrent, tmp_path / "leech", url)

            async def complete() -> bool:
                return bool(leech.status().is_seeding)

            await until("the leecher has all", complete)
            await until("the tracker knows that, too", partial(are, seeders=2, leechers=0))
            seeder.remove_torrent(seed)
            leecher.remove_torrent(leech)
            await until("both have said good-bye", partial(are, peers=0))
            found = await figures(bound)
            assert found[f"{scheme}_announces"] >= 5  # started twice, completed, stopped twice
            assert found["refused"] == 0
        nursery.cancel_scope.cancel()
