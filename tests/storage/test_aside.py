"""Content of which not all files are wanted: what is written where, over many runs with changing selections."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from btor import limits
from btor.errors import StorageError
from btor.metainfo.bitfield import Bitfield
from btor.metainfo.selection import pieces_of_files
from btor.storage.aside import bring_home, load_side, owes_files
from btor.storage.checkpoint import Checkpoint
from btor.storage.claims import FilesClaimed
from btor.storage.files import Content
from btor.storage.pool import FilePool
from btor.storage.resume import ResumeRecord, load
from btor.storage.side import ENTRY, HEAD, side_name
from btor.storage.space import space_needed
from btor.storage.survey import Survey, disown, refuse, settle, survey
from btor.storage.verify import verify
from tests.storage.test_crashes import at_the_nth_call
from tests.storage.torrents import File, get, put, stream, torrent

PIECE = 1_000
FILES: list[File] = [("a", 2_300), ("b/c", 150), ("b/d", 4_000), ("", 50), ("empty", 0), ("e", 2_550), ("f", 450)]
A, C, D, PAD, EMPTY, E, F = range(7)
DATA = stream(FILES)
METAINFO = torrent(FILES, content=DATA, piece_length=PIECE)
COUNT = METAINFO.geometry.piece_count
SIDE = side_name(METAINFO.info_hash)
SIDE_INDEX = len(FILES)


@pytest.fixture(autouse=True)
def no_real_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def opened(top: Path, wanted: set[int] | None) -> Content:
    return Content(METAINFO, top, FilePool(), writable=True, wanted=wanted)


def piece_of(piece: int) -> bytes:
    return DATA[piece * PIECE : (piece + 1) * PIECE]


def fetch(content: Content, *pieces: int) -> None:
    for piece in pieces:
        put(content, DATA, piece * PIECE, min(len(DATA), (piece + 1) * PIECE))


def is_good(content: Content, piece: int) -> bool:
    try:
        return get(content, piece * PIECE, len(piece_of(piece))) == piece_of(piece)
    except StorageError:
        return False


def on_disk(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}


def expected(*indexes: int) -> dict[str, bytes]:
    entries = [METAINFO.files[index] for index in indexes]
    return {"/".join(entry.path[1:]): DATA[entry.offset : entry.offset + entry.length] for entry in entries}


def run(
    top: Path, state: Path, wanted: set[int] | None, rng: random.Random, *, recheck: bool = False
) -> Iterator[None]:
    """What a session does in one run, in steps: survey, check, and then every wanted piece that is missing."""
    content = opened(top, wanted)
    try:
        record = load(state, METAINFO.info_hash, top)
        found, have = checked(content, record, recheck=recheck)
        every = set(range(len(FILES))) if wanted is None else wanted
        missing = [piece for piece in pieces_of_files(METAINFO, every) if piece not in have]
        disown(content, found.files, have)
        checkpoint = Checkpoint(state, content, have=have, trusted=found.trusted, files=found.files)
        yield
        if missing or owes_files(content):
            checkpoint.begin()
        if bring_home(content, have):
            checkpoint.forget(SIDE_INDEX)
        content.prepare()
        assert all(is_good(content, piece) for piece in have), "believed and not there"
        rng.shuffle(missing)
        for piece in missing:
            yield
            for start, end in ((0, 400), (400, PIECE)):
                put(content, DATA, piece * PIECE + start, min(len(DATA), piece * PIECE + end))
                yield
            have.add(piece)
            if rng.random() < 0.3:
                checkpoint.save(checkpoint.snapshot(have, finished=False, uploaded=0, downloaded=0))
        checkpoint.save(checkpoint.snapshot(have, finished=True, uploaded=0, downloaded=0))
    finally:
        content.close()


def checked(content: Content, record: ResumeRecord | None, *, recheck: bool = False) -> tuple[Survey, Bitfield]:
    """The survey, and what is had when all that it wants hashed has been."""
    found = survey(content, record, recheck=recheck)
    refuse(content, found, None)
    have = found.trusted.copy()
    for piece in found.to_hash:
        if is_good(content, piece):
            have.add(piece)
    if found.doubts:
        found = settle(content, found, have)
        for piece in found.to_hash:
            have.discard(piece)
            if is_good(content, piece):
                have.add(piece)
    refuse(content, found, have)
    assert all(is_good(content, piece) for piece in have), "believed and not there"
    return found, have


def whole_run(top: Path, state: Path, wanted: set[int] | None, seed: int = 1, *, recheck: bool = False) -> None:
    for _ in run(top, state, wanted, random.Random(seed), recheck=recheck):
        pass


def had(top: Path, state: Path, wanted: set[int] | None) -> tuple[set[int], set[int]]:
    """What the next run would trust, and what it would have."""
    content = opened(top, wanted)
    found, have = checked(content, load(state, METAINFO.info_hash, top))
    content.close()
    return set(found.trusted), set(have)


# --- one run -----------------------------------------------------------------------------------------------------


def test_only_what_is_wanted_is_made(tmp_path: Path) -> None:
    top = tmp_path / "content"
    whole_run(top, tmp_path / "state", {A, E})
    assert on_disk(top) == expected(A, E) | {SIDE: (top / SIDE).read_bytes()}
    # of piece 2 what b/c and b/d have, of piece 6 b/d, of piece 9 f
    assert (top / SIDE).stat().st_size == len(HEAD) + 20 + 4 * ENTRY.size + 150 + 550 + 450 + 450


def test_no_side_file_where_nothing_is_shared(tmp_path: Path) -> None:
    files: list[File] = [("a", 1_000), ("b", 500), ("", 500), ("c", 700)]
    data = stream(files)
    metainfo = torrent(files, content=data, piece_length=1_000)
    content = Content(metainfo, tmp_path / "content", FilePool(), writable=True, wanted={1})
    survey(content, None)
    put(content, data, 1_000, 2_000)
    assert on_disk(tmp_path / "content") == {"b": data[1_000:1_500]}
    content.close()


def test_empty_files_are_made_only_if_they_are_wanted(tmp_path: Path) -> None:
    for wanted in ({A}, {EMPTY}):
        content = opened(tmp_path / "content", wanted)
        content.prepare()
        assert list(on_disk(tmp_path / "content")) == (["empty"] if EMPTY in wanted else [])
        content.close()


def test_what_is_kept_aside_is_read_like_the_rest(tmp_path: Path) -> None:
    content = opened(tmp_path / "content", {D})
    fetch(content, 2, 3, 4, 5, 6)
    assert get(content, 2_000, 4_500) == DATA[2_000:6_500]
    assert get(content, 2_299, 152) == DATA[2_299:2_451]
    segments = content.segments(2_000, 1_000)
    assert [(path and os.path.basename(path), length) for path, _, length in segments] == [
        (SIDE, 300),
        (SIDE, 150),
        ("d", 550),
    ]
    read = b"".join(Path(path or "").read_bytes()[offset : offset + length] for path, offset, length in segments)
    assert read == piece_of(2)
    content.close()


def test_a_piece_of_no_wanted_file_is_a_bug(tmp_path: Path) -> None:
    content = opened(tmp_path / "content", {A})
    with pytest.raises(RuntimeError, match="piece 4 is of no wanted file"):
        fetch(content, 4)
    content.close()


def test_space_is_needed_for_what_is_wanted_and_aside(tmp_path: Path) -> None:
    content = opened(tmp_path / "content", {A, F})
    assert space_needed(content) == 2_300 + 450 + 150 + 550 + 50  # piece 2: b/c, b/d; piece 9: e
    fetch(content, 2)
    assert space_needed(content) <= 2_300 + 450 + 50
    content.close()


def test_what_is_claimed(tmp_path: Path) -> None:
    first = opened(tmp_path / "content", {A})
    other = opened(tmp_path / "content", {D})
    torrent_of_d = Content(
        torrent([("d", 5)], content=b"other", name="b"), tmp_path / "content" / "b", FilePool(), writable=True
    )
    with FilesClaimed(first, [tmp_path / "state"]):
        with FilesClaimed(torrent_of_d, [tmp_path / "state"]):
            pass  # a file that the first one does not want
        with pytest.raises(StorageError, match="is writing to it") as caught:
            FilesClaimed(other, [tmp_path / "state"])
    assert caught.value.path.endswith(SIDE)


# --- several runs ------------------------------------------------------------------------------------------------


def test_the_same_again_fetches_and_hashes_nothing(tmp_path: Path) -> None:
    top, state = tmp_path / "content", tmp_path / "state"
    whole_run(top, state, {A, E})
    pieces = set(pieces_of_files(METAINFO, {A, E}))
    assert had(top, state, {A, E}) == (pieces, pieces)


def test_a_wider_selection_uses_the_side_file(tmp_path: Path) -> None:
    top, state = tmp_path / "content", tmp_path / "state"
    whole_run(top, state, {A})
    assert had(top, state, {A, C, D}) == ({0, 1, 2}, {0, 1, 2})
    whole_run(top, state, {A, C, D})
    assert expected(A, C, D).items() <= on_disk(top).items()
    whole_run(top, state, None)
    assert on_disk(top) == expected(A, C, D, EMPTY, E, F)
    assert had(top, state, None) == (set(range(COUNT)), set(range(COUNT)))


def test_a_narrower_selection_keeps_what_is_there(tmp_path: Path) -> None:
    top, state = tmp_path / "content", tmp_path / "state"
    whole_run(top, state, {A, C, D})
    whole_run(top, state, {A})
    assert on_disk(top) == expected(A, C, D) | {SIDE: (top / SIDE).read_bytes()}
    assert had(top, state, {A})[0] == {0, 1, 2, 3, 4, 5, 6}
    (top / "b" / "d").unlink()  # to save space
    trusted, have = had(top, state, {A})
    assert have == {0, 1}
    assert trusted == {0, 1}
    whole_run(top, state, {A})
    assert had(top, state, {A}) == ({0, 1, 2}, {0, 1, 2})
    assert not (top / "b" / "d").exists()


def test_without_a_record_all_that_is_there_is_found(tmp_path: Path) -> None:
    top = tmp_path / "content"
    whole_run(top, tmp_path / "state", {A, E})
    pieces = set(pieces_of_files(METAINFO, {A, E}))
    assert had(top, tmp_path / "nothing", {A, E}) == (set(), pieces)
    whole_run(top, tmp_path / "state", {A, E}, recheck=True)
    assert had(top, tmp_path / "state", {A, E}) == (pieces, pieces)


def test_verify_reads_what_is_aside(tmp_path: Path) -> None:
    top = tmp_path / "content"
    whole_run(top, tmp_path / "state", {A, E})
    found = verify(METAINFO, top)
    assert set(found.have) == set(pieces_of_files(METAINFO, {A, E}))
    assert [path for path, status in found.files if status == "ok"] == ["content/a", "content/e"]
    (top / SIDE).unlink()
    assert set(verify(METAINFO, top).have) == {0, 1, 7, 8}


def test_verify_calls_a_file_bad_of_which_a_part_is_aside(tmp_path: Path) -> None:
    top = tmp_path / "content"
    content = opened(top, None)
    fetch(content, 3, 4, 5, 6)  # all of d, but for its beginning
    content.close()
    whole_run(top, tmp_path / "state", {A})
    found = verify(METAINFO, top)
    assert {2, 3, 4, 5, 6} <= set(found.have)
    assert dict(found.files)["content/b/d"] == "bad"
    assert not found.complete


# --- what is in the way, changed or damaged ----------------------------------------------------------------------


def test_a_file_that_is_not_wanted_is_never_in_the_way(tmp_path: Path) -> None:
    top, state = tmp_path / "content", tmp_path / "state"
    (top / "b").mkdir(parents=True)
    (top / "b" / "c").write_bytes(b"somebody's own, and longer than the torrent says" * 10)
    (top / "b" / "d").write_bytes(bytes(4_000))
    before = on_disk(top)
    whole_run(top, state, {A})
    assert before.items() <= on_disk(top).items()
    with pytest.raises(StorageError, match="longer than the 150 bytes"):
        whole_run(top, state, {A, C})
    with pytest.raises(StorageError, match="not one valid piece"):
        whole_run(top, state, {A, D})
    assert before.items() <= on_disk(top).items()


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("keep_record", [True, False])
@pytest.mark.parametrize(("index", "name", "theirs"), [(C, "c", b"own"), (C, "c", b"o" * 150), (D, "d", b"o" * 100)])
def test_nothing_comes_home_into_a_file_of_somebody_else(
    tmp_path: Path, index: int, name: str, theirs: bytes, keep_record: bool, runs: int
) -> None:
    """All that the content of a file has on disk, or its beginning, is in the side file; in its place is another."""
    top, state = tmp_path / "content", tmp_path / "state"
    (top / "b").mkdir(parents=True)
    (top / "b" / name).write_bytes(theirs)
    for _ in range(runs):
        whole_run(top, state, {A})
    with pytest.raises(StorageError, match="not one valid piece"):
        whole_run(top, state if keep_record else tmp_path / "other", {A, index})
    assert (top / "b" / name).read_bytes() == theirs


def test_a_side_file_that_is_gone_is_not_believed_in(tmp_path: Path) -> None:
    """Its place is taken by a file that was not wanted and has other bytes there, which no record knows."""
    top, state = tmp_path / "content", tmp_path / "state"
    (top / "b").mkdir(parents=True)
    (top / "b" / "c").write_bytes(bytes(150))
    (top / "b" / "d").write_bytes(bytes(4_000))
    whole_run(top, state, {A})
    (top / SIDE).unlink()
    assert had(top, state, {A}) == ({1}, {0, 1})  # what can have been in it is hashed
    whole_run(top, state, {A})
    assert had(top, state, {A}) == ({0, 1, 2}, {0, 1, 2})


@pytest.mark.parametrize("at", [0, 20, len(HEAD) + 20, len(HEAD) + 20 + 5, len(HEAD) + 20 + ENTRY.size + 3])
def test_damage_is_noticed(tmp_path: Path, at: int) -> None:
    top, state = tmp_path / "content", tmp_path / "state"
    whole_run(top, state, {A, E})
    data = bytearray((top / SIDE).read_bytes())
    data[at] ^= 1
    (top / SIDE).write_bytes(data)
    assert had(top, state, {A, E})[1] < set(pieces_of_files(METAINFO, {A, E}))
    whole_run(top, state, {A, E})
    assert had(top, state, {A, E}) == (set(pieces_of_files(METAINFO, {A, E})),) * 2
    assert verify(METAINFO, top).have.count == len(pieces_of_files(METAINFO, {A, E}))


@pytest.mark.parametrize(
    "fields", [(A, 1, 1_000), (A, 2, 299), (D, 9, 0), (EMPTY, 6, 0), (7, 0, 0), (2**32 - 1, 2**32 - 1, 2**32 - 1)]
)
def test_an_entry_that_cannot_be_ends_it(tmp_path: Path, fields: tuple[int, int, int]) -> None:
    import zlib  # as a foreign hand would make one

    top = tmp_path / "content"
    whole_run(top, tmp_path / "state", {A})
    known = ENTRY.pack(b"part", *fields, 0)[:-4]
    forged = known + zlib.crc32(known).to_bytes(4, "big") + bytes(1_000)
    for data in (HEAD + METAINFO.info_hash + forged, (top / SIDE).read_bytes() + forged):
        (top / SIDE).write_bytes(data)
        content = opened(top, {A})
        load_side(content)
        assert (top / SIDE).stat().st_size == len(data) - len(forged)
        content.close()


def test_an_entry_whose_check_sum_is_wrong_ends_it(tmp_path: Path) -> None:
    top = tmp_path / "content"
    whole_run(top, tmp_path / "state", {A})
    data = (top / SIDE).read_bytes()
    start = len(HEAD) + 20
    (top / SIDE).write_bytes(data[:start] + b"void" + data[start + 4 :])
    content = opened(top, {A})
    load_side(content)
    assert (top / SIDE).read_bytes() == data[:start]
    content.close()


def test_a_second_entry_of_a_part_ends_it(tmp_path: Path) -> None:
    top = tmp_path / "content"
    whole_run(top, tmp_path / "state", {A})
    data = (top / SIDE).read_bytes()
    (top / SIDE).write_bytes(data + data[len(HEAD) + 20 :])
    load_side(opened(top, {A}))
    assert (top / SIDE).read_bytes() == data


@pytest.mark.parametrize(("bound", "found"), [(4, 4), (3, 3)])
def test_so_many_entries_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: int, found: int) -> None:
    top = tmp_path / "content"
    whole_run(top, tmp_path / "state", {A, E})
    monkeypatch.setattr(limits, "SIDE_ENTRIES", bound)
    content = opened(top, {A, E})
    load_side(content)
    assert content.side is not None
    assert sum(len(content.side.pieces_of(index)) for index in content.side.files()) == found
    content.close()


# --- any order of things -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
def test_selections_come_and_go_and_runs_are_cut_short(tmp_path: Path, seed: int) -> None:
    """Nothing is believed that is not there (``run`` looks), nothing is made that was never wanted, nothing is lost."""
    rng = random.Random(seed)
    top, state = tmp_path / "content", tmp_path / "state"
    ever: set[int] = set()
    durable: set[int] = set()
    for turn in range(12):
        wanted = {index for index in (A, C, D, EMPTY, E, F) if rng.random() < 0.4} or {E}
        ever |= wanted
        have = had(top, state, wanted)[1]
        assert durable <= have
        steps = rng.randrange(40) if rng.random() < 0.6 else -1
        for number, _ in enumerate(run(top, state, wanted, random.Random(turn), recheck=rng.random() < 0.2)):
            if number == steps:
                break
        else:
            assert expected(*wanted).items() <= on_disk(top).items()
        record = load(state, METAINFO.info_hash, top)
        durable = set(record.have) if record is not None else set()
        assert {name for name in on_disk(top) if name != SIDE} <= set(expected(*ever))
        if rng.random() < 0.15 and (top / SIDE).exists():
            (top / SIDE).unlink()
            durable &= had(top, state, wanted)[1]
    whole_run(top, state, None)
    assert on_disk(top) == expected(A, C, D, EMPTY, E, F)


def test_killed_at_every_call_of_a_run_that_widens(tmp_path: Path) -> None:
    """kill -9 at some system call of the run in which parts come home: no piece is lost, nothing false is believed."""
    kills = 0
    for at in range(1, 400, 3):
        top, state = tmp_path / str(at), tmp_path / f"state {at}"
        whole_run(top, state, {A, E})
        pid = os.fork()
        if pid == 0:
            with pytest.MonkeyPatch.context() as patch:
                at_the_nth_call(patch, at, lambda: os.kill(os.getpid(), signal.SIGKILL))
                whole_run(top, state, {A, C, D, E})
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status == 0:
            break
        assert status == signal.SIGKILL
        kills += 1
        for wanted in ({A, E}, {A, C, D, E}, None):
            assert set(pieces_of_files(METAINFO, {A, E})) <= had(top, state, wanted)[1]
        whole_run(top, state, None)
        assert on_disk(top) == expected(A, C, D, EMPTY, E, F)
    assert kills >= 20


def test_what_comes_home_is_durable_before_the_side_file_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, state = tmp_path / "content", tmp_path / "state"
    whole_run(top, state, {A, E})
    done: list[tuple[str, str]] = []
    for name in ("pwritev", "fsync"):
        real = getattr(os, name)

        def noting(fd: int, *rest: Any, name: str = name, real: Callable[..., Any] = real) -> Any:
            done.append((name, os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))
            return real(fd, *rest)

        monkeypatch.setattr(os, name, noting)
    whole_run(top, state, {A, D, E})
    let_go = done.index(("pwritev", SIDE))
    assert done.index(("pwritev", "d")) < done.index(("fsync", "d")) < let_go
    assert done.index(("fsync", "b")) < let_go  # the folder
