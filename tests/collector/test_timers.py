"""How long the loop may sleep, and flows gather."""

from __future__ import annotations

from collector.timers import GATHER_BYTES, GATHER_NS, POLL_S, gather_ns, wait_s

SECOND = 1_000_000_000


def test_it_sleeps_until_the_first_timer() -> None:
    assert wait_s(5 * SECOND, [9 * SECOND, 7 * SECOND], polled=False) == 2.0
    assert wait_s(5 * SECOND, [9 * SECOND, 5 * SECOND], polled=False) == 0.0
    assert wait_s(5 * SECOND, [4 * SECOND], polled=False) == 0.0


def test_what_no_descriptor_tells_of_is_looked_at_ten_times_a_second() -> None:
    assert wait_s(0, [SECOND], polled=True) == POLL_S == 0.1
    assert wait_s(0, [SECOND // 20], polled=True) == 0.05


def test_flows_gather_as_long_as_the_buffer_has_room_for_a_million_a_second() -> None:
    assert gather_ns(GATHER_BYTES) == gather_ns(2 * GATHER_BYTES) == GATHER_NS
    assert gather_ns(GATHER_BYTES // 64) == GATHER_NS // 64
    assert gather_ns(0) == 0
