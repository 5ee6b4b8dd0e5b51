"""Processes for a network namespace, run as ``python -m tools.lures``, that print JSON lines.

``watch INTERFACE``: every IP packet, by a packet socket. ``lure …``: one peer that the tracker names, which tells of
another one by peer exchange and of a DHT node, while a third is told of by local discovery; what it hears.
"""

from __future__ import annotations

import argparse
import http.client
import ipaddress
import json
import socket
import struct
import sys
import threading
import time
import urllib.parse
from typing import Any

GROUP = ("239.192.152.143", 6771)  # BEP 14
UT_PEX = 5
EVERYTHING = b"\0\0\0\0\0\x10\0\x05"
IPV4, IPV6, TCP, UDP = 0x0800, 0x86DD, 6, 17


def say(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def watch(interface: str) -> None:
    """Print the ends of every TCP and UDP packet, and whether it opens a connection. The payload in hex."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap:  # 3: every protocol
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024 * 1024)
        tap.bind((interface, 0))
        say("listening")
        while True:
            frame = tap.recv(65_536)
            kind = int.from_bytes(frame[12:14])
            if kind == IPV4:
                head, protocol = 14 + (frame[14] & 15) * 4, frame[23]
                ends = frame[26:30], frame[30:34]
            elif kind == IPV6:
                head, protocol = 54, frame[20]
                ends = frame[22:38], frame[38:54]
            else:
                continue
            if protocol not in (TCP, UDP):
                continue
            source, target = (str(ipaddress.ip_address(end)) for end in ends)
            ports = struct.unpack_from(">HH", frame, head)
            opens = protocol == TCP and frame[head + 13] & 0x12 == 2  # SYN without ACK
            if protocol == UDP or opens:
                where = {"source": [source, ports[0]], "target": [target, ports[1]]}
                payload = frame[head + 8 :].hex() if protocol == UDP else ""
                say("packet", protocol="udp" if protocol == UDP else "tcp", payload=payload, **where)


def message(id_: int, payload: bytes) -> bytes:
    return struct.pack(">IB", 1 + len(payload), id_) + payload


def talk(link: socket.socket, info_hash: bytes, told: bytes, dht_port: int) -> None:
    """One connection: say everything that would lead elsewhere, and tell what is heard."""
    with link:
        link.sendall(b"\x13BitTorrent protocol" + EVERYTHING + info_hash + b"-LU0000-lurelurelure")
        link.sendall(message(20, b"\0d1:md6:ut_pexi%deee" % UT_PEX))
        link.sendall(message(20, b"\2d5:added6:" + told + b"7:added.f1:\x10e") + message(9, dht_port.to_bytes(2)))
        stream = link.makefile("rb")
        say("handshake", dht=bool(stream.read(68)[27] & 1))
        while len(head := stream.read(4)) == 4:
            body = stream.read(int.from_bytes(head))
            if body[:1] == b"\x14":
                say("extended", id=body[1], names_pex=b"ut_pex" in body)
            elif body[:1] == b"\x09":
                say("port")


def lure(arguments: argparse.Namespace) -> None:
    info_hash = bytes.fromhex(arguments.info_hash)
    told = socket.inet_aton(arguments.pex) + arguments.port.to_bytes(2)
    server = socket.create_server((arguments.ip, arguments.port))
    query = {"info_hash": info_hash, "peer_id": b"-LU0000-lurelurelure", "port": arguments.port, "left": 1}
    query |= {"uploaded": 0, "downloaded": 0, "event": "started", "compact": 1}
    tracker = urllib.parse.urlsplit(arguments.tracker)
    asking = http.client.HTTPConnection(tracker.netloc, timeout=10, source_address=(arguments.ip, 0))
    asking.request("GET", f"{tracker.path}?{urllib.parse.urlencode(query)}")
    asking.getresponse().read()

    def tell() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(arguments.lsd))
            sock.bind((arguments.lsd, 0))
            lines = ["BT-SEARCH * HTTP/1.1", f"Host: {GROUP[0]}:{GROUP[1]}", f"Port: {arguments.port}"]
            lines += [f"Infohash: {arguments.info_hash}", "", "", ""]
            while True:
                sock.sendto("\r\n".join(lines).encode(), GROUP)
                time.sleep(1.5)

    threading.Thread(target=tell, daemon=True).start()
    say("listening")
    while True:
        link, _ = server.accept()
        threading.Thread(target=talk, args=(link, info_hash, told, arguments.dht_port), daemon=True).start()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["watch", "lure"])
    parser.add_argument("--interface")
    for option in ("--ip", "--pex", "--lsd", "--tracker", "--info-hash"):
        parser.add_argument(option)
    for option in ("--port", "--dht-port"):
        parser.add_argument(option, type=int)
    arguments = parser.parse_args()
    if arguments.mode == "watch":
        watch(arguments.interface)
    else:
        lure(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
