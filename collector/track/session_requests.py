"""Accounting requests seen lately: turns a packet into "seen before", an answer into its session.

Both memories are bounded by `max_requests`, the first also by time: RFC 5080 section 2.2.1 ends
retransmission after 30 s.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from collector.parse.radius import Accounting, AccountingAck
from collector.track.session_state import Key


class Requests:
    """Requests by their transport digest, and sessions by the answer they wait for."""

    def __init__(self, max_requests: int, request_ns: int) -> None:
        self._max_requests = max_requests
        self._request_ns = request_ns
        self._seen: OrderedDict[bytes, int] = OrderedDict()
        self._unacked: OrderedDict[tuple[bytes, int, int], Key] = OrderedDict()

    def repeated(self, event: Accounting) -> bool:
        """Whether the same packet was seen already; remembers it otherwise."""
        if event.transport in self._seen:
            return True
        self._seen[event.transport] = event.ts_ns
        while self._seen and (
            len(self._seen) > self._max_requests
            or next(iter(self._seen.values())) < event.ts_ns - self._request_ns
        ):
            self._seen.popitem(last=False)
        return False

    def expect_ack(self, event: Accounting, key: Key) -> None:
        """The answer to this request will be about that session."""
        self._unacked[event.client, event.client_port, event.identifier] = key
        if len(self._unacked) > self._max_requests:
            self._unacked.popitem(last=False)

    def answered(self, ack: AccountingAck) -> Key | None:
        """The session whose request this answers, once; None where no request is known."""
        return self._unacked.pop((ack.client, ack.client_port, ack.identifier), None)

    def snapshot(self) -> dict[str, object]:
        """JSON-able state, bytes as hex."""
        return {
            "requests": [[ident.hex(), at] for ident, at in self._seen.items()],
            "unacked": [
                [client.hex(), port, ident, list(key)]
                for (client, port, ident), key in self._unacked.items()
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what `snapshot` wrote."""
        self._seen = OrderedDict((bytes.fromhex(ident), at) for ident, at in state["requests"])
        self._unacked = OrderedDict(
            ((bytes.fromhex(client), port, ident), (key[0], key[1], key[2]))
            for client, port, ident, key in state["unacked"]
        )
