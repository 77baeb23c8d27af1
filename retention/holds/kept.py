"""A hold and the store in, what is kept of it and what had gone before out, counted now."""

from __future__ import annotations

from collections.abc import Iterable

from retention.holds.parts import Coverage, Kept, Store
from retention.holds.wording import next_step
from retention.model import Hold, Place, Purge, StoreName


def covered(store: Store, hold: Hold, purges: Iterable[Purge], now_us: int) -> Coverage:
    """What there is of a hold. Raises StoreError; counts every place that it meets."""
    live = {each.place: each for each in store.partitions()}
    vault = {each.place: each for each in store.vaulted()}
    places = []
    for place in sorted(live.keys() | vault.keys()):
        found = [each[place] for each in (live, vault) if place in each]
        if any(hold.meets(place.record_class, each.earliest_us, each.latest_us) for each in found):
            in_live = _count(store, hold, place, "live") if place in live else 0
            in_vault = _count(store, hold, place, "vault") if place in vault else 0
            rows = in_live + in_vault
            if in_live and in_vault:
                rows = _count(store, hold, place, "live", "vault")
            places.append(Kept(found[0], in_live, in_vault, rows))
    by_id = {each.id: each for each in purges}
    gone = tuple(by_id[name] for name in hold.unavailable if name in by_id)
    return Coverage(hold, tuple(places), gone, next_step(hold, now_us))


def _count(store: Store, hold: Hold, place: Place, *sources: StoreName) -> int:
    # Roots are not asked for here, so the digests that are made on the way need no salt.
    chosen = store.select(place, sources, [hold], lambda _hold, _place: b"")
    return next((each.rows for each in chosen.held if each.hold == hold.id), 0)
