"""libtorrent as one peer in a process of its own, for tests and measurements beside btor.

It prints JSON lines: {"event": "listening", "port": N}, {"event": "status", ...} five times a second with bytes of
payload sent and received, {"event": "complete", "seconds": S} once, and ends on SIGTERM with a last status.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import libtorrent as lt

from tools._libtorrent import QUIET


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Plain TCP on one loopback address, quick to act, with no way to find peers but those it is told of."""
    return {
        **QUIET,
        "listen_interfaces": f"{arguments.address}:{arguments.port}",
        "enable_lsd": getattr(arguments, "lsd", False),  # only libtorrent_peer has the option
        "announce_to_all_trackers": True,
        "announce_to_all_tiers": True,
        "tick_interval": 100,
        "connection_speed": 200,
        "min_reconnect_time": 1,
        "max_failcount": 100_000,
        "unchoke_slots_limit": arguments.slots,
        "upload_rate_limit": arguments.upload_limit,
        "download_rate_limit": arguments.download_limit,
        "min_announce_interval": 1,
        "alert_mask": int(lt.alert.category_t.storage_notification),
        "ssrf_mitigation": False,
        "close_redundant_connections": True,
    }


def say(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def report(handle: Any) -> Any:
    """Print one status line; the status."""
    status = handle.status()
    say(
        "status",
        uploaded=status.total_payload_upload,
        downloaded=status.total_payload_download,
        done=status.total_wanted_done,
        failed=status.total_failed_bytes,
        peers=status.num_peers,
    )
    return status


def flush(session: Any, handle: Any) -> None:
    """Return when what was received is in the files: a piece counts while its blocks still wait to be written."""
    session.pop_alerts()
    handle.flush_cache()
    while not any(isinstance(alert, lt.cache_flushed_alert) for alert in session.pop_alerts()):
        session.wait_for_alert(100)


def session_for(arguments: argparse.Namespace) -> Any:
    make: Any = lt.session  # its stub lacks the form that takes a dictionary
    session = make(settings(arguments))
    everyone = lt.ip_filter()  # loopback peers would otherwise be outside the rate limits
    everyone.add_rule("0.0.0.0", "255.255.255.255", 1 << lt.session.global_peer_class_id)
    session.set_peer_class_filter(everyone)
    return session


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["seed", "get"])
    parser.add_argument("torrent", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--peer", action="append", default=[], metavar="HOST:PORT")
    parser.add_argument("--upload-limit", type=int, default=0, help="bytes a second, 0 for none")
    parser.add_argument("--download-limit", type=int, default=0)
    parser.add_argument("--slots", type=int, default=-1, help="unchoke slots, -1 for all")
    parser.add_argument("--lsd", action="store_true", help="find peers by local discovery")
    parser.add_argument("--exit", action="store_true", help="end when complete")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    ended = False

    def stop(number: int, frame: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    session = session_for(arguments)
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(str(arguments.torrent))
    parameters.save_path = str(arguments.folder)
    if arguments.mode == "seed":
        parameters.flags |= lt.torrent_flags.seed_mode
    parameters.flags &= ~lt.torrent_flags.auto_managed
    parameters.flags &= ~lt.torrent_flags.paused
    begun = time.monotonic()
    handle = session.add_torrent(parameters)
    while not session.listen_port():
        time.sleep(0.01)
    say("listening", port=session.listen_port())
    peers = [(peer.rpartition(":")[0], int(peer.rpartition(":")[2])) for peer in arguments.peer]
    complete = arguments.mode == "seed"
    next_report = 0.0
    while not ended:
        now = time.monotonic()
        if now >= next_report:
            next_report = now + 0.2
            status = report(handle)
            if status.num_peers < len(peers):
                for peer in peers:
                    handle.connect_peer(peer)
        if not complete and handle.status().is_seeding:
            complete = True
            seconds = time.monotonic() - begun
            flush(session, handle)
            say("complete", seconds=seconds)
            if arguments.exit:
                os._exit(0)  # at once: taking a session down is not what is measured
        time.sleep(0.01)
    report(handle)
    session.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
