"""The sandbox's Kubernetes API server: what clients of a real one see, without etcd and kubelet.

Reading order is data order:

* `resources` the kinds, `status` the errors, `objects`, `names`, `defaults`, `services` the rules for objects
* `collection` one resource's objects and history, `store` all of them: what the sandbox's controllers use
* `requests` what a path asks for, `auth`, `tokens`, `rights` who may do it
* `handlers` one method per verb, `watches`, `selectors`, `documents` (discovery, version)
* `takeover`, `websocket`, `portforward` connections into pods
* `server` ties it together; `certs`, `kubeconfig` for whoever starts it
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
