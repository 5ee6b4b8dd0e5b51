"""The log file: of every command, with what was asked, what happened and how it ended."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from btor.cli.lines import Quiet
from btor.cli.logs import EventLog, run_logged
from btor.cli.options import Voice
from btor.cli.transfer import Goal, Job, Transfer
from btor.engine import events
from btor.errors import MetainfoError
from btor.settings import Settings
from tests.cli.fakes import INFO_HASH, FakeSession, FakeTorrent, fails, progress
from tests.cli.running import CONTENT, TORRENTS, Here, child

SMALL = TORRENTS / "one-small-piece.torrent"
NAME = "one-small-piece.txt"


@pytest.mark.parametrize(
    ("command", "status", "last"),
    [
        (["info", SMALL], 0, "ended with 0"),
        (["info", "none"], 4, "ERROR btor.cli: read none: No such file or directory"),
        (["magnet", SMALL], 0, "ended with 0"),
        (["verify", SMALL, CONTENT], 0, "ended with 0"),
        (["verify", SMALL, TORRENTS], 6, "ended with 6"),
        (["create", CONTENT / NAME, "-o", "x.torrent"], 0, "ended with 0"),
        (["tracker", "--interval", "25h"], 2, "ERROR btor.cli: tracker: --interval: between 1s and 24h"),
        (["swarm", "none", "none"], 4, "ERROR btor.cli: read none: No such file or directory"),
        (["seed", "none", "none"], 4, "ended with 4"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else "",
)
def test_every_command_keeps_one(
    btor: Here,
    command: list[str | Path],
    status: int,
    last: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BTOR_STATE_DIR", str(tmp_path))
    ended = btor(*command, "--log-file", "log")
    assert ended.status == status
    lines = (tmp_path / "log").read_text().splitlines()
    assert f"btor {command[0]} " in lines[0]
    assert lines[-1].endswith(last)
    errors = [line for line in lines if " ERROR " in line]
    assert len(errors) == ended.err.count("btor: ")
    assert not logging.getLogger("btor").handlers


def test_of_a_download(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    shutil.copy(CONTENT / NAME, tmp_path / "here")
    command: list[str | Path] = [
        "download",
        SMALL,
        "-d",
        tmp_path / "here",
        "--no-trackers",
        "-p",
        "0",
        "--bind",
        "127.0.0.1",
        "--json",
    ]
    for _ in range(2):
        ended = child([*command, "--log-file", tmp_path / "log", "--state-dir", tmp_path])
        assert (ended.status, ended.err) == (0, "")
    log = (tmp_path / "log").read_text()
    assert log.count("listening on port") == 2  # appended
    assert log.count(f"INFO btor.cli: {NAME}: complete and verified") == 2


def run_transfer(verbosity: int, session: FakeSession, path: Path) -> int:
    def run() -> int:
        voice = Voice(verbosity=verbosity)
        return Transfer([Job(source="a.torrent")], Goal(), Settings(), voice, Quiet(), session.open).run()

    return run_logged(run, path, verbosity, ["download", "a.torrent"])


async def logs(torrent: FakeTorrent) -> None:
    log = logging.getLogger("btor.engine.fake")
    log.warning("odd: %s", "a\x1b[2Jb\nc")
    log.debug("detail")
    torrent.tell(events.PeerChange, address="a", client="c", change="connected", reason="")
    torrent.finish()


def test_it_holds_more_than_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_transfer(0, FakeSession({"a.torrent": logs}), tmp_path / "log") == 0
    text = (tmp_path / "log").read_text()
    assert "WARNING btor.engine.fake: odd: a\ufffd[2Jb\ufffdc\n" in text
    assert "detail" not in text
    assert "connected" not in text
    assert capsys.readouterr().err == ""


def test_v_raises_it(tmp_path: Path) -> None:
    assert run_transfer(2, FakeSession({"a.torrent": logs}), tmp_path / "log") == 0
    text = (tmp_path / "log").read_text()
    assert "detail" in text
    assert "a c: connected" in text


def test_an_error_of_a_torrent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = FakeSession({"a.torrent": fails(MetainfoError("info", "is missing"))})
    assert run_transfer(0, session, tmp_path / "log") == 3
    assert (tmp_path / "log").read_text().count("ERROR btor.cli: a: info: is missing\n") == 1
    assert capsys.readouterr().err == "btor: a: info: is missing\n"


def test_progress_now_and_then(tmp_path: Path) -> None:
    def run() -> int:
        log = EventLog()
        log.on_event(
            events.Started(time=0.0, info_hash=INFO_HASH, name="x", total_bytes=1, piece_length=1, pieces=1, port=1)
        )
        for second in range(1, 182):
            log.on_event(progress(time=1_000.0 + second))
        return 0

    run_logged(run, tmp_path / "log", 0, [])
    assert (tmp_path / "log").read_text().count("x: 25.0 %") == 4


def test_one_that_cannot_be_had(btor: Here, tmp_path: Path) -> None:
    ended = btor("info", SMALL, "--log-file", tmp_path / "no" / "log")
    assert (ended.status, ended.out) == (4, "")
    assert ended.err == f"btor: open {tmp_path}/no/log: No such file or directory\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_ends_nothing_but_the_log(btor: Here) -> None:
    ended = btor("info", SMALL, "--log-file", "/dev/full")
    assert ended.status == 0
    assert ended.err == "btor: write /dev/full: No space left on device: the log has gaps\n"
