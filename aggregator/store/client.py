"""SQL and columns in, columns or typed errors out: the only module that knows the driver.

One native TCP connection per thread. Reads come back as plain columns, writes go out as numpy
columns in blocks; both are columns end to end, because rows of tuples cost sixty times the CPU.

Parameters are put into the text by the driver, on this side, as the common subset of SQL has no
others. Hence no query text may be kept anywhere: the bundled engine has no query_log, a server
should keep a short one, and errors raised here never repeat a statement that had parameters.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

from clickhouse_driver import Client as Driver
from clickhouse_driver import defines
from clickhouse_driver import errors as driver_errors
from clickhouse_driver.block import BlockInfo, ColumnOrientedBlock
from clickhouse_driver.protocol import ClientPacketTypes
from clickhouse_driver.varint import write_varint
from clickhouse_driver.writer import write_binary_str, write_binary_uint8

from aggregator.store.blocks import BadColumn, column_bytes
from aggregator.store.endpoint import Capabilities, Endpoint, Version, read_password
from aggregator.store.errors import (
    Corrupt,
    Misused,
    Refused,
    StoreError,
    Unavailable,
    error_of,
)
from aggregator.store.values import Values, array_of, checked, columns_of

__all__ = [
    "Capabilities",
    "Client",
    "Corrupt",
    "Endpoint",
    "Misused",
    "Refused",
    "StoreError",
    "Unavailable",
    "Values",
    "Version",
    "read_password",
]

MAX_BLOCK_ROWS: Final = 100_000
"""Rows of one insert. Measured best between 50 and 100 thousand; one insert is one block, and a
block is what ClickHouse writes whole or not at all."""
CONNECT_TIMEOUT_S: Final = 5.0
_MAX_DETAIL_CHARS: Final = 300

# The driver logs every refused connection with a stack trace, and statements at debug level. What
# went wrong is raised here, and statements carry personal data.
logging.getLogger("clickhouse_driver").setLevel(logging.CRITICAL + 1)


class _ColumnDriver(Driver):  # type: ignore[misc]  # the driver has no types
    """The driver, but a block of our columns goes out as whole columns (aggregator.store.blocks).

    Other types than ours are left to the driver. Compression is off, as it is not worth its CPU
    on loopback, and as this writes below it.
    """

    def send_data(
        self, sample_block: Any, data: Any, types_check: bool = False, columnar: bool = False
    ) -> int:
        kinds = sample_block.columns_with_types
        encoded = [column_bytes(kind, each) for (_, kind), each in zip(kinds, data, strict=True)]
        if None in encoded:
            plain = [each.tolist() for each in data]
            rows: int = super().send_data(sample_block, plain, types_check, columnar)
            return rows
        self._send_block(kinds, encoded, len(data[0]))
        self.connection.send_data(ColumnOrientedBlock())  # an empty block ends the data
        return len(data[0])

    def _send_block(self, kinds: Any, encoded: list[bytes | None], rows: int) -> None:
        out = self.connection.fout
        revision = self.connection.server_info.used_revision
        write_varint(ClientPacketTypes.DATA, out)
        if revision >= defines.DBMS_MIN_REVISION_WITH_TEMPORARY_TABLES:
            write_binary_str("", out)
        if revision >= defines.DBMS_MIN_REVISION_WITH_BLOCK_INFO:
            BlockInfo().write(out)
        write_varint(len(kinds), out)
        write_varint(rows, out)
        for (name, kind), column in zip(kinds, encoded, strict=True):
            write_binary_str(name, out)
            write_binary_str(kind, out)
            if revision >= defines.DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION:
                write_binary_uint8(0, out)  # neither sparse nor otherwise special
            out.write(column)
        out.flush()


class Client:
    """Statements, reads and block inserts against one endpoint; safe to share between threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._local = threading.local()
        self._lock = threading.Lock()
        self._open: list[Driver] = []
        self._generation = 0
        self._capabilities: Capabilities | None = None

    @property
    def database(self) -> str:
        return self.endpoint.database

    def capabilities(self) -> Capabilities:
        """Of the server that answers; asked once per connection generation."""
        known = self._capabilities
        if known is None:
            text = str(self.outside("SELECT version() AS version")["version"][0])
            major, minor = text.split(".")[:2]
            known = self._capabilities = Capabilities.of((int(major), int(minor)))
        return known

    def outside(self, sql: str) -> dict[str, list[Any]]:
        """Run a statement without the database, which may not exist yet; gives columns or {}."""
        driver = self._new(database="")
        try:
            data, kinds = driver.execute(sql, with_column_types=True, columnar=True) or ([], [])
        except (driver_errors.Error, EOFError, OSError) as error:
            raise _typed(error, detail=True, where=self._where()) from None
        finally:
            driver.disconnect()
        return columns_of(data, kinds)

    def ping(self) -> None:
        """Raise unless the engine answers a query."""
        self.query_columns("SELECT 1 AS one")

    def execute(self, sql: str, params: Mapping[str, Any] | None = None) -> None:
        """Run a statement that gives no rows."""
        with self._driver(detail=params is None) as driver:
            driver.execute(sql, checked(params))

    def query_columns(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> dict[str, list[Any]]:
        """Columns of the answer by name, empty lists where there are no rows.

        String comes as str, FixedString as bytes, integers as int, Date and DateTime as the
        driver's date and aware datetime.
        """
        with self._driver(detail=params is None) as driver:
            data, kinds = driver.execute(
                sql,
                checked(params),
                with_column_types=True,
                columnar=True,
                settings=dict(settings) if settings else None,
            )
        return columns_of(data, kinds)

    def insert(
        self,
        table: str,
        columns: Mapping[str, Values],
        query_id: str | None = None,
    ) -> int:
        """Insert one block of at most MAX_BLOCK_ROWS rows; return its rows once acknowledged.

        Integers as numpy arrays, strings as lists of str or object arrays of bytes, sixteen-byte
        values as lists of bytes. After Unavailable it is unknown whether the block is in.
        """
        arrays = [array_of(name, values) for name, values in columns.items()]
        rows = len(arrays[0]) if arrays else 0
        if any(len(array) != rows for array in arrays):
            raise Misused(f"columns of different lengths for table {table}")
        if rows == 0:
            return 0
        if rows > MAX_BLOCK_ROWS:
            raise Misused(f"{rows} rows in one block for table {table}: at most {MAX_BLOCK_ROWS}")
        settings: dict[str, Any] = {"insert_block_size": MAX_BLOCK_ROWS}
        if query_id and self.capabilities().deduplication_token:
            settings["insert_deduplication_token"] = query_id
        names = ", ".join(columns)
        sql = f"INSERT INTO {table} ({names}) VALUES"
        try:
            with self._driver(detail=False) as driver:
                driver.execute(sql, arrays, columnar=True, query_id=query_id, settings=settings)
        except BadColumn as error:
            raise Misused(f"table {table}: {error}") from None
        return rows

    def close(self) -> None:
        """Close every connection; the next statement of any thread opens a new one."""
        with self._lock:
            drivers, self._open = self._open, []
            self._generation += 1
            self._capabilities = None
        for driver in drivers:
            driver.disconnect()

    @contextlib.contextmanager
    def _driver(self, *, detail: bool) -> Iterator[Driver]:
        """This thread's connection; driver errors leave as ours. `detail` allows the first line
        of the engine's own message, which may repeat values of the statement."""
        driver = self._connected()
        try:
            yield driver
        except (driver_errors.Error, EOFError, OSError) as error:
            driver.disconnect()
            raise _typed(error, detail=detail, where=self._where()) from None
        except BaseException:
            driver.disconnect()  # half a statement may be on the wire
            raise

    def _connected(self) -> Driver:
        generation, driver = getattr(self._local, "driver", (-1, None))
        if driver is None or generation != self._generation:
            driver = self._new(self.database)
            with self._lock:
                self._open.append(driver)
                self._local.driver = (self._generation, driver)
        return driver

    def _new(self, database: str) -> Driver:
        at = self.endpoint
        return _ColumnDriver(
            host=at.host,
            port=at.port,
            user=at.user,
            password=at.password,
            database=database,
            secure=at.secure,
            ca_certs=str(at.ca) if at.ca else None,
            connect_timeout=CONNECT_TIMEOUT_S,
            send_receive_timeout=at.timeout_s,
            client_name="tallyhold",
            settings={"strings_as_bytes": True},
        )

    def _where(self) -> str:
        return f"{self.endpoint.host}:{self.endpoint.port}"


def _typed(error: Exception, *, detail: bool, where: str) -> StoreError:
    """One of our four errors, with the code's name and, only if harmless, the engine's words."""
    code = int(getattr(error, "code", 0) or 0)
    if not isinstance(error, driver_errors.ServerException):
        name = type(error).__name__
        return Unavailable(f"ClickHouse at {where} does not answer ({name})", code)
    text = f"ClickHouse at {where} answered error {code}"
    if detail:
        words = str(error.message).split("Stack trace")[0].strip()
        text += f": {words[:_MAX_DETAIL_CHARS]}"
    return error_of(code, text)
