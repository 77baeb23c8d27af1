"""Link layer: turns a captured frame into the IP packet inside its encapsulations."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from collector.parse.link_layers import IPV4 as IPV4
from collector.parse.link_layers import IPV6 as IPV6
from collector.parse.link_layers import by_version, layers
from collector.parse.link_rare import unwrap_rare
from collector.parse.reader import ParseError

LINK_ETHERNET: Final = 1
LINK_RAW: Final = 101
"""Link types as pcap numbers them: Ethernet frames, and packets that begin with their IP header.
Live capture gives only these; the others are `link_rare`'s."""

_U16: Final = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class Frame:
    """One captured frame.

    `ts_ns` is the capture time, `interface` the kernel's interface index, and `outgoing` is true
    where the router itself sent the frame (PACKET_OUTGOING).
    """

    ts_ns: int
    data: bytes
    linktype: int
    interface: int
    outgoing: bool


def unwrap(frame_data: bytes, linktype: int) -> tuple[int, bytes] | None:
    """The ethertype (IPV4 or IPV6) and the IP packet of a frame; None where it carries no IP.

    The packet may still have Ethernet padding after it. Raises ParseError for a frame that is cut
    short, nests too deeply, or has a link type not known here.
    """
    if linktype == LINK_ETHERNET:
        if len(frame_data) < 14:
            raise ParseError("truncated")
        kind: int = _U16.unpack_from(frame_data, 12)[0]
        if kind in (IPV4, IPV6):
            return kind, frame_data[14:]
        return layers(kind, frame_data, 14)
    if linktype == LINK_RAW:
        return by_version(frame_data, 0)
    return unwrap_rare(frame_data, linktype)
