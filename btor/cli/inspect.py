"""`btor info`, `btor magnet`, `btor verify`: what a torrent says, and whether it is true of what is on disk."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from btor import limits
from btor.cli import ending, output, words
from btor.cli.ending import named
from btor.cli.options import DURATION, FILE, SOURCE, NetworkOptions, Voice, network_options, voice_options
from btor.cli.sources import fetch_metadata, fetch_torrent, is_magnet, is_url
from btor.errors import IncompleteError, UsageError

if TYPE_CHECKING:
    from btor.metainfo.magnet import Magnet
    from btor.metainfo.torrent_file import Metainfo
    from btor.storage.verify import Verification

FILES_SHOWN = 20
TRACKERS_SHOWN = 20  # tiers, and web seeds, likewise
LABEL = 13  # columns
DATE_MAX = 253_402_300_799  # the last second of the year 9999: what a date can be


@click.command()
@click.argument("source", type=SOURCE)
@click.option("--files", "all_files", is_flag=True, help=f"List all files, not the first {FILES_SHOWN}.")
@click.option("--save", type=FILE, metavar="FILE.torrent", help="Keep what was got for a magnet as a torrent file.")
@click.option("--offline", is_flag=True, help="Ask nobody: show what the magnet itself says.")
@click.option("--timeout", type=DURATION, default="60s", show_default=True, metavar="T", help="Give up after that.")
@network_options
@voice_options
def info(source: str, all_files: bool, save: Path | None, offline: bool, **values: Any) -> int:
    """Show name, sizes, files, trackers, hashes and magnet of SOURCE: a file, a URL, a magnet URI or an info-hash.

    For the last two the torrent is got from peers, as the options about the network say.
    """
    voice = Voice.taken_from(values)
    network = NetworkOptions.taken_from(values)
    if not is_magnet(source) and (save is not None or offline):
        raise UsageError(f"{'--offline' if save is None else '--save'} is for magnet URIs and info-hashes")
    if save is not None and offline:
        raise UsageError("--save and --offline exclude each other")
    with named(source):
        if offline:
            from btor.metainfo.magnet import Magnet

            magnet = Magnet.parse(source)
            if voice.json:
                output.answer_json(magnet_as_json(magnet))
            else:
                output.answer(magnet_as_text(magnet))
            return 0
        metainfo = ask_peers(source, network, values["timeout"], save) if is_magnet(source) else load(source)
    if voice.json:
        output.answer_json(metainfo_as_json(metainfo))
    else:
        output.answer(metainfo_as_text(metainfo, all_files=all_files))
    return 0


@click.command()
@click.argument("torrent", type=SOURCE)
@voice_options
def magnet(torrent: str, **values: Any) -> int:
    """Print the magnet URI of TORRENT, nothing else."""
    voice = Voice.taken_from(values)
    with named(torrent):
        metainfo = load(torrent)
    if voice.json:
        output.answer_json({"info_hash": metainfo.info_hash.hex(), "magnet": metainfo.magnet()})
    else:
        output.answer(metainfo.magnet())
    return 0


@click.command()
@click.argument("torrent", type=SOURCE)
@click.argument("path", type=FILE)
@click.option("--files", "all_files", is_flag=True, help=f"List all that is wrong, not the first {FILES_SHOWN}.")
@voice_options
def verify(torrent: str, path: Path, all_files: bool, **values: Any) -> int:
    """Hash what is at PATH against TORRENT; name what is missing or bad and end with 6 if anything is.

    PATH is the content itself under any name, or the folder that holds it. Nothing is written.
    """
    voice = Voice.taken_from(values)
    with named(torrent):
        metainfo = load(torrent)

    from btor.cli.meter import meter
    from btor.storage.verify import verify as hash_all

    with meter(f"hashing {shown(metainfo.name)}", voice) as progress:
        found = hash_all(metainfo, path, progress=progress)
    if voice.json:
        output.answer_json(verification_as_json(metainfo, found))
    else:
        output.answer(verification_as_text(metainfo, found, all_files=all_files))
    if found.complete:
        return 0
    wrong = sum(1 for _, status in found.files if status != "ok")
    bad = words.count(len(found.bad_pieces), "piece")
    error = IncompleteError(f"{shown(metainfo.name)}: {bad} missing or bad, {words.count(wrong, 'file')} affected")
    return ending.end_with(error)  # the JSON object has said it already


def ask_peers(source: str, network: NetworkOptions, timeout: float, path: Path | None) -> Metainfo:
    """The metadata of a magnet, from peers; kept at ``path`` as a torrent file. MetainfoError, NetworkError,
    StorageError.
    """
    from btor.cli.create import put
    from btor.metainfo.from_magnet import torrent_of
    from btor.metainfo.magnet import Magnet

    magnet = Magnet.parse(source)  # what is wrong with it is said before anything heavy is loaded

    import trio

    metainfo = trio.run(partial(fetch_metadata, source, network.settings(), network.peers, timeout))
    if path is not None:
        put(path, torrent_of(metainfo.info, magnet), force=False)
    return metainfo


def load(source: str) -> Metainfo:
    """The torrent in a file or at a URL. Raises MetainfoError, StorageError, NetworkError."""
    if is_url(source):
        import trio

        return trio.run(fetch_torrent, source)
    from btor.storage.load import load_metainfo

    return load_metainfo(source)


def shown(text: str | bytes | None) -> str:
    """A foreign text for people."""
    from btor.metainfo.paths import display

    return display(text or "")


def kept(text: str | None) -> str | None:
    """A foreign text for programs: whole, but with nothing in it that could steer a terminal once it is decoded."""
    from btor.metainfo.paths import display

    return None if text is None else display(text, limit=limits.TORRENT_FILE_SIZE)


def metainfo_as_json(metainfo: Metainfo) -> dict[str, Any]:
    """The object that ``info --json`` prints for a torrent."""
    numbers = count(1)
    files = [
        {
            "path": "/".join(entry.path),
            "length": entry.length,
            "pad": entry.pad,
            "number": None if entry.pad else next(numbers),
        }
        for entry in metainfo.files
    ]
    return {
        "info_hash": metainfo.info_hash.hex(),
        "name": metainfo.name,
        "total_bytes": metainfo.total_length,
        "piece_length": metainfo.geometry.piece_length,
        "pieces": metainfo.geometry.piece_count,
        "private": metainfo.private,
        "trackers": [[kept(url) for url in tier] for tier in metainfo.trackers],
        "web_seeds": [kept(url) for url in metainfo.web_seeds],
        "files": files,
        "magnet": metainfo.magnet(),
        "comment": kept(metainfo.comment),
        "created_by": kept(metainfo.created_by),
        "created": metainfo.creation_date,
        "source": kept(metainfo.source),
        "version": metainfo.version,
    }


def magnet_as_json(magnet: Magnet) -> dict[str, Any]:
    """The same keys for a magnet URI, null where only the torrent itself would know."""
    known: dict[str, Any] = {
        "info_hash": hash_of(magnet),
        "name": kept(magnet.name),
        "total_bytes": magnet.length,
        "piece_length": None,
        "pieces": None,
        "private": None,
        "trackers": [[kept(url)] for url in magnet.trackers],
        "web_seeds": [kept(url) for url in magnet.web_seeds],
        "files": [],
        "magnet": magnet.uri(),
        "comment": None,
        "created_by": None,
        "created": None,
    }
    return known


def hash_of(magnet: Magnet) -> str:
    """The info-hash by which the swarm is found, in hex."""
    hashes = magnet.info_hashes
    return (hashes.v1 or hashes.v2 or b"").hex()


def metainfo_as_text(metainfo: Metainfo, *, all_files: bool) -> str:
    """What ``info`` prints for a torrent."""
    geometry = metainfo.geometry
    files = [entry for entry in metainfo.files if not entry.pad]
    total = f"{words.size(metainfo.total_length)} ({words.count(metainfo.total_length, 'byte')})"
    lines = [
        ("name", shown(metainfo.name)),
        ("info hash", metainfo.info_hash.hex()),
        ("info hash v2", metainfo.info_hashes.v2.hex() if metainfo.info_hashes.v2 else ""),
        ("size", f"{total} in {words.count(len(files), 'file')}"),
        ("pieces", f"{geometry.piece_count:,} of {binary_size(geometry.piece_length)}"),
        ("private", "yes" if metainfo.private else "no"),
        ("created", date(metainfo.creation_date)),
        ("created by", shown(metainfo.created_by)),
        ("comment", shown(metainfo.comment)),
        ("source", shown(metainfo.source)),
        *trackers(metainfo.trackers),
        *listed("web seed", metainfo.web_seeds),
    ]
    text = [f"{label:{LABEL}}{value}" for label, value in lines if value]
    limit = len(files) if all_files else FILES_SHOWN
    text.append("files")
    width = len(str(min(limit, len(files))))
    for number, entry in enumerate(files[:limit], 1):
        text.append(f"{number:>{width}} {words.size(entry.length):>9}  {shown('/'.join(entry.path))}")
    text += more(len(files) - limit)
    text.append(f"{'magnet':{LABEL}}{metainfo.magnet()}")
    return "\n".join(text)


def magnet_as_text(magnet: Magnet) -> str:
    """What ``info`` prints for a magnet URI."""
    lines = [
        ("name", shown(magnet.name)),
        ("info hash", hash_of(magnet)),
        ("size", "" if magnet.length is None else f"{words.size(magnet.length)}, as the magnet says"),
        *trackers([[url] for url in magnet.trackers]),
        *listed("web seed", magnet.web_seeds),
        ("magnet", magnet.uri()),
    ]
    return "\n".join(f"{label:{LABEL}}{value}" for label, value in lines if value)


def trackers(tiers: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """One line per tier."""
    return listed("tracker", [" ".join(tier) for tier in tiers])


def listed(label: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """A line for each of the first, and one for the rest."""
    lines = [(label, shown(text)) for text in texts[:TRACKERS_SHOWN]]
    if len(texts) > TRACKERS_SHOWN:
        lines.append((label, f"{output.ellipsis(sys.stdout)} {len(texts) - TRACKERS_SHOWN:,} more (--json)"))
    return lines


def more(number: int) -> list[str]:
    """What stands for ``number`` files that are not listed."""
    return [f"{output.ellipsis(sys.stdout)} {number:,} more (--files)"] if number > 0 else []


def binary_size(length: int) -> str:
    """A piece length as people know it: in KiB or MiB where it is a whole number of them."""
    for unit, name in ((1024 * 1024, "MiB"), (1024, "KiB")):
        if length % unit == 0:
            return f"{length // unit:,} {name}"
    return words.count(length, "byte")


def date(seconds: int | None) -> str:
    """A Unix time in words; as a number where no calendar has it."""
    if seconds is None:
        return ""
    if not 0 <= seconds <= DATE_MAX:
        return str(seconds)
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def verification_as_json(metainfo: Metainfo, found: Verification) -> dict[str, Any]:
    """The object that ``verify --json`` prints."""
    return {
        "info_hash": metainfo.info_hash.hex(),
        "complete": found.complete,
        "have_pieces": found.have.count,
        "pieces": metainfo.geometry.piece_count,
        "bad_pieces": list(found.bad_pieces),
        "files": [{"path": path, "status": status} for path, status in found.files],
    }


def verification_as_text(metainfo: Metainfo, found: Verification, *, all_files: bool) -> str:
    """What ``verify`` prints: each file that is not as it should be, and how much is good."""
    wrong = [(path, status) for path, status in found.files if status != "ok"]
    limit = len(wrong) if all_files else FILES_SHOWN
    lines = [f"{status:<9}{shown(path)}" for path, status in wrong[:limit]]
    lines += more(len(wrong) - limit)
    pieces = f"{found.have.count:,} of {words.count(metainfo.geometry.piece_count, 'piece')}"
    lines.append(f"{shown(metainfo.name)}: {'complete' if found.complete else 'incomplete'}, {pieces} good")
    return "\n".join(lines)
