"""Uplink: the spool's batches to the aggregator, one a request, freed by the receipt alone.

POST {url}/v1/batches over HTTPS with certificates on both sides. Whatever happens to a request,
the batch stays in the spool and the very same bytes are sent again; the aggregator knows a batch
by its id. An aggregator that is away costs disk, never data.
"""

from __future__ import annotations

import http.client
import logging
import random
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Final
from urllib.parse import urlsplit

from collector.uplink_config import Batches, UplinkConfig
from collector.uplink_tls import Connection, Guard, StoppedError, explain
from collector.wire.batch import (
    MAX_BATCH_BYTES,
    MAX_RECEIPT_BYTES,
    BatchError,
    Header,
    parse_receipt,
)

__all__ = ["CONTENT_TYPE", "Batches", "Uplink", "UplinkConfig"]

log = logging.getLogger(__name__)

CONTENT_TYPE: Final = "application/vnd.tallyhold.batch"
_FREEING: Final = {"accept": "accepted", "duplicate": "duplicate", "gap": "gap"}
_OUTCOMES: Final = ("accepted", "duplicate", "gap", "rejected", "retried", "abandoned")
_COUNTS: Final = ("sent", *_OUTCOMES, "connections", "bytes")
_MAX_DOUBLINGS: Final = 30
_LAST_WORDS_S: Final = 2.0
"""How long to wait for the reason after the aggregator broke off an upload."""


class Uplink:
    """Sends in a thread of its own between `start` and `stop`.

    `state` is "stopped", "idle", "sending" or "waiting" (backing off), `last_error` the words of
    the last failure, empty after a success. counts, of requests: sent = accepted + duplicate +
    gap + rejected + retried + abandoned (by `stop`); also connections, and bytes of batches freed.
    """

    def __init__(
        self,
        config: UplinkConfig,
        spool: Batches,
        *,
        now: Callable[[], int] = time.time_ns,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.config = config
        self.state = "stopped"
        self.last_error = ""
        self.last_success_ns = 0
        self.counts: dict[str, int] = dict.fromkeys(_COUNTS, 0)
        self._spool = spool
        self._now = now
        self._jitter = jitter
        self._stop = Event()
        self._wake = Event()
        self._hurry = Event()
        self._progress = Condition()
        self._thread: Thread | None = None
        self._guard = Guard(self._stop)
        self._connection: Connection | None = None
        self._connected_at = 0.0
        self._failures = 0
        parts = urlsplit(config.url)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._target = parts.path.rstrip("/") + "/v1/batches"

    def start(self) -> None:
        """Begin to send. Errors are never raised here: they are states of the link."""
        if self._thread is not None:
            raise RuntimeError("the uplink is already started")
        for event in (self._stop, self._wake, self._hurry):
            event.clear()
        self.state = "idle"
        self._thread = Thread(target=self._run, name="uplink", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Break off and end the thread. False where it did not end in time (a name look-up)."""
        self._stop.set()
        self._wake.set()
        self._hurry.set()
        thread = self._thread
        if thread is None:
            return True
        thread.join(timeout_s)
        if thread.is_alive():
            return False
        self._thread = None
        self.state = "stopped"
        return True

    def wake(self) -> None:
        """A batch was committed: look at the spool at once. Does not cut a back-off short."""
        self._wake.set()

    def drain(self, timeout_s: float) -> bool:
        """Wait until the spool is empty, trying at once; False where it is not by then."""
        deadline = time.monotonic() + timeout_s
        self._hurry.set()
        self._wake.set()
        with self._progress:
            while self._spool.oldest() is not None:
                left = deadline - time.monotonic()
                if left <= 0 or self._stop.is_set():
                    return False
                self._progress.wait(min(left, self.config.idle_s))
        return True

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                delay_s = self._once()
                if delay_s:
                    self.state = "waiting"
                    self._hurry.wait(delay_s)
                    self._hurry.clear()
        finally:
            self._disconnect()

    def _once(self) -> float:
        """Send the oldest batch, or wait for one; gives the seconds to back off."""
        try:
            batch = self._spool.oldest()
            if batch is None:
                self.state = "idle"
                self._wake.wait(self.config.idle_s)
                self._wake.clear()
                return 0.0
            self.state = "sending"
            return self._send(*batch)
        except StoppedError:
            return 0.0
        except Exception as error:  # the thread must outlive whatever the spool raises
            return self._back_off(explain(error), None)

    def _send(self, header: Header, path: Path) -> float:
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_BATCH_BYTES + 1)
        except FileNotFoundError:
            return self._back_off("the batch was dropped before it was sent", None)
        self.counts["sent"] += 1
        try:
            status, retry_after, body = self._post(header, data)
            return self._judge(header, len(data), status, retry_after, body)
        except StoppedError:
            self.counts["abandoned"] += 1
            raise
        except Exception as error:  # the thread must outlive whatever TLS or the spool raises
            self._disconnect()
            return self._again(explain(error), None)

    def _post(self, header: Header, data: bytes) -> tuple[int, str | None, bytes]:
        """Status, Retry-After and body of the answer. A connection gone stale is dialled anew."""
        connection, is_reused = self._connect()
        try:
            return self._exchange(connection, header, data)
        except (ConnectionError, http.client.RemoteDisconnected, ssl.SSLEOFError):
            if not is_reused:
                raise
        self._disconnect()
        connection, _ = self._connect()
        return self._exchange(connection, header, data)

    def _exchange(
        self, connection: Connection, header: Header, data: bytes
    ) -> tuple[int, str | None, bytes]:
        config = self.config
        self._guard.allow(config.request_timeout_s + len(data) / config.min_rate_bytes)
        headers = {
            "Content-Type": CONTENT_TYPE,
            "X-Tallyhold-Batch": header.batch,
            "X-Tallyhold-Sent": str(self._now()),
        }
        try:
            connection.request("POST", self._target, body=data, headers=headers)
        except (ConnectionError, ssl.SSLEOFError):
            # The peer broke off. In TLS 1.3 the client learns only now that its certificate was
            # not taken: the alert, or an early answer, is still there to be read.
            self._guard.allow(_LAST_WORDS_S)
        response = connection.getresponse()
        try:
            body = response.read(MAX_RECEIPT_BYTES + 1)
            if len(body) > MAX_RECEIPT_BYTES or not response.isclosed():
                self._disconnect()  # there is more to come, or the end was not seen
        finally:
            response.close()
        return response.status, response.getheader("Retry-After"), body

    def _judge(
        self, header: Header, size: int, status: int, retry_after: str | None, body: bytes
    ) -> float:
        """Do what the answer says; gives the seconds to back off."""
        try:
            receipt = parse_receipt(body)
        except BatchError as error:
            self._disconnect()
            return self._again(f"the aggregator answers {status}: {error}", retry_after)
        if receipt.batch != header.batch:
            self._disconnect()
            return self._again("the receipt names another batch than was sent", retry_after)
        said = f"the aggregator answers {status}, {receipt.reason}: {receipt.message}"
        if receipt.verdict in _FREEING and 200 <= status < 300:
            self._spool.acknowledge(header.batch)
            self._succeed(_FREEING[receipt.verdict], size)
            return 0.0
        if receipt.verdict == "reject" and 200 <= status < 500 and status != 429:
            log.error("batch %s can never be taken: %s", header.batch, said)
            self._spool.reject(header.batch, receipt.reason)
            self.counts["rejected"] += 1
            # Wait as after a failure: an aggregator set up wrongly must not empty the spool.
            return self._back_off(said, retry_after)
        return self._again(said, retry_after)

    def _succeed(self, count: str, size: int) -> None:
        self.counts[count] += 1
        self.counts["bytes"] += size
        if self._failures:
            log.info("the uplink is up again after %d failures", self._failures)
        self._failures = 0
        self.last_error = ""
        self.last_success_ns = self._now()
        with self._progress:
            self._progress.notify_all()

    def _again(self, words: str, retry_after: str | None) -> float:
        self.counts["retried"] += 1
        return self._back_off(words, retry_after)

    def _back_off(self, words: str, retry_after: str | None) -> float:
        if words != self.last_error:
            log.warning("uplink: %s", words)
        self.last_error = words
        config = self.config
        longest = min(config.backoff_max_s, config.backoff_min_s * 2.0**self._failures)
        self._failures = min(self._failures + 1, _MAX_DOUBLINGS)
        delay_s = longest * (1.0 - self._jitter() / 2)
        if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
            delay_s = min(max(delay_s, float(retry_after[:9])), config.backoff_max_s)
        with self._progress:
            self._progress.notify_all()
        return delay_s

    def _connect(self) -> tuple[Connection, bool]:
        """The connection, and whether it has been used before."""
        connection = self._connection
        age_s = time.monotonic() - self._connected_at
        if connection and connection.sock is not None and age_s < self.config.reconnect_s:
            return connection, True
        self._disconnect()
        self._guard.allow(self.config.connect_timeout_s)
        connection = Connection(self._host, self._port, self.config.identity, self._guard)
        connection.connect()
        self._connection, self._connected_at = connection, time.monotonic()
        self.counts["connections"] += 1
        return connection, False

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
