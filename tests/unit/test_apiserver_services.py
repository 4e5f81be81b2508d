"""Addresses and node ports of Services, against the documented rules of the service API."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inroad.sandbox.apiserver.status import ApiError
from inroad.sandbox.apiserver.store import Store

DUAL = ("10.96.0.0/16", "fd00:10:96::/112")
Json = dict[str, Any]


def store(*cidrs: str, version: tuple[int, int] = (1, 34)) -> Store:
    return Store(service_cidrs=cidrs or DUAL, version=version, choose=random.Random(7), now=lambda: 1.7e9)


def service(name: str = "web", **spec: Any) -> Json:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


@pytest.mark.parametrize(
    ("cidrs", "spec", "policy", "families"),
    [
        (DUAL, {}, "SingleStack", ["IPv4"]),
        (DUAL[::-1], {}, "SingleStack", ["IPv6"]),
        (DUAL, {"ipFamilyPolicy": "PreferDualStack"}, "PreferDualStack", ["IPv4", "IPv6"]),
        (DUAL, {"ipFamilyPolicy": "RequireDualStack"}, "RequireDualStack", ["IPv4", "IPv6"]),
        (DUAL, {"ipFamilies": ["IPv6"]}, "SingleStack", ["IPv6"]),
        (
            DUAL,
            {"ipFamilies": ["IPv6"], "ipFamilyPolicy": "PreferDualStack"},
            "PreferDualStack",
            ["IPv6", "IPv4"],
        ),
        (DUAL[:1], {"ipFamilyPolicy": "PreferDualStack"}, "PreferDualStack", ["IPv4"]),
        (DUAL, {"clusterIP": "fd00:10:96::77"}, "SingleStack", ["IPv6"]),
    ],
)
def test_families(cidrs: tuple[str, ...], spec: Json, policy: str, families: list[str]) -> None:
    made = store(*cidrs).create("services", service(**spec))["spec"]
    assert (made["ipFamilyPolicy"], made["ipFamilies"]) == (policy, families)
    assert [f"IPv{ip_address(one).version}" for one in made["clusterIPs"]] == families
    assert made["clusterIP"] == made["clusterIPs"][0]
    for one in made["clusterIPs"]:
        assert any(ip_address(one) in ip_network(cidr) for cidr in cidrs)


RANGE = "The range of valid IPs is 10.96.0.0/16"
MISMATCH = "the provided network does not match the current range"


@pytest.mark.parametrize(
    ("version", "field", "text"),
    [
        (
            (1, 19),
            "spec.clusterIP",
            f'Invalid value: "1.1.1.1": provided IP is not in the valid range. {RANGE}',
        ),
        (
            (1, 21),
            "spec.clusterIPs",
            'Invalid value: []string{"1.1.1.1"}: failed to allocated ip:1.1.1.1 with error:'
            f"provided IP is not in the valid range. {RANGE}",
        ),
        (
            (1, 30),
            "spec.clusterIPs",
            'Invalid value: []string{"1.1.1.1"}: failed to allocate IP 1.1.1.1: '
            f"the provided IP (1.1.1.1) is not in the valid range. {RANGE}",
        ),
        (
            (1, 34),
            "spec.clusterIPs",
            f'Invalid value: ["1.1.1.1"]: failed to allocate IP 1.1.1.1: {MISMATCH}',
        ),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_an_address_outside_the_range(version: tuple[int, int], field: str, text: str, dry_run: bool) -> None:
    cluster = store(*DUAL, version=version)
    if version >= (1, 33) and dry_run:  # as kube-apiserver 1.34.4 and 1.35.4 answer
        text = text.replace(MISMATCH, f"the provided IP (1.1.1.1) is not in the valid range. {RANGE}")
    with pytest.raises(ApiError) as caught:
        cluster.create("services", service(clusterIP="1.1.1.1"), dry_run=dry_run)
    error = caught.value
    assert (error.code, error.reason) == (422, "Invalid")
    assert error.message == f'Service "web" is invalid: {field}: {text}'
    assert error.details is not None and error.details["causes"][0]["field"] == field
    assert cluster.list("services") == []


def test_a_family_that_the_cluster_does_not_have() -> None:
    with pytest.raises(ApiError, match="IPv6 is not configured on this cluster") as caught:
        store("10.96.0.0/16", version=(1, 30)).create("services", service(clusterIP="1::1"))
    assert '[]string{"1::1"}' in caught.value.message
    with pytest.raises(ApiError, match="not configured for dual-stack services"):
        store("10.96.0.0/16").create("services", service(ipFamilyPolicy="RequireDualStack"))


def test_an_address_belongs_to_one_service_until_that_is_deleted() -> None:
    cluster = store()
    cluster.create("services", service("a", clusterIP="10.96.0.10"))
    assert cluster.get("ipaddresses", "10.96.0.10")["spec"]["parentRef"]["name"] == "a"
    with pytest.raises(ApiError, match="provided IP is already allocated"):
        cluster.create("services", service("b", clusterIP="10.96.0.10"))
    cluster.delete("services", "a", "default")
    assert cluster.find("ipaddresses", "10.96.0.10") is None
    cluster.create("services", service("b", clusterIP="10.96.0.10"))


def test_a_dry_run_takes_nothing() -> None:
    cluster = store("10.96.0.0/30")
    for _ in range(9):
        made = cluster.create("services", service(), dry_run=True)
        assert made["spec"]["clusterIP"] in ("10.96.0.1", "10.96.0.2")


def test_headless_and_external_name() -> None:
    cluster = store()
    headless = cluster.create("services", service("h", clusterIP="None", selector={"a": "b"}))["spec"]
    assert (headless["clusterIP"], headless["clusterIPs"]) == ("None", ["None"])
    assert headless["ipFamilies"] == ["IPv4"]
    without = cluster.create("services", service("w", clusterIP="None"))["spec"]
    assert (without["ipFamilyPolicy"], without["ipFamilies"]) == ("RequireDualStack", ["IPv4", "IPv6"])
    external = cluster.create(
        "services", {"metadata": {"name": "e"}, "spec": {"type": "ExternalName", "externalName": "a.b"}}
    )["spec"]
    assert "clusterIP" not in external and "ipFamilies" not in external


def test_an_update_keeps_the_address_and_can_add_the_other_family() -> None:
    cluster = store()
    made = cluster.create("services", service())
    bare = service(ports=[{"port": 81}])
    changed = cluster.update("services", bare)["spec"]
    assert changed["clusterIP"] == made["spec"]["clusterIP"]
    changed = cluster.update("services", service(ipFamilyPolicy="PreferDualStack"))["spec"]
    assert changed["ipFamilies"] == ["IPv4", "IPv6"] and len(changed["clusterIPs"]) == 2
    second = changed["clusterIPs"][1]
    changed["ipFamilyPolicy"] = "SingleStack"
    back = cluster.update("services", {"metadata": {"name": "web"}, "spec": changed})["spec"]
    assert back["clusterIPs"] == [made["spec"]["clusterIP"]] and back["ipFamilies"] == ["IPv4"]
    assert cluster.find("ipaddresses", second) is None
    with pytest.raises(ApiError, match="may not change once set"):
        cluster.update("services", service(clusterIP="10.96.9.9"))


def test_a_range_added_at_run_time_is_used() -> None:
    cluster = store("10.96.0.0/30")
    for name in ("a", "b"):
        cluster.create("services", service(name))
    with pytest.raises(ApiError, match="range is full"):
        cluster.create("services", service("c"))
    cluster.create("servicecidrs", {"metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/24"]}})
    made = cluster.create("services", service("c"))
    assert ip_address(made["spec"]["clusterIP"]) in ip_network("10.97.0.0/24")


def test_node_ports() -> None:
    cluster = store()
    ports = [
        {"port": 80, "name": "a"},
        {"port": 81, "name": "b"},
        {"port": 80, "name": "c", "protocol": "UDP"},
    ]
    made = cluster.create("services", service(type="NodePort", ports=ports))["spec"]["ports"]
    assert len({(port["protocol"], port["nodePort"]) for port in made}) == 3
    assert all(30000 <= port["nodePort"] <= 32767 for port in made)
    taken = {"type": "NodePort", "ports": [{"port": 1, "nodePort": made[0]["nodePort"]}]}
    with pytest.raises(ApiError, match="provided port is already allocated"):
        cluster.create("services", service("other", **taken))
    same = cluster.update("services", service(type="NodePort", ports=ports))["spec"]["ports"]
    assert same == made
    plain = cluster.update("services", service(type="ClusterIP", ports=ports))["spec"]["ports"]
    assert not any("nodePort" in port for port in plain)
    cluster.create("services", service("other", **taken))


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"ports": []}, "spec.ports: Required value"),
        ({"ports": [{"port": 0}]}, "must be between 1 and 65535, inclusive"),
        ({"ports": [{"port": 1}, {"port": 2}]}, r"spec.ports\[0\].name: Required value"),
        (
            {"ports": [{"port": 1, "name": "x"}, {"port": 2, "name": "x"}]},
            r'spec.ports\[1\].name: Duplicate value: "x"',
        ),
        ({"ports": [{"port": 1, "protocol": "ICMP"}]}, 'supported values: "SCTP", "TCP", "UDP"'),
        ({"type": "Odd"}, 'spec.type: Unsupported value: "Odd"'),
        ({"type": "ExternalName"}, "spec.externalName: Required value"),
        ({"clusterIP": "banana"}, "must be a valid IP address"),
        ({"ipFamilyPolicy": "Odd"}, 'spec.ipFamilyPolicy: Unsupported value: "Odd"'),
        ({"ipFamilies": ["IPv4", "IPv6"]}, "when multiple IP families are specified"),
        ({"clusterIP": "10.96.1.1", "ipFamilies": ["IPv6"]}, "expected an IPv6 value"),
    ],
)
def test_what_is_refused(spec: Json, text: str) -> None:
    with pytest.raises(ApiError, match=text) as caught:
        store().create("services", service(**spec))
    assert caught.value.code == 422


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.sampled_from(["", "PreferDualStack"]))))
def test_no_address_is_ever_given_twice(steps: list[tuple[bool, int, str]]) -> None:
    cluster = store("10.96.0.0/28", "fd00::/124")
    for make, number, policy in steps:
        name = f"s{number}"
        present = cluster.find("services", name, "default")
        if make and present is None:
            spec = {"ipFamilyPolicy": policy} if policy else {}
            cluster.create("services", service(name, **spec))
        elif not make and present is not None:
            cluster.delete("services", name, "default")
        given_out = [one for obj in cluster.list("services") for one in obj["spec"]["clusterIPs"]]
        assert len(given_out) == len(set(given_out))
        assert sorted(given_out) == sorted(obj["metadata"]["name"] for obj in cluster.list("ipaddresses"))
