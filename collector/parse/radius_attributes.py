"""RADIUS attributes: turns the bytes after a packet's header into a `Profile` and the rest by name.

RFC 2865 section 5, RFC 2866 section 5, RFC 2869 (gigawords, Event-Timestamp), RFC 3162, 4818 and
6911 (IPv6), RFC 4372 (Chargeable-User-Identity). Attributes that are not named here are stepped
over, so no password, CHAP or EAP ever leaves this module.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from collector.parse.plain import Plain
from collector.parse.reader import ParseError
from collector.wire.addr import MAPPED, network

MAX_PREFIXES: Final = 8
"""Prefixes of one kind read from a packet; access lines carry one or two."""

_U32: Final = struct.Struct(">I")
_NO_ADDRESS: Final = frozenset((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\xfe"))
"""Framed-IP-Address values that name no address (RFC 2865 section 5.8), and the unset one."""

Prefix = tuple[bytes, int]
"""The base of a prefix in sixteen bytes, and its length in 128 bits."""


@dataclass(frozen=True, slots=True)
class Profile(Plain):
    """Whose session it is, where, and what it was given: what stays as it is from one report to
    the next. An attribute that was absent or malformed is None or empty."""

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
    timeout_s: int | None = None
    interim_s: int | None = None


def split(data: bytes, start: int, end: int) -> list[tuple[int, bytes]]:
    """(type, value) of every attribute in data[start:end].

    One bad length rejects the packet (RFC 2865 section 5): raises ParseError.
    """
    out: list[tuple[int, bytes]] = []
    at = start
    while at < end:
        if end - at < 2:
            raise ParseError("radius-attribute")
        size = data[at + 1]
        if size < 2 or at + size > end:
            raise ParseError("radius-attribute")
        out.append((data[at], data[at + 2 : at + size]))
        at += size
    return out


def _integer(value: bytes) -> int | None:
    number: int | None = _U32.unpack(value)[0] if len(value) == 4 else None
    return number


def _text(value: bytes) -> str | None:
    """Text with what is not UTF-8 escaped, so that two names never become one."""
    text = value.decode("utf-8", "backslashreplace")
    return (text.replace("\0", "\\x00") if "\0" in text else text) or None


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
READ: Final[dict[int, tuple[str, Any]]] = _ONE | _MANY
"""Name and decoder of every attribute that is read."""


def fields_of(attributes: Iterable[tuple[int, bytes]]) -> dict[str, Any]:
    """Fields of `Accounting` by name, from the (type, value) of every attribute.

    A value that cannot be read is left out and counted in `rejected`.
    """
    found: dict[str, Any] = {}
    many: dict[str, list[Prefix]] = {}
    rejected = 0
    for kind, value in attributes:
        reader = READ.get(kind)
        if reader is None:
            continue
        name, decode = reader
        decoded = decode(value)
        if decoded is None:
            rejected += 1
        elif kind not in _MANY:
            if name not in found:
                found[name] = decoded
        elif len(held := many.setdefault(name, [])) >= MAX_PREFIXES:
            rejected += 1
        elif decoded not in held:
            held.append(decoded)
    for name, held in many.items():
        found[name] = tuple(sorted(held))
    found["rejected"] = rejected
    _join_octets(found)
    return with_profile(found)


def with_profile(found: dict[str, Any]) -> dict[str, Any]:
    """The fields with those of a `Profile` as one, under "profile"."""
    names = Profile.__dataclass_fields__
    profile = Profile(**{name: value for name, value in found.items() if name in names})
    rest = {name: value for name, value in found.items() if name not in names}
    return {**rest, "profile": profile}


def _join_octets(found: dict[str, Any]) -> None:
    """Joins the octet counters with their gigawords (RFC 2869 section 5.1): high << 32 | low."""
    up, down = found.pop("up_high", None), found.pop("down_high", None)
    for way, high in (("up", up), ("down", down)):
        low = found.pop(f"{way}_low", None)
        if low is not None:
            found[way] = (high or 0) << 32 | low
    found["gigawords"] = up is not None or down is not None
