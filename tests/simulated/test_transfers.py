"""Two hundred transfers thrown by a seed, faults and all; the whole matrix is `make soak`."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from btor.limits import BLOCK
from tests.simulated import transfers
from tests.simulated.network import World
from tests.simulated.transfers import FAULTS, Case, Fault, FoundBy, play

SEEDS = 200
PIECE_LENGTHS = (BLOCK, 2 * BLOCK, 3 * BLOCK, 4 * BLOCK, 8 * BLOCK)
FOUND_BY: tuple[FoundBy, ...] = ("tracker", "dht")
LOSSES = (0.0, 0.01, 0.05, 0.1)

BOTH = (False, True)
MATRIX = [
    Case(
        seed=number,
        piece_length=piece_length,
        many_files=many_files,
        corruption=corruption,
        restart=restart,
        magnet=magnet,
        found_by=found_by,
        loss=loss,
    )
    for number, (piece_length, many_files, corruption, restart, (magnet, found_by, loss)) in enumerate(
        itertools.product(PIECE_LENGTHS, BOTH, BOTH, BOTH, itertools.product(BOTH, FOUND_BY, LOSSES))
    )
]


def thrown(seed: int) -> Case:
    """A case of which everything is left to chance."""
    rng = random.Random(seed)
    found_by = rng.choice(FOUND_BY)
    possible = [fault for fault in FAULTS if fault != "overtaking" or found_by == "dht"]  # a tracker gets too few
    return Case(
        seed=seed,
        piece_length=rng.choice(PIECE_LENGTHS[:3]),
        pieces=rng.randint(20, 30),
        many_files=rng.random() < 0.5,
        corruption=rng.random() < 0.3,
        restart=rng.random() < 0.3,
        magnet=rng.random() < 0.3,
        found_by=found_by,
        loss=rng.choice(LOSSES),
        faults=frozenset(rng.sample(possible, rng.choice((0, 1, 1, 2)))),
        latency=rng.choice((0.01, 0.05, 0.2)),
    )


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_transfer_thrown_by_a_seed(tmp_path: Path, seed: int) -> None:
    case = thrown(seed)
    print(case.name)  # noqa: T201  # what pytest shows of a test that failed
    play(case, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("case", MATRIX, ids=lambda case: case.name)
def test_the_matrix(tmp_path: Path, case: Case) -> None:
    play(case, tmp_path)


def test_the_matrix_is_whole() -> None:
    assert len({case.name for case in MATRIX}) == len(MATRIX) >= 600
    assert min(case.pieces for case in MATRIX) >= 20


def test_the_same_case_is_played_in_the_same_way(tmp_path: Path) -> None:
    case = Case(
        seed=3, piece_length=BLOCK, corruption=True, found_by="dht", loss=0.05, faults=frozenset[Fault]({"breaks"})
    )
    plays = [play(case, tmp_path / name) for name in ("one", "two")]
    one, two = ((done.ended, done.world.datagrams, done.world.lost, done.world.broken) for done in plays)
    assert one == two


async def nobody(_play: transfers.Play) -> None:
    """Nobody does that."""


@pytest.mark.parametrize(
    "case",
    [
        Case(seed=1, piece_length=BLOCK, corruption=True),
        Case(seed=1, piece_length=BLOCK, restart=True),
        Case(seed=1, piece_length=BLOCK, loss=0.01),
        *(Case(seed=1, piece_length=BLOCK, faults=frozenset[Fault]({fault})) for fault in FAULTS),
    ],
    ids=lambda case: case.name,
)
def test_a_fault_that_does_not_happen_fails_the_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    """Each fault is made harmless, and the case then says that it did not happen."""
    monkeypatch.setattr(World, "copies_of_datagram", lambda _: 1)
    monkeypatch.setattr(transfers, "JITTER", 0.0)
    monkeypatch.setattr(transfers, "LIFE", 1e9)
    monkeypatch.setattr(transfers, "RESTART_AT", -1.0)
    for name in ("lie", "do_breaks", "do_partition", "do_move", "do_half_open"):
        monkeypatch.setattr(transfers.Play, name, nobody)
    with pytest.raises(AssertionError, match="did not happen"):
        play(case, tmp_path)
