"""Reliable delivery in a real router: overruns lose nothing, and the watchdog ends it in time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from collector.capture.conntrack_table import table_size
from collector.capture.netlink import ConntrackConfig, ConntrackEvents
from collector.capture.netlink_socket import NetlinkUnavailable
from collector.capture.reliable import ReliableConfig
from tests.collector.capture.test_netlink import HOME4, WORLD4, Lab, read_all, send_udp, started

pytestmark = pytest.mark.lab

FLOWS = 400
WAIT_S = 30.0
"""A deadline: each condition comes within a second on an idle machine."""
NEVER = ReliableConfig(stall_s=600.0)
"""No machine is so busy that the reader counts as stalled."""
SMALL = 8192
"""Receive buffer of a dozen events."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with started() as built:
        yield built


@contextmanager
def listening(lab: Lab, config: ReliableConfig | None) -> Iterator[ConntrackEvents]:
    """A listener that an overrun hits at once, in a table without flows."""
    lab.router.run("conntrack", "-F")
    events = ConntrackEvents(
        ConntrackConfig(receive_buffer_bytes=SMALL, reliable=config), time.time_ns
    )
    lab.in_router(events.start)
    try:
        yield events
    finally:
        lab.in_router(events.stop)


def overrun(lab: Lab) -> None:
    """So many flows end at once."""
    send_udp(lab.home, HOME4, WORLD4, range(7000, 7000 + FLOWS))
    lab.router.run("conntrack", "-D", "-p", "udp", "--orig-src", HOME4, accept=(0, 1))


def until(lab: Lab, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not lab.in_router(condition):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def udp_read(lab: Lab, events: ConntrackEvents) -> int:
    rows = lab.in_router(lambda: read_all(events))
    return int((rows["protocol"] == 17).sum())


def watchdog_of(events: ConntrackEvents) -> int:
    """Its process id."""
    assert events._reliable is not None and events._reliable._child is not None
    return events._reliable._child.pid


def test_an_overrun_of_a_reliable_listener_loses_nothing(lab: Lab) -> None:
    with listening(lab, NEVER) as events:
        overrun(lab)
        # The ended flows that found no room are still in the table.
        assert lab.in_router(table_size).entries > FLOWS // 2
        read = [0]

        def all_of_them() -> bool:
            read[0] += udp_read(lab, events)
            return read[0] >= FLOWS

        until(lab, all_of_them)
        until(lab, lambda: table_size().entries < FLOWS // 2)
        assert read == [FLOWS]
        assert lab.in_router(events.losses) == []
        assert events.is_reliable
        counts = events.counts
    assert counts["deferred"] > 0 == counts["lost"] == counts["switched_off"]
    assert counts["seen"] == counts["recorded"] + counts["lost"]


def test_without_it_the_same_overrun_is_a_stated_loss(lab: Lab) -> None:
    with listening(lab, None) as events:
        overrun(lab)
        kept = udp_read(lab, events)
        losses = lab.in_router(events.losses)
        assert not events.is_reliable
    assert 0 < kept < FLOWS
    assert sum(loss.amount for loss in losses) >= FLOWS - kept
    assert {loss.reason for loss in losses} == {"overrun"}
    assert events.counts["deferred"] == 0


def test_a_stalled_reader_is_switched_off_and_its_loss_stated_then_it_is_on_again(lab: Lab) -> None:
    with listening(lab, ReliableConfig(stall_s=1.0, rest_s=0.0)) as events:
        overrun(lab)
        # Nobody reads: the watchdog lets the kernel forget the flows that it kept.
        until(lab, lambda: table_size().entries < FLOWS // 2)
        kept = udp_read(lab, events)
        assert events.counts["switched_off"] == 1
        until(lab, lambda: udp_read(lab, events) == 0 and events.is_reliable)
        losses = lab.in_router(events.losses)
        send_udp(lab.home, HOME4, WORLD4, range(7000, 7002))
        lab.router.run("conntrack", "-D", "-p", "udp", "--orig-src", HOME4)
        read = [0]

        def both() -> bool:
            read[0] += udp_read(lab, events)
            return read[0] == 2

        until(lab, both)
        assert lab.in_router(events.losses) == []
    assert {loss.reason for loss in losses} == {"stalled"}
    lost = sum(loss.amount for loss in losses)
    # What was dropped between the watchdog's look at the counter and its switch counts too.
    assert FLOWS - kept <= lost <= FLOWS + 50
    assert events.counts["lost"] == lost and events.counts["deferred"] > 0


def test_a_filling_table_ends_it_though_the_reader_looks(lab: Lab) -> None:
    share = FLOWS / 2 / lab.in_router(table_size).max_entries
    with listening(lab, replace(NEVER, table_share=share)) as events:
        send_udp(lab.home, HOME4, WORLD4, range(7000, 7000 + FLOWS))

        def switched_off() -> bool:
            events.read(1)
            return not events.is_reliable

        until(lab, switched_off)
        assert events._reason == "table-filling"
        assert not events._reliable.may_switch_on  # type: ignore[union-attr]


def test_nothing_is_reliable_without_a_watchdog(lab: Lab) -> None:
    with listening(lab, replace(NEVER, rest_s=0.0)) as events:
        first = watchdog_of(events)
        os.kill(first, signal.SIGKILL)

        def watched_anew() -> bool:
            events.read()
            return events.counts["switched_off"] == 1 and events.is_reliable

        until(lab, watched_anew)
        second = watchdog_of(events)
        assert second != first and not Path(f"/proc/{first}").exists()
    assert not Path(f"/proc/{second}").exists()


def test_the_watchdog_ends_with_its_collector_and_not_by_a_signal_to_the_service(lab: Lab) -> None:
    with listening(lab, NEVER) as events:
        until(
            lab, lambda: "watchdog.py" in Path(f"/proc/{watchdog_of(events)}/cmdline").read_text()
        )
        pid = watchdog_of(events)
        mask = 1 << signal.SIGTERM - 1
        status = Path(f"/proc/{pid}/status")

        def ignores_sigterm() -> bool:
            (line,) = [each for each in status.read_text().splitlines() if "SigIgn" in each]
            return bool(int(line.split()[1], 16) & mask)

        until(lab, ignores_sigterm)
        os.kill(pid, signal.SIGTERM)
        events._reliable._pipe.close()  # type: ignore[union-attr]
        assert events._reliable._child.wait(WAIT_S) == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "wrong", [{"stall_s": 0.5}, {"stall_s": 601.0}, {"table_share": 0.0}, {"table_share": 1.1}]
)
def test_limits_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ReliableConfig(**wrong)


def test_a_watchdog_that_cannot_be_started_leaves_it_off(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent")
    events = ConntrackEvents(ConntrackConfig(reliable=ReliableConfig()), time.time_ns)
    with pytest.raises(NetlinkUnavailable, match="watchdog"):
        lab.in_router(events.start)
    assert events.fileno() == -1
