"""The error family: what each carries, and how a command ends with it."""

from __future__ import annotations

import errno

import pytest

from btor import errors
from btor.errors import BencodeError, BtorError, MetainfoError, PeerError, StorageError, TrackerError, UnsupportedError


def test_messages_and_data() -> None:
    assert str(BencodeError("bad integer", 7)) == "bad integer at byte 7"
    assert str(MetainfoError("pieces", "must be a string")) == "pieces: must be a string"
    assert str(MetainfoError("", "not a torrent")) == "not a torrent"
    assert str(UnsupportedError("later")) == "later"
    assert isinstance(UnsupportedError("later"), MetainfoError)
    assert PeerError("left").reason == "left"
    failed = TrackerError("http://t/", "no", retry_after=60.0, refused=True)
    assert str(failed) == "http://t/: no"
    assert (failed.retry_after, failed.never, failed.refused) == (60.0, False, True)


def test_storage_errors_of_the_system() -> None:
    failed = StorageError.from_os_error("write", "/x", OSError(errno.ENOSPC, "No space left on device"))
    assert str(failed) == "write /x: No space left on device"
    assert (failed.operation, failed.path, failed.errno) == ("write", "/x", errno.ENOSPC)
    assert StorageError.from_os_error("read", "/x", OSError("odd")).reason == "odd"


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("BtorError", 1),
        ("UsageError", 2),
        ("BencodeError", 3),
        ("MetainfoError", 3),
        ("UnsupportedError", 3),
        ("StorageError", 4),
        ("TrackerError", 5),
        ("NetworkError", 5),
        ("IncompleteError", 6),
    ],
)
def test_exit_status(name: str, status: int) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, BtorError)
    assert kind.exit_status == status
    assert kind.kind
