"""The lab itself: exact, complete, and gone afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final

import pytest

from tests.lab import netns, sip
from tests.lab.context import Progress
from tests.lab.day import Connect, Day, Disconnect, Fetch, Subscriber, default_day
from tests.lab.lab import Lab
from tests.lab.leftovers import GONE_TIMEOUT_S, await_gone, namespace_of, processes_in
from tests.lab.netns import ROOTLESS_MARK, LabError, Namespace
from tests.lab.services import ROOT, Services
from tests.lab.truth import Truth

TALK_ERROR_MS: Final = 60
"""SIPp's timers are milliseconds; a busy machine wakes it late."""

COUNTERS_HEAD: Final = "table inet lab_check {\n"
COUNTERS_CHAINS: Final = """
  counter resets {{ }}
  counter to_router {{ }}
  chain volume {{ type filter hook forward priority 20; policy accept;
    tcp flags rst counter name resets
    {rules}
  }}
  chain own {{ type filter hook input priority 20; policy accept;
    iifname "acc*" counter name to_router
  }}
}}
"""


@dataclass(frozen=True)
class Played:
    """A played day, the router's own count (name -> layer-3 bytes), and what was reported."""

    truth: Truth
    counted: dict[str, int]
    progress: list[Progress]
    chaos: list[float]
    folder: Path
    described: dict[str, object]


def counters_table(lines: list[str]) -> str:
    """An nft table that counts the forwarded bytes of each access interface, both ways."""
    declared = "".join(f"  counter {n}_up {{ }}\n  counter {n}_down {{ }}\n" for n in lines)
    rules = "\n    ".join(
        f'iifname "{n}" counter name {n}_up\n    oifname "{n}" counter name {n}_down' for n in lines
    )
    return COUNTERS_HEAD + declared + COUNTERS_CHAINS.format(rules=rules)


def read_counters(edge: Namespace) -> dict[str, int]:
    """name -> bytes of the table above."""
    listed = json.loads(edge.run("nft", "-j", "list", "counters", "table", "inet", "lab_check"))
    found = (entry["counter"] for entry in listed["nftables"] if "counter" in entry)
    return {counter["name"]: int(counter["bytes"]) for counter in found}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """The default day, smaller and faster, with a counter of its own on the router."""
    folder = tmp_path_factory.mktemp("lab")
    progress: list[Progress] = []
    chaos: list[float] = []
    with Lab(folder, seed=7, wall_s=20.0, scale=0.1) as lab:
        names = [line.interface for line in lab.network.lines.values()]
        lab.edge.run("nft", "-f", "-", stdin=counters_table(names))
        began = time.monotonic()
        truth = lab.run_day(
            progress.append, [(0.5, lambda: chaos.append(time.monotonic() - began))]
        )
        yield Played(truth, read_counters(lab.edge), progress, chaos, folder, lab.describe())


@pytest.mark.lab
def test_every_step_worked(played: Played) -> None:
    assert played.truth.errors == []
    assert all(event.ok for event in played.progress)
    done = [event for event in played.progress if event.subscriber]
    assert len(done) == sum(len(s.steps) for s in default_day(7, 20.0, 0.1).subscribers)
    assert len(played.chaos) == 1 and 10.0 <= played.chaos[0] < 16.0


@pytest.mark.lab
def test_truth_is_what_the_router_forwarded_to_the_byte(played: Played) -> None:
    assert played.truth.drops == 0
    for subscriber in played.truth.subscribers:
        interface = f"acc{subscriber.line}"
        assert subscriber.up_bytes == played.counted[f"{interface}_up"], subscriber.id
        assert subscriber.down_bytes == played.counted[f"{interface}_down"], subscriber.id
    assert sum(s.down_bytes for s in played.truth.subscribers) > 10_000_000


@pytest.mark.lab
def test_no_reset_and_nothing_for_the_router_itself(played: Played) -> None:
    assert played.counted["resets"] == 0
    assert played.counted["to_router"] == 0


@pytest.mark.lab
def test_quiet_lines_carry_exactly_what_their_programs_sent(played: Played) -> None:
    idle = played.truth.subscriber("sub-0008")
    assert (idle.up_bytes, idle.down_bytes, idle.hosts) == (0, 0, {})
    assert idle.connected_s > 5
    lookups = played.truth.subscriber("sub-0007")
    assert lookups.hosts == {} and lookups.looked_up == (
        "bank.example",
        "mail.example",
        "weather.test",
    )
    assert 0 < lookups.up_bytes < lookups.down_bytes < 1000


@pytest.mark.lab
def test_address_passes_from_one_subscriber_to_another(played: Played) -> None:
    first = played.truth.subscriber("sub-0001")
    second = played.truth.subscriber("sub-0002")
    morning, afternoon = first.sessions
    (later,) = second.sessions
    assert morning.v4 == later.v4 and afternoon.v4 != morning.v4
    # Whole seconds, as accounting states them, must already be in order.
    assert morning.stop_ns // 10**9 < later.start_ns // 10**9
    for session in (morning, afternoon, later):
        assert session.up_bytes > 1000 and session.down_bytes > 10_000
    assert first.up_bytes == morning.up_bytes + afternoon.up_bytes
    assert first.down_bytes == morning.down_bytes + afternoon.down_bytes
    assert first.connected_s == pytest.approx(morning.connected_s + afternoon.connected_s)
    assert "upload.photos.test" in first.hosts and "games.test" in second.hosts


@pytest.mark.lab
def test_stated_times_are_the_measured_ones(played: Played) -> None:
    for subscriber in played.truth.subscribers:
        for session in subscriber.sessions:
            assert session.start_ns % 10**9 < 100_000_000
            assert session.stop_ns % 10**9 < 100_000_000
            assert session.stop_ns > session.start_ns


@pytest.mark.lab
def test_families_and_protocols(played: Played) -> None:
    kinds = {s.id: (s.family, s.nat) for s in played.truth.subscribers}
    assert kinds["sub-0003"] == ("v6", False)
    assert kinds["sub-0004"] == ("dual", False)
    assert kinds["sub-0005"] == ("v4", True)
    only_v6 = played.truth.subscriber("sub-0003")
    assert only_v6.sessions[0].v6_prefix == "2001:db8:100:3::/64"
    assert only_v6.hosts["video.example"] == 2  # one TLS, one QUIC
    assert played.truth.subscriber("sub-0006").reached == {"games.test": 1}


@pytest.mark.lab
def test_calls_are_as_scripted(played: Played) -> None:
    calls = [c for c in played.truth.calls if c.subscriber == "sub-0009"]
    assert [c.disposition for c in calls] == [
        sip.ANSWERED,
        sip.BUSY,
        sip.CANCELLED,
        sip.NO_ANSWER,
        sip.ANSWERED,
    ]
    assert [c.b for c in calls if c.answered] == ["02079460201", "+442079460202"]
    for call, meant in zip((c for c in calls if c.answered), (2500, 4000), strict=True):
        assert meant <= call.talk_ms <= meant + TALK_ERROR_MS
        ring_ms = (call.answer_ns - call.start_ns) / 1e6
        assert sip.RING_MS - 5 <= ring_ms <= sip.RING_MS + TALK_ERROR_MS
    assert all(c.talk_ms == 0 and c.answer_ns == 0 for c in calls if not c.answered)
    assert [c.answered for c in played.truth.calls if c.subscriber == "sub-0004"] == [True]


@pytest.mark.lab
def test_description_covers_every_address_of_the_day(played: Played) -> None:
    described = played.described
    v4, v6 = described["prefixes_v4"], described["prefixes_v6"]
    assert isinstance(v4, list) and isinstance(v6, list)
    for session in (s for one in played.truth.subscribers for s in one.sessions):
        if session.v4 is not None:
            assert any(ip_address(session.v4) in ip_network(prefix) for prefix in v4)
        if session.v6 is not None:
            assert any(ip_address(session.v6) in ip_network(prefix) for prefix in v6)
    hosts = described["hosts"]
    assert isinstance(hosts, list)
    assert {h for s in played.truth.subscribers for h in s.hosts} <= set(hosts)


@pytest.mark.lab
def test_secrets_are_not_readable_by_others_and_truth_is_json(played: Played) -> None:
    for name in ("radius/secret", "radius/radiusd.conf", "web.key"):
        assert (played.folder / name).stat().st_mode & 0o077 == 0
    stored = json.loads((played.folder / "day1" / "truth.json").read_text())
    assert len(stored["subscribers"]) == 10 and len(stored["calls"]) == 6


@pytest.mark.lab
def test_a_failing_step_is_told_and_the_day_goes_on(tmp_path: Path) -> None:
    """And a service that cannot start says why, with nothing left over."""
    steps = (
        Connect(1, v4="198.18.1.1"),
        Fetch(2, "tls", ("news.example", "nosuch.example"), 1000, times=2),
        Disconnect(3),
    )
    with Lab(tmp_path / "lab", day=Day((Subscriber(1, steps),), wall_s=2.0)) as lab:
        truth = lab.run_day()
        (error,) = truth.errors
        assert "NXDOMAIN" in error
        assert truth.subscriber("sub-0001").hosts == {"news.example": 1}
        second = tmp_path / "second"
        second.mkdir()
        before = processes_in(namespace_of(lab.core.pid))
        with pytest.raises(LabError, match="ddress already in use"):
            Services(lab.core, second, "dummy").start()
        assert processes_in(namespace_of(lab.core.pid)) == before


def test_a_day_that_cannot_be_played_is_refused() -> None:
    with pytest.raises(LabError, match="left connected"):
        Subscriber(1, (Connect(1, v4="198.18.1.1"),)).check()
    with pytest.raises(LabError, match="not within one session"):
        Subscriber(1, (Disconnect(1),)).check()
    with pytest.raises(LabError, match="out of order"):
        Subscriber(1, (Connect(5, v4="198.18.1.1"), Disconnect(4))).check()
    with pytest.raises(LabError, match="numbered"):
        Day((Subscriber(2, ()),)).check()
    assert default_day(3) == default_day(3) != default_day(4)
    assert len(default_day(lines=4).subscribers) == 4
    assert len(default_day(lines=14).subscribers) == 14


PROGRAM: Final = """
import os, sys, threading
from pathlib import Path
from tests.lab.lab import Lab
from tests.lab.leftovers import GONE_TIMEOUT_S, await_gone, namespace_of, processes_in
from tests.lab.netns import maybe_reexec_rootless
rootless = maybe_reexec_rootless()
with Lab(Path(sys.argv[1]), subscribers=3, wall_s=float(sys.argv[2]), scale=0.02) as lab:
    homes = [lab.edge, lab.core, *lab.network.homes.values()]
    inodes = [os.stat(f"/proc/{n.pid}/ns/net").st_ino for n in homes]
    lab.edge_popen(["sleep", "60"])
    print("up", rootless, *inodes, flush=True)
    truth = lab.run_day()
    print("day", truth.drops, len(truth.errors), sum(s.down_bytes for s in truth.subscribers))
"""


def run_program(folder: Path, wall_s: float, *enter: str) -> subprocess.Popen[str]:
    """The program above, in a process of its own; ROOT first on its path."""
    environment = {k: v for k, v in os.environ.items() if k != ROOTLESS_MARK}
    return subprocess.Popen(
        [*enter, sys.executable, "-c", PROGRAM, str(folder), str(wall_s)],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.lab
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_everything_is_gone_when_the_runner_is_ended_within_a_day(
    how: signal.Signals, tmp_path: Path
) -> None:
    with run_program(tmp_path, 60.0) as process:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert words[:2] == ["up", "False"]
        inodes = {int(word) for word in words[2:]}
        assert all(processes_in(inode) for inode in inodes)
        time.sleep(3.0)  # well into the day: sessions, transfers and agents are running
        process.send_signal(how)
        process.wait(GONE_TIMEOUT_S)
        process.communicate()
    assert process.returncode not in (0, 1) or how == signal.SIGINT
    assert await_gone(inodes)


@pytest.mark.lab
def test_rootless(tmp_path: Path) -> None:
    """As a user without rights, in a user namespace of its own; gone after a normal end."""
    enter = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    with run_program(tmp_path, 14.0, *enter) as process:
        out, err = process.communicate(timeout=60.0)
    assert process.returncode == 0, err
    up, day = (line.split() for line in out.splitlines())
    assert up[:2] == ["up", "True"]
    assert day[:3] == ["day", "0", "0"] and int(day[3]) > 100_000
    assert await_gone({int(word) for word in up[2:]})


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(netns.PROGRAMS, "no-such-program", "its-package")
    with pytest.raises(LabError, match=r"no-such-program \(its-package\)$"):
        Lab(tmp_path).start()
