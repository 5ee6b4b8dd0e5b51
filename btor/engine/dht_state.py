"""The table of the DHT over restarts: ids and nodes in one small file of the state directory."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from btor import bencode, limits
from btor.dht.node import Node
from btor.errors import BencodeError, StorageError
from btor.storage.state import private_folder, read_private, replace_private
from btor.wire.address import Address, unpack_compact
from btor.wire.krpc import ID, NODE4, NODE6

_log = logging.getLogger(__name__)

NAME: Final = "dht"
SIZE: Final = 64 * limits.KIB  # of the file: twice what we write


@dataclass(slots=True)
class DhtState:
    """What is kept, by whether it is of IPv6: our ids, and the nodes of our tables as `nodes` holds them."""

    ids: dict[bool, bytes] = field(default_factory=dict)
    nodes: dict[bool, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, nodes: Sequence[Node]) -> DhtState:
        """What the first node of each family leaves."""
        state = cls()
        for node in reversed(nodes):
            state.ids[node.ipv6] = node.id
            state.nodes[node.ipv6] = b"".join(contact.compact for contact in node.saved())
        return state

    @classmethod
    def read(cls, state_dir: Path) -> DhtState:
        """What the last run left. A file that cannot be used is as good as none. Blocks."""
        state = cls()
        try:
            data = read_private(_path(state_dir), SIZE)
            found = {} if data is None else bencode.decode(data, depth=2, tokens=100)
        except (StorageError, BencodeError) as error:
            _log.info("the DHT's nodes of the last time cannot be read: %s", error)
            return state
        if isinstance(found, dict):
            for ipv6, id_key, nodes_key in ((False, b"id", b"nodes"), (True, b"id6", b"nodes6")):
                node_id, nodes = found.get(id_key), found.get(nodes_key)
                if isinstance(node_id, bytes) and len(node_id) == ID:
                    state.ids[ipv6] = node_id
                if isinstance(nodes, bytes) and len(nodes) % (NODE6 if ipv6 else NODE4) == 0:
                    state.nodes[ipv6] = nodes
        return state

    def addresses(self, ipv6: bool) -> list[Address]:
        """Where the nodes of a family were."""
        size = NODE6 if ipv6 else NODE4
        nodes = self.nodes.get(ipv6, b"")
        compact = b"".join(nodes[at + ID : at + size] for at in range(0, len(nodes), size))
        return unpack_compact(compact, size - ID)[: limits.DHT_SAVED_NODES]

    def write(self, state_dir: Path) -> None:
        """Keep it. What fails is said in the log: it is no reason to stop. Blocks."""
        record: dict[bytes, bencode.Value] = {}
        for ipv6, ending in ((False, b""), (True, b"6")):
            if ipv6 in self.ids:
                record[b"id" + ending] = self.ids[ipv6]
                record[b"nodes" + ending] = self.nodes[ipv6]
        try:
            path = _path(state_dir)
            replace_private(path, bencode.encode(record), previous=path + ".old", keep_previous=False)
        except StorageError as error:
            _log.warning("the DHT's nodes are not kept: %s", error)


def _path(state_dir: Path) -> str:
    return os.path.join(private_folder(state_dir), NAME)
