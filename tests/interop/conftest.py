"""What the interop tests share: the marker, the workers that run them, and one torrent of at least 64 MiB."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.clients import CLIENTS, Client
from tools import _payload

MIB = 1024 * 1024
PIECE_LENGTH = 256 * 1024


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One after the other on two workers: each keeps two or more processes busy, but for those that mostly wait."""
    for item in items:
        if "tests/interop/" in item.nodeid:
            item.add_marker(pytest.mark.interop)
            waits = "transmission" in item.nodeid  # for its next round of 10 s
            item.add_marker(pytest.mark.xdist_group("interop that waits" if waits else "interop"))


@dataclass(frozen=True)
class Album:
    """A torrent of several files with its content at ``content / name``."""

    data: bytes
    torrent: Path
    content: Path
    name: str
    sums: dict[str, str]

    @property
    def info_hash(self) -> str:
        """40 hex digits."""
        return _payload.info_hash(self.data)

    def with_trackers(self, path: Path, *trackers: str) -> Path:
        """The torrent written to ``path`` with these trackers."""
        path.write_bytes(_payload.with_trackers(self.data, trackers))
        return path

    def differences(self, folder: Path, *, empty_files: bool = True) -> list[str]:
        """Files below ``folder / name`` that are not those of the torrent, byte for byte; empty ones or not."""
        found = _payload.sha256_sums(folder / self.name)
        wanted = {
            path: digest
            for path, digest in self.sums.items()
            if empty_files or (self.content / self.name / path).stat().st_size
        }
        return sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path))


@pytest.fixture(scope="session")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    root = tmp_path_factory.mktemp("album")
    name = "Ålbum – 写真"
    _payload.write_album(root / "content" / name, 65 * MIB, seed=2)
    data = _payload.torrent_of(root / "content" / name, PIECE_LENGTH)
    (root / "album.torrent").write_bytes(data)
    sums = _payload.sha256_sums(root / "content" / name)
    return Album(data, root / "album.torrent", root / "content", name, sums)


@pytest.fixture(params=sorted(CLIENTS))
def client(request: pytest.FixtureRequest) -> Client:
    """Every client in turn; a skip that names it where it is not installed."""
    return installed(request.param)


def installed(name: str) -> Client:
    """The client of this name, or a skip of the test."""
    found = CLIENTS[name]
    if not found.installed():
        pytest.skip(f"{found.program} is not installed")
    return found
