"""Connections of the simulated network: two ends, and between them a flow of bytes each way.

``send`` copies bytes once into the flow, where they are *queued*; on the sender's uplink they are *leaving*, then *in
flight*, and when the receiver's downlink is through with them *readable*. ``recv_into`` copies them out. Only counts
move from stage to stage, never bytes. Both buffers are bounded: queued bytes by the send buffer, the later stages
together by the receiver's window.

Closing is as in TCP: EOF arrives after the data; closing with unread data, or data for an end that is closed, resets.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from btor.engine.transport import Address

if TYPE_CHECKING:
    from tests.simulated.network import Host

SMALLEST_SEGMENT = 2 * 1024  # unless it is all there is, no less is sent into a window that is nearly full


class Waiter:
    """A place where one task waits, as it would for a socket."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Until ``wake``. trio.BusyResourceError: somebody waits already."""
        if self._task is not None:
            raise trio.BusyResourceError("another task waits here already")
        self._task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self) -> None:
        """Let the waiting task go on, if there is one."""
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)


class Flow:
    """The bytes that go one way."""

    __slots__ = (
        "_data",
        "_end_arrived",
        "_last_arrival",
        "_reset_arrived",
        "cut",
        "ended",
        "eof",
        "in_flight",
        "latency",
        "leaving",
        "lined_up",
        "queued",
        "readable",
        "source",
        "target",
        "window",
    )

    def __init__(self, source: SimulatedTransport, target: SimulatedTransport) -> None:
        self.source = source
        self.target = target
        self.latency = source.host.latency + target.host.latency
        self.window = source.host.world.receive_window
        self.queued = self.leaving = self.in_flight = self.readable = 0
        self.lined_up = False  # among those that wait for the uplink
        self.ended = False  # the source closed: EOF follows what is queued
        self.cut = False  # the connection is broken: nothing follows
        self.eof = False  # EOF is readable
        self._data: deque[memoryview] = deque()  # of all four stages, in order
        self._last_arrival = 0.0
        self._end_arrived = False
        self._reset_arrived = False

    # -- from the source ------------------------------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        """Queue bytes."""
        self._data.append(memoryview(data))
        self.queued += len(data)
        self.source.host.line_up(self)

    def sendable(self) -> int:
        """How many queued bytes may go on their way."""
        under_way = self.leaving + self.in_flight
        room = min(self.window - self.readable, self.target.host.share_of_downlink(self.latency)) - under_way
        if room >= self.queued:
            return self.queued
        return int(room) if room >= SMALLEST_SEGMENT else 0

    def start(self, count: int) -> None:
        """The uplink takes ``count`` bytes up."""
        self.queued -= count
        self.leaving += count

    def leave(self, count: int, when: float) -> None:
        """The uplink is through with ``count`` bytes at ``when``."""
        self.leaving -= count
        if self.cut:
            return
        self._count_in_flight(count)
        self.source.host.sent += count
        self._plan(when, self._arrive, count)
        if self.ended and not self.queued and not self.leaving:
            self._plan(when, self._arrive_end)
        self.source.on_room()

    def end(self) -> None:
        """EOF after what is queued."""
        self.ended = True
        if not self.queued and not self.leaving:
            self._plan(trio.current_time(), self._arrive_end)

    def reset(self) -> None:
        """The source is gone: drop what is queued and let the target know."""
        if not self.cut:
            self.break_off()
            self._plan(trio.current_time(), self._arrive_reset)

    def break_off(self) -> None:
        """Nothing leaves any more."""
        self.cut = True
        self.queued = 0

    # -- on the way -----------------------------------------------------------------------------------------------

    def _plan(self, when: float, action: Callable[..., None], *args: int) -> None:
        """Do ``action`` when what is sent at ``when`` arrives, never before what was sent earlier."""
        self._last_arrival = max(self._last_arrival, when + self.latency)
        self.source.host.world.schedule.at(self._last_arrival, self._arrival, action, *args)

    def _arrival(self, action: Callable[..., None], *args: int) -> None:
        if not self.source.host.world.hold(self.source.host, self.target.host, action, *args):
            action(*args)

    def _arrive(self, count: int) -> None:
        self.target.host.take_in(self, count)

    def _arrive_end(self) -> None:
        self._end_arrived = True
        self._finish()

    def _arrive_reset(self) -> None:
        self._reset_arrived = True
        self._finish()

    # -- at the target --------------------------------------------------------------------------------------------

    def deliver(self, count: int) -> None:
        """The target's downlink is through with ``count`` bytes."""
        self._count_in_flight(-count)
        if self.target.closed:
            self.forget()
            self.target.refuse()
            return
        self.target.host.received += count
        self.readable += count
        self.target.on_readable()
        self.source.host.line_up(self)  # there is room on the way
        self._finish()

    def _count_in_flight(self, count: int) -> None:
        was = self.in_flight > 0
        self.in_flight += count
        self.target.host.inbound += (self.in_flight > 0) - was

    def _finish(self) -> None:
        """EOF and reset are noticed after the data before them."""
        if self.in_flight:
            return
        if self._reset_arrived:
            self.target.fail(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))
        elif self._end_arrived and not self.eof:
            self.eof = True
            self.target.on_readable()

    def read_into(self, views: Sequence[memoryview]) -> int:
        """Fill the views with what is readable."""
        data = self._data
        left = self.readable
        for view in views:
            while left and len(view):
                head = data[0]
                count = min(left, len(head), len(view))
                view[:count] = head[:count]
                if count == len(head):
                    data.popleft()
                else:
                    data[0] = head[count:]
                view = view[count:]
                left -= count
        count = self.readable - left
        self.readable = left
        self.source.host.line_up(self)  # there is room in the window
        return count

    def forget(self) -> None:
        """Nobody will read this."""
        self._data.clear()
        self.readable = 0


class SimulatedTransport:
    """One end of a connection (see ``btor.engine.transport.Transport``)."""

    __slots__ = (
        "_connected",
        "_error",
        "_incoming",
        "_mute",
        "_outgoing",
        "_reader",
        "_writer",
        "closed",
        "host",
        "local",
        "remote",
    )

    def __init__(self, host: Host, local: Address, remote: Address) -> None:
        self.host = host
        self.local = local
        self.remote = remote
        self.closed = False
        self._connected = False
        self._mute = False  # it ends without a word
        self._error: OSError | None = None
        self._incoming: Flow | None = None  # None until the other end exists
        self._outgoing: Flow | None = None
        self._reader = Waiter()
        self._writer = Waiter()

    def __repr__(self) -> str:
        return f"<SimulatedTransport {self.local} → {self.remote}>"

    # -- the seam -------------------------------------------------------------------------------------------------

    async def wait_readable(self) -> None:
        self._check()
        if self._error is not None or self._flow_in.readable or self._flow_in.eof:
            await trio.lowlevel.checkpoint()
        else:
            await self._reader.wait()
        self._check()

    def recv_into(self, views: Sequence[memoryview]) -> int:
        self._check()
        if self._flow_in.readable:
            return self._flow_in.read_into(views)
        if self._error is not None:
            raise self._error
        if self._flow_in.eof:
            return 0
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    async def wait_writable(self) -> None:
        self._check()
        if self._error is not None or self._has_room:
            await trio.lowlevel.checkpoint()
        else:
            await self._writer.wait()
        self._check()

    def send(self, views: Sequence[memoryview | bytes | bytearray]) -> int:
        self._check()
        if self._error is not None:
            raise self._error
        room = self.host.world.send_buffer - self._flow_out.queued
        if room <= 0:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        data = bytes(memoryview(views[0])[:room]) if len(views) == 1 else b"".join(views)[:room]
        if data:
            self._flow_out.put(data)
        return len(data)

    def close(self) -> None:
        if self._incoming is not None and self._incoming.readable:
            self.abort()
        elif self._shut() and self._outgoing is not None and not (self._outgoing.cut or self._mute):
            self._outgoing.end()

    # -- for tests ------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """Close with a reset, as a process that dies with unread data does."""
        if self._shut() and self._outgoing is not None and not self._mute:
            self._outgoing.reset()

    def break_connection(self) -> None:
        """The network breaks the connection: both ends fail now, and nothing is sent any more."""
        if self._outgoing is not None:
            self.host.world.broken += not self.closed and self._error is None
            for end in (self, self._outgoing.target):
                end.fail(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))

    def lose(self) -> None:
        """The way is gone: nothing arrives at either end any more, and neither is told."""
        for flow in (self._incoming, self._outgoing):
            if flow is not None:
                flow.break_off()

    def vanish(self) -> None:
        """This end is gone, as after a loss of power; the other one is told when it sends."""
        if not self.closed and self._error is None and self._outgoing is not None:
            self._mute = True
            self._outgoing.queued = 0
            self._error = ConnectionAbortedError(errno.ECONNABORTED, "Software caused connection abort")
            self._reader.wake()
            self._writer.wake()

    # -- for the network ------------------------------------------------------------------------------------------

    def join(self, other: SimulatedTransport) -> None:
        """Make flows between this end and ``other``."""
        self._outgoing = other._incoming = Flow(self, other)
        self._incoming = other._outgoing = Flow(other, self)
        other.establish()

    def establish(self) -> None:
        """The handshake of the connection is complete at this end."""
        if not self.closed:
            self._connected = True
            self.host.ends[self] = None
            self._reader.wake()

    async def wait_connected(self) -> None:
        """Until ``establish``, or raise what it failed with."""
        if not self._connected and self._error is None:
            await self._reader.wait()
        if self._error is not None:
            raise self._error

    def fail(self, error: OSError) -> None:
        """The connection is broken for this end."""
        if self._error is None and not self.closed:
            self._error = error
            if self._outgoing is not None:
                self._outgoing.break_off()
            self._reader.wake()
            self._writer.wake()

    def refuse(self) -> None:
        """Data came for a closed end."""
        self._flow_out.reset()

    def on_readable(self) -> None:
        """There is something to read."""
        self._reader.wake()

    def on_room(self) -> None:
        """Queued bytes have left."""
        if self._has_room:
            self._writer.wake()

    # -- inside ---------------------------------------------------------------------------------------------------

    @property
    def _flow_in(self) -> Flow:
        assert self._incoming is not None
        return self._incoming

    @property
    def _flow_out(self) -> Flow:
        assert self._outgoing is not None
        return self._outgoing

    @property
    def _has_room(self) -> bool:
        # like Linux, which reports room only when there is a good part of the buffer
        return self._flow_out.queued <= self.host.world.send_buffer // 2

    def _check(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError

    def _shut(self) -> bool:
        if self.closed:
            return False
        self.closed = True
        self.host.ends.pop(self, None)
        if self._incoming is not None:
            self._incoming.forget()
        self._reader.wake()
        self._writer.wake()
        return True
