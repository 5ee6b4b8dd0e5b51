"""Write the sample torrents and their content, byte for byte the same each time: make_torrents.py FOLDER.

Nothing of btor is used, so that btor is tested against torrents that it did not make.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bencodepy

KIB = 1024
COMMENT = "A sample torrent of btor; its content is beside it."
VOCABULARY = (
    "piece block peer swarm seed leech choke unchoke interest request cancel have bitfield tracker announce scrape "
    "tier magnet hash verify resume open write read send wait the a of and to from with each every one two rarest "
    "first last quick slow honest fair small large early late north south river stone light paper copper window"
)
WORDS = VOCABULARY.split()


def random_bytes(seed: str, length: int) -> bytes:
    """``length`` bytes that depend on ``seed`` only: SHA-256 of the seed and a counter."""
    blocks = (hashlib.sha256(f"{seed}:{number}".encode()).digest() for number in range(-(-length // 32)))
    return b"".join(blocks)[:length]


def text(seed: str, length: int) -> bytes:
    """``length`` bytes of lines of words chosen by ``random_bytes``, ending in a line feed."""
    choices = random_bytes(seed, length // 3)
    lines, line = [], ""
    for choice in choices:
        line += (" " if line else "") + WORDS[choice % len(WORDS)]
        if len(line) > 70:
            lines.append(line.capitalize() + ".\n")
            line = ""
    return "".join(lines).encode()[: length - 1] + b"\n"


@dataclass(frozen=True)
class Sample:
    """One torrent: its content is the single file ``name``, or the folder ``name`` with ``files``."""

    stem: str
    name: str
    piece_length: int
    files: tuple[
        tuple[str, bytes], ...
    ]  # (path below name with slashes, content); one entry with path "": a single file

    def stream(self) -> bytes:
        return b"".join(content for _, content in self.files)

    def metainfo(self) -> bytes:
        """The bytes of the .torrent file (BEP 3): no date, no tracker, nothing that changes from run to run."""
        stream = self.stream()
        pieces = (stream[start : start + self.piece_length] for start in range(0, len(stream), self.piece_length))
        info: dict[bytes, object] = {
            b"name": self.name.encode(),
            b"piece length": self.piece_length,
            b"pieces": b"".join(hashlib.sha1(piece).digest() for piece in pieces),
        }
        if self.files[0][0] == "":
            info[b"length"] = len(stream)
        else:
            info[b"files"] = [
                {b"length": len(content), b"path": [element.encode() for element in path.split("/")]}
                for path, content in self.files
            ]
        whole = {b"comment": COMMENT.encode(), b"created by": b"make_torrents.py", b"info": info}
        encoded = bencodepy.encode(whole)
        assert isinstance(encoded, bytes)
        return encoded


def samples() -> Iterator[Sample]:
    """Every sample, each for one trap of the format."""
    yield Sample("short-last-piece", "short-last-piece.bin", 64 * KIB, (("", random_bytes("short", 1_500_007)),))
    yield Sample(
        "many-files",
        "Vårt album – 写真",
        32 * KIB,
        (
            ("README.txt", text("album", 2_345)),
            ("empty.txt", b""),
            ("disque/Ça commence.txt", text("ça", 250_000)),
            ("disque/日本語のファイル.bin", random_bytes("日本語", 700_001)),
            ("disque/тишина/пусто.dat", b""),
            ("disque/тишина/звук.bin", random_bytes("звук", 31)),
            ("deep/er/and/deeper/still.txt", text("deep", 40_000)),
            ("photos/naïve café.txt", text("café", 900_000)),
            ("photos/one.bin", random_bytes("one", 1)),
            ("photos/😀.bin", random_bytes("smile", 600_000)),
        ),
    )
    yield Sample("one-small-piece", "one-small-piece.txt", 16 * KIB, (("", text("small", 1_234)),))
    yield Sample("many-pieces", "many-pieces.bin", KIB, (("", random_bytes("many", 1_999_999)),))
    yield Sample("odd-piece-length", "odd-piece-length.bin", 40_000, (("", text("odd", 1_010_101)),))


def write(folder: Path) -> list[Path]:
    """Write each torrent as FOLDER/STEM.torrent and its content below FOLDER/content; returns the files written."""
    written = []
    for sample in samples():
        for path, content in sample.files:
            target = folder / "content" / sample.name / path if path else folder / "content" / sample.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            written.append(target)
        torrent = folder / f"{sample.stem}.torrent"
        torrent.write_bytes(sample.metainfo())
        written.append(torrent)
    return written


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    files = write(Path(sys.argv[1]))
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
