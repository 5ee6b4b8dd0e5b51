"""KRPC, the messages of the DHT (BEP 5, 32, 33, 42, 43, 51): one bencoded dictionary a datagram.

Decoding takes any bytes and raises nothing but the BtorError family: BencodeError where they are no bencoding,
PeerError where they are no message. Every field is checked for its type and exact length; what is unknown is passed
over. Encoding writes the keys in order, straight into bytes: the library's encoder would cost more than the rest of an
answer.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from btor import limits
from btor.bencode import Value, decode
from btor.errors import PeerError
from btor.settings import DHT_VERSION

NODE4: Final = 26  # bytes of one entry of `nodes`: id, IPv4 address, port
NODE6: Final = 38
ID: Final = 20
WANT4: Final = 1  # bits of `want` (BEP 32)
WANT6: Final = 2
FILTER: Final = 256  # bytes of a Bloom filter (BEP 33)

PING: Final = b"ping"
FIND_NODE: Final = b"find_node"
GET_PEERS: Final = b"get_peers"
ANNOUNCE_PEER: Final = b"announce_peer"
SAMPLE_INFOHASHES: Final = b"sample_infohashes"

GENERIC_ERROR: Final = 201
PROTOCOL_ERROR: Final = 203
METHOD_UNKNOWN: Final = 204

_HASH_METHODS: Final = frozenset({GET_PEERS, ANNOUNCE_PEER})  # they call their target `info_hash`
_NEEDS_TARGET: Final = frozenset({FIND_NODE, GET_PEERS, ANNOUNCE_PEER, SAMPLE_INFOHASHES})
_WANTS: Final = {0: b"", WANT4: b"4:wantl2:n4e", WANT6: b"4:wantl2:n6e", WANT4 | WANT6: b"4:wantl2:n42:n6e"}
_VERSION: Final = b"1:v%d:%b" % (len(DHT_VERSION), DHT_VERSION)


class Query(NamedTuple):
    """A question. ``id``: the asking node's. ``target``: the `target` or `info_hash`, 20 bytes, where there is one.

    ``want``: WANT4, WANT6, both or 0 for nothing said. ``read_only`` (BEP 43): it answers no questions itself.
    """

    transaction: bytes
    method: bytes
    id: bytes
    target: bytes | None = None
    want: int = 0
    token: bytes = b""
    port: int = 0
    implied_port: bool = False
    seed: bool = False
    noseed: bool = False
    scrape: bool = False
    read_only: bool = False


class Reply(NamedTuple):
    """An answer. ``nodes``, ``nodes6``: compact, 26 and 38 bytes each; None where absent.

    ``values``: compact peers, 6 or 18 bytes each. ``seeds``, ``peers``: the Bloom filters BFsd and BFpe. ``interval``,
    ``num``, ``samples`` (20 bytes each): of BEP 51. ``ip``: compact, whom the answer went to (BEP 42); empty: not said.
    """

    transaction: bytes
    id: bytes
    ip: bytes = b""
    nodes: bytes | None = None
    nodes6: bytes | None = None
    token: bytes = b""
    values: tuple[bytes, ...] = ()
    seeds: bytes | None = None
    peers: bytes | None = None
    interval: int | None = None
    num: int | None = None
    samples: bytes | None = None


class Failure(NamedTuple):
    """An error instead of an answer."""

    transaction: bytes
    code: int
    text: bytes
    ip: bytes = b""


Message: TypeAlias = Query | Reply | Failure


def decode_message(data: bytes) -> Message:
    """The message that ``data`` is. BencodeError, PeerError."""
    value = decode(
        data,
        depth=limits.DHT_DEPTH,
        tokens=limits.DHT_TOKENS,
        size=limits.DHT_PACKET,
        weight=limits.DHT_TOKEN_WEIGHT,
    )
    if not isinstance(value, dict):
        raise PeerError("not a dictionary")
    transaction = value.get(b"t")
    if not isinstance(transaction, bytes) or not 0 < len(transaction) <= limits.DHT_TRANSACTION:
        raise PeerError("bad transaction id")
    kind = value.get(b"y")
    if kind == b"q":
        return _query(value, transaction)
    if kind == b"r":
        return _reply(value, transaction)
    if kind == b"e":
        return _failure(value, transaction)
    raise PeerError("neither query nor answer nor error")


def encode_message(message: Message) -> bytes:
    """The datagram of ``message``."""
    if isinstance(message, Reply):
        return _encode_reply(message)
    if isinstance(message, Query):
        return _encode_query(message)
    ip = b"2:ip%d:%b" % (len(message.ip), message.ip) if message.ip else b""
    return b"d1:eli%de%d:%be%b1:t%d:%b%b1:y1:ee" % (
        message.code,
        len(message.text),
        message.text,
        ip,
        len(message.transaction),
        message.transaction,
        _VERSION,
    )


# --- decoding --------------------------------------------------------------------------------------------------


def _query(value: dict[bytes, Value], transaction: bytes) -> Query:
    method = value.get(b"q")
    arguments = value.get(b"a")
    if not isinstance(method, bytes) or not isinstance(arguments, dict):
        raise PeerError("a query without method or arguments")
    node_id = arguments.get(b"id")
    if not isinstance(node_id, bytes) or len(node_id) != ID:
        raise PeerError("bad id")
    read_only = value.get(b"ro") == 1
    if method == PING:
        return Query(transaction, method, node_id, read_only=read_only)
    target = arguments.get(b"info_hash") if method in _HASH_METHODS else arguments.get(b"target")
    if target is None and method not in _NEEDS_TARGET:
        target = arguments.get(b"info_hash")
    if target is None:
        if method in _NEEDS_TARGET:
            raise PeerError("no target")
    elif not isinstance(target, bytes) or len(target) != ID:
        raise PeerError("bad target")
    want = _want(arguments[b"want"]) if b"want" in arguments else 0
    if method == GET_PEERS:
        return Query(
            transaction,
            method,
            node_id,
            target,
            want,
            noseed=_flag(arguments, b"noseed"),
            scrape=_flag(arguments, b"scrape"),
            read_only=read_only,
        )
    if method != ANNOUNCE_PEER:
        return Query(transaction, method, node_id, target, want, read_only=read_only)
    token, port = arguments.get(b"token"), arguments.get(b"port", 0)
    if not isinstance(token, bytes) or len(token) > limits.DHT_TOKEN or not isinstance(port, int):
        raise PeerError("bad token or port")
    implied = _flag(arguments, b"implied_port")
    seed = _flag(arguments, b"seed")
    return Query(transaction, method, node_id, target, want, token, port, implied, seed, read_only=read_only)


def _want(value: Value) -> int:
    if not isinstance(value, list):
        raise PeerError("bad want")
    return (WANT4 if b"n4" in value else 0) | (WANT6 if b"n6" in value else 0)


def _flag(arguments: dict[bytes, Value], key: bytes) -> bool:
    value = arguments.get(key, 0)
    if not isinstance(value, int):
        raise PeerError(f"bad {key.decode()}")
    return value != 0


def _reply(value: dict[bytes, Value], transaction: bytes) -> Reply:
    answer = value.get(b"r")
    if not isinstance(answer, dict):
        raise PeerError("an answer without content")
    node_id = answer.get(b"id")
    if not isinstance(node_id, bytes) or len(node_id) != ID:
        raise PeerError("bad id")
    token = answer.get(b"token", b"")
    if not isinstance(token, bytes) or len(token) > limits.DHT_TOKEN:
        raise PeerError("bad token")
    return Reply(
        transaction,
        node_id,
        _seen_address(value),
        _records(answer, b"nodes", NODE4),
        _records(answer, b"nodes6", NODE6),
        token,
        _values(answer[b"values"]) if b"values" in answer else (),
        _filter(answer, b"BFsd"),
        _filter(answer, b"BFpe"),
        _count(answer, b"interval"),
        _count(answer, b"num"),
        _records(answer, b"samples", ID),
    )


def _seen_address(value: dict[bytes, Value]) -> bytes:
    """Our address as the other side says to see it. Some send it without the port, or nonsense: that is no address."""
    ip = value.get(b"ip")
    return ip if isinstance(ip, bytes) and len(ip) in (6, 18) else b""


def _records(answer: dict[bytes, Value], key: bytes, size: int) -> bytes | None:
    value = answer.get(key)
    if value is None:
        return None
    if not isinstance(value, bytes) or len(value) % size:
        raise PeerError(f"bad {key.decode()}")
    return value


def _values(value: Value) -> tuple[bytes, ...]:
    if not isinstance(value, list):
        raise PeerError("bad values")
    peers = []
    for one in value:
        if not isinstance(one, bytes) or len(one) not in (6, 18):
            raise PeerError("bad values")
        peers.append(one)
    return tuple(peers)


def _filter(answer: dict[bytes, Value], key: bytes) -> bytes | None:
    value = answer.get(key)
    if value is None:
        return None
    if not isinstance(value, bytes) or len(value) != FILTER:
        raise PeerError(f"bad {key.decode()}")
    return value


def _count(answer: dict[bytes, Value], key: bytes) -> int | None:
    value = answer.get(key)
    if value is not None and not (isinstance(value, int) and value >= 0):
        raise PeerError(f"bad {key.decode()}")
    return value


def _failure(value: dict[bytes, Value], transaction: bytes) -> Failure:
    error = value.get(b"e")
    if not isinstance(error, list) or len(error) < 2:
        raise PeerError("an error without content")
    code, text = error[0], error[1]
    if not isinstance(code, int) or not isinstance(text, bytes):
        raise PeerError("bad error")
    return Failure(transaction, code, text[: limits.DHT_ERROR_TEXT], _seen_address(value))


# --- encoding --------------------------------------------------------------------------------------------------


def _encode_query(query: Query) -> bytes:
    parts = [b"d1:ad2:id20:", query.id]
    if query.implied_port:
        parts.append(b"12:implied_porti1e")
    if query.target is not None and query.method in _HASH_METHODS:
        parts += [b"9:info_hash20:", query.target]
    if query.noseed:
        parts.append(b"6:noseedi1e")
    if query.method == ANNOUNCE_PEER:
        parts.append(b"4:porti%de" % query.port)
    if query.scrape:
        parts.append(b"6:scrapei1e")
    if query.seed:
        parts.append(b"4:seedi1e")
    if query.target is not None and query.method not in _HASH_METHODS:
        parts += [b"6:target20:", query.target]
    if query.token:
        parts.append(b"5:token%d:%b" % (len(query.token), query.token))
    parts.append(_WANTS[query.want])
    parts.append(b"e1:q%d:%b" % (len(query.method), query.method))
    if query.read_only:
        parts.append(b"2:roi1e")
    parts.append(b"1:t%d:%b%b1:y1:qe" % (len(query.transaction), query.transaction, _VERSION))
    return b"".join(parts)


def _encode_reply(reply: Reply) -> bytes:
    parts = [b"d2:ip%d:%b1:rd" % (len(reply.ip), reply.ip) if reply.ip else b"d1:rd"]
    if reply.peers is not None:
        parts += [b"4:BFpe256:", reply.peers]
    if reply.seeds is not None:
        parts += [b"4:BFsd256:", reply.seeds]
    parts += [b"2:id20:", reply.id]
    if reply.interval is not None:
        parts.append(b"8:intervali%de" % reply.interval)
    if reply.nodes is not None:
        parts.append(b"5:nodes%d:%b" % (len(reply.nodes), reply.nodes))
    if reply.nodes6 is not None:
        parts.append(b"6:nodes6%d:%b" % (len(reply.nodes6), reply.nodes6))
    if reply.num is not None:
        parts.append(b"3:numi%de" % reply.num)
    if reply.samples is not None:
        parts.append(b"7:samples%d:%b" % (len(reply.samples), reply.samples))
    if reply.token:
        parts.append(b"5:token%d:%b" % (len(reply.token), reply.token))
    if reply.values:
        length = b"%d:" % len(reply.values[0])  # they are all of one family
        parts += [b"6:valuesl", length, length.join(reply.values), b"e"]
    parts.append(b"e1:t%d:%b%b1:y1:re" % (len(reply.transaction), reply.transaction, _VERSION))
    return b"".join(parts)
