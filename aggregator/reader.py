"""A configuration in, a read-only connection to whichever engine it names out."""

from __future__ import annotations

from pathlib import Path

from aggregator.config import Config
from aggregator.store.client import Client
from aggregator.store.endpoint import Endpoint, read_password
from aggregator.store.engine_files import bundled_port


def reader(config: Config, user: str = "reader") -> Client:
    """A client that can only read. Nothing is sent until it is asked something.

    Raises Unavailable where the bundled engine was never started, and Refused where its password
    file may not be read by the caller.
    """
    engine = config.engine
    if engine.kind == "server":
        password = read_password(engine.password_file) if engine.password_file else ""
        port = engine.port or 9000
        return Client(
            Endpoint(
                engine.host,
                port,
                engine.user,
                password,
                engine.database,
                engine.secure,
                engine.ca,
                engine.timeout_s,
            )
        )
    password = read_password(engine.data / f"{user}.password")
    endpoint = Endpoint("127.0.0.1", bundled_port(engine.data), user, password, engine.database)
    return Client(endpoint)


def advice(config: Config, path: Path) -> str:
    """What to do where the engine does not answer; `path` is that of the configuration."""
    if config.engine.kind == "server":
        return f"check that the server runs, and [engine] host and port in {path}"
    return f"start it with: tallyhold appliance run --config {path}"
