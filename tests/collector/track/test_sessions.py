"""Sessions: each rule as a short script of accounting events, a capture, replay and crash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.parse import ip, radius
from collector.parse.ip import Packet
from collector.parse.radius import INTERIM, OFF, ON, START, STOP, Accounting, AccountingAck
from collector.parse.radius_attributes import Profile, with_profile
from collector.track.nastime import NasClock
from collector.track.sessions import BindingChange, Sessions, SessionsConfig
from collector.wire.addr import pack
from collector.wire.records import (
    BINDING,
    SESSION,
    SESSION_COUNTERS_DISAGREE,
    SESSION_OPEN_ACROSS_RESTART,
)

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
NOON = 1_700_000_000 * SECOND // DAY * DAY + DAY // 2
MIDNIGHT = NOON + DAY // 2
NAS = pack("192.0.2.1")
SERVER = pack("192.0.2.2")
A = pack("100.64.0.7")
B = pack("100.64.0.8")
PD = (pack("2001:db8:aa00::"), 56)
WAN = (pack("2001:db8:bb00:1::"), 64)
CAPTURES = Path(__file__).parents[4] / "shared" / "data" / "captures" / "radius"


def event(at: float, status: int, session: str = "s1", **fields: Any) -> Accounting:
    """An Accounting-Request `at` seconds after noon; its transport key is its content."""
    ts_ns = NOON + round(at * SECOND)
    values: dict[str, Any] = {
        "ts_ns": ts_ns,
        "client": NAS,
        "client_port": 1646,
        "server": SERVER,
        "identifier": int(at) % 256,
        "verified": radius.VERIFIED,
        "status": status,
        "session_id": session,
        "user_name": "line7@isp.example",
        "nas_identifier": "bng-1",
        "nas_port_id": "ge-0/0/1:100",
    } | fields
    key = hashlib.blake2b(repr(sorted(values.items())).encode(), digest_size=16).digest()
    return Accounting(**with_profile({"transport": key} | values))


def rows_of(sessions: Sessions) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Newest versions of the session and binding rows, by start."""
    taken = sessions.take(0, 1 << 62, 1 << 62)
    out = []
    for record_class in (SESSION, BINDING):
        columns = taken[record_class.name]
        assert list(columns) == list(record_class.names)
        newest: dict[bytes, dict[str, Any]] = {}
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            old = newest.get(row["record_id"])
            assert old is None or row["observed_ns"] > old["observed_ns"]
            newest[row["record_id"]] = row
        out.append(sorted(newest.values(), key=lambda r: (r[record_class.time], r["record_id"])))
    return out[0], out[1]


def feed(
    events: Iterable[Accounting | AccountingAck], until: float = 0, **config: Any
) -> tuple[Sessions, list[BindingChange]]:
    """The tracker that has seen the events. Another, for which no report takes the short way, is
    to know the same."""
    sessions, other = Sessions(SessionsConfig(**config)), Sessions(SessionsConfig(**config))
    events = list(events)
    with patch("collector.track.sessions.goes_on", return_value=False):
        also = _fed(other, events, until)
    changes = _fed(sessions, events, until)
    counts = sessions.counts
    assert counts["seen"] == counts["recorded"] + counts["ignored"] + counts["lost"]
    assert (changes, sessions.snapshot()) == (also, other.snapshot())
    return sessions, changes


def _fed(
    sessions: Sessions, events: Iterable[Accounting | AccountingAck], until: float
) -> list[BindingChange]:
    changes = []
    for each in events:
        changes += sessions.apply(each, each.ts_ns)
    return changes + (sessions.tick(NOON + round(until * SECOND)) if until else [])


def run(events: Iterable[Accounting | AccountingAck], until: float = 0, **config: Any) -> Any:
    return rows_of(feed(events, until, **config)[0])


PLAIN = [
    event(0.25, START, framed_ipv4=A, cui="cui-7"),
    event(300.25, INTERIM, framed_ipv4=A, session_s=300, up=1000, down=5000),
    event(600.25, INTERIM, framed_ipv4=A, session_s=600, up=2000, down=9000),
    event(777.75, STOP, framed_ipv4=A, session_s=777, up=3000, down=10_000, terminate_cause=1),
]
STARTED = NOON + SECOND // 4
STOPPED = NOON + 777 * SECOND + 3 * SECOND // 4


def test_the_three_times_of_a_report_are_kept() -> None:
    """Event time, capture time and the NAS's own, which is three days ahead here (rule 2)."""
    ahead = NOON // SECOND + 3 * 86_400
    script = [
        event(0.25, START, framed_ipv4=A, event_s=ahead),
        event(304.25, INTERIM, framed_ipv4=A, delay_s=4, event_s=ahead + 300, session_s=300),
        event(309.25, STOP, framed_ipv4=A, delay_s=5, session_s=304),
        event(319.25, STOP, framed_ipv4=A, delay_s=15, session_s=304),  # resent: nothing new
    ]
    seen = {}
    for count in (1, 2, 4):
        (row,), _ = run(script[:count])
        assert row["start_ns"] == row["start_seen_ns"] == STARTED
        assert row["start_stamp_ns"] == ahead * SECOND
        seen[count] = [row[n] - NOON for n in ("end_min_ns", "last_seen_ns")]
        seen[count].append(row["last_stamp_ns"] and row["last_stamp_ns"] - ahead * SECOND)
    quarter = SECOND // 4
    assert seen == {
        1: [quarter, quarter, 0],
        2: [300 * SECOND + quarter, 304 * SECOND + quarter, 300 * SECOND],
        4: [304 * SECOND + quarter, 309 * SECOND + quarter, 0],
    }
    derived, _ = run(script[1:2])
    assert derived[0]["start_seen_ns"] == NOON + 304 * SECOND + quarter
    assert derived[0]["start_ns"] < STARTED + SECOND


def test_clean_session() -> None:
    sessions, changes = feed(PLAIN)
    (row,), (bound,) = rows_of(sessions)
    assert (row["start_ns"], row["slice_start_ns"]) == (STARTED, STARTED)
    assert row["slice_end_ns"] == row["end_min_ns"] == row["end_max_ns"] == STOPPED
    assert (row["start_source"], row["end_reason"]) == ("stated", "stated")
    assert (row["up_octets"], row["down_octets"], row["terminate_cause"]) == (3000, 10_000, 1)
    assert (row["subscriber"], row["user_name"], row["realm"]) == ("cui-7", "line7", "isp.example")
    assert (row["nas"], row["line"], row["verified"]) == ("bng-1", "ge-0/0/1:100", "verified")
    assert (row["flags"], row["acked"], row["nas_epoch"]) == (0, 0, 0)
    assert (bound["address"], bound["prefix_len"], bound["subscriber"]) == (A, 128, "cui-7")
    assert (bound["valid_from_ns"], bound["valid_to_ns"]) == (STARTED, STOPPED)
    assert (bound["certainty"], bound["source"]) == ("certain", "accounting")
    assert bound["session_id"] == row["session_id"]
    assert changes == [
        BindingChange(STARTED, A, 128, "open"),
        BindingChange(STOPPED, A, 128, "close"),
    ]
    assert sessions.open_sessions == 0
    assert sessions.counts["duration_disagree"] == 0


def test_versions_while_open() -> None:
    sessions, _ = feed(PLAIN[:2])
    (row,), (bound,) = rows_of(sessions)
    assert (row["slice_end_ns"], row["end_max_ns"], row["end_reason"]) == (0, 0, "")
    assert row["end_min_ns"] == NOON + 300 * SECOND + SECOND // 4
    assert bound["valid_to_ns"] == 0
    sessions.apply(PLAIN[2], 0)
    (later,), bindings = rows_of(sessions)
    assert later["record_id"] == row["record_id"]
    assert later["observed_ns"] > row["observed_ns"]
    assert bindings == []


def test_take_leaves_what_is_of_the_next_window() -> None:
    sessions, _ = feed(PLAIN)
    first = sessions.take(NOON, NOON + 300 * SECOND, NOON + 301 * SECOND)
    assert len(first["session"]["record_id"]) == len(first["binding"]["record_id"]) == 1
    second = sessions.take(NOON + 300 * SECOND, NOON + 900 * SECOND, NOON + 901 * SECOND)
    assert len(second["session"]["record_id"]) == 3


def test_exact_retransmissions_change_nothing() -> None:
    twice = [e for each in PLAIN for e in (each, replace(each, ts_ns=each.ts_ns + 3 * SECOND))]
    sessions, _ = feed(twice)
    assert sessions.counts["retransmissions"] == 4
    assert rows_of(sessions) == run(PLAIN)


def test_resends_with_a_delay_change_nothing() -> None:
    resent = [
        e
        for each in PLAIN
        for e in (
            each,
            replace(each, ts_ns=each.ts_ns + 5 * SECOND, delay_s=5, transport=each.transport[::-1]),
        )
    ]
    sessions, _ = feed(resent)
    assert sessions.counts["duplicates"] == 4
    assert rows_of(sessions) == run(PLAIN)


def test_a_first_copy_that_was_lost_costs_less_than_a_second() -> None:
    """Only resends arrive, 3.9 s late with a delay of 3 s; the stamp bounds them."""
    stamped = [replace(e, event_s=e.ts_ns // SECOND) for e in PLAIN]
    late = [
        replace(e, ts_ns=e.ts_ns + 39 * SECOND // 10, delay_s=3) if i in (0, 3) else e
        for i, e in enumerate(stamped)
    ]
    (row,), _ = run(late)
    assert abs(row["start_ns"] - STARTED) < SECOND
    assert abs(row["end_min_ns"] - STOPPED) < SECOND
    assert row["start_ns"] // SECOND == STARTED // SECOND


def test_event_time() -> None:
    at = 1_700_000_000 * SECOND
    clock = NasClock()
    assert clock.event_ns(at + 5, None, None) == at + 5
    assert clock.event_ns(at + 9 * SECOND, 4, None) == at + 5 * SECOND
    # A right clock bounds a resend to its second, and changes nothing within it.
    assert clock.event_ns(at + 300_000_000, None, 1_700_000_000) == at + 300_000_000
    assert clock.event_ns(at + 5_900_000_000, 5, 1_700_000_000) == at + 900_000_000
    assert clock.event_ns(at + 6_900_000_000, 5, 1_700_000_000) == at + SECOND - 1
    # A NAS that resends without counting the delay.
    found = clock.event_ns(at + 8_000_000_000, None, 1_700_000_000)
    assert at <= found < at + 2 * SECOND
    # A clock that is days off is not used, a stamp far from the rest neither.
    assert NasClock().event_ns(at, None, 1_700_200_000) == at
    assert clock.event_ns(at, None, 1_600_000_000) == at
    assert NasClock.from_json(json.loads(json.dumps(clock.to_json()))) == clock


def test_start_lost() -> None:
    (row,), (bound,) = run(PLAIN[1:])
    assert (row["start_source"], row["start_ns"]) == ("derived", STARTED)
    assert (row["end_reason"], row["slice_end_ns"]) == ("stated", STOPPED)
    assert (bound["valid_from_ns"], bound["certainty"]) == (STARTED, "bounded")


def test_stop_without_start() -> None:
    (row,), (bound,) = run(PLAIN[3:])
    assert (row["start_source"], row["end_reason"]) == ("derived", "stated")
    assert row["slice_end_ns"] == STOPPED
    assert row["start_ns"] == STOPPED - 777 * SECOND
    assert bound["valid_to_ns"] == STOPPED


def test_a_late_start_is_ignored() -> None:
    sessions, _ = feed([PLAIN[1], replace(PLAIN[0], ts_ns=PLAIN[1].ts_ns + 1), *PLAIN[2:]])
    (row,), _ = rows_of(sessions)
    assert row["start_source"] == "derived"
    assert sessions.counts["late"] == 1


def test_interim_after_the_stop_is_ignored() -> None:
    late = replace(PLAIN[2], ts_ns=PLAIN[3].ts_ns + SECOND)
    sessions, _ = feed([*PLAIN[:2], PLAIN[3], late])
    assert sessions.counts["late"] == 1
    assert len(rows_of(sessions)[0]) == 1


def test_stale_session_ends_at_its_last_proof() -> None:
    sessions, changes = feed(PLAIN[:3], until=5000, interim_interval_s=300)
    (row,), (bound,) = rows_of(sessions)
    proof = NOON + 600 * SECOND + SECOND // 4
    assert (row["end_reason"], row["end_min_ns"]) == ("inferred:stale", proof)
    assert row["end_max_ns"] == proof + 750 * SECOND
    assert (bound["valid_to_ns"], bound["certainty"]) == (proof, "bounded")
    assert changes[-1] == BindingChange(proof, A, 128, "close")


def test_the_interim_interval_is_learned() -> None:
    interims = [event(100 + 60 * i, INTERIM, session_s=100 + 60 * i) for i in range(5)]
    (row,), _ = run([event(0, START), *interims], until=5000)
    assert row["end_reason"] == "inferred:stale"
    (row,), _ = run([event(0, START)], until=40_000)
    assert row["end_reason"] == ""


def test_session_timeout() -> None:
    (row,), _ = run([event(0, START, timeout_s=3600)], until=4000)
    assert (row["end_reason"], row["end_min_ns"]) == ("inferred:session-timeout", NOON)
    assert row["end_max_ns"] == NOON + 3600 * SECOND


def test_a_session_thought_stale_that_speaks_again_goes_on() -> None:
    sessions, changes = feed(PLAIN[:3], until=1500, interim_interval_s=300)
    later = event(1600.25, INTERIM, framed_ipv4=A, session_s=1600, up=4000, down=12_000)
    changes += sessions.apply(later, 0)
    stop = event(1700.25, STOP, framed_ipv4=A, session_s=1700, up=4000, down=12_000)
    changes += sessions.apply(stop, 0)
    (row,), (bound,) = rows_of(sessions)
    assert (row["end_reason"], row["up_octets"]) == ("stated", 4000)
    assert bound["valid_to_ns"] == row["end_min_ns"] == NOON + 1700 * SECOND + SECOND // 4
    assert [c.kind for c in changes] == ["open", "close", "open", "close"]


def test_address_given_to_another() -> None:
    other = event(700, START, "s2", framed_ipv4=A, nas_port_id="p2", user_name="line8@isp.example")
    sessions, changes = feed([*PLAIN[:3], other])
    (first, second), (old, new) = rows_of(sessions)
    assert first["end_reason"] == "inferred:address-reused"
    assert first["end_min_ns"] == NOON + 600 * SECOND + SECOND // 4
    assert first["end_max_ns"] == NOON + 700 * SECOND
    assert old["valid_to_ns"] == first["end_min_ns"]
    assert (new["valid_from_ns"], new["subscriber"]) == (NOON + 700 * SECOND, "line8@isp.example")
    assert second["end_reason"] == ""
    assert [c.kind for c in changes] == ["open", "close", "open"]


def test_new_session_on_the_same_port_and_mac() -> None:
    mac = {"calling": "02-00-00-00-00-07"}
    events = [event(0, START, "s1", framed_ipv4=A, **mac), event(50, START, "s2", **mac)]
    (first, second), _ = run(events)
    assert (first["end_reason"], first["end_max_ns"]) == (
        "inferred:port-reused",
        NOON + 50 * SECOND,
    )
    assert second["end_reason"] == ""


def test_interim_with_a_new_address() -> None:
    sessions, changes = feed(
        [
            event(0, START, framed_ipv4=A),
            event(10, INTERIM, session_s=10, delegated_prefixes=(PD,), framed_prefixes=(WAN,)),
            event(60, INTERIM, session_s=60, framed_ipv4=B),
            event(90, STOP, session_s=90),
        ]
    )
    _, bindings = rows_of(sessions)
    got = {
        (b["address"], b["prefix_len"]): (b["valid_from_ns"], b["valid_to_ns"]) for b in bindings
    }
    second = SECOND
    assert got == {
        (A, 128): (NOON, NOON + 60 * second),
        (B, 128): (NOON + 60 * second, NOON + 90 * second),
        PD: (NOON + 10 * second, NOON + 90 * second),
        WAN: (NOON + 10 * second, NOON + 90 * second),
    }
    at_60 = [(c.address, c.kind) for c in changes if c.ts_ns == NOON + 60 * second]
    assert at_60 == [(A, "close"), (B, "open")]
    # The single /64 is counted under the length of the meter.
    assert (pack("2001:db8:bb00::"), 56) in {(c.address, c.prefix_len) for c in changes}


def test_accounting_on_ends_all_sessions_of_that_nas() -> None:
    other = event(5, START, "s9", framed_ipv4=B, nas_identifier="bng-2")
    on = event(900, ON, "boot")
    again = event(905, ON, "boot", delay_s=5)
    new = event(1000, START, framed_ipv4=A)
    sessions, _ = feed([PLAIN[0], other, PLAIN[1], on, again, new])
    old, elsewhere, fresh = rows_of(sessions)[0]
    assert (old["end_reason"], old["end_max_ns"]) == (
        "inferred:accounting-on",
        NOON + 900 * SECOND,
    )
    assert old["end_min_ns"] == PLAIN[1].ts_ns
    assert elsewhere["end_reason"] == ""
    assert (old["nas_epoch"], fresh["nas_epoch"]) == (0, 1)
    assert old["session_id"] != fresh["session_id"]
    assert sessions.counts["reboots"] == 1


def test_accounting_off_then_on_is_one_reboot() -> None:
    sessions, _ = feed([PLAIN[0], event(900, OFF, "boot"), event(960, ON, "boot")])
    assert rows_of(sessions)[0][0]["end_reason"] == "inferred:accounting-off"
    assert sessions.counts["reboots"] == 1


def test_a_stop_from_before_the_reboot_that_comes_after_it() -> None:
    stop = replace(PLAIN[3], ts_ns=NOON + 910 * SECOND, delay_s=132)
    sessions, _ = feed([*PLAIN[:3], event(900, ON, "boot"), stop])
    (row,), _ = rows_of(sessions)
    assert (row["end_reason"], row["up_octets"]) == ("stated", 3000)
    assert abs(row["end_min_ns"] - STOPPED) <= SECOND


def test_session_id_reused_without_a_stop() -> None:
    (first, second), _ = run([*PLAIN[:2], event(5000, START, framed_ipv4=A)])
    assert (first["end_reason"], first["end_min_ns"]) == (
        "inferred:session-id-reused",
        PLAIN[1].ts_ns,
    )
    assert second["start_ns"] == NOON + 5000 * SECOND


def test_session_id_reused_after_a_stop() -> None:
    rows, _ = run([*PLAIN, event(5000, START), event(5100, STOP, session_s=100)])
    assert [r["start_source"] for r in rows] == ["stated", "stated"]
    rows, _ = run([*PLAIN, event(5100, STOP, session_s=100)])
    assert [(r["start_source"], r["end_reason"]) for r in rows] == [
        ("stated", "stated"),
        ("derived", "stated"),
    ]


def test_second_stop_with_larger_counters() -> None:
    (row,), _ = run([*PLAIN, replace(PLAIN[3], up=3500, ts_ns=STOPPED + 9, transport=b"x" * 16)])
    assert (row["up_octets"], row["down_octets"]) == (3500, 10_000)
    assert row["flags"] == SESSION_COUNTERS_DISAGREE


def test_counter_wrap_and_reset() -> None:
    big = (1 << 32) - 1000
    wrap = [event(0, START), event(300, INTERIM, session_s=300, up=big, down=5)]
    (row,), _ = run([*wrap, event(600, INTERIM, session_s=600, up=500, down=6)])
    assert (row["up_octets"], row["flags"]) == (big + 1500, 0)
    (row,), _ = run([*wrap, event(600, INTERIM, session_s=600, up=500, down=6, gigawords=True)])
    assert (row["up_octets"], row["flags"]) == (big + 500, SESSION_COUNTERS_DISAGREE)
    slow = {"line_speed_bps": 1}
    (row,), _ = run([*wrap, event(600, INTERIM, session_s=600, up=500, down=6)], **slow)
    assert row["flags"] == SESSION_COUNTERS_DISAGREE


def test_swapped_nas() -> None:
    (row,), _ = run(PLAIN, swap_octets=frozenset({"bng-1"}))
    assert (row["up_octets"], row["down_octets"]) == (10_000, 3000)


def test_a_bad_authenticator_never_closes() -> None:
    forged = [
        replace(e, verified=radius.BAD)
        for e in (PLAIN[3], event(800, ON, "boot"), event(801, START, "s2", framed_ipv4=A))
    ]
    sessions, _ = feed([*PLAIN[:3], *forged])
    rows, bindings = rows_of(sessions)
    assert [(r["end_reason"], r["verified"]) for r in rows] == [("", "verified"), ("", "bad")]
    assert len(bindings) == 1
    assert sessions.counts["bad"] == 2


def test_acknowledged() -> None:
    start = PLAIN[0]
    ack = AccountingAck(start.ts_ns + 500, NAS, 1646, SERVER, start.identifier)
    (row,), _ = run([start, ack])
    assert row["acked"] == 1
    stranger = AccountingAck(start.ts_ns + 500, NAS, 1647, SERVER, start.identifier)
    (row,), _ = run([start, stranger])
    assert row["acked"] == 0


def test_slices_by_day() -> None:
    start, stop = event(43_000, START, framed_ipv4=A), event(43_500, STOP, session_s=500)
    (first, second), (old, new) = run([start, stop])
    assert (first["slice_end_ns"], first["end_min_ns"], first["end_reason"]) == (
        MIDNIGHT,
        MIDNIGHT,
        "",
    )
    assert (second["slice_start_ns"], second["slice_end_ns"]) == (MIDNIGHT, NOON + 43_500 * SECOND)
    assert first["start_ns"] == second["start_ns"]
    assert (old["valid_to_ns"], new["valid_from_ns"]) == (MIDNIGHT, MIDNIGHT)
    assert new["valid_to_ns"] == NOON + 43_500 * SECOND


def test_slices_at_the_tick_then_proven() -> None:
    sessions, _ = feed([event(43_000, START, framed_ipv4=A)], until=43_201)
    (first, second), _ = rows_of(sessions)
    assert (first["slice_end_ns"], first["end_min_ns"]) == (MIDNIGHT, NOON + 43_000 * SECOND)
    assert (second["slice_start_ns"], second["slice_end_ns"]) == (MIDNIGHT, 0)
    sessions.apply(event(43_300, INTERIM, session_s=300), 0)
    (proven, open_), _ = rows_of(sessions)
    assert (proven["record_id"], proven["end_min_ns"]) == (first["record_id"], MIDNIGHT)
    assert open_["end_min_ns"] == NOON + 43_300 * SECOND


def test_a_stop_from_before_midnight_heard_after_it() -> None:
    sessions, _ = feed([event(43_000, START, framed_ipv4=A)], until=43_201)
    sessions.apply(event(43_205, STOP, session_s=195, delay_s=10), 0)
    (first, second), (old, new) = rows_of(sessions)
    end = NOON + 43_195 * SECOND
    assert (first["slice_end_ns"], first["end_reason"]) == (end, "stated")
    assert second["slice_end_ns"] == second["slice_start_ns"] == MIDNIGHT
    assert (old["valid_to_ns"], new["valid_to_ns"]) == (end, MIDNIGHT)


def test_stale_over_midnight_withdraws_the_new_slice() -> None:
    sessions, _ = feed([event(43_000, START, framed_ipv4=A)], until=50_000, interim_interval_s=300)
    (first, second), _ = rows_of(sessions)
    assert (first["slice_end_ns"], first["end_reason"]) == (
        NOON + 43_000 * SECOND,
        "inferred:stale",
    )
    assert second["slice_end_ns"] == second["slice_start_ns"]


def test_long_session_found_in_the_middle() -> None:
    rows, bindings = run([event(0, INTERIM, session_s=3 * 86_400, framed_ipv4=A)])
    assert [r["slice_start_ns"] for r in rows] == [
        NOON - 3 * DAY,
        *(MIDNIGHT - n * DAY for n in (3, 2, 1)),
    ]
    assert [r["slice_end_ns"] for r in rows][:-1] == [r["slice_start_ns"] for r in rows][1:]
    assert [b["valid_from_ns"] for b in bindings] == [r["slice_start_ns"] for r in rows]


def test_an_absurd_session_time_is_bounded() -> None:
    rows, _ = run([event(0, STOP, session_s=0xFFFF_FFFF)])
    assert len(rows) == 32


def test_subscriber_order() -> None:
    start = event(0, START, cui="c", klass="k", calling="m")
    for order, expected in (
        (("class",), "k"),
        (("calling",), "m"),
        (("line",), "bng-1/ge-0/0/1:100"),
        (("user_name", "cui"), "line7@isp.example"),
    ):
        assert run([start], subscriber_from=order)[0][0]["subscriber"] == expected


def test_a_prefix_of_everybody_is_not_bound() -> None:
    sessions, changes = feed([event(0, START, framed_prefixes=((pack("2000::"), 3),))])
    assert changes == []
    assert sessions.counts["wide_prefixes"] == 1


def test_full_table_evicts_the_longest_silent_and_says_so() -> None:
    events = [event(n, START, f"s{n}", nas_port_id=f"p{n}") for n in range(5)]
    sessions, _ = feed(events, max_sessions=3)
    assert (sessions.open_sessions, sessions.counts["evicted"]) == (3, 2)
    rows, _ = rows_of(sessions)
    assert [r["end_reason"] for r in rows] == ["inferred:evicted"] * 2 + [""] * 3
    assert [loss.reason for loss in sessions.take_losses()] == ["session-evicted"] * 2


def test_full_nas_table() -> None:
    events = [event(n, START, f"s{n}", nas_identifier=f"n{n}") for n in range(3)]
    sessions, _ = feed(events, max_nas=2)
    assert sessions.counts["lost"] == 1
    assert sessions.take_losses()[0].reason == "nas-table-full"


MIXED: list[Accounting | AccountingAck] = sorted(
    [
        *PLAIN,
        AccountingAck(PLAIN[0].ts_ns + 9, NAS, 1646, SERVER, PLAIN[0].identifier),
        event(100, START, "s2", framed_ipv4=B, delegated_prefixes=(PD,), nas_port_id="p2"),
        event(400, INTERIM, "s2", session_s=300, up=10, nas_port_id="p2"),
        event(700, INTERIM, "s2", session_s=600, up=20, nas_port_id="p2"),
        event(500, INTERIM, "s3", session_s=90_000, framed_prefixes=(WAN,), nas_port_id="p3"),
        event(43_190, START, "s4", framed_ipv4=A, nas_port_id="p4", timeout_s=600),
        event(43_195, START, "s5", framed_ipv4=A, nas_port_id="p5"),
        event(43_300, STOP, "s5", session_s=100, delay_s=110, nas_port_id="p5"),
        event(43_400, ON, "boot"),
        event(43_500, INTERIM, "s3", session_s=50, framed_prefixes=(WAN,), nas_port_id="p3"),
        event(43_600, INTERIM, "s2", session_s=43_500, nas_port_id="p2", delay_s=300),
    ],
    key=lambda e: e.ts_ns,
)
END = 200_000


def test_replay_gives_the_same_rows() -> None:
    assert run(MIXED, END, interim_interval_s=600) == run(MIXED, END, interim_interval_s=600)
    sessions = Sessions(SessionsConfig(interim_interval_s=600))
    for each in MIXED:
        sessions.tick(each.ts_ns)
        sessions.apply(each, each.ts_ns + 7)
    sessions.tick(NOON + END * SECOND)
    assert rows_of(sessions) == run(MIXED, END, interim_interval_s=600)


@pytest.mark.parametrize("cut", range(len(MIXED) + 1))
def test_crash_and_replay_of_the_journal_gives_the_same_rows(cut: int) -> None:
    config = SessionsConfig()
    before = Sessions(config)
    for each in MIXED[:cut]:
        before.apply(each, each.ts_ns)
    state = json.loads(json.dumps(before.snapshot()))
    kinds = [(type(e), json.loads(json.dumps(e.to_json()))) for e in MIXED[cut:]]
    after = Sessions(config)
    after.restore(state, NOON + END * SECOND)
    for kind, line in kinds:
        each = kind.from_json(line)
        after.apply(each, each.ts_ns)
    assert rows_of(after) == run(MIXED)


def test_sessions_open_across_a_restart_are_marked() -> None:
    before, _ = feed(PLAIN[:2])
    after = Sessions()
    after.restore(json.loads(json.dumps(before.snapshot())), NOON + 400 * SECOND)
    after.apply(event(350, START, "s2", nas_port_id="p2"), 0)  # journalled before the restart
    after.apply(event(500, START, "s3", nas_port_id="p3"), 0)
    after.apply(PLAIN[3], 0)
    after.apply(event(900, STOP, "s2", session_s=550), 0)
    flags = {r["acct_session_id"]: r["flags"] for r in rows_of(after)[0]}
    across = SESSION_OPEN_ACROSS_RESTART
    assert flags == {"s1": across, "s2": across, "s3": 0}


def test_silence_while_no_collector_ran_ends_nothing() -> None:
    before, _ = feed(PLAIN[:2], interim_interval_s=300)
    after = Sessions(SessionsConfig(interim_interval_s=300))
    after.restore(before.snapshot(), NOON + 9000 * SECOND)
    after.tick(NOON + 9001 * SECOND)
    assert after.open_sessions == 1
    after.tick(NOON + 9751 * SECOND)
    assert after.open_sessions == 0


ANY = st.builds(
    event,
    at=st.integers(0, 100_000),
    status=st.sampled_from((START, INTERIM, STOP, ON, OFF, 9)),
    session=st.sampled_from(("s1", "s2", "s3")),
    framed_ipv4=st.sampled_from((None, A, B)),
    delegated_prefixes=st.sampled_from(((), (PD,))),
    session_s=st.none() | st.integers(0, 200_000),
    delay_s=st.none() | st.integers(0, 1000),
    up=st.none() | st.integers(0, 1 << 40),
    timeout_s=st.sampled_from((None, 600)),
    calling=st.sampled_from(("", "m")),
    verified=st.sampled_from((radius.VERIFIED, radius.BAD)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ANY, max_size=25), st.booleans())
def test_any_script_keeps_the_books(script: list[Accounting], ordered: bool) -> None:
    if ordered:
        script.sort(key=lambda e: e.ts_ns)
    sessions, changes = feed(script, 150_000, interim_interval_s=600)
    rows, bindings = rows_of(sessions)
    for row in rows:
        assert row["slice_end_ns"] == 0 or row["slice_start_ns"] <= row["slice_end_ns"]
        assert row["end_max_ns"] == 0 or row["end_min_ns"] <= row["end_max_ns"]
        last = max(row["slice_end_ns"] - 1, row["slice_start_ns"])
        assert row["slice_start_ns"] // DAY == last // DAY
    held: dict[tuple[bytes, int], list[tuple[int, int]]] = {}
    for row in bindings:
        end = row["valid_to_ns"] or 1 << 62
        assert row["valid_from_ns"] <= end
        if row["valid_from_ns"] < end:
            key = (row["address"], row["prefix_len"])
            held.setdefault(key, []).append((row["valid_from_ns"], end))
    opens: dict[tuple[bytes, int], int] = {}
    for change in changes:
        key = (change.address, change.prefix_len)
        opens[key] = opens.get(key, 0) + (1 if change.kind == "open" else -1)
        assert opens[key] in (0, 1)
    if ordered and all(not e.delay_s and not e.session_s for e in script):
        for spans in held.values():
            spans.sort()
            assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))


def test_session_of_a_capture() -> None:
    capture = CAPTURES / "wba_test_dl_5gb.tcpdump.radius.pcap"
    if not capture.is_file():
        pytest.skip("captures are not here")
    from scapy.utils import RawPcapReader

    with RawPcapReader(str(capture)) as reader:
        frames = [((m.sec * 1_000_000 + m.usec) * 1000, raw) for raw, m in reader]
    sessions = Sessions()
    for ts_ns, raw in frames:
        packet = ip.parse(ts_ns, int.from_bytes(raw[12:14], "big"), raw[14:])
        found = radius.parse(packet) if isinstance(packet, Packet) else None
        if isinstance(found, Accounting | AccountingAck):
            sessions.apply(found, ts_ns)
    (row,), _ = rows_of(sessions)
    text = capture.with_name(capture.name + ".expected.jsonl").read_text()
    packets = [line for line in map(json.loads, text.splitlines()) if line["code"] == 4]
    # The NAS's clock is three days ahead, so capture times stand.
    assert row["start_ns"] / SECOND == pytest.approx(packets[0]["t"], abs=1e-5)
    assert row["end_min_ns"] / SECOND == pytest.approx(packets[-1]["t"], abs=1e-5)
    assert abs(row["slice_end_ns"] - row["start_ns"] - 1773 * SECOND) < SECOND
    assert (row["up_octets"], row["down_octets"]) == (147_699_750, 1 << 32 | 1_387_251_012)
    assert (row["terminate_cause"], row["acked"], row["flags"]) == (1, 1, 0)
    assert sessions.counts["duration_disagree"] == 0


_STEADY = [event(0, START, framed_ipv4=A)] + [
    event(300 * n, INTERIM, framed_ipv4=A, session_s=300 * n, up=1000 * n, down=5000 * n)
    for n in range(1, 5)
]
_NEXT: dict[str, Any] = {"framed_ipv4": A, "session_s": 1500, "up": 5000, "down": 25_000}


@pytest.mark.parametrize(
    ("after", "what"),
    [
        (1500, {}),
        (1201, {"session_s": 1200, "up": 4000, "down": 20_000}),
        (1203, {"session_s": 1200, "up": 4000, "down": 20_000}),
        (1100, {}),
        (1500, {"up": 10}),
        (1500, {"down": 10}),
        (1500, {"up": 10, "gigawords": True}),
        (1500, {"down": None}),
        (1500, {"up": (1 << 64) - 1}),
        (1500, {"verified": radius.BAD}),
        (1500, {"verified": radius.UNVERIFIED}),
        (1500, {"framed_ipv4": B}),
        (1500, {"status": STOP}),
        (12 * 3600 + 5, {}),
        (30 * 3600, {}),
        (5000, {}),
    ],
)
def test_a_steady_session_and_then(after: float, what: dict[str, Any]) -> None:
    """`feed` compares the short way of a report with the rules."""
    then = event(after, **{"status": INTERIM, **_NEXT, **what})
    more = [replace(then, ts_ns=then.ts_ns + n * SECOND, transport=bytes((n,))) for n in (1, 240)]
    for config in ({}, {"swap_octets": frozenset(("bng-1",))}, {"interim_interval_s": 86_400}):
        run([*_STEADY, then], **config)
        run([*_STEADY, then, *more], until=100_000, **config)


def test_a_steady_session_counts_no_more_than_a_column_holds() -> None:
    reset = event(1500, INTERIM, **{**_NEXT, "up": 10, "gigawords": True})
    steady = event(1800, INTERIM, **{**_NEXT, "up": 20, "session_s": 1800})
    most = event(2100, INTERIM, **{**_NEXT, "up": (1 << 64) - 1, "session_s": 2100})
    (row,), _ = run([*_STEADY, reset, steady, most])
    assert row["up_octets"] == (1 << 64) - 1


def test_a_prefix_that_a_steady_session_was_granted_stays() -> None:
    granted = radius.Access(
        *(NOON + 1400 * SECOND, NAS, SERVER, radius.VERIFIED),
        Profile("s1", nas_identifier="bng-1", cui="cui-8", delegated_prefixes=(PD,)),
    )
    (row,), bindings = run([*_STEADY, granted, event(1500, INTERIM, **_NEXT)])  # type: ignore
    assert (row["cui"], len(bindings)) == ("cui-8", 2)
