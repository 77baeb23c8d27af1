"""The checks that run the installed code: it passes, and each planted fault fails its own check."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from collector.spool import Spool
from collector.track.safeguard import release as releasing
from collector.track.safeguard import tracker as tracking
from collector.track.safeguard.calendar import Calendar
from collector.track.safeguard.households import Households
from collector.track.safeguard.laplace import DiscreteLaplace
from collector.track.safeguard.tracker import SafeGuard
from safeguard.names import CHECKS
from safeguard.prove import components
from safeguard.prove.run import RUN, Site, prove

OF_CODE = ("key-rotation", "caps", "zeros", "resend", "noise")
FEW = 15_000
"""Draws of a noise audit here, for what is far off; the product takes four times as many."""


def outcome(name: str) -> list[str]:
    found = prove(Site(), 1, "0", [name])["checks"][0]
    assert found["name"] == name
    assert (found["outcome"] == "failed") == bool(found["found"])
    return list(found["found"])


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components.noise, "__defaults__", (FEW,))


def test_every_check_has_its_promise_and_can_be_run() -> None:
    assert RUN.keys() == CHECKS.keys()


@pytest.mark.parametrize("name", OF_CODE)
def test_the_installed_code_passes(name: str) -> None:
    assert outcome(name) == []


# Faults of the code that counts and tells. Each stands for a mistake that somebody could make.


def key_is_kept(patch: pytest.MonkeyPatch) -> None:
    """The key is made once and stays."""
    begin = Households.begin

    def once(self: Households) -> None:
        fill, kept = self._fill_random, bytes(self._key)
        begin(self)
        if any(kept):
            self._key[:] = kept
        self._fill_random = fill

    def wipe(self: Households) -> None:
        self.is_open = False
        self._tags.clear()
        for chunk in self._chunks:
            chunk[:] = bytes(len(chunk))

    patch.setattr(Households, "begin", once)
    patch.setattr(Households, "wipe", wipe)


def key_is_left_behind(patch: pytest.MonkeyPatch) -> None:
    """The key is not overwritten."""
    wipe = Households.wipe

    def leaving(self: Households) -> None:
        kept = bytes(self._key)
        wipe(self)
        self._key[:] = kept

    patch.setattr(Households, "wipe", leaving)


def day_goes_on_after_a_restart(patch: pytest.MonkeyPatch) -> None:
    """Caps begin anew with the process, within a day that is told."""
    advance = Calendar.advance

    def trusting(self: Calendar, now_ns: int) -> Any:
        is_start = self._high_ns is None
        ended = advance(self, now_ns)
        if is_start and self._days:
            self.is_counting = self.has_begun_day = True
        return ended

    patch.setattr(Calendar, "advance", trusting)


def one_cell_too_many_after_a_restart(patch: pytest.MonkeyPatch) -> None:
    """The caps are kept over a restart, but for the one cell that was open."""
    kept: dict[str, Any] = {}
    wipe, init = SafeGuard.wipe, SafeGuard.__init__

    def keeping(self: SafeGuard) -> None:
        kept["households"], kept["calendar"] = self._households, self._calendar
        self._households = Households(3, 1, 1, 64, 1, lambda buffer: None)
        wipe(self)
        self._households = kept["households"]

    def again(self: SafeGuard, *given: Any) -> None:
        init(self, *given)
        if kept:
            self._households, old = kept["households"], kept["calendar"]
            for chunk in self._households._chunks:
                chunk[1] = max(chunk[1] - 1, 0)  # cells of the first household, one fewer
            self._calendar.is_counting = True
            self._calendar._high_ns, self._calendar._hour = old._high_ns, old._hour
            self._calendar._days = old._days
            kept.clear()

    patch.setattr(SafeGuard, "wipe", keeping)
    patch.setattr(SafeGuard, "__init__", again)
    patch.setattr(SafeGuard, "restore", lambda self, state, now: setattr(
        self._calendar, "is_counting", True))  # fmt: skip


def cap_is_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """A household may count in a cell more than the ledger says."""
    init = Households.__init__

    def wider(self: Households, categories: int, hour: int, day: int, *rest: Any) -> None:
        init(self, categories, hour + 1, day, *rest)

    patch.setattr(Households, "__init__", wider)


def zero_has_no_row(patch: pytest.MonkeyPatch) -> None:
    """Cells in which nobody counted are left out."""
    released = releasing.released

    def sparing(*given: Any, **named: Any) -> Any:
        rows = released(*given, **named)
        counts = given[3]
        rows["block_count"] = [
            row for row, count in zip(rows["block_count"], counts, strict=True) if count
        ]
        return rows

    patch.setattr(tracking, "released", sparing)


def noise_is_fresh(patch: pytest.MonkeyPatch) -> None:
    """What is not acknowledged yet is made again for each attempt."""
    kept: list[Any] = []
    real = SafeGuard.take

    def take(self: SafeGuard, start_ns: int, end_ns: int, now_ns: int) -> Any:
        found = real(self, start_ns, end_ns, now_ns)
        if found:
            kept.append(found)
        return found or (kept[-1] if kept else {})

    patch.setattr(SafeGuard, "take", take)


def batch_is_made_again(patch: pytest.MonkeyPatch) -> None:
    """The spool makes a batch anew each time it is asked for it."""
    oldest = Spool.oldest

    def fresh(self: Spool) -> Any:
        found = oldest(self)
        if found:
            data = bytearray(found[1].read_bytes())
            data[-1] ^= os.urandom(1)[0] | 1
            found[1].write_bytes(data)
        return found

    patch.setattr(Spool, "oldest", fresh)


FAULTS: list[tuple[str, Callable[[pytest.MonkeyPatch], None]]] = [
    ("key-rotation", key_is_kept),
    ("key-rotation", key_is_left_behind),
    ("caps", day_goes_on_after_a_restart),
    ("caps", one_cell_too_many_after_a_restart),
    ("caps", cap_is_off_by_one),
    ("zeros", zero_has_no_row),
    ("resend", noise_is_fresh),
    ("resend", batch_is_made_again),
]


@pytest.mark.parametrize(("name", "plant"), FAULTS, ids=[plant.__name__ for _, plant in FAULTS])
def test_a_fault_fails_its_check(
    name: str, plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert outcome(name)


# The five broken mechanisms of the design, in the code that draws and in the code that releases.


def half_the_scale(law: DiscreteLaplace, count: int, real: Any) -> list[int]:
    return list(real(DiscreteLaplace(law.scale / 2), count, os.urandom))


def four_fifths_of_the_scale(law: DiscreteLaplace, count: int, real: Any) -> list[int]:
    return list(real(DiscreteLaplace(law.scale * 4 / 5), count, os.urandom))


def rounded_float(law: DiscreteLaplace, count: int, real: Any) -> list[int]:
    rate = float(1 / law.scale)
    draw = random.expovariate
    return [round(draw(rate) - draw(rate)) for _ in range(count)]


def one_in_a_hundred_without(law: DiscreteLaplace, count: int, real: Any) -> list[int]:
    return [0 if random.random() < 0.01 else each for each in real(law, count, os.urandom)]


@pytest.mark.parametrize(
    "broken",
    [half_the_scale, four_fifths_of_the_scale, rounded_float, one_in_a_hundred_without],
    ids=lambda each: each.__name__,
)
def test_a_broken_mechanism_fails_the_check_of_noise(
    broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DiscreteLaplace.draws
    if broken is one_in_a_hundred_without:  # the one that is hardest to see
        monkeypatch.setattr(components.noise, "__defaults__", (components.DRAWS,))
    monkeypatch.setattr(
        DiscreteLaplace, "draws", lambda self, count, source: broken(self, count, real)
    )
    assert outcome("noise")


def test_no_noise_on_a_true_zero_fails_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    released = releasing.released

    def bare(*given: Any, **named: Any) -> Any:
        rows = released(*given, **named)
        for row, count in zip(rows["block_count"], given[3], strict=True):
            row["count"] = row["count"] if count else 0
        return rows

    monkeypatch.setattr(releasing, "released", bare)
    assert outcome("noise")


def test_the_scales_in_use_are_among_those_audited() -> None:
    assert components.scales(None) == [Fraction(16), Fraction(15, 2), Fraction(10)]
