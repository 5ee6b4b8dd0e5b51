"""Whoever waits for a torrent hears of its end, whatever ends it: nobody waits for ever."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from btor.engine import report
from btor.engine import torrent as torrent_module
from btor.engine.announce import Announcer
from btor.engine.choking import Choking
from btor.engine.disk import TorrentDisk
from btor.engine.events import Complete, Failed, PieceFailed
from btor.engine.keeper import Keeper
from btor.engine.peer import Peer
from btor.engine.torrent import Torrent
from btor.engine.transfer import Transfer
from btor.errors import StorageError
from btor.limits import BLOCK
from btor.swarm.blame import Blame
from btor.swarm.picker import Picker
from tests.engine.support import Lab, next_event, sample, scenario

CONTENT = sample(10 * 2 * BLOCK)
SOON = 120.0


class UnexpectedError(Exception):
    """What nobody expects."""


def break_method(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int = 1) -> list[int]:
    """The ``at``-th call of ``owner.name`` raises; the list counts the calls."""
    real = getattr(owner, name)
    calls: list[int] = []

    def call(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            raise UnexpectedError(name)
        return real(*args, **options)

    monkeypatch.setattr(owner, name, call)
    return calls


async def outcome(found: Torrent) -> str:
    """How the wait for it ends: complete, its own error, or a bug. TooSlowError: not at all."""
    with trio.fail_after(SOON):
        try:
            await found.wait_complete()
        except StorageError:
            return "error"
        except (UnexpectedError, BaseExceptionGroup):
            return "bug"
    return "complete"


LIFE: list[tuple[Any, str]] = [
    (Torrent, "_check"),
    (Torrent, "_settle_complete"),
    (Torrent, "_exchange"),
    (Torrent, "_name_peers"),
    (torrent_module, "look_up"),
    (torrent_module, "Complete"),
    (report, "checked"),
    (Keeper, "open"),
    (Transfer, "__init__"),
    (Transfer, "run"),
    (TorrentDisk, "run"),
    (Announcer, "add"),
]
ON_THE_WAY: list[tuple[Any, str]] = [
    (Announcer, "completed"),
    (Blame, "on_verified"),
    (Torrent, "on_complete"),
    (Torrent, "on_progress"),
    (Torrent, "_tell_seeding"),
    (Torrent, "on_tick"),
    (Transfer, "_on_complete"),
    (Transfer, "_ask_idle"),
    (Peer, "set_interested"),
    (Choking, "forget"),
]


@scenario()
@pytest.mark.parametrize(("owner", "name"), LIFE, ids=lambda value: getattr(value, "__name__", value))
async def test_a_bug_that_ends_a_torrent(lab: Lab, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised to who waits; the session lives, and the torrent can be removed and added again."""
    seeder = await lab.seed(CONTENT)
    session = await lab.session(strict=False, state_dir=lab.place())
    with monkeypatch.context() as patch:
        calls = break_method(patch, owner, name)
        found = await session.add(CONTENT.metainfo, directory=lab.place(), peers=[lab.address(seeder.session)])
        assert await outcome(found) == "bug"
    assert calls
    assert found.ended
    assert found.status().state == "stopped"
    assert [event async for event in found.events()]  # which end, too
    await found.remove()
    again = await session.add(CONTENT.metainfo, directory=lab.place(), peers=[lab.address(seeder.session)])
    assert await outcome(again) == "complete"


@scenario()
@pytest.mark.parametrize("at", [1, 2, 10])
@pytest.mark.parametrize(("owner", "name"), ON_THE_WAY, ids=lambda value: getattr(value, "__name__", value))
async def test_a_bug_on_the_way(lab: Lab, owner: Any, name: str, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends a peer at most: the torrent completes all the same, and says so."""
    seeders = [await lab.serving(CONTENT, up=100_000) for _ in range(3)]  # whose parts are not those that break
    break_method(monkeypatch, owner, name, at)
    found = await lab.leech(CONTENT, *seeders, strict=False)
    assert await outcome(found) == "complete"
    await next_event(found, Complete)
    await found.remove()
    assert found.status().state == "stopped"


@scenario()
async def test_complete_and_durable_is_not_said_when_the_sync_has_a_bug(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeder = await lab.seed(CONTENT)
    session = await lab.session(strict=False, state_dir=lab.place())
    calls: list[int] = []

    async def fail(*_: Any, durable: bool = False, **__: Any) -> None:
        if durable:
            calls.append(1)
            raise UnexpectedError("save")

    monkeypatch.setattr(Keeper, "save", fail)
    found = await session.add(CONTENT.metainfo, directory=lab.place(), peers=[lab.address(seeder.session)], sync=True)
    assert await outcome(found) == "bug"
    assert calls
    assert not found.complete


@scenario()
async def test_a_bad_piece_that_cannot_be_dealt_with(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be neither there nor asked for again."""
    caller = await lab.listen()
    found = await lab.leech(CONTENT, caller.address, strict=False)
    break_method(monkeypatch, Picker, "on_failed")
    peer = await caller.accept(CONTENT, has=range(CONTENT.pieces))
    length = CONTENT.metainfo.geometry.piece_length
    lab.nursery.start_soon(lambda: peer.serve(CONTENT.content, length, spoil=lambda piece, _: piece == 2))
    assert await outcome(found) == "bug"
    kinds = [type(event) for event in [event async for event in found.events()]]
    assert Failed not in kinds and PieceFailed not in kinds


@scenario()
@pytest.mark.parametrize("after", [0.0, 0.5])
async def test_removal_and_the_end_of_the_session(lab: Lab, after: float) -> None:
    """Also of a torrent that was never started."""
    ended: list[str] = []

    async def wait(found: Torrent) -> None:
        try:
            await found.wait_complete()
        except Exception as error:  # noqa: BLE001  # whichever it is, it is noted
            ended.append(type(error).__name__)

    async with lab.open() as session:
        found = await session.add(CONTENT.metainfo, directory=lab.place())
        lab.nursery.start_soon(wait, found)
        await trio.sleep(after)
        await found.remove()
        found = await session.add(CONTENT.metainfo, directory=lab.place())
        lab.nursery.start_soon(wait, found)
        await trio.sleep(after)
    await trio.sleep(0.1)
    assert ended == ["UsageError", "UsageError"]
