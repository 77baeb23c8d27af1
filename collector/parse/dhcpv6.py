"""DHCPv6: turns one UDP payload into a `Lease`, out of the relay messages around it.

RFC 8415 (messages, IA_NA, IA_PD, relays, Interface-Id), RFC 4649 (Remote-Id), RFC 4580
(Subscriber-Id).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from collector.parse.lease import MAX_GRANTS, Grant, Lease, name
from collector.parse.reader import ParseError
from collector.wire.addr import MAPPED, network

KINDS: Final = (
    *("", "SOLICIT", "ADVERTISE", "REQUEST", "CONFIRM", "RENEW", "REBIND", "REPLY", "RELEASE"),
    *("DECLINE", "RECONFIGURE", "INFORMATION-REQUEST"),
)
"""Message types (RFC 8415 section 7.3); those of other procedures are not read."""
FROM_SERVER: Final = frozenset(("ADVERTISE", "REPLY", "RECONFIGURE"))

_RELAY_FORW, _RELAY_REPL = 12, 13
MAX_HOPS: Final = 8
"""HOP_COUNT_LIMIT (RFC 8415 section 7.6)."""
_CLIENT_ID, _SERVER_ID, _IA_NA, _IA_ADDRESS, _RELAY_MESSAGE = 1, 2, 3, 5, 9
_INTERFACE, _IA_PD, _IA_PREFIX, _REMOTE, _SUBSCRIBER = 18, 25, 26, 37, 38
_STATUS: Final = 13

_OPTION: Final = struct.Struct(">HH")
_RELAY: Final = struct.Struct(">BB16s16s")
_ADDRESS: Final = struct.Struct(">16sII")
_PREFIX: Final = struct.Struct(">IIB16s")
_IA: Final = struct.Struct(">III")
_MAX_DUID: Final = 130
"""128 bytes after its type (RFC 8415 section 11.1)."""


def parse(ts_ns: int, data: bytes) -> Lease | None:
    """The client's or server's message in a datagram; None for other types.

    Raises ParseError for what is cut short, nests too deeply or contradicts itself.
    """
    names: dict[int, str] = {}
    peer = b""
    for _ in range(MAX_HOPS + 1):
        if not data:
            raise ParseError("truncated")
        if data[0] not in (_RELAY_FORW, _RELAY_REPL):
            lease = _message(ts_ns, data)
            if lease is None:
                return None
            ordered = tuple(names[k] for k in (_INTERFACE, _REMOTE, _SUBSCRIBER) if k in names)
            return replace(lease, names=ordered, mac=_mac_of_address(peer) or lease.mac)
        if len(data) < _RELAY.size:
            raise ParseError("truncated")
        _, _, _, peer = _RELAY.unpack_from(data)
        inner = b""
        for kind, value in _options(data, _RELAY.size):
            if kind == _RELAY_MESSAGE:
                inner = value
            elif kind in (_INTERFACE, _SUBSCRIBER) and value:
                names[kind] = name(value)  # of the relay nearest to the client, which is innermost
            elif kind == _REMOTE and len(value) > 4:
                names[kind] = name(value[4:])  # after the enterprise number
        data = inner
    raise ParseError("nesting")


def _message(ts_ns: int, data: bytes) -> Lease | None:
    """A message that is no relay's."""
    if len(data) < 4:
        raise ParseError("truncated")
    if not 0 < data[0] < len(KINDS):
        return None
    client = server = b""
    addresses: list[Grant] = []
    prefixes: list[Grant] = []
    for kind, value in _options(data, 4):
        if kind == _CLIENT_ID:
            client = value
        elif kind == _SERVER_ID:
            server = value
        elif kind == _IA_NA:
            addresses += _ia(value, _IA_ADDRESS)
        elif kind == _IA_PD:
            prefixes += _ia(value, _IA_PREFIX)
    if max(len(client), len(server)) > _MAX_DUID:
        raise ParseError("dhcp-duid")
    return Lease(
        ts_ns=ts_ns,
        family=6,
        kind=KINDS[data[0]],
        xid=int.from_bytes(data[1:4], "big"),
        client=client.hex(),
        mac=_mac_of_duid(client),
        addresses=tuple(addresses[:MAX_GRANTS]),
        prefixes=tuple(prefixes[:MAX_GRANTS]),
        server=server.hex(),
    )


def _ia(value: bytes, wanted: int) -> Iterator[Grant]:
    """Addresses or prefixes of an identity association; none where its status says it failed."""
    if len(value) < _IA.size:
        raise ParseError("truncated")
    options = list(_options(value, _IA.size))
    if any(kind == _STATUS and part[:2] != b"\0\0" for kind, part in options):
        return
    for kind, part in options:
        if kind != wanted:
            continue
        if wanted == _IA_ADDRESS:
            if len(part) < _ADDRESS.size:
                raise ParseError("truncated")
            base, _, valid_s = _ADDRESS.unpack_from(part)
            length = 128
        else:
            if len(part) < _PREFIX.size:
                raise ParseError("truncated")
            _, valid_s, length, base = _PREFIX.unpack_from(part)
            if not 1 <= length <= 128 or network(base, length) != base:
                continue  # a hint such as ::/0, or rubbish
        if any(base) and base[:12] != MAPPED:
            yield base, length, valid_s


def _options(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """(code, value) of the options from `at` on (RFC 8415 section 21.1)."""
    while at < len(data):
        if len(data) - at < _OPTION.size:
            raise ParseError("truncated")
        kind, size = _OPTION.unpack_from(data, at)
        at += _OPTION.size
        if at + size > len(data):
            raise ParseError("truncated")
        yield kind, data[at : at + size]
        at += size


def _mac_of_duid(duid: bytes) -> str:
    """The Ethernet address of a DUID-LLT or DUID-LL (RFC 8415 sections 11.2 and 11.4)."""
    if duid[:4] == b"\0\x01\0\x01" and len(duid) == 14:
        return duid[8:].hex()
    if duid[:4] == b"\0\x03\0\x01" and len(duid) == 10:
        return duid[4:].hex()
    return ""


def _mac_of_address(address: bytes) -> str:
    """The Ethernet address of a link-local one made from it (RFC 4291 appendix A)."""
    if address[:8] != b"\xfe\x80" + bytes(6) or address[11:13] != b"\xff\xfe":
        return ""
    return (bytes((address[8] ^ 2,)) + address[9:11] + address[13:]).hex()
