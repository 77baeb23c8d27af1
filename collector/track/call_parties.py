"""The parties of a call: turns an INVITE's URIs into the numbers of caller and callee."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from collector.parse.sip import SipEvent
from collector.track import numbers
from collector.track.numbers import Number
from collector.wire.addr import network

Prefix = tuple[bytes, int]
"""Base and length in 128 bits of a prefix, as `collector.wire.addr.network` gives it."""

_WITHHELD: Final = frozenset(("id", "user", "header"))
"""Privacy values that withhold the caller (RFC 3323 section 4.2, RFC 3325 section 9.3)."""


@dataclass(frozen=True, slots=True)
class Parties:
    """Who called whom. withheld: the caller asked not to be shown."""

    caller: Number
    callee: Number
    withheld: bool
    emergency: bool


def parties_of(
    event: SipEvent, direction: str, region: str, trusted: tuple[Prefix, ...]
) -> Parties:
    """The parties as the subscriber's side sees them, "out" for the caller's (rules 15 to 17)."""
    caller = numbers.from_uri(event.from_uri, region)
    if event.p_asserted and within(event.src, trusted):
        stated = [numbers.from_uri(uri, region) for uri in event.p_asserted]
        caller = next((n for n in stated if n.e164), stated[0])
    called = [numbers.from_uri(uri, region) for uri in (event.request_uri, event.to_uri) if uri]
    return Parties(
        caller=caller,
        callee=_dialled(called, direction),
        withheld=event.anonymous or bool(_WITHHELD.intersection(event.privacy)),
        emergency=any(n.kind == "emergency" for n in called),
    )


def within(address: bytes, prefixes: tuple[Prefix, ...]) -> bool:
    """Whether one of the prefixes holds the address."""
    return any(network(address, length) == base for base, length in prefixes)


def _dialled(called: list[Number], direction: str) -> Number:
    """Who was called: the Request-URI as the caller sent it, the To as the callee got it, where
    the Request-URI is the phone's own contact; a number before a name."""
    ordered = called if direction == "out" else called[::-1]
    named = [n for n in ordered if n.kind in ("e164", "emergency", "short", "invalid")]
    named += [n for n in ordered if n.raw]
    return named[0] if named else numbers.NONE
