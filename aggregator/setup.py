"""First steps of an operator: a folder with keys and a configuration, certificates for routers."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path

from aggregator import pki
from aggregator.config import Config, ConfigError, load, parse

_TEMPLATE = """\
# Written by `tallyhold appliance init`. `tallyhold appliance check-config --dump` shows every key.
[server]
listen = {listen}

[tls]
ca = {ca}
cert = {cert}
key = {key}
crl = {crl}

[engine]
kind = "bundled"
data = {data}
port = {engine_port}

[metrics]
listen = {metrics}

[audit]
folder = {audit}

# Areas for demand figures: name = [prefixes]. What is in none counts as "unassigned".
[areas]
"""


class SetupError(RuntimeError):
    """The step cannot be done; the message says what to do."""


def initialise(
    folder: Path, names: Sequence[str], listen: str, metrics: str, engine_port: int
) -> tuple[Path, list[str]]:
    """Keys and configuration in `folder`; gives the configuration's path and what was done."""
    path = folder / "aggregator.toml"
    lines = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        issued = pki.init(folder / "pki", names)
        if issued.is_new:
            lines.append(f"server certificate for {', '.join(names)} in {folder / 'pki'}")
        if path.exists():
            lines.append(f"kept {path}")
        else:
            text = _text(folder, listen, metrics, engine_port)
            parse(tomllib.loads(text), path)  # nothing is written that could not be used
            path.write_text(text, encoding="utf-8")
            lines.append(f"wrote {path}")
        load(path)
    except (pki.PkiError, ConfigError, ValueError) as error:
        raise SetupError(str(error)) from None
    except OSError as error:
        raise SetupError(f"{error.filename or folder}: {error.strerror}") from None
    return path, lines


def _text(folder: Path, listen: str, metrics: str, engine_port: int) -> str:
    keys = folder / "pki"
    values = {
        "listen": listen,
        "metrics": metrics,
        "ca": keys / "ca.crt",
        "cert": keys / "server.crt",
        "key": keys / "server.key",
        "crl": keys / "crl.pem",
        "data": folder / "engine",
        "audit": folder / "audit",
    }
    # A JSON string is a TOML string, whatever characters a path has (TOML v1.0.0, Strings).
    quoted = {name: json.dumps(str(value), ensure_ascii=False) for name, value in values.items()}
    return _TEMPLATE.format(engine_port=int(engine_port), **quoted)


def enrol(config: Config, collector: str, output: Path) -> list[Path]:
    """A collector's certificate, key and the authority's certificate, copied into `output`."""
    try:
        issued = pki.issue(authority(config), collector)
        output.mkdir(mode=0o700, parents=True, exist_ok=True)
        wanted = {
            output / "ca.pem": config.tls.ca,
            output / f"{collector}.pem": issued.cert,
            output / f"{collector}.key": issued.key,
        }
        for to, source in wanted.items():
            to.unlink(missing_ok=True)  # its mode may be wider than a key's
            to.touch(mode=0o600, exist_ok=False)
            shutil.copyfile(source, to)
    except pki.PkiError as error:
        raise SetupError(str(error)) from None
    except OSError as error:
        raise SetupError(f"{error.filename or output}: {error.strerror}") from None
    return list(wanted)


def revoke(config: Config, collector: str) -> int:
    """Put a collector on the revocation list; gives the certificate's serial number."""
    if config.tls.crl is None:
        raise SetupError("tls.crl is not set: without a revocation list nothing can be revoked")
    try:
        return pki.revoke(authority(config), collector)
    except pki.PkiError as error:
        raise SetupError(str(error)) from None
    except OSError as error:
        raise SetupError(f"{error.filename or config.tls.crl}: {error.strerror}") from None


def authority(config: Config) -> Path:
    """The folder of the authority: where the certificate stands that collectors are checked by."""
    return config.tls.ca.parent
