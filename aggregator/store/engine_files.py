"""What the bundled engine finds in its folder: passwords, users with their grants, configuration.

Three users exist, each with a generated password in a file of mode 0600: `writer` adds rows and
makes tables, `reader` reads all but late rows, `keeper` is for the retention service: it alone may
remove rows, look into the vault and say which partitions are closed. The user `default` has no
password, as the engine's own first statement cannot carry one; it may only open the listener and
read the control folder, which holds nothing but a FIFO.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import socket
import stat
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from aggregator.store.errors import Refused, Unavailable
from aggregator.store.schema import CLOSED, LATE_TABLES, TABLES

HOST: Final = "127.0.0.1"
USERS: Final = ("writer", "reader", "keeper")
VAULT: Final = "tallyhold_vault"
"""Database of the retention service's preserved rows; no other user may look into it."""


class EngineError(RuntimeError):
    """The engine cannot be started; the message says what to do."""


def choose_port(wanted: int) -> int:
    """`wanted`, proven free, or any free port for 0."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError as error:
            raise EngineError(
                f"port {wanted} on {HOST} cannot be used ({error.strerror}): another program,"
                " perhaps another engine, has it. Set [engine] port to a free one, or 0 for any."
            ) from None
        return int(probe.getsockname()[1])


def password_hash(path: Path) -> str:
    if not path.exists():
        write(path, secrets.token_urlsafe(32), 0o600)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise EngineError(f"{path} is readable by others (mode {mode:o}): chmod 600 it")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(path: Path, text: str, mode: int) -> None:
    temporary = path.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def bundled_port(data: Path) -> int:
    """The port that the engine in this folder was last started on.

    Raises Unavailable where it never was, and Refused where its configuration may not be read.
    """
    try:
        found = re.search(r"<tcp_port>(\d+)</tcp_port>", (data / "config.xml").read_text())
    except FileNotFoundError:
        raise Unavailable(
            f"no engine was ever started in {data}: run tallyhold appliance"
        ) from None
    except OSError as error:
        raise Refused(f"{data}/config.xml: {error.strerror}") from None
    if found is None:
        raise Unavailable(f"{data}/config.xml names no port: start the appliance again")
    return int(found[1])


def make_fifo(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    os.mkfifo(path, 0o600)


def config_xml(data: Path, port: int, memory_ratio: float) -> str:
    # No size protects a partition from its end: the default would refuse to drop one over 50 GB.
    folder = escape(str(data))
    return f"""<clickhouse>
  <log-level>fatal</log-level>
  <path>{folder}/store/</path>
  <tcp_port>{port}</tcp_port>
  <listen_host>{HOST}</listen_host>
  <users_config>users.xml</users_config>
  <user_files_path>{folder}/control/</user_files_path>
  <default_profile>default</default_profile>
  <default_database>default</default_database>
  <timezone>UTC</timezone>
  <shutdown_wait_unfinished>1</shutdown_wait_unfinished>
  <max_connections>256</max_connections>
  <max_server_memory_usage_to_ram_ratio>{memory_ratio}</max_server_memory_usage_to_ram_ratio>
  <mark_cache_size>268435456</mark_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <max_partition_size_to_drop>0</max_partition_size_to_drop>
  <max_table_size_to_drop>0</max_table_size_to_drop>
</clickhouse>
"""


def users_xml(hashes: dict[str, str], database: str) -> str:
    tables = {*TABLES, "schema_migrations"}
    written = sorted(tables - {CLOSED.name})
    read = sorted(tables - LATE_TABLES.keys())
    grants = {
        "writer": (
            f"GRANT SELECT, CREATE DATABASE, CREATE TABLE, CREATE VIEW, ALTER COLUMN,"
            f" ALTER SETTINGS, SHOW ON {database}.*",
            *(f"GRANT INSERT ON {database}.{table}" for table in written),
            "GRANT TABLE ENGINE ON *",
            "GRANT SELECT ON system.*",
        ),
        "reader": (
            f"GRANT SHOW ON {database}.*",
            *(f"GRANT SELECT ON {database}.{table}" for table in read),
            "GRANT SELECT ON system.*",
        ),
        "keeper": (
            f"GRANT ALL ON {database}.*",
            f"GRANT ALL ON {VAULT}.*",
            "GRANT TABLE ENGINE ON *",
            "GRANT SELECT ON system.*",
        ),
    }
    opener = (
        "GRANT SYSTEM LISTEN ON *.*",
        "GRANT READ ON FILE",
        "GRANT CREATE TEMPORARY TABLE ON *.*",
    )
    people = [_user_xml("default", "<no_password/>", "default", opener)]
    for user, digest in hashes.items():
        secret = f"<password_sha256_hex>{digest}</password_sha256_hex>"
        people.append(_user_xml(user, secret, user, grants[user]))
    # readonly 2: reads alone, yet a session may set its own limits.
    return f"""<clickhouse>
  <profiles>
    <default/>
    <writer/>
    <keeper/>
    <reader><readonly>2</readonly></reader>
  </profiles>
  <quotas><default/></quotas>
  <users>
{"".join(people)}  </users>
</clickhouse>
"""


def _user_xml(name: str, secret: str, profile: str, grants: tuple[str, ...]) -> str:
    lines = "".join(f"<query>{escape(grant)}</query>" for grant in grants)
    return (
        f"    <{name}>{secret}<networks><ip>{HOST}</ip></networks><profile>{profile}</profile>"
        f"<quota>default</quota><grants>{lines}</grants></{name}>\n"
    )
