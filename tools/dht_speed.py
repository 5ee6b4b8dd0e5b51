"""How many queries a second one DHT node answers over real UDP on loopback: btor's, and libtorrent's beside it.

Pings, find_node, get_peers and announces with valid tokens, a quarter each. btor's store is full: 2,000 torrents of 500
peers. Neither counts floods or bounds its answers on loopback. Prints queries a second, the peak memory of btor's node,
and what malformed packets cost; ends with 1 below 8,000 a second or above 64 MiB.
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

import trio

from btor import limits
from btor.errors import BtorError
from btor.wire import krpc
from btor.wire.address import Address
from btor.wire.krpc import Query, Reply, decode_message, encode_message
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
    from btor.dht.contact import Contact, make_id
    from btor.engine.dht import open_dht
    from btor.engine.transport import TcpNetwork
    from btor.engine.udp import open_udp_sockets

    rng = random.Random(1)
    sockets = open_udp_sockets((host,), 0)
    async with open_dht(sockets, TcpNetwork(), rng=rng) as dht:
        node = dht.nodes[0]
        now = trio.current_time()
        for number in range(limits.DHT_TORRENTS):
            info_hash = hash_of(number)
            for peer in range(limits.DHT_TORRENT_PEERS):
                node.answers.store.add(
                    info_hash, (0x05000000 + peer * 7919).to_bytes(4) + b"\x1a\xe1", peer % 3 == 0, now
                )
        for number in range(NODES):
            ip = b"\x05" + rng.randbytes(3)
            node_id = make_id(ip if number % 4 else None, rng)  # some are of clients that do not know BEP 42
            node.table.on_reply(Contact(node_id + ip + b"\x1a\xe1"), now)
        dht.start()
        print(f'{{"event": "listening", "nodes": ["{host}:{sockets[0].local[1]}"]}}', flush=True)
        await trio.sleep_forever()


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
        t = number.to_bytes(2)
        packets += [
            encode_message(Query(t, krpc.PING, own)),
            encode_message(Query(t, krpc.FIND_NODE, own, info_hash)),
            encode_message(Query(t, krpc.GET_PEERS, own, info_hash)),
            encode_message(Query(t, krpc.ANNOUNCE_PEER, own, info_hash, token=reply.token, port=6881)),
        ]
    return packets


def rate(address: Address, source: str, packets: list[bytes] | None = None, seconds: float = SECONDS) -> float:
    """Answers a second of the node at ``address``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((source, 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * limits.MIB)
        sock.connect(address)
        sock.settimeout(2)
        packets = packets or questions(sock)
        sock.setblocking(False)
        sent = answered = 0
        begun = time.perf_counter()
        end = begun + seconds
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
        return answered / (now - begun)


# --- what a packet costs ------------------------------------------------------------------------------------------


def cost_of_decoding() -> tuple[float, float]:
    """Microseconds to decode a good packet and a malformed one, the mean over many kinds."""
    rng = random.Random(3)
    own = rng.randbytes(20)
    good = [
        encode_message(Query(b"aa", krpc.PING, own)),
        encode_message(Query(b"aa", krpc.FIND_NODE, own, own)),
        encode_message(Query(b"aa", krpc.GET_PEERS, own, own)),
        encode_message(Query(b"aa", krpc.ANNOUNCE_PEER, own, own, token=b"t" * 8, port=1)),
    ]
    bad = []
    for packet in good:
        bad += [packet[: rng.randrange(1, len(packet))] for _ in range(8)]
        for _ in range(8):
            at = rng.randrange(len(packet))
            changed = packet[:at] + bytes([rng.randrange(256)]) + packet[at + 1 :]
            try:
                decode_message(changed)
            except BtorError:
                bad.append(changed)
    return _cost(good), _cost(bad)


def _cost(packets: list[bytes]) -> float:
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(400):
            for packet in packets:
                try:
                    decode_message(packet)
                except BtorError:
                    pass
        best = min(best, time.perf_counter() - begun)
    return best / 400 / len(packets) * 1e6


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
            places = [("btor", address_of(ours), "127.0.3.9"), ("libtorrent", address_of(theirs), "127.0.4.9")]
            if arguments.without_libtorrent:
                places.pop()
            rates: dict[str, list[float]] = {name: [] for name, _, _ in places}
            for _ in range(arguments.rounds):
                for name, address, source in places:
                    rates[name].append(rate(address, source))
            wait_until("a look at the memory", lambda: peak_memory(ours.pid) > 0, 1)
            memory = peak_memory(ours.pid)
    for name, figures in rates.items():
        each = ", ".join(f"{one:,.0f}" for one in figures)
        print(f"{name}: {statistics.median(figures):,.0f} answers a second (rounds: {each})")
    best = statistics.median(rates["btor"])
    if "libtorrent" in rates:
        print(f"ratio: {best / statistics.median(rates['libtorrent']):.2f} of libtorrent's")
    good, bad = cost_of_decoding()
    print(f"peak memory of btor's node: {memory / limits.MIB:.1f} MiB")
    print(f"decoding: {good:.1f} µs a good packet, {bad:.1f} µs a malformed one")
    return 0 if best >= WANTED and memory <= MEMORY and bad < good else 1


if __name__ == "__main__":
    sys.exit(main())
