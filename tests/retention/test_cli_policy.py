"""`tallyhold policy` as a person meets it: checks and comparisons of files, the published texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import tallyhold
from retention.policy import load
from retention.policy.report import report
from tests.retention.fake import Fake

NOW = 1_795_000_000_000_000


def run(*words: object) -> Result:
    return CliRunner().invoke(
        tallyhold.app, ["policy", *(str(word) for word in words)], env={"COLUMNS": "200"}
    )


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    service = Fake(tmp_path / "s")
    monkeypatch.setenv("TALLYHOLD_RETENTION", str(service.socket))
    with service.running():
        yield service


def test_check(tmp_path: Path) -> None:
    done = run("check", load.PACKAGED)
    assert done.exit_code == 0, done.stderr
    assert "no problem found" in done.stdout
    bad = tmp_path / "bad.toml"
    bad.write_text(load.PACKAGED.read_text().replace("[class.call", "[class.letter") + "\nx = 1\n")
    done = run("check", bad)
    assert done.exit_code == 2
    assert "problem(s)" in done.stderr
    shown = json.loads(run("check", bad, "--json").stdout)
    assert shown["good"] is False
    assert len(shown["problems"]) > 1
    assert run("check", bad, "--json").exit_code == 2
    assert run("check", tmp_path / "none").exit_code == 2


def test_diff(tmp_path: Path) -> None:
    text = load.PACKAGED.read_text()
    new = tmp_path / "new.toml"
    new.write_text(text.replace('"90 days"', '"80 days"'))
    assert new.read_text() != text
    done = run("diff", load.PACKAGED, new)
    assert done.exit_code == 0, done.stderr
    assert "80 days" in done.stdout
    changes = json.loads(run("diff", load.PACKAGED, new, "--json").stdout)["classes"]
    assert "shorter" in {each["change"] for each in changes}
    assert "the same" in run("diff", load.PACKAGED, load.PACKAGED).stdout


def test_show_of_the_service_and_of_a_file(fake: Fake) -> None:
    found = load.load(load.PACKAGED, NOW)
    answer = {"digest": found.digest, **found.plain()}
    fake.answers["GET /v1/policy"] = (200, answer)
    done = run("show")
    assert done.exit_code == 0, done.stderr
    for word in ("visit", "statutory", found.digest[:16]):
        assert word in done.stdout
    assert json.loads(run("show", "--json").stdout) == answer
    assert len(fake.asked) == 2
    assert "statutory" in run("show", "--file", load.PACKAGED).stdout
    assert len(fake.asked) == 2


def test_report_of_the_service_and_of_a_file(fake: Fake) -> None:
    answer = report(load.load(load.PACKAGED, NOW), (), NOW)
    alarm = {"level": "alarm", "code": "kept-too-long", "record_class": "visit", "text": "visit: 1"}
    fake.answers["GET /v1/policy/report"] = (200, {**answer, "alarms": [alarm]})
    assert "ALARM: visit: 1" in run("report").stdout
    assert json.loads(run("report", "--json").stdout)["alarms"] == [alarm]
    assert "No alarm." in run("report", "--file", load.PACKAGED).stdout


def test_the_published_texts_never_say_that_a_notice_is_in_force(tmp_path: Path) -> None:
    with_notice = tmp_path / "p.toml"
    notice = '[[notice]]\nid = "N1"\nclasses = ["visit"]\nfrom = 2020-01-01\n'
    with_notice.write_text(f"{notice}\n{load.PACKAGED.read_text()}")
    assert run("show", "--file", with_notice).stdout.count("N1")
    for options in ((), ("--article-30",), ("--json",), ("--article-30", "--json")):
        done = run("notice", "--file", with_notice, *options)
        assert done.exit_code == 0, done.stderr
        assert done.stdout == run("notice", "--file", load.PACKAGED, *options).stdout
        assert "N1" not in done.stdout
    assert run("notice", "--file", load.PACKAGED).stdout.startswith("# What we record")
    done = run("notice")
    assert "made from" in done.stderr
    assert len(json.loads(run("notice", "--article-30", "--json").stdout)) > 5
