"""What is closed only when nobody works on it."""

from __future__ import annotations

import threading

import pytest

from btor.errors import StorageError
from btor.storage.users import Users


def test_nobody_is_inside() -> None:
    closed: list[int] = []
    users = Users("/x")
    with users:
        pass
    users.when_gone(lambda: closed.append(1))
    assert closed == [1]


def test_the_last_to_leave_closes() -> None:
    closed: list[threading.Thread] = []
    users = Users("/x")
    inside, leave = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]

    def work(number: int) -> None:
        with users:
            inside[number].set()
            assert leave[number].wait(10)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread, event in zip(threads, inside, strict=True):
        thread.start()
        assert event.wait(10)
    users.when_gone(lambda: closed.append(threading.current_thread()))
    leave[1].set()
    threads[1].join()
    assert closed == []
    with pytest.raises(StorageError, match="use /x: it is being closed"), users:
        pass
    leave[0].set()
    threads[0].join()
    assert closed == [threads[0]]


def test_who_fails_inside_leaves_too() -> None:
    closed: list[int] = []
    users = Users("/x")
    with pytest.raises(ZeroDivisionError), users:
        users.when_gone(lambda: closed.append(1))
        raise ZeroDivisionError
    assert closed == [1]
