"""Configuration files in, the description of what is there out: what `prove` looks at."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from collector import build_safeguard
from collector import config as collectors
from collector.track.safeguard.domain import SafeguardConfig, pool_size

MAX_PAGE: Final = 16 * 2**20
_TIMEOUT_S: Final = 10.0


class SiteError(RuntimeError):
    """Something that was named is not there; the message says what to give."""


def page(address: str) -> str:
    """A metrics page, by its address. Raises SiteError."""
    url = address if address.startswith("http://") else f"http://{address}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            text: bytes = answer.read(MAX_PAGE)
    except (OSError, ValueError):
        raise SiteError(f"{address}: no metrics page there; name others with --metrics") from None
    return text.decode("utf-8", "replace")


def counted(config: collectors.Config) -> tuple[SafeguardConfig, int]:
    """SafeGuard as a collector is configured, and households that its prefixes can hold."""
    made = build_safeguard.safeguard_config(config)
    if made is None:
        raise SiteError("this collector counts no blocks: it has no [safeguard]")
    return made, pool_size(config.access.networks(), config.access.ipv6_prefix_len)


def words(config: collectors.Config) -> list[str]:
    """Categories, regions and block targets of a collector, which nothing may show."""
    guard = config.safeguard
    if guard is None:
        return []
    targets = [target for some in guard.categories.values() for target in some]
    return [*guard.categories, *guard.regions, *targets, *guard.pages]


def process(config: Path) -> int | None:
    """The collector that runs with a configuration, by its command line; None where none does."""
    for cmdline in _processes():
        try:
            arguments = [each.decode() for each in cmdline.read_bytes().split(b"\0")]
        except (OSError, UnicodeDecodeError):
            continue
        named = {str(config), str(config.resolve())} & set(arguments)
        default = config == collectors.DEFAULT_PATH and "--config" not in arguments
        if {"collector", "run"} <= set(arguments) and (named or default):
            return int(cmdline.parent.name)
    return None


def _processes() -> Iterable[Path]:
    return sorted(Path("/proc").glob("[0-9]*/cmdline"))
