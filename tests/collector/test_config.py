"""Configuration: all errors at once, each with the path of its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector import build
from collector.capture.reliable import ReliableConfig
from collector.config import Config, ConfigError, dump, load
from collector.track.flow_config import MappingConfig

GOOD = """
name = "edge-1"
[access]
interfaces = ["acc*"]
prefixes = ["100.64.0.0/10", "2001:db8::/32"]
[uplink]
url = "https://127.0.0.1:9443"
ca = "{0}/ca.pem"
cert = "{0}/cert.pem"
key = "{0}/key.pem"
"""


def write(folder: Path, text: str) -> Path:
    for name in ("ca", "cert", "key"):
        (folder / f"{name}.pem").write_text("dummy")
    path = folder / "collector.toml"
    path.write_text(text.format(folder))
    return path


def test_a_small_file_is_enough_and_the_defaults_can_be_seen(tmp_path: Path) -> None:
    config = load(write(tmp_path, GOOD))
    assert isinstance(config, Config)
    assert config.timing.window_s == 300
    assert config.access.networks()[0][1] == 96 + 10
    assert dump(config)["metrics"]["listen"] == "127.0.0.1:9464"


def test_every_error_is_reported_at_once_with_its_key(tmp_path: Path) -> None:
    text = GOOD.replace('"edge-1"', '"Edge 1"').replace("100.64.0.0/10", "100.64.0.1/10")
    text += "[timing]\nwindow_s = 0\nwindows = 3\n[metrics]\nlisten = 'here'\n"
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    lines = "\n".join(caught.value.problems)
    for key in ("name:", "access.prefixes.0:", "timing.window_s:", "metrics.listen:"):
        assert key in lines
    assert "timing.windows: unknown key" in lines
    assert len(caught.value.problems) == 5


def test_missing_parts_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"access: missing"):
        load(write(tmp_path, 'name = "edge-1"\n'))
    path = write(tmp_path, GOOD)
    (tmp_path / "key.pem").unlink()
    with pytest.raises(ConfigError, match=r"uplink\.key: no such file"):
        load(path)


def test_broken_toml_and_a_missing_file_say_where(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 1"):
        load(write(tmp_path, "name = \n"))
    with pytest.raises(ConfigError, match="deploy/examples"):
        load(tmp_path / "none.toml")


def test_the_detail_of_visits_is_a_setting(tmp_path: Path) -> None:
    more = GOOD + '[hosts]\ndetail = "%s"\n'
    for detail in ("host", "connection"):
        config = load(write(tmp_path, more % detail))
        assert build.trackers_config(config).visits_by_connection is (detail == "connection")
    with pytest.raises(ConfigError, match="hosts.detail"):
        load(write(tmp_path, more % "url"))


def test_what_is_recorded_of_nat_is_a_setting(tmp_path: Path) -> None:
    assert build.mappings(load(write(tmp_path, GOOD))) == MappingConfig("flow")
    more = GOOD + '[flows]\nmappings = "%s"\nblock_first = 2048\nblock_ports = 512\n'
    config = load(write(tmp_path, more % "block"))
    assert build.mappings(config) == MappingConfig("block", 2048, 512)
    assert build.trackers_config(config).mappings == build.mappings(config)
    assert build.mappings(load(write(tmp_path, more % "off"))).detail == "off"
    with pytest.raises(ConfigError, match=r"flows\.mappings"):
        load(write(tmp_path, more % "port"))


def test_reliable_delivery_is_a_setting(tmp_path: Path) -> None:
    assert build.conntrack_config(load(write(tmp_path, GOOD))).reliable is None
    more = GOOD + "[flows]\nreliable = true\nstall_s = 5\ntable_share = 0.5\n"
    assert build.conntrack_config(load(write(tmp_path, more))).reliable == ReliableConfig(5, 0.5)
