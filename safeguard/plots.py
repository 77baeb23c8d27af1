"""A report in, one HTML page with drawings out, that needs nothing from anywhere.

For each day and region a bar for each category, and for each category a line over the hours; with
error bars. What is below its threshold is drawn as nothing and said to be so.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

from collector.wire.releases import CATEGORY_HOUR, REGION_CATEGORY_DAY
from safeguard.document import Document

MAX_DRAWINGS: Final = 400
"""Days with regions, or categories; a page with more is no use to anybody."""
_WIDTH: Final = 640
_LABEL: Final = 150
_ROW: Final = 18
_LINE_HEIGHT: Final = 60

_PAGE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>SafeGuard {period}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 46em; margin: 2em auto; padding: 0 1em }}
svg {{ width: 100%; height: auto }} text {{ font: 12px sans-serif; fill: #222 }}
.bar {{ fill: #4a7ab5 }} .error {{ stroke: #222; stroke-width: 1.2 }}
.band {{ fill: #4a7ab5; opacity: .25 }} .line {{ fill: none; stroke: #2b5a92; stroke-width: 1.5 }}
.none {{ fill: #777 }}
</style></head><body>
<h1>Blocked look-ups, {period} (UTC)</h1>
<p>Numbers of households that met a block, with random noise added before anything left the router:
no number here tells whether any one household is in it. Error bars hold the true number
{sure} times in a hundred. Cells below a threshold are not shown.</p>
{body}</body></html>
"""


def page(document: Document) -> str:
    """The whole page; its period, error bars and thresholds are those of the report."""
    figures = document["figures"]
    parts = ["<h2>A day, by region and category</h2>"]
    daily = [each for each in figures if each["marginal"] == REGION_CATEGORY_DAY]
    parts += [_bars(document, figure) for figure in daily[:MAX_DRAWINGS]]
    parts += ["<h2>By hour</h2>", *_hours(document)]
    left = max(len(daily) - MAX_DRAWINGS, 0)
    parts += [f"<p>{left} more are in the report.</p>"] if left else []
    return _PAGE.format(
        period=escape(f"{moment(document['start'])} to {moment(document['end'])}"),
        sure=f"{100 - document['alpha_micro'] / 10_000:g}",
        body="\n".join(parts),
    )


def cells_of(document: Document, figure: Document) -> list[tuple[str, str]]:
    """Region and category of each count of a figure."""
    release = figure["releases"][0]
    entry = next(each for each in document["ledger"] if each["release"] == release)
    return [tuple(cell) for cell in document["mechanisms"][entry["mechanism"]]["cells"]]


def moment(at_us: int) -> str:
    """A time as people write it, UTC."""
    when = dt.datetime.fromtimestamp(at_us / 1e6, dt.UTC)
    return when.strftime("%Y-%m-%d" if at_us % 86_400_000_000 == 0 else "%Y-%m-%d %H:%M:%S")


def _bars(document: Document, figure: Document) -> str:
    """One region's day."""
    cells, width = cells_of(document, figure), figure["half_width"]
    most = max([1, *(count + width for count in figure["counts"] if count is not None)])
    scale = (_WIDTH - _LABEL - 90) / most
    rows = []
    for n, ((_, category), count) in enumerate(zip(cells, figure["counts"], strict=True)):
        y = n * _ROW
        rows.append(f'<text x="0" y="{y + 13}">{escape(category)}</text>')
        if count is None:
            text = f"below {figure['threshold']}"
            rows.append(f'<text class="none" x="{_LABEL}" y="{y + 13}">{text}</text>')
            continue
        low, high = (_LABEL + max(count + side * width, 0) * scale for side in (-1, 1))
        middle = y + _ROW / 2
        rows.append(
            f'<rect class="bar" x="{_LABEL}" y="{y + 3}" width="{count * scale:.1f}" height="12"/>'
            f'<line class="error" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
            f'<text x="{high + 6:.1f}" y="{y + 13}">{count:,} ± {width:,}</text>'
        )
    title = escape(f"{moment(figure['start'])} {cells[0][0]}")
    return f"<h3>{title}</h3>{_svg(_ROW * len(cells) + 4, rows)}"


def _hours(document: Document) -> Iterable[str]:
    """A line for each category."""
    lines: dict[str, list[tuple[int, int | None, int]]] = {}
    for figure in document["figures"]:
        if figure["marginal"] != CATEGORY_HOUR:
            continue
        for (_, category), count in zip(cells_of(document, figure), figure["counts"], strict=True):
            point = (figure["start"], count, figure["half_width"])
            lines.setdefault(category, []).append(point)
    for category, points in list(lines.items())[:MAX_DRAWINGS]:
        yield f"<h3>{escape(category)}</h3>{_line(document, points)}"


def _line(document: Document, points: Sequence[tuple[int, int | None, int]]) -> str:
    most = max([1, *(count + width for _, count, width in points if count is not None)])
    span = max(document["end"] - document["start"], 1)

    def at(start: int, count: float) -> str:
        x = (start - document["start"]) / span * (_WIDTH - 60)
        return f"{x:.1f},{(1 - max(count, 0) / most) * _LINE_HEIGHT + 2:.1f}"

    rows: list[str] = []
    for run in _runs(points):
        upper = [at(start, count + width) for start, count, width in run]
        lower = [at(start, count - width) for start, count, width in reversed(run)]
        middle = " ".join(at(start, count) for start, count, _ in run)
        rows.append(f'<polygon class="band" points="{" ".join(upper + lower)}"/>')
        rows.append(f'<polyline class="line" points="{middle}"/>')
    rows.append(f'<text x="{_WIDTH - 56}" y="14">{most:,}</text>')
    if not any(count is not None for _, count, _ in points):
        rows.append(f'<text class="none" x="0" y="{_LINE_HEIGHT}">never above its threshold</text>')
    return _svg(_LINE_HEIGHT + 4, rows)


def _runs(points: Iterable[tuple[int, int | None, int]]) -> Iterable[list[tuple[int, int, int]]]:
    """Points that follow each other and are shown."""
    run: list[tuple[int, int, int]] = []
    for start, count, width in points:
        if count is None:
            yield from [run] if run else []
            run = []
        else:
            run.append((start, count, width))
    yield from [run] if run else []


def _svg(height: float, rows: Sequence[Any]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">'
        f"{''.join(rows)}</svg>"
    )
