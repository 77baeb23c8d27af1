"""Damage that a test makes is no append under way, so nobody waits for its end."""

from __future__ import annotations

import pytest

from retention.audit import snapshot

PAUSES, PATIENCE = snapshot.PAUSES, snapshot.PATIENCE


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "PAUSES", (0.001,))
    monkeypatch.setattr(snapshot, "PATIENCE", (0.001,))


@pytest.fixture
def patient(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the product is, for tests in which a log is read while it is written."""
    monkeypatch.setattr(snapshot, "PAUSES", PAUSES)
    monkeypatch.setattr(snapshot, "PATIENCE", PATIENCE)
