"""A running collector's metrics address in, what it says of itself out (`collector.metrics`)."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from typing import Final

from collector.doctor.facts import Running

_TIMEOUT_S: Final = 2.0
_MAX_BYTES: Final = 1 << 20
_ANY: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
_SAMPLE: Final = re.compile(r"tallyhold_collector_([a-z_]+)(?:\{([^}]*)\})? ([0-9.e+-]+)")
_LABEL: Final = re.compile(r'([a-z_]+)="([^"]*)"')


def scrape(listen: str) -> Running | None:
    """What the collector at `listen` (host:port) publishes; None where none answers."""
    host, _, port = listen.rpartition(":")
    url = f"http://{_ANY.get(host, host)}:{port}/metrics"
    try:
        # The address is the operator's own; no proxy of the environment stands before it.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=_TIMEOUT_S) as answer:
            text = answer.read(_MAX_BYTES).decode("utf-8", "replace")
    except (OSError, urllib.error.URLError, ValueError):
        return None
    found = parse(text)
    return found if found.stages else None


def parse(text: str) -> Running:
    """Samples of the exposition format; lines of others are passed over."""
    stages: dict[str, dict[str, int]] = {}
    gauges: dict[str, float] = {}
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line)
        if match is None:
            continue
        name, labels = match[1], dict(_LABEL.findall(match[2] or ""))
        try:
            value = float(match[3])
        except ValueError:
            continue
        if name == "units_total":
            stages.setdefault(labels.get("stage", ""), {})[labels.get("outcome", "")] = int(value)
        elif name == "units_open":
            stages.setdefault(labels.get("stage", ""), {})["open"] = int(value)
        elif not labels:
            gauges[name] = value
    return Running(stages, gauges)
