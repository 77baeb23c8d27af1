"""The operator's choices for volume, and the limit that bounds what waits for a window."""

from __future__ import annotations

from dataclasses import dataclass

from collector.track.boundary import SETTLE_NS


@dataclass(frozen=True, slots=True)
class VolumeConfig:
    """window_ns: length of a window. settle_ns: see `boundary`. max_splits: see `Volume.split`."""

    window_ns: int = 300_000_000_000
    settle_ns: int = SETTLE_NS
    max_splits: int = 500_000
    """Rows and new addresses held between windows: ten changes an address for 50,000."""
