"""Interface counters into rows: differences, new and removed interfaces, restarts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from collector.track.links import COUNTERS, LinkCounters, LinkReading, Links, LinksConfig
from collector.wire.columns import record_batch
from collector.wire.records import record_id

WINDOW = 300_000_000_000
SECOND = 1_000_000_000
T0 = 4_000 * WINDOW


def link(index: int, name: str, rx: int, tx: int, changes: int = 2, role: str = "access") -> Any:
    return LinkCounters(index, name, role, (rx, tx, rx, tx, 0, 0, 0, 1), changes, 1_000)


def reading(ts_ns: int, *links: LinkCounters, generation: str = "g") -> LinkReading:
    return LinkReading(ts_ns, generation, links)


def started(*links: LinkCounters) -> Links:
    tracker = Links(LinksConfig())
    tracker.observe(reading(T0 + 9, *links))
    return tracker


def rows(tracker: Links, end_ns: int) -> dict[str, dict[str, Any]]:
    columns = tracker.take(end_ns - WINDOW, end_ns, end_ns + 5)["link"]
    found = record_batch("link", columns).to_pylist()
    for row in found:
        key = (row["start_ns"], row["end_ns"], row["interface"])
        assert row["record_id"] == record_id("link", *key)
    counts = tracker.counts
    assert counts["seen"] == counts["recorded"] + counts["ignored"] + counts["open"]
    return {row["interface"]: row for row in found}


def test_a_row_is_the_difference_over_the_window_and_idle_interfaces_have_one_too() -> None:
    tracker = started(link(1, "acc0", 1_000, 10), link(2, "radius0", 5, 5, role="control"))
    assert rows(tracker, T0) == {}
    end = T0 + WINDOW
    tracker.observe(
        reading(end + 7, link(1, "acc0", 1_500, 11, 4), link(2, "radius0", 5, 5, role="control"))
    )
    found = rows(tracker, end)
    row = found["acc0"]
    assert (row["start_ns"], row["end_ns"], row["role"]) == (T0, end, "access")
    assert (row["rx_bytes"], row["tx_bytes"], row["rx_packets"], row["tx_drops"]) == (
        500,
        1,
        500,
        0,
    )
    assert (row["state_changes"], row["speed_mbps"]) == (2, 1_000)
    assert found["radius0"]["rx_bytes"] == 0 and found["radius0"]["role"] == "control"
    assert tracker.take_losses() == []


def test_a_new_interface_counts_from_zero_and_a_removed_one_leaves_a_gap() -> None:
    tracker, end = started(link(1, "ppp0", 100, 0)), T0 + WINDOW
    tracker.observe(reading(T0 + 50 * SECOND, link(1, "ppp0", 130, 0)))
    tracker.observe(reading(end, link(7, "ppp1", 40, 2, 1)))
    found = rows(tracker, end)
    assert found["ppp0"]["rx_bytes"] == 30 and found["ppp0"]["end_ns"] == T0 + 50 * SECOND
    assert found["ppp1"]["rx_bytes"] == 40 and found["ppp1"]["state_changes"] == 1
    (loss,) = tracker.take_losses()
    assert (loss.stage, loss.reason, loss.scope, loss.amount) == (
        "capture",
        "interface-gone",
        "interface:ppp0",
        -1,
    )
    tracker.observe(reading(end + WINDOW, link(7, "ppp1", 40, 2, 1)))
    assert set(rows(tracker, end + WINDOW)) == {"ppp1"}
    assert set(tracker._rows) == {"ppp1"}


def test_what_an_interface_counted_just_before_it_went_has_a_row() -> None:
    tracker, end = started(link(1, "ppp0", 100, 0)), T0 + WINDOW
    tracker.observe(reading(T0 + 50, link(1, "ppp0", 130, 0)))
    tracker.observe(reading(end))
    row = rows(tracker, end)["ppp0"]
    assert (row["start_ns"], row["end_ns"], row["rx_bytes"]) == (T0, T0 + 1, 30)
    assert tracker.counts["open"] == 0


def test_the_same_name_on_a_new_index_is_another_interface() -> None:
    tracker, end = started(link(1, "acc0", 1_000, 0)), T0 + WINDOW
    tracker.observe(reading(end, link(5, "acc0", 1_200, 0)))
    assert rows(tracker, end)["acc0"]["rx_bytes"] == 1_200
    assert [loss.reason for loss in tracker.take_losses()] == ["interface-gone"]


def test_a_renamed_interface_keeps_its_counts() -> None:
    tracker, end = started(link(1, "eth7", 9_000, 0, role="")), T0 + WINDOW
    tracker.observe(reading(end, link(1, "acc7", 9_005, 0)))
    assert rows(tracker, end)["acc7"]["rx_bytes"] == 5
    assert tracker.take_losses() == []


def test_counters_that_went_down_began_again() -> None:
    tracker, end = started(link(1, "acc0", 1_000, 500)), T0 + WINDOW
    tracker.observe(reading(end, link(1, "acc0", 3, 600)))
    row = rows(tracker, end)["acc0"]
    assert (row["rx_bytes"], row["tx_bytes"]) == (3, 600)
    (loss,) = tracker.take_losses()
    assert (loss.reason, loss.start_ns, loss.end_ns) == ("counter-reset", T0, end)


def test_what_access_interfaces_carried_is_without_link_headers() -> None:
    def counted(octets: int, packets: int) -> tuple[int, ...]:
        return (octets, 0, packets, 0, 0, 0, 0, 0)

    def seen(octets: int, packets: int) -> list[LinkCounters]:
        return [
            LinkCounters(1, "acc0", "access", counted(octets, packets), 0, 0, header_bytes=14),
            LinkCounters(2, "ppp0", "access", counted(octets, packets), 0, 0),
            LinkCounters(3, "up0", "control", counted(octets, packets), 0, 0, header_bytes=14),
        ]

    tracker = started(*seen(1_000, 10))
    tracker.observe(reading(T0 + WINDOW, *seen(1_600, 14)))
    assert tracker.counts["access_layer3"] == 600 - 4 * 14 + 600
    tracker.observe(reading(T0 + 2 * WINDOW, *seen(60, 1), generation="another boot"))
    assert tracker.counts["access_layer3"] == 1_144 + 60 - 14 + 60


def test_a_restart_loses_nothing_and_a_reboot_says_so() -> None:
    tracker = started(link(1, "acc0", 1_000, 0))
    stored = json.loads(json.dumps(tracker.snapshot()))
    back = Links(LinksConfig())
    back.restore(stored, T0 + 3 * WINDOW)
    back.observe(reading(T0 + 3 * WINDOW, link(1, "acc0", 1_700, 0)))
    row = rows(back, T0 + 3 * WINDOW)["acc0"]
    assert (row["start_ns"], row["rx_bytes"]) == (T0, 700)
    booted = Links(LinksConfig())
    booted.restore(stored, T0 + 3 * WINDOW)
    booted.observe(reading(T0 + 3 * WINDOW, link(1, "acc0", 5_000, 0), generation="g2"))
    assert rows(booted, T0 + 3 * WINDOW)["acc0"]["rx_bytes"] == 5_000
    assert [loss.scope for loss in booted.take_losses()] == ["collector"]
    stored["last"][0][3] = [1, 2]
    with pytest.raises(ValueError):
        Links(LinksConfig()).restore(stored, T0)


def test_a_clock_set_back_keeps_intervals_in_order() -> None:
    tracker = started(link(1, "acc0", 0, 0))
    tracker.observe(reading(T0 - WINDOW, link(1, "acc0", 10, 0)))
    row = rows(tracker, T0 - WINDOW)["acc0"]
    assert (row["start_ns"], row["end_ns"], row["rx_bytes"]) == (
        T0 - WINDOW - 1,
        T0 - WINDOW,
        10,
    )


def test_the_columns_are_in_the_order_of_the_counters() -> None:
    assert len(COUNTERS) == len(link(1, "x", 0, 0).counters)
