"""Hashing what is there: in a thread, or by all children at once; what cannot be read does not match."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from btor.engine import check
from btor.engine.check import Recheck
from btor.engine.contain import Container
from btor.engine.disk import Disk
from btor.engine.hashers import Hashers
from btor.limits import BLOCK, MIB
from btor.metainfo.bitfield import Bitfield
from btor.storage.files import Content
from tests.engine.support import Sample, folder_sample, sample

CONTENT = folder_sample([("a", 100_000), ("b", 0), ("", 5), ("c", 300_000), ("d", 1)])


def recheck(content: Sample, top: Path, nursery: trio.Nursery, hashers: int) -> tuple[Recheck, Bitfield]:
    disk = Disk(Hashers(hashers, nursery, Container(strict=True)))
    have = Bitfield(content.pieces)
    return Recheck(disk, content.metainfo, Content(content.metainfo, top, disk.pool, writable=False), have), have


@pytest.fixture(params=["a thread", "children", "no children"])
def hashers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many children; small content goes to a thread unless nothing counts as small."""
    if request.param != "a thread":
        monkeypatch.setattr(check, "SMALL", 0)
    return 0 if request.param == "no children" else 2


async def hashed(content: Sample, top: Path, hashers: int, pieces: Bitfield | None = None) -> tuple[set[int], int]:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            checker, have = recheck(content, top, nursery, hashers)
            await checker.run(pieces if pieces is not None else Bitfield.full(content.pieces))
            nursery.cancel_scope.cancel()
    return {piece for piece in range(content.pieces) if piece in have}, checker.checked


async def test_all_good(tmp_path: Path, hashers: int) -> None:
    CONTENT.write(tmp_path)
    assert await hashed(CONTENT, tmp_path, hashers) == (set(range(CONTENT.pieces)), CONTENT.pieces)


async def test_children_end_with_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "SMALL", 0)
    CONTENT.write(tmp_path)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            checker, _ = recheck(CONTENT, tmp_path, nursery, 2)
            await checker.run(Bitfield.full(CONTENT.pieces))
            children = checker._disk.hashers._children
            assert children
            while children:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


async def test_one_bad_byte(tmp_path: Path, hashers: int) -> None:
    CONTENT.write(tmp_path)
    data = bytearray(CONTENT.content[100_005:400_005])
    data[7 * 2 * BLOCK - 100_005] ^= 1
    (tmp_path / "c").write_bytes(data)  # one write
    good, count = await hashed(CONTENT, tmp_path, hashers)
    assert good == set(range(CONTENT.pieces)) - {7}
    assert count == CONTENT.pieces


async def test_files_that_are_short_or_missing(tmp_path: Path, hashers: int) -> None:
    CONTENT.write(tmp_path)
    (tmp_path / "a").unlink()  # one call
    (tmp_path / "c").write_bytes(CONTENT.content[100_005:300_000])  # one write
    good, count = await hashed(CONTENT, tmp_path, hashers)
    assert good == set(range(4, 9))
    assert count == CONTENT.pieces


async def test_only_what_is_asked(tmp_path: Path, hashers: int) -> None:
    CONTENT.write(tmp_path)
    pieces = Bitfield(CONTENT.pieces)
    for piece in (1, 2, 5, CONTENT.pieces - 1):
        pieces.add(piece)
    assert await hashed(CONTENT, tmp_path, hashers, pieces) == ({1, 2, 5, CONTENT.pieces - 1}, 4)


async def test_more_jobs_than_children_take_at_once(tmp_path: Path, hashers: int) -> None:
    content = sample(12 * 3 * MIB + 5, piece_length=3 * MIB)
    content.write(tmp_path / "content")
    good, count = await hashed(content, tmp_path / "content", hashers)
    assert (len(good), count) == (13, 13)


async def test_cancelled(tmp_path: Path, hashers: int) -> None:
    CONTENT.write(tmp_path)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            checker, _ = recheck(CONTENT, tmp_path, nursery, hashers)
            with trio.CancelScope() as scope:
                scope.cancel()
                await checker.run(Bitfield.full(CONTENT.pieces))
            assert scope.cancelled_caught
            nursery.cancel_scope.cancel()
