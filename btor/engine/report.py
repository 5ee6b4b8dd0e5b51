"""What programs are told of a torrent: the events that say how it stands, and why it waits, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from btor.engine.events import Checked, Failed, MetadataArrived, Progress, Started, State

if TYPE_CHECKING:
    from btor.engine.torrent import Torrent
    from btor.errors import BtorError


FAILURES_SHOWN: Final = 2  # reasons of trackers that failed, the latest


def started(torrent: Torrent) -> Started:
    """It is part of the session."""
    geometry = torrent.metainfo.geometry if torrent.has_metadata else None
    total = torrent.keeper.wanted_bytes if torrent.has_metadata else 0
    hint = 0 if torrent.magnet is None else torrent.magnet.length or 0
    return Started(
        time=torrent.session.wall_clock(),
        info_hash=torrent.info_hash.hex(),
        name=torrent.name,
        total_bytes=total or hint,
        piece_length=0 if geometry is None else geometry.piece_length,
        pieces=0 if geometry is None else torrent.keeper.wanted.count,
        port=torrent.session.port,
    )


def metadata_arrived(torrent: Torrent) -> MetadataArrived:
    """It is known what the torrent of a magnet is."""
    geometry = torrent.metainfo.geometry
    return MetadataArrived(
        time=torrent.session.wall_clock(),
        info_hash=torrent.info_hash.hex(),
        name=torrent.name,
        total_bytes=torrent.keeper.wanted_bytes,
        piece_length=geometry.piece_length,
        pieces=torrent.keeper.wanted.count,
    )


def checked(torrent: Torrent, missing: int, seconds: float) -> Checked:
    """Its content was looked at, for so long; ``missing``: wanted pieces that are not there."""
    wanted = torrent.keeper.wanted.count
    return Checked(
        time=torrent.session.wall_clock(),
        info_hash=torrent.info_hash.hex(),
        have_pieces=wanted - missing,
        pieces=wanted,
        seconds=seconds,
        from_=torrent.keeper.known_from,
    )


def failed(torrent: Torrent, error: BtorError) -> Failed:
    """``error`` has ended it."""
    return Failed(
        time=torrent.session.wall_clock(),
        info_hash=torrent.info_hash.hex(),
        code=error.exit_status,
        kind=error.kind,
        message=str(error),
    )


def progress(torrent: Torrent, state: State) -> Progress:
    """How it stands now. ``state``: as far as the torrent knows; `downloading` becomes `waiting` when nothing comes."""
    if not torrent.has_metadata:
        return _without_metadata(torrent, state)
    transfer = torrent.transfer
    keeper = torrent.keeper
    missing = keeper.missing if transfer is None else transfer.picker.missing
    now = trio.current_time()
    rate = 0.0 if transfer is None else transfer.down_meter.rate(now)
    left = keeper.wanted_bytes if transfer is None else transfer.picker.missing_bytes
    if state == "downloading" and transfer is not None and not rate:
        asked = any(peer.source.outstanding_count for peer in transfer.peers.values())
        state = "downloading" if asked else "waiting"
    return Progress(
        time=torrent.session.wall_clock(),
        info_hash=torrent.info_hash.hex(),
        state=state,
        done_bytes=keeper.wanted_bytes - left,
        total_bytes=keeper.wanted_bytes,
        have_pieces=keeper.wanted.count - missing,
        pieces=keeper.wanted.count,
        down_rate=rate,
        up_rate=0.0 if transfer is None else transfer.up_meter.rate(now),
        downloaded=0 if transfer is None else transfer.downloaded,
        uploaded=0 if transfer is None else transfer.uploaded,
        wasted=0 if transfer is None else transfer.wasted,
        peers=0 if transfer is None else len(transfer.peers),
        seeds=0 if transfer is None else sum(peer.source.complete for peer in transfer.peers.values()),
        eta=left / rate if rate and left and state == "downloading" else None,
        reason=_reason(torrent, state),
        checked_pieces=keeper.checked_pieces,
    )


def _without_metadata(torrent: Torrent, state: State) -> Progress:
    """How a torrent stands of which nothing is known but its info-hash."""
    gathering, tiers = torrent.gathering, torrent.tiers
    peers = 0 if gathering is None else len(gathering.peers)
    have, size = (0, 0) if gathering is None else gathering.fetch.progress
    parts = [_trackers(torrent)] if tiers.total else []
    if torrent.session.dht.nodes:
        known = sum(len(node.table) for node in torrent.session.dht.nodes)
        parts.append(f"DHT of {known} node" + ("" if known == 1 else "s"))
    parts.append(f"{peers} peer" + ("" if peers == 1 else "s"))
    if size:
        parts.append(f"{have} of {size} bytes of metadata")
    elif peers:
        parts.append("none has the metadata")
    elif gathering is not None and gathering.dialling:
        parts.append(f"connecting to {gathering.dialling}")
    elif gathering is not None and len(gathering.book):
        parts.append(f"{len(gathering.book)} known, none reached")
    else:
        parts.append("nobody has the metadata")
    return Progress(
        time=torrent.session.wall_clock(),
        info_hash=torrent.info_hash.hex(),
        state=state,
        done_bytes=0,
        total_bytes=0,
        have_pieces=0,
        pieces=0,
        down_rate=0.0,
        up_rate=0.0,
        downloaded=0 if gathering is None else gathering.received,
        uploaded=0,
        wasted=0,
        peers=peers,
        seeds=0,
        eta=None,
        reason=", ".join(parts) if state == "metadata" else "",
    )


def _reason(torrent: Torrent, state: State) -> str:
    """Why it waits, in words."""
    transfer, tiers = torrent.transfer, torrent.tiers
    if transfer is None:
        return ""
    if state == "disk_full":
        return "no space left on the disk"
    if state == "seeding" and not transfer.peers and torrent.tracker_failures and not tiers.working:
        return _trackers(torrent)  # so nobody can know of us
    if state != "waiting":
        return ""
    parts = [_trackers(torrent)] if tiers.total else []
    peers = list(transfer.peers.values())
    parts.append(f"{len(peers)} peer" + ("" if len(peers) == 1 else "s"))
    if peers and not any(peer.am_interested for peer in peers):
        parts.append("none has what is missing")
    elif peers and all(peer.source.choked for peer in peers if peer.am_interested):
        parts.append("all choke us")
    elif transfer.dialling:
        parts.append(f"connecting to {transfer.dialling}")
    elif not peers and len(transfer.book):
        parts.append(f"{len(transfer.book)} known, none reached")
    elif not peers and not tiers.total:
        parts.append("no source of peers")
    return ", ".join(parts)


def _trackers(torrent: Torrent) -> str:
    """How many trackers work, and if none does, why not."""
    tiers = torrent.tiers
    text = f"trackers {tiers.working}/{tiers.total}"
    reasons = list(dict.fromkeys(reversed(torrent.tracker_failures.values())))
    if tiers.working or not reasons:
        return text
    return f"{text} (announce: {'; '.join(reasons[:FAILURES_SHOWN])})"
