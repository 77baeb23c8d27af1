"""SIP: turns one message into a `SipEvent` with what a call record needs.

RFC 3261 sections 7 and 25, RFC 3325 (P-Asserted-Identity), RFC 3323 (Privacy), RFC 3326 (Reason),
RFC 4028 (Session-Expires). Of bodies only the origin of a session description is looked at, and
only its hash goes further. Display names are read only for whether they withhold the number.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from collector.parse import sip_values
from collector.parse.reader import ParseError
from collector.parse.sip_framer import Framer
from collector.parse.sip_head import (
    END,
    MAX_BODY_READ,
    MAX_HEAD_BYTES,
    ORIGIN,
    START,
    Headers,
    every,
    headers_of,
    only,
)

__all__ = ["MAX_HEAD_BYTES", "Framer", "SipEvent", "parse"]

_RESPONSE: Final = re.compile(r"SIP/2\.0 ([1-6][0-9]{2})(?: .*)?", re.IGNORECASE)
_BASIC: Final = 5
"""Headers that every message has: Call-ID, CSeq, From, To and Via."""
_REQUEST: Final = re.compile(r"([A-Za-z0-9\-.!%*_+`'~]{1,64}) (\S+) SIP/2\.0", re.IGNORECASE)


@dataclass(slots=True)
class SipEvent:
    """One SIP message; texts are "" and numbers 0 where the message says nothing.

    Not frozen, only because a frozen one takes three times as long to make.

    status: 0 for a request, whose name is `method`; for a response `method` is that of its CSeq.
    branch, sent_by: of the topmost Via. anonymous: the From header withholds the caller.
    p_asserted: URIs of P-Asserted-Identity; whether they count is for the reader to decide by the
    sender. session_expires: seconds. diversions: as `sip_values.diversions`. replaces: a Call-ID.
    refer_to: URI without parameters. referred: whether Referred-By is there. session_id: of RFC
    7989. origin: hash of who made the session description (RFC 8866 section 5.2, o=).
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
    diversions: tuple[sip_values.Diversion, ...] = ()
    replaces: str = ""
    refer_to: str = ""
    referred: bool = False
    session_id: str = ""
    origin: str = ""

    def to_json(self) -> dict[str, object]:
        """A JSON-able dict, bytes as hex; `from_json` gives an equal event back."""
        out: dict[str, object] = {name: getattr(self, name) for name in _FIELDS}
        out["src"], out["dst"] = self.src.hex(), self.dst.hex()
        for name in _LISTS:
            out[name] = list(getattr(self, name))
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SipEvent:
        """The event that `to_json` wrote; raises KeyError, TypeError or ValueError for others."""
        values = {name: data[name] for name in _FIELDS}
        values["src"], values["dst"] = bytes.fromhex(data["src"]), bytes.fromhex(data["dst"])
        for name in _LISTS:
            values[name] = tuple(data[name])
        values["diversions"] = tuple((a, b, c) for a, b, c in data["diversions"])
        return cls(**values)


_FIELDS: Final = tuple(field.name for field in fields(SipEvent))
_LISTS: Final = ("p_asserted", "privacy", "diversions")


def parse(
    payload: bytes, ts_ns: int, src: bytes, sport: int, dst: bytes, dport: int, protocol: int
) -> SipEvent | None:
    """The event of one message, a datagram's payload or one of `Framer`.

    None for keep-alives and for bytes that do not begin as SIP. Raises ParseError for SIP that
    lacks its empty line, exceeds a limit, or has no usable Call-ID, CSeq, From, To or Via.
    """
    start = len(payload) - len(payload.lstrip(b"\r\n"))
    if not START.match(payload, start):
        return None
    end = END.search(payload, start, start + MAX_HEAD_BYTES + 4)
    if end is None:
        raise ParseError("sip-truncated")
    # Outside of quoted text SIP is ASCII; escaping the rest keeps different bytes different.
    text = payload[start : end.start()].decode("utf-8", "backslashreplace").replace("\0", "\\x00")
    first, _, rest = text.partition("\n")
    headers = headers_of(rest)
    response = _RESPONSE.fullmatch(first.rstrip("\r"))
    request = None if response else _REQUEST.fullmatch(first.rstrip("\r"))
    if response is None and request is None:
        raise ParseError("sip-start")
    number, method = sip_values.cseq(only(headers, "cseq"))
    if request is not None and request[1].upper() != method:
        raise ParseError("sip-cseq")
    from_uri, from_tag, is_anonymous = sip_values.party(only(headers, "from"))
    to_uri, to_tag, _ = sip_values.party(only(headers, "to"))
    sent_by, branch = sip_values.top_via(only(headers, "via"))
    return SipEvent(
        ts_ns=ts_ns,
        src=src,
        sport=sport,
        dst=dst,
        dport=dport,
        protocol=protocol,
        method=method,
        status=int(response[1]) if response else 0,
        cseq=number,
        call_id=sip_values.bounded(only(headers, "call-id")),
        from_uri=from_uri,
        from_tag=from_tag,
        to_uri=to_uri,
        to_tag=to_tag,
        request_uri=sip_values.no_headers(request[2]) if request else "",
        branch=branch,
        sent_by=sent_by,
        anonymous=is_anonymous,
        origin=_origin(payload, end.end()) if method == "INVITE" and request else "",
        **(_rarer(headers) if len(headers) > _BASIC else {}),
    )


def _rarer(headers: Headers) -> dict[str, Any]:
    """What headers say that most messages have none of."""
    asserted = [
        sip_values.no_headers(sip_values.name_addr(value)[1])
        for value in every(headers, "p-asserted-identity")
    ]
    return {
        "p_asserted": tuple(asserted[: sip_values.MAX_LIST]),
        "privacy": sip_values.privacy(headers.get("privacy", [])),
        "q850": sip_values.q850(every(headers, "reason")),
        "session_expires": sip_values.seconds(headers.get("session-expires", [""])[0]),
        "diversions": sip_values.diversions(
            every(headers, "diversion"), every(headers, "history-info")
        ),
        "replaces": sip_values.replaced(headers.get("replaces", [""])[0]),
        "refer_to": sip_values.referred_to(headers.get("refer-to", [""])[0]),
        "referred": "referred-by" in headers,
        "session_id": sip_values.session_id(headers.get("session-id", [""])[0]),
    }


def _origin(payload: bytes, begin: int) -> str:
    """Hash of the session's origin without its version; "" where the body states none."""
    match = ORIGIN.search(payload, begin, begin + MAX_BODY_READ)
    return hashlib.blake2b(match[1] + match[2], digest_size=8).hexdigest() if match else ""
