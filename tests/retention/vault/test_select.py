"""What the engine brings and the matcher chooses is what the matcher alone would choose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aggregator.store.schema import RECORD_TABLES
from collector.wire.addr import pack
from retention.audit.merkle import EMPTY_ROOT, Tree, leaf_hash
from retention.holds.columns import CLASSES
from retention.holds.matcher import match, spans
from retention.model import NEVER, Kind, ScopeItem
from retention.policy.partitions import place_of
from retention.vault import digests, select
from retention.vault.port import KEY_BYTES, PreserveError
from tests.retention.holds import rows as strategies
from tests.retention.vault.world import NOON, S, World, held_row, hold, hold_on, place, row, salt


def _clock(record_class: str, each: dict[str, Any]) -> int:
    time = int(each[RECORD_TABLES[record_class].time])
    if record_class == "mapping" and each["end_us"] > time:
        return int(each["end_us"]) - 1
    return time


@pytest.mark.engine
@pytest.mark.parametrize("record_class", CLASSES)
@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # an example costs engine time; a failing one is small enough
)
@given(data=st.data())
def test_engine_and_matcher_choose_what_the_matcher_chooses(
    world: World, record_class: str, data: st.DataObject
) -> None:
    """Rows and scopes that nearly meet, in every column that a scope can name."""
    drawn = data.draw(st.lists(strategies.rows(record_class), min_size=20, max_size=40))
    scopes = data.draw(strategies.scopes)
    names = set(RECORD_TABLES[record_class].names)
    listed = [
        row(record_class, **{name: each[name] for name in each if name in names}) for each in drawn
    ]
    world.store.keeper.execute(f"TRUNCATE TABLE {record_class}")
    world.put(record_class, listed)
    holds = [hold(*items, name=name) for name, items in scopes.items()]
    wanted: dict[str, set[bytes]] = {name: set() for name in scopes}
    found: set[bytes] = set()
    counts = dict.fromkeys(scopes, 0)
    places = {place_of(record_class, _clock(record_class, each)) for each in listed}
    for at in places:
        selection = world.select(at, *holds)
        found |= {selection.ids[n : n + 16] for n in range(0, len(selection.ids), KEY_BYTES)}
        for root in selection.held:
            counts[root.hold] += root.rows
    columns = {name: [each[name] for each in listed] for name in listed[0]}
    for name, mask in match(record_class, columns, scopes).items():
        wanted[name] = {columns["record_id"][n] for n in mask.nonzero()[0].tolist()}
    assert found == set().union(*wanted.values())
    assert counts == {name: len(ids) for name, ids in wanted.items()}
    _check_bounds(world, record_class, listed)


@pytest.mark.engine
def test_numbers_are_found_however_they_were_sent(world: World) -> None:
    listed = [
        row("call", **{column: raw})
        for raw in strategies.RAW
        for column in ("a_raw", "b_raw", "a_e164", "b_e164")
    ]
    world.put("call", listed)
    wanted = hold(ScopeItem(Kind.NUMBER, "+442079460018", 0, NEVER, ("call",)))
    columns = {name: [each[name] for each in listed] for name in listed[0]}
    mask = match("call", columns, {"H-1": wanted.scope})["H-1"]
    assert 10 < mask.sum() < len(listed) - 10
    assert world.select(place("call"), wanted).held[0].rows == mask.sum()


def _check_bounds(world: World, record_class: str, listed: list[dict[str, Any]]) -> None:
    """Partitions cover what the matcher says that their rows cover."""
    columns = {name: [each[name] for each in listed] for name in listed[0]}
    start, end = spans(record_class, columns)
    wanted: dict[Any, list[int]] = {}
    for n, each in enumerate(listed):
        wanted.setdefault(place_of(record_class, _clock(record_class, each)), []).append(n)
    known = {p.place: p for p in world.vault.partitions() if p.place.record_class == record_class}
    assert known.keys() == wanted.keys()
    for at, rows in wanted.items():
        partition = known[at]
        assert partition.rows == len(rows)
        assert partition.earliest_us == min(partition.start_us, *(int(start[n]) for n in rows))
        assert partition.latest_us == max(partition.end_us, *(int(end[n]) for n in rows))


@pytest.mark.engine
@pytest.mark.parametrize("record_class", ["session", "binding", "call"])
def test_only_the_newest_version_counts(world: World, record_class: str) -> None:
    """An older version that a hold matches is no row any more, in whatever part it lies."""
    column, old, new = {
        "session": ("line", "line-1", "line-2"),
        "binding": ("subscriber", "ann", "bob"),
        "call": ("a_e164", "+442079460018", "+442079460019"),
    }[record_class]
    first = row(record_class, **{column: old})
    second = first | {column: new, "observed_us": first["observed_us"] + S}
    world.put(record_class, [first])
    world.put(record_class, [second])
    kind = {"line": Kind.LINE, "subscriber": Kind.SUBSCRIBER, "a_e164": Kind.NUMBER}[column]
    holds = [
        hold(ScopeItem(kind, value, 0, NEVER, (record_class,)), name=name)
        for name, value in (("H-old", old), ("H-new", new))
    ]
    at = place(record_class)
    assert world.vault.count(at, "live") == 1
    selection = world.select(at, *holds)
    assert {each.hold: each.rows for each in selection.held} == {"H-new": 1, "H-old": 0}
    world.purge(at, *holds)
    assert world.vault.count(at, "vault") == 1
    kept = world.store.keeper.query_columns(
        f"SELECT {column} AS v FROM tallyhold_vault.vault_{record_class}"
    )
    assert kept["v"] == [new]


@pytest.mark.engine
def test_a_row_of_two_holds_is_kept_once_and_proven_to_each(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Roots are those of digests made by hand, whatever slices the rows came in."""
    monkeypatch.setattr(select, "SLICE_ROWS", 3)
    listed = [held_row("usage", "ann") for _ in range(7)] + [held_row("usage", "bob")]
    later = held_row("usage", "ann", start_us=NOON + 600 * S, end_us=NOON + 900 * S)
    world.put("usage", [*listed, later, held_row("usage", "eve")])
    at = place("usage")
    all_of_ann = hold_on("ann", "H-1")
    early = hold_on("ann", "H-2", end=NOON + 600 * S)
    nobody = hold_on("zoe", "H-3")
    selection = world.select(at, all_of_ann, early, nobody)
    assert selection.rows == 8
    assert [(each.hold, each.rows) for each in selection.held] == [
        ("H-1", 8),
        ("H-2", 7),
        ("H-3", 0),
    ]
    assert selection.held[2].root == EMPTY_ROOT.hex()
    assert selection.held[1].root == _root([*listed[:7]], salt("H-2", at))
    assert selection.held[0].root == _root([*listed[:7], later], salt("H-1", at))
    assert selection.digest == digests.digest_of(
        digests.salted(salt("", at), _canonical([*listed[:7], later]))
    )


def _canonical(rows: list[dict[str, Any]]) -> list[bytes]:
    columns = {name: [each[name] for each in rows] for name in rows[0]}
    return digests.canonical(RECORD_TABLES["usage"], columns, np.arange(len(rows)))


def _root(rows: list[dict[str, Any]], salted_with: bytes) -> str:
    tree = Tree()
    data = digests.salted(salted_with, _canonical(rows))
    for digest in sorted(data[n : n + 32] for n in range(0, len(data), 32)):
        tree.append(leaf_hash(digest))
    return tree.root().hex()


@pytest.mark.engine
def test_evidence_is_the_same_before_and_after_a_purge_and_within(world: World) -> None:
    """Live and vault are counted together, and a row that is in both for a moment counts once."""
    world.put("visit", [held_row("visit", who) for who in ("ann", "ann", "bob", "eve")])
    at, holds = place("visit"), (hold_on("ann", "H-1"), hold_on("bob", "H-2"))
    roots = []

    def look() -> None:
        roots.append(world.vault.select(at, {"live", "vault"}, holds, salt))

    look()
    world.vault.preserve(world.select(at, *holds))
    look()
    world.purge(at, *holds)
    look()
    assert roots[0] == roots[1] == roots[2]
    assert roots[0].rows == 3


@pytest.mark.engine
def test_too_many_held_rows_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "MAX_DIGESTS", 5)
    world.put("usage", [held_row("usage", "ann") for _ in range(4)])
    with pytest.raises(PreserveError, match="usage 202512") as caught:
        world.select(place("usage"), hold_on("ann"))
    assert caught.value.code == "too-many"


@pytest.mark.engine
def test_bounds_are_read_again_only_after_inserts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put("visit", [row("visit")])
    world.put("visit", [row("visit", start_us=NOON - 2 * 86_400 * S, end_us=NOON)])
    first = world.vault.partitions()
    assert [each.place.number for each in first] == [20251220, 20251222]
    reads: list[str] = []
    keeper = world.store.keeper
    ask = keeper.query_columns

    def spy(sql: str, *rest: Any) -> dict[str, list[Any]]:
        reads.append(sql)
        return ask(sql, *rest)

    monkeypatch.setattr(keeper, "query_columns", spy)
    assert world.vault.partitions() == first
    assert [sql for sql in reads if "clock_day" in sql] == []
    world.put("visit", [row("visit", end_us=NOON + 86_400 * S)])
    keeper.execute("OPTIMIZE TABLE visit")
    again = world.vault.partitions()
    assert again[0] == first[0]
    assert again[1].rows == 2
    assert again[1].latest_us == NOON + 86_400 * S


@pytest.mark.engine
def test_history_names_bindings_mappings_and_sessions_wherever_they_are(world: World) -> None:
    ann = [held_row(name, "ann") for name in ("binding", "session")]
    inside = row("mapping", inside_address=pack("100.64.9.9"), public_address=pack("192.0.2.1"))
    for name, each in (("binding", ann[0]), ("session", ann[1])):
        world.put(name, [each, held_row(name, "eve")])
    world.put("mapping", [inside, row("mapping")], "late_mapping")
    scope = (
        ScopeItem(Kind.SUBSCRIBER, "ann", NOON, NOON + 1, ("usage",)),
        ScopeItem(Kind.ADDRESS, "192.0.2.0/24", 0, NEVER, ("visit",), (1030, 1030)),
    )
    found = world.vault.history(scope)
    assert {name: list(columns["record_id"]) for name, columns in found.items()} == {
        "binding": [ann[0]["record_id"]],
        "session": [ann[1]["record_id"]],
        "mapping": [inside["record_id"]],
    }
    world.purge(place("binding"), hold_on("ann"))
    again = world.vault.history(scope)
    assert list(again["binding"]["record_id"]) == [ann[0]["record_id"]]
    assert list(again["binding"]["valid_from_us"]) == [NOON]
    nobody = world.vault.history([ScopeItem(Kind.SUBSCRIBER, "zoe", 0, NEVER, ("usage",))])
    assert [len(columns["record_id"]) for columns in nobody.values()] == [0, 0, 0]
