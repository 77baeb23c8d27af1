"""The report that nearly every message is: an Interim that says again what the one before said.

Of a session that is open and settled (`Session.settled`) it proves life and moves two counters, and
no rule but that of `SessionRules._alive` applies. `goes_on` does the same in a fifth of the time,
or changes nothing and leaves the report to the rules. Tests give both the same events.
"""

from __future__ import annotations

from typing import Final

from collector.parse.radius import INTERIM, Accounting
from collector.track.session_nas import Nas
from collector.track.session_seen import SAME_NS
from collector.track.session_state import DAY_NS, Session
from collector.track.versions import Versions
from collector.wire.records import SESSION

_OBSERVED, _PROOF, _UP, _DOWN, _ACKED, _FLAGS, _SEEN, _STAMP = map(
    SESSION.names.index,
    ("observed_ns", "end_min_ns", "up_octets", "down_octets", "acked", "flags")
    + ("last_seen_ns", "last_stamp_ns"),
)
"""Columns of a session's row that one report changes."""
_MAX_OCTETS: Final = (1 << 64) - 1


def goes_on(session: Session, event: Accounting, at: int, nas: Nas, out: Versions) -> bool:
    """Takes a report in order with counters that grew, at time `at`; False where it is another.

    To take it as proof of life is left to the caller.
    """
    up, down, seen, since = event.up, event.down, session.seen, session.proof_ns
    # It is the same object from the parser, and an equal one from the journal.
    if (
        (event.profile is not session.settled and event.profile != session.settled)
        or event.status != INTERIM
        or event.verified != session.verified
        or up is None
        or down is None
        or seen is None
        or session.row is None
    ):
        return False
    midnight = session.slice_ns // DAY_NS * DAY_NS + DAY_NS
    all_up, all_down = session.up + up - session.raw_up, session.down + down - session.raw_down
    if (
        at - since <= SAME_NS
        or not at < session.timer_ns < midnight
        or session.unproven
        or up < session.raw_up
        or down < session.raw_down
        or all_up > _MAX_OCTETS
        or all_down > _MAX_OCTETS
    ):
        return False
    if seen.status == INTERIM:
        nas.learn_interval(at - since)
    session.up, session.raw_up, session.down, session.raw_down = all_up, up, all_down, down
    session.heard(event.ts_ns, event.event_s)
    seen.status, seen.at_ns, seen.said = INTERIM, at, event
    row = session.row = session.row.copy()
    row[_OBSERVED] = max(event.ts_ns, row[_OBSERVED] + 1000)
    row[_PROOF], row[_UP], row[_DOWN] = at, all_up, all_down
    row[_ACKED], row[_FLAGS] = session.acked, session.flags
    row[_SEEN], row[_STAMP] = session.last_seen_ns, session.last_stamp_ns
    out.again("session", row)
    return True
