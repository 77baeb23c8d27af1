"""First steps of an operator: a folder with keys and a configuration, certificates for routers."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from aggregator import pki
from aggregator.config import Config, ConfigError, load, parse

_TEMPLATE: Final = """\
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

# Runs the retention service beside the engine; without it nothing is ever destroyed.
[retention]
config = {retention}

# Areas for demand figures: name = [prefixes]. What is in none counts as "unassigned".
[areas]
"""

_RETENTION: Final = """\
# Written by `tallyhold appliance init`. `tallyhold retention check-config --dump` shows every key.
# Register of holds, keys, certificates; the audit log is in its folder `audit`.
folder = {folder}
# The log's name for its readers and witnesses; it never changes once the log is there.
origin = {origin}
# The retention policy: how long each class of record is kept, and why. Have counsel sign it, or a
# copy that you name here; without this line the packaged one counts.
# policy = "/etc/tallyhold/policy.toml"

[engine]
kind = "bundled"
data = {data}

[api]
socket = {socket}
# Over the network: `listen`, and certificates made with `tallyhold appliance staff`.
# listen = "0.0.0.0:8444"
# [api.tls]
# ca = {ca}
# cert = {cert}
# key = {key}
# crl = {crl}

# Groups of this machine to what their members may do.
[access.groups]
tallyhold-operations = ["operations"]
tallyhold-legal = ["legal-requester"]
tallyhold-legal-approval = ["legal-approver"]
tallyhold-dpo = ["dpo"]
tallyhold-audit = ["auditor"]
tallyhold-faults = ["faults"]

[metrics]
listen = {metrics}
"""


class SetupError(RuntimeError):
    """The step cannot be done; the message says what to do."""


def initialise(
    folder: Path, names: Sequence[str], listen: str, metrics: str, engine_port: int
) -> tuple[Path, list[str]]:
    """Keys and configurations in `folder`; gives the aggregator's path and what was done.

    The retention service's configuration is made with the aggregator's, which names it. Where the
    aggregator's is there already, nothing is added beside it: its owner decides.
    """
    path, retention = folder / "aggregator.toml", folder / "retention.toml"
    lines = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        issued = pki.init(folder / "pki", names)
        if issued.is_new:
            lines.append(f"server certificate for {', '.join(names)} in {folder / 'pki'}")
        if path.exists():
            lines.append(f"kept {path}")
        else:
            texts = _texts(folder, names[0], listen, metrics, engine_port)
            bare = tomllib.loads(texts[0])
            del bare["retention"]  # its file is not there yet
            parse(bare, path)  # nothing is written that could not be used
            if retention.exists():
                lines.append(f"kept {retention}")
            else:
                retention.write_text(texts[1], encoding="utf-8")
                lines.append(f"wrote {retention}")
            path.write_text(texts[0], encoding="utf-8")
            lines.append(f"wrote {path}")
        load(path)
    except (pki.PkiError, ConfigError, ValueError) as error:
        raise SetupError(str(error)) from None
    except OSError as error:
        raise SetupError(f"{error.filename or folder}: {error.strerror}") from None
    return path, lines


def _texts(folder: Path, name: str, listen: str, metrics: str, engine_port: int) -> tuple[str, str]:
    """Both configurations; they share the keys and the engine's folder."""
    keys = folder / "pki"
    host, _, port = metrics.rpartition(":")
    # Beside the aggregator's page, or any free port where that has any.
    beside = f"{host}:{int(port) + 1 if port.isdigit() and 0 < int(port) < 65535 else 0}"
    shared = {
        "ca": keys / "ca.crt",
        "cert": keys / "server.crt",
        "key": keys / "server.key",
        "crl": keys / "crl.pem",
        "data": folder / "engine",
    }
    aggregator = shared | {
        "listen": listen,
        "metrics": metrics,
        "audit": folder / "audit",
        "retention": folder / "retention.toml",
    }
    retention = shared | {
        "folder": folder / "retention",
        "origin": f"{name.replace(':', '.')}/retention",
        "socket": folder / "retention.sock",
        "metrics": beside,
    }
    return (
        _TEMPLATE.format(engine_port=int(engine_port), **_quoted(aggregator)),
        _RETENTION.format(**_quoted(retention)),
    )


def _quoted(values: Mapping[str, object]) -> dict[str, str]:
    # A JSON string is a TOML string, whatever characters a path has (TOML v1.0.0, Strings).
    return {name: json.dumps(str(value), ensure_ascii=False) for name, value in values.items()}


def enrol(config: Config, collector: str, output: Path) -> list[Path]:
    """A collector's certificate, key and the authority's certificate, copied into `output`."""
    with _plain_errors(output):
        issued = pki.issue(authority(config), collector)
        return _copied(config, issued, collector, output)


def staff(config: Config, person: str, roles: Sequence[str], output: Path, days: int) -> list[Path]:
    """A person's certificate, key and the authority's certificate, copied into `output`."""
    with _plain_errors(output):
        issued = pki.staff(authority(config), person, roles, days)
        return _copied(config, issued, person, output)


def _copied(config: Config, issued: pki.Issued, name: str, output: Path) -> list[Path]:
    output.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = {
        output / "ca.pem": config.tls.ca,
        output / f"{name}.pem": issued.cert,
        output / f"{name}.key": issued.key,
    }
    for to, source in wanted.items():
        to.unlink(missing_ok=True)  # its mode may be wider than a key's
        to.touch(mode=0o600, exist_ok=False)
        shutil.copyfile(source, to)
    return list(wanted)


def revoke(config: Config, name: str, *, kind: str = "collectors") -> int:
    """Put a collector, or a person for kind "staff", on the revocation list; gives the
    certificate's serial number."""
    if config.tls.crl is None:
        raise SetupError("tls.crl is not set: without a revocation list nothing can be revoked")
    with _plain_errors(config.tls.crl):
        return pki.revoke(authority(config), name, kind=kind)


def authority(config: Config) -> Path:
    """The folder of the authority: where the certificate stands that collectors are checked by."""
    return config.tls.ca.parent


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    """Errors of the authority and the disk as SetupError; `path` where an error names none."""
    try:
        yield
    except pki.PkiError as error:
        raise SetupError(str(error)) from None
    except OSError as error:
        raise SetupError(f"{error.filename or path}: {error.strerror}") from None
