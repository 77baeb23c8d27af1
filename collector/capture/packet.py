"""AF_PACKET: turns what one interface carries, as far as the filter passes it, into frames.

Frames of both directions are given with the kernel's receive time. Of a loopback interface, which
shows every packet on its way out and again on its way in, only the second copy is.
Layouts are those of linux/if_packet.h and linux/socket.h; recvmmsg(2) fills many slots a call.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from collector.capture.bpf import program
from collector.parse.link import LINK_ETHERNET, LINK_RAW, Frame
from collector.track.observer import Ports
from collector.wire.loss import Loss

MAX_BATCH: Final = 64
"""Frames of one recvmmsg call. A slot takes `snaplen` bytes, so this is 4 MiB of memory; the cost
of the call itself is a tenth of a microsecond a frame by then."""

_ETH_P_ALL: Final = 3
_SOL_PACKET: Final = 263
_PACKET_ADD_MEMBERSHIP: Final = 1
_PACKET_STATISTICS: Final = 6
_PACKET_IGNORE_OUTGOING: Final = 23
_PACKET_MR_PROMISC: Final = 1
_PACKET_OUTGOING: Final = 4
_IFF_UP: Final = 1
_SO_ATTACH_FILTER: Final = 26
_SO_RCVBUFFORCE: Final = 33
_SO_TIMESTAMPNS_NEW: Final = 64
"""Two 64-bit numbers on every architecture, unlike SO_TIMESTAMPNS (Linux 5.1)."""
_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFHWADDR: Final = 0x8927
_SIOCGIFINDEX: Final = 0x8933
_ARPHRD_LOOPBACK: Final = 772
_ARPHRD_ETHERNET: Final = frozenset((1, _ARPHRD_LOOPBACK))
_ARPHRD_RAW: Final = frozenset((512, 519, 768, 769, 776, 778, 65534))
"""PPP, raw IP, tunnels of both families, GRE, and no header at all (tun, WireGuard)."""

_WHOLE: Final = 262_144
"""More than any frame: offloads merge up to 64 KiB, and BIG TCP, which is bulk, never passes."""

_IFREQ: Final = struct.Struct("@16s24s")
_STATISTICS: Final = struct.Struct("@II")
_IOVEC: Final = np.dtype([("base", np.uintp), ("len", np.uintp)])
_MSGHDR: Final = np.dtype(
    [
        ("name", np.uintp),
        ("namelen", np.uint32),
        ("iov", np.uintp),
        ("iovlen", np.uintp),
        ("control", np.uintp),
        ("controllen", np.uintp),
        ("flags", np.int32),
    ],
    align=True,
)
_MMSGHDR: Final = np.dtype([("header", _MSGHDR), ("len", np.uint32)], align=True)
_CONTROL: Final = np.dtype(
    [
        ("len", np.uintp),
        ("level", np.int32),
        ("type", np.int32),
        ("seconds", np.int64),
        ("nanoseconds", np.int64),
        ("rest", "V32"),
    ]
)
"""struct cmsghdr with SO_TIMESTAMPNS_NEW's data, the only control message asked for."""
_SOCKADDR: Final = np.dtype(
    [
        ("family", "u2"),
        ("protocol", "u2"),
        ("ifindex", "i4"),
        ("hatype", "u2"),
        ("pkttype", "u1"),
        ("halen", "u1"),
        ("addr", "V8"),
    ]
)


class CaptureUnavailable(OSError):
    """An interface cannot be captured as things are; the message says what an operator must do."""


@dataclass(frozen=True, slots=True)
class PacketConfig:
    """What to capture. `receive_bytes`: of frames, with the kernel's overhead for each, that may
    wait. `snaplen`: longest frame taken; 65,535 holds what offloads merge. `promiscuous`: also
    frames to other stations, for a mirror port. `classes`: record classes that a loss concerns.
    """

    interface: str
    ports: Ports = Ports()
    receive_bytes: int = 32 * 2**20
    snaplen: int = 65_535
    promiscuous: bool = False
    classes: tuple[str, ...] = ("visit", "call", "session", "binding")

    def __post_init__(self) -> None:
        if not 1 <= len(self.interface.encode()) <= 15 or "/" in self.interface:
            raise ValueError("an interface name has 1 to 15 bytes")
        if not 128 <= self.snaplen <= 262_144:
            raise ValueError("snaplen is 128 to 262144")
        if not 65_536 <= self.receive_bytes <= 2**30:
            raise ValueError("receive_bytes is 65536 to 1073741824")


class Slots:
    """The memory that recvmmsg fills: frames, sender addresses and timestamps.

    Sources that one thread reads in turn can share it, as frames are copied out of it at once.
    """

    def __init__(self, snaplen: int = 65_535) -> None:
        self._snaplen = snaplen
        self._data = np.zeros((MAX_BATCH, snaplen), np.uint8)
        self._names = np.zeros(MAX_BATCH, _SOCKADDR)
        self._control = np.zeros(MAX_BATCH, _CONTROL)
        iovecs = np.zeros(MAX_BATCH, _IOVEC)
        at = np.arange(MAX_BATCH)
        iovecs["base"] = self._data.ctypes.data + at * snaplen
        iovecs["len"] = snaplen
        self._iovecs = iovecs  # kept alive, as the headers hold its address
        self._headers = np.zeros(MAX_BATCH, _MMSGHDR)
        header = self._headers["header"]
        header["name"] = self._names.ctypes.data + at * _SOCKADDR.itemsize
        header["iov"] = iovecs.ctypes.data + at * _IOVEC.itemsize
        header["iovlen"] = 1
        header["control"] = self._control.ctypes.data + at * _CONTROL.itemsize
        self._view = self._data.reshape(-1).data
        self._recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._recvmmsg.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_void_p,
        ]

    def receive(self, descriptor: int, limit: int) -> int:
        """Frames received without waiting; raises OSError, BlockingIOError where none waits."""
        header = self._headers["header"]
        header["namelen"] = _SOCKADDR.itemsize
        header["controllen"] = _CONTROL.itemsize
        count: int = self._recvmmsg(
            descriptor, self._headers.ctypes.data, limit, socket.MSG_DONTWAIT, None
        )
        if count < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return count

    def frames(self, count: int, linktype: int) -> list[Frame]:
        """The first `count` slots as frames, cut where they were longer than the slot."""
        control, names = self._control[:count], self._names[:count]
        snaplen, view = self._snaplen, self._view
        starts = range(0, count * snaplen, snaplen)
        return [
            Frame(stamp, bytes(view[start : start + size]), linktype, interface, outgoing)
            for stamp, start, size, interface, outgoing in zip(
                (control["seconds"] * 1_000_000_000 + control["nanoseconds"]).tolist(),
                starts,
                self._headers["len"][:count].tolist(),
                names["ifindex"].tolist(),
                (names["pkttype"] == _PACKET_OUTGOING).tolist(),
                strict=True,
            )
        ]

    def truncated(self, count: int) -> int:
        """How many of the first `count` frames were longer than a slot."""
        flags = self._headers["header"]["flags"][:count]
        return int(np.count_nonzero(flags & socket.MSG_TRUNC))


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
        return _index(self._socket, self._config.interface)

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
            hardware = _hardware(probe, name)
        self._linktype = _linktype(name, hardware)
        # SOCK_DGRAM takes the link header off, which on these links may or may not be there.
        kind = socket.SOCK_RAW if self._linktype == LINK_ETHERNET else socket.SOCK_DGRAM
        opened = _socket(kind, socket.AF_PACKET)
        try:
            self._prepare(opened, hardware)
            _bind(opened, name, self._config.promiscuous)
        except OSError as error:
            opened.close()
            raise _unavailable(error, name) from error
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
        code = program(self._config.ports, self._linktype, _WHOLE)
        buffer = ctypes.create_string_buffer(code, len(code))
        fprog = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
        opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
        opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS_NEW, 1)
        if hardware == _ARPHRD_LOOPBACK:
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
            index = _index(opened, name)
        except OSError:
            index = -1
        if bound == name and not self._gone_ns:
            if self._down_ns and _is_up(opened, name):
                self._lose(self._down_ns, now_ns, "interface-down", 0)
                self._down_ns = 0
                self.counts["reopened"] += 1
            return
        self._gone_ns = self._gone_ns or self._down_ns or self._checked_ns
        if index < 0:
            return
        try:
            if _linktype(name, _hardware(opened, name)) != self._linktype:
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
        raise _unavailable(error, "") from error


def _unavailable(error: OSError, name: str) -> CaptureUnavailable:
    number = error.errno or errno.EIO
    if number in (errno.EPERM, errno.EACCES):
        return CaptureUnavailable(
            number,
            "packet capture needs CAP_NET_RAW: in a systemd unit set "
            "AmbientCapabilities=CAP_NET_RAW, in a container add the capability NET_RAW",
        )
    if number in (errno.ENODEV, errno.ENXIO):
        return CaptureUnavailable(number, f"there is no interface {name} in this network namespace")
    if number == errno.EAFNOSUPPORT:
        return CaptureUnavailable(number, "the kernel has no packet sockets: modprobe af_packet")
    return CaptureUnavailable(number, f"capture on {name}: {os.strerror(number)}")


def _ask(asker: socket.socket, request: int, name: str) -> bytes:
    """The answer part of an interface ioctl (netdevice(7)); raises OSError."""
    ifreq = _IFREQ.pack(name.encode(), b"")
    return fcntl.ioctl(asker.fileno(), request, ifreq)[16:]


def _index(asker: socket.socket, name: str) -> int:
    return int(struct.unpack_from("@i", _ask(asker, _SIOCGIFINDEX, name))[0])


def _is_up(asker: socket.socket, name: str) -> bool:
    return bool(struct.unpack_from("@H", _ask(asker, _SIOCGIFFLAGS, name))[0] & _IFF_UP)


def _hardware(asker: socket.socket, name: str) -> int:
    """The ARPHRD number of an interface; raises CaptureUnavailable where there is none."""
    try:
        return int(struct.unpack_from("@H", _ask(asker, _SIOCGIFHWADDR, name))[0])
    except OSError as error:
        raise _unavailable(error, name) from error


def _linktype(name: str, hardware: int) -> int:
    if hardware in _ARPHRD_ETHERNET:
        return LINK_ETHERNET
    if hardware in _ARPHRD_RAW:
        return LINK_RAW
    raise CaptureUnavailable(
        errno.EPROTONOSUPPORT, f"interface {name} is of a kind that cannot be read ({hardware})"
    )


def _bind(opened: socket.socket, name: str, promiscuous: bool) -> None:
    """Starts reception; also where an earlier binding died with its interface."""
    opened.bind((name, _ETH_P_ALL))
    if promiscuous:
        # The membership died with the earlier interface too.
        member = struct.pack("@iHH8s", _index(opened, name), _PACKET_MR_PROMISC, 0, b"")
        opened.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, member)
