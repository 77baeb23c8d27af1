"""Events as JSON values and back: what a journal line holds of a parsed message.

A subclass is a dataclass of integers, texts, bytes (as hex), tuples of them and other such classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Self


def _prefixes(value: Any) -> Any:
    return tuple((bytes.fromhex(base), *rest) for base, *rest in value)


_Reader = Callable[[Any], Any]
_READERS: Final[dict[str, _Reader]] = {
    "bytes": bytes.fromhex,
    "bytes | None": lambda value: None if value is None else bytes.fromhex(value),
    "tuple[Prefix, ...]": _prefixes,
    "tuple[Grant, ...]": _prefixes,
    "tuple[str, ...]": tuple,
}
"""How a field is read back, by its annotation; any other but a `Plain` is as JSON has it."""


class Plain:
    """Gives a dataclass `to_json` and `from_json`."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __init_subclass__(cls) -> None:
        _READERS[cls.__name__] = cls.from_json

    def to_json(self) -> dict[str, object]:
        """A JSON-able dict, bytes as hex; `from_json` gives an equal event back."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The event that `to_json` wrote; raises KeyError, TypeError or ValueError for others."""
        return cls(
            **{
                name: data[name] if reader is None else reader(data[name])
                for name, reader in _readers_of(cls)
            }
        )


_FIELDS: Final[dict[type, tuple[tuple[str, _Reader | None], ...]]] = {}


def _readers_of(kind: type[Plain]) -> tuple[tuple[str, _Reader | None], ...]:
    """Each field of a dataclass with how it is read."""
    if kind not in _FIELDS:
        fields = kind.__dataclass_fields__.items()
        _FIELDS[kind] = tuple((name, _READERS.get(str(field.type))) for name, field in fields)
    return _FIELDS[kind]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Plain):
        return value.to_json()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
