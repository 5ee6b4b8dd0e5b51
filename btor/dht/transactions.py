"""Questions on the way, matched with their answers by transaction id and address; and which take too long."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from btor.dht.contact import Contact
from btor.limits import DHT_SLOW, DHT_TIMEOUT
from btor.wire.address import Address

if TYPE_CHECKING:
    import random

T = TypeVar("T")

TRANSACTION: Final = 2  # bytes of an id of ours


class Pending(Generic[T]):
    """A question to ``asked``: a node, or the address of one whose id we do not know. ``owner``: who wants to know."""

    __slots__ = ("address", "asked", "is_open", "owner", "sent", "transaction")

    def __init__(self, transaction: bytes, asked: Contact | Address, owner: T, sent: float) -> None:
        self.transaction = transaction
        self.asked = asked
        self.address: Address = asked.address if isinstance(asked, Contact) else asked
        self.owner = owner
        self.sent = sent
        self.is_open = True


class Transactions(Generic[T]):
    """Those of one node. Every question is first slow, then late: all have the same patience, so two queues do."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._open: dict[tuple[bytes, Address], Pending[T]] = {}
        self._slow: deque[Pending[T]] = deque()  # in the order of asking; closed ones leave it late
        self._late: deque[Pending[T]] = deque()

    def __len__(self) -> int:
        return len(self._open)

    def start(self, asked: Contact | Address, owner: T, now: float) -> Pending[T]:
        """A question with an id that nobody can guess."""
        address: Address = asked.address if isinstance(asked, Contact) else asked
        transaction = self._rng.randbytes(TRANSACTION)
        while (transaction, address) in self._open:
            transaction = self._rng.randbytes(TRANSACTION)
        pending = self._open[transaction, address] = Pending(transaction, asked, owner, now)
        self._slow.append(pending)
        self._late.append(pending)
        return pending

    def close(self, transaction: bytes, address: Address) -> Pending[T] | None:
        """An answer came: to this question. None: to none that is open."""
        pending = self._open.pop((transaction, address), None)
        if pending is not None:
            pending.is_open = False
        return pending

    def take_slow(self, now: float) -> list[Pending[T]]:
        """Those that have been open for DHT_SLOW seconds; each is told once."""
        return [pending for pending in _overdue(self._slow, DHT_SLOW, now) if pending.is_open]

    def take_late(self, now: float) -> list[Pending[T]]:
        """Those that have been open for DHT_TIMEOUT seconds: they are closed."""
        late = [pending for pending in _overdue(self._late, DHT_TIMEOUT, now) if pending.is_open]
        for pending in late:
            self.close(pending.transaction, pending.address)
        return late

    def next_due(self) -> float:
        """When one becomes slow or late."""
        due = float("inf")
        for queue, patience in ((self._slow, DHT_SLOW), (self._late, DHT_TIMEOUT)):
            while queue and not queue[0].is_open:
                queue.popleft()
            if queue:
                due = min(due, queue[0].sent + patience)
        return due


def _overdue(queue: deque[Pending[T]], patience: float, now: float) -> list[Pending[T]]:
    found = []
    while queue and queue[0].sent + patience <= now:  # the sum of `next_due`: another would round otherwise
        found.append(queue.popleft())
    return found
