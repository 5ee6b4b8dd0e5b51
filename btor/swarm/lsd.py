"""When to tell the local network of which torrents, and whom to listen to there (BEP 14)."""

from __future__ import annotations

from collections.abc import Iterable

from btor.limits import LSD_GAP, LSD_HASHES, LSD_PACKET_GAP, LSD_PERIOD, LSD_SENDERS


class LocalCadence:
    """One for a session. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._told: dict[bytes, float] = {}  # torrents, and when last
        self._next = 0.0
        self._heard: dict[str, float] = {}  # senders, and when last

    def take(self, torrents: Iterable[bytes], now: float) -> list[bytes]:
        """Of the info-hashes that may be told of, those to tell of now, in one datagram; each every LSD_PERIOD.

        Two datagrams are LSD_GAP apart at least.
        """
        if now < self._next:
            return []
        wanted = dict.fromkeys(torrents)
        self._told = {info_hash: when for info_hash, when in self._told.items() if info_hash in wanted}
        due = [one for one in wanted if one not in self._told or now - self._told[one] >= LSD_PERIOD][:LSD_HASHES]
        for info_hash in due:
            self._told[info_hash] = now
        if due:
            self._next = now + LSD_GAP
        return due

    def listens_to(self, ip: str, now: float) -> bool:
        """Whether a datagram from ``ip`` counts: one in LSD_PACKET_GAP does."""
        if now - self._heard.pop(ip, float("-inf")) < LSD_PACKET_GAP:
            self._heard[ip] = now
            return False
        self._heard[ip] = now
        if len(self._heard) > LSD_SENDERS:
            del self._heard[next(iter(self._heard))]
        return True
