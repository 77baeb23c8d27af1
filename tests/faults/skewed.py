"""A collector whose uplink reads a wrong clock until a file appears: what NTP is there to prevent.

python -m tests.faults.skewed SECONDS FILE --config collector.toml
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from collector.config import load
from collector.service import Collector
from collector.uplink import Uplink


def main() -> None:
    """Run until SIGTERM."""
    ahead_ns, repaired = int(sys.argv[1]) * 1_000_000_000, Path(sys.argv[2])
    ended = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ended
        ended = True

    def now() -> int:
        return time.time_ns() + (0 if repaired.exists() else ahead_ns)

    signal.signal(signal.SIGTERM, end)
    logging.basicConfig(level=logging.INFO)
    collector = Collector(load(Path(sys.argv[4])))
    collector.uplink = Uplink(collector.uplink.config, collector.spool, now=now)
    collector.start()
    try:
        collector.run(lambda: ended)
    finally:
        collector.stop()


if __name__ == "__main__":
    main()
