"""The configuration into the settings of each component, and what of it cannot work.

What a value may be by itself is checked where it is read (`collector.config`); here are the rules
that a component makes, and the files that settings name.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import replace
from typing import Final

from collector.build_safeguard import safeguard_config, safeguard_problems, targets
from collector.capture.exports import ExportsConfig
from collector.capture.links import LinksConfig
from collector.capture.netlink import ConntrackConfig
from collector.capture.nft import NftConfig
from collector.capture.reliable import ReliableConfig
from collector.config import Config
from collector.lines import read_lines
from collector.spool import SpoolConfig
from collector.track.flow_config import MappingConfig
from collector.track.observer import Ports
from collector.track.trackers import TrackersConfig
from collector.uplink import UplinkConfig
from collector.uplink_tls import Identity
from collector.window import Window
from collector.wire.addr import pack

SECOND_NS: Final = 1_000_000_000
MIN_BUFFER_BYTES: Final = 65_536
"""Receive buffer of a packet socket: one merged frame at the least."""
MAX_SECRET_BYTES: Final = 4_096
"""RADIUS sets no limit to a shared secret (RFC 2865 section 3); no server takes one so long."""


def problems(config: Config) -> list[str]:
    """Everything that would keep a collector of this configuration from starting, by key."""
    found = []
    for key, build in (
        ("access", nft_config),
        ("control", lambda config: LinksConfig(link_patterns(config))),
        ("timing.window_s", window),
        ("uplink.url", uplink_config),
        ("spool", spool_config),
        ("hosts", ports),
        ("exports", exports_config),
    ):
        try:
            build(config)
        except ValueError as error:
            found.append(f"{key}: {error}")
    try:
        secrets(config)
    except ValueError as error:
        found += str(error).split("\n")
    if config.lines.subscribers is not None:
        try:
            read_lines(config.lines.subscribers)
        except (OSError, ValueError) as error:
            words = error.strerror if isinstance(error, OSError) else error
            found.append(f"lines.subscribers: {config.lines.subscribers}: {words}")
    return found + safeguard_problems(config) + _key_problems(config)


def trackers_config(config: Config) -> TrackersConfig:
    return TrackersConfig(
        access=config.access.networks(),
        window_ns=config.timing.window_s * SECOND_NS,
        ipv6_prefix_len=config.access.ipv6_prefix_len,
        region=config.control.numbering_region,
        trusted=config.control.networks(),
        subscriber_from=config.control.subscriber_from,
        interim_s=config.control.interim_s,
        swap_octets=config.control.radius_swapped,
        exported_usage=config.exports.usage,
        resolver_ports=config.hosts.dns_ports,
        visits_by_connection=config.hosts.detail == "connection",
        mappings=mappings(config),
        max_sessions=config.limits.max_sessions,
        max_calls=config.limits.max_calls,
        max_flows=config.limits.max_flows,
        safeguard=safeguard_config(config),
        targets=targets(config),
    )


def ports(config: Config) -> Ports:
    return Ports(
        dns=config.hosts.dns_ports,
        tls=config.hosts.tls_ports,
        http=config.hosts.http_ports,
        quic=config.hosts.quic_ports,
        radius=config.control.radius_ports,
        sip=config.control.sip_ports,
    )


def role_ports(config: Config, role: str) -> Ports:
    """What is looked for on an interface of that role: host names on access interfaces alone, so
    that on the others none of that passes the filter."""
    every = ports(config)
    if role == "access":
        return every
    quiet = replace(every, dns=(), tls=(), http=(), quic=())
    return quiet if role == "control" else replace(quiet, radius=(), sip=())


def link_patterns(config: Config) -> tuple[tuple[str, str], ...]:
    """(pattern, role) of interfaces. Access comes first: one that matches both may be a
    subscriber's, and what subscribers send is never read as RADIUS."""
    access = [(each, "access") for each in config.access.interfaces]
    control = [(each, "control") for each in config.control.interfaces]
    return (*access, *control, *((each, "lines") for each in config.lines.interfaces))


def nft_config(config: Config) -> NftConfig:
    access = config.access
    return NftConfig(access.interfaces, access.prefixes, access.ipv6_prefix_len)


def exports_config(config: Config) -> ExportsConfig | None:
    """Of the listener; None where none is wanted. Raises ValueError where it would hear nobody."""
    exports = config.exports
    if exports.listen is None:
        return None
    if not exports.exporters:
        raise ValueError("listen needs exporters: the prefixes of those that send")
    host, _, port = exports.listen.rpartition(":")
    networks = tuple(map(ipaddress.ip_network, exports.exporters))
    size = config.limits.receive_buffer_bytes
    return ExportsConfig(host.strip("[]"), int(port), networks, size)


def conntrack_config(config: Config) -> ConntrackConfig:
    flows = config.flows
    reliable = ReliableConfig(flows.stall_s, flows.table_share) if flows.reliable else None
    return ConntrackConfig(config.limits.receive_buffer_bytes, reliable=reliable)


def mappings(config: Config) -> MappingConfig:
    flows = config.flows
    idle_ns = flows.block_idle_s * SECOND_NS
    return MappingConfig(flows.mappings, flows.block_first, flows.block_ports, idle_ns)


def window(config: Config) -> Window:
    return Window(config.timing.window_s * SECOND_NS, config.name)


def spool_config(config: Config) -> SpoolConfig:
    return SpoolConfig(config.spool.folder, config.name, config.spool.max_bytes)


def uplink_config(config: Config) -> UplinkConfig:
    return UplinkConfig(
        url=config.uplink.url, identity=_identity(config), request_timeout_s=config.uplink.timeout_s
    )


def secrets(config: Config) -> dict[bytes, bytes]:
    """RADIUS shared secret by NAS address, from files that only the collector should read.

    Raises ValueError with one line for each that cannot be used; never with what is in it.
    """
    found, wrong = {}, []
    for nas, path in config.control.radius_secrets.items():
        try:
            with open(path, "rb") as file:
                secret = file.read(MAX_SECRET_BYTES + 1).strip()
            if not 0 < len(secret) <= MAX_SECRET_BYTES:
                raise ValueError(f"a secret has 1 to {MAX_SECRET_BYTES} bytes")
            found[pack(nas)] = secret
        except OSError as error:
            wrong.append(f"control.radius_secrets.{nas}: {path}: {error.strerror}")
        except ValueError as error:
            wrong.append(f"control.radius_secrets.{nas}: {path}: {error}")
    if wrong:
        raise ValueError("\n".join(wrong))
    return found


def _identity(config: Config) -> Identity:
    return Identity(config.uplink.ca, config.uplink.cert, config.uplink.key)


def _key_problems(config: Config) -> list[str]:
    """Why the uplink's files do not make a pair, if they do not. Dates are not looked at: an
    expired certificate is replaced while the collector meters."""
    try:
        _identity(config).context()
    except ssl.SSLError as error:
        reason = (error.reason or "no PEM file").lower().replace("_", " ")
        return [f"uplink: ca, cert and key cannot be used together: {reason}"]
    except OSError as error:
        return [f"uplink: ca, cert and key cannot be used together: {error.strerror or error}"]
    return []
