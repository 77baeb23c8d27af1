"""The uplink against a real TLS server: what it sends, whom it trusts, and when it waits."""

from __future__ import annotations

import datetime
import gc
import http.client
import http.server
import ipaddress
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from collector.spool import Spool, SpoolConfig
from collector.uplink import CONTENT_TYPE, Uplink, UplinkConfig
from collector.uplink_tls import Identity
from collector.wire import codec
from collector.wire.batch import MAX_RECEIPT_BYTES, Header, Receipt, receipt_bytes
from collector.wire.gaps import losses_of
from tests.collector.samples import WINDOW, columns

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.UTC)


# -- certificates


class Authority:
    """A CA that signs what the tests ask for, right or wrong."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        self.cert = (
            self._builder(self.subject, self.key)
            .add_extension(constraints, critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.cert.public_bytes(serialization.Encoding.PEM))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, begin: Any = NOW - DAY,
        end: Any = NOW + DAY,
    ) -> x509.CertificateBuilder:  # fmt: skip
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
        )

    def issue(self, name: str, file: str, begin: Any = NOW - DAY, end: Any = NOW + DAY) -> Any:
        """Files of certificate and key, and the certificate; a name that is an address is one."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        try:
            general: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            general = x509.DNSName(name)
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        cert = (
            self._builder(subject, key, begin, end)
            .add_extension(x509.SubjectAlternativeName([general]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        cert_file, key_file = self.folder / f"{file}.pem", self.folder / f"{file}.key"
        cert_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return cert_file, key_file, cert

    def revoke(self, *certs: x509.Certificate) -> Path:
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.subject)
        builder = builder.last_update(NOW - DAY).next_update(NOW + DAY)
        for cert in certs:
            entry = x509.RevokedCertificateBuilder().serial_number(cert.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(NOW - DAY).build())
        crl = builder.sign(self.key, hashes.SHA256())
        path = self.folder / f"{self.name}-crl.pem"
        path.write_bytes(crl.public_bytes(serialization.Encoding.PEM))
        return path


# -- the aggregator of the tests


Answer = Callable[["Request"], None]


class Request(http.server.BaseHTTPRequestHandler):
    """One upload; `server.answer` says what happens to it."""

    protocol_version = "HTTP/1.1"
    server: Aggregator

    def do_POST(self) -> None:
        self.server.paths.append(self.path)
        self.server.seen_headers.append(dict(self.headers))
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def take(self) -> Header:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(data)
        return codec.decode(data)[0]

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Aggregator(http.server.ThreadingHTTPServer):
    """A TLS server that wants client certificates of its CA."""

    daemon_threads = True

    def __init__(self, pki: Pki, cert: tuple[Path, Path], crl: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answers: list[Answer] = [verdict("accept")]
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        self.seen_headers: list[dict[str, str]] = []
        self.connections = 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*cert)
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_verify_locations(pki.authority.file)
        if crl is not None:
            self.context.load_verify_locations(crl)
            self.context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_port}"

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        request.settimeout(20)
        with self.context.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # refused clients and torn connections are what these tests are about

    def close(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


def verdict(
    word: str, status: int = 200, reason: str = "", message: str = "", **headers: str
) -> Answer:
    def answer(request: Request) -> None:
        header = request.take()
        receipt = Receipt(header.batch, word, reason or "fine", message, header.rows)
        request.reply(status, receipt_bytes(receipt), **headers)

    return answer


def raw(status: int, body: bytes, **headers: str) -> Answer:
    def answer(request: Request) -> None:
        request.take()
        request.reply(status, body, **headers)

    return answer


class Pki:
    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.authority = Authority(folder, "ca")
        self.stranger = Authority(folder, "stranger")
        self.server = self.authority.issue("127.0.0.1", "server")
        self.client = self.authority.issue("lns1", "client")

    def identity(self, **changes: Any) -> Identity:
        fields = {"ca": self.authority.file, "cert": self.client[0], "key": self.client[1]}
        return Identity(**(fields | changes))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki") / "pki")


@pytest.fixture
def aggregator(pki: Pki) -> Iterator[Aggregator]:
    server = Aggregator(pki, pki.server[:2])
    yield server
    server.close()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    one = Spool(SpoolConfig(tmp_path / "spool", "lns1"), "boot")
    one.start()
    yield one
    one.stop()


@pytest.fixture
def uplinks() -> Iterator[list[Uplink]]:
    started: list[Uplink] = []
    yield started
    for uplink in started:
        assert uplink.stop()


@pytest.fixture
def link(pki: Pki, spool: Spool, uplinks: list[Uplink]) -> Callable[..., Uplink]:
    """Starts an uplink from the spool of the test to a URL."""

    def start(url: str, *, identity: Identity | None = None, **changes: Any) -> Uplink:
        quick = {"backoff_min_s": 0.02, "backoff_max_s": 0.1, "idle_s": 0.05}
        config = UplinkConfig(url, identity or pki.identity(), **(quick | changes))
        uplink = Uplink(config, spool)
        uplinks.append(uplink)
        uplink.start()
        return uplink

    return start


def commit(spool: Spool, rows: int = 5) -> Header:
    return spool.commit(**WINDOW, columns={"link": columns("link", rows, spool.last_sequence)})


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def balanced(uplink: Uplink) -> bool:
    counts = uplink.counts
    outcomes = ("accepted", "duplicate", "gap", "rejected", "retried", "abandoned")
    return counts["sent"] == sum(counts[name] for name in outcomes)


# -- the ordinary life


def test_batches_arrive_in_order_over_one_connection(
    aggregator: Aggregator, spool: Spool, link: Callable[..., Uplink]
) -> None:
    headers = [commit(spool) for _ in range(5)]
    files = [path.read_bytes() for path in sorted(spool.config.folder.glob("*.batch"))]
    before = time.time_ns()
    uplink = link(aggregator.url + "/edge/")
    assert uplink.drain(20)
    assert aggregator.bodies == files
    assert aggregator.connections == 1
    assert set(aggregator.paths) == {"/edge/v1/batches"}
    for header, seen in zip(headers, aggregator.seen_headers, strict=True):
        assert seen["Content-Type"] == CONTENT_TYPE
        assert seen["X-Tallyhold-Batch"] == header.batch
        assert before <= int(seen["X-Tallyhold-Sent"]) <= time.time_ns()
    wait_for(lambda: uplink.state == "idle")
    assert (uplink.last_error, uplink.counts["accepted"]) == ("", 5)
    assert uplink.counts["bytes"] == sum(map(len, files))
    assert uplink.last_success_ns >= before
    assert balanced(uplink)
    assert spool.counts["acknowledged"] == 5


@pytest.mark.parametrize("word", ["accept", "duplicate", "gap"])
def test_verdicts_that_free_the_batch(
    aggregator: Aggregator, spool: Spool, link: Callable[..., Uplink], word: str
) -> None:
    commit(spool)
    aggregator.answers = [verdict(word)]
    uplink = link(aggregator.url)
    assert uplink.drain(20)
    assert uplink.counts["accepted" if word == "accept" else word] == 1


def test_a_later_batch_is_sent_when_it_comes(
    aggregator: Aggregator, spool: Spool, link: Callable[..., Uplink]
) -> None:
    uplink = link(aggregator.url, idle_s=60.0)
    wait_for(lambda: uplink.state == "idle")
    commit(spool)
    uplink.wake()
    wait_for(lambda: spool.pending_batches == 0)


@pytest.mark.parametrize("status", [200, 400, 409, 422])
def test_a_refused_batch_is_set_aside_loudly(
    aggregator: Aggregator, spool: Spool, link: Callable[..., Uplink], status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    header = commit(spool)
    commit(spool)
    refuse = verdict("reject", status, "schema-version", "too new")
    aggregator.answers = [refuse, verdict("accept")]
    uplink = link(aggregator.url)
    assert uplink.drain(20)
    wait_for(lambda: uplink.counts["accepted"] == 1)
    assert uplink.counts["rejected"] == 1
    assert spool.counts["dead"] == 1
    said = [r.message for r in caplog.records if r.levelno == logging.ERROR]
    assert any(header.batch in text and "too new" in text for text in said)
    after = codec.decode(Path(_path_of(spool, commit(spool))).read_bytes())[1]
    assert [loss.reason for loss in losses_of(after["gap"])] == ["rejected-schema-version"]
    assert balanced(uplink)


def _path_of(spool: Spool, header: Header) -> Path:
    return spool.config.folder / f"{header.sequence:020d}.batch"


# -- answers that free nothing


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (verdict("retry", 503, "store", "ClickHouse is away"), "ClickHouse is away"),
        (verdict("retry", 200, "clock-skew", "your clock is 400 s ahead"), "400 s ahead"),
        (verdict("retry", 429, "busy", "slow down"), "slow down"),
        (verdict("accept", 503), "503"),
        (verdict("accept", 301), "301"),
        (verdict("reject", 503, "odd"), "503"),
        (raw(403, b"forbidden"), "answers 403"),
        (raw(200, b""), "not JSON"),
        (raw(200, b"<html>proxy</html>"), "not JSON"),
        (raw(200, b'{"batch":1}'), "names no batch"),
        (raw(302, b"", Location="https://evil.example/"), "answers 302"),
    ],
)
def test_answers_after_which_the_batch_stays(
    aggregator: Aggregator, spool: Spool, link: Callable[..., Uplink], answer: Answer, words: str
) -> None:
    commit(spool)
    aggregator.answers = [answer, answer, verdict("accept")]
    waits: list[tuple[str, str, int]] = []
    uplink = link(aggregator.url)
    while spool.pending_batches:
        if uplink.last_error:
            waits.append((uplink.last_error, uplink.state, spool.pending_batches))
        time.sleep(0.002)
    assert waits
    assert words in waits[0][0]
    assert uplink.drain(20)
    assert len(aggregator.bodies) == 3
    assert len(set(aggregator.bodies)) == 1, "the very same bytes"
    assert uplink.counts["retried"] == 2
    wait_for(lambda: uplink.last_error == "")


def test_a_receipt_for_another_batch_frees_nothing(
    aggregator: Aggregator, spool: Spool, link: Callable[..., Uplink]
) -> None:
    commit(spool)
    wrong = raw(200, receipt_bytes(Receipt("ab" * 16, "accept", "fine", "", 5)))
    wrong_refusal = raw(200, receipt_bytes(Receipt("ab" * 16, "reject", "fine", "", 5)))
    aggregator.answers = [wrong, wrong_refusal, wrong]
    uplink = link(aggregator.url)
    wait_for(lambda: uplink.counts["retried"] >= 3)
    assert uplink.last_error == "the receipt names another batch than was sent"
    assert (spool.pending_batches, spool.counts["dead"]) == (1, 0)


def test_a_receipt_too_large_is_not_read(
    aggregator: Aggregator, spool: Spool, link: Callable[..., Uplink]
) -> None:
    def endless(request: Request) -> None:
        request.take()
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        while True:
            request.wfile.write(b"1000\r\n" + b" " * 4096 + b"\r\n")

    def headers(request: Request) -> None:
        request.take()
        while True:
            request.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

    commit(spool)
    aggregator.answers = [
        raw(200, b" " * (MAX_RECEIPT_BYTES + 1)),
        endless,
        headers,
        verdict("accept"),
    ]
    uplink = link(aggregator.url)
    errors = set()
    while spool.pending_batches:
        errors.add(uplink.last_error)
        time.sleep(0.001)
    assert any("more than 65536 bytes" in text for text in errors)
    assert any("too large" in text for text in errors)
    assert uplink.counts["retried"] == 3


def test_a_server_that_drips_is_given_up(
    aggregator: Aggregator, spool: Spool, link: Callable[..., Uplink]
) -> None:
    """Each byte comes in time, the answer never would."""
    ended = threading.Event()

    def drip(request: Request) -> None:
        request.take()
        try:
            for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000:
                request.wfile.write(bytes([byte]))
                time.sleep(0.02)
        finally:
            ended.set()

    commit(spool)
    aggregator.answers = [drip, verdict("accept")]
    began = time.monotonic()
    uplink = link(aggregator.url, request_timeout_s=0.5)
    wait_for(lambda: uplink.last_error)
    assert uplink.last_error == "the aggregator did not answer in time"
    assert time.monotonic() - began < 5
    assert uplink.drain(20)
    assert ended.wait(5)


def test_a_server_that_does_not_read_is_given_up(
    pki: Pki, spool: Spool, link: Callable[..., Uplink]
) -> None:
    commit(spool, rows=60_000)  # more than the buffers of two sockets
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        uplink = link(
            f"https://127.0.0.1:{listener.getsockname()[1]}",
            connect_timeout_s=0.4, request_timeout_s=0.4, min_rate_bytes=2**30,
        )  # fmt: skip
        wait_for(lambda: uplink.counts["retried"] >= 1)  # the handshake is never answered
        assert uplink.last_error == "the aggregator did not answer in time"


def test_an_upload_cut_in_the_middle_is_sent_again_byte_for_byte(
    aggregator: Aggregator, spool: Spool, link: Callable[..., Uplink]
) -> None:
    header = commit(spool, rows=40_000)
    partial: list[bytes] = []

    def cut(request: Request) -> None:
        partial.append(request.rfile.read(100_000))
        request.connection.shutdown(socket.SHUT_RDWR)
        request.close_connection = True

    aggregator.answers = [cut, verdict("accept")]
    uplink = link(aggregator.url)
    assert uplink.drain(20)
    (body,) = aggregator.bodies
    assert body.startswith(partial[0])
    assert codec.decode(body)[0] == header
    assert uplink.counts["retried"] == 1


def test_a_collector_killed_in_mid_upload_sends_the_same_bytes(
    aggregator: Aggregator, spool: Spool, link: Callable[..., Uplink], pki: Pki
) -> None:
    header = commit(spool, rows=40_000)
    held = threading.Event()

    def hold(request: Request) -> None:
        request.rfile.read(50_000)
        held.set()
        time.sleep(0.5)

    aggregator.answers = [hold, verdict("duplicate")]
    uplink = link(aggregator.url)
    assert held.wait(10)
    began = time.monotonic()
    assert uplink.stop()
    assert time.monotonic() - began < 2
    assert (uplink.counts["abandoned"], uplink.state) == (1, "stopped")
    assert balanced(uplink)
    spool.stop()
    again = Spool(spool.config, "boot2")
    again.start()
    second = Uplink(UplinkConfig(aggregator.url, pki.identity()), again)
    second.start()
    assert second.drain(20)
    assert second.stop()
    assert codec.decode(aggregator.bodies[0])[0] == header
    again.stop()


def test_a_connection_closed_while_idle_is_no_failure(
    aggregator: Aggregator, spool: Spool, link: Callable[..., Uplink]
) -> None:
    def close_after(request: Request) -> None:
        verdict("accept")(request)
        request.close_connection = True  # without saying so

    aggregator.answers = [close_after]
    uplink = link(aggregator.url)
    for _ in range(3):
        commit(spool)
        assert uplink.drain(20)
        time.sleep(0.1)
    assert (uplink.counts["retried"], uplink.counts["accepted"]) == (0, 3)
    assert aggregator.connections == 3


# -- whom it trusts, and who trusts it


def refused_with(link: Callable[..., Uplink], words: str, url: str, **options: Any) -> Uplink:
    uplink = link(url, **options)
    wait_for(lambda: uplink.last_error)
    assert words in uplink.last_error
    assert uplink.counts["accepted"] == 0
    return uplink


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p.stranger.issue("127.0.0.1", "s1"), "a CA this collector does not know"),
        (lambda p: p.authority.issue("other.example", "s2"), "another address"),
        (
            lambda p: p.authority.issue("127.0.0.1", "s3", NOW - 3 * DAY, NOW - DAY),
            "certificate of the aggregator has expired",
        ),
        (
            lambda p: p.authority.issue("127.0.0.1", "s4", NOW + DAY, NOW + 2 * DAY),
            "compare the clocks",
        ),
    ],
)
def test_an_aggregator_that_is_not_ours_gets_nothing(
    pki: Pki, spool: Spool, link: Callable[..., Uplink], make: Callable[[Pki], Any], words: str
) -> None:
    commit(spool)
    server = Aggregator(pki, make(pki)[:2])
    try:
        refused_with(link, words, server.url)
        assert server.bodies == []
    finally:
        server.close()


def test_a_revoked_aggregator_gets_nothing(
    pki: Pki, spool: Spool, link: Callable[..., Uplink]
) -> None:
    commit(spool)
    cert_file, key_file, cert = pki.authority.issue("127.0.0.1", "s5")
    server = Aggregator(pki, (cert_file, key_file))
    try:
        identity = pki.identity(crl=pki.authority.revoke(cert))
        refused_with(link, "has been revoked", server.url, identity=identity)
        good = pki.identity(crl=pki.authority.revoke())
        assert link(server.url, identity=good).drain(20)
    finally:
        server.close()


def test_a_name_is_checked_against_the_certificate(
    pki: Pki, aggregator: Aggregator, spool: Spool, link: Callable[..., Uplink]
) -> None:
    commit(spool)
    refused_with(link, "another name", f"https://localhost:{aggregator.server_port}")


@pytest.mark.parametrize("rows", [3, 40_000])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("stranger", "does not know the CA of this collector's certificate"),
        ("expired", "this collector's certificate has expired"),
        ("revoked", "this collector's certificate has been revoked"),
    ],
)
def test_what_the_aggregator_has_against_us_is_told(
    pki: Pki, spool: Spool, link: Callable[..., Uplink], kind: str, words: str, rows: int
) -> None:
    commit(spool, rows)
    if kind == "stranger":
        mine = pki.stranger.issue("lns1", "c1")
    elif kind == "expired":
        mine = pki.authority.issue("lns1", "c2", NOW - 3 * DAY, NOW - DAY)
    else:
        mine = pki.authority.issue("lns1", "c3")
    crl = pki.authority.revoke(mine[2]) if kind == "revoked" else None
    server = Aggregator(pki, pki.server[:2], crl)
    try:
        identity = pki.identity(cert=mine[0], key=mine[1])
        refused_with(link, words, server.url, identity=identity)
        assert server.bodies == []
    finally:
        server.close()


def test_a_rotated_certificate_comes_into_use(
    pki: Pki, tmp_path: Path, spool: Spool, link: Callable[..., Uplink], aggregator: Aggregator
) -> None:
    commit(spool)
    cert, key = tmp_path / "mine.pem", tmp_path / "mine.key"
    old = pki.authority.issue("lns1", "old", NOW - 3 * DAY, NOW - DAY)
    cert.write_bytes(old[0].read_bytes())
    key.write_bytes(old[1].read_bytes())
    uplink = refused_with(
        link, "has expired", aggregator.url, identity=pki.identity(cert=cert, key=key)
    )
    cert.write_bytes(pki.client[0].read_bytes())
    key.write_bytes(pki.client[1].read_bytes())
    assert uplink.drain(20)


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        ({"cert": Path("/nowhere.pem")}, "cannot be read"),
        ({"ca": Path("/nowhere.pem")}, "cannot be read"),
        ({"key": "server"}, "key does not belong to its certificate"),
    ],
)
def test_files_that_are_wrong_are_told(
    pki: Pki, aggregator: Aggregator, spool: Spool, link: Callable[..., Uplink],
    identity: dict[str, Any], words: str,
) -> None:  # fmt: skip
    commit(spool)
    if identity.get("key") == "server":
        identity = {"key": pki.server[1]}
    refused_with(link, words, aggregator.url, identity=pki.identity(**identity))


def test_old_tls_is_not_spoken(pki: Pki, spool: Spool, link: Callable[..., Uplink]) -> None:
    assert pki.identity().context().minimum_version == ssl.TLSVersion.TLSv1_2
    assert pki.identity().context().check_hostname


# -- when nobody is there


def test_nobody_listens(spool: Spool, link: Callable[..., Uplink]) -> None:
    commit(spool)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    uplink = refused_with(link, "nothing listens there", f"https://127.0.0.1:{port}")
    wait_for(lambda: uplink.state == "waiting")
    assert not uplink.drain(0.2)


def test_what_listens_speaks_no_tls(spool: Spool, link: Callable[..., Uplink]) -> None:
    commit(spool)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(b"220 mail.example ESMTP\r\n")
                peer.recv(1000)

        thread = threading.Thread(target=greet)
        thread.start()
        refused_with(
            link, "does not speak TLS", f"https://127.0.0.1:{listener.getsockname()[1]}",
            backoff_min_s=5.0, backoff_max_s=5.0,
        )  # fmt: skip
        thread.join()


def test_an_aggregator_that_comes_back_gets_everything(
    pki: Pki, spool: Spool, link: Callable[..., Uplink], aggregator: Aggregator
) -> None:
    aggregator.answers = [raw(500, b"")] * 3 + [verdict("accept")]
    headers = [commit(spool) for _ in range(4)]
    uplink = link(aggregator.url)
    wait_for(lambda: uplink.counts["accepted"] == 4)
    accepted = [codec.peek(body).sequence for body in aggregator.bodies[3:]]
    assert accepted == [header.sequence for header in headers]


def test_stop_is_prompt_while_backing_off_and_while_idle(
    spool: Spool, link: Callable[..., Uplink], aggregator: Aggregator
) -> None:
    commit(spool)
    aggregator.answers = [raw(503, b"", Retry_After="60")]
    waiting = link(aggregator.url, backoff_max_s=60.0)
    wait_for(lambda: waiting.state == "waiting")
    idle = link(aggregator.url, idle_s=60.0)
    began = time.monotonic()
    assert waiting.stop()
    assert idle.stop()
    assert time.monotonic() - began < 2
    assert waiting.stop(), "stopping twice is fine"


def test_a_spool_that_fails_does_not_end_the_thread(
    aggregator: Aggregator, spool: Spool, link: Callable[..., Uplink]
) -> None:
    commit(spool)
    spool.stop()
    uplink = link(aggregator.url)
    wait_for(lambda: "not started" in uplink.last_error)
    spool.start()
    assert uplink.drain(20)


def test_a_socket_whose_peer_has_gone_is_not_left_open(pki: Pki) -> None:
    """One that goes between the dial and the handshake; an open one would be a warning."""
    raw = socket.socket()
    with pytest.raises(ConnectionResetError):
        pki.identity().context().wrap_socket(raw, server_hostname="127.0.0.1")
    assert raw.fileno() == -1
    gc.collect()


# -- waits, without a server


def waits(jitter: float, *retry_after: str | None, **changes: Any) -> list[float]:
    identity = Identity(Path("ca"), Path("cert"), Path("key"))
    config = UplinkConfig("https://a.example", identity, **changes)
    uplink = Uplink(config, None, jitter=lambda: jitter)  # type: ignore[arg-type]
    return [uplink._back_off("words", value) for value in retry_after]


def test_waits_double_up_to_a_bound() -> None:
    assert waits(0.0, *[None] * 12) == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60, 60, 60]
    assert waits(1.0, *[None] * 3) == [0.1, 0.2, 0.4]
    assert max(waits(0.0, *[None] * 5_000)) == 60


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("7", 7.0),
        ("0", 0.2),
        ("9999999999", 60.0),
        ("-5", 0.2),
        ("soon", 0.2),
        ("١", 0.2),
        ("", 0.2),
    ],
)
def test_retry_after_is_honoured_up_to_the_bound(value: str, wait: float) -> None:
    assert waits(0.0, value) == [wait]


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "http://a.example"},
        {"url": "https://"},
        {"url": "https://user:pw@a.example"},
        {"url": "https://a.example/?x=1"},
        {"url": "https://a.example:99999"},
        {"backoff_min_s": 0.0},
        {"backoff_min_s": 9.0, "backoff_max_s": 8.0},
        {"idle_s": 0.0},
        {"min_rate_bytes": 0},
    ],
)
def test_configurations_that_cannot_work(changes: dict[str, Any]) -> None:
    identity = Identity(Path("ca"), Path("cert"), Path("key"))
    fields: dict[str, Any] = {"url": "https://a.example", "identity": identity}
    with pytest.raises(ValueError):
        UplinkConfig(**(fields | changes))


def test_nothing_here_can_be_started_twice(
    aggregator: Aggregator, link: Callable[..., Uplink]
) -> None:
    uplink = link(aggregator.url)
    with pytest.raises(RuntimeError):
        uplink.start()
    assert json.dumps(uplink.counts)
    assert issubclass(http.client.RemoteDisconnected, ConnectionError)
