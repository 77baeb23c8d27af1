"""Turns frozen objects of the model into JSON values and back, by the types of their fields.

A field that is not there has its default, so that the model can grow without a migration; one that
the model does not have, or a value of another type, is refused.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Final, Literal

_PLAIN: Final = frozenset({str, int, bool, type(None)})


def to_json(value: Any) -> Any:
    """A model object as JSON has it: objects by field, tuples as lists."""
    kind: Any = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return {name: to_json(getattr(value, name)) for name in _names(kind)}


def from_json(kind: Any, value: Any) -> Any:
    """The object of type `kind` that `value` is the JSON of; else ValueError or TypeError."""
    return reader(kind)(value)


@cache
def reader(kind: Any) -> Callable[[Any], Any]:
    """The function that reads values of one type."""
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (inner,) = [reader(each) for each in of if each is not type(None)]
        return lambda value: None if value is None else inner(value)
    if origin is Literal:
        return lambda value: of[of.index(value)]  # ValueError for another word
    if origin is tuple and of[1:] == (...,):
        each = reader(of[0])
        return lambda value: tuple([each(item) for item in _are(list, value)])
    if origin is tuple:
        return _sequence(tuple, of)
    if is_dataclass(kind):
        return _object(kind)
    if issubclass(kind, Enum):
        return lambda value: kind(value)
    if issubclass(kind, tuple):
        return _sequence(kind._make, tuple(typing.get_type_hints(kind).values()))
    return lambda value: _are(kind, value)


def _sequence(make: Callable[[Any], Any], kinds: tuple[Any, ...]) -> Callable[[Any], Any]:
    readers = [reader(kind) for kind in kinds]

    def read(value: Any) -> Any:
        items = zip(readers, _are(list, value), strict=True)
        return make([each(item) for each, item in items])

    return read


def _object(kind: Any) -> Callable[[Any], Any]:
    readers = {name: reader(each) for name, each in typing.get_type_hints(kind).items()}

    def read(value: Any) -> Any:
        given = _are(dict, value)
        return kind(**{name: readers[name](each) for name, each in given.items()})

    return read


def _are(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError("of another type")
    return value


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
