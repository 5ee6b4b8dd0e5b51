"""Events: in order, bounded, newest progress only; a slow listener loses progress first and holds nobody up."""

from __future__ import annotations

import gc

import trio
import trio.testing

from btor.engine.events import Event, PeerChange, Progress, Seeding, Started, Stopped
from btor.engine.feed import Feed, Subscription
from btor.limits import EVENT_QUEUE

ONE = "01" * 20
OTHER = "02" * 20


def progress(number: int, info_hash: str = ONE) -> Progress:
    return Progress(
        time=0.0,
        info_hash=info_hash,
        state="downloading",
        done_bytes=number,
        total_bytes=0,
        have_pieces=0,
        pieces=0,
        down_rate=0.0,
        up_rate=0.0,
        downloaded=0,
        uploaded=0,
        wasted=0,
        peers=0,
        seeds=0,
        eta=None,
    )


def change(number: int) -> PeerChange:
    return PeerChange(time=0.0, info_hash=ONE, address=str(number), client="", change="connected", reason="")


def seeding(uploaded: int) -> Seeding:
    return Seeding(time=0.0, info_hash=ONE, port=1, uploaded=uploaded, peers=0)


STOPPED = Stopped(time=0.0, info_hash=ONE, reason="", downloaded=0, uploaded=0)
STARTED = Started(time=0.0, info_hash=ONE, name="", total_bytes=0, piece_length=0, pieces=0, port=0)


async def waiting(subscription: Subscription) -> list[Event]:
    """What is queued now."""
    events: list[Event] = []

    async def read() -> None:
        async for event in subscription:
            events.append(event)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    return events


async def test_begins_with_what_it_is_given() -> None:
    feed = Feed()
    feed.publish(change(0))
    subscription = feed.subscribe([STARTED])
    feed.publish(change(1))
    assert await waiting(subscription) == [STARTED, change(1)]


async def test_only_the_newest_progress_waits() -> None:
    feed = Feed()
    subscription = feed.subscribe([progress(0)])
    for number in range(1, 5):
        feed.publish(progress(number))
    assert await waiting(subscription) == [progress(4)]


async def test_only_the_newest_progress_waits_whatever_comes_between() -> None:
    feed = Feed()
    subscription = feed.subscribe([])
    for number in range(4):
        feed.publish(change(number))
        feed.publish(progress(number))
        feed.publish(progress(number, OTHER))
    assert await waiting(subscription) == [*map(change, range(4)), progress(3), progress(3, OTHER)]


async def test_only_the_newest_word_on_seeding_waits() -> None:
    feed = Feed()
    subscription = feed.subscribe([])
    for number in range(4):
        feed.publish(seeding(number))
        feed.publish(progress(number))
    assert await waiting(subscription) == [seeding(3), progress(3)]


async def test_progress_that_was_read_is_not_missed() -> None:
    feed = Feed()
    subscription = feed.subscribe([])
    for number in range(3):
        feed.publish(progress(number))
        assert await waiting(subscription) == [progress(number)]


async def test_the_queue_is_bounded() -> None:
    feed = Feed()
    subscription = feed.subscribe([])
    for number in range(EVENT_QUEUE):
        feed.publish(change(number))
    assert [event.address for event in await waiting(subscription) if isinstance(event, PeerChange)] == [
        str(number) for number in range(EVENT_QUEUE)
    ]
    for number in range(EVENT_QUEUE + 1):
        feed.publish(change(number))
    assert await waiting(subscription) == [change(number) for number in range(1, EVENT_QUEUE + 1)]


async def test_a_snapshot_is_whole() -> None:
    feed = Feed()
    snapshot = [change(number) for number in range(2 * EVENT_QUEUE)]
    subscription = feed.subscribe(snapshot)
    feed.publish(STOPPED)
    assert await waiting(subscription) == [*snapshot[1:], STOPPED]


async def test_progress_goes_before_anything_else() -> None:
    feed = Feed()
    subscription = feed.subscribe([STARTED])
    feed.publish(progress(0))
    for number in range(EVENT_QUEUE - 1):
        feed.publish(change(number))
    found = await waiting(subscription)
    assert found[0] == STARTED
    assert len(found) == EVENT_QUEUE
    assert not any(isinstance(event, Progress) for event in found)


async def test_many_torrents_do_not_fill_the_queue_with_progress() -> None:
    feed = Feed()
    subscription = feed.subscribe([])
    for second in range(3):
        for number in range(EVENT_QUEUE // 2):
            feed.publish(progress(second, f"{number:040x}"))
    found = await waiting(subscription)
    assert found == [progress(2, f"{number:040x}") for number in range(EVENT_QUEUE // 2)]


async def test_wakes_who_waits() -> None:
    feed = Feed()
    subscription = feed.subscribe([])
    heard: list[Event] = []

    async def listen() -> None:
        async for event in subscription:
            heard.append(event)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            feed.publish(change(1))
            await trio.testing.wait_all_tasks_blocked()
            assert heard == [change(1)]
            feed.publish(STOPPED)
            feed.end()
    assert heard == [change(1), STOPPED]


async def test_the_end_comes_after_what_is_queued() -> None:
    feed = Feed()
    subscription = feed.subscribe([])
    feed.publish(change(1))
    feed.end()
    feed.publish(change(2))
    with trio.fail_after(5):
        assert [event async for event in subscription] == [change(1)]


async def test_who_comes_after_the_end_gets_the_snapshot() -> None:
    feed = Feed()
    feed.end()
    with trio.fail_after(5):
        assert [event async for event in feed.subscribe([STARTED])] == [STARTED]


async def test_close() -> None:
    parent = Feed()
    feed = Feed(parent)
    assert not feed.listened
    subscription = feed.subscribe([])
    assert feed.listened
    subscription.close()
    assert not feed.listened
    feed.publish(change(1))
    subscription.close()
    with trio.fail_after(5):
        assert [event async for event in subscription] == []


async def test_who_stops_reading_need_not_say_so() -> None:
    feed = Feed()
    feed.publish(change(1))
    with trio.fail_after(5):
        async for event in feed.subscribe([STARTED]):
            assert event == STARTED
            assert feed.listened
            break
    gc.collect()  # for an interpreter that does not count references
    assert not feed.listened


async def test_a_session_hears_its_torrents() -> None:
    parent = Feed()
    one, other = Feed(parent), Feed(parent)
    subscription = parent.subscribe([])
    assert one.listened
    one.publish(change(1))
    other.publish(progress(1))
    one.end()
    assert await waiting(subscription) == [change(1), progress(1)]


async def test_a_slow_listener_does_not_take_from_another() -> None:
    feed = Feed()
    slow, quick = feed.subscribe([]), feed.subscribe([])
    seen: list[Event] = []
    for number in range(2 * EVENT_QUEUE):
        feed.publish(change(number))
        if number % 100 == 99:
            seen += await waiting(quick)
    assert len(seen) == 2 * EVENT_QUEUE
    assert len(await waiting(slow)) == EVENT_QUEUE
