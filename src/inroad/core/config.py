"""The configuration: its values, its keys in files, and how the five sources become one.

Later sources win, key by key (a list is replaced, not extended): built-in < manager < `config.yml` < the
kubeconfig cluster's extension < command line. Every value knows where it came from.

Keys are those of Telepresence's client configuration where it has them, so that a user's files keep
working. `config_read` turns a file into a `Layer`; `config_values` knows what a value may look like.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from inroad.core import config_values as values
from inroad.core.config_values import Server
from inroad.core.dns_policy import DEFAULT_EXCLUDE_SUFFIXES
from inroad.core.host_config import Network


class Source(IntEnum):
    """Where a value came from; the highest wins."""

    BUILT_IN = 0
    MANAGER = 1
    FILE = 2
    KUBECONFIG = 3
    COMMAND_LINE = 4

    @property
    def label(self) -> str:
        """For people."""
        return ("built-in", "manager", "config.yml", "kubeconfig", "command line")[self]


@dataclass(frozen=True, slots=True)
class Config:
    """The values that are in force. Durations are seconds; servers are (address, port)."""

    local_addresses: tuple[Server, ...] = ()
    exclude_suffixes: tuple[str, ...] = DEFAULT_EXCLUDE_SUFFIXES
    include_suffixes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    mappings: tuple[tuple[str, str], ...] = ()
    lookup_timeout: float = 4.0
    recursion_check: bool = True
    also_proxy: tuple[Network, ...] = ()
    never_proxy: tuple[Network, ...] = ()
    allow_conflicting: tuple[Network, ...] = ()
    virtual_subnets: tuple[Network, ...] = (IPv4Network("246.246.0.0/16"), IPv6Network("fd00:0:0:246::/64"))
    auto_resolve_conflicts: bool = True
    recursion_block: float = 0.0
    manager_namespace: str = "inroad"
    mapped_namespaces: tuple[str, ...] = ()
    agent_port_forward: bool = True
    cluster_connect: float = 5.0
    endpoint_dial: float = 3.0
    roundtrip_latency: float = 2.0
    manager_api: float = 15.0
    connectivity_check: float = 0.5
    log_level: str = "info"
    vif_mode: str = "auto"


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the files: its dotted name, the field of `Config`, what it is for, how a value is read.

    `old`: other spellings of the name.
    """

    name: str
    field: str
    about: str
    read: values.Reader
    old: tuple[str, ...] = ()


KEYS: tuple[Key, ...] = (
    Key(
        "dns.localAddresses",
        "local_addresses",
        "name servers for names that are not the cluster's; none: the host's own",
        values.servers,
        ("dns.localIP", "dns.local-ip"),
    ),
    Key(
        "dns.excludeSuffixes",
        "exclude_suffixes",
        "suffixes of names that are not the cluster's",
        values.suffixes,
        ("dns.exclude-suffixes",),
    ),
    Key(
        "dns.includeSuffixes",
        "include_suffixes",
        "suffixes of names that are the cluster's",
        values.suffixes,
        ("dns.include-suffixes",),
    ),
    Key("dns.excludes", "excludes", "names that the cluster is never asked for", values.names),
    Key("dns.mappings", "mappings", "names that stand for another name or an address", values.mappings),
    Key(
        "dns.lookupTimeout",
        "lookup_timeout",
        "for a lookup in the cluster",
        values.duration,
        ("dns.lookup-timeout",),
    ),
    Key(
        "dns.recursionCheck", "recursion_check", "find out whether the cluster asks this host", values.boolean
    ),
    Key("routing.alsoProxySubnets", "also_proxy", "routed to the cluster too", values.subnets),
    Key("routing.neverProxySubnets", "never_proxy", "never routed to the cluster", values.subnets),
    Key(
        "routing.allowConflictingSubnets",
        "allow_conflicting",
        "routed to the cluster although another interface has them",
        values.subnets,
    ),
    Key("routing.virtualSubnet", "virtual_subnets", "where virtual addresses come from", values.subnets),
    Key(
        "routing.autoResolveConflicts",
        "auto_resolve_conflicts",
        "give conflicting subnets virtual addresses",
        values.boolean,
    ),
    Key(
        "routing.recursionBlockDuration",
        "recursion_block",
        "how long a destination that looped is blocked",
        values.duration,
    ),
    Key(
        "cluster.defaultManagerNamespace", "manager_namespace", "where the traffic-manager runs", values.label
    ),
    Key("cluster.mappedNamespaces", "mapped_namespaces", "whose names resolve; none: all", values.labels),
    Key(
        "cluster.agentPortForward",
        "agent_port_forward",
        "talk to agents past the traffic-manager, where RBAC lets the user",
        values.boolean,
    ),
    Key("timeouts.clusterConnect", "cluster_connect", "for reaching the API server", values.duration),
    Key("timeouts.endpointDial", "endpoint_dial", "for a dial in the cluster", values.duration),
    Key(
        "timeouts.roundtripLatency", "roundtrip_latency", "added for the way there and back", values.duration
    ),
    Key("timeouts.trafficManagerAPI", "manager_api", "for an answer of the traffic-manager", values.duration),
    Key(
        "timeouts.connectivityCheck",
        "connectivity_check",
        "for a look at what is routed already",
        values.duration,
    ),
    Key("logLevels.daemon", "log_level", "what the daemon logs", values.log_level, ("logLevels.rootDaemon",)),
    Key("vif.mode", "vif_mode", "the data plane: auto, veth or tun", values.choice("auto", "veth", "tun")),
)

UNUSED = frozenset(
    {
        "logLevels.cli",
        "logLevels.userDaemon",
        *(f"timeouts.{name}" for name in ("agentInstall", "apply", "containerShutdown", "ftpReadWrite")),
        *(f"timeouts.{name}" for name in ("ftpShutdown", "helm", "intercept", "proxyDial")),
        *(f"timeouts.{name}" for name in ("trafficAgentArrival", "trafficManagerConnect")),
    }
)
"""Keys of Telepresence's that mean nothing here and deserve no warning."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a file. `fatal` for a wrong value; an unknown key is a warning."""

    file: str
    line: int
    key: str
    text: str
    fatal: bool

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: {self.text}" if self.key else f"{place}: {self.text}"


@dataclass(frozen=True, slots=True)
class Layer:
    """What one source says: values by field of `Config`, and what was wrong in it."""

    source: Source
    values: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Effective:
    """The merged configuration; `sources` says for each field of `config` where it came from."""

    config: Config
    sources: Mapping[str, Source]


def merge(layers: Iterable[Layer]) -> Effective:
    """Merge the sources, whatever order they come in; built-in values need no layer."""
    chosen: dict[str, Any] = {}
    sources = {key.field: Source.BUILT_IN for key in KEYS}
    for layer in sorted(layers, key=lambda layer: layer.source):
        chosen |= layer.values
        sources |= dict.fromkeys(layer.values, layer.source)
    return Effective(Config(**chosen), sources)
