"""Accounting requests seen lately: turns a packet into "seen before", an answer into its session.

Both memories are bounded by `max_requests`, the first also by time: RFC 5080 section 2.2.1 ends
retransmission after 30 s.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, deque
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
        self._unacked: OrderedDict[bytes, Key] = OrderedDict()

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
        self._unacked[_NAMED.pack(event.client, event.client_port, event.identifier)] = key
        if len(self._unacked) > self._max_requests:
            self._unacked.popitem(last=False)

    def answered(self, ack: AccountingAck) -> Key | None:
        """The session whose request this answers, once; None where no request is known."""
        return self._unacked.pop(_NAMED.pack(ack.client, ack.client_port, ack.identifier), None)

    def snapshot(self) -> dict[str, object]:
        """JSON-able state, bytes as hex."""
        return {
            "requests": [[ident.hex(), at] for at, ident in self._order],
            "unacked": [
                [client.hex(), port, ident, list(key)]
                for (client, port, ident), key in (
                    (_NAMED.unpack(name), key) for name, key in self._unacked.items()
                )
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what `snapshot` wrote."""
        self._order = deque((at, bytes.fromhex(ident)) for ident, at in state["requests"])
        self._seen = {ident for _, ident in self._order}
        self._unacked = OrderedDict(
            (_NAMED.pack(bytes.fromhex(client), port, ident), (key[0], key[1], key[2]))
            for client, port, ident, key in state["unacked"]
        )
