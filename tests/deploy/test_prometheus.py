"""The shipped rules: promtool accepts them, each alert is tried, and each says what to do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.deploy.support import CONFIG, RULES, tallyhold_help

TESTS = RULES.with_name("tallyhold.rules.test.yml")
MENDS = re.compile(
    r"`(systemctl (status|restart|reload)|journalctl|tallyhold (collector|appliance)|df -h|nft list"
    r"|ip -br|chronyc)\b"
)
COMMAND = re.compile(r"`(tallyhold [a-z-]+ [a-z-]+)([^`]*)`")


def test_promtool_accepts_configuration_and_rules() -> None:
    promtool("check", "config", str(CONFIG))
    promtool("check", "rules", str(RULES))


def test_promtool_finds_every_expectation_met() -> None:
    promtool("test", "rules", str(TESTS))


def test_a_rule_that_is_wrong_is_found_by_its_test(tmp_path: Path) -> None:
    text = RULES.read_text()
    assert text.count("set_fill_ratio > 0.8") == 1
    (tmp_path / RULES.name).write_text(text.replace("fill_ratio > 0.8", "fill_ratio > 0.95"))
    (tmp_path / TESTS.name).write_text(TESTS.read_text())
    done = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / TESTS.name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0


def test_every_alert_is_seen_firing_by_the_tests() -> None:
    firing = re.findall(r'alertname="(\w+)"|alertname: (\w+)', TESTS.read_text())
    assert set(alerts()) == {one or other for one, other in firing}


def test_alerts_have_names_of_their_own() -> None:
    names = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert len(names) == len(set(names)) > 20


@pytest.mark.parametrize("name", sorted(re.findall(r"- alert: (\w+)", RULES.read_text())))
def test_every_alert_says_what_it_means_and_what_mends_it(name: str) -> None:
    text = alerts()[name]
    for key in ("summary", "effect", "mend"):
        found = re.search(rf'^ {{10}}{key}: "(.{{20,}})"$', text, re.MULTILINE)
        assert found, f"{name} has no {key}"
        if key == "mend":
            assert MENDS.search(found[1]), f"{name} names no command"
    assert re.search(r"severity: (critical|warning|info)\}", text)


def test_the_commands_that_mend_exist() -> None:
    found = {(match[1], match[2]) for match in COMMAND.finditer(RULES.read_text())}
    assert found
    for command, rest in found:
        shown = tallyhold_help(*command.split()[1:])
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in shown, f"{command} has no {option}"


def test_jobs_of_the_rules_are_those_of_the_configuration() -> None:
    jobs = set(re.findall(r"job_name: (\S+)", CONFIG.read_text()))
    assert set(re.findall(r'job="([^"]+)"', RULES.read_text())) == jobs
    assert RULES.name in CONFIG.read_text()


def alerts() -> dict[str, str]:
    """Text of each alert by name."""
    parts = re.split(r"^ {6}- (?=alert:|record:)", RULES.read_text(), flags=re.MULTILINE)
    found = {}
    for part in parts:
        if part.startswith("alert: "):
            name, _, body = part.removeprefix("alert: ").partition("\n")
            found[name] = body
    return found


def promtool(*words: str) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
