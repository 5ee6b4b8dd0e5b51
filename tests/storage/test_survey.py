"""What is trusted, hashed again, named or refused before a torrent starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from btor import limits
from btor.errors import StorageError
from btor.metainfo.bitfield import Bitfield
from btor.storage import system
from btor.storage.files import Content, FileStat
from btor.storage.resume import FileStats, ResumeRecord
from btor.storage.survey import Survey, refuse, settle, survey
from tests.storage.torrents import File, good_pieces, open_content, put, stream, torrent

BLOCK = 16_384
FILES: list[File] = [("a", 4 * BLOCK), ("empty", 0), ("d/b", 2 * BLOCK + 100), ("", BLOCK - 100), ("c", 8 * BLOCK)]
DATA = stream(FILES)
METAINFO = torrent(FILES, content=DATA)
COUNT = METAINFO.geometry.piece_count
A, EMPTY, B, PAD, C = range(5)
PIECES = {A: {0, 1, 2, 3}, B: {4, 5, 6}, C: set(range(7, 15))}


@pytest.fixture
def content(tmp_path: Path) -> Content:
    """All of it on disk."""
    made = open_content(METAINFO, tmp_path / "content")
    made.prepare()
    put(made, DATA)
    made.close()
    return made


def bits(*pieces: int) -> Bitfield:
    made = Bitfield(COUNT)
    for piece in pieces:
        made.add(piece)
    return made


def recorded(content: Content, have: Bitfield | None = None, *, finished: bool = True) -> ResumeRecord:
    files = FileStats.of(content.stats())
    held = Bitfield.full(COUNT) if have is None else have
    return ResumeRecord(METAINFO.info_hash, content.top, held, files, finished)


def look(content: Content, record: ResumeRecord | None, *, recheck: bool = False) -> Survey:
    found = survey(content, record, recheck=recheck)
    assert not set(found.trusted) & set(found.to_hash)
    return found


def touch(content: Content, index: int, nanoseconds: int) -> None:
    path = content.path(index)
    found = os.stat(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + nanoseconds))


def replace_file(content: Content, index: int, data: bytes) -> None:
    path = Path(content.path(index))
    found = path.stat()
    new = path.with_name("new")
    new.write_bytes(data)
    os.utime(new, ns=(found.st_atime_ns, found.st_mtime_ns))
    new.replace(path)


@pytest.mark.parametrize("finished", [True, False])
def test_what_agrees_with_the_record_is_trusted(content: Content, finished: bool) -> None:
    found = look(content, recorded(content, finished=finished))
    assert found.trusted.complete
    assert not found.to_hash.count
    assert (found.changed, found.strangers, found.longer, found.nothing) == ((), (), (), False)
    assert found.files == FileStats.of(content.stats())


def test_nothing_there(tmp_path: Path) -> None:
    content = open_content(METAINFO, tmp_path / "content")
    found = look(content, None)
    assert found == Survey(bits(), bits(), (), (), (), FileStats.of([None] * 5), True)
    content.prepare()
    assert look(content, None).nothing
    refuse(content, found, found.to_hash)


def test_without_a_record_all_below_the_sizes_is_hashed(content: Content) -> None:
    os.truncate(content.path(C), 3 * BLOCK + 5)
    found = look(content, None)
    assert found.trusted.count == 0
    assert set(found.to_hash) == PIECES[A] | PIECES[B] | {7, 8, 9}
    assert found.strangers == (A, B, C)
    assert found.changed == ()


@pytest.mark.parametrize("index", [A, B, C])
def test_a_file_that_is_gone(content: Content, index: int) -> None:
    record = recorded(content)
    os.unlink(content.path(index))
    found = look(content, record)
    assert set(found.trusted) == set(range(COUNT)) - PIECES[index]
    assert not found.to_hash.count
    assert found.changed == (content.path(index),)
    assert found.strangers == ()


def test_an_empty_file_that_is_gone_is_named(content: Content) -> None:
    record = recorded(content)
    os.unlink(content.path(EMPTY))
    found = look(content, record)
    assert found.trusted.complete
    assert found.changed == (content.path(EMPTY),)


@pytest.mark.parametrize("index", [A, B, C])
@pytest.mark.parametrize("nanoseconds", [1, -1])
@pytest.mark.parametrize("finished", [True, False])
def test_another_time(content: Content, index: int, nanoseconds: int, finished: bool) -> None:
    """A later time may be btor's own only where the record was made while downloading; all else is hashed, alone."""
    record = recorded(content, finished=finished)
    touch(content, index, nanoseconds)
    found = look(content, record)
    assert set(found.trusted) == set(range(COUNT)) - PIECES[index]
    assert set(found.to_hash) == PIECES[index]
    if nanoseconds > 0 and not finished:
        assert found.doubts == ((index, tuple(PIECES[index])),)
        found = settled(content, found)
        assert found.trusted.complete
        assert found.changed == ()
        assert found.strangers == ()
    else:
        assert found.doubts == ()
        assert found.changed == (content.path(index),)
        assert found.strangers == (index,)  # if nothing in it is good


def settled(content: Content, found: Survey) -> Survey:
    """When everything is hashed, by an independent look at the disk."""
    have = found.trusted.copy()
    for piece in good_pieces(METAINFO, content.top) & set(found.to_hash):
        have.add(piece)
    return settle(content, found, have)


def later(content: Content, index: int) -> None:
    touch(content, index, 10**9)


@pytest.mark.parametrize("index", [A, B, C])
def test_after_a_kill_a_foreign_file_with_the_size_and_the_inode_of_ours_is_not_believed(
    content: Content, index: int
) -> None:
    """A file that was removed leaves its inode to the next one; and one may be written over."""
    record = recorded(content, finished=False)
    path = Path(content.path(index))
    path.write_bytes(b"!" * path.stat().st_size)
    later(content, index)
    found = look(content, record)
    assert set(found.trusted) == set(range(COUNT)) - PIECES[index]
    found = settled(content, found)
    assert set(found.trusted) == set(range(COUNT)) - PIECES[index]
    assert (found.changed, found.strangers) == ((str(path),), (index,))
    with pytest.raises(StorageError, match="not one valid piece"):
        refuse(content, found, found.trusted)
    assert look(content, record, recheck=True).strangers == (index,)


@pytest.mark.parametrize("pieces", [2, 3])
def test_a_sample_of_a_large_file_decides(content: Content, monkeypatch: pytest.MonkeyPatch, pieces: int) -> None:
    """Its ends and pieces between them; what proves bad makes all that the record names be hashed."""
    monkeypatch.setattr(limits, "RESUME_SAMPLE", pieces * BLOCK)
    record = recorded(content, finished=False)
    later(content, C)
    found = look(content, record)
    sample = {7, 11, 14} if pieces == 2 else {7, 10, 13, 14}
    assert set(found.to_hash) == sample
    assert [(index, set(taken)) for index, taken in found.doubts] == [(C, sample)]
    assert settled(content, found).trusted.complete
    with open(content.path(C), "r+b") as file:
        file.seek(7 * BLOCK)
        file.write(b"!" * BLOCK)
    found = settled(content, found)
    assert set(found.trusted) == PIECES[A] | PIECES[B]
    assert set(found.to_hash) == PIECES[C] - sample
    assert (found.changed, found.strangers, found.doubts) == ((content.path(C),), (C,), ())


def test_every_file_gives_a_sample_however_little_may_be_hashed(
    content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RESUME_SAMPLE", 1)
    record = recorded(content, bits(*PIECES[A], 5), finished=False)
    for index in (A, B, C):
        later(content, index)
    found = look(content, record)
    assert [(index, set(sample)) for index, sample in found.doubts] == [(A, {0, 3}), (B, {5})]


@pytest.mark.parametrize(("limit", "whole"), [(15, True), (14, False)])
def test_what_is_not_much_is_hashed_whole(
    content: Content, monkeypatch: pytest.MonkeyPatch, limit: int, whole: bool
) -> None:
    monkeypatch.setattr(limits, "RESUME_SAMPLE", limit * BLOCK)
    record = recorded(content, finished=False)
    for index in (A, B, C):
        later(content, index)
    assert look(content, record).to_hash.complete is whole


def test_a_foreign_file_where_btor_had_none_yet(tmp_path: Path) -> None:
    """Whatever btor makes has its full length at once."""
    content = open_content(METAINFO, tmp_path / "content")
    record = recorded(content, bits(), finished=False)
    content.top.mkdir()
    Path(content.path(A)).write_bytes(b"diary")
    put(content, DATA, 7 * BLOCK, 8 * BLOCK)
    assert look(content, record).strangers == (A,)
    content.close()


def test_of_a_file_that_the_record_names_nothing_of_inode_and_size_are_the_sign(content: Content) -> None:
    record = recorded(content, bits(*PIECES[C]))
    touch(content, A, -1)
    touch(content, C, -1)
    found = look(content, record)
    assert found.changed == (content.path(A), content.path(C))
    assert found.strangers == (C,)


@pytest.mark.parametrize("finished", [True, False])
def test_another_file_of_the_same_size_and_time(content: Content, finished: bool) -> None:
    record = recorded(content, finished=finished)
    replace_file(content, B, b"!" * (2 * BLOCK + 100))
    found = look(content, record)
    assert set(found.trusted) == set(range(COUNT)) - PIECES[B]
    assert set(found.to_hash) == PIECES[B]
    assert found.changed == (content.path(B),)
    assert found.strangers == (B,)
    with pytest.raises(StorageError, match="not one valid piece") as caught:
        refuse(content, found, found.trusted)
    assert (caught.value.path, caught.value.exit_status) == (content.path(B), 4)
    good = found.trusted.copy()
    good.add(6)
    refuse(content, found, good)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("recheck", [False, True])
def test_a_kill_after_the_first_write_to_a_file_that_the_record_knows_as_empty(
    tmp_path: Path, finished: bool, recheck: bool
) -> None:
    content = open_content(METAINFO, tmp_path / "content")
    content.prepare()
    Path(content.path(A)).touch()  # made, and then btor was killed
    record = recorded(content, bits(), finished=finished)
    put(content, bytes(4 * BLOCK), 0)  # the first write makes it as long as it shall be; no piece is whole yet
    with open(content.path(A), "r+b") as file:
        file.write(b"half of a piece")
    found = look(content, record, recheck=recheck)
    content.close()
    assert found.strangers == ((A,) if finished else ())
    assert not found.trusted.count


def test_a_shorter_file(content: Content) -> None:
    record = recorded(content, finished=False)
    os.truncate(content.path(C), 3 * BLOCK)
    found = look(content, record)
    assert set(found.trusted) == PIECES[A] | PIECES[B]
    assert set(found.to_hash) == {7, 8, 9}
    assert found.changed == (content.path(C),)


@pytest.mark.parametrize("with_record", [True, False])
def test_a_longer_file_is_refused_at_once(content: Content, with_record: bool) -> None:
    record = recorded(content) if with_record else None
    with open(content.path(A), "ab") as file:
        file.write(b"x")
    found = look(content, record)
    assert found.longer == (A,)
    assert PIECES[A] <= set(found.to_hash)
    with pytest.raises(StorageError, match="longer than the 65536 bytes") as caught:
        refuse(content, found, None)
    assert caught.value.exit_status == 4


def test_an_empty_file_that_is_not_empty_is_refused(content: Content) -> None:
    Path(content.path(EMPTY)).write_bytes(b"mine")
    found = look(content, None)
    assert found.longer == (EMPTY,)


def test_strangers_without_a_valid_piece_are_refused(tmp_path: Path) -> None:
    content = open_content(METAINFO, tmp_path / "content")
    content.top.mkdir()
    Path(content.path(A)).write_bytes(b"precious")
    Path(content.path(C)).write_bytes(b"")
    found = look(content, None)
    assert (found.strangers, found.nothing) == ((A,), False)
    assert not found.to_hash.count
    refuse(content, found, None)
    with pytest.raises(StorageError, match="not one valid piece") as caught:
        refuse(content, found, bits())
    assert caught.value.path == content.path(A)
    assert Path(content.path(A)).read_bytes() == b"precious"


def test_a_file_of_nothing_but_holes_is_nobodys_loss(tmp_path: Path) -> None:
    content = open_content(METAINFO, tmp_path / "content")
    content.top.mkdir()
    with open(content.path(A), "wb") as file:
        file.truncate(4 * BLOCK)
    found = look(content, None)
    assert found.strangers == ()
    assert set(found.to_hash) == PIECES[A]


def test_data_beyond_the_record_is_hashed(tmp_path: Path) -> None:
    """As after a kill: written, perhaps verified, and not yet named."""
    content = open_content(METAINFO, tmp_path / "content")
    content.prepare()
    empty = recorded(content, bits(), finished=False)
    put(content, DATA, 0, 2 * BLOCK)
    record = recorded(content, bits(0), finished=False)
    put(content, DATA, 3 * BLOCK, 3 * BLOCK + 50)
    put(content, DATA, 10 * BLOCK, 11 * BLOCK)
    found = look(content, record)
    assert set(found.to_hash) == {0, 1, 3, 10}
    assert found.doubts == ((A, (0,)),)
    found = settled(content, found)
    assert set(found.trusted) == {0}
    assert not found.to_hash.count
    assert (found.changed, found.strangers) == ((), ())
    found = look(content, empty)
    assert set(found.to_hash) == {0, 1, 3, 10}
    assert found.strangers == ()
    content.close()


def test_a_hole_in_a_file_of_somebody_else_is_content_where_zeros_are(tmp_path: Path) -> None:
    """A sparse image: of what the record does not name, the pieces that are all zeros are hashed, holes or not."""
    files: list[File] = [("a", 12 * BLOCK + 7)]
    data = b"\1" * (3 * BLOCK) + bytes(6 * BLOCK) + b"\2" * (2 * BLOCK) + bytes(BLOCK + 7)
    metainfo = torrent(files, content=data)
    content = open_content(metainfo, tmp_path / "content")
    content.top.mkdir()
    with open(content.path(0), "wb") as file:
        for start in range(0, 11 * BLOCK, BLOCK):
            if any(data[start : start + BLOCK]):
                file.seek(start)
                file.write(data[start : start + BLOCK])
        file.truncate(len(data))
    record = ResumeRecord(metainfo.info_hash, content.top, Bitfield(13), FileStats.of(content.stats()), True)
    assert set(survey(content, record).to_hash) == set(range(13))
    Path(content.path(0)).unlink()
    assert not survey(content, record).to_hash.count


def test_without_data_ranges_the_rest_of_the_files_is_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "HAS_DATA_RANGES", False)
    content = open_content(METAINFO, tmp_path / "content")
    put(content, DATA, 0, BLOCK)
    found = look(content, recorded(content, bits(0), finished=False))
    assert set(found.to_hash) == {1, 2, 3}
    content.close()


@pytest.mark.parametrize("length", [0, 3 * BLOCK])
@pytest.mark.parametrize("finished", [True, False])
def test_F4_a_file_that_a_killed_run_had_made_and_the_next_one_extended(
    tmp_path: Path, length: int, finished: bool
) -> None:
    """A kill between the making of a file and its extension, and another before the first checkpoint after it."""
    content = open_content(METAINFO, tmp_path / "content")
    content.prepare()
    Path(content.path(C)).write_bytes(DATA[-8 * BLOCK : -8 * BLOCK + length])
    record = recorded(content, bits(*([7] if length else [])), finished=finished)
    put(content, DATA, 11 * BLOCK, 11 * BLOCK + 50)
    content.close()
    found = look(content, record)
    if finished:  # then it is not btor that extended it
        assert found.strangers == (C,)
        assert found.changed == (content.path(C),)
        return
    assert set(found.to_hash) >= {11}
    assert found.doubts == (((C, (7,)),) if length else ())
    assert (found.changed, found.strangers) == ((), ())
    assert set(settled(content, found).trusted) == ({7} if length else set())


def test_a_file_that_appeared_after_the_last_thing_btor_did(tmp_path: Path) -> None:
    content = open_content(METAINFO, tmp_path / "content")
    content.prepare()
    record = recorded(content, bits(), finished=True)
    Path(content.path(A)).write_bytes(b"precious")
    found = look(content, record)
    assert found.strangers == (A,)
    assert found.changed == ()


def test_recheck_hashes_all_and_knows_its_own(content: Content) -> None:
    record = recorded(content)
    replace_file(content, C, bytes(8 * BLOCK))
    found = look(content, record, recheck=True)
    assert found.trusted.count == 0
    assert found.to_hash.complete
    assert found.strangers == (C,)
    assert found.changed == (content.path(C),)


@pytest.mark.parametrize("what", ["info-hash", "pieces", "files"])
def test_a_record_of_another_torrent_counts_for_nothing(content: Content, what: str) -> None:
    record = recorded(content)
    if what == "info-hash":
        record = replace(record, info_hash=bytes(20))
    elif what == "pieces":
        record = replace(record, have=Bitfield.full(COUNT + 1))
    else:
        record = replace(record, files=FileStats.of(content.stats()[1:]))
    assert look(content, record) == look(content, None)


def test_something_that_is_no_file_is_an_error(tmp_path: Path) -> None:
    content = open_content(METAINFO, tmp_path / "content")
    (content.top / "a").mkdir(parents=True)
    with pytest.raises(StorageError, match="not a regular file"):
        survey(content, None)


def test_what_survives_is_right_however_files_change(tmp_path: Path) -> None:
    """Trusted pieces are good by an independent hash, after every kind of change that the file system shows."""
    content = open_content(METAINFO, tmp_path / "content")
    content.prepare()
    put(content, DATA)
    record = recorded(content)
    content.close()
    changes: list[Callable[[], None]] = [
        lambda: touch(content, A, 10**9),
        lambda: os.truncate(content.path(B), 10),
        lambda: replace_file(content, C, b"!" * 8 * BLOCK),
        lambda: os.unlink(content.path(A)),
    ]
    for change in changes:
        change()
        found = look(content, record)
        assert set(found.trusted) <= good_pieces(METAINFO, content.top)
        assert good_pieces(METAINFO, content.top) <= set(found.trusted) | set(found.to_hash)


def test_states_of_huge_files_fit() -> None:
    stats = FileStats.of([FileStat(2**48 - 1, 2**64 - 1, 2**63 - 1)])
    assert stats[0] == FileStat(2**48 - 1, 2**64 - 1, 2**63 - 1)


def test_a_reused_inode_is_no_proof_that_a_file_is_ours(content: Content) -> None:
    record = recorded(content, finished=False)
    path = Path(content.path(0))
    with path.open("r+b") as file:  # the same inode, as a new file gets that of one just removed
        file.truncate(0)
        file.write(b"diary")
    assert look(content, record).strangers == (0,)
