"""A pod's port over a WebSocket of the API server.

Subprotocol `v4.channel.k8s.io` (kubelet, and every container runtime behind it): a message is a channel
number and bytes. Channel 0 is data, 1 errors; the first message on each is the port, two bytes, little
endian. Only loopback ports of the pod are reached, so RBAC on `pods/portforward` guards them.
"""

from __future__ import annotations

from inroad.core.errors import Forbidden
from inroad.kube.client import ApiClient
from inroad.kube.failures import ApiStatus
from inroad.kube.upgrade import Upgraded

PROTOCOL = "v4.channel.k8s.io"


def nobody_listened(reason: str) -> bool:
    """Tell whether a forward ended because the pod's node found nothing on the port.

    The node's words come over channel 1: of containerd ("failed to connect to localhost:15701 inside
    namespace ...: connect: connection refused"; before 1.5 socat's "Connection refused"), of CRI-O ("failed
    to dial 15701: ..."). For Kata and gVisor they are the very same, whether somebody listens or not: these
    runtimes keep the pod's loopback to themselves, and the node dials in a namespace that is empty
    (kata-containers/kata-containers#10843, google/gvisor#3811).
    """
    return "error forwarding port" in reason and "connection refused" in reason.lower()


async def port_forward(client: ApiClient, namespace: str, pod: str, port: int) -> Upgraded:
    """Open a WebSocket to `port` on the loopback of a pod.

    Raises `Forbidden` saying what to grant, `ApiStatus` (404: no such pod; 500 and 502: kubelet or pod not
    ready), `ApiUnreachable`. That nothing listens on the port is said on channel 1 only.
    """
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward"
    try:
        upgraded = await client.upgrade(path, {"ports": str(port)}, [PROTOCOL])
    except Forbidden as error:
        # A WebSocket is a GET, so RBAC asks for `get`; SPDY's POST, and newer servers for both, `create`.
        raise Forbidden(
            f"no right to port-forward to pod {pod} in namespace {namespace}",
            f"grant get and create on pods/portforward there; check: "
            f"kubectl auth can-i create pods/portforward -n {namespace}",
        ) from error
    if upgraded.subprotocol != PROTOCOL:
        upgraded.close()
        raise ApiStatus(502, "Protocol", f"the API server does not speak {PROTOCOL} for port-forwards")
    return upgraded
