"""Calls: each rule as a short script of messages, floods, replay and crash."""

from __future__ import annotations

import gc
import ipaddress
import json
import os
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.parse.sip import SipEvent
from collector.track import numbers, versions
from collector.track.calls import Calls, CallsConfig
from collector.wire.addr import MAPPED, pack
from collector.wire.records import CALL, CALL_INTERRUPTED

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND
ALICE = pack("100.64.0.7")
BOB = pack("100.64.0.8")
PROXY = pack("192.0.2.10")
CORE = pack("192.0.2.11")
CONFIG = CallsConfig(access=((pack("100.64.0.0"), 96 + 10),), trusted=((PROXY, 128),))


class Hop:
    """Two ends of one call on one hop; makes its messages at seconds after T0."""

    def __init__(self, src: bytes = ALICE, dst: bytes = PROXY, call: str = "c1", **fields: Any):
        self.src, self.dst, self.call = src, dst, call
        self.branch = fields.pop("branch", "z9hG4bK-" + src.hex()[-4:] + dst.hex()[-4:])
        self.fields: dict[str, Any] = {
            "from_uri": "sip:+442079460001@example.net",
            "to_uri": "sip:+442071838750@example.net",
            "request_uri": "sip:02071838750@example.net",
        } | fields

    def _event(self, at: float, method: str, status: int, cseq: int, **more: Any) -> SipEvent:
        fields = self.fields | {"branch": f"{self.branch}-{cseq}", "sent_by": "h"} | more
        back = fields.pop("back", bool(status))
        ends = (self.dst, self.src) if back else (self.src, self.dst)
        if status:
            fields["request_uri"] = ""
        return SipEvent(
            ts_ns=T0 + round(at * SECOND),
            src=ends[0],
            sport=5060,
            dst=ends[1],
            dport=5060,
            protocol=17,
            method=method,
            status=status,
            cseq=cseq,
            call_id=self.call,
            from_tag=fields.pop("from_tag", "a"),
            to_tag=fields.pop("to_tag", ""),
            **fields,
        )

    def invite(self, at: float, cseq: int = 1, **more: Any) -> SipEvent:
        return self._event(at, "INVITE", 0, cseq, **more)

    def answer(self, at: float, status: int, cseq: int = 1, **more: Any) -> SipEvent:
        tag = "" if status == 100 else "b"
        return self._event(at, "INVITE", status, cseq, **{"to_tag": tag} | more)

    def ack(self, at: float, cseq: int = 1, **more: Any) -> SipEvent:
        branch = {"branch": f"{self.branch}-ack{cseq}"}
        return self._event(at, "ACK", 0, cseq, **{"to_tag": "b"} | branch | more)

    def cancel(self, at: float, **more: Any) -> SipEvent:
        return self._event(at, "CANCEL", 0, 1, **more)

    def request(self, at: float, method: str, cseq: int = 2, **more: Any) -> SipEvent:
        branch = {"branch": f"{self.branch}-{method}{cseq}"}
        return self._event(at, method, 0, cseq, **{"to_tag": "b"} | branch | more)

    def response(self, at: float, method: str, status: int, cseq: int = 2, **m: Any) -> SipEvent:
        branch = {"branch": f"{self.branch}-{method}{cseq}"}
        return self._event(at, method, status, cseq, **{"to_tag": "b"} | branch | m)

    def callee_bye(self, at: float, **more: Any) -> SipEvent:
        tags = {"from_tag": "b", "to_tag": "a", "back": True}
        return self.request(at, "BYE", 77, **tags | more)


def run(
    events: Iterable[SipEvent], until: float = 200_000, config: CallsConfig = CONFIG
) -> list[dict[str, Any]]:
    """Newest version of each record, ordered by start and direction."""
    calls = Calls(config)
    for event in events:
        calls.apply(event, event.ts_ns)
    calls.tick(T0 + int(until * SECOND))
    counts = calls.counts
    assert counts["seen"] == counts["recorded"] + counts["ignored"] + counts["lost"]
    return rows_of(calls)


def rows_of(calls: Calls) -> list[dict[str, Any]]:
    columns = calls.take(0, 1 << 62, 1 << 62)["call"]
    assert list(columns) == list(CALL.names)
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    newest: dict[bytes, dict[str, Any]] = {}
    for row in rows:
        old = newest.get(row["record_id"])
        assert old is None or row["observed_ns"] > old["observed_ns"]
        newest[row["record_id"]] = row
    return sorted(newest.values(), key=lambda r: (r["start_ns"], r["direction"]))


def one(events: Iterable[SipEvent], **more: Any) -> dict[str, Any]:
    (row,) = run(events, **more)
    return row


H = Hop()
PLAIN = [
    H.invite(0),
    H.answer(0.1, 100),
    H.answer(1, 180),
    H.answer(5, 200),
    H.ack(5.1),
    H.request(65.25, "BYE"),
    H.response(65.3, "BYE", 200),
]


def test_plain_call() -> None:
    row = one(PLAIN)
    assert row["disposition"] == "ANSWERED"
    assert (row["direction"], row["address"], row["prefix_len"]) == ("out", ALICE, 128)
    assert row["start_ns"] == T0
    assert row["ring_ns"] == T0 + SECOND
    assert row["answer_ns"] == T0 + 5 * SECOND
    assert row["end_min_ns"] == row["end_max_ns"] == T0 + 65 * SECOND + SECOND // 4
    assert row["talk_ms"] == 60_250
    assert (row["sip_code"], row["released_by"]) == (200, "caller")
    assert (row["a_e164"], row["b_e164"]) == ("+442079460001", "+442071838750")
    assert (row["b_raw"], row["presentation"], row["emergency"]) == ("02071838750", "allowed", 0)
    assert (row["retransmissions"], row["flags"]) == (0, 0)


def test_callee_hangs_up() -> None:
    row = one([*PLAIN[:5], H.callee_bye(9, q850=16)])
    assert (row["released_by"], row["talk_ms"], row["q850"]) == ("callee", 4000, 16)


@pytest.mark.parametrize(
    ("status", "disposition"),
    [
        (486, "BUSY"),
        (600, "BUSY"),
        (408, "NO_ANSWER"),
        (480, "NO_ANSWER"),
        (487, "CANCELLED"),
        (403, "REJECTED"),
        (603, "REJECTED"),
        (404, "FAILED"),
        (503, "FAILED"),
    ],
)
def test_final_responses(status: int, disposition: str) -> None:
    row = one([H.invite(0), H.answer(1, 180), H.answer(3, status, q850=17), H.ack(3.1)])
    assert (row["disposition"], row["sip_code"], row["q850"]) == (disposition, status, 17)
    assert row["end_min_ns"] == row["end_max_ns"] == T0 + 3 * SECOND
    assert (row["answer_ns"], row["talk_ms"]) == (0, 0)


def test_no_response_at_all() -> None:
    row = one([H.invite(0), H.invite(0.5), H.invite(1.5)])
    assert (row["disposition"], row["sip_code"], row["retransmissions"]) == ("NO_ANSWER", 0, 2)


def test_ringing_without_end() -> None:
    row = one([H.invite(0), H.answer(1, 180)])
    assert (row["disposition"], row["end_min_ns"]) == ("NO_ANSWER", T0 + SECOND)
    assert row["end_max_ns"] == T0 + 301 * SECOND


def test_cancelled() -> None:
    row = one([H.invite(0), H.answer(1, 180), H.cancel(4), H.answer(4.2, 487), H.ack(4.3)])
    assert (row["disposition"], row["sip_code"], row["released_by"]) == ("CANCELLED", 487, "caller")
    assert row["end_min_ns"] == T0 + 42 * SECOND // 10


def test_cancel_without_a_final() -> None:
    row = one([H.invite(0), H.answer(1, 180), H.cancel(4), H.response(4.1, "CANCEL", 200, 1)])
    assert (row["disposition"], row["sip_code"]) == ("CANCELLED", 0)


def test_cancel_crossing_the_answer() -> None:
    row = one([*PLAIN[:3], H.cancel(4.99), *PLAIN[3:]])
    assert (row["disposition"], row["talk_ms"]) == ("ANSWERED", 60_250)
    row = one([*PLAIN[:4], H.cancel(5.01), *PLAIN[4:]])
    assert (row["disposition"], row["talk_ms"]) == ("ANSWERED", 60_250)


def test_challenge_then_retry_is_one_call() -> None:
    retry = [replace(e, cseq=e.cseq + 1, branch=e.branch + "r") for e in PLAIN[:5]]
    retry = [replace(e, ts_ns=e.ts_ns + SECOND) for e in retry]
    row = one([H.invite(0), H.answer(0.2, 407), H.ack(0.3), *retry, H.request(66, "BYE", 3)])
    assert (row["disposition"], row["start_ns"], row["talk_ms"]) == ("ANSWERED", T0, 60_000)


def test_challenge_without_retry() -> None:
    row = one([H.invite(0), H.answer(0.2, 401), H.ack(0.3)])
    assert (row["disposition"], row["sip_code"]) == ("UNAUTHORISED", 401)
    assert row["end_min_ns"] == T0 + SECOND // 5


def test_a_retry_after_giving_up_is_still_the_same_call() -> None:
    events = [H.invite(0), H.answer(0.2, 407), H.ack(0.3), H.invite(33, 2), H.answer(34, 403, 2)]
    row = one(events)
    assert (row["disposition"], row["start_ns"]) == ("REJECTED", T0)


def test_redirected() -> None:
    row = one([H.invite(0), H.answer(0.2, 302), H.ack(0.3)])
    assert (row["disposition"], row["sip_code"]) == ("REDIRECTED", 302)
    row = one([H.invite(0), H.answer(0.2, 302), H.ack(0.3), H.invite(1, 2), H.answer(2, 486, 2)])
    assert row["disposition"] == "BUSY"


def test_no_ack() -> None:
    row = one(PLAIN[:4])
    assert (row["disposition"], row["end_min_ns"]) == ("ANSWERED_UNCONFIRMED", T0 + 5 * SECOND)
    row = one([*PLAIN[:4], H.callee_bye(37.2)])
    assert row["disposition"] == "ANSWERED_UNCONFIRMED"


def test_lost_bye_with_a_session_timer() -> None:
    timed = [*PLAIN[:3], H.answer(5, 200, session_expires=90), H.ack(5.1)]
    row = one(timed)
    assert (row["disposition"], row["end_min_ns"]) == ("ANSWERED", T0 + int(5.1 * SECOND))
    assert row["end_max_ns"] == T0 + 95 * SECOND
    refreshed = [
        *timed,
        H.request(50, "INVITE", 2),
        H.response(50.5, "INVITE", 200, 2, session_expires=90),
        H.ack(50.6, 2, branch="z9hG4bK-ra"),
    ]
    row = one(refreshed)
    assert row["end_min_ns"] == T0 + int(50.6 * SECOND)
    assert row["end_max_ns"] == T0 + int(140.5 * SECOND)
    assert row["talk_ms"] == 45_600


def test_lost_bye_without_a_session_timer() -> None:
    row = one(PLAIN[:5])
    assert (row["disposition"], row["end_max_ns"]) == ("ANSWERED", 0)
    assert row["end_min_ns"] == T0 + int(5.1 * SECOND)


def test_a_bye_after_an_inferred_end_corrects_it() -> None:
    timed = [*PLAIN[:3], H.answer(5, 200, session_expires=90), H.ack(5.1), H.request(150, "BYE")]
    assert one(timed)["talk_ms"] == 145_000


def test_reinvite_changes_nothing() -> None:
    again = [
        H.request(20, "INVITE", 2),
        H.response(20.1, "INVITE", 180, 2),
        H.response(20.2, "INVITE", 200, 2),
        H.ack(20.3, 2),
    ]
    row = one([*PLAIN[:5], *again, *PLAIN[5:]])
    assert (row["disposition"], row["talk_ms"], row["ring_ns"]) == (
        "ANSWERED",
        60_250,
        T0 + SECOND,
    )


def test_failed_reinvite_changes_nothing_unless_the_dialog_is_gone() -> None:
    refused = [H.request(20, "INVITE", 2), H.response(20.2, "INVITE", 488, 2)]
    assert one([*PLAIN[:5], *refused, *PLAIN[5:]])["talk_ms"] == 60_250
    gone = [H.request(20, "INVITE", 2), H.response(20.2, "INVITE", 481, 2)]
    row = one([*PLAIN[:5], *gone])
    assert row["end_min_ns"] == T0 + 20 * SECOND
    assert row["end_max_ns"] == T0 + int(20.2 * SECOND)


def test_a_response_to_a_bye_that_was_not_seen_bounds_the_end() -> None:
    row = one([*PLAIN[:5], H.response(65.3, "BYE", 200)])
    assert (row["disposition"], row["released_by"]) == ("ANSWERED", "")
    assert row["end_min_ns"] == T0 + int(5.1 * SECOND)
    assert row["end_max_ns"] == T0 + int(65.3 * SECOND)
    # Where the BYE comes after all, by a slower way, it is the end.
    other = Hop(call="c2").invite(70)
    row = run([*PLAIN[:5], H.response(65.3, "BYE", 200), other, PLAIN[5]])[0]
    assert row["end_min_ns"] == row["end_max_ns"] == PLAIN[5].ts_ns


def test_retransmissions_are_counted_and_never_retimed() -> None:
    doubled = [
        e for event in PLAIN for e in (event, replace(event, ts_ns=event.ts_ns + SECOND // 2))
    ]
    doubled.sort(key=lambda e: e.ts_ns)
    row, plain = one(doubled), one(PLAIN)
    # What follows the BYE (its repetition, its response and that one's) is after the record.
    assert row["retransmissions"] == 5
    for column in ("start_ns", "ring_ns", "answer_ns", "end_min_ns", "talk_ms", "record_id"):
        assert row[column] == plain[column]


def test_two_interfaces_see_one_call() -> None:
    twice = [e for event in PLAIN for e in (event, replace(event, ts_ns=event.ts_ns + 20_000))]
    assert one(twice)["record_id"] == one(PLAIN)["record_id"]


def test_messages_out_of_order_are_sorted() -> None:
    shuffled = [PLAIN[1], PLAIN[0], *PLAIN[2:3], PLAIN[4], PLAIN[3], PLAIN[6], PLAIN[5]]
    assert run(shuffled) == run(PLAIN)


def test_fork_answered_twice() -> None:
    row = one(
        [*PLAIN[:5], H.answer(5.05, 200, to_tag="b2"), H.ack(5.2, to_tag="b2")]
        + [H.request(6, "BYE", 5, to_tag="b2"), *PLAIN[5:]]
    )
    assert (row["disposition"], row["talk_ms"]) == ("ANSWERED", 60_250)


def test_two_phones_of_one_line() -> None:
    one_, two = Hop(PROXY, BOB, branch="z9hG4bK-p1"), Hop(PROXY, BOB, branch="z9hG4bK-p2")
    row = one(
        [one_.invite(0), two.invite(0.01), one_.answer(1, 180), two.answer(1.1, 180, to_tag="c")]
        + [one_.answer(2, 486), two.answer(4, 200, to_tag="c"), two.ack(4.1, to_tag="c")]
        + [two.request(14, "BYE", 2, to_tag="c")]
    )
    assert (row["disposition"], row["direction"], row["talk_ms"]) == ("ANSWERED", "in", 10_000)


def test_both_inside_are_two_rows_by_each_hop() -> None:
    first, second = Hop(), Hop(PROXY, BOB)
    core = Hop(PROXY, CORE)
    events = [
        first.invite(0),
        core.invite(0.01),
        second.invite(0.05),
        second.answer(2, 180),
        first.answer(2.05, 180),
        second.answer(6, 200),
        first.answer(6.05, 200),
        first.ack(6.1),
        second.ack(6.15),
        first.request(16.1, "BYE"),
        second.request(16.15, "BYE"),
    ]
    into, out = run(events)[::-1]
    assert (out["direction"], out["address"], out["talk_ms"]) == ("out", ALICE, 10_050)
    assert (into["direction"], into["address"], into["talk_ms"]) == ("in", BOB, 10_150)
    assert out["call_hash"] == into["call_hash"]
    assert out["record_id"] != into["record_id"]


def test_direct_call_between_subscribers() -> None:
    h = Hop(ALICE, BOB)
    events = [h.invite(0), h.answer(2, 200), h.ack(2.1), h.request(12, "BYE")]
    assert [(r["direction"], r["address"], r["talk_ms"]) for r in run(events)] == [
        ("in", BOB, 10_000),
        ("out", ALICE, 10_000),
    ]


def test_a_line_that_calls_itself_through_the_proxy() -> None:
    out, into = Hop(ALICE, PROXY), Hop(PROXY, ALICE)
    events = [out.invite(0), into.invite(0.1), into.answer(3, 486), out.answer(3.1, 486)]
    assert [(r["direction"], r["end_min_ns"] - T0) for r in run(events)] == [
        ("out", int(3.1 * SECOND)),
        ("in", 3 * SECOND),
    ]


def test_a_hop_between_strangers_is_ignored() -> None:
    calls = Calls(CONFIG)
    for event in (Hop(PROXY, CORE).invite(0), Hop(PROXY, CORE).answer(1, 200)):
        calls.apply(event, event.ts_ns)
    calls.tick(T0 + 100 * SECOND)
    assert (calls.counts["transit"], calls.counts["ignored"], calls.open_legs) == (2, 2, 0)


def test_bye_before_the_answer() -> None:
    row = one([H.invite(0), H.answer(1, 180), H.request(3, "BYE")])
    assert (row["disposition"], row["talk_ms"]) == ("FAILED", 0)


def test_bye_without_an_invite() -> None:
    row = one([H.request(3, "BYE"), H.request(3.5, "BYE"), H.response(3.6, "BYE", 200)])
    assert (row["disposition"], row["start_ns"], row["direction"]) == (
        "PARTIAL",
        T0 + 3 * SECOND,
        "",
    )


def test_prack_update_info_never_change_the_answer() -> None:
    between = [
        H.request(2, "PRACK", 2),
        H.response(2.1, "PRACK", 200, 2),
        H.request(3, "UPDATE", 3),
        H.response(3.1, "UPDATE", 200, 3),
    ]
    assert one([*PLAIN[:3], *between, *PLAIN[3:]])["answer_ns"] == T0 + 5 * SECOND


def test_withheld_number_with_a_trusted_assertion() -> None:
    anonymous: dict[str, Any] = {
        "from_uri": "sip:anonymous@anonymous.invalid",
        "anonymous": True,
        "privacy": ("id",),
        "p_asserted": ("sip:+442071838751@example.net",),
    }
    row = one([Hop(PROXY, BOB, **anonymous).invite(0)])
    assert (row["presentation"], row["a_e164"]) == ("restricted", "+442071838751")
    row = one([Hop(ALICE, PROXY, **anonymous).invite(0)])
    assert (row["presentation"], row["a_raw"], row["a_e164"]) == ("restricted", "anonymous", "")


@pytest.mark.parametrize(
    ("uri", "emergency"),
    [("urn:service:sos", 1), ("sip:999@x", 1), ("tel:112", 1), ("sip:9991@x", 0), ("sip:101@x", 0)],
)
def test_emergency(uri: str, emergency: int) -> None:
    row = one([Hop(request_uri=uri, to_uri=uri).invite(0)])
    assert (row["emergency"], row["b_e164"]) == (emergency, "")


@pytest.mark.parametrize(
    ("uri", "raw", "e164", "kind"),
    [
        ("sip:+442071838750@h", "+442071838750", "+442071838750", "e164"),
        ("sip:%2B442071838750;npdi;rn=+4420@h", "+442071838750", "+442071838750", "e164"),
        ("tel:+44-20-7183-8750;ext=5", "+44-20-7183-8750", "+442071838750", "e164"),
        ("tel:7183-8750;phone-context=+4420", "7183-8750", "+442071838750", "e164"),
        ("tel:8750;phone-context=pbx.example", "8750", "", "private"),
        ("sip:00442071838750@h", "00442071838750", "+442071838750", "e164"),
        ("sip:999@h", "999", "", "emergency"),
        ("sip:1471@h", "1471", "", "short"),
        ("sip:+4499912345678901@h", "+4499912345678901", "", "invalid"),
        ("sip:alice@h", "alice", "", "private"),
        ("sip:*21*5%23@h", "*21*5#", "", "private"),
        ("sip:h", "", "", "none"),
        ("", "", "", "none"),
        ("sip:anonymous@anonymous.invalid", "anonymous", "", "anonymous"),
        ("sip:bob:secret@h", "bob", "", "private"),
        ("sip:1-800-FLOWERS@h", "1-800-FLOWERS", "", "private"),
    ],
)
def test_numbers(uri: str, raw: str, e164: str, kind: str) -> None:
    number = numbers.from_uri(uri, "GB")
    assert (number.raw, number.e164, number.kind) == (raw, e164, kind)


def test_number_parameters_are_kept() -> None:
    number = numbers.from_uri("sip:+442071838750;npdi;rn=+442079460000@h;user=phone", "GB")
    assert number.parameters == (("npdi", ""), ("rn", "+442079460000"))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_some_number(text: str) -> None:
    for uri in (text, "sip:" + text + "@h", "tel:" + text):
        assert numbers.from_uri(uri, "GB").kind


def test_a_flood_evicts_unanswered_calls_only() -> None:
    calls = Calls(replace(CONFIG, max_legs=10))
    for event in PLAIN[:5]:
        calls.apply(event, event.ts_ns)
    for n in range(50):
        event = Hop(call=f"flood{n}").invite(10 + n / 1000)
        calls.apply(event, event.ts_ns)
    calls.apply(PLAIN[5], PLAIN[5].ts_ns)
    calls.tick(T0 + 1000 * SECOND)
    assert calls.counts["evicted"] == 41
    assert len(calls.take_losses()) == 41
    dispositions = [r["disposition"] for r in rows_of(calls)]
    assert dispositions.count("ANSWERED") == 1
    assert dispositions.count("PARTIAL") == 41


def test_a_flood_spares_an_emergency_call() -> None:
    calls = Calls(replace(CONFIG, max_legs=10))
    calls.apply(Hop(call="sos", request_uri="urn:service:sos").invite(0), T0)
    for n in range(50):
        event = Hop(call=f"flood{n}").invite(10 + n / 1000)
        calls.apply(event, event.ts_ns)
    busy = Hop(call="sos").answer(11, 486)
    calls.apply(busy, busy.ts_ns)
    calls.tick(T0 + 1000 * SECOND)
    (row,) = [row for row in rows_of(calls) if row["emergency"]]
    assert row["disposition"] == "BUSY"


def test_a_full_table_of_answered_calls_loses_new_ones_and_says_so() -> None:
    calls = Calls(replace(CONFIG, max_legs=2, max_losses=1))
    for n in range(5):
        h = Hop(call=f"c{n}")
        for event in (h.invite(n), h.answer(n + 0.1, 200), h.ack(n + 0.2)):
            calls.apply(event, event.ts_ns)
    calls.tick(T0 + 100 * SECOND)
    (loss,) = calls.take_losses()
    assert (loss.stage, loss.amount, loss.classes) == ("track", 3, ("call",))
    assert calls.counts["lost"] == 3


FLOOD = int(os.environ.get("TALLYHOLD_FLOOD", "5000"))
"""INVITEs of the flood; TALLYHOLD_FLOOD=1000000 takes minutes."""


@pytest.mark.timeout(240 + FLOOD // 1000)
def test_memory_is_bounded_under_a_flood_and_established_calls_are_unharmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit, established = 300, 50
    monkeypatch.setattr(versions, "MAX_MEMORY", limit)
    calls = Calls(replace(CONFIG, max_legs=limit, max_links=limit))
    for n in range(established):
        h = Hop(call=f"held{n}")
        for event in (h.invite(0), h.answer(1, 180), h.answer(5, 200), h.ack(5.1)):
            calls.apply(event, event.ts_ns)
    sizes = []
    tracemalloc.start()
    try:
        for n in range(FLOOD):
            event = Hop(call=f"flood{n}", branch=f"z9hG4bK-{n}").invite(10 + n / 5000)
            event = replace(event, session_id=f"{n:032x}", origin=f"{n:016x}")
            calls.apply(event, event.ts_ns)
            if n % limit == limit - 1:  # a window closes
                taken = calls.take(0, event.ts_ns, event.ts_ns)["call"]
                assert set(taken["disposition"]) <= {"PARTIAL"}
                assert len(calls.take_losses()) <= calls.config.max_losses
                gc.collect()  # what the interpreter keeps of freed tuples is not remembered by us
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    at = 20 + FLOOD / 5000
    for n in range(established):
        event = Hop(call=f"held{n}").request(at, "BYE")
        calls.apply(event, event.ts_ns)
    calls.tick(T0 + int((at + 1) * SECOND))
    ended = [row for row in rows_of(calls) if row["disposition"] == "ANSWERED"]
    assert [row["talk_ms"] for row in ended] == [round((at - 5) * 1000)] * established
    assert calls.open_legs <= limit and calls.counts["lost"] == 0
    assert calls.counts["evicted"] == FLOOD + established - limit
    assert max(sizes[5:]) < 1.3 * sizes[5], "what is remembered is full after five windows"


MIXED = sorted(
    [
        *PLAIN,
        *(replace(e, call_id="busy") for e in (H.invite(3), H.answer(4, 486), H.ack(4.1))),
        *(replace(e, call_id="timer") for e in PLAIN[:3]),
        replace(H.answer(6, 200, session_expires=90), call_id="timer"),
        replace(H.ack(6.1), call_id="timer"),
        *(replace(e, call_id="auth") for e in (H.invite(8), H.answer(8.2, 407))),
        replace(H.request(30, "BYE"), call_id="unknown"),
    ],
    key=lambda e: e.ts_ns,
)


FORKED = [
    *PLAIN[:3],
    H.answer(1.01, 180, to_tag="b2"),
    *PLAIN[3:5],
    H.answer(5.05, 200, to_tag="b2"),
    H.cancel(4.95),
    H.ack(5.2, to_tag="b2"),
    H.request(5.3, "REFER", 2, refer_to="sip:x@h"),
    H.request(5.4, "BYE", 5, to_tag="b2"),
    *PLAIN[5:],
]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([MIXED, FORKED]), st.sampled_from([1, 10, 50]))
def test_any_interleaving_within_the_reordering_gives_the_same_records(
    data: st.DataObject, script: list[SipEvent], times_as_fast: int
) -> None:
    """Each message arrives up to 200 ms after others that were sent later, whatever it is."""
    events = [replace(e, ts_ns=T0 + (e.ts_ns - T0) // times_as_fast) for e in script]
    events.sort(key=lambda e: e.ts_ns)
    # No two at one instant: of those no time tells the order.
    events = [replace(e, ts_ns=e.ts_ns + 1000 * n) for n, e in enumerate(events)]
    late = data.draw(st.lists(st.integers(0, 199), min_size=len(events), max_size=len(events)))
    arrived = sorted(
        zip(events, late, strict=True), key=lambda each: each[0].ts_ns + each[1] * 1_000_000
    )
    assert run([event for event, _ in arrived]) == run(events)


def test_replay_gives_the_same_rows() -> None:
    assert run(MIXED) == run(MIXED)
    # Ticks in between must not matter.
    calls = Calls(CONFIG)
    for event in MIXED:
        calls.tick(event.ts_ns)
        calls.apply(event, event.ts_ns + 5)
    calls.tick(T0 + 200_000 * SECOND)
    assert rows_of(calls) == run(MIXED)


@pytest.mark.parametrize("cut", range(len(MIXED) + 1))
def test_crash_and_replay_of_the_journal_gives_the_same_rows(cut: int) -> None:
    before = Calls(CONFIG)
    for event in MIXED[:cut]:
        before.apply(event, event.ts_ns)
    state = json.loads(json.dumps(before.snapshot()))
    journal = [json.loads(json.dumps(e.to_json())) for e in MIXED[cut:]]
    after = Calls(CONFIG)
    after.restore(state, T0 + 190_000 * SECOND)
    for line in journal:
        event = SipEvent.from_json(line)
        after.apply(event, event.ts_ns)
    after.tick(T0 + 200_000 * SECOND)
    assert rows_of(after) == run(MIXED)


def test_calls_open_across_a_restart_are_marked() -> None:
    before = Calls(CONFIG)
    for event in PLAIN[:5]:
        before.apply(event, event.ts_ns)
    after = Calls(CONFIG)
    after.restore(json.loads(json.dumps(before.snapshot())), T0 + 10 * SECOND)
    later = Hop(call="c2")
    for event in [later.invite(11), later.answer(12, 486), *PLAIN[5:]]:
        after.apply(event, event.ts_ns)
    after.tick(T0 + 1000 * SECOND)
    flags = {r["disposition"]: r["flags"] for r in rows_of(after)}
    assert flags == {"ANSWERED": CALL_INTERRUPTED, "BUSY": 0}


def test_capture_loss_marks_open_calls() -> None:
    calls = Calls(CONFIG)
    for event in PLAIN[:5]:
        calls.apply(event, event.ts_ns)
    calls.tick(T0 + 20 * SECOND)
    calls.interrupt(T0 + 20 * SECOND)
    calls.apply(PLAIN[5], PLAIN[5].ts_ns)
    calls.tick(T0 + 100 * SECOND)
    assert rows_of(calls)[0]["flags"] == CALL_INTERRUPTED


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(MIXED + PLAIN), st.integers(0, 400)), max_size=40))
def test_any_order_of_messages_keeps_the_books(script: list[tuple[SipEvent, int]]) -> None:
    events = [replace(e, ts_ns=T0 + at * SECOND) for e, at in script]
    for row in run(events):
        assert row["start_ns"] <= row["end_min_ns"]
        assert row["end_max_ns"] == 0 or row["end_min_ns"] <= row["end_max_ns"]
        assert (row["talk_ms"] > 0) <= (row["answer_ns"] > 0)


def test_ipv6_subscribers_are_prefixes() -> None:
    net = ipaddress.ip_address("2001:db8:aa00::")
    config = CallsConfig(access=((pack(net), 40),), ipv6_prefix_len=56)
    src = pack("2001:db8:aa00:12::5")
    row = one([Hop(src, PROXY).invite(0)], config=config)
    assert (row["address"], row["prefix_len"]) == (pack("2001:db8:aa00::"), 56)
    assert row["address"][:12] != MAPPED
