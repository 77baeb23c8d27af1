"""Nobody's name, address, host or number is on a metrics page, which has no access control."""

from __future__ import annotations

import pytest

from tests.deploy.support import Watched, label_values, personal

LABELS = {
    "stage",
    "outcome",
    "record_class",
    "reason",
    "fate",
    "collector",
    "verdict",
    "event",
    "le",
}
"""All of them come from closed sets, or from certificates that the operator issued."""


@pytest.mark.lab
@pytest.mark.engine
@pytest.mark.parametrize("page", ["collector", "aggregator"])
def test_no_label_is_personal(watched: Watched, page: str) -> None:
    found = list(label_values(watched.pages[page]))
    assert len(found) > 50
    assert {name for name, _ in found} <= LABELS
    assert personal((value for _, value in found), watched.secrets()) == []


@pytest.mark.lab
@pytest.mark.engine
@pytest.mark.parametrize("page", ["collector", "aggregator"])
def test_no_word_of_the_page_is_personal(watched: Watched, page: str) -> None:
    secrets = watched.secrets()
    assert len(secrets) > 40
    words = {"sub-0001", "video.example", "02079460204", "198.18.1.1", "100.64.0.0/10"}
    assert words - secrets <= {"100.64.0.0/10"}
    text = watched.pages[page]
    numbers = {secret for secret in secrets if secret.isdigit()}  # a counter may come to that
    assert [secret for secret in secrets - numbers if secret in text] == []


@pytest.mark.lab
@pytest.mark.engine
def test_labels_do_not_grow_with_subscribers(watched: Watched) -> None:
    for page in watched.pages.values():
        samples = [line for line in page.splitlines() if not line.startswith("#")]
        assert len(samples) < 400


def test_the_scan_finds_what_it_is_for() -> None:
    page = (
        '# HELP a_total "not=\\"1\\""\n'
        'a_total{host="shop.example",x="kernel-drop"} 1\n'
        'a_total{address="192.0.2.7"} 1\na_total{address="2001:db8::7"} 1\n'
        'a_total{number="+442079460109"} 1\na_total{who="sub-0001"} 1\n'
        'a_total{le="0.005",stage="sip-messages",collector="edge-1"} 1\n'
    )
    values = [value for _, value in label_values(page)]
    assert len(values) == 9
    assert personal(values, {"sub-0001", "shop.example"}) == [
        "shop.example",
        "192.0.2.7",
        "2001:db8::7",
        "+442079460109",
        "sub-0001",
    ]
