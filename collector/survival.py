"""Steps that may fail in: what an error of ours costs is counted, and told as a loss."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from collector.keeper import RestartNeeded
from collector.wire.loss import Loss

log = logging.getLogger(__name__)

_CLASSES: Final = ("visit", "call", "session", "binding", "mapping")
_LOOK_NS: Final = 1_000_000_000
"""`losses` is called once a second."""


class Survival:
    """Nothing that a packet holds may end the loop: an error of ours costs that packet."""

    def __init__(self) -> None:
        self.errors = 0
        """Frames and events that an error of ours kept from being taken."""
        self._told = 0

    def __call__(self, step: Callable[..., Any], *args: Any) -> None:
        try:
            step(*args)
        except (RestartNeeded, OSError):
            raise
        except Exception as error:
            self.errors += 1
            if self.errors.bit_count() == 1:  # a line for the 1st, 2nd, 4th, 8th...
                at = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(at.filename).name}:{at.lineno}"
                # Not the message, which may quote the packet.
                log.error("%s at %s (error %d)", type(error).__name__, place, self.errors)

    def losses(self, now_ns: int) -> list[Loss]:
        """The errors since the last call."""
        amount, self._told = self.errors - self._told, self.errors
        if not amount:
            return []
        start_ns = now_ns - _LOOK_NS
        return [Loss(start_ns, now_ns, "track", "internal-error", amount, "packets", _CLASSES)]
