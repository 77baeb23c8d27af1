from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retention.holds import resolve
from retention.holds.columns import CLASSES
from retention.holds.errors import HoldRefused
from retention.holds.history import SETTLED_US
from retention.holds.instants import Covered, compact
from retention.holds.resolve import NOTHING, Histories, expand, is_shared, probes
from retention.holds.scope import MAX_RESOLVED, parse, prefix
from retention.model import DAY_US, NEVER, Hold, Kind, ScopeItem
from tests.retention.audit.story import START
from tests.retention.holds.made import MINUTE, NOW, Rows, in_force

T0 = START + 10 * DAY_US
HOUR = 60 * MINUTE
LATER = NOW


def grown(hold: Hold, found: Histories, now: int = LATER) -> tuple[ScopeItem, ...]:
    return expand(hold, found["binding"], found["mapping"], found["session"], now)


def found_by(
    items: ScopeItem | list[ScopeItem], rows: Rows, now: int = LATER, **changes: Any
) -> set[tuple[str, str, int, int]]:
    """New items of a hold on these, as (kind, value, from, to)."""
    scope = items if isinstance(items, list) else [items]
    new = grown(in_force(*scope, **changes), rows.columns(), now)
    assert all(item.resolved and item.classes for item in new)
    return {(item.kind.value, item.value, item.from_us, item.to_us) for item in new}


def classes_of(items: tuple[ScopeItem, ...], value: str) -> tuple[str, ...]:
    return next(item.classes for item in items if item.value == value)


def test_a_subscriber_leads_to_addresses_for_their_tenure_alone() -> None:
    """A had the address until T, B from T on."""
    rows = Rows()
    rows.bind("ann", "192.0.2.7", T0, T0 + HOUR)
    rows.bind("bob", "192.0.2.7", T0 + HOUR, T0 + 2 * HOUR)
    rows.bind("ann", "2001:db8:7::/56", T0 + HOUR, T0 + 3 * HOUR)
    item = parse("subscriber", "ann", T0 + MINUTE, T0 + 2 * HOUR)
    assert found_by(item, rows) == {
        ("address", "192.0.2.7/32", T0 + MINUTE, T0 + HOUR),
        ("address", "2001:db8:7::/56", T0 + HOUR, T0 + 2 * HOUR),
    }


def test_an_address_leads_to_who_held_it_then_and_on_to_what_else_they_held() -> None:
    rows = Rows()
    rows.bind("ann", "192.0.2.7", T0, T0 + HOUR)
    rows.bind("ann", "2001:db8:7::/56", T0, T0 + 9 * HOUR)
    rows.bind("bob", "192.0.2.7", T0 + HOUR, T0 + 2 * HOUR)
    item = parse("address", "192.0.2.7", T0 + MINUTE, T0 + HOUR)
    assert found_by(item, rows) == {
        ("subscriber", "ann", T0 + MINUTE, T0 + HOUR),
        ("address", "2001:db8:7::/56", T0 + MINUTE, T0 + HOUR),
    }
    a_microsecond_on = replace(item, to_us=T0 + HOUR + 1)
    assert ("subscriber", "bob", T0 + HOUR, T0 + HOUR + 1) in found_by(a_microsecond_on, rows)


def test_an_address_never_leads_to_those_before_and_after_through_its_holder() -> None:
    rows = Rows()
    rows.bind("ann", "192.0.2.7", T0, T0 + HOUR)
    rows.bind("ann", "192.0.2.8", T0, T0 + HOUR)
    rows.bind("bob", "192.0.2.8", T0 + HOUR - 1, T0 + 2 * HOUR)  # both claim a microsecond
    item = parse("address", "192.0.2.7", T0, T0 + 2 * HOUR)
    assert {value for _, value, _, _ in found_by(item, rows)} == {"ann", "192.0.2.8/32"}


def test_a_port_leads_through_the_mapping_to_one_of_the_sharers() -> None:
    rows = Rows()
    for n in (7, 8):
        inside = f"100.64.0.{n}"
        rows.bind(f"sub-{n}", inside, T0, T0 + 5 * HOUR)
        rows.map(inside, "192.0.2.1", (n * 1000, n * 1000 + 999), T0 + HOUR, T0 + 2 * HOUR)
    item = parse("address", "192.0.2.1", T0, T0 + 90 * MINUTE, (), (7500, 7500))
    assert found_by(item, rows) == {
        ("subscriber", "sub-7", T0 + HOUR, T0 + 90 * MINUTE),
        ("address", "100.64.0.7/32", T0 + HOUR, T0 + 90 * MINUTE),
    }
    everyone = replace(item, ports=(0, 65535))
    assert {v for k, v, _, _ in found_by(everyone, rows) if k == "subscriber"} == {"sub-7", "sub-8"}


def test_an_inside_address_that_nobody_is_bound_to_is_held_by_itself() -> None:
    rows = Rows()
    rows.map("100.64.0.7", "192.0.2.1", (1024, 2047), T0, T0 + HOUR)
    item = parse("address", "192.0.2.1", T0 + MINUTE, NEVER, (), (2047, 3000))
    assert found_by(item, rows) == {("address", "100.64.0.7/32", T0 + MINUTE, T0 + HOUR)}


@pytest.mark.parametrize(
    ("kind", "value"),
    [("account", "cui-7"), ("line", "port 7"), ("user", "ann@isp.example"), ("session", "0000A7")],
)
def test_a_session_leads_to_its_subscriber_for_its_time(kind: str, value: str) -> None:
    rows = Rows()
    named: dict[str, Any] = {
        "cui": "cui-7",
        "line": "port 7",
        "user_name": "ann",
        "realm": "ISP.example",
        "acct_session_id": "0000A7",
    }
    rows.session("ann", T0, T0 + HOUR, **named)
    rows.session("bob", T0 + HOUR, T0 + 2 * HOUR, line="port 8", acct_session_id="0000A8")
    rows.bind("ann", "192.0.2.7", T0 + MINUTE, T0 + HOUR)
    rows.bind("bob", "192.0.2.7", T0 + HOUR, T0 + 2 * HOUR)
    assert found_by(parse(kind, value, T0, NEVER), rows) == {
        ("subscriber", "ann", T0, T0 + HOUR),
        ("address", "192.0.2.7/32", T0 + MINUTE, T0 + HOUR),
    }


def test_a_session_without_a_subscriber_leads_by_its_own_hash() -> None:
    rows = Rows()
    rows.session("", T0, T0 + HOUR, "s1", line="port 7", acct_session_id="0000A7")
    rows.bind("", "192.0.2.7", T0, T0 + HOUR, "s1")
    rows.bind("", "192.0.2.8", T0, T0 + HOUR, "s2")
    assert found_by(parse("line", "port 7", T0, NEVER), rows) == {
        ("address", "192.0.2.7/32", T0, T0 + HOUR)
    }


def test_slices_of_a_session_that_do_not_name_the_subscriber_are_held_by_their_id() -> None:
    rows = Rows()
    rows.session("", T0, T0 + HOUR, "s1", acct_session_id="0000A7")
    rows.session("ann", T0 + HOUR, T0 + 2 * HOUR, "s1", acct_session_id="0000A7")
    rows.bind("ann", "192.0.2.7", T0, T0 + HOUR, "s1")
    item = parse("subscriber", "ann", T0, T0 + 90 * MINUTE, ["session"])
    assert found_by(item, rows) == {("session", "0000A7", T0, T0 + HOUR)}
    # Where every slice names its subscriber there is none: ids are unique at one NAS alone.
    rows = Rows()
    rows.session("ann", T0, T0 + HOUR, "s1", acct_session_id="0000A7")
    assert found_by(item, rows) == set()


def test_only_the_classes_of_the_order_go_on() -> None:
    rows = Rows()
    rows.session("ann", T0, T0 + HOUR, line="port 7")
    rows.bind("ann", "192.0.2.7", T0, T0 + HOUR)
    new = grown(in_force(parse("line", "port 7", T0, NEVER)), rows.columns())
    assert classes_of(new, "ann") == ("usage", "session", "binding", "visit", "call")
    assert classes_of(new, "192.0.2.7/32") == ("usage", "binding", "mapping", "visit", "call")
    new = grown(in_force(parse("line", "port 7", T0, NEVER, ["mapping", "visit"])), rows.columns())
    assert classes_of(new, "ann") == ("visit",)
    assert classes_of(new, "192.0.2.7/32") == ("mapping", "visit")


def test_literal_holds_and_numbers_lead_nowhere() -> None:
    rows = Rows()
    rows.bind("ann", "192.0.2.7", T0, T0 + HOUR)
    item = parse("subscriber", "ann", T0, NEVER)
    assert found_by(item, rows, resolve=False) == set()
    assert probes(in_force(item, resolve=False), NOTHING, LATER) == ()
    number = in_force(parse("number", "+442079460018", T0, NEVER))
    assert grown(number, rows.columns()) == ()
    assert probes(number, NOTHING, LATER) == ()


def test_a_prefix_of_the_order_covers_what_is_within_it() -> None:
    rows = Rows()
    rows.bind("ann", "192.0.2.7", T0, T0 + HOUR)
    assert found_by(parse("address", "192.0.2.0/24", T0, NEVER), rows) == {
        ("subscriber", "ann", T0, T0 + HOUR)
    }


def test_a_delegated_prefix_is_held_whole_for_one_address_in_it() -> None:
    rows = Rows()
    rows.bind("ann", "2001:db8:7::/56", T0, T0 + HOUR)
    assert found_by(parse("address", "2001:db8:7::1", T0, NEVER), rows) == {
        ("subscriber", "ann", T0, T0 + HOUR),
        ("address", "2001:db8:7::/56", T0, T0 + HOUR),
    }


def test_a_binding_that_is_wider_than_any_provider_leads_nowhere() -> None:
    rows = Rows()
    rows.add("binding", subscriber="ann", address=bytes(16), prefix_len=0,
             valid_from_us=T0, valid_to_us=T0 + HOUR)  # fmt: skip
    assert found_by(parse("subscriber", "ann", T0, NEVER), rows) == set()


def test_of_several_versions_the_newest_counts() -> None:
    rows = Rows()
    rows.bind("ann", "192.0.2.7", T0, 0, record_id=b"r" * 16, observed_us=1)
    rows.bind("ann", "192.0.2.7", T0, T0 + HOUR, record_id=b"r" * 16, observed_us=9)
    rows.bind("ann", "192.0.2.7", T0, 0, record_id=b"r" * 16, observed_us=5)
    item = parse("subscriber", "ann", T0, NEVER)
    assert found_by(item, rows) == {("address", "192.0.2.7/32", T0, T0 + HOUR)}


def test_a_slice_that_was_withdrawn_is_nobodys() -> None:
    rows = Rows()
    rows.bind("ann", "192.0.2.7", T0 + DAY_US, T0 + DAY_US)
    assert found_by(parse("subscriber", "ann", T0, NEVER), rows) == set()


def test_an_open_slice_is_held_as_far_as_it_was_seen_and_whole_once_settled() -> None:
    item = parse("subscriber", "ann", T0, NEVER)
    midnight = T0 + DAY_US
    rows = Rows()
    rows.bind("ann", "192.0.2.7", T0 + HOUR, 0, record_id=b"r" * 16, observed_us=T0 + 2 * HOUR)
    hold = in_force(item)
    first = grown(hold, rows.columns(), T0 + 3 * HOUR)
    assert [(i.from_us, i.to_us) for i in first] == [(T0 + HOUR, T0 + 2 * HOUR)]
    hold = replace(hold, scope=(*hold.scope, *first))
    rows.bind("ann", "192.0.2.7", T0 + HOUR, 0, record_id=b"r" * 16, observed_us=T0 + 4 * HOUR)
    assert grown(hold, rows.columns(), T0 + 5 * HOUR) == (), "one look of it is enough"
    rest = grown(hold, rows.columns(), midnight + SETTLED_US)
    assert [(i.from_us, i.to_us) for i in rest] == [(T0 + 2 * HOUR, midnight)]
    # It ended in fact, and the address went to another in the afternoon: nothing over-held.
    rows.bind("ann", "192.0.2.7", T0 + HOUR, T0 + 6 * HOUR, record_id=b"r" * 16, observed_us=NOW)
    rest = grown(hold, rows.columns(), midnight + SETTLED_US)
    assert [(i.from_us, i.to_us) for i in rest] == [(T0 + 2 * HOUR, T0 + 6 * HOUR)]


def test_slices_of_many_days_are_one_item() -> None:
    rows = Rows()
    for day in range(300):
        rows.bind("ann", "192.0.2.7", T0 + day * DAY_US, T0 + (day + 1) * DAY_US)
    hold = in_force(parse("subscriber", "ann", T0, NEVER))
    for _ in range(2):
        new = grown(hold, rows.columns(), T0 + 400 * DAY_US)
        hold = replace(hold, scope=compact((*hold.scope, *new)))
    assert [(i.from_us, i.to_us) for i in hold.scope[1:]] == [(T0, T0 + 300 * DAY_US)]


def test_too_much_is_refused_and_not_cut_off() -> None:
    rows = Rows()
    for n in range(MAX_RESOLVED + 1):
        rows.bind("ann", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", T0, T0 + HOUR)
    hold = in_force(parse("subscriber", "ann", T0, NEVER))
    with pytest.raises(HoldRefused) as caught:
        grown(hold, rows.columns())
    assert caught.value.code == "too-wide"
    assert "more than 4000 identifiers" in caught.value.text


def test_an_address_is_shared_if_it_is_known_to_be_or_was_seen_to_be() -> None:
    rows = Rows()
    rows.map("100.64.0.7", "192.0.2.1", (1024, 2047), T0, T0 + HOUR)
    mappings = rows.columns()["mapping"]
    item = parse("address", "192.0.2.1", T0, NEVER)
    pool = (prefix("192.0.2.0/24"),)
    assert is_shared(item, (), mappings)
    assert is_shared(parse("address", "192.0.0.0/16", T0, NEVER), (), mappings)
    assert not is_shared(parse("address", "192.0.2.1", T0 + HOUR, NEVER), (), mappings)
    assert not is_shared(parse("address", "100.64.0.7", T0, NEVER), (), mappings)
    assert not is_shared(replace(item, ports=(1024, 1024)), pool, mappings)
    assert not is_shared(parse("address", "192.0.3.1", T0, NEVER), pool, mappings)
    assert is_shared(parse("address", "192.0.2.9", T0, NEVER), pool, NOTHING["mapping"])
    assert not is_shared(parse("subscriber", "ann", T0, NEVER), pool, mappings)


def test_questions_lead_on_until_all_is_known() -> None:
    rows = Rows()
    rows.map("100.64.0.7", "192.0.2.1", (1024, 2047), T0, T0 + HOUR)
    rows.bind("ann", "100.64.0.7", T0, T0 + HOUR, "s1")
    rows.session("ann", T0, T0 + HOUR, "s1", acct_session_id="0000A7")
    hold = in_force(parse("address", "192.0.2.1", T0, NEVER, (), (1024, 1024)))
    first = probes(hold, NOTHING, LATER)
    assert [(item.kind, item.value, item.ports) for item in first] == [
        (Kind.ADDRESS, "192.0.2.1/32", (1024, 1024))
    ]
    asked = {(item.kind, item.value) for item in probes(hold, rows.columns(), LATER)}
    assert asked == {
        (Kind.ADDRESS, "192.0.2.1/32"),
        (Kind.ADDRESS, "100.64.0.7/32"),
        (Kind.SUBSCRIBER, "ann"),
        (Kind.SESSION, "0000A7"),
    }


WHO = st.sampled_from(["ann", "bob", ""])
INSIDE = st.sampled_from(["100.64.0.7", "100.64.0.8", "192.0.2.7"])
TIMES = st.integers(0, 12).map(lambda n: T0 + n * HOUR)
ORDERS = [
    parse("subscriber", "ann", T0 + HOUR, T0 + 8 * HOUR),
    parse("address", "100.64.0.7", T0 + 2 * HOUR, T0 + 9 * HOUR, ["usage", "session"]),
    parse("address", "192.0.2.1", T0, T0 + 9 * HOUR, (), (1024, 1500)),
    parse("address", "192.0.2.0/24", T0 + 3 * HOUR, T0 + 4 * HOUR),
    parse("line", "port 1", T0, T0 + 5 * HOUR),
]


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, dict[str, Any]]]:
    """Arguments of rows: of a binding, a mapping or a session."""
    found: list[tuple[str, dict[str, Any]]] = []
    for number in range(draw(st.integers(0, 8))):
        start, end = sorted(draw(st.tuples(TIMES, TIMES)))
        times = {"start": start, "end": draw(st.sampled_from([end, end, 0]))}
        name = f"s{draw(st.integers(0, 2))}"
        kind = draw(st.sampled_from(["bind", "map", "session"]))
        seen = {"record_id": bytes([number]) * 16, "observed_us": end}
        if kind == "bind":
            args = {"who": draw(WHO), "address": draw(INSIDE), "session": name, **times, **seen}
        elif kind == "map":
            first = draw(st.sampled_from([1024, 2048]))
            args = {"inside": draw(INSIDE), "public": "192.0.2.1", "ports": (first, first + 1023)}
            args |= {"start": start, "end": end}
        else:
            line = draw(st.sampled_from(["port 1", "port 2"]))
            args = {"who": draw(WHO), "session": name, "line": line, "acct_session_id": name}
            args |= times | seen
        found.append((kind, args))
    return found


def columns_of(history: list[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, list[Any]]]:
    rows = Rows()
    for kind, args in history:
        getattr(rows, kind)(**args)
    return rows.columns()


def instants(items: tuple[ScopeItem, ...]) -> set[tuple[Any, ...]]:
    """Every half hour that the items cover; the rows above change on the hour."""
    return {
        (item.kind, item.value, item.ports, name, at)
        for item in items
        for name in item.classes
        for at in range(T0 - HOUR // 2, T0 + 30 * HOUR, HOUR // 2)
        if item.from_us <= at < item.to_us
    }


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(ORDERS), min_size=1, max_size=3, unique=True), histories(), st.data()
)
def test_growth_is_new_idempotent_monotone_and_within_the_order(
    orders: list[ScopeItem], history: list[tuple[str, dict[str, Any]]], data: Any
) -> None:
    hold = in_force(*orders)
    part = [row for row in history if data.draw(st.booleans())]
    # First some of it becomes known, then all of it; and all of it at once.
    early = grown(hold, columns_of(part))
    halfway = replace(hold, scope=compact((*hold.scope, *early)))
    late = grown(halfway, columns_of(history))
    both = replace(halfway, scope=compact((*halfway.scope, *late)))
    at_once = replace(hold, scope=compact((*hold.scope, *grown(hold, columns_of(history)))))

    assert grown(both, columns_of(history)) == ()
    assert grown(at_once, columns_of(history)) == ()
    assert instants(both.scope) == instants(at_once.scope)
    assert not instants(early) & instants(hold.scope)
    assert not instants(late) & instants(halfway.scope)
    spans = [(item.from_us, item.to_us, set(item.classes)) for item in orders]
    for item in (*early, *late):
        assert item.resolved
        for name in item.classes:
            # Each piece lies within the order, though several of its items may make it up.
            within = [(start, end) for start, end, classes in spans if name in classes]
            allowed = Covered(
                [ScopeItem(Kind.LINE, "x", start, end, (name,)) for start, end in within]
            )
            assert not allowed.missing(
                [ScopeItem(Kind.LINE, "x", item.from_us, item.to_us, (name,))]
            )


@settings(max_examples=200, deadline=None)
@given(histories(), st.sampled_from(ORDERS[:4]))
def test_nobody_is_held_for_longer_than_they_had_it(
    history: list[tuple[str, dict[str, Any]]], order: ScopeItem
) -> None:
    """The rule, slow and plain: each instant of a new subscriber or address has a row for it."""
    hold = in_force(order)
    new = grown(hold, columns_of(history))
    binds = [args for kind, args in history if kind == "bind"]
    maps = [args for kind, args in history if kind == "map"]

    def had(args: dict[str, Any], at: int) -> bool:
        end = args["end"] or (args["start"] // DAY_US + 1) * DAY_US
        return bool(args["start"] <= at < end)

    def mapped(args: dict[str, Any], at: int) -> bool:
        return bool(args["start"] <= at < max(args["end"], args["start"] + 1))

    for kind, value, _, _, at in instants(new):
        if kind is Kind.SUBSCRIBER:
            assert any(args["who"] == value and had(args, at) for args in binds)
        if kind is Kind.ADDRESS:
            text = value.removesuffix("/32")
            behind = any(args["inside"] == text and mapped(args, at) for args in maps)
            assert behind or any(args["address"] == text and had(args, at) for args in binds)


def test_pieces_are_cut_out_by_class() -> None:
    whole = parse("subscriber", "ann", 0, 100)
    known = Covered([replace(whole, from_us=10, to_us=20, classes=("usage",)),
                     replace(whole, from_us=15, to_us=30, classes=("usage", "visit"))])  # fmt: skip
    new = known.missing([replace(whole, classes=("usage", "visit"))])
    assert [(item.from_us, item.to_us, item.classes) for item in new] == [
        (0, 10, ("usage",)),
        (0, 15, ("visit",)),
        (30, 100, ("usage", "visit")),
    ]
    assert all(set(item.classes) <= set(CLASSES) for item in new)
    assert resolve.compact(new) == tuple(sorted(new, key=lambda i: (i.classes, i.from_us)))
