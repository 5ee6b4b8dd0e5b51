"""How many queries a second one DHT node answers over real UDP on loopback: btor's, and libtorrent's beside it.

Pings, find_node, get_peers and announces with valid tokens, a quarter each. btor's store is full: 2,000 torrents of 500
peers. Neither counts floods or bounds its answers on loopback. Prints queries a second, the CPU time of each, the peak
memory of btor's node, and what malformed packets cost; ends with 1 below 8,000 a second, above 64 MiB, or where
nonsense costs more than good packets.
"""

from __future__ import annotations

import argparse
import random
import select
import socket
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import trio

from btor import limits
from btor.dht.contact import Contact, make_id
from btor.dht.node import Node
from btor.errors import BtorError
from btor.wire import krpc
from btor.wire.address import Address
from btor.wire.krpc import Query, Reply, decode_message, encode_message
from tools._measure import cpu_seconds
from tools._processes import Process, wait_until

WANTED = 8_000  # answers a second
MEMORY = 64 * limits.MIB
OUTSTANDING = 128
HASHES = 250  # that the generator asks for
ROUNDS = 3
SECONDS = 3.0
NODES = 300  # in the table of btor's node


# --- the node that is measured -----------------------------------------------------------------------------------


async def serve(host: str) -> None:
    """A btor node with a full store and table, until it is told to end."""
    from btor.engine.dht import open_dht
    from btor.engine.transport import TcpNetwork
    from btor.engine.udp import open_udp_sockets

    sockets = open_udp_sockets((host,), 0)
    async with open_dht(sockets, TcpNetwork(), rng=random.SystemRandom()) as dht:
        fill(dht.nodes[0], limits.DHT_TORRENTS, trio.current_time())
        dht.start()
        print(f'{{"event": "listening", "nodes": ["{host}:{sockets[0].local[1]}"]}}', flush=True)
        await trio.sleep_forever()


def fill(node: Node, torrents: int, now: float) -> None:
    """Give a node a full table, and as many peers of each torrent as it stores."""
    rng = random.Random(1)
    for number in range(torrents):
        info_hash = hash_of(number)
        for peer in range(limits.DHT_TORRENT_PEERS):
            address = (0x05000000 + peer * 7919).to_bytes(4) + b"\x1a\xe1"
            node.answers.store.add(info_hash, address, peer % 3 == 0, now)
    for number in range(NODES):
        ip = b"\x05" + rng.randbytes(3)
        node_id = make_id(ip if number % 4 else None, rng)  # some are of clients that do not know BEP 42
        node.table.on_reply(Contact(node_id + ip + b"\x1a\xe1"), now)


def hash_of(number: int) -> bytes:
    return random.Random(number).randbytes(20)


# --- the generator -----------------------------------------------------------------------------------------------


def questions(sock: socket.socket) -> list[bytes]:
    """One of each kind for each info-hash; the tokens are asked for first."""
    own = random.Random(7).randbytes(20)
    packets = []
    for number in range(HASHES):
        info_hash = hash_of(number)
        sock.send(encode_message(Query(b"tk", krpc.GET_PEERS, own, info_hash)))
        while not isinstance(reply := decode_message(sock.recv(2048)), Reply):
            pass  # the node wants to know who asks
        packets += [encode_message(query) for query in four_queries(number.to_bytes(2), own, info_hash, reply.token)]
    return packets


def four_queries(transaction: bytes, own: bytes, info_hash: bytes, token: bytes) -> list[Query]:
    """One of each kind."""
    return [
        Query(transaction, krpc.PING, own),
        Query(transaction, krpc.FIND_NODE, own, info_hash),
        Query(transaction, krpc.GET_PEERS, own, info_hash),
        Query(transaction, krpc.ANNOUNCE_PEER, own, info_hash, token=token, port=6881),
    ]


def rate(node: Process, address: Address, source: str) -> tuple[float, float]:
    """Answers a second of the node at ``address``, and the microseconds of CPU of each."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((source, 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * limits.MIB)
        sock.connect(address)
        sock.settimeout(2)
        packets = questions(sock)
        sock.setblocking(False)
        sent = answered = 0
        cpu, begun = cpu_seconds(node.pid), time.perf_counter()
        end = begun + SECONDS
        while (now := time.perf_counter()) < end:
            while sent - answered < OUTSTANDING:
                sock.send(packets[sent % len(packets)])
                sent += 1
            readable, _, _ = select.select([sock], [], [], 0.2)
            if not readable:
                sent = answered  # lost: begin anew
            try:
                while True:
                    sock.recv(2048)
                    answered += 1
            except BlockingIOError:
                pass
        return answered / (now - begun), (cpu_seconds(node.pid) - cpu) / max(answered, 1) * 1e6


# --- what a packet costs ------------------------------------------------------------------------------------------


class Costs(NamedTuple):
    """Microseconds of a node's packet handler: the mean good query, mean and dearest malformed packet, the dearest good
    packet, an answer full of peers."""

    good: float
    malformed: float
    dearest_malformed: float
    dearest_good: float


def costs() -> Costs:
    """Feed a node in this process, whose answers are encoded and thrown away."""
    rng = random.Random(3)
    node = Node(rng, 0.0)
    fill(node, HASHES, 0.0)
    own, source = rng.randbytes(20), ("127.0.0.1", 4000)
    good = []
    for number in range(0, HASHES, 10):
        info_hash = hash_of(number)
        token = node.answers.tokens.make(b"\x7f\0\0\1", info_hash, 0.0)
        good += [encode_message(query) for query in four_queries(b"aa", own, info_hash, token)]
    bad = []
    for packet in good[:4]:
        bad += [packet[: rng.randrange(1, len(packet))] for _ in range(8)]
        for _ in range(8):
            at = rng.randrange(len(packet))
            changed = packet[:at] + bytes([rng.randrange(256)]) + packet[at + 1 :]
            try:
                decode_message(changed)
            except BtorError:
                bad.append(changed)
    hostile = [
        b"d1:al" + b"i0e" * 490 + b"ee",
        b"d1:al" + b"0:" * 690,
        b"d1:al" + b"le" * 480 + b"ee",
        b"d1:al" + b"d1:ai0ee" * 160 + b"ee",
        b"d" + b"".join(b"3:%03di0e" % number for number in range(180)) + b"e",
        b"d1:a" + b"l" * 1400,
        b"d" + rng.randbytes(1400),
    ]
    full = encode_message(Reply(b"zz", own, token=b"x" * 8, values=(b"peer--",) * 175))
    one_by_one = [_cost(node, [packet], source) for packet in hostile]
    return Costs(_cost(node, good, source), _cost(node, bad, source), max(one_by_one), _cost(node, [full], source))


def _cost(node: Node, packets: list[bytes], source: Address) -> float:
    best = float("inf")
    repeats = 20_000 // len(packets)
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(repeats):
            for packet in packets:
                node.on_packet(packet, source, 0.0)
                node.take_packets(0.0)
        best = min(best, time.perf_counter() - begun)
    return best / repeats / len(packets) * 1e6


# --- the comparison -----------------------------------------------------------------------------------------------


def peak_memory(pid: int) -> int:
    """Bytes of resident memory at most so far."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * limits.KIB
    return 0


def address_of(process: Process) -> Address:
    host, _, port = process.wait_event("listening", 120)["nodes"][0].rpartition(":")
    return host, int(port)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", metavar="HOST", help="be the node, and nothing else")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--without-libtorrent", action="store_true")
    arguments = parser.parse_args()
    if arguments.serve:
        trio.run(serve, arguments.serve)
        return 0
    with TemporaryDirectory() as folder:
        logs = Path(folder)
        ours = Process([sys.executable, "-m", "tools.dht_speed", "--serve", "127.0.3.1"], logs / "btor")
        command = [sys.executable, "-m", "tools.libtorrent_dht", "--nodes", "2", "--first", "127.0.4.1"]
        with ours, Process(command, logs / "libtorrent") as theirs:
            places = [("btor", ours, "127.0.3.9"), ("libtorrent", theirs, "127.0.4.9")]
            if arguments.without_libtorrent:
                places.pop()
            rates: dict[str, list[float]] = {name: [] for name, _, _ in places}
            cpu: dict[str, list[float]] = {name: [] for name, _, _ in places}
            for _ in range(arguments.rounds):
                for name, process, source in places:
                    answers, microseconds = rate(process, address_of(process), source)
                    rates[name].append(answers)
                    cpu[name].append(microseconds)
            wait_until("a look at the memory", lambda: peak_memory(ours.pid) > 0, 1)
            memory = peak_memory(ours.pid)
    for name, figures in rates.items():
        each = ", ".join(f"{one:,.0f}" for one in figures)
        print(
            f"{name}: {statistics.median(figures):,.0f} answers a second (rounds: {each}),"
            f" {statistics.median(cpu[name]):.1f} µs of CPU each"
        )
    best = statistics.median(rates["btor"])
    if "libtorrent" in rates:
        print(f"ratio: {best / statistics.median(rates['libtorrent']):.2f} of libtorrent's")
    print(f"peak memory of btor's node: {memory / limits.MIB:.1f} MiB")
    cost = costs()
    print(f"in the packet handler: a good query {cost.good:.1f} µs, a malformed packet {cost.malformed:.1f} µs")
    print(f"  the dearest: {cost.dearest_good:.1f} µs good, {cost.dearest_malformed:.1f} µs malformed")
    cheap = cost.malformed < cost.good and cost.dearest_malformed < 1.2 * cost.dearest_good
    return 0 if best >= WANTED and memory <= MEMORY and cheap else 1


if __name__ == "__main__":
    sys.exit(main())
