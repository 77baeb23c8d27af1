"""The shared index: versions, midnight, several threads."""

from __future__ import annotations

import threading

from aggregator.attribution.attributor import SharedAttributor
from aggregator.attribution.bindings import Binding
from collector.wire.addr import pack

DAY = 86_400_000_000
START = 20_000 * DAY
LINE = pack("10.0.0.1")


def columns(*slices: tuple[str, int, int, int]) -> dict[str, list[object]]:
    """(subscriber, observed, from, to) as the columns of a batch."""
    return {
        "record_id": [f"{name:8}{start:08x}".encode()[:16] for name, _, start, _ in slices],
        "observed_us": [observed for _, observed, _, _ in slices],
        "subscriber": [name for name, _, _, _ in slices],
        "address": [LINE] * len(slices),
        "prefix_len": [128] * len(slices),
        "valid_from_us": [start for _, _, start, _ in slices],
        "valid_to_us": [end for _, _, _, end in slices],
    }  # fmt: skip


def holder(index: SharedAttributor, at: int, collector: str = "edge-1") -> tuple[str, str]:
    names, reasons = index.attribute(collector, [LINE], [128], [at], [at + 1_000_000])
    return names[0], reasons[0]


def test_an_open_slice_ends_at_its_midnight() -> None:
    index = SharedAttributor()
    index.apply("edge-1", columns(("a", 1, START + DAY // 2, 0)))
    assert holder(index, START + DAY - 2_000_000) == ("a", "")
    assert holder(index, START + DAY + DAY // 2) == ("", "no-binding")
    # Whoever has the address next is not disturbed by a slice that was never closed.
    index.apply("edge-1", columns(("b", 2, START + 2 * DAY, 0)))
    assert holder(index, START + 2 * DAY + 5_000_000) == ("b", "")


def test_the_newest_version_counts_whichever_comes_first() -> None:
    for order in ((0, 1), (1, 0)):
        index = SharedAttributor()
        versions = [("a", 1, START, 0), ("a", 2, START, START + DAY // 4)]
        for n in order:
            index.apply("edge-1", columns(versions[n]))
        assert len(index) == 1
        assert holder(index, START + DAY // 2) == ("", "no-binding")
        assert holder(index, START + DAY // 8) == ("a", "")


def test_collectors_have_addresses_of_their_own() -> None:
    index = SharedAttributor()
    index.apply("edge-1", columns(("a", 1, START, 0)))
    assert holder(index, START + DAY // 2, "edge-2") == ("", "no-binding")


def test_what_is_loaded_is_what_was_applied() -> None:
    index = SharedAttributor(0)
    index.load([("edge-1", Binding(b"r" * 16, 1, "a", LINE, 128, START, START + DAY))])
    assert holder(index, START + 5) == ("a", "")
    assert index.forget_before(START + DAY) == 0
    assert index.forget_before(START + DAY + 1) == 1
    assert (len(index), holder(index, START + 5)) == (0, ("", "no-binding"))


def test_threads_do_not_disturb_one_another() -> None:
    index = SharedAttributor()
    wrong: list[tuple[str, str]] = []

    def work(number: int) -> None:
        collector = f"edge-{number}"
        for day in range(50):
            index.apply(collector, columns((f"s{number}", day, START + day * DAY, 0)))
            got = holder(index, START + day * DAY + 5_000_000, collector)
            if got != (f"s{number}", ""):
                wrong.append(got)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, len(index)) == ([], 200)
