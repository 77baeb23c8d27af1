import pytest
from hypothesis import given
from hypothesis import strategies as st

from retention.holds import scope
from retention.holds.columns import CLASSES
from retention.holds.errors import HoldRefused
from retention.holds.scope import ScopeError, normalise, parse
from retention.model import NEVER, Kind

DAY = 86_400_000_000


@pytest.mark.parametrize(
    ("kind", "text", "normal"),
    [
        ("address", "192.0.2.7", "192.0.2.7/32"),
        ("address", " 192.0.2.0/24 ", "192.0.2.0/24"),
        ("address", "::ffff:192.0.2.7", "192.0.2.7/32"),
        ("address", "::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("address", "2001:DB8:0:0::/56", "2001:db8::/56"),
        ("address", "2001:db8::1", "2001:db8::1/128"),
        ("number", "+44 (0)20 7946 0018", "+442079460018"),
        ("number", "+39 06 12345678", "+390612345678"),
        ("user", "Ann@ISP.Example", "Ann@isp.example"),
        ("user", "Ann", "Ann"),
        ("user", "a@b@C.example", "a@b@c.example"),
        ("user", "@Isp.example", "@Isp.example"),
        ("subscriber", "nas-1/PORT 7", "nas-1/PORT 7"),
        ("line", "eth 1/1/05/01.pon.xpon.8", "eth 1/1/05/01.pon.xpon.8"),
        ("session", "000000aF", "000000aF"),
        ("account", "CUI-1", "CUI-1"),
    ],
)
def test_normal_forms(kind: str, text: str, normal: str) -> None:
    assert normalise(kind, text) == normal
    assert normalise(kind, normal) == normal


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("address", "192.0.2.7/24", "bits set"),
        ("address", "192.0.2.0/255.255.255.0", "length in bits"),
        ("address", "192.0.2.0/0.0.0.255", "length in bits"),
        ("address", "192.0.2", "not an IPv4"),
        ("address", "010.0.0.1", "not an IPv4"),
        ("address", "fe80::1%eth0", "zone"),
        ("address", "0.0.0.0/0", "wider than /8"),
        ("address", "2000::/12", "wider than /16"),
        ("address", "::/16", "every IPv4"),
        ("address", "::ffff:0:0/96", "wider than /8"),
        ("number", "02079460018", "country code"),
        ("number", "00442079460018", "country code"),
        ("number", "+999123456789", "of any country"),
        ("number", "+44 999", "too short"),
        ("number", "+4420794600189999", "too short or too long"),
        ("number", "+1 800 FLOWERS", "country code"),
        ("user", "ann@", "ends with @"),
        ("subscriber", "", "1 to 512"),
        ("subscriber", "é" * 257, "1 to 512"),
        ("subscriber", "a\nb", "control"),
        ("subscriber", "a\u200bb", "invisible"),
        ("subscriber", "a\u2028b", "invisible"),
        ("line", "\ud800", "control"),
        ("line", " 7", "space"),
        ("session", "7\u00a0", "space"),
        ("mac", "00:00:5e:00:53:01", "MAC"),
        ("imsi", "001010123456789", "unknown kind"),
    ],
)
def test_refusals_say_what_is_wrong_and_never_the_value(kind: str, text: str, says: str) -> None:
    with pytest.raises(ScopeError, match=says) as caught:
        normalise(kind, text)
    assert caught.value.code == "bad-scope"
    assert not text.strip() or text.strip() not in str(caught.value)


def test_a_mac_address_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(ScopeError, match="name the line, the subscriber or the address"):
        parse("MAC", "00:00:5e:00:53:01", 0, DAY)


@pytest.mark.parametrize(
    ("start", "end"), [(-1, 5), (5, 5), (6, 5), (0, NEVER + 1), (NEVER, NEVER)]
)
def test_impossible_intervals(start: int, end: int) -> None:
    with pytest.raises(ScopeError, match="interval"):
        parse("subscriber", "s", start, end)


def test_an_interval_may_have_no_end() -> None:
    assert parse("subscriber", "s", 0, NEVER).to_us == NEVER


def test_classes_default_to_all_possible_and_stand_in_one_order() -> None:
    assert parse("line", "7", 0, DAY).classes == CLASSES
    assert parse("number", "+442079460018", 0, DAY).classes == ("call",)
    assert parse("line", "7", 0, DAY, ["visit", "usage"]).classes == ("usage", "visit")


@pytest.mark.parametrize(
    ("kind", "classes", "says"),
    [
        ("line", ["gap"], "unknown record class"),
        ("line", ["usage", "usage"], "each once"),
        ("number", ["visit"], "leads to no visit"),
    ],
)
def test_impossible_classes(kind: str, classes: list[str], says: str) -> None:
    value = "+442079460018" if kind == "number" else "7"
    with pytest.raises(ScopeError, match=says):
        parse(kind, value, 0, DAY, classes)


@pytest.mark.parametrize("ports", [(-1, 5), (5, 4), (0, 65536), (0,), (True, 5)])
def test_impossible_ports(ports: tuple[int, int]) -> None:
    with pytest.raises(ScopeError, match="ports"):
        parse("address", "192.0.2.7", 0, DAY, ["mapping"], ports)


def test_only_an_address_has_ports() -> None:
    with pytest.raises(ScopeError, match="only an address"):
        parse("line", "7", 0, DAY, ["session"], (1, 2))


def test_a_literal_item_keeps_the_classes_that_have_the_identifier() -> None:
    assert scope.literal(parse("line", "7", 0, DAY)).classes == ("session",)
    with_ports = parse("address", "192.0.2.7", 0, DAY, (), (1, 2))
    assert scope.literal(with_ports).classes == ("mapping",)
    with pytest.raises(ScopeError, match="let the hold be resolved"):
        scope.literal(parse("line", "7", 0, DAY, ["visit"]))


def test_a_hold_takes_at_most_so_many_identifiers() -> None:
    items = [parse("subscriber", f"s{n}", 0, DAY) for n in range(scope.MAX_ITEMS + 1)]
    scope.check_count(items[1:])
    with pytest.raises(ScopeError, match="64"):
        scope.check_count(items)
    with pytest.raises(ScopeError, match="not 0"):
        scope.check_count([])


@given(st.sampled_from(list(Kind)), st.text(max_size=40))
def test_any_text_is_taken_or_refused_in_one_way(kind: Kind, text: str) -> None:
    try:
        normal = normalise(kind, text)
    except HoldRefused:
        return
    assert normalise(kind, normal) == normal
    if kind is Kind.ADDRESS:
        base, length = scope.prefix(normal)
        assert len(base) == 16
        assert 16 <= length <= 128
