"""Containers of our image on the workstation, by runc, as `docker run` would set them up."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.cluster.machine import Machine
from tools import oci

NETWORK, GATEWAY, ADDRESS = "172.30.0.0/24", "172.30.0.1", "172.30.0.2"
NETNS = "/run/netns/client"
TRANSLATE = f"""
table ip docker {{
    chain leaving {{
        type nat hook postrouting priority 100
        ip saddr {NETWORK} oifname "eth0" masquerade
    }}
}}
"""
MASKED = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"]


def unpack(archive: Path, root: Path) -> None:
    """Unpack an image archive's layers into a directory."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for layer in oci.read_archive(archive)[0]:
        subprocess.run(["tar", "-xz", "-C", str(root)], input=layer.blob, check=True)


def connect_network(workstation: Machine, *, ipv6: bool) -> None:
    """Make a network namespace for containers behind the workstation, translated as docker's bridge does."""
    workstation.run("ip", "netns", "add", "client")
    # As docker does since 20.10: without it, port 53 would take one more capability.
    ports = "net.ipv4.ip_unprivileged_port_start=0"
    workstation.run("ip", "netns", "exec", "client", "sysctl", "-q", "-w", ports)
    if not ipv6:
        for which in ("all", "default", "lo"):
            inside = ("ip", "netns", "exec", "client", "sysctl", "-q", "-w")
            workstation.run(*inside, f"net.ipv6.conf.{which}.disable_ipv6=1")
    workstation.run("ip", "link", "add", "docker0", "type", "veth", "peer", "name", "eth0", "netns", "client")
    workstation.run("ip", "address", "add", f"{GATEWAY}/24", "dev", "docker0")
    workstation.run("ip", "link", "set", "docker0", "up")
    for line in (
        ("link", "set", "lo", "up"),
        ("address", "add", f"{ADDRESS}/24", "dev", "eth0"),
        ("link", "set", "eth0", "up"),
        ("route", "add", "default", "via", GATEWAY),
    ):
        workstation.run("ip", "-n", "client", *line)
    workstation.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    workstation.run("nft", "-f", "-", stdin=TRANSLATE)


def disconnect_network(workstation: Machine) -> None:
    """Undo `connect_network`."""
    workstation.run("nft", "delete", "table", "ip", "docker", check=False)
    workstation.run("ip", "link", "del", "docker0", check=False)
    workstation.run("ip", "netns", "del", "client", check=False)
    workstation.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")


def _configuration(
    args: Sequence[str],
    capabilities: Sequence[str],
    mounts: Sequence[dict[str, Any]],
    *,
    tun: bool,
    cgroup: str,
) -> dict[str, Any]:
    caps = {kind: list(capabilities) for kind in ("bounding", "effective", "permitted")}
    device = {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o666}
    allow = {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rwm"}
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": list(args),
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin", "HOME=/tmp", "KUBECONFIG=/kubeconfig"],
            "capabilities": caps,
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "client",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755", "nosuid"]},
            {"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "ro"]},
            {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755", "nosuid"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777", "nosuid"]},
            *mounts,
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"},
                {"type": "mount"},
                {"type": "ipc"},
                {"type": "uts"},
                {"type": "network", "path": NETNS},
            ],
            "cgroupsPath": cgroup,
            "maskedPaths": MASKED,
            "devices": [device] if tun else [],
            "resources": {"devices": [{"allow": False, "access": "rwm"}, *([allow] if tun else [])]},
        },
    }


@dataclass
class Container:
    """A running container on the workstation."""

    workstation: Machine
    name: str
    bundle: Path

    def run(self, *argv: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        done = self.workstation.run(
            "runc", "--root", "/run/runc", "exec", self.name, *argv, check=False, timeout=60
        )
        assert status is None or done.returncode == status, done
        return done

    def remove(self) -> None:
        """End it and remove its bundle."""
        self.workstation.run("runc", "--root", "/run/runc", "delete", "--force", self.name, check=False)
        shutil.rmtree(self.bundle)


def start(
    workstation: Machine,
    name: str,
    archive: Path,
    args: Sequence[str],
    *,
    capabilities: Sequence[str] = (),
    tun: bool = False,
    files: dict[str, Path],
) -> Container:
    """Start a container with these capabilities and no others; `files` are mounted read-only."""
    bundle = workstation.state / name
    unpack(archive, bundle / "rootfs")
    options = ["bind", "ro"]
    mounts = [
        {"destination": d, "type": "bind", "source": str(s), "options": options} for d, s in files.items()
    ]
    for destination in files:
        (bundle / "rootfs" / destination.lstrip("/")).touch()
    config = _configuration(args, capabilities, mounts, tun=tun, cgroup=f"/{name}")
    (bundle / "config.json").write_text(json.dumps(config))
    log = ("--log", str(bundle / "runc.log"))
    workstation.start(name, "runc", "--root", "/run/runc", *log, "run", "--bundle", str(bundle), name)
    return Container(workstation, name, bundle)
