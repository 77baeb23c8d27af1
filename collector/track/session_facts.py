"""What one accounting event says of a session: names, counters, and whether it was said before."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from collector.parse import radius
from collector.parse.radius import Access, Accounting, Disconnect
from collector.track.nastime import SECOND_NS
from collector.track.session_nas import MIN_INTERVAL_NS
from collector.track.session_state import Session
from collector.wire.records import SESSION_COUNTERS_DISAGREE

SAME_NS: Final = 2 * SECOND_NS
"""Two reports this close with the same content are one event: a resend's time is known to a second
(Acct-Delay-Time) on either side."""
_SEPARATORS: Final = str.maketrans("", "", ":-. ")
_WORST: Final = {radius.VERIFIED: 0, radius.UNVERIFIED: 1, radius.BAD: 2, "": -1}


def describe(
    session: Session, event: Accounting | Access, subscriber_from: tuple[str, ...]
) -> None:
    """Takes over what the event says; a missing attribute changes nothing."""
    user, _, realm = event.user_name.rpartition("@")
    if not user:
        user, realm = event.user_name, ""
    session.user_name = user or session.user_name
    session.realm = realm or session.realm
    session.cui = event.cui or session.cui
    session.line = line_of(event) or session.line
    session.mac = mac_of(event.calling) or session.mac
    if not session.subscriber:
        sources = {
            "cui": event.cui,
            "class": event.klass,
            "user_name": event.user_name,
            "calling": event.calling,
            "line": f"{session.nas}/{session.line}" if session.line else "",
        }
        named = (sources[name] for name in subscriber_from)
        session.subscriber = next((value for value in named if value), "")
    if _WORST[event.verified] > _WORST[session.verified]:
        session.verified = event.verified
    if event.timeout_s:
        session.timeout_ns = event.timeout_s * SECOND_NS
    if event.interim_s:
        session.interval_ns = max(MIN_INTERVAL_NS, event.interim_s * SECOND_NS)


def line_of(event: Accounting | Access | Disconnect) -> str:
    """NAS-Port-Id, else NAS-Port, else nothing."""
    return event.nas_port_id or ("" if event.nas_port is None else str(event.nas_port))


def mac_of(text: str) -> str:
    """The hardware address that a Calling-Station-Id is (RFC 3580 section 3.20), however it is
    written, as twelve hex digits; empty where it is something else."""
    digits = text.translate(_SEPARATORS).lower()
    return digits if len(digits) == 12 and not digits.strip("0123456789abcdef") else ""


def directions(event: Accounting, swapped: bool) -> tuple[int | None, int | None]:
    """(up, down) octets from the subscriber's view; `swapped` for a NAS that reports its own."""
    return (event.down, event.up) if swapped else (event.up, event.down)


def add_octets(
    session: Session, event: Accounting, at: int, swapped: bool, line_speed_bps: int
) -> int:
    """Adds what each counter grew by, one that shrank having wrapped or restarted; returns how
    many restarted.

    A NAS without gigawords wraps at 2^32 octets; more than the line's speed allows since the last
    report is no wrap but a restart from 0, which is flagged.
    """
    resets = 0
    elapsed = max(at - session.proof_ns, SECOND_NS)
    for way, value in zip(("up", "down"), directions(event, swapped), strict=True):
        if value is None:
            continue
        before = getattr(session, "raw_" + way)
        grown = value - before
        if grown < 0 and at < session.proof_ns:
            continue
        if grown < 0:
            wrapped = grown % (1 << 32)
            if not event.gigawords and wrapped * 8 * SECOND_NS <= line_speed_bps * elapsed:
                grown = wrapped
            else:
                grown = value
                session.flags |= SESSION_COUNTERS_DISAGREE
                resets += 1
        # A column holds 64 bits; a NAS that counts past them is lying.
        setattr(session, way, min(getattr(session, way) + grown, (1 << 64) - 1))
        setattr(session, "raw_" + way, value)
    return resets


def fingerprint(event: Accounting) -> str:
    """What the event says, for telling a resend: everything but transport and delay."""
    addresses = (event.framed_ipv4, event.framed_prefixes, event.delegated_prefixes)
    said = (event.session_s, event.up, event.down, event.terminate_cause, event.framed_ipv6)
    return hashlib.blake2b(repr(said + addresses).encode(), digest_size=8).hexdigest()


def same(before: list[Any], now: list[Any]) -> bool:
    """One event reported twice: same status and content, times within SAME_NS."""
    return (
        bool(before)
        and before[0] == now[0]
        and before[2] == now[2]
        and abs(before[1] - now[1]) <= SAME_NS
    )
