"""What an API server does with Services: addresses in both families, ports, and what it refuses.

From kubernetes.io/docs/concepts/services-networking/{service,dual-stack,cluster-ip-allocation}.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from api_target import Api, Json, api

__all__ = ["api"]

SERVICES = "/api/v1/namespaces/{ns}/services"


def service(name: str = "web", **spec: Any) -> Json:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


async def families(api: Api) -> list[str]:
    """Return the cluster's families: whether a dual-stack service gets two addresses."""
    body = service("probe", ipFamilyPolicy="PreferDualStack")
    _, made = await api.ask("POST", f"{SERVICES}?dryRun=All", body)
    return list(made["spec"]["ipFamilies"])


async def test_what_a_service_gets(api: Api) -> None:
    status, made = await api.ask("POST", SERVICES, service())
    spec = made["spec"]
    assert status == 201
    assert (spec["type"], spec["sessionAffinity"], spec["internalTrafficPolicy"]) == (
        "ClusterIP",
        "None",
        "Cluster",
    )
    assert spec["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert spec["clusterIPs"] == [spec["clusterIP"]]
    assert (spec["ipFamilyPolicy"], len(spec["ipFamilies"])) == ("SingleStack", 1)
    assert spec["ipFamilies"] == [f"IPv{ip_address(spec['clusterIP']).version}"]


async def test_both_families(api: Api) -> None:
    configured = await families(api)
    if len(configured) < 2:
        _, refused = await api.ask("POST", SERVICES, service(ipFamilyPolicy="RequireDualStack"))
        assert "this cluster is not configured for dual-stack services" in refused["message"]
        pytest.skip("a cluster of one family")
    _, made = await api.ask("POST", SERVICES, service("both", ipFamilyPolicy="RequireDualStack"))
    assert [f"IPv{ip_address(one).version}" for one in made["spec"]["clusterIPs"]] == configured
    other = configured[1]
    _, made = await api.ask("POST", SERVICES, service("other", ipFamilies=[other]))
    assert f"IPv{ip_address(made['spec']['clusterIP']).version}" == other


async def test_headless_services_and_external_names_have_no_address(api: Api) -> None:
    _, made = await api.ask("POST", SERVICES, service("h", clusterIP="None", selector={"a": "b"}))
    assert (made["spec"]["clusterIP"], made["spec"]["clusterIPs"]) == ("None", ["None"])
    _, made = await api.ask("POST", SERVICES, service("e", type="ExternalName", externalName="a.example"))
    assert "clusterIP" not in made["spec"] and "ipFamilies" not in made["spec"]


@pytest.mark.parametrize("how", ["?dryRun=All", ""])
async def test_an_address_outside_of_the_ranges(api: Api, how: str) -> None:
    """A dry run names a range in every release; since 1.33 a real request is told of none."""
    status, answer = await api.ask("POST", SERVICES + how, service(clusterIP="1.1.1.1"))
    assert (status, answer["reason"]) == (422, "Invalid")
    fields = ("spec.clusterIPs", "spec.clusterIP", "spec.clusterIPs[0]")
    assert answer["details"]["causes"][0]["field"] in fields
    assert "1.1.1.1" in answer["message"]
    _, version = await api.ask("GET", "/version")
    named = bool(how) or int(version["minor"].rstrip("+")) < 33
    text = "The range of valid IPs is " if named else "the provided network does not match the current range"
    assert text in answer["message"]


async def test_a_dry_run_does_not_notice_a_taken_address(api: Api) -> None:
    """Nor does it have to before 1.33; who probes for a free address must not believe it."""
    _, made = await api.ask("POST", SERVICES, service("first"))
    again = service("second", clusterIP=made["spec"]["clusterIP"], ipFamilies=made["spec"]["ipFamilies"])
    status, answer = await api.ask("POST", SERVICES, again)
    assert (status, "already allocated" in answer["message"]) == (422, True)
    _, version = await api.ask("GET", "/version")
    if int(version["minor"].rstrip("+")) >= 33:
        status, answer = await api.ask("POST", f"{SERVICES}?dryRun=All", again)
        assert status == 201, answer


async def test_service_cidrs(api: Api) -> None:
    status, listed = await api.ask("GET", "/apis/networking.k8s.io/v1/servicecidrs")
    if status == 404:
        pytest.skip("a cluster before 1.33")
    ranges = [ip_network(cidr) for one in listed["items"] for cidr in one["spec"]["cidrs"]]
    _, made = await api.ask("POST", SERVICES, service())
    address = made["spec"]["clusterIP"]
    assert any(ip_address(address) in network for network in ranges)
    _, ip = await api.ask("GET", f"/apis/networking.k8s.io/v1/ipaddresses/{address}")
    parent = {"group": "", "resource": "services", "namespace": api.namespace, "name": "web"}
    assert ip["spec"]["parentRef"] == {
        key: value for key, value in parent.items() if key in ip["spec"]["parentRef"]
    }
    await api.ask("DELETE", f"{SERVICES}/web")
    assert (await api.ask("GET", f"/apis/networking.k8s.io/v1/ipaddresses/{address}"))[0] == 404


async def test_an_address_is_given_once(api: Api) -> None:
    _, made = await api.ask("POST", SERVICES, service("a"))
    taken = made["spec"]["clusterIP"]
    status, answer = await api.ask("POST", SERVICES, service("b", clusterIP=taken))
    assert status == 422
    assert f"failed to allocate IP {taken}: provided IP is already allocated" in answer["message"]


async def test_an_address_stays_and_can_not_be_changed(api: Api) -> None:
    _, made = await api.ask("POST", SERVICES, service())
    address = made["spec"]["clusterIP"]
    _, changed = await api.ask("PUT", f"{SERVICES}/web", service(ports=[{"port": 81}]))
    assert changed["spec"]["clusterIP"] == address
    other = str(ip_address(address) + 1)
    status, answer = await api.ask("PUT", f"{SERVICES}/web", service(clusterIP=other, clusterIPs=[other]))
    assert status == 422 and "may not change once set" in answer["message"]


async def test_node_ports(api: Api) -> None:
    _, made = await api.ask("POST", SERVICES, service(type="NodePort"))
    port = made["spec"]["ports"][0]["nodePort"]
    assert 30000 <= port <= 32767
    taken = service("other", type="NodePort", ports=[{"port": 80, "nodePort": port}])
    status, answer = await api.ask("POST", SERVICES, taken)
    assert status == 422 and "provided port is already allocated" in answer["message"]
    outside = service("other", type="NodePort", ports=[{"port": 80, "nodePort": 80}])
    status, answer = await api.ask("POST", SERVICES, outside)
    assert status == 422 and "provided port is not in the valid range" in answer["message"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (service("Web"), "a DNS-1035 label must consist of lower case alphanumeric characters or '-'"),
        (service("1web"), "a DNS-1035 label must consist of"),
        (service(ports=[]), "spec.ports: Required value"),
        (service(ports=[{"port": 0}]), "must be between 1 and 65535, inclusive"),
        (service(ports=[{"port": 1}, {"port": 2}]), "spec.ports[0].name: Required value"),
        (service(type="Odd"), 'spec.type: Unsupported value: "Odd"'),
        (service(type="ExternalName"), "spec.externalName: Required value"),
    ],
)
async def test_what_is_refused(api: Api, body: Json, text: str) -> None:
    status, answer = await api.ask("POST", SERVICES, body)
    assert status == 422, answer
    assert text in answer["message"]
