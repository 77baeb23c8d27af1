"""What the aggregator's tests share: a Debian ClickHouse as a child process, batches, uploads."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import ssl
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aggregator.store.client import Client, Endpoint, StoreError
from aggregator.store.migrate import Migrator
from aggregator.store.schema import TABLES
from collector.wire.addr import pack
from collector.wire.batch import Receipt, parse_receipt
from collector.wire.codec import encode
from collector.wire.records import CLASSES, record_id
from tests.ports import free_port

S: Final = 1_000_000_000
DAY: Final = 86_400 * S
NOON: Final = 1_795_348_800 * S
"""2026-11-22T12:00:00Z: a window's start that is far from midnight."""

_CONFIG: Final = """<yandex>
  <logger><level>error</level><log>{folder}/log</log><errorlog>{folder}/errors</errorlog></logger>
  <tcp_port>{port}</tcp_port>
  <listen_host>127.0.0.1</listen_host>
  <users_config>{folder}/users.xml</users_config>
  <path>{folder}/data/</path>
  <tmp_path>{folder}/tmp/</tmp_path>
  <user_files_path>{folder}/user_files/</user_files_path>
  <default_profile>default</default_profile>
  <default_database>default</default_database>
  <mark_cache_size>67108864</mark_cache_size>
  <timezone>Europe/Moscow</timezone>
</yandex>
"""
_USERS: Final = """<yandex>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
  <users><default><password>{password}</password><networks><ip>127.0.0.1</ip></networks>
    <profile>default</profile><quota>default</quota></default></users>
</yandex>
"""


class DebianServer:
    """Debian's clickhouse-server 18.16 in a folder of its own, in a zone that is not UTC."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.password = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = shutil.which("clickhouse-server", path=f"{os.defpath}:/usr/sbin")
        assert binary, "install Debian's clickhouse-server"
        self.folder.mkdir(parents=True, exist_ok=True)
        fields = {"folder": self.folder, "port": self.port, "password": self.password}
        (self.folder / "config.xml").write_text(_CONFIG.format(**fields))
        (self.folder / "users.xml").write_text(_USERS.format(**fields))
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", binary, f"--config-file={self.folder}/config.xml"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
        )
        wait_for(self.endpoint())

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def start_again(self) -> None:
        """After `kill`; nothing where it runs."""
        if self._process is not None and self._process.poll() is not None:
            self.start()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()

    def endpoint(self, database: str = "tallyhold") -> Endpoint:
        return Endpoint("127.0.0.1", self.port, "default", self.password, database)


def wait_for(endpoint: Endpoint, timeout_s: float = 60.0) -> None:
    """Return once the engine answers."""
    deadline = time.monotonic() + timeout_s
    client = Client(endpoint)
    while True:
        try:
            client.outside("SELECT 1 AS one")
            return
        except StoreError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@dataclass
class Store:
    """An engine with empty, migrated tables. `keeper` may remove rows, `client` may not."""

    name: str
    client: Client
    keeper: Client

    def clear(self) -> None:
        Migrator(self.client, lambda: 1).run()
        for table in TABLES:
            self.keeper.execute(f"TRUNCATE TABLE {table}")

    def count(self, table: str, where: str = "1") -> int:
        sql = f"SELECT count() AS n FROM {table} WHERE {where}"
        return int(self.keeper.query_columns(sql)["n"][0])

    def close(self) -> None:
        self.client.close()
        self.keeper.close()


_ZERO: Final[Mapping[str, Any]] = {"id": b"\0" * 16, "addr": b"\0" * 16, "str": ""}


def rows(class_name: str, *given: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns of a class from rows that name only what matters; ids follow from the key."""
    record_class = CLASSES[class_name]
    columns: dict[str, list[Any]] = {name: [] for name in record_class.names}
    for row in given:
        full = {c.name: row.get(c.name, _ZERO.get(c.type, 0)) for c in record_class.columns}
        key = [full[name] for name in record_class.key]
        full["record_id"] = row.get("record_id", record_id(class_name, *key))
        for name, value in full.items():
            columns[name].append(value)
    return columns


def usage_rows(
    addresses: Sequence[str], start_ns: int = NOON, *, up: int = 100, down: int = 1000
) -> dict[str, list[Any]]:
    """One usage row of five minutes for each address."""
    return rows(
        "usage",
        *(
            {
                "start_ns": start_ns,
                "end_ns": start_ns + 300 * S,
                "observed_ns": start_ns + 300 * S,
                "address": pack(address),
                "prefix_len": 128,
                "up_bytes": up,
                "down_bytes": down,
            }
            for address in addresses
        ),
    )


def binding_row(address: str, subscriber: str, start_ns: int, end_ns: int = 0) -> dict[str, Any]:
    return {
        "address": pack(address),
        "prefix_len": 128,
        "subscriber": subscriber,
        "session_id": record_id("session", subscriber, start_ns),
        "observed_ns": start_ns + S,
        "valid_from_ns": start_ns,
        "valid_to_ns": end_ns,
        "certainty": "certain",
        "source": "accounting",
    }


@dataclass
class Spool:
    """A collector's numbering: each call of `batch` is the next in its epoch."""

    collector: str = "edge-1"
    epoch: str = ""
    sequence: int = 0

    def __post_init__(self) -> None:
        self.epoch = self.epoch or uuid.uuid4().hex

    def batch(
        self,
        columns: Mapping[str, Mapping[str, Sequence[Any]]],
        *,
        start_ns: int = NOON,
        sequence: int | None = None,
    ) -> bytes:
        self.sequence = self.sequence + 1 if sequence is None else sequence
        return encode(
            collector=self.collector,
            boot="boot-1",
            epoch=self.epoch,
            sequence=self.sequence,
            window_start_ns=start_ns,
            window_end_ns=start_ns + 300 * S,
            created_ns=start_ns + 301 * S,
            columns=columns,
        )


def client_tls(ca: Path, cert: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context


def upload(
    port: int,
    context: ssl.SSLContext,
    body: bytes,
    *,
    sent_ns: int | None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Receipt]:
    """POST one batch as a collector does; gives the status and the receipt."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60)
    try:
        fields = dict(headers or {})
        if sent_ns is not None:
            fields["X-Tallyhold-Sent"] = str(sent_ns)
        connection.request("POST", "/v1/batches", body=body, headers=fields)
        response = connection.getresponse()
        return response.status, parse_receipt(response.read())
    finally:
        connection.close()
