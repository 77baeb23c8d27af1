"""What every route is made of: the parts it works on, who asks what, and how errors are said.

A route is a plain function that runs in a thread: it takes `Parts` and `Asked` and gives JSON, or
raises. `problem` turns what it raised into a status, a stable code and a text that says what to do.
"""

from __future__ import annotations

import datetime as dt
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from aggregator.store.errors import StoreError
from retention.access import NotAllowed, NotLetIn, Person, Refusals
from retention.answers import micros
from retention.audit.commit import CommitmentStore
from retention.config import Config, Role
from retention.destruction.context import Context, Unsettled
from retention.destruction.purge import Purger
from retention.held_rows import HeldRows
from retention.holds.desk import Desk
from retention.holds.errors import HoldRefused
from retention.jobs import Running
from retention.register import leaves
from retention.register.lock import Busy, LogPending, RegisterError
from retention.register.store import Register

log = logging.getLogger(__name__)

MAX_BODY: Final = 4 * 1024 * 1024
"""Bytes; the longest scope has a few thousand identifiers of a hundred bytes."""
MAX_TEXT: Final = 1000
"""Characters of a matter, an authority, a reason."""


class Refused(Exception):
    """A request that a rule forbids, or that is wrong. status: 400, 404, 409 or 503."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status, self.code, self.text = status, code, text


class Jobs(Protocol):
    """Runs of the purge, one at a time; the scheduler's."""

    def submit(self, cap: int, dry_run: bool, operator: str) -> str:
        """The id of a new run; raises Running while another is under way."""

    def job(self, name: str) -> Mapping[str, Any] | None:
        """A run as JSON: "job", "state" (running, done, failed), "outcomes", ..."""

    def status(self) -> Mapping[str, Any]:
        """What the scheduler did last, as JSON."""


class Told(Protocol):
    """An answer as JSON; digest: of what it says; count: how many it names or counts."""

    @property
    def plain(self) -> dict[str, Any]: ...

    @property
    def digest(self) -> str: ...

    @property
    def count(self) -> int: ...


class Answers(Protocol):
    """Who answers about records; ValueError, in words, for what cannot be asked."""

    def who(
        self,
        address: str,
        port: int | None,
        protocol: int | None,
        at_us: int,
        tolerance_us: int,
        kept: HeldRows | None = None,
    ) -> Told:
        """Everybody who may have had an address and port at a time; `kept`: a hold's rows too."""

    def line(self, subscriber: str, period: str, now_us: int) -> dict[str, Any]:
        """What went wrong on one subscriber's line."""

    def outages(self, period: str, least: int, share: float) -> dict[str, Any]:
        """Lines of one port, NAS or area that ended together."""


@dataclass(frozen=True)
class Parts:
    """What routes work on. health: what the service says of itself; config_digest: SHA-256."""

    config: Config
    register: Register
    commitments: CommitmentStore
    desk: Desk
    context: Context
    purger: Purger
    refusals: Refusals
    jobs: Jobs
    answers: Answers
    health: Callable[[], Mapping[str, Any]]

    def lookup(
        self,
        asked: Asked,
        what: str,
        reference: str,
        rows: int | None,
        subject: str | None = None,
        notes: Mapping[str, str | None] | None = None,
    ) -> None:
        """Write down that identified data was looked at, before it is given."""
        self.register.write(
            notes=notes,
            leaves=[
                leaves.lookup(
                    asked.person.name,
                    asked.role,
                    what,
                    subject,
                    reference,
                    rows,
                    self.commitments.person,
                    self.commitments.commit,
                )
            ],
        )


@dataclass(frozen=True)
class Asked:
    """One request. path: what the route's {names} stand for; role: in which the person asks."""

    person: Person
    role: Role
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    def fields(self, *known: str) -> Mapping[str, Any]:
        """The body, which has these fields at most."""
        odd = sorted(self.body.keys() - set(known))
        if odd:
            names = ", ".join(known) or "none"
            raise bad(f"unknown field; this request has: {names}")
        return self.body

    def number(self, name: str, default: int | None, most: int) -> int | None:
        """A positive number of the query."""
        text = self.query.get(name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= most:
            raise bad(f"{name}: a number from 1 to {most}")
        return int(text)


@dataclass(frozen=True, slots=True)
class Route:
    """`action` is a key of `access.ACTIONS`; changes are run apart from reads, which never wait.

    asks: a POST that changes nothing, so that what is asked about stands in no URL.
    """

    method: str
    path: str
    action: str
    handler: Callable[[Parts, Asked], Any]
    asks: bool = False

    @property
    def is_change(self) -> bool:
        return self.method != "GET" and not self.asks


def bad(text: str) -> Refused:
    """A request that is wrong in itself."""
    return Refused(400, "bad-request", text)


def missing(text: str) -> Refused:
    """Something that is not there."""
    return Refused(404, "not-found", text)


def words(body: Mapping[str, Any], name: str, *, needed: bool = False) -> str:
    """A text of a body, trimmed; "" where it is not given."""
    value = body.get(name)
    if value is None and not needed:
        return ""
    if not isinstance(value, str) or (needed and not value.strip()):
        raise bad(f"{name}: a text is needed")
    if len(value) > MAX_TEXT or any(not each.isprintable() for each in value):
        raise bad(f"{name}: at most {MAX_TEXT} characters on one line")
    return value.strip()


def instant(body: Mapping[str, Any], name: str, called: str = "") -> int | None:
    """Microseconds of an ISO 8601 instant with a zone; None where it is not given or null.

    called: what the error says instead of the name.
    """
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        try:
            at = dt.datetime.fromisoformat(value)
        except ValueError:
            at = None
        if at is not None and at.tzinfo is not None:
            return micros(at)
    raise bad(
        f'{called or name}: an instant with its zone is needed, such as "2026-11-30T00:00:00Z"'
    )


def flag(body: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A true or false of a body."""
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise bad(f"{name}: true or false")
    return value


_HOLD_STATUS: Final = {
    "bad-scope": 400,
    "bad-request": 400,
    "not-found": 404,
    "not-allowed": 403,
    "same-person": 403,
    "busy": 503,
    "clock-untrusted": 503,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it is answered."""

    status: int
    code: str
    text: str

    @property
    def is_refusal(self) -> bool:
        """Whether a rule was broken: that is written to the audit log; a slip of the pen is not."""
        return self.status in (403, 409)


def problem(error: Exception) -> Problem:
    """What to answer; logs what nobody foresaw, without its text, which could repeat values."""
    for each in _known(error):
        return each
    log.error("a request failed: %s at %s", type(error).__name__, where(error))
    return Problem(500, "internal", "the service failed; its log says where: tell operations")


def _known(error: Exception) -> Iterator[Problem]:
    match error:
        case Refused():
            yield Problem(error.status, error.code, error.text)
        case HoldRefused():
            yield Problem(_HOLD_STATUS.get(error.code, 409), error.code, error.text)
        case NotAllowed():
            yield Problem(403, "not-allowed", str(error))
        case NotLetIn():
            yield Problem(403, error.reason, error.text)
        case Running():
            yield Problem(409, "running", str(error))
        case Busy() | Unsettled():
            yield Problem(503, "busy", f"{error}")
        case LogPending():
            # Who reads 503 asks again; what was done must not be done twice.
            if error.committed:
                text = f"it was done, but the audit log cannot be written now: {error}"
                yield Problem(500, "log", text)
            else:
                yield Problem(503, "log", f"the audit log cannot be written now: {error}")
        case RegisterError():
            yield Problem(503, "register", str(error))
        case StoreError():
            yield Problem(503, "store", f"the storage engine does not do it: {error}")


def where(error: BaseException) -> str:
    """Files and lines of an error, the innermost first; no text and no value."""
    found = []
    at = error.__traceback__
    while at is not None:
        found.append(f"{at.tb_frame.f_code.co_filename.rpartition('/')[2]}:{at.tb_lineno}")
        at = at.tb_next
    return " < ".join(reversed(found[-8:]))
