"""The vault's engines, for tests that resolve a hold through a real store."""

from tests.retention.vault.conftest import bundled_engine, debian_server, world

__all__ = ["bundled_engine", "debian_server", "world"]
