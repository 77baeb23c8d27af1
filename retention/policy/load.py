"""policy.toml in, a `Policy` out, or every problem at once with the path of its key.

Refused is what could later not be defended: a table of persons' rows that nothing destroys, a
period without a basis or an owner, a stored column that the published notice would not name.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from aggregator.store.schema import TABLES, Table
from collector.wire import settings
from collector.wire.settings import STRICT, ConfigError
from retention.model import DAY_US, NEVER
from retention.policy.check import Draft, DraftClass, problems_of
from retention.policy.model import (
    PURPOSES,
    Data,
    Notice,
    Policy,
    Register,
    Rule,
    Terms,
)
from retention.policy.partitions import Length

T = TypeVar("T")

DEFAULT_PATH: Final = Path("/etc/tallyhold/policy.toml")
PACKAGED: Final = Path(__file__).parent.parent / "policy.toml"
"""The policy that comes with the package, for where none was written yet."""

MAX_TEXT: Final = 1000
"""Characters of a basis or a description: a paragraph, as it stands in a table of the register."""
_MAX_DAYS: Final = 25 * 366
"""Of a period. Longer is a slip of the pen, and its end could pass the year 2100."""
_PART: Final = re.compile(r"(\d{1,4}) (year|month|day)s?")


class PolicyError(ConfigError):
    """The policy cannot be used; `problems` has one line for each thing wrong."""


def _text(text: str) -> str:
    text = " ".join(text.split())
    if not text:
        raise ValueError("must say something")
    if len(text) > MAX_TEXT or not text.isprintable():
        raise ValueError(f"at most {MAX_TEXT} printable characters")
    return text


def _day(value: object) -> object:
    if type(value) is not dt.date:  # a datetime is a date too, but with an hour that no day has
        raise ValueError("write a day, such as 2026-12-01, without quotes")
    if not 1970 <= value.year < 2100:
        raise ValueError("not a day between 1970 and 2099")
    return value


def _length(value: object) -> object:
    parts = [_PART.fullmatch(each) for each in str(value).split(" and ")]
    counts = {each[2]: int(each[1]) for each in parts if each}
    if len(counts) != len(parts):  # a part that is none, or a unit given twice
        raise ValueError('write "90 days", "12 months", "6 years" or "1 month and 5 days"')
    months, days = 12 * counts.get("year", 0) + counts.get("month", 0), counts.get("day", 0)
    if not months + days:
        raise ValueError("a period of nothing: records would have to go before they came")
    if months * 31 + days > _MAX_DAYS:
        raise ValueError("longer than 25 years")
    return months, days


Text = Annotated[str, AfterValidator(_text)]
Blank = Annotated[str, AfterValidator(lambda text: text.strip() and _text(text))]
Day = Annotated[dt.date, BeforeValidator(_day)]
Name = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")]
Purpose = Literal["statutory", "billing", "faults", "demand"]


@dataclass(config=STRICT)
class _Notice:
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}$")]
    classes: Annotated[tuple[Name, ...], Field(min_length=1, max_length=50)]
    from_: Day = Field(alias="from")
    to: Day | None = None


@dataclass(config=STRICT)
class _Rule:
    period: Annotated[Length, BeforeValidator(_length)]
    clock: Literal["communication", "entity-data", "first-held"]
    basis: Text
    owner: Text
    over_maximum_basis: Text | None = None


@dataclass(config=STRICT)
class _Data:
    columns: Annotated[tuple[Name, ...], Field(min_length=1, max_length=100)]
    what: Text
    purposes: Annotated[tuple[Purpose, ...] | None, Field(min_length=1)] = None


@dataclass(config=STRICT)
class _Register:
    subjects: Text
    recipients: Text
    transfers: Text
    security: Text
    controller: Blank = ""
    contact: Blank = ""
    officer: Blank = ""


_NOTICES: Final = TypeAdapter(Annotated[list[Any], Field(max_length=100)])
_GROUPS: Final = TypeAdapter(Annotated[list[Any], Field(max_length=100)])
_CLASSES: Final = TypeAdapter(dict[Name, dict[str, Any]])
_EXEMPT: Final[TypeAdapter[dict[str, str]]] = TypeAdapter(
    dict[Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,200}$")], Text]
)
_TITLE: Final = TypeAdapter(Text)
_NOTICE: Final = TypeAdapter(_Notice)
_RULE: Final = TypeAdapter(_Rule)
_DATA: Final = TypeAdapter(_Data)
_REGISTER: Final = TypeAdapter(_Register)
_TOP: Final = ("notice", "class", "common", "exempt", "register")


def load(
    path: Path,
    now_us: int,
    *,
    live: Collection[str] | None = None,
    tables: Mapping[str, Table] = TABLES,
) -> Policy:
    """Read and check a policy file as it is in force at `now_us`.

    live: names of the tables that the database really has, where they are known; tables: those
    the code writes. Raises PolicyError with all problems, one line each.
    """
    try:
        data = settings.read(path, f"begin with a copy of {PACKAGED.name} from the package")
    except ConfigError as error:
        raise PolicyError(path, error.problems) from None
    return parse(data, path, now_us, live=live, tables=tables)


def parse(
    data: dict[str, Any],
    path: Path,
    now_us: int,
    *,
    live: Collection[str] | None = None,
    tables: Mapping[str, Table] = TABLES,
) -> Policy:
    """Check TOML that is already read, as `load`; `path` names it in errors."""
    reading = _Reading([f"{key}: unknown key" for key in data if key not in _TOP])
    draft = reading.draft(data)
    register = reading.take(_REGISTER, data.get("register", {}), "register")
    problems = reading.problems + problems_of(draft, live or (), tables)
    if problems or register is None:
        raise PolicyError(path, problems)
    return Policy(
        at_us=now_us,
        notices=tuple(notice for notice in draft.notices if notice),
        classes={name: _terms(each) for name, each in draft.classes.items()},
        common=tuple(group for group in draft.common if group),
        exempt=draft.exempt,
        register=Register(**{n: getattr(register, n) for n in Register.__dataclass_fields__}),
    )


def _terms(draft: DraftClass) -> Terms:
    rules = {purpose: rule for purpose, rule in draft.rules.items() if rule}
    return Terms(draft.title, rules, tuple(group for group in draft.data if group))


class _Reading:
    """Takes each part by itself, so that a mistake in one hides none in another.

    A part that cannot be read is None in the draft: it was there, and nothing else is known of it.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems

    def take(self, adapter: TypeAdapter[T], value: Any, where: str) -> T | None:
        try:
            return settings.check(adapter, value, Path(where))
        except ConfigError as error:
            # A problem of the part itself has no key of its own: ": must say something".
            self.problems += [
                where + line if line.startswith(":") else f"{where}.{line}"
                for line in error.problems
            ]
            return None

    def draft(self, data: dict[str, Any]) -> Draft:
        notices = self.take(_NOTICES, data.get("notice", []), "notice") or []
        classes = self.take(_CLASSES, data.get("class", {}), "class") or {}
        exempt = self.take(_EXEMPT, data.get("exempt", {}), "exempt")
        return Draft(
            notices=[self._notice(each, f"notice.{n}") for n, each in enumerate(notices)],
            classes={name: self._class(name, each) for name, each in classes.items()},
            common=self._groups(data.get("common", []), "common", PURPOSES),
            exempt=exempt or {},
        )

    def _notice(self, value: Any, where: str) -> Notice | None:
        read = self.take(_NOTICE, value, where)
        if read is None:
            return None
        return Notice(read.id, read.classes, _us(read.from_), _us(read.to) if read.to else NEVER)

    def _class(self, name: str, value: dict[str, Any]) -> DraftClass:
        where = f"class.{name}"
        rules: dict[str, Rule | None] = {
            purpose: self._rule(value[purpose], f"{where}.{purpose}")
            for purpose in PURPOSES
            if purpose in value
        }
        self.problems += [
            f"{where}.{key}: neither title, data nor a purpose ({', '.join(PURPOSES)})"
            for key in value
            if key not in ("title", "data", *PURPOSES)
        ]
        if "title" not in value:
            self.problems.append(f"{where}.title: missing")
        title = self.take(_TITLE, value.get("title", name), f"{where}.title") or ""
        groups = self._groups(value.get("data", []), f"{where}.data", tuple(rules))
        return DraftClass(title, rules, groups)

    def _rule(self, value: Any, where: str) -> Rule | None:
        read = self.take(_RULE, value, where)
        if read is None:
            return None
        over = read.over_maximum_basis or ""
        return Rule(*read.period, read.clock, read.basis, read.owner, over)

    def _groups(self, value: Any, where: str, purposes: tuple[str, ...]) -> list[Data | None]:
        """Groups of columns; one that names no purposes serves all of `purposes`."""
        groups = self.take(_GROUPS, value, where)
        if groups is None:
            return [None]
        read = [self.take(_DATA, each, f"{where}.{n}") for n, each in enumerate(groups)]
        return [
            None if each is None else Data(each.columns, each.what, each.purposes or purposes)
            for each in read
        ]


def _us(day: dt.date) -> int:
    return (day - dt.date(1970, 1, 1)).days * DAY_US
