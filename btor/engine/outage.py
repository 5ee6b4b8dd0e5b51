"""A network that is gone and comes back, a machine that slept: noticed, and then everything is tried again soon.

Where nobody at all answers, nobody is to blame. So while a session is cut off, a peer that was reached before is tried
now and then, and when somebody answers again, what failed meanwhile is forgiven: to peers that had been reached, and
to trackers that had answered, for addresses that never did are no reason to knock again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from btor import limits
from btor.storage import system

if TYPE_CHECKING:
    from btor.engine.session import Session

_log = logging.getLogger(__name__)


class Outage:
    """What a session knows of its network, and of the time that it missed. Times are monotonic seconds."""

    def __init__(self, session: Session) -> None:
        self._session = session
        now = trio.current_time()
        self._contact = now  # when somebody was last there
        self._failures = 0  # of dials and announces since
        self._looked = now
        self._asleep = system.time_asleep()
        self._recover_at: float | None = None

    def cut_off(self, now: float) -> bool:
        """Whether nobody has been reached for a while, whoever was tried."""
        return self._failures > 0 and now - self._contact >= limits.CUT_OFF

    def on_failure(self) -> None:
        """A peer or a tracker could not be reached."""
        self._failures += 1

    def on_contact(self, now: float) -> None:
        """A peer or a tracker has answered."""
        if self.cut_off(now):
            _log.info("the network is there again after %.0f s", now - self._contact)
            self._recover(now)
        self._contact, self._failures = now, 0

    def woke(self, now: float, period: float) -> bool:
        """Called every ``period`` seconds: whether much time has passed unseen since the last call.

        Then peers are given until the next call to be heard: what they sent is read first.
        """
        asleep = system.time_asleep()
        unseen = max(0.0, asleep - self._asleep)  # on this clock it did not pass at all
        missed = now - self._looked - period + unseen
        self._looked, self._asleep = now, asleep
        if self._recover_at is not None and now >= self._recover_at:
            self._recover_at = None
            self._recover(now)
        if self._session.has_peers:
            self._contact, self._failures = now, 0
        if missed < limits.SUSPENDED:
            return False
        _log.info("%.0f s have passed unseen", missed)
        self._recover_at = now + 2 * period  # when those that are gone have been noticed
        self._session.on_time_missed(now, unseen)
        return True

    def _recover(self, now: float) -> None:
        for transfer in self._session.transfers():
            transfer.book.revive(now)
        self._session.dialler.wake()
        self._session.announcer.revive()
