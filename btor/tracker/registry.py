"""Who is in which swarm, as an embedded tracker knows it: bounded, forgetting the silent, pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from btor import limits
from btor.errors import BtorError
from btor.wire.address import Address, Reach, reach
from btor.wire.tracker_http import AnnounceReply, AnnounceRequest, ScrapeEntry

if TYPE_CHECKING:
    import random

NO_FIGURES: Final = ScrapeEntry(0, 0, 0)


class RefusedError(BtorError):
    """The tracker does not serve this announce. ``reason`` is for the peer; ``retry_after`` (s) as BEP 31 has it."""

    def __init__(self, reason: str, retry_after: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class Answer(NamedTuple):
    """The reply to an announce, and the peer ids of its peers for those who ask for them."""

    reply: AnnounceReply
    peer_ids: dict[Address, bytes]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a registry holds."""

    torrents: int = limits.TRACKED_TORRENTS
    peers: int = limits.TRACKED_PEERS
    peers_per_torrent: int = limits.TRACKED_PEERS_PER_TORRENT


_Key = tuple[str, int, bytes]


class _Peer:
    __slots__ = ("address", "peer_id", "reach", "seed", "seen")

    def __init__(self, address: Address, peer_id: bytes, where: Reach, seed: bool, seen: float) -> None:
        self.address = address
        self.peer_id = peer_id
        self.reach = where
        self.seed = seed
        self.seen = seen


class _Torrent:
    __slots__ = ("downloaded", "peers", "seeders", "seen")

    def __init__(self) -> None:
        self.peers: dict[_Key, _Peer] = {}  # the one that announced last is last
        self.seeders = 0
        self.downloaded = 0
        self.seen = 0.0

    def put(self, key: _Key, peer: _Peer) -> None:
        self.take(key)
        self.peers[key] = peer
        self.seeders += peer.seed

    def take(self, key: _Key) -> _Peer | None:
        peer = self.peers.pop(key, None)
        if peer is not None:
            self.seeders -= peer.seed
        return peer

    def figures(self) -> ScrapeEntry:
        return ScrapeEntry(self.seeders, len(self.peers) - self.seeders, self.downloaded)


class Registry:
    """The swarms of one tracker. ``now`` is monotonic seconds.

    A peer is an IP address and a port: a later announce from there with another peer id takes its place. On loopback,
    where a whole swarm shares one address, the peer id counts too. A peer is gone after ``stopped`` and after two
    intervals of silence.
    """

    def __init__(self, rng: random.Random, *, interval: float, bounds: Bounds | None = None) -> None:
        self.interval = interval
        self._rng = rng
        self._bounds = bounds or Bounds()
        self._torrents: dict[bytes, _Torrent] = {}  # the one that was announced last is last
        self._peers = 0

    def announce(
        self,
        request: AnnounceRequest,
        ip: str,
        now: float,
        *,
        most: int = limits.TRACKER_ANSWER,
        family: Literal[4, 6] | None = None,
    ) -> Answer:
        """Note what a peer at ``ip`` says, and answer with at most ``most`` others, of one address family or of both.

        It is told only of those it may be able to reach: peers on loopback are told to loopback alone, private ones to
        private networks and loopback. A seed is told of leechers first. RefusedError when there is no room.
        """
        where = reach(ip)
        address = (ip, request.port)
        key = (*address, request.peer_id if where == "loopback" else b"")
        torrent = self._torrents.get(request.info_hash)
        if torrent is not None:
            torrent.seen = now
            self._expire(torrent, now)
        if request.event == "stopped":
            if torrent is not None and key in torrent.peers and torrent.peers[key].peer_id == request.peer_id:
                self._remove(torrent, key)
            most = 0
        else:
            torrent = self._admit(request, torrent, key, now)
            peer = _Peer(address, request.peer_id, where, request.left == 0, now)
            former = torrent.peers.get(key)
            if request.event == "completed" and (former is None or not former.seed):
                torrent.downloaded += 1
            self._peers += former is None
            torrent.put(key, peer)
        if torrent is None:
            return Answer(self._reply(NO_FIGURES, [], ip, where), {})
        torrent.seen = now
        self._torrents[request.info_hash] = self._torrents.pop(request.info_hash)
        wanted = limits.TRACKER_ANSWER_DEFAULT if request.numwant < 0 else request.numwant
        chosen = self._choose(torrent, request, ip, where, min(wanted, most), family)
        reply = self._reply(torrent.figures(), [peer.address for peer in chosen], ip, where)
        return Answer(reply, {peer.address: peer.peer_id for peer in chosen})

    def scrape(self, info_hash: bytes, now: float) -> ScrapeEntry | None:
        """The figures of a torrent, None for one that nobody announced."""
        torrent = self._torrents.get(info_hash)
        if torrent is None:
            return None
        self._expire(torrent, now)
        return torrent.figures()

    def expire(self, now: float) -> None:
        """Forget every peer, and every torrent, that has been silent for too long."""
        silent = []
        for info_hash, torrent in self._torrents.items():
            self._expire(torrent, now)
            if torrent.seen < now - self._life:
                silent.append(info_hash)
        for info_hash in silent:
            del self._torrents[info_hash]

    def totals(self) -> dict[str, int]:
        """How many torrents, peers, seeders and leechers there are."""
        seeders = sum(torrent.seeders for torrent in self._torrents.values())
        leechers = self._peers - seeders
        return {"torrents": len(self._torrents), "peers": self._peers, "seeders": seeders, "leechers": leechers}

    @property
    def _life(self) -> float:
        return limits.TRACKED_SILENCE * self.interval

    def _reply(self, figures: ScrapeEntry, peers: list[Address], ip: str, where: Reach) -> AnnounceReply:
        return AnnounceReply(
            interval=round(self.interval),
            seeders=figures.seeders,
            leechers=figures.leechers,
            downloaded=figures.downloaded,
            peers=peers,
            external_ip=ip if where == "global" else None,
        )

    def _admit(self, request: AnnounceRequest, torrent: _Torrent | None, key: _Key, now: float) -> _Torrent:
        """Room for the peer ``key`` in its torrent. Swarms that are alive keep what they have: a newcomer waits."""
        if torrent is not None and key in torrent.peers:
            return torrent
        if torrent is not None and len(torrent.peers) >= self._bounds.peers_per_torrent:
            self._remove(torrent, next(iter(torrent.peers)))
        if self._peers >= self._bounds.peers or (torrent is None and len(self._torrents) >= self._bounds.torrents):
            self.expire(now)
        if self._peers >= self._bounds.peers:
            raise RefusedError("the tracker holds as many peers as it can", self.interval)
        if torrent is None:
            if len(self._torrents) >= self._bounds.torrents:
                self._drop_an_empty_torrent()
            torrent = self._torrents[request.info_hash] = _Torrent()
        return torrent

    def _drop_an_empty_torrent(self) -> None:
        for info_hash, torrent in self._torrents.items():
            if not torrent.peers:
                del self._torrents[info_hash]
                return
        raise RefusedError("the tracker holds as many torrents as it can", self.interval)

    def _remove(self, torrent: _Torrent, key: _Key) -> None:
        torrent.take(key)
        self._peers -= 1

    def _expire(self, torrent: _Torrent, now: float) -> None:
        oldest_alive = now - self._life
        while torrent.peers:
            key, peer = next(iter(torrent.peers.items()))
            if peer.seen >= oldest_alive:
                return
            self._remove(torrent, key)

    def _choose(
        self,
        torrent: _Torrent,
        request: AnnounceRequest,
        ip: str,
        where: Reach,
        count: int,
        family: Literal[4, 6] | None,
    ) -> list[_Peer]:
        if count <= 0:
            return []
        asker = (ip, request.port)
        others = {  # by address: on loopback one address can be there under two peer ids
            peer.address: peer
            for peer in torrent.peers.values()
            if peer.peer_id != request.peer_id
            and peer.address != asker
            and (peer.reach in ("global", where) or (peer.reach, where) == ("private", "loopback"))
            and (family is None or (":" in peer.address[0]) == (family == 6))
        }
        candidates = list(others.values())
        if request.left == 0:
            leechers = [peer for peer in candidates if not peer.seed]
            if len(leechers) >= count:
                return self._rng.sample(leechers, count)
            seeds = [peer for peer in candidates if peer.seed]
            return leechers + self._rng.sample(seeds, min(count - len(leechers), len(seeds)))
        return self._rng.sample(candidates, min(count, len(candidates)))

    def check_invariants(self) -> None:
        """For tests: the counts agree with what is there, and no bound is exceeded."""
        for torrent in self._torrents.values():
            assert torrent.seeders == sum(peer.seed for peer in torrent.peers.values())
            assert len(torrent.peers) <= self._bounds.peers_per_torrent
            seen = [peer.seen for peer in torrent.peers.values()]
            assert seen == sorted(seen)
        assert self._peers == sum(len(torrent.peers) for torrent in self._torrents.values())
        assert self._peers <= self._bounds.peers
        assert len(self._torrents) <= self._bounds.torrents
