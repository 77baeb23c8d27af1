"""A configuration in, a running retention service out: register, log, vault, holds, purge, doors.

    asyncio.run(run(Retention(load(path))))       # as `tallyhold retention serve` does

Composes what does not know each other. The engine may be down, at the start too: then holds can be
placed, approved and released, nothing is destroyed, and the state is "degraded" until it is back.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from retention import config as configuration
from retention.access import Refusals
from retention.api import Api
from retention.audit import disk
from retention.audit.checkpoint import NoteError, Signer
from retention.audit.commit import CommitmentStore
from retention.audit.log import AuditLog, LogError
from retention.config import Config
from retention.destruction.context import Context
from retention.destruction.evidence import Verifier
from retention.destruction.purge import Purger
from retention.doors import DoorError
from retention.engine import Engine
from retention.holds.desk import Desk
from retention.lookups import answering
from retention.metrics import Metrics
from retention.model import DAY_US
from retention.parent import end_with_parent
from retention.policy.load import PolicyError, load
from retention.policy.model import Policy
from retention.register import leaves
from retention.register.clock import ClockGuard, kernel_synchronised, since_boot_ns
from retention.register.lock import RegisterError
from retention.register.store import Register
from retention.routes_base import Answers, Parts
from retention.safeguard import PrivacyLedger
from retention.scheduler import Scheduler, Work

log = logging.getLogger(__name__)

CONFIG_NOTE: Final = "config/digest"
POLICY_NOTE: Final = "policy/digest"


class StartError(RuntimeError):
    """The service cannot start; the message says why and what to do."""


STARTUP_ERRORS: Final = (
    StartError,
    RegisterError,
    LogError,
    PolicyError,
    DoorError,
    configuration.ConfigError,
)
"""What `Retention.start` raises; each says in plain words what to do."""


class Retention:
    """The whole service. `now` gives nanoseconds since 1970, `passed` on a clock nobody can set.

    Everything is made by `start`: until then nothing is opened, read or locked.
    """

    def __init__(
        self,
        config: Config,
        *,
        metrics: Metrics | None = None,
        now: Callable[[], int] = time.time_ns,
        passed: Callable[[], int] = since_boot_ns,
        synchronised: Callable[[], bool | None] = kernel_synchronised,
    ) -> None:
        self.config = config
        self.metrics = metrics or Metrics()
        self.api: Api | None = None
        self.scheduler: Scheduler | None = None
        self.register: Register | None = None
        self._now, self._passed, self._synchronised = now, passed, synchronised
        self._log: AuditLog | None = None
        self._engine: Engine | None = None
        self._guard: ClockGuard | None = None
        self._policy: Policy | None = None

    async def start(self) -> None:
        """Start everything in order; on an error stop what runs and raise it (STARTUP_ERRORS)."""
        try:
            parts = await asyncio.to_thread(self._compose)
            self.api = Api(parts, self.metrics.render, self.metrics.answered)
            await self.api.start()
            assert self.scheduler is not None
            self.scheduler.start()
        except OSError as error:
            await self.stop()
            raise StartError(f"{error.filename or self.config.folder}: {error.strerror}") from None
        except BaseException:
            await self.stop()
            raise
        log.info("the retention service answers at %s", self.config.api.socket)

    async def stop(self) -> None:
        """Stop in reverse order: nobody comes in, what runs comes to its outcome, files close.

        Safe to call twice.
        """
        if self.scheduler is not None:
            self.scheduler.ask_to_stop()  # so that nobody who comes in last waits for a long run
        api, self.api = self.api, None
        if api is not None:
            await api.stop()
        scheduler, self.scheduler = self.scheduler, None
        if scheduler is not None:
            await asyncio.to_thread(scheduler.stop)
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()
        register, self.register = self.register, None
        if register is not None:
            register.close()
        audit, self._log = self._log, None
        if audit is not None:
            audit.close()

    def health(self) -> Mapping[str, Any]:
        """How the service is; nothing personal. ready: whether the purge could run now."""
        assert self.scheduler is not None and self.register is not None
        state = self.scheduler.state
        degraded = [
            text
            for text, applies in (
                ("the storage engine is down", not state.engine_up),
                ("the clock is not trusted: confirm it", not state.clock_trusted),
                ("the audit log cannot be written", not self.register.is_settled),
                ("a purge has no outcome yet", state.unsettled > 0),
                ("tables without a policy", state.unwired_tables > 0),
                ("held rows are missing or changed", state.evidence_findings > 0),
            )
            if applies
        ]
        return {
            "ready": not degraded,
            "state": "degraded" if degraded else "running",
            "because": "; ".join(degraded),
            "engine": "running" if state.engine_up else "down",
            "clock_trusted": state.clock_trusted,
            "generation": self.register.generation,
            "policy": self.policy().digest,
            "destroys": self.config.schedule.destroy,
            "holds_protecting": state.holds_protecting,
            "approvals_waiting": state.approvals_waiting,
            "reviews_overdue": state.reviews_overdue,
            "due_partitions": state.due_partitions,
            "overdue_partitions": state.overdue_partitions,
            "certificates_pending": state.certificates_pending,
            "evidence_findings": state.evidence_findings,
        }

    def policy(self) -> Policy:
        """The policy that the audit log knows to be in force."""
        assert self._policy is not None
        return self._policy

    def refresh_policy(self) -> None:
        """Take over what has come into force or ended of the policy since; a leaf says so first.

        A changed file counts at the next start, when all of it is checked. While the clock is not
        trusted nothing is known to have come into force.
        """
        assert self.register is not None and self._guard is not None
        if self._guard.check().trusted:
            self._take(self.register, self.policy().at(self._now() // 1000))

    def _take(self, register: Register, policy: Policy) -> None:
        """Put a policy in force, after its leaf: no purge may state one that the log lacks."""
        with register.exclusive():
            if self._policy is not None and self._policy.digest == policy.digest:
                return
            if register.note(POLICY_NOTE) != policy.digest:
                register.write(
                    notes={POLICY_NOTE: policy.digest},
                    leaves=[leaves.policy_loaded(policy.leaf())],
                )
                log.info("policy %s is in force", policy.digest[:16])
            self._policy = policy

    # Making the parts

    def _compose(self) -> Parts:
        """Open what is on disk, the log first, and put the parts together."""
        config = self.config
        _check_readable(config)
        disk.make_folder(config.folder, 0o700)
        self._log = AuditLog(config.log_folder, _signer(config), self._now)
        try:
            self._log.open()
        except LogError as error:
            raise StartError(f"{config.log_folder}: {error}{_advice(error)}") from None
        register = self.register = Register(config.folder, self._log, self._now)
        register.open()
        commitments = CommitmentStore(
            config.folder / "commitments", config.folder / "keys" / "commitments.key"
        )
        guard = self._guard = ClockGuard(
            register,
            self._now,
            int(config.clock.max_ahead_days * DAY_US),
            self._synchronised,
            require_sync=config.clock.require_sync,
            passed=self._passed,
        )
        trust = guard.check()  # before any other leaf, whose time it judges
        if not trust.trusted:
            log.error("the clock is not trusted (%s): nothing is destroyed", trust.reason)
        self._take(register, load(config.policy, self._now() // 1000))
        engine = self._engine = Engine(config, self.policy, register.now)
        answers = answering(config, engine)
        _tell_config(register, config, answers.versions)
        context = Context(register, engine.vault, guard, self.policy, commitments.person)
        return self._parts(context, engine, commitments, answers)

    def _parts(
        self, context: Context, engine: Engine, commitments: CommitmentStore, answers: Answers
    ) -> Parts:
        register = context.register
        purger = Purger(context)
        desk = Desk(
            register,
            commitments,
            engine.vault,
            shared=self.config.holds.shared,
            trusted=lambda: context.guard.check().trusted,
            tells_refusals=False,  # the API does, up to a limit
        )
        refusals = Refusals(
            lambda leaf: register.write(leaves=[leaf]),
            commitments.person,
            commitments.commit,
            self.metrics.refused,
            time.monotonic,
        )
        ledger = PrivacyLedger(register, engine.ask, self.config.safeguard, self.metrics)
        work = Work(
            context, purger, Verifier(context), desk, engine, self.refresh_policy, ledger.tell
        )
        self.scheduler = Scheduler(self.config.schedule, work, self.metrics)
        return Parts(
            config=self.config,
            register=register,
            commitments=commitments,
            desk=desk,
            context=context,
            purger=purger,
            refusals=refusals,
            jobs=self.scheduler,
            answers=answers,
            health=self.health,
        )


def _check_readable(config: Config) -> None:
    """What may not be looked into would pass for empty, in certificates."""
    for folder in config.verify.folders:
        if not folder.exists():
            log.warning("verify.folders: %s is not there (yet)", folder)
        elif not os.access(folder, os.R_OK | os.X_OK):
            raise StartError(f"verify.folders: {folder}: the service's user may not read it")


def _signer(config: Config) -> Signer:
    """The log's key, made at the first start and never again."""
    path = config.folder / "keys" / "log.key"
    if not path.exists() and (config.log_folder / "checkpoint").exists():
        raise StartError(f"{path} is missing, and the log is signed by it: restore it from backup")
    try:
        fresh = Signer.generate(config.origin).secret()
        signer = Signer.parse(disk.secret(path, fresh.encode()).decode())
    except (NoteError, UnicodeDecodeError):
        raise StartError(f"{path} is damaged: restore it from backup") from None
    if signer.key.name != config.origin:
        raise StartError(
            f"origin: the log is named {signer.key.name!r}, which can never change; write that"
        )
    return signer


def _advice(error: LogError) -> str:
    if isinstance(error.__cause__, BlockingIOError):
        return ": is another retention service running? stop that one first"
    return ": see what tallyhold audit verify says of this folder, or restore it from backup"


def _tell_config(register: Register, config: Config, versions: str) -> None:
    """A leaf where the configuration, or the versions of NAT, are others than at the last start."""
    text = json.dumps([configuration.dump(config), versions], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    if register.note(CONFIG_NOTE) != digest:
        leaf = {"kind": "config.changed", "digest": digest, "actor": None}
        register.write(notes={CONFIG_NOTE: digest}, leaves=[leaf])


async def run(service: Retention) -> None:
    """Start, serve until SIGTERM or SIGINT, stop in order. Raises STARTUP_ERRORS."""
    if not end_with_parent():
        raise StartError("the appliance that started this service is gone")
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    try:
        await service.start()
        await ended.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        await service.stop()
