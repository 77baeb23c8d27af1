"""Legal's half of the demo: a hold, a clock that moves on, a purge, its certificate, and proof.

Everything goes through the command line, as three people with certificates of their own. One
subscriber is held, the others are not; in the end nothing of the others is on any disk of the
product, and what is held is in the vault.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from retention.config import DEFAULT_POLICY
from safeguard.search import find
from tests.lab.appliance import COMMAND, ROOT, Appliance, tallyhold
from tests.lab.netns import LabError, end
from tests.lab.truth import SubscriberTruth, Truth

PEOPLE: Final = {
    "lena": ("legal-requester",),
    "omar": ("legal-approver",),
    "dora": ("dpo", "operations", "auditor"),
}
HOUR_S: Final = 3600
MAX_JUMPS: Final = 6
"""Ends of periods: the days, and the month of the usage; more is a clock that does not help."""
FINAL_S: Final = 90.0
"""How long to wait until the engine has removed what was dropped; it takes about ten seconds."""
START_S: Final = 60.0

PERIOD: Final = re.compile(r'period = "[^"]*"')
"""In the demo's policy every period is 30 days, so that the clock has to be set four times only."""

LISTEN: Final = re.compile(r"^# listen = .*$", re.MULTILINE)

Say = Callable[[str], None]


@dataclass
class Story:
    """What the demo reports of retention."""

    hold: str
    certificates: list[str] = field(default_factory=list)
    held_rows: int = 0
    destroyed_rows: int = 0
    marker_found_in: list[str] = field(default_factory=list)
    held_marker_found_in: list[str] = field(default_factory=list)
    refused_first: bool = False
    verified: bool = False
    flip_found: bool = False

    @property
    def ok(self) -> bool:
        return bool(
            self.certificates
            and self.held_rows
            and self.destroyed_rows
            and not self.marker_found_in
            and self.held_marker_found_in
            and self.refused_first
            and self.verified
            and self.flip_found
        )


class Office:
    """The retention service of the lab's appliance, and the people who use it."""

    def __init__(self, appliance: Appliance, port: int) -> None:
        self.folder = appliance.config.parent
        self.config = self.folder / "retention.toml"
        self.url = f"https://127.0.0.1:{port}"
        self._keys = appliance.folder / "staff"
        self._log = appliance.folder / "retention.log"
        self._process: subprocess.Popen[str] | None = None
        for name, roles in PEOPLE.items():
            words = [word for role in roles for word in ("--role", role)]
            config = ("--config", str(appliance.config))
            tallyhold(
                "appliance", "staff", name, *words, "--output", str(self._keys / name), *config
            )
        listen = f'listen = "127.0.0.1:{port}"'
        text = self.config.read_text()
        for line in ("[api.tls]", "ca = ", "cert = ", "key = ", "crl = "):
            text = text.replace(f"# {line}", line)
        text = LISTEN.sub(listen, text, count=1)
        policy = self.folder / "policy.toml"
        policy.write_text(PERIOD.sub('period = "30 days"', DEFAULT_POLICY.read_text()))
        text = text.replace('# policy = "/etc/tallyhold/policy.toml"', f'policy = "{policy}"')
        # What the service would do by itself within the hour people do here, to be watched.
        self.config.write_text(f"{text}\n[schedule]\ndestroy = false\ntick_s = 1.0\n")

    @property
    def log(self) -> Path:
        """The audit log's folder."""
        settings = tomllib.loads(self.config.read_text())
        return Path(settings.get("log") or Path(settings["folder"]) / "audit")

    def start(self, ahead_s: int = 0) -> None:
        """Serve with a clock that is `ahead_s` seconds later; returns once it answers."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.lab.moved", str(ahead_s), str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                text=True,
            )
        deadline = time.monotonic() + START_S
        while self.run("dora", "hold", "list", "--json").returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"the retention service: {self._log.read_text()[-2000:]}")
            time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            end(self._process, 30.0)
            self._process = None

    def run(self, person: str, *words: str) -> subprocess.CompletedProcess[str]:
        """`tallyhold WORDS...` as one of PEOPLE."""
        keys = self._keys / person
        who = {
            "TALLYHOLD_RETENTION": self.url,
            "TALLYHOLD_CERT": str(keys / f"{person}.pem"),
            "TALLYHOLD_KEY": str(keys / f"{person}.key"),
            "TALLYHOLD_CA": str(keys / "ca.pem"),
        }
        return subprocess.run(
            [*COMMAND, *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            timeout=180,
            env={**os.environ, **who},
        )

    def ask(self, person: str, *words: str) -> Any:
        """The JSON answer to a person's command; LabError with its words where it fails."""
        done = self.run(person, *words, "--json")
        if done.returncode:
            raise LabError(f"{person}: tallyhold {' '.join(words[:2])}: {done.stderr.strip()}")
        return json.loads(done.stdout)


def play(office: Office, appliance: Appliance, truth: Truth, say: Say) -> dict[str, Any]:
    """The whole story, in an office that serves; gives the report's part "retention"."""
    held, _ = _people(truth)
    story = Story(place(office, appliance, held, say))
    destroy(office, story, say)
    prove(office, story, appliance, truth, say)
    return {
        "ok": story.ok,
        "log": str(office.log),
        "certificates": story.certificates,
        "held_rows": story.held_rows,
        "destroyed_rows": story.destroyed_rows,
        "marker_found_in": story.marker_found_in,
        "held_marker_found_in": story.held_marker_found_in,
        "hold": story.hold,
        "refused_while_the_clock_was_doubted": story.refused_first,
        "log_verified": story.verified,
        "flipped_byte_found": story.flip_found,
    }


def _people(truth: Truth) -> tuple[SubscriberTruth, SubscriberTruth]:
    """One subscriber to be held and one not to be; both visited hosts."""
    found = [person for person in truth.subscribers if person.hosts]
    if len(found) < 2:
        raise LabError("the day has no two subscribers who visited hosts")
    return found[0], found[1]


def place(office: Office, appliance: Appliance, held: SubscriberTruth, say: Say) -> str:
    """A court order: placed by one person, approved by another, not by the same."""
    today = dt.datetime.now(dt.UTC).date()
    order = appliance.folder / "order.txt"
    order.write_text("A dummy court orders that the records of a dummy subscriber be kept.\n")
    scope = appliance.folder / "scope.csv"
    scope.write_text(f"kind,value,from,to,classes,ports\nsubscriber,{held.id},,,,\n")
    answer = office.ask(
        "lena", "hold", "place", "--matter", "Demo", "--basis", "court-order",
        "--authority", "Dummy Court", "--reference", "D-1", "--order", str(order),
        "--served", str(today), "--scope-file", str(scope),
        "--from", str(today - dt.timedelta(days=1)), "--to", str(today),
        "--review-by", str(today + dt.timedelta(days=365)), "--yes",
    )  # fmt: skip
    scope.unlink()
    hold = str(answer["id"])
    say(f"{hold} placed by lena: {answer['next']}")
    own = office.run("lena", "hold", "approve", hold, "--yes")
    say(f"approved by lena herself: refused (exit code {own.returncode})")
    if own.returncode != 3:
        raise LabError("a requester could approve her own hold, or the refusal has another code")
    answer = office.ask("omar", "hold", "approve", hold, "--yes")
    say(f"approved by omar: {answer['next']}")
    return hold


def destroy(office: Office, story: Story, say: Say) -> None:
    """Go on to each end of a period, and a day further, until only what is held is left."""
    for _ in range(MAX_JUMPS):
        waiting = _live(office)
        if not waiting:
            break
        end = min(_time(each["retain_until"]) for each in waiting)
        move(office, story, end, say)
        _wait(partial(_is_closed, office, end), "ingest told that writing is closed")
        say("  its period is over: closed for writing, a day is left for what is on its way")
        move(office, story, min(_time(each["opens"]) for each in _live(office)), say)
        plan = office.ask("dora", "purge", "plan")
        due = len(_due(plan))
        if not due:
            raise LabError(f"nothing is due: {[each['reason'] for each in plan['decisions']]}")
        done = office.ask("dora", "purge", "run", "--execute", "--confirm", str(due))
        for each in done["outcomes"]:
            what = f"{each['destroyed']} rows destroyed, {each['preserved']} kept for a hold"
            say(f"  {each['class']} {each['partition']}: {each['state']}, {what}")
    _wait(lambda: not any(p["step"] in ("dropped", "pending") for p in _purges(office)), "final")
    for purge in _purges(office):
        if purge["step"] == "final":
            story.held_rows += purge["preserved"]
            story.destroyed_rows += purge["destroyed"]
            story.certificates.append(
                str(office.log / "certificates" / f"{purge['id']}.final.json")
            )
    say(f"{story.destroyed_rows} rows destroyed, {story.held_rows} held in the vault")


def _purges(office: Office) -> list[dict[str, Any]]:
    found = office.ask("dora", "purge", "status")
    purges: list[dict[str, Any]] = found["purges"]
    return purges


def _due(plan: Any) -> list[dict[str, Any]]:
    return [each for each in plan["decisions"] if each["action"] != "keep"]


def move(office: Office, story: Story, to: float, say: Say) -> None:
    """Start the service anew soon after an instant; a clock that leapt is confirmed."""
    ahead_s = int(to - time.time()) + HOUR_S
    office.stop()
    office.start(ahead_s)
    say(f"the clock stands at {dt.datetime.fromtimestamp(time.time() + ahead_s, dt.UTC):%F %R}")
    plan = office.ask("dora", "purge", "plan")
    if not plan["trusted"]:
        story.refused_first = story.refused_first or not _due(plan)
        say(
            f"  such a leap is doubted and nothing destroyed ({len(_due(plan))} due): dora confirms"
        )
        office.ask("dora", "retention", "confirm-clock", "--yes")


def _live(office: Office) -> list[dict[str, Any]]:
    """What the plan says of each partition that is not destroyed yet."""
    plan = office.ask("dora", "purge", "plan", "--all")
    return [each for each in plan["decisions"] if each["store"] == "live"]


def _is_closed(office: Office, end: float) -> bool:
    """Whether ingest was told of all whose period had ended by then."""
    kept = [each for each in _live(office) if each["action"] == "keep"]
    over = [each for each in kept if _time(each["retain_until"]) <= end]
    return all(each["reason"].startswith("closed for writing") for each in over)


def _time(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


def _wait(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + FINAL_S
    while not done():
        if time.monotonic() > deadline:
            raise LabError(f"not within {FINAL_S:.0f} s: {what}")
        time.sleep(0.5)


def prove(
    office: Office,
    story: Story,
    appliance: Appliance,
    truth: Truth,
    say: Say,
) -> None:
    """Search every disk of the product, verify the log, and flip one byte of a copy."""
    office.stop()
    held, other = _people(truth)
    gone, kept = [other.id], [held.id]
    places = [office.folder, appliance.folder / "spool"]
    places += [appliance.folder / f"{name}.log" for name in ("appliance", "collector", "retention")]
    found = find(places, [text.encode() for text in (*gone, *kept)])
    for text in gone:
        story.marker_found_in += [_shown(path, appliance) for path in found[text.encode()]]
    for text in kept:
        story.held_marker_found_in += [_shown(path, appliance) for path in found[text.encode()]]
    say(f"{other.id} was not held: found in {story.marker_found_in or 'no file'}")
    verify = office.run("dora", "audit", "verify", str(office.log))
    story.verified = verify.returncode == 0
    say(f"tallyhold audit verify: exit code {verify.returncode}")
    copy = appliance.folder / "flipped"
    shutil.copytree(office.log, copy)
    victim = sorted(path for path in copy.rglob("*") if path.is_file())[-1]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    flipped = office.run("dora", "audit", "verify", str(copy))
    story.flip_found = flipped.returncode == 1
    say(f"with one bit flipped in {victim.relative_to(copy)}: exit code {flipped.returncode}")
    shutil.rmtree(copy)


def _shown(path: Path, appliance: Appliance) -> str:
    return str(path.relative_to(appliance.folder))
