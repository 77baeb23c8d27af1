"""Questions of legal and fault teams in, plain answers out: what the retention service serves.

The retention service decides who may ask and writes the audit leaf; this knows how to answer, and
is put into it by `retention.lookups`, which is the one place where the two meet.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from aggregator.queries import deterministic
from aggregator.queries.arithmetic import parse_period
from aggregator.queries.evidence import Margins, Question
from aggregator.queries.faults import line_faults
from aggregator.queries.lookup_store import Kept
from aggregator.queries.outages import outages
from aggregator.queries.reading import Reader
from aggregator.queries.who import Found, Rules, Who
from collector.wire.addr import pack

MAX_TOLERANCE_US: Final = 3_600_000_000
"""An hour: whoever cannot say it better asks about a period, not about an instant."""


class Settings(Protocol):
    """The part of the retention service's configuration that look-ups go by; see `Lookup` there."""

    @property
    def deterministic(self) -> Path | None: ...
    @property
    def shared(self) -> tuple[str, ...]: ...
    @property
    def clock_error_s(self) -> float: ...
    @property
    def window_s(self) -> float: ...
    @property
    def settle_s(self) -> float: ...


def rules_of(settings: Settings) -> Rules:
    """The rules of a configuration; raises ConfigError where the versions' file is wrong."""
    versions = settings.deterministic
    return Rules(
        deterministic.load(versions) if versions else deterministic.Deterministic(),
        tuple(ipaddress.ip_network(each) for each in settings.shared),
        Margins(*(int(s * 1e6) for s in (
            settings.clock_error_s, settings.window_s, settings.settle_s
        ))),
    )  # fmt: skip


class Answering:
    """Answers from one store. `client` may stand for several shards; areas: names to their NAS."""

    def __init__(
        self, client: Reader, rules: Rules, areas: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._client = client
        self._rules = rules
        self._areas = areas or {}

    @property
    def versions(self) -> str:
        """Digest of the versions of deterministic NAT, for the audit log."""
        return self._rules.deterministic.digest

    def who(
        self,
        address: str,
        port: int | None,
        protocol: int | None,
        at_us: int,
        tolerance_us: int,
        kept: Kept | None = None,
    ) -> Found:
        """Who had an address and port. Raises ValueError in words for what cannot be asked.

        kept: rows beside the live tables that may be told of.
        """
        try:
            packed = pack(address)
        except ValueError:
            raise ValueError("address: an IPv4 or IPv6 address is needed, without a port") from None
        if not 0 <= tolerance_us <= MAX_TOLERANCE_US:
            raise ValueError("tolerance: from 0 to 3600 s")
        if port is None and protocol is not None:
            raise ValueError("proto: only together with a port")
        question = Question(packed, at_us, tolerance_us, port, protocol)
        return Who(self._rules, self._client).look_up(question, kept)

    def line(self, subscriber: str, period: str, now_us: int) -> dict[str, Any]:
        """What went wrong on one line. Raises ValueError in words for what cannot be asked."""
        return line_faults(self._client, subscriber, parse_period(period), now_us)

    def outages(self, period: str, least: int, share: float) -> dict[str, Any]:
        """Lines of one place that ended together; ValueError as above."""
        return outages(self._client, parse_period(period), self._areas, least, share)
