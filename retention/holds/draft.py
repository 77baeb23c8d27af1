"""A hold as it is submitted, and what is wrong with it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from retention.holds import scope
from retention.holds.errors import HoldRefused, ScopeError
from retention.model import NEVER, ScopeItem

MAX_TEXT: Final = 1000
"""Characters of a matter, an authority, a reference or a reason."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A hold as it is submitted; fields as in `model.Hold`. No item of the scope is resolved."""

    matter: str
    basis: str
    authority: str
    reference: str
    served_us: int
    scope: tuple[ScopeItem, ...]
    order_sha256: str = ""
    resolve: bool = True
    all_sharers: bool = False
    expires_us: int | None = None
    review_by_us: int | None = None
    confidential: bool = True


def check(draft: Draft, now_us: int) -> None:
    """Raise HoldRefused or ScopeError unless a hold can be made of it."""
    for name in ("matter", "authority", "reference"):
        check_text(name, getattr(draft, name))
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,63}", draft.basis):
        raise HoldRefused("bad-request", 'basis: a short word such as "court-order"')
    if draft.order_sha256 and not re.fullmatch(r"[0-9a-f]{64}", draft.order_sha256):
        raise HoldRefused("bad-request", "order: its SHA-256 as 64 hexadecimal digits")
    if not 0 <= draft.served_us <= now_us:
        raise HoldRefused("bad-request", "served: not in the future")
    if draft.expires_us is None and draft.review_by_us is None:
        raise HoldRefused("bad-request", "a hold needs a date of expiry or of review")
    for name, at in (("expires", draft.expires_us), ("review by", draft.review_by_us)):
        if at is not None and not now_us < at <= NEVER:
            raise HoldRefused("bad-request", f"{name}: in the future, and before 2100")
    if any(item.resolved for item in draft.scope):
        raise ScopeError("an item that came from binding history cannot be submitted")
    scope.check_count(draft.scope)
    for item in draft.scope:
        scope.check(item)


def check_text(name: str, text: str) -> None:
    """Raise HoldRefused unless it is a text of one line; `name` says which."""
    if not 0 < len(text.strip()) <= MAX_TEXT or not text.isprintable():
        raise HoldRefused("bad-request", f"{name}: 1 to {MAX_TEXT} characters on one line")
