"""Checks of the kernel's side: rights, connection tracking, offloads and the counters' sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from collector.capture.nft_scan import tracks
from collector.doctor.facts import Conntrack, Facts, Interface
from collector.doctor.findings import Finding

CAPABILITIES: Final = ("cap_net_admin", "cap_net_raw")
MERGING: Final = ("rx-gro", "rx-gro-hw", "rx-lro", "rx-gro-list", "rx-udp-gro-forwarding")
"""Features that merge received packets before the forward hook; `ethtool -K` takes the names."""
_PEER_MERGES: Final = frozenset(("veth", "virtio_net"))
"""Drivers whose far end may hand over packets that were never cut: its own segmentation offload."""
_TCP_HEADERS: Final = ((4, 20 + 32), (6, 40 + 32))
"""IP header and TCP header with timestamps (RFC 7323), which each merged segment goes without."""
_BUSY, _FULL = 0.75, 0.95
_DROPS: Final = 1e-4
"""Share of dropped packets from which on it matters: a hundredth of a percent."""
_MIN_DROPS: Final = 100
"""Fewer are those of an interface that came up, whose first packets nobody waits for."""

_SYSCTLS: Final = {
    "acct": ("error", "flows that begin now carry no bytes: visits will have none, totals do"),
    "timestamp": ("warning", "flows carry no start: names may be joined to a later flow"),
    "events": ("warning", "flows that begin while no collector listens end without being told"),
}


def rights(facts: Facts) -> Iterator[Finding]:
    """Capabilities of the process that asks, which should run as the collector does."""
    missing = [name for name in CAPABILITIES if name not in facts.capabilities]
    if not missing:
        yield Finding("ok", "capabilities", "cap_net_admin and cap_net_raw")
        return
    names = " ".join(missing).upper()
    yield Finding(
        "error",
        "capabilities",
        f"without {', '.join(missing)}",
        "a collector started like this process could not count or capture",
        f"AmbientCapabilities={names} in its systemd unit, or run doctor as root to see the rest",
    )


def tracking(facts: Facts) -> Iterator[Finding]:
    """Connection tracking: at work, counting, with room."""
    table = facts.conntrack
    if table is None:
        yield Finding(
            "error",
            "conntrack",
            "the kernel does not track connections",
            "no flows: visits have no bytes and NAT no mappings; totals per subscriber are exact",
            "modprobe nf_conntrack nf_conntrack_netlink",
        )
        return
    yield from _active(facts, table)
    yield from _sysctls(table, facts.running is not None)
    yield from _room(table)


def _active(facts: Facts, table: Conntrack) -> Iterator[Finding]:
    used = facts.expressions
    if table.entries or (used is not None and tracks(used)):
        yield Finding("ok", "conntrack active", f"{table.entries} flows in the table")
    elif used is None or facts.sets is None:
        yield Finding(
            "info",
            "conntrack active",
            "no rule asks for it yet",
            "the collector's own table turns it on at its first start",
        )
    else:
        yield Finding(
            "error",
            "conntrack active",
            "no rule of this network namespace uses ct or NAT",
            "nothing is tracked: no flows, visits without bytes",
            "systemctl restart tallyhold-collector",
        )


def _sysctls(table: Conntrack, runs: bool) -> Iterator[Finding]:
    """A collector sets them when it starts, so that they matter most once it runs."""
    for name, (severity, effect) in _SYSCTLS.items():
        value = table.sysctls.get(name, 0)
        if value == 1:
            yield Finding("ok", f"conntrack {name}", "1")
            continue
        if name == "events" and value == 0:
            severity, effect = "error", "no flow's end is told: short flows are never seen"
        yield Finding(
            "error" if severity == "error" and runs else "warning",
            f"conntrack {name}",
            str(value),
            effect if runs else f"{effect}; a collector sets it when it starts",
            f"sysctl -w net.netfilter.nf_conntrack_{name}=1",
        )


def _room(table: Conntrack) -> Iterator[Finding]:
    share = table.entries / max(table.max_entries, 1)
    found = f"{table.entries} of {table.max_entries} flows ({share:.0%})"
    mend = f"sysctl -w net.netfilter.nf_conntrack_max={table.max_entries * 4}"
    if share >= _FULL or table.refused:
        yield Finding(
            "error",
            "conntrack table",
            f"{found}, {table.refused} flows refused since boot",
            "a full table drops subscribers' packets and misses their flows; totals stay exact",
            mend,
        )
    elif share >= _BUSY or table.ended_early:
        yield Finding(
            "warning",
            "conntrack table",
            f"{found}, {table.ended_early} flows ended early since boot",
            "flows may end before their time, so that one visit becomes two",
            mend,
        )
    else:
        yield Finding("ok", "conntrack table", found)


def offloads(facts: Facts) -> Iterator[Finding]:
    """What merges packets or forwards them past the counters."""
    merging = 0
    for interface in facts.interfaces:
        on = [name for name in MERGING if name in interface.features]
        if on:
            merging += 1
            yield _merged(interface, on)
        elif interface.driver in _PEER_MERGES:
            yield Finding(
                "info",
                f"offloads of {interface.name}",
                f"a {interface.driver} device",
                "its far end may hand over packets that its own TSO did not cut, counted as merged",
                "at the far end: ethtool -K DEVICE tso off gso off",
            )
        if "hw-tc-offload" in interface.features:
            yield Finding(
                "warning",
                f"offloads of {interface.name}",
                "hw-tc-offload",
                "flows that tc or a flowtable puts into hardware are not counted at all",
                f"ethtool -K {interface.name} hw-tc-offload off",
            )
    if not merging:
        yield Finding("ok", "offloads", "no interface merges packets: bytes are exact")
    for table in facts.flowtables:
        where = "in hardware" if table.hardware else "in software"
        yield Finding(
            "error",
            f"flowtable {table.name}",
            f"forwards {where} between {', '.join(table.devices) or 'no devices'}",
            "its flows pass the forward hook only at their beginning: the rest is in no total",
            f"nft list flowtables; then delete {table.name} and the rules that add flows to it",
        )


def undercount(mtu: int) -> str:
    """By how much merged bulk TCP comes out under its layer-3 bytes, at most, by family."""
    shares = [f"{headers / max(mtu, headers):.1%} (IPv{v})" for v, headers in _TCP_HEADERS]
    return " or ".join(shares)


def _merged(interface: Interface, on: Sequence[str]) -> Finding:
    switches = " ".join(f"{name} off" for name in on)
    return Finding(
        "warning",
        f"offloads of {interface.name}",
        ", ".join(on),
        f"bulk TCP received here is counted under its layer-3 bytes, by up to "
        f"{undercount(interface.mtu)} at an MTU of {interface.mtu}, and by fewer packets",
        f"ethtool -K {interface.name} {switches}",
    )


def interfaces(facts: Facts) -> Iterator[Finding]:
    """Interfaces of the configuration: there, up, and dropping nothing."""
    if not any(interface.role == "access" for interface in facts.interfaces):
        yield Finding(
            "error",
            "interfaces",
            "none matches access.interfaces",
            "nothing is metered",
            "ip -br link, then correct access.interfaces in the configuration",
        )
    for interface in facts.interfaces:
        if not interface.role:
            continue
        check, dropped = f"interface {interface.name}", interface.drops
        share = dropped / max(interface.packets + dropped, 1)
        if not interface.up:
            yield Finding(
                "warning", check, "down", "carries nothing", f"ip link set {interface.name} up"
            )
        elif share >= _DROPS and dropped >= _MIN_DROPS:
            yield Finding(
                "warning",
                check,
                f"{dropped} packets dropped or broken of {interface.packets} ({share:.2%})",
                "what the card drops was never forwarded and is counted nowhere; names in it too",
                f"ethtool -S {interface.name}; ethtool -G {interface.name} rx MAXIMUM",
            )
        else:
            yield Finding("ok", check, f"{interface.role}, {dropped} drops")


def sets(facts: Facts) -> Iterator[Finding]:
    """The counters' table: there, and with room for every address."""
    if facts.sets is None:
        yield Finding(
            "error" if facts.running else "info",
            "counters",
            "there is no table inet tally",
            "nothing is counted" if facts.running else "the collector makes it when it starts",
            "systemctl restart tallyhold-collector" if facts.running else "",
        )
        return
    mend = "correct access.prefixes, then once: tallyhold collector run --replace-table"
    if facts.sets.uncounted_bytes:
        yield Finding(
            "error",
            "counters",
            f"{facts.sets.uncounted_bytes} bytes found a full set",
            "new addresses are not counted",
            mend,
        )
    for name, (elements, size) in facts.sets.fill.items():
        found = f"set {name} has {elements} of {size} addresses"
        if name in facts.sets.whole or elements < _BUSY * size:
            yield Finding("ok", "counters", found)
        else:
            effect = "addresses beyond the set's size will not be counted"
            yield Finding("warning", "counters", found, effect, mend)
