"""CRC-32C (Castagnoli): what BEP 40 ranks peers by and BEP 42 binds node ids with."""

from __future__ import annotations

from typing import Final

_POLYNOMIAL: Final = 0x82F63B78  # reflected


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        rest = byte
        for _ in range(8):
            rest = rest >> 1 ^ (_POLYNOMIAL if rest & 1 else 0)
        table.append(rest)
    return tuple(table)


_TABLE: Final = _table()


def crc32c(data: bytes) -> int:
    """The checksum of ``data``, 0 … 2³²−1 (RFC 3720 B.4). For a few bytes: it goes one by one."""
    rest = 0xFFFF_FFFF
    for byte in data:
        rest = rest >> 8 ^ _TABLE[(rest ^ byte) & 0xFF]
    return rest ^ 0xFFFF_FFFF
