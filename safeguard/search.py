"""Places and markers in, the files that still hold a marker out: raw, and inside column files.

ClickHouse compresses columns, so looking at raw bytes proves nothing. A column file is a chain of
blocks: 16 bytes of checksum, then method (0x82 LZ4, 0x90 ZSTD, 0x02 none), compressed size with
this header of 9 bytes, size; the data follows. Files that are no such chain are searched raw.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa

_CHECKSUM: Final = 16
_HEADER: Final = struct.Struct("<BII")
_CODECS: Final = {0x82: pa.Codec("lz4_raw"), 0x90: pa.Codec("zstd")}
_PLAIN: Final = 0x02
_MULTIPLE: Final = 0x91  # a codec before the general one; the last of the chain is outermost
_MAX_BLOCK: Final = 1 << 26
_OVERLAP: Final = 1 << 10


def find(places: Iterable[Path], markers: Iterable[bytes]) -> dict[bytes, list[Path]]:
    """Files that hold each marker: those given, and those below folders that are given.

    A file or folder that goes meanwhile holds nothing.
    """
    wanted = list(markers)
    found: dict[bytes, list[Path]] = {marker: [] for marker in wanted}
    for path in below(places):
        if path.is_symlink() or not path.is_file():
            continue
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        texts = [data, *decompressed(data)]
        for marker in wanted:
            if any(marker in text for text in texts):
                found[marker].append(path)
    return found


def below(places: Iterable[Path]) -> Iterator[Path]:
    """Files given, and all below folders that are given, in order; not those that go meanwhile."""
    for place in places:
        if place.is_file():
            yield place
        else:  # not Path.rglob, which raises where a folder goes before it is looked into
            walked = os.walk(place)
            yield from sorted(Path(folder, name) for folder, _, names in walked for name in names)


def decompressed(data: bytes) -> Iterator[bytes]:
    """The blocks of a column file, each with the end of the one before it; nothing for others."""
    tail = b""
    for block in _blocks(data):
        yield tail + block
        tail = block[-_OVERLAP:]


def _blocks(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + _CHECKSUM + _HEADER.size <= len(data):
        packed = data[at + _CHECKSUM :]
        method, size, plain = _HEADER.unpack_from(packed)
        known = method in _CODECS or method in (_PLAIN, _MULTIPLE)
        if not known or not _HEADER.size < size <= len(packed) or plain > _MAX_BLOCK:
            return
        yield _unpack(packed[:size])
        at += _CHECKSUM + size


def _unpack(packed: bytes) -> bytes:
    method, _, plain = _HEADER.unpack_from(packed)
    body = packed[_HEADER.size :]
    if method in _CODECS:
        return _CODECS[method].decompress(body, plain, asbytes=True)
    if method == _MULTIPLE:  # count of codecs, their methods, then what the last of them wrote
        return _unpack(body[1 + body[0] :])
    return body
