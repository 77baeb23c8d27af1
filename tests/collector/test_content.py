"""What a collector leaves behind of traffic full of content: hosts, and not one byte past them.

Real connections through a real router, each with markers wherever content can stand; then spool,
journal, state, log and metrics are searched for them, as bytes and as what they decode to.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.dns import DNS, DNSQR, DNSRR

from collector.parse.reader import ParseError
from collector.service import Collector
from tests.collector.capture.netns_fixture import WAIT_S, Router, inside, router
from tests.collector.parse.helpers import client_hello
from tests.collector.rig import config, settle, spin, spooled
from tests.fuzz.targets import TARGETS

MARK = b"c0ntent"
HEAD = (
    b"POST /%b/p?q=%b HTTP/1.1\r\nUser-Agent: %b\r\nCookie: k=%b\r\nReferer: http://r.example/%b\r\n"
    b"Authorization: Basic %b\r\nHost: u%b:p%b@http.example:80\r\nContent-Length: 40\r\n\r\n%b"
)
REQUEST = HEAD % ((MARK,) * 9)
ABSOLUTE = b"GET http://%b:%b@abs.example/%b?%b#%b HTTP/1.1\r\n\r\n" % ((MARK,) * 5)
BROKEN = b"GET /%b HTTP/9.9\r\nHost: %b.example/%b\r\n\r\n" % ((MARK,) * 3)
INVITE = (
    b"INVITE sip:02079460000@h.example?subject=%b SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 10.0.0.2;branch=z9hG4bK1\r\n"
    b"From: <sip:+442079460001@h.example>;tag=1\r\nTo: <sip:02079460000@h.example?body=%b>\r\n"
    b"Call-ID: call-1\r\nCSeq: 1 INVITE\r\nSubject: %b\r\nAuthorization: Digest response=%b\r\n"
    b"Content-Type: application/sdp\r\nContent-Length: 26\r\n\r\na=crypto:1 %b"
) % ((MARK,) * 5)
MESSAGE = INVITE.replace(b"INVITE", b"MESSAGE").replace(b"call-1", b"call-2")


@pytest.fixture(scope="module")
def lab() -> Iterator[Router]:
    with router() as built:
        yield built


def stream(lab: Router, port: int, *payloads: bytes) -> None:
    """One connection to a port of the world on which these are written one after another."""
    with inside(lab.up.ns):
        listener = socket.socket()
    with inside(lab.a.ns):
        near = socket.socket()
    with listener, near:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.settimeout(WAIT_S)
        listener.bind((lab.up.ipv4, port))
        listener.listen(1)
        near.settimeout(WAIT_S)
        near.connect((lab.up.ipv4, port))
        far, _ = listener.accept()
        with far:
            far.settimeout(WAIT_S)
            for payload in payloads:
                near.sendall(payload)
                remaining = len(payload)
                while remaining:
                    remaining -= len(far.recv(65_536))


def datagrams(lab: Router, port: int, question: bytes, reply: bytes) -> None:
    with inside(lab.up.ns):
        far = socket.socket(type=socket.SOCK_DGRAM)
    with inside(lab.a.ns):
        near = socket.socket(type=socket.SOCK_DGRAM)
    with far, near:
        far.bind((lab.up.ipv4, port))
        near.bind((lab.a.ipv4, port if port == 5060 else 0))
        for each in (far, near):
            each.settimeout(WAIT_S)
        near.sendto(question, (lab.up.ipv4, port))
        _, source = far.recvfrom(65_535)
        far.sendto(reply, source)
        near.recv(65_535)


def accounting(lab: Router) -> None:
    """A start of a session to the router's own address, with what a NAS should not send in it."""
    attributes = b"".join(
        struct.pack(">BB", kind, 2 + len(value)) + value
        for kind, value in (
            (40, b"\0\0\0\1"), (44, b"s1"), (4, b"\x0a\0\0\1"), (8, socket.inet_aton(lab.a.ipv4)),
            (2, MARK), (3, b"\1" + MARK), (18, MARK), (79, MARK), (26, b"\0\0\0\x09\1\x09" + MARK),
        )
    )  # fmt: skip
    packet = struct.pack(">BBH", 4, 1, 20 + len(attributes)) + bytes(16) + attributes
    with inside(lab.up.ns), socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.sendto(packet, (lab.up.ipv4.rsplit(".", 1)[0] + ".1", 1813))


def answer() -> bytes:
    records = [
        DNSRR(rrname="dns.example", type="A", rdata="198.51.100.2"),
        DNSRR(rrname="dns.example", type="TXT", rdata=[MARK]),
    ]
    return bytes(DNS(id=1, qr=1, qd=DNSQR(qname="dns.example"), an=records)) + MARK


def speak(lab: Router) -> None:
    """Everything that a line may say."""
    datagrams(lab, 53, bytes(DNS(id=1, qd=DNSQR(qname="dns.example"))), answer())
    datagrams(lab, 5060, INVITE, INVITE.replace(b"INVITE sip", b"SIP/2.0 486 Busy\r\nX: ", 1))
    datagrams(lab, 5060, MESSAGE, MESSAGE)
    stream(lab, 80, REQUEST + MARK * 5, ABSOLUTE, BROKEN)
    stream(lab, 443, client_hello("tls.example"), b"\x17\x03\x03\0\x07" + MARK)
    accounting(lab)


@pytest.mark.lab
def test_nothing_past_the_host_is_written_anywhere(
    lab: Router, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with inside(lab.ns):
        running = Collector(config(tmp_path, more='[hosts]\ndetail = "connection"'))
        running.start()
        try:
            speaker = threading.Thread(target=speak, args=(lab,))
            speaker.start()
            spin(running, lambda: not speaker.is_alive(), timeout_s=60.0)
            speaker.join()
            spin(running, lambda: heard(running, ("radius", "http", "tls", "dns", "sip")), 20.0)
            journal = b"".join(each.read_bytes() for each in files(tmp_path / "spool" / "journal"))
            closing = time.monotonic() + WAIT_S
            while "call" not in spooled(tmp_path):  # once its messages are in order
                assert time.monotonic() < closing
                settle(running)
                running.close_window()
            page = f"http://127.0.0.1:{running.metrics.port}/metrics"
            metrics = urllib.request.urlopen(page, timeout=WAIT_S).read()
        finally:
            running.stop()
    rows = spooled(tmp_path)
    hosts = {row["host"] for row in rows["visit"]}
    assert {"http.example", "abs.example", "tls.example"} <= hosts
    # The finest detail there is: the port, and the bytes of that connection alone.
    posted = [row for row in rows["visit"] if row["host"] == "http.example"]
    assert len({row["client_port"] for row in posted} - {0}) == 1
    assert sum(row["up_bytes"] for row in posted) > len(REQUEST)
    assert {row["disposition"] for row in rows["call"]} == {"BUSY"}
    written = [path.read_bytes() for path in files(tmp_path)]
    assert len(written) >= 3 and journal
    texts = (journal, metrics, caplog.text.encode(), repr(rows).encode(), *written)
    for text in texts:
        assert MARK not in text
        assert MARK.hex().encode() not in text
    assert b"tallyhold_collector_units_total" in metrics


def heard(running: Collector, protocols: tuple[str, ...]) -> bool:
    counts = running.observer.counts
    return all(counts[name]["seen"] for name in protocols)


def files(folder: Path) -> list[Path]:
    """Whatever the collector wrote, its own configuration and keys aside."""
    kept = (".toml", ".pem", ".key")
    return [each for each in folder.rglob("*") if each.is_file() and each.suffix not in kept]


def test_an_error_never_holds_bytes_of_the_packet() -> None:
    """Errors may be logged, so their text is of a fixed few."""
    for target in TARGETS.values():
        for data in (REQUEST, ABSOLUTE, BROKEN, INVITE[:-90], MARK * 40, b"\x16\x03\1\1\0" + MARK):
            try:
                target.run(data)
            except ParseError as error:
                assert MARK.decode() not in str(error)
                assert len(error.reason) <= 24
