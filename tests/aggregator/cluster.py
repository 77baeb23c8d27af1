"""A real ClickHouse cluster on loopback: two shards of two replicas (18.16) and one ZooKeeper.

Debian's packages are the newest that replicate here; the write path keeps to SQL that newer
servers take too, so what holds on this cluster is held to on theirs.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path
from typing import Final

from aggregator.store.client import Client, Endpoint
from aggregator.store.migrate import Migrator
from tests.aggregator.support import wait_for
from tests.ports import free_port

CLUSTER: Final = "tally"
SHARDS: Final = 2
REPLICAS: Final = 2

_ZOOKEEPER: Final = """tickTime=500
dataDir={folder}/data
clientPort={port}
clientPortAddress=127.0.0.1
admin.enableServer=false
4lw.commands.whitelist=ruok,srvr
maxClientCnxns=0
"""
_SERVER: Final = """<yandex>
  <logger><level>error</level><log>{folder}/log</log><errorlog>{folder}/errors</errorlog></logger>
  <tcp_port>{tcp}</tcp_port>
  <http_port>{http}</http_port>
  <interserver_http_port>{interserver}</interserver_http_port>
  <interserver_http_host>127.0.0.1</interserver_http_host>
  <listen_host>127.0.0.1</listen_host>
  <users_config>{folder}/users.xml</users_config>
  <path>{folder}/data/</path>
  <tmp_path>{folder}/tmp/</tmp_path>
  <user_files_path>{folder}/user_files/</user_files_path>
  <default_profile>default</default_profile>
  <default_database>default</default_database>
  <mark_cache_size>16777216</mark_cache_size>
  <timezone>UTC</timezone>
  <zookeeper><node><host>127.0.0.1</host><port>{zookeeper}</port></node>
    <session_timeout_ms>5000</session_timeout_ms></zookeeper>
  <macros><shard>{shard}</shard><replica>{replica}</replica></macros>
  <distributed_ddl><path>/clickhouse/task_queue/ddl</path></distributed_ddl>
  <remote_servers><{cluster}>{shards}</{cluster}></remote_servers>
</yandex>
"""
_USERS: Final = """<yandex>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
  <users><default><password>{password}</password><networks><ip>127.0.0.1</ip></networks>
    <profile>default</profile><quota>default</quota></default></users>
</yandex>
"""


def _start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "stderr").open("ab") as stderr:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd=folder,
        )


class ZooKeeper:
    """One ZooKeeper without a quorum."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it serves: an open port alone is too early."""
        java = shutil.which("java")
        assert java, "install Debian's zookeeper"
        self.folder.mkdir(parents=True)
        config = self.folder / "zoo.cfg"
        config.write_text(_ZOOKEEPER.format(folder=self.folder, port=self.port))
        jars = ("zookeeper.jar", "slf4j-simple.jar")
        self._process = _start(
            [
                java,
                "-Xmx128m",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                "-cp",
                ":".join(f"/usr/share/java/{jar}" for jar in jars),
                "org.apache.zookeeper.server.quorum.QuorumPeerMain",
                str(config),
            ],
            self.folder,
        )
        deadline = time.monotonic() + 60
        while b"Mode: standalone" not in self._ask(b"srvr"):
            assert self._process.poll() is None, (self.folder / "stderr").read_text()
            assert time.monotonic() < deadline, "ZooKeeper does not serve"
            time.sleep(0.05)

    def _ask(self, word: bytes) -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as link:
                link.sendall(word)
                answer = b""
                while data := link.recv(4096):
                    answer += data
                return answer
        except OSError:
            return b""

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Node:
    """One replica of one shard."""

    def __init__(self, folder: Path, shard: int, replica: int) -> None:
        self.folder, self.shard, self.replica = folder, shard, replica
        self.tcp, self.http, self.interserver = free_port(), free_port(), free_port()
        self.password = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.tcp}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def endpoint(self, database: str = "tallyhold") -> Endpoint:
        return Endpoint("127.0.0.1", self.tcp, "default", self.password, database)

    def start(self) -> None:
        binary = shutil.which("clickhouse-server", path=f"{os.defpath}:/usr/sbin")
        assert binary, "install Debian's clickhouse-server"
        command = [binary, f"--config-file={self.folder}/config.xml"]
        self._process = _start(command, self.folder)

    def kill(self) -> None:
        """SIGKILL, as a dead machine."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def restart(self) -> None:
        """Back after `kill`; returns once it answers."""
        self.start()
        wait_for(self.endpoint())


class Cluster:
    """ZooKeeper and the four servers; a context is not needed, `stop` ends all of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.password = uuid.uuid4().hex
        self.zookeeper = ZooKeeper(folder / "zookeeper")
        self.nodes = [
            Node(folder / f"s{shard}r{replica}", shard, replica)
            for shard in range(1, SHARDS + 1)
            for replica in range(1, REPLICAS + 1)
        ]

    def shard(self, number: int) -> list[Node]:
        return [node for node in self.nodes if node.shard == number]

    def shards(self) -> list[list[str]]:
        """host:port of every replica by shard, as the retention service's configuration has it."""
        return [[n.address for n in self.shard(k)] for k in range(1, SHARDS + 1)]

    def start(self) -> None:
        self.zookeeper.start()
        shards = "".join(
            "<shard><internal_replication>true</internal_replication>"
            + "".join(
                f"<replica><host>127.0.0.1</host><port>{node.tcp}</port><user>default</user>"
                f"<password>{self.password}</password></replica>"
                for node in self.shard(number)
            )
            + "</shard>"
            for number in range(1, SHARDS + 1)
        )
        for node in self.nodes:
            node.password = self.password
            node.folder.mkdir(parents=True)
            (node.folder / "users.xml").write_text(_USERS.format(password=self.password))
            (node.folder / "config.xml").write_text(
                _SERVER.format(
                    folder=node.folder,
                    tcp=node.tcp,
                    http=node.http,
                    interserver=node.interserver,
                    zookeeper=self.zookeeper.port,
                    shard=f"{node.shard:02d}",
                    replica=f"r{node.replica}",
                    cluster=CLUSTER,
                    shards=shards,
                )
            )
            node.start()
        for node in self.nodes:
            wait_for(node.endpoint())

    def migrate(self) -> None:
        """The product's own tables on every server, by its own migrations."""
        client = Client(self.nodes[0].endpoint())
        try:
            Migrator(client, lambda: 1, cluster=CLUSTER).run()
        finally:
            client.close()

    def stop(self) -> None:
        for node in self.nodes:
            if node._process is not None and node._process.poll() is None:
                node.kill()
        self.zookeeper.stop()
