"""The retention service as the appliance's child: started again, stopped in order, gone with it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from aggregator import pki
from aggregator.cli import StaffRole
from aggregator.companion import PARENT_VARIABLE, Companion, retention_command
from aggregator.ingest.listen import collector_name
from aggregator.setup import initialise
from retention import parent
from retention.client import Client, ServiceError, Where
from retention.config import Role
from tests.aggregator.support import client_tls, upload
from tests.ports import free_port

ROOT = Path(__file__).parents[2]


def test_both_sides_use_the_same_words() -> None:
    assert PARENT_VARIABLE == parent.PARENT_VARIABLE
    assert {each.value for each in StaffRole} == {each.value for each in Role}


def test_a_staff_certificate_names_no_collector(tmp_path: Path) -> None:
    """As the ingest's TLS layer gives it: the URI of a person is none of a collector."""
    import ssl

    pki.init(tmp_path, ["localhost"])
    made = pki.staff(tmp_path, "edge-1", ["operations"])
    decoded = ssl._ssl._test_decode_cert(str(made.cert))  # type: ignore[attr-defined]
    assert collector_name(decoded) == ""
    decoded = ssl._ssl._test_decode_cert(str(pki.issue(tmp_path, "edge-1").cert))  # type: ignore[attr-defined]
    assert collector_name(decoded) == "edge-1"


def script(folder: Path, body: str) -> list[str]:
    """A child that writes its pid as a line of `starts`, then does something."""
    code = (
        "import os, signal, sys, time\n"
        f"with open({str(folder / 'starts')!r}, 'a') as f: f.write(f'{{os.getpid()}}\\n')\n"
    )
    return [sys.executable, "-c", code + body]


def starts(folder: Path) -> list[int]:
    try:
        return [int(line) for line in (folder / "starts").read_text().split()]
    except FileNotFoundError:
        return []


async def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def run(companion: Companion, scenario: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await companion.start()
        try:
            await scenario()
        finally:
            await companion.stop()
            await companion.stop()

    asyncio.run(whole())


def test_a_child_that_ends_is_started_again_with_longer_pauses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pauses = (0.05, 0.1, 0.2)
    companion = Companion(script(tmp_path, "sys.exit(3)"), back_off_s=pauses)

    async def scenario() -> None:
        await until(lambda: len(starts(tmp_path)) >= 5)

    run(companion, scenario)
    assert companion.restarts >= 4
    said = re.findall(r"ended \(3\); again in ([\d.]+) s", caplog.text)
    assert said[:4] == ["0.1", "0.1", "0.2", "0.2"]  # as one digit shows 0.05, 0.1, 0.2, 0.2


def test_a_program_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    companion = Companion([str(tmp_path / "none")], back_off_s=(0.02,))

    async def scenario() -> None:
        await until(lambda: companion.restarts >= 3)

    run(companion, scenario)


def test_a_killed_child_comes_back_and_a_stop_ends_it(tmp_path: Path) -> None:
    body = (
        "def end(*_):\n"
        f"    open({str(tmp_path / 'ended')!r}, 'w').close(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        f"open({str(tmp_path / 'ready')!r}, 'a').write('x')\n"
        "time.sleep(60)\n"
    )
    companion = Companion(script(tmp_path, body), back_off_s=(0.02,))

    def ready(count: int) -> bool:
        path = tmp_path / "ready"
        return path.exists() and len(path.read_text()) == count

    async def scenario() -> None:
        await until(lambda: ready(1))
        assert companion.pid == starts(tmp_path)[0]
        os.kill(starts(tmp_path)[0], signal.SIGKILL)
        await until(lambda: ready(2))

    run(companion, scenario)
    assert (tmp_path / "ended").exists()
    assert companion.pid is None
    assert companion.restarts == 1


def test_a_child_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    body = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(tmp_path / 'ready')!r}, 'w').close()\n"
        "time.sleep(60)\n"
    )
    companion = Companion(script(tmp_path, body), stop_s=0.3)

    async def scenario() -> None:
        await until((tmp_path / "ready").exists)

    run(companion, scenario)
    assert not Path(f"/proc/{starts(tmp_path)[0]}").exists()


def test_the_child_knows_its_parent_and_no_keyboard(tmp_path: Path) -> None:
    body = (
        "import json\n"
        f"told = os.environ[{PARENT_VARIABLE!r}], os.getsid(0) == os.getpid(), sys.stdin.read()\n"
        f"json.dump(told, open({str(tmp_path / 'new')!r}, 'w'))\n"
        f"os.rename({str(tmp_path / 'new')!r}, {str(tmp_path / 'told')!r})\n"
        "time.sleep(60)\n"
    )
    companion = Companion(script(tmp_path, body))

    async def scenario() -> None:
        await until((tmp_path / "told").exists)

    run(companion, scenario)
    assert json.loads((tmp_path / "told").read_text()) == [str(os.getpid()), True, ""]


def test_the_command_is_one_that_there_is() -> None:
    done = subprocess.run(
        [*retention_command(Path("x"))[:-2], "--help"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--config" in done.stdout


@pytest.mark.engine
def test_an_appliance_from_init_to_sigterm_with_staff_and_collectors_apart(tmp_path: Path) -> None:
    """Two commands, as a newcomer types them: everything runs, and everything is gone after it."""
    folder, port = tmp_path / "appliance", free_port()
    path, _ = initialise(folder, ["127.0.0.1"], f"127.0.0.1:{port}", "127.0.0.1:0", 0)
    own = folder / "retention.toml"
    own.write_text(
        re.sub(r"(?s)\[access\.groups\].*?\n\n", '[access.groups]\nroot = ["operations"]\n\n',
               own.read_text())
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "tallyhold", "appliance", "run", "--config", str(path)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )
    ask = Client(Where(str(folder / "retention.sock")))

    def health() -> dict[str, object]:
        try:
            return dict(ask.get("/v1/health"))
        except ServiceError:
            return {}

    def wait(ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 90
        while not ready():
            assert time.monotonic() < deadline, health()
            assert process.poll() is None
            time.sleep(0.1)

    try:
        wait(lambda: health().get("engine") == "running")
        found = health()
        assert (found["state"], found["destroys"]) == ("running", True)
        children = kids(process.pid)
        assert len(children) == 2
        # A person cannot upload, whatever their roles; the batch is not even looked at.
        made = pki.staff(folder / "pki", "ann", ["operations", "dpo"])
        tls = client_tls(folder / "pki" / "ca.crt", made.cert, made.key)
        status, receipt = upload(port, tls, b"x", sent_ns=time.time_ns())
        assert (status, receipt.verdict, receipt.reason) == (403, "retry", "identity")
        # A collector under the same name is another matter.
        made = pki.issue(folder / "pki", "ann")
        tls = client_tls(folder / "pki" / "ca.crt", made.cert, made.key)
        status, receipt = upload(port, tls, b"x", sent_ns=time.time_ns())
        assert receipt.reason != "identity"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert not (folder / "retention.sock").exists()


def kids(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    threads = Path(f"/proc/{pid}/task").iterdir()
    found = {int(each) for thread in threads for each in (thread / "children").read_text().split()}
    return sorted(found | {int(each) for each in text.split()})
