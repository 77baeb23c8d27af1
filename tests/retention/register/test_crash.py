"""Register and log after the service was killed, or the power cut, at each call that writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from retention.audit import disk
from retention.audit.canonical import Leaf
from retention.audit.log import AuditLog
from retention.audit.verify import verify
from retention.model import State, Step
from retention.register import hold_leaves, leaves, outbox
from retention.register.store import Register
from tests.retention.audit.crash import Crash, Disk
from tests.retention.audit.story import SIGNER
from tests.retention.register.made import (
    Clock,
    check_agrees,
    hold,
    item,
    log_leaves,
    opened,
    purge,
    sha,
    submitted,
)
from tests.retention.register.stepping import run

ONE, TWO = hold(), hold("H-2026-0002", scope=tuple(item(n) for n in range(20)))
BOB = replace(ONE.requested, person="bob", role="legal-approver")
BEATS: list[Leaf] = [leaves.heartbeat() for _ in range(10)]


def _approve(register: Register) -> None:
    approved = replace(ONE, state=State.PRESERVED, approved=BOB)
    leaf = leaves.hold_approved(approved, register.generation, sha)
    register.write(holds=[approved], leaves=[leaf], notes={"a": None, "c": "3"})


def _submit(register: Register) -> None:
    register.write(holds=[TWO], leaves=submitted(TWO, register.generation))


STEPS: tuple[Callable[[Register], object], ...] = (
    lambda register: register.write(holds=[ONE], leaves=submitted(ONE, 0), notes={"a": "1"}),
    lambda register: register.write(purges=[purge()], notes={"b": "2"}),
    _approve,
    lambda register: register.next_id("H"),
    lambda register: register.write(
        purges=[purge(step=Step.FAILED)], leaves=[leaves.heartbeat()], notes={"a": "5"}
    ),
    _submit,
    lambda register: register.write(leaves=BEATS),  # two batches of the log
)

Picture = tuple[object, ...]


def picture(register: Register) -> Picture:
    """All that a register says, but for times."""
    told = [{name: leaf[name] for name in leaf if name != "at"} for leaf in log_leaves(register)]
    return (
        register.holds(),
        register.purges(),
        register.notes(),
        register.generation,
        dict(register._state.counters),
        told,
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No true fsync in Python: a kill leaves what was written, and `Disk` keeps its own account.

    Small batches and leaves, so that few leaves take several of each.
    """
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr(outbox, "MAX_BATCH", 8)
    monkeypatch.setattr(hold_leaves, "MAX_SCOPE_BYTES", 3_000)


@pytest.fixture
def expected(tmp_path: Path, quick: None) -> list[Picture]:
    """What the register says after each number of steps."""
    with opened(tmp_path / "expected") as register:
        pictures = [picture(register)]
        for step in STEPS:
            step(register)
            pictures.append(picture(register))
    return pictures


def check_left(folder: Path, expected: list[Picture], done: int) -> None:
    """What was said to be done is there, and of the step underway all or nothing."""
    with opened(folder) as register:
        check_agrees(folder, register)
        assert picture(register) in expected[done : done + 2]
        register.write(leaves=[leaves.heartbeat()])


@pytest.mark.parametrize("first", [0, 1, 2])
def test_killed_before_each_call_that_writes(
    tmp_path: Path, expected: list[Picture], first: int
) -> None:
    stop, killed = first, True
    while killed:
        folder = tmp_path / str(stop)

        def service(say: Callable[[str], None], folder: Path = folder) -> None:
            with opened(folder) as register:
                for step in STEPS:
                    step(register)
                    say("done")

        ran = run(service, stop)
        killed = ran.killed
        check_left(folder, expected, len(ran.said))
        shutil.rmtree(folder)
        stop += 3
    assert len(ran.said) == len(STEPS)
    assert stop > 150  # the service ended before the call that was to be its last


def test_killed_while_it_repairs_what_an_earlier_kill_left(
    tmp_path: Path, expected: list[Picture]
) -> None:
    """The queue is in the register and not in the log; opening is killed at each call too."""
    base = tmp_path / "base"
    machine = Disk(tmp_path / "none")
    with pytest.MonkeyPatch.context() as patch, opened(base) as register:
        STEPS[0](register)
        patch.setattr(disk, "os", machine)
        machine.stop = machine.calls
        with pytest.raises(Crash):
            STEPS[1](register)
            STEPS[2](register)
        patch.undo()
        shutil.copytree(base, tmp_path / "copy")
    stop, killed = 0, True
    while killed:
        folder = tmp_path / str(stop)
        shutil.copytree(tmp_path / "copy", folder)

        def service(say: Callable[[str], None], folder: Path = folder) -> None:
            with opened(folder):
                say("open")

        killed = run(service, stop).killed
        check_left(folder, expected[:4], 3)
        shutil.rmtree(folder)
        stop += 1
    assert stop > 15


def test_power_cut_at_each_call_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: list[Picture]
) -> None:
    """The log keeps only what was synced; SQLite syncs each transaction before the log begins."""
    stop = 0
    while True:
        live, cut = tmp_path / f"live-{stop}", tmp_path / f"cut-{stop}"
        live.mkdir()
        with opened(live) as register:
            STEPS[0](register)
        machine = Disk(live / "audit", stop)
        monkeypatch.setattr(disk, "os", machine)
        done = 1
        try:
            with opened(live) as register:
                for step in STEPS[1:]:
                    step(register)
                    done += 1
                machine.dead = False
        except Crash:
            pass
        finally:
            monkeypatch.setattr(disk, "os", os)
        shutil.copytree(live, cut, ignore=shutil.ignore_patterns("audit"))
        machine.after_power_cut(cut / "audit")
        check_left(cut, expected, done)
        shutil.rmtree(live)
        shutil.rmtree(cut)
        if done == len(STEPS):
            break
        stop += 1
    assert stop > 50


_WRITER = """
import sys
from pathlib import Path
from retention.register import hold_leaves, leaves, outbox
from tests.retention.register.made import hold, opened, sha
with opened(Path(sys.argv[1])) as register:
    while True:
        one = hold(register.next_id("H"))
        told = leaves.hold_submitted(one, register.generation, sha, sha)
        register.write(holds=[one], leaves=told)
        print(one.id, flush=True)
"""


def test_sigkill_at_any_time_loses_no_hold_that_was_acknowledged(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    for lines in (1, 8, 30):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout
            acknowledged |= {writer.stdout.readline().strip() for _ in range(lines)}
            writer.kill()
            rest = writer.stdout.read().splitlines(keepends=True)
            acknowledged |= {line.strip() for line in rest if line.endswith("\n")}
        with opened(tmp_path) as register:
            assert acknowledged <= {each.id for each in register.holds()}
            check_agrees(tmp_path, register)


def test_a_log_alone_is_not_written_by_a_register_that_is_closed(tmp_path: Path) -> None:
    with AuditLog(tmp_path / "audit", SIGNER, Clock()) as log:
        register = Register(tmp_path, log, Clock())
        register.open()
        register.close()
        size = log.size
        register.open()
        assert log.size == size
        register.close()
    assert verify(tmp_path / "audit").good
