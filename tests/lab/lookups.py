"""Who had each address and port of the day: answers over what the collector sent, beside the truth.

Every session is asked about by its own address at its middle, and every NAT mapping by the router's
address and port at the middle of its life. Whoever is CERTAIN has to be the one, and each session
that lasted has to be certain.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from rich.console import Console

from aggregator.config import load
from aggregator.queries.answering import Answering
from aggregator.queries.evidence import Margins
from aggregator.queries.reading import Reader, rows_of
from aggregator.queries.who import Found, Rules
from aggregator.reader import reader
from collector.wire.addr import unpack
from tests.lab.appliance import Appliance
from tests.lab.truth import Truth

CLOCK_US: Final = 200_000
"""One machine and one clock; the truth's stated times are good to a tenth of a second."""
MAX_MAPPINGS: Final = 150
LASTED_US: Final = 3_000_000


def tell(console: Console, appliance: Appliance, truth: Truth, window_s: int) -> dict[str, Any]:
    """Ask, print a line, and give the report."""
    client = reader(load(appliance.config))
    try:
        rules = Rules(margins=Margins(CLOCK_US, window_s * 1_000_000, window_s * 1_000_000))
        asked = Answering(client, rules)
        grades: Counter[str] = Counter()
        wrong = [*_sessions(asked, truth, grades), *_mappings(asked, client, truth, grades)]
    finally:
        client.close()
    shares = ", ".join(f"{grade} {count}" for grade, count in sorted(grades.items()))
    console.print(f"\n[bold]Look-ups[/bold]: {grades.total()} asked: {shares}; wrong: {len(wrong)}")
    return {"ok": not wrong, "grades": dict(grades), "wrong": wrong}


def _sessions(asked: Answering, truth: Truth, grades: Counter[str]) -> list[str]:
    """Who had a session's own address at its middle."""
    wrong = []
    for person in truth.subscribers:
        for each in person.sessions:
            start, stop = each.start_ns // 1000, each.stop_ns // 1000
            if each.v4 is None or stop - start < LASTED_US:
                continue
            found = asked.who(each.v4, None, None, (start + stop) // 2, LASTED_US // 10)
            grades[found.plain["grade"]] += 1
            if (found.plain["grade"], _names(found)) != ("CERTAIN", {person.id}):
                wrong.append(f"session of {person.id}: {found.plain['because']}")
    return wrong


def _mappings(asked: Answering, client: Reader, truth: Truth, grades: Counter[str]) -> list[str]:
    """Who was behind the router's address and port at the middle of each mapping."""
    wrong = []
    for row in rows_of(client, _MAPPINGS, {}):
        start, end, inside = row["start_us"], row["until_us"], unpack(row["inside_address"])
        at = (start + end) // 2
        who = {
            person.id
            for person in truth.subscribers
            for each in person.sessions
            if each.v4 == inside and each.start_ns <= at * 1000 <= each.stop_ns
        }
        public = unpack(row["public_address"])
        found = asked.who(public, row["port_first"], row["protocol"], at, (end - start) // 8)
        grades[found.plain["grade"]] += 1
        is_certain = found.plain["grade"] == "CERTAIN"
        if not who <= _names(found) or (is_certain and _names(found) != who):
            wrong.append(
                f"mapping of {sorted(who)}: {found.plain['grade']}, {found.plain['because']}"
            )
    return wrong


def _names(found: Found) -> set[str]:
    return {each["subscriber"] for each in found.plain["candidates"]}


_MAPPINGS: Final = f"""
SELECT public_address, inside_address, port_first, protocol, start_us, max(end_us) AS until_us
FROM mapping GROUP BY public_address, inside_address, port_first, protocol, start_us
ORDER BY until_us - start_us DESC, start_us LIMIT {MAX_MAPPINGS}"""
