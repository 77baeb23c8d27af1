"""Attribution at event time: the holder then, never the holder now, and never a guess."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aggregator.attribution.attribute import (
    BOUNDED,
    CERTAIN,
    NO_BINDING,
    NO_SUBSCRIBER,
    SEVERAL_BINDINGS,
    attribute,
    attribute_row,
)
from aggregator.attribution.bindings import MAX_INTERVALS_PER_PREFIX, OPEN, Binding, BindingIndex
from collector.wire.addr import network, pack
from collector.wire.records import record_id

SECOND = 1_000_000
ADDRESS = pack("198.18.0.7")


def binding(
    subscriber: str,
    start_s: float,
    end_s: float | None,
    address: bytes = ADDRESS,
    prefix_len: int = 128,
    observed: int = 1,
) -> Binding:
    return Binding(
        record_id("binding", subscriber, int(start_s * SECOND), address),
        observed,
        subscriber,
        address,
        prefix_len,
        int(start_s * SECOND),
        OPEN if end_s is None else int(end_s * SECOND),
    )


def index_of(*bindings: Binding) -> BindingIndex:
    index = BindingIndex()
    index.apply("edge-1", bindings)
    return index


def ask(index: BindingIndex, start_s: float, end_s: float, collector: str = "edge-1") -> object:
    return attribute_row(index, collector, ADDRESS, 128, int(start_s * SECOND), int(end_s * SECOND))


def test_the_holder_at_the_time_is_the_answer_after_the_address_moved_on() -> None:
    index = index_of(binding("morning", 0, 1000), binding("evening", 2000, None))
    assert ask(index, 100, 400) == ("morning", CERTAIN)
    assert ask(index, 2500, 2800) == ("evening", CERTAIN)
    assert ask(index, 1300, 1500) == ("", NO_BINDING)


def test_a_line_that_nobody_says_whose_it_is_has_its_own_reason() -> None:
    index = index_of(binding("", 0, 100), binding("known", 200, None))
    assert ask(index, 10, 50) == ("", NO_SUBSCRIBER)
    assert ask(index, 100.2, 100.3) == ("", NO_SUBSCRIBER)
    assert ask(index, 250, 300) == ("known", CERTAIN)


def test_a_row_that_two_subscribers_share_is_not_guessed() -> None:
    index = index_of(binding("a", 0, 100), binding("b", 100, None))
    assert ask(index, 50, 150) == ("", SEVERAL_BINDINGS)
    # ... but a split some milliseconds late is slop, not doubt
    assert ask(index, 50, 100.02) == ("a", CERTAIN)
    assert ask(index, 99.98, 150) == ("b", CERTAIN)


def test_two_short_bindings_side_by_side_stay_ambiguous() -> None:
    index = index_of(binding("a", 10, 10.2), binding("b", 10.2, 10.4))
    assert ask(index, 10, 10.4) == ("", SEVERAL_BINDINGS)


def test_the_same_subscriber_twice_is_no_doubt() -> None:
    index = index_of(binding("a", 0, 100), binding("a", 160, None))
    assert ask(index, 50, 300) == ("a", BOUNDED)


def test_a_row_of_an_outage_belongs_to_the_only_holder_but_says_so() -> None:
    index = index_of(binding("a", 500, None))
    assert ask(index, 300, 600) == ("a", BOUNDED)


def test_traffic_long_after_the_end_is_nobodys() -> None:
    index = index_of(binding("a", 0, 100))
    assert ask(index, 100.1, 400) == ("", NO_BINDING)
    assert ask(index, 100.1, 100.3) == ("a", BOUNDED)


def test_another_collector_knows_other_bindings() -> None:
    index = index_of(binding("a", 0, None))
    assert ask(index, 1, 2, collector="edge-2") == ("", NO_BINDING)


def test_a_prefix_binding_holds_the_prefixes_inside_it() -> None:
    wide = network(pack("2001:db8:5:ab00::"), 56)
    index = index_of(binding("a", 0, None, wide, 56))
    inside, outside = pack("2001:db8:5:ab42::"), pack("2001:db8:5:ac00::")
    rows = attribute(index, "edge-1", [inside, outside], [64, 64], [10, 10], [20, 20])
    assert rows == (["a", ""], [CERTAIN, NO_BINDING])


def test_a_newer_version_closes_an_open_binding_whatever_the_order() -> None:
    opened, closed = binding("a", 0, None, observed=1), binding("a", 0, 50, observed=2)
    for order in ((opened, closed), (closed, opened)):
        index = index_of(*order)
        assert len(index) == 1
        assert ask(index, 60, 70) == ("", NO_BINDING)


def test_the_index_is_bounded_and_forgets() -> None:
    index = index_of(*(binding("a", 10 * i, 10 * i + 5) for i in range(MAX_INTERVALS_PER_PREFIX)))
    index.apply("edge-1", [binding("b", 10**6, None)])
    assert len(index) == MAX_INTERVALS_PER_PREFIX
    assert index.evicted == 1
    assert index.forget_before(10**6 * SECOND) == MAX_INTERVALS_PER_PREFIX - 1
    assert len(index) == 1


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 50)), min_size=1, max_size=8),
    st.integers(0, 300),
    st.integers(1, 60),
)
def test_whoever_is_named_held_the_address_in_or_next_to_the_row(
    spans: list[tuple[int, int]], start: int, length: int
) -> None:
    bindings = [binding(f"s{i}", begin, begin + long) for i, (begin, long) in enumerate(spans)]
    subscriber, _ = attribute_row(
        index_of(*bindings), "edge-1", ADDRESS, 128, start * SECOND, (start + length) * SECOND
    )
    overlapping = {
        each.subscriber
        for each in bindings
        if each.valid_from_us < (start + length) * SECOND and start * SECOND < each.valid_to_us
    }
    if len(overlapping) == 1:
        assert subscriber == overlapping.pop()
    elif overlapping:
        assert subscriber in overlapping | {""}
