"""The whole cluster, up and down, and how tests speak with it."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.cluster import addons, build, certs, control_plane, images, network, node
from tests.e2e.cluster.machine import (
    CGROUP_PARENT,
    CGROUPS,
    Machine,
    MachineFailed,
    Program,
    boot,
    controllers,
    destroy_machine,
    wait_for,
)

STATE_ROOT = Path("/var/tmp/inroad-e2e")
LOCKS = Path("/run/lock/inroad-e2e")
SERVER = f"https://{network.API_ADDRESS}:{network.API_PORT}"
INNER_SERVER = f"https://{network.node_addresses(1)[0]}:{network.API_PORT}"
LAN, WORKSTATION = "lan", "workstation"
OFFICE_NAMES = {"intranet.example.test": "192.168.190.80", "api.example.test": network.API_ADDRESS}

NEEDED = {
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "nft": "nftables",
    "conntrack": "conntrack",
    "dnsmasq": "dnsmasq-base",
    "curl": "curl",
    "dig": "dnsutils",
    "ip": "iproute2",
}


@dataclass
class Cluster:
    """A running cluster. `kubeconfig` is the administrator's, for the workstation's way in."""

    name: str
    state: Path
    machines: dict[str, Machine] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, a file of the host."""
        return self.state / "admin.kubeconfig"

    @property
    def nodes(self) -> list[Machine]:
        """The machines that run pods, in order."""
        return [machine for name, machine in self.machines.items() if name.startswith("node-")]

    def kubectl(self, *argv: str, stdin: str | None = None, check: bool = True, timeout: float = 60.0) -> str:
        """Run kubectl as the administrator, from the office network; return what it printed."""
        done = self.machines[LAN].run(
            "/run/e2e/bin/kubectl",
            f"--kubeconfig={self.kubeconfig}",
            "--cache-dir=/run/kubectl",
            *argv,
            stdin=stdin,
            check=check,
            timeout=timeout,
        )
        return done.stdout

    def get(self, *argv: str) -> dict[str, Any]:
        """Return the parsed JSON of `kubectl get`."""
        parsed: dict[str, Any] = json.loads(self.kubectl("get", "-o", "json", *argv))
        return parsed

    def save(self) -> None:
        """Remember the machines, so that another process can use or remove them."""
        plain = {
            "name": self.name,
            "took": self.took,
            "machines": {name: asdict(machine) for name, machine in self.machines.items()},
        }
        (self.state / "cluster.json").write_text(json.dumps(plain, default=str, indent=1))


def load(name: str) -> Cluster:
    """Return the running cluster of that name; raise `MachineFailed` when there is none."""
    state = STATE_ROOT / name
    try:
        plain = json.loads((state / "cluster.json").read_text())
    except OSError:
        raise MachineFailed(f"no cluster named {name} runs; `python -m tests.e2e.cluster up`") from None
    cluster = Cluster(name, state, took=plain["took"])
    for key, value in plain["machines"].items():
        programs = {
            n: Program(**{**p, "log": Path(p["log"]), "argv": tuple(p["argv"])})
            for n, p in value.pop("programs").items()
        }
        value["state"] = Path(value["state"])
        cluster.machines[key] = Machine(**value, programs=programs)
    return cluster


def check_host() -> None:
    """Raise `MachineFailed` naming the Debian packages that are missing."""
    if os.geteuid() != 0:
        raise MachineFailed("the test cluster needs root: it makes namespaces and cgroups")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = sorted(
        {package for program, package in NEEDED.items() if shutil.which(program, path=path) is None}
    )
    if missing:
        raise MachineFailed(f"apt-get install --no-install-recommends {' '.join(missing)}")


def down(name: str) -> None:
    """Remove a cluster and all that is left of a crashed one; does nothing when there is none."""
    state = STATE_ROOT / name
    names = {path.name for path in (state / "machines").glob("*")}
    for controller in controllers():
        names |= {
            path.name for path in (CGROUPS / controller / CGROUP_PARENT / name).glob("*") if path.is_dir()
        }
    for machine in sorted(names):
        destroy_machine(name, machine, state / "machines" / machine)
    shutil.rmtree(state, ignore_errors=True)
    with contextlib.suppress(OSError):
        STATE_ROOT.rmdir()


def up(name: str = "e2e", *, node_count: int = 2, say: Callable[[str], None] | None = None) -> Cluster:
    """Bring a cluster up, over whatever is left of an earlier one; on failure nothing remains."""
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    check_host()
    binaries = build.binaries(say)
    down(name)
    cluster = Cluster(name, STATE_ROOT / name)
    cluster.state.mkdir(parents=True, mode=0o755)
    try:
        for title, step in _steps(cluster, binaries, node_count):
            begun = time.monotonic()
            step()
            cluster.took[title] = round(time.monotonic() - begun, 2)
            say(f"  {title}: {cluster.took[title]:.1f} s")
            cluster.save()
    except BaseException:
        keep_logs(cluster)
        down(name)
        raise
    return cluster


def keep_logs(cluster: Cluster) -> None:
    """Copy the logs of a cluster that failed to `/tmp`, since its own directory goes."""
    target = Path(os.environ.get("INROAD_E2E_LOGS", f"/tmp/inroad-e2e-{cluster.name}-logs"))
    shutil.rmtree(target, ignore_errors=True)
    for log in (cluster.state / "machines").glob("*/*.log"):
        destination = target / log.parent.name / log.name
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(log, destination)
    print(f"logs: {target}", file=sys.stderr)


@contextlib.contextmanager
def claimed(wish: str) -> Iterator[str]:
    """Keep a cluster's name for the length of a `with`: `wish`, or `wish-2`, ... when other runs hold it.

    The kernel gives a name back when its run ends, however it ends; what that run left, `up` removes.
    """
    LOCKS.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        name = wish if number == 1 else f"{wish}-{number}"
        with (LOCKS / name).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield name
            return


def _steps(cluster: Cluster, binaries: Path, node_count: int) -> list[tuple[str, Callable[[], None]]]:
    authority = certs.Authority()
    node_names = [f"node-{number}" for number in range(1, node_count + 1)]

    def machines() -> None:
        office = f"nameserver {network.LAN_ADDRESS}\nsearch example.test\n"
        for machine_name in (LAN, WORKSTATION, *node_names):
            is_node = machine_name in node_names
            cluster.machines[machine_name] = boot(
                cluster.name,
                machine_name,
                cluster.state / "machines" / machine_name,
                binaries,
                node=is_node,
                resolv_conf=f"nameserver {network.LAN_ADDRESS}\n" if is_node else office,
            )
        network.connect_lan(cluster.machines[LAN], cluster.machines[WORKSTATION], cluster.nodes[0])
        network.connect_nodes(cluster.nodes)
        _start_name_server(cluster.machines[LAN])

    def start_control_plane() -> None:
        first = cluster.nodes[0]
        control_plane.issue_certificates(authority, first, f"https://127.0.0.1:{network.API_PORT}")
        admin = certs.client_certificate_user(authority.issue("admin", "system:masters"))
        cluster.kubeconfig.touch(0o600)
        cluster.kubeconfig.write_text(certs.kubeconfig(SERVER, authority.certificate, admin))
        ca = cluster.state / "ca.crt"
        ca.write_bytes(authority.certificate)
        control_plane.start_etcd(first)
        control_plane.start_api_server(first)
        control_plane.wait_until_ready(first, ca)
        control_plane.start_controllers(first)

    def start_nodes() -> None:
        archives = images.write_cluster_images(binaries, cluster.state / "images")

        def start(numbered: tuple[int, Machine]) -> None:
            number, machine = numbered
            node.issue_certificates(authority, machine, number, INNER_SERVER)
            node.start_containerd(machine)
            for archive in archives:
                images.load(machine, archive)
            node.start_kubelet(machine, number)
            node.start_kube_proxy(machine)

        with ThreadPoolExecutor() as pool:
            list(pool.map(start, enumerate(cluster.nodes, start=1)))

    def connect_pods() -> None:
        wait_for("the nodes to get pod subnets", lambda: _pod_cidrs(cluster, node_names), 60, _tails(cluster))
        cidrs = _pod_cidrs(cluster, node_names) or []
        for machine, own in zip(cluster.nodes, cidrs, strict=True):
            node.configure_pod_network(machine, own)
        network.route_pods(cluster.nodes, cidrs)
        wait_for("the nodes to be ready", lambda: _ready(cluster, "nodes"), 60, _tails(cluster))

    def start_addons() -> None:
        cluster.kubectl("apply", "-f", "-", stdin=addons.coredns())
        wait_for(
            "CoreDNS to be ready", lambda: _ready(cluster, "pods", "-n", "kube-system"), 60, _tails(cluster)
        )

    return [
        ("machines and network", machines),
        ("control plane", start_control_plane),
        ("nodes", start_nodes),
        ("pod network", connect_pods),
        ("CoreDNS", start_addons),
    ]


def _start_name_server(lan: Machine) -> None:
    """Start the office's name server: a few names of its own, NXDOMAIN for the rest."""
    records = [f"--host-record={name},{address}" for name, address in OFFICE_NAMES.items()]
    lan.start(
        "dnsmasq",
        "dnsmasq",
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--no-daemon",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
        f"--listen-address={network.LAN_ADDRESS}",
        "--bind-interfaces",
        "--address=/#/",
        *records,
    )


def _pod_cidrs(cluster: Cluster, node_names: Sequence[str]) -> list[list[str]] | None:
    try:
        items = {item["metadata"]["name"]: item["spec"] for item in cluster.get("nodes")["items"]}
    except MachineFailed:
        return None
    found = [items.get(name, {}).get("podCIDRs", []) for name in node_names]
    return found if all(found) else None


def _ready(cluster: Cluster, *what: str) -> bool:
    items = cluster.get(*what)["items"]
    conditions = [{c["type"]: c["status"] for c in item["status"].get("conditions", [])} for item in items]
    return bool(items) and all(c.get("Ready") == "True" for c in conditions)


def _resolves(cluster: Cluster) -> bool:
    question = ("dig", "+short", "+tries=1", "+time=1", f"@{network.CLUSTER_DNS}", addons.KNOWN_NAME)
    return all(machine.run(*question, check=False).stdout.strip() == "10.96.0.1" for machine in cluster.nodes)


def _tails(cluster: Cluster) -> Callable[[], str]:
    """Return a function that shows the programs that ended, or else what the kubelets said last."""

    def tails() -> str:
        programs = [p for m in cluster.machines.values() for p in m.programs.values()]
        telling = [p for p in programs if not p.alive()] or [p for p in programs if p.name == "kubelet"]
        return "\n".join(p.tail(8) for p in telling)

    return tails


def execute(cluster: Cluster, machine: str, argv: Sequence[str]) -> int:
    """Run a command on a machine with this terminal; return its exit status."""
    environment = os.environ | {"KUBECONFIG": str(cluster.kubeconfig)}
    here = ["env", "--chdir", str(Path.cwd()), *argv]  # entering a mount namespace ends in its root directory
    return subprocess.run(cluster.machines[machine].enter(here), env=environment, check=False).returncode
