"""Torrents of which not all files are wanted, in whole sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from btor.engine.events import Checked, Complete, Progress, Started
from btor.engine.torrent import Torrent
from btor.errors import MetainfoError, StorageError, UsageError
from btor.limits import BLOCK
from btor.metainfo.magnet import Magnet
from btor.metainfo.selection import Selection
from btor.storage.side import side_name
from tests.engine.support import Lab, Sample, folder_sample, next_event, said, scenario, until
from tests.simulated.scripted_peer import INTERESTED, NOT_INTERESTED

PIECE = 2 * BLOCK
FILES = [("a", 100_000), ("sub/b", 0), ("sub/c", 150_001), ("", 7), ("sub/deep/d", 1), ("e", 90_000)]
CONTENT = folder_sample(FILES)
A, C, E = Selection(((1, 1),)), Selection(((3, 3),)), Selection(((5, 5),))  # pieces 0-3, 3-7, 7-10
SIDE = side_name(CONTENT.metainfo.info_hash)


def bytes_of(content: Sample, *pieces: int) -> int:
    return sum(map(content.metainfo.geometry.piece_size, pieces))


def names(found: Torrent) -> set[str]:
    top = found.keeper.content.top
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}


def has(found: Torrent, name: str) -> bool:
    """Whether the file ``name`` is there, byte for byte."""
    entry = next(entry for entry in CONTENT.metainfo.files if "/".join(entry.path[1:]) == name)
    there = found.keeper.content.top.joinpath(name).read_bytes()
    return there == CONTENT.content[entry.offset : entry.offset + entry.length]


async def again(
    lab: Lab, place: Path, selection: Selection | None, *peers: Torrent, **options: Any
) -> tuple[Torrent, dict[str, Any]]:
    """One run of a session into ``place`` from the beginning to its end, and what it did."""
    async with lab.open(state_dir=lab.folder / "state") as session:
        addresses = [lab.address(peer.session) for peer in peers]
        found = await session.add(CONTENT.metainfo, directory=place, peers=addresses, selection=selection, **options)
        checked = await next_event(found, Checked)
        await found.wait_complete()
        status = found.status()
    return found, {"from": checked.from_, "had": checked.have_pieces, "downloaded": status.downloaded}


@scenario(both=True)
async def test_only_what_is_wanted_is_fetched(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    found = await lab.leech(CONTENT, seeder, add={"selection": C})
    started = await next_event(found, Started)
    await found.wait_complete()
    assert names(found) == {"sub/c", SIDE}
    assert has(found, "sub/c")
    wanted = bytes_of(CONTENT, 3, 4, 5, 6, 7)
    status = found.status()
    assert (status.downloaded, status.done_bytes, status.total_bytes) == (wanted, wanted, wanted)
    assert (status.have_pieces, status.pieces, status.state) == (5, 5, "seeding")
    assert (started.total_bytes, started.pieces) == (wanted, 5)
    assert found.complete


@scenario()
async def test_progress_is_of_what_is_wanted(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT, lab.host(up=30_000))
    found = await lab.leech(CONTENT, seeder, add={"selection": E})  # the last, short piece is in it
    halfway = await next_event(found, Progress, lambda progress: 0 < progress.done_bytes < progress.total_bytes)
    assert halfway.total_bytes == bytes_of(CONTENT, 7, 8, 9, 10)
    assert halfway.eta is None or halfway.eta * halfway.down_rate <= halfway.total_bytes
    assert found.announce_counters()[2] == len(CONTENT.content) - halfway.done_bytes
    await found.wait_complete()
    assert found.announce_counters()[2] == bytes_of(CONTENT, *range(7))  # never 0: that would be a seed's
    assert found.is_partial_seed
    assert not found.is_seed
    assert not seeder.is_partial_seed


@scenario(both=True)
async def test_a_wider_selection_loses_nothing(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    place = lab.place()
    _, one = await again(lab, place, A, seeder)
    assert one == {"from": "nothing", "had": 0, "downloaded": bytes_of(CONTENT, 0, 1, 2, 3)}
    found, same = await again(lab, place, A)
    assert same == {"from": "resume", "had": 4, "downloaded": 0}
    assert names(found) == {"a", SIDE}
    found, more = await again(lab, place, Selection(((1, 1), (3, 3))), seeder)
    assert more == {"from": "resume", "had": 4, "downloaded": bytes_of(CONTENT, 4, 5, 6, 7)}
    assert names(found) == {"a", "sub/c", SIDE}
    found, fewer = await again(lab, place, A)
    assert fewer == {"from": "resume", "had": 4, "downloaded": 0}
    assert names(found) == {"a", "sub/c", SIDE}
    found, every = await again(lab, place, None, seeder)
    assert every == {"from": "resume", "had": 8, "downloaded": bytes_of(CONTENT, 8, 9, 10)}
    assert CONTENT.is_at(place / CONTENT.metainfo.name)
    assert SIDE not in names(found)
    _, last = await again(lab, place, None)
    assert last == {"from": "resume", "had": 11, "downloaded": 0}


@scenario()
async def test_a_recheck_finds_it_all_again(lab: Lab) -> None:
    place = lab.place()
    await again(lab, place, C, await lab.seed(CONTENT))
    _, found = await again(lab, place, C, recheck=True)
    assert found == {"from": "hash", "had": 5, "downloaded": 0}


@scenario()
async def test_who_has_nothing_that_is_wanted_is_not_interesting(lab: Lab) -> None:
    found = await lab.leech(CONTENT, add={"selection": A})
    without = await lab.join(found, has=[4, 5, 8])
    with_one = await lab.join(found, has=[3, 8])
    await with_one.wait_for(INTERESTED)
    await trio.sleep(1)
    await without.have(9)
    await trio.sleep(5)
    await without.have(2)
    await without.wait_for(INTERESTED)
    assert len(said(without, INTERESTED)) == 1
    assert not said(without, NOT_INTERESTED)


@scenario()
async def test_who_has_only_the_rest_is_left_alone_after_all(lab: Lab) -> None:
    """Interest ends when the last wanted piece of a peer is there."""
    found = await lab.leech(CONTENT, add={"selection": A})
    peer = await lab.join(found, has=[3, 4, 5])
    lab.nursery.start_soon(peer.serve, CONTENT.content, PIECE)
    await until(lambda: found.transfer is not None and found.transfer.have.count == 1)
    await trio.sleep(3)
    assert not next(iter(found.transfer.peers.values())).am_interested if found.transfer else False


@scenario(both=True)
async def test_a_partial_seed_gives_what_it_has(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    partial = await lab.leech(CONTENT, seeder, add={"selection": C})
    await partial.wait_complete()
    await until(lambda: not partial.transfer.peers if partial.transfer else False)  # both only upload
    other = await lab.leech(CONTENT, partial, add={"selection": Selection(((3, 5),))})
    assert other.options.selection is not None
    await until(lambda: other.transfer is not None and other.transfer.have.count == 5)
    assert set(other.transfer.have if other.transfer else ()) == {3, 4, 5, 6, 7}  # the edges too, from the side file
    assert not other.complete
    assert other.transfer is not None
    peer = next(iter(other.transfer.peers.values()))
    assert peer.upload_only
    assert not peer.source.complete


@scenario()
async def test_what_is_aside_is_seeded_from_where_it_lies(lab: Lab) -> None:
    place = lab.place()
    await again(lab, place, C, await lab.seed(CONTENT))
    session = await lab.session()
    partial = await session.add(CONTENT.metainfo, output=place, seed_only=True, partial=True)
    leecher = await lab.leech(CONTENT, partial, add={"selection": C})
    await leecher.wait_complete()
    assert has(leecher, "sub/c")
    assert partial.is_partial_seed
    seeder = await (await lab.session()).add(CONTENT.metainfo, output=place, seed_only=True, selection=C)
    await seeder.wait_complete()  # what must be there is


@scenario()
async def test_nothing_but_empty_files(lab: Lab) -> None:
    found = await lab.leech(CONTENT, add={"selection": Selection(include=("b",))})
    await found.wait_complete()
    assert names(found) == {"sub/b"}
    assert found.status().total_bytes == 0


def magnet(content: Sample, select: tuple[tuple[int, int], ...] | None) -> Magnet:
    return Magnet(content.metainfo.info_hashes, select=select)


@scenario(both=True)
async def test_a_magnet_names_files(lab: Lab) -> None:
    """By BEP 53 from 0 on, padding counted; what the person names comes before that."""
    seeder = await lab.seed(CONTENT)
    for selection, expected in ((None, {"e", SIDE}), (A, {"a", SIDE})):
        session = await lab.session()
        by_magnet = magnet(CONTENT, ((5, 9),))
        peers = [lab.address(seeder.session)]
        found = await session.add(by_magnet, directory=lab.place(), peers=peers, selection=selection)
        await found.wait_complete()
        assert names(found) == expected


@scenario()
async def test_what_the_torrent_does_not_have(lab: Lab) -> None:
    session = await lab.session()
    with pytest.raises(UsageError, match="there is no file 6: folder has 5 files"):
        await session.add(CONTENT.metainfo, directory=lab.place(), selection=Selection(((5, 6),)))
    assert not session.torrents
    seeder = await lab.seed(CONTENT)
    peers = [lab.address(seeder.session)]
    found = await session.add(
        magnet(CONTENT, None), directory=lab.place(), peers=peers, selection=Selection(exclude=("x",))
    )
    with pytest.raises(UsageError, match="x: no file has such a name"):
        await found.wait_complete()
    await found.remove()
    found = await session.add(magnet(CONTENT, ((3, 3),)), directory=lab.place(), peers=peers)
    with pytest.raises(MetainfoError, match="so: names no file"):
        await found.wait_complete()


@scenario()
async def test_two_selections_of_one_torrent_at_once(lab: Lab) -> None:
    """They would write one side file and one record."""
    place = lab.place()
    one = await (await lab.session()).add(CONTENT.metainfo, directory=place, selection=A)
    await next_event(one, Checked)
    other = await (await lab.session()).add(CONTENT.metainfo, directory=place, selection=E)
    with pytest.raises(StorageError, match="is writing to it for the torrent folder"):
        await other.wait_complete()


@scenario()
async def test_what_changes_aside_is_noticed(lab: Lab) -> None:
    """The side file is watched as other files are, once the download is complete."""
    seeder = await lab.seed(CONTENT)
    partial = await lab.leech(CONTENT, seeder, add={"selection": C})
    await next_event(partial, Complete)
    await trio.sleep(30)
    side = partial.keeper.content.top / SIDE
    side.write_bytes(bytes(side.stat().st_size))
    await trio.sleep(30)
    assert partial.transfer is not None
    assert set(partial.transfer.have) == {4, 5, 6}
