"""Leaves on their way into the audit log: committed with the rows they tell of, then appended.

    transaction   rows, generation, and the leaves, each with the log index that it must get
    log           the leaves, in batches
    next write    puts its leaves in the queue in place of these, which the log has

A crash before the transaction leaves nothing, one after it leaves the queue, which `settle` brings
into the log when the register is opened. A leaf that the log has at its index is done; an index
that is free is filled; anything else means that register and log do not belong together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from retention.audit import canonical, leaf, merkle
from retention.audit.canonical import Leaf
from retention.audit.checkpoint import Key
from retention.audit.log import MAX_BATCH, AuditLog, LogError
from retention.model import NEVER
from retention.register.leaves import raises_generation
from retention.register.lock import LogPending, RegisterError
from retention.register.rows import State

MAX_LEAVES: Final = 4_096
"""Leaves of one write: the evidence of a few hundred holds for ten partitions."""
MAX_BYTES: Final = 16 * 2**20
"""Of one write's leaves; all of them stand in one row until the log has them."""

_AT_GENERATION: Final = frozenset(
    {"purge.intent", "purge.preserved", "purge.dropped", "late.swept", "heartbeat"}
)
"""Kinds besides `hold.*` that carry the present generation. Certificates carry their purge's."""
EXCLUSIVE: Final = frozenset({"purge.intent", "late.swept", "policy.loaded"})
"""Kinds besides those that raise the generation that must not stand in the middle of a purge."""
SETTLED_ONLY: Final = frozenset({"purge.intent", "late.swept"})
"""Of those, the kinds for which another purge has to have come to its outcome first."""
_WITNESS: Final = ("witness.enrolled", "witness.cosigned")
"""Kinds that the log's own functions append, of which the register knows nothing."""
_STATELESS: Final = (
    *_WITNESS,
    "genesis",
    "heartbeat",
    "config.changed",
    "policy.loaded",
    "lookup",
    "refusal",
    "login.failed",
)
"""Kinds after which a new register can begin: they tell of nothing that it would have to know."""


@dataclass(frozen=True, slots=True)
class Stamped:
    """Leaves as the log will have them."""

    entries: tuple[str, ...]
    generation: int
    last_us: int


def stamp(
    leaves: Iterable[dict[str, Any]], generation: int, last_us: int, now_us: int, holds: int
) -> Stamped:
    """Give leaves `v`, `at` and, for a heartbeat, what it leaves to the register; check each.

    `at` is the leaf's own, or now: never later than now, and never earlier than the leaf before
    but for `clock.step`, which is always of now. Raises LeafError for a leaf that is none and
    RegisterError for one at another generation than it would have in the log.
    """
    entries, size = list[str](), 0
    now_us = min(max(now_us, 0), NEVER)  # a clock beyond it is told of by a leaf at the limit
    for fields in leaves:
        kind = fields.get("kind")
        at = now_us
        if kind != "clock.step":
            at = max(last_us, min(int(fields.get("at", now_us)), now_us))
        stamped: Leaf = {"v": leaf.VERSION} | fields | {"at": at}
        if kind == "heartbeat":
            stamped = {"generation": generation, "holds": holds} | stamped
        leaf.check(stamped)
        generation = _generation(stamped, generation)
        entry = canonical.encode(stamped)
        size += len(entry)
        if len(entry) > canonical.MAX_BYTES:
            raise RegisterError(f"a leaf of more than {canonical.MAX_BYTES} bytes: {kind}")
        entries.append(entry.decode())
        last_us = at
    if len(entries) > MAX_LEAVES or size > MAX_BYTES:
        raise RegisterError("too many leaves for one write")
    return Stamped(tuple(entries), generation, last_us)


def _generation(stamped: Leaf, generation: int) -> int:
    """The generation after a leaf; the log would show a wrong one for ever."""
    kind = stamped["kind"]
    due = generation + raises_generation(kind)
    if (kind.startswith("hold.") or kind in _AT_GENERATION) and stamped["generation"] != due:
        raise RegisterError(f"{kind} at generation {stamped['generation']} where {due} is due")
    return due


class Outbox:
    """The way into one audit log, which must be open. One thread at a time."""

    def __init__(self, log: AuditLog) -> None:
        self.log = log
        self._sound = False

    @property
    def origin(self) -> str:
        """The log's name, as its checkpoint states it."""
        return self.log.checkpoint().partition("\n")[0]

    def check_new(self) -> AuditLog:
        """Give the log; RegisterError if it tells of what a new register would not know."""
        self._open()
        for index in range(self.log.size):
            kind = canonical.decode(self.log.entry(index))["kind"]
            if kind not in _STATELESS:
                raise RegisterError(
                    f"the audit log has leaves of a register that is not here ({kind}): restore "
                    "the register's folder from a backup, or give the new one a new log"
                )
        return self.log

    def check_belongs(self, state: State) -> None:
        """Raise RegisterError if the log is not the one that the register wrote to."""
        self._open()
        if state.origin != self.origin:
            raise apart("the audit log has another name")
        if state.size > self.log.size:
            raise apart("the audit log has fewer leaves than the register knows of")
        if self.log.tree.root(state.size).hex() != state.root:
            raise apart("the audit log has other leaves than the register knows of")
        self._match(state.size, state.queue)

    def settle(self, first: int, entries: Sequence[str]) -> None:
        """Bring entries to the log, from index `first` on, those that it does not have yet.

        Raises LogPending if it does not take them, RegisterError if it has others there.
        """
        try:
            if not self._sound:
                self.log.load()  # after a failure only the disk knows what the log has
            self._sound = False
            self._match(first, entries)
            while (done := self.log.size - first) < len(entries):
                batch = entries[done : done + MAX_BATCH]
                self.log.extend(canonical.decode(entry.encode()) for entry in batch)
            self._sound = True
        except (OSError, LogError) as error:
            raise LogPending(
                f"the audit log takes no leaves now ({_cause(error)}); those of the last write "
                "are queued, and nothing else is written until it has them",
                committed=True,
            ) from error

    def add_cosigned(self, note: str, key: Key) -> int:
        """As `AuditLog.add_cosigned`."""
        self._sound = False
        return self.log.add_cosigned(note, key)

    def last_at(self, queue: Sequence[str] = ()) -> int:
        """Time of the last leaf, queued or in the log."""
        entry = queue[-1].encode() if queue else self.log.entry(self.log.size - 1)
        return int(canonical.decode(entry)["at"])

    def _match(self, first: int, entries: Sequence[str]) -> None:
        if self.log.size < first:
            raise apart("the audit log has lost leaves")
        there = self.log.tree.levels[0][first : first + len(entries)]
        for hashed, entry in zip(there, entries, strict=False):
            if hashed != merkle.leaf_hash(entry.encode()):
                raise apart("the audit log has another leaf where a queued one belongs")
        for index in range(first + len(entries), self.log.size):
            if canonical.decode(self.log.entry(index))["kind"] not in _WITNESS:
                raise apart("the audit log has leaves that the register did not write")

    def _open(self) -> None:
        if not self.log.size:
            raise RegisterError("the audit log is not open")
        self.log.load()


def apart(what: str) -> RegisterError:
    """What to say where register and log are not of one service at one time."""
    return RegisterError(
        f"register and audit log do not belong together: {what}. Nothing was changed and nothing "
        "will be destroyed. One of them may be an old copy: restore the one that lags behind"
    )


def _cause(error: Exception) -> str:
    """An error without the paths it names."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)
