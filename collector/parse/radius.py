"""RADIUS accounting: turns one UDP packet into an `Accounting` or an `AccountingAck` event.

RFC 2865 section 3 (packet), RFC 2866 (accounting). No password, CHAP or EAP is ever in an event, as
`radius_attributes` steps over them, nor is an authenticator.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from collector.parse.ip import UDP, Packet
from collector.parse.radius_attributes import Prefix, fields_of, split
from collector.parse.reader import ParseError

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

_HEADER: Final = struct.Struct(">BBH16s")


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
    attributes = split(data, MIN_BYTES, length)
    if code == ACCOUNTING_RESPONSE:
        return AccountingAck(packet.ts_ns, packet.dst, packet.dport, packet.src, identifier)
    found = fields_of(attributes)
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
        **found,
    )


def _verify(data: bytes, authenticator: bytes, secret: bytes | None) -> str:
    """Request authenticator of accounting: MD5 over the packet with 16 zero octets in its place,
    then the secret (RFC 2866 section 3)."""
    if secret is None:
        return UNVERIFIED
    digest = hashlib.md5(data[:4] + bytes(16) + data[20:] + secret, usedforsecurity=False).digest()
    # Nothing is granted on this comparison, so it need not take constant time.
    return VERIFIED if digest == authenticator else BAD
