"""The register in use: what is kept, who is let in, and which leaves it refuses to write."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from retention.audit.leaf import LeafError
from retention.audit.log import AuditLog
from retention.audit.verify import verify
from retention.model import DAY_US, NEVER, HeldRoot, Place, State, Step
from retention.register import leaves
from retention.register.store import Busy, Register, RegisterError
from tests.retention.audit.story import SIGNER, START, WITNESS_SIGNER
from tests.retention.register.made import (
    PLACE,
    POLICY,
    ROOT,
    SPAN,
    Clock,
    check_agrees,
    hold,
    item,
    log_leaves,
    opened,
    purge,
    sha,
    stamped,
    submitted,
)

BEAT = {"kind": "heartbeat"}


def test_what_is_written_is_there_after_reopening(tmp_path: Path) -> None:
    first, second = hold(), hold("H-2026-0002", state=State.EXPIRED, ended_us=START)
    done = purge(step=Step.FINAL, held=(HeldRoot("H-2026-0001", 5, ROOT),), waiting=("replica",))
    with opened(tmp_path) as register:
        indexes = register.write(holds=[first], leaves=submitted(first, 0), notes={"a": "1"})
        register.write(holds=[second], purges=[done], notes={"b": "2", "c": "3"})
        register.write(notes={"a": None, "b": "4", "missing": None})
        secret = register.secret
    with opened(tmp_path) as register:
        assert indexes == [1]
        assert register.holds() == [first, second]
        assert register.hold("H-2026-0002") == second
        assert register.hold("H-2026-0003") is None
        assert register.protecting() == [first]
        assert register.purges() == register.purges(step=Step.FINAL) == [done]
        assert register.purge(done.id) == done
        assert register.purges(step=Step.INTENT) == []
        assert register.note("a") is None
        assert register.notes() == {"b": "4", "c": "3"}
        assert register.notes("b") == {"b": "4"}
        assert register.generation == 1
        assert register.secret == secret
        assert len(secret) == 32


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "register"
    with opened(folder) as register:
        register.write(holds=[hold()], leaves=submitted(hold(), 0))
    folder.chmod(0o755)
    (folder / "register.sqlite").chmod(0o644)
    with opened(folder) as register:
        register.write(notes={"a": "1"})
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        names = {"register.sqlite", "register.sqlite-wal", "register.sqlite-shm", "secret", "lock"}
        assert {path.name for path in folder.iterdir()} == names | {"audit"}
        for name in names:
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name


def test_ids_are_never_given_twice(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock) as register:
        assert [register.next_id("H") for _ in range(2)] == ["H-2026-0001", "H-2026-0002"]
        assert register.next_id("P") == "P-2026-000001"
    clock.at_us += 366 * DAY_US
    with opened(tmp_path, clock) as register:
        assert register.next_id("H") == "H-2027-0001"
    clock.at_us -= 300 * DAY_US  # earlier than the log's last leaf, if there had been one
    with opened(tmp_path, clock) as register:
        assert register.next_id("H") == "H-2026-0003"


def test_the_last_sight_of_each_partition_is_kept(tmp_path: Path) -> None:
    wider = replace(SPAN, latest_us=SPAN.latest_us + 1)
    other = replace(SPAN, place=Place("call", 20260101))
    period = {"class": "visit", "months": 0, "days": 10}
    policy = {"digest": POLICY, "periods": [period, period | {"class": "call"}]}
    with opened(tmp_path) as register:
        register.write(leaves=[leaves.policy_loaded(policy)])
        for each in (SPAN, other, wider):
            register.write(leaves=[leaves.partition_seen(each, START + 10 * DAY_US, POLICY)])
    with opened(tmp_path) as register:
        assert set(register.seen()) == {PLACE, other.place}
        assert register.seen()[PLACE] == {
            "class": "visit",
            "partition": "20260101",
            "start": SPAN.start_us,
            "end": SPAN.end_us,
            "earliest": SPAN.earliest_us,
            "latest": wider.latest_us,
            "retain_until": START + 10 * DAY_US,
            "policy": POLICY,
        }
        check_agrees(tmp_path, register)


def test_a_heartbeat_is_of_the_moment_it_is_written(tmp_path: Path) -> None:
    with opened(tmp_path) as register:
        one, two = hold(), hold("H-2026-0002")
        register.write(holds=[one], leaves=submitted(one, 0))
        register.write(holds=[two], leaves=[*submitted(two, 1), BEAT, leaves.heartbeat(2, 2)])
        beats = check_agrees(tmp_path, register)[-2:]
        assert [(beat["generation"], beat["holds"]) for beat in beats] == [(2, 2), (2, 2)]


def test_a_leaf_that_the_replay_would_find_wrong_is_not_written(tmp_path: Path) -> None:
    one = hold()
    with opened(tmp_path) as register:
        register.write(holds=[one], leaves=submitted(one, 0))
        two = hold("H-2026-0002")
        for bad in (
            submitted(two, 0),  # generation 1 is there already
            submitted(two, 2),
            [leaves.hold_evidence(one.id, PLACE, 0, ROOT, 0)],
            [leaves.heartbeat(generation=0, holds=1)],
            [leaves.purge_intent(purge(generation=0), 1)],
        ):
            with pytest.raises(RegisterError, match="is due"):
                register.write(holds=[two], leaves=[*bad], notes={"a": "1"})
        with pytest.raises(LeafError):
            register.write(holds=[two], leaves=[{"kind": "heartbeat", "more": 1}])
        with pytest.raises(RegisterError, match="too many"):
            register.write(leaves=[BEAT] * 4097)
        assert register.holds() == [one]
        assert register.notes() == {}
        assert len(check_agrees(tmp_path, register)) == 1


def test_nothing_comes_between_preservation_and_outcome(tmp_path: Path) -> None:
    underway = purge(step=Step.PRESERVED)
    with opened(tmp_path) as register:
        register.write(purges=[underway])
        two = hold("H-2026-0002")
        for leaf in (submitted(two, 0)[0], leaves.purge_intent(purge("P-2026-000002"), 0)):
            with pytest.raises(Busy):
                register.write(leaves=[leaf])
        with pytest.raises(Busy):
            register.write(holds=[two])
        register.write(leaves=[BEAT])
        failed = replace(underway, step=Step.FAILED)
        register.write(purges=[failed], holds=[two], leaves=submitted(two, 0))
        assert register.hold(two.id) == two


def test_times_of_leaves_never_go_back_without_a_clock_step(tmp_path: Path) -> None:
    clock = Clock(START + 5 * DAY_US)
    with opened(tmp_path, clock) as register:
        register.write(leaves=[BEAT, BEAT | {"at": START}, BEAT | {"at": NEVER}])
        clock.at_us -= DAY_US
        assert register.now() // 1000 > clock.at_us
        register.write(leaves=[BEAT])
        told = log_leaves(register)
        assert {leaf["at"] // DAY_US for leaf in told} == {START // DAY_US + 5}
        register.write(leaves=[leaves.clock_step(DAY_US, True, False, "backwards"), BEAT])
        assert [leaf["at"] // DAY_US for leaf in log_leaves(register)[-2:]] == [
            START // DAY_US + 4
        ] * 2
    with opened(tmp_path, clock) as register:
        register.write(leaves=[BEAT])
        check_agrees(tmp_path, register)


def test_a_time_of_a_leafs_own_is_kept_where_it_can_be() -> None:
    given = stamped(BEAT | {"at": START - 5}, BEAT, now_us=START, last_us=START - 9)
    assert [leaf.split('"at":')[1].split(",")[0] for leaf in given.entries] == [
        str(START - 5),
        str(START),
    ]
    assert stamped(BEAT, now_us=-1).last_us == 0
    assert stamped(BEAT, now_us=NEVER * 2).last_us == NEVER


def test_many_leaves_go_in_batches(tmp_path: Path) -> None:
    big = hold(scope=tuple(item(n) for n in range(1000)))
    with opened(tmp_path) as register:
        told = submitted(big, 0)
        assert len(told) > 3
        indexes = register.write(holds=[big], leaves=[*told, *[BEAT] * 600])
        assert indexes == list(range(1, 601 + len(told)))
        assert register.generation == len(told)
        check_agrees(tmp_path, register)


def test_a_second_service_is_told_at_once(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from tests.retention.register.made import opened
with opened(Path(sys.argv[1])) as register:
    print("open", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "open\n"
        with AuditLog(tmp_path / "log", SIGNER, Clock()) as log:
            register = Register(tmp_path, log, Clock())
            before = time.monotonic()
            with pytest.raises(RegisterError, match="another retention service"):
                register.open()
            assert time.monotonic() - before < 1
            with pytest.raises(RegisterError, match="not open"):
                register.holds()
        other.communicate("")
    with opened(tmp_path) as again:
        assert again.holds() == []
        with pytest.raises(RegisterError, match="open already"):
            again.open()
        assert again.holds() == []


def test_exclusive_is_reentrant_and_times_out(tmp_path: Path) -> None:
    with opened(tmp_path) as register:
        found: list[str] = []

        def other() -> None:
            try:
                with register.exclusive(0.05):
                    found.append("in")
            except Busy:
                found.append("busy")

        with register.exclusive(), register.exclusive():
            register.write(holds=[hold()], leaves=submitted(hold(), 0))
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            assert register.holds() == [hold()]
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert found == ["busy", "in"]


def test_a_hold_waits_for_the_purge_that_another_thread_is_at(tmp_path: Path) -> None:
    with opened(tmp_path) as register:
        began, beaten, order = threading.Event(), threading.Event(), list[str]()

        def purging() -> None:
            with register.exclusive():
                register.write(leaves=[BEAT])
                began.set()
                beaten.wait()
                time.sleep(0.2)  # in which the hold comes to the lock
                order.append("purge")

        thread = threading.Thread(target=purging)
        thread.start()
        began.wait()
        register.write(leaves=[BEAT])  # what changes nothing that is held does not wait
        order.append("beat")
        beaten.set()
        register.write(holds=[hold()], leaves=submitted(hold(), 0))
        order.append("hold")
        thread.join()
        assert order == ["beat", "purge", "hold"]


def test_threads_that_contend_leave_a_log_that_replays(tmp_path: Path) -> None:
    with opened(tmp_path) as register:
        given: list[str] = []
        indexes: list[int] = []
        errors: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for _ in range(5):
                    with register.exclusive():
                        id = register.next_id("H")
                        one = hold(id)
                        index = register.write(
                            holds=[one], leaves=submitted(one, register.generation)
                        )
                    other = register.write(
                        leaves=[leaves.refusal("bob", None, "approve", id, "no", sha, sha), BEAT],
                        notes={f"{number}": id},
                    )
                    given.append(id)
                    indexes.extend(index + other)
                    assert register.hold(id) == one
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert len(set(given)) == 30
        assert sorted(indexes) == list(range(1, 91))
        assert register.generation == 30
        assert len(check_agrees(tmp_path, register)) == 90


def test_a_witness_signs_by_the_register(tmp_path: Path) -> None:
    with opened(tmp_path) as register:
        key = WITNESS_SIGNER.key
        register.write(leaves=[leaves.witness_enrolled(str(key), "ann", sha)])
        with register.audit() as log:
            note = log.checkpoint()
        text = note.partition("\n\n")[0] + "\n"
        index = register.add_cosigned(note + WITNESS_SIGNER.sign(text, 2 * 10**9), key)
        assert index == 2
        assert register.write(leaves=[BEAT]) == [3]
        with pytest.raises(ValueError, match="not signed"):
            register.add_cosigned(note, key)
        assert register.write(leaves=[BEAT]) == [4]
    with opened(tmp_path) as register:
        assert len(log_leaves(register)) == 4
    report = verify(tmp_path / "audit")
    assert report.good, report.findings


def test_a_register_that_is_not_open_says_so(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit", SIGNER, Clock())
    register = Register(tmp_path, log, Clock())
    for call in (
        register.holds,
        register.notes,
        lambda: register.secret,
        lambda: register.next_id("H"),
    ):
        with pytest.raises(RegisterError, match="not open"):
            call()
    with pytest.raises(RegisterError, match="log is not open"):
        register.open()
    assert not (tmp_path / "register.sqlite").exists()


def test_values_that_do_not_fit_change_nothing_and_are_not_quoted(tmp_path: Path) -> None:
    with opened(tmp_path) as register:
        for bad in (
            hold(expires_us=2**70),
            hold("H-\ud800"),
        ):
            with pytest.raises(RegisterError) as raised:
                register.write(holds=[bad], notes={"a": "1"})
            assert "H-" not in str(raised.value)
        for notes in ({"a" * 300: ""}, {"a": "b" * 2**21}):
            with pytest.raises(RegisterError, match="too long"):
                register.write(notes=notes)
        register.write(holds=[hold(matter="\ud800 ✓")])
        assert register.notes() == {}
        assert register.holds()[0].matter == "\ud800 ✓"


def test_a_register_begins_on_a_log_that_tells_of_nothing_held(tmp_path: Path) -> None:
    with AuditLog(tmp_path / "audit", SIGNER, Clock()) as log:
        log.append({"kind": "login.failed", "actor": None, "way": "socket", "reason": "unknown"})
    with opened(tmp_path) as register:
        assert register.write(leaves=[BEAT]) == [2]
