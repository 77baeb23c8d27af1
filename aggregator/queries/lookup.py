"""Evidence about one address and port in, every subscriber who may have had it, graded, out. Pure.

NAT mapping or port block, else a direct binding; then session, then subscriber. A third party says
"at this time", by a clock of its own, so a question is about [at - tolerance, at + tolerance] and
every edge of evidence is taken to be wrong by up to `Margins.clock_us` either way:

    CERTAIN    one subscriber can have had it, proven over all of that time, nothing lost that bears
    BOUNDED    one can, but the proof ends before, begins after or was inferred
    AMBIGUOUS  several can, or the address is shared and no port was given: the count, never a pick
    GAP        evidence that would tell is lost, destroyed or not delivered yet
    NONE       nobody, and nothing is known to be missing

What may have been lost bears on an answer as long as its effect may last: a flow is told when it
ends or at the next window (`tail_us`), a block is held from its allocation on, and what a lost
accounting message would have changed is made good by the interim updates of `settle_us`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Final

from aggregator.queries.arithmetic import Interval, union
from aggregator.queries.evidence import (
    FOREVER,
    Evidence,
    Holding,
    Lost,
    Mapping,
    Margins,
    Question,
)

MAX_CANDIDATES: Final = 64
"""Candidates in one answer; more are counted only: such a list identifies nobody."""


class Grade(StrEnum):
    """How sure an answer is; see the module."""

    CERTAIN = "CERTAIN"
    BOUNDED = "BOUNDED"
    AMBIGUOUS = "AMBIGUOUS"
    GAP = "GAP"
    NONE = "NONE"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody who may have had it; subscriber "" where the inside address is nobody's known."""

    grade: Grade
    subscriber: str
    mapping: Mapping | None
    holding: Holding | None
    because: str


@dataclass(frozen=True, slots=True)
class Answer:
    """All candidates, how many there are, and what is missing that bears on them."""

    question: Question
    margins: Margins
    grade: Grade
    candidates: tuple[Candidate, ...]
    count: int
    losses: tuple[Lost, ...]
    because: str


def look_up(question: Question, evidence: Evidence, margins: Margins | None = None) -> Answer:
    """The graded answer to one question."""
    margins = margins or Margins()
    low, high = question.span
    clock = margins.clock_us
    reach = (low - clock - max(margins.settle_us, margins.tail_us), high + clock + margins.tail_us)
    losses = evidence.losses(*reach)
    if question.port is None:
        count = evidence.sharers(question.address, low - clock, high + clock)
        if count is not None:
            return _shared(question, margins, count, losses)
        mapped: Sequence[Mapping] = ()
    else:
        found = evidence.mappings(question, low - clock - margins.tail_us, high + clock)
        mapped = _possible_mappings(found, question, margins)
        if not mapped and evidence.sharers(question.address, low - clock, high + clock) is not None:
            return _nobody(question, margins, _bearing_on_nothing(losses, question, margins))
    return _judge(question, margins, _paths(question, mapped, evidence, margins), losses)


@dataclass(frozen=True, slots=True)
class _Path:
    """One way from the address to a subscriber; `proven` is when all of it is."""

    mapping: Mapping | None
    holding: Holding | None
    proven: tuple[Interval, ...]
    is_elsewhere: bool = False

    @property
    def subscriber(self) -> str:
        return self.holding.subscriber if self.holding else ""

    @property
    def who(self) -> str:
        """What tells this one from others, where no subscriber is known too."""
        if self.holding is not None:
            return self.holding.subscriber or self.holding.session
        return self.mapping.inside.hex() if self.mapping else ""


def _paths(
    question: Question, mapped: Sequence[Mapping], evidence: Evidence, margins: Margins
) -> list[_Path]:
    if not mapped:
        return [_Path(None, h, _core(h, margins)) for h in _holders(question.address, question,
                evidence, margins)]  # fmt: skip
    paths = []
    for mapping in mapped:
        held = _holders(mapping.inside, question, evidence, margins)
        # Inside addresses are often private ones, which several sites use: the mapping's own first.
        own = [each for each in held if mapping.collector in ("", each.collector)]
        core = _mapping_core(mapping, margins)
        for each in own or held:
            both = _meet(core, _core(each, margins))
            paths.append(_Path(mapping, each, both, is_elsewhere=not own))
        if not held:
            paths.append(_Path(mapping, None, ()))
    return paths


def _judge(
    question: Question, margins: Margins, paths: list[_Path], losses: Sequence[Lost]
) -> Answer:
    if not paths:
        return _nobody(question, margins, _bearing_on_nothing(losses, question, margins))
    bearing = _distinct(
        lost for path in paths for lost in losses if _bears(lost, path, question, margins)
    )
    whos = {path.who for path in paths}
    grade, because = _grade(question, paths, len(whos), bearing)
    shown = [Candidate(grade, p.subscriber, p.mapping, p.holding, because) for p in paths]
    return Answer(
        question, margins, grade, tuple(shown[:MAX_CANDIDATES]), len(whos), bearing, because
    )


def _grade(
    question: Question, paths: list[_Path], whos: int, bearing: Sequence[Lost]
) -> tuple[Grade, str]:
    if whos > 1:
        return Grade.AMBIGUOUS, f"{whos} can have had it within the tolerance and clock error"
    if bearing:
        return Grade.GAP, f"evidence is missing: {bearing[0].reason}"
    if not paths[0].subscriber:
        what = "line" if paths[0].holding else "inside address"
        return Grade.BOUNDED, f"the {what} is known, but not whose it was"
    if any(path.is_elsewhere for path in paths):
        return Grade.BOUNDED, "the binding is of another collector than the mapping"
    low, high = question.span
    if any(a <= low and high <= b for a, b in union(each for p in paths for each in p.proven)):
        return Grade.CERTAIN, "proven over all of the time asked about"
    return Grade.BOUNDED, "proven for a part of the time asked about, or inferred"


# Mappings


def _possible_mappings(
    found: Sequence[Mapping], question: Question, margins: Margins
) -> list[Mapping]:
    """Those that may have held the port in the time asked about.

    A tail ends where the port is given to another: where its next allocation is known the earlier
    one is known to be over.
    """
    low, high = question.span
    clock = margins.clock_us
    kept = []
    for each in found:
        end = each.end_us
        if each.is_open:
            end = FOREVER
        elif each.kind == "flow":
            end += margins.tail_us
        later = [o.start_us for o in found if o.inside != each.inside and _after(o, each)]
        end = min([end, *later]) if end > each.end_us else end
        if each.start_us - clock < high and low < end + clock:
            kept.append(each)
    return kept


def _after(other: Mapping, each: Mapping) -> bool:
    """Whether `other` begins after the last proof of `each`, on a port that both have."""
    same = 0 in (other.protocol, each.protocol) or other.protocol == each.protocol
    return same and other.start_us >= each.end_us and other.kind == each.kind


def _mapping_core(mapping: Mapping, margins: Margins) -> tuple[Interval, ...]:
    return ((mapping.start_us + margins.clock_us, mapping.end_us - margins.clock_us),)


# Bindings


def _holders(
    address: bytes, question: Question, evidence: Evidence, margins: Margins
) -> list[Holding]:
    """Holdings that may meet the time asked about; one tail ends where the next one begins."""
    low, high = question.span
    clock = margins.clock_us
    found = evidence.holdings(address, low - clock, high + clock)
    ordered = sorted(found, key=lambda h: (h.collector, h.prefix_len, h.start_us))
    cut = list(ordered)
    for n, (each, after) in enumerate(pairwise(ordered)):
        same = (each.collector, each.prefix_len) == (after.collector, after.prefix_len)
        if same and after.start_us >= each.proof_us:
            cut[n] = replace(each, latest_us=min(each.latest_us, after.start_us))
    return [h for h in cut if h.start_us - clock < high and low < h.latest_us + clock]


def _core(holding: Holding, margins: Margins) -> tuple[Interval, ...]:
    if not holding.is_proven:
        return ()
    return ((holding.start_us + margins.clock_us, holding.proof_us - margins.clock_us),)


def _meet(left: Sequence[Interval], right: Sequence[Interval]) -> tuple[Interval, ...]:
    return tuple((max(a, c), min(b, d)) for a, b in left for c, d in right)


# Losses


def _bears(lost: Lost, path: _Path, question: Question, margins: Margins) -> bool:
    """Whether what was lost could have told of somebody else on this path."""
    low, high = question.span
    low, high = low - margins.clock_us, high + margins.clock_us
    if lost.record_class == "binding":
        collectors = {path.holding.collector} if path.holding else set()
        since, until = low - margins.settle_us, high
    elif path.mapping is None or path.mapping.kind == "deterministic":
        return False
    else:
        collectors = {path.mapping.collector}
        since, until = low, high + margins.tail_us
        if path.mapping.kind == "block":
            # An allocation is one message: whatever was lost since could have ended it.
            since, until = min(low, path.mapping.start_us - margins.clock_us), high
    near = not collectors or lost.collector == "" or lost.collector in collectors
    return near and lost.start_us < until and since < lost.end_us


def _bearing_on_nothing(
    losses: Sequence[Lost], question: Question, margins: Margins
) -> tuple[Lost, ...]:
    """Losses anywhere in which an answer could have been; nobody knows who would have told it."""
    low, high = question.span
    low, high = low - margins.clock_us, high + margins.clock_us
    return _distinct(
        each
        for each in losses
        if each.start_us < high + margins.tail_us * (each.record_class == "mapping")
        and low - margins.settle_us * (each.record_class == "binding") < each.end_us
    )


def _distinct(losses: Iterable[Lost]) -> tuple[Lost, ...]:
    return tuple(dict.fromkeys(losses))


# Answers without a candidate


def _nobody(question: Question, margins: Margins, bearing: tuple[Lost, ...]) -> Answer:
    if bearing:
        because = f"nobody is known to have had it, but evidence is missing: {bearing[0].reason}"
        return Answer(question, margins, Grade.GAP, (), 0, bearing, because)
    because = "nobody had it, and nothing is known to be missing"
    return Answer(question, margins, Grade.NONE, (), 0, (), because)


def _shared(question: Question, margins: Margins, count: int, losses: Sequence[Lost]) -> Answer:
    because = f"shared by {count} inside addresses at that time: ask again with the port"
    bearing = _bearing_on_nothing(losses, question, margins)
    return Answer(question, margins, Grade.AMBIGUOUS, (), count, bearing, because)
