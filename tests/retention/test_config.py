"""Configuration of the retention service: every error at once, by the key's path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aggregator.setup import initialise
from retention.config import ConfigError, Role, dump, hints, load, parse


def problems(data: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(data, Path("retention.toml"))
    return caught.value.problems


def test_nothing_is_needed_to_begin_with() -> None:
    config = parse({}, Path("retention.toml"))
    assert config.log_folder == config.folder / "audit"
    assert config.policy.is_file()
    assert config.schedule.destroy
    assert config.api.listen is None


def test_what_is_dumped_can_be_read_again(tmp_path: Path) -> None:
    data = {
        "engine": {"kind": "server", "shards": [["a:9000", "b:9000"], ["[2001:db8::1]:9000"]]},
        "access": {"groups": {"legal": ["legal-requester"], "dpo": ["dpo", "auditor"]}},
        "holds": {"shared": ["100.64.0.0/10"]},
        "log": str(tmp_path / "log"),
    }
    config = parse(data, tmp_path / "x.toml")
    assert config.access.groups["dpo"] == (Role.DPO, Role.AUDITOR)
    assert config.log_folder == tmp_path / "log"
    assert parse(dump(config), tmp_path / "x.toml") == config


def test_what_init_writes_can_be_used(tmp_path: Path) -> None:
    initialise(tmp_path / 'quo"te', ["localhost"], "127.0.0.1:8443", "127.0.0.1:9465", 0)
    config = load(tmp_path / 'quo"te' / "retention.toml")
    assert config.engine.data == tmp_path / 'quo"te' / "engine"
    assert config.metrics.listen == "127.0.0.1:9466"
    assert config.api.socket.parent == tmp_path / 'quo"te'
    assert [hint for hint in hints(config) if hint.startswith("access")] == []


def test_every_error_comes_at_once_with_its_path() -> None:
    found = problems(
        {
            "folder": "relative",
            "origin": "has space",
            "engine": {"kind": "magic", "database": "a; b", "typo": 1},
            "api": {"mode": "0666", "group": "a b", "max_connections": 1},
            "access": {"groups": {"legal": ["judge"], "empty": []}},
            "schedule": {"tick_s": 0, "cap": 0},
            "clock": {"max_ahead_days": 90},
            "holds": {"shared": ["100.64.0.1/10"]},
            "metrics": {"listen": "0.0.0.0:9466"},
            "rubbish": 1,
        }
    )
    paths = {line.split(":")[0] for line in found}
    assert paths == {
        "folder", "origin", "engine.kind", "engine.database", "engine.typo", "api.mode",
        "api.group", "api.max_connections", "access.groups.legal.0", "access.groups.legal",
        "access.groups.empty",
        "schedule.tick_s", "schedule.cap", "clock.max_ahead_days", "holds.shared.0",
        "metrics.listen", "rubbish",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"engine": {"kind": "server"}}, "engine.shards"),
        ({"engine": {"shards": [["a:9000"]]}}, "engine.shards"),
        ({"engine": {"kind": "server", "shards": [["a:90000"]]}}, "engine.shards"),
        ({"engine": {"kind": "server", "shards": [["a:9000"], ["a:9000"]]}}, "engine.shards"),
        ({"api": {"listen": "127.0.0.1:8445"}}, "api"),
        ({"schedule": {"tick_s": 60, "purge_every_s": 30}}, "schedule.tick_s"),
        ({"policy": "/nonexistent/policy.toml"}, "policy"),
        (
            {
                "engine": {
                    "kind": "server", "shards": [["a:9000"]], "password_file": "/nonexistent/p",
                }
            },
            "engine.password_file",
        ),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_said(data: dict[str, Any], key: str) -> None:
    assert [line.split(":")[0] for line in problems(data)] == [key]


@pytest.mark.parametrize("mode", ["0666", "0662", "0777", "0661", "0761", "8", "rw"])
def test_a_socket_for_everybody_is_refused(mode: str) -> None:
    assert problems({"api": {"mode": mode}})[0].startswith("api.mode")


def test_hints_say_what_nobody_could_do() -> None:
    found = hints(parse({"schedule": {"destroy": False}}, Path("x")))
    assert any("legal-requester" in hint for hint in found)
    assert any("approve" in hint for hint in found)
    assert any("schedule.destroy" in hint for hint in found)


def test_a_file_that_is_not_there_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="appliance init"):
        load(tmp_path / "none.toml")
