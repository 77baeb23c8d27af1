"""RADIUS: turns one UDP packet into an accounting event, or into one half of an exchange.

RFC 2865 section 3 (packet), RFC 2866 (accounting), RFC 5176 section 2.1 (disconnect). No password,
CHAP or EAP is ever in an event, as `radius_attributes` steps over them. What goes to the journal
holds no authenticator either; the halves of an exchange are joined in memory
(`collector.track.radius_pairs`).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from collector.parse.ip import UDP, Packet
from collector.parse.plain import Plain
from collector.parse.radius_attributes import Profile, fields_of, split
from collector.parse.radius_repeats import Repeats
from collector.parse.reader import ParseError

ACCESS_REQUEST: Final = 1
ACCESS_ACCEPT: Final = 2
ACCOUNTING_REQUEST: Final = 4
ACCOUNTING_RESPONSE: Final = 5
DISCONNECT_REQUEST: Final = 40
DISCONNECT_ACK: Final = 41
"""Codes (RFC 2865 section 4, RFC 5176 section 2.3); refusals and challenges change nothing."""

MESSAGE_AUTHENTICATOR: Final = 80

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

_READ: Final = frozenset(
    (
        *(ACCESS_REQUEST, ACCESS_ACCEPT, ACCOUNTING_REQUEST, ACCOUNTING_RESPONSE),
        *(DISCONNECT_REQUEST, DISCONNECT_ACK),
    )
)
_HEADER: Final = struct.Struct(">BBH16s")
_TRANSPORT: Final = struct.Struct(">16sHB16s")


@dataclass(slots=True)
class Accounting(Plain):
    """One Accounting-Request; an attribute that was absent or malformed is None.

    Not frozen, only because a frozen one takes three times as long to make. A `profile` may be the
    very one of the report before, where nothing of it changed.

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
    profile: Profile
    session_s: int | None = None
    up: int | None = None
    down: int | None = None
    gigawords: bool = False
    event_s: int | None = None
    delay_s: int | None = None
    terminate_cause: int | None = None
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class AccountingAck(Plain):
    """One Accounting-Response: the server answered the request `identifier` of that client port."""

    ts_ns: int
    client: bytes
    client_port: int
    server: bytes
    identifier: int


@dataclass(frozen=True, slots=True)
class _Exchange(Plain):
    """A request joined with its answer; `client` is the NAS, as in `Accounting`."""

    ts_ns: int
    client: bytes
    server: bytes
    verified: str
    profile: Profile


class Access(_Exchange):
    """An Access-Accept joined with its Access-Request: what a line was granted.

    Names, port and station are the request's, the rest is the answer's. `verified` is the worse of
    both: the Response Authenticator, and the request's Message-Authenticator where it has one.
    """

    __slots__ = ()


class Disconnect(_Exchange):
    """A Disconnect-ACK joined with its request: the NAS ended a session because it was told to.

    The profile is the request's, which names the session (RFC 5176 section 3).
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Request:
    """An Access-Request or Disconnect-Request that waits for its answer; never journalled."""

    ts_ns: int
    code: int
    sender: bytes
    sender_port: int
    receiver: bytes
    identifier: int
    authenticator: bytes = field(repr=False)
    verified: str
    profile: Profile


@dataclass(frozen=True, slots=True)
class Answer:
    """An Access-Accept or Disconnect-ACK; `packet` is its bytes, to verify against a request's."""

    ts_ns: int
    code: int
    sender: bytes
    receiver: bytes
    receiver_port: int
    identifier: int
    packet: bytes = field(repr=False)
    profile: Profile


def parse(
    packet: Packet,
    secrets: Mapping[bytes, bytes] | None = None,
    repeats: Repeats | None = None,
) -> Accounting | AccountingAck | Request | Answer | None:
    """What a packet says; None for other RADIUS codes and for what is not UDP.

    `secrets` maps the address of a NAS (16 bytes) to the shared secret, as RFC 2865 section 3 has
    the server choose it by the datagram's source. Bytes after the length field's end are padding
    (RFC 2865 section 3). `repeats` remembers interim reports: it changes what a packet costs, not
    what it says. Raises ParseError where the length field or any attribute length is impossible.
    """
    if packet.proto != UDP:
        return None
    data = packet.payload
    if len(data) < MIN_BYTES:
        raise ParseError("radius-short")
    code, identifier, length, _ = head = _HEADER.unpack_from(data)
    if code not in _READ:
        return None
    if not MIN_BYTES <= length <= MAX_BYTES or length > len(data):
        raise ParseError("radius-length")
    data = data[:length]
    if code == ACCOUNTING_REQUEST:
        return _accounting(packet, data, head, (secrets or {}).get(packet.src), repeats)
    attributes = split(data, MIN_BYTES, length)
    if code == ACCOUNTING_RESPONSE:
        return AccountingAck(packet.ts_ns, packet.dst, packet.dport, packet.src, identifier)
    profile = fields_of(attributes)["profile"]
    if code in (ACCESS_ACCEPT, DISCONNECT_ACK):
        ends = (packet.src, packet.dst, packet.dport)
        return Answer(packet.ts_ns, code, *ends, identifier, data, profile)
    return _request(packet, data, attributes, profile, secrets or {})


def _accounting(
    packet: Packet,
    data: bytes,
    head: tuple[int, int, int, bytes],
    secret: bytes | None,
    repeats: Repeats | None,
) -> Accounting:
    """An Accounting-Request, in whole or by the one that it repeats with other counters."""
    _, identifier, _, authenticator = head
    verified = _verify(data, authenticator, secret)
    transport = hashlib.blake2b(
        _TRANSPORT.pack(packet.src, packet.sport, identifier, authenticator), digest_size=16
    ).digest()
    ends = (packet.ts_ns, packet.src, packet.sport, packet.dst, identifier, transport, verified)
    again = repeats and repeats.find(packet.src, data)
    if again:
        profile, session_s, up, down, gigawords, event_s, delay_s, rejected = again
        numbers = (session_s, up, down, gigawords, event_s, delay_s)
        return Accounting(*ends, INTERIM, profile, *numbers, None, rejected)
    attributes = split(data, MIN_BYTES, len(data))
    found = fields_of(attributes)
    status = found.pop("status", None)
    if status is None:
        raise ParseError("radius-status")
    event = Accounting(*ends, status, **found)
    if repeats and status == INTERIM and verified != BAD:
        repeats.learn(packet.src, data, attributes, event.profile, event.rejected)
    return event


def _request(
    packet: Packet,
    data: bytes,
    attributes: list[tuple[int, bytes]],
    profile: Profile,
    secrets: Mapping[bytes, bytes],
) -> Request:
    """A request that an `Answer` will be joined with. The NAS is the receiver of a Disconnect."""
    code, identifier, authenticator = data[0], data[1], data[4:20]
    if code == ACCESS_REQUEST:
        verified = _verify_message(data, attributes, secrets.get(packet.src))
    else:
        verified = _verify(data, authenticator, secrets.get(packet.dst))
    ends = (packet.src, packet.sport, packet.dst)
    return Request(packet.ts_ns, code, *ends, identifier, authenticator, verified, profile)


def verify_answer(answer: Answer, request: Request, secret: bytes | None) -> str:
    """Response Authenticator: MD5 over the answer with the request's authenticator in its place,
    then the secret (RFC 2865 section 3)."""
    if secret is None:
        return UNVERIFIED
    data = answer.packet
    text = data[:4] + request.authenticator + data[20:] + secret
    digest = hashlib.md5(text, usedforsecurity=False).digest()
    return VERIFIED if digest == data[4:20] else BAD


def _verify_message(data: bytes, attributes: list[tuple[int, bytes]], secret: bytes | None) -> str:
    """Message-Authenticator of an Access-Request (RFC 3579 section 3.2), which need not have one:
    its Request Authenticator is random, so without it there is nothing to verify."""
    at = MIN_BYTES
    for kind, value in attributes:
        if kind == MESSAGE_AUTHENTICATOR and len(value) == 16 and secret is not None:
            text = data[: at + 2] + bytes(16) + data[at + 18 :]
            digest = hmac.digest(secret, text, "md5")
            return VERIFIED if digest == value else BAD
        at += len(value) + 2
    return UNVERIFIED


def _verify(data: bytes, authenticator: bytes, secret: bytes | None) -> str:
    """Request authenticator of accounting and of a disconnect: MD5 over the packet with 16 zero
    octets in its place, then the secret (RFC 2866 section 3, RFC 5176 section 2.3)."""
    if secret is None:
        return UNVERIFIED
    digest = hashlib.md5(data[:4] + bytes(16) + data[20:] + secret, usedforsecurity=False).digest()
    # Nothing is granted on this comparison, so it need not take constant time.
    return VERIFIED if digest == authenticator else BAD
