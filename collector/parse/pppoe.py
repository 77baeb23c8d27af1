"""PPPoE: turns a frame of discovery, or of a session's authentication and address, into `Ppp`.

RFC 2516 (discovery), RFC 4679 section 3.3 (the line's name in a vendor tag), RFC 1334 and 1994 (who
authenticates), RFC 1332 (the address). A password, challenge or response is stepped over and never
copied; all other PPP traffic is left to `collector.parse.link`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from collector.parse.lease import name
from collector.parse.link import LINK_ETHERNET
from collector.parse.plain import Plain
from collector.parse.reader import ParseError
from collector.wire.addr import MAPPED

DISCOVERY: Final = 0x8863
SESSION: Final = 0x8864
_VLANS: Final = (0x8100, 0x88A8, 0x9100)
_MAX_TAGS: Final = 4

KINDS: Final = {0x09: "PADI", 0x07: "PADO", 0x19: "PADR", 0x65: "PADS", 0xA7: "PADT"}
FROM_SERVER: Final = frozenset(("PADO", "PADS", "ADDRESS"))
"""What only an access concentrator sends; PADT may come from either end."""

PPP_IPCP, PPP_PAP, PPP_CHAP = 0x8021, 0xC023, 0xC223
_VENDOR: Final = 0x0105
_BROADBAND_FORUM: Final = 3561
_ERRORS: Final = frozenset((0x0201, 0x0202, 0x0203))
_REQUEST, _ACK, _CHAP_RESPONSE, _IP_ADDRESS = 1, 2, 2, 3

_HEADER: Final = struct.Struct(">BBHH")
_PAIR: Final = struct.Struct(">HH")
_CONTROL: Final = struct.Struct(">BBH")


@dataclass(frozen=True, slots=True)
class Ppp(Plain):
    """One step of a PPPoE session.

    kind: a discovery code ("PADS"), "USER" for a name that a host authenticates by, or "ADDRESS"
    for the IPv4 address that the concentrator acknowledged. sender, receiver: hardware addresses as
    twelve hex digits. names: what the access network calls the line, as in `Lease`; then VLANs.
    """

    ts_ns: int
    kind: str
    sender: str
    receiver: str
    session: int
    user_name: str = ""
    address: bytes | None = None
    names: tuple[str, ...] = ()
    failed: bool = False
    subscriber: str = ""


def parse(ts_ns: int, frame: bytes, linktype: int) -> Ppp | None:
    """What a frame says of a PPPoE session; None for every other frame.

    Raises ParseError for discovery, or control packets of PPP, that are cut short.
    """
    if linktype != LINK_ETHERNET or len(frame) < 20:
        return None
    at = 12
    vlans: list[str] = []
    (kind,) = struct.unpack_from(">H", frame, at)
    while kind in _VLANS and len(vlans) < _MAX_TAGS and len(frame) >= at + 12:
        tag, kind = _PAIR.unpack_from(frame, at + 2)
        vlans.append(str(tag & 0x0FFF))
        at += 4
    if kind not in (DISCOVERY, SESSION):
        return None
    at += 2
    version, code, session, length = _HEADER.unpack_from(frame, at)
    at += _HEADER.size
    if version != 0x11 or at + length > len(frame):
        raise ParseError("pppoe")
    receiver, sender = frame[:6].hex(), frame[6:12].hex()
    place = ("vlan:" + ".".join(vlans),) if vlans else ()
    if kind == SESSION:
        return _control(ts_ns, sender, receiver, session, place, frame[at : at + length])
    if code not in KINDS:
        return None
    names, failed = _tags(frame[at : at + length])
    made = (ts_ns, KINDS[code], sender, receiver, session)
    return Ppp(*made, names=names + place, failed=failed)


def _tags(data: bytes) -> tuple[tuple[str, ...], bool]:
    """The line's names in the tags of a discovery packet, and whether one tells of an error."""
    names: dict[int, str] = {}
    failed = False
    at = 0
    while at < len(data):
        if len(data) - at < _PAIR.size:
            raise ParseError("truncated")
        kind, size = _PAIR.unpack_from(data, at)
        at += _PAIR.size
        if at + size > len(data):
            raise ParseError("truncated")
        if kind == 0:  # End-Of-List
            break
        value = data[at : at + size]
        failed = failed or kind in _ERRORS
        if kind == _VENDOR and value[:4] == _BROADBAND_FORUM.to_bytes(4, "big"):
            names |= _line(value[4:])
        at += size
    return tuple(names[sub] for sub in (1, 2) if sub in names), failed


def _line(data: bytes) -> dict[int, str]:
    """Agent-Circuit-Id (1) and Agent-Remote-Id (2) of the Broadband Forum's vendor tag."""
    found: dict[int, str] = {}
    at = 0
    while at + 2 <= len(data) and at + 2 + data[at + 1] <= len(data):
        if data[at] in (1, 2) and data[at + 1]:
            found[data[at]] = name(data[at + 2 : at + 2 + data[at + 1]])
        at += 2 + data[at + 1]
    return found


def _control(
    ts_ns: int, sender: str, receiver: str, session: int, place: tuple[str, ...], data: bytes
) -> Ppp | None:
    """Who a host says it is, or which address it was acknowledged."""
    if len(data) < 2:
        raise ParseError("truncated")
    protocol = int.from_bytes(data[:2], "big")
    if protocol not in (PPP_IPCP, PPP_PAP, PPP_CHAP):
        return None
    if len(data) < 2 + _CONTROL.size:
        raise ParseError("truncated")
    code, _, length = _CONTROL.unpack_from(data, 2)
    end = 2 + length
    if length < _CONTROL.size or end > len(data):
        raise ParseError("truncated")
    made = (sender, receiver, session)
    at = 2 + _CONTROL.size
    if protocol == PPP_IPCP and code == _ACK:
        address = _acknowledged(data[at:end])
        if address is not None:
            return Ppp(ts_ns, "ADDRESS", *made, address=address, names=place)
    elif (protocol == PPP_PAP and code == _REQUEST) or (
        protocol == PPP_CHAP and code == _CHAP_RESPONSE
    ):
        user = _user(data, at, end, protocol)
        if user:
            return Ppp(ts_ns, "USER", *made, user_name=user, names=place)
    return None


def _user(data: bytes, at: int, end: int, protocol: int) -> str:
    """Peer-ID of PAP (RFC 1334 section 2.2.1), which comes first; Name of CHAP (RFC 1994 section
    4.1), which comes after the value."""
    if at >= end or at + 1 + data[at] > end:
        raise ParseError("truncated")
    size = data[at]
    value = data[at + 1 : at + 1 + size] if protocol == PPP_PAP else data[at + 1 + size : end]
    return value.decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def _acknowledged(options: bytes) -> bytes | None:
    """IP-Address of a Configure-Ack (RFC 1332 section 3.3), which is its receiver's."""
    at = 0
    while at + 2 <= len(options):
        kind, size = options[at], options[at + 1]
        if size < 2 or at + size > len(options):
            raise ParseError("truncated")
        if kind == _IP_ADDRESS and size == 6 and any(options[at + 2 : at + 6]):
            return MAPPED + options[at + 2 : at + 6]
        at += size
    return None
