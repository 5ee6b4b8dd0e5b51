"""`btor tracker`."""

from __future__ import annotations

import time
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import click

from btor import limits
from btor.cli import output
from btor.cli.options import DURATION, HOST_PORT, Voice, bind_option, voice_options
from btor.errors import BtorError, UsageError

if TYPE_CHECKING:
    from btor.tracker.server import Bound, TrackerSettings
    from btor.wire.address import Address

DEFAULT_ADDRESS = "127.0.0.1:6969"


@click.command()
@click.option(
    "--http",
    type=HOST_PORT,
    default=DEFAULT_ADDRESS,
    show_default=True,
    metavar="HOST:PORT",
    help="Listen here for HTTP; port 0: any.",
)
@click.option(
    "--udp",
    type=HOST_PORT,
    default=DEFAULT_ADDRESS,
    show_default=True,
    metavar="HOST:PORT",
    help="Listen here for UDP; port 0: any.",
)
@click.option(
    "--interval",
    type=DURATION,
    default=f"{limits.TRACKED_INTERVAL:.0f}s",
    show_default=True,
    metavar="T",
    help="Ask each peer to come back after that long.",
)
@bind_option
@voice_options
def tracker(http: Address, udp: Address, interval: float, bind: tuple[str, ...], **values: Any) -> int:
    """Run an embedded tracker, HTTP and UDP, until Ctrl-C.

    It keeps everything in memory and is made for the swarms of one machine or one network. --bind, which may be
    repeated, takes the place of the hosts of --http and --udp: their ports are then opened on each of its addresses.
    """
    voice = Voice.taken_from(values)
    if not limits.TRACKER_INTERVAL_MIN_LOOPBACK <= interval <= limits.TRACKER_INTERVAL_MAX:
        raise UsageError("tracker: --interval: between 1s and 24h")

    import trio

    from btor.cli.logs import logging_to
    from btor.tracker.server import TrackerSettings

    settings = TrackerSettings(
        http=tuple((host, http[1]) for host in bind or [http[0]]),
        udp=tuple((host, udp[1]) for host in bind or [udp[0]]),
        interval=interval,
    )
    with logging_to(output.tell, voice):
        return trio.run(_serve, settings, voice)


async def _serve(settings: TrackerSettings, voice: Voice) -> int:
    """Serve until a signal comes; the exit status that it asks for. Raises BtorError, ReaderGoneError."""
    import trio

    from btor.cli import interrupts
    from btor.tracker.server import serve_tracker

    failure: BtorError | output.ReaderGoneError | None = None
    with interrupts.receive() as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(signals.cancel_on_first, nursery.cancel_scope)
            try:
                _tell(await nursery.start(serve_tracker, settings), voice)
            except (BtorError, output.ReaderGoneError) as error:  # kept: a nursery would put it into a group
                failure = error
                nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return 128 + (signals.number or 0)


def _tell(bound: Bound, voice: Voice) -> None:
    """Where the tracker listens: a line or an event for each pair of addresses."""
    from btor.wire.address import format_address

    for pair in zip_longest(bound.http, bound.udp):
        http, udp = (None if address is None else format_address(address) for address in pair)
        if voice.json:
            where = {"http": http, "udp": udp}
            output.answer_json({"event": "listening", "time": round(time.time(), 3), "tracker": where, **where})
        elif not voice.quiet:
            urls = [f"{scheme}://{place}/announce" for scheme, place in (("http", http), ("udp", udp)) if place]
            output.tell(f"btor: tracker at {' and '.join(urls)}")
