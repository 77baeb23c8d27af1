"""The search for canaries: it finds each deliberate leak, and nothing where there is none."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dns.message
import pytest

from collector.parse import ip
from collector.wire.addr import pack
from safeguard.prove import canaries as searching
from safeguard.prove import lookups
from safeguard.prove.canaries import Canaries, CanaryError
from safeguard.prove.run import Site, prove
from tests.aggregator.support import Spool, binding_row, rows, usage_rows

NAME = "canary-5d1c0f3a9b7e42688d10.gambling.example"
CANARIES = Canaries((NAME,), (pack("198.51.100.77"), pack("2001:db8::4711")))


def failed(name: str, **site: Any) -> list[str]:
    (check,) = prove(Site(canaries=CANARIES, **site), 1, "0", [name])["checks"]
    assert check["outcome"] in ("passed", "failed"), check
    return list(check["found"])


LEAKS = {
    "a name": NAME.encode(),
    "a label alone": NAME.split(".")[0].encode(),
    "a question": lookups.query(1, NAME),
    "an address as text": b"client 198.51.100.77 asked",
    "a packed address": pack("198.51.100.77"),
    "an address in hex": pack("2001:db8::4711").hex().encode(),
    "an IPv6 address": b"[2001:db8::4711]:53",
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_a_leak_into_a_file_is_found_in_every_form(tmp_path: Path, leak: bytes) -> None:
    path = tmp_path / "a" / "file"
    path.parent.mkdir()
    path.write_bytes(b"x" * 5000)
    for name in ("wire", "logs", "spool"):
        site: dict[str, Any] = {"wire": (path,), "logs": (path,), "spool": tmp_path}
        assert failed(name, **{name: site[name]}) == []
    path.write_bytes(b"x" * 5000 + leak + b"y" * 100)
    for name in ("wire", "logs", "spool"):
        assert failed(name, **{name: site[name]})


def test_a_leak_into_the_rows_of_a_batch_is_found(tmp_path: Path) -> None:
    """A batch is compressed: its bytes alone would show nothing."""
    path = tmp_path / "00000000000000000001.batch"
    for address in ("10.0.0.1", "198.51.100.77"):
        many = [binding_row("10.0.0.1", f"sub-{n}", n + 1) for n in range(500)]
        given = rows("binding", *many, binding_row(address, "sub-x", 999))
        path.write_bytes(Spool().batch({"binding": given}))
        assert bool(failed("wire", wire=(path,))) == (address != "10.0.0.1")


def test_an_address_among_metered_ones_is_no_leak(tmp_path: Path) -> None:
    """Volume is counted for every line; that one is in use tells nothing of a block."""
    path = tmp_path / "00000000000000000002.batch"
    path.write_bytes(Spool().batch({"usage": usage_rows(["198.51.100.77", "10.0.0.1"])}))
    assert failed("wire", wire=(path,)) == []
    path.write_bytes(path.read_bytes() + NAME.encode())
    assert failed("wire", wire=(path,))


@contextmanager
def process(script: str) -> Iterator[int]:
    """A live Python process that has run a script, by its id."""
    command = [sys.executable, "-c", script + "\nprint(flush=True)\ninput()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        try:
            yield running.pid
        finally:
            running.kill()


NO_CORE = "import resource, socket; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
UNMETERED = Canaries(
    (NAME,), CANARIES.addresses, (pack("198.51.100.177"), pack("2001:db8:0:17::1"))
)
# Each is built from pieces, so that the script's own text is no leak. What is on the way to a form
# is overwritten or shorter than a needle.
FORMS = {
    "a name as text": ("''.join(['canary-5d1c0f3a', '9b7e42688d10', '.gambling.example'])", "name"),
    "a name in upper case": ("''.join(['CANARY-5D1C0F3A', '9B7E42688D10', '.EXAMPLE'])", "name"),
    "a name as in a message": (
        "b''.join([bytes([27]), b'cAnaRy-5d1C0f3a', b'9b7e42688D10', bytes([8]), b'gambling'])",
        "name",
    ),
    "an address of a line as text": ("'for ' + '.'.join(['198', '51', '100', '77'])", "text"),
    "an address as text": ("'for ' + '.'.join(['198', '51', '100', '177'])", "text"),
    "an IPv6 address as text": ("'[' + ':'.join(['2001', 'db8', '0', '17', '', '1'])", "text"),
    "packed IPv4": ("bytes([198, 51, 100, 177])", "packed"),
    "packed IPv4 in a message": ("bytearray([69, 0, 1, 198, 51, 100, 177, 53, 0])", "packed"),
    "mapped IPv4": ("bytes(10) + bytes([255, 255, 198, 51, 100, 177])", "packed"),
    "packed IPv6": ("bytes([32, 1, 13, 184, 0, 0, 0, 23]) + bytes(7) + bytes([1])", "packed"),
    "the prefix of a household": ("bytes([32, 1, 13, 184, 0, 0, 0, 23]) + bytes(8)", "packed"),
}


@pytest.mark.parametrize(("leak", "form"), FORMS.values(), ids=FORMS)
def test_a_leak_into_the_memory_of_a_process_is_found_in_every_form(leak: str, form: str) -> None:
    with process(f"{NO_CORE}kept = {leak}") as pid:
        (check,) = prove(Site(canaries=UNMETERED, pid=pid), 1, "0", ["memory"])["checks"]
    assert check["outcome"] == "failed"
    assert all(form in found for found in check["found"])
    assert NAME not in str(check) and "198.51" not in str(check)


def test_what_meters_a_line_is_no_leak_into_memory() -> None:
    """The packed address of a line that is metered stands in memory, and says no more than that."""
    with process(NO_CORE + "kept = bytes([198, 51, 100, 77]), 'nothing'") as pid:
        (check,) = prove(Site(canaries=UNMETERED, pid=pid), 1, "0", ["memory"])["checks"]
    assert check["found"] == []


def test_an_address_that_nothing_meters_is_no_usage(tmp_path: Path) -> None:
    path = tmp_path / "00000000000000000003.batch"
    for address, is_leak in (("198.51.100.77", False), ("198.51.100.177", True)):
        path.write_bytes(Spool().batch({"usage": usage_rows([address, "10.0.0.1"])}))
        (check,) = prove(Site(canaries=UNMETERED, wire=(path,)), 1, "0", ["wire"])["checks"]
        assert bool(check["found"]) == is_leak


def test_a_process_that_may_dump_core_is_found() -> None:
    script = (
        "import resource\n"
        "hard = resource.getrlimit(resource.RLIMIT_CORE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (1024, 1024 if hard == -1 else hard))"
    )
    with process(script) as pid:
        assert failed("memory", pid=pid) == ["a core of the process can be dumped"]


def test_a_process_that_is_gone_is_no_proof() -> None:
    with process(NO_CORE) as pid:
        pass
    assert "could not be finished" in failed("memory", pid=pid)[0]


def test_canaries_are_read_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "canaries.json"
    lookups.write({"names": [NAME.upper() + "."], "addresses": ["198.51.100.77"]}, path)
    assert Canaries.read(path) == Canaries((NAME,), (pack("198.51.100.77"),))
    lookups.write({"names": [], "addresses": [], "unmetered": ["198.51.100.177"]}, path)
    assert Canaries.read(path) == Canaries((), (), (pack("198.51.100.177"),))
    for odd in ("[]", "{", '{"names":["short"],"addresses":[]}', '{"names":[],"addresses":[]}'):
        path.write_text(odd)
        with pytest.raises(CanaryError):
            Canaries.read(path)
    path.write_text(json.dumps({"names": [], "addresses": ["no address"]}))
    with pytest.raises(CanaryError):
        Canaries.read(path)
    with pytest.raises(CanaryError, match="letters"):
        searching._quoted("x' OR 1")


@contextmanager
def resolver(answers: bool = True) -> Iterator[tuple[int, list[str]]]:
    """A resolver on loopback; gives its port and the names it was asked for."""
    asked: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                data, peer = line.recvfrom(512)
                if data == b"end":
                    return
                message = dns.message.from_wire(data)
                asked.append(message.question[0].name.to_text(omit_final_dot=True))
                if answers:
                    line.sendto(dns.message.make_response(message).to_wire(), peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield line.getsockname()[1], asked
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.sendto(b"end", line.getsockname())
            thread.join()


def test_look_ups_are_real_questions_for_names_that_nobody_uses() -> None:
    with resolver() as (port, asked):
        found = lookups.look_up(
            "127.0.0.1", "blocked.example.", 4, ["127.0.0.2", "127.0.0.3"], port
        )
    assert found["names"] == [each.lower() for each in asked] != asked
    assert len(set(asked)) == 4
    assert all(name.endswith(".blocked.example") for name in found["names"])
    assert found["addresses"] == ["127.0.0.2", "127.0.0.3"]


@pytest.mark.parametrize(
    ("resolver_", "household"), [("192.0.2.53", "198.51.100.177"), ("2001:db8::53", "2001:db8::9")]
)
def test_an_answer_is_a_packet_that_collectors_read(resolver_: str, household: str) -> None:
    data = lookups.datagram(resolver_, 53, household, b"an answer")
    packet = ip.parse(1, 0x86DD if ":" in household else 0x0800, data)
    assert isinstance(packet, ip.Packet)
    assert (packet.src, packet.dst) == (pack(resolver_), pack(household))
    assert (packet.proto, packet.sport, packet.payload) == (ip.UDP, 53, b"an answer")


def test_households_are_of_the_family_of_the_resolver() -> None:
    with pytest.raises(lookups.LookupFailed, match="family"):
        lookups.tell("127.0.0.1", "blocked.example", 1, ["2001:db8::9"], "lo")


def test_a_resolver_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "TIMEOUT_S", 0.05)
    with resolver(answers=False) as (port, _), pytest.raises(lookups.LookupFailed, match="did not"):
        lookups.look_up("127.0.0.1", "blocked.example", 1, port=port)
