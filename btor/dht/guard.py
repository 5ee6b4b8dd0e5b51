"""Against floods: who sends too much is not heard for a while, and what we answer has a rate."""

from __future__ import annotations

from btor.limits import (
    DHT_ANSWER_BURST,
    DHT_ANSWER_RATE,
    DHT_FLOOD_ADDRESSES,
    DHT_FLOOD_BLOCK,
    DHT_FLOOD_PACKETS,
    DHT_FLOOD_WINDOW,
)


class FloodGuard:
    """Counts the packets of each address. Memory is bounded: the address that came first is forgotten first."""

    def __init__(self) -> None:
        self._seen: dict[str, list[float]] = {}  # packets in the window, its start, blocked until

    def __len__(self) -> int:
        return len(self._seen)

    def admits(self, ip: str, now: float) -> bool:
        """Whether a packet of ``ip`` is to be read."""
        record = self._seen.get(ip)
        if record is None:
            if len(self._seen) >= DHT_FLOOD_ADDRESSES:
                del self._seen[next(iter(self._seen))]
            self._seen[ip] = [1, now, 0.0]
            return True
        if now < record[2]:
            return False
        if now - record[1] >= DHT_FLOOD_WINDOW:
            record[0], record[1] = 1, now
            return True
        record[0] += 1
        if record[0] <= DHT_FLOOD_PACKETS:
            return True
        record[2] = now + DHT_FLOOD_BLOCK
        return False


class AnswerBudget:
    """Bytes that may be answered: DHT_ANSWER_RATE a second, with a burst."""

    def __init__(self, now: float) -> None:
        self._left = float(DHT_ANSWER_BURST)
        self._at = now

    def takes(self, size: int, now: float) -> bool:
        """Whether an answer of ``size`` bytes may go out; then it is counted."""
        self._left = min(DHT_ANSWER_BURST, self._left + (now - self._at) * DHT_ANSWER_RATE)
        self._at = now
        if size > self._left:
            return False
        self._left -= size
        return True
