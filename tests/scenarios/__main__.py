"""`python -m tests.scenarios list|run|export`: the conformance suite from the command line."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from collector.capture.replay import frames as read_capture
from collector.parse.link import Frame
from tests.scenarios import case as cases
from tests.scenarios import live, runner
from tests.scenarios.case import Case


def main(words: list[str]) -> int:
    """0 where every case passed, 1 where one did not, 2 for wrong words."""
    parser = argparse.ArgumentParser(prog="python -m tests.scenarios", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name and title of each case")
    run = commands.add_parser("run", help="compare records with those expected")
    run.add_argument("cases", nargs="*", metavar="CASE", help="default: all")
    run.add_argument("--live", action="store_true", help="over a veth pair (root)")
    export = commands.add_parser("export", help="write captures and expected records (root)")
    export.add_argument("folder", type=Path)
    export.add_argument("cases", nargs="*", metavar="CASE", help="default: all")
    chosen = parser.parse_args(words)
    known = cases.names()
    wanted = getattr(chosen, "cases", []) or known
    if unknown := sorted(set(wanted) - set(known)):
        parser.error(f"no such case: {', '.join(unknown)}; `list` names them")
    loaded = [cases.load(name) for name in wanted]
    if chosen.command == "list":
        for case in loaded:
            print(f"{case.name:<34} {case.title}")  # noqa: T201
        return 0
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        needed = chosen.command == "export" or chosen.live
        on_wire = needed or any(case.is_played for case in loaded)
        stage = stack.enter_context(live.stage(scratch)) if on_wire else None
        if chosen.command == "export":
            assert stage is not None
            for case in loaded:
                export_case(case, chosen.folder, stage)
            return 0
        failed = [case.name for case in loaded if not passes(case, stage, chosen.live, scratch)]
    return 1 if failed else 0


def passes(case: Case, stage: live.Stage | None, on_wire: bool, scratch: Path) -> bool:
    """Run one case and print what became of it."""
    if stage is not None and (on_wire or case.is_played):
        frames: list[Frame] = live.run_live(case, stage)
    else:
        path = scratch / f"{case.name}.pcap"
        runner.write_pcap(path, case.frames())
        frames = list(read_capture([path]))
    told = runner.differences(case.expected(), runner.rows_of(case, frames))
    print(f"{'failed' if told else 'passed'} {case.name}")  # noqa: T201
    for line in told:
        print(f"  {line}")  # noqa: T201
    return not told


def export_case(case: Case, folder: Path, stage: live.Stage) -> None:
    """The case as others can use it: capture, expected records, README, settings."""
    into = folder / case.name
    into.mkdir(parents=True, exist_ok=True)
    if case.is_played:
        frames = [(frame.ts_ns, frame.data) for frame in live.run_live(case, stage)]
    else:
        frames = case.frames()
    runner.write_pcap(into / "capture.pcap", frames)
    for name in ("README.md", "expected.jsonl", "case.toml"):
        if (case.folder / name).exists():
            shutil.copyfile(case.folder / name, into / name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
