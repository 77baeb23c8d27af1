"""A UDP socket that flow exporters send to: datagrams of the exporters that are known, with times.

What the kernel had to drop is not counted here: the sequence numbers say what never arrived, to the
record, wherever it was lost.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from collector.track.exporters import Exported
from collector.wire.addr import MAPPED, pack

MAX_DATAGRAM: Final = 65_535
MAX_SENDERS: Final = 4_096
"""Senders remembered as known or not, so that each is looked up once."""
_SO_RCVBUFFORCE: Final = 33

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ExportsUnavailable(OSError):
    """The address cannot be listened on; the message says what to change."""


@dataclass(frozen=True, slots=True)
class ExportsConfig:
    """Where to listen, and whose datagrams to take."""

    host: str
    port: int
    exporters: tuple[Network, ...]
    receive_bytes: int = 32 * 2**20


class ExportSocket:
    """Inert until `start`, and for good where no configuration is given.

    counts, in datagrams: seen = recorded + ignored.
    """

    def __init__(self, config: ExportsConfig | None, now: Callable[[], int]) -> None:
        self._config, self._now = config, now
        self._socket: socket.socket | None = None
        self._known: dict[str, bytes | None] = {}
        self.counts: dict[str, int] = {"seen": 0, "recorded": 0, "ignored": 0, "lost": 0}

    @property
    def port(self) -> int:
        """The port listened on; differs from the configured one only where that was 0, and is
        0 where nothing is."""
        return 0 if self._socket is None else int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Raises ExportsUnavailable."""
        config = self._config
        if config is None:
            return
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            opened.setblocking(False)
            _set_buffer(opened, config.receive_bytes)
            opened.bind((config.host, config.port))
        except OSError as error:
            opened.close()
            raise ExportsUnavailable(
                f"cannot listen on {config.host} port {config.port} for exports: {error.strerror}; "
                "stop what uses it or set exports.listen to a free address"
            ) from None
        self._socket = opened

    def stop(self) -> None:
        """Close the socket; may be called again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What to wait for: the socket, where there is one."""
        return () if self._socket is None else (self._socket.fileno(),)

    def read(self, limit: int) -> list[Exported]:
        """Up to `limit` datagrams that wait; fewer, where strangers sent some of them."""
        found: list[Exported] = []
        opened = self._socket
        for _ in range(limit if opened else 0):
            assert opened is not None
            try:
                data, sender = opened.recvfrom(MAX_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                break
            self.counts["seen"] += 1
            exporter = self._exporter(sender[0])
            if exporter is None:
                self.counts["ignored"] += 1
                continue
            self.counts["recorded"] += 1
            found.append(Exported(self._now(), exporter, data))
        return found

    def _exporter(self, sender: str) -> bytes | None:
        """The address of a known exporter in sixteen bytes; None for a stranger's."""
        if sender not in self._known:
            assert self._config is not None
            if len(self._known) >= MAX_SENDERS:
                self._known.clear()
            packed = pack(sender.partition("%")[0])
            plain = ipaddress.ip_address(packed[12:] if packed[:12] == MAPPED else packed)
            is_known = any(plain in network for network in self._config.exporters)
            self._known[sender] = packed if is_known else None
        return self._known[sender]


def _set_buffer(opened: socket.socket, size: int) -> None:
    """Beyond the system's limit where we may."""
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
