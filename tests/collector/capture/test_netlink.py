"""Connections through a real router: events, dumps, overruns, and what `conntrack` says of them.

    home 10.0.0.2, 2001:db8:1::2 -- [in0] router [out0] -- world 198.51.100.2, 2001:db8:2::2

The router masquerades IPv4 and one IPv6 address, and forwards TCP 8080 to the home's 80.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg

from collector.capture import conntrack_table, netlink_dump, netlink_socket
from collector.capture.conntrack_table import prepare, statistics, table_size
from collector.capture.netlink import ConntrackConfig, ConntrackEvents
from collector.capture.netlink_dump import dump
from collector.capture.netlink_socket import (
    NetlinkError,
    NetlinkUnavailable,
    raise_receive_buffers,
)
from collector.parse.conntrack import COLUMNS, DESTROY, DUMP, NEW, Decoder, walk
from collector.track.flows import DELTA, FlowConfig, Flows
from collector.wire.addr import pack, unpack
from tests.lab.netns import Namespace, end

pytestmark = pytest.mark.lab

HOME4, HOME6, HOME6_NAT = "10.0.0.2", "2001:db8:1::2", "2001:db8:1::3"
WORLD4, WORLD6 = "198.51.100.2", "2001:db8:2::2"
PUBLIC4, PUBLIC6 = "198.51.100.1", "2001:db8:2::9"
RULES = f"""
table inet nat {{
  chain pre {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "out0" meta nfproto ipv4 tcp dport 8080 dnat ip to {HOME4}:80
  }}
  chain post {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "out0" ip saddr 10.0.0.0/24 masquerade
    oifname "out0" ip6 saddr {HOME6_NAT} snat ip6 to {PUBLIC6}
  }}
}}
table inet filter {{
  chain track {{
    type filter hook forward priority 0; policy accept;
    ct state invalid counter
  }}
}}
"""
WAIT_S = 10.0
ACCESS = ((pack("10.0.0.0"), 120), (pack("2001:db8:1::"), 48))


class Lab:
    """Three namespaces in a row; `stop` removes them."""

    def __init__(self) -> None:
        self.home, self.router, self.world = (Namespace(n) for n in ("home", "router", "world"))

    def start(self) -> None:
        for namespace in (self.home, self.router, self.world):
            namespace.start()
        self._link(self.home, "in0", (f"{HOME4}/24", "10.0.0.1/24"), (HOME6, "2001:db8:1::1"))
        self.home.run("ip", "address", "add", f"{HOME6_NAT}/64", "dev", "eth0", "nodad")
        self._link(self.world, "out0", (f"{WORLD4}/24", f"{PUBLIC4}/24"), (WORLD6, "2001:db8:2::1"))
        self.router.run("ip", "address", "add", f"{PUBLIC6}/64", "dev", "out0", "nodad")
        self.router.sysctl({"ipv4.ip_forward": 1, "ipv6.conf.all.forwarding": 1})
        self.router.run("nft", "-f", "-", stdin=RULES)

    def _link(self, far: Namespace, name: str, four: tuple[str, str], six: tuple[str, str]) -> None:
        pids = (str(far.pid), str(self.router.pid))
        far.run(
            *("ip", "link", "add", "eth0", "netns", pids[0], "type", "veth"),
            *("peer", "name", name, "netns", pids[1]),
        )
        for namespace, interface, side in ((far, "eth0", 0), (self.router, name, 1)):
            namespace.sysctl({f"ipv6.conf.{interface}.accept_dad": 0})
            namespace.run("ip", "link", "set", interface, "up")
            namespace.run("ip", "address", "add", four[side], "dev", interface)
            namespace.run("ip", "address", "add", f"{six[side]}/64", "dev", interface, "nodad")
        far.run("ip", "route", "add", "default", "via", four[1].partition("/")[0])
        far.run("ip", "-6", "route", "add", "default", "via", six[1])

    def stop(self) -> None:
        for namespace in (self.home, self.router, self.world):
            namespace.stop()

    def in_router(self, function: Callable[[], Any]) -> Any:
        return self.router.call(function)


@contextmanager
def started() -> Iterator[Lab]:
    """The lab with conntrack at work, removed at the end."""
    built = Lab()
    try:
        built.start()
        built.in_router(prepare)
        yield built
    finally:
        built.stop()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with started() as built:
        yield built


@pytest.fixture
def router(lab: Lab) -> Lab:
    """The lab with an empty table."""
    lab.router.run("conntrack", "-F")
    return lab


def exchange_tcp(
    client: Namespace,
    server: Namespace,
    ends: tuple[str, str, str],
    port: int,
    at: int | None = None,
) -> None:
    """Two kilobytes one way, five the other; ends = (source, called, where the server listens)."""
    source, called, listening = ends
    family = socket.AF_INET6 if ":" in source else socket.AF_INET

    def serve(listener: socket.socket) -> None:
        with closing(listener), closing(listener.accept()[0]) as connection:
            connection.settimeout(WAIT_S)
            left = 2000
            while left:
                left -= len(connection.recv(left))
            connection.sendall(b"d" * 5000)

    def call() -> None:
        with closing(socket.socket(family)) as connection:
            connection.settimeout(WAIT_S)
            connection.bind((source, 0))
            connection.connect((called, port))
            connection.sendall(b"u" * 2000)
            while connection.recv(65536):
                pass

    listener = server.call(lambda: socket.create_server((listening, at or port), family=family))
    listener.settimeout(WAIT_S)
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve, listener)
        client.call(call)
        served.result(WAIT_S)


def send_udp(client: Namespace, source: str, target: str, ports: range, size: int = 100) -> None:
    """One datagram to each port, all from one socket: a flow a port."""

    def send() -> None:
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as sender:
            sender.bind((source, 0))
            for port in ports:
                try:
                    sender.sendto(bytes(size), (target, port))
                except ConnectionRefusedError:  # an ICMP error to an earlier datagram
                    sender.sendto(bytes(size), (target, port))

    client.call(send)


def send_other(client: Namespace) -> None:
    """A packet of a protocol without ports (253 is for experiments, RFC 3692)."""

    def send() -> None:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_RAW, 253)) as sender:
            sender.sendto(b"x" * 10, (WORLD4, 0))

    client.call(send)


def all_kinds(lab: Lab) -> int:
    """Ten flows of every kind; says how many."""
    exchange_tcp(lab.home, lab.world, (HOME4, WORLD4, WORLD4), 443)
    exchange_tcp(lab.home, lab.world, (HOME6, WORLD6, WORLD6), 443)
    exchange_tcp(lab.home, lab.world, (HOME6_NAT, WORLD6, WORLD6), 444)
    exchange_tcp(lab.world, lab.home, (WORLD4, PUBLIC4, HOME4), 8080, at=80)
    send_udp(lab.home, HOME4, WORLD4, range(5000, 5001))
    send_udp(lab.home, HOME6, WORLD6, range(5000, 5001))
    send_udp(lab.home, HOME6_NAT, WORLD6, range(5001, 5002))
    lab.home.run("ping", "-c", "2", "-i", "0.2", "-s", "100", WORLD4)
    lab.home.run("ping", "-c", "1", "-I", HOME6_NAT, WORLD6)
    send_other(lab.home)
    return 10


def decoded(messages: Any) -> np.ndarray[Any, Any]:
    """Rows of the fast decoder, after comparing each with the slow walk."""
    decoder = Decoder()
    rows = decoder.decode(messages)
    assert len(rows) == len(messages)
    assert decoder.counts["slow"] == 0
    for row, message in zip(rows, messages, strict=True):
        for name, value in walk(message).items():
            seen = row[name]
            assert (seen.tobytes() if isinstance(value, bytes) else int(seen)) == value, name
    return rows


def forwarded(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Without neighbour discovery, which a router tracks too."""
    echo = np.isin(rows["orig_dport"] >> 8, (128, 129))
    kept: np.ndarray[Any, Any] = rows[(rows["protocol"] != 58) | echo]
    return kept


def sentence(line: str) -> tuple[Any, ...]:
    """What one line of `conntrack -o extended,id` says of a flow."""
    words = line.split()
    numbers = [int(word) for word in words if word.isdigit()]
    pairs = [word.partition("=")[::2] for word in words if "=" in word]
    ours: dict[str, list[str]] = {}
    for key, value in pairs:
        ours.setdefault(key, []).append(value)
    protocol = numbers[1]
    tuples = []
    for side in (0, 1):
        if protocol in (1, 58):
            ports = (int(ours["id"][side]), int(ours["type"][side]) * 256 + int(ours["code"][side]))
        elif "sport" in ours:
            ports = (int(ours["sport"][side]), int(ours["dport"][side]))
        else:
            ports = (0, 0)
        counters = (int(ours["packets"][side]), int(ours["bytes"][side]))
        tuples.append((ours["src"][side], ours["dst"][side], *ports, *counters))
    return (protocol, int(ours["id"][-1]), *tuples)


def spoken(row: np.void) -> tuple[Any, ...]:
    """The same of a row of columns."""
    sides = [
        (
            unpack(row[f"{side}_src"].tobytes()),
            unpack(row[f"{side}_dst"].tobytes()),
            *(int(row[f"{side}_{name}"]) for name in ("sport", "dport", "packets", "bytes")),
        )
        for side in ("orig", "reply")
    ]
    return (int(row["protocol"]), int(row["id"]), *sides)


def read_all(events: ConntrackEvents) -> np.ndarray[Any, Any]:
    """All events that wait, decoded."""
    batches = [np.zeros(0, COLUMNS)]
    while len(messages := events.read()):
        batches.append(decoded(messages))
    return np.concatenate(batches)


def test_dump_says_what_conntrack_lists(router: Lab) -> None:
    flows = all_kinds(router)
    before = time.time_ns()
    dumped = router.in_router(lambda: dump(time.time_ns))
    listed = router.router.run("conntrack", "-L", "-o", "extended,id")
    assert dumped.complete and dumped.began_ns >= before
    rows = decoded(dumped.messages)
    lines = [line for line in listed.splitlines() if "src=" in line]
    assert sorted(map(spoken, rows)) == sorted(map(sentence, lines))
    assert len(forwarded(rows)) == flows
    assert set(rows["kind"]) == {DUMP}
    assert rows["counted"].all() and (rows["start_ns"] > 0).all()
    only6 = router.in_router(lambda: dump(time.time_ns, socket.AF_INET6))
    assert len(only6.messages) == sum(":" in spoken(row)[2][0] for row in rows)


LABELLED = """
table inet labelling {
  chain labels {
    type filter hook forward priority -5;
    udp dport 6001 ct label set 5
    udp dport 6002 ct label set 127
    udp dport 6002 ct label set 64
    udp dport 6002 ct mark set 0x1234
  }
}
"""


def test_labels_and_marks_are_those_that_pyroute2_reads(router: Lab) -> None:
    router.router.run("nft", "-f", "-", stdin=LABELLED)
    events = ConntrackEvents(ConntrackConfig(new_events=True), time.time_ns)
    router.in_router(events.start)
    try:
        send_udp(router.home, HOME4, WORLD4, range(6000, 6003))
        messages = router.in_router(lambda: dump(time.time_ns)).messages
        begun = router.in_router(lambda: read_all(events))
    finally:
        router.in_router(events.stop)
        router.router.run("nft", "delete", "table", "inet", "labelling")
    rows = decoded(messages)
    labels = {int(row["orig_dport"]): row["labels"].tobytes() for row in rows}
    bits = {port: int.from_bytes(found, sys.byteorder) for port, found in labels.items()}
    if sys.byteorder == "little":  # else the two words are each in the host's order
        assert bits == {6000: 0, 6001: 1 << 5, 6002: 1 << 127 | 1 << 64}
    for row, message in zip(rows, messages, strict=True):
        theirs = nfct_msg(bytes(message))
        theirs.decode()
        said = dict(theirs["attrs"])
        assert int.from_bytes(row["labels"].tobytes(), "little") == said.get("CTA_LABELS", 0)
        assert (row["mark"], row["id"]) == (said["CTA_MARK"], said["CTA_ID"])
    udp = begun[begun["protocol"] == 17]
    assert {int(row["orig_dport"]): row["labels"].tobytes() for row in udp} == labels


def test_destroy_events_say_what_conntrack_hears(router: Lab) -> None:
    events = ConntrackEvents(ConntrackConfig(), time.time_ns)
    router.in_router(events.start)
    ear = router.router.popen(
        ["stdbuf", "-oL", "conntrack", "-E", "-e", "DESTROY", "-o", "extended,id"],
        stdout=subprocess.PIPE,
    )
    try:
        assert ear.stdout is not None
        wait_for_listeners(router, 2)
        began = time.time_ns()
        flows = all_kinds(router)
        router.router.run("conntrack", "-F")
        ended = time.time_ns()
        rows = router.in_router(lambda: read_all(events))
        heard = [ear.stdout.readline() for _ in rows]
    finally:
        end(ear)
        router.in_router(events.stop)
    assert Counter(map(spoken, rows)) == Counter(map(sentence, heard))
    assert len(forwarded(rows)) == flows
    assert set(rows["kind"]) == {DESTROY}
    assert (began <= rows["start_ns"]).all() and (rows["stop_ns"] <= ended).all()
    assert (rows["start_ns"] <= rows["stop_ns"]).all()
    assert events.counts["seen"] == events.counts["recorded"] == len(rows)
    assert events.losses() == []


def wait_for_listeners(lab: Lab, count: int) -> None:
    """Until so many sockets listen to DESTROY (group 3, bit 2 of Groups)."""

    def listeners() -> int:
        table = Path("/proc/thread-self/net/netlink").read_text().splitlines()[1:]
        rows = [line.split() for line in table]
        return sum(row[1] == "12" and bool(int(row[3], 16) & 4) for row in rows)

    deadline = time.monotonic() + WAIT_S
    while lab.in_router(listeners) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_nat_and_sides_become_deltas_and_mappings(router: Lab) -> None:
    started = time.time_ns()
    all_kinds(router)
    rows = decoded(router.in_router(lambda: dump(time.time_ns)).messages)
    tracker = Flows(FlowConfig(ACCESS), started)
    now = time.time_ns()
    deltas = tracker.dump(rows, now)
    called = {
        (unpack(d["client"].tobytes()), unpack(d["server"].tobytes()), int(d["server_port"])): d
        for d in deltas
        if d["protocol"] == 6
    }
    out, in_ = called[HOME4, WORLD4, 443], called[HOME4, WORLD4, inbound_port(deltas)]
    assert (out["up_packets"], out["down_packets"]) != (0, 0)
    # 2,000 bytes went up in the one, 5,000 in the other, where the world was the client.
    assert 2000 < out["up_bytes"] < 2600 < 5000 < out["down_bytes"] < 6000
    assert 5000 < in_["up_bytes"] < 6000 and 2000 < in_["down_bytes"] < 2600
    assert in_["client_port"] == 80
    columns = tracker.take(started, now + 1, now + 1)["mapping"]
    public = {
        (unpack(bytes(inside)), unpack(bytes(outside)), int(protocol))
        for inside, outside, protocol in zip(
            columns["inside_address"].tolist(),  # type: ignore[union-attr]
            columns["public_address"].tolist(),  # type: ignore[union-attr]
            columns["protocol"],
            strict=True,
        )
    }
    assert public == {
        *((HOME4, PUBLIC4, protocol) for protocol in (1, 6, 17, 253)),
        *((HOME6_NAT, PUBLIC6, protocol) for protocol in (6, 17, 58)),
    }
    assert 8080 in columns["port_first"]


def inbound_port(deltas: np.ndarray[Any, Any]) -> int:
    """The world's own port of the connection that it opened."""
    return int(deltas["server_port"][(deltas["client_port"] == 80)][0])


def test_dumps_and_events_add_up_to_the_kernels_totals(router: Lab) -> None:
    """Dumps at any time while datagrams flow, then the end: nothing twice, nothing missing."""
    tracker = Flows(FlowConfig(ACCESS), time.time_ns())
    events = ConntrackEvents(ConntrackConfig(), time.time_ns)
    router.in_router(events.start)
    told = [np.zeros(0, DELTA)]
    try:
        sizes = (100, 900, 10, 1200, 333)
        senders = [router.home.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))]
        senders.append(router.home.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)))
        for round_, size in enumerate(sizes):
            for sender, target in zip(senders, (WORLD4, WORLD6), strict=True):
                for port in range(6000 + round_, 6020):
                    try:
                        sender.sendto(bytes(size), (target, port))
                    except ConnectionRefusedError:
                        sender.sendto(bytes(size), (target, port))
            old = router.in_router(lambda: dump(time.time_ns))
            if round_ == 3:
                router.router.run("conntrack", "-D", "-p", "udp", "--dport", "6019")
                told.append(tracker.destroyed(router.in_router(lambda: read_all(events)), 1))
            # The flows that were just destroyed are still in this dump.
            told.append(tracker.dump(decoded(old.messages), time.time_ns()))
        for sender in senders:
            sender.close()
        router.router.run("conntrack", "-F")
        final = router.in_router(lambda: read_all(events))
        told.append(tracker.destroyed(final, time.time_ns()))
    finally:
        router.in_router(events.stop)
    deltas = np.concatenate(told)
    udp = deltas[deltas["protocol"] == 17]
    expected = sum(
        (header + size) * (20 - round_) for round_, size in enumerate(sizes) for header in (28, 48)
    )
    assert int(udp["up_bytes"].sum()) == expected
    # Port 6019 came again after it was destroyed, over IPv4 and IPv6: flows of their own.
    assert int(udp["first"].sum()) == int(udp["ended"].sum()) == 42
    assert sum(n for who, n in tracker.ended_counts().items() if who == (pack(HOME4), 128)) == 21
    counts = tracker.counts
    assert counts["seen"] == counts["recorded"] + counts["ignored"] + counts["lost"]
    assert counts["lost"] == 0 and counts["late"] == 2 and tracker.losses() == []


def test_an_overrun_is_counted_to_the_event(router: Lab) -> None:
    clock = iter(range(1, 1000))
    small = ConntrackEvents(ConntrackConfig(receive_buffer_bytes=8192), lambda: next(clock))
    large = ConntrackEvents(ConntrackConfig(), time.time_ns)
    router.in_router(small.start)
    router.in_router(large.start)
    try:
        send_udp(router.home, HOME4, WORLD4, range(7000, 7400))
        router.router.run("conntrack", "-F")
        total = len(router.in_router(lambda: read_all(large)))
        kept = len(router.in_router(lambda: read_all(small)))
        losses = router.in_router(small.losses)
        # It works on after the overrun, and the loss is told once.
        send_udp(router.home, HOME4, WORLD4, range(7000, 7002))
        router.router.run("conntrack", "-F")
        after = router.in_router(lambda: read_all(small))
        assert len(after[after["protocol"] == 17]) == 2
        assert router.in_router(small.losses) == []
    finally:
        router.in_router(small.stop)
        router.in_router(large.stop)
    assert total >= 400 and large.counts["lost"] == 0
    assert 0 < kept < total
    assert sum(loss.amount for loss in losses) == total - kept
    assert {(loss.stage, loss.reason, loss.unit) for loss in losses} == {
        ("conntrack", "overrun", "events")
    }
    assert all(loss.start_ns < loss.end_ns for loss in losses)
    assert losses[0].classes == ("visit", "mapping")
    assert small.counts["overruns"] >= 1
    assert small.counts["lost"] == total - kept
    assert small.counts["seen"] == small.counts["recorded"] + small.counts["lost"]


def test_new_events_on_request_and_limits_of_a_read(router: Lab) -> None:
    events = ConntrackEvents(ConntrackConfig(new_events=True, batch=3), time.time_ns)
    router.in_router(events.start)
    try:
        send_udp(router.home, HOME4, WORLD4, range(8000, 8010))
        first = router.in_router(lambda: decoded(events.read(1)))
        assert len(first) == 1
        assert len(router.in_router(lambda: decoded(events.read(100)))) == 3
        rows = np.concatenate((first, router.in_router(lambda: read_all(events))))
        assert set(rows["kind"]) == {NEW}
    finally:
        router.in_router(events.stop)
    assert events.fileno() == -1
    events.stop()
    with pytest.raises(RuntimeError):
        events.read()


def test_an_event_that_fits_no_slot_is_lost_and_counted(
    router: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netlink_socket, "SLOT_BYTES", 64)
    events = ConntrackEvents(ConntrackConfig(), time.time_ns)
    router.in_router(events.start)
    try:
        send_udp(router.home, HOME4, WORLD4, range(8000, 8003))
        router.router.run("conntrack", "-D", "-p", "udp")
        assert len(router.in_router(events.read)) == 0
        losses = router.in_router(events.losses)
    finally:
        router.in_router(events.stop)
    assert [(loss.reason, loss.amount) for loss in losses] == [("truncated", 3)]
    assert events.counts["truncated"] == events.counts["lost"] == 3


def test_a_dump_larger_than_its_first_buffer(router: Lab) -> None:
    """5,000 flows of 232 bytes pass the megabyte at which the buffer grows."""
    send_udp(router.home, HOME4, WORLD4, range(10000, 15000), size=1)
    dumped = router.in_router(lambda: dump(time.time_ns))
    rows = Decoder().decode(dumped.messages)
    assert dumped.messages.buffer.size > 1 << 20
    ports = rows["orig_dport"][rows["protocol"] == 17]
    assert sorted(ports.tolist()) == list(range(10000, 15000))


def test_a_dump_has_a_limit(router: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink_dump, "MAX_DUMP_BYTES", 1000)
    with pytest.raises(NetlinkError, match="larger than 1000 bytes"):
        router.in_router(lambda: dump(time.time_ns))


def test_a_refused_dump_says_why(router: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink_dump, "_GET", 0x1FF)  # no such message in the subsystem
    with pytest.raises(NetlinkError, match="Invalid argument"):
        router.in_router(lambda: dump(time.time_ns))


def test_an_interrupted_dump_is_repeated_then_marked(
    router: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel does not interrupt this dump, so another flag that it sets stands for the mark."""
    send_udp(router.home, HOME4, WORLD4, range(8000, 8003))
    monkeypatch.setattr(netlink_dump, "_DUMP_INTR", 0x02)  # NLM_F_MULTI
    times = iter(range(100))
    dumped = router.in_router(lambda: dump(lambda: next(times)))
    assert not dumped.complete
    assert dumped.began_ns == netlink_dump.MAX_DUMP_TRIES - 1
    assert len(dumped.messages) >= 3


def test_prepare_sets_what_it_needs_and_says_what_it_found() -> None:
    namespace = Namespace("fresh").start()
    try:
        found = namespace.call(prepare)
        assert set(found.changed) == set(conntrack_table.SYSCTLS)
        assert not found.active and found.table.entries == 0 and found.table.max_entries > 0
        assert namespace.call(prepare).changed == ()
        namespace.run("nft", "-f", "-", stdin=RULES.replace("forward", "input"))
        send_udp(namespace, "127.0.0.1", "127.0.0.1", range(9, 10))
        assert namespace.call(prepare).active
        assert namespace.call(table_size).entries >= 1
        assert namespace.call(statistics)["insert_failed"] == 0
    finally:
        namespace.stop()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(conntrack_table, "_SYSCTL_FOLDER", tmp_path)
    with pytest.raises(NetlinkUnavailable, match="modprobe nf_conntrack"):
        prepare()
    (tmp_path / "nf_conntrack_acct").mkdir()  # neither readable nor writable as a file
    with pytest.raises(NetlinkUnavailable, match="sysctl -w net.netfilter.nf_conntrack_acct=1"):
        prepare()


def test_without_the_capability_the_error_names_it(router: Lab) -> None:
    program = (
        "import time\n"
        "from collector.capture.conntrack_table import NetlinkUnavailable, table_size\n"
        "from collector.capture.netlink import ConntrackConfig, ConntrackEvents\n"
        "from collector.capture.netlink_dump import dump\n"
        "attempts = (ConntrackEvents(ConntrackConfig(), time.time_ns).start,\n"
        "            lambda: dump(time.time_ns), table_size)\n"
        "for attempt in attempts:\n"
        "    try:\n"
        "        attempt()\n"
        "    except NetlinkUnavailable as error:\n"
        "        print(error.strerror)\n"
    )
    drop = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    told = router.router.run(*drop, sys.executable, "-W", "error", "-c", program).splitlines()
    assert len(told) == 3
    assert all("needs CAP_NET_ADMIN" in line for line in told)


def test_receive_buffers_are_raised_past_the_limit_and_reported(router: Lab) -> None:
    limit = int(Path("/proc/sys/net/core/rmem_max").read_text())

    def raised() -> list[int]:
        pair = socket.socketpair()
        try:
            return raise_receive_buffers(pair, 2 * limit)
        finally:
            for one in pair:
                one.close()

    assert router.in_router(raised) == [4 * limit, 4 * limit]
