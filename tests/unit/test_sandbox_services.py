"""Endpoints of services, and the rules a node's kernel gets for them, as text."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from inroad.sandbox.container import NotRunnable, command_line, expand
from inroad.sandbox.endpoints import port_numbers, slices, subsets
from inroad.sandbox.proxy import backends
from inroad.sandbox.services import Backend, Rules, ServicePort
from inroad.sandbox.topology import make

Json = dict[str, Any]


def pod(name: str, address: str, *, ready: bool = True, going: bool = False, port: int = 8080) -> Json:
    metadata: Json = {"name": name, "namespace": "shop", "uid": name}
    if going:
        metadata["deletionTimestamp"] = "now"
    spec = {
        "nodeName": "node-1",
        "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}],
    }
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    status = {"podIPs": [{"ip": address}, {"ip": "fd00::1"}], "conditions": conditions, "phase": "Running"}
    return {"metadata": metadata, "spec": spec, "status": status}


def service(*ports: Json, families: tuple[str, ...] = ("IPv4",), **spec: Any) -> Json:
    metadata = {"name": "web", "namespace": "shop", "uid": "web"}
    return {"metadata": metadata, "spec": {"ports": list(ports), "ipFamilies": list(families), **spec}}


HTTP = {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}
NAMED = {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}


def test_a_slice_per_family() -> None:
    both = slices(service(HTTP, families=("IPv4", "IPv6")), [pod("a", "10.0.0.1")])
    assert [(one["addressType"], one["endpoints"][0]["addresses"]) for one in both] == [
        ("IPv4", ["10.0.0.1"]),
        ("IPv6", ["fd00::1"]),
    ]


@pytest.mark.parametrize(
    ("ready", "going", "conditions"),
    [
        (True, False, (True, True, False)),
        (False, False, (False, False, False)),
        (True, True, (False, True, True)),
    ],
)
def test_conditions(ready: bool, going: bool, conditions: tuple[bool, bool, bool]) -> None:
    (one,) = slices(service(HTTP), [pod("a", "10.0.0.1", ready=ready, going=going)])
    found = one["endpoints"][0]["conditions"]
    assert (found["ready"], found["serving"], found["terminating"]) == conditions


def test_pods_that_name_different_ports_are_in_different_slices() -> None:
    found = slices(service(NAMED), [pod("a", "10.0.0.1"), pod("b", "10.0.0.2", port=9090)])
    assert sorted(one["ports"][0]["port"] for one in found) == [8080, 9090]


def test_a_pod_without_the_named_port_is_no_endpoint() -> None:
    bare = pod("a", "10.0.0.1")
    bare["spec"]["containers"] = [{"name": "c"}]
    assert port_numbers([NAMED], bare) is None


def test_a_hundred_endpoints_per_slice() -> None:
    found = slices(service(HTTP), [pod(f"p{n:03}", f"10.0.{n // 200}.{n % 200}") for n in range(250)])
    assert [len(one["endpoints"]) for one in found] == [100, 100, 50]


def test_endpoints_tell_ready_from_not_ready() -> None:
    (one,) = subsets(slices(service(HTTP), [pod("a", "10.0.0.1"), pod("b", "10.0.0.2", ready=False)]))
    assert [a["ip"] for a in one["addresses"]] == ["10.0.0.1"]
    assert [a["ip"] for a in one["notReadyAddresses"]] == ["10.0.0.2"]


def test_the_last_pod_serves_until_it_has_ended() -> None:
    going = slices(service(HTTP), [pod("a", "10.0.0.1", going=True)])
    assert backends(going, "http", "TCP") == [Backend(ip_address("10.0.0.1"), 8080)]
    both = slices(service(HTTP), [pod("a", "10.0.0.1", going=True), pod("b", "10.0.0.2")])
    assert backends(both, "http", "TCP") == [Backend(ip_address("10.0.0.2"), 8080)]


def test_rules() -> None:
    here = Backend(ip_address("10.244.1.2"), 8080)
    web = ServicePort("shop/web", ip_address("10.96.0.7"), "tcp", 80, (here,), 30080)
    empty = ServicePort("shop/empty", ip_address("10.96.0.8"), "udp", 53)
    pods = (ip_network("10.244.1.0/24"), ip_network("10.244.2.0/24"))
    addresses = frozenset((web.address, empty.address))
    text = Rules((ip_network("10.96.0.0/16"),), pods, pods[:1], addresses, (web, empty)).text()
    assert "10.96.0.7 . tcp . 80 : goto svc-shop/web/tcp/80/v4" in text
    assert "10.96.0.8 . udp" not in text
    assert "elements = { 10.96.0.7, 10.96.0.8 }" in text
    assert "tcp . 30080 : goto ext-svc-shop/web/tcp/80/v4" in text
    assert "ip saddr 10.244.1.0/24 ip daddr != { 10.244.1.0/24, 10.244.2.0/24 } masquerade" in text
    forward = text[text.index("chain filter-forward") :]
    assert forward.index("@addresses4 reject") < forward.index("10.96.0.0/16 drop")
    assert text.startswith("table inet inroad-services\ndelete table inet inroad-services\n")


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain", "plain"),
        ("$(A)-$(B)", "1-$(B)"),
        ("$$(A)", "$(A)"),
        ("$A $", "$A $"),
        ("$(A", "$(A"),
        ("a$(A)b$(A)", "a1b1"),
    ],
)
def test_variables_in_commands(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}) == expanded


def test_what_a_container_runs() -> None:
    assert command_line({"command": ["sleep"], "args": ["$(N)"]}, {"N": "5"}) == ["sleep", "5"]
    assert command_line({"image": "registry.example/inroad:1", "args": ["serve"]}, {})[-1] == "serve"
    with pytest.raises(NotRunnable) as caught:
        command_line({"image": "nginx"}, {})
    assert caught.value.reason == "ErrImagePull"
    with pytest.raises(NotRunnable) as caught:
        command_line({"command": ["no-such-program"]}, {})
    assert caught.value.reason == "RunContainerError"


def test_topology() -> None:
    both = make(2, (4, 6))
    assert [str(one) for one in both.addresses("control-plane")] == [
        "192.168.50.20",
        "fd00:192:168:50::14",
        "172.18.0.2",
        "fd00:172:18::2",
    ]
    assert dict(both.routes("node-1"))["10.244.2.0/24"] == ip_address("172.18.0.4")
    assert ("default", ip_address("172.18.0.1")) in both.routes("node-1")
    assert both.gateway == "lan"
    assert make(1, on_host=True).addresses("workstation")[1] == ip_address("172.18.0.1")
    assert max(len(link.port) for link in make(200).links()) <= 15
    assert len({(link.port) for link in make(200).links()}) == len(make(200).links())
