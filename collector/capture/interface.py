"""What the kernel says of one interface: its index, its kind, whether it is up (netdevice(7)).

Any socket can be asked, in the network namespace it was opened in.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from typing import Final

from collector.parse.link import LINK_ETHERNET, LINK_RAW

_IFF_UP: Final = 1
_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFMTU: Final = 0x8921
_SIOCGIFHWADDR: Final = 0x8927
_SIOCGIFINDEX: Final = 0x8933
ARPHRD_ETHER: Final = 1
ARPHRD_LOOPBACK: Final = 772
_ARPHRD_ETHERNET: Final = frozenset((ARPHRD_ETHER, ARPHRD_LOOPBACK))
_ARPHRD_RAW: Final = frozenset((512, 519, 768, 769, 776, 778, 65534))
"""PPP, raw IP, tunnels of both families, GRE, and no header at all (tun, WireGuard)."""

_IFREQ: Final = struct.Struct("@16s24s")


class CaptureUnavailable(OSError):
    """An interface cannot be captured as things are; the message says what an operator must do."""


def unavailable(error: OSError, name: str) -> CaptureUnavailable:
    """What an operator can do about an error on an interface."""
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


def index_of(asker: socket.socket, name: str) -> int:
    """The kernel's index of an interface; raises OSError where there is none."""
    return int(struct.unpack_from("@i", _ask(asker, _SIOCGIFINDEX, name))[0])


def is_up(asker: socket.socket, name: str) -> bool:
    """Whether an interface is set up; raises OSError where there is none."""
    return bool(struct.unpack_from("@H", _ask(asker, _SIOCGIFFLAGS, name))[0] & _IFF_UP)


def mtu_of(asker: socket.socket, name: str) -> int:
    """Longest IP packet of an interface; raises OSError where there is none."""
    return int(struct.unpack_from("@i", _ask(asker, _SIOCGIFMTU, name))[0])


def hardware_of(asker: socket.socket, name: str) -> int:
    """The ARPHRD number of an interface; raises CaptureUnavailable where there is none."""
    try:
        return int(struct.unpack_from("@H", _ask(asker, _SIOCGIFHWADDR, name))[0])
    except OSError as error:
        raise unavailable(error, name) from error


def linktype_of(name: str, hardware: int) -> int:
    """How its frames begin, as in `collector.parse.link`; raises CaptureUnavailable."""
    if hardware in _ARPHRD_ETHERNET:
        return LINK_ETHERNET
    if hardware in _ARPHRD_RAW:
        return LINK_RAW
    raise CaptureUnavailable(
        errno.EPROTONOSUPPORT, f"interface {name} is of a kind that cannot be read ({hardware})"
    )
