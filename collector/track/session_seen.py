"""The last event of a session, kept to tell whether the next one says the same again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from collector.parse.radius import Accounting
from collector.track.nastime import SECOND_NS

SAME_NS: Final = 2 * SECOND_NS
"""Two reports this close with the same content are one event: a resend's time is known to a second
(Acct-Delay-Time) on either side."""


@dataclass(slots=True)
class Seen:
    """Status and time of an event, and what it said: itself, or its digest after a restart."""

    status: int
    at_ns: int
    said: Accounting | str

    def same(self, now: Seen) -> bool:
        """One event reported twice: same status and content, times within SAME_NS."""
        return (
            self.status == now.status
            and abs(self.at_ns - now.at_ns) <= SAME_NS
            and self._digest() == now._digest()
        )

    def to_json(self) -> list[object]:
        return [self.status, self.at_ns, self._digest()]

    @classmethod
    def from_json(cls, data: list[Any]) -> Seen:
        return cls(*data)

    def _digest(self) -> str:
        """What the event says: everything but transport and delay."""
        if isinstance(self.said, str):
            return self.said
        event, profile = self.said, self.said.profile
        numbers = (event.session_s, event.up, event.down, event.terminate_cause)
        addresses = (profile.framed_ipv4, profile.framed_prefixes, profile.delegated_prefixes)
        said = (*numbers, profile.framed_ipv6, *addresses)
        return hashlib.blake2b(repr(said).encode(), digest_size=8).hexdigest()
