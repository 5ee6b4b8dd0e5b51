"""The peers that others announced to this node (BEP 5, 33, 51).

A torrent's peers are columns, not objects: compact addresses one after the other in a bytearray, with times and flags
beside it, so that a million of them take 15 MB. They stand in the order of their last announce, so who has expired is
at the front.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from struct import unpack
from typing import TYPE_CHECKING, Final

from btor.dht.bloom import filter_of
from btor.limits import (
    DHT_FILTER_AGE,
    DHT_PEER_LIFE,
    DHT_PORTS_PER_LOOPBACK,
    DHT_SAMPLES,
    DHT_TORRENT_PEERS,
    DHT_TORRENTS,
)

if TYPE_CHECKING:
    import random

CANDIDATES: Final = 4  # torrents drawn to choose the one that makes room


class _Torrent:
    """The peers of one torrent."""

    __slots__ = ("addresses", "filters", "filters_made", "place", "seeds", "times")

    def __init__(self, place: int) -> None:
        self.addresses = bytearray()
        self.times = array("I")  # whole seconds: four bytes each
        self.seeds = bytearray()
        self.place = place  # in the list of all torrents
        self.filters = (b"", b"")
        self.filters_made = float("-inf")


class PeerStore:
    """Peers of one address family; ``size``: bytes of a compact address, 6 or 18. Times in monotonic seconds."""

    def __init__(self, size: int, rng: random.Random, *, loopback_is_public: bool = False) -> None:
        self._size = size
        self._rng = rng
        self._public_loopback = loopback_is_public
        self._torrents: dict[bytes, _Torrent] = {}
        self._list: list[bytes] = []  # the same info-hashes, to draw from

    def __len__(self) -> int:
        """Torrents that have a peer."""
        return len(self._list)

    @property
    def peers(self) -> int:
        """Peers of all torrents."""
        return sum(len(torrent.times) for torrent in self._torrents.values())

    def add(self, info_hash: bytes, address: bytes, seed: bool, now: float) -> None:
        """The peer at the compact ``address`` announced itself. Its IP's older entry goes; on loopback it has eight."""
        torrent = self._torrents.get(info_hash)
        if torrent is None:
            torrent = self._enter(info_hash)
        else:
            self._expire(torrent, now)
        entries = self._of_host(torrent, address)
        size = self._size
        same = next((at for at in entries if torrent.addresses[at * size : (at + 1) * size] == address), None)
        if same is not None:
            self._remove(torrent, same)
        elif len(entries) >= (DHT_PORTS_PER_LOOPBACK if self._is_local(address) else 1):
            self._remove(torrent, entries[0])
        elif len(torrent.times) >= DHT_TORRENT_PEERS:
            if self._rng.random() < 0.5:
                return  # so that a flood of newcomers cannot sweep out all others
            self._remove(torrent, self._rng.randrange(DHT_TORRENT_PEERS))
        torrent.addresses += address
        torrent.times.append(int(now))
        torrent.seeds.append(seed)

    def get(self, info_hash: bytes, count: int, now: float, *, noseed: bool = False) -> tuple[bytes, ...]:
        """Up to ``count`` compact addresses, those after a random one; without the seeds if ``noseed``."""
        torrent = self._fresh(info_hash, now)
        if torrent is None or count <= 0:
            return ()
        size, total = self._size, len(torrent.times)
        addresses: bytes | bytearray = torrent.addresses
        if noseed:
            addresses = b"".join(
                bytes(addresses[at * size : (at + 1) * size]) for at in range(total) if not torrent.seeds[at]
            )
            total = len(addresses) // size
        if total > count:
            start = self._rng.randrange(total)
            run = addresses[start * size : (start + count) * size]
            addresses = run + addresses[: count * size - len(run)]
            total = count
        return unpack(f"{size}s" * total, addresses)

    def filters(self, info_hash: bytes, now: float) -> tuple[bytes, bytes]:
        """The Bloom filters of the seeds and of the other peers; of an unknown torrent empty ones."""
        torrent = self._fresh(info_hash, now)
        if torrent is None:
            return filter_of(()), filter_of(())
        if now - torrent.filters_made >= DHT_FILTER_AGE:
            size = self._size
            ips = [bytes(torrent.addresses[at : at + size - 2]) for at in range(0, len(torrent.addresses), size)]
            torrent.filters = (
                filter_of(ip for ip, seed in zip(ips, torrent.seeds, strict=True) if seed),
                filter_of(ip for ip, seed in zip(ips, torrent.seeds, strict=True) if not seed),
            )
            torrent.filters_made = now
        return torrent.filters

    def sample(self) -> bytes:
        """Some info-hashes, joined."""
        if len(self._list) <= DHT_SAMPLES:
            return b"".join(self._list)
        return b"".join(self._rng.sample(self._list, DHT_SAMPLES))

    def sweep(self, now: float) -> None:
        """Drop whoever has expired, of all torrents."""
        for info_hash in self._list[:]:
            self._fresh(info_hash, now)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _fresh(self, info_hash: bytes, now: float) -> _Torrent | None:
        """The torrent without expired peers; None when that leaves none."""
        torrent = self._torrents.get(info_hash)
        if torrent is None:
            return None
        self._expire(torrent, now)
        if torrent.times:
            return torrent
        self._drop(info_hash)
        return None

    def _expire(self, torrent: _Torrent, now: float) -> None:
        oldest = now - DHT_PEER_LIFE
        if torrent.times and torrent.times[0] <= oldest:
            gone = bisect_right(torrent.times, oldest)
            del torrent.times[:gone]
            del torrent.seeds[:gone]
            del torrent.addresses[: gone * self._size]

    def _is_local(self, address: bytes) -> bool:
        if self._public_loopback:
            return False
        return address[0] == 127 if self._size == 6 else address[:16] == _LOOPBACK6

    def _of_host(self, torrent: _Torrent, address: bytes) -> list[int]:
        """Where the entries with the IP of ``address`` are."""
        size, found, at = self._size, [], -1
        ip = address[:-2]
        while (at := torrent.addresses.find(ip, at + 1)) >= 0:
            if at % size == 0:
                found.append(at // size)
        return found

    def _enter(self, info_hash: bytes) -> _Torrent:
        if len(self._list) >= DHT_TORRENTS:
            drawn = self._rng.sample(self._list, CANDIDATES)
            self._drop(min(drawn, key=lambda one: len(self._torrents[one].times)))
        torrent = self._torrents[info_hash] = _Torrent(len(self._list))
        self._list.append(info_hash)
        return torrent

    def _drop(self, info_hash: bytes) -> None:
        place = self._torrents.pop(info_hash).place
        last = self._list.pop()
        if last != info_hash:
            self._list[place] = last
            self._torrents[last].place = place

    def _remove(self, torrent: _Torrent, at: int) -> None:
        del torrent.times[at]
        del torrent.seeds[at]
        del torrent.addresses[at * self._size : (at + 1) * self._size]


_LOOPBACK6: Final = bytes(15) + b"\x01"
