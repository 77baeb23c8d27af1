"""What a hold action is refused with: a code for machines and a text for people.

No text repeats an identifier or a name: texts reach logs, answers and screens.

Codes and what they mean for the caller:
    bad-scope, bad-request    the request itself is wrong; correct it (HTTP 400)
    not-found                 no such hold (404)
    not-allowed, same-person  this person may not (403)
    busy                      a purge has no outcome yet; try again (503)
    clock-untrusted           the clock is to be confirmed first (503)
    any other                 not in the hold's present state (409)
"""

from __future__ import annotations

import re
from typing import Final

_CODE: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


class HoldRefused(Exception):
    """A hold action that is refused; nothing was changed."""

    def __init__(self, code: str, text: str) -> None:
        assert _CODE.fullmatch(code), "a code as leaves take them"
        super().__init__(text)
        self.code = code
        self.text = text


class ScopeError(HoldRefused, ValueError):
    """A scope that cannot be: unreadable, impossible or over a limit. Never repeats the value."""

    def __init__(self, text: str) -> None:
        super().__init__("bad-scope", text)


class NotFound(HoldRefused):
    """No hold has this id."""

    def __init__(self) -> None:
        super().__init__("not-found", "there is no hold with this id")
