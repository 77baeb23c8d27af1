"""QUIC Initial packets: finds them in a datagram, opens them, and takes their CRYPTO frames out.

An Initial is encrypted with keys that follow from the connection id the client chose, so whoever
sees it can open it: RFC 9001 section 5.2 (version 1), RFC 9369 section 3.3 (version 2). Everything
here is without state; `collector.parse.quic` puts the pieces together.
"""

from __future__ import annotations

import hmac
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from collector.parse.reader import ParseError

MIN_FIRST_DCID: Final = 8
"""Least length of the destination connection id in a client's first Initial (RFC 9000 section
7.2): a shorter one is the server's choice, from which no keys follow."""
_MAX_CID: Final = 20
"""Longest connection id (RFC 9000 section 17.2)."""
_MAX_COALESCED: Final = 8
"""Packets read in one datagram; a client coalesces one per encryption level, which are four."""
_MAX_FRAMES: Final = 512
"""Frames read in one packet, runs of padding counted once; Chromium makes about thirty."""
_MIN_INITIAL_BYTES: Final = 40
"""Shortest datagram worth a look: header, sample and tag; real ones are padded to 1,200."""
_SAMPLE_BYTES: Final = 16
_TAG_BYTES: Final = 16

_PING: Final = 0x01
_ACK: Final = 0x02
_ACK_ECN: Final = 0x03
_CRYPTO: Final = 0x06
_CLOSE: Final = 0x1C
"""Frames allowed in an Initial besides PADDING (RFC 9000 section 12.4)."""

_LONG: Final = struct.Struct(">IB")
_NOT_PADDING: Final = re.compile(rb"[^\0]")


def _info(label: bytes, length: int) -> bytes:
    """HkdfLabel with an empty context (RFC 8446 section 7.1), and the counter of HKDF's block 1."""
    name = b"tls13 " + label
    return struct.pack(">HB", length, len(name)) + name + b"\0\x01"


@dataclass(frozen=True, slots=True)
class _Version:
    """What differs between versions: the salt, two packet types and the labels of the keys."""

    salt: bytes
    initial: int
    retry: int
    key: bytes
    iv: bytes
    hp: bytes


_CLIENT_IN: Final = _info(b"client in", 32)


def _version1(salt: str) -> _Version:
    """Version 1, or a draft of it, which differed in nothing that is read here but its salt."""
    return _Version(
        salt=bytes.fromhex(salt),
        initial=0,
        retry=3,
        key=_info(b"quic key", 16),
        iv=_info(b"quic iv", 12),
        hp=_info(b"quic hp", 16),
    )


_DRAFT_23: Final = _version1("c3eef712c72ebb5a11a7d2432bb46365bef9f502")
_DRAFT_29: Final = _version1("afbfec289993d24c9e9786f19c6111e04390a899")
_VERSION_1: Final = _version1("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
_VERSION_2: Final = _Version(
    salt=bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"),
    initial=1,
    retry=0,
    key=_info(b"quicv2 key", 16),
    iv=_info(b"quicv2 iv", 12),
    hp=_info(b"quicv2 hp", 16),
)
_VERSIONS: Final = {
    0x00000001: _VERSION_1,
    0x6B3343CF: _VERSION_2,
    **{0xFF000000 + draft: _DRAFT_23 for draft in range(23, 29)},
    **{0xFF000000 + draft: _DRAFT_29 for draft in range(29, 33)},
    **{0xFF000000 + draft: _VERSION_1 for draft in (33, 34)},
    0xFACEB002: _DRAFT_23,
}
"""Drafts (draft-ietf-quic-tls section 5.2 of each, and Facebook's name for one) are met in captures
only, as the filter passes the two versions that are spoken today."""


def is_long_header(data: bytes) -> bool:
    """Whether a datagram begins with a long header of a version known here (RFC 8999 section 5.1),
    which says nothing yet about whether its keys open it."""
    return (
        len(data) > _MIN_INITIAL_BYTES
        and data[0] & 0xC0 == 0xC0
        and int.from_bytes(data[1:5], "big") in _VERSIONS
    )


@dataclass(frozen=True, slots=True)
class Initial:
    """One Initial packet in a datagram: data[start:end], its packet number at `number_at`."""

    version: int
    dcid: bytes
    start: int
    number_at: int
    end: int


class ClientKeys:
    """Opens the client's Initials of one version and connection id."""

    __slots__ = ("_aead", "_iv", "_mask")

    def __init__(self, version: int, dcid: bytes) -> None:
        rule = _VERSIONS[version]
        # Every output fits in one block of SHA-256, so each HKDF step is one HMAC (RFC 5869).
        initial = hmac.digest(rule.salt, dcid, "sha256")
        secret = hmac.digest(initial, _CLIENT_IN, "sha256")
        self._aead = AESGCM(hmac.digest(secret, rule.key, "sha256")[:16])
        self._iv = int.from_bytes(hmac.digest(secret, rule.iv, "sha256")[:12], "big")
        mask_key = hmac.digest(secret, rule.hp, "sha256")[:16]
        # ECB of a single block is the mask of RFC 9001 section 5.4.3; no data is encrypted with it.
        self._mask = Cipher(algorithms.AES(mask_key), modes.ECB()).encryptor()

    def open(self, data: bytes, packet: Initial) -> bytes | None:
        """The frames of an Initial; None where these are not its keys or it was altered."""
        at = packet.number_at
        mask = self._mask.update(data[at + 4 : at + 4 + _SAMPLE_BYTES])
        first = data[packet.start] ^ (mask[0] & 0x0F)
        body = at + (first & 0x03) + 1
        if packet.end - body < _TAG_BYTES:
            return None
        masked = int.from_bytes(data[at:body], "big")
        number = masked ^ int.from_bytes(mask[1 : 1 + body - at], "big")
        # Initials are few, so the part of the number on the wire is all of it (section 17.1).
        clear = bytes((first,)) + data[packet.start + 1 : at] + number.to_bytes(body - at, "big")
        nonce = (self._iv ^ number).to_bytes(12, "big")
        try:
            return self._aead.decrypt(nonce, data[body : packet.end], clear)
        except InvalidTag:
            return None


def initials(data: bytes) -> Iterator[Initial]:
    """The Initial packets coalesced in a datagram (RFC 9000 section 12.2), in order.

    Nothing where the datagram does not begin with a long header of a known version. Raises
    ParseError for a header that is cut short or contradicts itself; rubbish after the last packet
    is not an error.
    """
    at = 0
    dcid: bytes | None = None
    for _ in range(_MAX_COALESCED):
        if len(data) < at + 7 or data[at] & 0xC0 != 0xC0:
            # A short header, padding, or not QUIC. The bit after the first is fixed at first:
            # greasing it needs the server's leave (RFC 9287 section 3.1).
            return
        version, length = _LONG.unpack_from(data, at + 1)
        rule = _VERSIONS.get(version)
        if rule is None:
            return
        kind = data[at] >> 4 & 0x03
        if kind == rule.retry:
            return
        if length > _MAX_CID:
            raise ParseError("cid")
        here = data[at + 6 : at + 6 + length]
        if dcid is not None and here != dcid:
            # Packets of one datagram share their connection id; the rest is to be ignored.
            return
        dcid = here
        packet = _bounds(data, at, version, dcid, kind == rule.initial)
        if kind == rule.initial:
            yield packet
        at = packet.end


def _bounds(data: bytes, start: int, version: int, dcid: bytes, has_token: bool) -> Initial:
    """Where a long-header packet has its number and its end (RFC 9000 section 17.2)."""
    at = start + 6 + len(dcid)
    if at >= len(data):
        raise ParseError("truncated")
    if data[at] > _MAX_CID:
        raise ParseError("cid")
    at += 1 + data[at]
    if has_token:
        length, at = _varint(data, at, len(data))
        at += length
    length, at = _varint(data, at, len(data))
    end = at + length
    # The sample of header protection lies 4 bytes after the number's start, however long that is.
    if end > len(data) or length < 4 + _SAMPLE_BYTES:
        raise ParseError("truncated")
    return Initial(version, dcid, start, at, end)


def crypto_pieces(plain: bytes) -> list[tuple[int, bytes]]:
    """The (offset, bytes) of the CRYPTO frames in an Initial's payload; other frames are skipped.

    Raises ParseError for a frame that no Initial may carry or that overruns the packet.
    """
    pieces: list[tuple[int, bytes]] = []
    end = len(plain)
    at = 0
    for _ in range(_MAX_FRAMES):
        found = _NOT_PADDING.search(plain, at)
        if found is None:
            return pieces
        at = found.start() + 1
        kind = plain[at - 1]
        if kind == _CRYPTO:
            offset, at = _varint(plain, at, end)
            length, at = _varint(plain, at, end)
            if at + length > end:
                raise ParseError("truncated")
            pieces.append((offset, plain[at : at + length]))
            at += length
        elif kind in (_ACK, _ACK_ECN):
            at = _skip_ack(plain, at, kind == _ACK_ECN)
        elif kind == _CLOSE:
            _, at = _varint(plain, at, end)
            _, at = _varint(plain, at, end)
            length, at = _varint(plain, at, end)
            at += length
        elif kind != _PING:
            raise ParseError("frame")
        if at > end:
            raise ParseError("truncated")
    raise ParseError("frames")


def _skip_ack(plain: bytes, at: int, ecn: bool) -> int:
    """The offset after an ACK frame (RFC 9000 section 19.3), whose fields begin at `at`."""
    end = len(plain)
    _, at = _varint(plain, at, end)
    _, at = _varint(plain, at, end)
    ranges, at = _varint(plain, at, end)
    # The first range stands alone, each further one has a gap before it; ECN adds three counts.
    fields = 1 + 2 * ranges + (3 if ecn else 0)
    if fields > end - at:
        raise ParseError("truncated")
    for _ in range(fields):
        _, at = _varint(plain, at, end)
    return at


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A variable-length integer (RFC 9000 section 16) and the offset after it."""
    if at >= end:
        raise ParseError("truncated")
    first = data[at]
    if first < 0x40:
        return first, at + 1
    size = 1 << (first >> 6)
    if at + size > end:
        raise ParseError("truncated")
    mask = (1 << (8 * size - 2)) - 1
    return int.from_bytes(data[at : at + size], "big") & mask, at + size
