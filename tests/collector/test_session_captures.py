"""Sessions and bindings of real captures, by replay, beside what other tools read in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collector.capture.replay import frames
from collector.replay import ReplayConfig, records

CAPTURES = Path(__file__).parents[3] / "shared" / "data" / "captures"
pytestmark = pytest.mark.skipif(not CAPTURES.is_dir(), reason="captures are not here")
EVER = ReplayConfig(linger_s=0)


def rows(name: str, record_class: str, config: ReplayConfig = EVER) -> list[dict[str, Any]]:
    """Newest versions, in order of time."""
    newest: dict[str, dict[str, Any]] = {}
    for _, row in records(frames([CAPTURES / name]), (record_class,), config):
        known = newest.get(row["record_id"])
        if known is None or known["observed_ns"] < row["observed_ns"]:
            newest[row["record_id"]] = row
    return list(newest.values())


def held(name: str) -> list[tuple[Any, ...]]:
    found = rows(name, "binding")
    return [(r["address"], r["prefix_len"], r["source"], r["valid_to_ns"] > 0) for r in found]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # An ACK binds (frame 2), what was only asked for or offered does not.
        ("dhcp/suri_dhcp-eve-extended.pcap", [("10.16.1.4", 128, "dhcp", False)]),
        ("dhcp/pcpp_Dhcp1.pcap", []),
        ("dhcp/pcpp_dhcpv6.pcap", []),
        ("dhcp/zeek_dhcp_inform.pcap", []),
        (
            "dhcp/zeek_dhcp_ack_subscriber_id_and_agent_remote_id.pcap",
            [("192.168.0.10", 128, "dhcp", False)],
        ),
        (
            "dhcp/tcpdump_dhcpv6-ia-na.pcap",
            [("2a00:1:1:200:38e6:b22e:c440:acdf", 128, "dhcpv6", False)],
        ),
        ("dhcp/tcpdump_dhcpv6-ia-pd.pcap", [("2a00:1:1:100::", 56, "dhcpv6-pd", False)]),
        # ACK in frame 6; the Release in frame 7 names no address (ciaddr 0.0.0.0).
        ("dhcp/zeek_dhcp.pcap", [("128.2.6.189", 128, "dhcp", False)]),
        ("pppoe/pcpp_PPPoEDiscovery.pcap", []),
        (
            "pppoe/zeek_pppoe.pcap",
            [("10.0.2.16", 128, "pppoe", False), ("fc00:0:2:100::", 56, "dhcpv6-pd", False)],
        ),
        ("radius/tcpdump_RADIUS-RFC3162.pcap", []),
        ("radius/tcpdump_RADIUS-RFC5580.pcap", []),
        ("radius/zeek_radius.pcap", []),
        ("radius/zeek_radius_localhost.pcap", []),
    ],
)
def test_bindings(name: str, expected: list[tuple[Any, ...]]) -> None:
    assert held(name) == expected


def test_the_line_and_the_end_of_a_lease() -> None:
    name = "dhcp/zeek_dhcp_ack_subscriber_id_and_agent_remote_id.pcap"
    config = ReplayConfig(linger_s=4000, lines={"this is only a test...": "sub-7"})
    (session,) = rows(name, "session", config)
    assert (session["line"], session["subscriber"]) == ("this is only a test...", "sub-7")
    assert session["end_reason"] == "inferred:lease-expired"
    (bound,) = rows(name, "binding", config)
    assert bound["valid_to_ns"] - bound["valid_from_ns"] == 3600 * 10**9


@pytest.mark.parametrize("name", ["pppoe/pcpp_PPPoEDiscovery.pcap", "pppoe/zeek_pppoe.pcap"])
def test_pppoe_sessions(name: str) -> None:
    session, *leases = rows(name, "session")
    assert session["nas"] == "pppoe:ca010e880006"
    # The prefix that DHCPv6 delegates within the session is its user's.
    assert [each["subscriber"] for each in leases] == ["cisco"] * ("zeek" in name)
    assert session["acct_session_id"] == "0011/cc050e880000"
    assert session["user_name"] == ("cisco" if "zeek" in name else "")


def test_accounting_totals_of_64_bits() -> None:
    (session,) = rows("radius/wba_test_dl_5gb.tcpdump.radius.pcap", "session")
    assert session["up_octets"] == 147_699_750
    assert session["down_octets"] == 1 << 32 | 1_387_251_012
    assert (session["terminate_cause"], session["end_reason"]) == (1, "stated")
