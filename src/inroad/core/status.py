"""What CLI and daemon say to each other over the daemon's local socket (HTTP with JSON bodies).

`POST /v1/connect` takes a `ConnectRequest` and answers with JSON lines: any number of `Progress`, then
one `Outcome`. `GET /v1/status` answers with `Status`, `GET /v1/config` with `ConfigView`,
`GET /v1/explain?what=` (a name or an address) with `Explanation`. `POST /v1/quit` answers with `Status`.
An error anywhere is a `Failure` (with the HTTP status 4xx or 5xx where the answer is a single body).
"""

from __future__ import annotations

import msgspec


class ConnectRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`environment`: the caller's variables that kubeconfig loading needs (HOME, PATH, KUBECONFIG, ...).

    `config_file`: the caller's configuration file, "" for none. `settings`: what the command line says, by
    dotted key as in that file. `via`: the workload or pod that is to be the origin. `vnat`,
    `proxy_via`: subnets that get virtual addresses, the latter bound to a workload (`CIDR=WORKLOAD`).
    """

    kubeconfig: str = ""
    context: str = ""
    namespace: str = ""
    via: str = ""
    vnat: list[str] = []
    proxy_via: list[str] = []
    manager_namespace: str = ""
    directory: str = "/"
    environment: dict[str, str] = {}
    config_file: str = ""
    settings: dict[str, object] = {}


class Progress(msgspec.Struct, tag="progress"):
    """One step of a connect that has begun. `step` is for programs, `text` for people."""

    step: str
    text: str
    elapsed_ms: int


class Failure(msgspec.Struct, tag="failure"):
    """An `InroadError` on its way to the user."""

    code: str
    message: str
    remedy: str = ""


class SubnetStatus(msgspec.Struct):
    """`source`: where it came from (`node podCIDR`, `ServiceCIDR`, `also-proxy`, ...)."""

    cidr: str
    family: int
    source: str


class ResolverStatus(msgspec.Struct):
    """Which back end leads names to us, and why this one."""

    kind: str = ""
    reason: str = ""


class DnsStatus(msgspec.Struct, omit_defaults=False):
    """Where the DNS server listens, whom it asks for other names, and what it did.

    `recursion`: whether the cluster sends names that it does not know back to this workstation.
    """

    address: str = ""
    port: int = 0
    fallback: list[str] = []
    recursion: str = ""
    counters: dict[str, int] = {}


class VifStatus(msgspec.Struct):
    """The virtual interface and its data plane."""

    name: str = ""
    mode: str = ""
    reason: str = ""
    mtu: int = 0
    counters: dict[str, int] = {}


class MovedStatus(msgspec.Struct):
    """A subnet whose addresses are replaced by virtual ones; `workload`: whose agent dials them."""

    cidr: str
    reason: str
    workload: str = ""


class VirtualStatus(msgspec.Struct):
    """A virtual address and what it stands for; `flows`: how many go there now."""

    virtual: str
    address: str
    workload: str = ""
    flows: int = 0


class TunnelStatus(msgspec.Struct):
    """The link to the traffic-manager."""

    state: str = "down"
    since: str = ""
    manager_pod: str = ""
    round_trip_ms: float = 0.0
    flows: int = 0


class PathStatus(msgspec.Struct):
    """How an agent is reached: `direct`, or `relayed` by the traffic-manager and why."""

    kind: str = ""
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.reason})" if self.reason else self.kind


class OriginStatus(msgspec.Struct):
    """Who dials and looks up: a pod with its kind of agent (or `traffic-manager`), and why.

    `path`: how it is reached; empty for the traffic-manager.
    """

    pod: str = ""
    kind: str = "traffic-manager"
    reason: str = ""
    path: PathStatus = msgspec.field(default_factory=PathStatus)


class AgentStatus(msgspec.Struct):
    """An agent that may be an origin; `attached` when this session uses it."""

    namespace: str
    pod: str
    kind: str
    workload: str = ""
    attached: bool = False
    path: PathStatus = msgspec.field(default_factory=PathStatus)


class Status(msgspec.Struct, tag="status", omit_defaults=False):
    """The truth about the session as the daemon knows it; `connected` false means all else is empty.

    `service`: the daemon stays when the session ends; else it ends itself after a quit.
    """

    connected: bool = False
    state: str = "disconnected"
    service: bool = False
    since: str = ""
    version: str = ""
    user: str = ""
    context: str = ""
    cluster: str = ""
    server: str = ""
    namespace: str = ""
    manager_namespace: str = ""
    cluster_domain: str = ""
    resolver: ResolverStatus = msgspec.field(default_factory=ResolverStatus)
    dns: DnsStatus = msgspec.field(default_factory=DnsStatus)
    vif: VifStatus = msgspec.field(default_factory=VifStatus)
    tunnel: TunnelStatus = msgspec.field(default_factory=TunnelStatus)
    origin: OriginStatus = msgspec.field(default_factory=OriginStatus)
    agents: list[AgentStatus] = []
    attachments: list[str] = []
    subnets: list[SubnetStatus] = []
    never_proxy: list[str] = []
    moved: list[MovedStatus] = []
    virtual: list[VirtualStatus] = []
    virtual_addresses: int = 0
    warnings: list[str] = []


class ConfigValue(msgspec.Struct):
    """A configuration value in force: its dotted key, as a file would hold it, and its source."""

    key: str
    value: object
    source: str


class ConfigView(msgspec.Struct, tag="config"):
    """Answer of `GET /v1/config`: every value, and what was wrong with the files they came from."""

    values: list[ConfigValue]
    problems: list[str] = []


class AgentRequest(msgspec.Struct, omit_defaults=True):
    """Body of `POST /v1/agents`. `action`: attach, detach, add, remove; `workload` for the first two."""

    action: str
    workload: str = ""
    namespace: str = ""


class WorkloadStatus(msgspec.Struct):
    """A workload of a namespace; `agent` is the kind of agent in it, "" for none."""

    workload: str
    ready: int
    wanted: int
    agent: str = ""
    attached: bool = False


class AgentOutcome(msgspec.Struct, tag="agents"):
    """What was done, in words; answer of `POST /v1/agents`."""

    done: str


class WorkloadList(msgspec.Struct, tag="workloads"):
    """Answer of `GET /v1/workloads?namespace=`."""

    namespace: str
    workloads: list[WorkloadStatus]


class NamePath(msgspec.Struct):
    """What becomes of a name: the rule that decides, what it means, who is asked, what came of it.

    `result`: `answered`, or why there are no addresses. `canonical`: the name that has the addresses.
    """

    name: str
    rule: str
    meaning: str
    asked: str
    result: str = ""
    canonical: str = ""
    addresses: list[str] = []


class PacketPath(msgspec.Struct):
    """Where connections to an address go. `way`: vif, virtual, host or nowhere; `reason` says why.

    `subnet`: the one that decided, "" for none. `route`: of ours or of the host. `stands_for`: the real
    address behind a virtual one. `origin`: who would dial; None when it is this host itself.
    """

    address: str
    way: str
    reason: str
    subnet: str = ""
    route: str = ""
    stands_for: str = ""
    origin: OriginStatus | None = None


class Explanation(msgspec.Struct, tag="explanation"):
    """Answer of `GET /v1/explain?what=`: `name` is None for an address."""

    what: str
    name: NamePath | None
    paths: list[PacketPath]


class Outcome(msgspec.Struct, tag="outcome"):
    """The end of a successful connect. `change`: connected, unchanged or namespace."""

    change: str
    status: Status
    elapsed_ms: int


Line = Progress | Outcome | Failure
