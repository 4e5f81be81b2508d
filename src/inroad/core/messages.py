"""What client, traffic-manager and traffic-agent say to each other over the tunnel.

Two places carry them, both as MessagePack: the payload of a flow's OPEN frame is a `Dial`; CONTROL
frames carry one of the tagged structs below. Unknown fields are ignored, an unknown tag is answered
with `Problem`, so that versions may differ. Every size is bounded before use (`MAX_*`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

PROTOCOL_VERSION = 1
MAX_NAME = 255
MAX_DNS_MESSAGE = 65_535
MAX_SUBNETS = 20_000

Transport = Literal["tcp", "udp", "ping"]


class Dial(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Payload of OPEN: connect from here. `deadline` in ms; `port` is 0 for ping."""

    transport: Transport
    host: str
    port: int = 0
    deadline: int = 5_000


class Hello(msgspec.Struct, frozen=True, tag="hello", omit_defaults=True):
    """First message of a client. `session` is empty for a new one; `received` leaves room to resume."""

    version: int
    software: str
    namespace: str = ""
    session: str = ""
    received: int = 0


class Welcome(msgspec.Struct, frozen=True, tag="welcome", omit_defaults=True):
    """The manager's answer to `Hello`."""

    version: int
    software: str
    session: str
    pod: str = ""
    received: int = 0


class Subnet(msgspec.Struct, frozen=True):
    """A subnet of the cluster. `source` says how it was found, e.g. `node podCIDR` or `ServiceCIDR`."""

    cidr: str
    kind: Literal["service", "pod"]
    source: str


class ClusterInfo(msgspec.Struct, frozen=True, tag="cluster", omit_defaults=True):
    """Pushed by the manager whenever it changes; always the whole, newest state."""

    generation: int
    subnets: tuple[Subnet, ...] = ()
    namespaces: tuple[str, ...] = ()
    domain: str = "cluster.local"
    dns_ip: str = ""
    client_config: dict[str, object] = {}


class Connected(msgspec.Struct, frozen=True, tag="namespace"):
    """The client's connected namespace is now this one."""

    namespace: str


class Lookup(msgspec.Struct, frozen=True, tag="lookup", omit_defaults=True):
    """Ask a name server of the cluster. `query` is a DNS message; `deadline` in ms.

    `absolute`: send the name as it is, without trying the search list. `bare` false: try it with the
    search list only, never as it is (for a cluster whose name server forwards to the client's host).
    """

    id: int
    query: bytes
    namespace: str
    deadline: int = 4_000
    absolute: bool = False
    bare: bool = True


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


class Problem(msgspec.Struct, frozen=True, tag="problem", omit_defaults=True):
    """The peer could not do or understand something; `fatal` ends the link."""

    message: str
    fatal: bool = False


Control = Hello | Welcome | ClusterInfo | Connected | Lookup | LookupReply | NamesChanged | Problem

_control_decoder: msgspec.msgpack.Decoder[Control] = msgspec.msgpack.Decoder(Control)
_dial_decoder = msgspec.msgpack.Decoder(Dial)
encode = msgspec.msgpack.Encoder().encode


def decode_control(payload: bytes) -> Control:
    """Decode a CONTROL payload; raises `msgspec.DecodeError` or `msgspec.ValidationError`."""
    return _control_decoder.decode(payload)


def decode_dial(payload: bytes) -> Dial:
    """Decode the payload of OPEN; raises `msgspec.DecodeError` or `msgspec.ValidationError`."""
    return _dial_decoder.decode(payload)
