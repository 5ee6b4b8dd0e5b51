"""`download` of some of a torrent's files: what the options mean, and how a wrong selection ends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import CONTENT, TORRENTS, Ended, Here, child
from tools._btor import Seeder, seed

MANY = TORRENTS / "many-files.torrent"
SMALL = TORRENTS / "one-small-piece.torrent"
NAME = "Vårt album – 写真"
SIDE = ".btor-eb789e1bf64fbb520fb5851e3aec5daba573c4e2.parts"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeder]:
    with seed(MANY, CONTENT, tmp_path_factory.mktemp("many") / "seed", options=["--bind", "127.0.0.1"]) as seeder:
        yield seeder


def download(folder: Path, *arguments: str | Path) -> Ended:
    """A download into ``folder``/here, with its state below ``folder``."""
    local = ["-p", "0", "--bind", "127.0.0.1", "--no-dht", "--timeout", "20s"]
    return child(["download", *arguments, "-d", folder / "here", *local, "--state-dir", folder / "state"])


def names(folder: Path) -> set[str]:
    """The files that were downloaded, each of them compared."""
    top = folder / "here" / NAME
    found = {path.relative_to(top).as_posix(): path for path in top.rglob("*") if path.is_file()}
    for name, path in found.items():
        if name != SIDE:
            digests = [hashlib.sha256(file.read_bytes()).digest() for file in (path, CONTENT / NAME / name)]
            assert digests[0] == digests[1], name
    return set(found)


def test_by_number_then_wider(many: Seeder, tmp_path: Path) -> None:
    some = download(tmp_path, MANY, "--files", "2,7-8", "--peer", many.address, "--json")
    assert some.status == 0
    assert names(tmp_path) == {"empty.txt", "deep/er/and/deeper/still.txt", "photos/naïve café.txt", SIDE}
    complete = next(line for line in map(json.loads, some.out.splitlines()) if line["event"] == "complete")
    every = download(tmp_path, MANY, "--peer", many.address, "--json")
    assert every.status == 0
    lines = [json.loads(line) for line in every.out.splitlines()]
    assert next(line for line in lines if line["event"] == "checked")["from"] == "resume"
    assert (
        complete["downloaded"] + next(line for line in lines if line["event"] == "complete")["downloaded"] == 2_492_378
    )
    assert SIDE not in names(tmp_path)
    assert child(["verify", MANY, tmp_path / "here"]).status == 0


def test_by_name(many: Seeder, tmp_path: Path) -> None:
    ended = download(
        tmp_path, MANY, "--include", "photos/*", "--include", "*.dat", "--exclude", "one.*", "--peer", many.address
    )
    assert ended.status == 0, ended.err
    assert names(tmp_path) - {SIDE} == {"photos/naïve café.txt", "photos/😀.bin", "disque/тишина/пусто.dat"}


def test_verify_of_a_part(many: Seeder, tmp_path: Path) -> None:
    assert download(tmp_path, MANY, "--files", "8", "--peer", many.address).status == 0
    ended = child(["verify", MANY, tmp_path / "here", "--json"])
    assert ended.status == 6
    status = {file["path"].removeprefix(f"{NAME}/"): file["status"] for file in json.loads(ended.out)["files"]}
    assert status.pop("photos/naïve café.txt") == "ok"
    assert set(status.values()) == {"missing"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--files", "9-11"], f"there is no file 11: {NAME} has 10 files"),
        (["--files", "0"], f"there is no file 0: {NAME} has 10 files"),
        (["--include", "*.mkv"], "*.mkv: no file has such a name"),
        (["--exclude", "nothing"], "nothing: no file has such a name"),
        (["--files", "1", "--exclude", "README.txt"], f"no file of {NAME} is left to download"),
    ],
)
def test_what_names_nothing_ends_2(options: list[str], message: str, tmp_path: Path) -> None:
    ended = download(tmp_path, MANY, *options)
    assert (ended.status, ended.last_error) == (2, f"btor: {MANY}: {message}")
    assert not (tmp_path / "here").exists()


def test_of_a_single_file(btor: Here, tmp_path: Path) -> None:
    ended = btor(
        "download", SMALL, "--files", "2", "-d", tmp_path / "here", "-p", "0", "--bind", "127.0.0.1", "--no-dht"
    )
    assert (ended.status, ended.last_error) == (2, f"btor: {SMALL}: there is no file 2: one-small-piece.txt has 1 file")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b", "--files", "1"], "more than one SOURCE"),
        (["a", "--files", "one"], "file numbers such as 1,3-5 are needed"),
        (["a", "--files", "3-1"], "file numbers such as 1,3-5 are needed"),
        (["a", "--include", ""], "a pattern such as *.flac is needed"),
    ],
)
def test_wrong_options(arguments: list[str], message: str, btor: Here) -> None:
    ended = btor("download", *arguments)
    assert ended.status == 2
    assert message in ended.last_error


def test_info_numbers_the_files(btor: Here) -> None:
    listed = [line for line in btor("info", MANY).out.splitlines() if NAME + "/" in line]
    assert [line.split()[0] for line in listed] == [str(number) for number in range(1, 11)]
    assert listed[7].endswith("photos/naïve café.txt")
    numbers = [file["number"] for file in json.loads(btor("info", "--json", MANY).out)["files"]]
    assert numbers == list(range(1, 11))
