"""What is said when the cluster refuses an agent: who refuses, and what to do."""

from __future__ import annotations

import json

import pytest

from inroad.core.errors import Forbidden, InroadError
from inroad.kube.agents import refused
from inroad.kube.failures import ApiStatus, Request, from_status

PATCH = Request.of("PATCH", "/api/v1/namespaces/shop/pods/web-1/ephemeralcontainers")
RBAC = (
    'pods "web-1" is forbidden: User "dev" cannot patch resource "pods/ephemeralcontainers" '
    'in API group "" in the namespace "shop"'
)
POD_SECURITY = (
    'pods "web-1" is forbidden: violates PodSecurity "restricted:latest": '
    'runAsNonRoot != true (container "web" must set securityContext.runAsNonRoot=true)'
)
WEBHOOK = 'admission webhook "validate.policy.example" denied the request: images must come from our registry'


@pytest.mark.parametrize(
    ("status", "said", "who", "remedy"),
    [
        (403, RBAC, "cannot patch resource", "ask for the right to patch pods/ephemeralcontainers"),
        (403, POD_SECURITY, "Pod Security in namespace shop", "make it conform"),
        (403, WEBHOOK, "a policy of the cluster", "ask whoever keeps the policy"),
        (400, WEBHOOK, "a policy of the cluster", "ask whoever keeps the policy"),
    ],
)
def test_a_refusal_says_who_refused_and_what_to_do(status: int, said: str, who: str, remedy: str) -> None:
    body = json.dumps({"message": said, "code": status}).encode()
    found = refused(from_status("https://api", PATCH, status, body), "shop")
    assert isinstance(found, Forbidden)
    assert who in found.message
    assert remedy in found.remedy
    assert "inroad agent add -n shop" in found.remedy


def test_what_is_no_refusal_stays_what_it_is() -> None:
    error: InroadError = ApiStatus(404, "NotFound", "there is no such pod")
    assert refused(error, "shop") is error
