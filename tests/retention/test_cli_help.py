"""Every command of the legal groups: its help has an example that is a real one; completion."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import tallyhold
from tests.retention.fake import Fake

GROUPS = ("hold", "purge", "policy", "retention", "faults")


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every group and command by the words that lead to it."""
    root: Any = typer.main.get_command(tallyhold.app)
    context = root.make_context("tallyhold", [], resilient_parsing=True)
    for name in GROUPS:
        group = root.get_command(context, name)
        yield (name,), group
        for each, command in group.commands.items():
            yield (name, each), command


COMMANDS = dict(commands())


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_help_has_an_example_that_the_command_line_takes(words: tuple[str, ...]) -> None:
    text = COMMANDS[words].help
    example = re.search(r"Example: tallyhold ((?:.|\n)*)", text)
    assert example, "no example"
    shown = shlex.split(example[1].partition(" > ")[0])
    assert words == tuple(shown[: len(words)])
    command = COMMANDS[tuple(shown[:2])]
    with command.make_context(" ".join(shown[:2]), _existing(shown[2:]), resilient_parsing=True):
        pass
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in shown[2:] if word.startswith("-")} <= known
    done = CliRunner().invoke(tallyhold.app, [*words, "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert "Example: tallyhold" in done.stdout


def _existing(words: list[str]) -> list[str]:
    """The words, with folders that no machine has replaced by one that every machine has."""
    return ["/" if word.startswith("/mnt") else word for word in words]


def test_every_option_is_explained() -> None:
    silent = [
        (words, parameter.name)
        for words, command in COMMANDS.items()
        for parameter in command.params
        if parameter.name != "help" and not getattr(parameter, "help", "")
    ]
    assert not silent


def test_the_help_of_hold_tells_the_whole_way() -> None:
    text = CliRunner().invoke(tallyhold.app, ["hold", "--help"], env={"COLUMNS": "120"}).stdout
    for word in ("hold place", "hold approve", "hold coverage", "hold release", "72 hours", "UTC"):
        assert word in text
    place = CliRunner().invoke(tallyhold.app, ["hold", "place", "--help"]).stdout
    assert "can be seen by other users" in place
    assert "[[scope]]" in place


def complete(*words: str, service: Path | str = "/nonexistent") -> list[str]:
    line = ["tallyhold", *words]
    env = {
        **os.environ,
        "_TALLYHOLD_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(line),
        "COMP_CWORD": str(len(line) - 1),
        "TALLYHOLD_RETENTION": str(service),
    }
    script = "import tallyhold; tallyhold.app(prog_name='tallyhold')"
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False
    )
    assert not done.stderr
    return done.stdout.split()


def test_completion_of_words() -> None:
    assert "coverage" in complete("hold", "c")
    assert complete("hold", "list", "--state", "Aw") == [
        "AwaitingApproval",
        "AwaitingPreservation",
    ]
    assert complete("hold", "place", "--basis", "court") == ["court-order"]
    assert complete("hold", "place", "--class", "v") == ["visit"]
    assert complete("hold", "reject", "H-1", "--reason", "too") == ["too-wide"]


def test_completion_of_ids_asks_the_service_and_is_silent_without_it(tmp_path: Path) -> None:
    fake = Fake(tmp_path / "s")
    fake.answers["GET /v1/holds"] = (
        200,
        {"holds": [{"id": "H-2026-0001", "state": "Preserved"}, {"id": "H-2026-0002"}]},
    )
    with fake.running():
        assert complete("hold", "show", "H-2026", service=fake.socket) == [
            "H-2026-0001",
            "H-2026-0002",
        ]
        assert complete("hold", "show", "X", service=fake.socket) == []
        fake.answers["GET /v1/holds"] = (403, {"error": "not-allowed", "message": "no"})
        assert complete("hold", "show", "H", service=fake.socket) == []
    assert complete("hold", "show", "H", service=fake.socket) == []
    assert complete("hold", "show", "H", service="ftp://x") == []
