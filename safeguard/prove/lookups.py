"""A resolver and a suffix in, look-ups of names that nobody uses out: canaries, as real traffic.

Run on a line of a subscriber that is there for it. The names lie under a suffix that the resolver
blocks, so each look-up is a blocked one, and nobody else ever asks for them.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PORT: Final = 53
TIMEOUT_S: Final = 5.0
ATTEMPTS: Final = 3
MAX_COUNT: Final = 1000


class LookupFailed(RuntimeError):
    """The resolver gave no answer; the message says which."""


def look_up(
    resolver: str, suffix: str, count: int, sources: Sequence[str] = (), port: int = PORT
) -> dict[str, list[str]]:
    """Ask for `count` names, from each source address in turn; gives names and addresses.

    Raises LookupFailed or OSError.
    """
    family = socket.AF_INET6 if ipaddress.ip_address(resolver).version == 6 else socket.AF_INET
    names, used = [], set()
    for n in range(count):
        name = f"canary-{secrets.token_hex(10)}.{suffix.strip('.').lower()}"
        with socket.socket(family, socket.SOCK_DGRAM) as line:
            line.settimeout(TIMEOUT_S)
            line.bind((sources[n % len(sources)] if sources else "", 0))
            line.connect((resolver, port))
            used.add(line.getsockname()[0])
            _ask(line, name)
        names.append(name)
    return {"names": names, "addresses": sorted(used)}


def write(found: dict[str, list[str]], path: Path) -> None:
    """The file that `safeguard prove --canaries` takes."""
    path.write_text(json.dumps(found, indent=1) + "\n")


def query(number: int, name: str) -> bytes:
    """A question for an address (RFC 1035 section 4.1)."""
    labels = b"".join(bytes([len(label)]) + label for label in name.encode("ascii").split(b"."))
    head = number.to_bytes(2, "big") + bytes.fromhex("01000001000000000000")
    return head + labels + bytes.fromhex("0000010001")


def _ask(line: socket.socket, name: str) -> None:
    for _ in range(ATTEMPTS):
        number = secrets.randbelow(1 << 16)
        line.send(query(number, name))
        try:
            answer = line.recv(4096)
        except TimeoutError:
            continue
        if answer[:2] == number.to_bytes(2, "big"):
            return
    raise LookupFailed(f"{line.getpeername()[0]} did not answer; is it the line's resolver?")
