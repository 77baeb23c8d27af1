"""FreeRADIUS `detail` files: turns the text of one record into an `Accounting`.

A record is a line with the time, a line `<tab>NAME = VALUE` for each attribute, and an empty line
(rlm_detail). What the server wrote there it had verified; we did not, so such events are
`unverified`. Attributes that are not named here are stepped over.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable
from typing import Any, Final

from collector.parse import radius
from collector.parse.radius import UNVERIFIED, Accounting
from collector.parse.radius_attributes import MAX_PREFIXES, Prefix, with_profile
from collector.parse.reader import ParseError
from collector.wire.addr import MAPPED, pack

MAX_RECORD_BYTES: Final = 65_536
"""A packet has at most 4,096 bytes; as text, every byte escaped, that is 16 KiB and the names."""
END: Final = b"\n\n"

_LINE: Final = re.compile(rb"\t([A-Za-z0-9][A-Za-z0-9._-]*)(?::0)? [:+]?= (.*)\Z")
_ESCAPE: Final = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_PLAIN: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_STATUS: Final = {
    "Start": radius.START,
    "Stop": radius.STOP,
    "Interim-Update": radius.INTERIM,
    "Alive": radius.INTERIM,
    "Accounting-On": radius.ON,
    "Accounting-Off": radius.OFF,
}
_CAUSES: Final = (
    *("User-Request", "Lost-Carrier", "Lost-Service", "Idle-Timeout", "Session-Timeout"),
    *("Admin-Reset", "Admin-Reboot", "Port-Error", "NAS-Error", "NAS-Request", "NAS-Reboot"),
    *("Port-Unneeded", "Port-Preempted", "Port-Suspended", "Service-Unavailable", "Callback"),
    *("User-Error", "Host-Request", "Supplicant-Restart", "Reauthentication-Failure"),
    *("Port-Reinit", "Port-Disabled"),
)
"""Acct-Terminate-Cause 1 to 22 (RFC 2866 section 5.10, RFC 3580 section 2.4)."""
_CAUSE: Final = {name: number for number, name in enumerate(_CAUSES, 1)}


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None


def _named(numbers: dict[str, int]) -> Callable[[str], int | None]:
    """A value by its name in the dictionary, or as a number where that has none."""
    return lambda text: numbers[text] if text in numbers else _number(text)


def _text(text: str) -> str | None:
    return text.replace("\0", "\\x00") or None


def _address(text: str) -> bytes | None:
    try:
        found = pack(text)
    except ValueError:
        return None
    is_none = not any(found[12:]) or found in (pack("255.255.255.255"), pack("255.255.255.254"))
    return None if is_none else found


def _prefix(text: str) -> Prefix | None:
    try:
        network = ipaddress.IPv6Network(text)
    except ValueError:
        return None
    base = network.network_address.packed
    return (base, network.prefixlen) if network.prefixlen and base[:12] != MAPPED else None


_ONE: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "Acct-Status-Type": ("status", _named(_STATUS)),
    "Acct-Session-Id": ("session_id", _text),
    "User-Name": ("user_name", _text),
    "NAS-Identifier": ("nas_identifier", _text),
    "NAS-IP-Address": ("nas_address", _address),
    "NAS-IPv6-Address": ("nas_address", _address),
    "NAS-Port": ("nas_port", _number),
    "NAS-Port-Id": ("nas_port_id", _text),
    "Calling-Station-Id": ("calling", _text),
    "Called-Station-Id": ("called", _text),
    "Chargeable-User-Identity": ("cui", _text),
    "Class": ("klass", _text),
    "Framed-IP-Address": ("framed_ipv4", _address),
    "Acct-Session-Time": ("session_s", _number),
    "Acct-Input-Octets": ("up_low", _number),
    "Acct-Input-Gigawords": ("up_high", _number),
    "Acct-Output-Octets": ("down_low", _number),
    "Acct-Output-Gigawords": ("down_high", _number),
    "Acct-Delay-Time": ("delay_s", _number),
    "Session-Timeout": ("timeout_s", _number),
    "Acct-Interim-Interval": ("interim_s", _number),
    "Acct-Terminate-Cause": ("terminate_cause", _named(_CAUSE)),
    "Packet-Src-IP-Address": ("client", _address),
    "Packet-Src-IPv6-Address": ("client", _address),
    "Timestamp": ("written_s", _number),
}
_MANY: Final = {
    "Framed-IPv6-Prefix": "framed_prefixes",
    "Delegated-IPv6-Prefix": "delegated_prefixes",
    "Framed-IPv6-Address": "framed_ipv6",
}


def parse(record: bytes) -> Accounting | None:
    """The event of one record without its empty line; None for one that accounts for nothing.

    Event-Timestamp is text in the server's own zone there and is not read: `Timestamp`, which the
    server adds, is when the packet came, in seconds. Raises ParseError for what is no record.
    """
    found: dict[str, Any] = {}
    rejected = 0
    lines = record.split(b"\n")
    if not lines[0].strip() or lines[0][:1] == b"\t" or len(record) > MAX_RECORD_BYTES:
        raise ParseError("detail-record")
    for line in lines[1:]:
        split = _LINE.match(line)
        if split is None:
            raise ParseError("detail-line")
        name, value = split[1].decode(), _value(split[2])
        if name in _ONE:
            field, decode = _ONE[name]
            decoded = decode(value)
        elif name in _MANY:
            field, decoded = _MANY[name], _prefix(value)
        else:
            continue
        if decoded is None:
            rejected += 1
        elif name in _MANY:
            held = found.setdefault(field, [])
            if decoded not in held and len(held) < MAX_PREFIXES:
                held.append(decoded)
        else:
            found.setdefault(field, decoded)
    return _event(record, found, rejected)


def _event(record: bytes, found: dict[str, Any], rejected: int) -> Accounting | None:
    written = found.pop("written_s", None)
    if "status" not in found:
        return None
    if not written:
        raise ParseError("detail-timestamp")
    for field in _MANY.values():
        if field in found:
            found[field] = tuple(sorted(found[field]))
    highs = [found.pop(way, None) for way in ("up_high", "down_high")]
    for way, high in zip(("up", "down"), highs, strict=True):
        low = found.pop(way + "_low", None)
        if low is not None:
            found[way] = (high or 0) << 32 | low
    return Accounting(
        ts_ns=written * 10**9,
        client=found.pop("client", None) or found.get("nas_address") or bytes(16),
        client_port=0,
        server=bytes(16),
        identifier=0,
        # A record that is written twice is one request; a resend differs in its delay.
        transport=hashlib.blake2b(record, digest_size=16).digest(),
        verified=UNVERIFIED,
        gigawords=any(high is not None for high in highs),
        rejected=rejected,
        **with_profile(found),
    )


def _value(data: bytes) -> str:
    """A value without its quotes and escapes; what is not UTF-8 stays escaped."""
    if data[:1] == b'"' and data[-1:] == b'"' and len(data) > 1:
        data = _ESCAPE.sub(_unescape, data[1:-1])
    return data.decode("utf-8", "backslashreplace")


def _unescape(found: re.Match[bytes]) -> bytes:
    code = found[1]
    if len(code) == 3:
        return bytes((int(code, 8) & 0xFF,))
    return _PLAIN.get(code, code)
