"""The file of lines: read, read again, refused, and asked."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from collector.lines import Lines, read_lines
from collector.parse.lease import Lease


def write(path: Path, text: str) -> Path:
    other = path.with_name("new")
    other.write_text(text)
    return other.replace(path)


def test_lines_with_and_without_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "lines.csv", 'line,subscriber\n"olt-3/1,7",sub-7\n\n0x0001,sub-8\n')
    assert read_lines(path) == {"olt-3/1,7": "sub-7", "0x0001": "sub-8"}
    assert read_lines(write(path, "olt,sub-7\nolt,sub-7\n")) == {"olt": "sub-7"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("olt\n", "row 1 is not LINE,SUBSCRIBER"),
        ("olt,\n", "row 1 is not LINE,SUBSCRIBER"),
        ("a,b\nolt,sub,more\n", "row 2 is not"),
        (f"{'x' * 600},sub\n", "row 1 is not"),
        ("olt,sub-7\nolt,sub-8\n", "row 2 gives a line to another subscriber"),
    ],
)
def test_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_lines(write(tmp_path / "lines.csv", text))


def test_a_change_is_taken_and_a_wrong_file_leaves_what_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "lines.csv"
    lines = Lines(path)
    with caplog.at_level(logging.ERROR):
        lines.refresh()
        lines.refresh()
    assert len(caplog.records) == 1  # said once, not every second
    write(path, "olt-1,sub-7\n")
    lines.refresh()
    assert lines.subscriber(("unknown", "olt-1")) == "sub-7"
    write(path, "olt-1\n")
    lines.refresh()
    assert (len(lines), lines.subscriber(("olt-1",))) == (1, "sub-7")
    write(path, "olt-1,sub-8\nolt-2,sub-9\n")
    lines.refresh()
    assert lines.subscriber(("olt-1",)) == "sub-8"
    path.unlink()
    lines.refresh()
    assert len(lines) == 2


def test_events_of_lines_get_their_subscriber() -> None:
    lines = Lines(None, {"olt-1": "sub-7"})
    lines.refresh()
    assert lines.resolved(Lease(0, 4, "ACK", 1, "c", names=("olt-1",))).subscriber == "sub-7"
    assert lines.resolved(Lease(0, 4, "ACK", 1, "c", names=("olt-9",))).subscriber == ""
    assert lines.resolved("another event") == "another event"
