"""Announces of all torrents of a session, to HTTP and UDP trackers (BEP 3, 7, 12, 15, 24, 27, 31, 48)."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Protocol

import trio

from btor.engine.contain import Container
from btor.engine.transport import Address, Network
from btor.engine.udp import UdpHub
from btor.swarm.tiers import Tiers


class Announced(Protocol):
    """What a torrent offers the announcer, and hears from it. All methods return at once and raise nothing."""

    @property
    def info_hash(self) -> bytes:
        """20 bytes."""

    @property
    def peer_id(self) -> bytes:
        """20 bytes."""

    @property
    def key(self) -> int:
        """32 random bits, the same for the whole session of the torrent (BEP 7)."""

    @property
    def port(self) -> int:
        """Where peers can connect to us."""

    @property
    def tiers(self) -> Tiers:
        """The trackers and when each is due. ``Tiers(metainfo.trackers, rng, private=metainfo.private)``."""

    def announce_counters(self) -> tuple[int, int, int]:
        """(uploaded, downloaded, left) in bytes; uploaded and downloaded since the torrent was added."""

    def on_tracker_peers(self, url: str, peers: list[Address], tracker_ip: str | None) -> None:
        """Peers from a tracker at ``tracker_ip`` (None: behind a proxy), for the rules on who may be dialled."""

    def on_tracker_answer(
        self,
        *,
        url: str,
        ok: bool,
        peers: int,
        seeders: int | None,
        leechers: int | None,
        interval: float | None,
        message: str,
    ) -> None:
        """An announce or a scrape ended: the fields of events.TrackerAnswer, fit for display."""

    def on_tracker_switch(self, url: str) -> None:
        """A private torrent goes over to the tracker at ``url``: all peers must be closed first (BEP 27).

        Called before the new tracker's peers come.
        """


class Announcer:
    """One for a session: asks every tracker when it is due and hands the peers to the torrents.

    ``hub`` None leaves UDP trackers out. ``bind``: local addresses to use, empty for any.
    """

    def __init__(
        self,
        network: Network,
        hub: UdpHub | None,
        *,
        rng: Random,
        bind: Sequence[str] = (),
        loopback_is_public: bool = False,
        container: Container | None = None,
    ) -> None:
        raise NotImplementedError

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Announce until ``stop`` or cancelled."""
        raise NotImplementedError

    def add(self, torrent: Announced) -> None:
        """Announce ``torrent`` from now on, first ``started``. Again after ``remove`` starts anew."""
        raise NotImplementedError

    def remove(self, torrent: Announced) -> None:
        """Announce it no more: a ``stopped``, tried once within 5 s, goes to each tracker that answered."""
        raise NotImplementedError

    def completed(self, torrent: Announced) -> None:
        """It became complete while it was announced: tell the trackers. Not for one that was complete at the start."""
        raise NotImplementedError

    def hurry(self, torrent: Announced) -> None:
        """It has no peers at all: announce as soon as the trackers allow. May be called as often as one likes."""
        raise NotImplementedError

    async def stop(self, deadline: float) -> None:
        """Remove all torrents; return, and end ``run``, when every ``stopped`` is out or at ``deadline`` (trio time)."""
        raise NotImplementedError
