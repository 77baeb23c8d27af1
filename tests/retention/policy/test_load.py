"""What a policy file may not say: each problem by the path of its key, and all of them at once."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.store.schema import RECORD_TABLES, TABLES
from collector.wire.settings import ConfigError
from retention.policy.load import PACKAGED, PolicyError, _length, load
from retention.policy.model import PURPOSES, length_text
from tests.retention.policy.support import NOW, Edit, make, notice, problems

PERSONAL = sorted(name for name, table in RECORD_TABLES.items() if table.personal)


def rule(record_class: str, purpose: str, **values: Any) -> Edit:
    """Change keys of a rule; None takes the key away."""

    def edit(plain: dict[str, Any]) -> None:
        found = plain["class"][record_class].setdefault(purpose, {})
        found.update(values)
        for key in [key for key, value in values.items() if value is None]:
            del found[key]

    return edit


def without_group(record_class: str, n: int) -> Edit:
    return lambda plain: plain["class"][record_class]["data"].pop(n)


def notices(*found: dict[str, Any]) -> Edit:
    return lambda plain: plain.update(notice=list(found))


def test_a_file_is_read_and_a_missing_one_named(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    with pytest.raises(PolicyError, match="no such file"):
        load(path, NOW)
    path.write_text("period = ")
    with pytest.raises(ConfigError, match="Invalid value"):
        load(path, NOW)
    path.write_text(PACKAGED.read_text())
    assert load(path, NOW).digest == load(PACKAGED, NOW).digest


@pytest.mark.parametrize("name", PERSONAL)
def test_a_class_without_a_policy_is_refused(name: str) -> None:
    found = problems(lambda plain: plain["class"].pop(name))
    assert f"class.{name}: missing: table {name} has persons' rows and no policy" in found
    assert f"class.{name}: missing: table late_{name} has persons' rows and no policy" in found


@pytest.mark.parametrize("name", [*PERSONAL, *(f"late_{name}" for name in PERSONAL)])
def test_persons_rows_cannot_be_exempt(name: str) -> None:
    found = problems(lambda plain: plain["exempt"].update({name: "we would rather not"}))
    assert found == [f"exempt.{name}: its rows are persons' and cannot be exempt"]


@pytest.mark.parametrize("name", ["link", "gap", "demand", "ingest_ledger"])
def test_other_tables_need_a_reason(name: str) -> None:
    missing = f"exempt.{name}: missing: the table is no class's, and no reason exempts it"
    assert problems(lambda plain: plain["exempt"].pop(name)) == [missing]
    blank = problems(lambda plain: plain["exempt"].update({name: "  "}))
    assert f"exempt.{name}: must say something" in blank


def test_a_live_table_that_nobody_knows_is_refused() -> None:
    assert problems(live=[*TABLES, "schema_migrations", "visit_copy"]) == [
        "exempt.visit_copy: missing: the table is no class's, and no reason exempts it"
    ]
    make(live=[*TABLES, "schema_migrations", "closed_partitions"])


def test_a_new_class_of_persons_rows_is_found_in_the_schema() -> None:
    new = replace(TABLES["visit"], name="mail")
    assert problems(tables=TABLES | {"mail": new}) == [
        "class.mail: missing: table mail has persons' rows and no policy"
    ]


@settings(max_examples=50, deadline=None)  # each loads a policy file
@given(
    extra=st.dictionaries(st.sampled_from(["mail", "chat", "probe"]), st.booleans()),
    exempted=st.sets(st.sampled_from(["mail", "chat", "probe", "visit", "usage"])),
    dropped=st.sets(st.sampled_from(PERSONAL), max_size=2),
)
def test_every_table_is_wired_or_exempt_or_nothing_loads(
    extra: dict[str, bool], exempted: set[str], dropped: set[str]
) -> None:
    """Invariant 7 in small: extra is table to whether its rows are persons'."""
    tables = TABLES | {
        name: replace(TABLES["visit" if personal else "gap"], name=name)
        for name, personal in extra.items()
    }

    def edit(plain: dict[str, Any]) -> None:
        plain["exempt"].update(dict.fromkeys(exempted, "reason"))
        for name in dropped:
            del plain["class"][name]

    wrong = (
        dropped
        | {name for name, personal in extra.items() if personal or name not in exempted}
        | {name for name in exempted if name in tables and tables[name].personal}
    )
    if not wrong:
        assert make(edit, tables=tables).unwired(tables) == []
        return
    found = problems(edit, tables=tables)
    for name in wrong:
        assert any(line.startswith((f"class.{name}: ", f"exempt.{name}: ")) for line in found)


@pytest.mark.parametrize("key", ["basis", "owner"])
@pytest.mark.parametrize(("value", "text"), [("", "must say something"), ("  \n ", "must say")])
def test_nothing_is_kept_without_a_basis_and_an_owner(key: str, value: str, text: str) -> None:
    (line,) = problems(rule("call", "billing", **{key: value}))
    assert line.startswith(f"class.call.billing.{key}: {text}")
    assert problems(rule("call", "billing", **{key: None})) == [
        f"class.call.billing.{key}: missing"
    ]


@pytest.mark.parametrize("period", ["0 days", "0 months", "0 months and 0 days"])
def test_a_period_of_nothing_is_refused(period: str) -> None:
    (line,) = problems(rule("call", "faults", period=period))
    assert line.startswith("class.call.faults.period: a period of nothing")


@pytest.mark.parametrize(
    "period",
    ["", "90", 90, "-1 days", "a while", "1.5 months", "3 days and 4 days", "and 5 days", "12m"],
)
def test_a_period_that_is_none_is_refused(period: object) -> None:
    (line,) = problems(rule("call", "faults", period=period))
    assert line.startswith('class.call.faults.period: write "90 days"')


def test_a_period_beyond_all_reason_is_refused() -> None:
    (line,) = problems(rule("call", "billing", period="70 years", over_maximum_basis="slip"))
    assert line == "class.call.billing.period: longer than 25 years"


@given(st.integers(0, 290), st.integers(0, 150))
def test_lengths_are_read_as_they_are_written(months: int, days: int) -> None:
    if months + days:
        assert _length(length_text((months, days))) == (months, days)


@pytest.mark.parametrize("period", ["13 months", "366 days", "12 months and 1 day", "2 years"])
def test_the_statutory_maximum_has_no_exception(period: str) -> None:
    line = "class.visit.statutory.period: longer than 12 months (IPA 2016 s.87(3))"
    assert problems(rule("visit", "statutory", period=period)) == [line]
    edit = rule("visit", "statutory", period=period, over_maximum_basis="because")
    assert line in problems(edit)


@pytest.mark.parametrize("period", ["1 year", "12 months", "365 days"])
def test_the_statutory_maximum_itself_is_lawful(period: str) -> None:
    make(rule("visit", "statutory", period=period))


def test_another_purpose_may_be_longer_with_a_basis_of_its_own() -> None:
    assert problems(rule("usage", "billing", period="6 years")) == [
        "class.usage.billing.over_maximum_basis: missing: the period is longer than 12 months"
    ]
    basis = "Limitation Act 1980 s.5"
    policy = make(rule("usage", "billing", period="6 years", over_maximum_basis=basis))
    assert policy.period("usage").length == (72, 0)
    (line,) = problems(rule("usage", "billing", over_maximum_basis=basis))
    assert line.startswith("class.usage.billing.over_maximum_basis: only for")


def test_the_clock_is_the_one_that_places_the_rows() -> None:
    assert problems(rule("mapping", "faults", clock="communication")) == [
        "class.mapping.faults.clock: rows of mapping are partitioned by entity-data,"
        " not communication"
    ]
    for name in ("session", "usage", "visit", "call"):
        assert problems(rule(name, "faults", clock="entity-data"))
    for name in PERSONAL:
        assert problems(rule(name, "faults", clock="first-held"))
    (line,) = problems(rule("call", "faults", clock="sundial"))
    assert line.startswith("class.call.faults.clock: Input should be 'communication'")


def test_a_class_must_outlive_its_notice() -> None:
    found = problems(lambda plain: plain["class"]["visit"].pop("faults"))
    assert "class.visit: without a notice no purpose is left: add another, if only for a day" in (
        found
    )


def test_months_are_too_coarse_for_the_statute() -> None:
    copied = {"period": "12 months", "clock": "communication", "basis": "s.87", "owner": "dpo"}
    assert problems(rule("usage", "statutory", **copied)) == [
        "class.usage.statutory: its partitions are months, and the statute counts days"
    ]


def test_lengths_that_depend_on_the_month_cannot_stand_together() -> None:
    (line,) = problems(rule("call", "faults", period="3 months"))
    assert line.startswith("class.call: 90 days (billing) and 3 months (faults): which is longer")


def test_unknown_words_are_refused() -> None:
    def edit(plain: dict[str, Any]) -> None:
        plain["class"]["mail"] = {"title": "Mail", "faults": plain["class"]["call"]["faults"]}
        plain["class"]["link"] = {"title": "Links", "faults": plain["class"]["call"]["faults"]}
        plain["class"]["call"]["marketing"] = {}
        plain["class"]["call"]["faults"]["typo"] = 1
        plain["rubbish"] = 1

    found = problems(edit)
    assert "rubbish: unknown key" in found
    assert "class.mail: unknown class" in found
    assert "class.link: its rows are no person's: give the reason under exempt" in found
    assert "class.call.faults.typo: unknown key" in found
    assert (
        f"class.call.marketing: neither title, data nor a purpose ({', '.join(PURPOSES)})" in found
    )


@pytest.mark.parametrize("key", ["notice", "class", "common", "exempt", "register"])
def test_a_part_of_the_wrong_shape_is_a_problem_not_a_crash(key: str) -> None:
    assert any(line.startswith(f"{key}:") for line in problems(lambda p: p.update({key: 3})))
    inner: object = [3] if key in ("notice", "common") else {"call": 3}
    assert any(line.startswith(f"{key}.") for line in problems(lambda p: p.update({key: inner})))


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_rule_of_the_wrong_shape_is_a_problem_not_a_crash(purpose: str) -> None:
    assert any(
        line.startswith(f"class.call.{purpose}:")
        for line in problems(lambda plain: plain["class"]["call"].update({purpose: "90 days"}))
    )


def test_notices_are_checked() -> None:
    found = problems(
        notices(
            notice(["visit"], "2026-01-01", "2027-01-01", "N-1"),
            notice(["visit", "call"], "2026-12-31", None, "N-2"),
            notice(["mail", "usage"], "2026-01-01", "2026-01-01", "N-3"),
            notice(["session", "session"], "2026-01-01", "2026-02-01", "N-4"),
            notice(["session"], "2027-01-01", None, "N-4"),
            {"id": "N-5", "classes": ["call"], "from": dt.datetime(2026, 1, 1)},  # noqa: DTZ001
            {"id": "N 6", "classes": [], "from": "2026-01-01"},
        )
    )
    assert {line.split(": ")[0] for line in found} >= {
        "notice.N-2",
        "notice.N-3",
        "notice.N-4",
        "notice",
        "notice.5.from",
        "notice.6.id",
        "notice.6.classes",
        "notice.6.from",
    }
    assert any(line.startswith("notice.N-2: overlaps N-1 for visit:") for line in found)
    assert "notice.N-3: unknown class mail" in found
    assert "notice.N-3: class.usage.statutory is missing" in found
    assert "notice: 2 have the id N-4" in found


def test_notices_that_follow_each_other_do_not_overlap() -> None:
    make(
        notices(
            notice(["visit"], "2026-01-01", "2027-01-01", "N-1"),
            notice(["visit"], "2027-01-01", None, "N-2"),
            notice(["call"], "2026-01-01", None, "N-3"),
            notice(["visit"], "2025-01-01", "2026-01-01", "N-0"),
        )
    )


@pytest.mark.parametrize("name", PERSONAL)
def test_each_stored_column_must_be_declared(name: str) -> None:
    """Leaving out any one group of columns is found, column by column."""
    stored = {column for column, _ in TABLES[name].columns}
    for n, group in enumerate(make().classes[name].data):
        found = problems(without_group(name, n))
        assert sorted(found) == sorted(
            f"class.{name}.data: stored column {column} has no declared purpose"
            for column in group.columns
        )
        assert set(group.columns) <= stored


def test_a_new_column_in_the_schema_fails_the_check() -> None:
    visit = TABLES["visit"]
    tables = TABLES | {"visit": replace(visit, columns=(*visit.columns, ("path", "String")))}
    assert problems(tables=tables) == [
        "class.visit.data: stored column path has no declared purpose"
    ]


def test_a_new_computed_column_of_late_rows_fails_the_check() -> None:
    late = TABLES["late_visit"]
    tables = TABLES | {"late_visit": replace(late, computed=(*late.computed, ("seen", "Date")))}
    assert problems(tables=tables) == [
        "class.visit.data: stored column seen has no declared purpose"
    ]


def test_a_column_that_is_not_stored_cannot_be_declared() -> None:
    def edit(plain: dict[str, Any]) -> None:
        plain["class"]["visit"]["data"][0]["columns"].append("path")
        plain["class"]["visit"]["data"][1]["columns"].append("host")
        plain["class"]["visit"]["data"][1]["purposes"] = ["billing"]
        plain["common"][0]["columns"].append("shoe_size")

    found = problems(edit)
    assert "class.visit.data: visit stores no path" in found
    assert "class.visit.data: host is declared 2 times" in found
    assert "class.visit.data: data for billing, which is no purpose of visit" in found
    assert "common: no class stores shoe_size" in found


def test_all_problems_come_at_once() -> None:
    found = problems(
        rule("visit", "statutory", period="13 months"),
        rule("call", "faults", basis=" "),
        rule("usage", "demand", owner=None),
        lambda plain: plain["exempt"].pop("gap"),
        lambda plain: plain["class"].pop("session"),
        lambda plain: plain["register"].pop("subjects"),
        lambda plain: plain["class"]["binding"]["data"].pop(),
        notices(notice(["visit"]), notice(["visit"], name="N-2")),
        live=["strange"],
    )
    for start in (
        "class.visit.statutory.period: ",
        "class.call.faults.basis: ",
        "class.usage.demand.owner: ",
        "exempt.gap: ",
        "class.session: ",
        "register.subjects: ",
        "class.binding.data: ",
        "notice.N-2: ",
        "exempt.strange: ",
    ):
        assert any(line.startswith(start) for line in found), (start, found)
