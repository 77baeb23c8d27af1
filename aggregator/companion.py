"""A configuration in, the retention service as a supervised child process beside the engine out.

It is a process of its own because it alone may destroy, and because a fault in it must not stop
the intake. It starts after the aggregator, as it needs the engine and the tables, and it stops
before the engine does, so that a purge under way can still finish its step.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from aggregator.service import Aggregator

log = logging.getLogger(__name__)

PARENT_VARIABLE: Final = "TALLYHOLD_PARENT"
"""Process id of whoever started the child: it ends with it, and holds no lock of a dead one's."""
_BACK_OFF_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_HEALTHY_S: Final = 60.0
"""After so long a run the back-off begins anew."""
_STOP_S: Final = 60.0
"""A step of a purge copies one partition's held rows; beyond this the service is killed, and goes
on from the step it had logged when it is started again."""


class Companion:
    """One supervised child process. `restarts` counts starts after the first."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        back_off_s: Sequence[float] = _BACK_OFF_S,
        stop_s: float = _STOP_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.command = list(command)
        self.restarts = 0
        self._back_off_s = back_off_s
        self._stop_s = stop_s
        self._monotonic = monotonic
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the child while it lives."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start the child and go on starting it; returns at once."""
        self._task = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """Stop the child in order, or by force after stop_s; safe to call twice."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _supervise(self) -> None:
        attempt = 0
        while True:
            started = self._monotonic()
            try:
                code: int | str = await self._run_once()
            except OSError as error:
                code = error.strerror or str(error)
            attempt = 0 if self._monotonic() - started > _HEALTHY_S else attempt + 1
            pause = self._back_off_s[max(0, min(attempt, len(self._back_off_s)) - 1)]
            log.error("the retention service ended (%s); again in %.1f s", code, pause)
            await asyncio.sleep(pause)
            self.restarts += 1

    async def _run_once(self) -> int:
        """Start the child and return its exit code when it has ended."""
        self._process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
            start_new_session=True,  # a Ctrl-C is for the parent, which stops the child in order
        )
        try:
            return await self._process.wait()
        except asyncio.CancelledError:
            await self._end(self._process)
            raise

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._stop_s)
        except TimeoutError:
            log.error("the retention service did not stop within %.0f s: killed", self._stop_s)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def retention_command(config: Path) -> list[str]:
    """What runs the retention service with this configuration."""
    return [sys.executable, "-m", "tallyhold", "retention", "serve", "--config", str(config)]


class Appliance(Aggregator):
    """The aggregator, and the retention service where [retention] is configured."""

    companion: Companion | None = None

    async def start(self) -> None:
        """Start the aggregator, then the retention service, whose own troubles do not stop it."""
        await super().start()
        if self.config.retention is not None:
            self.companion = Companion(retention_command(self.config.retention.config))
            await self.companion.start()

    async def stop(self) -> None:
        """Stop the retention service, then the rest. Safe to call twice."""
        companion, self.companion = self.companion, None
        if companion is not None:
            await companion.stop()
        await super().stop()
