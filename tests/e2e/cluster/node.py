"""What makes a machine a Kubernetes node: containerd, kubelet, kube-proxy, and a network for its pods."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tests.e2e.cluster import certs, network
from tests.e2e.cluster.machine import Machine, wait_for

BIN, STATE = "/run/e2e/bin", "/run/e2e/state"
SOCKET = "/run/containerd/containerd.sock"
PAUSE_IMAGE = "inroad.test/pause:1"

CONTAINERD = f"""
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE, as in many containers, nobody may lower an OOM score, and runc ends with
  # "can't get final child's PID from pipe: EOF" when it is told to.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{STATE}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""

KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "authentication": {
        "anonymous": {"enabled": False},
        "webhook": {"enabled": True},
        "x509": {"clientCAFile": f"{STATE}/pki/ca.crt"},
    },
    "authorization": {"mode": "Webhook"},
    "tlsCertFile": f"{STATE}/pki/kubelet.crt",
    "tlsPrivateKeyFile": f"{STATE}/pki/kubelet.key",
    "cgroupDriver": "cgroupfs",
    "failCgroupV1": False,
    "clusterDNS": [network.CLUSTER_DNS],
    "clusterDomain": "cluster.local",
    "resolvConf": "/etc/resolv.conf",
    "containerRuntimeEndpoint": f"unix://{SOCKET}",
    "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    "registerNode": True,
    "failSwapOn": False,
    "makeIPTablesUtilChains": False,
    "imageGCHighThresholdPercent": 100,  # a full disk of the host must not evict the images we put there
    "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%"},
    "shutdownGracePeriod": "0s",
    "streamingConnectionIdleTimeout": "4h0m0s",  # the default, named because connections depend on it
}

KUBE_PROXY = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "clientConnection": {"kubeconfig": f"{STATE}/kube-proxy.kubeconfig"},
    "mode": "nftables",
    "clusterCIDR": network.POD_CIDRS,
    # The limit is the whole host's; in a network namespace it can't be set, and must not be.
    "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    "metricsBindAddress": "127.0.0.1:10249",
}


def issue_certificates(authority: certs.Authority, machine: Machine, number: int, server: str) -> None:
    """Write what kubelet and kube-proxy of node `number` present and trust."""
    pki = machine.state / "pki"
    pki.mkdir(exist_ok=True)
    if not (pki / "ca.crt").exists():  # the API server of the first node is reading it
        (pki / "ca.crt").write_bytes(authority.certificate)
    names = [machine.name, *network.node_addresses(number)]
    certs.write_pair(pki, "kubelet", authority.issue(machine.name, names=names))
    for name, user, group in (
        ("kubelet", f"system:node:{machine.name}", "system:nodes"),
        ("kube-proxy", "system:kube-proxy", ""),
    ):
        credentials = certs.client_certificate_user(authority.issue(user, group))
        (machine.state / f"{name}.kubeconfig").write_text(
            certs.kubeconfig(server, authority.certificate, credentials)
        )


def start_containerd(machine: Machine) -> None:
    """Start containerd and wait until it answers."""
    (machine.state / "cni").mkdir(exist_ok=True)
    (machine.state / "containerd.toml").write_text(CONTAINERD)
    program = machine.start("containerd", "containerd", "--config", f"{STATE}/containerd.toml")
    wait_for(
        f"containerd on {machine.name}",
        lambda: machine.run("ctr", "--address", SOCKET, "version", check=False).returncode == 0,
        30,
        program.tail,
    )


def start_kubelet(machine: Machine, number: int) -> None:
    """Start kubelet, which registers the node."""
    (machine.state / "kubelet.json").write_text(json.dumps(KUBELET))
    machine.start(
        "kubelet",
        f"{BIN}/kubelet",
        f"--config={STATE}/kubelet.json",
        f"--kubeconfig={STATE}/kubelet.kubeconfig",
        f"--hostname-override={machine.name}",
        f"--node-ip={','.join(network.node_addresses(number))}",
    )


def start_kube_proxy(machine: Machine) -> None:
    """Start kube-proxy in nftables mode."""
    (machine.state / "kube-proxy.json").write_text(json.dumps(KUBE_PROXY))
    machine.start(
        "kube-proxy",
        f"{BIN}/kube-proxy",
        f"--config={STATE}/kube-proxy.json",
        f"--hostname-override={machine.name}",
    )


def configure_pod_network(machine: Machine, pod_cidrs: Sequence[str]) -> None:
    """Give containerd its network: a routed veth pair per pod, addresses from the node's pod subnets."""
    ranges = [[{"subnet": cidr}] for cidr in pod_cidrs]
    routes = [{"dst": "::/0" if ":" in cidr else "0.0.0.0/0"} for cidr in pod_cidrs]
    config = {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "mtu": 1500,
                "ipam": {
                    "type": "host-local",
                    "ranges": ranges,
                    "routes": routes,
                    "dataDir": "/var/lib/cni/pods",
                },
            },
        ],
    }
    final = machine.state / "cni" / "10-pods.conflist"
    draft = final.with_suffix(".new")
    draft.write_text(json.dumps(config))
    draft.rename(final)  # containerd watches the directory: it must never see half a file
