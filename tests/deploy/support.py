"""A real Prometheus for tests: what it scraped, what its rules made of it, and whom it names."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tests.lab.appliance import COMMAND, Appliance
from tests.lab.lab import Lab
from tests.lab.netns import Namespace, end
from tests.lab.relay import Relay
from tests.lab.truth import Truth
from tests.ports import free_port

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
RULES: Final = DEPLOY / "prometheus" / "tallyhold.rules.yml"
RETENTION_RULES: Final = DEPLOY / "prometheus" / "retention.rules.yml"
CONFIG: Final = DEPLOY / "prometheus" / "prometheus.yml"
READY_S: Final = 20.0

METRIC: Final = re.compile(r"\btallyhold[_:][a-z0-9_:]+")
"""A metric of ours inside an expression; nothing else there begins so."""
_IPV4: Final = re.compile(r"\d{1,3}(\.\d{1,3}){3}")
_IPV6: Final = re.compile(r"[0-9a-f]{1,4}:[0-9a-f:]*:[0-9a-f]*|::")
_DIGITS: Final = re.compile(r"\d{6,}")

Sample = tuple[dict[str, str], float]


class Prometheus:
    """Debian's Prometheus with deploy/prometheus, on loopback, asking every second."""

    def __init__(self, folder: Path, collector_port: int, aggregator_port: int) -> None:
        self.folder = folder
        self._targets = {
            "localhost:9465": f"127.0.0.1:{aggregator_port}",
            "edge-1.isp.example:9464": f"127.0.0.1:{collector_port}",
        }
        self._process: subprocess.Popen[str] | None = None
        self.port = 0
        self.at = 0.0
        """When queries are evaluated, Unix time; 0 is now."""

    def __enter__(self) -> Self:
        self.folder.mkdir()
        shutil.copy(RULES, self.folder)
        (self.folder / CONFIG.name).write_text(derived(CONFIG.read_text(), self._targets))
        self.port = free_port()
        with (self.folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self.folder / CONFIG.name}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--log.level=warn",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                text=True,
            )
        try:
            wait_for("Prometheus", self._is_ready, READY_S)
        except BaseException:
            end(self._process)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        end(self._process)

    def _is_ready(self) -> bool:
        assert self._process is not None
        log = self.folder / "log"
        assert self._process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=2):
                return True
        except OSError:
            return False

    def get(self, path: str, **params: str) -> Any:
        """`data` of an answer of the HTTP API."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(params)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {params}: {error.read().decode()}") from None

    def query(self, expr: str) -> list[Sample]:
        """Labels and value of every series that a query gives at `at`."""
        data = self.get("query", query=expr, time=f"{self.at or time.time():.3f}")
        assert data["resultType"] == "vector"
        return [(each["metric"], float(each["value"][1])) for each in data["result"]]

    def by(self, label: str, expr: str) -> dict[str, float]:
        """Values of a query by one label, which must tell the series apart."""
        found = self.query(expr)
        values = {labels.get(label, ""): value for labels, value in found}
        assert len(values) == len(found), f"{expr} has several series of one {label}"
        return values

    def value(self, expr: str) -> float:
        """The value of a query that gives exactly one series."""
        found = self.query(expr)
        assert len(found) == 1, f"{expr} gives {found}"
        return found[0][1]


class WatchedLab(Lab):
    """A lab that keeps the relays it made: the appliance makes that of the uplink first."""

    def __init__(self, folder: Path, *, wall_s: float, scale: float) -> None:
        super().__init__(folder, wall_s=wall_s, scale=scale)
        self.relays: list[Relay] = []

    def relay(
        self,
        listen_in: Namespace | None,
        port: int,
        connect_in: Namespace | None,
        target: int,
    ) -> Relay:
        made = super().relay(listen_in, port, connect_in, target)
        self.relays.append(made)
        return made


@dataclass(frozen=True)
class Watched:
    """A day that is over: everything has its receipt and is in Prometheus."""

    lab: Lab
    appliance: Appliance
    prometheus: Prometheus
    truth: Truth

    @property
    def pages(self) -> dict[str, str]:
        """Both metrics pages as anybody may fetch them."""
        ports = {
            "collector": self.appliance.collector_metrics_port,
            "aggregator": self.appliance.metrics_port,
        }
        pages = {}
        for name, port in ports.items():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                pages[name] = page.read().decode()
        return pages

    def secrets(self) -> set[str]:
        """Every word of the lab that says who somebody is or what they did."""
        seen = self.lab.describe()
        found = {call.a for call in self.truth.calls} | {call.b for call in self.truth.calls}
        found |= {number.lstrip("+") for number in found}
        for person in self.truth.subscribers:
            found.add(person.id)
            found.update(person.hosts, person.reached, person.looked_up)
            for session in person.sessions:
                found.add(session.session_id)
                found.update(filter(None, (session.v4, session.v6, session.v6_prefix)))
        for key in ("prefixes_v4", "prefixes_v6", "resolvers", "sip_servers", "hosts"):
            values = seen[key]
            assert isinstance(values, list)
            found.update(values)
        found |= {str(seen["edge_address"]), str(seen["nat_public_v4"])}
        found |= {prefix.partition("/")[0].rstrip(":.0") for prefix in found if "/" in prefix}
        return {word for word in found if word}


def derived(text: str, targets: dict[str, str]) -> str:
    """The shipped configuration with other targets and a second between scrapes.

    Without the retention service, which is not run beside the pair whose figures are watched.
    """
    text = text.replace(f"  - {RETENTION_RULES.name}\n", "")
    text = re.sub(r"  - job_name: tallyhold-retention\n(?:    .*\n)+\n", "", text)
    for old, new in targets.items():
        assert text.count(old) == 1, f"{old} is not once in {CONFIG.name}"
        text = text.replace(old, new)
    assert text.count("15s") == 2
    return text.replace("15s", "1s")


def metric_names(page: str) -> set[str]:
    """Names on a metrics page, families without a sample included."""
    names = set()
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            names.add(line.split(" ")[2])
        elif line and line[0] != "#":
            names.add(re.split(r"[{ ]", line, maxsplit=1)[0])
    return names


def label_values(page: str) -> Iterator[tuple[str, str]]:
    """Every label of every sample on a metrics page."""
    for line in page.splitlines():
        if not line.startswith("#"):
            yield from re.findall(r'([a-zA-Z_]+)="((?:[^"\\]|\\.)*)"', line)


def personal(values: Iterable[str], secrets: Iterable[str]) -> list[str]:
    """Those values that contain a known secret, or what looks like an address or a number."""
    known = list(secrets)
    return [
        value
        for value in values
        if any(word in value for word in known)
        or any(shape.search(value) for shape in (_IPV4, _IPV6, _DIGITS))
    ]


@functools.cache
def tallyhold_help(*words: str) -> str:
    """What `tallyhold WORDS --help` prints, wide enough that no option is cut."""
    done = subprocess.run(
        [*COMMAND, *words, "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=DEPLOY.parent,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
    )
    return done.stdout


def wait_for(what: str, ready: Callable[[], bool], timeout_s: float) -> None:
    """AssertionError where it does not come in time."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.1)
