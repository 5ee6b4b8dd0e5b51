"""Ctrl-C, SIGTERM and hang-up while trio runs: the first asks for an orderly end, the second ends at once.

trio's receiver serves the orderly end. Behind it stands a thread that hears of signals from the kernel by itself, for
the case that the loop cannot: a write to a stalled disk returns to no Python code. It ends the process when the orderly
end takes too long, so a signal always ends btor.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import trio

from btor import limits

GRACE = limits.SHUTDOWN + 0.5  # s from the first signal to the end, orderly or not

ECHO = 0.1  # s in which a second signal is the first again, passed on by a wrapper such as timeout(1)


def ending_signals() -> list[int]:
    """SIGINT, SIGTERM and, unless nohup(1) asked otherwise, SIGHUP."""
    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN:
        numbers.append(hang_up)
    return numbers


class Interrupts:
    """What was received so far: ``number`` is the first signal, or None."""

    def __init__(self, receiver: AsyncIterator[int]) -> None:
        self.number: int | None = None
        self._receiver = receiver

    async def cancel_on_first(self, scope: trio.CancelScope) -> None:
        """Cancel ``scope`` when the first signal arrives; the thread sees to the second."""
        async for number in self._receiver:
            if self.number is None:
                self.number = number
                scope.cancel()


def _nothing() -> None:
    """The last act of a process that owns nothing outside itself."""


@contextmanager
def receive(last_act: Callable[[], None] = _nothing) -> Iterator[Interrupts]:
    """Receive the signals that end a command. Inside trio, in the main thread, before anything else.

    ``last_act`` runs, in another thread, before the process ends out of order.
    """
    numbers = ending_signals()
    with trio.open_signal_receiver(*numbers) as receiver, _watched(numbers, last_act):
        yield Interrupts(receiver)


@contextmanager
def _watched(numbers: list[int], last_act: Callable[[], None]) -> Iterator[None]:
    """Put a thread between the kernel's news of a signal and trio."""
    listening, telling = socket.socketpair()
    telling.setblocking(False)
    trios = signal.set_wakeup_fd(telling.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch, args=(listening, trios, numbers, last_act), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(trios, warn_on_full_buffer=False)
        telling.close()
        thread.join()


def _watch(listening: socket.socket, trios: int, numbers: list[int], last_act: Callable[[], None]) -> None:
    """Pass on what arrives, so that trio wakes up; end the process by the second signal or when the grace is over."""
    first: int | None = None
    deadline = 0.0
    with listening:
        while True:
            if first is not None:
                listening.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                received = listening.recv(64)
            except TimeoutError:
                _end(first or 0, last_act)
            if not received:
                return
            try:
                os.write(trios, b"\0")
            except OSError:
                pass  # its buffer is full, so trio will wake up anyway
            for number in received:
                if number not in numbers:
                    continue
                if first is None:
                    first, deadline = number, time.monotonic() + GRACE
                elif time.monotonic() > deadline - GRACE + ECHO:
                    _end(number, last_act)


def _end(number: int, last_act: Callable[[], None]) -> None:
    try:
        last_act()
    finally:
        os._exit(128 + number)
