"""No identifier stands in the text of any statement: not on the wire, not in a server's log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clickhouse_driver.connection import Connection

from aggregator.store.client import Client
from collector.wire.addr import pack
from retention.model import NEVER, Hold, Kind, ScopeItem
from retention.vault.late import Late
from tests.aggregator.support import DebianServer, Store
from tests.retention.vault.world import NOON, World, approved, hold, place, row, salt

SUBSCRIBER = "marker-subscriber"
LINE = "marker-line 1/2/3"
USER = "marker-user@marker-realm.example"
CUI = "marker-cui"
SESSION = "marker-session"
NUMBER = "+442079460777"
ADDRESS = "203.0.113.77"
PREFIX = "2001:db8:77aa::/48"

_LOGGED = """<yandex><query_log><database>system</database><table>query_log</table>
<flush_interval_milliseconds>200</flush_interval_milliseconds></query_log></yandex>
"""
_LOG_ALL = "<yandex><profiles><default><log_queries>1</log_queries></default></profiles></yandex>\n"


def scope() -> Hold:
    everything = {
        Kind.SUBSCRIBER: SUBSCRIBER,
        Kind.LINE: LINE,
        Kind.USER: USER,
        Kind.ACCOUNT: CUI,
        Kind.SESSION: SESSION,
        Kind.NUMBER: NUMBER,
    }
    classes = ("usage", "session", "binding", "mapping", "visit", "call")
    items = [ScopeItem(kind, value, 0, NEVER, classes) for kind, value in everything.items()]
    for value in (f"{ADDRESS}/32", PREFIX):
        items.append(ScopeItem(Kind.ADDRESS, value, 0, NEVER, classes))
    return hold(*items)


ROWS: dict[str, dict[str, Any]] = {
    "usage": {"subscriber": SUBSCRIBER},
    "visit": {"address": pack(ADDRESS), "host": "marker-host.example"},
    "session": {"line": LINE, "cui": CUI, "user_name": USER, "acct_session_id": SESSION},
    "binding": {"address": pack("2001:db8:77aa:1::"), "prefix_len": 64},
    "mapping": {"public_address": pack(ADDRESS)},
    "call": {"a_raw": "0044 2079460777", "subscriber": SUBSCRIBER},
}


def everything_the_vault_does(world: World, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """A purge, a sweep, a rebuild and a look into history; gives what no text may have in it."""
    held = {name: row(name, **given) for name, given in ROWS.items()}
    late = {name: row(name, **given) for name, given in ROWS.items()}
    for name, each in held.items():
        world.put(name, [each, row(name)])
        world.put(name, [late[name], row(name)], f"late_{name}")
    monkeypatch.setattr(Late, "_settled_before", lambda self: NOON)
    wanted = scope()
    for name in ROWS:
        at = place(name)
        assert world.purge(at, wanted).rows == 1
    slots = world.vault.slots()
    assert {slot.record_class for slot in slots} == set(ROWS)
    for slot in slots:
        (partition,) = slot.partitions
        found = world.vault.select_late(slot, partition.place, [wanted], salt)
        assert found.rows == 1
        world.vault.preserve_late(slot, found)
        world.vault.drop_slot(approved(slot.place, "late"), slot)
    assert all(world.vault.history(wanted.scope)[name] for name in ("binding", "session"))
    for name in ROWS:
        kept = world.vault.select(place(name), {"vault"}, [wanted], salt)
        assert kept.rows == 2
        world.vault.rebuild(approved(place(name), "vault"), kept)
    ids = {each["record_id"].hex() for each in (*held.values(), *late.values())}
    return ids | {
        *("marker", "20794607", "203.0.113", "2001:db8:77"),
        *(pack(ADDRESS).hex(), pack("2001:db8:77aa::").hex()[:12]),
    }


def assert_clean(texts: list[str], forbidden: set[str]) -> None:
    assert len([text for text in texts if "REPLACE PARTITION" in text]) >= 12
    assert len([text for text in texts if "DROP PARTITION" in text]) >= 12
    assert len([text for text in texts if "tallyhold_scope_" in text]) >= 24
    for text in texts:
        lower = text.lower()
        assert not [word for word in forbidden if word in lower], text


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The text of every statement that goes over a connection."""
    texts: list[str] = []
    send = Connection.send_query

    def spy(self: Any, query: str, *rest: Any, **given: Any) -> Any:
        texts.append(query)
        return send(self, query, *rest, **given)

    monkeypatch.setattr(Connection, "send_query", spy)
    return texts


@pytest.mark.engine
def test_nothing_sent_names_anybody(
    world: World, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forbidden = everything_the_vault_does(world, monkeypatch)
    assert_clean(sent, forbidden)


@pytest.fixture
def logging_server(tmp_path: Path) -> Iterator[DebianServer]:
    """A server that keeps every statement in system.query_log."""
    server = DebianServer(tmp_path / "server")
    for folder, text in (("config.d", _LOGGED), ("users.d", _LOG_ALL)):
        (server.folder / folder).mkdir(parents=True)
        (server.folder / folder / "log.xml").write_text(text)
    server.start()
    yield server
    server.stop()


@pytest.mark.engine
def test_a_server_s_log_of_statements_names_nobody(
    logging_server: DebianServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(logging_server.endpoint())
    world = World(Store("debian", client, client), logging_server.folder / "data")
    world.clear()
    forbidden = everything_the_vault_does(world, monkeypatch)
    deadline = time.monotonic() + 30
    while True:
        found = client.outside("SELECT query FROM system.query_log WHERE type = 2")["query"]
        if any("staging_call" in text and "TRUNCATE" in text for text in found[-400:]):
            break
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(0.5)  # the last statements are flushed with the next interval
    found = client.outside("SELECT query FROM system.query_log WHERE type = 2")["query"]
    assert_clean(found, forbidden)
    client.close()
