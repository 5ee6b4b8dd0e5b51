"""The pool of open files."""

from __future__ import annotations

import os

import pytest

from btor import limits
from btor.storage.pool import FilePool, OpenFile


def opened(pool: FilePool, owner: dict[int, OpenFile], index: int, *, writable: bool = False) -> OpenFile:
    file = OpenFile(owner, index, os.open(os.devnull, os.O_RDONLY), 0, writable=writable)
    pool.add(file)
    return file


def is_open(file: OpenFile) -> bool:
    try:
        os.fstat(file.fd)
    except OSError:
        return False
    return True


def test_at_most_so_many_files_stay_open() -> None:
    """F9: the bound is limits.OPEN_FILES, and one more closes the one longest unused."""
    pool = FilePool()
    owner: dict[int, OpenFile] = {}
    files = [opened(pool, owner, index) for index in range(limits.OPEN_FILES)]
    for file in files:
        pool.release(file)
    assert pool.count == limits.OPEN_FILES
    assert all(map(is_open, files))
    used = pool.take(owner, 0, writable=False)
    assert used is files[0]
    pool.release(used)
    pool.release(opened(pool, owner, limits.OPEN_FILES))
    assert pool.count == limits.OPEN_FILES
    assert pool.take(owner, 1, writable=False) is None
    assert is_open(files[0])
    pool.close_all(owner)
    assert not any(map(is_open, files))
    assert pool.count == 0


def test_a_file_in_use_is_not_closed() -> None:
    pool = FilePool(size=1)
    owner: dict[int, OpenFile] = {}
    busy = opened(pool, owner, 0)
    other = opened(pool, owner, 1)
    pool.release(other)
    pool.release(opened(pool, owner, 2))
    assert is_open(busy)
    pool.close_all(owner)
    assert is_open(busy)
    pool.release(busy)
    assert not is_open(busy)


def test_a_writable_one_stands_in_for_one_that_is_only_read() -> None:
    pool = FilePool()
    owner: dict[int, OpenFile] = {}
    reader = opened(pool, owner, 0)
    pool.release(reader)
    assert pool.take(owner, 0, writable=True) is None
    writer = opened(pool, owner, 0, writable=True)
    assert not is_open(reader)
    pool.release(writer)
    for writable in (True, False):
        taken = pool.take(owner, 0, writable=writable)
        assert taken is writer
        pool.release(taken)
    pool.close_all(owner)


def test_one_file_is_closed_when_its_use_ends() -> None:
    pool = FilePool()
    owner: dict[int, OpenFile] = {}
    busy, other = opened(pool, owner, 0), opened(pool, owner, 1)
    for index in (0, 0, 2):
        pool.close(owner, index)
    assert is_open(busy)
    assert pool.take(owner, 0, writable=False) is None
    pool.release(busy)
    assert (is_open(busy), is_open(other)) == (False, True)
    pool.release(other)
    pool.close_all(owner)


def test_owners_are_apart() -> None:
    pool = FilePool()
    one: dict[int, OpenFile] = {}
    two: dict[int, OpenFile] = {}
    files = [opened(pool, one, 0), opened(pool, two, 0)]
    for file in files:
        pool.release(file)
    pool.close_all(one)
    assert [is_open(file) for file in files] == [False, True]
    pool.close_all(two)


@pytest.mark.parametrize(("unused", "shrinks"), [(0, False), (1, True), (6, True)])
def test_descriptors_are_given_back(unused: int, shrinks: bool) -> None:
    pool = FilePool()
    owner: dict[int, OpenFile] = {}
    files = [opened(pool, owner, index) for index in range(6)]
    for file in files[:unused]:
        pool.release(file)
    assert pool.shrink() is shrinks
    assert pool.count == (6 if not shrinks else 6 - min(unused, 3))
    for file in files[unused:]:
        pool.release(file)
    pool.close_all(owner)
