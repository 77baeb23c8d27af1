"""The clock guard: which clocks it believes, and that each change of trust is one leaf."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retention.audit.canonical import Leaf
from retention.audit.verify import verify
from retention.model import DAY_US
from retention.register.clock import ClockGuard, Trust, kernel_synchronised, since_boot_ns
from retention.register.store import Register, RegisterError
from tests.retention.audit.story import START
from tests.retention.register.made import log_leaves, opened, sha

HOUR = 3_600_000_000
FINE = Trust(True)


class Machine:
    """A wall clock that can be set, and one that only runs."""

    def __init__(self) -> None:
        self.wall_us = START + DAY_US
        self.passed_us = 5 * DAY_US
        self.synchronised: bool | None = True

    def now(self) -> int:
        return self.wall_us * 1000

    def live(self, us: int) -> None:
        self.wall_us += us
        self.passed_us += us

    def guard(self, register: Register, **settings: Any) -> ClockGuard:
        return ClockGuard(
            register,
            self.now,
            synchronised=lambda: self.synchronised,
            passed=lambda: self.passed_us * 1000,
            **settings,
        )


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def register(tmp_path: Path, machine: Machine) -> Iterator[Register]:
    with opened(tmp_path, machine.now) as register:
        yield register
        report = verify(tmp_path / "audit")
        assert report.good, report.findings


def steps(register: Register) -> list[tuple[bool, str]]:
    found = [leaf for leaf in log_leaves(register) if leaf["kind"] == "clock.step"]
    return [(leaf["trusted"], leaf["reason"]) for leaf in found]


def last(register: Register) -> Leaf:
    return log_leaves(register)[-1]


def test_a_clock_that_runs_is_believed_for_years(register: Register, machine: Machine) -> None:
    guard = machine.guard(register)
    for passed in (0, 1000, HOUR, 40 * DAY_US, 400 * DAY_US, 1_900_000):
        machine.live(passed)
        assert guard.check() == FINE
    machine.wall_us -= 1_500_000  # a leap second, a small correction
    assert guard.check() == FINE
    assert steps(register) == []


@pytest.mark.parametrize(
    ("jump", "reason"),
    [(-3_000_000, "backwards"), (3_000_000, "far-ahead"), (-DAY_US, "backwards")],
)
def test_a_jump_within_a_run(register: Register, machine: Machine, jump: int, reason: str) -> None:
    guard = machine.guard(register)
    guard.check()
    machine.live(HOUR)
    machine.wall_us += jump
    for _ in range(3):
        assert guard.check() == Trust(False, reason)
        machine.live(DAY_US)
    assert steps(register) == [(False, reason)]
    assert last(register)["delta"] == abs(jump)
    assert last(register)["backward"] == (jump < 0)
    # A restart knows nothing of the clock before the jump, so it cannot clear it.
    again = machine.guard(register)
    assert again.check() == Trust(False, reason)
    assert again.confirm(sha("dora")) == FINE
    assert again.check() == guard_after(register, machine)
    assert steps(register) == [(False, reason), (True, "confirmed")]
    assert last(register)["actor"] == sha("dora")
    machine.live(HOUR)
    assert again.check() == FINE


def guard_after(register: Register, machine: Machine) -> Trust:
    """What a guard of the next run says."""
    return machine.guard(register).check()


def test_a_jump_that_is_undone(register: Register, machine: Machine) -> None:
    guard = machine.guard(register)
    guard.check()
    machine.wall_us += 3 * DAY_US
    assert guard.check() == Trust(False, "far-ahead")
    machine.live(HOUR)
    machine.wall_us -= 3 * DAY_US
    assert guard.check() == FINE
    assert steps(register) == [(False, "far-ahead"), (True, "recovered")]
    assert last(register)["at"] == machine.wall_us
    register.write(leaves=[{"kind": "heartbeat"}])


def test_small_jumps_do_not_add_up(register: Register, machine: Machine) -> None:
    guard = machine.guard(register)
    trusted = []
    for _ in range(4):
        machine.live(60_000_000)
        machine.wall_us += 1_500_000
        trusted.append(guard.check().trusted)
    assert trusted == [True, True, False, False]  # the first check is what others are held against


@pytest.mark.parametrize(
    ("stopped", "expected"),
    [
        (0, FINE),
        (-1_900_000, FINE),
        (-2_100_000, Trust(False, "backwards")),
        (-300 * DAY_US, Trust(False, "backwards")),
        (7 * DAY_US, FINE),
        (7 * DAY_US + 1, Trust(False, "far-ahead")),
    ],
)
def test_over_a_stop_only_the_high_water_mark_counts(
    tmp_path: Path, machine: Machine, stopped: int, expected: Trust
) -> None:
    with opened(tmp_path, machine.now) as register:
        machine.guard(register).check()
    machine.wall_us += stopped
    machine.passed_us = 10
    with opened(tmp_path, machine.now) as register:
        assert machine.guard(register).check() == expected
        assert guard_after(register, machine) == expected
        assert steps(register) == ([] if expected.trusted else [(False, expected.reason)])
        if not expected.trusted:
            guard = machine.guard(register)
            assert guard.confirm(sha("dora")) == FINE
            machine.live(DAY_US)
            assert guard.check() == FINE
    with opened(tmp_path, machine.now) as register:
        assert machine.guard(register).check() == FINE


def test_a_clock_that_is_set_right_after_the_start(register: Register, machine: Machine) -> None:
    """A machine without a battery starts in the past until it has asked for the time."""
    machine.guard(register).check()
    right = machine.wall_us + HOUR
    machine.wall_us = START
    guard = machine.guard(register)
    assert guard.check() == Trust(False, "backwards")
    machine.wall_us = right
    assert guard.check() == FINE
    assert steps(register) == [(False, "backwards"), (True, "recovered")]


def test_a_longer_stop_can_be_allowed_but_not_beyond_a_month(
    register: Register, machine: Machine
) -> None:
    guard = machine.guard(register, max_ahead_us=20 * DAY_US)
    guard.check()
    machine.wall_us += 19 * DAY_US
    assert machine.guard(register, max_ahead_us=20 * DAY_US).check() == FINE
    for wrong in (0, 31 * DAY_US):
        with pytest.raises(ValueError, match="30 days"):
            machine.guard(register, max_ahead_us=wrong)


@pytest.mark.parametrize(("said", "reason"), [(False, "unsynchronised"), (None, "unknown")])
def test_a_clock_that_nothing_keeps_right(
    register: Register, machine: Machine, said: bool | None, reason: str
) -> None:
    machine.synchronised = said
    assert machine.guard(register).check() == FINE
    guard = machine.guard(register, require_sync=True)
    assert guard.check() == Trust(False, reason)
    assert guard.confirm(sha("dora")) == Trust(False, reason)
    assert steps(register) == [(False, reason)]
    machine.synchronised = True
    machine.live(HOUR)
    assert guard.check() == FINE
    assert steps(register) == [(False, reason), (True, "recovered")]


def test_a_jump_seen_while_it_is_unsynchronised_outlives_a_restart(
    register: Register, machine: Machine
) -> None:
    guard = machine.guard(register, require_sync=True)
    guard.check()
    machine.synchronised = False
    assert guard.check() == Trust(False, "unsynchronised")
    machine.wall_us += HOUR
    assert guard.check() == Trust(False, "far-ahead")
    machine.synchronised = True
    assert machine.guard(register).check() == Trust(False, "far-ahead")
    assert steps(register) == [(False, "unsynchronised")]


def test_confirming_a_clock_that_is_believed_writes_nothing(
    register: Register, machine: Machine
) -> None:
    assert machine.guard(register).confirm(sha("dora")) == FINE
    assert steps(register) == []


def test_the_mark_is_written_once_a_second_at_most(
    register: Register, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, written = machine.guard(register), list[object]()
    guard.check()
    real = register.write

    def write(**what: Any) -> list[int]:
        written.append(what)
        return real(**what)

    monkeypatch.setattr(register, "write", write)
    for _ in range(10):
        machine.live(300_000)
        guard.check()
    assert len(written) == 2
    assert register.note("clock/mark") == str(START + DAY_US + 2_400_000)


def test_a_new_register_is_not_earlier_than_its_log(tmp_path: Path, machine: Machine) -> None:
    with opened(tmp_path, machine.now) as register:
        register.write(leaves=[{"kind": "heartbeat"}])
        machine.wall_us -= HOUR
        assert machine.guard(register).check() == Trust(False, "backwards")


def test_a_clock_of_another_century_is_told_of(register: Register, machine: Machine) -> None:
    guard = machine.guard(register)
    guard.check()
    right = machine.wall_us
    for wrong in (200 * 365 * DAY_US, -(10**15)):
        machine.wall_us = wrong
        assert not guard.check().trusted
    machine.wall_us = right
    assert guard.check() == FINE
    assert steps(register) == [(False, "far-ahead"), (True, "recovered")]


def test_a_change_that_cannot_be_written_is_an_error(
    register: Register, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = machine.guard(register)
    guard.check()
    machine.wall_us += HOUR

    def full(*_: object) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr("retention.audit.log.AuditLog.extend", full)
        for _ in range(2):
            with pytest.raises(RegisterError):
                guard.confirm(sha("dora"))
    assert guard.check() == Trust(False, "far-ahead")
    register.write()  # brings the log what it is owed
    assert steps(register) == [(False, "far-ahead")]


def test_the_kernel_is_asked() -> None:
    assert kernel_synchronised() in (True, False, None)
    assert since_boot_ns() <= since_boot_ns()
