"""F3: content that changes while it is given to others."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from btor import limits
from btor.engine.events import Warned
from btor.engine.torrent import Torrent
from btor.engine.watch import some_named
from btor.errors import StorageError
from btor.limits import BLOCK, DONT_HAVES, FILES_NAMED, WATCH_PERIOD
from tests.engine.support import (
    BITFIELD,
    Lab,
    closes_at_once,
    folder_sample,
    hear_interest,
    said,
    sample,
    scenario,
    until,
)
from tests.simulated.scripted_peer import EXTENDED, HAVE, INTERESTED, UNCHOKE, ScriptedPeer, bitfield_of
from tests.simulated.scripted_peer import PIECE as PIECE_MESSAGE

PIECE = 2 * BLOCK
HAVE_NONE, REJECT = 15, 16
CONTENT = folder_sample([("a", 4 * PIECE), ("b", 3 * PIECE), ("c", 3 * PIECE)])
A, B, C = {0, 1, 2, 3}, {4, 5, 6}, {7, 8, 9}


def place_of(found: Torrent) -> Path:
    return found.keeper.content.top


def overwrite(path: Path, at: int = 0, data: bytes = b"!") -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    later(path)


def later(path: Path) -> None:
    """The time of a change is not that of a moment ago, however coarse the clock."""
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 10**9))


def replace(path: Path) -> None:
    """By another file of the same size and time."""
    found = path.stat()
    new = path.with_name("new")
    new.write_bytes(b"!" * found.st_size)
    os.utime(new, ns=(found.st_atime_ns, found.st_mtime_ns))
    new.replace(path)


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES: dict[str, Callable[[Path], None]] = {
    "changed": lambda path: overwrite(path, data=b"!" * 3 * PIECE),
    "truncated": lambda path: os.truncate(path, 5),
    "made longer": lambda path: overwrite(path, data=b"!" * 4 * PIECE),
    "deleted": Path.unlink,
    "replaced": replace,
    "replaced by a folder": put_folder,
}


async def fetcher(lab: Lab, found: Torrent) -> ScriptedPeer:
    peer = await lab.join(found)
    await peer.send(INTERESTED)
    return peer


async def told(lab: Lab, found: Torrent) -> set[int]:
    """The pieces that a newcomer is told of."""
    peer = await lab.join(found)
    bits = await peer.wait_for(BITFIELD)
    count = found.metainfo.geometry.piece_count
    pieces = {piece for piece in range(count) if bits[piece // 8] & 0x80 >> piece % 8}
    assert bitfield_of(pieces, count) == bits
    peer.transport.close()
    return pieces


class Heard:
    """The warnings of a torrent from now on."""

    def __init__(self, lab: Lab, found: Torrent) -> None:
        self.messages: list[str] = []
        lab.nursery.start_soon(self._listen, found)

    async def _listen(self, found: Torrent) -> None:
        async for event in found.events():
            if isinstance(event, Warned):
                self.messages.append(event.message)


async def downloaded(lab: Lab, **settings: Any) -> Torrent:
    """A torrent that was downloaded and goes on seeding."""
    seeder = await lab.seed(CONTENT)
    found = await lab.leech(CONTENT, seeder, **settings)
    await found.wait_complete()
    await trio.sleep(1)
    return found


@scenario()
@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("kind", ["seed", "download"])
async def test_F3_what_has_changed_is_noticed_and_not_given_any_more(lab: Lab, how: str, kind: str) -> None:
    """Also if nobody asks for it."""
    state = lab.place()
    found = await (lab.seed(CONTENT, state_dir=state) if kind == "seed" else downloaded(lab, state_dir=state))
    heard = Heard(lab, found)
    peer = await lab.join(found)
    CHANGES[how](place_of(found) / "b")
    await trio.sleep(WATCH_PERIOD + 1)
    await closes_at_once(peer)
    assert await told(lab, found) == A | C
    (message,) = heard.messages
    what = "is gone" if how in ("deleted", "replaced by a folder") else "has changed"
    assert message == f"{place_of(found) / 'b'} {what}: 3 of its 3 pieces are not given any more"
    assert found.error is None
    status = found.status()
    assert (status.have_pieces, status.done_bytes, status.state) == (7, 7 * PIECE, "seeding")
    await trio.sleep(3 * WATCH_PERIOD)
    assert len(heard.messages) == 1


@scenario()
@pytest.mark.parametrize("how", ["changed", "truncated", "made longer"])
@pytest.mark.parametrize("kind", ["seed", "download"])
async def test_F3_not_one_byte_is_sent_of_a_file_that_has_just_changed(lab: Lab, how: str, kind: str) -> None:
    found = await (lab.seed(CONTENT) if kind == "seed" else downloaded(lab))
    peer = await fetcher(lab, found)
    assert await peer.fetch(4, PIECE) == CONTENT.piece(4)
    CHANGES[how](place_of(found) / "b")
    await peer.request(5, 0)
    blocks = len(said(peer, PIECE_MESSAGE))
    await closes_at_once(peer)
    assert len(said(peer, PIECE_MESSAGE)) == blocks
    assert await told(lab, found) == A | C
    other = await fetcher(lab, found)
    assert await other.fetch(1, PIECE) == CONTENT.piece(1)
    assert found.error is None


@scenario()
@pytest.mark.parametrize("asked", [True, False])
async def test_a_file_that_is_only_touched_or_partly_changed_is_hashed_and_given_on(lab: Lab, asked: bool) -> None:
    found = await lab.seed(CONTENT)
    heard = Heard(lab, found)
    later(place_of(found) / "a")
    overwrite(place_of(found) / "b", PIECE + 5)
    if asked:
        peer = await fetcher(lab, found)
        await peer.request(0, 0)
        await closes_at_once(peer)
        assert await told(lab, found) == B | C
        waiting = await lab.join(found)
        await waiting.wait_for(BITFIELD)
        overwrite(place_of(found) / "b", PIECE + 6)
        later(place_of(found) / "a")
    await trio.sleep(2 * WATCH_PERIOD + 1)
    assert await told(lab, found) == A | C | {4, 6}
    (message,) = heard.messages
    assert message == f"{place_of(found) / 'b'} has changed: 1 of its 3 pieces is not given any more"
    peer = await fetcher(lab, found)
    assert await peer.fetch(0, PIECE) == CONTENT.piece(0)
    assert await peer.fetch(6, PIECE) == CONTENT.piece(6)


@scenario()
async def test_peers_hear_of_what_is_there_again(lab: Lab) -> None:
    found = await lab.seed(CONTENT)
    path = place_of(found) / "b"
    data = path.read_bytes()
    path.unlink()
    await trio.sleep(WATCH_PERIOD + 1)
    peer = await lab.join(found)
    await peer.wait_for(BITFIELD)
    path.write_bytes(data)
    pieces: set[int] = set()
    while len(pieces) < 3:
        pieces.add(int.from_bytes(await peer.wait_for(HAVE), "big"))
    assert pieces == B
    assert found.status().done_bytes == 10 * PIECE
    await peer.send(INTERESTED)
    assert await peer.fetch(5, PIECE) == CONTENT.piece(5)


async def listener(lab: Lab, found: Torrent) -> ScriptedPeer:
    """A peer that wants pieces, takes ``lt_donthave`` (as 9) and speaks the fast extension."""
    peer = await lab.call(found.session)
    await peer.handshake(found.info_hash, reserved=b"\0\0\0\0\0\x10\0\4")
    await peer.send(EXTENDED, b"\0d1:md11:lt_donthavei9eee")
    await peer.send(HAVE_NONE)
    await peer.send(INTERESTED)
    await peer.wait_for(UNCHOKE)
    return peer


async def lost(peer: ScriptedPeer, count: int) -> set[int]:
    """The pieces of the next ``count`` messages that say that one is gone."""
    pieces: set[int] = set()
    while len(pieces) < count:
        payload = await peer.wait_for(EXTENDED)
        if payload[0] == 9:
            pieces.add(int.from_bytes(payload[1:]))
    return pieces


@scenario()
@pytest.mark.parametrize("asked", [True, False])
async def test_who_can_be_told_that_pieces_are_gone_stays(lab: Lab, asked: bool) -> None:
    """BEP 54. What it had asked for of them is refused, the rest is given, and what is there again it hears of."""
    found = await lab.seed(CONTENT)
    path = place_of(found) / "b"
    peer = await listener(lab, found)
    data = path.read_bytes()
    overwrite(path, data=b"!" * 3 * PIECE)
    if asked:
        await peer.request(4, 0)
        await peer.request(0, 0)
    assert await lost(peer, 3) == B
    if asked:
        assert (await peer.wait_for(REJECT)) == struct.pack(">III", 4, 0, BLOCK)
        assert (await peer.wait_for(PIECE_MESSAGE))[8:] == CONTENT.block(0, 0)
    await peer.request(5, 0)
    assert (await peer.wait_for(REJECT)) == struct.pack(">III", 5, 0, BLOCK)
    overwrite(path, data=data)
    assert {int.from_bytes(await peer.wait_for(HAVE)) for _ in B} == B
    assert await peer.fetch(5, PIECE) == CONTENT.piece(5)
    assert len(found.status().reason) == 0 and found.status().peers == 1


@pytest.mark.parametrize(("pieces", "stays"), [(DONT_HAVES, True), (DONT_HAVES + 1, False)])
def test_of_so_many_pieces_that_are_gone_a_peer_is_told(tmp_path: Path, pieces: int, stays: bool) -> None:
    @scenario()
    async def play(lab: Lab) -> None:
        content = folder_sample([("a", BLOCK), ("b", pieces * BLOCK)], piece_length=BLOCK)
        found = await lab.seed(content)
        peer = await listener(lab, found)
        (place_of(found) / "b").unlink()
        if stays:
            assert len(await lost(peer, pieces)) == pieces
            assert await peer.fetch(0, BLOCK) == content.piece(0)
        else:
            await trio.sleep(WATCH_PERIOD + 1)
            await closes_at_once(peer)

    play(tmp_path=tmp_path)


@scenario()
async def test_who_is_inside_a_block_that_is_gone_is_left(lab: Lab) -> None:
    """What was sent of it cannot be taken back."""
    found = await lab.seed(CONTENT)
    peer = await listener(lab, found)
    (connection,) = found.transfer.peers.values()  # type: ignore[union-attr]  # it is there
    connection._uploads[5, 0, BLOCK] = None
    connection._head_sent = 100
    overwrite(place_of(found) / "b", data=b"!" * 3 * PIECE)
    await peer.wait_closed()
    assert not [payload for payload in said(peer, EXTENDED) if payload[0] == 9]


@scenario()
async def test_a_partial_seed_says_so(lab: Lab) -> None:
    """BEP 21: in its handshake, and to trackers; two of them have nothing to say to each other."""
    top = CONTENT.write(lab.place() / "folder")
    (top / "b").unlink()
    session = await lab.session()
    found = await session.add(CONTENT.metainfo, output=top, seed_only=True, partial=True)
    await until(lambda: found.transfer is not None and found.transfer.active)
    assert found.is_partial_seed
    peer = await lab.call(session)
    await peer.handshake(found.info_hash, reserved=b"\0\0\0\0\0\x10\0\0")
    payload = await peer.wait_for(EXTENDED)
    assert payload[0] == 0 and b"11:upload_onlyi1e" in payload
    await peer.send(EXTENDED, b"\0d11:upload_onlyi1ee")
    await closes_at_once(peer)


@scenario()
async def test_what_somebody_else_works_on_is_not_downloaded_again(lab: Lab) -> None:
    """It is his now."""
    found = await downloaded(lab)
    overwrite(place_of(found) / "b", data=b"!" * 3 * PIECE)
    await trio.sleep(WATCH_PERIOD + 1)
    peer = await lab.join(found, has=range(10))
    with trio.move_on_after(60):
        await hear_interest(peer)
        raise AssertionError("it wants it back")
    assert (place_of(found) / "b").read_bytes() == b"!" * 3 * PIECE


@scenario()
async def test_the_next_run_hashes_what_had_changed(lab: Lab) -> None:
    state, top = lab.place(), CONTENT.write(lab.place() / "folder")
    for hashed, have in [(10, 10), (3, 7)]:
        async with lab.open(state_dir=state) as session:
            found = await session.add(CONTENT.metainfo, output=top, seed_only=True, partial=True)
            await until(lambda: found.transfer is not None)  # noqa: B023  # it is of this run
            assert (found.keeper.checked_pieces, found.status().have_pieces) == (hashed, have)
            if have == 10:
                overwrite(top / "b", data=b"!" * 3 * PIECE)
                await trio.sleep(WATCH_PERIOD + 1)


@scenario()
async def test_a_download_is_watched_from_its_completion_on(lab: Lab) -> None:
    """btor's own writes are no change, and those of others are one as soon as nothing more is written."""
    found = await downloaded(lab)
    heard = Heard(lab, found)
    await trio.sleep(5 * WATCH_PERIOD)
    assert heard.messages == []
    assert await told(lab, found) == A | B | C


@scenario()
async def test_of_many_files_some_are_looked_at_each_time_and_few_are_named(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WATCH_FILES", 8)
    many = folder_sample([(f"{number:02}", BLOCK) for number in range(20)], piece_length=BLOCK)
    found = await lab.seed(many)
    heard = Heard(lab, found)
    for path in place_of(found).iterdir():
        path.unlink()
    await trio.sleep(WATCH_PERIOD + 1)
    assert found.status().have_pieces == 12
    assert len(heard.messages) == FILES_NAMED + 1
    assert heard.messages[-1] == "and 3 more likewise"
    await trio.sleep(2 * WATCH_PERIOD)
    assert found.status().have_pieces == 0
    assert found.error is None


@scenario()
async def test_torrents_take_turns(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WATCH_FILES", 1)
    session = await lab.session()
    torrents = []
    for seed in range(3):
        one = sample(50_000, seed=seed)
        torrents.append(await session.add(one.metainfo, output=one.write(lab.place()), seed_only=True))
        await torrents[-1].wait_complete()
    for found in torrents:
        place_of(found).unlink()
    await trio.sleep(3 * WATCH_PERIOD + 1)
    assert [found.status().have_pieces for found in torrents] == [0, 0, 0]


@scenario()
async def test_a_change_while_it_is_hashed_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found good then may be so no more."""
    found = await lab.seed(CONTENT)
    path = place_of(found) / "b"
    overwrite(path)
    hashed: list[int] = []
    transfer = found.transfer
    assert transfer is not None
    real = transfer.disk.content.segments

    def segments(offset: int, length: int) -> list[tuple[str | None, int, int]]:
        if not hashed:
            overwrite(path, 2 * PIECE)
        hashed.append(offset)
        return real(offset, length)

    monkeypatch.setattr(transfer.disk.content, "segments", segments)
    await trio.sleep(3 * WATCH_PERIOD)
    assert await told(lab, found) == A | C | {5}


@scenario()
async def test_the_end_comes_while_files_are_looked_at(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has ended has no files to look at."""
    async with lab.open() as session:
        found = await session.add(CONTENT.metainfo, output=CONTENT.write(lab.place()), seed_only=True)
        await found.wait_complete()
        transfer = found.transfer
        assert transfer is not None
        (place_of(found) / "b").unlink()
        found.keeper.close()
        await trio.sleep(2 * WATCH_PERIOD)
        transfer.guard.settle([1])
        await trio.sleep(1)
        transfer.guard._files = None
        await trio.sleep(WATCH_PERIOD)
        assert found.bug is None


def test_few_are_named() -> None:
    for count in range(FILES_NAMED + 1):
        assert some_named([str(number) for number in range(count)]) == [str(number) for number in range(count)]
    named = some_named([str(number) for number in range(1_000)])
    assert named[:-1] == [str(number) for number in range(FILES_NAMED)]
    assert named[-1] == f"and {1_000 - FILES_NAMED} more likewise"


@scenario()
async def test_other_errors_of_reads_end_the_torrent_as_before(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await lab.seed(CONTENT)
    transfer = found.transfer
    assert transfer is not None

    def fail(*_: object, **__: object) -> bool:
        raise StorageError("read", "b", "Input/output error", 5)

    peer = await fetcher(lab, found)
    await peer.fetch(0, PIECE)
    monkeypatch.setattr(transfer.content, "read_into", fail)
    await peer.request(5, 0)
    await until(lambda: found.error is not None)
    assert "Input/output error" in str(found.error)
