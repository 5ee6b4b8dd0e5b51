"""The side file of a content on its disk: found, emptied into the files that have come to be wanted, and removed.

What is written beside goes through `Content.write`, and is read like any other byte.
"""

from __future__ import annotations

from btor.limits import MIB
from btor.metainfo.bitfield import Bitfield
from btor.storage.files import Content


def load_side(content: Content) -> None:
    """Find what is in the side file; nothing, if there is none. First of all, before anything is read. StorageError."""
    side = content.side
    if side is None:
        return
    found = content.stat(side.index)
    if found is None:
        return
    end = side.load(lambda position, length: content.read_file(side.index, position, length))
    content.apart.update(side.files())
    if content.writable and end < found.size:  # damage, which must not come to be read again
        content.shorten(side.index, end)


def owes_files(content: Content) -> bool:
    """Whether the side file has something of a file that is wanted."""
    side = content.side
    return side is not None and any(map(content.is_wanted, side.files()))


def may_come_home(content: Content, index: int) -> bool:
    """Whether nothing is lost if what the side file has of file ``index`` is written there: only zeros, or the same,
    which an earlier run had begun to write. StorageError."""
    side = content.side
    assert side is not None
    for piece in side.pieces_of(index):
        start, length = side.edge(index, piece)
        for _, position, size in side.split(index, start, length):
            for done in range(0, size, MIB):
                there = content.read_file(index, start + done, min(MIB, size - done))
                if any(there) and there != content.read_file(side.index, position + done, len(there)):
                    return False
    return True


def bring_home(content: Content, have: Bitfield) -> bool:
    """Give wanted files what the side file has of them of pieces in ``have``. With nothing more in it, it is removed.

    What is moved is durable before the side file forgets it. Whether it was removed. StorageError.
    """
    side = content.side
    if side is None or content.stat(side.index) is None:
        return False
    moved = [index for index in side.files() if content.is_wanted(index)]
    written = set()
    for index in moved:
        for piece in side.pieces_of(index):
            if piece in have:
                _copy(content, index, piece)
                written.add(index)
    content.sync(written)
    content.sync_folders()
    for index in moved:
        side.discard(index, lambda at, data: content.write_file(side.index, at, [memoryview(data)], len(data)))
    content.apart.difference_update(moved)
    if side.files():
        return False
    side.clear()
    content.remove(side.index)
    return True


def _copy(content: Content, index: int, piece: int) -> None:
    """What the side file has of ``piece`` of file ``index``, to that file."""
    assert content.side is not None
    start, length = content.side.edge(index, piece)
    for _, position, size in content.side.split(index, start, length):
        for done in range(0, size, MIB):
            data = content.read_file(content.side.index, position + done, min(MIB, size - done))
            content.write_file(index, start + done, [memoryview(data)], len(data))
