"""The cadence of local discovery, on its bounds."""

from __future__ import annotations

from btor.limits import LSD_GAP, LSD_HASHES, LSD_PACKET_GAP, LSD_PERIOD, LSD_SENDERS
from btor.swarm.lsd import LocalCadence


def hashes(count: int) -> list[bytes]:
    return [number.to_bytes(20) for number in range(count)]


def test_each_torrent_is_told_of_once_a_period() -> None:
    cadence = LocalCadence()
    assert cadence.take([], 0.0) == []
    assert cadence.take(hashes(2), 1.0) == hashes(2)
    assert cadence.take(hashes(2), 1.0 + LSD_PERIOD - 0.01) == []
    assert cadence.take(hashes(2), 1.0 + LSD_PERIOD) == hashes(2)


def test_a_minute_lies_between_two_datagrams() -> None:
    cadence = LocalCadence()
    assert cadence.take(hashes(LSD_HASHES + 1), 0.0) == hashes(LSD_HASHES)
    assert cadence.take(hashes(LSD_HASHES + 1), LSD_GAP - 0.01) == []
    assert cadence.take(hashes(LSD_HASHES + 1), LSD_GAP) == hashes(LSD_HASHES + 1)[-1:]


def test_one_that_left_and_came_back_is_told_of_again() -> None:
    cadence = LocalCadence()
    cadence.take(hashes(1), 0.0)
    assert cadence.take([], LSD_GAP) == []
    assert cadence.take(hashes(1), LSD_GAP) == hashes(1)


def test_L1_a_sender_counts_once_a_second() -> None:
    cadence = LocalCadence()
    assert cadence.listens_to("10.0.0.1", 0.0)
    assert not cadence.listens_to("10.0.0.1", LSD_PACKET_GAP - 0.01)
    assert cadence.listens_to("10.0.0.2", LSD_PACKET_GAP - 0.01)
    assert cadence.listens_to("10.0.0.1", 2 * LSD_PACKET_GAP)


def test_L1_so_many_senders_are_remembered() -> None:
    cadence = LocalCadence()
    for number in range(LSD_SENDERS + 1):
        assert cadence.listens_to(f"10.{number >> 8}.{number & 255}.1", 0.0)
    assert len(cadence._heard) == LSD_SENDERS
    assert cadence.listens_to("10.0.0.1", 0.1)  # the oldest is forgotten
