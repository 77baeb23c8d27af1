"""Namespaces, links, translation and the relay, without any service."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.leftovers import await_gone, namespace_of
from tests.lab.netns import LabError, Namespace, end
from tests.lab.relay import Relay
from tests.lab.topology import CORE_V4, SIP_V4, Network


@pytest.mark.lab
def test_failed_command_and_exception_inside_a_namespace_are_told() -> None:
    namespace = Namespace("one").start()
    try:
        with pytest.raises(LabError, match="ip in one failed"):
            namespace.run("ip", "link", "show", "nosuch0")
        with pytest.raises(ZeroDivisionError):
            namespace.call(lambda: 1 // 0)
        assert namespace.call(lambda: [name for _, name in socket.if_nameindex()]) == ["lo"]
        assert len(socket.if_nameindex()) >= 1
        inode = namespace_of(namespace.pid)
    finally:
        namespace.stop()
    assert await_gone({inode})
    with pytest.raises(LabError, match="not there"):
        namespace.run("true")


@pytest.mark.lab
def test_program_outlives_the_thread_that_started_it_but_not_its_end() -> None:
    """A chaos action starts the collector anew from a thread of its own."""
    namespace = Namespace("one").start()
    started: list[subprocess.Popen[str]] = []
    try:
        thread = threading.Thread(target=lambda: started.append(namespace.popen(["sleep", "60"])))
        thread.start()
        thread.join()
        time.sleep(0.2)
        assert started[0].poll() is None
        assert Path(f"/proc/{started[0].pid}/comm").read_text() == "sleep\n"
        assert end(started[0]) == -signal.SIGTERM
    finally:
        namespace.stop()


@pytest.mark.lab
def test_relay_carries_pauses_and_resumes() -> None:
    """Echo in one namespace, client in another, no link between them."""
    with ExitStack() as stack:
        near, far = Namespace("near"), Namespace("far")
        for namespace in (near, far):
            stack.callback(namespace.stop)
            namespace.start()
        server = far.call(lambda: socket.create_server(("127.0.0.1", 0)))
        stack.callback(server.close)
        threading.Thread(target=echo, args=(server,), daemon=True).start()
        relay = Relay(near, 0, far, server.getsockname()[1])
        relay.start()
        stack.callback(relay.stop)

        def ask(data: bytes) -> bytes:
            with near.call(lambda: socket.create_connection(relay.address, 5)) as client:
                client.settimeout(1.0)
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: client.recv(65536), b""))

        big = bytes(range(256)) * 4000
        assert ask(big) == big
        relay.pause()
        with pytest.raises(ConnectionRefusedError):
            ask(b"x")
        relay.resume()
        assert ask(b"again") == b"again"
        relay.pause(hang=True)
        with pytest.raises(TimeoutError):
            ask(b"x")
        relay.resume()
        assert ask(b"and again") == b"and again"


@pytest.mark.lab
def test_only_the_public_address_shows_upstream() -> None:
    """The router translates addresses behind NAT and no others."""
    network = Network(2)
    network.start()
    try:
        network.assign(1, "100.64.0.1", None)
        network.assign(2, "198.18.1.2", None)
        listener = network.core.call(lambda: socket.create_server((CORE_V4, 7000)))
        with listener:
            for number, seen in ((1, "198.51.100.9"), (2, "198.18.1.2")):
                home = network.homes[number]
                with home.call(lambda: socket.create_connection((CORE_V4, 7000), 5)):
                    connection, peer = listener.accept()
                    connection.close()
                assert peer[0] == seen
        network.withdraw(1, "100.64.0.1", None)
        with pytest.raises(OSError, match="unreachable"):
            network.homes[1].call(lambda: socket.create_connection((SIP_V4, 7000), 5))
    finally:
        network.stop()


@pytest.mark.lab
def test_lines_are_silent_and_offloads_are_off() -> None:
    """Addresses of both families come and go, and not one packet says so."""
    network = Network(2)
    network.start()
    try:
        network.assign(1, "198.18.1.1", "2001:db8:100:1::10")
        network.assign(2, None, "2001:db8:100:2::10")
        time.sleep(2.5)  # listener reports and router solicitations come within two seconds
        network.withdraw(1, "198.18.1.1", "2001:db8:100:1::10")
        network.assign(2, "198.18.1.1", None)
        assert network.layer3(1) == network.layer3(2) == (0, 0)
        assert network.edge.counters("core0").tx_packets == 0
        for namespace, interface in ((network.edge, "acc1"), (network.homes[1], "eth0")):
            features = namespace.run("ethtool", "-k", interface)
            for name in (
                "tcp-segmentation-offload",
                "generic-segmentation-offload",
                "generic-receive-offload",
                "tx-checksumming",
            ):
                assert f"{name}: off" in features
    finally:
        network.stop()


def echo(server: socket.socket) -> None:
    """Send everything back, one connection after the other, until the socket is closed."""
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)
