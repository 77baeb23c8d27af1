"""`python -m tests.lab.moved SECONDS CONFIG`: the retention service, told that it is later.

A record lives for months; whoever watches its end needs a clock that can be set. Only this process
lives in that time: engine, people and certificates stay in theirs.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path

from retention.config import load
from retention.service import Retention, run


def main() -> None:
    """Serve until SIGTERM."""
    ahead_ns, config = int(sys.argv[1]) * 1_000_000_000, load(Path(sys.argv[2]))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    asyncio.run(run(Retention(config, now=lambda: time.time_ns() + ahead_ns)))


if __name__ == "__main__":
    main()
