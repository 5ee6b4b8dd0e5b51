"""`btor create`."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from btor.cli import output
from btor.cli.options import FILE, PROCESSES, SIZE, Voice, voice_options
from btor.errors import StorageError, UsageError

if TYPE_CHECKING:
    from btor.metainfo.torrent_file import Metainfo


@click.command()
@click.argument("path", type=FILE)
@click.option("-o", "--output", "target", type=FILE, metavar="FILE", help="[default: PATH's name with .torrent, here]")
@click.option("--tracker", "trackers", multiple=True, metavar="URL", help="A tier; a comma inside joins more to it.")
@click.option("--web-seed", "web_seeds", multiple=True, metavar="URL", help="The content is there, too, over http(s).")
@click.option("--private", is_flag=True, help="Peers from the torrent's trackers only.")
@click.option("--source", metavar="S", help="A mark that makes the info-hash another one.")
@click.option("--comment", metavar="S", help="For people to read.")
@click.option("--piece-length", type=SIZE, metavar="SIZE", help="Such as 1MiB. [default: by the size of the content]")
@click.option("--no-date", is_flag=True, help="Leave the time out: the same content makes the same file.")
@click.option("--threads", type=PROCESSES, metavar="N", help="Hashers. [default: one per processor]")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@voice_options
def create(path: Path, **values: Any) -> int:
    """Make a .torrent of the file or folder PATH and print its path, info-hash and magnet URI."""
    voice = Voice.taken_from(values)
    name = os.path.basename(os.path.abspath(path))
    target: Path = values["target"] or Path(f"{name or 'root'}.torrent")
    _check_target(target, force=values["force"])

    from btor.cli.meter import meter
    from btor.metainfo.torrent_file import parse_torrent
    from btor.storage.create import create_torrent

    began = time.monotonic()
    with meter(f"hashing {name}", voice) as progress:
        data = create_torrent(
            path,
            trackers=[tier.split(",") for tier in values["trackers"]],
            web_seeds=values["web_seeds"],
            private=values["private"],
            source=_encodable("--source", values["source"]),
            comment=_encodable("--comment", values["comment"]),
            piece_length=values["piece_length"],
            date=None if values["no_date"] else int(time.time()),
            processes=values["threads"],
            progress=progress,
            leave_out=target,
        )
    metainfo = parse_torrent(data)
    put(target, data, force=values["force"])
    _tell(target, metainfo, time.monotonic() - began, voice)
    return 0


def _encodable(option: str, text: str | None) -> str | None:
    """``text`` if it is one: the command line may bring bytes that are not UTF-8."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"create: {option}: not valid UTF-8") from error
    return text


def _tell(target: Path, metainfo: Metainfo, seconds: float, voice: Voice) -> None:
    info_hash, magnet = metainfo.info_hash.hex(), metainfo.magnet()
    if voice.json:
        geometry = metainfo.geometry
        output.answer_json(
            {
                "path": str(target),
                "info_hash": info_hash,
                "magnet": magnet,
                "pieces": geometry.piece_count,
                "piece_length": geometry.piece_length,
                "seconds": round(seconds, 3),
            }
        )
    else:
        from btor.cli.ending import LINE_CHARACTERS
        from btor.metainfo.paths import display

        output.answer(f"path       {display(str(target), limit=LINE_CHARACTERS)}")
        output.answer(f"info hash  {info_hash}")
        output.answer(f"magnet     {magnet}")


def _check_target(target: Path, *, force: bool) -> None:
    """Fail before an hour of hashing rather than after it. Raises StorageError."""
    if os.path.lexists(target) and not (force and is_replaceable(target)):
        raise _in_the_way(target)
    if not target.parent.is_dir():
        raise StorageError("create", str(target), "the folder is not there", errno.ENOENT)


def is_replaceable(target: Path) -> bool:
    """Whether what is there is a file: a link, a device or a pipe is not what somebody thinks of who says --force."""
    return stat.S_ISREG(os.lstat(target).st_mode)


def _in_the_way(target: Path) -> StorageError:
    reason = "it is there already; --force replaces it"
    if not is_replaceable(target):
        reason = "something that is no file is there, which is never replaced"
    return StorageError("create", str(target), reason, errno.EEXIST)


def put(target: Path, data: bytes, *, force: bool) -> None:
    """Make the file ``target`` with ``data`` in it, whole or not at all. Raises StorageError."""
    temporary = target.with_name(f".btor-{secrets.token_hex(8)}")
    with _signals_held():
        try:
            try:
                _write(temporary, data)
                if force and os.path.lexists(target):
                    if not is_replaceable(target):
                        raise FileExistsError
                    os.replace(temporary, target)
                else:
                    _rename_to_new(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
        except FileExistsError as error:
            raise _in_the_way(target) from error
        except OSError as error:
            raise StorageError.from_os_error("write", str(target), error) from error


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _rename_to_new(temporary: Path, target: Path) -> None:
    """Give ``temporary`` the name ``target``. Raises FileExistsError, even if it came up in this moment."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(temporary, target)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let no signal end the process between the making of the temporary file and its end."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
