"""How often and where a session may open connections, so that no list of addresses can turn it into a weapon.

All limits hold over all torrents: connections being opened, and dials a second; dials a minute to one address and to
one neighbourhood (/24, /64). The last two do not hold on loopback, where many peers share one address. They are
windows, not paces: the 30 first peers of a tracker's first reply can all be dialled at once.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from btor.limits import DIAL_WINDOW, DIALS_PER_ADDRESS, DIALS_PER_NETWORK, DIALS_PER_SECOND, HALF_OPEN
from btor.wire.address import network_of, reach

SECOND: Final = 1.0


class DialBudget:
    """The dials of one session. Times are monotonic seconds.

    Who asks decides whom nothing holds back (`PeerBook.next_to_dial`); such dials count all the same.
    """

    def __init__(self, *, loopback_is_public: bool = False) -> None:
        self._loopback_is_public = loopback_is_public
        self._half_open: dict[str, int] = {}  # by address
        self.half_open = 0
        self._recent: deque[float] = deque(maxlen=DIALS_PER_SECOND)
        self._log: deque[tuple[float, str]] = deque()  # every dial in the window; what _times holds is taken from here
        self._times: dict[str, deque[float]] = {}  # by address, and by network

    def open(self, now: float) -> bool:
        """Whether the limits on the session as a whole leave room for a dial."""
        if self.half_open >= HALF_OPEN:
            return False
        return len(self._recent) < DIALS_PER_SECOND or now - self._recent[0] >= SECOND

    def wait(self, ip: str, now: float) -> float:
        """Seconds until the limits on this address and its network leave room for a dial; 0.0: they do."""
        if self._is_exempt(ip):
            return 0.0
        self._expire(now)
        return max(
            self._wait(ip, DIALS_PER_ADDRESS, now),
            self._wait(network_of(ip), DIALS_PER_NETWORK, now),
        )

    def on_dialled(self, ip: str, now: float) -> None:
        """A connection to ``ip`` is being opened."""
        self._half_open[ip] = self._half_open.get(ip, 0) + 1
        self.half_open += 1
        self._recent.append(now)
        if self._is_exempt(ip):
            return
        self._expire(now)
        self._log.append((now, ip))
        for counted in (ip, network_of(ip)):
            self._times.setdefault(counted, deque()).append(now)

    def on_finished(self, ip: str) -> None:
        """That connection is open, or could not be opened. KeyError: nothing was being opened to ``ip``."""
        left = self._half_open.pop(ip) - 1
        if left:
            self._half_open[ip] = left
        self.half_open -= 1

    def _is_exempt(self, ip: str) -> bool:
        return not self._loopback_is_public and reach(ip) == "loopback"

    def _wait(self, counted: str, most: int, now: float) -> float:
        times = self._times.get(counted)
        if times is None or len(times) < most:
            return 0.0
        return times[-most] + DIAL_WINDOW - now  # when the oldest of the last ``most`` leaves the window

    def _expire(self, now: float) -> None:
        while self._log and now - self._log[0][0] >= DIAL_WINDOW:
            _, ip = self._log.popleft()
            for counted in (ip, network_of(ip)):
                times = self._times[counted]
                times.popleft()
                if not times:
                    del self._times[counted]
