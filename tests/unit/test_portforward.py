"""What a node says when it can't forward is told from other ends."""

from __future__ import annotations

import pytest

from inroad.kube.portforward import nobody_listened

BEGIN = "port-forward: error forwarding port 15701 to pod 0badc0de, uid : "
NAMESPACE = 'failed to execute portforward in network namespace "/var/run/netns/cni-1": '
CONTAINERD = f'{BEGIN}{NAMESPACE}failed to connect to localhost:15701 inside namespace "0badc0de", '
V4 = "IPv4: dial tcp4 127.0.0.1:15701: connect: connection refused "


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # containerd, for a closed port as for Kata and gVisor
        (f"{CONTAINERD}{V4}IPv6 dial tcp6 [::1]:15701: connect: connection refused ", True),
        (f"{CONTAINERD}{V4}IPv6 dial tcp6: address localhost: no suitable address found", True),
        # containerd before 1.5, by socat
        (
            f'{BEGIN}{NAMESPACE}socat command returns error: exit status 1, stderr: "E connect(5, AF=2 '
            '127.0.0.1:15701, 16): Connection refused"',
            True,
        ),
        # CRI-O
        (f"{BEGIN}failed to dial 15701: dial tcp4 127.0.0.1:15701: connect: connection refused", True),
        (f"{BEGIN}failed to find sandbox: not found", False),
        ("port-forward: connection refused by nobody in particular", False),
        ("the API server closed the port-forward, code 1006", False),
    ],
)
def test_nobody_listened(text: str, wanted: bool) -> None:
    assert nobody_listened(text) is wanted
