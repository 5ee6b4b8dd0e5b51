"""A private torrent on a real network (BEP 27): a packet socket sees all that the session sends.

The same is played with a public torrent, where each way to find peers must show: else the watch would see nothing.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import bencodepy
import pytest

from tests.interop.conftest import Album
from tests.interop.test_network_namespace import Host, hosts, ip
from tools import _btor
from tools._processes import BTOR, Process, wait_until

__all__ = ["hosts"]  # a fixture

TRANSFER = 40.0
AFTERWARDS = 4.0  # s that it is watched on when it is complete
TRACKER, PORT, DHT_NODE = 6969, 7001, 7004
LURE, BY_PEX, BY_LSD = "10.77.0.3", "10.77.0.4", "10.77.0.5"  # beside the seeder's: one connection for each address
MULTICAST = "239.192.152.143"


def torrent_of(album: Album, tracker: str, path: Path, *, private: bool) -> str:
    """Write it; its info-hash in hex."""
    info = {**bencodepy.decode(album.data)[b"info"], b"private": int(private)}
    path.write_bytes(bencodepy.encode({b"announce": tracker.encode(), b"info": info}))
    return hashlib.sha1(bencodepy.encode(info)).hexdigest()


def lay_out(here: Host, there: Host) -> None:
    """Multicasts go through the cable, as where there is a default route, and ``there`` has some more addresses."""
    for host in (here, there):
        ip("-n", host.name, "route", "add", "224.0.0.0/4", "dev", "cable")
    for address in (LURE, BY_PEX, BY_LSD):
        ip("-n", there.name, "address", "add", f"{address}/24", "dev", "cable")


@pytest.mark.parametrize("private", [True, False], ids=["private", "public"])
def test_what_a_session_sends(private: bool, hosts: tuple[Host, Host], album: Album, tmp_path: Path) -> None:
    here, there = hosts
    lay_out(here, there)
    helper = [sys.executable, "-m", "tools.lures"]
    with (
        _btor.tracker(tmp_path / "tracker", prefix=there.prefix, address=there.address) as tracker,
        Process([*here.prefix, *helper, "watch", "--interface", "cable"], tmp_path / "watch") as watch,
        Process(
            [*there.prefix, *BTOR, "dht", "node", "--bind", there.address, "--dht-port", str(DHT_NODE), "--json"],
            tmp_path / "node",
        ) as node,
    ):
        torrent = tmp_path / "album.torrent"
        info_hash = torrent_of(album, tracker.http, torrent, private=private)
        where = {"--ip": LURE, "--pex": BY_PEX, "--lsd": BY_LSD, "--port": PORT, "--dht-port": DHT_NODE}
        where |= {"--tracker": tracker.http, "--info-hash": info_hash}
        options = [str(part) for pair in where.items() for part in pair]
        watch.wait_event("listening")
        node.wait_event("listening")
        with (
            _btor.seed(torrent, album.content, tmp_path / "seed", prefix=there.prefix, options=["--no-lsd"]),
            Process([*there.prefix, *helper, "lure", *options], tmp_path / "lure") as lure,
        ):
            lure.wait_event("listening")
            loud = [*here.prefix, "env", "BTOR_NO_LSD="]
            enter = ["--dht-bootstrap", f"{there.address}:{DHT_NODE}", "--seed"]
            with _btor.download(torrent, tmp_path / "here", tmp_path / "btor", prefix=loud, options=enter) as btor:
                btor.wait_event("complete", TRANSFER)
                wait_until("the tracker's peer is met", lambda: bool(told(lure, "extended")), TRANSFER)
                time.sleep(AFTERWARDS)
                others = {there.address, LURE, BY_PEX, BY_LSD}
                sent = [event for event in told(watch, "packet") if event["source"][0] not in others]
                heard = lure.events()
    assert album.differences(tmp_path / "here") == []
    check(private, sent, heard, there.address, info_hash)


def told(process: Process, event: str) -> list[dict[str, Any]]:
    return [line for line in process.events() if line["event"] == event]


def check(private: bool, sent: list[dict[str, Any]], heard: list[dict[str, Any]], there: str, info_hash: str) -> None:
    """What left us, and what the tracker's peer heard of us."""
    dialled = {packet["target"][0] for packet in sent if packet["protocol"] == "tcp"}
    datagrams = [packet for packet in sent if packet["protocol"] == "udp"]
    handshakes = [line for line in heard if line["event"] == "handshake"]
    tables = [line for line in heard if line["event"] == "extended" and line["id"] == 0]
    assert handshakes and tables
    if private:
        assert dialled == {there, LURE}  # tracker and seeder, and the tracker's other peer
        assert datagrams == []
        assert not any(line["dht"] for line in handshakes) and not any(line["names_pex"] for line in tables)
        assert {line["event"] for line in heard} == {"listening", "handshake", "extended"}
        assert {line["id"] for line in heard if line["event"] == "extended"} == {0}
    else:
        assert {BY_PEX, BY_LSD} <= dialled
        asked = [packet for packet in datagrams if packet["target"] == [there, DHT_NODE]]
        assert any(info_hash in packet["payload"] for packet in asked)
        assert any(packet["target"][0] == MULTICAST for packet in datagrams)
        assert any(line["dht"] for line in handshakes) and any(line["names_pex"] for line in tables)
        assert any(line["event"] == "port" for line in heard)
