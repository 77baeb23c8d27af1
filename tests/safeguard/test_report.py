"""Reports: what they show and leave out, and that whoever verifies finds what is wrong in one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from collector.wire.releases import KEPT_DAY, REGION_CATEGORY_DAY
from retention.audit.checkpoint import Signer
from safeguard import figures, plots
from safeguard.document import DocumentError, parse, seal
from safeguard.figures import kept_ratio
from safeguard.ledger import gone, unlike, wrong
from safeguard.model import Release
from safeguard.verify import verify
from tests.safeguard.made import (
    BUDGET,
    DAY_US,
    SIGNER,
    START_US,
    judged,
    releases,
    report,
    terms,
)

ROOT = Path(__file__).parents[2]


def raised(found: list[Release], marginal: str, by: int) -> list[Release]:
    """As if so many households had been counted in each cell."""
    return [
        replace(each, counts={cell: n + by for cell, n in each.counts.items()})
        if each.marginal == marginal
        else each
        for each in found
    ]


def of(document: Any, marginal: str) -> Any:
    return [each for each in document["figures"] if each["marginal"] == marginal]


def test_a_report_is_good_and_has_every_cell() -> None:
    found = releases(2, "edge-1", "edge-2")
    verdict = judged(report(found, 2))
    assert verdict.good, verdict.lines()
    document = report(found, 2)
    assert len(document["ledger"]) == 2 * 2 * 26
    assert len(document["figures"]) == 2 * 26  # two routers of a region are one figure
    assert all(len(each["releases"]) == 2 for each in document["figures"])
    assert {len(each["counts"]) for each in document["figures"]} == {2, 3}
    assert verdict.says == ["104 releases, 154 cells", "no day cost more than 1 of 1"]


def test_what_is_only_noise_is_not_shown_and_what_is_more_is() -> None:
    found = releases()
    document = report(found)
    shown = [count for each in document["figures"] for count in each["counts"]]
    assert shown.count(None) >= 0.95 * len(shown)
    loud = report(raised(found, REGION_CATEGORY_DAY, 1000))
    (figure,) = of(loud, REGION_CATEGORY_DAY)
    assert all(abs(count - 1000) < 100 for count in figure["counts"])
    (entry,) = (each for each in found if each.marginal == REGION_CATEGORY_DAY)
    assert entry.scale == 5  # two categories for 0.4
    assert (figure["half_width"], figure["threshold"]) == (15, 20)
    assert judged(loud).good


def test_figures_of_several_routers_add_up_with_their_noise() -> None:
    found = raised(releases(1, "edge-1", "edge-2", "edge-3"), REGION_CATEGORY_DAY, 500)
    (figure,) = of(report(found), REGION_CATEGORY_DAY)
    sums = [
        sum(each.counts["north", name] for each in found if each.marginal == REGION_CATEGORY_DAY)
        for name in ("adult", "gambling", "malware")
    ]
    assert figure["counts"] == sums
    assert figure["half_width"] > 15


def test_a_silent_day_says_so_and_shows_nothing() -> None:
    found = [
        replace(each, outcome="silent", epsilon_micro=0, rows=0, counts={}) for each in releases()
    ]
    found = [replace(each, release=each.own_id()) for each in found]
    document = report(found)
    assert document["figures"] == document["kept"] == []
    assert {each["cells"] for each in document["mechanisms"].values()} == {None}
    assert judged(document).good


def test_the_kept_ratio_has_its_error() -> None:
    scales = [Fraction(10)]
    assert kept_ratio(9000, 1000, scales, 0.05) == (900_000, 4_300 - 600)
    assert kept_ratio(20, 5, scales, 0.05) == (None, None)
    assert kept_ratio(-5, 1005, scales, 0.05)[0] == 0
    loud = report(raised(releases(), KEPT_DAY, 4000))
    (kept,) = loud["kept"]
    assert 450_000 < kept["ratio_micro"] < 550_000
    assert 0 < kept["error_micro"] < 10_000


def first(document: Any) -> Any:
    return next(each for each in document["ledger"] if each["epsilon_micro"])


def released(document: Any) -> Any:
    return next(each for each in document["mechanisms"].values() if each["marginal"] != KEPT_DAY)


SPOILS: list[tuple[str, Callable[[Any], Any]]] = [
    ("charge", lambda d: first(d).update(epsilon_micro=1)),
    ("days", lambda d: d["days"][0].update(epsilon_micro=5)),
    ("days", lambda d: d["days"].clear()),
    ("budget", lambda d: d.update(budget_micro=BUDGET - 1)),
    ("mechanism", lambda d: released(d).update(l0=1)),
    ("mechanism", lambda d: released(d).update(scale=[1, 1])),
    ("mechanism", lambda d: released(d)["cells"].pop()),
    ("mechanism", lambda d: released(d)["cells"].append(["", "x.example"])),
    ("mechanism", lambda d: d["mechanisms"].popitem()),
    ("release", lambda d: d["ledger"][3].update(start=d["ledger"][3]["start"] + 1)),
    ("release", lambda d: d["ledger"][0].update(collector="edge-9")),
    ("window", lambda d: d.update(start=START_US + 1)),
    ("window", lambda d: d["ledger"][0].update(end=d["ledger"][0]["end"] + 1)),
    ("twice", lambda d: d["ledger"].append(d["ledger"][0])),
    ("figure", lambda d: d["figures"][0].update(start=0)),
    ("figure", lambda d: d["figures"][0]["releases"].append("0" * 32)),
    ("figure", lambda d: d["figures"][0]["releases"].clear()),
    ("domain", lambda d: d["figures"][0]["counts"].pop()),
    ("domain", lambda d: d["figures"].pop()),
    ("domain", lambda d: d["figures"].append(d["figures"][0])),
    ("domain", lambda d: d["ledger"][0].update(rows=2)),
    ("error-bars", lambda d: d["figures"][0].update(half_width=1)),
    ("threshold", lambda d: d["figures"][0].update(threshold=10)),
    ("threshold", lambda d: d["figures"][0].update(counts=[3, None, None])),
    ("kept", lambda d: d["kept"].clear()),
    ("kept", lambda d: d["kept"][0].update(start=1)),
    ("kept", lambda d: d["kept"][0].update(ratio_micro=1)),
    ("shape", lambda d: d.update(note="a free text")),
    ("shape", lambda d: d["figures"][0].update(counts=["many"])),
    ("shape", lambda d: d.update(v=2)),
    ("shape", lambda d: d.update(kind="another")),
]


@pytest.mark.parametrize(("rule", "spoil"), SPOILS)
def test_a_spoilt_report_is_found_although_it_is_rightly_signed(
    rule: str, spoil: Callable[[Any], Any]
) -> None:
    found = raised(releases(), KEPT_DAY, 4000)
    verdict = judged(report(found), spoil)
    assert rule in {each.rule for each in verdict.findings}, verdict.lines()


def test_every_flipped_bit_is_found() -> None:
    data = seal(report(releases()), SIGNER)
    assert verify(data, SIGNER.key).good
    for at in range(0, 8 * len(data), len(data) // 25 * 8 + 3):
        spoilt = bytearray(data)
        spoilt[at // 8] ^= 1 << at % 8
        assert not verify(bytes(spoilt), SIGNER.key).good, at


def test_another_key_is_not_the_one_that_was_asked_for() -> None:
    other = Signer.generate("test/safeguard")
    data = seal(report(releases()), other)
    assert verify(data).good
    assert "note: the key is the document's own word" in verify(data).lines()[1]
    assert {each.rule for each in verify(data, SIGNER.key).findings} == {"signature"}


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]\n", b'{"document":1}', b"\xff" * 40, b'{"document":' * 2000]
)
def test_what_is_no_document_is_told_and_raises_nothing(data: bytes) -> None:
    assert not verify(data).good
    with pytest.raises(DocumentError):
        parse(data)


def leaves_of(found: list[Release]) -> dict[str, dict[str, Any]]:
    return {each.release.hex(): each.leaf() for each in found}


def test_a_report_is_compared_with_the_log() -> None:
    found = releases()
    data, leaves = seal(report(found), SIGNER), leaves_of(found)
    assert verify(data, None, leaves).good
    name = found[0].release.hex()
    for odd in ({}, leaves | {name: leaves[name] | {"l0": 99}}):
        assert "log" in {each.rule for each in verify(data, None, odd).findings}
    assert unlike(found, leaves) == []
    assert len(gone(found[1:], leaves, START_US, START_US + DAY_US)) == 1


def test_the_table_alone_shows_a_day_too_dear_and_a_window_told_twice() -> None:
    found = releases()
    assert wrong(found, BUDGET) == []
    assert "over" in wrong(found, BUDGET - 1)[0]
    assert "told 2 times" in " ".join(wrong([*found, found[0]], BUDGET))
    odd = replace(found[0], epsilon_micro=3)
    assert "another ε" in " ".join(wrong([odd, *found[1:]], BUDGET))
    odd = replace(found[0], release=bytes(16))
    assert "is not the id" in " ".join(wrong([odd, *found[1:]], BUDGET))


def test_a_page_needs_nothing_and_escapes_what_it_shows() -> None:
    page = plots.page(figures.report(raised(releases(2), REGION_CATEGORY_DAY, 300), terms(2)))
    for foreign in ("http://", "https://", "src=", "@import", "<script"):
        assert foreign not in page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert page.count("<svg") == 2 + 3
    assert "±" in page
    assert "never above its threshold" in page


def test_the_verifier_runs_alone(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(seal(report(releases()), SIGNER))
    script = (
        "import sys\n"
        "from safeguard.verify import main\n"
        "code = main(sys.argv[1:])\n"
        "bad = [n for n in ('clickhouse_driver', 'numpy', 'pyarrow', 'typer', 'rich', 'pydantic')"
        " if n in sys.modules]\n"
        "raise SystemExit(', '.join(bad) or code)"
    )
    command = [sys.executable, "-c", script, str(path), "--key", str(SIGNER.key)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    path.write_bytes(path.read_bytes().replace(b'"budget_micro":1', b'"budget_micro":2'))
    done = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["findings"][0]["rule"] == "signature"
