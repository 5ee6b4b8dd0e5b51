"""Content made from a seed, torrents of it made without btor, and its checksums."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

import bencodepy

MIB = 1024 * 1024


def write_random(path: Path, size: int, seed: int) -> None:
    """``size`` bytes at ``path`` that depend on ``seed`` only."""
    source = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            file.write(source.randbytes(min(MIB, size - start)))


def write_album(folder: Path, size: int, seed: int) -> None:
    """A folder of eight files of about ``size`` bytes in all: nested, empty, odd lengths, names outside ASCII."""
    share = size // 16
    lengths = {
        "01 début.bin": share + 1,
        "02.bin": 7 * share,
        "empty": 0,
        "inner/03 – 写真.bin": 4 * share - 17,
        "inner/one byte": 1,
        "inner/deeper/04.bin": 3 * share + 16_385,
        "inner/deeper/also empty": 0,
        "zz.bin": share,
    }
    for number, (name, length) in enumerate(lengths.items()):
        write_random(folder / name, length, seed * 1000 + number)


def torrent_of(content: Path, piece_length: int, trackers: Sequence[str] = (), web_seeds: Sequence[str] = ()) -> bytes:
    """The bytes of a v1 .torrent for a file or a folder; each tracker is a tier of its own."""
    info: dict[bytes, object] = {b"name": content.name.encode(), b"piece length": piece_length}
    if content.is_file():
        files = [content]
        info[b"length"] = content.stat().st_size
    else:
        files = sorted(path for path in content.rglob("*") if path.is_file())
        info[b"files"] = [
            {
                b"length": path.stat().st_size,
                b"path": [element.encode() for element in path.relative_to(content).parts],
            }
            for path in files
        ]
    info[b"pieces"] = _piece_hashes(files, piece_length)
    return with_trackers(bencodepy.encode({b"info": info}), trackers)


def _piece_hashes(files: Sequence[Path], piece_length: int) -> bytes:
    hashes, piece, room = [], hashlib.sha1(), piece_length
    for path in files:
        with path.open("rb") as file:
            while data := file.read(min(room, MIB)):
                piece.update(data)
                room -= len(data)
                if not room:
                    hashes.append(piece.digest())
                    piece, room = hashlib.sha1(), piece_length
    if room < piece_length:
        hashes.append(piece.digest())
    return b"".join(hashes)


def with_trackers(torrent: bytes, trackers: Sequence[str]) -> bytes:
    """The same torrent with these trackers, one a tier, instead of its own."""
    whole = bencodepy.decode(torrent)
    whole.pop(b"announce", None)
    whole.pop(b"announce-list", None)
    if trackers:
        whole[b"announce"] = trackers[0].encode()
        whole[b"announce-list"] = [[tracker.encode()] for tracker in trackers]
    encoded = bencodepy.encode(whole)
    assert isinstance(encoded, bytes)
    return encoded


def info_hash(torrent: bytes) -> str:
    """40 hex digits. The torrent was encoded by this module, so encoding its info again gives the same bytes."""
    return hashlib.sha1(bencodepy.encode(bencodepy.decode(torrent)[b"info"])).hexdigest()


def piece_count(torrent: bytes) -> int:
    return len(bencodepy.decode(torrent)[b"info"][b"pieces"]) // 20


def sha256_sums(path: Path) -> dict[str, str]:
    """SHA-256 of a file, or of every file below a folder, by path below ``path``."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    sums = {}
    for file in files:
        with file.open("rb") as opened:
            sums[file.relative_to(path).as_posix()] = hashlib.file_digest(opened, "sha256").hexdigest()
    return sums


def good_pieces(torrent: bytes, path: Path) -> set[int]:
    """Pieces of a single-file torrent that are right on disk, by an own count. A missing file has none."""
    info = bencodepy.decode(torrent)[b"info"]
    length, hashes = info[b"piece length"], info[b"pieces"]
    if not path.exists():
        return set()
    good = set()
    with path.open("rb") as file:
        for piece in range(len(hashes) // 20):
            if hashlib.sha1(file.read(length)).digest() == hashes[20 * piece : 20 * piece + 20]:
                good.add(piece)
    return good
