"""Where the links of a torrent (BEP 47) lead. btor follows none; this only names the targets that are inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from btor.errors import MetainfoError
from btor.limits import FOLDER_COUNT, LINK_CHAIN, LINK_STEPS
from btor.metainfo.paths import safe_element
from btor.metainfo.raw_file import RawFile

_Node: TypeAlias = "dict[bytes, _Node | int]"  # a folder; the numbers are indexes of files and links


class Links:
    """Resolves the links among ``files``, whose safe paths are ``paths`` (None for padding), below the name ``root``.

    A target is compared as it is written, so what was unsafe in it and in the path of its file matters not. It counts
    from the torrent's folder, as BEP 47 has it, or else from the folder of the link, as some write it.
    MetainfoError: more than 300,000 folders.
    """

    def __init__(self, root: str, files: Sequence[RawFile], paths: Sequence[tuple[str, ...] | None]) -> None:
        self._root = root
        self._files = files
        self._paths = paths
        self._tree: _Node = {}
        self._folders = 0
        self._steps = 0
        for index, path in enumerate(paths):
            if path is not None:
                self._add(files[index].path, index)

    def target(self, link: int) -> tuple[str, ...]:
        """The safe path that ``link`` points to, () when that is neither a file nor a folder of the torrent."""
        for target in self._readings(link):
            found = self._walk(target, LINK_CHAIN)
            if found:
                return found
        return ()

    def _add(self, path: tuple[bytes, ...], index: int) -> None:
        node = self._tree
        for element in path[:-1]:
            child = node.get(element)
            if not isinstance(child, dict):
                child = node[element] = {}
                self._folders += 1
            node = child
        node.setdefault(path[-1], index)
        if self._folders > FOLDER_COUNT:
            raise MetainfoError("path", f"more than {FOLDER_COUNT} folders")

    def _readings(self, link: int) -> tuple[tuple[bytes, ...], ...]:
        raw = self._files[link]
        return () if raw.target is None else (raw.target, raw.path[:-1] + raw.target)

    def _walk(self, path: tuple[bytes, ...], chain: int) -> tuple[str, ...]:
        """The safe path of ``path``, which may lead through ``chain`` links; () when it leads nowhere."""
        node = self._tree
        for depth, element in enumerate(path, 1):
            self._steps += 1
            child = node.get(element)
            if child is None or self._steps > LINK_STEPS:
                return ()
            if isinstance(child, dict):
                node = child
                continue
            here = self._paths[child] or ()
            rest = path[depth:]
            if not rest:
                return here
            for reading in self._readings(child) if chain else ():
                found = self._walk(reading + rest, chain - 1)
                if found:
                    return here + found[-len(rest) :]
            return ()
        return (self._root, *map(safe_element, path))
