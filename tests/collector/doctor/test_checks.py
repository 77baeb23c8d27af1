"""What is said of facts, without a machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collector.capture.nft_scan import Flowtable, flowtable, tracks
from collector.capture.rawnl import attribute
from collector.config import Access, Config, Flows, Uplink
from collector.doctor.examine import examine
from collector.doctor.facts import (
    Clock,
    Conntrack,
    Disk,
    Facts,
    Interface,
    Passed,
    Running,
    Sets,
)
from collector.doctor.findings import Finding, exit_code
from collector.doctor.kernel import undercount
from collector.doctor.scrape import parse
from collector.doctor.show import lines, table

KEYS = Path("edge.pem")
CONFIG = Config(
    "edge-1", Access(("acc*",), ("10.0.0.0/16",)), Uplink("https://a:1", KEYS, KEYS, KEYS)
)
GOOD_SYSCTLS = {"acct": 1, "timestamp": 1, "events": 1}
TABLE = Conntrack(GOOD_SYSCTLS, 10, 1000, 0, 0)
STAGE = {"seen": 10, "recorded": 6, "ignored": 3, "lost": 0, "open": 1}
ACC0 = Interface("acc0", "access", 1500, "e1000e", frozenset(("tx-tcp-segmentation",)))
GOOD = Facts(
    capabilities=frozenset(("cap_net_admin", "cap_net_raw")),
    interfaces=(ACC0,),
    conntrack=TABLE,
    expressions=frozenset(("ct", "counter")),
    flowtables=(),
    sets=Sets({"up4": (5, 10)}, 0),
    clock=Clock(True, 0.01),
    rmem_max=212_992,
    disk=Disk(True, True, 0, 10**13),
    running=Running({"dns": STAGE}, {"uplink_up": 1.0, "spool_fill_ratio": 0.1}),
    passed=Passed(10.0, 1000, 1000),
)


def bad(facts: Facts) -> list[Finding]:
    """Findings that are not all well, the worst first."""
    return [finding for finding in examine(facts, CONFIG) if finding.severity != "ok"]


def test_a_router_in_order_has_nothing_to_mend() -> None:
    assert bad(GOOD) == []
    assert exit_code(examine(GOOD, CONFIG)) == 0


def with_table(**changes: Any) -> Facts:
    return replace(GOOD, conntrack=replace(TABLE, **changes))


def with_sysctl(name: str, value: int) -> Facts:
    return with_table(sysctls={**GOOD_SYSCTLS, name: value})


def with_stage(**changes: int) -> Facts:
    return replace(GOOD, running=Running({"dns": {**STAGE, **changes}}))


def with_gauge(name: str, value: float) -> Facts:
    return replace(GOOD, running=Running({"dns": STAGE}, {name: value}))


def with_feature(*names: str, driver: str = "e1000e") -> Facts:
    return replace(GOOD, interfaces=(replace(ACC0, features=frozenset(names), driver=driver),))


CASES = {
    "no rights": (replace(GOOD, capabilities=frozenset()), "error", "capabilities", "CAP_NET_RAW"),
    "no conntrack": (replace(GOOD, conntrack=None), "error", "conntrack", "modprobe"),
    "not tracking": (
        replace(with_table(entries=0), expressions=frozenset(("counter",))),
        "error",
        "conntrack active",
        "restart",
    ),
    "acct off": (with_sysctl("acct", 0), "error", "conntrack acct", "nf_conntrack_acct=1"),
    "no times": (with_sysctl("timestamp", 0), "warning", "conntrack timestamp", "timestamp=1"),
    "events by need": (with_sysctl("events", 2), "warning", "conntrack events", "events=1"),
    "no events": (with_sysctl("events", 0), "error", "conntrack events", "events=1"),
    "busy table": (with_table(entries=800), "warning", "conntrack table", "max=4000"),
    "full table": (with_table(entries=960), "error", "conntrack table", "max=4000"),
    "refused flows": (with_table(refused=3), "error", "conntrack table", "max=4000"),
    "flows cut short": (with_table(ended_early=3), "warning", "conntrack table", "max=4000"),
    "gro": (with_feature("rx-gro"), "warning", "offloads of acc0", "ethtool -K acc0 rx-gro off"),
    "lro": (
        with_feature("rx-gro", "rx-lro"),
        "warning",
        "offloads of acc0",
        "ethtool -K acc0 rx-gro off rx-lro off",
    ),
    "tc": (with_feature("hw-tc-offload"), "warning", "offloads of acc0", "hw-tc-offload off"),
    "guest": (with_feature(driver="virtio_net"), "info", "offloads of acc0", "tso off"),
    "flowtable": (
        replace(GOOD, flowtables=(Flowtable("ft", ("acc0", "up0"), True),)),
        "error",
        "flowtable ft",
        "nft list flowtables",
    ),
    "nobody": (replace(GOOD, interfaces=()), "error", "interfaces", "access.interfaces"),
    "down": (
        replace(GOOD, interfaces=(replace(ACC0, up=False),)),
        "warning",
        "interface acc0",
        "ip link set acc0 up",
    ),
    "drops": (
        replace(GOOD, interfaces=(replace(ACC0, packets=999_900, drops=100),)),
        "warning",
        "interface acc0",
        "ethtool -G acc0",
    ),
    "table gone": (replace(GOOD, sets=None), "error", "counters", "restart"),
    "nearly full": (
        replace(GOOD, sets=Sets({"up4": (8, 10)}, 0)),
        "warning",
        "counters",
        "--replace-table",
    ),
    "full set": (
        replace(GOOD, sets=Sets({"up4": (10, 10)}, 77, frozenset(("up4",)))),
        "error",
        "counters",
        "--replace-table",
    ),
    "less than passed": (
        replace(GOOD, passed=Passed(10.0, 1000, 900)),
        "warning",
        "metered share",
        "nft list table inet tally",
    ),
    "no clock": (replace(GOOD, clock=None), "warning", "clock", "chrony"),
    "clock alone": (replace(GOOD, clock=Clock(False, 0.0)), "warning", "clock", "chrony"),
    "clock far off": (replace(GOOD, clock=Clock(True, 1.5)), "warning", "clock", "chrony"),
    "small buffers": (
        replace(GOOD, capabilities=frozenset(("cap_net_raw",))),
        "warning",
        "socket buffers",
        "sysctl -w net.core.rmem_max=33554432",
    ),
    "no folder": (replace(GOOD, disk=Disk(False, False, 0, 1)), "error", "spool", "install -d"),
    "no right": (replace(GOOD, disk=Disk(True, False, 0, 1)), "error", "spool", "install -d"),
    "full disk": (replace(GOOD, disk=Disk(True, True, 5, 9)), "error", "spool", "spool.max_bytes"),
    "small disk": (
        replace(GOOD, disk=Disk(True, True, 0, 2 * 10**9)),
        "warning",
        "spool",
        "spool.max_bytes to 1800000000",
    ),
    "not running": (replace(GOOD, running=None), "info", "collector", ""),
    "losses": (with_stage(lost=1, recorded=5), "warning", "losses of dns", "operating.md"),
    "imbalance": (with_stage(recorded=5), "error", "conservation", "defect"),
    "spool fills": (with_gauge("spool_fill_ratio", 0.9), "warning", "spool fill", "journalctl"),
    "uplink down": (with_gauge("uplink_up", 0.0), "warning", "uplink", "journalctl"),
    "blocks": (with_gauge("nat_ranges_shared", 2.0), "warning", "port blocks", "block_ports"),
    "unheard": (with_gauge("unheard_interfaces", 3.0), "warning", "capture", "underneath"),
}


def test_reliable_delivery_that_was_asked_for_and_is_off_is_found() -> None:
    wanted = replace(CONFIG, flows=Flows(reliable=True))

    def said(facts: Facts, config: Config) -> list[tuple[str, str]]:
        found = [each for each in examine(facts, config) if each.check == "flow events"]
        return [(each.severity, each.mend) for each in found]

    off, on = with_gauge("conntrack_reliable", 0.0), with_gauge("conntrack_reliable", 1.0)
    ((severity, mend),) = said(off, wanted)
    assert severity == "warning" and "nf_conntrack_max" in mend
    assert said(on, wanted) == [("ok", "")]
    assert said(off, CONFIG) == said(replace(GOOD, running=None), wanted) == []


@pytest.mark.parametrize("name", CASES)
def test_each_fault_is_found_with_what_mends_it(name: str) -> None:
    facts, severity, check, mend = CASES[name]
    found = [each for each in bad(facts) if each.check == check]
    assert [each.severity for each in found] == [severity]
    assert mend in found[0].mend
    assert found[0].effect or severity == "info"
    assert exit_code(found) == {"info": 0, "warning": 1, "error": 2}[severity]


def test_a_collector_that_does_not_run_yet_sets_what_it_needs() -> None:
    off = with_table(sysctls={"acct": 0, "timestamp": 0, "events": 0})
    assert {each.severity for each in bad(replace(off, running=None))} == {"warning", "info"}
    assert bad(replace(GOOD, disk=Disk(False, True, 0, 10**13))) == []


def test_a_few_drops_are_those_of_coming_up() -> None:
    assert bad(replace(GOOD, interfaces=(replace(ACC0, packets=6, drops=99),))) == []


def test_the_worst_comes_first() -> None:
    facts = replace(with_sysctl("events", 0), clock=None)
    facts = replace(facts, interfaces=(replace(ACC0, driver="veth"),))
    order = [each.severity for each in examine(facts, CONFIG)]
    assert order == sorted(order, key=["error", "warning", "info", "ok"].index)
    assert order[0] == "error" and order[-1] == "ok"


def test_a_set_that_holds_every_address_may_be_full() -> None:
    full = Sets({"up4": (10, 10)}, 0, frozenset(("up4",)))
    assert bad(replace(GOOD, sets=full)) == []


def test_before_the_first_start_nothing_is_wrong_yet() -> None:
    facts = replace(with_table(entries=0), expressions=frozenset(), sets=None, running=None)
    assert {each.severity for each in bad(facts)} == {"info"}


def test_what_merging_costs_follows_from_the_headers_and_the_mtu() -> None:
    # 3.4 % was measured for IPv4 in segments of 1,500 bytes: 52 bytes of header in each.
    assert undercount(1500) == "3.5% (IPv4) or 4.8% (IPv6)"
    assert undercount(9000) == "0.6% (IPv4) or 0.8% (IPv6)"
    assert undercount(0).startswith("100.0%")


def test_json_has_what_the_table_has() -> None:
    findings = examine(with_feature("rx-gro"), CONFIG)
    told = [json.loads(line) for line in lines(findings)]
    assert [Finding(**each) for each in told] == findings
    text = "\n".join(table(findings))
    assert "> ethtool -K acc0 rx-gro off" in text and text.endswith("0 errors, 1 warnings")


def test_metrics_are_read_and_other_lines_passed_over() -> None:
    text = """# HELP tallyhold_collector_units_total units
tallyhold_collector_units_total{stage="dns",outcome="seen"} 10.0
tallyhold_collector_units_total{outcome="lost",stage="dns"} 1e+01
tallyhold_collector_units_open{stage="dns"} 2.0
tallyhold_collector_spool_fill_ratio 0.25
tallyhold_collector_rows_total{record_class="visit"} 7.0
tallyhold_collector_odd 1.0e
python_info{version="3.11"} 1.0
"""
    assert parse(text) == Running(
        {"dns": {"seen": 10, "lost": 10, "open": 2}}, {"spool_fill_ratio": 0.25}
    )
    assert parse("") == Running()


def test_a_flowtable_is_read_from_its_netlink_message() -> None:
    devices = attribute(1, b"acc0\0") + attribute(1, b"up0\0")
    hook = attribute(1, bytes(4)) + attribute(3, devices)
    body = attribute(1, b"t\0") + attribute(2, b"ft\0") + attribute(3 | 0x8000, hook)
    assert flowtable(bytes(4) + body) == Flowtable("ft", ("acc0", "up0"), False)
    flags = attribute(7, (1).to_bytes(4, "big"))
    assert flowtable(bytes(4) + body + flags).hardware


@pytest.mark.parametrize(
    ("used", "answer"),
    [
        (("counter", "meta"), False),
        (("ct",), True),
        (("masq",), True),
        (("xt:conntrack",), True),
        (("xt:MASQUERADE",), False),
        (("xt:SNAT",), True),
        (("xt:tcp",), False),
    ],
)
def test_which_rules_track(used: tuple[str, ...], answer: bool) -> None:
    assert tracks(frozenset(used)) is answer
