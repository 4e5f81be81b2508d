"""What the chart tells the traffic-manager, as environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, Literal, cast, get_args

import msgspec

from inroad.core.agent_container import RESOURCES, SECURITY
from inroad.core.errors import ConfigInvalid
from inroad.core.host_config import Address, Network
from inroad.core.messages import AGENT_CLIENT_PORT
from inroad.manager.pod_subnets import Strategy

Access = Literal["manager", "namespace"]


class AgentValues(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What the chart says about agents' containers; see `core.agent_container.AgentSpec`."""

    image: str = "inroad"
    pull_policy: str = "IfNotPresent"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = AGENT_CLIENT_PORT
    resources: dict[str, Any] = msgspec.field(default_factory=lambda: RESOURCES)
    security: dict[str, Any] = msgspec.field(default_factory=lambda: SECURITY, name="securityContext")


@dataclass(frozen=True, slots=True)
class Settings:
    """`namespace`: the manager's own. `pod_addresses`: of this pod. The rest: values of the chart.

    `namespace_selector` is a label selector as the API takes it: `team=shop,tier in (a,b)`. `injection`: put
    sidecars into annotated pods. `agent_access`: what a client needs to use an agent.
    """

    namespace: str = "inroad"
    pod_addresses: tuple[Address, ...] = ()
    pod_cidr_strategy: Strategy = "auto"
    pod_cidrs: tuple[Network, ...] = ()
    service_cidrs: tuple[Network, ...] = ()
    namespaces: tuple[str, ...] = ()
    namespace_selector: str = ""
    dial_allow: tuple[Network, ...] = ()
    agent: AgentValues = field(default_factory=AgentValues)
    injection: bool = False
    agent_access: Access = "manager"

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Settings:
        """Read the variables. Raises `ConfigInvalid` saying which is wrong."""
        strategy = environ.get("POD_CIDR_STRATEGY") or "auto"
        if strategy not in get_args(Strategy):
            raise ConfigInvalid(
                f"podCIDRStrategy is {strategy!r}", f"use one of {', '.join(get_args(Strategy))}"
            )
        pod_cidrs = _networks("podCIDRs", environ.get("POD_CIDRS", ""))
        if strategy == "environment" and not pod_cidrs:
            raise ConfigInvalid(
                "podCIDRStrategy is environment and podCIDRs is empty", "list the pods' subnets"
            )
        addresses = environ.get("POD_IPS") or environ.get("POD_IP") or ""
        return cls(
            namespace=environ.get("POD_NAMESPACE") or "inroad",
            pod_addresses=tuple(ip_address(text) for text in addresses.split(",") if text),
            pod_cidr_strategy=cast(Strategy, strategy),
            pod_cidrs=pod_cidrs,
            service_cidrs=_networks("serviceCIDRs", environ.get("SERVICE_CIDRS", "")),
            namespaces=tuple(sorted(set(environ.get("NAMESPACES", "").replace(",", " ").split()))),
            namespace_selector=_selector(environ.get("NAMESPACE_SELECTOR", "")),
            dial_allow=_networks("dial.allow", environ.get("DIAL_ALLOW", "")),
            agent=_agent(environ.get("AGENT", ""), environ.get("AGENT_IMAGE", "")),
            injection=environ.get("AGENT_INJECTION") == "true",
            agent_access=_access(environ.get("AGENT_ACCESS") or "manager"),
        )


def _networks(name: str, value: str) -> tuple[Network, ...]:
    """Parse CIDRs separated by commas or spaces."""
    found = []
    for text in value.replace(",", " ").split():
        try:
            found.append(ip_network(text))
        except ValueError as error:
            raise ConfigInvalid(f"{name}: {error}", "write a subnet as 10.0.0.0/16 or fd00::/64") from error
    return tuple(found)


def _agent(value: str, image: str) -> AgentValues:
    try:
        values = msgspec.json.decode(value or "{}", type=AgentValues)
        return msgspec.structs.replace(values, image=image or values.image)
    except msgspec.MsgspecError as error:
        raise ConfigInvalid(f"agent: {error}", "see the chart's values.yaml") from error


def _access(value: str) -> Access:
    if value not in get_args(Access):
        raise ConfigInvalid(f"agentAccess is {value!r}", f"use one of {', '.join(get_args(Access))}")
    return cast(Access, value)


class _Expression(msgspec.Struct):
    key: str
    operator: str
    values: list[str] = []


class _Selector(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    match_labels: dict[str, str] = {}
    match_expressions: list[_Expression] = []


_OPERATORS = {"In": "{0} in ({1})", "NotIn": "{0} notin ({1})", "Exists": "{0}", "DoesNotExist": "!{0}"}


def _selector(value: str) -> str:
    """Turn a LabelSelector (JSON, `matchLabels` and `matchExpressions`) into what a query takes."""
    if not value:
        return ""
    try:
        selector = msgspec.json.decode(value, type=_Selector)
        parts = [f"{key}={label}" for key, label in sorted(selector.match_labels.items())]
        parts += [
            _OPERATORS[item.operator].format(item.key, ",".join(item.values))
            for item in selector.match_expressions
        ]
    except (msgspec.MsgspecError, KeyError) as error:
        raise ConfigInvalid(
            f"namespaceSelector: {error} is not understood", "write matchLabels and matchExpressions"
        ) from error
    return ",".join(parts)
