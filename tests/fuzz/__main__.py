"""`python -m tests.fuzz PARSER --seconds N`: seeks bytes that a parser must survive.

Ends with 0 where nothing was found. What is found is written to `crash-*` in the current folder,
and `python -m tests.fuzz PARSER FILE` runs it again. An input may take a second at most.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["collector"]):
    from tests.fuzz import targets
from collector.parse.reader import ParseError

ALL = "all"


def main() -> None:
    """Does not return: the fuzzer ends the process."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("parser", choices=[*targets.TARGETS, ALL])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--max-bytes", type=int, default=4096)
    parser.add_argument("file", nargs="*", type=Path, help="inputs to run once")
    arguments = parser.parse_args()
    whole = arguments.parser == ALL
    run = targets.every if whole else targets.TARGETS[arguments.parser].run
    seeds = targets.every_seed() if whole else targets.TARGETS[arguments.parser].seeds

    def once(data: bytes) -> None:
        try:
            run(data)
        except ParseError as error:
            # Short and without bytes of the packet, so that it may be a metric's label.
            assert len(error.reason) <= 24 and error.reason.replace("-", "").isalnum()

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            Path(corpus, str(number)).write_bytes(seed)
        options = [
            f"-max_total_time={arguments.seconds}",
            f"-max_len={arguments.max_bytes}",
            "-timeout=1",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
            "-verbosity=0",
        ]
        inputs = [str(path) for path in arguments.file]
        atheris.Setup([sys.argv[0], *options, *(inputs or [corpus])], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
