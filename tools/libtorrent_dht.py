"""DHT nodes of libtorrent, for tests and measurements beside btor: each at a loopback address of its own.

It prints one JSON line, {"event": "listening", "nodes": ["127.0.1.1:port", ...]}, when every node knows others, and
runs until SIGTERM. {"event": "stored", "node": ..., "peer": ...} tells that a node was announced a peer. With --torrent
one more session, at the address after the last, seeds (--seed) or downloads (--get) with the help of the DHT alone;
{"event": "complete"} tells that it has everything.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import libtorrent as lt

from tools._libtorrent import QUIET

START = 20.0  # s


def settings(address: str, *, dht: bool = True) -> dict[str, Any]:
    """A session with nothing but a DHT node, which takes loopback addresses and sets no limits on them."""
    return {
        **QUIET,
        "listen_interfaces": f"{address}:0",
        "enable_dht": dht,
        "dht_bootstrap_nodes": "",
        "dht_restrict_routing_ips": False,
        "dht_restrict_search_ips": False,
        "dht_ignore_dark_internet": False,
        "dht_prefer_verified_node_ids": False,
        "dht_block_ratelimit": 1_000_000,
        "dht_upload_rate_limit": 100_000_000,
        "dht_max_peers": 500,
        "dht_max_torrents": 2000,
        "dht_announce_interval": 60,
        "alert_mask": int(lt.alert.category_t.dht_notification | lt.alert.category_t.error_notification),
    }


def say(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def open_session(address: str) -> Any:
    make: Any = lt.session  # its stub lacks the form that takes a dictionary
    session = make(settings(address))
    while not session.listen_port():
        time.sleep(0.005)
    return session


def nodes_known(session: Any) -> int:
    """How many nodes its routing table holds."""
    session.post_dht_stats()
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        session.wait_for_alert(100)
        for alert in session.pop_alerts():
            if isinstance(alert, lt.dht_stats_alert):
                return sum(bucket["num_nodes"] for bucket in alert.routing_table)
    return 0


def add_torrent(session: Any, torrent: Path, folder: Path, *, seed: bool) -> Any:
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(str(torrent))
    parameters.save_path = str(folder)
    if seed:
        parameters.flags |= lt.torrent_flags.seed_mode
    parameters.flags &= ~lt.torrent_flags.auto_managed
    parameters.flags &= ~lt.torrent_flags.paused
    return session.add_torrent(parameters)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=30)
    parser.add_argument("--first", type=ipaddress.IPv4Address, default=ipaddress.IPv4Address("127.0.1.1"))
    parser.add_argument("--torrent", type=Path)
    parser.add_argument("--seed", type=Path, metavar="FOLDER", help="seed what is below FOLDER")
    parser.add_argument("--get", type=Path, metavar="FOLDER", help="download into FOLDER")
    parser.add_argument("--node", action="append", default=[], metavar="HOST:PORT", help="a node to begin with")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    ended = False

    def stop(number: int, frame: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    addresses = [str(arguments.first + number) for number in range(arguments.nodes)]
    sessions = [open_session(address) for address in addresses]
    ports = [session.listen_port() for session in sessions]
    outside = [(node.rpartition(":")[0], int(node.rpartition(":")[2])) for node in arguments.node]
    for number, session in enumerate(sessions):
        # a ring with a few chords: told by add_dht_node, because a bootstrap node never enters a table
        for other in {(number + step) % len(sessions) for step in (1, 2, 5, 11)} - {number}:
            session.add_dht_node((addresses[other], ports[other]))
        for node in outside:
            session.add_dht_node(node)
    deadline = time.monotonic() + START
    for session in sessions:
        while nodes_known(session) < min(4, len(sessions) - 1 + len(outside)) and time.monotonic() < deadline:
            time.sleep(0.05)
    handle = None
    if arguments.torrent is not None:
        session = open_session(str(arguments.first + arguments.nodes))
        sessions.append(session)
        for node in [*zip(addresses, ports, strict=True), *outside][:8]:
            session.add_dht_node(node)
        while nodes_known(session) < 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        handle = add_torrent(session, arguments.torrent, arguments.seed or arguments.get, seed=bool(arguments.seed))
        handle.force_dht_announce()
        say("torrent", address=f"{arguments.first + arguments.nodes}:{session.listen_port()}")
    say("listening", nodes=[f"{address}:{port}" for address, port in zip(addresses, ports, strict=True)])
    complete = bool(arguments.seed)
    announced = time.monotonic()
    while not ended:
        for address, port, session in zip(addresses, ports, sessions, strict=False):
            for alert in session.pop_alerts():
                if isinstance(alert, lt.dht_announce_alert):
                    say("stored", node=f"{address}:{port}", peer=f"{alert.ip}:{alert.port}")
        if handle is not None:
            if not complete and handle.status().is_seeding:
                complete = True
                say("complete")
            if time.monotonic() > announced + 5 and not handle.status().num_peers:
                announced = time.monotonic()
                handle.force_dht_announce()
        time.sleep(0.05)
    return 0


if __name__ == "__main__":
    sys.exit(main())
