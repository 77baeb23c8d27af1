"""The conservation equation over a short day in the lab, in the numbers of a real Prometheus."""

from __future__ import annotations

import pytest

from aggregator.config import load
from aggregator.queries import billing
from aggregator.reader import reader
from tests.deploy.support import METRIC, RULES, Watched, derived, metric_names, personal

pytestmark = [pytest.mark.lab, pytest.mark.engine]

UNITS = "tallyhold_collector_units_total"
DAY = "[10m]"
"""Longer than everything here takes: every scrape there was."""


def test_every_stage_accounts_for_every_unit_in_every_scrape(watched: Watched) -> None:
    ask = watched.prometheus
    seen = ask.by("stage", f'{UNITS}{{outcome="seen"}}')
    must_have_work = {"capture", "conntrack", "decode", "frames", "packets", "dns", "tls", "http"}
    must_have_work |= {"radius", "sip", "streams", "accounting", "sip-messages", "volume-bytes"}
    must_have_work |= {"link-bytes", "flow-rows", "visit-names", "visit-flows", "window-rows"}
    assert {stage for stage, count in seen.items() if count == 0}.isdisjoint(must_have_work)
    worst = ask.by("stage", f"max_over_time(abs(tallyhold:units:residue){DAY[:-1]}:1s])")
    assert set(worst) == set(seen)
    assert {stage: value for stage, value in worst.items() if value} == {}
    assert ask.query(f"min_over_time(tallyhold_collector_units_open{DAY}) < 0") == []
    assert ask.value(f'count_over_time({UNITS}{{stage="frames",outcome="seen"}}{DAY})') > 5


def test_nothing_waits_and_nothing_is_lost_once_all_is_quiet(watched: Watched) -> None:
    # The kernel's count of packets comes to what was read: capture's open is what they leave.
    assert watched.prometheus.query("tallyhold_collector_units_open > 0") == []
    assert watched.prometheus.query(f'{UNITS}{{outcome="lost"}} > 0') == []
    assert watched.prometheus.query("tallyhold_collector_units_malformed_total > 0") == []


def test_what_one_stage_records_the_next_has_seen(watched: Watched) -> None:
    seen = watched.prometheus.by("stage", f'{UNITS}{{outcome="seen"}}')
    recorded = watched.prometheus.by("stage", f'{UNITS}{{outcome="recorded"}}')
    assert recorded["capture"] == seen["frames"]
    assert recorded["frames"] == seen["packets"] + seen["fragments"]  # no datagram came in parts
    assert seen["fragments"] == 0
    assert recorded["decode"] == seen["flow-rows"] >= recorded["conntrack"]
    assert recorded["radius"] == seen["accounting"]
    assert recorded["sip"] == seen["sip-messages"]
    assert recorded["dns"] == seen["visit-answers"]
    assert recorded["tls"] + recorded["http"] + recorded["quic"] == seen["visit-names"]
    rows = watched.prometheus.by("record_class", "tallyhold_collector_rows_total")
    assert recorded["window-rows"] + rows.get("gap", 0) == sum(rows.values())


def test_spooled_rows_and_batches_have_one_fate_in_every_scrape(watched: Watched) -> None:
    ask = watched.prometheus
    worst = ask.value(f"max_over_time(abs(tallyhold:spool_rows:residue){DAY[:-1]}:1s])")
    assert worst == 0
    fate = ask.by("fate", "tallyhold_collector_spool_rows_total")
    assert fate["committed"] == fate["acknowledged"] > 100
    assert fate["dropped"] == fate["dead"] == 0
    batches = ask.by("fate", "tallyhold_collector_spool_batches_total")
    assert batches["committed"] == batches["acknowledged"]
    assert ask.value("sum(tallyhold_collector_rows_total)") == fate["committed"]
    # The outage was seen: rows waited, and the uplink came again.
    assert ask.value(f"max_over_time(tallyhold_collector_spool_pending_rows{DAY})") > 0
    assert ask.by("outcome", "tallyhold_collector_uplink_requests_total")["retried"] > 0


def test_the_aggregator_stored_what_the_collector_was_told(watched: Watched) -> None:
    ask = watched.prometheus
    sent = ask.by("record_class", "tallyhold_collector_rows_total")
    stored = ask.by(
        "record_class",
        'sum by (record_class) (tallyhold_aggregator_rows_total{outcome=~"stored|late"})',
    )
    assert stored == sent
    assert set(sent) >= {"session", "binding", "usage", "visit", "call", "link", "mapping"}
    assert sum(stored.values()) == ask.value(
        'tallyhold_collector_spool_rows_total{fate="acknowledged"}'
    )
    # A receipt that the outage took is asked for again, and what comes again is no new row.
    received = ask.by("record_class", "tallyhold_aggregator_rows_received_total")
    again = ask.by(
        "record_class",
        'sum by (record_class) (tallyhold_aggregator_rows_total{outcome="duplicate"})',
    )
    assert received == {name: rows + again.get(name, 0) for name, rows in stored.items()}
    assert set(ask.by("record_class", "tallyhold:aggregator_rows:residue").values()) == {0.0}
    assert ask.query('tallyhold_aggregator_batches_total{verdict!~"accept|duplicate"}') == []


def test_metered_bytes_are_the_bytes_of_the_usage_rows(watched: Watched) -> None:
    client = reader(load(watched.appliance.config))
    try:
        row = next(
            iter(
                billing.rows_of(
                    client, "SELECT sum(up_bytes) AS up, sum(down_bytes) AS down FROM usage", {}
                )
            )
        )
    finally:
        client.close()
    metered = watched.prometheus.value(f'{UNITS}{{stage="volume-bytes",outcome="recorded"}}')
    assert metered == row["up"] + row["down"]
    # Packets of the lab's own set-up are metered too, and belong to nobody.
    people = sum(person.up_bytes + person.down_bytes for person in watched.truth.subscribers)
    assert people <= metered < people + 10_000
    interfaces = watched.prometheus.value(f'{UNITS}{{stage="link-bytes",outcome="seen"}}')
    assert metered < interfaces


def test_interfaces_carry_what_sets_count_and_sets_what_flows_explain(watched: Watched) -> None:
    counted = watched.prometheus.by("stage", "tallyhold_collector_reconciled_bytes_total")
    assert counted["interfaces"] >= counted["sets"] >= counted["flows"] > 0
    # What flows miss: those that stood in no dump before the window, and packets of no flow.
    assert counted["flows"] > 0.9 * counted["sets"] > 0.8 * counted["interfaces"]


def test_no_alert_was_critical(watched: Watched) -> None:
    assert watched.prometheus.query('ALERTS{severity="critical"}') == []
    fired = watched.prometheus.query(f'max_over_time(ALERTS{{severity="critical"}}{DAY})')
    assert fired == []


def test_every_metric_of_the_rules_is_in_the_scrape(watched: Watched) -> None:
    names = set().union(*map(metric_names, watched.pages.values()))
    stored = set(watched.prometheus.get("label/__name__/values"))
    wanted = set(METRIC.findall(RULES.read_text())) - {"tallyhold"}
    records = {name for name in wanted if ":" in name}
    assert len(wanted) > 20
    assert records == {name for name in stored if ":" in name}
    assert wanted - records - names == set()


def test_no_label_in_prometheus_says_who_somebody_is(watched: Watched) -> None:
    found = {}
    for label in watched.prometheus.get("labels"):
        if label == "instance":  # the targets of this test
            continue
        values = watched.prometheus.get(f"label/{label}/values")
        found[label] = personal(values, watched.secrets())
    assert set(found) >= {"stage", "outcome", "record_class", "reason", "fate", "collector"}
    assert {label: values for label, values in found.items() if values} == {}


def test_the_shipped_configuration_is_what_was_run() -> None:
    text = derived("a: 15s b: 15s x:1 y:2", {"x:1": "p:1", "y:2": "q:2"})
    assert text == "a: 1s b: 1s p:1 q:2"
