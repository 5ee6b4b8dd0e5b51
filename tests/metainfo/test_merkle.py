"""Hash trees, against a plain construction over all leaves."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from btor.metainfo.merkle import layer_root


def root_of(leaves: list[bytes]) -> bytes:
    """The root by the words of BEP 52: pad with zero hashes to a power of two, hash pairs up."""
    while len(leaves) & (len(leaves) - 1):
        leaves = [*leaves, bytes(32)]
    while len(leaves) > 1:
        leaves = [sha256(left + right).digest() for left, right in zip(leaves[::2], leaves[1::2], strict=True)]
    return leaves[0]


@given(st.integers(1, 70), st.sampled_from([1, 2, 4, 8]))
def test_a_layer_gives_the_root_of_its_leaves(count: int, leaves_each: int) -> None:
    leaves = [sha256(b"%d" % number).digest() for number in range(count)]
    padded = [*leaves, *[bytes(32)] * (-count % leaves_each)]
    layer = [root_of(padded[at : at + leaves_each]) for at in range(0, len(padded), leaves_each)]
    assert layer_root(b"".join(layer), leaves_each) == root_of(padded)
