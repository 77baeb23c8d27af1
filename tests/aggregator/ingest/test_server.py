"""The listener over real TLS: who gets in, what is read, what is answered. No engine is needed."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aggregator import pki
from aggregator.ingest.listen import ListenError, collector_name
from aggregator.ingest.server import IngestServer, ServerConfig
from aggregator.ingest.tls import TlsError, TlsFiles, TlsGate
from aggregator.metrics import Metrics
from collector.wire.batch import MAX_BATCH_BYTES, Receipt
from tests.aggregator.support import NOON, client_tls, upload

CONFIG = ServerConfig("127.0.0.1:0", "127.0.0.1:0", max_uploads=2, idle_timeout_s=2.0)


class Intake:
    """Takes every body; holds on to it while `gate` is closed."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.receipt = Receipt("ab" * 16, "accept", "stored", "", 1)

    def take(
        self,
        data: bytes | memoryview,
        *,
        identity: str,
        sent_ns: int,
        arrived_ns: int,
        claimed: str = "",
    ) -> Receipt:
        self.gate.wait(30)
        self.taken.append((identity, sent_ns, len(data)))
        return self.receipt


class Running:
    """A server in an event loop of its own thread."""

    def __init__(self, folder: Path, config: ServerConfig = CONFIG) -> None:
        self.folder = folder
        self.intake = Intake()
        self.metrics = Metrics()
        self.is_ready = True
        files = TlsFiles(
            folder / "ca.crt", folder / "server.crt", folder / "server.key", folder / "crl.pem"
        )
        self.server = IngestServer(
            config,
            TlsGate(files),
            self.intake,
            self.metrics,
            lambda: {"ready": self.is_ready},
            now=lambda: NOON,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def close(self) -> None:
        self.call(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def tls(self, name: str) -> ssl.SSLContext:
        made = pki.issue(self.folder, name)
        return client_tls(self.folder / "ca.crt", made.cert, made.key)

    def upload(
        self, context: ssl.SSLContext, body: bytes, *, sent_ns: int | None = 1
    ) -> tuple[int, Receipt]:
        headers = {"X-Tallyhold-Batch": "cd" * 16}
        return upload(self.server.port, context, body, sent_ns=sent_ns, headers=headers)

    def refused(self, reason: str) -> float:
        name = "tallyhold_aggregator_requests_refused_total"
        return self.metrics.registry.get_sample_value(name, {"reason": reason}) or 0.0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    pki.init(tmp_path / "pki", ["127.0.0.1"])
    made = Running(tmp_path / "pki")
    made.call(made.server.start())
    yield made
    made.close()


def test_a_batch_goes_in_under_the_certificates_name(running: Running) -> None:
    status, receipt = running.upload(running.tls("edge-1"), b"x" * 3_000_000, sent_ns=42)
    assert (status, receipt) == (200, running.intake.receipt)
    assert running.intake.taken == [("edge-1", 42, 3_000_000)]


@pytest.mark.parametrize(
    ("verdict", "reason", "status"),
    [
        ("gap", "missing-batches", 200),
        ("duplicate", "known", 200),
        ("reject", "identity", 403),
        ("reject", "conflict", 409),
        ("reject", "digest", 422),
        ("retry", "store-unavailable", 503),
    ],
)
def test_codes_follow_the_receipt(running: Running, verdict: str, reason: str, status: int) -> None:
    running.intake.receipt = Receipt("ab" * 16, verdict, reason, "words", 0)
    assert running.upload(running.tls("edge-1"), b"x") == (status, running.intake.receipt)


def closed_at_the_door(running: Running, context: ssl.SSLContext) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        running.upload(context, b"x")
    assert running.intake.taken == []


def test_nobody_without_a_certificate_gets_in(running: Running) -> None:
    closed_at_the_door(running, client_tls(running.folder / "ca.crt"))


def test_nobody_of_another_authority_gets_in(running: Running, tmp_path: Path) -> None:
    pki.init(tmp_path / "other", ["127.0.0.1"])
    made = pki.issue(tmp_path / "other", "edge-1")
    closed_at_the_door(running, client_tls(running.folder / "ca.crt", made.cert, made.key))


def test_the_servers_own_certificate_is_no_collectors(running: Running) -> None:
    folder = running.folder
    own = client_tls(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    closed_at_the_door(running, own)


def test_a_revoked_certificate_is_refused_at_once(running: Running) -> None:
    """Without a restart; another collector, and a new certificate of the same one, get in."""
    context = running.tls("edge-1")
    assert running.upload(context, b"x")[0] == 200
    running.intake.taken.clear()
    pki.revoke(running.folder, "edge-1")
    closed_at_the_door(running, context)
    assert running.upload(running.tls("edge-2"), b"x")[0] == 200
    assert running.upload(running.tls("edge-1"), b"x")[0] == 200


def test_a_connection_older_than_its_revocation_is_refused_too(running: Running) -> None:
    connection = http.client.HTTPSConnection(
        "127.0.0.1", running.server.port, context=running.tls("edge-1"), timeout=30
    )
    for expected in (200, 403):
        connection.request("POST", "/v1/batches", body=b"x", headers={"X-Tallyhold-Sent": "1"})
        response = connection.getresponse()
        body = json.loads(response.read())
        assert response.status == expected
        pki.revoke(running.folder, "edge-1")
    assert (body["verdict"], body["reason"]) == ("retry", "identity")
    connection.close()


def test_a_list_that_is_damaged_changes_nothing(running: Running) -> None:
    context = running.tls("edge-1")
    (running.folder / "crl.pem").write_text("rubbish")
    assert running.upload(context, b"x")[0] == 200


def test_a_body_has_a_limit_declared_or_not(running: Running) -> None:
    context = running.tls("edge-1")
    body = b"x" * (MAX_BATCH_BYTES + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aggregator.ingest.server.MAX_BATCH_BYTES", 1000)
        status, receipt = running.upload(context, body[:1001])
        assert (status, receipt.verdict, receipt.reason) == (413, "reject", "too-large")
        assert receipt.batch == "cd" * 16
        connection = http.client.HTTPSConnection(
            "127.0.0.1", running.server.port, context=context, timeout=30
        )
        parts = iter([body[:600], body[:600]])
        headers = {"X-Tallyhold-Sent": "1"}
        connection.request("POST", "/v1/batches", body=parts, headers=headers)
        assert connection.getresponse().status == 413
        connection.close()
    assert running.intake.taken == []
    assert running.refused("too-large") == 2


def test_a_request_without_the_collectors_clock_is_told_so(running: Running) -> None:
    status, receipt = running.upload(running.tls("edge-1"), b"x", sent_ns=None)
    assert (status, receipt.verdict, receipt.reason) == (400, "retry", "no-clock")


def test_beyond_its_share_a_collector_is_told_to_come_again(running: Running) -> None:
    running.intake.gate.clear()
    contexts = [running.tls(name) for name in ("edge-1", "edge-2")]
    answers: list[int] = []

    def send(context: ssl.SSLContext) -> None:
        answers.append(running.upload(context, b"x")[0])

    threads = [threading.Thread(target=send, args=(context,)) for context in contexts]
    for thread in threads:
        thread.start()
    while len(running.server._busy) < 2:
        time.sleep(0.01)
    status, receipt = running.upload(contexts[0], b"x")
    assert (status, receipt.verdict, receipt.reason) == (503, "retry", "busy")
    assert running.upload(running.tls("edge-3"), b"x")[0] == 503
    running.intake.gate.set()
    for thread in threads:
        thread.join()
    assert answers == [200, 200]


def test_a_client_that_says_nothing_is_cut_off(running: Running) -> None:
    """After its handshake, with half a request line."""
    with (
        socket.create_connection(("127.0.0.1", running.server.port), timeout=30) as raw,
        running.tls("edge-1").wrap_socket(raw, server_hostname="127.0.0.1") as slow,
    ):
        slow.sendall(b"POST /v1/batches HTTP/1.1\r\nHost: x\r\nX-A")
        started = time.monotonic()
        assert slow.recv(1) == b""
        assert time.monotonic() - started < 10


def test_stopping_waits_for_the_batch_in_hand(tmp_path: Path) -> None:
    pki.init(tmp_path, ["127.0.0.1"])
    running = Running(tmp_path)
    running.call(running.server.start())
    running.intake.gate.clear()
    context = running.tls("edge-1")
    answers: list[int] = []
    sender = threading.Thread(target=lambda: answers.append(running.upload(context, b"x")[0]))
    sender.start()
    while not running.server._busy:
        time.sleep(0.01)
    threading.Timer(0.3, running.intake.gate.set).start()
    running.close()
    sender.join()
    assert answers == [200]


def test_health_and_metrics(running: Running) -> None:
    running.upload(running.tls("edge-1"), b"x")
    plain = http.client.HTTPConnection("127.0.0.1", running.server.metrics_port, timeout=30)
    plain.request("GET", "/metrics")
    response = plain.getresponse()
    assert response.status == 200
    assert b"tallyhold_aggregator_rows_received_total" in response.read()
    for is_ready, status in ((True, 200), (False, 503)):
        running.is_ready = is_ready
        plain.request("GET", "/v1/health")
        response = plain.getresponse()
        assert (response.status, json.loads(response.read())) == (status, {"ready": is_ready})
    plain.request("POST", "/v1/batches")
    assert plain.getresponse().status == 404
    plain.close()


def test_a_taken_port_is_said_in_plain_words(running: Running) -> None:
    for key, config in {
        "server": replace(CONFIG, listen=f"127.0.0.1:{running.server.port}"),
        "metrics": replace(CONFIG, metrics_listen=f"127.0.0.1:{running.server.port}"),
    }.items():
        second = Running(running.folder, config)
        with pytest.raises(ListenError, match=rf"\[{key}\] listen .*another program listens"):
            second.call(second.server.start())
        second.close()


@pytest.mark.parametrize("bad", ["ca.crt", "server.crt", "server.key", "crl.pem"])
def test_a_bad_certificate_file_is_named(tmp_path: Path, bad: str) -> None:
    pki.init(tmp_path, ["127.0.0.1"])
    (tmp_path / bad).write_text("rubbish")
    with pytest.raises(TlsError, match=bad.replace(".", r"\.")):
        TlsGate(
            TlsFiles(
                tmp_path / "ca.crt",
                tmp_path / "server.crt",
                tmp_path / "server.key",
                tmp_path / "crl.pem",
            )
        ).context()


def test_anothers_key_is_said_in_plain_words(tmp_path: Path) -> None:
    pki.init(tmp_path, ["127.0.0.1"])
    other = pki.issue(tmp_path, "edge-1")
    files = TlsFiles(tmp_path / "ca.crt", tmp_path / "server.crt", other.key)
    with pytest.raises(TlsError, match="key does not belong"):
        TlsGate(files).context()


@pytest.mark.parametrize(
    ("certificate", "name"),
    [
        ({"subject": ((("commonName", "edge-1"),),)}, "edge-1"),
        ({"subject": ((("commonName", "a"),), (("commonName", "b"),))}, ""),
        ({"subject": ((("commonName", "Edge 1"),),)}, ""),
        ({}, ""),
        (
            {
                "subject": ((("commonName", "x"),),),
                "subjectAltName": (("URI", "tallyhold://collector/edge-2"),),
            },
            "edge-2",
        ),
        # A certificate for people is no collector's, whatever its common name.
        (
            {
                "subject": ((("commonName", "edge-1"),),),
                "subjectAltName": (("URI", "tallyhold://role/billing"),),
            },
            "",
        ),
    ],
)
def test_whose_certificate_it_is(certificate: dict[str, Any], name: str) -> None:
    assert collector_name(certificate) == name
