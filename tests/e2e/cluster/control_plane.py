"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler on the first node."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.cluster import certs, network
from tests.e2e.cluster.machine import Machine, wait_for

BIN = "/run/e2e/bin"
PKI = "/run/e2e/state/pki"
STATE = "/run/e2e/state"

# Every request is kept with its user, verb, resource and answer, but not leases and events, and no bodies:
# secrets and tokens would be in them.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "resources": [{"group": "coordination.k8s.io"}, {"group": "events.k8s.io"}]},
        {"level": "None", "resources": [{"group": "", "resources": ["events"]}]},
        {"level": "None", "nonResourceURLs": ["/healthz*", "/readyz*", "/livez*"]},
        {"level": "Metadata"},
    ],
}


def issue_certificates(authority: certs.Authority, machine: Machine, server: str) -> None:
    """Write what the control plane's programs present and trust."""
    pki = machine.state / "pki"
    pki.mkdir(exist_ok=True)
    (pki / "ca.crt").write_bytes(authority.certificate)
    names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    addresses = ["127.0.0.1", network.API_ADDRESS, "10.96.0.1", "fd00:10:96::1", *network.node_addresses(1)]
    certs.write_pair(pki, "apiserver", authority.issue("kube-apiserver", names=names + addresses))
    certs.write_pair(
        pki, "kubelet-client", authority.issue("kube-apiserver-kubelet-client", "system:masters")
    )
    front = certs.Authority("inroad-e2e-front-proxy")
    (pki / "front-ca.crt").write_bytes(front.certificate)
    certs.write_pair(pki, "front", front.issue("front-proxy-client"))
    private, public = certs.key_pair()
    certs.write_pair(pki, "service-accounts", certs.Pair(public, private))
    for name in ("kube-controller-manager", "kube-scheduler"):
        user = certs.client_certificate_user(authority.issue(f"system:{name}"))
        (machine.state / f"{name}.kubeconfig").write_text(
            certs.kubeconfig(server, authority.certificate, user)
        )
    (machine.state / "audit-policy.json").write_text(json.dumps(AUDIT_POLICY))


def start_etcd(machine: Machine) -> None:
    """Start etcd on the machine's loopback, in memory-speed mode: the cluster does not outlive a crash."""
    machine.start(
        "etcd",
        f"{BIN}/etcd",
        f"--data-dir={STATE}/etcd",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        "--log-level=warn",
    )


def start_api_server(machine: Machine) -> None:
    """Start kube-apiserver with RBAC, node authorisation, the default admission plugins and an audit log."""
    machine.start(
        "kube-apiserver",
        f"{BIN}/kube-apiserver",
        "--bind-address=::",
        f"--secure-port={network.API_PORT}",
        f"--advertise-address={network.node_addresses(1)[0]}",
        "--etcd-servers=http://127.0.0.1:2379",
        f"--service-cluster-ip-range={network.SERVICE_CIDRS}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={PKI}/ca.crt",
        f"--tls-cert-file={PKI}/apiserver.crt",
        f"--tls-private-key-file={PKI}/apiserver.key",
        f"--kubelet-certificate-authority={PKI}/ca.crt",
        f"--kubelet-client-certificate={PKI}/kubelet-client.crt",
        f"--kubelet-client-key={PKI}/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={PKI}/service-accounts.crt",
        f"--service-account-signing-key-file={PKI}/service-accounts.key",
        f"--requestheader-client-ca-file={PKI}/front-ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={PKI}/front.crt",
        f"--proxy-client-key-file={PKI}/front.key",
        f"--audit-policy-file={STATE}/audit-policy.json",
        f"--audit-log-path={STATE}/audit.log",
        "--audit-log-maxsize=200",
    )


def start_controllers(machine: Machine) -> None:
    """Start kube-controller-manager, which hands out the nodes' pod subnets, and kube-scheduler."""
    config = f"{STATE}/kube-controller-manager.kubeconfig"
    machine.start(
        "kube-controller-manager",
        f"{BIN}/kube-controller-manager",
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
        "--use-service-account-credentials",
        "--allocate-node-cidrs",
        f"--cluster-cidr={network.POD_CIDRS}",
        f"--service-cluster-ip-range={network.SERVICE_CIDRS}",
        f"--root-ca-file={PKI}/ca.crt",
        f"--service-account-private-key-file={PKI}/service-accounts.key",
        "--leader-elect=false",
    )
    config = f"{STATE}/kube-scheduler.kubeconfig"
    machine.start(
        "kube-scheduler",
        f"{BIN}/kube-scheduler",
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    )


def wait_until_ready(machine: Machine, ca: Path) -> None:
    """Wait until the API server says it is ready."""
    server = machine.programs["kube-apiserver"]
    url = f"https://127.0.0.1:{network.API_PORT}/readyz"

    def ready() -> bool:
        if not server.alive():
            raise RuntimeError(f"kube-apiserver ended\n{server.tail()}")
        return machine.run("curl", "-sf", "--cacert", str(ca), url, check=False).stdout == "ok"

    wait_for("the API server to be ready", ready, 90, server.tail)
