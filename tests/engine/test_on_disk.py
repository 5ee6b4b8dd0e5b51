"""What a session finds on disk, trusts, checks, leaves alone and keeps for the next run."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from btor import limits
from btor.engine import keeper
from btor.engine.events import Checked, Complete, Progress, Started, Warned
from btor.engine.session import Session
from btor.engine.torrent import Torrent
from btor.errors import IncompleteError, StorageError
from btor.limits import BLOCK, CHECKPOINT_PERIOD
from btor.storage import state, system
from btor.storage.checkpoint import Checkpoint
from btor.storage.claims import FilesClaimed, user_folder
from btor.storage.files import Content
from btor.storage.pool import FilePool
from tests.engine.support import Lab, Sample, folder_sample, next_event, sample, scenario, until
from tests.simulated.scripted_peer import INTERESTED, REQUEST, UNCHOKE

CONTENT = sample(40 * 2 * BLOCK - 777)
FILES = folder_sample([("a", 100_000), ("b/c", 0), ("b/d", 200_000), ("e", 5), ("f", 300_000)])


@asynccontextmanager
async def run(
    lab: Lab, content: Sample, *peers: Torrent, folder: Path, settings: dict[str, Any] | None = None, **add: Any
) -> AsyncIterator[Torrent]:
    """One run of a program that downloads into ``folder`` and keeps its state beside it."""
    state = folder.parent / "state"
    async with lab.open(**{"state_dir": state, **(settings or {})}) as session:
        addresses = [lab.address(peer.session) for peer in peers]
        yield await session.add(content.metainfo, directory=folder, peers=addresses, **add)


async def checked(found: Torrent) -> Checked:
    return await next_event(found, Checked)


def hashed(found: Torrent) -> int:
    """Pieces that the check hashed."""
    return found.keeper.checked_pieces


async def failure(found: Torrent) -> StorageError:
    with pytest.raises(StorageError) as caught:
        await found.wait_complete()
    return caught.value


def tree(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Everything below ``folder``: bytes, inode and time of each file."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- from one run to the next ----------------------------------------------------------------------------------------


@scenario(both=True)
@pytest.mark.parametrize("content", [CONTENT, FILES], ids=["file", "folder"])
async def test_after_a_complete_run_nothing_is_hashed(lab: Lab, content: Sample) -> None:
    folder = lab.place() / "content"
    async with run(lab, content, await lab.seed(content), folder=folder) as first:
        await first.wait_complete()
    async with run(lab, content, folder=folder) as second:
        await second.wait_complete()
        found = await checked(second)
        assert (found.from_, found.have_pieces) == ("resume", content.pieces)
        assert hashed(second) == 0


@scenario()
async def test_after_an_orderly_end_hardly_anything_is_hashed(lab: Lab) -> None:
    folder = lab.place() / "content"
    seeder = await lab.seed(CONTENT, lab.host(up=200_000))
    async with run(lab, CONTENT, seeder, folder=folder) as first:
        await next_event(first, Progress, lambda event: event.have_pieces >= 15)
        assert first.transfer is not None
        opened = len(first.transfer.picker._open)
        have = first.status().have_pieces
    async with run(lab, CONTENT, seeder, folder=folder) as second:
        found = await checked(second)
        assert found.have_pieces >= have
        assert hashed(second) <= opened + found.have_pieces - have
        await second.wait_complete()
        assert second.status().downloaded <= len(CONTENT.content) - (have - opened) * 2 * BLOCK
    assert CONTENT.is_at(folder / "content")


@scenario()
async def test_runs_that_end_at_any_moment(lab: Lab) -> None:
    folder = lab.place() / "content"
    seeder = await lab.seed(CONTENT, lab.host(up=300_000))
    downloaded = have = runs = 0
    while True:
        runs += 1
        async with run(lab, CONTENT, seeder, folder=folder) as found:
            assert (await checked(found)).have_pieces >= have
            with trio.move_on_after(lab.rng.uniform(0.01, 1.5)):
                await found.wait_complete()
            have = found.status().have_pieces
            downloaded += found.status().downloaded
            if found.complete:
                break
    assert CONTENT.is_at(folder / "content")
    assert runs > 3
    assert downloaded <= len(CONTENT.content) + runs * 10 * BLOCK


@scenario()
async def test_a_run_that_was_killed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the last checkpoint names is trusted after a sample, what is on disk besides is hashed and kept."""
    monkeypatch.setattr(limits, "RESUME_SAMPLE", 4 * 2 * BLOCK)
    home, copy = lab.place(), lab.place()
    seeder = await lab.seed(CONTENT, lab.host(up=100_000))
    async with run(lab, CONTENT, seeder, folder=home / "content") as first:
        await trio.sleep(CHECKPOINT_PERIOD + 3)
        have = first.status().have_pieces
        before = os.stat(home / "content" / "content")
        shutil.copytree(home, copy)
    os.rename(home, home.with_name("gone"))  # the killed one's lock is the system's to release
    os.rename(copy, home)
    (home / "content" / "content").unlink()
    os.link(home.with_name("gone") / "content" / "content", home / "content" / "content")
    assert os.stat(home / "content" / "content").st_ino == before.st_ino
    async with run(lab, CONTENT, seeder, folder=home / "content") as second:
        found = await checked(second)
        assert found.have_pieces >= have
        assert 0 < hashed(second) < found.have_pieces
        await second.wait_complete()
    assert CONTENT.is_at(home / "content" / "content")


@scenario()
@pytest.mark.parametrize("good", [0, 1])
async def test_F4_what_was_put_in_the_place_of_a_killed_runs_file(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    """Same size, same inode, a later time: the bytes tell."""
    monkeypatch.setattr(limits, "RESUME_SAMPLE", 4 * 2 * BLOCK)
    folder = lab.place() / "content"
    records = folder.parent / "state" / state.FOLDER
    seeder = await lab.seed(CONTENT, lab.host(up=100_000))
    async with run(lab, CONTENT, seeder, folder=folder) as first:
        await trio.sleep(CHECKPOINT_PERIOD + 3)
        (record,) = records.glob("*.resume")
        killed = record.read_bytes()
        have = first.status().have_pieces
    record.write_bytes(killed)
    foreign = bytearray(b"!" * len(CONTENT.content))
    foreign[5 * 2 * BLOCK : (5 + good) * 2 * BLOCK] = CONTENT.content[5 * 2 * BLOCK : (5 + good) * 2 * BLOCK]
    (folder / "content").write_bytes(foreign)
    async with run(lab, CONTENT, seeder, folder=folder) as second:
        if good:
            found = await checked(second)
            assert found.have_pieces == 1
            assert hashed(second) > have / 2
            assert [message for message in second.keeper.warnings if "changed" in message]
            await second.wait_complete()
        else:
            error = await failure(second)
            assert (error.operation, error.path) == ("keep", str(folder / "content"))
    assert (folder / "content").read_bytes() == (CONTENT.content if good else foreign)


@scenario()
async def test_uploaded_and_downloaded_go_on(lab: Lab) -> None:
    """Over all runs, for who looks into the record; an announce counts the run alone."""
    folder = lab.place() / "content"
    seeder = await lab.seed(CONTENT)
    async with run(lab, CONTENT, seeder, folder=folder) as first:
        await first.wait_complete()
    async with run(lab, CONTENT, folder=folder) as second:
        await second.wait_complete()
        assert second.announce_counters() == (0, 0, 0)
        assert second.keeper._past == (0, len(CONTENT.content))


@scenario()
async def test_what_a_check_found_is_kept_without_a_download(lab: Lab) -> None:
    folder = lab.place() / "content"
    folder.mkdir(parents=True)
    (folder / "content").write_bytes(CONTENT.content[: 20 * 2 * BLOCK])
    copy = lab.place()
    async with run(lab, CONTENT, folder=folder) as first:
        assert (await checked(first)).from_ == "hash"
        await trio.sleep(CHECKPOINT_PERIOD + 1)
        shutil.copytree(folder.parent / "state", copy)
    shutil.rmtree(folder.parent / "state")
    shutil.copytree(copy, folder.parent / "state")
    async with run(lab, CONTENT, folder=folder) as second:
        found = await checked(second)
        assert (found.from_, found.have_pieces) == ("resume", 20)
        assert hashed(second) == 0


@scenario()
async def test_records_are_written_only_of_what_changed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[str] = []
    save = Checkpoint.save

    def count(checkpoint: Checkpoint, snapshot: Any) -> None:
        saved.append(checkpoint._content.metainfo.name)
        save(checkpoint, snapshot)

    other = sample(name="other", seed=2)
    monkeypatch.setattr(Checkpoint, "save", count)
    session = await lab.session(state_dir=lab.place())
    seeder = await lab.seed(CONTENT, lab.host(up=50_000))
    await session.add(other.metainfo, directory=lab.place())
    await session.add(CONTENT.metainfo, directory=lab.place(), peers=[lab.address(seeder.session)])
    await trio.sleep(4 * CHECKPOINT_PERIOD + 1)
    assert set(saved) == {"content"}
    assert 3 <= len(saved) <= 4


# --- content that is there already -----------------------------------------------------------------------------------


@scenario(both=True)
async def test_whole_content_without_a_record(lab: Lab) -> None:
    folder = lab.place() / "content"
    FILES.write(folder / "folder")
    before = tree(folder)
    async with run(lab, FILES, folder=folder) as found:
        await found.wait_complete()
        assert (await checked(found)).from_ == "hash"
        assert hashed(found) == FILES.pieces
        assert (await next_event(found, Complete)).downloaded == 0
    assert tree(folder) == before


@scenario()
async def test_the_good_part_of_content_is_used(lab: Lab) -> None:
    folder = lab.place() / "content"
    folder.mkdir(parents=True)
    data = bytearray(CONTENT.content)
    data[5 * 2 * BLOCK] ^= 1
    (folder / "content").write_bytes(data[: 30 * 2 * BLOCK + 100])
    async with run(lab, CONTENT, await lab.seed(CONTENT), folder=folder) as found:
        assert (await checked(found)).have_pieces == 29
        await found.wait_complete()
        assert found.status().downloaded == len(CONTENT.content) - 29 * 2 * BLOCK
    assert CONTENT.is_at(folder / "content")


@scenario()
async def test_output_names_the_content(lab: Lab) -> None:
    session = await lab.session()
    seeder = await lab.seed(CONTENT)
    place = lab.place() / "in" / "here.bin"
    found = await session.add(CONTENT.metainfo, output=place, peers=[lab.address(seeder.session)])
    await found.wait_complete()
    assert place.read_bytes() == CONTENT.content


@scenario(both=True)
@pytest.mark.parametrize("length", [100, len(CONTENT.content), len(CONTENT.content) + 1])
async def test_a_file_in_the_way(lab: Lab, length: int) -> None:
    folder = lab.place() / "content"
    folder.mkdir(parents=True)
    (folder / "content").write_bytes(b"\xaa" * length)
    before = tree(folder)
    async with run(lab, CONTENT, await lab.seed(CONTENT), folder=folder) as found:
        error = await failure(found)
        assert error.exit_status == 4
        assert error.path == str(folder / "content")
        assert "--overwrite" in error.reason
    assert tree(folder) == before
    async with run(lab, CONTENT, folder=folder) as found:  # nor is it taken for btor's own by the next run
        await failure(found)
    assert tree(folder) == before


@scenario()
async def test_a_longer_file_with_good_pieces_is_left_alone(lab: Lab) -> None:
    folder = lab.place() / "content"
    folder.mkdir(parents=True)
    (folder / "content").write_bytes(CONTENT.content + b"more")
    before = tree(folder)
    async with run(lab, CONTENT, folder=folder) as found:
        assert "longer" in (await failure(found)).reason
    assert tree(folder) == before


@scenario()
@pytest.mark.parametrize("length", [100, len(CONTENT.content), len(CONTENT.content) + 1])
async def test_overwrite(lab: Lab, length: int) -> None:
    folder = lab.place() / "content"
    folder.mkdir(parents=True)
    (folder / "content").write_bytes(b"\xaa" * length)
    async with run(lab, CONTENT, await lab.seed(CONTENT), folder=folder, overwrite=True) as found:
        await found.wait_complete()
    assert (folder / "content").read_bytes() == CONTENT.content


@scenario()
async def test_a_folder_in_the_way(lab: Lab) -> None:
    folder = lab.place() / "content"
    (folder / "content").mkdir(parents=True)
    async with run(lab, CONTENT, folder=folder) as found:
        assert (await failure(found)).path == str(folder / "content")


@scenario()
async def test_a_link_in_the_way(lab: Lab) -> None:
    folder = lab.place() / "content"
    folder.mkdir(parents=True)
    target = lab.folder / "target"
    target.write_bytes(b"precious")
    (folder / "content").symlink_to(target)
    async with run(lab, CONTENT, await lab.seed(CONTENT), folder=folder, overwrite=True) as found:
        assert "link" in (await failure(found)).reason
    assert target.read_bytes() == b"precious"


@scenario(both=True)
async def test_content_that_changed_since_the_last_run(lab: Lab) -> None:
    folder = lab.place() / "content"
    seeder = await lab.seed(FILES)
    async with run(lab, FILES, seeder, folder=folder) as first:
        await first.wait_complete()
    changed = folder / "folder" / "b" / "d"
    data = bytearray(changed.read_bytes())
    data[3 * 2 * BLOCK] ^= 1
    changed.write_bytes(data)
    os.utime(changed, ns=(1, 1))
    async with run(lab, FILES, seeder, folder=folder) as second:
        found = await checked(second)
        assert found.from_ == "hash"
        assert found.have_pieces == FILES.pieces - 1
        assert 0 < hashed(second) <= 200_000 // (2 * BLOCK) + 2  # that file alone
        assert second.keeper.warnings == [f"{changed} changed since the last run: hashed again"]
        await second.wait_complete()
    assert FILES.is_at(folder / "folder")


@scenario()
async def test_a_file_that_was_deleted_since_the_last_run(lab: Lab) -> None:
    folder = lab.place() / "content"
    seeder = await lab.seed(FILES)
    async with run(lab, FILES, seeder, folder=folder) as first:
        await first.wait_complete()
    (folder / "folder" / "f").unlink()
    async with run(lab, FILES, seeder, folder=folder) as second:
        events = second.events()
        await second.wait_complete()
        await second.remove()
        (warned,) = [event async for event in events if isinstance(event, Warned)]
        assert warned.message.startswith(str(folder / "folder" / "f"))
    assert FILES.is_at(folder / "folder")


@scenario()
@pytest.mark.parametrize("dirty", [0, 1])
async def test_what_was_found_by_hashing_is_not_hashed_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, dirty: int
) -> None:
    """However much it is: only much that was just downloaded is not worth a sync at the end."""
    monkeypatch.setattr(keeper, "SMALL_SYNC", 4 * BLOCK)
    folder = lab.place() / "content"
    CONTENT.write(folder / "content")
    if dirty:
        with open(folder / "content", "r+b") as file:  # noqa: ASYNC230  # one write
            file.write(bytes(10))
    seeder = await lab.seed(CONTENT)
    async with run(lab, CONTENT, seeder, folder=folder) as first:
        await first.wait_complete()
    assert (await checked(first)).from_ == "hash"
    async with run(lab, CONTENT, folder=folder) as second:
        assert (await checked(second)).from_ == "resume"
        assert hashed(second) == 0


@scenario()
async def test_recheck(lab: Lab) -> None:
    folder = lab.place() / "content"
    seeder = await lab.seed(CONTENT)
    async with run(lab, CONTENT, seeder, folder=folder) as first:
        await first.wait_complete()
    state = os.stat(folder / "content")
    with open(folder / "content", "r+b") as file:  # noqa: ASYNC230  # one write
        file.seek(5 * 2 * BLOCK)
        file.write(bytes(10))
    os.utime(folder / "content", ns=(state.st_mtime_ns, state.st_mtime_ns))
    async with run(lab, CONTENT, folder=folder) as deceived:
        assert (await checked(deceived)).have_pieces == CONTENT.pieces
    async with run(lab, CONTENT, seeder, folder=folder, recheck=True) as second:
        assert (await checked(second)).have_pieces == CONTENT.pieces - 1
        assert hashed(second) == CONTENT.pieces
        await second.wait_complete()
    assert CONTENT.is_at(folder / "content")


# --- who may work on it, and where the state is ----------------------------------------------------------------------


@scenario(both=True)
async def test_a_second_session_in_the_same_place(lab: Lab) -> None:
    folder = lab.place() / "content"
    async with run(lab, CONTENT, folder=folder) as first:
        await checked(first)
        async with run(lab, CONTENT, folder=folder) as second:
            error = await failure(second)
            assert error.operation == "lock"
            assert f"process {os.getpid()}" in error.reason
        assert first.error is None
    async with run(lab, CONTENT, await lab.seed(CONTENT), folder=folder) as third:
        await third.wait_complete()


@scenario()
@pytest.mark.parametrize("where", ["the same session", "another state folder", "no state folder"])
async def test_F7_another_torrent_that_names_the_same_file(lab: Lab, where: str) -> None:
    folder = lab.place() / "content"
    other = sample(100_000, seed=2)
    async with run(lab, CONTENT, await lab.seed(CONTENT), folder=folder, settings={"max_download": 100_000}) as first:
        await checked(first)
        if where == "the same session":
            second = await first.session.add(other.metainfo, directory=folder, overwrite=True)
            error = await failure(second)
        else:
            state_dir = lab.place() if where == "another state folder" else None
            async with run(lab, other, folder=folder, settings={"state_dir": state_dir}, overwrite=True) as second:
                error = await failure(second)
        assert (error.operation, error.path, error.exit_status) == ("lock", str(folder / "content"), 4)
        assert f"process {os.getpid()}" in error.reason
        await first.wait_complete()
    assert CONTENT.is_at(folder / "content")


@scenario()
async def test_a_seed_and_a_download_in_one_place(lab: Lab) -> None:
    """A seed only reads."""
    folder = lab.place() / "content"
    async with (
        run(lab, CONTENT, await lab.seed(CONTENT), folder=folder, settings={"max_download": 100_000}) as first,
        lab.open() as session,
        lab.open() as session2,
    ):
        await until((folder / "content").exists)
        for one in (session, session2):
            reader = await one.add(CONTENT.metainfo, output=folder, seed_only=True, partial=True)
            await checked(reader)
        await first.wait_complete()


@scenario()
async def test_where_nobody_can_be_told_who_writes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    (lab.folder / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_STATE_HOME", str(lab.folder / "file"))
    folder = lab.place() / "content"
    async with run(lab, CONTENT, folder=folder, settings={"state_dir": None}) as first:
        await checked(first)
        (warning,) = first.keeper.warnings
        assert warning.startswith("nothing keeps another btor from writing to the same files: ")
    async with run(lab, CONTENT, folder=folder) as first:
        await checked(first)
        assert first.keeper.warnings == []
        async with run(lab, CONTENT, folder=folder) as second:
            assert (await failure(second)).operation == "lock"


@scenario()
async def test_the_place_is_free_when_the_torrent_is_removed(lab: Lab) -> None:
    folder = lab.place() / "content"
    async with run(lab, CONTENT, folder=folder) as first:
        await checked(first)
        await first.remove()
        async with run(lab, CONTENT, folder=folder) as second:
            await checked(second)


@scenario()
async def test_another_place_at_the_same_time(lab: Lab) -> None:
    home = lab.place()
    seeder = await lab.seed(CONTENT)
    async with (
        run(lab, CONTENT, seeder, folder=home / "one") as first,
        run(lab, CONTENT, seeder, folder=home / "other") as second,
    ):
        await first.wait_complete()
        await second.wait_complete()


@scenario(both=True)
async def test_a_state_folder_that_cannot_be_used(lab: Lab) -> None:
    folder = lab.place() / "content"
    folder.mkdir(parents=True)
    (folder.parent / "file").write_bytes(b"")
    bad = folder.parent / "file" / "state"
    seeder = await lab.seed(CONTENT)
    async with run(lab, CONTENT, seeder, folder=folder, settings={"state_dir": bad}) as found:
        await found.wait_complete()
        (warning,) = found.keeper.warnings
        assert "no resume record can be kept" in warning
    assert CONTENT.is_at(folder / "content")


@scenario()
async def test_a_state_folder_that_was_asked_for_by_name(lab: Lab) -> None:
    folder = lab.place() / "content"
    folder.mkdir(parents=True)
    (folder.parent / "file").write_bytes(b"")
    settings = {"state_dir": folder.parent / "file" / "state", "state_dir_required": True}
    async with run(lab, CONTENT, folder=folder, settings=settings) as found:
        error = await failure(found)
        assert error.errno == errno.ENOTDIR
        assert not list(folder.iterdir())


def full(_path: str, _data: bytes) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def warnings_of(found: Torrent, into: list[str]) -> None:
    async for event in found.events():
        if isinstance(event, Warned):
            into.append(event.message)


async def session_warnings(session: Session, into: list[str]) -> None:
    async for event in session.events():
        if isinstance(event, Warned):
            into.append(event.message)


@scenario()
@pytest.mark.parametrize("wait_for_space", [False, True])
async def test_a_state_folder_that_fills_up_later(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, wait_for_space: bool
) -> None:
    """The download is not concerned: one warning, and no record any more."""
    folder = lab.place() / "content"
    seeder = await lab.seed(CONTENT, lab.host(up=50_000))
    warnings: list[str] = []
    async with run(lab, CONTENT, seeder, folder=folder, wait_for_space=wait_for_space) as found:
        await checked(found)
        lab.nursery.start_soon(warnings_of, found, warnings)
        monkeypatch.setattr(state, "_write_durably", full)
        await found.wait_complete()
        await trio.sleep(2 * CHECKPOINT_PERIOD)
        assert found.error is None
        assert found.status().state == "seeding"
    (warning,) = warnings
    assert warning.startswith("no resume record can be kept: write ")
    assert warning.endswith("No space left on device")
    assert CONTENT.is_at(folder / "content")
    monkeypatch.undo()
    async with run(lab, CONTENT, seeder, folder=folder) as again:  # the record before is still good
        await again.wait_complete()
        assert (await checked(again)).have_pieces == CONTENT.pieces


@scenario()
async def test_a_last_record_that_cannot_be_written_is_told_in_the_log_only(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The events have ended by then."""
    folder = lab.place() / "content"
    warnings: list[str] = []
    async with run(lab, CONTENT, folder=folder) as found:
        await checked(found)
        lab.nursery.start_soon(session_warnings, found.session, warnings)
        monkeypatch.setattr(state, "_write_durably", full)
    assert "content: no resume record can be kept: write " in caplog.text
    assert warnings == []


@scenario()
async def test_a_state_folder_that_was_asked_for_by_name_fills_up_later(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Space for the content is not what it would have to wait for."""
    folder = lab.place() / "content"
    seeder = await lab.seed(CONTENT, lab.host(up=50_000))
    settings = {"state_dir_required": True}
    async with run(lab, CONTENT, seeder, folder=folder, settings=settings, wait_for_space=True) as found:
        await checked(found)
        monkeypatch.setattr(state, "_write_durably", full)
        error = await failure(found)
        assert (error.errno, error.exit_status) == (errno.ENOSPC, 4)
        assert str(folder.parent / "state") in error.path


@scenario()
@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("what", [".resume", ".new-"])
async def test_a_state_folder_that_can_only_be_read(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, required: bool, what: str
) -> None:
    folder = lab.place() / "content"
    (folder.parent / "state" / state.FOLDER).mkdir(parents=True)
    real = system.open_file

    def open_file(path: str, flags: int, **options: Any) -> int:
        if what in path:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, **options)

    monkeypatch.setattr(system, "open_file", open_file)
    settings = {"state_dir_required": required}
    async with run(lab, CONTENT, await lab.seed(CONTENT), folder=folder, settings=settings) as found:
        if required:
            assert (await failure(found)).errno == errno.EROFS
            return
        await found.wait_complete()
        (warning,) = found.keeper.warnings
        assert warning.startswith("no resume record can be kept: ")
    assert CONTENT.is_at(folder / "content")
    assert not list((folder.parent / "state" / state.FOLDER).iterdir())


@scenario()
async def test_the_record_is_read_under_the_lock(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it, who writes to the files may still change the record."""
    folder = lab.place() / "content"
    locked: list[bool] = []

    def load(state_dir: Path, _info_hash: bytes, top: Path) -> None:
        content = Content(CONTENT.metainfo, top, FilePool(), writable=True)
        with pytest.raises(StorageError, match="is writing to it"):
            FilesClaimed(content, [folder for folder in [user_folder()] if folder is not None])
        locked.append(True)

    monkeypatch.setattr(keeper, "load", load)
    async with run(lab, CONTENT, folder=folder) as found:
        await checked(found)
    assert locked == [True]


@scenario()
async def test_what_a_killed_process_left_beside_the_record_is_removed(lab: Lab) -> None:
    folder = lab.place() / "content"
    seeder = await lab.seed(CONTENT)
    async with run(lab, CONTENT, seeder, folder=folder) as first:
        await first.wait_complete()
    (record,) = (folder.parent / "state" / state.FOLDER).glob("*.resume")
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:  # noqa: ASYNC220  # it is gone at once
        pass
    left = record.with_name(f"{record.name}.new-{dead.pid}")
    left.write_bytes(b"half a rec")
    async with run(lab, CONTENT, seeder, folder=folder) as second:
        await second.wait_complete()
        assert not left.exists()
        assert hashed(second) == 0


@scenario()
async def test_a_corrupt_record(lab: Lab) -> None:
    folder = lab.place() / "content"
    async with run(lab, CONTENT, await lab.seed(CONTENT), folder=folder) as first:
        await first.wait_complete()
    for path in (folder.parent / "state" / "resume").iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    async with run(lab, CONTENT, folder=folder) as second:
        await second.wait_complete()
        assert hashed(second) == CONTENT.pieces


# --- durability ------------------------------------------------------------------------------------------------------


@scenario(both=True)
@pytest.mark.parametrize("with_state", [True, False])
async def test_sync(lab: Lab, with_state: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With sync=True complete means that every file has been synced since its last write."""
    synced: set[str] = set()
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        synced.add(os.readlink(f"/proc/self/fd/{fd}"))

    monkeypatch.setattr(os, "fsync", fsync)
    folder = lab.place() / "content"
    settings = {} if with_state else {"state_dir": None}
    async with run(lab, FILES, await lab.seed(FILES), folder=folder, settings=settings, sync=True) as found:
        await found.wait_complete()
        top = folder / "folder"
        assert synced >= {str(top / name) for name in ("a", "b/d", "e", "f")}
        assert synced >= {str(top), str(top / "b")}


@scenario()
@pytest.mark.parametrize("with_state", [True, False])
async def test_a_sync_that_fails(lab: Lab, with_state: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/a"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    folder = lab.place() / "content"
    settings = {} if with_state else {"state_dir": None}
    async with run(lab, FILES, await lab.seed(FILES), folder=folder, settings=settings, sync=True) as found:
        error = await failure(found)
        assert (error.operation, error.errno) == ("sync", errno.EIO)


# --- seeding what is there -------------------------------------------------------------------------------------------


async def seed(lab: Lab, content: Sample, top: Path, **add: Any) -> tuple[Session, Torrent]:
    session = await lab.session(state_dir=lab.place())
    return session, await session.add(content.metainfo, output=top, seed_only=True, **add)


@scenario(both=True)
async def test_seeding_writes_nothing(lab: Lab) -> None:
    home = lab.place()
    FILES.write(home / "folder")
    before = tree(home)
    _, seeder = await seed(lab, FILES, home)
    leecher = await lab.leech(FILES, seeder)
    await leecher.wait_complete()
    assert tree(home) == before


@scenario()
async def test_seeding_nothing(lab: Lab) -> None:
    _, seeder = await seed(lab, CONTENT, lab.place() / "nothing")
    assert (await failure(seeder)).errno == errno.ENOENT


@scenario()
@pytest.mark.parametrize("change", ["short", "long", "bad"])
async def test_seeding_what_is_not_whole(lab: Lab, change: str) -> None:
    top = lab.place()
    data = bytearray(CONTENT.content)
    if change == "short":
        del data[-1]
    elif change == "long":
        data += b"x"
    else:
        data[0] ^= 1
    top.write_bytes(data)
    _, seeder = await seed(lab, CONTENT, top)
    if change == "long":  # what is more than the torrent says is none of its business
        await seeder.wait_complete()
        return
    with pytest.raises(IncompleteError) as caught:
        await seeder.wait_complete()
    assert caught.value.exit_status == 6
    assert "1 of 40 pieces" in str(caught.value)


@scenario()
async def test_seeding_a_part(lab: Lab) -> None:
    top = lab.place()
    top.write_bytes(CONTENT.content[: 10 * 2 * BLOCK])
    _, seeder = await seed(lab, CONTENT, top, partial=True)
    await until(lambda: seeder.status().have_pieces == 10)
    peer = await lab.join(seeder, has=range(CONTENT.pieces))
    await peer.send(UNCHOKE)
    await peer.send(INTERESTED)
    await peer.wait_for(UNCHOKE)
    assert await peer.fetch(9, 2 * BLOCK) == CONTENT.piece(9)
    await trio.sleep(5)
    assert not any(said.id in (REQUEST, INTERESTED) for said in peer.heard)
    assert not seeder.complete
    assert top.stat().st_size == 10 * 2 * BLOCK


@scenario()
async def test_two_sessions_may_seed_one_place(lab: Lab) -> None:
    top = lab.place()
    top.write_bytes(CONTENT.content)
    state = lab.place()
    for _ in range(2):
        session = await lab.session(state_dir=state)
        found = await session.add(CONTENT.metainfo, output=top, seed_only=True)
        await found.wait_complete()


@scenario()
async def test_a_seed_that_starts_again_hashes_nothing(lab: Lab) -> None:
    top, state = lab.place(), lab.place()
    top.write_bytes(CONTENT.content)
    for expected in (CONTENT.pieces, 0):
        async with lab.open(state_dir=state) as session:
            found = await session.add(CONTENT.metainfo, output=top, seed_only=True)
            await found.wait_complete()
            assert hashed(found) == expected


@scenario()
async def test_started_comes_before_the_check(lab: Lab) -> None:
    top = lab.place()
    top.write_bytes(CONTENT.content)
    session = await lab.session()
    found = await session.add(CONTENT.metainfo, output=top, seed_only=True)
    events = found.events()
    started = await anext(events)
    assert isinstance(started, Started)
    assert (started.name, started.port, started.pieces) == ("content", session.port, CONTENT.pieces)
    assert found.status().state == "checking"
    await found.wait_complete()
    assert found.status().state == "seeding"
