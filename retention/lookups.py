"""The one place where the service, which knows who may ask, meets the aggregator's answers.

Look-ups are the aggregator's business, access and the audit log are this service's; neither imports
the other but here (docs/decisions/0025).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aggregator.queries.answering import Answering, rules_of
from retention.config import Config
from retention.engine import Engine


def answering(config: Config, engine: Engine) -> Answering:
    """What answers look-ups; raises ConfigError where the file of NAT versions is wrong."""
    return Answering(Reading(engine), rules_of(config.lookup), config.faults.areas)


class Reading:
    """All shards as one store that can only be read: what look-ups are answered from."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def query_columns(
        self, sql: str, params: Mapping[str, Any], settings: Mapping[str, Any] | None = None
    ) -> dict[str, list[Any]]:
        """The shards' columns one after another. Raises StoreError.

        The connections are those of the user that may remove rows, so each statement gives up the
        right to write (readonly = 2: it may still set limits of its own).
        """
        joined: dict[str, list[Any]] = {}
        for found in self._engine.ask(sql, params, {**(settings or {}), "readonly": 2}):
            for name, values in found.items():
                joined.setdefault(name, []).extend(values)
        return joined
