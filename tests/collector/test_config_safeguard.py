"""[safeguard]: what the defaults come to, and every problem at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.build_safeguard import safeguard_config, safeguard_problems, targets
from collector.config import Config, ConfigError, dump, load
from collector.track.safeguard.domain import marginals
from collector.wire.addr import pack
from tests.collector.test_config import GOOD, write

GUARD = """
[safeguard]
region = "north"
regions = ["north", "south"]
pages = ["203.0.113.80"]
[safeguard.categories]
gambling = ["Gambling.Block.Example.", "203.0.113.81"]
adult = ["3FFF:b10c::0:80"]
"""


def loaded(folder: Path, text: str = GUARD) -> Config:
    return load(write(folder, GOOD + text))


def problems(folder: Path, text: str) -> list[str]:
    return safeguard_problems(loaded(folder, text))


def test_nothing_is_counted_without_the_section(tmp_path: Path) -> None:
    config = loaded(tmp_path, "")
    assert safeguard_config(config) is None
    assert targets(config) is None
    assert safeguard_problems(config) == []
    assert dump(config)["safeguard"] is None


def test_the_defaults_are_a_budget_of_one_and_are_shown(tmp_path: Path) -> None:
    config = loaded(tmp_path)
    assert safeguard_problems(config) == []
    made = safeguard_config(config)
    assert made is not None
    assert (made.collector, made.categories) == ("edge-1", ("gambling", "adult"))
    assert sum(each.epsilon_micro for each in marginals(made, 1)) == 1_000_000
    shown = dump(config)["safeguard"]
    assert shown["l0"] == {"category-hour": 8, "region-category-day": 3, "kept-day": 1}
    assert shown["epsilon"] == {"category-hour": 0.5, "region-category-day": 0.4, "kept-day": 0.1}
    assert shown["categories"]["gambling"] == ["gambling.block.example", "203.0.113.81"]
    found = targets(config)
    assert found is not None
    pages = ("203.0.113.80", "203.0.113.81", "3fff:b10c::80")
    assert found.pages == frozenset(map(pack, pages))


def test_one_cap_can_be_set_and_the_others_stay(tmp_path: Path) -> None:
    more = "[safeguard.l0]\ncategory-hour = 3\n[safeguard.epsilon]\nkept-day = 0.05\n"
    config = loaded(tmp_path, GUARD + more)
    made = safeguard_config(config)
    assert made is not None
    assert dict(made.l0) == {"category-hour": 3, "region-category-day": 3, "kept-day": 1}
    assert made.epsilon_micro["kept-day"] == 50_000
    assert made.epsilon_micro["category-hour"] == 500_000


def test_every_value_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    wrong = GUARD.replace('"gambling" = ', "").replace(
        'pages = ["203.0.113.80"]', 'pages = ["here"]'
    )
    wrong = wrong.replace('region = "north"', 'region = "192.0.2.1"')
    wrong = wrong.replace('adult = ["3FFF:b10c::0:80"]', 'adult = ["com", "a b.example"]')
    wrong += "[safeguard.l0]\nweekly = 1\ncategory-hour = 65\n[safeguard.epsilon]\nkept-day = 0\n"
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, wrong)
    keys = {line.split(":")[0] for line in caught.value.problems}
    assert keys >= {
        "safeguard.region",
        "safeguard.categories.adult.0",
        "safeguard.categories.adult.1",
        "safeguard.pages.0",
        "safeguard.l0.weekly.[key]",
        "safeguard.l0.category-hour",
        "safeguard.epsilon.kept-day",
    }


def test_what_does_not_go_together_is_named_at_once(tmp_path: Path) -> None:
    wrong = GUARD.replace('region = "north"', 'region = "west"\nhours = 23\ndaily_budget = 0.9')
    wrong = wrong.replace('["north", "south"]', '["north", "north"]')
    wrong = wrong.replace("3FFF:b10c::0:80", "x.gambling.block.example")
    wrong = wrong.replace('"203.0.113.80"', '"100.64.0.1"')
    wrong += "[safeguard.l0]\nkept-day = 2\n"
    assert [line.split(":")[0] for line in problems(tmp_path, wrong)] == [
        "safeguard.region",
        "safeguard.regions",
        "safeguard.l0.kept-day",
        "safeguard.epsilon",
        "safeguard.hours",
        "safeguard",
        "safeguard.categories",
    ]


def test_pages_must_be_known(tmp_path: Path) -> None:
    wrong = GUARD.replace('pages = ["203.0.113.80"]', "").replace(', "203.0.113.81"', "")
    wrong = wrong.replace("3FFF:b10c::0:80", "adult.block.example")
    (problem,) = problems(tmp_path, wrong)
    assert "give the addresses of the block pages" in problem
    many = [f"203.0.{third}.{last}" for third in (114, 115) for last in range(1, 65)]
    lists = "".join(f"c{n} = {many[16 * n : 16 * n + 16]!r}\n" for n in range(8))
    (problem,) = problems(tmp_path, GUARD + lists)
    assert "131 addresses" in problem


def test_noise_that_cannot_be_drawn_is_a_problem(tmp_path: Path) -> None:
    more = "[safeguard.epsilon]\nkept-day = 0.0001\n"
    (problem,) = problems(tmp_path, GUARD + more)
    assert problem.startswith("safeguard: kept-day: l0 and epsilon_micro ask for a scale")


def test_a_shorter_day_is_for_a_lab(tmp_path: Path) -> None:
    short = "hour_s = 5\nhours = 3\n[safeguard.categories"
    config = loaded(tmp_path, GUARD.replace("[safeguard.categories", short))
    made = safeguard_config(config)
    assert made is not None
    assert made.day_ns == 15 * 10**9
    assert safeguard_problems(config) == []
