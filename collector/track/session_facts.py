"""What one accounting event says of a session: names and counters."""

from __future__ import annotations

from typing import Final

from collector.parse import radius
from collector.parse.radius import Access, Accounting
from collector.parse.radius_attributes import Profile
from collector.track.nastime import SECOND_NS
from collector.track.session_nas import MIN_INTERVAL_NS
from collector.track.session_state import Session
from collector.wire.records import SESSION_COUNTERS_DISAGREE

_MAX_OCTETS: Final = (1 << 64) - 1
"""A column holds 64 bits; a NAS that counts past them is lying."""
_SEPARATORS: Final = str.maketrans("", "", ":-. ")
_WORST: Final = {radius.VERIFIED: 0, radius.UNVERIFIED: 1, radius.BAD: 2, "": -1}


def describe(
    session: Session, event: Accounting | Access, subscriber_from: tuple[str, ...]
) -> None:
    """Takes over what the event says; a missing attribute changes nothing."""
    session.settled = None
    said = event.profile
    user, _, realm = said.user_name.rpartition("@")
    if not user:
        user, realm = said.user_name, ""
    session.user_name = user or session.user_name
    session.realm = realm or session.realm
    session.cui = said.cui or session.cui
    session.line = line_of(said) or session.line
    session.mac = mac_of(said.calling) or session.mac
    if not session.subscriber:
        sources = {
            "cui": said.cui,
            "class": said.klass,
            "user_name": said.user_name,
            "calling": said.calling,
            "line": f"{session.nas}/{session.line}" if session.line else "",
        }
        named = (sources[name] for name in subscriber_from)
        session.subscriber = next((value for value in named if value), "")
    if _WORST[event.verified] > _WORST[session.verified]:
        session.verified = event.verified
    if said.timeout_s:
        session.timeout_ns = said.timeout_s * SECOND_NS
    if said.interim_s:
        session.interval_ns = max(MIN_INTERVAL_NS, said.interim_s * SECOND_NS)


def line_of(profile: Profile) -> str:
    """NAS-Port-Id, else NAS-Port, else nothing."""
    return profile.nas_port_id or ("" if profile.nas_port is None else str(profile.nas_port))


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
    up, down = directions(event, swapped)
    elapsed = max(at - session.proof_ns, SECOND_NS)
    may_wrap = 0 if event.gigawords else line_speed_bps * elapsed // (8 * SECOND_NS)
    if up is not None and (up >= session.raw_up or at >= session.proof_ns):
        grown, is_reset = _grown(session.raw_up, up, may_wrap)
        session.up, session.raw_up = min(session.up + grown, _MAX_OCTETS), up
        resets += is_reset
    if down is not None and (down >= session.raw_down or at >= session.proof_ns):
        grown, is_reset = _grown(session.raw_down, down, may_wrap)
        session.down, session.raw_down = min(session.down + grown, _MAX_OCTETS), down
        resets += is_reset
    if resets:
        session.flags |= SESSION_COUNTERS_DISAGREE
    return resets


def _grown(before: int, value: int, may_wrap: int) -> tuple[int, bool]:
    """Octets that a counter grew by, and whether it restarted; `may_wrap` are as many as one that
    wrapped can have grown by."""
    grown = value - before
    if grown >= 0:
        return grown, False
    wrapped = grown % (1 << 32)
    return (wrapped, False) if wrapped <= may_wrap else (value, True)
