"""SafeGuard proved on a running router: canaries leave nothing, and a leaky router is found."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from collector.hygiene import ENVIRONMENT
from collector.wire.releases import KEPT_DAY
from safeguard.names import CHECKS
from safeguard.prove import sent
from tests.lab import safeguard_report as proving
from tests.lab.appliance import Appliance
from tests.lab.crowd import Clock, Crowd
from tests.lab.lab import Lab
from tests.lab.leaky import KEY
from tests.lab.retention import Office
from tests.ports import free_port

pytestmark = [pytest.mark.lab, pytest.mark.engine, pytest.mark.timeout(400)]
CLOCK: Final = Clock(hour_s=4, hours=2)
LEAKY: Final = ("-m", "tests.lab.leaky")
TELLING: Final = (*LEAKY, "--keys")
"""The collector as it is, but that it logs its keys: else nobody knew what to search for."""
WINDOW_S: Final = 2
SPOILT_S: Final = 90.0


@dataclass(frozen=True)
class Proved:
    """A lab whose canaries were looked up on a counted day, all of it over; and its proof."""

    appliance: Appliance
    crowd: Crowd
    office: Office
    canaries: Path
    end_us: int
    checks: dict[str, dict[str, Any]]
    folder: Path


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proved]:
    folder = tmp_path_factory.mktemp("prove")
    with (
        Lab(folder / "lab", subscribers=1) as lab,
        Crowd(lab.network, CLOCK, households=60) as crowd,
        Appliance(folder, lab, WINDOW_S, clock=CLOCK, program=TELLING) as appliance,
        proving.kept(folder / "spool", folder / "wire") as wire,
    ):
        canaries = folder / "canaries.json"
        # The day in which the collector began is silent.
        time.sleep(max(proving.next_day(CLOCK.day_s) - time.time(), 0) + 0.5)
        proving.look_up_canaries(crowd, lab.edge, canaries)
        over = proving.next_day(CLOCK.day_s)
        crowd.play_day()  # other traffic, on the day after
        end_us = int(over * 1e6)
        proving.wait_for_day(appliance, end_us, CLOCK)
        office = Office(appliance, free_port())
        try:
            office.start()
            proving.wait_for_leaves(appliance, end_us, office.log)
            add_keys(canaries, appliance)
            checks = proving.prove(appliance, folder, canaries, end_us, wire=[wire], log=office.log)
            yield Proved(appliance, crowd, office, canaries, end_us, checks, folder)
        finally:
            office.stop()


def keys_told(appliance: Appliance) -> list[str]:
    """The key of each day that began, in hex; the last is in use."""
    told = (appliance.folder / "collector.log").read_text().split(KEY)[1:]
    return [each.split()[0] for each in told]


def add_keys(canaries: Path, appliance: Appliance) -> None:
    """Search for the keys of the days that are over, too; waits until there is one."""
    deadline = time.monotonic() + SPOILT_S
    while len(told := keys_told(appliance)) < 2:
        assert time.monotonic() < deadline, "no day is over"
        time.sleep(0.3)
    canaries.write_text(json.dumps({**json.loads(canaries.read_text()), "keys": told[:-1]}))


def test_every_check_passes_on_the_running_router(proved: Proved) -> None:
    found = {name: each for name, each in proved.checks.items() if each["outcome"] != "passed"}
    assert found == {}
    assert proved.checks.keys() == CHECKS.keys()
    assert len(list((proved.folder / "wire").iterdir())) > 3
    assert len(json.loads(proved.canaries.read_text())["names"]) == 4 * proving.COUNT


def test_the_live_collector_shuts_its_memory(proved: Proved) -> None:
    """The very process; that it is not dumpable cannot be seen of root's (tests/collector)."""
    assert proved.appliance.collector is not None
    process = Path(f"/proc/{proved.appliance.collector.pid}")
    limits = (process / "limits").read_text().splitlines()
    (cores,) = (line.split()[4:6] for line in limits if line.startswith("Max core file size"))
    assert cores == ["0", "0"]
    # glibc 2.36 puts a zero byte at the end of each tunable that it has read.
    environ = (process / "environ").read_bytes().replace(b"\0", b":")
    assert all(f"{name}={value}".encode() in environ for name, value in ENVIRONMENT.items())
    (locked,) = re.findall(r"VmLck:\s*(\d+) kB", (process / "status").read_text())
    said = "memory is not locked" in (proved.appliance.folder / "collector.log").read_text()
    assert said == (int(locked) == 0)


def test_the_days_are_reported_and_the_log_agrees(proved: Proved) -> None:
    verdict = proving.report(proved.appliance, proved.folder, proved.end_us, proved.office.log)
    assert verdict["good"], verdict
    page = (proved.folder / "safeguard-report.html").read_text()
    assert "<svg" in page


def test_a_router_that_breaks_the_promise_is_found_check_by_check(proved: Proved) -> None:
    """After the others: it replaces the router's collector by one with every fault planted."""
    appliance, folder = proved.appliance, proved.folder
    appliance.stop_collector()
    (appliance.folder / "collector.log").unlink()
    canaries = folder / "leaked.json"
    with proving.kept(folder / "spool", folder / "spoilt") as wire:
        appliance.start_collector(LEAKY)
        proving.look_up_canaries(proved.crowd, appliance.lab.edge, canaries, turn=1)
        wait_until_spoilt(wire)
        add_keys(canaries, appliance)
        for _ in range(3):  # a look at the journal may fall into its rotation
            checks = proving.prove(
                appliance, folder, canaries, proved.end_us, wire=[wire], only=tuple(BROKEN)
            )
            unsaid = {
                name: text
                for name, texts in BROKEN.items()
                for text in texts
                if text not in "; ".join(checks[name]["found"])
            }
            if not unsaid:
                break
    assert unsaid == {}
    assert {each["outcome"] for each in checks.values()} == {"failed"}


BROKEN: Final = {
    "metrics": ("answers_total is a series that the installed collector does not have",),
    "logs": ("a canary",),
    "spool": ("more of SafeGuard", "kinds of events that no collector journals"),
    "memory": ("a name", "an address as text", "a packed address"),
    "key-rotation": ("a key of a day that is over",),
    "times": ("a time that is not their window's end",),
    "domain": ("cells of",),
    "resend": ("different counts",),
    "caps": ("of a day that began before the collector did",),
}
"""What each check says of the planted faults (tests/lab/leaky.py)."""


def wait_until_spoilt(wire: Path) -> None:
    """Until a day is over, and each fault of a release was sent: that of a zero needs an hour in
    which somebody met a block."""
    deadline = time.monotonic() + SPOILT_S
    while True:
        batches = sent.read([wire])
        told = sent.released(batches)
        if (
            any(each.marginal == KEPT_DAY and each.is_released for each in told)
            and sent.told_again(batches)
            and sent.times(batches)
            and any(len(each.counts) < each.rows for each in told)
        ):
            return
        assert time.monotonic() < deadline, "the faults of releases were not sent"
        time.sleep(0.3)
