"""A collector in one process with its tests, on a real router in namespaces of this machine."""

from __future__ import annotations

import datetime as dt
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from collector.config import Config, load
from collector.service import Collector
from collector.wire import addr, codec
from tests.collector.capture.netns_fixture import Host, Router, udp

CONFIG = """
name = "edge-1"
[access]
interfaces = ["acc*"]
prefixes = ["10.0.0.0/16", "2001:db8:0:a::/63"]
[control]
interfaces = ["up0"]
{control}
[timing]
window_s = {window_s}
dump_s = 60
[spool]
folder = "{folder}/spool"
[uplink]
url = "https://127.0.0.1:9"
ca = "{folder}/edge.pem"
cert = "{folder}/edge.pem"
key = "{folder}/edge.key"
[metrics]
listen = "127.0.0.1:{port}"
{more}
"""
Rows = dict[str, list[dict[str, Any]]]


def write_keys(folder: Path, name: str = "edge") -> None:
    """A key and a certificate that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge-1")])
    today = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today)
        .not_valid_after(today + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def write_config(
    folder: Path, window_s: int = 3600, control: str = "", more: str = "", port: int = 0
) -> Path:
    if not (folder / "edge.key").exists():
        write_keys(folder)
    path = folder / "collector.toml"
    path.write_text(
        CONFIG.format(folder=folder, window_s=window_s, control=control, more=more, port=port)
    )
    return path


def config(folder: Path, **settings: Any) -> Config:
    return load(write_config(folder, **settings))


def spin(collector: Collector, until: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Turns of the loop until something is true."""
    deadline = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < deadline, "it did not come"
        collector.step()


def settle(collector: Collector, seconds: float = 0.3) -> None:
    """Turns of the loop for some time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        collector.step()


def kill(collector: Collector) -> None:
    """What a SIGKILL leaves: descriptors are closed, nothing is written or said."""
    collector.uplink.stop()
    collector.metrics.stop()
    collector.conntrack.stop()
    for opened in collector.sources._open.values():
        opened.source.stop()
    collector.sources._open.clear()
    collector.sources._selector.close()
    os.close(collector.sources._waker)
    collector.sources._waker = -1
    journal = collector.journal
    if journal._descriptor is not None:
        os.close(journal._descriptor)
        journal._descriptor = None
    collector.spool.stop()


def spooled(folder: Path) -> Rows:
    """Rows of every batch in the spool, in order."""
    found: Rows = {}
    for path in sorted((folder / "spool").glob("*.batch")):
        _, batches = codec.decode(path.read_bytes())
        for name, batch in batches.items():
            found.setdefault(name, []).extend(pa.RecordBatch.to_pylist(batch))
    return found


def octets(rows: Rows, host: Host) -> tuple[int, int]:
    """(up, down) bytes of a host's usage, both families."""
    keys = (addr.pack(host.ipv4), addr.network(addr.pack(host.ipv6), 64))
    mine = [row for row in rows.get("usage", []) if row["address"] in keys]
    return sum(row["up_bytes"] for row in mine), sum(row["down_bytes"] for row in mine)


def moved(host: Host, before: tuple[int, int]) -> tuple[int, int]:
    """What the host's own interface carried since `before`."""
    after = host.quiet()
    return after[0] - before[0], after[1] - before[1]


def traffic(lab: Router, up: int = 5, down: int = 3) -> None:
    """Some datagrams of A with the world, both ways."""
    udp(lab.a, lab.up, socket.AF_INET, up=up, down=down)


def gaps(rows: Rows) -> set[tuple[str, str]]:
    return {(row["stage"], row["reason"]) for row in rows.get("gap", [])}


def assert_once(rows: Rows) -> None:
    """No row is there twice; sessions, bindings, calls and mappings have versions."""
    for name in ("usage", "visit", "link", "gap"):
        ids = [row["record_id"] for row in rows.get(name, [])]
        assert len(ids) == len(set(ids)), name
