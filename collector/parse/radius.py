"""RADIUS accounting: turns one UDP packet into an `Accounting` or an `AccountingAck` event.

RFC 2865 section 3 (packet), RFC 2866 (accounting), RFC 2869 (gigawords, Event-Timestamp), RFC 3162,
4818 and 6911 (IPv6), RFC 4372 (Chargeable-User-Identity). Attributes that are not named here are
stepped over, so no password, CHAP or EAP ever leaves this module, nor does an authenticator.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from collector.parse.ip import UDP, Packet
from collector.parse.reader import ParseError
from collector.wire.addr import MAPPED, network

ACCOUNTING_REQUEST: Final = 4
ACCOUNTING_RESPONSE: Final = 5

START: Final = 1
STOP: Final = 2
INTERIM: Final = 3
ON: Final = 7
OFF: Final = 8
"""Values of Acct-Status-Type (RFC 2866 section 5.1)."""

VERIFIED: Final = "verified"
UNVERIFIED: Final = "unverified"
BAD: Final = "bad"

MIN_BYTES: Final = 20
MAX_BYTES: Final = 4096
"""RFC 2865 section 3."""

MAX_PREFIXES: Final = 8
"""Prefixes of one kind read from a packet; access lines carry one or two."""

_HEADER: Final = struct.Struct(">BBH16s")
_U32: Final = struct.Struct(">I")
_NO_ADDRESS: Final = frozenset((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\xfe"))
"""Framed-IP-Address values that name no address (RFC 2865 section 5.8), and the unset one."""

Prefix = tuple[bytes, int]
"""The base of a prefix in sixteen bytes, and its length in 128 bits."""


@dataclass(frozen=True, slots=True)
class Accounting:
    """One Accounting-Request; an attribute that was absent or malformed is None or empty.

    client, server: ends of the datagram in 16 bytes; `client` is the NAS or its proxy.
    transport: 16 bytes, equal for an exact retransmission only (RFC 2866 section 2): hash of the
    source address, source port, identifier and request authenticator.
    status: Acct-Status-Type. up and down: octets as the NAS sent them (input is from the
    subscriber, RFC 2866 section 5.3) with gigawords; `gigawords` says whether any were sent.
    times: delay_s Acct-Delay-Time, event_s Event-Timestamp (epoch seconds), session_s
    Acct-Session-Time. rejected: attributes dropped for a malformed value.
    """

    ts_ns: int
    client: bytes
    client_port: int
    server: bytes
    identifier: int
    transport: bytes
    verified: str
    status: int
    session_id: str = ""
    user_name: str = ""
    nas_identifier: str = ""
    nas_address: bytes | None = None
    nas_port: int | None = None
    nas_port_id: str = ""
    calling: str = ""
    called: str = ""
    cui: str = ""
    klass: str = ""
    framed_ipv4: bytes | None = None
    framed_prefixes: tuple[Prefix, ...] = ()
    delegated_prefixes: tuple[Prefix, ...] = ()
    framed_ipv6: tuple[Prefix, ...] = ()
    session_s: int | None = None
    up: int | None = None
    down: int | None = None
    gigawords: bool = False
    event_s: int | None = None
    delay_s: int | None = None
    timeout_s: int | None = None
    interim_s: int | None = None
    terminate_cause: int | None = None
    rejected: int = 0

    def to_json(self) -> dict[str, object]:
        """A JSON-able dict, bytes as hex; `from_json` gives an equal event back."""
        out: dict[str, object] = {}
        for name in _FIELDS:
            value = getattr(self, name)
            if name in _PREFIX_FIELDS:
                value = [[base.hex(), length] for base, length in value]
            out[name] = value.hex() if isinstance(value, bytes) else value
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Accounting:
        """The event that `to_json` wrote; raises KeyError, TypeError or ValueError for others."""
        values = {name: data[name] for name in _FIELDS}
        for name in _BYTES_FIELDS:
            if values[name] is not None:
                values[name] = bytes.fromhex(values[name])
        for name in _PREFIX_FIELDS:
            values[name] = tuple((bytes.fromhex(base), length) for base, length in values[name])
        return cls(**values)


_BYTES_FIELDS: Final = ("client", "server", "transport", "nas_address", "framed_ipv4")
_PREFIX_FIELDS: Final = ("framed_prefixes", "delegated_prefixes", "framed_ipv6")
_FIELDS: Final = tuple(field.name for field in fields(Accounting))


@dataclass(frozen=True, slots=True)
class AccountingAck:
    """One Accounting-Response: the server answered the request `identifier` of that client port."""

    ts_ns: int
    client: bytes
    client_port: int
    server: bytes
    identifier: int

    def to_json(self) -> dict[str, object]:
        """A JSON-able dict; `from_json` gives an equal event back."""
        return {
            "ts_ns": self.ts_ns,
            "client": self.client.hex(),
            "client_port": self.client_port,
            "server": self.server.hex(),
            "identifier": self.identifier,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> AccountingAck:
        """The event that `to_json` wrote."""
        return cls(
            data["ts_ns"],
            bytes.fromhex(data["client"]),
            data["client_port"],
            bytes.fromhex(data["server"]),
            data["identifier"],
        )


def parse(
    packet: Packet, secrets: Mapping[bytes, bytes] | None = None
) -> Accounting | AccountingAck | None:
    """The accounting event of a packet; None for other RADIUS codes and for what is not UDP.

    `secrets` maps the datagram's source address (16 bytes) to the shared secret, as RFC 2865
    section 3 has the server choose it. Bytes after the length field's end are padding (RFC 2865
    section 3). Raises ParseError where the length field or any attribute length is impossible.
    """
    if packet.proto != UDP:
        return None
    data = packet.payload
    if len(data) < MIN_BYTES:
        raise ParseError("radius-short")
    code, identifier, length, authenticator = _HEADER.unpack_from(data)
    if code not in (ACCOUNTING_REQUEST, ACCOUNTING_RESPONSE):
        return None
    if not MIN_BYTES <= length <= MAX_BYTES or length > len(data):
        raise ParseError("radius-length")
    attributes = _split(data, length)
    if code == ACCOUNTING_RESPONSE:
        return AccountingAck(packet.ts_ns, packet.dst, packet.dport, packet.src, identifier)
    found = _read(attributes)
    status = found.pop("status", None)
    if status is None:
        raise ParseError("radius-status")
    return Accounting(
        ts_ns=packet.ts_ns,
        client=packet.src,
        client_port=packet.sport,
        server=packet.dst,
        identifier=identifier,
        transport=hashlib.blake2b(
            packet.src + struct.pack(">HB", packet.sport, identifier) + authenticator,
            digest_size=16,
        ).digest(),
        verified=_verify(data[:length], authenticator, (secrets or {}).get(packet.src)),
        status=status,
        **_octets(found),
    )


def _split(data: bytes, length: int) -> list[tuple[int, bytes]]:
    """(type, value) of every attribute; one bad length rejects the packet (RFC 2865 section 5)."""
    out: list[tuple[int, bytes]] = []
    at = MIN_BYTES
    while at < length:
        if length - at < 2:
            raise ParseError("radius-attribute")
        size = data[at + 1]
        if size < 2 or at + size > length:
            raise ParseError("radius-attribute")
        out.append((data[at], data[at + 2 : at + size]))
        at += size
    return out


def _verify(data: bytes, authenticator: bytes, secret: bytes | None) -> str:
    """Request authenticator of accounting: MD5 over the packet with 16 zero octets in its place,
    then the secret (RFC 2866 section 3)."""
    if secret is None:
        return UNVERIFIED
    digest = hashlib.md5(data[:4] + bytes(16) + data[20:] + secret, usedforsecurity=False).digest()
    # Nothing is granted on this comparison, so it need not take constant time.
    return VERIFIED if digest == authenticator else BAD


def _integer(value: bytes) -> int | None:
    number: int | None = _U32.unpack(value)[0] if len(value) == 4 else None
    return number


def _text(value: bytes) -> str | None:
    """Text with what is not UTF-8 escaped, so that two names never become one."""
    return value.decode("utf-8", "backslashreplace").replace("\0", "\\x00") or None


def _opaque(value: bytes) -> str | None:
    """Text where it is printable, else hex: CUI and Class are binary (RFC 4372 section 2.2)."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return "0x" + value.hex()
    return (text if text.isprintable() else "0x" + value.hex()) or None


def _address4(value: bytes) -> bytes | None:
    return MAPPED + value if len(value) == 4 and value not in _NO_ADDRESS else None


def _address6(value: bytes) -> bytes | None:
    return value if len(value) == 16 and value[:12] != MAPPED and any(value) else None


def _single6(value: bytes) -> Prefix | None:
    address = _address6(value)
    return None if address is None else (address, 128)


def _prefix6(value: bytes) -> Prefix | None:
    """Reserved, Prefix-Length, prefix (RFC 3162 section 2.3); bits past the length must be zero.

    Length 0 is well formed but would bind the whole Internet to one line: dropped.
    """
    if not 2 <= len(value) <= 18:
        return None
    length = value[1]
    base = value[2:].ljust(16, b"\0")
    if not 1 <= length <= 128 or (length + 7) // 8 > len(value) - 2:
        return None
    if network(base, length) != base or base[:12] == MAPPED:
        return None
    return base, length


_Decoder = Callable[[bytes], object]
_ONE: Final[dict[int, tuple[str, _Decoder]]] = {
    1: ("user_name", _text),
    4: ("nas_address", _address4),
    5: ("nas_port", _integer),
    8: ("framed_ipv4", _address4),
    25: ("klass", _opaque),
    27: ("timeout_s", _integer),
    30: ("called", _text),
    31: ("calling", _text),
    32: ("nas_identifier", _text),
    40: ("status", _integer),
    41: ("delay_s", _integer),
    42: ("up_low", _integer),
    43: ("down_low", _integer),
    44: ("session_id", _text),
    46: ("session_s", _integer),
    49: ("terminate_cause", _integer),
    52: ("up_high", _integer),
    53: ("down_high", _integer),
    55: ("event_s", _integer),
    85: ("interim_s", _integer),
    87: ("nas_port_id", _text),
    89: ("cui", _opaque),
    95: ("nas_address", _address6),
}
"""Attributes of which the first one counts."""
_MANY: Final[dict[int, tuple[str, _Decoder]]] = {
    97: ("framed_prefixes", _prefix6),
    123: ("delegated_prefixes", _prefix6),
    168: ("framed_ipv6", _single6),
}


def _read(attributes: list[tuple[int, bytes]]) -> dict[str, Any]:
    """Fields by name; a value that cannot be read is left out and counted in `rejected`."""
    found: dict[str, Any] = {}
    rejected = 0
    for kind, value in attributes:
        one = _ONE.get(kind)
        if one is not None:
            name, decode = one
            decoded = decode(value)
            if decoded is None:
                rejected += 1
            else:
                found.setdefault(name, decoded)
        elif kind in _MANY:
            name, decode = _MANY[kind]
            decoded = decode(value)
            held = found.setdefault(name, [])
            if decoded is None or len(held) >= MAX_PREFIXES:
                rejected += 1
            elif decoded not in held:
                held.append(decoded)
    for name in _PREFIX_FIELDS:
        if name in found:
            found[name] = tuple(sorted(found[name]))
    found["rejected"] = rejected
    return found


def _octets(found: dict[str, Any]) -> dict[str, Any]:
    """Joins the octet counters with their gigawords (RFC 2869 section 5.1): high << 32 | low."""
    highs = {way: found.pop(way + "_high", None) for way in ("up", "down")}
    for way, high in highs.items():
        low = found.pop(way + "_low", None)
        if low is not None:
            found[way] = (high or 0) << 32 | low
    found["gigawords"] = any(high is not None for high in highs.values())
    return found
