"""The hash trees of BitTorrent v2 (BEP 52)."""

from __future__ import annotations

from hashlib import sha256

HASH = 32


def layer_root(layer: bytes, leaves_each: int) -> bytes:
    """The root of the tree of which ``layer`` (32 bytes each, at least one) is one layer, from left to right.

    Each node of the layer stands for ``leaves_each`` leaves, a power of two. What is missing up to a power of two of
    nodes is the root of as many all-zero leaves.
    """
    padding = bytes(HASH)
    while leaves_each > 1:
        padding = sha256(padding + padding).digest()
        leaves_each //= 2
    while len(layer) > HASH:
        if len(layer) % (2 * HASH):
            layer += padding
        layer = b"".join([sha256(layer[at : at + 2 * HASH]).digest() for at in range(0, len(layer), 2 * HASH)])
        padding = sha256(padding + padding).digest()
    return layer
