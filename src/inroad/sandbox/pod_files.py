"""What a pod's containers find: environment, resolv.conf, hosts, the downward API. No I/O."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

from collections.abc import Mapping
from typing import Any

from inroad.sandbox.container import PATH
from inroad.sandbox.place import FileSpec
from inroad.sandbox.topology import Address, Node, Topology
from inroad.sandbox.volumes import Missing, Volumes

Json = dict[str, Any]
DOMAIN = "cluster.local"


def hostname_of(pod: Json) -> str:
    """Return a pod's hostname."""
    return str(pod["spec"].get("hostname") or pod["metadata"]["name"])[:63]


def resolv_conf(pod: Json, topology: Topology) -> str:
    """Return a pod's /etc/resolv.conf as a kubelet writes it for its dnsPolicy (and dnsConfig)."""
    spec = pod["spec"]
    policy = spec.get("dnsPolicy", "ClusterFirst")
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet"):
        servers = [str(topology.dns_addresses[0])]
        search = [f"{pod['metadata']['namespace']}.svc.{DOMAIN}", f"svc.{DOMAIN}", DOMAIN]
        options = ["ndots:5"]
    elif policy == "Default":
        servers = [str(address) for address in topology.addresses("lan")[:1]]
    extra = spec.get("dnsConfig") or {}
    servers += extra.get("nameservers", [])
    search += extra.get("searches", [])
    options += [
        f"{o['name']}:{o['value']}" if o.get("value") else o["name"] for o in extra.get("options", ())
    ]
    lines = [f"search {' '.join(search)}"] if search else []
    lines += [f"nameserver {server}" for server in servers]
    lines += [f"options {' '.join(options)}"] if options else []
    return "\n".join(lines) + "\n"


def etc_files(pod: Json, topology: Topology, addresses: tuple[Address, ...]) -> Mapping[str, FileSpec]:
    """Return the files of a pod's /etc."""
    spec, hostname = pod["spec"], hostname_of(pod)
    full = hostname
    if spec.get("subdomain"):
        full = f"{hostname}.{spec['subdomain']}.{pod['metadata']['namespace']}.svc.{DOMAIN} {hostname}"
    hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
    hosts += "".join(f"{address} {full}\n" for address in addresses)
    for alias in spec.get("hostAliases") or ():
        hosts += f"{alias['ip']} {' '.join(alias['hostnames'])}\n"
    return {
        "/etc/hosts": FileSpec(hosts),
        "/etc/resolv.conf": FileSpec(resolv_conf(pod, topology)),
        "/run/home/": FileSpec("", 0o1777),
    }


class DownwardApi:
    """Answers `fieldRef`s of one pod."""

    def __init__(self, pod: Json, node: Node, addresses: tuple[Address, ...]) -> None:
        metadata, spec = pod["metadata"], pod["spec"]
        self._metadata = metadata
        self._simple = {
            "metadata.name": metadata["name"],
            "metadata.namespace": metadata["namespace"],
            "metadata.uid": metadata["uid"],
            "spec.nodeName": spec.get("nodeName", ""),
            "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
            "status.hostIP": str(node.addresses[0]),
            "status.hostIPs": ",".join(map(str, node.addresses)),
            "status.podIP": str(addresses[0]),
            "status.podIPs": ",".join(map(str, addresses)),
        }

    def field(self, path: str) -> str:
        """Return the value at a path such as `metadata.labels['app']` or `status.podIP`."""
        kind, _, rest = path.partition("['")
        values = self._metadata.get(kind.removeprefix("metadata."), {}) or {}
        if rest:
            return str(values.get(rest.removesuffix("']"), ""))
        if path in ("metadata.labels", "metadata.annotations"):
            return "\n".join(f'{key}="{value}"' for key, value in sorted(values.items()))
        return str(self._simple.get(path, ""))


def environment(
    container: Json, pod: Json, topology: Topology, volumes: Volumes, downward: DownwardApi
) -> dict[str, str]:
    """Return a container's environment: the API service, then what its spec says; may raise `Missing`."""
    found = {
        "PATH": PATH,
        "HOME": "/run/home",
        "HOSTNAME": hostname_of(pod),
        "KUBERNETES_SERVICE_HOST": str(topology.service_networks[0][1]),
        "KUBERNETES_SERVICE_PORT": "443",
        "KUBERNETES_SERVICE_PORT_HTTPS": "443",
    }
    for source in container.get("envFrom") or ():
        for key, plural in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
            if key in source:
                wanted = source[key]
                data = volumes.data(plural, wanted["name"], optional=bool(wanted.get("optional")))
                found |= {source.get("prefix", "") + name: value.decode() for name, value in data.items()}
    for one in container.get("env") or ():
        found[one["name"]] = _value(one, volumes, downward)
    return found


def _value(variable: Json, volumes: Volumes, downward: DownwardApi) -> str:
    source = variable.get("valueFrom") or {}
    if "fieldRef" in source:
        return downward.field(source["fieldRef"]["fieldPath"])
    for key, plural in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
        if key in source:
            wanted = source[key]
            data = volumes.data(plural, wanted["name"], optional=bool(wanted.get("optional")))
            if wanted["key"] not in data and not wanted.get("optional"):
                raise Missing(f"couldn't find key {wanted['key']} in {plural[:-1]} {wanted['name']}")
            return data.get(wanted["key"], b"").decode()
    return str(variable.get("value") or "")
