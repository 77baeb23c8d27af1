"""The shipped rules: promtool accepts them, each alert is tried, and each says what to do."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from retention.metrics import Metrics, State
from tests.deploy.support import (
    CONFIG,
    METRIC,
    RETENTION_RULES,
    RULES,
    metric_names,
    tallyhold_help,
)

ALL_RULES = (RULES, RETENTION_RULES)
TESTS = RULES.with_name("tallyhold.rules.test.yml")
ALL_TESTS = (TESTS, RULES.with_name("retention.rules.test.yml"))
TEXT = "\n".join(path.read_text() for path in ALL_RULES)
MENDS = re.compile(
    r"`(systemctl (status|restart|reload)|journalctl|df -h|nft list|ip -br|chronyc"
    r"|tallyhold (collector|appliance|retention|hold|purge|policy|audit))\b"
)
COMMAND = re.compile(r"`(tallyhold [a-z-]+ [a-z-]+)([^`]*)`")


def test_promtool_accepts_configuration_and_rules() -> None:
    promtool("check", "config", str(CONFIG))
    for path in ALL_RULES:
        promtool("check", "rules", str(path))


@pytest.mark.parametrize("tests", ALL_TESTS, ids=lambda path: path.name)
def test_promtool_finds_every_expectation_met(tests: Path) -> None:
    promtool("test", "rules", str(tests))


@pytest.mark.parametrize(
    ("rules", "tests", "right", "wrong"),
    [
        (RULES, TESTS, "set_fill_ratio > 0.8", "set_fill_ratio > 0.95"),
        (RETENTION_RULES, ALL_TESTS[1], "seconds_left < 86400", "seconds_left < 3600"),
        (
            RETENTION_RULES,
            ALL_TESTS[1],
            "oldest_seconds > 7 * 86400",
            "oldest_seconds > 31 * 86400",
        ),
    ],
)
def test_a_rule_that_is_wrong_is_found_by_its_test(
    tmp_path: Path, rules: Path, tests: Path, right: str, wrong: str
) -> None:
    text = rules.read_text()
    assert text.count(right) == 1
    (tmp_path / rules.name).write_text(text.replace(right, wrong))
    (tmp_path / tests.name).write_text(tests.read_text())
    done = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / tests.name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0


def test_every_alert_is_seen_firing_by_the_tests() -> None:
    text = "\n".join(path.read_text() for path in ALL_TESTS)
    firing = re.findall(r'alertname="(\w+)"|alertname: (\w+)', text)
    assert set(alerts()) == {one or other for one, other in firing}


def test_alerts_have_names_of_their_own() -> None:
    names = re.findall(r"- alert: (\w+)", TEXT)
    assert len(names) == len(set(names)) > 20


@pytest.mark.parametrize("name", sorted(re.findall(r"- alert: (\w+)", TEXT)))
def test_every_alert_says_what_it_means_and_what_mends_it(name: str) -> None:
    text = alerts()[name]
    for key in ("summary", "effect", "mend"):
        found = re.search(rf'^ {{10}}{key}: "(.{{20,}})"$', text, re.MULTILINE)
        assert found, f"{name} has no {key}"
        if key == "mend":
            assert MENDS.search(found[1]), f"{name} names no command"
    assert re.search(r"severity: (critical|warning|info)\}", text)


def test_the_commands_that_mend_exist() -> None:
    found = {(match[1], match[2]) for match in COMMAND.finditer(TEXT)}
    assert found
    for command, rest in found:
        shown = tallyhold_help(*command.split()[1:])
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in shown, f"{command} has no {option}"


def test_jobs_of_the_rules_are_those_of_the_configuration() -> None:
    jobs = set(re.findall(r"job_name: (\S+)", CONFIG.read_text()))
    assert set(re.findall(r'job="([^"]+)"', TEXT)) == jobs
    assert all(path.name in CONFIG.read_text() for path in ALL_RULES)


def test_metrics_of_the_retention_rules_are_those_of_the_service() -> None:
    page = Metrics().render().decode()
    wanted = set(METRIC.findall(RETENTION_RULES.read_text())) - {"tallyhold"}
    assert len(wanted) > 15
    assert wanted - metric_names(page) == set()


def test_every_gauge_of_the_service_that_asks_for_somebody_has_an_alert() -> None:
    # Those that only say how much there is, or are told by another one that does.
    quiet = {"due_partitions", "holds_protecting", "approvals_waiting", "certificates_pending"}
    text = RETENTION_RULES.read_text()
    missing = [each.name for each in fields(State) if f"retention_{each.name} " not in text]
    assert set(missing) == quiet


def alerts() -> dict[str, str]:
    """Text of each alert by name."""
    parts = re.split(r"^ {6}- (?=alert:|record:)", TEXT, flags=re.MULTILINE)
    found = {}
    for part in parts:
        if part.startswith("alert: "):
            name, _, body = part.removeprefix("alert: ").partition("\n")
            found[name] = body
    return found


def promtool(*words: str) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
