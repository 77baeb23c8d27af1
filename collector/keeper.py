"""Journal and spool as one: events, losses and closed windows in, nothing of them lost or doubled.

What cannot be written is held and tried again; where only the disk knows what was written,
RestartNeeded ends the run, because going on could write it twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from collector.held import Held
from collector.journal import Journal, JournalError
from collector.spool import Spool, SpoolError, SpoolFullError
from collector.wire.batch import BatchError, Header
from collector.wire.gaps import MAX_LOSSES, loss_to_json, merge
from collector.wire.loss import Loss

log = logging.getLogger(__name__)

SECOND_NS: Final = 1_000_000_000
_EARLY_NS: Final = 10 * SECOND_NS
"""A full journal closes the window, but no sooner than this after the last one."""
_QUIET_NS: Final = 5 * SECOND_NS
"""What may fail with every event is logged no more often."""


class RestartNeeded(Exception):
    """Only what is on disk can tell what is true, and only a start reads it: end and start anew."""


class Keeper:
    """What must outlive the process. `state` gives the state of the trackers, JSON-able.

    Losses that wait for a window are in the journal, and in each state that is written.
    """

    def __init__(
        self,
        journal: Journal,
        spool: Spool,
        now: Callable[[], int],
        monotonic: Callable[[], int],
        state: Callable[[], Mapping[str, object]],
    ) -> None:
        self._journal, self._spool = journal, spool
        self._now, self._monotonic, self._state = now, monotonic, state
        self._losses: list[Loss] = []
        self._unsettled = 0
        self._is_hurried = False
        self._closed_ns = 0
        self._quiet_ns = 0
        self.held: Held | None = None
        """The window that is not in the spool yet."""

    def append(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Write an event to the journal; where that is refused, a window is to be closed soon."""
        try:
            self._journal.append(kind, payload)
        except JournalError as error:
            self._check(error)
            # Metering goes on; a commit of the state as soon as can be makes the event safe.
            self._log(f"an event is not in the journal: {error}")
            self._is_hurried = True

    def sync(self) -> None:
        """Make the events durable."""
        try:
            self._journal.sync()
        except JournalError as error:
            self._check(error)
            self._log(f"the journal is not on disk: {error}")

    def lose(self, losses: Iterable[Loss]) -> None:
        """Keep losses for the next window, and in the journal for after a crash."""
        for loss in losses:
            self._losses.append(loss)
            self.append("loss", loss_to_json(loss))
        if len(self._losses) > 2 * MAX_LOSSES:
            self._losses = merge(self._losses)

    def take_losses(self) -> list[Loss]:
        """The losses that wait, for the window that is being closed."""
        losses, self._losses = self._losses, []
        return losses

    @property
    def wants_window(self) -> bool:
        """The open window should be closed early, because the journal has no more room."""
        is_needed = self._is_hurried or self._journal.is_full
        return is_needed and self._monotonic() >= self._closed_ns + _EARLY_NS

    def commit(self, held: Held) -> list[Header]:
        """Batch and state in one commit: the headers, or none where the window is now `held`."""
        last = self._spool.last_sequence + len(held.pieces)
        try:
            # The state of now, not of when the window was closed: what came since is in it.
            self._journal.rotate(last, self._snapshot())
            headers = self._spool.commit_all(
                window_start_ns=held.start_ns,
                window_end_ns=held.end_ns,
                created_ns=self._now(),
                pieces=[piece.columns for piece in held.pieces],
            )
        except (SpoolError, JournalError, BatchError) as error:
            self._hold(held, error)
            return []
        if self.held:
            log.info("the window that was kept in memory is in the spool")
        self.held, self._is_hurried = None, False
        self._closed_ns = self._monotonic()
        self._unsettled = last
        self.settle()
        return headers

    def settle(self) -> None:
        """Tell the journal of the commit. It is one without that: a start finds the same."""
        if not self._unsettled or self.held:
            return
        try:
            self._journal.committed(self._unsettled)
            self._unsettled = 0
        except JournalError as error:
            self._check(error)
            self._log(f"the journal was not shortened: {error}")

    def _hold(self, held: Held, error: Exception) -> None:
        self._check(error)
        if self.held is None:
            log.error("the window is kept in memory and tried again: %s", error)
        self.held, self._unsettled = held, 0
        held.postpone(self._monotonic())
        is_full = isinstance(error, SpoolFullError)
        if isinstance(error, BatchError) or (is_full and held.size > self._spool.config.max_bytes):
            log.error("the window can never be spooled: its rows are given up (%s)", error)
            held.give_up(self._now())

    def _snapshot(self) -> dict[str, object]:
        losses = [loss_to_json(loss) for loss in self._losses]
        return {**self._state(), "losses": losses, "now_ns": self._now()}

    def _check(self, error: Exception) -> None:
        """Raises RestartNeeded where going on could write what is already on disk."""
        if self._journal.failure or self._spool.failure:
            raise RestartNeeded(str(error)) from error

    def _log(self, text: str) -> None:
        if self._monotonic() >= self._quiet_ns:
            self._quiet_ns = self._monotonic() + _QUIET_NS
            log.error("%s", text)
