"""A set of pieces, against Python's own set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from btor.metainfo.bitfield import Bitfield, mark


class AgainstASet(RuleBasedStateMachine):
    @initialize(size=st.integers(1, 40))
    def start(self, size: int) -> None:
        self.size = size
        self.field = Bitfield(size)
        self.model: set[int] = set()

    @rule(piece=st.integers(0, 39))
    def add(self, piece: int) -> None:
        if piece < self.size:
            assert self.field.add(piece) is (piece not in self.model)
            self.model.add(piece)

    @rule(piece=st.integers(0, 39))
    def discard(self, piece: int) -> None:
        if piece < self.size:
            assert self.field.discard(piece) is (piece in self.model)
            self.model.discard(piece)

    @rule()
    def set_all(self) -> None:
        self.field.set_all()
        self.model = set(range(self.size))

    @rule()
    def copy(self) -> None:
        before = self.field
        self.field = before.copy()
        before.set_all()

    @invariant()
    def check(self) -> None:
        assert list(self.field) == sorted(self.model)
        assert list(self.field.missing()) == sorted(set(range(self.size)) - self.model)
        assert len(self.field) == self.field.count == len(self.model)
        assert self.field.complete is (len(self.model) == self.size)
        assert [piece for piece in range(-1, self.size + 9) if piece in self.field] == sorted(self.model)
        again = Bitfield.from_wire(self.field.to_wire(), self.size)
        assert again == self.field
        assert again.count == self.field.count
        top = 8 * len(self.field.to_wire()) - 1
        assert self.field.to_int() == sum(1 << (top - piece) for piece in self.model)


TestAgainstASet = AgainstASet.TestCase


def test_piece_0_is_the_high_bit_of_the_first_byte() -> None:
    field = Bitfield(10)
    field.add(0)
    field.add(9)
    assert field.to_wire() == b"\x80\x40"


@pytest.mark.parametrize("size", [1, 7, 8, 9, 16, 17])
def test_full(size: int) -> None:
    field = Bitfield.full(size)
    assert field.complete
    assert list(field) == list(range(size))
    assert Bitfield.from_wire(field.to_wire(), size) == field


@given(st.integers(1, 40), st.binary(max_size=6))
def test_from_wire_takes_exactly_what_bep_3_allows(size: int, data: bytes) -> None:
    spare = int.from_bytes(data, "big") & ((1 << (8 * len(data) - size)) - 1) if 8 * len(data) >= size else 0
    if len(data) == -(-size // 8) and not spare:
        assert Bitfield.from_wire(data, size).to_wire() == data
    else:
        with pytest.raises(ValueError, match="bitfield"):
            Bitfield.from_wire(data, size)


@pytest.mark.parametrize("size", [-1, -7, -8])
def test_from_wire_of_fewer_than_no_pieces(size: int) -> None:
    with pytest.raises(ValueError, match="bitfield"):
        Bitfield.from_wire(b"", size)


@pytest.mark.parametrize("piece", [-1, 8, 2**40])
def test_out_of_range(piece: int) -> None:
    field = Bitfield(8)
    with pytest.raises(IndexError):
        field.add(piece)
    with pytest.raises(IndexError):
        field.discard(piece)
    assert piece not in field


def test_equality_and_repr() -> None:
    assert Bitfield(8) != Bitfield(9)
    assert Bitfield(8) != "x"
    assert Bitfield(8) == Bitfield.from_wire(memoryview(b"\x00"), 8)
    assert repr(Bitfield.full(9)) == "<Bitfield 9/9>"
    with pytest.raises(TypeError):
        hash(Bitfield(1))


@given(st.integers(0, 70), st.integers(0, 70))
def test_mark_sets_a_range(first: int, last: int) -> None:
    if first > last:
        first, last = last, first
    marks = bytearray(9)
    mark(marks, first, last)
    assert int.from_bytes(marks, "big") == sum(1 << (71 - i) for i in range(first, last + 1))
