"""Few descriptors: how a session shares them out, who goes when there is none left, and a download with 128."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from btor.engine import dial
from btor.engine.descriptors import Shares, share_out
from btor.engine.listener import ACCEPT_PAUSE, COMPLAINT_PERIOD
from btor.limits import BLOCK, DESCRIPTORS, DESCRIPTORS_RESERVED, OPEN_FILES, PENDING_HANDSHAKES
from btor.storage import system
from tests.cli.running import BTOR, PROJECT
from tests.engine.support import Lab, folder_sample, sample, scenario, until
from tests.simulated.network import Host

CONTENT = sample(40 * 2 * BLOCK)


# --- shares ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("descriptors", "shares"),
    [
        (DESCRIPTORS, Shares(files=OPEN_FILES, pending=PENDING_HANDSHAKES, peers=65_088)),
        (1024, Shares(files=OPEN_FILES, pending=208, peers=624)),
        (128, Shares(files=16, pending=12, peers=36)),
        (100, Shares(files=12, pending=9, peers=29)),
        (20, Shares(files=2, pending=2, peers=6)),
    ],
)
def test_shares(descriptors: int, shares: Shares) -> None:
    assert share_out(descriptors) == shares
    assert sum(shares) <= max(descriptors - DESCRIPTORS_RESERVED, descriptors // 2)


def limited(monkeypatch: pytest.MonkeyPatch, descriptors: int) -> None:
    """The process may have so many and no more."""

    def no_more(_wanted: int) -> int:
        return descriptors

    monkeypatch.setattr(system, "raise_descriptor_limit", no_more)


@scenario()
async def test_F9_connections_leave_room_for_files(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes, over all torrents no more than their share; those who say nothing give way."""
    limited(monkeypatch, 128)
    seeder = await lab.seed(CONTENT)
    session = seeder.session
    assert session.disk.pool.size == 16
    assert session.settings.max_peers == 36
    silent = [await lab.call(session, lab.world.host(f"20.0.{number}.1")) for number in range(30)]
    await trio.sleep(0.1)
    host = session.network
    assert isinstance(host, Host)
    assert len(host.ends) == 12
    peers = [await lab.join(seeder, lab.world.host(f"21.0.{number}.1")) for number in range(40)]
    await trio.sleep(0.1)
    assert seeder.status().peers == 36
    assert len(host.ends) <= 48
    await silent[0].wait_closed()
    await peers[39].wait_closed()


@scenario()
async def test_F9_all_torrents_share(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    other = sample(10 * 2 * BLOCK, name="other", seed=2)
    limited(monkeypatch, 128)
    seeder = await lab.seed(CONTENT)
    session = seeder.session
    leecher = await session.add(other.metainfo, directory=lab.place())
    await until(lambda: leecher.transfer is not None and leecher.transfer.active)
    for number in range(30):
        await lab.join(seeder, lab.world.host(f"21.0.{number}.1"))
    assert leecher.transfer is not None
    leecher.transfer.add_peers([(f"22.0.{number}.1", 6881) for number in range(50)], "tracker")
    await trio.sleep(0.5)
    assert leecher.transfer.dialling == 6
    for number in range(10):
        await lab.join(seeder, lab.world.host(f"21.1.{number}.1"))
    await trio.sleep(0.1)
    assert seeder.status().peers == 30


# --- none left -------------------------------------------------------------------------------------------------------


def refuse_accepts(monkeypatch: pytest.MonkeyPatch, host: Any, refusing: Callable[[], bool], code: int) -> None:
    """The listeners of ``host`` raise the error ``code`` while ``refusing`` says so."""
    listen = host.listen

    async def listen_badly(ip: str, port: int) -> Any:
        listener = await listen(ip, port)
        accept = listener.accept

        async def accept_or_fail() -> Any:
            while not refusing():
                with trio.move_on_after(0.01):
                    return await accept()
            await trio.lowlevel.checkpoint()
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(listener, "accept", accept_or_fail)
        return listener

    monkeypatch.setattr(host, "listen", listen_badly)


@scenario()
async def test_F9_the_worst_peer_goes_when_there_is_none_left(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """First one that has not said who it is, then who brought and took least; not more than one a pause."""
    host = lab.host()
    out = False
    refuse_accepts(monkeypatch, host, lambda: out, errno.EMFILE)
    seeder = await lab.seed(CONTENT, host)
    useless = [await lab.join(seeder) for _ in range(10)]
    busy = await lab.join(seeder)
    await busy.send(2)
    await busy.wait_for(1)
    await busy.fetch(0, 2 * BLOCK)
    silent = await lab.call(seeder.session)
    await trio.sleep(1)
    caplog.set_level(logging.WARNING)
    out = True
    await trio.sleep(ACCEPT_PAUSE / 2)
    await silent.wait_closed()
    assert seeder.status().peers == 11
    await trio.sleep(ACCEPT_PAUSE)
    assert seeder.status().peers == 10
    await trio.sleep(6 * ACCEPT_PAUSE)
    assert seeder.status().peers == 4
    await trio.sleep(20 * ACCEPT_PAUSE)
    await busy.wait_closed()  # there was nobody worse left
    await trio.sleep(2 * COMPLAINT_PERIOD)
    complaints = [record for record in caplog.records if "descriptor" in record.getMessage()]
    assert 2 <= len(complaints) <= 4
    out = False
    await (await lab.join(seeder)).receive()
    assert len(useless) == 10


@scenario()
async def test_F9_a_shortage_of_the_whole_system_costs_no_peer(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is others who hold the descriptors."""
    host = lab.host()
    out = False
    refuse_accepts(monkeypatch, host, lambda: out, errno.ENFILE)
    seeder = await lab.seed(CONTENT, host)
    await lab.join(seeder)
    out = True
    await trio.sleep(10)
    assert seeder.status().peers == 1


@scenario()
async def test_F9_a_dial_without_a_descriptor_is_not_the_peers_fault(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    host: Any = lab.host()
    connect = host.connect
    tries: list[float] = []

    async def fail(*args: Any, **options: Any) -> Any:
        tries.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if trio.current_time() < 60:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return await connect(*args, **options)

    monkeypatch.setattr(host, "connect", fail)
    seeder = await lab.seed(CONTENT, lab.host("30.1.0.1"))
    found = await lab.leech(CONTENT, network=host)
    await until(lambda: found.transfer is not None)
    assert found.transfer is not None
    found.transfer.add_peers([lab.address(seeder.session)], "tracker", None)
    await found.wait_complete()
    assert 60 <= trio.current_time() < 75
    assert min(later - earlier for earlier, later in itertools.pairwise(tries)) >= dial.REST


# --- for real --------------------------------------------------------------------------------------------------------


def test_F9_a_download_with_128_descriptors(tmp_path: Path) -> None:
    """Many files, many peers that say nothing, and many that seed."""
    content = folder_sample([(f"{number}", BLOCK) for number in range(300)])
    torrent = tmp_path / "folder.torrent"
    torrent.write_bytes(b"d4:info" + content.metainfo.info + b"e")

    async def download(lab: Lab) -> None:
        seeders = [await lab.seed(content, bind=(f"127.0.0.{number + 1}",)) for number in range(12)]
        peers = [f"127.0.0.{number + 1}:{seeder.session.port}" for number, seeder in enumerate(seeders)]
        command = [
            *BTOR,
            "download",
            str(torrent),
            "-d",
            str(tmp_path / "here"),
            "--json",
            "-p",
            "0",
            "--max-download",
            "4M",
        ]
        for peer in peers:
            command += ["--peer", peer]
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)),
        )
        assert process.stdout is not None and process.stderr is not None
        flood: list[socket.socket] = []
        text, told = b"", b""
        try:
            async for data in process.stdout:
                text += data
                if not flood and b"\n" in text:
                    port = json.loads(text.split(b"\n")[0])["port"]
                    for _ in range(200):
                        flood.append(sock := socket.socket())
                        sock.setblocking(False)
                        sock.connect_ex(("127.0.0.1", port))
                    open_files = len(os.listdir(f"/proc/{process.pid}/fd"))
                    assert open_files < 128
            async for data in process.stderr:
                told += data
            status = await process.wait()
        finally:
            for sock in flood:
                sock.close()
            if process.returncode is None:
                process.kill()
        assert (status, told) == (0, b"")
        assert content.is_at(tmp_path / "here" / "folder")
        assert flood

    run_on_loopback(download, tmp_path)


def run_on_loopback(test: Callable[[Lab], Awaitable[None]], folder: Path) -> None:
    async def bounded() -> None:
        with trio.fail_after(30):
            await Lab(folder, real=True).run(test)

    trio.run(bounded)


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    """By a real session in a process of its own."""
    program = (
        "import resource, trio, btor\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512))\n"
        "async def main():\n"
        "    async with btor.open_session(btor.Settings(port=0, bind=('127.0.0.1',))) as session:\n"
        "        print(resource.getrlimit(resource.RLIMIT_NOFILE), session.shares, session.disk.pool.size)\n"
        "trio.run(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.decode().strip() == "(512, 512) Shares(files=112, pending=84, peers=252) 112"
