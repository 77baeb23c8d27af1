import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.wire.addr import pack
from retention.holds.columns import CLASSES
from retention.holds.matcher import CANDIDATE_COLUMNS, keys, match, spans
from retention.holds.scope import parse
from retention.model import DAY_US, NEVER, ScopeItem
from tests.retention.holds import reference
from tests.retention.holds.rows import T0, classes, columns, rows, scopes

A_DAY = T0 + DAY_US


@st.composite
def questions(
    draw: st.DrawFn,
) -> tuple[str, list[dict[str, Any]], dict[str, tuple[ScopeItem, ...]]]:
    record_class = draw(classes)
    return record_class, draw(st.lists(rows(record_class), max_size=30)), draw(scopes)


@settings(max_examples=250, deadline=None)
@given(questions())
def test_the_matcher_is_the_plain_reference(question: Any) -> None:
    record_class, found, holds = question
    masks = match(record_class, columns(found, record_class), holds)
    assert masks.keys() == holds.keys()
    for hold, items in holds.items():
        expected = [any(reference.matches(record_class, r, i) for i in items) for r in found]
        assert masks[hold].dtype == np.bool_
        assert masks[hold].tolist() == expected


@settings(max_examples=250, deadline=None)
@given(questions())
def test_every_match_is_in_the_narrowing(question: Any) -> None:
    record_class, found, holds = question
    items = [item for scope in holds.values() for item in scope]
    narrowing = keys(record_class, items)
    for row in found:
        if any(reference.matches(record_class, row, item) for item in items):
            assert not narrowing.empty
            assert reference.admits(narrowing, row)


@settings(max_examples=50, deadline=None)
@given(questions())
def test_numpy_columns_and_lists_are_the_same(question: Any) -> None:
    record_class, found, holds = question
    lists = columns(found, record_class)
    arrays: dict[str, Any] = {}
    for name, values in lists.items():
        if values and isinstance(values[0], bytes):
            arrays[name] = np.array(values, dtype="S16")  # which drops zeros at the end
        else:
            arrays[name] = np.array(values, dtype=object if name == "realm" else None)
    one, other = match(record_class, lists, holds), match(record_class, arrays, holds)
    assert {h: m.tolist() for h, m in one.items()} == {h: m.tolist() for h, m in other.items()}


def usage(**changes: Any) -> dict[str, Any]:
    row = {
        "start_us": T0,
        "end_us": T0 + 300_000_000,
        "subscriber": "",
        "address": pack("192.0.2.7"),
        "prefix_len": 128,
    }
    return row | changes


def held(record_class: str, row: dict[str, Any], *items: ScopeItem) -> bool:
    return bool(match(record_class, columns([row], record_class), {"H": items})["H"][0])


def test_a_reassigned_address_is_held_for_its_holder_to_the_microsecond() -> None:
    """A had the address until T, B from T on."""
    at = T0 + 300_000_000
    of_a, of_b = usage(), usage(start_us=at, end_us=at + 300_000_000)
    hold_a = parse("address", "192.0.2.7", T0, at)
    hold_b = parse("address", "192.0.2.7", at, NEVER)
    masks = match(
        "usage", columns([of_a, of_b], "usage"), {"A": [hold_a], "B": [hold_b], "both": []}
    )
    assert masks["A"].tolist() == [True, False]
    assert masks["B"].tolist() == [False, True]
    assert masks["both"].tolist() == [False, False]
    assert held("usage", of_b, parse("address", "192.0.2.7", T0, at + 1))
    assert held("usage", of_a, parse("address", "192.0.2.7", at - 1, NEVER))


@pytest.mark.parametrize(
    ("address", "length", "item", "expected"),
    [
        ("192.0.2.7", 128, "192.0.2.0/24", True),
        ("192.0.3.7", 128, "192.0.2.0/24", False),
        ("192.0.2.0", 120, "192.0.2.7/32", True),  # the row's prefix is the wider one
        ("192.0.2.7", 120, "192.0.2.200/32", True),  # its base has bits set beyond its length
        ("2001:db8:0:100::", 56, "2001:db8:0:1ff::1", True),
        ("2001:db8:0:100::", 56, "2001:db8:0:200::1", False),
        ("2001:db8:0:100::", 64, "2001:db8:0:100::/56", True),
        ("::c000:207", 128, "192.0.2.7/32", False),  # IPv4-compatible, not mapped
        ("2001:db8::1", 0, "192.0.2.7/32", True),
        ("2001:db8::1", 255, "2001:db8::1", True),
    ],
)
def test_prefixes_overlap_if_either_holds_the_other(
    address: str, length: int, item: str, expected: bool
) -> None:
    row = usage(address=pack(address), prefix_len=length)
    assert held("usage", row, parse("address", item, T0, NEVER)) is expected


def test_ports_ask_for_the_public_side_of_a_mapping_alone() -> None:
    row = {
        "start_us": T0,
        "end_us": T0 + 1,
        "inside_address": pack("100.64.0.7"),
        "public_address": pack("192.0.2.7"),
        "port_first": 4000,
        "port_last": 4999,
    }
    for ports, public, inside in (
        ((4999, 5100), True, False),
        ((3000, 3999), False, False),
        ((3000, 4000), True, False),
        ((5000, 5000), False, False),
        ((0, 65535), True, True),
    ):
        assert held("mapping", row, parse("address", "192.0.2.7", T0, NEVER, (), ports)) is public
        assert held("mapping", row, parse("address", "100.64.0.7", T0, NEVER, (), ports)) is inside
    one_port = parse("address", "192.0.2.7", T0, NEVER, (), (4000, 4000))
    assert not held("usage", usage(), one_port)


@pytest.mark.parametrize("record_class", ["session", "binding"])
def test_an_open_slice_covers_the_rest_of_its_utc_day(record_class: str) -> None:
    start, end = (
        ("slice_start_us", "slice_end_us")
        if record_class == "session"
        else ("valid_from_us", "valid_to_us")
    )
    row = dict.fromkeys(CANDIDATE_COLUMNS[record_class], "") | {
        "subscriber": "ann",
        "address": bytes(16),
        "prefix_len": 128,
        start: T0 + 5,
        end: 0,
    }
    assert held(record_class, row, parse("subscriber", "ann", A_DAY - 1, NEVER))
    assert not held(record_class, row, parse("subscriber", "ann", A_DAY, NEVER))
    assert not held(record_class, row, parse("subscriber", "ann", 0, T0 + 5))
    # A slice that was withdrawn ends where it began: it is of that instant.
    assert held(record_class, row | {end: T0 + 5}, parse("subscriber", "ann", T0 + 5, T0 + 6))


def test_a_call_covers_the_latest_end_it_may_have() -> None:
    row = dict.fromkeys(CANDIDATE_COLUMNS["call"], "") | {
        "address": bytes(16),
        "prefix_len": 128,
        "a_e164": "+442079460018",
        "start_us": T0,
        "end_min_us": T0 + 10,
        "end_max_us": T0 + 20,
    }
    assert held("call", row, parse("number", "+442079460018", T0 + 19, NEVER))
    assert not held("call", row, parse("number", "+442079460018", T0 + 20, NEVER))
    assert not held("call", row, parse("number", "+442079460019", T0, NEVER))
    assert held("call", row | {"end_max_us": 0}, parse("number", "+442079460018", T0 + 9, NEVER))


@pytest.mark.parametrize(
    ("value", "user_name", "realm", "expected"),
    [
        ("ann", "ann", "isp.example", True),
        ("ann", "Ann", "", False),
        ("ann@ISP.example", "ann", "Isp.Example", True),
        ("ann@isp.example", "ann", "", False),
        ("ann@isp.example", "ann", "other.example", False),
        ("ann@isp.example", "ann@isp.example", "", True),
        ("a@b@c.example", "a@b", "C.example", True),
        ("@isp.example", "@isp.example", "", True),
        ("@isp.example", "ann", "isp.example", False),
    ],
)
def test_a_user_matches_with_its_realm_in_any_case(
    value: str, user_name: str, realm: str, expected: bool
) -> None:
    row = dict.fromkeys(CANDIDATE_COLUMNS["session"], "") | {
        "slice_start_us": T0,
        "slice_end_us": T0 + 1,
        "user_name": user_name,
        "realm": realm,
    }
    assert held("session", row, parse("user", value, T0, NEVER)) is expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("+442079460018", True),
        ("00442079460018", True),
        ("442079460018", True),
        ("+44 (20) 7946-0018", True),
        ("+44.20/79460018", True),
        ("0442079460018", False),
        ("+00442079460018", False),
        ("02079460018", False),  # whose country nobody can tell
        ("442079460018x", False),
        ("4420794600180", False),
        ("", False),
    ],
)
def test_a_number_as_sent_matches_by_its_digits(raw: str, expected: bool) -> None:
    for side in "ab":
        row = dict.fromkeys(CANDIDATE_COLUMNS["call"], "") | {
            "address": bytes(16),
            "start_us": T0,
            "prefix_len": 128,
            "end_min_us": 0,
            "end_max_us": 0,
            f"{side}_raw": raw,
        }
        item = parse("number", "+44 20 7946 0018", T0, NEVER)
        assert held("call", row, item) is expected
        assert not expected or reference.admits(keys("call", [item]), row)


def test_the_server_of_a_visit_identifies_nobody() -> None:
    row = usage() | {"server": pack("203.0.113.9")}
    assert "server" not in CANDIDATE_COLUMNS["visit"]
    assert not held("visit", row, parse("address", "203.0.113.9", T0, NEVER))


def test_an_empty_identifier_of_a_row_matches_nothing() -> None:
    assert not held("usage", usage(), parse("subscriber", "ann", T0, NEVER))


def test_no_rows_and_no_holds() -> None:
    for record_class in CLASSES:
        empty: dict[str, list[Any]] = {name: [] for name in CANDIDATE_COLUMNS[record_class]}
        item = parse("subscriber", "ann", T0, NEVER)
        assert match(record_class, empty, {"H": [item]})["H"].tolist() == []
        assert match(record_class, empty, {}) == {}
        assert keys(record_class, []).empty


def test_spans_of_some_rows() -> None:
    found = columns([usage(end_us=T0 + n) for n in range(3)], "usage")
    start, end = spans("usage", found, np.array([2, 0]))
    assert (end - start).tolist() == [2, 1]


def test_a_million_rows_against_ten_holds_take_a_second_or_two() -> None:
    """Of processor time: 0.5 s a million was measured; the bound leaves room for any machine."""
    count = 200_000
    octets = np.random.default_rng(7).integers(0, 2**32, count, dtype=np.uint32)
    found: dict[str, list[Any]] = {
        "record_id": [bytes(16)] * count,
        "collector": ["c1"] * count,
        "start_us": [T0 + n for n in range(count)],
        "end_us": [T0 + n + 300_000_000 for n in range(count)],
        "subscriber": [f"sub-{n % 50_000:06d}" for n in range(count)],
        "address": [bytes(10) + b"\xff\xff" + int(n).to_bytes(4, "big") for n in octets],
        "prefix_len": [128] * count,
    }
    holds = {
        f"H-{n}": [
            parse("subscriber", f"sub-{n:06d}", T0, NEVER),
            parse("address", f"192.0.{n}.0/24", T0, NEVER),
        ]
        for n in range(10)
    }
    began = time.process_time()
    masks = match("usage", found, holds)
    spent = time.process_time() - began
    assert masks["H-3"].sum() >= count // 50_000
    assert spent * 1_000_000 / count < 4
