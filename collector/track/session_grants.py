"""Access-Accepts seen before the accounting of their session: what the Start will not repeat."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from collector.parse.radius import Access, Accounting
from collector.track.nastime import SECOND_NS
from collector.track.session_facts import line_of

GRANT_NS: Final = 300 * SECOND_NS
"""From the Accept to the Start: IPCP and IPv6CP retry for 30 s (RFC 1661 section 4.6), and a NAS
that waits for DHCPv6 sends the Start after it."""


class Grants:
    """Accepts by NAS and session id, or by NAS, port, station and user; at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: OrderedDict[tuple[str, ...], Access] = OrderedDict()

    def put(self, nas: str, event: Access) -> None:
        """Keeps what was granted until its session begins."""
        key = _keys(nas, event)[0]
        self._waiting.pop(key, None)
        self._waiting[key] = event
        while len(self._waiting) > self._limit or (
            next(iter(self._waiting.values())).ts_ns < event.ts_ns - GRANT_NS
        ):
            self._waiting.popitem(last=False)

    def take(self, nas: str, event: Accounting) -> Access | None:
        """What was granted to the session that begins with this event, once."""
        for key in _keys(nas, event):
            granted = self._waiting.pop(key, None)
            if granted is not None and event.ts_ns - granted.ts_ns <= GRANT_NS:
                return granted
        return None

    def snapshot(self) -> list[object]:
        """JSON-able state."""
        return [[list(key), event.to_json()] for key, event in self._waiting.items()]

    def restore(self, state: list[Any]) -> None:
        """Takes over what `snapshot` wrote."""
        self._waiting = OrderedDict((tuple(key), Access.from_json(each)) for key, each in state)


def _keys(nas: str, event: Access | Accounting) -> list[tuple[str, ...]]:
    """By session id where the event has one; a request need not (RFC 2866 section 5.5)."""
    said = event.profile
    line = (nas, line_of(said), said.calling, said.user_name)
    return [(nas, said.session_id), line] if said.session_id else [line]
