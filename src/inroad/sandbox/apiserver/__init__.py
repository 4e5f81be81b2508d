"""The sandbox's Kubernetes API server: what clients of a real one see, without etcd and kubelet.

Reading order is data order, three groups of files:

*Objects.* `resources` the kinds, `status` the errors, `names`, `objects`, `validation`, `defaults`,
`service_rules`, `services` the rules for objects; `collection` one resource's objects and history, `store`
all of them, which the sandbox's controllers use directly; `synthetic` fills it.

*Requests.* `server` listens and leads a request through `requests` (what a path asks for), `auth` and
`tokens` (who asks), `rights` (who may) to `handlers`: one method per verb. They use `bodies` (`protobuf`),
`admission` (`webhooks`), `patches`, `lists`, `watches`, `selectors`, `subresources`, `reviews`; answers leave
as `representation` says (`tables`, `cells`, `ages`) through `streams`. `documents` (`discovery`, `openapi`)
is what the server says about itself, `faults` what goes wrong on demand.

*Connections into pods.* `forwarding` finds the protocol, `takeover` takes the connection from HTTP,
`websocket` frames it; `portforward` and `spdyforward` (`spdy`) are the two ways to forward, `podlink` is the
socket in the pod.

`certs` and `kubeconfig` are for whoever starts a server.
"""

from inroad.sandbox.apiserver.auth import Authenticator, User, administrator
from inroad.sandbox.apiserver.certs import CertificateAuthority, KeyPair, server_context
from inroad.sandbox.apiserver.collection import Change
from inroad.sandbox.apiserver.kubeconfig import kubeconfig, write_kubeconfig
from inroad.sandbox.apiserver.rights import Rbac, Restricted, Restriction
from inroad.sandbox.apiserver.server import ApiServer
from inroad.sandbox.apiserver.status import ApiError
from inroad.sandbox.apiserver.store import Store
from inroad.sandbox.apiserver.tokens import TokenIssuer

__all__ = [
    "ApiError",
    "ApiServer",
    "Authenticator",
    "CertificateAuthority",
    "Change",
    "KeyPair",
    "Rbac",
    "Restricted",
    "Restriction",
    "Store",
    "TokenIssuer",
    "User",
    "administrator",
    "kubeconfig",
    "server_context",
    "write_kubeconfig",
]
