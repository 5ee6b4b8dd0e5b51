"""What btor says to trackers and reads from them, held against opentracker."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator

import pytest

from btor.errors import TrackerError
from btor.wire import tracker_udp as udp
from btor.wire.tracker_http import (
    AnnounceReply,
    AnnounceRequest,
    ScrapeEntry,
    announce_url,
    decode_announce,
    decode_scrape,
    scrape_url,
)
from tests.interop.opentracker import OpenTracker, opentracker

HASH = bytes(range(0x30, 0x44))
TIMEOUT = 10.0


@pytest.fixture
def tracker() -> Iterator[OpenTracker]:
    with opentracker([HASH]) as running:
        yield running


def asked(port: int, **fields: object) -> AnnounceRequest:
    values = {"info_hash": HASH, "peer_id": b"-BO0100-%012d" % port, "left": 1000} | fields
    return AnnounceRequest(port=port, uploaded=1, downloaded=2, **values)  # type: ignore[arg-type]  # checked by the test itself


def fetch(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=TIMEOUT) as reply:
        body: bytes = reply.read()
    return body


def http_announce(tracker: OpenTracker, request: AnnounceRequest) -> AnnounceReply:
    return decode_announce(fetch(announce_url(tracker.http_url, request)), tracker.http_url)


class UdpClient:
    """One exchange after the other with a tracker."""

    def __init__(self, tracker: OpenTracker) -> None:
        self.url = tracker.udp_url
        self.socket = socket.socket(type=socket.SOCK_DGRAM)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect(("127.0.0.1", tracker.port))
        self.connection_id = udp.decode_connect(self.ask(udp.encode_connect(1)), 1, self.url)

    def __enter__(self) -> UdpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, packet: bytes) -> bytes:
        self.socket.send(packet)
        reply = self.socket.recv(65_536)
        assert udp.transaction_of_reply(reply) is not None
        return reply

    def announce(self, request: AnnounceRequest) -> AnnounceReply:
        reply = self.ask(udp.encode_announce(self.connection_id, 2, request, self.url))
        return udp.decode_announce(reply, 2, self.url, ipv6=False)


def test_announce_over_http_and_udp(tracker: OpenTracker) -> None:
    reply = http_announce(tracker, asked(1001, event="started"))
    assert (reply.seeders, reply.leechers) == (0, 1)
    assert reply.interval > 0
    with UdpClient(tracker) as client:
        reply = client.announce(asked(1002, event="started", left=0))
        assert (reply.seeders, reply.leechers) == (1, 1)
        assert ("127.0.0.1", 1001) in reply.peers
        assert ("127.0.0.1", 1002) in http_announce(tracker, asked(1001, left=0, event="completed")).peers
        client.announce(asked(1002, left=0, event="stopped"))
    reply = http_announce(tracker, asked(1003))
    assert ("127.0.0.1", 1001) in reply.peers
    assert ("127.0.0.1", 1002) not in reply.peers


def test_scrape_over_http_and_udp(tracker: OpenTracker) -> None:
    http_announce(tracker, asked(1001, event="started"))
    http_announce(tracker, asked(1001, left=0, event="completed"))
    http_announce(tracker, asked(1002, event="started"))
    url = scrape_url(tracker.http_url, [HASH])
    assert url is not None
    expected = {HASH: ScrapeEntry(1, 1, 1)}
    assert decode_scrape(fetch(url), url).files == expected
    with UdpClient(tracker) as client:
        reply = client.ask(udp.encode_scrape(client.connection_id, 3, [HASH]))
        assert udp.decode_scrape(reply, 3, client.url, [HASH]) == expected


def test_a_torrent_that_it_does_not_serve(tracker: OpenTracker) -> None:
    with pytest.raises(TrackerError, match="not authorized") as caught:
        http_announce(tracker, asked(1001, info_hash=bytes(20)))
    assert caught.value.refused
