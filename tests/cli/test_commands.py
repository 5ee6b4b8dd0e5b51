"""`download` and `seed` as processes, on the real engine: what each option does, and every way to end."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from btor.storage import resume
from tests.cli.running import CONTENT, TORRENTS, Ended, child
from tools._btor import Seeder, seed
from tools._processes import BTOR, Process, wait_until

MANY = TORRENTS / "many-files.torrent"
SMALL = TORRENTS / "one-small-piece.torrent"
SHORT = TORRENTS / "short-last-piece.torrent"
SMALL_FILE = CONTENT / "one-small-piece.txt"
LOCAL = ["-p", "0", "--bind", "127.0.0.1"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeder]:
    with seed(SMALL, CONTENT, tmp_path_factory.mktemp("small") / "seed", options=["--bind", "127.0.0.1"]) as seeder:
        yield seeder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeder]:
    with seed(MANY, CONTENT, tmp_path_factory.mktemp("many") / "seed", options=["--bind", "127.0.0.1"]) as seeder:
        yield seeder


def download(folder: Path, *arguments: str | Path, place: bool = True) -> Ended:
    """A download with its state below ``folder``, into ``folder``/here unless ``place`` is False."""
    where = ["-d", str(folder / "here")] if place else []
    return child(["download", *arguments, *where, *LOCAL, "--state-dir", str(folder / "state")])


def events(ended: Ended) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ended.out.splitlines()]


def test_it_ends_when_it_is_complete(small: Seeder, tmp_path: Path) -> None:
    ended = download(tmp_path, SMALL, "--peer", small.address)
    assert (ended.status, ended.out) == (0, "")
    assert ended.err.startswith("one-small-piece.txt: complete and verified: ")
    assert (tmp_path / "here" / "one-small-piece.txt").read_bytes() == SMALL_FILE.read_bytes()


def test_json(small: Seeder, tmp_path: Path) -> None:
    ended = download(tmp_path, SMALL, "--peer", small.address, "--json")
    assert (ended.status, ended.err) == (0, "")
    lines = events(ended)
    assert [line["event"] for line in lines if line["event"] not in ("progress", "peer")] == [
        "started",
        "checked",
        "complete",
        "stopped",
    ]
    assert all(line["time"] > 1e9 and line["info_hash"] == lines[0]["info_hash"] for line in lines)
    assert lines[0]["name"] == "one-small-piece.txt"
    assert lines[0]["total_bytes"] == 1234
    assert lines[1]["from"] == "nothing"
    complete = next(line for line in lines if line["event"] == "complete")
    assert complete["downloaded"] >= 1234


def test_output_names_the_content(small: Seeder, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "mine.txt"
    assert download(tmp_path, SMALL, "--peer", small.address, "-o", target, place=False).status == 0
    assert target.read_bytes() == SMALL_FILE.read_bytes()


@pytest.mark.parametrize("there", [True, False])
def test_a_link_that_the_person_names_is_followed(there: bool, small: Seeder, tmp_path: Path) -> None:
    target, link = tmp_path / "real.txt", tmp_path / "link"
    if there:
        shutil.copy(SMALL_FILE, target)
    link.symlink_to("real.txt")
    assert download(tmp_path, SMALL, "--peer", small.address, "-o", link, place=False).status == 0
    assert link.is_symlink()
    assert target.read_bytes() == SMALL_FILE.read_bytes()


def test_links_to_folders_that_the_person_names_are_followed(many: Seeder, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert download(tmp_path, MANY, "--peer", many.address, "-o", tmp_path / "link", place=False).status == 0
    assert (tmp_path / "real" / "photos" / "😀.bin").exists()
    (tmp_path / "here").symlink_to("real")
    assert download(tmp_path, SMALL, "--no-trackers", "--timeout", "1s").status == 5


def test_a_link_at_a_name_of_the_torrent_is_not_followed(small: Seeder, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / SMALL_FILE.name).symlink_to(tmp_path / "elsewhere")
    ended = download(tmp_path, SMALL, "--peer", small.address)
    assert ended.status == 4
    assert "a symbolic link is in the way" in ended.err
    assert not (tmp_path / "elsewhere").exists()


def test_sync_and_log(small: Seeder, tmp_path: Path) -> None:
    ended = download(tmp_path, SMALL, "--peer", small.address, "--sync", "-vv", "--log-file", tmp_path / "log")
    assert ended.status == 0
    assert (tmp_path / "log").exists()
    assert "connected" in ended.err


def test_quiet(small: Seeder, tmp_path: Path) -> None:
    ended = download(tmp_path, SMALL, "--peer", small.address, "-q")
    assert (ended.status, ended.out, ended.err) == (0, "", "")


def test_several_sources_of_which_some_fail(small: Seeder, tmp_path: Path) -> None:
    bad = tmp_path / "bad.torrent"
    bad.write_bytes(b"d4:infoi1ee")
    ended = download(tmp_path, SMALL, bad, tmp_path / "none.torrent", "--peer", small.address, "--json")
    assert ended.status == 3
    assert (tmp_path / "here" / "one-small-piece.txt").exists()
    errors = [line for line in events(ended) if line["event"] == "error"]
    assert {error["code"] for error in errors} == {3, 4}
    assert errors[-1]["code"] == 3
    assert ended.last_error.startswith(f"btor: {bad}: ")


def test_the_same_torrent_twice(small: Seeder, tmp_path: Path) -> None:
    ended = download(tmp_path, SMALL, SMALL, "--peer", small.address)
    assert ended.status == 2
    assert (tmp_path / "here" / "one-small-piece.txt").exists()


def test_nothing_arrives_in_time(tmp_path: Path) -> None:
    ended = download(tmp_path, SMALL, "--timeout", "2s", "--no-trackers", "--json")
    assert ended.status == 5
    last = events(ended)[-1]
    assert (last["event"], last["code"], last["kind"]) == ("error", 5, "network")
    assert "nothing has arrived for 0:02" in ended.last_error


@pytest.fixture
def deaf_tracker(tmp_path: Path) -> Iterator[Path]:
    """A torrent whose tracker is at a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/announce"
        torrent = tmp_path / "deaf.torrent"
        assert child(["create", SMALL_FILE, "-o", torrent, "--tracker", url]).status == 0
        server.shutdown(socket.SHUT_RDWR)  # listens no more, and keeps the port
        yield torrent


def test_why_trackers_fail_is_said(deaf_tracker: Path, tmp_path: Path) -> None:
    ended = download(tmp_path, deaf_tracker, "--timeout", "3s")
    assert ended.status == 5
    first, last = ended.err.splitlines()
    assert first.startswith("one-small-piece.txt: tracker http://127.0.0.1:")
    assert first.endswith("/announce: no connection: Connection refused")
    assert last.endswith(
        "nothing has arrived for 0:03: trackers 0/1 (announce: no connection: Connection refused), 0 peers"
    )


def test_why_nobody_finds_a_seed_is_said(deaf_tracker: Path, tmp_path: Path) -> None:
    command = [*BTOR, "seed", str(deaf_tracker), str(SMALL_FILE), *LOCAL, "--state-dir", str(tmp_path), "--json"]
    with Process(command, tmp_path / "log") as process:
        wait_until("a reason", lambda: any("(announce: " in line.get("reason", "") for line in process.events()), 30)


def test_a_file_in_the_way(small: Seeder, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    file = tmp_path / "here" / "one-small-piece.txt"
    file.write_bytes(b"something else of the same kind" * 40)
    before = file.read_bytes()
    ended = download(tmp_path, SMALL, "--peer", small.address)
    assert ended.status == 4
    assert str(file) in ended.last_error
    assert file.read_bytes() == before
    assert download(tmp_path, SMALL, "--peer", small.address, "--overwrite").status == 0
    assert file.read_bytes() == SMALL_FILE.read_bytes()


def test_content_that_is_there_is_used(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    shutil.copy(SMALL_FILE, tmp_path / "here")
    ended = download(tmp_path, SMALL, "--no-trackers", "--json")
    assert ended.status == 0
    checked = next(line for line in events(ended) if line["event"] == "checked")
    assert (checked["have_pieces"], checked["from"]) == (1, "hash")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("a file where a folder should be")
    ended = download(tmp_path, SMALL, "--no-trackers")
    assert ended.status == 4
    assert str(tmp_path / "here") in ended.last_error


def test_a_state_folder_asked_for_by_name_that_cannot_be_used(small: Seeder, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a folder should be")
    ended = download(tmp_path, SMALL, "--peer", small.address)
    assert ended.status == 4
    assert "state" in ended.last_error


def test_a_default_state_folder_that_cannot_be_used_is_a_warning(
    small: Seeder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv("BTOR_STATE_DIR", raising=False)
    ended = child(["download", SMALL, "-d", tmp_path / "here", *LOCAL, "--peer", small.address])
    assert ended.status == 0
    assert ended.err.count("\n") == 2  # the warning, and the end


def test_the_same_place_by_a_second_process(many: Seeder, tmp_path: Path) -> None:
    command = [*BTOR, "download", str(MANY), "-d", str(tmp_path / "here"), *LOCAL]
    command += ["--state-dir", str(tmp_path / "state"), "--peer", many.address, "--max-download", "50K", "--json"]
    with Process(command, tmp_path / "first") as first:
        first.wait_event("checked")
        ended = download(tmp_path, MANY, "--peer", many.address)
        assert ended.status == 4
        assert str(first.pid) in ended.last_error
        first.signal(signal.SIGINT)
        assert first.wait(10) == 130
        stopped = first.events()[-1]
        assert stopped["event"] == "stopped"
    assert download(tmp_path, MANY, "--peer", many.address).status == 0


def test_seeding_for_a_time(small: Seeder, tmp_path: Path) -> None:
    ended = download(tmp_path, SMALL, "--peer", small.address, "--seed-time", "1s", "--json")
    assert ended.status == 0
    kinds = [line["event"] for line in events(ended)]
    assert kinds.index("complete") < kinds.index("seeding") < kinds.index("stopped")


def test_a_url(small: Seeder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = SMALL.read_bytes() if self.path == "/x.torrent" else b"no torrent"
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            assert download(tmp_path, f"{url}/x.torrent", "--peer", small.address).status == 0
            ended = download(tmp_path, f"{url}/y")
            assert ended.status == 3
            assert ended.last_error.startswith(f"btor: {url}/y: ")
        finally:
            server.shutdown()
            thread.join()
    ended = download(tmp_path, f"{url}/x.torrent")
    assert ended.status == 5
    assert url in ended.last_error


def test_a_url_that_does_not_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # nobody accepts
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x.torrent"
        ended = download(tmp_path, url, "--timeout", "1s")
    assert ended.status == 5
    assert ended.err == f"btor: {url}: not fetched within 0:01\n"


def test_the_ratio_is_over_all_runs(small: Seeder, tmp_path: Path) -> None:
    assert download(tmp_path, SMALL, "--peer", small.address).status == 0
    (record,) = (tmp_path / "state").rglob("*.resume")
    known = resume.decode(record.read_bytes())
    assert known is not None
    record.write_bytes(resume.encode(replace(known, uploaded=5000)))
    ended = download(tmp_path, SMALL, "--no-trackers", "--seed-ratio", "4", "--json")
    assert ended.status == 0
    assert next(line for line in events(ended) if line["event"] == "checked")["from"] == "resume"


def test_seeding_bad_content(tmp_path: Path) -> None:
    (tmp_path / "one-small-piece.txt").write_bytes(b"x" * 1234)
    state = ["--state-dir", str(tmp_path / "state")]
    ended = child(["seed", SMALL, tmp_path, *LOCAL, *state, "--json"])
    assert ended.status == 6
    assert events(ended)[-1]["code"] == 6
    assert child(["seed", SMALL, tmp_path / "none", *LOCAL, *state]).status == 4


def test_seeding_a_part(tmp_path: Path) -> None:
    copy = tmp_path / "Vårt album – 写真"
    shutil.copytree(CONTENT / copy.name, copy)
    (copy / "photos" / "😀.bin").unlink()
    state = ["--state-dir", str(tmp_path / "state")]
    assert child(["seed", MANY, copy, *LOCAL, *state]).status == 6
    command = [*BTOR, "seed", str(MANY), str(copy), *LOCAL, *state, "--partial", "--json"]
    with Process(command, tmp_path / "log") as process:
        checked = process.wait_event("checked")
        assert 0 < checked["have_pieces"] < checked["pieces"]
        assert process.wait_event("seeding")["port"] == process.events()[0]["port"] != 0
        assert process.wait_event("progress")["state"] == "seeding"
        process.signal(signal.SIGTERM)
        assert process.wait(10) == 143
        kinds = [event["event"] for event in process.events()]
        assert kinds.index("checked") < kinds.index("seeding")


def test_a_port_that_is_taken(small: Seeder, tmp_path: Path) -> None:
    place = ["-d", str(tmp_path / "here"), "--state-dir", str(tmp_path / "state"), "--bind", "127.0.0.1"]
    ended = child(["download", str(SMALL), *place, "-p", str(small.port), "--peer", small.address, "--json"])
    assert ended.status == 5
    assert ended.err == f"btor: cannot listen on {small.address}: Address already in use\n"
    assert events(ended)[-1]["kind"] == "network"


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    state = ["--state-dir", str(tmp_path)]
    foreign = ["--bind", "192.0.2.1"]
    for command in (["seed", SMALL, CONTENT, *state, "-p", "0"], ["download", SMALL, *state], ["tracker"]):
        ended = child([*command, *foreign])
        assert ended.status == 5
        assert ended.err.startswith("btor: cannot listen on 192.0.2.1:")


def test_a_closed_pipe_ends_a_download_quietly(tmp_path: Path) -> None:
    command = " ".join([*BTOR, "download", str(SHORT), "-d", str(tmp_path), *LOCAL, "--no-trackers", "--json"])
    script = f"{{ {command} --state-dir {tmp_path}/state; echo status $? >&2; }} | head -n 1"
    with Process(["sh", "-c", script], tmp_path / "log") as process:
        process.check(30)
        assert process.errors() == "status 141\n"


def test_full_devices(small: Seeder, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    command = [*BTOR, "download", str(SMALL), *LOCAL, "--state-dir", str(tmp_path / "state"), "--peer", small.address]
    for redirection, folder in (("2>/dev/full", "a"), (">/dev/full", "b"), ("2>&-", "c"), ("2>/dev/full -vv", "d")):
        script = ["sh", "-c", f'"$@" {redirection}', "sh", *command, "-d", str(tmp_path / folder)]
        with Process(script, tmp_path / "log") as process:
            process.check(30)
        assert (tmp_path / folder / SMALL_FILE.name).read_bytes() == SMALL_FILE.read_bytes()
    script = ["sh", "-c", '"$@" >/dev/full', "sh", *command, "-d", str(tmp_path / "e"), "--json"]
    with Process(script, tmp_path / "log") as process:
        assert process.wait(30) == 4
        assert process.errors() == "btor: write standard output: No space left on device\n"
