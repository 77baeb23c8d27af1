"""Configuration: every error at once, by the key's path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aggregator import pki
from aggregator.config import ConfigError, dump, load, parse


def write(folder: Path, more: str = "") -> Path:
    pki.init(folder, ["localhost"])
    path = folder / "aggregator.toml"
    path.write_text(
        f'[tls]\nca = "{folder}/ca.crt"\ncert = "{folder}/server.crt"\n'
        f'key = "{folder}/server.key"\ncrl = "{folder}/crl.pem"\n{more}'
    )
    return path


def problems(folder: Path, more: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, more))
    assert str(folder / "aggregator.toml") in str(caught.value)
    return caught.value.problems


def test_the_least_is_the_certificates(tmp_path: Path) -> None:
    config = load(write(tmp_path))
    assert config.engine.kind == "bundled"
    assert config.limits.demand_lines == 10
    assert config.attribution.tolerance_s == 0.5


def test_what_is_dumped_can_be_read_again(tmp_path: Path) -> None:
    areas = '[areas]\nnorth = ["10.0.0.0/8", "2001:db8::/32"]\n'
    path = write(tmp_path, areas)
    config = load(path)
    shown: dict[str, Any] = dump(config)
    assert shown["limits"]["max_uploads"] == 8
    assert parse(shown, path) == config
    assert [str(n) for n in config.networks()["north"]] == ["10.0.0.0/8", "2001:db8::/32"]


def test_every_error_comes_at_once_with_its_path(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        '[server]\nlisten = "everywhere"\n'
        '[metrics]\nlisten = "0.0.0.0:9465"\n'
        '[engine]\nkind = "magic"\ndata = "relative"\ndatabase = "a; b"\ntypo = 1\n'
        '[areas]\nnorth = ["10.0.0.1/8"]\n"Big City" = ["10.0.0.0/8"]\n'
        "[limits]\ndemand_lines = 1\nmax_uploads = 0\n[rubbish]\n",
    )
    paths = {line.split(":")[0] for line in found}
    assert paths >= {
        "server.listen",
        "metrics.listen",
        "engine.kind",
        "engine.data",
        "engine.database",
        "engine.typo",
        "areas.north.0",
        "limits.demand_lines",
        "limits.max_uploads",
        "rubbish",
    }
    assert any(line.startswith("areas.Big City") for line in found)
    assert "engine.typo: unknown key" in found


def test_missing_files_are_named(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "crl.pem").unlink()
    (tmp_path / "server.key").unlink()
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert [line.split(":")[0] for line in caught.value.problems] == ["tls.key", "tls.crl"]


def test_a_prefix_belongs_to_one_area(tmp_path: Path) -> None:
    found = problems(tmp_path, '[areas]\na = ["10.0.0.0/8"]\nb = ["10.0.0.0/8"]\n')
    assert found == ["areas.b: 10.0.0.0/8 is also in areas.a"]


def test_text_that_is_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    with pytest.raises(ConfigError, match="no such file"):
        load(path)
    path.write_text("[tls\n")
    with pytest.raises(ConfigError, match="line 1"):
        load(path)
    path.write_text("")
    with pytest.raises(ConfigError, match="tls: missing"):
        load(path)
