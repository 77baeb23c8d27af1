"""Tunnels: turns a packet that carries another IP packet into the one inside.

IPv4 and IPv6 in IP (RFC 2003, RFC 2473, RFC 4213) and VXLAN (RFC 7348). Who may be believed about
what is inside is for the caller: the inner source is whatever the sender of the outer one says.
"""

from __future__ import annotations

import struct
from typing import Final

from collector.parse import ip, link
from collector.parse.ip import UDP, Fragment, Packet
from collector.parse.link import IPV4, IPV6, LINK_ETHERNET
from collector.parse.reader import ParseError

MAX_DEPTH: Final = 2
"""Tunnels within tunnels that are opened: overlay and overlay; more is a loop or an attack."""
_INSIDE_IP: Final = {4: IPV4, 41: IPV6}
_VXLAN: Final = struct.Struct(">B3xI")
_VALID_VNI: Final = 0x08


def inner_ip(packet: Packet) -> Packet | Fragment | None:
    """The packet inside an IP-in-IP packet; None for any other. Raises ParseError."""
    kind = _INSIDE_IP.get(packet.proto)
    return ip.parse(packet.ts_ns, kind, packet.payload) if kind else None


def inner_vxlan(packet: Packet, ports: tuple[int, ...]) -> Packet | Fragment | None:
    """The packet inside a VXLAN datagram to one of `ports`; None for any other, and for frames
    without IP. Raises ParseError."""
    if packet.proto != UDP or packet.dport not in ports:
        return None
    if len(packet.payload) < _VXLAN.size:
        raise ParseError("truncated")
    if not _VXLAN.unpack_from(packet.payload)[0] & _VALID_VNI:
        raise ParseError("vxlan")
    found = link.unwrap(packet.payload[_VXLAN.size :], LINK_ETHERNET)
    return ip.parse(packet.ts_ns, *found) if found else None
