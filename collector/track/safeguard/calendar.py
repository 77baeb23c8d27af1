"""The collector's clock in; the UTC hours and days that may be counted and told, each once, out.

The place in the calendar only goes forward while the clock is sound. A clock that jumps, a start,
and a day that was counted before all make the day silent: a household's caps cannot be known to
hold where it is in doubt which day it is. An hour whose end no collector saw is never told. What
outlives the process are public facts: which days have begun, how many hours of each are told, how
often the collector started in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

SECOND_NS: Final = 1_000_000_000
HOUR_NS: Final = 3600 * SECOND_NS
HOURS: Final = 24
DAY_NS: Final = HOURS * HOUR_NS
MAX_STEP_NS: Final = 300 * SECOND_NS
"""The service looks at its clock every second or so. What moves by more than five minutes between
two looks is a clock that was set or a machine that slept. Where hours are shorter it is one: no
two may end in a step."""
MAX_DAYS: Final = 400
"""Days that are remembered; those before them are never counted again."""


@dataclass(frozen=True, slots=True)
class Ended:
    """An hour whose end has passed. is_counted: it was counted from its start, without doubt.
    is_first, ends_day: whether it is the first or last hour of its day."""

    start_ns: int
    end_ns: int
    is_counted: bool
    restarts: int
    is_first: bool
    ends_day: bool


@dataclass(slots=True)
class _Day:
    """told: hours that need no more be told, 0 to all. starts: of the collector, in the day."""

    told: int = 0
    starts: int = 0


class Calendar:
    """Where the clock is. `is_counting` says whether what is seen now may be counted.

    A day has `hours` (up to 24) of `hour_ns`; others than 24 of HOUR_NS are for a lab.
    """

    def __init__(self, hour_ns: int = HOUR_NS, hours: int = HOURS) -> None:
        self._hour_ns, self._hours = hour_ns, hours
        self._max_step_ns = min(MAX_STEP_NS, hour_ns)
        self._days: dict[int, _Day] = {}
        self._floor = -1
        self._high_ns: int | None = None
        self._hour = 0
        self.is_counting = False
        self.has_begun_day = False
        """A day was entered since this was last set to False: keys are to be made anew."""

    @property
    def hour_of_day(self) -> int:
        """0 to 23 at most; of the calendar's place, which a clock set back a bit does not move."""
        return self._hour % self._hours

    def advance(self, now_ns: int) -> Ended | None:
        """Let the clock be `now_ns`; gives the hour that has ended by it, if one may be told.

        At most one hour can end in a step that is not in doubt.
        """
        hour = now_ns // self._hour_ns
        if self._high_ns is None or abs(now_ns - self._high_ns) > self._max_step_ns:
            is_start = self._high_ns is None
            self._high_ns, self._hour = now_ns, hour
            self.is_counting = False
            day = self._enter(hour // self._hours)
            day.starts += is_start
            return None
        self._high_ns = max(self._high_ns, now_ns)
        if hour <= self._hour:
            return None
        ended = self._end_hour()
        self._hour += 1
        if self._hour % self._hours == 0:
            number = self._hour // self._hours
            is_new = number > self._floor and number not in self._days
            self._enter(number)
            self.is_counting = self.has_begun_day = is_new and number in self._days
        return ended

    def snapshot(self) -> dict[str, object]:
        """JSON-able: public facts about days, see above."""
        return {
            "lengths": [self._hour_ns, self._hours],
            "floor": self._floor,
            "days": [[number, day.told, day.starts] for number, day in self._days.items()],
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Know the days of a snapshot. Raises ValueError, KeyError or TypeError for another's."""
        if snapshot["lengths"] != [self._hour_ns, self._hours]:
            raise ValueError("the days of the snapshot have another length")
        floor, days = snapshot["floor"], {}
        if type(floor) is not int or len(snapshot["days"]) > MAX_DAYS:
            raise ValueError("the snapshot has no days")
        for number, told, starts in snapshot["days"]:
            if not all(type(each) is int for each in (number, told, starts)):
                raise ValueError("a day of the snapshot is not in numbers")
            days[number] = _Day(told, starts)
        self._floor, self._days = floor, days

    def _end_hour(self) -> Ended | None:
        """The open hour ends. An hour that was told before is not told again."""
        day = self._days.get(self._hour // self._hours)
        number = self._hour % self._hours
        if day is None or number < day.told:
            return None
        day.told = number + 1
        return Ended(
            start_ns=self._hour * self._hour_ns,
            end_ns=(self._hour + 1) * self._hour_ns,
            is_counted=self.is_counting,
            restarts=day.starts,
            is_first=number == 0,
            ends_day=number + 1 == self._hours,
        )

    def _enter(self, number: int) -> _Day:
        """The record of a day, made where it is new; of a day before all that are known none is
        kept, and so nothing is told of it."""
        if number <= self._floor:
            return _Day()
        day = self._days.setdefault(number, _Day())
        if len(self._days) > MAX_DAYS:
            self._floor = min(self._days)
            del self._days[self._floor]
        return day
