"""Features of an interface as `ethtool -k` shows them, by ioctl (linux/ethtool.h).

Asked through a socket of the caller's network namespace; names are the kernel's own.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct
from typing import Final

_SIOCETHTOOL: Final = 0x8946
_GDRVINFO: Final = 0x03
_GSTRINGS: Final = 0x1B
_GSSET_INFO: Final = 0x37
_GFEATURES: Final = 0x3A
_STRINGS_OF_FEATURES: Final = 4
_NAME_BYTES: Final = 32
_MAX_FEATURES: Final = 1_024
"""Linux 6.18 has 63 names; the kernel says how many, and nobody has a thousand."""
_DRIVER_INFO_BYTES: Final = 196


def features(asker: socket.socket, interface: str) -> frozenset[str]:
    """Names of the features that are on; empty where the driver has none. Raises OSError for an
    interface that is not there."""
    count = _count(asker, interface)
    if not count:
        return frozenset()
    head = struct.pack("=III", _GSTRINGS, _STRINGS_OF_FEATURES, count)
    names = _ask(asker, interface, head + bytes(count * _NAME_BYTES))[len(head) :]
    blocks = (count + 31) // 32
    answer = _ask(asker, interface, struct.pack("=II", _GFEATURES, blocks) + bytes(blocks * 16))
    on = set()
    for at in range(count):
        (active,) = struct.unpack_from("=I", answer, 8 + at // 32 * 16 + 8)
        if active >> at % 32 & 1:
            raw = names[at * _NAME_BYTES : (at + 1) * _NAME_BYTES]
            on.add(raw.partition(b"\0")[0].decode("ascii", "replace"))
    return frozenset(on)


def driver(asker: socket.socket, interface: str) -> str:
    """Name of the driver; empty where there is none to ask."""
    try:
        answer = _ask(asker, interface, struct.pack("=I", _GDRVINFO) + bytes(_DRIVER_INFO_BYTES))
    except OSError:
        return ""
    return answer[4:36].partition(b"\0")[0].decode("ascii", "replace")


def _count(asker: socket.socket, interface: str) -> int:
    """How many features have names, at most _MAX_FEATURES."""
    request = struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _STRINGS_OF_FEATURES, 0)
    try:
        answer = _ask(asker, interface, request)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return 0
        raise
    mask, count = struct.unpack_from("=QI", answer, 8)
    return min(count, _MAX_FEATURES) if mask else 0


def _ask(asker: socket.socket, interface: str, request: bytes) -> bytes:
    """The command's buffer as the kernel left it."""
    buffer = ctypes.create_string_buffer(request, len(request))
    fcntl.ioctl(
        asker.fileno(),
        _SIOCETHTOOL,
        struct.pack("16sP8x", interface.encode(), ctypes.addressof(buffer)),
    )
    return buffer.raw
