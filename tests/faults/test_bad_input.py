"""What an operator gets wrong, seen as the operator sees it: the words, and that nothing is lost.

Bytes are those of datagrams from one line; a collector of its own meters each test.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from aggregator import pki
from aggregator.setup import initialise
from collector.wire.codec import decode
from tests.faults.extra import Extra, burst
from tests.faults.support import Row, World, gaps, wait_for
from tests.lab.appliance import METRICS_PORT, ROOT, tallyhold
from tests.lab.day import public_v4
from tests.lab.topology import PUBLIC_V4

pytestmark = [pytest.mark.lab, pytest.mark.engine]

HOME: Final = public_v4(50)
HOUR_S: Final = 3600
NOBODY: Final = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups")
"""Starts a program without any capability."""
MANY: Final = [str(PUBLIC_V4[1024 + number]) for number in range(4500)]
"""Addresses that each make a row of usage: some 450 KB a window."""


@pytest.fixture(scope="module")
def line(world: World) -> Iterator[World]:
    """Line 1 has an address and may send; no session is needed for its bytes to be metered."""
    world.lab.network.assign(1, HOME, None)
    yield world
    world.lab.network.withdraw(1, HOME, None)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> pki.Issued:
    """A collector's certificate of an authority that the appliance does not know."""
    folder = tmp_path_factory.mktemp("foreign")
    pki.init(folder, ["127.0.0.1"])
    return pki.issue(folder, "stranger")


def refused(collector: Extra, words: str) -> int:
    """Bytes sent while the uplink is refused with these words; the spool has all of them."""
    octets = burst(collector.world, [HOME], times=40)
    collector.says(words)
    octets += burst(collector.world, [HOME], times=7)
    kept = collector.metric("spool_pending_batches")
    wait_for("windows to be kept", lambda: collector.metric("spool_pending_batches") > kept + 1)
    assert collector.metric("uplink_up") == 0.0
    assert collector.metric("spool_batches_total", fate="dropped") == 0.0
    return octets


def test_a_certificate_of_another_authority(line: World, foreign: pki.Issued) -> None:
    with Extra(line, "foreign") as collector:
        collector.use(foreign)
        collector.start()
        octets = refused(collector, "does not know the CA of this collector's certificate")
        assert "tallyhold appliance enrol" in collector.text()
        assert collector.stored_octets() == 0
        collector.enrol()
        collector.delivers(octets)
        assert losses(line, "foreign") == []


def test_a_certificate_revoked_while_it_is_used(line: World) -> None:
    config = ("--config", str(line.appliance.config))
    with Extra(line, "revoked") as collector:
        collector.start()
        octets = burst(line, [HOME], times=10)
        collector.delivers(octets)
        assert "revoked certificate" in tallyhold("appliance", "revoke", "revoked", *config).stdout
        octets += refused(collector, "revoked")
        before = collector.stored_octets()
        tallyhold("appliance", "enrol", "revoked", "--output", str(collector.keys), *config)
        assert before < octets
        collector.delivers(octets)
        assert losses(line, "revoked") == []


def test_a_clock_an_hour_off(line: World, tmp_path: Path) -> None:
    name = "clock"
    repaired = tmp_path / "ntp"
    with Extra(line, name) as collector:
        collector.start(("tests.faults.skewed", str(HOUR_S), str(repaired)))
        octets = refused(collector, "the collector's clock is ahead of the aggregator's by")
        said = re.search(r"by (\d+) s \(tolerance 300 s\): check NTP on both", collector.text())
        assert said is not None
        assert abs(int(said[1]) - HOUR_S) <= 2
        assert collector.stored_octets() == 0
        repaired.touch()
        collector.delivers(octets)
        assert losses(line, name) == []


def test_a_full_spool_drops_the_oldest_and_says_exactly_what(
    line: World, foreign: pki.Issued
) -> None:
    with Extra(line, "full", spool="max_bytes = 1_000_000") as collector:
        collector.use(foreign)
        collector.start()
        octets, deadline = 0, time.monotonic() + 120.0
        while collector.metric("spool_batches_total", fate="dropped") < 2.0:
            octets += burst(line, MANY, size=100)  # what a window has of them grows with windows
            assert time.monotonic() < deadline, "the spool did not get full"
        assert collector.metric("spool_bytes") <= 1_000_000
        assert "spool-full: batch" in collector.text()
        collector.enrol()
        marker = burst(line, [HOME], times=9)
        wait_for("the last", lambda: collector.metric("spool_pending_batches") == 0.0)
        wait_for("the marker", lambda: _of_address(line, "full") == marker)

        def told() -> list[Row]:
            return [row for row in losses(line, "full") if row["reason"] == "spool-full"]

        def is_told() -> bool:
            """Gap records of a dropped batch are carried on, so they are not among what is lost."""
            dropped = collector.metric("spool_rows_total", fate="dropped")
            carried: float = dropped - sum(row["amount"] for row in told())
            return 0 <= carried <= 2 * collector.metric("spool_batches_total", fate="dropped")

        wait_for("what was dropped to be told", is_told)  # the last by the window after
        assert {(row["stage"], row["unit"]) for row in told()} == {("spool", "rows")}
        assert all("usage" in row["classes"].split(",") for row in told() if row["amount"] > 1000)
        stored = collector.stored_octets()
        assert 0 < stored < octets + marker
        lost_rows = (octets + marker - stored) / 128
        assert lost_rows == int(lost_rows), "whole datagrams"
        (gaps,) = line.rows(
            "SELECT count() AS n FROM ingest_ledger WHERE collector = 'full' AND verdict = 'gap'"
        )
        # Batches dropped one after the other are one; a slow machine drops another while it sends.
        assert 1 <= gaps["n"] < collector.metric("spool_batches_total", fate="dropped")


def test_a_batch_damaged_on_disk_is_set_aside_and_told(line: World, foreign: pki.Issued) -> None:
    with Extra(line, "damaged") as collector:
        collector.use(foreign)
        collector.start()
        first = burst(line, [HOME], times=11)
        wait_for("two windows", lambda: collector.metric("spool_pending_batches") >= 3.0)
        victim = next(path for path in batches_of(collector.spool) if octets_in(path) == first)
        header, _ = decode(victim.read_bytes())
        with victim.open("r+b") as file:
            file.seek(-20, 2)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 0x40]))
        second = burst(line, [HOME], times=13)
        collector.enrol()
        collector.delivers(second)
        assert "can never be taken" in collector.text()
        assert (collector.spool / "dead" / victim.name).is_file(), "kept for whoever can mend it"
        # The aggregator saw that a number is missing; the collector says what it was. Gap records
        # that were in it cannot be read, so that is told apart.
        gap_rows = sum(each.rows for each in header.sections if each.record_class == "gap")
        expected = {"rows", "batches"} if gap_rows == 0 else {"rows", "batches", "gap rows"}
        wait_for("all to tell", lambda: units(losses(line, "damaged")).keys() == expected)
        found = units(losses(line, "damaged"))
        told, missing = found["rows"], found["batches"]
        assert (missing["reason"], missing["amount"]) == ("missing-batches", 1)
        assert told["stage"] == "uplink"
        assert told["amount"] == header.rows - gap_rows
        assert told["reason"].startswith("rejected-")
        assert told["start_us"] == header.window_start_ns // 1000


def test_a_port_that_is_taken(line: World, tmp_path: Path) -> None:
    with Extra(line, "port") as collector:
        text = collector.config.read_text()
        taken = f"127.0.0.1:{METRICS_PORT}"
        collector.config.write_text(re.sub(r'listen = ".*"', f'listen = "{taken}"', text))
        code, words = collector.fails()
        assert code == 1
        assert f"cannot listen on {taken} for metrics" in words
        assert "set metrics.listen to a free address" in words
        assert "Traceback" not in words
    listen = f"127.0.0.1:{line.appliance.port}"
    path, _ = initialise(tmp_path / "other", ["127.0.0.1"], listen, "127.0.0.1:0", 0)
    done = run_appliance(path)
    assert done.returncode == 1
    assert f"[server] listen = '{listen}': another program listens there already" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_appliance_on_the_same_data(line: World) -> None:
    done = run_appliance(line.appliance.config)
    assert done.returncode == 1
    assert "another process uses the engine's data folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_capabilities_it_says_which(line: World) -> None:
    with Extra(line, "powerless") as collector:
        give_away(collector)
        code, words = collector.fails(before=NOBODY)
        assert code == 1
        assert "CAP_NET_ADMIN" in words
        assert "Traceback" not in words
        code, words = collector.fails(before=[*NOBODY, *capable("net_admin")])
        assert code == 1
        assert "CAP_NET_RAW" in words
        assert "Traceback" not in words


def test_two_capabilities_are_enough(line: World) -> None:
    with Extra(line, "modest") as collector:
        give_away(collector)
        collector.start(before=[*NOBODY, *capable("net_admin", "net_raw")])
        assert collector.process is not None
        status = Path(f"/proc/{collector.process.pid}/status").read_text()
        assert re.search(r"^Uid:\s+65534\s", status, re.MULTILINE)
        assert re.search(r"^CapEff:\s+0*3000$", status, re.MULTILINE)
        octets = burst(line, [HOME], times=21)
        collector.delivers(octets)


def test_a_secret_that_cannot_be_read(line: World) -> None:
    with Extra(line, "secret") as collector:
        give_away(collector)
        (secret,) = collector.folder.glob("radius.secret")
        secret.chmod(0)
        code, words = collector.fails(before=[*NOBODY, *capable("net_admin", "net_raw")])
        assert code in (1, 2)
        assert "radius_secrets" in words
        assert "Traceback" not in words


def test_every_error_of_a_configuration_at_once(line: World, tmp_path: Path) -> None:
    with Extra(line, "typos") as collector:
        text = collector.config.read_text()
        text = text.replace("window_s = 1", "window_s = 0\nwindows = 2")
        collector.config.write_text(text.replace('url = "https://', 'url = "http://'))
        code, words = collector.fails()
        assert code == 2
        for key in ("timing.window_s:", "timing.windows: unknown key", "uplink.url:"):
            assert key in words
        assert "3 problem(s)" in words
    broken = tmp_path / "aggregator.toml"
    text = line.appliance.config.read_text()
    broken.write_text(text.replace('kind = "bundled"', 'kind = "sqlite"') + '"bad area" = []\n')
    done = run_appliance(broken)
    assert done.returncode == 2
    assert "engine.kind:" in done.stderr
    assert "areas.bad area" in done.stderr
    assert "Traceback" not in done.stderr


def capable(*names: str) -> list[str]:
    """More arguments for NOBODY: these capabilities and no others."""
    listed = ",".join(f"+{name}" for name in names)
    return ["--inh-caps", listed, "--ambient-caps", listed]


def give_away(collector: Extra) -> None:
    """Make a collector's files nobody's, as an installation would, its secret included."""
    found = re.search(r'radius_secrets = \{ ".*" = "(.*)" \}', collector.config.read_text())
    assert found is not None
    own = collector.folder / "radius.secret"
    shutil.copyfile(found[1], own)
    collector.config.write_text(collector.config.read_text().replace(found[1], str(own)))
    for path in [collector.folder, *collector.folder.rglob("*")]:
        shutil.chown(path, "nobody", "nogroup")
    for path in (own, *collector.keys.glob("*.key")):
        path.chmod(0o600)
    # The folders above are the test's, which root alone may enter.
    for path in collector.folder.parents:
        if path.stat().st_mode & 0o001 == 0:
            path.chmod(path.stat().st_mode | 0o001)


def run_appliance(config: Path) -> subprocess.CompletedProcess[str]:
    """`tallyhold appliance run` that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "tallyhold", "appliance", "run", "--config", str(config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def batches_of(folder: Path) -> list[Path]:
    """Batches that wait, oldest first."""
    return sorted(folder.glob("*.batch"))


def octets_in(path: Path) -> int:
    """Bytes from subscribers that a batch tells of."""
    _, batches = decode(path.read_bytes())
    if "usage" not in batches:
        return 0
    return sum(int(octets or 0) for octets in batches["usage"].column("up_bytes").to_pylist())


def units(lost: list[Row]) -> dict[str, Row]:
    """The losses by what was lost, one each."""
    found = {
        "gap rows" if row["reason"] == "gaps-unreadable" else str(row["unit"]): row for row in lost
    }
    assert len(found) == len(lost), lost
    return found


def losses(world: World, collector: str) -> list[Row]:
    """Gap records but for what a new collector cannot know: counters and flows older than it."""
    older = ("baseline", "no-baseline")
    return [row for row in gaps(world, 0, collector) if row["reason"] not in older]


def _of_address(world: World, collector: str) -> int:
    packed = (b"\0" * 10 + b"\xff\xff" + socket.inet_aton(HOME)).hex().upper()
    (row,) = world.rows(
        "SELECT sum(u.up_bytes) AS octets FROM usage AS u"
        " WHERE collector = %(name)s AND hex(address) = %(address)s",
        name=collector,
        address=packed,
    )
    return int(row["octets"])
