"""libtorrent doing one job as fast as it can, for the bench: nothing polls it and nothing is printed on the way.

``get`` prints {"event": "complete", "seconds": S} once everything is in the files and, with --exit, ends at once;
``seed`` prints {"event": "listening", "port": N} and runs until SIGTERM; ``recheck`` hashes what is there and ends with
1 unless it is whole; ``create`` writes a torrent and prints {"event": "created", "info_hash": H}.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import libtorrent as lt

from tools.libtorrent_peer import flush, say, session_for

ALERTS = lt.alert.category_t.status_notification | lt.alert.category_t.storage_notification


def session_of(arguments: argparse.Namespace) -> Any:
    session = session_for(arguments)
    session.apply_settings({"alert_mask": int(ALERTS)})
    return session


def add(session: Any, arguments: argparse.Namespace, *, seed_mode: bool) -> Any:
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(str(arguments.torrent))
    parameters.save_path = str(arguments.folder)
    if seed_mode:
        parameters.flags |= lt.torrent_flags.seed_mode
    parameters.flags &= ~lt.torrent_flags.auto_managed
    parameters.flags &= ~lt.torrent_flags.paused
    return session.add_torrent(parameters)


def wait_for(session: Any, kind: Any) -> None:
    while not any(isinstance(alert, kind) for alert in session.pop_alerts()):
        session.wait_for_alert(1000)


def connect(handle: Any, peers: list[str]) -> None:
    for peer in peers:
        host, _, port = peer.rpartition(":")
        handle.connect_peer((host, int(port)))


def get(arguments: argparse.Namespace) -> int:
    session = session_of(arguments)
    begun = time.monotonic()
    handle = add(session, arguments, seed_mode=False)
    wait_for(session, lt.torrent_checked_alert)
    connect(handle, arguments.peer)
    wait_for(session, lt.torrent_finished_alert)
    seconds = time.monotonic() - begun
    flush(session, handle)
    say("complete", seconds=seconds)
    if not arguments.exit:
        signal.pause()
    os._exit(0)  # at once: taking a session down is not what is measured


def seed(arguments: argparse.Namespace) -> int:
    session = session_of(arguments)
    handle = add(session, arguments, seed_mode=True)
    wait_for(session, lt.torrent_checked_alert)
    say("listening", port=session.listen_port())
    connect(handle, arguments.peer)
    signal.pause()
    return 0


def recheck(arguments: argparse.Namespace) -> int:
    session = session_of(arguments)
    handle = add(session, arguments, seed_mode=False)
    wait_for(session, lt.torrent_checked_alert)
    whole = handle.status().is_seeding
    print("whole" if whole else "NOT WHOLE", flush=True)
    os._exit(0 if whole else 1)


def create(arguments: argparse.Namespace) -> int:
    entries = lt.list_files(str(arguments.folder))
    torrent = lt.create_torrent(entries, arguments.piece_length, lt.create_torrent.v1_only)
    lt.set_piece_hashes(torrent, str(arguments.folder.parent))
    data = lt.bencode(torrent.generate())
    arguments.torrent.write_bytes(data)
    say("created", info_hash=str(lt.torrent_info(data).info_hashes().v1))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=["get", "seed", "recheck", "create"])
    parser.add_argument("torrent", type=Path)
    parser.add_argument("folder", type=Path, help="of create: the content itself")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--peer", action="append", default=[], metavar="HOST:PORT")
    parser.add_argument("--piece-length", type=int, default=1024 * 1024)
    parser.add_argument("--exit", action="store_true", help="end when complete")
    parser.set_defaults(address="127.0.0.1", upload_limit=0, download_limit=0, slots=-1)
    arguments = parser.parse_args()
    jobs = {"get": get, "seed": seed, "recheck": recheck, "create": create}
    return jobs[arguments.job](arguments)


if __name__ == "__main__":
    sys.exit(main())
