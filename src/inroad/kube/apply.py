"""Applying and removing whole objects, as `kubectl apply --server-side` does; waiting for a Deployment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from inroad.core.errors import ApiFailed
from inroad.kube.client import ApiClient
from inroad.kube.failures import ApiStatus

Object = Mapping[str, Any]

NOT_FOUND = 404
FIELD_MANAGER = "inroad"
APPLY_TYPE = "application/apply-patch+yaml"  # JSON is YAML


def path_of(body: Object) -> str:
    """Return an object's URL path. Kinds are those of our own manifest: their plurals are regular."""
    version, kind, metadata = body["apiVersion"], body["kind"], body["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"{root}{namespace}/{kind.lower()}s/{metadata['name']}"


async def apply(client: ApiClient, objects: Iterable[Object]) -> None:
    """Create or change objects so that they are as given; fields that others set stay."""
    options = {"fieldManager": FIELD_MANAGER, "force": "true"}
    for body in objects:
        await client.send("PATCH", path_of(body), options, msgspec.json.encode(body), content_type=APPLY_TYPE)


async def remove(client: ApiClient, objects: Iterable[Object], timeout: float) -> int:
    """Delete objects and what they own, and wait until they are gone; return how many there were.

    Raises `ApiFailed` when one is still there after `timeout` seconds.
    """
    found = 0
    for path in [path_of(body) for body in objects]:
        try:
            await client.delete(path, {"propagationPolicy": "Foreground"})
        except ApiStatus as error:
            if error.status != NOT_FOUND:
                raise
        else:
            found += 1
            await _wait_gone(client, path, timeout)
    return found


async def _wait_gone(client: ApiClient, path: str, timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            while True:
                await client.get(path)
                await asyncio.sleep(0.2)
    except ApiStatus as error:
        if error.status != NOT_FOUND:
            raise
    except TimeoutError:
        raise ApiFailed(f"{path} is still there after {timeout:.0f} s", f"kubectl get --raw {path}") from None


class _Status(msgspec.Struct, rename="camel"):
    observed_generation: int = 0
    updated_replicas: int = 0
    available_replicas: int = 0
    replicas: int = 0


class _Spec(msgspec.Struct):
    replicas: int = 1


class _Metadata(msgspec.Struct):
    generation: int = 0


class _Deployment(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec
    status: _Status = msgspec.field(default_factory=_Status)

    @property
    def complete(self) -> bool:
        """True when every pod is of the newest template, ready, and there are no others."""
        status, wanted = self.status, self.spec.replicas
        counts = (status.updated_replicas, status.available_replicas, status.replicas)
        return status.observed_generation >= self.metadata.generation and set(counts) == {wanted}


async def wait_complete(client: ApiClient, namespace: str, name: str, timeout: float) -> None:
    """Wait until a Deployment is rolled out; raises `ApiFailed` after `timeout` seconds."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
    decoder = msgspec.json.Decoder(_Deployment)
    try:
        async with asyncio.timeout(timeout):
            while not decoder.decode(await client.get(path)).complete:  # noqa: ASYNC110 - it is elsewhere
                await asyncio.sleep(0.5)
    except TimeoutError:
        raise ApiFailed(
            f"deployment {name} in namespace {namespace} is not ready after {timeout:.0f} s",
            f"kubectl describe pods -n {namespace} -l app.kubernetes.io/component={name}",
        ) from None
