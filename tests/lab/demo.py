"""`make demo`: a day of dummy subscribers through a real router, and their bills beside the truth.

    appliance (engine + aggregator) <- mutual TLS - collector on the edge router <- the lab's day

Writes `build/demo/report.json` and exits 0 only where every figure equals the truth.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.lab import guarded, lookups, netns, retention, safeguard_report
from tests.lab.appliance import Answers, Appliance
from tests.lab.context import Progress as Step
from tests.lab.crowd import Clock, Crowd
from tests.lab.lab import Lab
from tests.lab.truth import CallTruth, SubscriberTruth, Truth
from tests.ports import free_port

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "build" / "demo"
WINDOW_S: Final = 5
CLOCK: Final = Clock()
CONNECTED_TOLERANCE_S: Final = 1.0
TALK_TOLERANCE_MS: Final = 50


def main() -> int:
    """Run the demo; the exit code is 0 where nothing differs."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end")
    parser.add_argument("--wall", type=float, default=45.0, help="seconds the day takes")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the volumes")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to work")
    options = parser.parse_args()
    netns.maybe_reexec_rootless()
    console = Console(emoji=False)
    folder = options.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        with (
            Lab(folder / "lab", wall_s=options.wall, scale=options.scale) as lab,
            Crowd(lab.network, CLOCK) as crowd,
            Appliance(folder, lab, window_s=WINDOW_S, clock=CLOCK) as appliance,
        ):
            return run(console, lab, crowd, appliance, keep=options.keep)
    except KeyboardInterrupt:
        console.print("\nInterrupted; everything that was started has been removed.")
        return 130
    except (netns.LabError, RuntimeError, OSError) as error:
        console.print(f"[red]The demo failed:[/red] {error}")
        return 1


def run(console: Console, lab: Lab, crowd: Crowd, appliance: Appliance, *, keep: bool) -> int:
    """Play the day on a running appliance, report, and wait where it is to be kept."""
    console.print(f"[bold]Tallyhold demo[/bold] in {_relative(appliance.folder)}")
    for line in appliance.addresses():
        console.print(f"  {line}")
    with guarded.Playing(crowd) as playing, _progress(console) as show:
        truth = lab.run_day(progress=show)
    console.print("The day is over; waiting for its last window.")
    appliance.wait_complete(truth.end_ns)
    report = build_report(truth, appliance.answers(truth))
    print_report(console, report)
    report["safeguard"] = guarded.tell(console, appliance, crowd, playing.truth())
    report["ok"] = report["ok"] and report["safeguard"]["ok"]
    report["lookups"] = lookups.tell(console, appliance, truth, WINDOW_S)
    report["ok"] = report["ok"] and report["lookups"]["ok"]
    office = retention.Office(appliance, free_port())
    try:
        office.start()
        console.print("\n[bold]SafeGuard[/bold]: canaries are looked up, and then searched for")
        report["proof"] = safeguard_report.proof(
            appliance, crowd, CLOCK, office.log, _sayer(console)
        )
        report["ok"] = report["ok"] and report["proof"]["ok"]
        console.print(
            "\n[bold]Retention[/bold]: a court order for one, the end of the period for all"
        )
        appliance.retire_collector()
        report["retention"] = retention.play(office, appliance, truth, _sayer(console))
    finally:
        office.stop()
    report["ok"] = report["ok"] and report["retention"]["ok"]
    console.print("\n[bold]SafeGuard[/bold]: the signed report, against the audit log")
    end_us = report["proof"]["end_us"]
    report["proof"] |= safeguard_report.tell(appliance, end_us, office.log, _sayer(console))
    report["ok"] = report["ok"] and report["proof"]["verified"]
    path = appliance.folder / "report.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    console.print(_verdict(report))
    console.print(f"\nReport: {_relative(path)}")
    console.print(_questions(appliance, truth))
    if keep:
        console.print("\nEverything is left running; Ctrl-C ends and removes it.")
        while True:
            time.sleep(1.0)
    return 0 if report["ok"] else 1


def build_report(truth: Truth, answers: Answers) -> dict[str, Any]:
    """The report: truth and answers side by side, and whether all of it agrees."""
    subscribers = []
    ok = not truth.errors and truth.drops == 0
    for person in truth.subscribers:
        billed = answers.billed[person.id]
        expected = {
            "up_bytes": person.up_bytes,
            "down_bytes": person.down_bytes,
            "connected_s": round(person.connected_s, 3),
            "hosts": hosts_of(person),
        }
        row = {
            "id": person.id,
            "truth": expected,
            "billed": billed,
            "completeness": answers.completeness[person.id],
        }
        row["ok"] = (
            billed["up_bytes"] == expected["up_bytes"]
            and billed["down_bytes"] == expected["down_bytes"]
            and abs(billed["connected_s"] - person.connected_s) <= CONNECTED_TOLERANCE_S
            and billed["hosts"] == expected["hosts"]
            and answers.completeness[person.id] == 1.0
        )
        ok = ok and bool(row["ok"])
        subscribers.append(row)
    calls, calls_ok = _calls(truth, answers.calls)
    return {
        "ok": ok and calls_ok and not answers.losses,
        "subscribers": subscribers,
        "calls": calls,
        "losses": answers.losses,
        "unattributed": answers.unattributed,
        "versions": {
            "tallyhold": version("tallyhold"),
            "python": platform.python_version(),
            "kernel": platform.release(),
            "engine": answers.engine_version,
        },
    }


def hosts_of(person: SubscriberTruth) -> list[str]:
    """Hosts that the subscriber connected to; a name only looked up is no visit."""
    return sorted({*person.hosts, *person.reached})


def _calls(truth: Truth, recorded: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
    """Calls of the truth, each with the record of the same parties nearest in time."""
    left = sorted(recorded, key=lambda row: str(row["start"]))
    rows, ok = [], True
    for call in sorted(truth.calls, key=lambda each: each.start_ns):
        found = next((r for r in left if (r["a"], r["b"]) == (call.a, call.b)), None)
        if found:
            left.remove(found)
        same = found is not None and _same_call(call, found)
        ok = ok and same
        rows.append(
            {
                "truth": {
                    "a": call.a,
                    "b": call.b,
                    "answered": call.answered,
                    "talk_ms": call.talk_ms,
                    "disposition": call.disposition,
                },
                "recorded": found,
                "ok": same,
            }
        )
    rows += [{"truth": None, "recorded": extra, "ok": False} for extra in left]
    return rows, ok and not left


def _same_call(call: CallTruth, record: dict[str, Any]) -> bool:
    return (
        bool(record["answered"]) == call.answered
        and record["disposition"] == call.disposition
        and abs(record["talk_ms"] - call.talk_ms) <= TALK_TOLERANCE_MS
    )


def print_report(console: Console, report: dict[str, Any]) -> None:
    """Each bill beside the truth."""
    table = Table(title="Bill beside truth (layer-3 bytes, seconds, hosts)", title_justify="left")
    for name in ("Subscriber", "Up", "Down", "Connected", "Hosts", "Complete", ""):
        table.add_column(name, justify="left" if name in ("Subscriber", "") else "right")
    for row in report["subscribers"]:
        billed, expected = row["billed"], row["truth"]
        cells = [_pair(billed[k], expected[k]) for k in ("up_bytes", "down_bytes")]
        connected = f"{billed['connected_s']:.1f}/{expected['connected_s']:.1f}"
        hosts = _pair(len(billed["hosts"]), len(expected["hosts"]))
        share = f"{row['completeness']:.0%}"
        table.add_row(row["id"], *cells, connected, hosts, share, _mark(row["ok"]))
    console.print(table)
    table = Table(title="Calls beside truth", title_justify="left")
    for name in ("From", "To", "Outcome", "Talk ms", ""):
        table.add_column(name, justify="right" if name == "Talk ms" else "left")
    for row in report["calls"]:
        want, got = row["truth"] or {}, row["recorded"] or {}
        table.add_row(
            str(want.get("a", got.get("a"))),
            str(want.get("b", got.get("b"))),
            _pair(got.get("disposition", "-"), want.get("disposition", "-")),
            _pair(got.get("talk_ms", "-"), want.get("talk_ms", "-")),
            _mark(row["ok"]),
        )
    console.print(table)
    for loss in report["losses"]:
        console.print(f"[red]loss[/red] {json.dumps(loss)}")


def _verdict(report: dict[str, Any]) -> str:
    if report["ok"]:
        return "[green]Everything agrees.[/green]"
    return "[red]Something differs.[/red]"


def _sayer(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(f"  {text}", highlight=False, markup=False)


def _pair(left: object, right: object) -> str:
    def text(value: object) -> str:
        return f"{value:,}" if isinstance(value, int) else str(value)

    return text(left) if left == right else f"{text(left)}/{text(right)}"


def _mark(ok: bool) -> str:
    return "[green]equal[/green]" if ok else "[red]differs[/red]"


def _questions(appliance: Appliance, truth: Truth) -> str:
    name = truth.subscribers[0].id
    commands = [
        f"tallyhold billing usage {name} --period {appliance.period}",
        f"tallyhold billing sessions {name} --period {appliance.period}",
        f"tallyhold billing calls {truth.calls[0].subscriber} --period {appliance.period}",
        f"tallyhold billing export --period {appliance.period} --format csv",
        f"tallyhold demand busy-hour --period {appliance.period}",
    ]
    lines = "\n".join(f"  {command}" for command in commands)
    where = f"export TALLYHOLD_CONFIG={_relative(appliance.config)}"
    return (
        "\nQuestions one can ask while it runs (make demo KEEP=1):\n"
        f"  {where}\n  export PATH=.venv/bin:$PATH\n{lines}"
    )


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


@contextmanager
def _progress(console: Console) -> Iterator[Any]:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[clock]}"),
        TimeElapsedColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task("The day", total=1.0, clock="00:00")

        def show(step: Step) -> None:
            clock = f"{int(step.hour):02d}:{int(step.hour * 60) % 60:02d}"
            bar.update(task, completed=step.fraction, clock=clock)
            if step.text:
                mark = "" if step.ok else " [red]failed[/red]"
                bar.console.print(f"  {clock} {step.subscriber} {step.text}{mark}", style="dim")

        yield show
        bar.update(task, completed=1.0, clock="24:00")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
