"""Every bench, one after another, and one table of all figures at the end.

    python -m bench [NAME ...]        # all, or some of them

A bench is a module with `main`, run as a process of its own, which ends with `report.finish`.
Exit code 1: a bench failed, or a figure does not reach what is wanted of it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from typing import Final

from bench import report

BENCHES: Final[dict[str, tuple[str, ...]]] = {
    "decode": (),
    "event": (),
    "parsers": (),
    "sip": (),
    "whole": (),
    "bulk": (),
    "memory": (),
    "insert": (),
    "laplace": (),
    "lookup": ("--rows", "1000000", "--questions", "100"),
    "radius": (),
    "safeguard_dns": (),
    "purge": ("--once",),
}
"""Modules of this package and their arguments: all together are to end within 20 minutes."""
MAX_SECONDS: Final = 900
"""One bench that takes longer is stuck."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(BENCHES)} (default all)")
    names = parser.parse_args().names or list(BENCHES)
    if unknown := [name for name in names if name not in BENCHES]:
        parser.error(f"no such bench: {', '.join(unknown)}")
    if names == list(BENCHES):
        for old in report.FOLDER.glob("*.json"):
            old.unlink()
    console = report.console()
    failed = []
    for name in names:
        console.rule(name)
        began = time.monotonic()
        command = [sys.executable, "-m", f"bench.{name}", *BENCHES[name]]
        try:
            code = subprocess.run(command, timeout=MAX_SECONDS).returncode
        except subprocess.TimeoutExpired:
            code = -1
        if code:
            failed.append(name)
        console.print(f"{name}: {time.monotonic() - began:.0f} s, exit code {code}")
    console.rule("all figures")
    console.print(report.table(report.load()))
    if failed:
        console.print(f"failed, or with a figure that was missed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
