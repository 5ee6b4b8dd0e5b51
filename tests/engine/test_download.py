"""Whole sessions exchange content: one seeder, several, leechers among themselves."""

from __future__ import annotations

import pytest
import trio

from btor.engine.events import Complete, PeerChange, Progress
from btor.errors import UsageError
from tests.engine.support import Lab, folder_sample, next_event, sample, scenario, until

FILES = [("a", 40_000), ("sub/b", 0), ("sub/c", 100_001), ("", 7), ("sub/deep/d", 1), ("e", 50_000)]


@scenario(both=True)
async def test_one_seeder(lab: Lab) -> None:
    content = sample(3_000_001)
    seeder = await lab.seed(content)
    leecher = await lab.leech(content, seeder)
    await leecher.wait_complete()
    assert content.is_at(leecher.keeper.content.top)
    assert leecher.status().downloaded == len(content.content)
    assert leecher.status().wasted == 0
    assert leecher.status().state == "seeding"
    assert seeder.status().uploaded == len(content.content)


@scenario(both=True)
async def test_many_files(lab: Lab) -> None:
    content = folder_sample(FILES)
    leecher = await lab.leech(content, await lab.seed(content))
    await leecher.wait_complete()
    assert content.is_at(leecher.keeper.content.top)


@pytest.mark.parametrize("length", [1, 16_383, 16_384, 16_385, 32_769, 49_152])
@pytest.mark.parametrize("piece_length", [16_384, 16_385, 20_000, 49_152])
def test_sizes(length: int, piece_length: int, tmp_path: object) -> None:
    @scenario()
    async def transfer(lab: Lab) -> None:
        content = sample(length, piece_length=piece_length)
        leecher = await lab.leech(content, await lab.seed(content))
        await leecher.wait_complete()
        assert content.is_at(leecher.keeper.content.top)

    transfer(tmp_path=tmp_path)


@scenario(both=True)
async def test_several_seeders(lab: Lab) -> None:
    content = sample(2_000_000)
    seeders = [await lab.seed(content, lab.host(up=200_000)) for _ in range(3)]
    leecher = await lab.leech(content, *seeders)
    await leecher.wait_complete()
    assert content.is_at(leecher.keeper.content.top)
    if not lab.real:  # each is slow: all had a part in it
        assert all(seeder.status().uploaded > 300_000 for seeder in seeders)


@scenario(both=True)
async def test_two_leechers_exchange(lab: Lab) -> None:
    content = sample(2_000_000)
    seeder = await lab.seed(content, lab.host(up=500_000))
    one = await lab.leech(content, seeder)
    other = await lab.leech(content, seeder, one)
    await one.wait_complete()
    await other.wait_complete()
    assert content.is_at(one.keeper.content.top)
    assert content.is_at(other.keeper.content.top)
    if not lab.real:
        assert one.status().uploaded > 0
        assert other.status().uploaded > 0
        assert seeder.status().uploaded < 1.7 * len(content.content)


@scenario(both=True)
async def test_halves_of_two_partial_seeders(lab: Lab) -> None:
    content = sample(640_000)
    half = [content.piece(piece) if piece % 2 else bytes(2 * 16_384) for piece in range(content.pieces)]
    other = [bytes(2 * 16_384) if piece % 2 else content.piece(piece) for piece in range(content.pieces)]
    holders = []
    for pieces in (half, other):
        session = await lab.session()
        top = lab.place()
        top.write_bytes(b"".join(pieces)[: len(content.content)])
        holders.append(await session.add(content.metainfo, output=top, seed_only=True, partial=True))
    leecher = await lab.leech(content, *holders)
    await leecher.wait_complete()
    assert content.is_at(leecher.keeper.content.top)
    assert not any(holder.complete for holder in holders)


@scenario(both=True)
async def test_peers_that_are_named_by_text(lab: Lab) -> None:
    content = sample()
    seeder = await lab.seed(content)
    ip, port = lab.address(seeder.session)
    lab.world.names["peer.example"] = [ip]
    host = "localhost" if lab.real else "peer.example"
    session = await lab.session()
    leecher = await session.add(content.metainfo, directory=lab.place(), peers=[f"{host}:{port}"])
    await leecher.wait_complete()


@scenario()
async def test_a_peer_without_address_is_a_warning(lab: Lab) -> None:
    content = sample()
    seeder = await lab.seed(content)
    ip, port = lab.address(seeder.session)
    session = await lab.session()
    leecher = await session.add(content.metainfo, directory=lab.place(), peers=["nowhere.example:1", f"{ip}:{port}"])
    await leecher.wait_complete()
    assert leecher.error is None


@scenario()
async def test_pause_and_resume(lab: Lab) -> None:
    content = sample(2_000_000)
    seeder = await lab.seed(content, lab.host(up=200_000))
    leecher = await lab.leech(content, seeder)
    await next_event(leecher, Progress, lambda event: event.have_pieces > 10)
    await leecher.pause()
    status = leecher.status()
    assert status.state == "paused"
    assert status.peers == 0
    await trio.sleep(1)
    assert seeder.status().peers == 0
    assert leecher.status().downloaded == status.downloaded
    await trio.sleep(60)
    assert leecher.status().downloaded == status.downloaded
    await leecher.resume()
    await leecher.wait_complete()
    assert content.is_at(leecher.keeper.content.top)
    assert leecher.status().state == "seeding"


@scenario()
async def test_pause_before_the_check_is_over(lab: Lab) -> None:
    content = sample()
    seeder = await lab.seed(content)
    leecher = await lab.leech(content, seeder)
    await leecher.pause()
    await trio.sleep(30)
    assert leecher.status().state == "paused"
    assert leecher.status().downloaded == 0
    await leecher.resume()
    await leecher.wait_complete()


@scenario(both=True)
async def test_remove(lab: Lab) -> None:
    content = sample()
    seeder = await lab.seed(content)
    leecher = await lab.leech(content, seeder)
    await leecher.wait_complete()
    session = leecher.session
    await leecher.remove()
    assert session.torrents == {}
    assert leecher.status().state == "stopped"
    assert content.is_at(leecher.keeper.content.top)
    await until(lambda: not seeder.status().peers)
    again = await session.add(content.metainfo, directory=leecher.keeper.content.top.parent)
    await again.wait_complete()


@scenario()
async def test_remove_ends_who_waits(lab: Lab) -> None:
    content = sample()
    leecher = await lab.leech(content)
    ended: list[BaseException] = []

    async def wait() -> None:
        try:
            await leecher.wait_complete()
        except UsageError as error:
            ended.append(error)

    lab.nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    await leecher.remove()
    await trio.testing.wait_all_tasks_blocked()
    assert len(ended) == 1


@scenario()
async def test_the_same_torrent_twice(lab: Lab) -> None:
    content = sample()
    leecher = await lab.leech(content)
    with pytest.raises(UsageError):
        await leecher.session.add(content.metainfo, directory=lab.place())


@scenario()
async def test_complete_says_what_moved(lab: Lab) -> None:
    content = sample()
    seeder = await lab.seed(content)
    leecher = await lab.leech(content, seeder)
    done = await next_event(leecher, Complete)
    assert (done.downloaded, done.wasted, done.hash_failures) == (len(content.content), 0, 0)
    assert 0 < done.seconds < 10


@scenario()
async def test_seeds_do_not_stay_connected(lab: Lab) -> None:
    content = sample()
    one = await lab.seed(content)
    session = await lab.session()
    top = content.write(lab.place() / "content")
    other = await session.add(content.metainfo, output=top, seed_only=True, peers=[lab.address(one.session)])
    gone = await next_event(other, PeerChange, lambda event: event.change == "disconnected")
    assert gone.reason in ("both are complete", "closed by the peer")
