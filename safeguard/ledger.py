"""Entries of the privacy ledger in; what each day cost, and what table and log disagree on, out.

Pure: the table's entries and the log's leaves are given.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from safeguard.document import Document
from safeguard.model import Release

DAY_US: Final = 86_400_000_000


def days(entries: Iterable[Release], day_us: int = DAY_US) -> list[Document]:
    """Each day of each collector: ε that it cost, in millionths, and its releases."""
    found: dict[tuple[int, str], list[Release]] = defaultdict(list)
    for each in entries:
        found[each.start_us // day_us, each.collector].append(each)
    return [
        {
            "collector": collector,
            "start": number * day_us,
            "epsilon_micro": sum(each.epsilon_micro for each in mine),
            "releases": sum(each.is_released for each in mine),
            "silent": sum(not each.is_released for each in mine),
            "restarts": max(each.restarts for each in mine),
        }
        for (number, collector), mine in sorted(found.items())
    ]


def wrong(entries: Sequence[Release], budget_micro: int, day_us: int = DAY_US) -> list[str]:
    """What the table alone shows done wrong: too dear a day, or a window that is told twice."""
    found = [
        f"{day['collector']} {day['start']}: ε {day['epsilon_micro']} is over {budget_micro}"
        for day in days(entries, day_us)
        if day["epsilon_micro"] > budget_micro
    ]
    windows = Counter((each.collector, each.marginal, each.start_us) for each in entries)
    found += [f"{' '.join(map(str, name))}: told {n} times" for name, n in windows.items() if n > 1]
    for each in entries:
        if each.release != each.own_id():
            found.append(f"release {each.release.hex()} is not the id of what it says")
        if each.epsilon_micro not in ((0, each.charge_micro) if each.is_released else (0,)):
            found.append(f"release {each.release.hex()} states another ε than l0·R/scale")
    return found


def unlike(entries: Iterable[Release], leaves: Mapping[str, Document]) -> list[str]:
    """Entries that a log does not have, or has otherwise."""
    found = []
    for each in entries:
        leaf = leaves.get(each.release.hex())
        if leaf is None:
            found.append(f"release {each.release.hex()} is not in the log")
            continue
        odd = [name for name, value in each.leaf().items() if leaf[name] != value]
        if odd:
            found.append(f"release {each.release.hex()} is another in the log: {', '.join(odd)}")
    return found


def gone(
    entries: Iterable[Release], leaves: Mapping[str, Document], start_us: int, end_us: int
) -> list[str]:
    """Releases of a period that a log has and the table does not."""
    here = {each.release.hex() for each in entries}
    return [
        f"release {name} is in the log and not in the table"
        for name, leaf in leaves.items()
        if start_us <= leaf["start"] < end_us and name not in here
    ]
