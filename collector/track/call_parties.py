"""The parties of a call: turns an INVITE's headers into who called, was dialled, diverted and pays.

RFC 3261 section 20 (From, To), RFC 3325 (P-Asserted-Identity), RFC 3323 (Privacy), RFC 5806 and
7044 (diversions). What a peer that is not trusted asserts is recorded and not used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from collector.parse.sip import SipEvent
from collector.track import numbers
from collector.track.numbers import Number
from collector.wire.addr import network
from collector.wire.records import MAX_STRING_BYTES

Prefix = tuple[bytes, int]
"""Base and length in 128 bits of a prefix, as `collector.wire.addr.network` gives it."""

_json: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_WITHHELD: Final = frozenset(("id", "user", "header"))
"""Privacy values that withhold the caller (RFC 3323 section 4.2, RFC 3325 section 9.3)."""
_NUMERIC: Final = frozenset(("e164", "emergency", "short", "invalid"))


@dataclass(frozen=True, slots=True)
class Parties:
    """Who called whom. withheld: the caller asked not to be shown. asserted: as sent, trusted or
    not. diversions: JSON of [header, number, reason]. charged: caller or diverter."""

    caller: Number
    caller_source: str
    asserted: str
    callee: Number
    callee_source: str
    withheld: bool
    emergency: bool
    diversions: str
    charged: str


def parties_of(
    event: SipEvent, direction: str, region: str, trusted: tuple[Prefix, ...]
) -> Parties:
    """The parties as the subscriber's side sees them, "out" for the caller's (rules 15 to 17)."""
    caller, caller_source = numbers.from_uri(event.from_uri, region), "from"
    believed = bool(event.p_asserted or event.diversions) and within(event.src, trusted)
    stated = best(event.p_asserted, region)
    if stated.raw and believed:
        caller, caller_source = stated, "p-asserted-identity"
    called = [
        (numbers.from_uri(uri, region), source)
        for uri, source in ((event.request_uri, "request-uri"), (event.to_uri, "to"))
        if uri
    ]
    callee, callee_source = _dialled(called, direction)
    return Parties(
        caller=caller,
        caller_source=caller_source,
        asserted=stated.raw,
        callee=callee,
        callee_source=callee_source,
        withheld=event.anonymous or bool(_WITHHELD.intersection(event.privacy)),
        emergency=any(number.kind == "emergency" for number, _ in called),
        diversions=diverted(event, region),
        # Whoever diverts pays for the leg onwards; a stranger cannot make another pay by saying so.
        charged="diverter" if event.diversions and believed else "caller",
    )


def diverted(event: SipEvent, region: str, before: str = "") -> str:
    """The diversions of a message as the column has them, after those known `before`."""
    told = json.loads(before) if before else []
    for header, uri, reason in event.diversions:
        number = numbers.from_uri(uri, region)
        told.append([header, number.e164 or number.raw, reason])
    return fitting(told)


def best(uris: Sequence[str], region: str) -> Number:
    """Of several URIs of one party the first that is a valid number, else the first."""
    stated = [numbers.from_uri(uri, region) for uri in uris]
    return next((number for number in stated if number.e164), stated[0] if stated else numbers.NONE)


def within(address: bytes, prefixes: tuple[Prefix, ...]) -> bool:
    """Whether one of the prefixes holds the address."""
    return any(network(address, length) == base for base, length in prefixes)


def fitting(entries: Sequence[Sequence[object]]) -> str:
    """JSON of as many entries, from the first on, as a string column holds; "" of none."""
    kept = list(entries)
    while kept:
        text = _json(kept)
        if len(text.encode("utf-8", "replace")) <= MAX_STRING_BYTES:
            return text
        kept.pop()
    return ""


def parameters(number: Number) -> str:
    """What a number carries besides its digits, as a URI would have it."""
    return ";".join(f"{name}={value}" if value else name for name, value in number.parameters)


def _dialled(called: list[tuple[Number, str]], direction: str) -> tuple[Number, str]:
    """Who was called: the Request-URI as the caller sent it, the To as the callee got it, where
    the Request-URI is the phone's own contact; a number before a name."""
    ordered = called if direction == "out" else called[::-1]
    named = [each for each in ordered if each[0].kind in _NUMERIC]
    named += [each for each in ordered if each[0].raw]
    return named[0] if named else (numbers.NONE, "")
