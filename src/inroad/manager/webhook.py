"""The HTTPS server that the API server asks about new pods, and what makes the API server trust it.

The chart creates the MutatingWebhookConfiguration; the manager writes its CA into it, and again from time to
time, because an upgrade of the chart may have taken it out. The configuration says `failurePolicy: Ignore`:
while the manager is away, pods are created without agents.
"""

from __future__ import annotations

import base64
import ssl

import msgspec
import structlog
from aiohttp import web

from inroad.core.errors import InroadError
from inroad.kube.client import ApiClient
from inroad.manager.injector import Injector

PORT = 15704
MAX_REVIEW = 4 << 20
"""Bytes of a question. etcd keeps no object beyond 1.5 MB by default, and there is one object in it."""
FIRST_NATIVE = (1, 29)
"""The first version in which init containers with `restartPolicy: Always` are on by default."""
JSON_PATCH = "application/json-patch+json"

log = structlog.get_logger()


async def serve_webhook(injector: Injector, context: ssl.SSLContext, port: int = PORT) -> web.AppRunner:
    """Answer reviews at `/mutate` on all addresses of the pod."""

    async def mutate(request: web.Request) -> web.Response:
        body = await request.read()  # beyond the limit aiohttp answers 413
        try:
            return web.Response(body=injector.answer(body), content_type="application/json")
        except msgspec.MsgspecError as error:
            return web.Response(status=400, text=f"no AdmissionReview: {error}\n")

    app = web.Application(client_max_size=MAX_REVIEW)
    app.add_routes([web.post("/mutate", mutate)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, port, ssl_context=context).start()
    return runner


class Registration:
    """This manager's entry among the cluster's webhooks: `traffic-manager-<namespace>`, made by the chart."""

    def __init__(self, api: ApiClient, namespace: str) -> None:
        self._api = api
        self._name = f"traffic-manager-{namespace}"
        self._problem = ""

    async def publish(self, ca_pem: str) -> None:
        """Have the API server trust certificates of this CA; what is in the way is logged, once."""
        path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{self._name}"
        bundle = base64.b64encode(ca_pem.encode()).decode()
        patch = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]
        problem = ""
        try:
            await self._api.send("PATCH", path, None, msgspec.json.encode(patch), content_type=JSON_PATCH)
        except InroadError as error:
            problem = str(error)
        if problem and problem != self._problem:
            log.warning("no sidecars are put into pods: the webhook can't be registered", reason=problem)
        self._problem = problem


async def knows_native_sidecars(api: ApiClient) -> bool:
    """Tell whether the cluster has init containers that go on running; False when it can't be found out."""
    try:
        version = msgspec.json.decode(await api.get("/version"), type=dict[str, str])
        found = int(version["major"]), int("".join(filter(str.isdigit, version["minor"])))
    except (InroadError, msgspec.MsgspecError, KeyError, ValueError) as error:
        log.info("the cluster's version is not known", reason=str(error))
        return False
    return found >= FIRST_NATIVE
