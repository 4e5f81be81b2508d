"""A workstation that is a node of the cluster: what the node reaches by itself is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import INROAD, Stage

SCRIPT = """
mount -t tmpfs none /run
export KUBECONFIG=$1
inroad() { %s "$@"; }
inroad connect -n shop -o json > $2/connected || exit
inroad status -o json > $2/status
for n in 1 2 3 4 5 6 7 8; do curl -4 -sS -m 5 http://web.shop.svc.cluster.local/; done > $2/pages
inroad explain 10.96.0.10 > $2/explained
inroad quit
"""


@pytest.fixture
def kubeconfig(sandbox: Stage, tmp_path: Path) -> Iterator[Path]:
    """Yield the administrator's kubeconfig, as from inside the cluster."""
    lines = sandbox.kubeconfig().splitlines()
    server = next(line for line in lines if line.strip().startswith("server:"))
    inside = server.partition("server:")[0] + "server: https://10.96.0.1:443"
    path = tmp_path / "kubeconfig"
    path.write_text("\n".join(inside if line == server else line for line in lines))
    yield path


def test_on_a_node_pods_and_services_are_reached_as_the_node_does(
    sandbox: Stage, kubeconfig: Path, tmp_path: Path
) -> None:
    script = SCRIPT % " ".join(INROAD)
    argv = ("unshare", "-m", "sh", "-c", script, "sh", str(kubeconfig), str(tmp_path))
    sandbox.run(*argv, place="node-1", user="root")
    assert '"subnets": []' in (tmp_path / "status").read_text(), (tmp_path / "status").read_text()
    pages = (tmp_path / "pages").read_text().splitlines()
    assert len(pages) == 8 and all('"namespace": "shop"' in page for page in pages)
    assert {page.split('"node": "')[1].split('"')[0] for page in pages} == {"node-1", "node-2"}
    assert "the workstation is inside it" in (tmp_path / "explained").read_text()
