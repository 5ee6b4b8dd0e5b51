"""Many peers in one process, each as slow or as quick as asked: the load that a client is put under.

Every link of the crowd has the same pieces, asks for others over and over, and answers what it is asked; at ``rate``
bytes of blocks a second both ways, or as fast as it can (no rate), or never (rate 0). It speaks the extension protocol
and the fast extension as far as it must to seem an ordinary peer. Blocks that come are counted and forgotten.

One loop over epoll with a heap of due times; a block costs one call to send it or to receive it, and no task.
As a program it takes its orders as JSON and prints a line {"event": "status", ...} each second.
"""

from __future__ import annotations

import heapq
import json
import random
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tools._wire_peer import (
    BITFIELD,
    BLOCK,
    CANCEL,
    CHOKE,
    INTERESTED,
    PIECE,
    PROTOCOL,
    REQUEST,
    UNCHOKE,
    bytes_of_pieces,
)

REJECT, EXTENDED = 16, 20
HANDSHAKE = 68
RESERVED = bytes((0, 0, 0, 0, 0, 0x10, 0, 0x04))  # BEP 10 and BEP 6
EXTENSIONS = b"d1:md6:ut_pexi1ee4:reqqi500e1:v5:crowde"
ASKED_SLOW, ASKED_FAST = 8, 128  # requests of one link that wait for their answers
OWED = 8  # blocks that a slow link may be behind before it forgets what it could not send
STATUS = 1.0  # s
CONNECT = 10.0  # s
FILLER = b"5"
DATA = memoryview(FILLER * BLOCK)


@dataclass(frozen=True)
class Orders:
    """``has``: pieces from … to, or None: half of all, others for each link. ``asks``: pieces from … to, perhaps none.

    ``rate``: bytes/s of one link, each way. ``first``: number of the first link, so that the peer ids of several
    processes differ.
    """

    port: int
    info_hash: str
    links: int
    pieces: int
    piece_length: int
    has: tuple[int, int] | None
    asks: tuple[int, int]
    rate: float | None
    first: int = 0

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tools._crowd", json.dumps(asdict(self))]


class Link:
    """One connection after its handshake."""

    __slots__ = ("asked", "choked", "due", "number", "out", "owed", "requests", "skip", "sock", "tail", "turn")

    def __init__(self, sock: socket.socket, number: int, tail: bytes) -> None:
        self.sock = sock
        self.number = number
        self.tail = tail
        self.skip = 0  # bytes of a block that are still to come
        self.out: list[memoryview | bytes] = []  # what the socket did not take
        self.requests: deque[bytes] = deque()  # headers of the blocks that it will be sent
        self.choked = True
        self.asked = 0
        self.turn = 0
        self.owed = 0
        self.due = 0.0


class Crowd:
    """All links of one process."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.links: dict[int, Link] = {}
        self.sent = self.received = self.lost = 0  # bytes of blocks, links
        self.late = 0.0  # s that the last due time was behind
        self._epoll = select.epoll()
        self._heap: list[tuple[float, int]] = []
        self._buffer = memoryview(bytearray(256 * 1024))
        self._period = BLOCK / orders.rate if orders.rate else 0.0
        first, end = orders.asks
        per_piece = orders.piece_length // BLOCK
        self._blocks = (end - first) * per_piece
        self._request = struct.Struct(">IBIII").pack

    def connect(self) -> None:
        """Open all links, one after the other."""
        orders = self.orders
        info_hash = bytes.fromhex(orders.info_hash)
        hello = struct.pack(">IBB", 2 + len(EXTENSIONS), EXTENDED, 0) + EXTENSIONS
        if orders.rate != 0:
            hello += struct.pack(">IB", 1, INTERESTED)
        same = b"" if orders.has is None else bytes_of_pieces(range(*orders.has), orders.pieces)
        for number in range(orders.first, orders.first + orders.links):
            field = same or half_of(orders.pieces, number)
            sock = socket.create_connection(("127.0.0.1", orders.port), timeout=CONNECT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(PROTOCOL + RESERVED + info_hash + b"-XX0000-%012d" % number)
            got = b""
            while len(got) < HANDSHAKE:
                data = sock.recv(4096)
                if not data:
                    raise SystemExit(f"link {number} was closed in its handshake")
                got += data
            sock.sendall(struct.pack(">IB", 1 + len(field), BITFIELD) + field + hello)
            sock.setblocking(False)
            link = self.links[sock.fileno()] = Link(sock, number, got[HANDSHAKE:])
            link.turn = number * 97 % max(1, self._blocks)
            self._epoll.register(sock.fileno(), select.EPOLLIN)
            if self._period:
                # all phases are equally likely, as with peers that know nothing of each other
                link.due = time.monotonic() + self._period * (number * 0.618 % 1)
                heapq.heappush(self._heap, (link.due, sock.fileno()))

    def run(self) -> None:
        """For ever."""
        for link in list(self.links.values()):
            self._decode(link, b"")
        next_status = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= next_status:
                next_status += STATUS
                self._say(now)
            until = min(next_status, self._heap[0][0]) if self._heap else next_status
            for number, events in self._epoll.poll(max(0.0, until - now)):
                link = self.links[number]
                try:
                    if events & select.EPOLLOUT:
                        self._flush(link)
                    if events & ~select.EPOLLOUT:
                        self._receive(link)
                except OSError:
                    self._lose(link)
            self._take_due(time.monotonic())

    def _say(self, now: float) -> None:
        figures = {"time": now, "sent": self.sent, "received": self.received, "lost": self.lost}
        print(json.dumps({"event": "status", "links": len(self.links), **figures}), flush=True)

    def _lose(self, link: Link) -> None:
        del self.links[link.sock.fileno()]
        link.sock.close()
        self.lost += 1

    def _take_due(self, now: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= now:
            due, number = heap[0]
            if number not in self.links or self.links[number].due != due:  # it is gone, its descriptor another's
                heapq.heappop(heap)
                continue
            link = self.links[number]
            link.due = due + self._period
            heapq.heapreplace(heap, (link.due, number))
            try:
                if self._blocks and not link.choked and link.asked < ASKED_SLOW:
                    self._ask(link, 1)
                if link.requests:
                    self._answer(link)
                elif link.owed < OWED:
                    link.owed += 1
            except OSError:
                self._lose(link)

    # --- sending ---------------------------------------------------------------------------------------------

    def _ask(self, link: Link, count: int) -> None:
        first = self.orders.asks[0]
        per_piece = self.orders.piece_length // BLOCK
        data = []
        for _ in range(count):
            piece, block = divmod(link.turn, per_piece)
            link.turn = (link.turn + 1) % self._blocks
            data.append(self._request(13, REQUEST, first + piece, block * BLOCK, BLOCK))
        link.asked += count
        self._push(link, [b"".join(data)])

    def _answer(self, link: Link) -> None:
        self._push(link, [link.requests.popleft(), DATA])
        self.sent += BLOCK

    def _push(self, link: Link, parts: Sequence[memoryview | bytes]) -> None:
        link.out += parts
        if len(link.out) == len(parts):
            self._flush(link)

    def _flush(self, link: Link) -> None:
        """Send what waits, and of a fast link what it was asked; the rest when the socket has room."""
        waited = bool(link.out)
        while True:
            if self.orders.rate is None:
                while link.requests and len(link.out) < 32:
                    link.out += (link.requests.popleft(), DATA)
                    self.sent += BLOCK
            if not link.out:
                break
            try:
                taken = link.sock.sendmsg(link.out)
            except BlockingIOError:
                break
            while taken and taken >= len(link.out[0]):
                taken -= len(link.out.pop(0))
            if taken:
                link.out[0] = memoryview(link.out[0])[taken:]
        if link.out or waited:
            interest = select.EPOLLIN | select.EPOLLOUT if link.out else select.EPOLLIN
            self._epoll.modify(link.sock.fileno(), interest)

    # --- receiving -------------------------------------------------------------------------------------------

    def _receive(self, link: Link) -> None:
        try:
            count = link.sock.recv_into(self._buffer)
        except BlockingIOError:
            return
        if not count:
            raise ConnectionResetError
        if link.skip >= count:
            link.skip -= count
        else:
            data = self._buffer[link.skip : count]
            link.skip = 0
            self._decode(link, link.tail + data if link.tail else data)

    def _decode(self, link: Link, data: bytes | memoryview) -> None:
        at, end = 0, len(data)
        fast = self.orders.rate is None
        while end - at >= 5:
            length = int.from_bytes(data[at : at + 4], "big")
            kind, after = data[at + 4], at + 4 + length
            if not length:
                at += 4
                continue
            if kind == PIECE:
                if end - at < 13:
                    break
                self.received += BLOCK
                link.asked -= 1
                link.skip = max(0, after - end)
            elif after > end:
                break
            elif kind == REQUEST:
                link.requests.append(struct.pack(">IB", 9 + BLOCK, PIECE) + data[at + 5 : at + 13])
                if link.owed:
                    link.owed -= 1
                    self._answer(link)
            elif kind == CANCEL:
                header = struct.pack(">IB", 9 + BLOCK, PIECE) + data[at + 5 : at + 13]
                if header in link.requests:
                    link.requests.remove(header)
                    self._push(link, [struct.pack(">IB", 13, REJECT) + data[at + 5 : at + 17]])
            elif kind == INTERESTED and self.orders.rate != 0:
                self._push(link, [struct.pack(">IB", 1, UNCHOKE)])
            elif kind == UNCHOKE:
                link.choked = False
            elif kind == CHOKE:
                link.choked = True
            elif kind == REJECT:
                link.asked -= 1
            at = min(after, end)
        link.tail = bytes(data[at:end])
        if fast:
            if not link.choked and link.asked < ASKED_FAST // 2 and self._blocks:
                self._ask(link, ASKED_FAST - link.asked)
            elif link.requests and not link.out:
                self._flush(link)


def half_of(pieces: int, seed: int) -> bytes:
    """A bitfield of which about every other bit is set, and none behind the last piece."""
    field = bytearray(random.Random(seed).randbytes(-(-pieces // 8)))
    if pieces % 8:
        field[-1] &= 0xFF00 >> pieces % 8
    return bytes(field)


def main() -> None:
    crowd = Crowd(Orders(**json.loads(sys.argv[1])))
    crowd.connect()
    print(json.dumps({"event": "connected"}), flush=True)
    crowd.run()


if __name__ == "__main__":
    main()
