"""Counters of network interfaces out of one RTM_GETLINK dump (linux/rtnetlink.h, if_link.h).

All interfaces of the namespace are read, those without a role too, because a renamed interface is
known by its index. Link headers are included in the byte counts; the 4-byte frame check is not.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from collector.capture.interface import ARPHRD_ETHER
from collector.capture.rawnl import NETLINK_ROUTE, Netlink, attributes
from collector.track.links import LinkCounters, LinkReading

MAX_INTERFACES: Final = 65_536
"""Interfaces read at once; a broadband server with a PPP interface a line has this order."""
MAX_PATTERNS: Final = 64
ROLES: Final = ("access", "control", "lines")

_RTM_GETLINK: Final = 18
_IFNAME, _STATS64, _CARRIER_CHANGES = 3, 23, 35
_STATS: Final = struct.Struct("=8Q")
"""The front of struct rtnl_link_stats64: packets, bytes, errors, drops, each received and sent."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GSET: Final = 1
_ETHERNET_HEADER_BYTES: Final = 14
_UNKNOWN_SPEED: Final = 2**32 - 1


class LinksUnavailable(OSError):
    """The kernel does not answer about interfaces; the message says what it said."""


@dataclass(frozen=True, slots=True)
class LinksConfig:
    """patterns: (shell pattern of interface names, role); the first that fits gives the role."""

    patterns: tuple[tuple[str, str], ...]
    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        if len(self.patterns) > MAX_PATTERNS:
            raise ValueError(f"at most {MAX_PATTERNS} interface patterns")
        for _, role in self.patterns:
            if role not in ROLES:
                raise ValueError(f"a role is one of {', '.join(ROLES)}")


class LinkReader:
    """Reads the interfaces in the network namespace of the calling thread; keeps nothing."""

    def __init__(self, config: LinksConfig, now: Callable[[], int]) -> None:
        self._config = config
        self._now = now

    def read(self) -> LinkReading:
        """Counters of every interface; raises LinksUnavailable."""
        try:
            with Netlink(NETLINK_ROUTE, self._config.timeout_s) as link:
                answer = link.dump(_RTM_GETLINK, bytes(16))
                namespace = link.namespace()
            ts_ns = self._now()
            boot_id = _BOOT_ID.read_text(encoding="ascii").strip()
        except OSError as error:
            raise LinksUnavailable(
                error.errno, f"interfaces cannot be read: {error.strerror}"
            ) from error
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            links = [self._link(payload, control) for payload in answer.payloads[:MAX_INTERFACES]]
        return LinkReading(
            ts_ns,
            f"{boot_id}/{namespace:x}",
            tuple(link for link in links if link is not None),
            max(len(answer.payloads) - MAX_INTERFACES, 0),
        )

    def role(self, name: str) -> str:
        """The role of an interface, empty for one that is not ours to watch."""
        for pattern, role in self._config.patterns:
            if fnmatchcase(name, pattern):
                return role
        return ""

    def _link(self, payload: bytes, control: socket.socket) -> LinkCounters | None:
        """One RTM_NEWLINK; None for one without statistics."""
        if len(payload) < 16:
            return None
        hardware, index = struct.unpack_from("=Hi", payload, 2)
        found = attributes(payload[16:])
        stats = found.get(_STATS64, b"")
        if len(stats) < _STATS.size:
            return None
        raw_name = found.get(_IFNAME, b"").rstrip(b"\x00")
        name = raw_name.decode("utf-8", "replace")
        rx_packets, tx_packets, rx_bytes, tx_bytes, *rest = _STATS.unpack_from(stats)
        changes = int.from_bytes(found.get(_CARRIER_CHANGES, bytes(4)), sys.byteorder)
        role = self.role(name)
        return LinkCounters(
            index,
            name,
            role,
            (rx_bytes, tx_bytes, rx_packets, tx_packets, *rest),
            changes,
            _speed_mbps(raw_name, control) if role else 0,
            # PPP and tunnels count packets without a header of theirs.
            _ETHERNET_HEADER_BYTES if hardware == ARPHRD_ETHER else 0,
        )


def _speed_mbps(name: bytes, control: socket.socket) -> int:
    """Speed by ETHTOOL_GSET (linux/ethtool.h), 0 where the driver does not say.

    The ioctl follows the socket's namespace; /sys/class/net shows the one it was mounted in.
    """
    command = ctypes.create_string_buffer(struct.pack("=I", _ETHTOOL_GSET), 44)
    request = struct.pack("16sP8x", name, ctypes.addressof(command))
    try:
        fcntl.ioctl(control.fileno(), _SIOCETHTOOL, request)
    except OSError:  # no ethtool for tunnels, PPP and the like, or gone since the dump
        return 0
    (low,) = struct.unpack_from("=H", command.raw, 12)
    (high,) = struct.unpack_from("=H", command.raw, 28)
    speed = high << 16 | low
    return 0 if speed in (_UNKNOWN_SPEED, 0xFFFF) else speed
