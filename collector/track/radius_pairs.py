"""Halves of RADIUS exchanges into whole ones: what was granted, and what was disconnected.

An Access-Accept does not say whose it is: its Access-Request does (RFC 2865 section 4.2). The same
holds for a Disconnect-ACK. Both are joined in memory, where alone the request's authenticator is
held, by what RFC 2865 section 3 matches them by: the requester's address and port, and the
identifier.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from collector.parse.radius import (
    ACCESS_ACCEPT,
    ACCESS_REQUEST,
    BAD,
    DISCONNECT_ACK,
    DISCONNECT_REQUEST,
    UNVERIFIED,
    VERIFIED,
    Access,
    Answer,
    Disconnect,
    Request,
    verify_answer,
)

MAX_REQUESTS: Final = 65_536
"""Requests that wait for an answer: all 256 identifiers of 256 ports."""
WAIT_NS: Final = 60 * 1_000_000_000
"""RFC 5080 section 2.2.1: a client gives a request up after 30 s."""

_ASKS: Final = {ACCESS_ACCEPT: ACCESS_REQUEST, DISCONNECT_ACK: DISCONNECT_REQUEST}
_ASKED: Final = (
    *("session_id", "user_name", "nas_identifier", "nas_address", "nas_port", "nas_port_id"),
    "calling",
)
"""Attributes of a request that say which NAS, line and session is meant."""
_WORST: Final = (BAD, UNVERIFIED, VERIFIED)

_Key = tuple[int, bytes, int, bytes, int]


class RadiusPairs:
    """Requests by how their answers will name them. `secrets`: by address of the NAS."""

    def __init__(self, secrets: Mapping[bytes, bytes]) -> None:
        self._secrets = secrets
        self._waiting: OrderedDict[_Key, Request] = OrderedDict()

    def ask(self, request: Request) -> None:
        """Remembers a request; a resend replaces its first copy, which it is equal to."""
        key = (
            *(request.code, request.sender, request.sender_port),
            *(request.receiver, request.identifier),
        )
        self._waiting.pop(key, None)
        self._waiting[key] = request
        while len(self._waiting) > MAX_REQUESTS or (
            next(iter(self._waiting.values())).ts_ns < request.ts_ns - WAIT_NS
        ):
            self._waiting.popitem(last=False)

    def answer(self, answer: Answer) -> Access | Disconnect | None:
        """The exchange an answer completes; None where its request is not known, or was answered
        before."""
        ends = (answer.receiver, answer.receiver_port, answer.sender, answer.identifier)
        request = self._waiting.pop((_ASKS[answer.code], *ends), None)
        if request is None:
            return None
        nas = answer.receiver if answer.code == ACCESS_ACCEPT else answer.sender
        verified = verify_answer(answer, request, self._secrets.get(nas))
        if BAD in (verified, request.verified) or answer.code == DISCONNECT_ACK:
            verified = min(verified, request.verified, key=_WORST.index)
        if answer.code == DISCONNECT_ACK:
            return Disconnect(answer.ts_ns, nas, answer.receiver, verified, request.profile)
        asked = {name: getattr(request.profile, name) for name in _ASKED}
        named = {name: value for name, value in asked.items() if value not in ("", None)}
        profile = replace(answer.profile, **named)
        return Access(answer.ts_ns, nas, answer.sender, verified, profile)
