"""Checks of the rest of the machine and of a running collector: clock, buffers, disk, balance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from collector.doctor.facts import Disk, Facts, Running
from collector.doctor.findings import Finding

_MAX_CLOCK_ERROR_S: Final = 1.0
"""An address may change hands within a second of its last packet; a clock further off than that
attributes it to the wrong one."""
_SCARCE_BYTES: Final = 64 * 2**20
_SPOOL_FULL: Final = 0.8
_LOSS: Final = 1e-4
_SHARE_SLACK: Final = 0.005
"""Neighbour discovery and the router's own packets, which are no subscriber's."""


def clock(facts: Facts) -> Iterator[Finding]:
    """Whether times can be compared with those of the NAS and other collectors."""
    mend = "apt-get install chrony; chronyc tracking"
    if facts.clock is None:
        effect = "if it is wrong, addresses that change hands go to the wrong subscriber"
        yield Finding("warning", "clock", "the kernel does not say how right it is", effect, mend)
    elif not facts.clock.synchronised or facts.clock.max_error_s > _MAX_CLOCK_ERROR_S:
        state = "synchronised" if facts.clock.synchronised else "not synchronised"
        yield Finding(
            "warning",
            "clock",
            f"{state}, may be {facts.clock.max_error_s:.3f} s off",
            "addresses that change hands may be attributed to the wrong subscriber",
            mend,
        )
    else:
        yield Finding("ok", "clock", f"at most {facts.clock.max_error_s:.3f} s off")


def buffers(facts: Facts, wanted_bytes: int) -> Iterator[Finding]:
    """Whether sockets can have the receive buffers that the configuration asks for."""
    if "cap_net_admin" in facts.capabilities or facts.rmem_max >= wanted_bytes:
        yield Finding("ok", "socket buffers", f"{wanted_bytes} bytes each can be had")
        return
    yield Finding(
        "warning",
        "socket buffers",
        f"net.core.rmem_max is {facts.rmem_max}, limits.receive_buffer_bytes {wanted_bytes}",
        "bursts of names and flow events overrun a smaller buffer; each is told as a gap",
        f"sysctl -w net.core.rmem_max={wanted_bytes}",
    )


def disk(facts: Facts, folder: str, max_bytes: int) -> Iterator[Finding]:
    """Whether the spool can grow as far as it may."""
    found: Disk = facts.disk
    if not found.writable:
        yield Finding(
            "error",
            "spool",
            f"{folder} {'cannot be written' if found.exists else 'cannot be made'}",
            "a collector does not start without its spool",
            f"install -d -m 0700 -o tallyhold -g tallyhold {folder}",
        )
        return
    room = found.used_bytes + found.free_bytes
    told = f"{found.free_bytes} bytes free, the spool has {found.used_bytes} of {max_bytes}"
    if found.free_bytes < _SCARCE_BYTES or room < max_bytes:
        yield Finding(
            "error" if found.free_bytes < _SCARCE_BYTES else "warning",
            "spool",
            told,
            "while the aggregator is away, the disk is full before the spool's own limit: windows "
            "are then held in memory",
            f"free space, or set spool.max_bytes to {room * 9 // 10}",
        )
    else:
        yield Finding("ok", "spool", told)


def running(facts: Facts, listen: str) -> Iterator[Finding]:
    """What a running collector says of itself."""
    if facts.running is None:
        yield Finding(
            "info", "collector", f"no metrics at {listen}: it does not run, or not with this file"
        )
        return
    yield from _balance(facts.running.stages)
    yield from _health(facts.running)


def delivery(facts: Facts, wanted: bool) -> Iterator[Finding]:
    """Whether a collector that should get every flow event has the kernel keep them."""
    if not wanted or facts.running is None:
        return
    if facts.running.gauges.get("conntrack_reliable", 0.0):
        yield Finding("ok", "flow events", "those that find no room are kept for later")
        return
    yield Finding(
        "warning",
        "flow events",
        "flows.reliable is set, and delivery is not reliable now: its watchdog switched it off",
        "events that find no room are lost, each told as a gap; it is tried again every minute",
        "journalctl -u tallyhold-collector says why: for stalled look for load and a slow disk, "
        "for table-filling raise net.netfilter.nf_conntrack_max",
    )


def _balance(stages: Mapping[str, Mapping[str, int]]) -> Iterator[Finding]:
    """seen = recorded + ignored + lost + open, stage by stage, and what was lost."""
    broken = []
    for stage, counts in stages.items():
        terms = sum(counts.get(name, 0) for name in ("recorded", "ignored", "lost", "open"))
        if counts.get("seen", 0) != terms:
            broken.append(stage)
        lost, seen = counts.get("lost", 0), counts.get("seen", 0)
        if lost:
            yield Finding(
                "warning" if lost / max(seen, 1) >= _LOSS else "info",
                f"losses of {stage}",
                f"{lost} of {seen} since the collector started ({lost / max(seen, 1):.3%})",
                "told as gaps; answers for that time say that they are not complete",
                "docs/operating.md names the reasons; tallyhold_collector_gaps_total counts them",
            )
    if broken:
        yield Finding(
            "error",
            "conservation",
            f"seen is not recorded + ignored + lost + open at {', '.join(broken)}",
            "something is counted twice or not at all",
            "report it with the metrics: it is a defect",
        )
    elif stages:
        yield Finding("ok", "conservation", f"the equation holds at all {len(stages)} stages")


def _health(running: Running) -> Iterator[Finding]:
    fill = running.gauges.get("spool_fill_ratio", 0.0)
    if fill >= _SPOOL_FULL:
        yield Finding(
            "warning",
            "spool fill",
            f"{fill:.0%}",
            "when it is full the oldest batches go, each told as a gap",
            "journalctl -u tallyhold-collector says why the uplink waits",
        )
    if not running.gauges.get("uplink_up", 1.0):
        yield Finding(
            "warning",
            "uplink",
            "the last upload was not acknowledged",
            "batches wait in the spool",
            "journalctl -u tallyhold-collector",
        )
    if shared := running.gauges.get("nat_ranges_shared", 0.0):
        yield Finding(
            "warning",
            "port blocks",
            f"two subscribers had flows at one time in each of {shared:.0f} blocks",
            "there mappings are told flow by flow; elsewhere a subscriber may be named for a port "
            "that nobody used",
            "nft list ruleset; set flows.block_first and block_ports as the NAT gives ports, or "
            'flows.mappings = "flow"',
        )
    if running.gauges.get("unheard_interfaces", 0.0):
        yield Finding(
            "warning",
            "capture",
            f"{running.gauges['unheard_interfaces']:.0f} interfaces match and are not captured",
            "no names and calls of their subscribers; their volume is counted",
            "capture on the interface underneath: fewer, wider patterns in access.interfaces",
        )


def ratio(facts: Facts) -> Iterator[Finding]:
    """Metered bytes beside those of the access interfaces in the same seconds."""
    passed = facts.passed
    if passed is None:
        return
    share = passed.metered_bytes / passed.interface_bytes if passed.interface_bytes else 1.0
    found = (
        f"{passed.metered_bytes} of {passed.interface_bytes} layer-3 bytes of the access "
        f"interfaces in {passed.seconds:.1f} s ({share:.2%})"
    )
    slack = min(_SHARE_SLACK + passed.apart_s / passed.seconds, 0.5)
    if 1 - slack <= share <= 1 + slack:
        yield Finding("ok", "metered share", found)
        return
    yield Finding(
        "warning",
        "metered share",
        found,
        "the rest is to or from the router itself, outside the prefixes, or merged by offloads "
        "(see above); more than all means that packets are counted twice",
        "nft list table inet tally; compare access.prefixes with the addresses in use",
    )
