"""A resolver and a suffix in, look-ups of names that nobody uses out: canaries, as real traffic.

Run on a line of a subscriber that is there for it, or on the router: there the resolver's answers
are sent out of an access interface to addresses that nobody has, and so no line is metered for it.
The names lie under a suffix that the resolver blocks, so each look-up is a blocked one, and nobody
else ever asks for them.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PORT: Final = 53
TIMEOUT_S: Final = 5.0
ATTEMPTS: Final = 3
MAX_COUNT: Final = 1000
_IPV4, _IPV6 = 0x0800, 0x86DD
_NOBODY: Final = bytes.fromhex("02ffffffff01")
"""A locally administered address of hardware that there is not."""


class LookupFailed(RuntimeError):
    """The resolver gave no answer; the message says which."""


def look_up(
    resolver: str, suffix: str, count: int, sources: Sequence[str] = (), port: int = PORT
) -> dict[str, list[str]]:
    """Ask for `count` names, from each source address in turn; gives names and addresses.

    Raises LookupFailed or OSError.
    """
    names, used = [], set()
    for n in range(count):
        name = _name(suffix)
        source, _ = _ask(resolver, port, name, sources[n % len(sources)] if sources else "")
        used.add(source)
        names.append(name)
    return {"names": names, "addresses": sorted(used)}


def tell(
    resolver: str,
    suffix: str,
    count: int,
    households: Sequence[str],
    interface: str,
    port: int = PORT,
) -> dict[str, list[str]]:
    """Ask for `count` names from here, and send what the resolver answers out of an interface to
    each household in turn, in frames that no station takes; gives names and addresses.

    The collector hears them as every answer. They cross no rule of the packet filter and no table
    of connections. Raises LookupFailed or OSError; only root can.
    """
    version = ipaddress.ip_address(resolver).version
    if any(ipaddress.ip_address(each).version != version for each in households):
        raise LookupFailed("the resolver and the households must be of one address family")
    names = []
    ethertype = _IPV6 if version == 6 else _IPV4
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as line:
        for n in range(count):
            name = _name(suffix)
            _, answer = _ask(resolver, port, name)
            packet = datagram(resolver, port, households[n % len(households)], answer)
            line.sendto(packet, (interface, ethertype, 0, 0, _NOBODY))
            names.append(name)
    return {"names": names, "addresses": [], "unmetered": sorted(set(households))}


def write(found: dict[str, list[str]], path: Path) -> None:
    """The file that `safeguard prove --canaries` takes."""
    path.write_text(json.dumps(found, indent=1) + "\n")


def query(number: int, name: str) -> bytes:
    """A question for an address (RFC 1035 section 4.1)."""
    labels = b"".join(bytes([len(label)]) + label for label in name.encode("ascii").split(b"."))
    head = number.to_bytes(2, "big") + bytes.fromhex("01000001000000000000")
    return head + labels + bytes.fromhex("0000010001")


def datagram(source: str, port: int, target: str, payload: bytes) -> bytes:
    """An IP packet with a datagram to an ephemeral port (RFC 768, 791, 8200). Checksums are 0: no
    station is to take it."""
    src, dst = (ipaddress.ip_address(each).packed for each in (source, target))
    size = 8 + len(payload)
    udp = struct.pack(">HHHH", port, 49152 + secrets.randbelow(16384), size, 0) + payload
    if len(src) == 4:
        return struct.pack(">BBHHHBBH", 0x45, 0, 20 + size, 0, 0, 64, 17, 0) + src + dst + udp
    return struct.pack(">IHBB", 6 << 28, size, 17, 64) + src + dst + udp


def _name(suffix: str) -> str:
    return f"canary-{secrets.token_hex(10)}.{suffix.strip('.').lower()}"


def _ask(resolver: str, port: int, name: str, source: str = "") -> tuple[str, bytes]:
    """The address that asked, and the answer."""
    family = socket.AF_INET6 if ":" in resolver else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as line:
        line.settimeout(TIMEOUT_S)
        line.bind((source, 0))
        line.connect((resolver, port))
        for _ in range(ATTEMPTS):
            number = secrets.randbelow(1 << 16)
            # In any case, as clients ask against forged answers: where lower case is found, it is
            # not the message itself.
            line.send(query(number, "".join(map(_either, name))))
            try:
                answer = line.recv(4096)
            except TimeoutError:
                continue
            if answer[:2] == number.to_bytes(2, "big"):
                return line.getsockname()[0], answer
    raise LookupFailed(f"{resolver} did not answer; is it the line's resolver?")


def _either(letter: str) -> str:
    return letter.upper() if secrets.randbelow(2) else letter
