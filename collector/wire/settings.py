"""A TOML file and a checked dataclass in, a frozen value out, or every error at once.

Shared by both sides, because an operator meets the same words on a router and on the appliance.
"""

from __future__ import annotations

import ipaddress
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")

STRICT: Final = ConfigDict(extra="forbid", frozen=True)
"""For every dataclass of a configuration: unknown keys are errors, values never change."""


class ConfigError(ValueError):
    """The configuration cannot be used; `problems` has one line for each error found."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        lines = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{path}: {len(problems)} problem(s)\n{lines}")
        self.problems = problems


def read(path: Path, hint: str) -> dict[str, Any]:
    """The tables of a TOML file; raises ConfigError, with `hint` where there is no file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(path, [f"no such file; {hint}"]) from None
    except OSError as error:
        raise ConfigError(path, [str(error.strerror)]) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(path, [str(error)]) from None


def check(adapter: TypeAdapter[T], data: dict[str, Any], path: Path) -> T:
    """The checked value; raises ConfigError with one line a problem, each with its key's path."""
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        raise ConfigError(path, [_line(each) for each in error.errors()]) from None


def _line(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{where}: unknown key"
    if error["type"] in ("missing", "missing_argument"):
        return f"{where}: missing"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"


def endpoint(text: str) -> str:
    """Check ADDRESS:PORT; raises ValueError."""
    host, _, port = text.rpartition(":")
    ipaddress.ip_address(host.strip("[]"))
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("write it as ADDRESS:PORT, e.g. 0.0.0.0:8443 or [::]:8443")
    return text


def prefix(text: str) -> str:
    """Check and normalise a network prefix; raises ValueError."""
    return str(ipaddress.ip_network(text))


Endpoint = Annotated[str, AfterValidator(endpoint)]
Prefix = Annotated[str, AfterValidator(prefix)]
