"""Answers the API server's question about a pod that is about to be created (admission.k8s.io/v1).

Whatever the question, the pod is admitted; all that can happen to it is that it gets an agent.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from inroad.core.agent_container import AgentSpec
from inroad.core.injection import Decision, decide

log = structlog.get_logger()

API_VERSION, KIND = "admission.k8s.io/v1", "AdmissionReview"


class _Kind(msgspec.Struct):
    group: str = ""
    version: str = ""
    kind: str = ""


class _Request(msgspec.Struct, rename="camel"):
    uid: str
    kind: _Kind = msgspec.field(default_factory=_Kind)
    operation: str = ""
    namespace: str = ""
    sub_resource: str = ""
    object: dict[str, Any] | None = None


class _Review(msgspec.Struct):
    request: _Request


_decoder = msgspec.json.Decoder(_Review)


class Injector:
    """Decides over pods. `agent`: what an agent's container is; `managed`: whether a namespace is ours."""

    def __init__(self, agent: Callable[[], AgentSpec], managed: Callable[[str], bool]) -> None:
        self.native = False
        """True once the cluster is known to have init containers that go on running."""
        self._agent = agent
        self._managed = managed

    def answer(self, body: bytes) -> bytes:
        """Return the review with its response; raises `msgspec.MsgspecError` when it is no review."""
        request = _decoder.decode(body).request
        decision = self._decide(request)
        response: dict[str, Any] = {"uid": request.uid, "allowed": True}
        if decision.patch:
            response["patchType"] = "JSONPatch"
            response["patch"] = base64.b64encode(msgspec.json.encode(decision.patch)).decode()
        if decision.warning:
            response["warnings"] = [f"inroad puts no traffic-agent into this pod: {decision.reason}"]
        self._tell(request, decision)
        return msgspec.json.encode({"apiVersion": API_VERSION, "kind": KIND, "response": response})

    def _decide(self, request: _Request) -> Decision:
        if request.operation != "CREATE" or request.kind != _Kind("", "v1", "Pod") or request.sub_resource:
            return Decision(reason="not a pod that is created")
        if not self._managed(request.namespace):
            return Decision(reason="not a namespace of this traffic-manager")
        return decide(request.object or {}, self._agent(), native=self.native)

    def _tell(self, request: _Request, decision: Decision) -> None:
        if not decision.patch and not decision.warning:
            return
        metadata = (request.object or {}).get("metadata") or {}
        name = metadata.get("name") or metadata.get("generateName", "")
        if decision.patch:
            log.info("agent put into a pod", namespace=request.namespace, pod=name)
        else:
            log.warning(
                "no agent put into a pod", namespace=request.namespace, pod=name, reason=decision.reason
            )
