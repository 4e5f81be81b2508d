"""What client, traffic-manager and traffic-agent say to each other over the tunnel.

Two places carry them, both as MessagePack: the payload of a flow's OPEN frame is a `Dial`; CONTROL
frames carry one of the tagged structs below. Unknown fields are ignored, an unknown tag is answered
with `Problem`, so that versions may differ. Every size is bounded before use (`MAX_*`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

PROTOCOL_VERSION = 1
OLDEST_VERSION = 1
"""The oldest version that is still spoken; of two versions the lower one is used."""
TOKEN_AUDIENCE = "inroad-traffic-manager"  # noqa: S105 - a name
"""Audience of the tokens by which agents prove their pod; good for nothing else."""
AGENT_CLIENT_PORT = 15703
"""Where an agent listens for clients, on its pod's loopback only; they come by a port-forward to the pod."""
MAX_NAME = 255
MAX_DNS_MESSAGE = 65_535
MAX_SUBNETS = 20_000

Transport = Literal["tcp", "udp", "ping"]


class Dial(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Payload of OPEN: connect from here. `deadline` in ms; `port` is 0 for ping.

    `via`: the id of the agent that is to dial (`AgentInfo.id`); empty: whoever gets this.
    """

    transport: Transport
    host: str
    port: int = 0
    deadline: int = 5_000
    via: str = ""


class Hello(msgspec.Struct, frozen=True, tag="hello", omit_defaults=True):
    """First message of a client. `session` is empty for a new one; `received` leaves room to resume.

    With `lane` set to `bulk` the connection is the second lane of `session` (docs/protocol.md).
    """

    version: int
    software: str
    namespace: str = ""
    session: str = ""
    received: int = 0
    lane: Literal["", "bulk"] = ""


class Welcome(msgspec.Struct, frozen=True, tag="welcome", omit_defaults=True):
    """The answer to `Hello`, of a manager or agent, and of a manager to `AgentHello`.

    To an agent only, `session` is its pass, `allow` the subnets that the chart lets it dial although they
    are loopback, link-local and the like, and `key` what it makes access tickets with (`core.access`).
    """

    version: int
    software: str
    session: str
    pod: str = ""
    received: int = 0
    allow: tuple[str, ...] = ()
    key: bytes = b""


def objection(hello: Hello, software: str) -> str:
    """Return why a client is not spoken with by this version of inroad, "" when it is."""
    if hello.version >= OLDEST_VERSION:
        return ""
    return (
        f"protocol {hello.version} of inroad {hello.software} is not spoken here; "
        f"this is protocol {PROTOCOL_VERSION} of inroad {software}"
    )


class Subnet(msgspec.Struct, frozen=True):
    """A subnet of the cluster. `source` says how it was found, e.g. `node podCIDR` or `ServiceCIDR`."""

    cidr: str
    kind: Literal["service", "pod"]
    source: str


class ClusterInfo(msgspec.Struct, frozen=True, tag="cluster", omit_defaults=True):
    """Pushed by the manager whenever it changes; always the whole, newest state.

    `pod_ips`: the manager's own addresses; a workstation that reaches them past its VIF is inside the
    cluster.
    """

    generation: int
    subnets: Annotated[tuple[Subnet, ...], msgspec.Meta(max_length=MAX_SUBNETS)] = ()
    namespaces: tuple[str, ...] = ()
    domain: str = "cluster.local"
    dns_ip: str = ""
    client_config: dict[str, object] = {}
    pod_ips: tuple[str, ...] = ()


class Connected(msgspec.Struct, frozen=True, tag="namespace"):
    """The client's connected namespace is now this one."""

    namespace: str


class Lookup(msgspec.Struct, frozen=True, tag="lookup", omit_defaults=True):
    """Ask a name server of the cluster. `query` is a DNS message; `deadline` in ms.

    `absolute`: send the name as it is, without trying the search list. `bare` false: try it with the
    search list only, never as it is (for a cluster whose name server forwards to the client's host).
    `via`: the id of the agent that is to ask; empty: whoever gets this.
    """

    id: int
    query: Annotated[bytes, msgspec.Meta(max_length=MAX_DNS_MESSAGE)]
    namespace: str
    deadline: int = 4_000
    absolute: bool = False
    bare: bool = True
    via: str = ""


class LookupReply(msgspec.Struct, frozen=True, tag="answer", omit_defaults=True):
    """`reply` is the raw DNS message of the name server, or empty with `error` set.

    `name` is the name (after the search list) that was answered.
    """

    id: int
    reply: bytes = b""
    name: str = ""
    error: str = ""


class NamesChanged(msgspec.Struct, frozen=True, tag="names"):
    """Services whose addresses changed, as `service.namespace`: cached answers are no longer true."""

    names: tuple[str, ...]


AgentKind = Literal["namespace", "ephemeral", "sidecar"]


def agent_id(uid: str, kind: AgentKind) -> str:
    """Return the id of an agent: there is one of a kind per pod."""
    return f"{uid}/{kind}"


class AgentInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A traffic-agent that may be an origin. `workload` is like `deploy/web`, empty when it is nobody's.

    `port`: where it takes clients on its pod's loopback; 0 when it does not.
    """

    id: str
    namespace: str
    pod: str
    kind: AgentKind
    workload: str = ""
    addresses: tuple[str, ...] = ()
    port: int = 0


class Agents(msgspec.Struct, frozen=True, tag="agents", omit_defaults=True):
    """Pushed by the manager whenever it changes; always the whole, newest set.

    With `access` set to `namespace` the manager demands an `AccessTicket` of each agent that is used.
    """

    agents: tuple[AgentInfo, ...] = ()
    access: Literal["manager", "namespace"] = "manager"


class AgentHello(msgspec.Struct, frozen=True, tag="agent-hello", omit_defaults=True):
    """First message of an agent: who it claims to be, and one proof of it.

    `token`: a service-account token of the audience `TOKEN_AUDIENCE`; `ticket`: one of the manager's.
    `port`: where it takes clients on its pod's loopback; 0 when it does not.
    """

    version: int
    software: str
    namespace: str
    pod: str
    uid: str
    kind: AgentKind
    workload: str = ""
    token: str = ""
    ticket: str = ""
    port: int = 0


class TicketRequest(msgspec.Struct, frozen=True, tag="ticket-request"):
    """A client is about to put an agent into this pod; `id` is the client's, for the answer."""

    id: int
    namespace: str
    pod: str
    uid: str
    workload: str


class Ticket(msgspec.Struct, frozen=True, tag="ticket", omit_defaults=True):
    """A single-use proof for one pod, valid for a minute, and what an agent's container is to be.

    The fields from `manager` on are those of `core.agent_container.AgentSpec`.
    """

    id: int
    ticket: str = ""
    manager: str = ""
    ca_pem: str = ""
    image: str = ""
    error: str = ""
    pull_policy: str = "IfNotPresent"
    resources: dict[str, object] = {}
    security: dict[str, object] = {}
    port: int = AGENT_CLIENT_PORT


class AccessRequest(msgspec.Struct, frozen=True, tag="access-request"):
    """From a client that came to an agent itself: a ticket for its `session` with the manager, please."""

    id: int
    session: str


class AccessTicket(msgspec.Struct, frozen=True, tag="access-ticket", omit_defaults=True):
    """The agent's answer, which the client shows to the manager, which answers with `id` and `error` only.

    `agent` is `AgentInfo.id`, `expires` in seconds since the epoch, `proof` as in `core.access`.
    """

    id: int
    agent: str = ""
    expires: int = 0
    proof: bytes = b""
    error: str = ""


class Holding(msgspec.Struct, frozen=True, tag="holding", omit_defaults=True):
    """The agents (ids) that a client's attachments use; always the whole set."""

    agents: tuple[str, ...] = ()


class Problem(msgspec.Struct, frozen=True, tag="problem", omit_defaults=True):
    """The peer could not do or understand something; `fatal` ends the link."""

    message: str
    fatal: bool = False


Control = (
    Hello
    | Welcome
    | ClusterInfo
    | Connected
    | Lookup
    | LookupReply
    | NamesChanged
    | Agents
    | AgentHello
    | TicketRequest
    | Ticket
    | AccessRequest
    | AccessTicket
    | Holding
    | Problem
)

_control_decoder: msgspec.msgpack.Decoder[Control] = msgspec.msgpack.Decoder(Control)
_dial_decoder = msgspec.msgpack.Decoder(Dial)
encode = msgspec.msgpack.Encoder().encode


def decode_control(payload: bytes) -> Control:
    """Decode a CONTROL payload; raises `msgspec.DecodeError` or `msgspec.ValidationError`."""
    return _control_decoder.decode(payload)


def decode_dial(payload: bytes) -> Dial:
    """Decode the payload of OPEN; raises `msgspec.DecodeError` or `msgspec.ValidationError`."""
    return _dial_decoder.decode(payload)
