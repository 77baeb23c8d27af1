"""Values of SIP headers: the text of one header, or one entry of it, into what it says.

RFC 3261 section 20, RFC 3323 (Privacy), RFC 3326 (Reason), RFC 4028 (Session-Expires).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from collector.parse.reader import ParseError

MAX_VALUE: Final = 512
"""Longest identifier or URI kept, as record columns hold no more. A longer URI is cut, as numbers
come first in it; a longer identifier is refused, as cutting could make two into one."""
MAX_LIST: Final = 8
"""Entries kept of one list header."""

_CSEQ: Final = re.compile(r"([0-9]{1,10})\s+([A-Za-z0-9\-.!%*_+`'~]{1,64})")
_VIA: Final = re.compile(r"SIP\s*/\s*2\.0\s*/\s*\w+\s+([^;]+)(;.*)?", re.IGNORECASE | re.DOTALL)
_CAUSE: Final = re.compile(r"cause\s*=\s*\"?([0-9]{1,3})", re.IGNORECASE)
_SPECIAL: Final = re.compile(r'[",;<>\\]')


def bounded(value: str) -> str:
    """An identifier as it is; raises ParseError for one longer than MAX_VALUE."""
    if len(value) > MAX_VALUE:
        raise ParseError("sip-long")
    return value


def split_list(value: str, separator: str = ",", quotes: bool = True) -> list[str]:
    """Elements of a list, split at separators that are neither in quotes nor in <>.

    Where a quotation never ends the quotes mean nothing: some phones send \\"Name\\" <sip:...>.
    """
    if separator not in value:
        return [value.strip()]
    parts, begin, quoted, angle, escaped = [], 0, False, False, -1
    # One pass over the few characters that matter: linear whatever the bytes are.
    for match in _SPECIAL.finditer(value):
        char, at = match[0], match.start()
        if at == escaped:
            continue
        if quoted:
            if char == "\\":
                escaped = at + 1
            quoted = char != '"'
        elif char == '"':
            quoted = quotes
        elif char == "<":
            angle = True
        elif char == ">":
            angle = False
        elif char == separator and not angle:
            parts.append(value[begin:at].strip())
            begin = at + 1
    if quoted:
        return split_list(value, separator, quotes=False)
    parts.append(value[begin:].strip())
    return parts


def cseq(value: str) -> tuple[int, str]:
    """(number, method in upper case) of a CSeq (RFC 3261 section 20.16)."""
    match = _CSEQ.fullmatch(value)
    if match is None or int(match[1]) > 0xFFFF_FFFF:
        raise ParseError("sip-cseq")
    return int(match[1]), match[2].upper()


def name_addr(value: str) -> tuple[str, str, str]:
    """(display name, URI, tag) of a From, To or P-Asserted-Identity value.

    Without <> every parameter belongs to the header, not to the URI (RFC 3261 section 20.10).
    """
    first, *parameters = split_list(value, ";")
    display = ""
    if first.endswith(">"):
        open_at = first.rfind("<")
        if open_at < 0:
            raise ParseError("sip-address")
        display, first = first[:open_at].strip().strip('"'), first[open_at + 1 : -1]
    elif "<" in first:
        raise ParseError("sip-address")
    tag = ""
    for parameter in parameters:
        name, _, content = parameter.partition("=")
        if name.strip().lower() == "tag":
            tag = bounded(content.strip())
            break
    return display, first.strip()[:MAX_VALUE], tag


def via(value: str) -> tuple[str, str]:
    """(sent-by, branch) of one Via element (RFC 3261 section 20.42)."""
    match = _VIA.fullmatch(value)
    if match is None:
        raise ParseError("sip-via")
    branch = ""
    for parameter in (match[2] or "").split(";"):
        name, _, content = parameter.partition("=")
        if name.strip().lower() == "branch":
            branch = bounded(content.strip())
            break
    return bounded("".join(match[1].split()).lower()), branch


def is_anonymous(display: str, uri: str) -> bool:
    """RFC 3323 section 4.1.1.3: the anonymous URI, or the display name that stands for it."""
    host = uri.rpartition("@")[2].partition(";")[0].lower()
    user = uri.partition(":")[2].partition("@")[0].lower()
    return (
        host == "anonymous.invalid" or user == "anonymous" or display.strip().lower() == "anonymous"
    )


def privacy(values: Iterable[str]) -> tuple[str, ...]:
    """Distinct tokens of all Privacy headers in order (RFC 3323 section 4.2)."""
    tokens = {
        token.strip().lower()[:32]
        for value in values
        for token in value.replace(",", ";").split(";")
    }
    return tuple(sorted(tokens - {""}))[:MAX_LIST]


def q850(reasons: Iterable[str]) -> int:
    """Cause of the first Q.850 reason (RFC 3326 section 2); 0 without one."""
    for reason in reasons:
        protocol, *parameters = split_list(reason, ";")
        if protocol.lower() != "q.850":
            continue
        for parameter in parameters:
            match = _CAUSE.match(parameter)
            if match and int(match[1]) <= 127:
                return int(match[1])
    return 0


def seconds(value: str) -> int:
    """Session-Expires (RFC 4028 section 4); 0 where it is no number, or one beyond 9 digits."""
    digits = value.partition(";")[0].strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 9 else 0
