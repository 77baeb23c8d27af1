"""Addresses into bound sockets, certificates into collectors' names; errors in plain words."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from collections.abc import Mapping
from typing import Any, Final

_SAN_PREFIX: Final = "tallyhold://collector/"
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?")


class ListenError(RuntimeError):
    """A listener cannot be opened; the message says which and what to do."""


def collector_name(certificate: Mapping[str, Any]) -> str:
    """The collector a verified certificate speaks for: its URI tallyhold://collector/NAME, or its
    common name where it has no such URI; empty where it names none or more than one."""
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    ours = [uri for uri in uris if uri.startswith("tallyhold://")]
    if ours:
        names = [uri.removeprefix(_SAN_PREFIX) for uri in ours if uri.startswith(_SAN_PREFIX)]
    else:
        parts = [pair for rdn in certificate.get("subject", ()) for pair in rdn]
        names = [value for kind, value in parts if kind == "commonName"]
    return names[0] if len(names) == 1 and _NAME.fullmatch(names[0]) else ""


def bound(key: str, at: str) -> socket.socket:
    """A listening socket's address HOST:PORT, bound; raises ListenError in plain words."""
    host, _, port = at.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
    except (ValueError, OSError) as error:
        raise ListenError(f"{key} = {at!r}: {error}") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((str(address), int(port)))
        made.setblocking(False)
    except (OSError, ValueError, OverflowError) as error:
        made.close()
        words = {
            errno.EADDRINUSE: "another program listens there already; stop it or choose another",
            errno.EACCES: "not allowed; ports below 1024 need CAP_NET_BIND_SERVICE",
            errno.EADDRNOTAVAIL: "this machine has no such address",
        }
        number = error.errno if isinstance(error, OSError) else None
        raise ListenError(f"{key} = {at!r}: {words.get(number or 0, str(error))}") from None
    return made
