"""One HTTP connection to the tracker, read and written by h11."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import h11
import trio

from btor import limits
from btor.settings import CLIENT_NAME
from btor.tracker.tracker import HttpAnswer

RECEIVE: Final = 4 * limits.KIB

_GOING_AWAY = (trio.BrokenResourceError, trio.ClosedResourceError)


class _Refused(Exception):  # noqa: N818  # no error of btor's, but the way out to the answer
    def __init__(self, answer: HttpAnswer) -> None:
        super().__init__(answer.status)
        self.answer = answer


async def serve_connection(stream: trio.SocketStream, answer: Callable[[bytes], HttpAnswer]) -> None:
    """Answer GET requests, ``answer`` given each target, until the other side closes, errs or is too slow."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.TRACKER_REQUEST_HEAD)
    going_on = True
    while going_on:
        going_on = False
        with trio.move_on_after(limits.TRACKER_REQUEST_TIMEOUT):
            try:
                going_on = await _serve_request(stream, connection, answer)
            except _GOING_AWAY:
                return


async def _serve_request(
    stream: trio.SocketStream, connection: h11.Connection, answer: Callable[[bytes], HttpAnswer]
) -> bool:
    """Whether another request may follow."""
    try:
        target = await _read_request(stream, connection)
        if target is None:
            return False
    except _Refused as refused:
        await _send(stream, connection, refused.answer, close=True)
        await _linger(stream)
        return False
    await _send(stream, connection, answer(target))
    if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
        return False
    connection.start_next_cycle()
    return True


async def _read_request(stream: trio.SocketStream, connection: h11.Connection) -> bytes | None:
    """The target of the next GET; None when the other side has closed."""
    target = None
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise _Refused(HttpAnswer(error.error_status_hint, b"This is not an HTTP request.\n")) from error
        if event is h11.NEED_DATA:
            if target is not None:
                raise _Refused(HttpAnswer(400, b"A request has no body here.\n"))
            connection.receive_data(await stream.receive_some(RECEIVE))
        elif isinstance(event, h11.Request):
            if event.method != b"GET":
                raise _Refused(HttpAnswer(405, b""))  # no body: it may be HEAD
            target = event.target
        elif isinstance(event, h11.Data):
            raise _Refused(HttpAnswer(400, b"A request has no body here.\n"))
        elif isinstance(event, h11.EndOfMessage):
            return target
        else:
            return None


async def _send(
    stream: trio.SocketStream, connection: h11.Connection, answer: HttpAnswer, *, close: bool = False
) -> None:
    headers = [
        ("Server", CLIENT_NAME.replace(" ", "/")),
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
    ]
    if answer.status == 405:
        headers.append(("Allow", "GET"))
    if close:
        headers.append(("Connection", "close"))
    data = b"".join(
        connection.send(event) or b""
        for event in (
            h11.Response(status_code=answer.status, headers=headers, reason=HTTPStatus(answer.status).phrase.encode()),
            h11.Data(data=answer.body),
            h11.EndOfMessage(),
        )
    )
    await stream.send_all(data)


async def _linger(stream: trio.SocketStream) -> None:
    """Let a refusal arrive: closing with bytes unread would reset the connection and could destroy it on its way."""
    await stream.send_eof()
    with trio.move_on_after(limits.TRACKER_LINGER):
        while await stream.receive_some(RECEIVE):
            pass
