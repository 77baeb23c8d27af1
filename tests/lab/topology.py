"""The lab's network: subscribers, one edge router, the internet behind it.

    sub1 [eth0]----[acc1]                          |
    sub2 [eth0]----[acc2]  edge  [core0]----[eth0] core (resolver, servers, RADIUS, SIP)
    ...                                            |

Every link carries only what the script sends: neighbour entries are permanent, duplicate address
detection, router advertisements and multicast listener reports are off, and so are all offloads.
An interface's bytes less 14 a packet are therefore exactly the layer-3 bytes that were forwarded.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from tests.lab.netns import Counters, LabError, Namespace

ETHERNET_HEADER_BYTES: Final = 14
MAX_LINES: Final = 200
"""Subscribers of one lab; their number is one byte of the addresses and of the MACs."""

PUBLIC_V4: Final = ipaddress.IPv4Network("198.18.0.0/16")  # RFC 2544: benchmarks
NAT_V4: Final = ipaddress.IPv4Network("100.64.0.0/24")  # RFC 6598: behind carrier-grade NAT
NAT_PUBLIC_V4: Final = "198.51.100.9"
DELEGATED_V6: Final = ipaddress.IPv6Network("2001:db8:100::/48")  # one /64 a subscriber
EDGE_V4, CORE_V4 = "192.0.2.1", "192.0.2.2"
EDGE_V6, CORE_V6 = "2001:db8:ffff::1", "2001:db8:ffff::2"
GATEWAY_V4, GATEWAY_V6 = "169.254.1.1", "fe80::1"
RESOLVER_V4, RESOLVER_V6 = "203.0.113.53", "2001:db8:c0de::53"
SIP_V4, SIP_V6 = "203.0.113.60", "2001:db8:c0de::60"
SERVERS_V4: Final = tuple(f"203.0.113.{last}" for last in (10, 11, 12, 13))
SERVERS_V6: Final = tuple(f"2001:db8:c0de::{last}" for last in (10, 11, 12, 13))
PAGES_V4: Final = ("203.0.113.80", "203.0.113.81")  # block pages: of names, of addresses
PAGES_V6: Final = ("2001:db8:c0de::80", "2001:db8:c0de::81")

OFFLOADS: Final = ("tso", "gso", "gro", "sg", "tx", "rx")
# Neighbour discovery and listener reports are of no use with permanent neighbours, and would be
# counted on the interface without being forwarded.
QUIET_RULES: Final = """
table inet {table} {{
  chain quiet {{
    type filter hook output priority 0; policy accept;
    oifname {interfaces} icmpv6 type {{ mld-listener-query, mld-listener-report,
      mld-listener-done, mld2-listener-report, nd-router-solicit, nd-router-advert,
      nd-neighbor-solicit, nd-neighbor-advert, nd-redirect }} drop
  }}
{more}}}
"""
# The second chain is any router's stateful rule: without one, IPv6 would not be tracked here.
EDGE_CHAINS: Final = """
  chain source {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "core0" ip saddr {inside} snat ip to {public}
  }}
  chain track {{
    type filter hook forward priority 0; policy accept;
    ct state invalid counter
  }}
"""
EDGE_SYSCTLS: Final[Mapping[str, int]] = {
    "ipv4.ip_forward": 1,
    "ipv4.conf.all.rp_filter": 0,
    "ipv4.conf.default.rp_filter": 0,
    "ipv4.conf.all.send_redirects": 0,
    "ipv6.conf.all.forwarding": 1,
    "ipv6.conf.all.accept_ra": 0,
}
CONNTRACK_SYSCTLS: Final[Mapping[str, int]] = {
    f"netfilter.nf_conntrack_{key}": value
    for key, value in {
        "acct": 1,
        "timestamp": 1,
        "events": 1,
        # A compressed day: flows must end within seconds, not minutes.
        "tcp_timeout_time_wait": 1,
        "tcp_timeout_close": 1,
        "tcp_timeout_close_wait": 5,
        "tcp_timeout_fin_wait": 5,
        "tcp_timeout_last_ack": 5,
        "udp_timeout": 2,
        "udp_timeout_stream": 3,
        "icmp_timeout": 2,
        "icmpv6_timeout": 2,
    }.items()
}
# A receive window of 256 KiB keeps the bursts of several flows below the 1,000 packets that a
# veth's receive queue holds (net.core.netdev_max_backlog, which a namespace cannot set).
HOST_SYSCTLS: Final[Mapping[str, int | str]] = {
    "ipv4.tcp_rmem": "4096 65536 262144",
    "ipv4.tcp_wmem": "4096 65536 262144",
    "ipv4.tcp_no_metrics_save": 1,
    "ipv4.conf.all.rp_filter": 0,
    "ipv6.conf.all.accept_ra": 0,
}


def interface_sysctls(interface: str) -> dict[str, int]:
    """Settings that stop an interface from speaking of its own accord; set before it is up."""
    return {
        f"ipv6.conf.{interface}.addr_gen_mode": 1,  # none: no link-local address
        f"ipv6.conf.{interface}.accept_dad": 0,
        f"ipv6.conf.{interface}.accept_ra": 0,
        f"ipv6.conf.{interface}.router_solicitations": 0,
        f"ipv4.conf.{interface}.rp_filter": 0,
    }


@dataclass(frozen=True, slots=True)
class Line:
    """One access line, numbered from 1: `accN` on the router, `eth0` in the home."""

    number: int

    @property
    def interface(self) -> str:
        """The router's side."""
        return f"acc{self.number}"

    @property
    def mac(self) -> str:
        """Of the home's side."""
        return f"02:00:00:00:02:{self.number:02x}"

    @property
    def gateway_mac(self) -> str:
        """Of the router's side."""
        return f"02:00:00:00:01:{self.number:02x}"


class Network:
    """The namespaces and links of the lab."""

    def __init__(self, lines: int) -> None:
        if not 1 <= lines <= MAX_LINES:
            raise LabError(f"a lab has 1 to {MAX_LINES} lines, not {lines}")
        self.lines = {number: Line(number) for number in range(1, lines + 1)}
        self.edge = Namespace("edge")
        self.core = Namespace("core")
        self.homes = {number: Namespace(f"sub{number}") for number in self.lines}
        self._stack = ExitStack()

    def start(self) -> None:
        """Build everything; on failure nothing is left."""
        try:
            for namespace in (self.edge, self.core, *self.homes.values()):
                self._stack.callback(namespace.stop)
                namespace.start()
            self._rules()
            self._upstream()
            for number, line in self.lines.items():
                self.access(line, self.homes[number])
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Remove every namespace; links and rules go with them."""
        self._stack.close()

    def _link(self, near: str, near_mac: str, far: Namespace, far_mac: str) -> None:
        """One veth pair, edge side `near`, far side `eth0`, quiet, offloads off, up."""
        self.edge.run(
            *["ip", "link", "add", near, "address", near_mac, "txqueuelen", "1000"],
            *["type", "veth", "peer", "name", "eth0", "address", far_mac],
            *["txqueuelen", "1000", "netns", str(far.pid)],
        )
        for namespace, interface in ((self.edge, near), (far, "eth0")):
            namespace.sysctl(interface_sysctls(interface))
            switches = [word for name in OFFLOADS for word in (name, "off")]
            namespace.run("ethtool", "-K", interface, *switches)

    def _upstream(self) -> None:
        edge_mac, core_mac = "02:00:00:00:00:01", "02:00:00:00:00:02"
        self.edge.sysctl(EDGE_SYSCTLS)
        self.core.sysctl(HOST_SYSCTLS)
        self._link("core0", edge_mac, self.core, core_mac)
        batch(
            self.edge,
            "link set core0 up",
            f"addr add {EDGE_V4}/30 dev core0",
            f"addr add {EDGE_V6}/64 dev core0 nodad",
            f"addr add {NAT_PUBLIC_V4}/32 dev core0",
            f"neigh replace {CORE_V4} lladdr {core_mac} dev core0 nud permanent",
            f"neigh replace {CORE_V6} lladdr {core_mac} dev core0 nud permanent",
            f"route add 203.0.113.0/24 via {CORE_V4}",
            f"route add 2001:db8:c0de::/48 via {CORE_V6}",
        )
        batch(
            self.core,
            "link set eth0 up",
            f"addr add {CORE_V4}/30 dev eth0",
            f"addr add {CORE_V6}/64 dev eth0 nodad",
            *(f"addr add {a}/32 dev lo" for a in (RESOLVER_V4, SIP_V4, *SERVERS_V4, *PAGES_V4)),
            *(
                f"addr add {a}/128 dev lo nodad"
                for a in (RESOLVER_V6, SIP_V6, *SERVERS_V6, *PAGES_V6)
            ),
            f"neigh replace {EDGE_V4} lladdr {edge_mac} dev eth0 nud permanent",
            f"neigh replace {EDGE_V6} lladdr {edge_mac} dev eth0 nud permanent",
            f"route add default via {EDGE_V4}",
            f"route add default via {EDGE_V6}",
        )

    def access(self, line: Line, home: Namespace) -> None:
        """Lay a line to a home that is started."""
        home.sysctl(HOST_SYSCTLS)
        home.run("nft", "-f", "-", stdin=quiet_rules("lab_quiet", ["eth0"]))
        self._link(line.interface, line.gateway_mac, home, line.mac)
        batch(self.edge, f"link set {line.interface} up")
        batch(home, "link set eth0 up")

    def _rules(self) -> None:
        nat = EDGE_CHAINS.format(inside=NAT_V4, public=NAT_PUBLIC_V4)
        interfaces = ["core0", *(line.interface for line in self.lines.values())]
        self.edge.run("nft", "-f", "-", stdin=quiet_rules("lab_nat", interfaces, nat))
        # Only now: the settings of connection tracking are there once a rule uses it.
        self.edge.sysctl(CONNTRACK_SYSCTLS)

    def assign(self, number: int, v4: str | None, v6: str | None) -> None:
        """Give a line its addresses, as PPP or DHCP would: home, route and neighbour entries."""
        line, home = self.lines[number], self.homes[number]
        inside, router = [], []
        if v4 is not None:
            inside += [
                f"addr add {v4}/32 dev eth0",
                f"neigh replace {GATEWAY_V4} lladdr {line.gateway_mac} dev eth0 nud permanent",
                f"route add default via {GATEWAY_V4} dev eth0 onlink src {v4}",
            ]
            router += [
                f"route replace {v4}/32 dev {line.interface}",
                f"neigh replace {v4} lladdr {line.mac} dev {line.interface} nud permanent",
            ]
        if v6 is not None:
            inside += [
                f"addr add {v6}/128 dev eth0 nodad",
                f"neigh replace {GATEWAY_V6} lladdr {line.gateway_mac} dev eth0 nud permanent",
                f"route add default via {GATEWAY_V6} dev eth0 onlink",
            ]
            router += [
                f"route replace {delegated(v6)} dev {line.interface}",
                f"neigh replace {v6} lladdr {line.mac} dev {line.interface} nud permanent",
            ]
        batch(self.edge, *router)
        batch(home, *inside)

    def withdraw(self, number: int, v4: str | None, v6: str | None) -> None:
        """Take a line's addresses away again."""
        line, home = self.lines[number], self.homes[number]
        if v4 is not None:
            batch(home, f"addr del {v4}/32 dev eth0")
            batch(
                self.edge,
                f"route del {v4}/32 dev {line.interface}",
                f"neigh del {v4} dev {line.interface}",
            )
        if v6 is not None:
            batch(home, "route del default dev eth0", f"addr del {v6}/128 dev eth0", family="-6")
            batch(
                self.edge,
                f"route del {delegated(v6)} dev {line.interface}",
                f"neigh del {v6} dev {line.interface}",
                family="-6",
            )

    def layer3(self, number: int) -> tuple[int, int]:
        """(up, down) layer-3 bytes of a line since its creation, from the home's interface."""
        return layer3(self.homes[number].counters("eth0"))

    def drops(self) -> int:
        """Packets lost or refused by any interface of the lab; the truth is exact only with 0."""
        total = self.edge.counters("core0").drops + self.core.counters("eth0").drops
        for number, line in self.lines.items():
            total += self.edge.counters(line.interface).drops
            total += self.homes[number].counters("eth0").drops
        return total


def layer3(counters: Counters) -> tuple[int, int]:
    """(sent, received) bytes above the Ethernet header; the kernel counts no FCS on a veth."""
    return (
        counters.tx_bytes - ETHERNET_HEADER_BYTES * counters.tx_packets,
        counters.rx_bytes - ETHERNET_HEADER_BYTES * counters.rx_packets,
    )


def delegated(address: str) -> str:
    """The /64 that holds a subscriber's IPv6 address."""
    return str(ipaddress.IPv6Network((address, 64), strict=False))


def batch(namespace: Namespace, *commands: str, family: str = "") -> None:
    """Several `ip` commands at once; `family` (-6) for those that name no address."""
    if commands:
        options = [family] if family else []
        namespace.run("ip", *options, "-batch", "-", stdin="\n".join(commands) + "\n")


def quiet_rules(table: str, interfaces: Sequence[str], more: str = "") -> str:
    """The nft rules that keep interfaces quiet, in a table of the lab's own."""
    quoted = ", ".join(f'"{name}"' for name in interfaces)
    return QUIET_RULES.format(table=table, interfaces=f"{{ {quoted} }}", more=more)
