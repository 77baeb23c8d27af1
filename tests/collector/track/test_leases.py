"""Leases and PPPoE as sessions: begins, ends, bounds, who gives way to whom, and crashes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.parse.lease import FOREVER_S, Lease
from collector.parse.pppoe import Ppp
from collector.parse.radius import INTERIM, START, STOP, Access, Disconnect
from collector.parse.radius_attributes import with_profile
from collector.track.sessions import EVENTS, SessionEvent, Sessions, SessionsConfig
from tests.collector.track.test_sessions import (
    DAY,
    MIDNIGHT,
    NAS,
    NOON,
    PD,
    SECOND,
    SERVER,
    A,
    B,
    event,
    rows_of,
)

MAC, OTHER, AC = "020000000007", "020000000008", "020000000001"


def lease(at: float, kind: str = "ACK", client: str = MAC, **fields: Any) -> Lease:
    values: dict[str, Any] = {"xid": round(at), "mac": client}
    if kind == "ACK":
        values |= {"addresses": ((A, 128, 3600),), "names": ("olt/1",)}
    return Lease(NOON + round(at * SECOND), 4, kind, client=client, **values | fields)


def prefix(at: float, valid_s: int = 3600, kind: str = "REPLY", **fields: Any) -> Lease:
    values: dict[str, Any] = {"mac": MAC, "prefixes": ((*PD, valid_s),)} | fields
    return Lease(NOON + round(at * SECOND), 6, kind, round(at), "0003" + MAC, **values)


def ppp(at: float, kind: str, up: bool = False, **fields: Any) -> Ppp:
    ends = (MAC, AC) if up else (AC, MAC)
    return Ppp(NOON + round(at * SECOND), kind, *ends, 17, **fields)


def run(events: Sequence[Any], until: float = 0, **config: Any) -> Any:
    sessions = Sessions(SessionsConfig(**config))
    for each in events:
        sessions.apply(each, each.ts_ns)
    if until:
        sessions.tick(NOON + round(until * SECOND))
    counts = sessions.counts
    assert counts["seen"] == counts["recorded"] + counts["ignored"] + counts["lost"]
    return rows_of(sessions)


def times(row: dict[str, Any], *names: str) -> list[float]:
    return [(row[name] - NOON) / SECOND for name in names]


BOUND = ("valid_from_ns", "valid_to_ns")


def test_a_lease_is_extended_and_given_back() -> None:
    (row,), (bound,) = run(
        [lease(0, subscriber="sub-7"), lease(1800), lease(2000, "RELEASE", requested=A)]
    )
    assert (row["nas"], row["line"], row["subscriber"]) == ("dhcp", "olt/1", "sub-7")
    assert (row["end_reason"], row["start_source"]) == ("stated", "stated")
    assert times(row, "start_ns", "end_min_ns", "end_max_ns") == [0, 2000, 2000]
    assert times(bound, *BOUND) == [0, 2000]
    assert (bound["certainty"], bound["source"], bound["address"]) == ("certain", "dhcp", A)


def test_a_lease_that_runs_out_is_bounded_by_its_end() -> None:
    (row,), (bound,) = run([lease(0), lease(1800)], until=9000)
    assert row["end_reason"] == "inferred:lease-expired"
    assert times(row, "end_min_ns", "end_max_ns") == [1800, 5400]
    assert times(bound, *BOUND) == [0, 5400]
    assert bound["certainty"] == "bounded"


def test_the_address_for_another_ends_a_lease() -> None:
    (first, second), (old, new) = run([lease(0), lease(600, client=OTHER)])
    assert (first["end_reason"], second["end_reason"]) == ("inferred:address-reused", "")
    assert times(old, *BOUND) == [0, 600]
    assert new["valid_from_ns"] == NOON + 600 * SECOND


def test_a_client_with_a_new_address_has_left_the_old_one() -> None:
    (first, _), (old, new) = run([lease(0), lease(600, addresses=((B, 128, 3600),))])
    assert first["end_reason"] == "inferred:new-lease"
    assert times(old, *BOUND) == [0, 600]
    assert new["address"] == B


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (lease(600, "DECLINE", requested=A), "inferred:declined"),
        (lease(600, "NAK", requested=A), "inferred:nak"),
        (lease(600, "NAK", requested=B), ""),  # it asked for another address
        (lease(600, "INFORM", requested=A), ""),
        (lease(600, "RELEASE", client=OTHER, requested=A), ""),
    ],
)
def test_what_ends_a_lease(message: Lease, reason: str) -> None:
    (row,), _ = run([lease(0), message])
    assert row["end_reason"] == reason


def test_the_same_answer_on_both_sides_of_a_relay_is_one() -> None:
    twice = [lease(0), replace(lease(0.1), names=(), xid=0)]
    assert run(twice) == run(twice[:1])


def test_another_line_or_owner_is_another_lease() -> None:
    for moved in (lease(600, names=("olt/2",)), lease(600, subscriber="sub-8")):
        (first, second), _ = run([lease(0, subscriber="sub-7"), moved])
        assert first["end_reason"] == "inferred:line-changed"
        assert second["start_ns"] == NOON + 600 * SECOND


def test_an_owner_known_later_is_told_with_the_next_answer() -> None:
    (row,), (bound,) = run([lease(0), lease(600, subscriber="sub-7")])
    assert row["subscriber"] == bound["subscriber"] == "sub-7"


def test_slices_and_leases_without_end() -> None:
    rows, bindings = run([lease(0, addresses=((A, 128, FOREVER_S),))], until=130_000)
    assert [r["slice_start_ns"] for r in rows] == [NOON, MIDNIGHT, MIDNIGHT + DAY]
    assert [b["valid_to_ns"] for b in bindings] == [MIDNIGHT, MIDNIGHT + DAY, 0]


def test_a_delegated_prefix_takes_the_subscriber_of_the_session_beside_it() -> None:
    start = event(0, START, framed_ipv4=A, cui="cui-7", calling="02-00-00-00-00-07")
    rows, (four, six) = run([start, prefix(5), prefix(900, 0)])
    assert (six["subscriber"], six["source"], six["prefix_len"]) == ("cui-7", "dhcpv6-pd", 56)
    assert times(six, *BOUND) == [5, 900]
    assert four["valid_to_ns"] == 0
    assert len(rows) == 2


def test_an_accounted_session_takes_the_place_of_its_lease() -> None:
    start = event(1, START, framed_ipv4=A, cui="cui-7")
    (withdrawn, row), bindings = run([lease(0), start, lease(1800)])
    assert withdrawn["slice_start_ns"] == withdrawn["slice_end_ns"]
    assert (row["subscriber"], row["end_reason"]) == ("cui-7", "")
    held = [b for b in bindings if b["valid_from_ns"] != b["valid_to_ns"]]
    assert [b["subscriber"] for b in held] == ["cui-7"]
    (long, _), _ = run([lease(0), lease(1800), event(2000, START, framed_ipv4=A)])
    assert (long["end_reason"], long["end_min_ns"]) == (
        "inferred:superseded",
        NOON + 2000 * SECOND,
    )


def test_pppoe_from_pads_to_padt() -> None:
    (row,), (bound,) = run(
        [
            ppp(0, "PADS", names=("olt/1",)),
            ppp(1, "USER", up=True, user_name="line7@isp.example"),
            ppp(2, "ADDRESS", address=A),
            ppp(2, "ADDRESS", up=True, address=B),  # the concentrator's own
            ppp(600, "PADT", up=True),
            ppp(601, "PADT"),
        ]
    )
    assert (row["nas"], row["acct_session_id"]) == (f"pppoe:{AC}", f"0011/{MAC}")
    assert (row["line"], row["user_name"], row["realm"]) == ("olt/1", "line7", "isp.example")
    assert times(row, "start_ns", "end_min_ns") == [0, 600]
    assert (bound["address"], bound["source"], bound["certainty"]) == (A, "pppoe", "certain")
    assert times(bound, *BOUND) == [2, 600]
    assert bound["subscriber"] == "line7@isp.example"


def test_pppoe_whose_padt_is_lost() -> None:
    begun: list[SessionEvent] = [ppp(0, "PADS", names=("olt/1",)), ppp(2, "ADDRESS", address=A)]
    again = replace(ppp(900, "PADS", names=("olt/1",)), session=18)
    (first, _), (bound,) = run([*begun, again])
    assert first["end_reason"] == "inferred:port-reused"
    assert times(first, "end_min_ns", "end_max_ns") == [2, 900]
    assert times(bound, *BOUND) == [2, 2]
    (first, _), _ = run([*begun, ppp(900, "PADS")])
    assert first["end_reason"] == "inferred:session-id-reused"


def test_pppoe_beside_accounting_is_withdrawn() -> None:
    begun = [ppp(0, "PADS"), ppp(2, "ADDRESS", address=A)]
    start = event(3, START, framed_ipv4=A, cui="cui-7")
    for script in ([*begun, start], [start, *begun]):
        rows, bindings = run(script)
        assert [r["subscriber"] for r in rows if r["slice_end_ns"] != r["slice_start_ns"]] == [
            "cui-7"
        ]
        held = [b for b in bindings if b["valid_from_ns"] != b["valid_to_ns"]]
        assert [b["subscriber"] for b in held] == ["cui-7"]


def accept(at: float, **fields: Any) -> Access:
    values: dict[str, Any] = {
        "verified": "verified",
        "user_name": "line7@isp.example",
        "nas_identifier": "bng-1",
        "nas_port_id": "ge-0/0/1:100",
        "delegated_prefixes": (PD,),
    } | fields
    return Access(NOON + round(at * SECOND), NAS, SERVER, **with_profile(values))


def test_a_prefix_is_learned_from_the_accept() -> None:
    granted = accept(-5, cui="cui-7", timeout_s=600)
    (row,), bindings = run([granted, event(0, START, framed_ipv4=A)], until=5000)
    six, four = sorted(bindings, key=lambda b: str(b["source"]))
    assert (row["subscriber"], row["end_reason"]) == ("cui-7", "inferred:session-timeout")
    assert (six["source"], four["source"]) == ("accept", "accounting")
    assert (six["address"], six["prefix_len"], six["valid_from_ns"]) == (*PD, NOON)
    # What accounting says itself counts, what another line was granted does not.
    other = (B[:12] + bytes(4), 120)
    for script in (
        [granted, event(0, START, delegated_prefixes=(other,))],
        [accept(-5, nas_port_id="ge-0/0/2"), event(0, START, delegated_prefixes=(other,))],
        [accept(-5, verified="bad"), event(0, START, delegated_prefixes=(other,))],
    ):
        _, (bound,) = run(script)
        assert (bound["address"], bound["source"]) == (other[0], "accounting")


def test_an_accept_for_an_open_session_adds_to_it() -> None:
    _, (six,) = run([event(0, START), accept(50, session_id="s1")])
    assert (six["source"], six["valid_from_ns"]) == ("accept", NOON + 50 * SECOND)


def disconnect(at: float, **fields: Any) -> Disconnect:
    values = {"verified": "verified", "session_id": "s1", "nas_identifier": "bng-1"} | fields
    return Disconnect(NOON + round(at * SECOND), NAS, SERVER, **with_profile(values))


def test_a_disconnect_bounds_a_session_whose_stop_is_lost() -> None:
    opened = [event(0, START, framed_ipv4=A), event(300, INTERIM, session_s=300)]
    (row,), (bound,) = run([*opened, disconnect(500)], until=3000)
    assert row["end_reason"] == "inferred:disconnect-ack"
    assert times(row, "end_min_ns", "end_max_ns") == [300, 500]
    assert times(bound, *BOUND) == [0, 300]
    stop = event(501, STOP, session_s=501, terminate_cause=6)
    (row,), _ = run([*opened, disconnect(500), stop], until=3000)
    assert (row["end_reason"], row["terminate_cause"]) == ("stated", 6)
    (row,), _ = run([*opened, disconnect(500), event(600, INTERIM, session_s=600)], until=3000)
    assert row["end_reason"] == ""  # it lived on
    (row,), _ = run([*opened, disconnect(500, verified="bad")], until=3000)
    assert row["end_reason"] == ""


SCRIPT: list[SessionEvent] = [
    accept(-5),
    lease(0, subscriber="sub-7"),
    event(10, START, framed_ipv4=B),
    prefix(11),
    ppp(12, "PADS", names=("olt/9",)),
    ppp(13, "USER", up=True, user_name="u"),
    ppp(14, "ADDRESS", address=A),
    lease(1800, client=OTHER, addresses=((B, 128, 60),)),
    disconnect(1900),
    prefix(1950, kind="RELEASE"),
    ppp(2000, "PADT"),
]


@pytest.mark.parametrize("cut", range(len(SCRIPT) + 1))
def test_a_crash_and_a_replay_of_the_journal_give_the_same_rows(cut: int) -> None:
    before = Sessions()
    for each in SCRIPT[:cut]:
        before.apply(each, each.ts_ns)
    after = Sessions()
    after.restore(json.loads(json.dumps(before.snapshot())), NOON + 10**6 * SECOND)
    names = {kind: name for name, kind in EVENTS.items()}
    for each in SCRIPT[cut:]:
        line = json.loads(json.dumps([names[type(each)], each.to_json()]))
        after.apply(EVENTS[line[0]].from_json(line[1]), each.ts_ns)
    assert rows_of(after) == run(SCRIPT)


ANY = st.one_of(
    st.builds(
        lease,
        at=st.integers(0, 90_000),
        kind=st.sampled_from(("ACK", "RELEASE", "NAK", "DECLINE")),
        client=st.sampled_from((MAC, OTHER)),
        addresses=st.sampled_from((((A, 128, 600),), ((B, 128, 50_000),), ((A, 128, 0),))),
        requested=st.sampled_from((A, B, None)),
    ),
    st.builds(prefix, at=st.integers(0, 90_000), valid_s=st.sampled_from((0, 600, 90_000))),
    st.builds(
        ppp,
        at=st.integers(0, 90_000),
        kind=st.sampled_from(("PADS", "ADDRESS", "PADT")),
        address=st.just(A),
    ),
    st.builds(
        event,
        at=st.integers(0, 90_000),
        status=st.sampled_from((START, STOP)),
        session=st.sampled_from(("s1", "s2")),
        framed_ipv4=st.sampled_from((A, B)),
    ),
    st.builds(accept, at=st.integers(0, 90_000)),
    st.builds(disconnect, at=st.integers(0, 90_000)),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(ANY, max_size=25))
def test_nothing_is_held_by_two_at_once(script: list[SessionEvent]) -> None:
    script.sort(key=lambda e: e.ts_ns)
    rows, bindings = run(script, 200_000)
    for row in rows:
        assert row["end_max_ns"] == 0 or row["end_min_ns"] <= row["end_max_ns"]
    held: dict[bytes, list[tuple[int, int]]] = {}
    for row in bindings:
        end = row["valid_to_ns"] or 1 << 62
        assert row["valid_from_ns"] <= end
        if row["valid_from_ns"] < end:
            held.setdefault(row["address"], []).append((row["valid_from_ns"], end))
    for spans in held.values():
        spans.sort()
        assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
