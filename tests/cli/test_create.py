"""`create`: the torrent it writes, what it prints, and what it leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from btor.cli.create import put
from btor.errors import StorageError
from btor.storage.load import load_metainfo
from tests.cli.running import CONTENT, PROJECT, Here, child

ODD = CONTENT / "odd-piece-length.bin"


@pytest.fixture
def content(tmp_path: Path) -> Path:
    folder = tmp_path / "some content"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"a" * 50_000)
    (folder / "sub" / "b.txt").write_bytes(b"b" * 7)
    return folder


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".")]


def test_it_prints_path_hash_and_magnet(btor: Here, content: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.torrent"
    ended = btor("create", content, "-o", target)
    metainfo = load_metainfo(target)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == (
        f"path       {target}\ninfo hash  {metainfo.info_hash.hex()}\nmagnet     {metainfo.magnet()}\n"
    )
    assert [("/".join(entry.path), entry.length) for entry in metainfo.files] == [
        ("some content/a.txt", 50_000),
        ("some content/sub/b.txt", 7),
    ]
    assert metainfo.creation_date is not None
    assert abs(metainfo.creation_date - time.time()) < 100
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask()
    assert leftovers(tmp_path) == []


def umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_json(btor: Here, content: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.torrent"
    said = json.loads(btor("create", content, "-o", target, "--json", "--piece-length", "16KiB").out)
    metainfo = load_metainfo(target)
    assert said.pop("seconds") >= 0
    assert said == {
        "path": str(target),
        "info_hash": metainfo.info_hash.hex(),
        "magnet": metainfo.magnet(),
        "pieces": 4,
        "piece_length": 16_384,
    }


def test_every_option(btor: Here, content: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.torrent"
    arguments = ["--tracker", "http://a.example/announce,udp://b.example:1/announce", "--tracker", "http://c.example/a"]
    arguments += ["--web-seed", "http://seed.example/", "--private", "--source", "S", "--comment", "größe"]
    arguments += ["--piece-length", "64KiB", "--no-date", "--threads", "1"]
    assert btor("create", content, "-o", target, *arguments).status == 0
    metainfo = load_metainfo(target)
    assert metainfo.trackers == (
        ("http://a.example/announce", "udp://b.example:1/announce"),
        ("http://c.example/a",),
    )
    assert metainfo.web_seeds == ("http://seed.example/",)
    assert metainfo.private
    assert (metainfo.source, metainfo.comment, metainfo.creation_date) == ("S", "größe", None)
    assert metainfo.geometry.piece_length == 65_536


def test_without_a_date_it_is_the_same_file_again(btor: Here, content: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "1.torrent", tmp_path / "2.torrent"
    btor("create", content, "-o", one, "--no-date")
    btor("create", content, "-o", two, "--no-date", "--threads", "1")
    assert one.read_bytes() == two.read_bytes()


def test_the_default_name_is_that_of_the_content_here(
    btor: Here, content: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert btor("create", f"{content}/").status == 0
    assert os.listdir() == ["some content.torrent"]


def test_a_file_in_the_way_stays_unless_forced(btor: Here, content: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.torrent"
    target.write_text("mine")
    ended = btor("create", content, "-o", target, "--json")
    assert ended.status == 4
    assert ended.last_error == f"btor: create {target}: it is there already; --force replaces it"
    assert json.loads(ended.out)["code"] == 4
    assert target.read_text() == "mine"
    assert btor("create", content, "-o", target, "--force").status == 0
    assert load_metainfo(target).name == "some content"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("what", ["link", "dangling link", "pipe", "device"])
@pytest.mark.parametrize("when", ["before", "while it hashes"])
def test_what_is_no_file_is_never_replaced(btor: Here, content: Path, tmp_path: Path, what: str, when: str) -> None:
    (tmp_path / "mine").write_text("mine")
    target = tmp_path / "x.torrent"
    if what == "pipe":
        os.mkfifo(target)
    else:
        target.symlink_to({"link": "mine", "dangling link": "none", "device": "/dev/null"}[what])
    before = target.lstat()
    for options in ([], ["--force"]):
        if when == "before":
            ended = btor("create", content, "-o", target, *options)
            assert (ended.status, "never replaced" in ended.last_error) == (4, True)
        else:
            with pytest.raises(StorageError, match="never replaced"):
                put(target, b"d", force=bool(options))
    assert os.path.samestat(target.lstat(), before)
    assert (tmp_path / "mine").read_text() == "mine"
    assert leftovers(tmp_path) == []


def test_the_torrent_itself_is_no_content(btor: Here, content: Path) -> None:
    """Else the second time would make another torrent than the first."""
    target = content / "x.torrent"
    for options in ([], ["--force"]):
        assert btor("create", content, "-o", target, "--no-date", *options).status == 0
        assert [entry.path[-1] for entry in load_metainfo(target).files] == ["a.txt", "b.txt"]
    (content / "sub" / "y.torrent").write_bytes(target.read_bytes())  # another one is content as all else
    assert btor("create", content, "-o", target, "--force").status == 0
    assert "y.torrent" in [entry.path[-1] for entry in load_metainfo(target).files]


def test_a_torrent_does_not_take_the_place_of_its_content(btor: Here, content: Path) -> None:
    ended = btor("create", content / "a.txt", "-o", content / "a.txt", "--force")
    assert ended.status == 2
    assert (content / "a.txt").read_bytes() == b"a" * 50_000


def test_a_folder_in_the_way_is_an_error_even_if_forced(btor: Here, content: Path, tmp_path: Path) -> None:
    (tmp_path / "x.torrent").mkdir()
    ended = btor("create", content, "-o", tmp_path / "x.torrent", "--force")
    assert ended.status == 4
    assert leftovers(tmp_path) == []


def test_a_file_that_comes_up_while_hashing_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.torrent"
    target.write_text("mine")
    with pytest.raises(StorageError, match="--force"):
        put(target, b"data", force=False)

    def no_links(*paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(StorageError, match="--force"):
        put(target, b"data", force=False)
    assert target.read_text() == "mine"
    put(tmp_path / "y.torrent", b"data", force=False)
    assert (tmp_path / "y.torrent").read_bytes() == b"data"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--tracker", "ftp://x"], 2),
        (["--tracker", "http://a.example/x,"], 2),
        (["--web-seed", "udp://x:1"], 2),
        (["--piece-length", "20000"], 2),
        (["--piece-length", "1KiB"], 2),
    ],
)
def test_wrong_options(btor: Here, content: Path, tmp_path: Path, arguments: list[str], status: int) -> None:
    assert btor("create", content, "-o", tmp_path / "x.torrent", *arguments).status == status
    assert not (tmp_path / "x.torrent").exists()


def test_nowhere_to_put_it_is_known_before_hashing(btor: Here, content: Path, tmp_path: Path) -> None:
    ended = btor("create", content, "-o", tmp_path / "none" / "x.torrent")
    assert ended.status == 4
    assert "none/x.torrent" in ended.last_error
    assert btor("create", tmp_path / "nothing", "-o", tmp_path / "x.torrent").status == 4


def test_a_comment_that_is_not_utf8(content: Path, tmp_path: Path) -> None:
    ended = child(["create", content, "-o", tmp_path / "x.torrent", "--comment", os.fsdecode(b"\xff")])
    assert ended.status == 2
    assert ended.last_error == "btor: create: --comment: not valid UTF-8"


@pytest.mark.parametrize("moment", [0.05, 0.15, 0.3, 0.45, 0.6])
def test_a_signal_leaves_all_or_nothing(tmp_path: Path, moment: float) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(400_000_000)  # a second or so of hashing
    target = tmp_path / "x.torrent"
    command = [sys.executable, "-m", "btor", "create", str(big), "-o", str(target), "--threads", "1"]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    timer = threading.Timer(moment, process.terminate)
    timer.start()
    _, err = process.communicate(timeout=60)
    timer.join()
    if process.returncode != -15:  # before btor's first line
        assert process.returncode in (0, 143)
    assert err == b""
    assert leftovers(tmp_path) == []
    if target.exists():
        assert load_metainfo(target).name == "big"
