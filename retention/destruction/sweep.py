"""Late rows: what holds match goes to the vault, the rest is destroyed, a slot of arrivals at once.

For each place in a slot its leaf comes first, in one transaction with the note of the rows that it
says are preserved. Then they are copied, and when all places are done the slot is dropped. Copying
again what is copied does nothing, so a crash anywhere is carried on from the note, whatever became
of the holds meanwhile: rows that a hold placed since matches are still in the slot, and a second
leaf counts them as kept.

A live partition that was destroyed and has rows again, as after a restore of a backup, is swept in
the same way: its rows came after their period, too.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from aggregator.store.client import Misused
from retention.audit.leaf import MAX_ITEMS
from retention.destruction import evidence
from retention.destruction.book import Book, widened
from retention.destruction.context import SWEEP_KEY, Context, Unsettled, log
from retention.destruction.plan import approve_slot, late_reason, returned, unsettled
from retention.model import HeldRoot, Partition, Place
from retention.register import leaves as build
from retention.vault.port import LateSlot, PreserveError, Selection

MAX_SLOTS: Final = 2_000
"""Slots of one run; a week of them. What is left is swept minutes later."""
PART: Final = 1_000_000
"""Characters of row ids in one note, which takes 2^20: 31,250 rows."""
MAX_PARTS: Final = 64
"""Two million held rows of one place in five minutes of late arrivals."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a run of the sweep came to. kept: slots that stay, each with the reason."""

    slots: int = 0
    preserved: int = 0
    destroyed: int = 0
    kept: tuple[tuple[LateSlot, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """The slot being swept: places whose leaf is written, and the selection of the last of them,
    which may not be copied yet."""

    record_class: str
    slot: int
    done: tuple[str, ...] = ()
    last: Selection | None = None
    is_returned: bool = False

    def texts(self) -> dict[str, str | None]:
        """As the register keeps it. Row ids are hashes and random bits, no personal data."""
        ids = base64.b64encode(self.last.ids).decode() if self.last else ""
        parts = [ids[at : at + PART] for at in range(0, len(ids), PART)]
        if len(parts) > MAX_PARTS:
            raise PreserveError(
                "too-many", "more late rows of one place are held than can be noted"
            )
        head = {
            "class": self.record_class,
            "slot": self.slot,
            "returned": self.is_returned,
            "done": list(self.done),
            "last": _plain(self.last) if self.last else None,
            "parts": len(parts),
        }
        texts: dict[str, str | None] = {SWEEP_KEY: json.dumps(head)}
        return texts | {f"{SWEEP_KEY}/{n}": part for n, part in enumerate(parts)}

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> Note:
        """The note that `texts` gave."""
        raw: dict[str, Any] = json.loads(texts[SWEEP_KEY])
        ids = "".join(texts[f"{SWEEP_KEY}/{n}"] for n in range(raw["parts"]))
        last = _selection(raw["class"], raw["last"], ids) if raw["last"] else None
        head = raw["class"], int(raw["slot"]), tuple(raw["done"])
        return cls(*head, last, bool(raw.get("returned")))


class Sweeper:
    """Sweeps slots that take no more rows, the oldest first, each under the register's lock."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def run(self) -> Swept:
        """Sweep what can be swept.

        Raises Unsettled if something has to be settled first, StoreError and the register's
        errors; what was swept until then is in the log, and the rest is carried on.
        """
        return self._all(self._context.vault.slots())

    def reconcile(self) -> Swept:
        """The same for live partitions that were destroyed and are there again, after a restore.

        Their rows are late ones: what a hold of today matches, and the vault lacks, is kept.
        """
        return self._all(self._returned())

    def _returned(self) -> list[LateSlot]:
        context = self._context
        live = context.vault.partitions()
        back = returned(live, context.register.purges())
        return [
            LateSlot(each.place.record_class, each.place.number, (each,), is_returned=True)
            for each in live
            # A replica that lags may list what is gone; a count waits for it.
            if each.place in back and context.vault.count(each.place, "live")
        ]

    def _all(self, slots: Sequence[LateSlot]) -> Swept:
        context = self._context
        total, kept = Swept(), list[tuple[LateSlot, str]]()
        for slot in slots[:MAX_SLOTS]:
            with context.register.exclusive():
                if unsettled(context.register.purges()) or context.register.note(SWEEP_KEY):
                    raise Unsettled("a purge or a sweep has to be settled first")
                if reason := self._keep(slot):
                    kept.append((slot, reason))
                    continue
                try:
                    note = Note(*slot.place, is_returned=slot.is_returned)
                    preserved, destroyed = self._sweep(slot, note)
                except (PreserveError, Misused) as error:
                    log.error("late rows of %s stay: %s", slot.record_class, error)
                    kept.append((slot, str(error)))
                    if context.register.note(SWEEP_KEY) is not None:
                        break
                    continue
            total = replace(
                total,
                slots=total.slots + 1,
                preserved=total.preserved + preserved,
                destroyed=total.destroyed + destroyed,
            )
        return replace(total, kept=tuple(kept))

    def carry_on(self) -> str:
        """Finish a slot that was begun, if there is one; gives why it has to wait, or "".

        Raises StoreError or PreserveError where the store does not do its part.
        """
        context = self._context
        texts = context.register.notes(SWEEP_KEY)
        if SWEEP_KEY not in texts:
            return ""
        note = Note.parse(texts)
        at = Place(note.record_class, note.slot)
        slots = self._returned() if note.is_returned else context.vault.slots()
        slot = next((each for each in slots if each.place == at), None)
        if slot is None:  # it was dropped, and only this was left to do
            context.write(notes=self._cleared())
            return ""
        if note.last is not None and note.last.rows:
            context.vault.preserve_late(slot, note.last)
        if reason := self._keep(slot):
            return reason
        self._sweep(slot, replace(note, last=None))
        return ""

    def _keep(self, slot: LateSlot) -> str:
        trust = self._context.guard.check()
        context = self._context
        return late_reason(slot, context.policy(), context.believed_us(), trust.trusted)

    def _sweep(self, slot: LateSlot, note: Note) -> tuple[int, int]:
        """All places of one slot, then the slot; gives rows preserved and destroyed."""
        context, preserved, destroyed = self._context, 0, 0
        for partition in slot.partitions:
            selection = self._select(slot, partition)
            known = partition.place.name in note.done
            if known and not selection.rows:
                continue
            # Of a place that is done, what is selected now was counted as destroyed, and is kept.
            rows = selection.rows if known else partition.rows
            note = self._tell(note, partition, selection, rows)
            if selection.rows:
                context.vault.preserve_late(slot, selection)
            preserved += selection.rows
            destroyed += rows - selection.rows
        places = [Place(note.record_class, int(name)) for name in note.done]
        if reason := self._keep(slot):
            raise PreserveError("kept", reason)
        if slot.is_returned and context.vault.count(slot.place, "live") != slot.rows:
            raise PreserveError("rows-changed", "rows came or went meanwhile")
        name = f"late-{slot.record_class}-{slot.number}"
        context.vault.drop_slot(approve_slot(slot, name, places, context.register.generation), slot)
        context.write(notes=self._cleared())
        return preserved, destroyed

    def _select(self, slot: LateSlot, partition: Partition) -> Selection:
        context, wide = self._context, widened(partition)
        holds = context.meeting(wide)
        selection = context.vault.select_late(slot, partition.place, holds, context.salt)
        if sum(each.rows > 0 for each in selection.held) > MAX_ITEMS:
            raise PreserveError("too-many-holds", f"more than {MAX_ITEMS} holds keep late rows")
        if selection.rows > partition.rows:
            raise PreserveError("counts", "more late rows selected than there are")
        return selection

    def _tell(self, note: Note, partition: Partition, selection: Selection, rows: int) -> Note:
        """The leaf of one place, with book, evidence and note, in one transaction."""
        register, place, wide = self._context.register, partition.place, widened(partition)
        done = note.done if place.name in note.done else (*note.done, place.name)
        note = replace(note, done=done, last=selection)
        notes = self._cleared() | note.texts()
        if selection.rows:
            book = (self._context.book(place) or Book()).plus(selection.rows, selection.held, wide)
            key = evidence.key(place)
            notes |= {
                Book.key(place): book.text(),
                key: evidence.with_versions(register.note(key), selection.held),
            }
        owed = [
            build.late_swept(
                wide, register.generation, selection.rows, rows - selection.rows, selection.held
            )
        ]
        if note.is_returned:
            by = returned([partition], register.purges())[place]
            log.warning("rows of %s %s came back: %d", place.record_class, place.name, rows)
            owed.insert(0, build.restore_found(place, by, rows))
        self._context.write(notes=notes, leaves=owed)
        return note

    def _cleared(self) -> dict[str, str | None]:
        """What removes the note."""
        return dict.fromkeys(self._context.register.notes(SWEEP_KEY))


def _plain(selection: Selection) -> dict[str, Any]:
    return {
        "partition": selection.place.number,
        "rows": selection.rows,
        "held": [[each.hold, each.rows, each.root] for each in selection.held],
        "digest": selection.digest,
    }


def _selection(record_class: str, raw: Mapping[str, Any], ids: str) -> Selection:
    return Selection(
        Place(record_class, int(raw["partition"])),
        int(raw["rows"]),
        tuple(HeldRoot(str(h), int(r), str(root)) for h, r, root in raw["held"]),
        str(raw["digest"]),
        base64.b64decode(ids),
    )
