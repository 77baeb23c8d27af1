"""The router's side of RADIUS accounting (RFC 2866), by radclient run on the edge."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.lab.netns import LabError, Namespace
from tests.lab.services import RADIUS_PORT
from tests.lab.topology import CORE_V4, EDGE_V4, delegated

NAS_IDENTIFIER: Final = "edge-1"
REALM: Final = "isp.example"
LATE_NS: Final = 100_000_000
GIGAWORD_BITS: Final = 32


@dataclass(frozen=True, slots=True)
class AccountedSession:
    """What the router knows of a session: `subscriber` is the opaque id, `line` its number."""

    session_id: str
    subscriber: str
    line: int
    v4: str | None
    v6: str | None

    def attributes(self) -> dict[str, str]:
        """Those that every request of the session repeats."""
        found = {
            "User-Name": f'"{self.subscriber}@{REALM}"',
            "Chargeable-User-Identity": f'"{self.subscriber}"',
            "Acct-Session-Id": f'"{self.session_id}"',
            "NAS-Identifier": f'"{NAS_IDENTIFIER}"',
            "NAS-IP-Address": EDGE_V4,
            "NAS-Port-Type": "Ethernet",
            "NAS-Port-Id": f'"acc{self.line}"',
            "NAS-Port": str(self.line),
            "Service-Type": "Framed-User",
            "Acct-Authentic": "RADIUS",
            "Acct-Delay-Time": "0",
        }
        if self.v4 is not None:
            found |= {"Framed-IP-Address": self.v4}
        if self.v6 is not None:
            # RFC 3162 for a line that is IPv6 only, RFC 4818 for a prefix delegated beside IPv4.
            name = "Framed-IPv6-Prefix" if self.v4 is None else "Delegated-IPv6-Prefix"
            found |= {name: delegated(self.v6)}
        return found


class Accounting:
    """Sends the requests of all sessions; `secret` is a file that holds the shared secret."""

    def __init__(self, edge: Namespace, secret: Path) -> None:
        self._edge = edge
        self._secret = secret

    def start(self, session: AccountedSession) -> int:
        """Send Start at the beginning of a second; returns when, UTC ns."""
        when = next_second()
        self._send(session, "Start", when, {})
        return when

    def interim(self, session: AccountedSession, since_ns: int, up: int, down: int) -> int:
        """Send an Interim-Update; returns when."""
        when = time.time_ns()
        self._send(session, "Interim-Update", when, usage(when - since_ns, up, down))
        return when

    def stop(self, session: AccountedSession, since_ns: int, up: int, down: int, cause: str) -> int:
        """Send Stop at the beginning of a second; returns when."""
        when = next_second()
        more = usage(when - since_ns, up, down) | {"Acct-Terminate-Cause": cause}
        self._send(session, "Stop", when, more)
        return when

    def _send(
        self, session: AccountedSession, status: str, when: int, more: Mapping[str, str]
    ) -> None:
        attributes = {
            "Acct-Status-Type": status,
            **session.attributes(),
            "Event-Timestamp": str(when // 1_000_000_000),
            **more,
        }
        text = ", ".join(f"{name} = {value}" for name, value in attributes.items())
        options = ["-q", "-4", "-r", "3", "-t", "2", "-S", str(self._secret)]
        try:
            self._edge.run(
                *["radclient", *options, f"{CORE_V4}:{RADIUS_PORT}", "acct"], stdin=text + "\n"
            )
        except LabError as error:
            raise LabError(f"Accounting {status} got no answer: {error}") from error


def usage(duration_ns: int, up: int, down: int) -> dict[str, str]:
    """Session time and octets; input is what the router gets from the subscriber (RFC 2869)."""
    low = (1 << GIGAWORD_BITS) - 1
    return {
        "Acct-Session-Time": str(round(duration_ns / 1e9)),
        "Acct-Input-Octets": str(up & low),
        "Acct-Input-Gigawords": str(up >> GIGAWORD_BITS),
        "Acct-Output-Octets": str(down & low),
        "Acct-Output-Gigawords": str(down >> GIGAWORD_BITS),
    }


def next_second() -> int:
    """Wait for the beginning of a second of UTC and return the time, within `LATE_NS` of it.

    Accounting states whole seconds: so stated, and the times that the lab measured, agree.
    """
    while True:
        now = time.time_ns()
        time.sleep((1_000_000_000 - now % 1_000_000_000) / 1e9 + 0.002)
        now = time.time_ns()
        if now % 1_000_000_000 < LATE_NS:
            return now
