"""All trackers as one: what a restart replays gives the rows that an uninterrupted run gives."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.journal import MAX_EVENT_BYTES
from collector.parse import radius
from collector.parse.radius import Accounting, AccountingAck
from collector.parse.radius_attributes import Profile
from collector.parse.sip import SipEvent
from collector.track.journal_events import (
    MAX_SPLIT_ADDRESSES,
    JournalEvent,
    control_event,
    split_event,
    split_prefix_events,
)
from collector.track.session_bindings import BindingChange
from collector.track.trackers import CLASSES_OF, Trackers, TrackersConfig, touches_calls
from collector.track.volume import Reading, Sample, Volume, VolumeConfig
from collector.wire.addr import pack
from collector.wire.columns import record_batch
from collector.wire.loss import Loss
from collector.wire.records import CALL_INTERRUPTED, SESSION_OPEN_ACROSS_RESTART

SECOND = 1_000_000_000
WINDOW = 300 * SECOND
T0 = 1_700_000_100 * SECOND
NAS, SERVER, PROXY = pack("192.0.2.1"), pack("192.0.2.9"), pack("203.0.113.5")
SUBSCRIBERS = [pack(f"10.0.0.{host}") for host in range(1, 6)]
CONFIG = TrackersConfig(
    access=((pack("10.0.0.0"), 96 + 16), (pack("2001:db8::"), 32)), window_ns=WINDOW, interim_s=600
)
Rows = dict[str, list[dict[str, Any]]]


def accounting(at_ns: int, status: int, who: int, octets: int = 0) -> Accounting:
    return Accounting(
        ts_ns=at_ns,
        client=NAS,
        client_port=40_000,
        server=SERVER,
        identifier=at_ns // SECOND % 256,
        transport=at_ns.to_bytes(16, "big"),
        verified=radius.VERIFIED,
        status=status,
        profile=Profile(f"s{who}", f"line-{who}", "bng", framed_ipv4=SUBSCRIBERS[who]),
        up=octets,
        down=octets * 7,
    )


def sip(at_ns: int, method: str, status: int, who: int, call: int, cseq: int = 1) -> SipEvent:
    out = (SUBSCRIBERS[who], 5060, PROXY, 5060)
    src, sport, dst, dport = out if not status else (*out[2:], *out[:2])
    return SipEvent(
        ts_ns=at_ns,
        src=src,
        sport=sport,
        dst=dst,
        dport=dport,
        protocol=17,
        method=method,
        status=status,
        cseq=cseq,
        call_id=f"call-{call}",
        from_uri="sip:+442079460001@example.com",
        from_tag="a",
        to_uri="sip:+442079460002@example.com",
        to_tag="b" if status or method != "INVITE" else "",
        request_uri="sip:+442079460002@example.com",
        branch=f"z9hG4bK{method}{cseq}",
        sent_by="host",
    )


def reading(at_ns: int, counters: dict[bytes, int], lengths: int = 128) -> Reading:
    return Reading(
        began_ns=at_ns - 1,
        ts_ns=at_ns,
        generation="g1",
        addresses=np.frombuffer(b"".join(counters), "V16"),
        prefix_len=np.full(len(counters), lengths, np.uint8),
        counters=np.array([[n, 2 * n, n // 9, n // 5] for n in counters.values()], np.uint64)
        .reshape(-1, 4)
        .copy(),
    )


def sample(at_ns: int, address: bytes, count: int) -> Sample:
    return Sample(at_ns, "g1", address, 128, count, 2 * count, count // 9, count // 5)


def take(trackers: Trackers, end_ns: int) -> Rows:
    """Rows of every class, checked as every batch is, in the order of their identity."""
    found: Rows = {}
    for part in trackers.take(end_ns - WINDOW, end_ns, end_ns + 7):
        for name, columns in part.items():
            rows = pa.RecordBatch.to_pylist(record_batch(name, columns))
            found.setdefault(name, []).extend(rows)
    return {name: sorted(rows, key=repr) for name, rows in found.items()}


def fresh() -> Trackers:
    trackers = Trackers(CONFIG, T0)
    trackers.volume.begin("g1", T0)
    return trackers


def restarted(snapshot: dict[str, object], now_ns: int) -> Trackers:
    trackers = Trackers(CONFIG, now_ns)
    assert trackers.restore(through_json(snapshot), now_ns) == []
    return trackers


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


def live(trackers: Trackers, event: Any, totals: dict[bytes, int]) -> list[JournalEvent]:
    """What the service does with one event; gives the lines it writes to the journal."""
    kind, payload = event if isinstance(event, tuple) else control_event(event)
    lines = [(kind, payload)]
    changes = trackers.apply(kind, payload, payload["ts_ns"])
    for change in changes:
        lines.append(
            split_event(sample(payload["ts_ns"] + 1, change.address, totals[change.address]))
        )
        trackers.apply(*lines[-1], payload["ts_ns"])
    return lines


@st.composite
def days(draw: st.DrawFn) -> list[Any]:
    """Control events of some subscribers, in order of time, with losses of packets among them."""
    at, events = T0, list[Any]()
    cseqs = itertools.count(1)
    steps = draw(
        st.lists(
            st.tuples(
                st.integers(1, 40),
                st.sampled_from(["start", "interim", "stop", "ack", "call", "hang", "interrupt"]),
                st.integers(0, len(SUBSCRIBERS) - 1),
            ),
            min_size=2,
            max_size=25,
        )
    )
    for seconds, what, who in steps:
        at += seconds * SECOND
        octets = (at - T0) // SECOND
        match what:
            case "start":
                events.append(accounting(at, radius.START, who))
            case "interim":
                events.append(accounting(at, radius.INTERIM, who, octets))
            case "stop":
                events.append(accounting(at, radius.STOP, who, octets))
            case "ack":
                events.append(AccountingAck(at, NAS, 40_000, SERVER, at // SECOND % 256))
            case "call":
                number = next(cseqs)
                events.append(sip(at, "INVITE", 0, who, who, number))
                events.append(sip(at + 1000, "INVITE", 200, who, who, number))
                events.append(sip(at + 2000, "ACK", 0, who, who, number))
            case "hang":
                events.append(sip(at, "BYE", 0, who, who, next(cseqs)))
            case "interrupt":
                events.append(("interrupt", {"ts_ns": at}))
    return events


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(days(), st.data())
def test_a_replay_gives_the_rows_of_an_uninterrupted_run(
    day: list[Any], data: st.DataObject
) -> None:
    closed = data.draw(st.integers(0, len(day) - 1), label="window closed after")
    killed = data.draw(st.integers(closed, len(day)), label="killed after")
    totals = {address: 1_000 * (i + 1) for i, address in enumerate(SUBSCRIBERS)}
    end = T0 + 3 * WINDOW

    whole, journal, snapshot = fresh(), list[JournalEvent](), dict[str, object]()
    first: Rows = {}
    for number, event in enumerate([*day, None]):
        if number == closed:
            at = event["ts_ns"] if isinstance(event, dict) else T0
            first = take(whole, at)
            snapshot = through_json(whole.snapshot())
            journal = []
        if number == killed:
            again = restarted(snapshot, end)
            for line in through_json(journal):
                again.apply(line[0], line[1], end)
        if event is not None:
            lines = live(whole, event, totals)
            journal += lines
            if number >= killed:
                for line in through_json(lines):
                    again.apply(line[0], line[1], end)
            for address in totals:
                totals[address] += 17

    assert isinstance(first, dict)
    last = reading(end - 5 * SECOND, totals)
    for trackers in (whole, again):
        trackers.volume.observe(last)
    assert strip(take(again, end)) == strip(take(whole, end))


def strip(rows: Rows) -> Rows:
    """Without what a restart marks: open intervals of counters, by its very purpose."""
    usage = [{**row, "flags": 0} for row in rows["usage"]]
    return {**rows, "usage": usage}


def test_a_session_and_a_call_open_across_the_restart_are_marked() -> None:
    trackers = fresh()
    events: list[Any] = [accounting(T0 + SECOND, radius.START, 0)]
    events += [sip(T0 + 2 * SECOND, "INVITE", status, 1, 1) for status in (0, 200)]
    events += [sip(T0 + 3 * SECOND, "ACK", 0, 1, 1)]
    for event in events:
        live(trackers, event, dict.fromkeys(SUBSCRIBERS, 0))
    again = restarted(through_json(trackers.snapshot()), T0 + 60 * SECOND)
    again.tick(T0 + 61 * SECOND)
    ends = (accounting(T0 + 70 * SECOND, radius.STOP, 0), sip(T0 + 71 * SECOND, "BYE", 0, 1, 1, 2))
    for end in ends:
        live(again, end, dict.fromkeys(SUBSCRIBERS, 0))
    again.tick(T0 + 80 * SECOND)
    found = take(again, T0 + WINDOW)
    assert found["call"][0]["flags"] & CALL_INTERRUPTED
    assert max(row["flags"] for row in found["session"]) & SESSION_OPEN_ACROSS_RESTART


def test_lost_packets_mark_the_calls_that_are_open_and_no_others() -> None:
    trackers = fresh()

    def call(number: int, at_ns: int, ends_ns: int, lost_ns: int) -> list[Any]:
        return [
            sip(at_ns, "INVITE", 0, number, number),
            sip(at_ns + 1000, "INVITE", 200, number, number),
            sip(ends_ns, "BYE", 0, number, number, 2),
            ("interrupt", {"ts_ns": lost_ns}),
        ]

    lost = T0 + 30 * SECOND
    events = call(0, T0 + SECOND, T0 + 10 * SECOND, lost)[:3]
    events += call(1, T0 + 20 * SECOND, T0 + 40 * SECOND, lost)
    # Its INVITE still waits for order when the loss is told.
    events += call(2, lost - SECOND // 10, T0 + 45 * SECOND, lost)[:3]
    events += call(3, T0 + 50 * SECOND, T0 + 60 * SECOND, lost)[:3]
    for event in sorted(events, key=lambda e: e[1]["ts_ns"] if isinstance(e, tuple) else e.ts_ns):
        live(trackers, event, dict.fromkeys(SUBSCRIBERS, 0))
    trackers.tick(T0 + 90 * SECOND)
    rows = {row["address"]: row["flags"] for row in take(trackers, T0 + WINDOW)["call"]}
    assert [rows[SUBSCRIBERS[n]] & CALL_INTERRUPTED for n in range(4)] == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("stage", "reason", "amount", "classes", "touches"),
    [
        ("capture", "kernel-drop", 3, ("visit", "call"), True),
        ("capture", "interface-gone", -1, ("visit", "call"), True),
        ("capture", "interface-down", 0, ("visit", "call"), False),
        ("conntrack", "overrun", 5, ("visit", "mapping"), False),
        ("track", "sip-cut", 1, ("call",), True),
        ("track", "fragment-incomplete", 1, ("visit", "call"), False),
    ],
)
def test_which_losses_touch_calls(
    stage: str, reason: str, amount: int, classes: tuple[str, ...], touches: bool
) -> None:
    assert touches_calls(Loss(1, 2, stage, reason, amount, "packets", classes)) is touches


# Splits


def usage(volume: Volume, end_ns: int) -> list[dict[str, Any]]:
    columns = volume.take(end_ns - WINDOW, end_ns, end_ns)["usage"]
    return sorted(pa.RecordBatch.to_pylist(record_batch("usage", columns)), key=repr)


def counted(addresses: Sequence[bytes], factor: int) -> dict[bytes, int]:
    return {address: factor * (i + 1) for i, address in enumerate(addresses)}


def test_a_split_of_one_address_does_what_the_direct_call_does() -> None:
    direct, trackers = Volume(VolumeConfig(window_ns=WINDOW)), Trackers(CONFIG, T0)
    for volume in (direct, trackers.volume):
        volume.begin("g1", T0)
        volume.observe(reading(T0 + SECOND, counted(SUBSCRIBERS, 10)))
    one = sample(T0 + 2 * SECOND, SUBSCRIBERS[0], 500)
    direct.split(one)
    kind, payload = through_json(split_event(one))
    trackers.apply(kind, payload, T0)
    for volume in (direct, trackers.volume):
        volume.observe(reading(T0 + 3 * SECOND, counted(SUBSCRIBERS, 1000)))
    assert usage(trackers.volume, T0 + WINDOW) == usage(direct, T0 + WINDOW)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 900),
    st.integers(50, 63),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_a_split_of_a_wide_prefix_does_what_the_direct_call_does(
    inside: int, length: int, outside: int, source: Any
) -> None:
    base = int.from_bytes(pack("2001:db8:0:f00::"), "big")
    base -= base % (1 << 128 - length)
    step = 1 << 64
    room = 1 << 64 - length
    keys = [base + step * n for n in sorted(source.sample(range(room), min(inside, room)))]
    keys += [base - step * (n + 1) for n in range(outside)]
    addresses = sorted(key.to_bytes(16, "big") for key in keys)
    change = BindingChange(T0 + 2 * SECOND, base.to_bytes(16, "big"), length, "close")

    direct, trackers = Volume(VolumeConfig(window_ns=WINDOW)), Trackers(CONFIG, T0)
    for volume in (direct, trackers.volume):
        volume.begin("g1", T0)
        volume.observe(reading(T0 + SECOND, counted(addresses, 10), 64))
    now = reading(T0 + 2 * SECOND, counted(addresses, 100), 64)
    direct.split_prefix(now, change.address, length)
    events = split_prefix_events(now, change)
    for event in events:
        assert len(event[1]["addresses"]) <= MAX_SPLIT_ADDRESSES
        assert len(json.dumps(event)) < MAX_EVENT_BYTES / 2
        kind, payload = through_json(event)
        trackers.apply(kind, payload, T0)
    for volume in (direct, trackers.volume):
        volume.observe(reading(T0 + 3 * SECOND, counted(addresses, 1000), 64))
    assert usage(trackers.volume, T0 + WINDOW) == usage(direct, T0 + WINDOW)
    assert (len(events) > 1) == (min(inside, room) > MAX_SPLIT_ADDRESSES)


def test_part_of_a_reading_is_never_the_baseline_of_all() -> None:
    """Or addresses outside the part would count all they ever carried."""
    trackers = Trackers(CONFIG, T0)
    base = pack("2001:db8:0:a00::")
    addresses = [base, pack("2001:db8:0:b00::")]
    now = reading(T0 + SECOND, counted(addresses, 10**9), 64)
    (event,) = split_prefix_events(now, BindingChange(T0, base, 56, "open"))
    trackers.apply(*event, T0)
    trackers.volume.observe(now)
    assert usage(trackers.volume, T0 + WINDOW) == []
    assert trackers.volume.counts["recorded"] == 0
    assert [loss.reason for loss in trackers.volume.take_losses()] == ["baseline"]


# What the journal may hold besides


def test_a_kind_that_nobody_wrote_is_refused() -> None:
    with pytest.raises(ValueError, match="no event of the journal"):
        fresh().apply("bogus", {"ts_ns": T0}, T0)


BAD: list[tuple[str, dict[str, Any]]] = [
    ("accounting", {}),
    ("accounting", {**accounting(T0, radius.START, 0).to_json(), "client": "zz"}),
    ("ack", {"ts_ns": T0}),
    ("sip", {**sip(T0, "INVITE", 0, 0, 0).to_json(), "p_asserted": None}),
    ("split", {"address": "00"}),
    ("split", {**split_event(sample(T0, SUBSCRIBERS[0], 1))[1], "more": 1}),
    ("split-prefix", {"addresses": ["zz"]}),
    ("interrupt", {}),
]


@pytest.mark.parametrize(("kind", "payload"), BAD)
def test_a_payload_that_nobody_wrote_is_refused(kind: str, payload: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        fresh().apply(kind, payload, T0)


@pytest.mark.parametrize("damage", [None, {}, [], 7, "x", {"version": 1}])
@pytest.mark.parametrize("part", [name for name in CLASSES_OF if name != "safeguard"])
def test_a_damaged_part_of_the_state_begins_anew_alone(part: str, damage: Any) -> None:
    trackers = fresh()
    for event in (accounting(T0 + SECOND, radius.START, 0), sip(T0 + 2, "INVITE", 0, 1, 1)):
        live(trackers, event, dict.fromkeys(SUBSCRIBERS, 0))
    trackers.volume.observe(reading(T0 + SECOND, counted(SUBSCRIBERS, 10)))
    trackers.tick(T0 + 3 * SECOND)
    snapshot = through_json(trackers.snapshot())
    snapshot[part] = damage
    again = Trackers(CONFIG, T0 + 60 * SECOND)
    assert again.restore(snapshot, T0 + 60 * SECOND) == [part]
    assert again.sessions.open_sessions == (part != "sessions")
    assert again.calls.open_legs == (part != "calls")
    assert (again.volume.generation is None) == (part == "volume")
    take(again, T0 + WINDOW)
    assert through_json(again.snapshot())["version"] == 1


@pytest.mark.parametrize("snapshot", [{}, {"version": 0}, {"version": "1"}])
def test_a_state_of_another_version_is_refused(snapshot: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError)):
        Trackers(CONFIG, T0).restore(snapshot, T0)


def test_the_equation_holds_for_every_stage() -> None:
    trackers = fresh()
    totals = counted(SUBSCRIBERS, 50)
    start = accounting(T0 + SECOND, radius.START, 0)
    for event in (
        start,
        replace(start, ts_ns=T0 + 2 * SECOND),  # a retransmission
        accounting(T0 + 3 * SECOND, 15, 1),  # a status that is nothing to us
        AccountingAck(T0 + 4 * SECOND, NAS, 40_000, SERVER, 250),
        sip(T0 + 5 * SECOND, "INVITE", 0, 1, 1),
        replace(sip(T0 + 6 * SECOND, "INVITE", 0, 1, 9), src=PROXY),  # between others
        sip(T0 + 7 * SECOND, "BYE", 0, 2, 2),  # of a call nobody saw
        accounting(T0 + 8 * SECOND, radius.STOP, 0, 77),
    ):
        live(trackers, event, totals)
    check(trackers)
    trackers.volume.observe(reading(T0 + 60 * SECOND, counted(SUBSCRIBERS, 70)))
    check(trackers)
    take(trackers, T0 + WINDOW)
    check(trackers)
    check(restarted(trackers.snapshot(), T0 + WINDOW))
    stages = trackers.stages()
    assert stages["accounting"]["seen"] == 5
    assert stages["accounting"]["ignored"] >= 2
    assert stages["volume-bytes"]["recorded"] == sum(counted(SUBSCRIBERS, 70).values()) * 3


def check(trackers: Trackers) -> None:
    for name, terms in trackers.stages().items():
        parts: Iterable[int] = (terms[each] for each in ("recorded", "ignored", "lost", "open"))
        assert terms["seen"] == sum(parts), name
