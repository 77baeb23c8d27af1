"""AF_PACKET: turns what one interface carries, as far as the filter passes it, into frames.

Frames of both directions are given with the kernel's receive time. Of a loopback interface, which
shows every packet on its way out and again on its way in, only the second copy is.
Layouts are those of linux/if_packet.h and linux/socket.h.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from collector.capture.bpf import program
from collector.capture.interface import (
    ARPHRD_LOOPBACK,
    CaptureUnavailable,
    hardware_of,
    index_of,
    is_up,
    linktype_of,
    unavailable,
)
from collector.capture.slots import MAX_BATCH, Slots
from collector.parse.link import LINK_ETHERNET, Frame
from collector.track.ports import Ports
from collector.wire.loss import Loss

__all__ = ["CaptureUnavailable", "PacketConfig", "PacketSource", "Slots"]

_ETH_P_ALL: Final = 3
_SOL_PACKET: Final = 263
_PACKET_ADD_MEMBERSHIP: Final = 1
_PACKET_STATISTICS: Final = 6
_PACKET_IGNORE_OUTGOING: Final = 23
_PACKET_MR_PROMISC: Final = 1
_SO_ATTACH_FILTER: Final = 26
_SO_RCVBUFFORCE: Final = 33
_SO_TIMESTAMPNS_NEW: Final = 64
"""Two 64-bit numbers on every architecture, unlike SO_TIMESTAMPNS (Linux 5.1)."""

_WHOLE: Final = 262_144
"""More than any frame: offloads merge up to 64 KiB, and BIG TCP, which is bulk, never passes."""

_STATISTICS: Final = struct.Struct("@II")


@dataclass(frozen=True, slots=True)
class PacketConfig:
    """What to capture. `receive_bytes`: of frames, with the kernel's overhead for each, that may
    wait. `snaplen`: longest frame taken; 65,535 holds what offloads merge. `promiscuous`: also
    frames to other stations, for a mirror port. `classes`: record classes that a loss concerns.
    `unheard`: addresses of 16 bytes; what is sent there never leaves the kernel. `tunnels`: also
    what the filter passes out of IP in IP.
    """

    interface: str
    ports: Ports = Ports()
    receive_bytes: int = 32 * 2**20
    snaplen: int = 65_535
    promiscuous: bool = False
    unheard: tuple[bytes, ...] = ()
    tunnels: bool = False
    classes: tuple[str, ...] = ("visit", "call", "session", "binding")

    def __post_init__(self) -> None:
        if not 1 <= len(self.interface.encode()) <= 15 or "/" in self.interface:
            raise ValueError("an interface name has 1 to 15 bytes")
        if not 128 <= self.snaplen <= 262_144:
            raise ValueError("snaplen is 128 to 262144")
        if not 65_536 <= self.receive_bytes <= 2**30:
            raise ValueError("receive_bytes is 65536 to 1073741824")


class PacketSource:
    """One interface's packet socket; `start` opens it, `stop` closes it, `read` never waits.

    `counts`: seen (passed the filter) = recorded (given as frames) + lost (no room in the buffer)
    + those that still wait. They include what the kernel has told; `losses` asks it. `truncated`
    frames are among the recorded; `downs` and `reopened` count the interface's absences.

    The descriptor stays the same while the interface is away: it is bound again, by `losses` or
    `read`, to whatever then bears its name.
    """

    def __init__(
        self, config: PacketConfig, now: Callable[[], int], slots: Slots | None = None
    ) -> None:
        if slots and slots.snaplen != config.snaplen:
            raise ValueError("the slots are for another snaplen")
        self._config = config
        self._now = now
        self._socket: socket.socket | None = None
        self._shared = slots
        self._slots: Slots | None = None
        self._linktype = LINK_ETHERNET
        self._checked_ns = 0
        self._down_ns = 0
        self._gone_ns = 0
        self._losses: list[Loss] = []
        names = ("seen", "recorded", "ignored", "lost", "truncated", "downs", "reopened")
        self.counts: dict[str, int] = dict.fromkeys(names, 0)

    @property
    def interface_index(self) -> int:
        """The kernel's index of the interface, which `Frame.interface` holds; -1 while away."""
        if self._socket is None or self._gone_ns:
            return -1
        return index_of(self._socket, self._config.interface)

    @property
    def receive_bytes(self) -> int:
        """The effective receive buffer; without CAP_NET_ADMIN net.core.rmem_max caps it."""
        return self._open_socket().getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    def resize(self, receive_bytes: int) -> None:
        """Gives the open socket a buffer of another size; what waits in it stays."""
        _set_buffer(self._open_socket(), receive_bytes)

    def start(self) -> None:
        """Opens the socket; raises CaptureUnavailable."""
        if self._socket is not None:
            raise RuntimeError("already started")
        name = self._config.interface
        with _socket(socket.SOCK_DGRAM, socket.AF_INET) as probe:
            hardware = hardware_of(probe, name)
        self._linktype = linktype_of(name, hardware)
        # SOCK_DGRAM takes the link header off, which on these links may or may not be there.
        kind = socket.SOCK_RAW if self._linktype == LINK_ETHERNET else socket.SOCK_DGRAM
        opened = _socket(kind, socket.AF_PACKET)
        try:
            self._prepare(opened, hardware)
            _bind(opened, name, self._config.promiscuous)
        except OSError as error:
            opened.close()
            raise unavailable(error, name) from error
        self._socket = opened
        self._slots = self._shared or Slots(self._config.snaplen)
        self._checked_ns = self._now()
        self._down_ns = self._gone_ns = 0

    def stop(self) -> None:
        """Closes the socket; what waits in it is discarded."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._slots = None

    def fileno(self) -> int:
        """The descriptor to wait on; the same from start to stop."""
        return self._open_socket().fileno()

    def read(self, limit: int) -> list[Frame]:
        """Up to `limit` frames that wait, oldest first; empty where none does."""
        opened, slots = self._open_socket(), self._slots
        assert slots is not None
        out: list[Frame] = []
        while len(out) < limit:
            wanted = min(MAX_BATCH, limit - len(out))
            try:
                count = slots.receive(opened.fileno(), wanted)
            except BlockingIOError:
                break
            except InterruptedError:
                continue
            except OSError as error:
                self._away(error)
                break
            out += slots.frames(count, self._linktype)
            self.counts["truncated"] += slots.truncated(count)
            if count < wanted:
                break
        self.counts["recorded"] += len(out)
        return out

    def losses(self, now_ns: int) -> list[Loss]:
        """Losses since the last call. Call it every second or so: it also finds the interface
        again when it was away. Raises CaptureUnavailable if it came back of another kind."""
        opened = self._open_socket()
        passed, dropped = _STATISTICS.unpack(
            opened.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
        )
        # The kernel resets both with each reading; the first includes the second.
        self.counts["seen"] += passed
        self.counts["lost"] += dropped
        if dropped:
            self._lose(self._checked_ns, now_ns, "kernel-drop", dropped)
        self._return(now_ns)
        self._checked_ns = now_ns
        found, self._losses = self._losses, []
        return found

    def _prepare(self, opened: socket.socket, hardware: int) -> None:
        """Everything that must stand before the first frame arrives, which needs a bind."""
        # The slot cuts long frames, not the filter, since only that is told (MSG_TRUNC).
        config = self._config
        code = program(config.ports, self._linktype, _WHOLE, config.unheard, tunnels=config.tunnels)
        buffer = ctypes.create_string_buffer(code, len(code))
        fprog = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
        opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
        opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS_NEW, 1)
        if hardware == ARPHRD_LOOPBACK:
            opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        _set_buffer(opened, self._config.receive_bytes)

    def _open_socket(self) -> socket.socket:
        if self._socket is None:
            raise RuntimeError("not started")
        return self._socket

    def _lose(self, start_ns: int, end_ns: int, reason: str, amount: int) -> None:
        scope = f"interface:{self._config.interface}"
        self._losses.append(
            Loss(
                start_ns, end_ns, "capture", reason, amount, "packets", self._config.classes, scope
            )
        )

    def _away(self, error: OSError) -> None:
        """The interface went down (the kernel says so once) or vanished."""
        if error.errno not in (errno.ENETDOWN, errno.ENODEV, errno.ENXIO):
            raise error
        now_ns = self._now()
        self.counts["downs"] += 1
        self._down_ns = self._down_ns or now_ns
        self._return(now_ns)

    def _return(self, now_ns: int) -> None:
        """Notices that an interface is up again, or binds to the one that took its name.

        While it is only down, the kernel keeps the binding and nothing is lost. Once it has
        vanished, whatever passes between the new one's making and the new binding is.
        """
        opened, name = self._open_socket(), self._config.interface
        bound = opened.getsockname()[0]
        try:
            index = index_of(opened, name)
        except OSError:
            index = -1
        if bound == name and not self._gone_ns:
            if self._down_ns and is_up(opened, name):
                self._lose(self._down_ns, now_ns, "interface-down", 0)
                self._down_ns = 0
                self.counts["reopened"] += 1
            return
        self._gone_ns = self._gone_ns or self._down_ns or self._checked_ns
        if index < 0:
            return
        try:
            if linktype_of(name, hardware_of(opened, name)) != self._linktype:
                raise CaptureUnavailable(
                    errno.EPROTOTYPE,
                    f"interface {name} came back with another link type: restart the collector",
                )
            _bind(opened, name, self._config.promiscuous)
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ENXIO, errno.ENETDOWN):
                return
            raise
        self._lose(self._gone_ns, now_ns, "interface-gone", -1)
        self._gone_ns = self._down_ns = 0
        self.counts["reopened"] += 1


def _set_buffer(opened: socket.socket, size: int) -> None:
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def _socket(kind: int, family: int) -> socket.socket:
    """A socket that receives nothing yet (protocol 0); raises CaptureUnavailable."""
    try:
        return socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    except OSError as error:
        raise unavailable(error, "") from error


def _bind(opened: socket.socket, name: str, promiscuous: bool) -> None:
    """Starts reception; also where an earlier binding died with its interface."""
    opened.bind((name, _ETH_P_ALL))
    if promiscuous:
        # The membership died with the earlier interface too.
        member = struct.pack("@iHH8s", index_of(opened, name), _PACKET_MR_PROMISC, 0, b"")
        opened.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, member)
