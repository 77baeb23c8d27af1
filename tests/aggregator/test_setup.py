"""First steps: what is written can be used, and what cannot be used is not written."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from aggregator import pki
from aggregator.config import ConfigError, load
from aggregator.setup import SetupError, enrol, initialise, revoke, staff

DEFAULTS = ("127.0.0.1:8443", "127.0.0.1:9465", 0)


@pytest.mark.parametrize("name", ["plain", "with space", 'quo"te', "back\\slash", "ünïcode", "{x}"])
def test_a_folder_of_any_name_gives_a_configuration(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    path, lines = initialise(folder, ["localhost"], *DEFAULTS)
    config = load(path)
    assert config.engine.data == folder / "engine"
    assert config.audit.folder == folder / "audit"
    assert config.tls.ca.is_file()
    assert config.retention is not None
    assert config.retention.config == folder / "retention.toml"
    assert len(lines) == 3
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_second_run_keeps_everything(tmp_path: Path) -> None:
    path, _ = initialise(tmp_path, ["localhost"], *DEFAULTS)
    path.write_text(path.read_text() + 'north = ["10.0.0.0/8"]\n')
    before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
    _, lines = initialise(tmp_path, ["localhost"], *DEFAULTS)
    assert lines == [f"kept {path}"]
    assert {each: each.read_bytes() for each in before} == before


def test_a_wrong_address_leaves_no_configuration_behind(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"server\.listen"):
        initialise(tmp_path, ["localhost"], "nowhere", *DEFAULTS[1:])
    assert not (tmp_path / "aggregator.toml").exists()
    assert initialise(tmp_path, ["localhost"], *DEFAULTS)


def test_where_nothing_can_be_written_the_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="file"):
        initialise(tmp_path / "file" / "folder", ["localhost"], *DEFAULTS)
    path, _ = initialise(tmp_path / "good", ["localhost"], *DEFAULTS)
    with pytest.raises(SetupError, match="file"):
        enrol(load(path), "edge-1", tmp_path / "file" / "keys")


def test_enrolment_copies_what_a_router_needs_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    path, _ = initialise(tmp_path / "a", ["localhost"], *DEFAULTS)
    config, output = load(path), tmp_path / "keys"
    output.mkdir()
    (output / "edge-1.key").touch(mode=0o666)
    files = enrol(config, "edge-1", output)
    assert sorted(file.name for file in files) == ["ca.pem", "edge-1.key", "edge-1.pem"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert (output / "ca.pem").read_bytes() == config.tls.ca.read_bytes()
    for name in ("../evil", "", "Edge 1"):
        with pytest.raises(SetupError):
            enrol(config, name, output)


def test_what_is_there_of_the_retention_service_is_kept(tmp_path: Path) -> None:
    path, _ = initialise(tmp_path, ["localhost"], *DEFAULTS)
    own = tmp_path / "retention.toml"
    own.write_text("# my own\n" + own.read_text())
    path.unlink()
    _, lines = initialise(tmp_path, ["localhost"], *DEFAULTS)
    assert f"kept {own}" in lines
    assert own.read_text().startswith("# my own")
    # Of an appliance that has none, it is its owner's to add one.
    own.unlink()
    text = path.read_text()
    path.write_text(text.replace("[retention]", "").replace(f'config = "{own}"', ""))
    initialise(tmp_path, ["localhost"], *DEFAULTS)
    assert not own.exists()


def test_a_retention_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    path, _ = initialise(tmp_path, ["localhost"], *DEFAULTS)
    (tmp_path / "retention.toml").unlink()
    with pytest.raises(ConfigError, match=r"retention\.config: no such file"):
        load(path)


def test_staff_certificates_are_copied_and_revoked(tmp_path: Path) -> None:
    path, _ = initialise(tmp_path / "a", ["localhost"], *DEFAULTS)
    config, output = load(path), tmp_path / "keys"
    files = staff(config, "ann", ["dpo"], output, 800)
    assert sorted(file.name for file in files) == ["ann.key", "ann.pem", "ca.pem"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    with pytest.raises(SetupError, match="no certificate"):
        revoke(config, "ann")  # no collector has this name
    assert revoke(config, "ann", kind="staff") in pki.revoked(config.tls.ca.parent)
    with pytest.raises(SetupError, match="person's name"):
        staff(config, "../ann", ["dpo"], output, 800)


def test_revocation_needs_a_list_and_a_certificate(tmp_path: Path) -> None:
    path, _ = initialise(tmp_path / "a", ["localhost"], *DEFAULTS)
    config = load(path)
    with pytest.raises(SetupError, match="no certificate"):
        revoke(config, "edge-1")
    enrol(config, "edge-1", tmp_path / "keys")
    assert revoke(config, "edge-1") in pki.revoked(config.tls.ca.parent)
    text = path.read_text()
    path.write_text("\n".join(line for line in text.splitlines() if not line.startswith("crl")))
    with pytest.raises(SetupError, match=r"tls\.crl"):
        revoke(load(path), "edge-1")
