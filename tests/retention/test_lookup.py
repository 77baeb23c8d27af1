"""`/v1/lookup` and its command with a real service, engine and log: roles, leaves, what changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from aggregator.store.bundled import Engine
from collector.wire.addr import pack
from retention import routes_lookup
from retention.audit import canonical
from retention.register.lock import LogPending
from tests.aggregator.conftest import bundled_engine
from tests.aggregator.support import Store
from tests.retention import rig
from tests.retention.test_cli_story import People
from tests.retention.vault.world import S, row

__all__ = ["bundled_engine"]
pytestmark = pytest.mark.engine

NOON = 1_801_396_800 * S
MINUTE = 60 * S
PEOPLE = {"rita": "legal-requester", "app": "legal-approver", "dora": "dpo", "bill": "billing",
          "dan": "demand", "fay": "faults", "adam": "auditor", "olga": "operations"}  # fmt: skip
ADDRESS, SUBSCRIBER, REFERENCE = "100.64.0.9", "sub-lookup-0042", "RIPA-2026-017"
AT = "2027-01-31T12:00:00Z"


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, bundled_engine: Engine) -> Iterator[People]:
    with rig.open_folder() as folder:
        made = People(folder, bundled_engine, PEOPLE)
        try:
            store(made.store, "e", NOON)
            made.running.until("the engine", lambda: made.running.metric("engine_up") == 1)
            yield made
        finally:
            made.stop()
        rig.good(made.running.config.log_folder)


def store(into: Store, epoch: str, at_us: int) -> None:
    """A collector delivered everything about a time."""
    into.client.insert(
        "ingest_ledger",
        {name: [value] for name, value in {
            "collector": "edge-1", "epoch": epoch, "sequence": 1, "batch": b"b" * 16, "sha256": "",
            "rows": 1, "window_start_us": at_us, "window_end_us": at_us + 600 * MINUTE,
            "received_us": at_us + 601 * MINUTE, "verdict": "accept", "lag_us": 0,
        }.items()},
    )  # fmt: skip


def bound(people: People, name: str, session: bytes, start: int) -> None:
    held = {"address": pack(ADDRESS), "prefix_len": 128, "subscriber": name, "session_id": session}
    people.world.put(
        "binding",
        [row("binding", **held, valid_from_us=start, valid_to_us=NOON + 30 * MINUTE,
             certainty="certain", batch=b"b" * 16)],
    )  # fmt: skip
    people.world.put(
        "session",
        [row("session", subscriber=name, session_id=session, slice_start_us=start, nas="bras-1",
             slice_end_us=NOON + 30 * MINUTE, end_min_us=NOON + 30 * MINUTE, start_source="stated",
             end_max_us=NOON + 30 * MINUTE, end_reason="stated", batch=b"b" * 16)],
    )  # fmt: skip


def leaves(people: People, kind: str) -> list[dict[str, Any]]:
    return people.running.leaves(kind)


def text(people: People, commitment: str) -> str:
    api = people.running.service.api
    assert api is not None
    return api.parts.commitments.text(commitment)


WORDS = ("lookup", ADDRESS, "--at", AT, "--reference", REFERENCE)


def test_who_had_it_then_a_late_binding_changes_the_answer_and_it_shows(people: People) -> None:
    bound(people, SUBSCRIBER, b"s" * 16, NOON - 30 * MINUTE)
    before = len(leaves(people, "lookup"))
    first = people.json("rita", *WORDS)
    assert first["losses"] == []
    assert (first["grade"], first["count"], first["earlier"]) == ("CERTAIN", 1, None)
    assert first["candidates"][0]["subscriber"] == SUBSCRIBER
    assert first["candidates"][0]["binding"]["records"]

    leaf = leaves(people, "lookup")[before]
    assert (leaf["what"], leaf["role"], leaf["rows"]) == ("lookup", "legal-requester", 1)
    assert text(people, leaf["reference"]) == REFERENCE
    asked = text(people, leaf["subject"])
    assert ADDRESS in asked
    assert asked.endswith(first["answer"])
    for word in (ADDRESS, SUBSCRIBER, REFERENCE, "rita"):
        assert word.encode() not in canonical.encode(leaf)

    again = people.json("dora", *WORDS)
    assert again["earlier"]["is_same"]
    assert again["answer"] == first["answer"]
    assert again["earlier"]["arrived_since"] == []

    bound(people, "sub-late", b"l" * 16, NOON - 10 * MINUTE)
    changed = people.json("app", *WORDS)
    assert (changed["grade"], changed["count"]) == ("AMBIGUOUS", 2)
    assert not changed["earlier"]["is_same"]
    assert changed["earlier"]["answer"] == first["answer"]
    shown = people.run("rita", *WORDS)
    assert shown.exit_code == 0, shown.stderr
    for part in ("AMBIGUOUS", SUBSCRIBER, "sub-late", "asked before", "the same answer"):
        assert part in shown.stdout
    assert len(leaves(people, "lookup")) == before + 4


@pytest.mark.parametrize("person", ["bill", "dan", "fay", "adam", "olga"])
def test_others_are_refused_and_that_is_a_leaf_too(people: People, person: str) -> None:
    looked, refused = len(leaves(people, "lookup")), len(leaves(people, "refusal"))
    done = people.run(person, *WORDS)
    assert done.exit_code == 3
    assert "legal-requester" in done.stderr
    assert SUBSCRIBER not in done.stdout + done.stderr
    (leaf,) = leaves(people, "refusal")[refused:]
    assert (leaf["action"], leaf["reason"]) == ("lookup.who", "not-allowed")
    assert len(leaves(people, "lookup")) == looked


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("lookup", ADDRESS, "--at", "2027-01-31T12:00", "-r", "x"), "instant with its zone"),
        (("lookup", ADDRESS, "--at", AT), "reference"),
        (("lookup", ADDRESS, "--at", AT, "-r", "x", "--tolerance", "soon"), "duration"),
        (("lookup", ADDRESS, "--at", AT, "-r", "x", "--tolerance", "2h"), "3600"),
        (("lookup", "192.0.2.1:80", "--at", AT, "-r", "x"), "without a port"),
        (("lookup", ADDRESS, "--at", "2097-01-01T00:00:00Z", "-r", "x"), "future"),
        (("lookup", ADDRESS, "--at", AT, "-r", "x", "-p", "1", "--proto", "ip"), "proto"),
        (("lookup", ADDRESS, "--at", AT, "-r", "x", "--proto", "tcp"), "together with a port"),
    ],
)
def test_a_wrong_question_is_said_and_looks_nothing_up(
    people: People, words: tuple[str, ...], says: str
) -> None:
    before = len(leaves(people, "lookup"))
    done = people.run("rita", *words)
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.split())
    assert len(leaves(people, "lookup")) == before


def test_no_leaf_no_answer(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    register = people.running.service.register
    assert register is not None

    def full(*_: object) -> None:
        raise LogPending("the disk is full", committed=True)

    with monkeypatch.context() as patched:
        patched.setattr(register._outbox, "settle", full)
        done = people.run("rita", *WORDS)
    assert done.exit_code == 1
    assert SUBSCRIBER not in done.stdout + done.stderr


def test_the_engines_user_gives_up_the_right_to_write(people: People) -> None:
    from retention.lookups import Reading

    engine = people.running.service._engine
    assert engine is not None
    reading = Reading(engine)
    assert reading.query_columns("SELECT 1 AS one", {})["one"] == [1]
    with pytest.raises(Exception, match="164"):  # READONLY
        reading.query_columns("INSERT INTO gap (stage) VALUES ('x')", {})


def test_what_is_remembered_is_bounded(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_lookup, "MAX_REMEMBERED", 2)
    register = people.running.service.register
    assert register is not None
    for second in range(4):
        people.json("rita", "lookup", ADDRESS, "--at", f"2027-01-31T12:00:0{second}Z", "-r", "x")
    remembered = register.notes(routes_lookup.MEMORY)
    assert len(remembered) <= 2
    assert ADDRESS not in json.dumps(remembered)


OLD = 1_749_556_800 * S  # 2025-06-10T12:00:00Z: past every period
HELD, OTHER = ("100.64.9.9", "sub-held"), ("100.64.9.10", "sub-of-another-order")
SCOPE = "kind,value,from,to,classes,ports\nsubscriber,sub-held,2025-06-01,2025-07-01,,\n"
FACTS = ("--matter=Larch", "--authority=Leeds Crown Court", "--reference=T1",
         "--served=2027-01-20", "--expires=2028-12-31")  # fmt: skip


VAULT = "tallyhold_vault.vault_"
Rows = dict[str, list[dict[str, Any]]]


def access(address: str, name: str) -> Rows:
    """A session and its binding with two versions, by class."""
    times = {"subscriber": name, "session_id": name[-1].encode() * 16}
    start, end = OLD - 30 * MINUTE, OLD + 30 * MINUTE
    bound = row(
        "binding", **times, address=pack(address), prefix_len=128, valid_from_us=start,
        valid_to_us=end, certainty="certain", observed_us=end,
    )  # fmt: skip
    opened = {**bound, "valid_to_us": 0, "observed_us": start}
    online = row(
        "session", **times, slice_start_us=start, start_us=start, start_source="stated",
        slice_end_us=end, end_min_us=end, end_max_us=end, end_reason="stated", nas="bras-1",
    )  # fmt: skip
    return {"binding": [bound, opened], "session": [online]}


def put(people: People, rows: Rows, tables: str) -> None:
    """Rows as a purge left them in the vault, or as ingest put them aside as late."""
    for record_class, each in rows.items():
        people.world.put(record_class, each, f"{tables}{record_class}")


def placed(people: People, basis: str) -> str:
    words = ("hold", "place", *FACTS, f"--basis={basis}", "-f", "-", "--yes")
    name: str = people.json("rita", *words, typed=SCOPE)["id"]
    return name


def approved(people: People, name: str) -> None:
    done = people.run("app", "hold", "approve", name, "--yes")
    assert done.exit_code == 0, done.stderr


def test_the_vault_is_looked_up_for_an_order_and_as_far_as_that_goes(people: People) -> None:
    store(people.store, "old", OLD)
    for address, name in (HELD, OTHER):
        put(people, access(address, name), VAULT)
    words = ("lookup", HELD[0], "--at", "2025-06-10T12:00:00Z", "--reference", REFERENCE)
    unseen = people.json("rita", *words)
    assert (unseen["candidates"], unseen["hold"]) == ([], None)

    order = placed(people, "court-order")
    refused = len(leaves(people, "refusal"))
    early = people.run("rita", *words, "--hold", order)
    assert early.exit_code == 3
    assert "approved" in early.stderr
    assert HELD[1] not in early.stdout
    assert leaves(people, "refusal")[refused]["reason"] == "not-an-order"
    approved(people, order)
    before = len(leaves(people, "lookup"))
    seen = people.json("rita", *words, "--hold", order)
    assert [each["subscriber"] for each in seen["candidates"]] == [HELD[1]]
    (one,) = seen["candidates"]
    assert one["binding"]["held"] and len(one["binding"]["records"]) == 1
    assert one["session"]["nas"] == "bras-1"
    assert (seen["hold"], seen["earlier"]) == (order, None)  # another question than the one before
    leaf = leaves(people, "lookup")[before]
    assert order in text(people, leaf["subject"])
    shown = people.run("rita", *words, "--hold", order).stdout
    assert f"that {order} protects were looked at too" in shown
    assert "(vault)" in shown

    beside = ("lookup", OTHER[0], *words[2:], "--hold", order)
    assert people.json("rita", *beside)["candidates"] == []
    only_kept = placed(people, "preservation-request")
    approved(people, only_kept)
    assert people.run("rita", *words, "--hold", only_kept).exit_code == 3
    assert people.run("rita", *words, "--hold", "H-2027-9999").exit_code == 1
    assert people.run("fay", *words, "--hold", order).exit_code == 3


def test_late_rows_that_wait_for_a_sweep_are_seen_for_an_order(people: People) -> None:
    """They came after their day was closed, and are neither live nor in the vault yet."""
    store(people.store, "late", OLD)
    people.store.keeper.insert(
        "closed_partitions",
        {
            "record_class": ["binding", "session"],
            "first_open": np.array([20250611] * 2, dtype=np.uint32),
            "version": np.array([1] * 2, dtype=np.uint64),
        },
    )
    mine = access("100.64.9.11", HELD[1])
    put(people, mine, "late_")
    put(people, access("100.64.9.12", OTHER[1]), "late_")
    words = ("lookup", "100.64.9.11", "--at", "2025-06-10T12:00:00Z", "--reference", REFERENCE)
    unseen = people.json("rita", *words)
    assert (unseen["grade"], unseen["candidates"]) == ("GAP", [])
    assert "destroyed" in {each["reason"] for each in unseen["losses"]}
    order = placed(people, "court-order")
    approved(people, order)
    (one,) = people.json("rita", *words, "--hold", order)["candidates"]
    assert (one["subscriber"], one["session"]["nas"]) == (HELD[1], "bras-1")
    beside = ("lookup", "100.64.9.12", *words[2:], "--hold", order)
    assert people.json("rita", *beside)["candidates"] == []
    # A sweep that has copied and not dropped yet: the same row in both places is one.
    put(people, mine, VAULT)
    assert people.json("rita", *words, "--hold", order)["candidates"] == [one]
