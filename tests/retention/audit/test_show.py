"""Leaves as people read them."""

from __future__ import annotations

import io

import pytest

from retention.audit import leaf, show
from tests.retention.audit.story import START, story
from tests.retention.audit.test_leaf import example


@pytest.mark.parametrize("kind", sorted(leaf.KINDS))
def test_every_kind_is_one_line_with_all_its_fields(kind: str) -> None:
    text = show.line(7, example(kind))
    assert "\n" not in text
    assert text.split()[:3] == ["7", "2026-01-01T00:00:00Z", kind]
    for name in leaf.KINDS[kind]:
        assert f"{name}=" in text


def test_what_a_purge_looks_like() -> None:
    text = show.line(8, story()["intent"])
    assert text == (
        "      8  2027-01-03T00:00:00Z  purge.intent                class=visit partition=20260101"
        " start=2026-01-01 end=2026-01-02 earliest=2026-01-01 latest=2026-01-02 purge=p1 store=live"
        f" retain_until=2027-01-01 generation=2 policy={story()['intent']['policy'][:8]} holds=1"
    )
    assert "holds=[h1:5:" in show.line(9, story()["preserved"])
    assert "scope=[subscriber:" in show.line(3, story()["submitted"])
    assert "expires=-" in show.line(3, story()["submitted"])


def test_long_lists_and_unknown_kinds() -> None:
    many = story()["preserved"] | {"holds": story()["preserved"]["holds"] * 9}
    assert "and 5 more]" in show.line(1, many)
    assert show.line(1, {"v": 1, "kind": "of.tomorrow", "at": START}).endswith("of.tomorrow")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_long_verification_is_counted_on_a_terminal_only() -> None:
    for out, leaves, shown in (
        (Terminal(), 50_000, True),
        (Terminal(), 500, False),
        (io.StringIO(), 50_000, False),
    ):
        meter = show.Meter(out)
        for done in range(0, leaves + 1, leaves // 500):
            meter(done, leaves)
        assert bool(out.getvalue()) == shown
        assert out.getvalue().count("\r") <= 110
        assert ("100 % of 50,000 leaves" in out.getvalue()) == shown
