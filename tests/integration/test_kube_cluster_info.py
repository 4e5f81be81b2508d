"""What the manager tells its clients of a cluster, against the sandbox's API server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kube_stage import Stage, pod, until

from inroad.core.messages import ClusterInfo
from inroad.manager.cluster_info import ClusterInfoSource
from inroad.manager.settings import Settings
from inroad.sandbox.apiserver import Restriction

RESOLV = """# made by the kubelet
search inroad.svc.corp.example svc.corp.example corp.example lan
nameserver 10.96.0.10
options ndots:5
"""


class Told:
    """A source and what it told."""

    def __init__(self, stage: Stage, tmp_path: Path, environ: dict[str, str]) -> None:
        self.states: list[ClusterInfo] = []
        self.names: list[str] = []
        self.client = stage.client()
        resolv_conf = tmp_path / "resolv.conf"
        resolv_conf.write_text(RESOLV)
        self.source = ClusterInfoSource(
            self.client,
            on_change=self.states.append,
            on_names=self.names.extend,
            settings=Settings.of(environ),
            resolv_conf=resolv_conf,
        )

    @property
    def subnets(self) -> dict[str, str]:
        return {subnet.cidr: subnet.source for subnet in self.states[-1].subnets} if self.states else {}


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with Stage() as running:
        running.store.create("namespaces", {"metadata": {"name": "inroad"}})
        yield running


Tell = Callable[..., Awaitable[Told]]


@pytest.fixture
async def tell(stage: Stage, tmp_path: Path) -> AsyncIterator[Tell]:
    begun: list[Told] = []

    async def begin(**environ: str) -> Told:
        told = Told(stage, tmp_path, {"POD_NAMESPACE": "inroad", **environ})
        begun.append(told)
        await told.source.start()
        await until(lambda: bool(told.states))
        return told

    yield begin
    for told in begun:
        await told.source.close()
        await told.client.close()


def node(name: str, *cidrs: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {},
    }


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}, **spec}}


def endpoint_slice(name: str, owner: str, *addresses: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": owner}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
        "ports": [],
    }


async def test_the_first_state_is_whole(stage: Stage, tell: Tell) -> None:
    stage.store.create("nodes", node("node-1", "10.244.1.0/24"))
    stage.store.create("nodes", node("node-2", "10.244.2.0/24"))
    stage.store.create("pods", pod("a", "10.244.1.7"))
    told = await tell(POD_IPS="10.244.1.9,fd00:10:244:1::9")
    assert len(told.states) == 1 and told.states[0].generation == 1
    assert told.states[0].pod_ips == ("10.244.1.9", "fd00:10:244:1::9")
    assert told.subnets == {
        "10.96.0.0/16": "ServiceCIDR",
        "10.244.1.0/24": "node podCIDR",
        "10.244.2.0/24": "node podCIDR",
    }
    state = told.states[0]
    assert (state.domain, state.dns_ip) == ("corp.example", "10.96.0.10")
    assert {"default", "inroad", "kube-system"} <= set(state.namespaces)
    assert told.names == []


async def test_nodes_namespaces_and_service_ranges_are_followed(stage: Stage, tell: Tell) -> None:
    stage.store.create("nodes", node("node-1", "10.244.1.0/24"))
    stage.store.create("pods", pod("a", "10.244.1.7"))
    told = await tell()
    stage.store.create("nodes", node("node-2", "10.244.2.0/24", "fd00:10:244:2::/64"))
    await until(lambda: "fd00:10:244:2::/64" in told.subnets)
    stage.store.delete("nodes", "node-2")
    await until(lambda: "10.244.2.0/24" not in told.subnets)
    stage.store.create("servicecidrs", {"metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/24"]}})
    await until(lambda: told.subnets.get("10.97.0.0/24") == "ServiceCIDR")
    cidrs = {"cidrs": ["10.98.0.0/24", "fd00:10:98::/112"]}
    stage.store.create("servicecidrs", {"metadata": {"name": "dual"}, "spec": cidrs})
    await until(lambda: "fd00:10:98::/112" in told.subnets and "10.98.0.0/24" in told.subnets)
    stage.store.delete("servicecidrs", "more")
    await until(lambda: "10.97.0.0/24" not in told.subnets)
    stage.store.create("namespaces", {"metadata": {"name": "shop"}})
    await until(lambda: "shop" in told.states[-1].namespaces)
    generations = [state.generation for state in told.states]
    assert generations == sorted(set(generations))
    settled = len(told.states)
    stage.store.modify("nodes", "node-1", "", lambda obj: obj["metadata"].update(labels={"heartbeat": "1"}))
    stage.store.create("pods", pod("b", "10.244.1.8"))
    stage.store.create("namespaces", {"metadata": {"name": "last"}})
    await until(lambda: "last" in told.states[-1].namespaces)
    assert len(told.states) == settled + 1, "what changes nothing is not told"


async def test_without_servicecidr_objects_the_error_of_a_dry_run_tells(stage: Stage, tell: Tell) -> None:
    stage.store.create("servicecidrs", {"metadata": {"name": "unused"}, "spec": {"cidrs": ["10.98.0.0/24"]}})

    async def not_served(request: web.BaseRequest) -> web.StreamResponse | None:
        if request.path.startswith("/apis/networking.k8s.io"):
            return web.json_response({"code": 404, "message": "404 page not found"}, status=404)
        if request.method == "POST" and request.path.endswith("/services"):
            words = "provided IP is not in the valid range. The range of valid IPs is 10.96.0.0/12"
            return web.json_response({"code": 422, "reason": "Invalid", "message": words}, status=422)
        return None

    stage.faults.append(not_served)
    told = await tell()
    assert told.subnets == {"10.96.0.0/12": "API server's answer"}
    assert all("dryRun=All" in request for request in stage.requests if request.startswith("POST"))


@pytest.mark.parametrize("version", [(1, 19), (1, 21), (1, 28), (1, 32)])
@pytest.mark.parametrize(
    "ranges", [("10.96.0.0/16",), ("fd00:10:96::/112",), ("10.96.0.0/16", "fd00:10:96::/112")]
)
async def test_the_error_of_every_version_tells_and_nothing_is_left(
    version: tuple[int, int], ranges: tuple[str, ...], tmp_path: Path
) -> None:
    async with Stage(version=version, service_cidrs=ranges) as stage:
        stage.store.create("namespaces", {"metadata": {"name": "inroad"}})
        told = Told(stage, tmp_path, {"POD_NAMESPACE": "inroad"})
        await told.source.start()
        await until(lambda: bool(told.states))
        assert told.subnets == dict.fromkeys(ranges, "API server's answer")
        assert stage.store.list("services", "inroad") == []
        await told.source.close()
        await told.client.close()


async def test_services_show_the_range_that_the_answer_left_out(stage: Stage, tell: Tell) -> None:
    """Without the right to list ServiceCIDRs; the answer names one of them, any of them."""
    stage.rights.restrictions.append(Restriction(("*",), ("servicecidrs.networking.k8s.io",)))
    stage.store.create("servicecidrs", {"metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/24"]}})
    stage.store.create("services", service("web", clusterIP="10.96.3.4"))
    stage.store.create("services", service("new", clusterIP="10.97.0.9"))
    told = await tell()
    assert "API server's answer" in told.subnets.values()
    subnets = [ip_network(cidr) for cidr in told.subnets]
    for address in ("10.96.3.4", "10.97.0.9"):
        assert any(ip_address(address) in subnet for subnet in subnets), told.subnets


async def test_the_cover_of_clusterips_is_the_last_resort(stage: Stage, tell: Tell) -> None:
    stage.rights.restrictions.append(Restriction(("*",), ("servicecidrs.networking.k8s.io",)))
    stage.rights.restrictions.append(Restriction(("create",), ("services",)))
    stage.store.create("services", service("web", clusterIP="10.96.3.4"))
    stage.store.create("services", service("headless", clusterIP="None"))
    told = await tell()
    assert told.subnets == {"10.96.0.0/16": "cover of ClusterIPs"}


async def test_without_the_right_to_read_nodes_pods_tell(stage: Stage, tell: Tell) -> None:
    stage.rights.restrictions.append(Restriction(("*",), ("nodes",)))
    stage.store.create("nodes", node("node-1", "10.244.1.0/24"))
    stage.store.create("pods", pod("a", "10.244.1.7"))
    stage.store.create("pods", pod("host", "192.168.9.9", hostNetwork=True))
    done = pod("done", "10.200.0.1")
    done["status"]["phase"] = "Succeeded"
    stage.store.create("pods", done)
    told = await tell()
    assert told.subnets == {"10.96.0.0/16": "ServiceCIDR", "10.244.1.0/24": "cover of pod IPs"}
    stage.store.create("pods", pod("b", "10.244.9.1"))
    await until(lambda: told.subnets.get("10.244.0.0/20") == "cover of pod IPs")
    stage.store.delete("pods", "b", "default", grace=0)
    await until(lambda: "10.244.1.0/24" in told.subnets)


async def test_configured_subnets_are_told_as_they_are(stage: Stage, tell: Tell) -> None:
    told = await tell(
        POD_CIDR_STRATEGY="environment", POD_CIDRS="10.1.0.0/16 fd00::/48", SERVICE_CIDRS="10.2.0.0/16"
    )
    assert told.subnets == {"10.2.0.0/16": "serviceCIDRs", "10.1.0.0/16": "podCIDRs", "fd00::/48": "podCIDRs"}
    assert not [request for request in stage.requests if request.startswith("POST")]


async def test_names_whose_answers_change_are_told(stage: Stage, tell: Tell) -> None:
    stage.store.create("services", service("web"))
    stage.store.create("services", service("db", clusterIP="None"))
    told = await tell()
    stage.store.create("endpointslices", endpoint_slice("web-1", "web", "10.244.1.7"))
    stage.store.create("endpointslices", endpoint_slice("db-1", "db", "10.244.1.8"))
    await until(lambda: told.names == ["db.default"])
    stage.store.delete("services", "web", "default")
    await until(lambda: told.names[1:] == ["web.default"])
    stage.store.create("services", service("web"))
    await until(lambda: told.names[2:] == ["web.default"])
    stage.store.modify("services", "web", "default", lambda obj: obj["metadata"].update(labels={"x": "y"}))
    stage.store.delete("endpointslices", "db-1", "default")
    await until(lambda: told.names[3:] == ["db.default"])


async def test_with_rights_in_some_namespaces_only_those_are_read(stage: Stage, tell: Tell) -> None:
    for name in ("shop", "bank"):
        stage.store.create("namespaces", {"metadata": {"name": name}})
        stage.store.create("pods", pod("web", f"10.{len(name)}.1.7"), name)
        stage.store.create("services", service("db", clusterIP="None"), name)
    stage.store.create("pods", pod("elsewhere", "10.99.1.7"))
    everywhere = ("nodes", "namespaces", "servicecidrs.networking.k8s.io")
    read = ("pods", "services", "endpointslices.discovery.k8s.io")
    stage.rights.restrictions += [
        Restriction(("list", "watch"), (*everywhere, *read), ""),
        Restriction(("create",), ("services",)),
        Restriction(("list", "watch"), read, "default"),
    ]
    stage.store.create("namespaces", {"metadata": {"name": "later"}})
    told = await tell(NAMESPACES="shop,bank,missing")
    assert told.states[-1].namespaces == ("bank", "missing", "shop")
    assert told.subnets == {"10.4.1.0/24": "cover of pod IPs"}
    stage.store.create("pods", pod("more", "10.77.1.7"), "bank")
    await until(lambda: "10.77.1.0/24" in told.subnets)
    stage.store.create("endpointslices", endpoint_slice("db-1", "db", "10.4.1.7"), "shop")
    await until(lambda: told.names == ["db.shop"])


async def test_a_selector_chooses_the_namespaces(stage: Stage, tell: Tell) -> None:
    stage.store.create("namespaces", {"metadata": {"name": "shop", "labels": {"team": "a"}}})
    stage.store.create("namespaces", {"metadata": {"name": "bank", "labels": {"team": "b"}}})
    told = await tell(
        NAMESPACE_SELECTOR='{"matchExpressions":[{"key":"team","operator":"In","values":["a","c"]}]}'
    )
    assert told.states[-1].namespaces == ("shop",)
    stage.store.modify("namespaces", "bank", "", lambda obj: obj["metadata"].update(labels={"team": "c"}))
    await until(lambda: told.states[-1].namespaces == ("bank", "shop"))
