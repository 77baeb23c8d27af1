"""The purge's steps in order, what stops it, that a dry run is the run, and who comes between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.store.errors import Misused
from retention.destruction.steps import carry_out
from retention.model import DAY_US, Place, Purge, Step
from retention.register.store import Busy, LogPending, RegisterError
from retention.vault.port import PreserveError, Selection
from tests.retention.destruction.scenes import again, first, points, second, service, session, visit
from tests.retention.destruction.world import HOUR, START, World, item, policy

FIRST = Place("visit", 20260101)


@pytest.fixture
def world(folder: Path) -> Iterator[World]:
    world = World(folder / "world")
    yield world
    world.close()


def ready(world: World, *days: int) -> None:
    """Rows of a, b and c on each of these days, a's held, and all of it open for destruction."""
    for day in days:
        world.store.ingest(*(visit(10 * day + n, who, day) for n, who in enumerate("aabc")))
    world.hold(item("a"))
    world.observe()
    world.open_for(max(days))


def purged(world: World) -> list[str]:
    return [kind for kind in world.kinds() if kind.startswith(("purge.", "hold.evidence"))]


def test_the_steps_of_a_live_place_in_order(world: World) -> None:
    ready(world, 0)
    steps = list[str]()
    world.faults.arm(-1, lambda: None)
    world.run(progress=lambda place, step: steps.append(f"{place.number} {step}"))
    assert [each.removeprefix("20260101 ") for each in steps] == [
        "evidence",
        "intent",
        "preserved",
        "dropped",
        "certificate",
    ]
    calls = [each for each in world.faults.seen if each.endswith("before")]
    vault = [c for c in calls if c.split()[0] in ("preserve", "drop", "select", "Register.write")]
    at = {name: vault.index(f"{name} before") for name in ("preserve", "drop")}
    selects = [n for n, call in enumerate(vault) if call == "select before"]
    first, second = selects
    assert first < at["preserve"] < second, "one look for evidence and copy, one into the vault"
    assert "Register.write before" in vault[at["preserve"] : at["drop"]]
    assert purged(world) == [
        "hold.evidence",
        "purge.intent",
        "purge.preserved",
        "purge.dropped",
        "purge.certificate-pending",
    ]
    assert {e.key for e in world.store.vault[FIRST]} == {visit(0, "a").key, visit(1, "a").key}
    assert not world.store.live
    (purge,) = world.register.purges()
    assert (purge.rows_before, purge.preserved, purge.destroyed) == (4, 2, 2)
    assert world.findings() == []


def test_the_log_knows_a_place_before_its_intent(world: World) -> None:
    ready(world, 0)
    world.run()
    kinds = world.kinds()
    assert kinds.index("partition.seen") < kinds.index("purge.intent")
    (intent,) = world.leaves("purge.intent")
    seen = world.leaves("partition.seen")[-1]
    for name in ("start", "end", "earliest", "latest", "retain_until"):
        assert intent[name] == seen[name]


def test_a_dry_run_has_no_effect_and_the_run_does_what_it_said(world: World) -> None:
    ready(world, 0, 1, 2, 9)
    before, leaves = world.there(), world.log.size
    plan = world.plan().cap(2)
    assert world.there() == before
    assert world.log.size == leaves
    run = world.purger.run(plan)
    assert run.plan is not None
    assert [(each.place, each.state) for each in run.outcomes] == [
        (each.place, "destroyed") for each in plan.due
    ]
    left = {place.number for place in world.store.live}
    assert left == {20260103, 20260110}


def test_no_more_places_than_the_cap(world: World) -> None:
    ready(world, *range(6))
    assert len(world.run(cap=4).outcomes) == 4
    assert len(world.store.live) == 2
    assert len(world.run(cap=4).outcomes) == 2


def test_every_place_with_a_hold_has_its_evidence_zero_rows_too(world: World) -> None:
    ready(world, 0)
    other = world.hold(item("nobody"))
    world.run()
    rows = {each["hold"]: each["rows"] for each in world.leaves("hold.evidence")}
    assert rows[other.id] == 0
    assert sorted(rows.values()) == [0, 2]
    (preserved,) = world.leaves("purge.preserved")
    assert [each["rows"] for each in preserved["holds"]] == [2]
    assert world.findings() == []


def test_evidence_is_given_again_when_holds_changed_since(world: World) -> None:
    ready(world, 0)
    world.verify()
    first_count = len(world.leaves("hold.evidence"))
    hold = world.register.holds()[0]
    world.grow(hold.id, item("b"))
    world.run()
    assert len(world.leaves("hold.evidence")) == first_count + 1
    assert world.leaves("purge.preserved")[0]["rows"] == 3
    assert world.findings() == []


def test_a_hold_placed_after_the_plan_protects(world: World) -> None:
    world.store.ingest(visit(1, "a"), visit(2, "b"))
    world.observe()
    world.open_for(0)
    plan = world.plan()
    assert plan.due[0].action == "drop"
    world.hold(item("b"))
    run = world.purger.run(plan)
    assert [each.state for each in run.outcomes] == ["destroyed"]
    assert world.there() == {visit(2, "b").key}
    assert world.findings() == []


def test_a_policy_that_came_after_the_plan_counts(world: World) -> None:
    ready(world, 0)
    plan = world.plan()
    world.load(policy(90))
    run = world.purger.run(plan)
    assert [each.state for each in run.outcomes] == ["kept"]
    assert "its period ends" in run.outcomes[0].reason
    assert len(world.store.live) == 1
    assert not world.leaves("purge.intent")


def test_a_longer_and_then_a_shorter_policy(world: World) -> None:
    ready(world, 0)
    world.load(policy(90))
    world.observe()
    assert not world.run().outcomes
    world.load(policy(20))
    world.observe()
    assert [each.state for each in world.run().outcomes] == ["destroyed"]
    world.purger.certificates.issue()
    assert world.findings() == []


def test_rows_that_come_to_a_destroyed_place_again_are_not_destroyed_a_second_time(
    world: World,
) -> None:
    ready(world, 0)
    world.run()
    world.store.live[FIRST] = [visit(9, "c")]  # no writer does this: a restore might
    run = world.run()
    assert not run.outcomes
    (found,) = [each for each in run.plan.decisions if each.store == "live"]
    assert "destroyed by P-2026-000001" in found.reason
    assert world.findings() == []


def test_two_runs_at_once_destroy_each_place_once(world: World) -> None:
    ready(world, 0, 1, 2, 3)
    plan = world.plan()
    errors = list[BaseException]()

    def run() -> None:
        try:
            world.purger.run(plan)
        except (RegisterError, Busy) as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not errors
    drops = [approved.place for what, approved in world.destroyed if what == "drop"]
    assert sorted(drops) == sorted(set(drops))
    assert len(drops) == 4
    world.purger.certificates.issue()
    assert world.findings() == []


@pytest.mark.parametrize("off", [-30, -1, 9, 400])
@pytest.mark.parametrize("scene", [first, second])
def test_a_clock_that_goes_wrong_at_any_point_destroys_nothing_more(
    folder: Path, off: int, scene: object
) -> None:
    template = (first if scene is first else second)(folder / "scene")
    template.world.close()
    count = again(template, folder / "count").world
    service(count)
    total = len(count.faults.seen)
    count.close()
    for at in points(total, 8, off):
        run = again(template, folder / str(at))
        world, wrong_at = run.world, list[int]()

        def jump(world: World = world, wrong_at: list[int] = wrong_at) -> None:
            world.clock.off_us = off * DAY_US
            wrong_at.append(len(world.destroyed))

        world.context.guard.check()
        world.faults.arm(at, jump)
        # The guard looks before each statement, so at most the one it let pass a moment ago.
        service(world)
        assert len(world.destroyed) <= wrong_at[0] + 1
        assert run.kept <= world.there()
        assert not world.context.guard.check().trusted
        world.clock.off_us = 0
        assert world.context.guard.check().trusted
        service(world)
        service(world)
        assert world.there() == run.kept
        assert world.findings() == []
        world.close()


@pytest.mark.parametrize("scene", [first, second])
def test_a_hold_submitted_at_any_point_is_honoured_or_told(folder: Path, scene: object) -> None:
    template = (first if scene is first else second)(folder / "scene")
    template.world.close()
    count = again(template, folder / "count").world
    service(count)
    total = len(count.faults.seen)
    count.close()
    wanted = {
        e.key: e.place for e in [visit(4, "c"), visit(3, "b"), session(3, "c"), visit(12, "c")]
    }
    for at in points(total, 3):
        world = again(template, folder / str(at)).world
        came = {each.key for each in world.store.everything()}
        threads = list[threading.Thread]()

        def submit(world: World = world, threads: list[threading.Thread] = threads) -> None:
            scope = item("c"), item("b")
            threads.append(threading.Thread(target=world.hold, args=scope))
            threads[0].start()
            threads[0].join(0.01)  # at once where nothing has the lock; else it waits for it

        world.faults.arm(at, submit)
        service(world)
        threads[0].join()
        hold = world.register.holds()[-1]
        assert len(world.register.holds()) == len(template.holds) + (scene is second) + 1
        told = {world.register.purge(name) for name in hold.unavailable}
        places = {purge.partition.place for purge in told if purge}
        for key, place in wanted.items():
            if key in came - world.there():
                swept = key == visit(12, "c").key
                assert place in places or swept, (at, place)
        service(world)
        service(world)
        assert world.findings() == [], at
        world.close()


class Trouble:
    """A store whose `preserve` or `select` does something else than it should."""

    def test_a_selection_that_is_not_in_the_vault_fails_the_purge(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ready(world, 0)
        monkeypatch.setattr(world.store, "preserve", lambda selection: None)
        run = world.run()
        assert [each.state for each in run.outcomes] == ["failed"]
        assert not run.stopped
        assert world.register.purges()[0].reason == "evidence"
        assert len(world.store.live[FIRST]) == 4

    def test_a_preserve_error_fails_this_place_and_no_other(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ready(world, 0, 1)
        inner = world.store.preserve

        def preserve(selection: Selection) -> None:
            if selection.place == FIRST:
                raise PreserveError("fingerprint", "the copy is not the same")
            inner(selection)

        monkeypatch.setattr(world.store, "preserve", preserve)
        run = world.run()
        assert [each.state for each in run.outcomes] == ["failed", "destroyed"]
        assert world.leaves("purge.failed")[0]["reason"] == "fingerprint"
        assert world.findings() == []

    def test_a_statement_that_does_not_fit_fails_this_place_and_no_other(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ready(world, 0, 1)
        inner = world.store.count

        def count(place: Place, store: str) -> int:
            if place == FIRST:
                raise Misused("no such column")
            return inner(place, store)  # type: ignore[arg-type]

        monkeypatch.setattr(world.store, "count", count)
        run = world.run()
        assert [each.state for each in run.outcomes] == ["kept", "destroyed"]

    def test_rows_that_come_meanwhile_fail_the_purge(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ready(world, 0)
        inner = world.store.preserve

        def preserve(selection: Selection) -> None:
            inner(selection)
            world.store.live[FIRST].append(visit(9, "c"))

        monkeypatch.setattr(world.store, "preserve", preserve)
        assert world.run().outcomes[0].state == "failed"
        assert world.register.purges()[0].reason == "rows-changed"
        monkeypatch.undo()
        assert world.run().outcomes[0].state == "destroyed"
        assert world.there() == {visit(0, "a").key, visit(1, "a").key}

    def test_a_vault_with_less_than_was_counted_fails_the_purge(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ready(world, 0)
        inner = world.store.select

        def select(place: Place, sources: object, holds: object, salt: object) -> Selection:
            found = inner(place, sources, holds, salt)  # type: ignore[arg-type]
            if sources != ("vault",):
                return found
            none = tuple(replace(each, rows=0) for each in found.held)
            return replace(found, rows=0, held=none, ids=b"")

        monkeypatch.setattr(world.store, "select", select)
        assert world.run().outcomes[0].state == "failed"
        assert world.register.purges()[0].reason == "evidence"
        assert len(world.store.live[FIRST]) == 4

    def test_no_answer_to_the_drop_leaves_it_unsettled_and_stops(self, world: World) -> None:
        ready(world, 0, 1)
        plan = world.plan()
        world.faults.at_name("drop", "after", 0, lambda: setattr(world.store, "dead", True))
        run = world.run()
        assert [each.state for each in run.outcomes] == ["unsettled"]
        assert run.stopped
        assert world.register.purges()[0].step is Step.PRESERVED
        with pytest.raises(Busy):
            world.submit(item("c"))
        assert world.purger.run(plan).stopped.startswith("not settled")
        world.store.dead = False
        assert world.purger.resumer.settle().clear
        assert world.register.purges()[0].step is Step.DROPPED
        world.submit(item("c"))
        world.run()
        world.purger.certificates.issue()
        assert world.findings() == []

    def test_a_log_that_takes_no_leaf_stops_the_purge_before_the_drop(self, world: World) -> None:
        ready(world, 0)

        def full() -> None:
            raise OSError(28, "No space left on device")

        # extend: evidence, intent, preserved.
        world.faults.at_name("AuditLog.extend", "before", 2, full)
        with pytest.raises(LogPending):
            world.run()
        assert len(world.store.live[FIRST]) == 4
        assert not world.destroyed
        assert world.purger.resumer.settle().clear
        assert world.purger.resumer.settle().ended == ()
        assert world.there() == {visit(0, "a").key, visit(1, "a").key}
        world.purger.certificates.issue()
        assert world.findings() == []


class TestTrouble(Trouble):
    """Collected under a name that pytest takes."""


def test_missing_held_rows_stop_a_purge_before_its_intent(world: World) -> None:
    ready(world, 0)
    world.verify()
    world.store.live[FIRST].pop(0)  # behind everybody's back
    run = world.run()
    assert [each.state for each in run.outcomes] == ["kept"]
    assert [each.code for each in run.findings] == ["held-missing"]
    assert not world.leaves("purge.intent")


def test_a_vault_that_vanished_as_a_whole_is_found_by_night_and_by_the_log(world: World) -> None:
    """The store lists nothing of it any more; the register remembers that there was something."""
    ready(world, 0)
    world.run()
    assert world.store.vault[FIRST] and not world.verify().findings
    world.store.vault.clear()
    findings = world.verify().findings
    assert [each.code for each in findings] == ["held-missing"]
    assert any("held-destroyed" in each for each in map(str, world.findings()))


def test_a_place_that_is_kept_is_not_carried_out(world: World) -> None:
    world.store.ingest(visit(1, "a"))
    world.observe()
    (decision,) = world.plan().decisions
    assert carry_out(world.context, decision, "ann").state == "kept"
    assert not world.register.purges()


def test_asked_to_stop_it_ends_between_two_places(world: World) -> None:
    ready(world, 0, 1, 2)
    stop = list[str]()
    run = world.run(progress=lambda *each: stop.append("x"), stopping=lambda: bool(stop))
    assert len(run.outcomes) == 1
    assert run.stopped == "asked to stop"


def test_unavailable_is_told_of_what_live_and_vault_purges_destroyed(world: World) -> None:
    ready(world, 0)
    hold = world.register.holds()[0]
    world.run()
    world.released(hold.id)
    world.run()
    late = world.submit(item("a"))
    assert [_purge(world, name).store for name in late.unavailable] == ["live", "vault"]
    assert world.submit(item("a", (50, 60))).unavailable == ()


def test_what_one_hold_keeps_is_no_other_hold_s(world: World) -> None:
    """Invariant 3: two holds overlap, one ends, and each row of the other stays."""
    world.store.ingest(visit(1, "a"), visit(2, "b"), visit(3, "c"))
    one, two = world.hold(item("a"), item("b")), world.hold(item("b"))
    world.observe()
    world.open_for(0)
    world.run()
    assert world.there() == {visit(1, "a").key, visit(2, "b").key}
    world.released(one.id)
    run = world.run()
    assert [(e.store, e.state) for e in run.outcomes] == [("vault", "destroyed")]
    assert world.there() == {visit(2, "b").key}
    assert world.verify().findings == ()
    world.released(two.id)
    world.run()
    assert world.there() == set()
    world.purger.certificates.issue()
    world.advance(40 * DAY_US)
    assert world.findings() == []


def test_the_newest_version_of_a_row_is_kept(world: World) -> None:
    world.store.ingest(session(1, "a", 1), session(1, "a", 3), session(1, "a", 2))
    world.hold(item("a"))
    world.observe()
    world.open_for(0)
    world.run()
    assert world.there() == {session(1, "a", 3).key}
    (purge,) = world.register.purges()
    assert (purge.rows_before, purge.preserved, purge.destroyed) == (1, 1, 0)


def test_a_mapping_s_hold_is_met_by_its_days_before(world: World) -> None:
    """A place whose rows begin days before its clock day meets holds on those days."""
    long = visit(1, "a")
    values = {**long.values, "start_us": START - 3 * DAY_US, "end_us": START + 1}
    world.store.ingest(replace(long, values=values))
    world.hold(item("a", (-2, -1)))
    world.observe()
    world.open_for(0)
    world.run()
    assert len(world.there()) == 1
    assert world.findings() == []


def test_a_place_is_kept_for_the_settling_time_after_it_was_closed(world: World) -> None:
    world.store.ingest(visit(1, "c"))
    world.advance(60 * DAY_US)  # nobody told ingest all that while
    assert not world.run().outcomes
    world.observe()
    assert not world.run().outcomes
    world.advance(HOUR)
    assert [each.state for each in world.run().outcomes] == ["destroyed"]


def _purge(world: World, name: str) -> Purge:
    found = world.register.purge(name)
    assert found is not None
    return found
