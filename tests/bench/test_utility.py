"""The utility report clips as the collector does, and says the same of the same day."""

from __future__ import annotations

import numpy as np
import pytest

from bench import utility
from bench.utility import Day, Isp, clipped, counts, day_of
from collector.track.safeguard.households import Households
from collector.wire.addr import pack
from collector.wire.releases import CATEGORY_HOUR, REGION_CATEGORY_DAY
from safeguard.prove.driving import fill

ISP = Isp(subscribers=3000, regions=4, categories=6, meets=0.6, more=1.5)


def truth(day: Day, hour_cap: int, day_cap: int) -> tuple[list[list[int]], list[int]]:
    """The collector's own counts: by hour and category, and by category."""
    made = Households(ISP.categories, hour_cap, day_cap, 64, 10**6, fill)
    made.begin()
    hours = []
    events = list(
        zip(day.household.tolist(), day.hour.tolist(), day.category.tolist(), strict=True)
    )
    for hour in range(utility.HOURS):
        before = list(made.by_hour)
        for household, at, category in events:
            if at == hour:
                made.count(pack(f"10.0.{household >> 8}.{household & 255}"), hour, category)
        hours.append([now - then for now, then in zip(made.by_hour, before, strict=True)])
    return hours, list(made.by_day)


@pytest.mark.parametrize("caps", [(1, 1), (3, 2), (8, 3)])
def test_what_is_clipped_is_what_the_collector_clips(caps: tuple[int, int]) -> None:
    day = day_of(ISP, np.random.default_rng(5))
    assert len(day.household) > 3000
    hours, by_day = truth(day, *caps)
    found = counts(day, ISP, CATEGORY_HOUR, clipped(day, caps[0], CATEGORY_HOUR))
    assert found.reshape(ISP.categories, utility.HOURS).T.tolist() == hours
    found = counts(day, ISP, REGION_CATEGORY_DAY, clipped(day, caps[1], REGION_CATEGORY_DAY))
    assert found.reshape(ISP.regions, ISP.categories).sum(axis=0).tolist() == by_day


def test_the_report_has_every_table() -> None:
    text = utility.report(Isp(subscribers=5000, regions=5), 1)
    assert text.count("(default)") == 4
    assert text.count("| true count |") == 4
