"""Rows a to g: content moves between two or more processes on the loopback interface."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from tools._btor import state
from tools._measure import PeakMemory, Usage, cpu_seconds, finish, measure
from tools._payload import with_trackers
from tools._processes import Process, free_port
from tools.bench import contenders as who
from tools.bench.contest import Contender
from tools.bench.http_tracker import tracker_of
from tools.bench.workshop import MIB, Payload, Workshop

Command = Callable[[Path, Path, Sequence[str], int], list[str]]  # torrent, folder, peers, port
Seeding = Callable[[Payload, Workshop], AbstractContextManager[tuple[Process, int]]]
Opening = Callable[[Workshop], AbstractContextManager[list[Contender]]]


def download_once(workshop: Workshop, payload: Payload, command: Command, peer: str, *, on_disk: bool) -> Usage:
    """One leecher, from the start of its command to its end."""
    log = workshop.log("leecher")
    with workshop.folder(on_disk=on_disk) as folder:
        get = command(payload.torrent, folder, [peer], 0)
        usage = measure(get, log, timeout=payload.timeout, env=state(log))
        payload.verify(folder)
    return usage


def downloads(make: Callable[[Workshop], Payload], *, on_disk: bool = False) -> Opening:
    """btor and libtorrent as leechers of one libtorrent seeder."""

    @contextmanager
    def opened(workshop: Workshop) -> Iterator[list[Contender]]:
        payload = make(workshop)
        with who.libtorrent_seed(payload, workshop) as (_, port):
            peer = f"127.0.0.1:{port}"
            yield [
                who.btor(lambda: download_once(workshop, payload, who.btor_get, peer, on_disk=on_disk)),
                who.libtorrent(lambda: download_once(workshop, payload, who.libtorrent_get, peer, on_disk=on_disk)),
            ]

    return opened


def seed_once(workshop: Workshop, payload: Payload, seeding: Seeding) -> Usage:
    """One libtorrent leecher gets everything: how long that took it, and what it cost the seeder, which was ready."""
    with seeding(payload, workshop) as (seeder, port), workshop.folder() as folder:
        memory = PeakMemory([seeder.pid])
        memory.start()
        before = cpu_seconds(seeder.pid)
        command = who.libtorrent_get(payload.torrent, folder, [f"127.0.0.1:{port}"])
        with Process(command, workshop.log("leecher")) as leecher:
            finish(leecher, payload.timeout)
            cpu = cpu_seconds(seeder.pid) - before
            seconds = leecher.wait_event("complete")["seconds"]
        usage = Usage(seconds, cpu, memory.stop())
        payload.verify(folder)
    return usage


def seeds(make: Callable[[Workshop], Payload]) -> Opening:
    @contextmanager
    def opened(workshop: Workshop) -> Iterator[list[Contender]]:
        payload = make(workshop)
        yield [
            who.btor(lambda: seed_once(workshop, payload, who.btor_seed)),
            who.libtorrent(lambda: seed_once(workshop, payload, who.libtorrent_seed)),
        ]

    return opened


def swarm_once(workshop: Workshop, payload: Payload, seeding: Seeding, command: Command, leechers: int) -> Usage:
    """Leechers that know each other and the seeder: until the last is complete, and what all processes cost."""
    with seeding(payload, workshop) as (seeder, seeder_port), ExitStack() as stack:
        ports = [free_port() for _ in range(leechers)]
        folders = [stack.enter_context(workshop.folder()) for _ in ports]
        before = cpu_seconds(seeder.pid)
        begun = time.monotonic()
        processes = []
        for port, folder in zip(ports, folders, strict=True):
            peers = [f"127.0.0.1:{other}" for other in [seeder_port, *ports] if other != port]
            log = workshop.log("leecher")
            get = command(payload.torrent, folder, peers, port)
            processes.append(stack.enter_context(Process(get, log, env=state(log))))
        memory = PeakMemory([seeder.pid, *(process.pid for process in processes)])
        memory.start()
        ends = [finish(process, payload.timeout * leechers) for process in processes]
        cpu = sum(end[1] for end in ends) + cpu_seconds(seeder.pid) - before
        usage = Usage(max(end[0] for end in ends) - begun, cpu, memory.stop())
        for folder in folders:
            payload.verify(folder)
    return usage


def swarms(make: Callable[[Workshop], Payload], leechers: int) -> Opening:
    """One seeder and so many leechers, all of one kind."""

    @contextmanager
    def opened(workshop: Workshop) -> Iterator[list[Contender]]:
        payload = make(workshop)
        yield [
            who.btor(lambda: swarm_once(workshop, payload, who.btor_seed, who.btor_get, leechers)),
            who.libtorrent(lambda: swarm_once(workshop, payload, who.libtorrent_seed, who.libtorrent_get, leechers)),
        ]

    return opened


def transmission_once(workshop: Workshop, payload: Payload) -> Usage:
    """It dials nobody on the loopback interface: the seeder, up before it, dials again and again."""
    port, log = free_port(), workshop.log("transmission")
    with workshop.folder() as folder, who.libtorrent_seed(payload, workshop, [f"127.0.0.1:{port}"]):
        command = who.transmission_get(payload.torrent, folder, log.with_name("home"), port)
        usage = measure(command, log, timeout=payload.timeout + 60)
        payload.verify(folder)
    return usage


def aria2_once(workshop: Workshop, payload: Payload) -> Usage:
    with workshop.folder() as folder:
        usage = measure(who.aria2_get(payload.torrent, folder), workshop.log("aria2"), timeout=payload.timeout)
        payload.verify(folder)
    return usage


@contextmanager
def beside_aria2(workshop: Workshop) -> Iterator[list[Contender]]:
    payload = workshop.single(1024, MIB)
    with who.libtorrent_seed(payload, workshop) as (_, port), tracker_of(port) as url:
        announced = replace(payload, torrent=payload.torrent.with_suffix(".announced.torrent"))
        announced.torrent.write_bytes(with_trackers(payload.torrent.read_bytes(), [url]))
        peer = f"127.0.0.1:{port}"
        yield [
            who.btor(lambda: download_once(workshop, payload, who.btor_get, peer, on_disk=False)),
            Contender("aria2", who.ARIA2_SETTINGS, lambda: aria2_once(workshop, announced), who.lacks("aria2c")),
        ]


@contextmanager
def beside_transmission(workshop: Workshop) -> Iterator[list[Contender]]:
    payload = workshop.single(1024, MIB)
    missing = who.lacks("transmission-cli")
    with who.libtorrent_seed(payload, workshop) as (_, port):
        peer = f"127.0.0.1:{port}"
        yield [
            who.btor(lambda: download_once(workshop, payload, who.btor_get, peer, on_disk=False)),
            Contender("transmission", who.TRANSMISSION_SETTINGS, lambda: transmission_once(workshop, payload), missing),
        ]
