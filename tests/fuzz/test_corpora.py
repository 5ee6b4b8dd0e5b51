"""Every committed input of every fuzz target, replayed; and what a corpus must reach. Needs no atheris."""

from __future__ import annotations

from pathlib import Path

import pytest

from btor.errors import PeerError
from tests.fuzz import cover, harness
from tests.fuzz.cover import missing_lines
from tests.fuzz.harness import CORPORA, COVERED, MEMORY, OverBoundError, Target, check, decoder_lines
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_read_within_bounds_and_reaches_the_decoder(name: str) -> None:
    one = TARGETS[name]
    assert one.corpus
    total, missing = missing_lines(one, [path.read_bytes() for path in one.corpus])
    assert total - sum(map(len, missing.values())) >= COVERED * total, missing


def test_every_corpus_has_a_target() -> None:
    assert {folder.name for folder in CORPORA.iterdir()} == set(TARGETS)


def bound_of(what: str) -> None:
    """Breaks the bound that it is told."""
    if what == "memory":
        bytearray(8 * MEMORY)  # a heap that has grown may hold a little more than MEMORY without asking for it
    elif what == "time":
        while True:
            pass
    elif what == "error":
        raise IndexError(what)
    raise PeerError(what)


def of(what: str) -> Target:
    return Target(what, lambda data: bound_of(what), (bound_of,), frozenset())


@pytest.mark.parametrize(
    ("what", "comes_out"), [("memory", MemoryError), ("time", OverBoundError), ("error", IndexError)]
)
def test_what_breaks_a_bound_comes_out(what: str, comes_out: type[Exception]) -> None:
    with pytest.raises(comes_out):
        check(of(what), b"")


def test_our_own_errors_stay_inside() -> None:
    check(of("peer"), b"")
    bytearray(MEMORY + 1024 * 1024)  # the bounds are gone with the input


def test_lines_that_no_input_reaches_are_named() -> None:
    one = of("peer")
    ((file, lines),) = decoder_lines(one).items()
    total, missing = missing_lines(one, [b""])
    assert total == len(lines) == 8
    assert len(missing[file]) == 4  # what the other three break


def test_a_corpus_that_reaches_too_little_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "krpc").mkdir()
    (tmp_path / "krpc" / "no-dictionary").write_bytes(b"le")
    monkeypatch.setattr(harness, "CORPORA", tmp_path)
    assert cover.main(["krpc"]) == 1
    assert "krpc.py: " in capsys.readouterr().out
