"""The command line's entry: groups appear at once and are imported only when named."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tallyhold


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tallyhold", *args], capture_output=True, text=True, check=False
    )


def test_help_lists_every_group_without_importing_any() -> None:
    script = (
        "import sys; sys.argv = ['tallyhold', '--help']\n"
        "import tallyhold\n"
        "try: tallyhold.main()\n"
        "except SystemExit: pass\n"
        "bad = [n for n in ('collector', 'aggregator', 'numpy', 'pyarrow') if n in sys.modules]\n"
        "raise SystemExit(', '.join(bad) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for group in tallyhold.GROUPS:
        assert group in done.stdout


@pytest.mark.parametrize("group", list(tallyhold.GROUPS))
def test_every_group_has_help(group: str) -> None:
    done = run(group, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_a_missing_package_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tallyhold.GROUPS, "collector", ("collector.absent", "app", ""))
    monkeypatch.setattr(sys, "argv", ["tallyhold", "collector", "run"])
    with pytest.raises(SystemExit, match=r"pip install 'tallyhold\[collector\]'"):
        tallyhold.main()


def test_version() -> None:
    assert run("version").stdout.startswith("tallyhold ")
