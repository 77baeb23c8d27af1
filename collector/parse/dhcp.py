"""DHCPv4: turns one UDP payload into a `Lease`.

RFC 2131 (messages), RFC 2132 (options), RFC 3396 (long options), RFC 3046 and 3993 (relay agent).
Host names, vendor data and boot files are stepped over.
"""

from __future__ import annotations

import struct
from typing import Final

from collector.parse.lease import Grant, Lease, name
from collector.parse.reader import ParseError
from collector.wire.addr import MAPPED

KINDS: Final = (
    *("", "DISCOVER", "OFFER", "REQUEST", "DECLINE", "ACK", "NAK", "RELEASE", "INFORM"),
)
"""Values of option 53 (RFC 2132 section 9.6)."""
FROM_SERVER: Final = frozenset(("OFFER", "ACK", "NAK"))

_HEADER: Final = struct.Struct(">BBBBIHH4s4s4s4s16s")
_HEADER_BYTES: Final = 236
_COOKIE: Final = b"\x63\x82\x53\x63"
_REPLY: Final = 2
_ETHERNET: Final = 1
_NO_ADDRESS: Final = bytes(4)

_PAD, _END = 0, 255
_REQUESTED, _LEASE_TIME, _KIND, _SERVER, _CLIENT_ID, _RELAY = 50, 51, 53, 54, 61, 82
_KEPT: Final = frozenset((_REQUESTED, _LEASE_TIME, _KIND, _SERVER, _CLIENT_ID, _RELAY))
_CIRCUIT, _REMOTE, _SUBSCRIBER = 1, 2, 6


def parse(ts_ns: int, data: bytes) -> Lease | None:
    """The message of a datagram; None for BOOTP, which has no leases.

    Raises ParseError for what is cut short or contradicts itself.
    """
    if len(data) < _HEADER_BYTES + len(_COOKIE):
        raise ParseError("truncated")
    head = _HEADER.unpack_from(data)
    op, htype, hlen, _, xid, _, _, held, yours, _, _, hardware = head
    if data[_HEADER_BYTES : _HEADER_BYTES + 4] != _COOKIE:
        return None
    options = _options(data, _HEADER_BYTES + 4)
    kind = options.get(_KIND, b"")
    if not kind:
        return None
    if len(kind) != 1 or not 0 < kind[0] < len(KINDS):
        raise ParseError("dhcp-type")
    word = KINDS[kind[0]]
    if (op == _REPLY) != (word in FROM_SERVER):
        raise ParseError("dhcp-direction")
    if hlen > len(hardware):
        raise ParseError("dhcp-hlen")
    mac = hardware[:6].hex() if htype == _ETHERNET and hlen == 6 and any(hardware[:6]) else ""
    client = mac or options.get(_CLIENT_ID, b"").hex() or hardware[:hlen].hex()
    asked = held if held != _NO_ADDRESS else options.get(_REQUESTED, b"")
    return Lease(
        ts_ns=ts_ns,
        family=4,
        kind=word,
        xid=xid,
        client=client,
        mac=mac,
        names=_names(options.get(_RELAY, b"")),
        addresses=_granted(word, yours, options.get(_LEASE_TIME, b"")),
        requested=MAPPED + asked if len(asked) == 4 and op != _REPLY else None,
        server=".".join(map(str, options.get(_SERVER, b""))),
    )


def _granted(kind: str, yours: bytes, lease: bytes) -> tuple[Grant, ...]:
    """What an answer gives. One to an INFORM has no lease time (RFC 2131 section 4.3.5)."""
    if kind not in ("ACK", "OFFER") or yours == _NO_ADDRESS or len(lease) != 4:
        return ()
    return ((MAPPED + yours, 128, int.from_bytes(lease, "big")),)


def _options(data: bytes, at: int) -> dict[int, bytes]:
    """The options that are kept; one that comes in parts is one (RFC 3396 section 7).

    Overloaded fields (option 52) are not read: what is wanted here no server puts there.
    """
    found: dict[int, bytes] = {}
    while at < len(data):
        kind = data[at]
        at += 1
        if kind == _PAD:
            continue
        if kind == _END:
            return found
        if at >= len(data) or at + 1 + data[at] > len(data):
            raise ParseError("truncated")
        value = data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
        if kind in _KEPT:
            found[kind] = found.get(kind, b"") + value
    return found  # without an End: some relays cut it off


def _names(relay: bytes) -> tuple[str, ...]:
    """Circuit, remote and subscriber id of a relay agent's option; the rest is stepped over.

    A sub-option that reaches past its option rejects the option alone.
    """
    found: dict[int, str] = {}
    at = 0
    while at + 2 <= len(relay):
        kind, size = relay[at], relay[at + 1]
        if at + 2 + size > len(relay):
            return ()
        if size:
            found.setdefault(kind, name(relay[at + 2 : at + 2 + size]))
        at += 2 + size
    return tuple(found[kind] for kind in (_CIRCUIT, _REMOTE, _SUBSCRIBER) if kind in found)
