"""Two subscribers, a router and the world behind it, in network namespaces on this machine.

    A 10.0.0.2, 2001:db8:0:a::2 -- acc0 \\
                                         R (masquerades IPv4) up0 -- U 198.51.100.2, 2001:db8:f::2
    B 10.0.1.2, 2001:db8:0:b::2 -- acc1 /

Offloads are off, neighbours are permanent and interfaces make no addresses of their own, so what
crosses a link is exactly what a test sends. Needs root, ip, ethtool and nft.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from collector.capture.links import LinkReader, LinksConfig

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
ETHERNET_HEADER_BYTES = 14
WAIT_S = 10.0

NAT = """table ip nat {
  chain post { type nat hook postrouting priority srcnat; oifname "up0" masquerade; }
}
"""


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Run in a namespace: sockets and programs made here belong to it for good."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        _enter(there)
        try:
            yield
        finally:
            _enter(home)
    finally:
        os.close(there)
        os.close(home)


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def run(*argv: str, text: str | None = None) -> str:
    done = subprocess.run(
        argv, input=text, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


@contextmanager
def namespace(name: str) -> Iterator[str]:
    """One empty namespace with loopback up, removed at the end."""
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        run("ip", "netns", "del", name)


@dataclass(frozen=True)
class Host:
    """A namespace at the end of one link of the router."""

    ns: str
    device: str
    ipv4: str
    ipv6: str

    def address(self, family: socket.AddressFamily) -> str:
        return self.ipv4 if family == socket.AF_INET else self.ipv6

    def layer3_bytes(self) -> tuple[int, int]:
        """(sent, received) of the host's own interface, less link headers."""
        with inside(self.ns):
            reading = LinkReader(LinksConfig(((self.device, "access"),)), time.time_ns).read()
        (link,) = [each for each in reading.links if each.name == self.device]
        rx_bytes, tx_bytes, rx_packets, tx_packets = link.counters[:4]
        return (
            tx_bytes - ETHERNET_HEADER_BYTES * tx_packets,
            rx_bytes - ETHERNET_HEADER_BYTES * rx_packets,
        )

    def quiet(self) -> tuple[int, int]:
        """As `layer3_bytes`, once they have not moved for a fifth of a second."""
        before = self.layer3_bytes()
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            time.sleep(0.2)
            after = self.layer3_bytes()
            if after == before:
                return after
            before = after
        raise AssertionError("the link does not fall quiet")


@dataclass(frozen=True)
class Router:
    ns: str
    a: Host
    b: Host
    up: Host


@contextmanager
def router() -> Iterator[Router]:
    """The whole topology, forwarding and NAT on."""
    tag = f"v{os.getpid() % 100_000}"
    with (
        namespace(f"{tag}r") as ns,
        namespace(f"{tag}a") as a,
        namespace(f"{tag}b") as b,
        namespace(f"{tag}u") as u,
    ):
        hosts = (
            Host(a, "line", "10.0.0.2", "2001:db8:0:a::2"),
            Host(b, "line", "10.0.1.2", "2001:db8:0:b::2"),
            Host(u, "line", "198.51.100.2", "2001:db8:f::2"),
        )
        for host, device in zip(hosts, ("acc0", "acc1", "up0"), strict=True):
            _link(ns, device, host)
        for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            run("ip", "netns", "exec", ns, "sysctl", "-qw", f"{key}=1")
        run("ip", "netns", "exec", ns, "nft", "-f", "-", text=NAT)
        yield Router(ns, *hosts)


def _link(router_ns: str, device: str, host: Host) -> None:
    """A veth pair with both ends addressed and known to each other."""
    run(*f"ip -n {router_ns} link add {device} type veth peer name line netns {host.ns}".split())
    gateway4 = host.ipv4.rsplit(".", 1)[0] + ".1"
    gateway6 = host.ipv6.rsplit(":", 1)[0] + ":1"
    for ns, dev, v4, v6 in (
        (router_ns, device, gateway4, gateway6),
        (host.ns, "line", host.ipv4, host.ipv6),
    ):
        # Multicast reports at once and not within a second, where they would be in a test.
        settings = ("accept_dad=0", "mldv2_unsolicited_report_interval=1")
        keys = [f"net.ipv6.conf.{dev}.{each}" for each in settings]
        run("ip", "netns", "exec", ns, "sysctl", "-qw", *keys)
        run(*f"ip -n {ns} link set {dev} addrgenmode none up".split())
        run(*f"ip -n {ns} addr add {v4}/24 dev {dev}".split())
        run(*f"ip -n {ns} addr add {v6}/64 dev {dev} nodad".split())
        run(*f"ip netns exec {ns} ethtool -K {dev} tso off gso off gro off tx off rx off".split())
    for ns, dev, peer_ns, peer, v4, v6 in (
        (router_ns, device, host.ns, "line", host.ipv4, host.ipv6),
        (host.ns, "line", router_ns, device, gateway4, gateway6),
    ):
        with inside(peer_ns):
            mac = run("ip", "-br", "link", "show", "dev", peer).split()[2]
        for address in (v4, v6):
            run(*f"ip -n {ns} neigh replace {address} lladdr {mac} dev {dev}".split())
    run(*f"ip -n {host.ns} route add default via {gateway4}".split())
    run(*f"ip -n {host.ns} -6 route add default via {gateway6}".split())


def udp(
    client: Host, server: Host, family: socket.AddressFamily, up: int, down: int, size: int = 700
) -> None:
    """`up` datagrams from the client, `down` answers to where the first came from."""
    with inside(server.ns):
        far = socket.socket(family, socket.SOCK_DGRAM)
    with inside(client.ns):
        near = socket.socket(family, socket.SOCK_DGRAM)
    with far, near:
        far.settimeout(WAIT_S)
        near.settimeout(WAIT_S)
        far.bind((server.address(family), 0))
        near.bind((client.address(family), 0))
        for _ in range(up):
            near.sendto(bytes(size), (server.address(family), far.getsockname()[1]))
            _, source = far.recvfrom(65_535)
        for _ in range(down):
            far.sendto(bytes(size), source)
            near.recv(65_535)


def tcp(client: Host, server: Host, family: socket.AddressFamily, up: int, down: int) -> None:
    """One connection with `up` and `down` bytes, closed in order."""
    with inside(server.ns):
        listener = socket.socket(family, socket.SOCK_STREAM)
    with inside(client.ns):
        near = socket.socket(family, socket.SOCK_STREAM)
    with listener, near:
        listener.settimeout(WAIT_S)
        listener.bind((server.address(family), 0))
        listener.listen(1)
        answer = threading.Thread(target=_serve, args=(listener, down))
        answer.start()
        near.settimeout(WAIT_S)
        near.connect(listener.getsockname()[:2])
        near.sendall(bytes(up))
        near.shutdown(socket.SHUT_WR)
        while near.recv(65_536):
            pass
        answer.join()


def _serve(listener: socket.socket, down: int) -> None:
    far, _ = listener.accept()
    with far:
        far.settimeout(WAIT_S)
        while far.recv(65_536):
            pass
        far.sendall(bytes(down))
