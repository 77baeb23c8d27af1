"""SIP: turns one message into a `SipEvent` with what a call record needs, and frames TCP streams.

RFC 3261 sections 7 and 25, RFC 3325 (P-Asserted-Identity), RFC 3323 (Privacy), RFC 3326 (Reason),
RFC 4028 (Session-Expires). Bodies are never looked at: the framer steps over them and the parser
stops at the empty line. Display names are read only for whether they withhold the number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from collector.parse.reader import ParseError

MAX_HEAD_BYTES: Final = 64 * 1024
"""Longest start line and headers. The most a UDP datagram can carry, so TCP gets no more."""
MAX_BODY_BYTES: Final = 1024 * 1024
"""Longest body stepped over in a stream; a larger Content-Length means that framing was lost."""
MAX_HEADERS: Final = 256
"""Header fields read; long record routes and Via chains stay under 100."""
MAX_VALUE: Final = 512
"""Longest identifier or URI kept, as record columns hold no more. A longer URI is cut, as numbers
come first in it; a longer identifier is refused, as cutting could make two into one."""
MAX_LIST: Final = 8
"""Entries kept of one list header."""

_START: Final = re.compile(
    rb"SIP/2\.0 [1-6][0-9][0-9](?: |\r?\n|$)"
    rb"|[A-Za-z0-9\-.!%*_+`'~]{1,64} [^\s]{1,4096} SIP/2\.0\r?\n",
    re.IGNORECASE,
)
_RESPONSE: Final = re.compile(r"SIP/2\.0 ([1-6][0-9]{2})(?: .*)?", re.IGNORECASE)
_REQUEST: Final = re.compile(r"([A-Za-z0-9\-.!%*_+`'~]{1,64}) (\S+) SIP/2\.0", re.IGNORECASE)
_CSEQ: Final = re.compile(r"([0-9]{1,10})\s+([A-Za-z0-9\-.!%*_+`'~]{1,64})")
_VIA: Final = re.compile(r"SIP\s*/\s*2\.0\s*/\s*\w+\s+([^;]+)(;.*)?", re.IGNORECASE | re.DOTALL)
_CAUSE: Final = re.compile(r"cause\s*=\s*\"?([0-9]{1,3})", re.IGNORECASE)
_END: Final = re.compile(rb"\r\n\r\n|\n\n|\n\r\n")
_SPECIAL: Final = re.compile(r'[",;<>\\]')
_FOLD: Final = re.compile(r"\r?\n[ \t]+")

_COMPACT: Final = {
    "i": "call-id",
    "f": "from",
    "t": "to",
    "v": "via",
    "x": "session-expires",
    "l": "content-length",
}
"""Compact forms of the headers read here (RFC 3261 section 7.3.3, RFC 4028 section 4)."""
_WANTED: Final = frozenset(
    ("call-id", "from", "to", "via", "cseq", "session-expires")
    + ("p-asserted-identity", "privacy", "reason")
)


@dataclass(frozen=True, slots=True)
class SipEvent:
    """One SIP message; texts are "" and numbers 0 where the message says nothing.

    status: 0 for a request, whose name is `method`; for a response `method` is that of its CSeq.
    branch, sent_by: of the topmost Via. anonymous: the From header withholds the caller.
    p_asserted: URIs of P-Asserted-Identity; whether they count is for the reader to decide by the
    sender. session_expires: seconds.
    """

    ts_ns: int
    src: bytes
    sport: int
    dst: bytes
    dport: int
    protocol: int
    method: str
    status: int
    cseq: int
    call_id: str
    from_uri: str
    from_tag: str
    to_uri: str
    to_tag: str
    request_uri: str = ""
    branch: str = ""
    sent_by: str = ""
    anonymous: bool = False
    p_asserted: tuple[str, ...] = ()
    privacy: tuple[str, ...] = ()
    q850: int = 0
    session_expires: int = 0

    def to_json(self) -> dict[str, object]:
        """A JSON-able dict, bytes as hex; `from_json` gives an equal event back."""
        out: dict[str, object] = {name: getattr(self, name) for name in _FIELDS}
        out["src"], out["dst"] = self.src.hex(), self.dst.hex()
        out["p_asserted"], out["privacy"] = list(self.p_asserted), list(self.privacy)
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SipEvent:
        """The event that `to_json` wrote; raises KeyError, TypeError or ValueError for others."""
        values = {name: data[name] for name in _FIELDS}
        values["src"], values["dst"] = bytes.fromhex(data["src"]), bytes.fromhex(data["dst"])
        values["p_asserted"], values["privacy"] = (
            tuple(data["p_asserted"]),
            tuple(data["privacy"]),
        )
        return cls(**values)


_FIELDS: Final = tuple(field.name for field in fields(SipEvent))


def parse(
    payload: bytes, ts_ns: int, src: bytes, sport: int, dst: bytes, dport: int, protocol: int
) -> SipEvent | None:
    """The event of one message, a datagram's payload or one of `Framer`.

    None for keep-alives and for bytes that do not begin as SIP. Raises ParseError for SIP that
    lacks its empty line, exceeds a limit, or has no usable Call-ID, CSeq, From, To or Via.
    """
    start = len(payload) - len(payload.lstrip(b"\r\n"))
    if not _START.match(payload, start):
        return None
    end = _END.search(payload, start, start + MAX_HEAD_BYTES + 4)
    if end is None:
        raise ParseError("sip-truncated")
    # Outside of quoted text SIP is ASCII; escaping the rest keeps different bytes different.
    text = payload[start : end.start()].decode("utf-8", "backslashreplace").replace("\0", "\\x00")
    first, _, rest = text.partition("\n")
    headers = _headers(rest)
    response = _RESPONSE.fullmatch(first.rstrip("\r"))
    request = None if response else _REQUEST.fullmatch(first.rstrip("\r"))
    if response is None and request is None:
        raise ParseError("sip-start")
    cseq = _CSEQ.fullmatch(_only(headers, "cseq"))
    if cseq is None or int(cseq[1]) > 0xFFFF_FFFF:
        raise ParseError("sip-cseq")
    method = cseq[2].upper()
    if request is not None and request[1].upper() != method:
        raise ParseError("sip-cseq")
    display, from_uri, from_tag = _name_addr(_only(headers, "from"))
    _, to_uri, to_tag = _name_addr(_only(headers, "to"))
    sent_by, branch = _via(split_list(_only(headers, "via"))[0])
    asserted = [_name_addr(v)[1] for v in _all(headers, "p-asserted-identity")]
    return SipEvent(
        ts_ns=ts_ns,
        src=src,
        sport=sport,
        dst=dst,
        dport=dport,
        protocol=protocol,
        method=method,
        status=int(response[1]) if response else 0,
        cseq=int(cseq[1]),
        call_id=_bounded(_only(headers, "call-id")),
        from_uri=from_uri,
        from_tag=from_tag,
        to_uri=to_uri,
        to_tag=to_tag,
        request_uri=request[2][:MAX_VALUE] if request else "",
        branch=branch,
        sent_by=sent_by,
        anonymous=_is_anonymous(display, from_uri),
        p_asserted=tuple(asserted[:MAX_LIST]),
        privacy=_privacy(headers),
        q850=_q850(headers),
        session_expires=_seconds(headers),
    )


def _headers(text: str) -> dict[str, list[str]]:
    """Values by name in lower case and long form: unfolded first, then stripped."""
    out: dict[str, list[str]] = {}
    lines = _FOLD.sub(" ", text).split("\n")
    if len(lines) > MAX_HEADERS:
        raise ParseError("sip-headers")
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        name = _COMPACT.get(name, name)
        if colon and name in _WANTED:
            out.setdefault(name, []).append(value.strip())
    return out


def _only(headers: dict[str, list[str]], name: str) -> str:
    """The first field of that name, which must be there."""
    values = headers.get(name)
    if not values or not values[0]:
        raise ParseError("sip-missing")
    return values[0]


def _all(headers: dict[str, list[str]], name: str) -> list[str]:
    """Every element of every field of that name."""
    return [part for value in headers.get(name, []) for part in split_list(value) if part]


def _bounded(value: str) -> str:
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


def _name_addr(value: str) -> tuple[str, str, str]:
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
            tag = _bounded(content.strip())
            break
    return display, first.strip()[:MAX_VALUE], tag


def _via(value: str) -> tuple[str, str]:
    """(sent-by, branch) of one Via element (RFC 3261 section 20.42)."""
    match = _VIA.fullmatch(value)
    if match is None:
        raise ParseError("sip-via")
    branch = ""
    for parameter in (match[2] or "").split(";"):
        name, _, content = parameter.partition("=")
        if name.strip().lower() == "branch":
            branch = _bounded(content.strip())
            break
    return _bounded("".join(match[1].split()).lower()), branch


def _is_anonymous(display: str, uri: str) -> bool:
    """RFC 3323 section 4.1.1.3: the anonymous URI, or the display name that stands for it."""
    host = uri.rpartition("@")[2].partition(";")[0].lower()
    user = uri.partition(":")[2].partition("@")[0].lower()
    return (
        host == "anonymous.invalid" or user == "anonymous" or display.strip().lower() == "anonymous"
    )


def _privacy(headers: dict[str, list[str]]) -> tuple[str, ...]:
    tokens = {
        token.strip().lower()[:32]
        for value in headers.get("privacy", [])
        for token in value.replace(",", ";").split(";")
    }
    return tuple(sorted(tokens - {""}))[:MAX_LIST]


def _q850(headers: dict[str, list[str]]) -> int:
    """Cause of the first Q.850 reason (RFC 3326 section 2); 0 without one."""
    for reason in _all(headers, "reason"):
        protocol, *parameters = split_list(reason, ";")
        if protocol.lower() != "q.850":
            continue
        for parameter in parameters:
            match = _CAUSE.match(parameter)
            if match and int(match[1]) <= 127:
                return int(match[1])
    return 0


def _seconds(headers: dict[str, list[str]]) -> int:
    """Session-Expires in seconds, at most 32 bits; 0 without one or where it is no number."""
    digits = headers.get("session-expires", [""])[0].partition(";")[0].strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 9 else 0


class Framer:
    """Cuts one direction of a TCP connection into messages by Content-Length.

    RFC 3261 sections 7.5 and 18.3. Give it contiguous bytes; it gives each message's start line
    and headers as soon as their empty line is there, and steps over the body. After bytes that
    cannot be a message, or after `gap`, it looks for the next start line; `skipped` counts bytes
    passed over so.
    """

    __slots__ = ("_body", "_buffer", "_scanned", "skipped")

    def __init__(self) -> None:
        self._buffer = b""
        self._body = 0
        self._scanned = 0
        self.skipped = 0

    def gap(self) -> None:
        """Bytes are missing here: the message at hand is given up."""
        self.skipped += len(self._buffer)
        self._buffer = b""
        self._body = self._scanned = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The messages, without bodies, whose headers end within the bytes so far."""
        out: list[bytes] = []
        data = self._buffer + data
        at = 0
        while at < len(data):
            if self._body:
                step = min(self._body, len(data) - at)
                at += step
                self._body -= step
            elif data[at] in b"\r\n":
                at += 1
            else:
                after = self._next(data, at, out)
                if after == at:
                    break
                at, self._scanned = after, 0
        self._buffer = data[at:]
        if len(self._buffer) > MAX_HEAD_BYTES:
            self.gap()
        return out

    def _next(self, data: bytes, at: int, out: list[bytes]) -> int:
        """Appends the message at `at` and gives the position after its headers, or after a line
        that begins none; gives `at` where more bytes are needed."""
        line_end = data.find(b"\n", at)
        if line_end < 0:
            return at
        if _START.match(data, at):
            end = _END.search(data, max(at, at + self._scanned - 4), at + MAX_HEAD_BYTES)
            if end is None:
                self._scanned = len(data) - at
                if self._scanned <= MAX_HEAD_BYTES:
                    return at
            else:
                length = _content_length(data[at : end.end()])
                if length is not None:
                    out.append(data[at : end.end()])
                    self._body = length
                    return end.end()
        self.skipped += line_end + 1 - at
        return line_end + 1


_LENGTH: Final = re.compile(rb"\n(?:content-length|l)[ \t]*:[ \t]*([0-9]{1,10})[ \t]*\r?\n", re.I)


def _content_length(message: bytes) -> int | None:
    """Bytes of body that follow; 0 without the header, None where it cannot be right."""
    match = _LENGTH.search(message)
    length = int(match[1]) if match else 0
    return length if length <= MAX_BODY_BYTES else None
