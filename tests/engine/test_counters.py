"""What a session's work cost: counted where it happens, told once at the end, and only to who wants to know all."""

from __future__ import annotations

import logging

import pytest

from btor.engine.counters import Counters
from btor.limits import BLOCK, MIB, PIECE_HEADER
from tests.engine.support import Lab, sample, scenario


def test_a_session_without_peers_has_nothing_to_tell() -> None:
    assert Counters().lines() == []


def test_the_sums_in_words() -> None:
    counters = Counters()
    counters.recvs, counters.gulps, counters.sends, counters.writes, counters.framings = 20, 10, 5, 4, 1
    counters.received = 640 * (BLOCK + PIECE_HEADER)
    counters.sent = 4 * MIB - counters.received % (4 * MIB)
    counters.deciding, counters.writing, counters.hashing, counters.framing = 2.0, 0.5, 0.25, 0.125
    amounts, calls, seconds, cpu = counters.lines()
    assert "in 10 gulps: 1024.8 KiB, 64.0 blocks each" in amounts
    assert counters.received + counters.sent == 12 * MIB
    assert calls == "calls a MiB moved: 1.67 recv, 0.42 send, 0.33 write, 0.08 read"
    assert seconds == "seconds: 1.25 decoding and deciding, 0.50 writing, 0.25 hashing in line, 0.12 reading to send"
    assert "user" in cpu


def test_a_peer_that_said_nothing_divides_by_nothing() -> None:
    counters = Counters()
    counters.recvs = 1
    assert len(counters.lines()) == 4


@scenario(both=True)
async def test_a_download_is_counted_at_both_ends(lab: Lab) -> None:
    content = sample(2_000_000)
    size = len(content.content)
    seeder = await lab.seed(content)
    leecher = await lab.leech(content, seeder)
    await leecher.wait_complete()
    received, sent = leecher.session.counters, seeder.session.counters
    headers = PIECE_HEADER * -(-size // BLOCK)
    assert size + headers <= received.received <= size + headers + 2_000
    assert received.received <= sent.sent <= received.received + 2_000
    assert 0 < received.gulps <= received.recvs
    assert received.writes > 0
    assert received.sends > 0
    assert 0 < received.writing < received.deciding
    assert 0 < received.hashing < received.deciding  # a small torrent is hashed as it comes
    assert 0 < sent.framings <= sent.sends
    assert sent.framing > 0


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_it_is_told_once_at_the_end_and_only_at_vv(
    level: int, caplog: pytest.LogCaptureFixture, tmp_path: object
) -> None:
    @scenario()
    async def transfer(lab: Lab) -> None:
        content = sample(500_000)
        leecher = await lab.leech(content, await lab.seed(content))
        await leecher.wait_complete()
        assert "gulps" not in caplog.text

    with caplog.at_level(level, logger="btor"):
        transfer(tmp_path=tmp_path)
    assert caplog.text.count(" gulps: ") == (2 if level == logging.DEBUG else 0)  # two sessions
