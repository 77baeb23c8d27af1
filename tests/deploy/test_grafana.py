"""The shipped dashboard: importable, and every query is about something that exists."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.deploy.support import DEPLOY, METRIC, Watched, metric_names

DASHBOARD = json.loads((DEPLOY / "grafana" / "tallyhold.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
GRAPHS = [panel for panel in PANELS if panel["type"] != "row"]
VARIABLES = {"$__rate_interval": "1m", "$instance": ".*"}


def test_panels_have_ids_of_their_own_and_places_that_do_not_overlap() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(ids) == len(set(ids)) > 20
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_data_source_is_chosen_by_whoever_imports_it() -> None:
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for panel in GRAPHS:
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source["uid"] == "${datasource}" for source in sources), panel["title"]


def test_every_panel_says_what_it_shows() -> None:
    for panel in GRAPHS:
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["targets"]
    rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert rows == ["At a glance", "Throughput", "Lag", "Loss", "Spool and uplink", "Engine"]


@pytest.mark.lab
@pytest.mark.engine
def test_every_query_is_about_metrics_that_exist(watched: Watched) -> None:
    names = set().union(*map(metric_names, watched.pages.values()))
    names |= set(watched.prometheus.get("label/__name__/values"))
    for panel in GRAPHS:
        for target in panel["targets"]:
            wanted = set(METRIC.findall(target["expr"])) - {"tallyhold"}
            assert wanted <= names, panel["title"]


@pytest.mark.lab
@pytest.mark.engine
def test_prometheus_understands_every_query(watched: Watched) -> None:
    answered = 0
    for panel in GRAPHS:
        for target in panel["targets"]:
            expr = target["expr"]
            for variable, value in VARIABLES.items():
                expr = expr.replace(variable, value)
            assert "$" not in expr
            answered += bool(watched.prometheus.query(expr))
    # The rest is about losses and refusals, of which a good day has none.
    assert answered > 30


@pytest.mark.lab
@pytest.mark.engine
def test_every_metric_that_we_export_is_on_the_dashboard_or_in_a_rule(watched: Watched) -> None:
    shown = " ".join(target["expr"] for panel in GRAPHS for target in panel["targets"])
    shown += (DEPLOY / "prometheus" / "tallyhold.rules.yml").read_text()
    used = set(METRIC.findall(shown))
    exported = set().union(*map(metric_names, watched.pages.values()))
    ours = {
        name
        for name in exported
        if name.startswith("tallyhold_") and not name.endswith(("_created", "_sum", "_count"))
    }
    assert {name for name in ours if name not in used and f"{name}_bucket" not in used} == set()
