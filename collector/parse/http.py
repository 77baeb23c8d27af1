"""HTTP/1.x: turns the first bytes of a request into the host it is for, and into nothing else.

RFC 9112 sections 2 and 3, RFC 9110 section 7.2. Path, query, user-info, Referer, cookies and body
are content: they are never kept, returned, or put into an error.
"""

from __future__ import annotations

import re
from typing import Final

from collector.parse.host import authority_host
from collector.parse.reader import Incomplete, ParseError

MAX_HEAD_BYTES: Final = 65_536
"""Longest request head read: nginx takes 32 KiB by default, Apache 8 KiB a line and 100 lines."""

_START: Final = re.compile(
    rb"[A-Z][A-Z_-]{1,31} (?:[/*]|[Hh][Tt][Tt][Pp][Ss]?://|[^ /]{1,260}:[0-9]{1,5} HTTP/1)"
)
"""A method and a target in one of the four forms (RFC 9112 section 3.2). A SIP or RTSP request has
another scheme and does not match."""
_METHOD: Final = re.compile(rb"[A-Z][A-Z_-]{0,31}(?: |\Z)")
_VERSION: Final = re.compile(rb"HTTP/1\.[0-9]\Z")
_ABSOLUTE: Final = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]*)")
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_HOST: Final = re.compile(rb"\n[Hh][Oo][Ss][Tt][ \t]*:([^\r\n]*)\r?\n")
_LENGTH: Final = re.compile(
    rb"\n[Cc][Oo][Nn][Tt][Ee][Nn][Tt]-[Ll][Ee][Nn][Gg][Tt][Hh][ \t]*:[ \t]*([0-9]{1,10})[ \t]*\r?\n"
)
_USUAL: Final = re.compile(
    rb"(?!CONNECT )[A-Z][A-Z_-]{0,31} [/*][^\n]* HTTP/1\.[0-9][\r ]*" + _HOST.pattern
)
"""Nearly every request: origin form, and Host first as RFC 9110 section 7.2 asks; one match says
what the steps of `parse_request_host` would say. No pattern here can backtrack over more than one
run of its input: time stays linear."""


def looks_like_request(payload: bytes) -> bool:
    """Whether a TCP payload begins an HTTP/1.x request, by its method and the target's start."""
    return _START.match(payload) is not None


def parse_request_host(stream: bytes) -> str | Incomplete:
    """The host of the request at the start of a client's TCP stream.

    The target's own authority where it has one (absolute form, CONNECT), else the first Host
    header; "" where there is neither (HTTP/1.0) or it is empty. Lower case, no port, no brackets.
    Answers as soon as the host is there; else `Incomplete.need` is the least length of the stream
    at which to try again. Raises ParseError if this is no HTTP/1.x request or its head is larger
    than MAX_HEAD_BYTES.
    """
    usual = _USUAL.match(stream, 0, MAX_HEAD_BYTES)
    if usual is not None:
        return _value_host(usual)
    line_end = stream.find(b"\n", 0, MAX_HEAD_BYTES)
    if line_end < 0:
        if stream and not _METHOD.match(stream, 0, 33):
            raise ParseError("request")
        return _more(stream)
    method, _, rest = stream[:line_end].rstrip(b"\r ").partition(b" ")
    target, _, version = rest.rpartition(b" ")
    # A target should hold no spaces; clients that leave them in are served all the same.
    target = target.strip(b" ")
    if not target or not _VERSION.match(version) or not _METHOD.match(method):
        raise ParseError("request")
    if method == b"CONNECT":
        return authority_host(target)
    if not target.startswith((b"/", b"*")):
        absolute = _ABSOLUTE.match(target)
        if absolute is None:
            raise ParseError("target")
        return authority_host(absolute.group(1))
    # The request line's own line end may begin the empty line of a head without headers.
    head_end = _HEAD_END.search(stream, line_end, MAX_HEAD_BYTES)
    stop = min(len(stream), MAX_HEAD_BYTES) if head_end is None else head_end.start() + 1
    host = _HOST.search(stream, line_end, stop)
    if host is not None:
        return _value_host(host)
    if head_end is not None:
        return ""
    return _more(stream)


def _value_host(header: re.Match[bytes]) -> str:
    value = header.group(1).strip(b" \t")
    return authority_host(value) if value else ""


def request_end(stream: bytes) -> int:
    """Where the request at the start of a stream ends and a pipelined one may begin (RFC 9112
    section 9.3.2), after its body where a length is stated; 0 where the head is not whole.

    A chunked body (section 7.1) is not walked through: the request then ends with its head.
    """
    line_end = stream.find(b"\n", 0, MAX_HEAD_BYTES)
    head_end = _HEAD_END.search(stream, max(line_end, 0), MAX_HEAD_BYTES)
    if head_end is None:
        return 0
    length = _LENGTH.search(stream, 0, head_end.start() + 1)
    return head_end.end() + (int(length.group(1)) if length else 0)


def _more(stream: bytes) -> Incomplete:
    if len(stream) >= MAX_HEAD_BYTES:
        raise ParseError("head")
    return Incomplete(len(stream) + 1)
