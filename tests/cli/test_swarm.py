"""`swarm`: real processes on loopback, and what happens when one of them does not do its part."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from btor.cli.local_swarm import SwarmError, sha256
from tests.cli.running import BTOR, CONTENT, PROJECT, TORRENTS, Ended

MANY = TORRENTS / "many-files.torrent"
SMALL = TORRENTS / "one-small-piece.torrent"


def start(folder: Path, *arguments: str | os.PathLike[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*BTOR, "swarm", *arguments],
        cwd=PROJECT,
        env={**os.environ, "TMPDIR": str(folder), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def swarm(folder: Path, *arguments: str | os.PathLike[str]) -> Ended:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=90)
    return Ended(process.returncode, out, err)


def alive(pid: int) -> bool:
    """Whether a process is still there, and no zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_all_complete_and_all_is_the_same(tmp_path: Path) -> None:
    ended = swarm(tmp_path, MANY, CONTENT, "--leechers", "3", "--keep")
    assert ended.status == 0, ended.err
    assert [line.split(":")[0] for line in ended.out.splitlines()] == ["leecher 1", "leecher 2", "leecher 3"]
    assert ended.out.count("identical to the original (SHA-256)") == 3
    (folder,) = tmp_path.iterdir()
    assert ended.last_error == f"kept in {folder}"
    pids = [int(pid) for pid in re.findall(r"\((\d+)\)", ended.err)]
    assert len(pids) >= 4
    assert not any(alive(pid) for pid in pids)
    for number in (1, 2, 3):
        for path in (CONTENT / "Vårt album – 写真").rglob("*"):
            if path.is_file():
                copy = folder / f"leecher-{number}" / path.relative_to(CONTENT)
                assert copy.read_bytes() == path.read_bytes()


def test_json_and_nothing_kept(tmp_path: Path) -> None:
    ended = swarm(tmp_path, SMALL, CONTENT, "--leechers", "1", "--seeders", "2", "--json")
    assert ended.status == 0, ended.err
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert lines[0]["event"] == "listening"
    assert {line["process"] for line in lines[:-1]} == {"tracker", "seeder 1", "seeder 2", "leecher 1"}
    assert lines[-1]["event"] == "verified"
    assert lines[-1]["leechers"]["leecher 1"]["event"] == "complete"
    assert list(tmp_path.iterdir()) == []


def test_without_a_tracker(tmp_path: Path) -> None:
    """The leechers have a magnet link and a DHT node, and nothing else says where the seeder is."""
    ended = swarm(tmp_path, MANY, CONTENT, "--trackerless", "--json")
    assert ended.status == 0, ended.err
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert {line["process"] for line in lines[:-1]} == {"node", "seeder 1", "leecher 1", "leecher 2"}
    assert {line["process"] for line in lines if line["event"] == "metadata"} == {"leecher 1", "leecher 2"}
    assert not [line for line in lines if line["event"] == "tracker"]
    assert lines[-1]["event"] == "verified" and len(lines[-1]["leechers"]) == 2


def test_rates_are_those_of_the_leechers_in_turn(tmp_path: Path) -> None:
    ended = swarm(tmp_path, MANY, CONTENT, "--leechers", "2", "--json", "--max-download", "2M", "--max-download", "9M")
    assert ended.status == 0, ended.err
    leechers = json.loads(ended.out.splitlines()[-1])["leechers"]
    assert leechers["leecher 1"]["seconds"] >= 1.0  # 2.5 MB
    assert leechers["leecher 2"]["seconds"] < leechers["leecher 1"]["seconds"]


def test_a_seeder_without_content_fails_it(tmp_path: Path) -> None:
    copy = tmp_path / "content"
    shutil.copytree(CONTENT, copy)
    (copy / "one-small-piece.txt").write_bytes(b"x" * 1234)
    (tmp_path / "work").mkdir()
    ended = swarm(tmp_path / "work", SMALL, copy, "--json")
    assert ended.status == 1
    assert re.fullmatch(r"btor: swarm: seeder 1 \(process \d+\) ended with 6: .*", ended.last_error)
    last = json.loads(ended.out.splitlines()[-1])
    assert (last["event"], last["code"], last["kind"]) == ("error", 1, "swarm")
    assert list((tmp_path / "work").iterdir()) == []


def test_what_is_wrong_before_it_starts(tmp_path: Path) -> None:
    assert swarm(tmp_path, tmp_path / "none.torrent", CONTENT).status == 4
    assert swarm(tmp_path, SMALL, tmp_path / "none").status == 4
    assert swarm(tmp_path, CONTENT / "one-small-piece.txt", CONTENT).status == 3


def children_of(process: subprocess.Popen[str], number: int) -> dict[str, int]:
    """The commands and ids of the first children, whichever thread has started them.

    One that has not come to its own program yet is a copy of the parent, with the parent's command.
    """
    while True:
        threads = Path(f"/proc/{process.pid}/task").glob("*/children")
        children = [pid for thread in threads for pid in thread.read_text().split()]
        words = [Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in children]
        commands = [line[3] for line in words if line[1:3] == ["-m", "btor"] and line[3] != "swarm"]
        if len(commands) == len(children) >= number:
            return dict(zip(commands, map(int, children), strict=True))
        assert process.poll() is None
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_a_signal_ends_the_children_too(tmp_path: Path) -> None:
    process = start(tmp_path, MANY, CONTENT, "--max-download", "100K")
    children = children_of(process, 4)
    assert set(children) == {"tracker", "seed", "download"}
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (out, "Traceback" in err) == ("", False)
    assert not any(alive(pid) for pid in children.values())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
@pytest.mark.parametrize("victim", ["tracker", "download"])
def test_a_process_that_dies_fails_it(tmp_path: Path, victim: str) -> None:
    process = start(tmp_path, MANY, CONTENT, "--max-download", "100K")
    children = children_of(process, 4)
    os.kill(children[victim], signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert re.search(rf"^btor: swarm: \w+( \d)? \(process {children[victim]}\) ended with -9: ", err, re.MULTILINE)
    assert not any(alive(pid) for pid in children.values())


def test_the_error_is_a_failed_swarm() -> None:
    assert SwarmError("x").exit_status == 1


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
