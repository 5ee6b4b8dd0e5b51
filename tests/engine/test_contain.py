"""A bug in one child ends that child alone, loudly; cancellation is never swallowed."""

from __future__ import annotations

import logging

import pytest
import trio

from btor.engine.contain import Container
from btor.errors import PeerError


async def fail(error: BaseException) -> None:
    await trio.lowlevel.checkpoint()
    raise error


async def test_a_child_that_ends_well(caplog: pytest.LogCaptureFixture) -> None:
    container = Container()
    done = []

    async def child(number: int) -> None:
        done.append(number)

    await container.run("a child", child, 7)
    assert done == [7]
    assert container.failures == 0
    assert not caplog.records


@pytest.mark.parametrize(
    "error", [ValueError("no"), PeerError("no"), ExceptionGroup("two", [ValueError(), KeyError()])]
)
async def test_an_exception_is_logged_counted_and_dropped(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    container = Container()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(container.run, "the one", fail, error)
            nursery.start_soon(trio.lowlevel.checkpoint)  # a sibling
    assert container.failures == 1
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "the one" in record.getMessage()
    assert record.exc_info is not None


async def test_strict_raises_again() -> None:
    container = Container(strict=True)
    with pytest.raises(ExceptionGroup) as caught:
        await container.run("a child", fail, ValueError("no"))
    assert caught.group_contains(ValueError)
    assert container.failures == 1


@pytest.mark.parametrize("strict", [False, True])
async def test_cancellation_passes(strict: bool) -> None:
    container = Container(strict=strict)
    with trio.fail_after(5):
        with trio.CancelScope() as scope:
            scope.cancel()
            await container.run("a child", trio.sleep_forever)
        assert scope.cancelled_caught
    assert container.failures == 0


async def test_cancellation_passes_beside_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    container = Container()

    async def child() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("while it was cancelled")

    with trio.fail_after(5), trio.CancelScope() as scope:
        scope.cancel()
        await container.run("a child", child)
    assert container.failures == 1
    assert len(caplog.records) == 1


@pytest.mark.parametrize("strict", [False, True])
def test_a_call(strict: bool, caplog: pytest.LogCaptureFixture) -> None:
    container = Container(strict=strict)
    done: list[int] = []
    container.call("a call", done.append, 7)
    assert done == [7]
    assert container.failures == 0
    if strict:
        with pytest.raises(IndexError):
            container.call("a call", done.pop, 5)
    else:
        container.call("a call", done.pop, 5)
    assert container.failures == 1
    assert "a call" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_what_ends_the_process_passes(error: BaseException) -> None:
    container = Container()
    with pytest.raises(type(error)):
        await container.run("a child", fail, error)
    assert container.failures == 0
