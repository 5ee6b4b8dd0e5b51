"""The resume record: what goes in comes out, and nothing else is believed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor import bencode, limits
from btor.metainfo.bitfield import Bitfield
from btor.storage import resume
from btor.storage.files import FileStat
from btor.storage.resume import FileStats, ResumeRecord, decode, encode, load, save

HASH = bytes(range(20))
STATS = FileStats.of([FileStat(5, 2**64 - 1, -1), None, FileStat(2**48 - 1, 7, 1_700_000_000_123_456_789)])


def record(top: Path = Path("/somewhere/content"), *, pieces: tuple[int, ...] = (0, 9), size: int = 10) -> ResumeRecord:
    have = Bitfield(size)
    for piece in pieces:
        have.add(piece)
    return ResumeRecord(HASH, top, have, STATS, finished=False, uploaded=2**40, downloaded=3)


def the_file(folder: Path, ending: str = "") -> Path:
    (path,) = folder.rglob("*.resume" + ending)
    return path


@given(
    size=st.integers(1, 50),
    pieces=st.sets(st.integers(0, 49)),
    stats=st.lists(
        st.none() | st.tuples(st.integers(0, 2**48 - 1), st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1)),
        max_size=5,
    ),
    finished=st.booleans(),
    moved=st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)),
    banned=st.lists(st.ip_addresses().map(str), max_size=4),
    name=st.binary(min_size=1, max_size=20).filter(lambda name: b"/" not in name and b"\0" not in name),
)
def test_a_record_comes_back(
    size: int,
    pieces: set[int],
    stats: list[tuple[int, int, int] | None],
    finished: bool,
    moved: tuple[int, int],
    banned: list[str],
    name: bytes,
) -> None:
    have = Bitfield(size)
    for piece in pieces:
        if piece < size:
            have.add(piece)
    top = Path("/somewhere") / ("x" + os.fsdecode(name))
    files = FileStats.of([None if stat is None else FileStat(*stat) for stat in stats])
    made = ResumeRecord(HASH, top, have, files, finished, *moved, tuple(banned))
    assert decode(encode(made)) == made
    assert [files[index] for index in range(len(files))] == stats


def test_file_states_change_one_by_one() -> None:
    files = FileStats(STATS.to_bytes())
    files[1] = FileStat(1, 2, 3)
    assert [files[index] for index in range(3)] == [STATS[0], FileStat(1, 2, 3), STATS[2]]
    files[2] = None
    assert [files[index] for index in range(3)] == [STATS[0], FileStat(1, 2, 3), None]
    assert STATS[1] is None
    assert files != STATS


def test_F6_any_flipped_bit_is_not_believed() -> None:
    data = encode(record())
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            assert decode(bytes(damaged)) is None


def test_F6_any_cut_and_any_addition_is_not_believed() -> None:
    data = encode(record())
    for length in range(len(data)):
        assert decode(data[:length]) is None
    assert decode(data + b"x") is None


@pytest.mark.parametrize(
    "body",
    [
        b"de",
        b"le",
        b"i1e",
        b"nonsense",
        bencode.encode({b"have": b"x"}),
        "a bitfield that does not fit",
        "fewer than no pieces",
        "files cut in the middle",
        "a number for a string",
        "a number for addresses",
        "addresses that are no text",
    ],
)
def test_a_sealed_record_of_something_else_is_not_believed(body: bytes | str) -> None:
    whole = bencode.decode(encode(record())[len(resume.MAGIC) + 32 :], depth=2, tokens=100)
    assert isinstance(whole, dict)
    if body == "fewer than no pieces":
        whole[b"have"], whole[b"pieces"] = b"", -7
    if body == "a bitfield that does not fit":
        whole[b"pieces"] = 17
    elif body == "files cut in the middle":
        whole[b"files"] = bytes(23)
    elif body == "a number for a string":
        whole[b"top"] = 1
    elif body == "a number for addresses":
        whole[b"banned"] = 1
    elif body == "addresses that are no text":
        whole[b"banned"] = b"\xff"
    raw = body if isinstance(body, bytes) else bencode.encode(whole)
    assert decode(resume.MAGIC + hashlib.sha256(resume.MAGIC + raw).digest() + raw) is None


def test_a_record_from_before_bans_were_kept_is_believed() -> None:
    whole = bencode.decode(encode(record())[len(resume.MAGIC) + 32 :], depth=2, tokens=100)
    assert isinstance(whole, dict)
    del whole[b"banned"]
    raw = bencode.encode(whole)
    assert decode(resume.MAGIC + hashlib.sha256(resume.MAGIC + raw).digest() + raw) == record()


def test_another_version_is_not_believed() -> None:
    data = encode(record())
    body = data[len(resume.MAGIC) + 32 :]
    magic = b"btor resume record 2\n"
    assert decode(magic + hashlib.sha256(magic + body).digest() + body) is None


def test_save_and_load(tmp_path: Path) -> None:
    top = tmp_path / "content"
    assert load(tmp_path, HASH, top) is None
    save(tmp_path, record(top))
    assert load(tmp_path, HASH, top) == record(top)
    assert load(tmp_path, bytes(20), top) is None
    assert load(tmp_path, HASH, tmp_path / "other") is None
    assert the_file(tmp_path).stat().st_mode & 0o777 == 0o600


def test_a_record_is_found_by_every_way_to_the_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    save(tmp_path, record(tmp_path / "link" / "content"))
    found = load(tmp_path, HASH, tmp_path / "real" / "content")
    assert found is not None
    assert found.top == tmp_path / "real" / "content"


def test_F6_the_generation_before_is_the_fallback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    top = tmp_path / "content"
    save(tmp_path, record(top, pieces=(1,)))
    save(tmp_path, record(top, pieces=(1, 2)))
    path = the_file(tmp_path)
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    assert load(tmp_path, HASH, top) == record(top, pieces=(1,))
    assert "damaged and not believed" in caplog.text
    path.unlink()
    assert load(tmp_path, HASH, top) == record(top, pieces=(1,))
    the_file(tmp_path, ".old").write_bytes(b"")
    assert load(tmp_path, HASH, top) is None


def test_a_generation_that_is_no_longer_believed_is_not_kept(tmp_path: Path) -> None:
    top = tmp_path / "content"
    save(tmp_path, record(top, pieces=(1, 2)))
    save(tmp_path, record(top, pieces=(1,)), keep_previous=False)
    the_file(tmp_path).unlink()
    assert load(tmp_path, HASH, top) is None


def test_a_record_in_the_place_of_another_is_not_believed(tmp_path: Path) -> None:
    save(tmp_path, record(tmp_path / "a"))
    save(tmp_path, replace(record(tmp_path / "b"), finished=True))
    first, second = sorted(tmp_path.rglob("*.resume"))
    first.write_bytes(second.read_bytes())
    second.write_bytes(first.read_bytes())
    assert sum(load(tmp_path, HASH, tmp_path / name) is not None for name in "ab") == 1


@pytest.mark.parametrize(("spare", "believed"), [(0, True), (-1, False)])
def test_the_size_of_a_record_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare: int, believed: bool
) -> None:
    top = tmp_path / "content"
    save(tmp_path, record(top))
    monkeypatch.setattr(limits, "RESUME_RECORD_SIZE", the_file(tmp_path).stat().st_size + spare)
    assert (load(tmp_path, HASH, top) is not None) is believed


def test_the_largest_record_is_within_its_bound() -> None:
    size = limits.PIECE_COUNT // 8 + limits.FILE_COUNT * 24 + limits.PATH_LENGTH + 1_000
    assert size < limits.RESUME_RECORD_SIZE
