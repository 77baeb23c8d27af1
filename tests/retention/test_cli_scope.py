"""Scope files and scope options: what is read of them, and every problem named with its line."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retention.holds import scopefile
from retention.holds.columns import CLASSES
from retention.holds.scopefile import ScopeProblems, Written
from retention.model import NEVER, Kind, ScopeItem

NOTHING = Written("", "", "")
YEAR = Written("", "", "", "2026-01-01", "2026-12-31")
US = 1_000_000


def us(year: int, month: int, day: int, hour: int = 0) -> int:
    return int(dt.datetime(year, month, day, hour, tzinfo=dt.UTC).timestamp()) * US


def read(text: str, defaults: Written = NOTHING) -> list[ScopeItem]:
    return scopefile.from_file(text.encode(), defaults)


def problems(text: str | bytes, defaults: Written = NOTHING) -> list[str]:
    with pytest.raises(ScopeProblems) as error:
        scopefile.from_file(text.encode() if isinstance(text, str) else text, defaults)
    return error.value.problems


def test_a_day_as_an_end_is_included_whole() -> None:
    assert scopefile.instant("2026-11-30") == us(2026, 11, 30)
    assert scopefile.instant("2026-11-30", is_end=True) == us(2026, 12, 1)
    assert scopefile.instant("2026-02-28", is_end=True) == us(2026, 3, 1)
    assert scopefile.instant("2026-07-01T10:00+01:00") == us(2026, 7, 1, 9)
    assert scopefile.instant("2026-07-01T10:00Z", is_end=True) == us(2026, 7, 1, 10)
    assert scopefile.instant("never", is_end=True) == NEVER


@pytest.mark.parametrize(
    ("text", "word"),
    [("2026-02-30", "no such day"), ("2026-07-01T10:00", "zone"), ("July", "neither"), ("", "n")],
)
def test_a_time_that_could_be_read_in_two_ways_is_refused(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        scopefile.instant(text)


def test_csv_as_a_spreadsheet_saves_it() -> None:
    text = (
        "\ufeffkind;value;from;to;classes;ports\r\n"
        "subscriber;sub-0001;2026-01-01;2026-06-30;;\r\n"
        ";;;;;\r\n"
        "# a note;;;;;\r\n"
        'address;192.0.2.7;2026-03-01T10:00Z;2026-03-01T11:00Z;"mapping, binding";4000-4999\r\n'
        "Address;[2001:db8::1]:443;;;mapping;\r\n"
    )
    first, second, third = read(text, YEAR)
    assert first == ScopeItem(
        Kind.SUBSCRIBER, "sub-0001", us(2026, 1, 1), us(2026, 7, 1), tuple(CLASSES)
    )
    assert (second.value, second.ports) == ("192.0.2.7/32", (4000, 4999))
    assert second.classes == ("binding", "mapping")
    assert second.to_us - second.from_us == 3600 * US
    assert (third.value, third.ports) == ("2001:db8::1/128", (443, 443))
    assert third.to_us == us(2027, 1, 1)


def test_toml_with_what_holds_for_all_at_the_top() -> None:
    text = (
        'from = 2026-01-01\nto = "2026-06-30"\nclasses = ["call"]\n'
        '[[scope]]\nkind = "number"\nvalue = "+44 20 7946 0018"\n'
        '[[scope]]\nkind = "address"\nvalue = "192.0.2.7"\nports = 4000\n'
        'classes = "mapping"\nto = 2026-03-01T10:00:00Z\n'
    )
    first, second = read(text, YEAR)
    assert (first.value, first.classes) == ("+442079460018", ("call",))
    assert (first.from_us, first.to_us) == (us(2026, 1, 1), us(2026, 7, 1))
    assert (second.ports, second.to_us) == ((4000, 4000), us(2026, 3, 1, 10))


def test_every_bad_line_of_a_csv_is_named_and_none_repeats_a_value() -> None:
    found = problems(
        "kind,value,from,to,classes,ports\n"
        "subscriber,SECRET,2026-01-01,2026-06-30,,\n"
        "mac,SECRET,2026-01-01,2026-06-30,,\n"
        "pet,SECRET,2026-01-01,2026-06-30,,\n"
        "number,SECRET,2026-01-01,2026-06-30,,\n"
        "address,SECRET,2026-01-01,2026-06-30,,\n"
        "subscriber,SECRET,2026-01-01T10:00,2026-06-30,,\n"
        "subscriber,SECRET,2026-06-30,2026-01-01,,\n"
        "subscriber,SECRET,,,,\n"
        "subscriber,SECRET,2026-01-01,2026-06-30,letters,\n"
        "subscriber,SECRET,2026-01-01,2026-06-30,,4000\n"
        "address,192.0.2.7,2026-01-01,2026-06-30,,70000\n"
        "subscriber,SECRET\n"
    )
    lines = [int(each.partition(":")[0].removeprefix("line ")) for each in found]
    assert sorted(lines) == list(range(3, 14))
    text = "\n".join(found)
    assert "SECRET" not in text
    for word in (
        "MAC",
        "zone",
        "from and to is missing",
        "record class",
        "only an address",
        "4000-",
    ):
        assert word in text


def test_every_bad_table_of_a_toml_is_named_with_its_line() -> None:
    found = problems(
        'from = "2026-01-01"\nto = "2026-06-30"\ncolour = 1\n\n'
        '[[scope]]\nkind = "subscriber"\n\n'  # line 5
        '[[scope]]\nkind = "subscriber"\nvalue = 7\n\n'  # line 8
        '[[scope]]\nkind = "subscriber"\nvalue = "s"\nclasses = [1]\n\n'  # line 12
        '[[scope]]\nkind = "subscriber"\nvalue = "s"\nport = 7\n\n'  # line 17
        '[[scope]]\nkind = "mac"\nvalue = "s"\n'  # line 22
    )
    text = "\n".join(found)
    for where in ("the top of the file", "line 5", "line 8", "line 12", "line 17", "line 22"):
        assert f"{where}: " in text, found


def test_limits_and_files_of_another_kind() -> None:
    rows = "".join(f"subscriber,sub-{n}\n" for n in range(scopefile.MAX_ENTRIES + 1))
    assert "place several holds" in problems(f"kind,value\n{rows}", YEAR)[0]
    assert len(read(f"kind,value\n{rows.rpartition('subscriber')[0]}", YEAR)) == 64
    assert "longer than" in problems(b"x" * (scopefile.MAX_BYTES + 1))[0]
    assert "UTF-8" in problems(b"\xff\xfe\x00")[0]
    assert "neither CSV" in problems("dear sir,\nplease hold everything\n")[0]
    assert "headings" in problems("kind,name\nsubscriber,x\n")[0]
    assert problems("kind,value\n") == ["no identifier in it"]
    assert problems("") == ["no identifier in it"]
    assert "[[scope]]" in problems("scope = 7\n")[0]
    wrong = "pet,x\n" * 64
    assert problems(f"kind,value\n{wrong}", YEAR)[-1] == "and 14 more problems"


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_rubbish_gives_items_or_problems(data: bytes) -> None:
    for start in (b"", b"kind,value,from,to,classes,ports\n", b'[[scope]]\nkind = "user"\n'):
        try:
            scopefile.from_file(start + data, YEAR)
        except ScopeProblems as error:
            assert error.problems


def test_ports_behind_an_address() -> None:
    assert scopefile.split_ports("192.0.2.7") == ("192.0.2.7", "")
    assert scopefile.split_ports("192.0.2.7:40-50") == ("192.0.2.7", "40-50")
    assert scopefile.split_ports("2001:db8::1") == ("2001:db8::1", "")
    assert scopefile.split_ports("[2001:db8::/56]") == ("2001:db8::/56", "")


def test_the_examples_of_the_help_and_the_guide_are_read() -> None:
    guide = (Path(__file__).parents[2] / "docs/legal.md").read_text()
    start = guide.index("kind,value")
    block = guide[start : guide.index("\n\n", start)]
    assert len(read("\n".join(line.strip() for line in block.splitlines()))) == 3
