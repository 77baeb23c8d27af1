"""`tallyhold collector doctor` in a real namespace whose settings are wrong in known ways."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from collector import build
from collector.capture.nft import install
from collector.config import Config, load
from collector.doctor.examine import examine
from collector.doctor.facts import Interface
from collector.doctor.gather import gather
from collector.doctor.passing import passed, totals
from collector.metrics import Metrics, Snapshot
from tests.collector.capture.netns_fixture import Router, inside, namespace, router, run, udp
from tests.collector.rig import write_config

pytestmark = pytest.mark.lab
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def lab() -> Iterator[Router]:
    with router() as built:
        yield built


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    return write_config(tmp_path)


def in_router(lab: Router, *words: str, text: str | None = None) -> str:
    return run("ip", "netns", "exec", lab.ns, *words, text=text)


def found(lab: Router, config: Config) -> dict[str, str]:
    """Severity by check."""
    with inside(lab.ns):
        facts = gather(config)
    order = ("ok", "info", "warning", "error")
    worst: dict[str, str] = {}
    for each in examine(facts, config):
        worst[each.check] = max(each.severity, worst.get(each.check, "ok"), key=order.index)
    return worst


def test_gro_is_seen_on_and_off(lab: Router, config: Path) -> None:
    settings = load(config)
    assert found(lab, settings)["offloads"] == "ok"
    in_router(lab, "ethtool", "-K", "acc0", "gro", "on")
    try:
        seen = found(lab, settings)
        assert "offloads" not in seen and seen["offloads of acc0"] == "warning"
        # A far interface merges what subscribers are sent.
        in_router(lab, "ethtool", "-K", "up0", "gro", "on")
        assert found(lab, settings)["offloads of up0"] == "warning"
    finally:
        in_router(lab, "ethtool", "-K", "acc0", "gro", "off")
        in_router(lab, "ethtool", "-K", "up0", "gro", "off")


def test_what_ethtool_says_is_what_is_read(lab: Router, config: Path) -> None:
    with inside(lab.ns):
        interfaces = {each.name: each for each in gather(load(config)).interfaces}
    told = in_router(lab, "ethtool", "-k", "acc0")
    on = {line.split(":")[0].strip() for line in told.splitlines() if ": on" in line}
    shared = {name for name in interfaces["acc0"].features if f"{name}:" in told}
    assert shared == {name for name in on if name in interfaces["acc0"].features} and shared
    acc0 = interfaces["acc0"]
    assert acc0 == Interface(
        "acc0", "access", 1500, "veth", acc0.features, True, acc0.packets, acc0.drops
    )
    assert interfaces["up0"].role == "control" and "lo" not in interfaces


@pytest.mark.parametrize("name", ["acct", "timestamp", "events"])
def test_sysctls_that_are_off_are_named(lab: Router, config: Path, name: str) -> None:
    settings = load(config)
    sysctl = f"net.netfilter.nf_conntrack_{name}"
    in_router(lab, "sysctl", "-qw", f"{sysctl}=1")
    assert found(lab, settings)[f"conntrack {name}"] == "ok"
    in_router(lab, "sysctl", "-qw", f"{sysctl}=0")
    assert found(lab, settings)[f"conntrack {name}"] == "warning"  # no collector runs here


def test_tracking_and_small_sets(lab: Router, config: Path) -> None:
    """Two addresses have passed; a set of two has no room for the next, one of eight has."""
    settings = load(config)
    for size, expected in ((2, "warning"), (8, "ok")):
        sets = "".join(
            f"set {name} {{ type ipv{name[-1]}_addr; size {size}; flags dynamic; counter; }}\n"
            for name in ("up4", "down4", "up6", "down6")
        )
        rule = "ip saddr 10.0.0.0/8 update @up4 { ip saddr }"
        chain = f"chain c {{ type filter hook forward priority 0; {rule}; }}\n"
        in_router(lab, "nft", "-f", "-", text=f"table inet tally {{\n{sets}{chain}}}\n")
        try:
            for host in (lab.a, lab.b):
                udp(host, lab.up, socket.AF_INET, 1, 1)
            seen = found(lab, settings)
        finally:
            in_router(lab, "nft", "delete", "table", "inet", "tally")
        assert seen["conntrack active"] == "ok"  # the router's NAT asks for it
        assert seen["counters"] == expected


def test_what_is_metered_is_what_the_interfaces_carried(lab: Router, config: Path) -> None:
    """All of the traffic is metered; without rules none is."""
    settings = load(config)

    def share() -> str:
        before = totals(settings)
        udp(lab.a, lab.up, socket.AF_INET, 50, 50)
        lab.a.quiet()
        facts = replace(gather(settings), passed=passed(before, totals(settings)))
        (told,) = [each for each in examine(facts, settings) if each.check == "metered share"]
        return told.severity

    with inside(lab.ns):
        install(build.nft_config(settings), time.time_ns)
        try:
            assert share() == "ok"
            run("nft", "flush", "chain", "inet", "tally", "volume")
            assert share() == "warning"
            assert gather(settings, measure_s=0.1).passed is not None
        finally:
            run("nft", "delete", "table", "inet", "tally")
        assert totals(settings) is None and passed(None, None) is None


def test_a_namespace_without_a_rule_is_not_tracking(config: Path) -> None:
    with namespace(f"dr{os.getpid() % 100_000}") as ns, inside(ns):
        facts = gather(load(config))
        assert facts.expressions == frozenset() and facts.sets is None
        checks = {each.check: each.severity for each in examine(facts, load(config))}
    assert checks["conntrack active"] == "info" and checks["interfaces"] == "error"


def test_flowtables_are_read(lab: Router, config: Path) -> None:
    table = "table ip ft { flowtable fast { hook ingress priority 0; devices = { acc0, up0 }; } }\n"
    with inside(lab.ns):
        made = subprocess.run(["nft", "-f", "-"], input=table, text=True, capture_output=True)
        if made.returncode:
            pytest.skip("this kernel has no flowtables (CONFIG_NF_FLOW_TABLE)")
        try:
            assert found(lab, load(config))["flowtable fast"] == "error"
        finally:
            run("nft", "delete", "table", "ip", "ft")


def test_a_running_collector_is_asked(config: Path) -> None:
    settings = load(config)
    stage = dict.fromkeys(("seen", "recorded", "ignored", "lost", "open", "malformed"), 0)
    metrics = Metrics("127.0.0.1", 0)
    metrics.publish(Snapshot(stages={"dns": {**stage, "seen": 3}}, gauges={"uplink_up": 0.0}))
    metrics.start()
    try:
        at = replace(
            settings, metrics=replace(settings.metrics, listen=f"127.0.0.1:{metrics.port}")
        )
        checks = {each.check: each.severity for each in examine(gather(at), at)}
    finally:
        metrics.stop()
    assert checks["conservation"] == "error" and checks["uplink"] == "warning"


def test_the_command_ends_with_the_worst_of_its_findings(lab: Router, config: Path) -> None:
    words = [sys.executable, "-m", "tallyhold", "collector", "doctor", "-c", str(config)]
    with inside(lab.ns):
        done = subprocess.run([*words, "--json"], capture_output=True, text=True, cwd=ROOT)
        table = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    worst = max({"ok": 0, "info": 0, "warning": 1, "error": 2}[each["severity"]] for each in told)
    assert done.returncode == table.returncode == worst
    assert done.stderr == table.stderr == ""
    assert all(each["check"] in table.stdout for each in told)
    refused = subprocess.run([*words, "--config", "nowhere.toml"], capture_output=True, cwd=ROOT)
    assert refused.returncode == 2 and b"nowhere.toml" in refused.stderr
