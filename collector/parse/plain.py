"""Events as JSON values and back: what a journal line holds of a parsed message.

A subclass is a frozen dataclass of integers, texts, bytes (as hex) and tuples of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Final, Self


def _prefixes(value: Any) -> Any:
    return tuple((bytes.fromhex(base), *rest) for base, *rest in value)


_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "bytes": bytes.fromhex,
    "bytes | None": lambda value: None if value is None else bytes.fromhex(value),
    "tuple[Prefix, ...]": _prefixes,
    "tuple[Grant, ...]": _prefixes,
    "tuple[str, ...]": tuple,
}
"""How a field is read back, by its annotation; any other is as JSON has it."""


class Plain:
    """Gives a dataclass `to_json` and `from_json`."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def to_json(self) -> dict[str, object]:
        """A JSON-able dict, bytes as hex; `from_json` gives an equal event back."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The event that `to_json` wrote; raises KeyError, TypeError or ValueError for others."""
        values = {}
        for each in fields(cls):
            reader = _READERS.get(str(each.type))
            value = data[each.name]
            values[each.name] = value if reader is None else reader(value)
        return cls(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
