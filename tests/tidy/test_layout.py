"""The rules of the tree that no linter knows: sizes, fences, and what must not be written."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("collector", "aggregator", "retention", "safeguard")

# "Near 300": a module that needs a few lines more is not split for their sake.
MAX_MODULE_LINES: Final = 330
MAX_FUNCTION_LINES: Final = 70

# Longer than the limit, with the length they may have. Entries may shrink and go, never grow.
LONG_MODULES: Final[dict[str, int]] = {}
LONG_FUNCTIONS: Final[dict[str, int]] = {}

# Each third party is imported in one place, so that it can be replaced in one place.
FENCES: Final[dict[str, tuple[str, ...]]] = {
    "clickhouse_driver": ("aggregator/store/client.py",),
    "chdb": ("aggregator/store/engine_main.py",),
    "pyroute2": ("tests/", "bench/"),
    "scapy": ("tests/",),
    "typer": (
        "collector/cli.py",
        "aggregator/cli.py",
        "aggregator/options.py",
        "aggregator/statement.py",
        "retention/cli.py",
        "retention/holds/cli.py",
        "retention/destruction/cli.py",
        "retention/policy/cli.py",
        "safeguard/cli.py",
        "retention/lookup_cli.py",
        "retention/faults_cli.py",
        "safeguard/prove/cli.py",
    ),
    "prometheus_client": ("collector/metrics.py", "aggregator/metrics.py", "retention/metrics.py"),
    "aiohttp": (
        "aggregator/ingest/server.py",
        "aggregator/api.py",
        "retention/api.py",
        "retention/routes_",
    ),
    "phonenumbers": ("collector/track/numbers.py", "retention/holds/scope.py"),
}

DESTROYERS: Final = {"retention/vault/copy.py", "retention/vault/late.py"}

# A text that must not stand anywhere: built from parts so that this file does not hold it.
FORBIDDEN: Final = tuple(
    "".join(parts) for parts in (("/ro", "ot/"), ("/wo", "rk/"), ("pypi", "."), ("/opt", "/pypi"))
)


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders or PACKAGES:
        yield from sorted((ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_modules_and_functions_stay_short() -> None:
    long_modules, long_functions = {}, {}
    for path in sources():
        text = path.read_text()
        lines = text.count("\n")
        if lines > MAX_MODULE_LINES:
            long_modules[name_of(path)] = lines
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    long_functions[f"{name_of(path)}:{node.name}"] = length
    for found, allowed in ((long_modules, LONG_MODULES), (long_functions, LONG_FUNCTIONS)):
        grown = {name: size for name, size in found.items() if size > allowed.get(name, 0)}
        assert not grown, f"split these, or argue for them in the allow-list: {grown}"
        stale = {n: s for n, s in allowed.items() if n not in found or found[n] < s}
        assert not stale, f"the allow-list may only shrink; lower or remove: {stale}"


def test_third_parties_stay_behind_their_fences() -> None:
    outside = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                fence = FENCES.get(name.split(".")[0])
                if fence and not name_of(path).startswith(fence):
                    outside.append(f"{name_of(path)} imports {name}")
    assert not outside


def test_every_module_says_what_it_turns_into_what() -> None:
    silent = [
        name_of(path)
        for path in sources(*PACKAGES, "tests", "bench")
        if not path.name.startswith("test_")
        and path.read_text().strip()
        and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def test_nothing_of_one_machine_is_written_down() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    found = []
    for name in filter(None, listed):
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 2**20:
            text = path.read_bytes().decode("utf-8", "ignore")
            found += [f"{name}: {word}" for word in FORBIDDEN if word in text]
    assert not found


def test_one_place_destroys_stored_rows() -> None:
    """Statements that remove rows stand in the vault's code alone, behind an approved plan."""
    verbs = re.compile(
        r"\b(DROP\s+(TABLE|PARTITION|DATABASE|PART)|TRUNCATE|DETACH|ALTER\s+TABLE\s+\S+\s+DELETE"
        r"|DELETE\s+FROM|REPLACE\s+PARTITION|MOVE\s+PARTITION|CLEAR\s+COLUMN)\b"
    )
    found = {
        name_of(path)
        for path in sources("aggregator", "retention")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("execute", "outside", "query_columns")
        and any(
            isinstance(part, ast.Constant)
            and isinstance(part.value, str)
            and verbs.search(part.value)
            for argument in node.args
            for part in ast.walk(argument)
        )
    }
    assert found <= DESTROYERS, f"these would remove rows: {sorted(found - DESTROYERS)}"


def test_no_schema_line_lets_rows_expire_by_themselves() -> None:
    for path in sorted((ROOT / "aggregator/store/migrations").glob("*.sql")):
        statements = re.sub(r"--.*", "", path.read_text())
        assert not re.search(r"\bTTL\b", statements), f"{path.name} has a TTL"


def test_a_router_does_not_import_the_servers_parts() -> None:
    script = (
        "import sys, collector.cli, collector.service\n"
        "bad = [n for n in ('clickhouse_driver', 'aiohttp', 'chdb', 'aggregator', 'scapy')"
        " if n in sys.modules]\n"
        "raise SystemExit(', '.join(bad) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("group", ["collector", "aggregator", "retention", "bundled", "dev"])
def test_the_extras_exist(group: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["optional-dependencies"][group]


def test_locked_versions_have_hashes_and_no_addresses() -> None:
    lines = (ROOT / "requirements/dev.txt").read_text().splitlines()
    pinned = [n for n, line in enumerate(lines) if re.match(r"^[a-z0-9].*==", line)]
    assert len(pinned) > 20
    for n in pinned:
        assert "--hash=sha256:" in lines[n + 1]
    assert not [line for line in lines if "://" in line or "index-url" in line]
