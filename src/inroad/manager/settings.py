"""What the chart tells the traffic-manager, as environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import cast, get_args

from inroad.core.errors import ConfigInvalid
from inroad.core.host_config import Address, Network
from inroad.manager.pod_subnets import Strategy


@dataclass(frozen=True, slots=True)
class Settings:
    """`namespace`: the manager's own. `pod_addresses`: of this pod. The rest: values of the chart."""

    namespace: str = "inroad"
    pod_addresses: tuple[Address, ...] = ()
    pod_cidr_strategy: Strategy = "auto"
    pod_cidrs: tuple[Network, ...] = ()
    service_cidrs: tuple[Network, ...] = ()

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
