"""Running the command line: in this process where that is enough, as a child where the process itself is tested."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from btor import bencode
from btor.cli.main import run

PROJECT = Path(__file__).parent.parent.parent
TORRENTS = PROJECT / "torrents"
CONTENT = TORRENTS / "content"
BTOR = [sys.executable, "-m", "btor"]
CHILD_TIMEOUT = 60.0


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def last_error(self) -> str:
        return self.err.rstrip("\n").rsplit("\n", 1)[-1]


class Here:
    """Runs command lines in this process, by ``run`` itself."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *arguments: str | os.PathLike[str]) -> Ended:
        self._capfd.readouterr()
        status = run([os.fspath(argument) for argument in arguments])
        return Ended(status, *self._capfd.readouterr())


def child(
    arguments: Sequence[str | os.PathLike[str]], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Ended:
    """Run a command line as a process of its own. ``env`` is added to ours."""
    done = subprocess.run(
        [*BTOR, *arguments],
        env={**os.environ, "PYTHONPATH": str(PROJECT), **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=CHILD_TIMEOUT,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))


def torrent_bytes(
    files: Sequence[tuple[list[bytes], int]] | None = None,
    *,
    outer: Mapping[bytes, bencode.Value] | None = None,
    **info: bencode.Value,
) -> bytes:
    """A v1 torrent with pieces of zeros for hashes: of ``files`` (path, length), or of one file of 20,000 bytes."""
    inner: dict[bytes, bencode.Value] = {b"name": b"x", b"piece length": 16_384}
    if files is None:
        inner[b"length"] = total = 20_000
    else:
        inner[b"files"] = [{b"length": length, b"path": list(path)} for path, length in files]
        total = sum(length for _, length in files)
    inner[b"pieces"] = bytes(20 * -(-total // 16_384))
    inner |= {key.replace("_", " ").encode(): value for key, value in info.items()}
    return bencode.encode({b"info": inner, **(outer or {})})
