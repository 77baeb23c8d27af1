"""Captures through the live code: observations, records, determinism, and files as they come."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet
from scapy.utils import PcapNgWriter, PcapWriter
from typer.testing import CliRunner

from collector.capture.replay import CaptureFileError, frames
from collector.cli import app
from collector.replay import ReplayConfig, observations, records
from tests.collector.parse.test_export import v5, v5_record
from tests.collector.track.test_observer import answer, hello, invite
from tests.scenarios.runner import write_pcap
from tests.scenarios.sip import CORE, LINE, Hop

ROOT = Path(__file__).parents[2]
CAPTURES = ROOT.parent / "shared/data/captures"
T0 = 1_700_000_000
CLIENT, SERVER, RESOLVER = "10.0.0.2", "192.0.2.1", "192.0.2.53"


def day() -> list[Packet]:
    """A look-up, a handshake, a request, and a call that is answered and ends."""
    ends = {"src": CLIENT, "dst": SERVER}
    made = [
        Ether() / IP(src=RESOLVER, dst=CLIENT) / UDP(sport=53, dport=4000)
        / answer("www.example.com", SERVER),
        Ether() / IP(**ends) / TCP(sport=4001, dport=443, flags="PA", seq=1) / hello("tls.example"),
        Ether() / IP(**ends) / TCP(sport=4002, dport=80, flags="PA", seq=1)
        / b"GET /secret?q=1 HTTP/1.1\r\nHost: [2001:db8::1]:80\r\nCookie: c\r\n\r\n",
        Ether() / IP(**ends) / UDP(sport=5060, dport=5060) / invite("call-1"),
    ]  # fmt: skip
    for code in ("180 Ringing", "200 OK"):
        body = invite("call-1").replace(
            b"INVITE sip:b@example.com SIP/2.0", b"SIP/2.0 " + code.encode()
        )
        body = body.replace(b"To: <sip:b@example.com>", b"To: <sip:b@example.com>;tag=2")
        made.append(Ether() / IP(src=SERVER, dst=CLIENT) / UDP(sport=5060, dport=5060) / body)
    bye = invite("call-1").replace(b"INVITE sip:", b"BYE sip:").replace(b"1 INVITE", b"2 BYE")
    bye = bye.replace(b"To: <sip:b@example.com>", b"To: <sip:b@example.com>;tag=2")
    bye = bye.replace(b"branch=z9hG4bK", b"branch=z9hG4bKx")
    made.append(Ether() / IP(**ends) / UDP(sport=5060, dport=5060) / bye)
    for number, packet in enumerate(made):
        packet.time = T0 + number * 2
    return made


def write(path: Path, packets: list[Packet], ng: bool = False) -> Path:
    writer: Any = PcapNgWriter(str(path)) if ng else PcapWriter(str(path), linktype=1)
    with writer:
        for packet in packets:
            writer.write(packet)
    return path


def hosts(*paths: Path) -> list[tuple[str, str]]:
    found = observations(frames(paths), ReplayConfig())
    return [(line["proto"], line["host"]) for line in found]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return write(tmp_path / "day.pcap", day())


EXPECTED = [("dns", "www.example.com"), ("tls", "tls.example"), ("http", "[2001:db8::1]")]


@pytest.mark.parametrize("ng", [False, True])
def test_both_formats_give_the_same(tmp_path: Path, ng: bool) -> None:
    assert hosts(write(tmp_path / "x", day(), ng)) == EXPECTED


def test_a_look_up_names_its_answers(capture: Path) -> None:
    first = next(iter(observations(frames([capture]), ReplayConfig())))
    assert first == {
        "proto": "dns",
        "client": CLIENT,
        "server": RESOLVER,
        "host": "www.example.com",
        "answers": [SERVER],
    }


def test_files_are_merged_by_time_and_pieces_are_the_whole(tmp_path: Path, capture: Path) -> None:
    packets = day()
    parts = [write(tmp_path / f"{k}", packets[k::2]) for k in range(2)]
    whole = list(records(frames([capture]), ("call", "visit"), ReplayConfig()))
    assert list(records(frames(parts), ("call", "visit"), ReplayConfig())) == whole
    assert hosts(*reversed(parts)) == EXPECTED


def test_records_are_those_of_the_traffic(capture: Path) -> None:
    found = list(records(frames([capture]), ("call",), ReplayConfig()))
    calls = [row for _, row in found if row["direction"] == "out"]
    (call,) = calls
    assert call["disposition"] == "ANSWERED" and call["address"] == CLIENT
    assert call["start_ns"] == (T0 + 6) * 10**9 and call["talk_ms"] == 2000


def test_vxlan_is_opened_and_a_loop_of_tunnels_is_not(tmp_path: Path) -> None:
    inner = day()[1]
    outer = Ether() / IP(src="10.9.9.9", dst="10.9.9.8") / UDP(sport=9, dport=4789) / VXLAN(vni=7)
    wrapped = outer / inner
    deep = outer / outer / outer / inner
    cut = bytes(outer)[:-4]
    assert hosts(write(tmp_path / "a", [wrapped])) == [EXPECTED[1]]
    assert hosts(write(tmp_path / "b", [deep, Ether(cut)])) == []


@pytest.mark.parametrize("ng", [False, True])
@pytest.mark.parametrize("cut", [1, 9, 30])
def test_a_cut_file_gives_what_precedes_the_cut(tmp_path: Path, ng: bool, cut: int) -> None:
    path = write(tmp_path / "x", day(), ng)
    path.write_bytes(path.read_bytes()[:-cut])
    seen = []
    with pytest.raises(CaptureFileError, match="damaged after packet 6"):
        for frame in frames([path]):
            seen.append(frame)
    assert len(seen) == 6


@pytest.mark.parametrize("data", [b"", b"\xd4\xc3\xb2\xa1", b"no capture at all" * 10, bytes(24)])
def test_what_is_no_capture_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "odd"
    path.write_bytes(data)
    with pytest.raises(CaptureFileError, match="odd: no pcap or pcapng file"):
        list(frames([path]))


def test_years_between_packets_cost_no_time(tmp_path: Path) -> None:
    packets = day()[:3]
    packets[2].time = T0 + 40 * 365 * 86_400
    found = list(records(frames([write(tmp_path / "x", packets)]), ("visit",), ReplayConfig()))
    assert [row["host"] for _, row in found] == ["tls.example", "2001:db8::1"]


def test_the_command_prints_the_same_bytes_every_time(capture: Path) -> None:
    words = [sys.executable, "-m", "tallyhold", "collector", "replay", str(capture)]
    for what in (["--observations"], ["--records", "call,visit,session,binding,gap"]):
        runs = [
            subprocess.run([*words, *what], capture_output=True, cwd=ROOT, check=True).stdout
            for _ in range(2)
        ]
        assert runs[0] == runs[1] and len(runs[0].splitlines()) >= 3
        assert b"secret" not in runs[0] and b"ookie" not in runs[0]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "say what to print"),
        (["--observations", "--records", "call"], "say what to print"),
        (["--records", "link"], "choose from"),
        (["--observations", "--sip-ports", "70000"], "1 to 65535"),
        (["--observations", "--sip-ports", "x"], "invalid literal"),
        (["--observations", "--access", "10.0.0.1/8"], "host bits"),
        (["--records", "call", "--trusted", "10.0.0.1/8"], "host bits"),
        (["--records", "call", "--region", "Britain"], "two capital letters"),
    ],
)
def test_wrong_words_are_told(capture: Path, words: list[str], text: str) -> None:
    result = CliRunner().invoke(app, ["replay", str(capture), *words], env={"NO_COLOR": "1"})
    assert result.exit_code == 2 and text in result.output


def _captures() -> Iterator[Path]:
    for kind in ("tls", "quic", "dns", "http", "mixed", "pppoe"):
        yield from sorted((CAPTURES / kind).glob("*.pcap*"))


@pytest.mark.skipif(not CAPTURES.is_dir(), reason="the shared captures are not here")
def test_every_required_host_of_the_captures_and_no_other(tmp_path: Path) -> None:
    for path in _captures():
        if path.suffix != ".jsonl":
            lines = observations(frames([path]), ReplayConfig())
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (tmp_path / f"{path.name}.jsonl").write_text(text)
    score = [sys.executable, str(CAPTURES / "score_hosts.py"), str(CAPTURES), str(tmp_path)]
    done = subprocess.run(score, capture_output=True, text=True, check=True)
    total = done.stdout.splitlines()[-1]
    assert "recall 1.0000" in total and "precision 1.0000" in total, done.stdout


def test_exports_in_a_capture_give_usage_and_mappings() -> None:
    folder = CAPTURES / "netflow"
    if not folder.is_dir():
        pytest.skip("captures are not here")
    for name, octets in (("ipfix_openbsd_pflow", 99_323), ("nf5_mikrotik", 40_812)):
        rows = list(records(frames([folder / f"{name}.pcap"]), ("usage",), ReplayConfig()))
        assert sum(row["up_bytes"] for _, row in rows) == octets
        assert sum(row["down_bytes"] for _, row in rows) == octets  # both ends are inside
    inside = ReplayConfig(access=((b"\0" * 10 + b"\xff\xff\x0a" + bytes(3), 104),))
    mikrotik = frames([folder / "ipfix_mikrotik.pcap"])
    usage = list(records(mikrotik, ("usage", "mapping"), inside))
    assert {name for name, _ in usage} == {"usage"}  # it names no port after translation


def test_export_ports(tmp_path: Path) -> None:
    data = v5(v5_record(CLIENT, SERVER, 77))
    packet = Ether() / IP(src="192.0.2.10", dst="192.0.2.20") / UDP(sport=9, dport=9996) / data
    packet.time = T0
    path = write(tmp_path / "x.pcap", [packet])
    for ports, expected in (("9996", 2), ("2055", 0)):
        words = ["replay", str(path), "--records", "usage", "--export-ports", ports]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        assert len(result.output.splitlines()) == expected


def test_trusted_peers_and_the_numbering_plan(tmp_path: Path) -> None:
    """The asserted number counts from a trusted peer alone; a national one needs its country."""
    hop = Hop(CORE, LINE, a="sip:anonymous@anonymous.invalid", b="sip:02079460002@example.net")
    hop.invite(0, 1, "P-Asserted-Identity: <sip:02079460007@example.net>", "Privacy: id")
    hop.reply(1, 486)
    path = tmp_path / "x.pcap"
    write_pcap(path, hop.frames)
    found = {}
    for name, words in (
        ("neither", ["--region", "FR"]),
        ("region", []),
        ("both", ["--trusted", f"{CORE}/32"]),
    ):
        more = ["--records", "call", "--access", f"{LINE}/32", "--linger", "40", *words]
        result = CliRunner().invoke(app, ["replay", str(path), *more])
        assert result.exit_code == 0, result.output
        row = json.loads(result.output.splitlines()[-1])
        found[name] = (row["b_e164"], row["a_e164"], row["a_source"])
    british = "+442079460002"
    assert found["both"] == (british, "+442079460007", "p-asserted-identity")
    assert found["region"][0] == british and found["neither"][0] != british
    assert found["region"][1:] == found["neither"][1:] != found["both"][1:]


def test_what_a_capture_leaves_open_is_told_as_it_stands(tmp_path: Path) -> None:
    """Without its BYE an answered call has its last evidence for an end, and goes on for all that
    is known; one that was not answered is in part known."""
    packets = day()[:-1]
    (answered,) = [
        row
        for _, row in records(frames([write(tmp_path / "a", packets)]), ("call",), ReplayConfig())
        if row["direction"] == "out"
    ]
    assert answered["partial"] == 1 and answered["end_max_ns"] == 0
    assert answered["end_min_ns"] == answered["answer_ns"] == (T0 + 10) * 10**9
    (ringing,) = [
        row
        for _, row in records(
            frames([write(tmp_path / "b", packets[:-1])]), ("call",), ReplayConfig()
        )
        if row["direction"] == "out"
    ]
    assert (ringing["disposition"], ringing["partial"]) == ("PARTIAL", 1)
    assert ringing["answer_ns"] == 0 and ringing["end_min_ns"] == (T0 + 8) * 10**9


@pytest.mark.skipif(not CAPTURES.is_dir(), reason="the captures beside the project are not here")
def test_the_same_bytes_of_every_small_capture() -> None:
    """In one process twice, and whatever else was replayed before."""
    everything = ("binding", "session", "visit", "call", "gap")
    small = [path for path in CAPTURES.glob("*/*.pcap") if path.stat().st_size < 20_000]
    for path in sorted(small):
        one, two = (
            json.dumps(list(records(frames([path]), everything, ReplayConfig()))) for _ in range(2)
        )
        assert one == two, path.name
