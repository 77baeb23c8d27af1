"""`/v1/faults` and its commands with a real service, engine and log: roles, leaves, words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aggregator.store.bundled import Engine
from tests.aggregator.conftest import bundled_engine
from tests.retention import rig
from tests.retention.test_cli_story import People
from tests.retention.vault.world import S, row

__all__ = ["bundled_engine"]
pytestmark = pytest.mark.engine

MINUTE = 60 * S
NOON = 1_801_396_800 * S  # 2027-01-31: the day before the people's clock begins
PEOPLE = {"fay": "faults", "olga": "operations", "bill": "billing", "rita": "legal-requester"}
LINE = ("faults", "line", "sub-fault-3", "--period", "2027-01-31", "--reference", "T-4711")
OUTAGES = ("faults", "outages", "--period", "2027-01-31")


@pytest.fixture(scope="module")
def people(bundled_engine: Engine) -> Iterator[People]:
    with rig.open_folder() as folder:
        made = People(folder, bundled_engine, PEOPLE)
        try:
            made.world.put(
                "session",
                [
                    row(
                        "session", subscriber=f"sub-fault-{n}", session_id=bytes([n]) * 16,
                        slice_start_us=NOON - 60 * MINUTE, start_us=NOON - 60 * MINUTE,
                        start_source="stated", slice_end_us=NOON + n * S, nas="bras-1",
                        end_min_us=NOON + n * S, end_max_us=NOON + n * S, end_reason="stated",
                        terminate_cause=2, line=f"ge-0/0/7:{n}",
                    )
                    for n in range(6)
                ],
            )  # fmt: skip
            made.running.until("the engine", lambda: made.running.metric("engine_up") == 1)
            yield made
        finally:
            made.stop()
        rig.good(made.running.config.log_folder)


def test_a_line_with_its_leaf(people: People) -> None:
    before = len(people.running.leaves("lookup"))
    answer = people.json("fay", *LINE)
    assert [each["what"] for each in answer["timeline"]] == ["session begins", "session ends"]
    assert answer["timeline"][1]["detail"] == "lost carrier"
    (leaf,) = people.running.leaves("lookup")[before:]
    assert (leaf["what"], leaf["role"], leaf["rows"]) == ("faults.line", "faults", 2)
    api = people.running.service.api
    assert api is not None
    assert api.parts.commitments.text(leaf["subject"]) == "sub-fault-3"
    assert api.parts.commitments.text(leaf["reference"]) == "T-4711"
    shown = people.run("fay", *LINE)
    assert "lost carrier" in shown.stdout
    assert "1 sessions, 0 falls" in shown.stdout


@pytest.mark.parametrize("person", ["fay", "olga"])
def test_outages_name_nobody_and_are_no_look_up(people: People, person: str) -> None:
    before = len(people.running.leaves("lookup"))
    (found,) = people.json(person, *OUTAGES)["outages"]
    assert (found["kind"], found["place"], found["lines"]) == ("nas", "bras-1", 6)
    assert found["parts"] == [{"kind": "port", "place": "bras-1 ge-0/0/7", "lines": 6}]
    assert len(people.running.leaves("lookup")) == before
    shown = people.run(person, *OUTAGES).stdout
    assert "lost carrier 6" in shown
    assert "sub-fault" not in shown
    assert "No lines ended together" in people.run(person, *OUTAGES, "--lines", "7").stdout


@pytest.mark.parametrize(
    ("person", "words"),
    [("olga", LINE), ("bill", LINE), ("rita", LINE), ("bill", OUTAGES), ("rita", OUTAGES)],
)
def test_others_are_refused_and_that_is_a_leaf(
    people: People, person: str, words: tuple[str, ...]
) -> None:
    before = len(people.running.leaves("refusal"))
    assert people.run(person, *words).exit_code == 3
    (leaf,) = people.running.leaves("refusal")[before:]
    assert leaf["action"] == f"faults.{words[1]}"


@pytest.mark.parametrize(
    "words",
    [
        ("faults", "line", "sub-fault-3", "--period", "yesterday"),
        ("faults", "line", " ", "--period", "2027-01-31"),
        ("faults", "outages", "--period", "2027-01-31/2027-01-30"),
        ("faults", "outages", "--period", "2027-01-31", "--lines", "1"),
        ("faults", "outages", "--period", "2027-01-31", "--share", "1.5"),
    ],
)
def test_a_wrong_question_is_said(people: People, words: tuple[str, ...]) -> None:
    before = len(people.running.leaves("lookup"))
    done = people.run("fay", *words)
    assert done.exit_code == 2
    assert done.stderr.strip()
    assert len(people.running.leaves("lookup")) == before
