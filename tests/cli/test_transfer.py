"""What `download` and `seed` do with a session: every way in which they end, and what they say."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from btor.cli.lines import JsonLines, PlainLines, Quiet, Reporter
from btor.cli.options import Voice
from btor.cli.output import ReaderGoneError
from btor.cli.transfer import Goal, Job, Patience, Transfer
from btor.engine import events
from btor.errors import BtorError, IncompleteError, MetainfoError, NetworkError, StorageError, UnsupportedError
from btor.settings import Settings
from tests.cli.fakes import FakeSession, FakeTorrent, Script, completes, fails, progress, waits

LOST = StorageError("write", "/x/y", "Input/output error")


@pytest.fixture(autouse=True)
def on_a_clock_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes as fast as nothing happens; a test that hangs is ended by the outermost deadline."""
    run = trio.run

    def quickly(main: Any, *args: Any) -> Any:
        async def bounded() -> Any:
            with trio.fail_after(100_000):
                return await main(*args)

        return run(bounded, clock=MockClock(autojump_threshold=0))

    monkeypatch.setattr("trio.run", quickly)


def run(
    scripts: dict[str, Script | BtorError],
    *,
    goal: Goal | None = None,
    voice: Voice | None = None,
    reporter: Reporter | None = None,
    jobs: Sequence[Job] | None = None,
    session: FakeSession | None = None,
) -> tuple[int, FakeSession]:
    session = session or FakeSession(scripts)
    voice = voice or Voice()
    reporter = reporter or (JsonLines() if voice.json else PlainLines(voice.verbosity))
    jobs = jobs if jobs is not None else [Job(source=source) for source in scripts]
    status = Transfer(jobs, goal or Goal(), Settings(), voice, reporter, session.open).run()
    return status, session


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_complete_is_zero(capsys: pytest.CaptureFixture[str]) -> None:
    status, session = run({"a.torrent": completes})
    assert status == 0
    assert session.closed
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "a: complete and verified: 4 B in 0:01\n"


def test_what_was_asked_reaches_the_session() -> None:
    job = Job(source="a.torrent", directory="d", overwrite=True, peers=("127.0.0.1:1",), sync=True, recheck=True)
    _, session = run({"a.torrent": completes}, jobs=[job])
    assert session.added["a.torrent"] == {
        "directory": "d",
        "output": None,
        "overwrite": True,
        "recheck": True,
        "seed_only": False,
        "partial": False,
        "peers": ("127.0.0.1:1",),
        "trackers_enabled": True,
        "sync": True,
        "wait_for_space": False,
        "selection": None,
    }


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MetainfoError("info.pieces", "wrong length"), "btor: a.torrent: info.pieces: wrong length"),
        (StorageError("read", "a.torrent", "No such file"), "btor: read a.torrent: No such file"),
    ],
)
def test_errors_of_add(error: BtorError, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run({"a.torrent": error})[0] == error.exit_status
    assert capsys.readouterr().err == f"{line}\n"


def test_an_error_of_the_torrent_is_said_once_and_last(capsys: pytest.CaptureFixture[str]) -> None:
    assert run({"a.torrent": fails(LOST)}, voice=Voice(json=True))[0] == 4
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["event"] for line in lines] == ["started", "stopped", "error"]
    assert lines[-1]["code"] == 4
    assert lines[-1]["kind"] == "storage"
    assert lines[-1]["message"] == "write /x/y: Input/output error"
    assert lines[-1]["info_hash"] == "01" * 20
    assert err == "btor: write /x/y: Input/output error\n"


def test_one_that_fails_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    async def slowly(torrent: FakeTorrent) -> None:
        await trio.sleep(60)
        torrent.finish()

    scripts: dict[str, Script | BtorError] = {"a.torrent": slowly, "b.torrent": fails(LOST), "c.torrent": slowly}
    status, session = run(scripts)
    assert status == 4
    assert session.torrents["b.torrent"].removed
    first, *others, last = capsys.readouterr().err.splitlines()
    assert first == "btor: write /x/y: Input/output error"  # when it happens, and only then
    assert sorted(others) == ["a: complete and verified: 4 B in 0:01", "c: complete and verified: 4 B in 0:01"]
    assert last == "btor: b: failed, see above (1 of 3 torrents failed)"


def test_the_status_is_that_of_the_first_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    async def late(torrent: FakeTorrent) -> None:
        await trio.sleep(60)
        torrent.fail(IncompleteError("parts are missing"))

    status, _ = run({"a.torrent": completes, "b.torrent": late, "c.torrent": LOST}, voice=Voice(json=True))
    assert status == 6
    out, err = capsys.readouterr()
    assert [json.loads(line)["code"] for line in out.splitlines() if '"error"' in line] == [4, 6]
    assert err.count("\n") == 2
    assert last_line(err) == "btor: b: parts are missing"


def test_every_error_is_said_even_if_several_end_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert run({"a.torrent": LOST, "b.torrent": MetainfoError("info", "is missing")})[0] == 4
    err = capsys.readouterr().err
    assert sorted(err.splitlines()[:2]) == ["btor: b.torrent: info: is missing", "btor: write /x/y: Input/output error"]
    assert err.splitlines()[2:] in ([], ["btor: a.torrent: failed, see above (2 of 2 torrents failed)"])


def test_refused_sources_need_no_session(capsys: pytest.CaptureFixture[str]) -> None:
    session = FakeSession({})
    job = Job(source="magnet:?", refused=UnsupportedError("not supported yet"))
    assert run({}, jobs=[job], session=session)[0] == 3
    assert session.settings is None
    assert capsys.readouterr().err == "btor: magnet:?: not supported yet\n"


def test_a_refused_source_does_not_stop_the_others() -> None:
    jobs = [Job(source="a.torrent"), Job(source="magnet:?", refused=UnsupportedError("not supported yet"))]
    status, session = run({"a.torrent": completes}, jobs=jobs)
    assert status == 3
    assert session.torrents["a.torrent"].complete


def test_the_session_itself_can_fail(capsys: pytest.CaptureFixture[str]) -> None:
    class NoPort(FakeSession):
        def open(self, settings: Settings) -> Any:
            raise NetworkError("no port to listen on")

    assert run({"a.torrent": completes}, session=NoPort({}))[0] == 5
    assert capsys.readouterr().err == "btor: no port to listen on\n"


def test_nothing_arrives(capsys: pytest.CaptureFixture[str]) -> None:
    async def stalls(torrent: FakeTorrent) -> None:
        torrent.now = progress(state="waiting", reason="trackers 0/1, 0 peers", downloaded=5)
        await trio.sleep_forever()

    assert run({"a.torrent": stalls}, goal=Goal(timeout=30.0))[0] == 5
    assert capsys.readouterr().err == "btor: a: nothing has arrived for 0:30: trackers 0/1, 0 peers\n"


def test_whatever_arrives_starts_the_time_limit_again() -> None:
    async def drips(torrent: FakeTorrent) -> None:
        for number in range(20):
            await trio.sleep(25)
            torrent.now = progress(downloaded=number)
        torrent.finish()

    assert run({"a.torrent": drips}, goal=Goal(timeout=30.0))[0] == 0


def test_patience_counts_waking_time_only() -> None:
    patience = Patience(10.0)
    waiting = progress(state="waiting")
    assert not patience.is_over(waiting, 0.0)
    assert not patience.is_over(waiting, 1000.0)  # the machine slept: two seconds at most
    for second in range(1, 8):
        assert not patience.is_over(waiting, 1000.0 + second)
    assert patience.is_over(waiting, 1008.0)


@pytest.mark.parametrize("state", ["checking", "disk_full"])
def test_patience_is_about_the_network(state: str) -> None:
    patience = Patience(3.0)
    for second in range(100):
        assert not patience.is_over(progress(state=state), float(second))


def test_seeding_until_the_ratio() -> None:
    async def uploads(torrent: FakeTorrent) -> None:
        torrent.finish()
        for step in range(100):
            torrent.now = progress(uploaded=step * 1_000_000)
            await trio.sleep(10)

    status, session = run({"a.torrent": uploads}, goal=Goal(seed=True, ratio=1.5))
    assert status == 0
    assert session.torrents["a.torrent"].now.uploaded == 6_000_000


def test_what_earlier_runs_sent_counts_for_the_ratio() -> None:
    async def done(torrent: FakeTorrent) -> None:
        torrent.uploaded_before = 6_000_000
        torrent.finish()

    status, session = run({"a.torrent": done}, goal=Goal(seed=True, ratio=1.5))
    assert status == 0
    assert session.torrents["a.torrent"].now.uploaded == 7_000


@pytest.mark.parametrize("bug", [None, ZeroDivisionError("x")])
@pytest.mark.parametrize("partial", [False, True])
def test_a_seed_that_ends_otherwise_is_not_waited_for(partial: bool, bug: Exception | None) -> None:
    async def ends(torrent: FakeTorrent) -> None:
        if not partial:
            torrent.finish()
        await trio.sleep(100)
        torrent.bug = bug
        torrent.ended = True

    jobs = [Job(source="a.torrent", partial=partial)]
    if bug is None:
        assert run({"a.torrent": ends}, goal=Goal(seed=True), jobs=jobs)[0] == 2
        return
    with pytest.raises(BaseExceptionGroup) as caught:
        run({"a.torrent": ends}, goal=Goal(seed=True), jobs=jobs)
    assert caught.group_contains(ZeroDivisionError)


def test_seeding_for_a_time() -> None:
    began = 0.0

    async def finishes(torrent: FakeTorrent) -> None:
        nonlocal began
        await trio.sleep(100)
        began = trio.current_time()
        torrent.finish()

    assert run({"a.torrent": finishes}, goal=Goal(seed=True, seed_seconds=50.0))[0] == 0
    assert began > 0


def test_an_error_while_seeding_ends_it() -> None:
    async def breaks(torrent: FakeTorrent) -> None:
        torrent.finish()
        await trio.sleep(100)
        torrent.fail(LOST)

    assert run({"a.torrent": breaks}, goal=Goal(seed=True))[0] == 4


def test_seeding_a_part_does_not_wait_for_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(source="a.torrent", seed_only=True, partial=True)
    assert run({"a.torrent": waits}, jobs=[job], goal=Goal(seed=True, seed_seconds=5.0))[0] == 0


def test_nobody_connects(capsys: pytest.CaptureFixture[str]) -> None:
    assert run({"a.torrent": completes}, goal=Goal(seed=True, seed_seconds=300.0))[0] == 0
    err = capsys.readouterr().err
    assert err.count("nobody has connected for two minutes") == 1
    assert "6881" in err


def test_somebody_connects(capsys: pytest.CaptureFixture[str]) -> None:
    async def meets(torrent: FakeTorrent) -> None:
        torrent.finish()
        torrent.tell(events.PeerChange, address="127.0.0.1:1", client="x", change="connected", reason="")
        await trio.sleep_forever()

    assert run({"a.torrent": meets}, goal=Goal(seed=True, seed_seconds=300.0))[0] == 0
    assert "nobody" not in capsys.readouterr().err


def test_a_plain_line_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    async def slowly(torrent: FakeTorrent) -> None:
        for _ in range(35):
            torrent.tell_progress()
            await trio.sleep(1)
        torrent.finish()

    assert run({"a.torrent": slowly})[0] == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4  # three of progress, and the end
    assert lines[0] == "a: 25.0 % of 4.00 MB, 1.00 MB/s down, 2.00 KB/s up, 3 peers, eta 0:03"


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    async def tells(torrent: FakeTorrent) -> None:
        torrent.tell_progress()
        torrent.finish()

    assert run({"a.torrent": tells}, voice=Voice(json=True))[0] == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["event"] for line in lines] == ["started", "progress", "complete", "stopped"]
    assert all(line["info_hash"] == "01" * 20 and line["time"] for line in lines)
    assert lines[1]["down_rate"] == 1_000_000
    assert lines[1]["eta"] == 3.0


def test_quiet_says_nothing_but_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert run({"a.torrent": completes}, voice=Voice(quiet=True), reporter=Quiet())[0] == 0
    assert capsys.readouterr() == ("", "")
    assert run({"a.torrent": fails(LOST)}, voice=Voice(quiet=True), reporter=Quiet())[0] == 4
    assert capsys.readouterr().err == "btor: write /x/y: Input/output error\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_closes_the_session(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    async def interrupted(torrent: FakeTorrent) -> None:
        os.kill(os.getpid(), number)
        await trio.sleep_forever()

    status, session = run({"a.torrent": interrupted})
    assert status == 128 + number
    assert session.closed
    assert last_line(capsys.readouterr().err).startswith("btor: interrupted: ")


def test_signal_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    run({"a.torrent": completes})
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    wakeup = signal.set_wakeup_fd(-1)
    assert wakeup == -1


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    class Gone(Quiet):
        def on_event(self, event: events.Event) -> None:
            if isinstance(event, events.Progress):
                raise ReaderGoneError

    async def tells(torrent: FakeTorrent) -> None:
        torrent.tell_progress()
        await trio.sleep_forever()

    session = FakeSession({"a.torrent": tells})
    with pytest.raises(ReaderGoneError):
        run({"a.torrent": tells}, reporter=Gone(), session=session)
    assert session.closed


def test_a_full_standard_output_ends_it_with_4() -> None:
    class Full(Quiet):
        def on_event(self, event: events.Event) -> None:
            if not isinstance(event, events.Started):
                raise StorageError("write", "standard output", "No space left on device")

    session = FakeSession({"a.torrent": completes, "b.torrent": fails(LOST)})
    with pytest.raises(StorageError, match="standard output"):
        run(session.scripts, reporter=Full(), session=session)
    assert session.closed


def test_a_warning_that_cannot_be_said_ends_it_quietly() -> None:
    class Gone(Quiet):
        def on_event(self, event: events.Event) -> None:
            if isinstance(event, events.Warned):
                raise ReaderGoneError

    with pytest.raises(ReaderGoneError):
        run({"a.torrent": completes}, reporter=Gone(), goal=Goal(seed=True, seed_seconds=300.0))


def test_a_reader_that_leaves_is_noticed_by_the_tick_too() -> None:
    class Gone(PlainLines):
        def on_tick(self) -> None:
            raise ReaderGoneError

    with pytest.raises(ReaderGoneError):
        run({"a.torrent": waits}, reporter=Gone())


@pytest.mark.parametrize(("verbosity", "line"), [(0, "btor: odd\n"), (1, "ERROR btor.engine.fake: odd\n")])
def test_what_went_wrong_inside_is_said(verbosity: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def logs(torrent: FakeTorrent) -> None:
        import logging

        logging.getLogger("btor.engine.fake").error("odd")
        torrent.finish()

    assert run({"a.torrent": logs}, voice=Voice(verbosity=verbosity))[0] == 0
    assert line in capsys.readouterr().err
