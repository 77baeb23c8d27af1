"""Accounting requests seen lately: turns a packet into "seen before", an answer into its session.

Both memories are bounded by `max_requests` and by time: RFC 5080 section 2.2.1 ends retransmission
after 30 s.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Any, Final

from collector.parse.radius import Accounting, AccountingAck
from collector.track.session_state import Key

_NAMED: Final = struct.Struct(">16sHB")
"""How an answer names its request: the client's address and port, and the identifier."""


class Requests:
    """Requests by their transport digest, and sessions by the answer they wait for."""

    def __init__(self, max_requests: int, request_ns: int) -> None:
        self._max_requests = max_requests
        self._request_ns = request_ns
        self._seen: set[bytes] = set()
        self._order: deque[tuple[int, bytes]] = deque()
        self._unacked: dict[bytes, Key] = {}
        self._before: dict[bytes, Key] = {}
        """Those of the time before `_since_ns`, as long again."""
        self._since_ns = 0

    def repeated(self, event: Accounting) -> bool:
        """Whether the same packet was seen already; remembers it otherwise."""
        if event.transport in self._seen:
            return True
        self._seen.add(event.transport)
        self._order.append((event.ts_ns, event.transport))
        since = event.ts_ns - self._request_ns
        while self._order[0][0] < since or len(self._order) > self._max_requests:
            self._seen.remove(self._order.popleft()[1])
        return False

    def expect_ack(self, event: Accounting, key: Key) -> None:
        """The answer to this request will be about that session."""
        if (
            event.ts_ns - self._since_ns > self._request_ns
            or len(self._unacked) >= self._max_requests
        ):
            self._unacked, self._before, self._since_ns = {}, self._unacked, event.ts_ns
        self._unacked[_NAMED.pack(event.client, event.client_port, event.identifier)] = key

    def answered(self, ack: AccountingAck) -> Key | None:
        """The session whose request this answers, once; None where no request is known."""
        name = _NAMED.pack(ack.client, ack.client_port, ack.identifier)
        return self._unacked.pop(name, self._before.pop(name, None))

    def snapshot(self) -> dict[str, object]:
        """JSON-able state, bytes as hex."""
        return {
            "requests": [[ident.hex(), at] for at, ident in self._order],
            "unacked": [
                [[name.hex(), list(key)] for name, key in each.items()]
                for each in (self._unacked, self._before)
            ],
            "unacked_since_ns": self._since_ns,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what `snapshot` wrote."""
        self._order = deque((at, bytes.fromhex(ident)) for ident, at in state["requests"])
        self._seen = {ident for _, ident in self._order}
        self._unacked, self._before = (
            {bytes.fromhex(name): (key[0], key[1], key[2]) for name, key in each}
            for each in state["unacked"]
        )
        self._since_ns = state["unacked_since_ns"]
