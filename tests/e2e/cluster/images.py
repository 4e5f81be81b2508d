"""The images of the cluster's own pods, made from programs we built, put into the nodes' stores."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.cluster.machine import Machine
from tests.e2e.cluster.node import PAUSE_IMAGE, SOCKET
from tools import oci

COREDNS_IMAGE = "inroad.test/coredns:1"


def write_cluster_images(binaries: Path, directory: Path) -> list[Path]:
    """Write the archives of pause and CoreDNS; return their paths."""
    made = []
    for reference, program, user in (
        (PAUSE_IMAGE, "pause", "65535:65535"),
        (COREDNS_IMAGE, "coredns", "0:0"),
    ):
        layer = oci.files_layer({program: (binaries / program).read_bytes()})
        target = directory / f"{program}.tar"
        oci.write_archive(target, reference, [layer], {"Entrypoint": [f"/{program}"], "User": user})
        made.append(target)
    return made


def load(machine: Machine, archive: Path) -> None:
    """Put an image archive into a node's store, where kubelet finds it."""
    done = machine.state / "images"
    done.mkdir(exist_ok=True)
    copy = done / archive.name
    copy.write_bytes(archive.read_bytes())
    machine.run(
        "ctr", "--address", SOCKET, "-n", "k8s.io", "images", "import", f"/run/e2e/state/images/{copy.name}"
    )
    copy.unlink()
