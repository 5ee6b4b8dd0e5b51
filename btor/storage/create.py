"""Making a torrent (BEP 3, version 1) of a file or a folder, with all processors.

The order of files is that of their names as bytes, folder by folder, so the same folder gives the same torrent
everywhere; for the same order, piece length and content the info-hash is libtorrent's.
"""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from btor import bencode, limits
from btor.errors import StorageError, UsageError
from btor.limits import MIB
from btor.metainfo.geometry import Geometry
from btor.metainfo.torrent_file import parse_torrent
from btor.settings import CLIENT_NAME
from btor.storage.hashing import Segment, hash_pieces
from btor.storage.side import is_side_name

TRACKER_SCHEMES: Final = ("http", "https", "udp")
WEB_SEED_SCHEMES: Final = ("http", "https")
LARGEST_AUTOMATIC: Final = 16 * MIB
_FIRST_STEP: Final = (
    2**28
)  # hundredths of bytes: up to 2,684,355 bytes go with 16 KiB, up to 4 times that with 32 KiB …


class _Source(NamedTuple):
    """A file to be put in. ``parts``: its place below the folder, () for a single file."""

    path: str
    parts: tuple[str, ...]
    length: int
    mtime_ns: int
    executable: bool


def automatic_piece_length(total_length: int) -> int:
    """The piece length for ``total_length`` bytes: 16 KiB … 16 MiB in libtorrent's steps, more only to keep within
    the largest number of pieces."""
    piece_length, step = limits.BLOCK, _FIRST_STEP
    while piece_length < LARGEST_AUTOMATIC and total_length > (step + 50) // 100:
        piece_length *= 2
        step *= 4
    while -(-total_length // piece_length) > limits.PIECE_COUNT:
        piece_length *= 2
    return piece_length


def create_torrent(
    path: str | os.PathLike[str],
    *,
    trackers: Sequence[Sequence[str]] = (),
    web_seeds: Sequence[str] = (),
    private: bool = False,
    source: str | None = None,
    comment: str | None = None,
    piece_length: int | None = None,
    date: int | None = None,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    leave_out: str | os.PathLike[str] | None = None,
) -> bytes:
    """The bytes of a torrent file for the file or folder ``path``.

    ``trackers``: tiers of URLs (BEP 12); ``web_seeds`` (BEP 19); ``private`` (BEP 27); ``source`` goes into the info
    dictionary and so changes the info-hash; ``piece_length`` a power of two of at least 16 KiB, None chooses; ``date``
    Unix seconds or None for none; ``processes`` that hash, None for one per processor; ``progress`` is called with
    (pieces done, pieces in all). Hidden files are content like all others, but not the file ``leave_out``: where the
    torrent goes, which may be an older torrent of the same folder.

    UsageError: an option makes no sense, or ``path`` itself is to be left out. MetainfoError: the torrent would be over
    a bound. StorageError names the file: unreadable, a link, neither file nor folder, a name that is not UTF-8, changed
    while it was hashed; or there is not one byte of content.
    """
    tiers = _checked_trackers(trackers)
    for url in web_seeds:
        _check_url("web seed", url, WEB_SEED_SCHEMES)
    top = os.path.abspath(os.fspath(path))
    name = _utf8(os.path.basename(top), top)
    if not name:
        raise UsageError(f"{top} has no name that a torrent could carry")
    files = _collect(top, None if leave_out is None else _identity(os.fspath(leave_out)))
    total = sum(file.length for file in files)
    geometry = Geometry(total, _checked_piece_length(top, total, piece_length))
    pieces = _hash(files, geometry, processes, progress)
    info = _info(name, files, geometry.piece_length, pieces, private=private, source=source)
    del files, pieces  # of many files they take as much as what follows
    torrent: dict[bytes, bencode.Value] = {b"created by": CLIENT_NAME.encode()}
    if tiers:
        torrent[b"announce"] = tiers[0][0]
        if len(tiers) > 1 or len(tiers[0]) > 1:
            torrent[b"announce-list"] = [list(tier) for tier in tiers]
    if web_seeds:
        torrent[b"url-list"] = [url.encode() for url in web_seeds]
    if comment is not None:
        torrent[b"comment"] = _encoded("comment", comment)
    if date is not None:
        torrent[b"creation date"] = date
    made = _with_encoded(torrent, b"info", info)
    parse_torrent(made)  # what is beyond a bound of ours (names, depth, size of the file) is said here, by its name
    return made


def _checked_trackers(trackers: Sequence[Sequence[str]]) -> list[list[bytes]]:
    tiers = []
    for tier in trackers:
        for url in tier:
            _check_url("tracker", url, TRACKER_SCHEMES)
        if tier:
            tiers.append([url.encode() for url in tier])
    return tiers


def _check_url(what: str, url: str, schemes: tuple[str, ...]) -> None:
    try:
        split = urlsplit(url)
        fine = split.scheme in schemes and bool(split.hostname) and split.port != 0 and url.isprintable()
    except ValueError:
        fine = False
    if not fine or " " in url or len(url) > limits.URL_LENGTH:
        raise UsageError(f"{what} {url!r}: not a URL of {', '.join(schemes)}")


def _checked_piece_length(top: str, total: int, asked: int | None) -> int:
    if total == 0:
        raise StorageError("create", top, "there is not one byte of content to make a torrent of", errno.ENODATA)
    if total > limits.TOTAL_LENGTH:
        raise StorageError("create", top, f"more than {limits.TOTAL_LENGTH} bytes of content", errno.EFBIG)
    if asked is None:
        return automatic_piece_length(total)
    if asked < limits.BLOCK or asked & (asked - 1) or asked > limits.PIECE_LENGTH_V1:
        raise UsageError(f"piece length {asked}: not a power of two from {limits.BLOCK} to {limits.PIECE_LENGTH_V1}")
    if -(-total // asked) > limits.PIECE_COUNT:
        raise UsageError(f"piece length {asked}: {total} bytes make more than {limits.PIECE_COUNT} pieces")
    return asked


def _encoded(option: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{option}: not valid UTF-8") from None


def _utf8(name: str, path: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise StorageError("create", shown, "its name is not valid UTF-8", errno.EILSEQ) from None
    return name


def _identity(path: str) -> tuple[int, int] | None:
    """Device and inode of the file ``path``; None: there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _collect(top: str, leave_out: tuple[int, int] | None) -> list[_Source]:
    """The files of ``top`` in their order, but for the file of the identity ``leave_out``."""
    if not os.path.isdir(top):
        if leave_out is not None and leave_out == _identity(top):
            raise UsageError(f"the torrent of {top} cannot take its place")
        return [_source(top, ())]
    files: list[_Source] = []
    folders: list[tuple[str, tuple[str, ...]]] = [(top, ())]
    while folders:
        path, parts = folders.pop()
        found = _lstat(path)
        if stat.S_ISDIR(found.st_mode) or not parts:
            names = sorted(_names(path), key=os.fsencode, reverse=True)
            folders.extend(
                (os.path.join(path, name), (*parts, _utf8(name, os.path.join(path, name)))) for name in names
            )
            continue
        if (found.st_dev, found.st_ino) == leave_out:
            continue
        files.append(_source(path, parts))
        if len(files) > limits.FILE_COUNT:
            raise StorageError("create", top, f"more than {limits.FILE_COUNT} files", errno.E2BIG)
    return files


def _names(path: str) -> list[str]:
    """What is in the folder, but for what btor keeps there of a download of some files."""
    try:
        return [name for name in os.listdir(path) if not is_side_name(name)]
    except OSError as error:
        raise StorageError.from_os_error("list", path, error) from error


def _lstat(path: str) -> os.stat_result:
    try:
        return os.lstat(path)
    except OSError as error:
        raise StorageError.from_os_error("look at", path, error) from error


def _source(path: str, parts: tuple[str, ...]) -> _Source:
    found = _lstat(path)
    if stat.S_ISLNK(found.st_mode) and not parts:  # the person's own link to the one file
        try:
            found = os.stat(path)
        except OSError as error:
            raise StorageError.from_os_error("look at", path, error) from error
    if stat.S_ISLNK(found.st_mode):
        raise StorageError("create", path, "is a symbolic link, which a torrent cannot carry", errno.ELOOP)
    if not stat.S_ISREG(found.st_mode):
        raise StorageError("create", path, "is neither a file nor a folder", errno.EINVAL)
    return _Source(path, parts, found.st_size, found.st_mtime_ns, bool(found.st_mode & stat.S_IXUSR))


def _hash(
    files: list[_Source], geometry: Geometry, processes: int | None, progress: Callable[[int, int], None] | None
) -> bytes:
    """The digests of all pieces over ``files`` laid end to end."""
    starts = []
    offset = 0
    for file in files:
        starts.append(offset)
        offset += file.length

    def segments(offset: int, length: int) -> list[Segment]:
        return list(_segments(files, starts, offset, length))

    pieces = bytearray()
    for piece, digest, failure in hash_pieces(geometry, range(geometry.piece_count), segments, processes):
        if digest is None:
            assert failure is not None
            _check_unchanged(files)
            raise failure
        pieces += digest
        if progress is not None:
            progress(piece + 1, geometry.piece_count)
    _check_unchanged(files)
    return bytes(pieces)


def _segments(files: list[_Source], starts: list[int], offset: int, length: int) -> Iterator[Segment]:
    index = bisect_right(starts, offset) - 1
    while length:
        position = offset - starts[index]
        size = min(length, files[index].length - position)
        if size:
            yield files[index].path, position, size
        offset += size
        length -= size
        index += 1


def _check_unchanged(files: list[_Source]) -> None:
    for file in files:
        try:
            found = os.stat(file.path)
        except OSError as error:
            raise StorageError.from_os_error("look at", file.path, error) from error
        if (found.st_size, found.st_mtime_ns) != (file.length, file.mtime_ns):
            raise StorageError("create", file.path, "it changed while it was hashed", errno.EBUSY)


def _info(
    name: str, files: list[_Source], piece_length: int, pieces: bytes, *, private: bool, source: str | None
) -> bytes:
    """The info dictionary, encoded."""
    info: dict[bytes, bencode.Value] = {b"name": name.encode(), b"piece length": piece_length, b"pieces": pieces}
    if private:
        info[b"private"] = 1
    if source is not None:
        info[b"source"] = _encoded("source", source)
    if len(files) == 1 and not files[0].parts:
        return bencode.encode({**info, **_attributes(files[0])})
    # one by one: as a whole, a list of 300,000 files takes 600 MB to encode
    entries = (bencode.encode({**_attributes(file), b"path": [part.encode() for part in file.parts]}) for file in files)
    return _with_encoded(info, b"files", b"l" + b"".join(entries) + b"e")


def _with_encoded(table: dict[bytes, bencode.Value], key: bytes, value: bytes) -> bytes:
    """``table`` encoded, with ``value``, which is so already, in its place under ``key``."""
    before = bencode.encode({other: table[other] for other in table if other < key})
    after = bencode.encode({other: table[other] for other in table if other > key})
    return before[:-1] + bencode.encode(key) + value + after[1:]


def _attributes(file: _Source) -> dict[bytes, bencode.Value]:
    attributes: dict[bytes, bencode.Value] = {b"length": file.length}
    if file.executable:
        attributes[b"attr"] = b"x"  # BEP 47
    return attributes
