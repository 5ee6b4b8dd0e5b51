"""Questions on the way: matched by id and address, slow after one second, late after ten."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor import limits
from btor.dht.transactions import Transactions
from tests.dht.build import contact

A, B = ("5.6.7.8", 1), ("5.6.7.8", 2)


def test_only_the_one_that_was_asked_can_answer() -> None:
    transactions: Transactions[str] = Transactions(random.Random(1))
    pending = transactions.start(A, "owner", 0.0)
    assert (pending.address, pending.asked, pending.owner, len(pending.transaction)) == (A, A, "owner", 2)
    assert transactions.close(pending.transaction, B) is None
    assert transactions.close(b"zz", A) is None
    assert transactions.close(pending.transaction, A) is pending
    assert transactions.close(pending.transaction, A) is None
    assert len(transactions) == 0


def test_a_contact_is_asked_at_its_address() -> None:
    transactions: Transactions[None] = Transactions(random.Random(1))
    asked = contact("5.6.7.8")
    assert transactions.start(asked, None, 0.0).address == asked.address


def test_an_id_is_not_used_twice_at_a_time() -> None:
    class Stuck(random.Random):
        drawn = iter([b"aa", b"aa", b"aa", b"bb"])

        def randbytes(self, n: int) -> bytes:
            return next(self.drawn)

    transactions: Transactions[None] = Transactions(Stuck())
    assert [transactions.start(A, None, 0.0).transaction for _ in range(2)] == [b"aa", b"bb"]


def test_slow_then_late() -> None:
    transactions: Transactions[None] = Transactions(random.Random(1))
    assert transactions.next_due() == float("inf")
    first, second = transactions.start(A, None, 5.0), transactions.start(B, None, 6.5)
    assert transactions.next_due() == 5.0 + limits.DHT_SLOW
    assert transactions.take_slow(5.9) == []
    assert transactions.take_slow(6.0) == [first]
    assert transactions.take_slow(6.0) == []
    assert transactions.next_due() == 6.5 + limits.DHT_SLOW
    assert transactions.close(second.transaction, B) is second
    assert transactions.take_slow(8.0) == []
    assert transactions.next_due() == 5.0 + limits.DHT_TIMEOUT
    assert transactions.take_late(14.9) == []
    assert transactions.take_late(16.5) == [first]
    assert transactions.close(first.transaction, A) is None
    assert transactions.next_due() == float("inf")


def test_what_was_answered_is_not_due() -> None:
    transactions: Transactions[None] = Transactions(random.Random(1))
    first, second = transactions.start(A, None, 0.0), transactions.start(B, None, 0.5)
    transactions.close(first.transaction, A)
    assert transactions.next_due() == 0.5 + limits.DHT_SLOW
    transactions.close(second.transaction, B)
    assert transactions.next_due() == float("inf")


@given(st.floats(0, 1e7))
def test_what_is_due_is_taken(sent: float) -> None:
    """Rounding must not leave something that is due for ever and never taken."""
    transactions: Transactions[None] = Transactions(random.Random(1))
    transactions.start(A, None, sent)
    assert len(transactions.take_slow(transactions.next_due())) == 1
    assert len(transactions.take_late(transactions.next_due())) == 1
    assert transactions.next_due() == pytest.approx(float("inf"))
