"""Accounting packets in any order, twice or never: what the intervals may and may not say.

A world of lines and sessions is made first, whose begins and ends are the truth. A NAS tells it to
the microsecond, and the network delivers what it likes of it: each packet up to `REORDER_S` late,
any of them twice, many not at all. Whatever arrives, for one address no two intervals overlap, no
interval begins before its session or ends after the last that was told of it, a stated end is the
true one, and the bounds of an inferred end contain it. The bound for silence, 2.5 intervals, rests
on no two reports of a session in a row being lost, so there it is asked for only then.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from collector.parse.radius import INTERIM, START, STOP, Accounting
from collector.wire.addr import pack
from tests.collector.track.test_sessions import NOON, SECOND, event, feed, rows_of

INTERVAL_S: Final = 300
REORDER_S: Final = 20
SPAN_S: Final = 9 * 3600
"""A morning, so that no slice of a day comes into it."""
ADDRESSES: Final = [pack(f"100.64.0.{number}") for number in range(1, 4)]


@dataclass(frozen=True)
class Truth:
    """One session as it was; times in seconds after noon less a morning."""

    session: str
    line: int
    address: bytes
    begin: int
    end: int


def world(seed: int, lines: int) -> list[Truth]:
    """Sessions of some lines one after another; an address is free for a while before its next."""
    rng = random.Random(seed)
    free = dict.fromkeys(ADDRESSES, 0)
    found: list[Truth] = []
    at = dict.fromkeys(range(lines), 0)
    for number in range(rng.randrange(1, 12)):
        line = rng.randrange(lines)
        address = rng.choice(ADDRESSES)
        begin = max(at[line], free[address]) + rng.choice((60, 200, 2000))
        end = begin + rng.choice((30, 299, 1234, 4000))
        if end > SPAN_S:
            break
        found.append(Truth(f"s{number}", line, address, begin, end))
        at[line] = end
        free[address] = end
    return found


def told(truth: Truth) -> list[Accounting]:
    """What the NAS sends of a session."""
    common: dict[str, Any] = {
        "framed_ipv4": truth.address,
        "nas_port_id": f"p{truth.line}",
        "calling": f"02000000000{truth.line}",
        "interim_s": INTERVAL_S,
        "cui": truth.session,
    }
    found = [event(truth.begin, START, truth.session, **common)]
    for at in range(truth.begin + INTERVAL_S, truth.end, INTERVAL_S):
        seconds = at - truth.begin
        octets = {"up": seconds, "down": 7 * seconds}
        found.append(event(at, INTERIM, truth.session, session_s=seconds, **octets, **common))
    seconds = truth.end - truth.begin
    stop = {"session_s": seconds, "up": seconds, "terminate_cause": 1}
    return [*found, event(truth.end, STOP, truth.session, **stop, **common)]


def delivered(
    sent: list[Accounting], seed: int, loss: float, twice: float, in_a_row: int
) -> list[Accounting]:
    """What arrives, in order of arrival; the delay of each is told in Acct-Delay-Time as a resend
    would, so that its time is known to a second."""
    rng = random.Random(seed)
    found = []
    lost: dict[str, int] = {}
    for each in sent:
        is_lost = rng.random() < loss
        if each.status != STOP and is_lost:
            lost[each.profile.session_id] = lost.get(each.profile.session_id, 0) + 1
            is_lost = lost[each.profile.session_id] <= in_a_row
        if is_lost:
            continue
        lost[each.profile.session_id] = 0
        for copy in range(2 if rng.random() < twice else 1):
            late = rng.randrange(REORDER_S) if rng.random() < 0.3 or copy else 0
            key = bytes((late,)) + each.transport[1:]
            arrived = replace(
                each, ts_ns=each.ts_ns + late * SECOND, delay_s=late or None, transport=key
            )
            found.append(arrived)
    return sorted(found, key=lambda each: (each.ts_ns, each.profile.session_id, each.status))


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    lines=st.integers(1, 3),
    loss=st.sampled_from((0.0, 0.1, 0.4, 0.8)),
    twice=st.sampled_from((0.0, 0.3)),
    in_a_row=st.sampled_from((1, 100)),
)
def test_intervals_of_whatever_arrives(
    seed: int, lines: int, loss: float, twice: float, in_a_row: int
) -> None:
    truths = {each.session: each for each in world(seed, lines)}
    sent = [packet for each in truths.values() for packet in told(each)]
    arrived = delivered(sent, seed, loss, twice, in_a_row)
    sessions, _ = feed(arrived, until=SPAN_S + 4000)
    assert sessions.open_sessions == 0
    rows, bindings = rows_of(sessions)
    rows = [row for row in rows if row["slice_end_ns"] > row["slice_start_ns"] or row["up_octets"]]
    for row in rows:
        _contains(row, truths[row["acct_session_id"]], in_a_row)
    if loss == 0.0:
        assert {row["acct_session_id"] for row in rows} == set(truths)
    _apart(bindings, {row["session_id"]: truths[row["acct_session_id"]] for row in rows})


def _contains(row: dict[str, Any], truth: Truth, in_a_row: int) -> None:
    """The truth lies within what the row says, and the row within the truth."""
    begin, end = (NOON + at * SECOND for at in (truth.begin, truth.end))
    assert row["start_ns"] == begin, "a start is stated, or derived to the second"
    assert begin <= row["end_min_ns"] <= end, "never longer than the truth"
    if row["end_reason"] == "stated":
        assert row["end_min_ns"] == end
    if row["end_reason"] != "inferred:stale" or in_a_row == 1:
        assert row["end_max_ns"] == 0 or end <= row["end_max_ns"]
    assert row["up_octets"] <= truth.end - truth.begin
    assert row["subscriber"] == truth.session


def _apart(bindings: list[dict[str, Any]], truths: dict[bytes, Truth]) -> None:
    """No two intervals of one address overlap, and none leaves its session's own time."""
    held: dict[bytes, list[tuple[int, int]]] = {}
    for row in bindings:
        if row["valid_to_ns"] == row["valid_from_ns"]:
            continue
        truth = truths[row["session_id"]]
        assert row["address"] == truth.address
        assert NOON + truth.begin * SECOND <= row["valid_from_ns"]
        assert row["valid_to_ns"] <= NOON + truth.end * SECOND
        held.setdefault(row["address"], []).append((row["valid_from_ns"], row["valid_to_ns"]))
    for spans in held.values():
        spans.sort()
        assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
