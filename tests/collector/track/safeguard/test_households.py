"""Tags and caps: who counts where, and that nothing of it is left."""

from __future__ import annotations

import pytest

from collector.track.safeguard.households import KEY_BYTES, Households
from collector.wire.addr import pack
from tests.collector.track.safeguard.guarding import filler

A, B = pack("10.0.0.1"), pack("10.0.0.2")


def opened(hours: int = 3, days: int = 2, most: int = 100, categories: int = 8) -> Households:
    made = Households(categories, hours, days, 64, most, filler())
    made.begin()
    return made


def test_a_household_counts_once_in_a_cell() -> None:
    made = opened()
    for _ in range(5):
        made.count(A, 9, 2)
    made.count(B, 9, 2)
    assert list(made.by_hour) == [0, 0, 2, 0, 0, 0, 0, 0]
    assert list(made.by_day) == [0, 0, 2, 0, 0, 0, 0, 0]
    assert list(made.kept) == [2, 0]


def test_the_hours_of_a_day_share_the_cap() -> None:
    made = opened(hours=3, days=2)
    for hour in range(5):
        made.count(A, hour, 0)
    assert sum(made.by_hour) == 3
    assert list(made.by_day)[0] == 1
    assert list(made.kept) == [0, 1], "two hours were cut off"
    made.count(A, 2, 0)
    assert sum(made.by_hour) == 3, "a cell that is held is not counted again"


def test_neither_cap_cuts_the_others_counts() -> None:
    made = opened(hours=5, days=1)
    for category in range(4):
        made.count(A, 7, category)
    assert list(made.by_hour)[:4] == [1, 1, 1, 1]
    assert sum(made.by_day) == 1
    assert list(made.kept) == [0, 1]


def test_an_ipv6_prefix_is_one_household_and_an_ipv4_address_is_another() -> None:
    made = opened()
    for client in ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"):
        made.count(pack(client), 0, 0)
    made.count(A, 0, 0)
    made.count(B, 0, 0)
    assert made.by_hour[0] == 4


def test_beyond_the_limit_new_households_are_not_counted_and_known_ones_are() -> None:
    made = opened(most=2)
    for n in range(1, 6):
        made.count(pack(f"10.0.0.{n}"), 0, 0)
    made.count(A, 1, 1)
    assert made.by_hour[0] == 2
    assert made.by_hour[1] == 1
    assert sum(made.kept) == 2


def test_many_households_keep_apart() -> None:
    made = opened(hours=1, days=1, most=20_000)
    for n in range(10_000):
        made.count(pack(f"10.1.{n >> 8}.{n & 255}"), 0, n % 8)
    assert list(made.by_hour) == [1250] * 8
    assert list(made.kept) == [10_000, 0]


def test_a_wipe_leaves_nothing_and_counts_nothing() -> None:
    made = opened()
    made.count(A, 0, 0)
    chunk = made._chunks[0]
    assert any(made._key)
    assert any(chunk)
    made.wipe()
    assert not any(made._key)
    assert not any(chunk), "the very same memory is overwritten"
    assert not made._tags
    made.count(A, 0, 0)
    assert not (any(made.by_hour) or any(made.by_day) or any(made.kept) or made._tags)


def test_each_day_has_a_key_of_its_own() -> None:
    made = opened()
    key, tag = bytes(made._key), made._tag(A)
    assert len(tag) == 8
    assert len(key) == KEY_BYTES
    made.begin()
    assert bytes(made._key) != key
    assert made._tag(A) != tag


@pytest.mark.parametrize(("hour", "category"), [(24, 0), (-1, 0), (0, 8), (0, -1)])
def test_what_is_outside_the_domain_is_an_error_without_a_name(hour: int, category: int) -> None:
    with pytest.raises(ValueError, match="outside the public domain$"):
        opened().count(A, hour, category)


def test_what_does_not_fit_a_record_is_refused() -> None:
    for sizes in ((0, 1, 1), (257, 1, 1), (1, 0, 1), (1, 256, 1), (1, 1, 256)):
        with pytest.raises(ValueError, match="fit a record"):
            Households(*sizes, 64, 10, filler())
