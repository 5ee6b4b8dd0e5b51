"""What a torrent offers those that look for its peers, trackers and the DHT, and what it hears from them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import trio

from btor import limits
from btor.engine.events import Event, TrackerAnswer

if TYPE_CHECKING:
    from btor.engine.metadata import MetadataExchange
    from btor.engine.session import Session
    from btor.engine.transfer import Transfer
    from btor.engine.transport import Address
    from btor.metainfo.torrent_file import Metainfo

_log = logging.getLogger(__name__)


class Announcing:
    """The part of `Torrent` that the announcers know (`announce.Announced`, `dht_announce.Sought`)."""

    session: Session
    transfer: Transfer | None
    gathering: MetadataExchange | None
    tracker_failures: dict[str, str]

    @property
    def metainfo(self) -> Metainfo:
        """What the torrent is; UsageError while that is not known."""
        raise NotImplementedError

    @property
    def has_metadata(self) -> bool:
        """Whether it is known what the torrent is."""
        raise NotImplementedError

    def publish(self, kind: type[Event], **fields: Any) -> None:
        """Tell an event to whoever listens."""
        raise NotImplementedError

    @property
    def exchange(self) -> Transfer | MetadataExchange | None:
        """Where its peers are: with the content, or before that with its metadata; None in between."""
        return self.transfer if self.transfer is not None else self.gathering

    @property
    def peer_id(self) -> bytes:
        """20 bytes, for announces."""
        return self.session.peer_id

    @property
    def port(self) -> int:
        """Where peers connect to us, for announces."""
        return self.session.port

    @property
    def may_be_told_of(self) -> bool:
        """Whether others than its trackers may hear of it (BEP 27), and it has a place for peers."""
        exchange = self.exchange
        return exchange is not None and exchange.active and not (self.has_metadata and self.metainfo.private)

    @property
    def is_partial_seed(self) -> bool:
        """Whether it gives what it has, wants nothing more, and has not everything (BEP 21)."""
        return self.transfer is not None and self.transfer.upload_only and not self.transfer.is_seed

    def announce_counters(self) -> tuple[int, int, int]:
        """(uploaded, downloaded, left) in bytes since the torrent was added; of an unknown size a block is left."""
        transfer = self.transfer
        if transfer is None:
            return 0, 0, self.metainfo.geometry.total_length if self.has_metadata else limits.BLOCK
        return transfer.uploaded, transfer.downloaded, self.metainfo.geometry.total_length - transfer.done_bytes

    def on_tracker_peers(self, url: str, peers: list[Address], tracker_ip: str | None) -> None:
        """Peers that the tracker at ``tracker_ip`` named."""
        if self.exchange is not None:
            known = self.exchange.add_peers(peers[: limits.TRACKER_PEERS_USED], "tracker", tracker_ip)
            _log.debug("tracker %s: %d of %d peers may be dialled", url, known, len(peers))

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
        """An announce or a scrape ended."""
        if ok:
            self.session.outage.on_contact(trio.current_time())
        else:
            self.session.outage.on_failure()
        self.tracker_failures.pop(url, None)
        if not ok:
            self.tracker_failures[url] = message
        self.publish(
            TrackerAnswer,
            url=url,
            ok=ok,
            peers=peers,
            seeders=seeders,
            leechers=leechers,
            interval=interval,
            message=message,
        )

    def on_tracker_switch(self, url: str) -> None:
        """A private torrent goes over to another tracker: its peers are another swarm's (BEP 27)."""
        if self.transfer is not None:
            self.transfer.book.forget_swarm()
            self.transfer.close_peers(f"the tracker is now {url}")

    @property
    def is_seed(self) -> bool:
        """Whether it has everything, for the DHT."""
        return self.transfer is not None and self.transfer.is_seed

    @property
    def is_alone(self) -> bool:
        """Whether it has no peer."""
        return self.exchange is None or not self.exchange.peers

    def on_dht_peers(self, peers: list[Address], node_ip: str) -> None:
        """Peers that the DHT node at ``node_ip`` named."""
        if self.exchange is not None:
            known = self.exchange.add_peers(peers, "dht", node_ip)
            _log.debug("DHT node %s: %d of %d peers may be dialled", node_ip, known, len(peers))
