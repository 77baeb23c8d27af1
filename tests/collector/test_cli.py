"""The command line as an operator meets it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from collector.cli import app
from collector.spool import Spool, SpoolConfig
from tests.collector.capture.netns_fixture import Router, inside, router, run
from tests.collector.rig import moved, octets, spooled, traffic, write_config, write_keys

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tallyhold", "collector"]
WAIT_S = 30.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Router]:
    with router() as built:
        yield built


def ask(*words: str) -> tuple[int, str]:
    """Exit code and everything that was written."""
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200", "NO_COLOR": "1"})
    return result.exit_code, result.output


def fail(lab: Router, *words: str, drop: str = "") -> tuple[int, str]:
    """Exit code and stderr of `run`, in the router's namespace."""
    less = ["setpriv", f"--bounding-set=-{drop}", f"--inh-caps=-{drop}"] if drop else []
    with inside(lab.ns):
        done = subprocess.run(
            [*less, *COMMAND, "run", *words],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
            cwd=ROOT,
        )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def start(lab: Router, path: Path, log: Path) -> subprocess.Popen[bytes]:
    """A collector that meters."""
    with inside(lab.ns), log.open("wb") as out:
        process = subprocess.Popen([*COMMAND, "run", "-c", str(path)], stderr=out, cwd=ROOT)
    deadline = time.monotonic() + WAIT_S
    while "meters" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("words", [[], ["run"], ["check-config"]])
def test_help_says_what_it_does_and_shows_an_example(words: list[str]) -> None:
    code, text = ask(*words, "--help")
    assert code == 0
    assert re.search(r"Example: tallyhold collector \S+ --config", text)


def test_a_good_configuration(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    assert ask("check-config", "-c", str(path)) == (0, f"{path}: no problem found\n")
    code, text = ask("check-config", "-c", str(path), "--dump")
    assert code == 0
    assert json.loads(text)["limits"]["packet_buffers_bytes"] == 256 * 2**20


def test_what_only_a_component_knows_is_found_before_the_start(tmp_path: Path) -> None:
    path = write_config(tmp_path, window_s=7, control='radius_secrets = { "192.0.2.1" = "/none" }')
    text = path.read_text().replace('"acc*"', '"acc[0-9]", "acc0"')
    path.write_text(text.replace("https://127.0.0.1:9", "https://127.0.0.1:99999"))
    code, said = ask("check-config", "-c", str(path))
    assert code == 2
    for words in (
        "4 problem(s)",
        "access: 'acc[0-9]' is no interface name",
        "timing.window_s: the window length must be 1 s to 24 h and divide the day",
        "uplink.url: Port out of range",
        "control.radius_secrets.192.0.2.1: /none: No such file or directory",
    ):
        assert words in said, words


def test_a_nas_that_is_no_address_is_named(tmp_path: Path) -> None:
    path = write_config(tmp_path, control='radius_secrets = { "bng" = "/none" }')
    code, said = ask("check-config", "-c", str(path))
    assert code == 2
    assert "control.radius_secrets.bng" in said


def test_a_secret_must_be_something(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    path = write_config(
        tmp_path, control=f'radius_secrets = {{ "192.0.2.1" = "{tmp_path}/empty" }}'
    )
    assert "a secret has 1 to 4096 bytes" in ask("check-config", "-c", str(path))[1]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("other", "key values mismatch"),
        ("text", "no start line|pem|not"),
        ("encrypted", "the key file is encrypted"),
    ],
)
def test_key_files_that_do_not_fit_are_refused(tmp_path: Path, what: str, words: str) -> None:
    path = write_config(tmp_path)
    key = tmp_path / "edge.key"
    if what == "other":
        write_keys(tmp_path, "other")
        key.write_bytes((tmp_path / "other.key").read_bytes())
    elif what == "text":
        key.write_text("no key")
    else:
        argv = ["openssl", "pkcs8", "-topk8", "-in", str(key), "-passout", "pass:x"]
        key.write_bytes(subprocess.run(argv, capture_output=True, check=True).stdout)
    code, said = ask("check-config", "-c", str(path))
    assert code == 2
    assert "ca, cert and key cannot be used together" in said
    assert re.search(words, said)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    code, said = ask("run", "-c", str(tmp_path / "none.toml"))
    assert code == 2
    assert "no such file; copy deploy/examples/collector.toml" in said


@pytest.mark.lab
@pytest.mark.parametrize(
    ("capability", "words"),
    [("net_raw", "CAP_NET_RAW"), ("net_admin", "CAP_NET_ADMIN|as root")],
)
def test_without_a_capability_it_says_which(
    lab: Router, tmp_path: Path, capability: str, words: str
) -> None:
    code, said = fail(lab, "-c", str(write_config(tmp_path)), drop=capability)
    assert code == 1
    assert re.search(words, said.splitlines()[-1])


@pytest.mark.lab
def test_a_spool_of_another_collector_is_left_alone(lab: Router, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    owner = Spool(SpoolConfig(tmp_path / "spool", "edge-1", 10**9), "boot")
    owner.start()
    code, said = fail(lab, "-c", str(path))
    owner.stop()
    assert code == 1
    assert "another collector owns this spool" in said


@pytest.mark.lab
def test_a_table_that_counts_something_else_is_not_touched_unasked(
    lab: Router, tmp_path: Path
) -> None:
    path = write_config(tmp_path)
    with inside(lab.ns):
        other = 'table inet tally { comment "tallyhold 1 ipv6/56 00"; }'
        run("nft", "-f", "-", text=f"add table inet tally\ndelete table inet tally\n{other}\n")
        code, said = fail(lab, "-c", str(path))
        assert code == 1
        assert "--replace-table" in said
        assert "ipv6/56" in run("nft", "list", "table", "inet", "tally")
        run("nft", "delete", "table", "inet", "tally")


@pytest.mark.lab
def test_sigterm_spools_the_window_and_sigkill_costs_nothing(lab: Router, tmp_path: Path) -> None:
    path = write_config(tmp_path, port=9464)
    log = tmp_path / "log"
    before = lab.a.quiet()
    process = start(lab, path, log)
    traffic(lab)
    with inside(lab.ns), urllib.request.urlopen("http://127.0.0.1:9464/metrics") as page:
        assert b"tallyhold_collector_start_timestamp_seconds" in page.read()
    process.kill()
    assert process.wait() == -signal.SIGKILL
    traffic(lab)
    process = start(lab, path, log)
    traffic(lab)
    truth = moved(lab.a, before)
    cpu, began = ticks(process.pid), time.monotonic()
    time.sleep(2.0)
    idle = (ticks(process.pid) - cpu) / (time.monotonic() - began)
    process.terminate()
    assert process.wait(WAIT_S) == 0, log.read_text()
    assert octets(spooled(tmp_path), lab.a) == truth
    assert idle < 0.15, f"an idle collector takes {idle:.1%} of a processor"
    for word in ("10.0.0.2", "2001:db8:0:a"):
        assert word not in log.read_text()


def ticks(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
