"""Who comes in, and what they may do: a socket's peer or a certificate in, a person or a leaf out.

Over the Unix socket the kernel says which user it is (SO_PEERCRED, unix(7)) and the machine's
groups give the roles; over HTTPS a certificate names person (CN) and roles (OU). A person has the
same name both ways, so that nobody can approve their own request by coming in at the other door.

Whoever is turned away is written to the audit log, `login.failed` before it is known who it is and
`refusal` after. A flood of them is counted, and written up to a limit only.
"""

from __future__ import annotations

import grp
import logging
import os
import pwd
import re
import socket
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from retention.config import Role
from retention.register import leaves

log = logging.getLogger(__name__)

STAFF_URI: Final = "tallyhold://staff/"
STAFF_USAGE: Final = x509.ObjectIdentifier("2.25.133213386071040637214143942712744416018")
"""What sets a person's certificate apart from a collector's; both as `aggregator.pki` issues."""
_PERSON: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_UCRED: Final = struct.Struct("=iII")
"""struct ucred of unix(7): pid_t, uid_t, gid_t."""

_EVERYONE: Final = tuple(Role)
_LEGAL: Final = (Role.LEGAL_REQUESTER, Role.LEGAL_APPROVER, Role.DPO)
_WATCHERS: Final = (Role.OPERATIONS, Role.DPO, Role.AUDITOR)

ACTIONS: Final[Mapping[str, tuple[Role, ...]]] = {
    # Who may do it; of several roles a person has, the first here is the one they do it in.
    "health.read": _EVERYONE,
    "hold.list": (*_LEGAL, Role.AUDITOR),
    "hold.show": (*_LEGAL, Role.AUDITOR),
    "hold.coverage": (*_LEGAL, Role.AUDITOR),
    "hold.place": (Role.LEGAL_REQUESTER,),
    "hold.extend": (Role.LEGAL_REQUESTER,),
    "hold.cancel-extension": (Role.LEGAL_REQUESTER,),
    "hold.review": _LEGAL,
    "hold.release": (Role.LEGAL_REQUESTER,),
    "hold.approve": (Role.LEGAL_APPROVER, Role.DPO),
    "hold.reject": (Role.LEGAL_APPROVER, Role.DPO),
    "hold.cancel-release": _LEGAL,
    "policy.read": (*_LEGAL, Role.AUDITOR),  # it names notices, which are secret (IPA 2016 s.95)
    "policy.report": (*_LEGAL, Role.OPERATIONS, Role.AUDITOR),
    "purge.plan": _WATCHERS,
    "purge.status": _WATCHERS,
    "purge.run": (Role.OPERATIONS,),
    "purge.certificate": (*_WATCHERS, Role.LEGAL_REQUESTER, Role.LEGAL_APPROVER),
    "audit.tail": (Role.AUDITOR, Role.DPO),
    "audit.checkpoint": _WATCHERS,
    "audit.witness": (Role.AUDITOR, Role.DPO),
    "lookup.who": _LEGAL,
    "faults.line": (Role.FAULTS,),
    "faults.outages": (Role.FAULTS, Role.OPERATIONS),
    "clock.read": _WATCHERS,
    "clock.confirm": (Role.OPERATIONS, Role.DPO),
}

BURST: Final = 20
"""Leaves for one person, or one way in, at once; a mistaken script is seen in them."""
REFILL_S: Final = 30.0
"""Until one more is written. All of them: 2,880 a day and person, 1 MB of log."""
ALL_BURST: Final = 200
ALL_REFILL_S: Final = 5.0
"""The same for everybody together: 17,280 a day."""
MAX_KEYS: Final = 1024
"""Persons whose count is remembered; who comes from nowhere has one count together."""


class NotLetIn(Exception):
    """Somebody who is not let in. `name`: who they say they are, or "". `reason`: a code."""

    def __init__(self, name: str, way: str, reason: str, text: str) -> None:
        super().__init__(text)
        self.name, self.way, self.reason, self.text = name, way, reason, text


class NotAllowed(Exception):
    """A person without the role that an action takes."""

    def __init__(self, action: str) -> None:
        needed = " or ".join(ACTIONS[action])
        super().__init__(f"this takes the role {needed}, which you do not have")


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who was let in. way: "socket" or "certificate"."""

    name: str
    roles: frozenset[Role]
    way: str

    def role_for(self, action: str) -> Role:
        """The role in which they do it; raises NotAllowed."""
        for role in ACTIONS[action]:
            if role in self.roles:
                return role
        raise NotAllowed(action)


class HasOptions(Protocol):
    """A socket, or what asyncio gives of it."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


def peer_uid(connection: HasOptions) -> int:
    """The user that connected to a Unix socket, as the kernel saw it then."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(data)
    return int(uid)


def of_user(uid: int, groups: Mapping[str, tuple[Role, ...]]) -> Person:
    """A user of this machine with the roles of their groups; raises NotLetIn.

    Groups are those of the user database now, not those the process happens to have: whoever is
    taken out of a group is out at once, without a new login.
    """
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        raise NotLetIn(
            f"uid {uid}", "socket", "unknown-user", f"no user has the id {uid}"
        ) from None
    found = set[Role]()
    for gid in os.getgrouplist(user.pw_name, user.pw_gid):
        try:
            found.update(groups.get(grp.getgrgid(gid).gr_name, ()))
        except KeyError:
            continue  # a group without a name gives no role
    if not found:
        raise NotLetIn(
            user.pw_name,
            "socket",
            "no-role",
            "you are in none of the groups that give a role here; an administrator puts you into"
            " one (see [access.groups] of the service's configuration)",
        )
    return Person(user.pw_name, frozenset(found), "socket")


def certified(der: bytes) -> Person:
    """The person a verified client certificate is of; raises NotLetIn.

    Whether it is in force, revoked or of the right authority was seen in the handshake.
    """

    def refuse(reason: str, text: str) -> NotLetIn:
        return NotLetIn(name, "certificate", reason, text)

    name = ""
    try:
        found = x509.load_der_x509_certificate(der)
        names = [each.value for each in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        name = str(names[0]) if len(names) == 1 else ""
        units = found.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
        usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = alternative.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound):
        raise refuse("not-staff", "this certificate is not a person's") from None
    if STAFF_USAGE not in usage or ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise refuse("not-staff", "this certificate is not a person's; a collector's does not do")
    if uris != [STAFF_URI + name] or not _PERSON.fullmatch(name):
        raise refuse("not-staff", "this certificate names no person, or two different ones")
    known = {role.value: role for role in Role}
    roles = frozenset(known[unit.value] for unit in units if unit.value in known)
    if not roles:
        raise refuse("no-role", "this certificate gives no role; ask for a new one")
    return Person(name, roles, "certificate")


class Refusals:
    """Writes refusals and failed logins to the audit log, and counts those beyond the limit.

    write: takes one leaf's fields (the register). person, commit: of the commitment store.
    counted: called for every one, with the kind and whether it was written. monotonic: seconds.
    """

    def __init__(
        self,
        write: Callable[[dict[str, Any]], object],
        person: Callable[[str], str],
        commit: Callable[[str], str],
        counted: Callable[[str, bool], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._write, self._person, self._commit = write, person, commit
        self._counted = counted
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._all = _Bucket(ALL_BURST, ALL_REFILL_S)

    def refused(
        self, person: Person, role: str | None, action: str, reason: str, subject: str = ""
    ) -> None:
        """A person was refused an action; `subject` is what it was about, e.g. a hold's id."""
        self._tell(
            "refusal",
            person.name,
            lambda: leaves.refusal(
                person.name, role, action, subject or None, reason, self._person, self._commit
            ),
        )

    def not_let_in(self, name: str, way: str, reason: str) -> None:
        """Somebody was not let in; those who give no name share one count."""
        self._tell(
            "login.failed",
            f"{way}:{name}",
            lambda: leaves.login_failed(name or None, way, reason, self._commit),
        )

    def _tell(self, kind: str, key: str, leaf: Callable[[], dict[str, Any]]) -> None:
        is_written = self._has_room(key)
        self._counted(kind, is_written)
        if not is_written:
            return
        try:
            self._write(leaf())
        except Exception:
            # The person is refused all the same; that the log cannot take it has its own alarm.
            log.exception("a %s could not be written to the audit log", kind)

    def _has_room(self, key: str) -> bool:
        now = self._monotonic()
        with self._lock:
            bucket = self._buckets.setdefault(key, _Bucket(BURST, REFILL_S))
            self._buckets.move_to_end(key)
            if len(self._buckets) > MAX_KEYS:
                self._buckets.popitem(last=False)
            # Both are asked only if the first has room: one noisy person must not use up the rest.
            return bucket.take(now) and self._all.take(now)


class _Bucket:
    """A token bucket: `burst` at once, then one every `refill_s`."""

    def __init__(self, burst: int, refill_s: float) -> None:
        self._burst, self._refill_s = burst, refill_s
        self._left = float(burst)
        self._at: float | None = None

    def take(self, now: float) -> bool:
        if self._at is not None:
            self._left = min(self._burst, self._left + (now - self._at) / self._refill_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
