"""`btor dht`: questions to the distributed hash table, and a node of it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from btor.cli import output
from btor.cli.ending import named
from btor.cli.options import PEER, PORT, Voice, bind_option, dht_bootstrap_option, voice_options
from btor.errors import BtorError, MetainfoError, NetworkError

if TYPE_CHECKING:
    from btor.dht.node import Node
    from btor.engine.dht import Answer, Dht

TABLE_PERIOD = 10.0  # s between two looks at the table of `btor dht node`
FIRST_LOOK = 1.0  # s until the first one


@click.group()
def dht() -> None:
    """Ask the DHT, or run a node of it."""


def _node_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every one of these commands takes."""
    for decorator in (
        voice_options,
        bind_option,
        click.option("--dht-port", type=PORT, metavar="N", help="Our UDP port; 0: any."),
        dht_bootstrap_option,
    ):
        command = decorator(command)
    return command


@dht.command()
@click.argument("infohash")
@_node_options
def lookup(infohash: str, **values: Any) -> int:
    """Print the peers that the DHT knows of INFOHASH (40 or 32 digits, or a magnet URI), one a line."""
    info_hash = _info_hash(infohash)

    async def ask(node: Dht, voice: Voice) -> None:
        begun = time.monotonic()
        answers = await node.search(info_hash)
        _check_answered(node, answers)
        peers = _peers(answers)
        if voice.json:
            figures = {"peers": peers, **_figures(answers), "seconds": round(time.monotonic() - begun, 3)}
            output.answer_json({"info_hash": info_hash.hex(), **figures})
            return
        for peer in peers:
            output.answer(peer)
        if not voice.quiet:
            output.tell(f"btor: {_summary(len(peers), answers)}")

    return _run(ask, values)


@dht.command()
@click.argument("infohash")
@_node_options
def scrape(infohash: str, **values: Any) -> int:
    """Estimate how many seeds and other peers of INFOHASH the DHT knows (BEP 33)."""
    info_hash = _info_hash(infohash)

    async def ask(node: Dht, voice: Voice) -> None:
        from btor.dht.bloom import estimate, union

        answers = await node.search(info_hash, scrape=True)
        _check_answered(node, answers)
        seeds = others = None
        for _, found in answers:
            if found.seeds is not None:
                seeds = found.seeds if seeds is None else union(seeds, found.seeds)
            if found.others is not None:
                others = found.others if others is None else union(others, found.others)
        counts = {
            "seeds": None if seeds is None else round(estimate(seeds)),
            "peers": None if others is None else round(estimate(others)),
        }
        if voice.json:
            output.answer_json({"info_hash": info_hash.hex(), **counts, **_figures(answers)})
        elif seeds is None and others is None:
            output.answer("no node that answered counts peers")
        else:
            output.answer(f"about {counts['seeds']} seeds, {counts['peers']} other peers")

    return _run(ask, values)


@dht.command()
@click.argument("address", type=PEER, metavar="HOST:PORT")
@_node_options
def ping(address: str, **values: Any) -> int:
    """Ask the node at HOST:PORT whether it is there."""

    async def ask(node: Dht, voice: Voice) -> None:
        from btor.engine.lookup import look_up
        from btor.engine.transport import TcpNetwork
        from btor.wire.address import format_address, parse_host_port, unpack_compact

        for place in await look_up(TcpNetwork(), *parse_host_port(address)):
            answered = await node.ping(place)
            if answered is not None:
                break
        else:
            raise NetworkError(f"{address}: no answer")
        reply, seconds = answered
        seen = unpack_compact(reply.ip, len(reply.ip)) if reply.ip else []
        we = format_address(seen[0]) if seen else None
        if voice.json:
            answer = {"address": format_address(place), "id": reply.id.hex(), "seconds": round(seconds, 6), "we": we}
            output.answer_json(answer)
            return
        output.answer(f"{format_address(place)} {reply.id.hex()} {seconds * 1000:.1f} ms")
        if we is not None and not voice.quiet:
            output.tell(f"btor: it sees us at {we}")

    return _run(ask, {**values, "dht_bootstrap": ()}, enter=False)


@dht.command()
@_node_options
def node(**values: Any) -> int:
    """Run a node until Ctrl-C, and show its routing table now and then."""

    async def show(dht: Dht, voice: Voice) -> None:
        import trio

        dht.start()
        if voice.json:
            listening = [address for address, _ in _where(dht)]
            output.answer_json({"event": "listening", "time": round(time.time(), 3), "addresses": listening})
        elif not voice.quiet:
            output.tell(f"btor: DHT node at {' and '.join(address for address, _ in _where(dht))}")
        wait = FIRST_LOOK
        while True:
            await trio.sleep(wait)
            wait = TABLE_PERIOD
            for address, one in _where(dht):
                if voice.json:
                    output.answer_json({"event": "table", "time": round(time.time(), 3), **_table(address, one)})
                else:
                    output.answer(_table_as_text(address, one))

    return _run(show, values, serving=True)


# --- running ---------------------------------------------------------------------------------------------------


def _run(
    work: Callable[[Dht, Voice], Awaitable[None]], values: dict[str, Any], *, serving: bool = False, enter: bool = True
) -> int:
    """Open a node and do ``work`` with it. ``serving``: it answers others; ``enter``: it enters the DHT."""
    voice = Voice.taken_from(values)

    import trio

    from btor.cli.logs import logging_to

    with logging_to(output.tell, voice):
        return trio.run(_main, work, values, voice, serving, enter)


async def _main(
    work: Callable[[Dht, Voice], Awaitable[None]], values: dict[str, Any], voice: Voice, serving: bool, enter: bool
) -> int:
    """Until ``work`` is done or a signal comes: the exit status. Raises BtorError, ReaderGoneError."""
    import trio

    from btor.cli import interrupts

    failure: BtorError | output.ReaderGoneError | None = None
    with interrupts.receive() as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(signals.cancel_on_first, nursery.cancel_scope)
            try:
                await _with_node(work, values, voice, serving, enter)
            except (BtorError, output.ReaderGoneError) as error:  # kept: a nursery would put it into a group
                failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return 0 if signals.number is None else 128 + signals.number


async def _with_node(
    work: Callable[[Dht, Voice], Awaitable[None]], values: dict[str, Any], voice: Voice, serving: bool, enter: bool
) -> None:
    import random

    from btor.engine.dht import open_dht
    from btor.engine.transport import TcpNetwork
    from btor.engine.udp import open_udp_sockets
    from btor.settings import DHT_ROUTERS

    port = values["dht_port"]
    try:
        sockets = open_udp_sockets(values["bind"], port or 0)
    except OSError as error:
        raise NetworkError(f"cannot listen on UDP port {port or 'of the system'}: {error.strerror}") from error
    routers = DHT_ROUTERS if enter else ()
    bootstrap = values["dht_bootstrap"] or routers
    failure: BtorError | output.ReaderGoneError | None = None
    async with open_dht(
        sockets,
        TcpNetwork(),
        rng=random.SystemRandom(),
        bootstrap=bootstrap,
        public=bootstrap == DHT_ROUTERS,
        read_only=not serving,
    ) as dht:
        try:
            await work(dht, voice)
        except (BtorError, output.ReaderGoneError) as error:  # likewise
            failure = error
    if failure is not None:
        raise failure


# --- what is said ----------------------------------------------------------------------------------------------


def _info_hash(text: str) -> bytes:
    """20 bytes. MetainfoError."""
    from btor.cli.sources import is_magnet
    from btor.metainfo.magnet import Magnet

    with named(text):
        found = Magnet.parse(text if is_magnet(text) else f"magnet:?xt=urn:btih:{text}").info_hashes.v1
        if found is None:
            raise MetainfoError("xt", "the DHT is asked for a v1 info-hash")
        return found


def _check_answered(node: Dht, answers: list[Answer]) -> None:
    if any(found.answered for _, found in answers):
        return
    asked = sum(found.asked for _, found in answers)
    if asked:
        raise NetworkError(f"no DHT node answered, of {asked} asked")
    why = "; ".join(node.troubles) or "none is known, and --dht-bootstrap names none"
    raise NetworkError(f"no DHT node to ask: {why}")


def _peers(answers: list[Answer]) -> list[str]:
    """Every peer that was found, as HOST:PORT."""
    from btor.wire.address import format_address, unpack_compact

    return [
        format_address(address)
        for _, found in answers
        for compact in found.peers
        for address in unpack_compact(compact, len(compact))
    ]


def _figures(answers: list[Answer]) -> dict[str, Any]:
    from btor.wire.address import format_address

    closest = [candidate.contact for _, found in answers for candidate in found.closest()]
    return {
        "nodes": [{"id": contact.id.hex(), "address": format_address(contact.address)} for contact in closest],
        "asked": sum(found.asked for _, found in answers),
        "answered": sum(found.answered for _, found in answers),
        "hops": max(found.hops for _, found in answers),
    }


def _summary(peers: int, answers: list[Answer]) -> str:
    from btor.cli import words

    figures = _figures(answers)
    return f"{words.count(peers, 'peer')}; {figures['answered']} of {figures['asked']} nodes answered"


def _where(dht: Dht) -> list[tuple[str, Node]]:
    from btor.wire.address import format_address

    return [(format_address(sock.local), node) for sock, node in dht.places()]


def _table(address: str, node: Node) -> dict[str, Any]:
    from btor.wire.address import format_address, unpack_ip

    external = node.votes.address
    return {
        "address": address,
        "id": node.id.hex(),
        "external": None if external is None else unpack_ip(external),
        "buckets": {str(bits): count for bits, count in node.table.buckets().items()},
        "nodes": [
            {
                "id": entry.contact.id.hex(),
                "address": format_address(entry.contact.address),
                "failures": entry.failures,
                "fits": entry.contact.fits,
            }
            for entry in node.table
        ],
        "torrents": len(node.answers.store),
        "peers": node.answers.store.peers,
        "received": node.received,
        "malformed": node.malformed,
        "ignored": node.ignored,
        "sent": node.sent,
    }


def _table_as_text(address: str, node: Node) -> str:
    """The table for a person: a line for each bucket with its nodes."""
    from btor.cli import words
    from btor.wire.address import format_address

    store = node.answers.store
    lines = [
        f"{address} {node.id.hex()}: {words.count(len(node.table), 'node')}, {words.count(len(store), 'torrent')} with"
        f" {words.count(store.peers, 'peer')}; {node.received} received, {node.sent} sent"
    ]
    by_bucket: dict[int, list[str]] = {}
    for entry in node.table:
        silent = "?" if entry.failures else ""
        place = f"{format_address(entry.contact.address)}{silent}"
        by_bucket.setdefault(node.table.bits_shared(entry.contact.number), []).append(place)
    lines += [f"{bits:>4}  {' '.join(places)}" for bits, places in by_bucket.items()]
    return "\n".join(lines)
