"""Values of SIP headers: the text of one header, or one entry of it, into what it says.

RFC 3261 section 20, RFC 3323 (Privacy), RFC 3326 (Reason), RFC 4028 (Session-Expires), RFC 5806
(Diversion), RFC 7044 (History-Info), RFC 3891 (Replaces), RFC 7989 (Session-ID).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final, TypeVar
from urllib.parse import unquote

from collector.parse.reader import ParseError

T = TypeVar("T")

MAX_VALUE: Final = 512
"""Longest identifier or URI kept, as record columns hold no more. A longer URI is cut, as numbers
come first in it; a longer identifier is refused, as cutting could make two into one."""
_MEMOISED: Final = 4096
_MAX_MEMOISED: Final = 256
MAX_LIST: Final = 8
"""Entries kept of one list header."""

_CSEQ: Final = re.compile(r"([0-9]{1,10})\s+([A-Za-z0-9\-.!%*_+`'~]{1,64})")
_VIA: Final = re.compile(r"SIP\s*/\s*2\.0\s*/\s*\w+\s+([^;]+)(;.*)?", re.IGNORECASE | re.DOTALL)
_CAUSE: Final = re.compile(r"cause\s*=\s*\"?([0-9]{1,3})", re.IGNORECASE)
_REASON: Final = re.compile(r"[a-z0-9-]{1,32}")
_SESSION_ID: Final = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)
_PLAIN_ADDR: Final = re.compile(
    r'(?:"?([^"<>,;\\]*[^"<>,;\\ ])"? ?)?<([^<>"\s]{1,512})>(?:;tag=([^\s;,"<>]{1,512}))?'
)
"""Display name, URI and tag of an address without parameters but the tag, nor escapes."""
_SPECIAL: Final = re.compile(r'[",;<>\\]')


def bounded(value: str) -> str:
    """An identifier as it is; raises ParseError for one longer than MAX_VALUE."""
    if len(value) > MAX_VALUE:
        raise ParseError("sip-long")
    return value


def memoised(read: Callable[[str], T]) -> Callable[[str], T]:
    """`read`, which remembers what it made of values lately: all messages of a call have the same.

    Of short ones only, so that all of a cache takes no more than 2 MB.
    """
    known = lru_cache(_MEMOISED)(read)

    def found(value: str) -> T:
        return known(value) if len(value) <= _MAX_MEMOISED else read(value)

    return found


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


@memoised
def cseq(value: str) -> tuple[int, str]:
    """(number, method in upper case) of a CSeq (RFC 3261 section 20.16)."""
    match = _CSEQ.fullmatch(value)
    if match is None or int(match[1]) > 0xFFFF_FFFF:
        raise ParseError("sip-cseq")
    return int(match[1]), match[2].upper()


def name_addr(value: str) -> tuple[str, str, str]:
    """(display name, URI with its headers, tag) of a From, To or P-Asserted-Identity value.

    Without <> every parameter belongs to the header, not to the URI (RFC 3261 section 20.10).
    """
    plain = _PLAIN_ADDR.fullmatch(value)
    if plain:  # what nearly every phone and proxy sends
        return plain[1] or "", plain[2], plain[3] or ""
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


@memoised
def top_via(value: str) -> tuple[str, str]:
    """(sent-by, branch) of the first element of a Via header."""
    return via(split_list(value)[0])


@memoised
def party(value: str) -> tuple[str, str, bool]:
    """(URI, tag, whether it withholds who it is) of a From or To value."""
    display, uri, tag = name_addr(value)
    return no_headers(uri), tag, is_anonymous(display, uri)


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


Diversion = tuple[str, str, str]
"""(header, URI, reason) of one diversion; reason is "" where none is stated."""


def diversions(diverted: Iterable[str], history: Iterable[str]) -> tuple[Diversion, ...]:
    """Entries of Diversion, newest first as sent (RFC 5806 section 3), then of History-Info, oldest
    first, of which the last is the present target and no diversion (RFC 7044 section 5; causes also
    as RFC 4458 has them)."""
    found = [("diversion", uri, _reason(value)) for value, uri in _addresses(diverted)]
    past = [uri for _, uri in _addresses(history)]
    for old, new in zip(past, past[1:], strict=False):
        uri, _, headers = old.partition("?")
        # The response that an entry got stands with it; a retarget's cause with the new target.
        reason = _cause(unquote(headers)) or _cause(new.partition("?")[0])
        found.append(("history-info", uri, reason))
    return tuple(found[:MAX_LIST])


def _addresses(values: Iterable[str]) -> list[tuple[str, str]]:
    """(value, URI) of each that can be read; one that cannot says nothing."""
    found = []
    for value in values:
        try:
            found.append((value, name_addr(value)[1]))
        except ParseError:
            continue
    return found


def _reason(value: str) -> str:
    for parameter in split_list(value, ";")[1:]:
        name, _, content = parameter.partition("=")
        if name.strip().lower() == "reason":
            word = content.strip().strip('"').lower()
            return word if _REASON.fullmatch(word) else "other"
    return ""


def _cause(text: str) -> str:
    match = _CAUSE.search(text)
    return match[1] if match else ""


def replaced(value: str) -> str:
    """Call-ID of a Replaces header (RFC 3891 section 6.1)."""
    return value.partition(";")[0].strip()[:MAX_VALUE]


def referred_to(value: str) -> str:
    """The target of a Refer-To without its headers and parameters (RFC 3515); "" for none."""
    found = _addresses([value])
    return bare_uri(found[0][1]) if found else ""


def no_headers(uri: str) -> str:
    """A URI without its headers, which may hold a subject or a body (RFC 3261 section 19.1.1)."""
    return uri.partition("?")[0][:MAX_VALUE]


def bare_uri(uri: str) -> str:
    """A URI without headers and parameters, as two that mean the same party are compared."""
    return no_headers(uri).partition(";")[0]


def session_id(value: str) -> str:
    """The local UUID of a Session-ID (RFC 7989 section 5), in lower case; "" for none or null."""
    match = _SESSION_ID.match(value)
    return match[0].lower() if match and match[0].strip("0") else ""
