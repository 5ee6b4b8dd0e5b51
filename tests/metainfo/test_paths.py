"""Names made safe to write under and to show: by table, by a million strange names, and by cost."""

from __future__ import annotations

import random
import time
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor import limits
from btor.errors import MetainfoError
from btor.metainfo.paths import display, fold, safe_element, safe_name, unique_paths

DROPPED = [
    0x61C,
    *range(0x200B, 0x2010),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2065),
    *range(0x2066, 0x206A),
    0xFEFF,
]
CONTROLS = [*range(1, 0x20), *range(0x7F, 0xA0)]
STRANGE = (
    [bytes([code]) for code in range(256)]
    + [chr(code).encode() for code in (*DROPPED, *CONTROLS, 0xE9, 0x301, 0x1F600, 0x2028, 0xFFFD, 0xE000, 0x10FFFF)]
    + [b"..", b"/", b"\\", b"\0", b"CON", b"nul", b".txt", b" ", b"\xc0\xae", b"\xed\xa0\x80", b"a", b"B" * 100]
)


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        (b"plain name (1).txt", "plain name (1).txt"),
        (b"", "_"),
        (b".", "_"),
        (b"..", "_"),
        (b"...", "..."),
        (b"/", "_"),
        (b"\\\\", "_"),
        (b"\0", "_"),
        (b"./", "_"),
        (b".\0.", "_"),
        (".\u202e.".encode(), "_"),
        (b"../../x", "....x"),
        (b"a/b\\c\0d", "abcd"),
        (b"/etc/passwd", "etcpasswd"),
        (b"a\r\nb", "a__b"),
        ("a\x7f\x85\x9bb".encode(), "a___b"),
        ("photo\u202egpj.exe".encode(), "photogpj.exe"),
        (b"\xff\xfe", "__"),
        (b"a\xc3", "a_"),
        ("é\ufffd".encode(), "é\ufffd"),
        (b"C:", "C:"),
        (b'a*?"<>|b', 'a*?"<>|b'),
        (b"~", "~"),
        (b".bashrc", ".bashrc"),
        (b"foobar ", "foobar "),
        (b"trailing.", "trailing."),
        (b"CON", "_CON"),
        (b"con .txt", "_con .txt"),
        (b"Nul.tar.gz", "_Nul.tar.gz"),
        (b"CLOCK$", "_CLOCK$"),
        (b"COM0", "_COM0"),
        (b"lpt9.log", "_lpt9.log"),
        (b"C\0ON", "_CON"),
        (b"console", "console"),
        (b"com10", "com10"),
        (b"aux-1", "aux-1"),
        (b"xcon", "xcon"),
    ],
)
def test_safe_element(raw: bytes, safe: str) -> None:
    assert safe_element(raw) == safe


@pytest.mark.parametrize("code", [*DROPPED, 0, ord("/"), ord("\\")])
def test_characters_that_are_taken_out(code: int) -> None:
    assert safe_element(f"a{chr(code)}b".encode()) == "ab"


@pytest.mark.parametrize("code", CONTROLS)
def test_controls_become_underscores(code: int) -> None:
    assert safe_element(f"a{chr(code)}b".encode()) == "a_b"


def test_element_length() -> None:
    assert safe_element(b"a" * 240) == "a" * 240
    assert safe_element(b"a" * 241) == "a" * 240
    assert safe_element("å".encode() * 120) == "å" * 120
    assert safe_element("å".encode() * 150) == "å" * 120
    assert safe_element(b"a" + "å".encode() * 150) == "a" + "å" * 119  # never half a character
    assert safe_element(b"a" * 300 + b".tar.gz") == "a" * 237 + ".gz"
    assert safe_element(b"a" * 300 + b"." + b"x" * 15) == "a" * 224 + "." + "x" * 15
    assert safe_element(b"a" * 300 + b"." + b"x" * 16) == "a" * 240
    assert safe_element(b"." + b"a" * 300) == "." + "a" * 239
    assert safe_element(b"con." + b"a" * 236) == "_con." + "a" * 235


def test_safe_name() -> None:
    assert safe_name(b"a/b", "fallback") == "ab"
    assert safe_name(b"CON", "fallback") == "_CON"
    for raw in (b"", b".", b"..", b"/", b"\0", b"\\.", "\u200b".encode()):
        assert safe_name(raw, "fallback") == "fallback"


def strange_name(rng: random.Random) -> bytes:
    return b"".join(rng.choices(STRANGE, k=rng.randrange(5)))


def check_element(name: str) -> None:
    assert name not in ("", ".", "..")
    assert not {"/", "\\"} & set(name)
    assert all(unicodedata.category(character) not in ("Cc", "Cs") for character in name)
    assert not set(map(ord, name)) & set(DROPPED)
    assert len(name.encode()) <= limits.PATH_ELEMENT + len(".500")


def test_T7_strange_names_stay_inside() -> None:
    rng = random.Random(7)
    for _ in range(100_000):
        name = safe_element(strange_name(rng))
        if not name.isalnum():
            check_element(name)


def check_paths(raw_paths: Sequence[tuple[bytes, ...]]) -> None:
    paths = unique_paths("root", raw_paths)
    assert paths == unique_paths("root", raw_paths)
    assert len(paths) == len(raw_paths)
    keys = [tuple(map(fold, path)) for path in paths]
    assert len(set(keys)) == len(keys)
    folders = {key[:depth] for key in keys for depth in range(1, len(key))}
    assert not folders & set(keys)
    for raw, path in zip(raw_paths, paths, strict=True):
        assert path[0] == "root"
        assert len(path) == len(raw) + 1
        assert path[1:-1] == tuple(map(safe_element, raw[:-1]))
        for element in path:
            check_element(element)


ELEMENTS = st.sampled_from(
    [b"a", b"A", b"a.1", b"a.2", b"a.1.1", b"a.txt", b"A.TXT", b"a.1.txt", b"..", b"/", b"_", b"b"]
)
ACCENTED = st.sampled_from(
    [element.encode() for element in ("é", "e\u0301", "É", "ß", "ss", "SS", "ﬁ", "fi", "K", "k")]
)


@given(st.lists(st.lists(ELEMENTS | ACCENTED, min_size=1, max_size=3).map(tuple), max_size=30))
def test_T10_no_two_files_share_a_path(raw_paths: list[tuple[bytes, ...]]) -> None:
    check_paths(raw_paths)


def test_T10_strange_paths() -> None:
    rng = random.Random(10)
    for _ in range(2_000):
        check_paths([tuple(strange_name(rng) for _ in range(rng.randrange(1, 4))) for _ in range(rng.randrange(8))])


def below(*raw_paths: str) -> list[str]:
    raw = [tuple(element.encode() for element in path.split("/")) for path in raw_paths]
    return ["/".join(path[1:]) for path in unique_paths("root", raw)]


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a.1", "a.2"]),
        (["x/a.txt", "x/a.txt", "y/a.txt"], ["x/a.txt", "x/a.1.txt", "y/a.txt"]),
        (["a.txt", "a.txt", "a.1.txt"], ["a.txt", "a.2.txt", "a.1.txt"]),
        (["a.txt", "a.1.txt", "a.txt"], ["a.txt", "a.1.txt", "a.2.txt"]),
        (["a.1.txt", "a.1.txt", "a.txt", "a.txt"], ["a.1.txt", "a.1.1.txt", "a.txt", "a.2.txt"]),
        ([".bashrc", ".bashrc"], [".bashrc", ".bashrc.1"]),
        (["File.txt", "file.TXT"], ["File.txt", "file.1.TXT"]),
        (["é.txt", "e\u0301.txt"], ["é.txt", "e\u0301.1.txt"]),
        (["straße", "STRASSE"], ["straße", "STRASSE.1"]),
        (["a", "a/b"], ["a.1", "a/b"]),
        (["a/b", "a"], ["a/b", "a.1"]),
        (["A", "a/b"], ["A.1", "a/b"]),
        (["a", "a.1/x", "a/b"], ["a.2", "a.1/x", "a/b"]),
        (["../x", "\\/x"], ["_/x", "_/x.1"]),
        (["A/x", "a/x"], ["A/x", "a/x.1"]),
        (["A/x", "a/y"], ["A/x", "a/y"]),
    ],
)
def test_T10_renaming(raw: list[str], safe: list[str]) -> None:
    assert below(*raw) == safe


def test_T4_duplicate_names() -> None:
    names = below(*["foo/bar.txt"] * limits.DUPLICATE_NAMES)
    assert names[:2] + names[-1:] == ["foo/bar.txt", "foo/bar.1.txt", "foo/bar.499.txt"]
    with pytest.raises(MetainfoError, match="500 files are called bar"):
        below(*["foo/bar.txt"] * (limits.DUPLICATE_NAMES + 1))


def test_T4_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("btor.metainfo.paths.FOLDER_COUNT", 3)
    assert below("a/b/x", "c/x", "A/B/y") == ["a/b/x", "c/x", "A/B/y"]
    with pytest.raises(MetainfoError, match="folders"):
        below("a/b/x", "c/d/x")


def test_path_length() -> None:
    folders = [b"d" * 240] * 16
    room = limits.PATH_LENGTH - len("root/") - 16 * 241
    assert len("/".join(unique_paths("root", [(*folders, b"f" * room)])[0])) == limits.PATH_LENGTH
    with pytest.raises(MetainfoError, match="4096 bytes"):
        unique_paths("root", [(*folders, b"f" * (room + 1))])
    with pytest.raises(MetainfoError, match="4096 bytes"):
        unique_paths("root", [(*folders, "å".encode() * (room // 2 + 1))])


def test_duplicates_take_linear_time() -> None:
    raw_paths = [(b"a.txt",)] * limits.DUPLICATE_NAMES + [(b"a.%d.txt" % number,) for number in range(1, 50_000)]
    start = time.process_time()
    paths = unique_paths("root", raw_paths)
    assert time.process_time() - start < 3  # about 0.2
    assert paths[limits.DUPLICATE_NAMES - 1] == ("root", "a.50498.txt")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("é😀 中", "é😀 中"),
        ("\x1b[2J\x1b[31mhello\x07", "�[2J�[31mhello�"),
        ("a\r\nb\tc", "a��b�c"),
        ("a\x7f\x80\x9b\x9fb", "a����b"),
        ("a\u2028b\u2029c", "a�b�c"),
        ("a\u202eb\u200bc\u2066d\ufeffe\u061cf\u00adg\U000e0041h\u180ei", "abcdefghi"),
        ("a\ud800b\udcffc", "a�b�c"),
        (b"a\xffb", "a�b"),
        ("é".encode(), "é"),
        ("", ""),
    ],
)
def test_T14_display(text: str | bytes, shown: str) -> None:
    assert display(text) == shown


def test_T14_display_length() -> None:
    assert display("x" * 256) == "x" * 256
    assert display("x" * 257) == "x" * 255 + "…"
    assert display("x" * 10, 5) == "xxxx…"
    assert display("\u200b" * 1_000 + "x" * 10) == "x" * 10
    assert display("\u200b" * 5_000 + "x") == "…"


@given(st.text() | st.binary())
def test_T14_display_shows_nothing_but_one_harmless_line(text: str | bytes) -> None:
    shown = display(text)
    assert len(shown) <= limits.DISPLAY_CHARACTERS
    assert len((shown + "x").splitlines()) == 1
    assert all(unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") for character in shown)
    assert not set(map(ord, shown)) & set(DROPPED)
    shown.encode()
