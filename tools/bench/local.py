"""Rows h and i: hashing what lies there, to check it and to make a torrent of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tools._btor import state
from tools._measure import Usage, measure
from tools._payload import info_hash
from tools._processes import ProcessFailedError
from tools.bench import contenders as who
from tools.bench.contest import Contender
from tools.bench.workshop import MIB, Payload, Workshop

SIZE = 4096  # MiB
PIECE_LENGTH = MIB


def warmed(workshop: Workshop) -> Payload:
    payload = workshop.single(SIZE, PIECE_LENGTH)
    with payload.content.open("rb") as file:
        while file.read(MIB):
            pass
    return payload


def every_byte(payload: Payload, usage: Usage) -> Usage:
    """ProcessFailedError if less was read than there is: nobody may believe without looking."""
    if usage.read < payload.size:
        raise ProcessFailedError(f"{usage.read} bytes read of {payload.size}")
    return usage


@contextmanager
def rechecks(workshop: Workshop) -> Iterator[list[Contender]]:
    payload = warmed(workshop)
    verify = [*who.BTOR, "verify", str(payload.torrent), str(payload.content)]
    recheck = [*who.LIBTORRENT, "recheck", str(payload.torrent), str(payload.folder)]
    yield [
        who.btor(lambda: every_byte(payload, who.run_btor(workshop, verify, payload.timeout)), "btor verify"),
        who.libtorrent(
            lambda: every_byte(payload, measure(recheck, workshop.log("libtorrent"), timeout=payload.timeout))
        ),
    ]


def create_once(workshop: Workshop, payload: Payload, command: Callable[[Path], list[str]], expected: str) -> Usage:
    with workshop.folder() as folder:
        torrent = folder / "made.torrent"
        log = workshop.log("create")
        usage = measure(command(torrent), log, timeout=payload.timeout, env=state(log))
        if (made := info_hash(torrent.read_bytes())) != expected:
            raise ProcessFailedError(f"{command(torrent)[0]} made info-hash {made}, not {expected}")
    return usage


@contextmanager
def creations(workshop: Workshop) -> Iterator[list[Contender]]:
    """All must come to the info-hash that libtorrent gives the same content."""
    payload = warmed(workshop)
    content, length = str(payload.content), str(payload.piece_length)
    expected = info_hash(payload.torrent.read_bytes())
    every: dict[str, tuple[str, str, Callable[[Path], list[str]]]] = {
        "btor": (
            "btor create --piece-length 1MiB",
            "",
            lambda made: [*who.BTOR, "create", content, "--piece-length", "1MiB", "--output", str(made)],
        ),
        "mktorrent": (
            "-d -l 20, as many threads as cores (its default)",
            who.lacks("mktorrent"),
            lambda made: ["mktorrent", "-d", "-l", "20", "-a", "http://127.0.0.1/", "-o", str(made), content],
        ),
        "torf": (
            "Torrent(path, piece_size=1 MiB).generate(), as many threads as it likes",
            who.lacks_module("torf"),
            lambda made: [sys.executable, "-c", TORF, content, length, str(made)],
        ),
        "libtorrent": (
            "set_piece_hashes",
            who.lacks_module("libtorrent"),
            lambda made: [*who.LIBTORRENT, "create", str(made), content, "--piece-length", length],
        ),
    }
    yield [
        Contender(name, settings, partial(create_once, workshop, payload, command, expected), missing)
        for name, (settings, missing, command) in every.items()
    ]


TORF = """
import sys, torf
torrent = torf.Torrent(path=sys.argv[1], piece_size=int(sys.argv[2]), piece_size_max=2**26, created_by=None)
torrent.generate()
torrent.write(sys.argv[3])
"""
