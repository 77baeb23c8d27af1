"""Error codes of ClickHouse in, four errors out, by who must act: nobody (try again), the operator
of the engine, whoever can repair the disk, or the author of the statement.
"""

from __future__ import annotations

from typing import Final

# Codes of dbms/src/Common/ErrorCodes.cpp, by who must act. These pass, or a retry mends them.
_UNAVAILABLE: Final = frozenset(
    {3, 32, 74, 159, 160, 198, 202, 203, 209, 210, 225, 236, 242}
    | {252, 279, 285, 286, 319, 415, 425, 999}
)
# The operator must act: authentication and access, memory, disk, quota, read-only.
_REFUSED: Final = frozenset({75, 164, 192, 193, 194, 195, 201, 241, 243, 291, 497, 516})
# Data or metadata on disk is damaged.
_CORRUPT: Final = frozenset({33, 40, 76, 107, 226, 228, 231, 246, 271, 273})

_ADVICE: Final = {
    75: "the engine cannot write to its disk: is it full?",
    164: "the user may only read",
    192: "unknown user: check [engine] user",
    193: "wrong password: check [engine] password_file",
    194: "a password is needed: set [engine] password_file",
    241: "the engine is out of memory",
    243: "the engine's disk is full: free space, ingest resumes by itself",
    497: "the user lacks a grant",
    516: "user or password is wrong: check [engine] user and password_file",
}


class StoreError(RuntimeError):
    """The store did not do what was asked. `code` is ClickHouse's, or 0 where it had none."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Unavailable(StoreError):
    """No answer, or a condition that passes: try again. Whether a write took place is unknown."""


class Refused(StoreError):
    """The engine answered no, and only the operator can change that: access, memory, disk."""


class Corrupt(StoreError):
    """What lies on disk is damaged; restore or repair before going on."""


class Misused(StoreError):
    """The statement or the data does not fit the tables: this code or the schema is wrong."""


def error_of(code: int, text: str) -> StoreError:
    """The error for a code of the server; an unknown code blames the statement."""
    if code in _REFUSED:
        return Refused(f"{text} ({_ADVICE.get(code, 'access, memory or disk')})", code)
    if code in _UNAVAILABLE:
        return Unavailable(text, code)
    if code in _CORRUPT:
        return Corrupt(text, code)
    return Misused(text, code)
