"""The head of a SIP message: its start line and headers, as text by name, bounded.

RFC 3261 sections 7 and 25. What a value means is in `collector.parse.sip_values`.
"""

from __future__ import annotations

import re
from typing import Final

from collector.parse.reader import ParseError
from collector.parse.sip_values import split_list

MAX_HEAD_BYTES: Final = 64 * 1024
"""Longest start line and headers. The most a UDP datagram can carry, so TCP gets no more."""
MAX_HEADERS: Final = 256
"""Header fields read; long record routes and Via chains stay under 100."""

START: Final = re.compile(
    rb"SIP/2\.0 [1-6][0-9][0-9](?: |\r?\n|$)"
    rb"|[A-Za-z0-9\-.!%*_+`'~]{1,64} [^\s]{1,4096} SIP/2\.0\r?\n",
    re.IGNORECASE,
)
"""Bytes that begin a message."""
END: Final = re.compile(rb"\r\n\r\n|\n\n|\n\r\n")
"""The empty line, with the end of the line before it."""
ORIGIN: Final = re.compile(rb"^o=(\S{1,64} \S{1,64}) \S{1,64}( IN \S{1,4} \S{1,255})\r?$", re.M)
"""The line of a session description that says who made it (RFC 8866 section 5.2)."""
MAX_BODY_READ: Final = 1024
"""Bytes of a body in which the origin is looked for; it is the second line (RFC 8866 section 5)."""
_FOLD: Final = re.compile(r"\r?\n[ \t]+")

_COMPACT: Final = {
    "i": "call-id",
    "f": "from",
    "t": "to",
    "v": "via",
    "x": "session-expires",
    "r": "refer-to",
    "b": "referred-by",
}
"""Compact forms of the headers read here (RFC 3261 section 7.3.3, RFC 4028 section 4, RFC 3515
section 2.1, RFC 3892 section 3)."""
_WANTED: Final = frozenset(
    ("call-id", "from", "to", "via", "cseq", "session-expires")
    + ("p-asserted-identity", "privacy", "reason", "diversion", "history-info")
    + ("replaces", "refer-to", "referred-by", "session-id")
)
_NAMES = {
    spelling: name
    for name in _WANTED
    for spelling in (name, name.title(), *(c for c, long in _COMPACT.items() if long == name))
} | {"CSeq": "cseq", "Call-ID": "call-id", "Session-ID": "session-id"}
_UNREAD: Final = (
    *("Accept", "Allow", "Allow-Events", "Authorization", "Contact", "Content-Length"),
    *("Content-Type", "Event", "Expires", "Max-Forwards", "Min-SE", "Organization"),
    *("P-Access-Network-Info", "P-Charging-Vector", "Proxy-Authenticate", "Proxy-Authorization"),
    *("RSeq", "Record-Route", "Require", "Route", "Server", "Supported", "User-Agent", "Warning"),
    *("WWW-Authenticate", ""),
)
_NAMES |= dict.fromkeys(_UNREAD, "")
"""Names as they are usually written, and in lower case, to the name they are kept by; "" where they
are not."""

Headers = dict[str, list[str]]
"""Values of the headers read here, by name in lower case and long form."""


def headers_of(text: str) -> Headers:
    """The headers in the lines after the start line: unfolded first, then stripped."""
    out: Headers = {}
    if "\n " in text or "\n\t" in text:
        text = _FOLD.sub(" ", text)
    lines = text.split("\n")
    if len(lines) > MAX_HEADERS:
        raise ParseError("sip-headers")
    for line in lines:
        name, colon, value = line.partition(":")
        known = _NAMES.get(name)
        if known is None:
            known = _NAMES.get(name.strip().lower())
        if known and colon:
            out.setdefault(known, []).append(value.strip())
    return out


def only(headers: Headers, name: str) -> str:
    """The first field of that name, which must be there."""
    values = headers.get(name)
    if not values or not values[0]:
        raise ParseError("sip-missing")
    return values[0]


def every(headers: Headers, name: str) -> list[str]:
    """Every element of every field of that name."""
    return [part for value in headers.get(name, []) for part in split_list(value) if part]
