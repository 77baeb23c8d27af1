"""The shipped examples, units and snippets: what they name exists, and what they grant is exact."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from aggregator import config as aggregator_config
from collector import config as collector_config
from retention import config as retention_config
from retention.policy import load as policy
from tests.deploy.support import DEPLOY, tallyhold_help
from tests.lab.appliance import tallyhold

UNITS = {
    "tallyhold-collector": ("collector", "CAP_NET_ADMIN CAP_NET_RAW"),
    "tallyhold-appliance": ("appliance", ""),
    "tallyhold-retention": ("retention", ""),
}
DEFAULTS = {
    "collector": collector_config.DEFAULT_PATH,
    "appliance": aggregator_config.DEFAULT_PATH,
    "retention": retention_config.DEFAULT_PATH,
}
RUN = {"collector": "run", "appliance": "run", "retention": "serve"}
HARDENING = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectControlGroups": "yes",
    "ProtectClock": "yes",
    "ProtectHostname": "yes",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallErrorNumber": "EPERM",
    "LimitCORE": "0",
    "UMask": "0077",
}


def example(name: str, folder: Path) -> Path:
    """An example with its keys where a test may put them."""
    text = (DEPLOY / "examples" / f"{name}.toml").read_text()
    path = folder / f"{name}.toml"
    path.write_text(text.replace("/etc/tallyhold", str(folder)))
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an operator has after the steps of deploy/README.md, in one folder."""
    folder = tmp_path_factory.mktemp("etc")
    config = example("aggregator", folder)
    before = config.read_text()
    tallyhold("appliance", "init", str(folder), "--name", "aggregator.isp.example")
    assert config.read_text() == before  # the configuration that was there is kept
    tallyhold(
        "appliance", "enrol", "edge-1",
        "--output", str(folder / "collector"), "--config", str(config),
    )  # fmt: skip
    example("collector", folder)
    shutil.copy(policy.PACKAGED, folder / "policy.toml")
    example("retention", folder)
    return folder


def test_the_aggregators_example_loads(keys: Path) -> None:
    config = aggregator_config.load(keys / "aggregator.toml")
    assert config.engine.kind == "bundled"
    assert set(config.areas) == {"north", "south"}
    done = tallyhold("appliance", "check-config", "--config", str(keys / "aggregator.toml"))
    assert "no problem" in done.stdout


def test_the_collectors_example_loads(keys: Path) -> None:
    config = collector_config.load(keys / "collector.toml")
    assert config.name == "edge-1"
    assert config.access.networks()
    done = tallyhold("collector", "check-config", "--config", str(keys / "collector.toml"))
    assert "no problem" in done.stdout


def test_the_retention_services_example_loads(keys: Path) -> None:
    config = retention_config.load(keys / "retention.toml")
    assert retention_config.hints(config) == []
    assert config.clock.require_sync
    done = tallyhold("retention", "check-config", "--config", str(keys / "retention.toml"))
    assert "no problem" in done.stdout


def test_the_examples_agree_with_each_other(keys: Path) -> None:
    collector = collector_config.load(keys / "collector.toml")
    aggregator = aggregator_config.load(keys / "aggregator.toml")
    assert collector.uplink.url == aggregator.server.url
    assert aggregator.server.listen.rpartition(":")[2] == aggregator.server.url.rpartition(":")[2]
    prometheus = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    assert f":{collector.metrics.listen.rpartition(':')[2]}" in prometheus
    assert f":{aggregator.metrics.listen.rpartition(':')[2]}" in prometheus
    retention = retention_config.load(keys / "retention.toml")
    assert f":{retention.metrics.listen.rpartition(':')[2]}" in prometheus
    assert retention.engine.data == aggregator.engine.data
    assert aggregator.retention is None  # it is a unit of its own here
    listening = [aggregator.server.listen, aggregator.metrics.listen, retention.metrics.listen]
    assert retention.api.listen not in [*listening, None]
    assert len(set(listening)) == 3


@pytest.mark.parametrize("name", UNITS)
def test_units_run_commands_that_exist(name: str) -> None:
    service = unit(name)["Service"]
    command, _ = UNITS[name]
    for key, subcommand in (("ExecStartPre", "check-config"), ("ExecStart", RUN[command])):
        words = service[key].split()
        assert words[:3] == ["/usr/bin/tallyhold", command, subcommand]
        shown = tallyhold_help(command, subcommand)
        for option in (word for word in words if word.startswith("--")):
            assert option in shown
        assert words[words.index("--config") + 1] == str(DEFAULTS[command])


@pytest.mark.parametrize("name", UNITS)
def test_units_grant_what_is_needed_and_no_more(name: str) -> None:
    service = unit(name)["Service"]
    capabilities = UNITS[name][1]
    assert service["CapabilityBoundingSet"] == capabilities
    assert service["AmbientCapabilities"] == capabilities
    wanted = dict(HARDENING)
    if name == "tallyhold-retention":
        # It asks the kernel whether the clock is synchronised, and cannot set it all the same.
        del wanted["ProtectClock"]
        assert "settimeofday" in service["SystemCallFilter"]
    assert {key: service.get(key) for key in wanted} == wanted
    assert service["User"] == service["Group"] != "root"
    families = set(service["RestrictAddressFamilies"].split())
    needed = {"AF_INET", "AF_INET6", "AF_UNIX"}
    assert families == needed | ({"AF_NETLINK", "AF_PACKET"} if capabilities else set())


def test_units_on_one_machine_share_no_folder() -> None:
    folders = [set(unit(name)["Service"]["StateDirectory"].split()) for name in UNITS]
    assert len(set().union(*folders)) == sum(map(len, folders))
    collector = collector_config.Spool()
    assert str(collector.folder) in {f"/var/lib/{name}" for name in folders[0]}
    for example_name, names in (("aggregator", folders[1]), ("retention", folders[2])):
        text = (DEPLOY / "examples" / f"{example_name}.toml").read_text()
        for each in names:
            assert f'"/var/lib/{each}"' in text


def test_the_retention_services_groups_are_made_and_it_is_in_that_of_its_socket() -> None:
    text = (DEPLOY / "systemd" / "tallyhold.sysusers.conf").read_text()
    made = set(re.findall(r"^g (\S+) -$", text, re.MULTILINE))
    settings = tomllib.loads((DEPLOY / "examples" / "retention.toml").read_text())
    assert made == {settings["api"]["group"], *settings["access"]["groups"]}
    service = unit("tallyhold-retention")["Service"]
    assert service["SupplementaryGroups"] == settings["api"]["group"]
    assert settings["api"]["socket"].startswith(f"/run/{service['RuntimeDirectory']}/")
    assert settings["api"]["group"] not in settings["access"]["groups"]  # to knock is no role


def test_users_of_the_units_are_made() -> None:
    text = (DEPLOY / "systemd" / "tallyhold.sysusers.conf").read_text()
    made = set(re.findall(r"^u (\S+) - ", text, re.MULTILINE))
    assert made == {unit(name)["Service"]["User"] for name in UNITS}
    folders = (DEPLOY / "systemd" / "tallyhold.tmpfiles.conf").read_text()
    for line in filter(lambda each: each[:1] not in ("#", ""), folders.splitlines()):
        kind, path, mode, user, group, age = line.split()
        assert (kind, age) == ("d", "-")
        assert path.startswith("/etc/tallyhold")
        assert re.fullmatch("0[0-7]{3}", mode)
        assert {user, group} <= made | {"root"}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd on this machine")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_thinks_the_units_safe(name: str) -> None:
    path = DEPLOY / "systemd" / f"{name}.service"
    # 0 is a service that may do nothing, 100 one that runs as root; these are at 20.
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Unknown key" not in done.stderr


def test_kernel_settings_have_their_modules_and_names() -> None:
    settings = (DEPLOY / "sysctl" / "90-tallyhold.conf").read_text()
    found = dict(re.findall(r"^([a-z_.]+) = (\d+)$", settings, re.MULTILINE))
    assert found == {
        f"net.netfilter.nf_conntrack_{name}": "1" for name in ("acct", "timestamp", "events")
    }
    modules = (DEPLOY / "systemd" / "tallyhold-collector.modules.conf").read_text().split()
    assert {"nf_conntrack", "nf_conntrack_netlink", "nf_tables", "af_packet"} <= set(modules)


@pytest.mark.lab
def test_the_shown_table_is_one_that_nftables_takes() -> None:
    path = DEPLOY / "nftables" / "tally.nft"
    done = subprocess.run(
        ["unshare", "--net", "nft", "--check", "--file", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_names_what_is_there() -> None:
    text = (DEPLOY / "README.md").read_text()
    for name in re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE):
        assert list(DEPLOY.glob(name.rstrip("/"))), name
    for words in re.findall(r"tallyhold ((?:appliance|collector|retention|hold) [a-z-]+)", text):
        assert "Usage" in tallyhold_help(*words.split())


def unit(name: str) -> dict[str, dict[str, str]]:
    """Sections of a unit; lists that a key repeats are not needed here, so the last one counts."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((DEPLOY / "systemd" / f"{name}.service").read_text())
    return {section: dict(parser[section]) for section in parser.sections()}
