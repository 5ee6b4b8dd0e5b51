"""Links: named when they lead inside the torrent, never followed."""

from __future__ import annotations

import time

import pytest

from btor import limits
from btor.errors import MetainfoError
from btor.metainfo.links import Links
from btor.metainfo.paths import unique_paths
from btor.metainfo.raw_file import RawFile


def file(path: str) -> RawFile:
    return RawFile(tuple(path.encode().split(b"/")), 1)


def link(path: str, target: str) -> RawFile:
    return RawFile(tuple(path.encode().split(b"/")), 0, target=tuple(target.encode().split(b"/")))


def resolve(*files: RawFile) -> str:
    """Where the last of ``files``, a link, leads."""
    links = Links("root", files, list(unique_paths("root", [file.path for file in files])))
    return "/".join(links.target(len(files) - 1))


def test_targets_inside() -> None:
    assert resolve(file("a"), link("l", "a")) == "root/a"
    assert resolve(file("d/e/a"), link("l", "d/e")) == "root/d/e"
    assert resolve(file("d/a"), link("d/l", "a")) == "root/d/a"  # from the folder of the link
    assert resolve(file("a"), file("d/a"), link("d/l", "a")) == "root/a"  # from the torrent's folder first
    assert resolve(file("a"), link("l", "l")) == "root/l"


def test_targets_elsewhere() -> None:
    for target in ("nothing", "../../etc/passwd", "", ".", "..", "a/b", "d/nothing"):
        assert resolve(file("a"), file("d/b"), link("l", target)) == ""
    assert resolve(RawFile((b"a",), 1), RawFile((b"l",), 0, target=(b"/etc/passwd",))) == ""


def test_unsafe_names_are_compared_as_written() -> None:
    a_in_slash = RawFile((b"a", b"/", b"bar"), 1)
    assert resolve(a_in_slash, RawFile((b"l",), 0, target=(b"a", b"/", b"bar"))) == "root/a/_/bar"
    assert resolve(a_in_slash, RawFile((b"l",), 0, target=(b"a", b"_", b"bar"))) == ""
    assert resolve(a_in_slash, RawFile((b"l",), 0, target=(b"a", b"/"))) == "root/a/_"


def test_the_target_has_the_name_that_its_file_got() -> None:
    assert resolve(file("a"), file("a/b"), link("l", "a/b")) == "root/a/b"
    assert resolve(file("A"), file("a"), link("l", "a")) == "root/a.1"
    assert resolve(file("x"), file("x"), link("l", "x")) == "root/x"
    assert resolve(file("a/b"), file("a"), link("l", "a")) == "root/a"  # the folder keeps the name


def test_through_links() -> None:
    framework = (file("Versions/A/SDL"), link("Versions/Current", "A"))
    assert resolve(*framework, link("SDL", "Versions/Current/SDL")) == "root/Versions/Current/SDL"
    assert resolve(*framework, link("l", "Versions/Current/nothing")) == ""
    assert resolve(*framework, link("Headers", "SDL"), link("l", "SDL")) == ""
    assert resolve(file("A"), file("d/a"), link("c", "d"), link("l", "c/a")) == "root/c/a"


@pytest.mark.parametrize("length", [limits.LINK_CHAIN, limits.LINK_CHAIN + 1])
def test_the_chain_is_bounded(length: int) -> None:
    path = "/".join(["d", *["s"] * length, "a"])
    found = resolve(file("d/a"), link("d/s", "d"), link("l", path))
    assert found == (f"root/{path}" if length <= limits.LINK_CHAIN else "")


def test_loops_end() -> None:
    assert resolve(link("m", "l"), link("l", "m")) == "root/m"
    assert resolve(link("m", "l/x"), link("l", "m/x")) == ""


def test_the_work_is_bounded() -> None:
    deep = "/".join(["d"] * 99)
    files = [file(f"{deep}/a"), link("d/s", "d"), *[link(f"l{number}", f"{deep}/a") for number in range(30_000)]]
    links = Links("root", files, list(unique_paths("root", [file.path for file in files])))
    start = time.process_time()
    found = [links.target(index) for index in range(2, len(files))]
    assert time.process_time() - start < 3  # about 0.3
    assert found[0]
    assert not found[-1]


def test_folders_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("btor.metainfo.links.FOLDER_COUNT", 2)
    assert resolve(file("a/b/c"), link("l", "a")) == "root/a"
    with pytest.raises(MetainfoError, match="folders"):
        resolve(file("a/b/c"), file("d/e"), link("l", "a"))


def test_padding_is_no_target() -> None:
    files = [file("pad"), link("l", "pad")]
    assert Links("root", files, [None, ("root", "l")]).target(1) == ()
