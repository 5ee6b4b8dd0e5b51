"""All rows of the bench, in the order in which they run."""

from __future__ import annotations

from tools.bench.contest import Row
from tools.bench.first_request import first_requests
from tools.bench.local import creations, rechecks
from tools.bench.transfers import beside_aria2, beside_transmission, downloads, seeds, swarms
from tools.bench.workshop import KIB, MIB

SMALL_FILES = 20_000

ROWS = (
    Row("a", "1 GiB, pieces of 1 MiB, from one libtorrent seeder", downloads(lambda shop: shop.single(1024, MIB))),
    Row("a-8", "8 MiB: what does not grow with the size", downloads(lambda shop: shop.fixed(8, 256 * KIB))),
    Row("b", "as a, to a folder on a disk", downloads(lambda shop: shop.single(1024, MIB), on_disk=True)),
    Row("c-16k", "as a, pieces of 16 KiB", downloads(lambda shop: shop.single(1024, 16 * KIB))),
    Row("c-4m", "as a, pieces of 4 MiB", downloads(lambda shop: shop.single(1024, 4 * MIB))),
    Row("c-files", "20,000 files of 16 to 100 KiB", downloads(lambda shop: shop.album(SMALL_FILES, MIB))),
    Row(
        "c-files-disk",
        "20,000 files of 16 to 100 KiB, to a folder on a disk",
        downloads(lambda shop: shop.album(SMALL_FILES, MIB), on_disk=True),
    ),
    Row(
        "d",
        "seeding 1 GiB to one libtorrent leecher",
        seeds(lambda shop: shop.single(1024, MIB)),
        notes="wall: as the leecher counts it. CPU and memory: the seeder's, from when it is ready",
    ),
    Row(
        "e",
        "1 GiB from a seeder to a leecher of the same kind",
        swarms(lambda shop: shop.single(1024, MIB), 1),
        notes="CPU and memory: both ends, the seeder's from when it is ready",
    ),
    Row(
        "f",
        "one seeder and eight leechers of the same kind, 256 MiB each",
        swarms(lambda shop: shop.single(256, MIB), 8),
        notes="wall: until the last has ended. CPU and memory: all nine, the seeder's from when it is ready",
    ),
    Row("g-aria2", "as a, beside aria2", beside_aria2),
    Row("g-transmission", "as a, beside transmission", beside_transmission),
    Row(
        "h",
        "recheck of 4 GiB in the page cache",
        rechecks,
        columns=("wall", "cpu", "peak_rss", "read"),
        notes="read: bytes that read calls returned",
    ),
    Row("i", "torrent of 4 GiB in the page cache, pieces of 1 MiB", creations, notes="all made the same info-hash"),
    Row(
        "j",
        "start to the first request that a seeder sees, found through an HTTP tracker",
        first_requests,
        notes="CPU and memory: until then",
    ),
)
