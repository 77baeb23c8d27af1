"""The commands as people run them: help, answers, errors in plain words, files that are whole."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner, Result

import tallyhold
from aggregator import asking, outfile, pki
from aggregator.config import load
from aggregator.queries import export as exports
from aggregator.reader import reader
from aggregator.store.bundled import USERS, Engine
from aggregator.store.client import Client
from aggregator.store.errors import StoreError
from tests.aggregator.queries.world import DAY, HOUR, World, at, binding, call, session, usage
from tests.aggregator.support import Store
from tests.ports import free_port

NAME = "=sub 'one'"


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every group and command of the aggregator, by the words that lead to it."""
    root: Any = typer.main.get_command(tallyhold.app)
    context = root.make_context("tallyhold", [], resilient_parsing=True)
    for name, (module, _, _) in tallyhold.GROUPS.items():
        if module.startswith("aggregator"):
            group = root.get_command(context, name)
            yield (name,), group
            for each, command in group.commands.items():
                yield (name, each), command


COMMANDS = dict(commands())


def run(*words: str | Path, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(tallyhold.app, [str(word) for word in words], env=env)


def configured(folder: Path, engine: str, audit: Path | None = None) -> Path:
    """A configuration in `folder` with these lines for its engine."""
    pki.init(folder / "pki", ["localhost"])
    keys, path = folder / "pki", folder / "aggregator.toml"
    path.write_text(
        f'[tls]\nca = "{keys}/ca.crt"\ncert = "{keys}/server.crt"\nkey = "{keys}/server.key"\n'
        f'[audit]\nfolder = "{audit or folder / "audit"}"\n[engine]\n{engine}\n'
    )
    return path


@pytest.fixture(scope="module")
def config(bundled_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An appliance with two subscribers in it, and the configuration to ask it with."""
    store = Store(
        "bundled",
        Client(bundled_engine.endpoint()),
        Client(bundled_engine.endpoint("keeper")),
    )
    store.clear()
    world, start = World(store), at("2026-11-20")
    world.send(
        "edge-1",
        start + DAY,
        session=[session(NAME, start, start + DAY), session("sub-2", start, start + HOUR)],
        binding=[binding(NAME, "10.0.0.1", start, start + DAY)],
        usage=[usage("10.0.0.1", start + n * HOUR, up=n, down=10**9) for n in range(3)],
        call=[call("10.0.0.1", start + HOUR, 61_001)],
    )
    store.close()
    return configured(tmp_path_factory.mktemp("cli"), f'data = "{bundled_engine.config.data}"')


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_that_is_one(words: tuple[str, ...]) -> None:
    result = run(*words, "--help")
    assert result.exit_code == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())
    found = re.search(r"Example: (tallyhold .+?)(?= Arguments| Options|$)", text)
    assert found, text
    example = shlex.split(found[1])[1:]
    names = tuple(example[:2])
    assert names in COMMANDS
    assert names[: len(words)] == words
    # The example's own words are understood by the command that they name.
    COMMANDS[names].make_context("x", example[2:], resilient_parsing=False)


def test_no_option_takes_a_secret() -> None:
    for words, command in COMMANDS.items():
        for param in command.params:
            assert not re.search("pass|secret|token|key", param.name or ""), words


@pytest.mark.engine
def test_no_secret_stands_in_a_process_list(bundled_engine: Engine) -> None:
    seen = Path(f"/proc/{bundled_engine.pid}/cmdline").read_bytes()
    seen += Path(f"/proc/{bundled_engine.pid}/environ").read_bytes()
    for user in USERS:
        assert bundled_engine.endpoint(user).password.encode() not in seen


@pytest.mark.engine
def test_answers_come_as_json_and_as_tables(config: Path) -> None:
    asked = ("--period", "2026-11", "--config", config)
    for kind, key, figure in (
        ("usage", "up_bytes", 3),
        ("sessions", "sessions", 1),
        ("calls", "talk_ms", 61_001),
    ):
        result = run("billing", kind, NAME, "--json", *asked)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["totals"][key] == figure
        text = run("billing", kind, NAME, *asked, env={"COLUMNS": "200"}).stdout
        assert f"{kind.capitalize()} of {NAME} in 2026-11 (UTC)" in text
        assert "Completeness 100 %" in text
    hours = json.loads(run("billing", "usage", NAME, "--hourly", "--json", *asked).stdout)["hours"]
    assert [row["up_bytes"] for row in hours] == [0, 1, 2]
    busy = json.loads(run("demand", "busy-hour", "--json", *asked).stdout)
    assert busy["totals"]["down_bytes"] == 3 * 10**9
    nobody = run("billing", "usage", "nobody", "--json", *asked)
    assert (nobody.exit_code, json.loads(nobody.stdout)["totals"]["up_bytes"]) == (0, 0)


@pytest.mark.engine
def test_a_statement_shows_its_arithmetic(config: Path, tmp_path: Path) -> None:
    tariff = tmp_path / "tariff.toml"
    tariff.write_text(
        'currency = "GBP"\n[rounding]\nseconds = 60\n[[rate]]\nname = "UK"\nprefix = "+44"\n'
        'per_minute = "0.02"\nsetup = "0.05"\n'
    )
    asked = ("billing", "statement", NAME, "-p", "2026-11", "--tariff", tariff, "-c", config)
    result = run(*asked, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["total"], answer["sum"], answer["completeness"]) == ("0.09", "0.09", 1.0)
    (charge,) = answer["charges"]
    assert (charge["talk_ms"], charge["billed_s"], charge["charge"]) == (61_001, 120, "0.09")
    text = run(*asked).stdout
    for step in charge["steps"]:
        assert step in text
    assert "Total 0.09 GBP" in text
    tariff.write_text(
        'currency = "GBP"\n[[rate]]\nname = "UK"\nprefix = "+44"\nper_minute = 0.02\n'
    )
    wrong = run(*asked)
    assert wrong.exit_code == 2
    assert "rate.0.per_minute: write it as a text" in wrong.stderr


@pytest.mark.engine
def test_the_reader_can_only_read(config: Path) -> None:
    client = reader(load(config))
    assert client.endpoint.user == "reader"
    for sql in ("TRUNCATE TABLE usage", "INSERT INTO demand (area) VALUES ('x')"):
        with pytest.raises(StoreError):
            client.execute(sql)
    client.close()


@pytest.mark.engine
def test_the_export_as_csv_and_json_and_its_look_up(config: Path, tmp_path: Path) -> None:
    asked = ("billing", "export", "--period", "2026-11", "--config", config, "-r", "run 11")
    as_json = json.loads(run(*asked, "--format", "json").stdout)
    assert [row["subscriber"] for row in as_json] == [NAME, "sub-2"]
    judged = json.loads(run(*asked, "--format", "json", "--octets").stdout)
    assert [tuple(row)[-4:] for row in judged] == [exports.OCTET_COLUMNS] * 2
    result = run(*asked, "--output", tmp_path / "november.csv")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"wrote {tmp_path / 'november.csv'}\n"  # no bar: it is no terminal
    rows = list(csv.DictReader(io.StringIO((tmp_path / "november.csv").read_text())))
    assert tuple(rows[0]) == exports.EXPORT_COLUMNS
    assert rows[0]["subscriber"] == f"'{NAME}"  # no formula for a spreadsheet
    for row, plain in zip(rows, as_json, strict=True):
        for name in exports.EXPORT_COLUMNS[1:]:
            assert row[name] == str(plain[name])
    lines = [
        json.loads(line)
        for line in (config.parent / "audit" / "lookups.jsonl").read_text().splitlines()
    ]
    assert (lines[-1]["what"], lines[-1]["subject"], lines[-1]["reference"]) == (
        "billing export 2026-11", "all", "run 11",
    )  # fmt: skip
    assert NAME not in (config.parent / "audit" / "lookups.jsonl").read_text()


@pytest.mark.engine
@pytest.mark.parametrize("error", [KeyboardInterrupt, StoreError("gone"), OSError(28, "full", "x")])
def test_a_broken_export_leaves_what_was_there(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    def broken(*given: object) -> Iterator[dict[str, Any]]:
        yield dict.fromkeys(exports.EXPORT_COLUMNS, 1)
        assert len(list(tmp_path.iterdir())) == 2  # it was being written
        raise error

    monkeypatch.setattr(exports, "export", broken)
    file = tmp_path / "out.csv"
    file.write_text("last month")
    result = run("billing", "export", "--period", "2026-11", "-o", file, "--config", config)
    assert result.exit_code not in (0, 2)
    assert [each.name for each in tmp_path.iterdir()] == ["out.csv"]
    assert file.read_text() == "last month"


def test_the_bar_is_for_terminals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for forced, shown in (("1", True), ("", False)):
        monkeypatch.setenv("FORCE_COLOR", forced)
        with asking.progress_bar() as progress:
            progress(5, 10)
        out, err = capsys.readouterr()
        assert (out, "Subscribers" in err) == ("", shown)
        assert shown or not err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("billing", "usage", "s", "--period", "2026-13"), "is no period; use 2026-11"),
        (("billing", "usage", "s", "--period", "9999-12"), "is no period"),
        (("billing", "usage", "s", "-p", "2026-11-02/2026-11-01"), "ends before it starts"),
        (("demand", "busy-hour", "--period", "now"), "is no period"),
        (("billing", "usage", "", "--period", "2026-11"), "reference is empty"),
        (("billing", "usage", "x" * 600, "--period", "2026-11"), "longer than 512"),
        (("billing", "usage", "--period", "2026-11"), "Missing argument"),
        (("billing", "usage", "s"), "Missing option"),
        (("billing", "export", "-p", "2026-11", "--format", "xls"), "xls"),
        (("billing", "export", "-p", "2026-11", "-o", "/no/such/folder/x.csv"), "no such folder"),
        (("billing", "nothing"), "No such command"),
    ],
)
def test_a_wrong_question_is_answered_with_two(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    path = configured(tmp_path, f'data = "{tmp_path}/engine"')
    result = run(*words, env={"TALLYHOLD_CONFIG": str(path), "COLUMNS": "200"})
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not (tmp_path / "audit").exists()


def test_a_wrong_configuration_is_answered_with_two(tmp_path: Path) -> None:
    missing = run("billing", "usage", "s", "-p", "2026-11", "-c", tmp_path / "none.toml")
    assert (missing.exit_code, "tallyhold appliance init" in missing.stderr) == (2, True)
    path = configured(tmp_path, "kind = 'abacus'\ncolour = 1")
    wrong = run("appliance", "check-config", "--config", path)
    assert (wrong.exit_code, "engine.colour" in wrong.stderr) == (2, True)


def test_an_engine_that_is_down_is_named_with_what_to_do(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.mkdir()
    path = configured(tmp_path, f'data = "{engine}"')
    asked = ("billing", "usage", "sub-1", "--period", "2026-11", "--config", path)
    never = run(*asked)
    assert (never.exit_code, never.stdout) == (1, "")
    (engine / "reader.password").write_text("x")
    started = run(*asked)
    assert "no engine was ever started" in started.stderr
    (engine / "config.xml").write_text(f"<tcp_port>{free_port()}</tcp_port>")
    down = run(*asked)
    assert (down.exit_code, down.stdout) == (1, "")
    assert f"start it with: tallyhold appliance run --config {path}" in down.stderr
    assert "sub-1" not in down.stderr
    server = configured(tmp_path, f'kind = "server"\nport = {free_port()}')
    gone = run(*asked[:-1], server)
    assert (gone.exit_code, "[engine] host and port" in gone.stderr) == (1, True)


def test_a_password_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "engine" / "reader.password").mkdir(parents=True)
    path = configured(tmp_path, f'data = "{tmp_path}/engine"')
    result = run("billing", "usage", "s", "--period", "2026-11", "--config", path)
    assert (result.exit_code, "reader.password" in result.stderr) == (1, True)


@pytest.mark.engine
def test_without_an_audit_line_there_is_no_answer(
    bundled_engine: Engine, config: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    data = f'data = "{bundled_engine.config.data}"'
    path = configured(tmp_path, data, audit=tmp_path / "file" / "audit")
    for words in (("usage", NAME), ("sessions", NAME), ("calls", NAME), ("export",)):
        result = run("billing", *words, "--period", "2026-11", "--config", path)
        assert (result.exit_code, result.stdout) == (1, "")
        assert str(tmp_path / "file") in result.stderr


def test_the_shell_completes() -> None:
    def complete(text: str) -> str:
        env = {"_TALLYHOLD_COMPLETE": "complete_bash", "COMP_WORDS": text, "PATH": os.defpath}
        env["COMP_CWORD"] = str(len(text.split()) - 1)
        script = "import sys; sys.argv[0] = 'tallyhold'; import tallyhold; tallyhold.main()"
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=env,
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(tallyhold.__file__).parent,
        )
        return done.stdout

    assert complete("tallyhold bil").split() == ["billing"]


def test_rows_become_csv_or_json(tmp_path: Path) -> None:
    columns = ("a", "b")
    for rows in ([], [{"a": 1, "b": "x"}], [{"b": "ü\n\"'", "a": 2}, {"a": 0.5, "b": ""}]):
        for kind in get_args(outfile.Format):
            path = tmp_path / f"out.{kind}"
            with outfile.whole_file(path) as file:
                outfile.write_rows(file, rows, columns, kind)
            text = path.read_text()
            if kind == "json":
                assert json.loads(text) == rows
            else:
                found = list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))
                assert found == [{k: str(row[k]) for k in columns} for row in rows]
            assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert outfile.cell(text) == f"'{text}"
    assert outfile.cell(-1) == -1
