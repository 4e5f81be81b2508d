"""Agents on the user's wish: attached to a workload, or for a whole namespace.

Everything is done with the user's own rights in the cluster. What the cluster side then has to do (start
the container, admit the agent) is waited for, and what went wrong there is said here.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec

from inroad.core.errors import ConfigInvalid, NotVerified
from inroad.core.origin import Workload
from inroad.core.status import WorkloadStatus
from inroad.daemon.cluster_view import ClusterView, workload
from inroad.daemon.manager_link import ManagerLink
from inroad.kube import agents as kube
from inroad.kube.client import ApiClient

ARRIVAL = 60.0
"""Seconds that an agent may take to be there; a node may have to pull the image."""
LOOK_EVERY = 0.5


class Attachments:
    """What a session's user asked for beyond the connected namespace."""

    def __init__(
        self,
        cluster: ClusterView,
        manager: ManagerLink,
        api: ApiClient,
        update_host: Callable[[], Awaitable[None]],
    ) -> None:
        self._cluster = cluster
        self._manager = manager
        self._api = api
        self._update_host = update_host

    def _workload(self, text: str, namespace: str) -> Workload:
        return workload(text, namespace or self._cluster.namespace)

    async def attach(self, text: str, namespace: str) -> str:
        """Put an agent into a pod of the workload, unless it has one; returns what was done."""
        wanted = self._workload(text, namespace)
        self._cluster.check_namespace(wanted.namespace)
        origins = self._cluster.origins
        done = f"attached to {wanted}, which has an agent already"
        if not origins.has_agent(wanted):
            pod = await kube.pod_of(self._api, wanted.namespace, wanted.name)
            ticket = await self._manager.ticket(
                wanted.namespace, pod.metadata.name, pod.metadata.uid, wanted.name
            )
            name = f"inroad-agent-{secrets.token_hex(3)}"  # an ephemeral container's name is used up for ever
            container = kube.ephemeral_container(name, pod, wanted.namespace, wanted.name, ticket)
            await kube.inject(self._api, wanted.namespace, pod.metadata.name, container)
            await self._arrival(wanted, pod.metadata.name, name)
            done = f"attached to {wanted}: an agent runs in pod {pod.metadata.name}"
        attachments = tuple(dict.fromkeys((*origins.wishes.attachments, wanted)))
        await self._set(attachments)
        return done

    async def detach(self, text: str, namespace: str) -> str:
        """Give an attachment up; its agent ends when nobody else uses it."""
        wanted = self._workload(text, namespace)
        attachments = self._cluster.origins.wishes.attachments
        if wanted not in attachments:
            raise ConfigInvalid(f"{wanted} is not attached", "inroad list")
        await self._set(tuple(one for one in attachments if one != wanted))
        return f"detached from {wanted}"

    async def _set(self, attachments: tuple[Workload, ...]) -> None:
        origins = self._cluster.origins
        origins.set_wishes(replace(origins.wishes, attachments=attachments))
        self._manager.hold(origins.holds())
        await self._update_host()

    async def _arrival(self, wanted: Workload, pod: str, container: str) -> None:
        """Wait until the agent is admitted; says what the pod's status says when it is not."""
        loop = asyncio.get_running_loop()
        end = loop.time() + ARRIVAL
        problem = "its container has not started"
        while not self._cluster.origins.has_agent(wanted):
            if loop.time() > end:
                raise NotVerified(
                    f"the agent in pod {pod} did not arrive within {ARRIVAL:.0f} s: {problem}",
                    f"kubectl logs -n {wanted.namespace} {pod} -c {container}",
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._cluster.origins.changed.wait(), LOOK_EVERY)
            problem = await self._container_problem(wanted.namespace, pod, container) or problem

    async def _container_problem(self, namespace: str, pod: str, container: str) -> str:
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
        found = msgspec.json.decode(await self._api.get(path), type=dict[str, Any])
        for status in found.get("status", {}).get("ephemeralContainerStatuses", ()):
            if status.get("name") != container:
                continue
            for state, detail in (status.get("state") or {}).items():
                words = [state, detail.get("reason", ""), detail.get("message", "")]
                text = " ".join(word for word in words if word)
                if state == "terminated":
                    raise NotVerified(
                        f"the agent in pod {pod} ended at once: {text}",
                        f"kubectl logs -n {namespace} {pod} -c {container}",
                    )
                return f"its container is {text}"
        return ""

    async def add_agent(self, namespace: str) -> str:
        """Run an agent for a namespace."""
        namespace = namespace or self._cluster.namespace
        self._cluster.check_namespace(namespace)
        ticket = await self._manager.ticket(namespace, "", "", "")
        await kube.add_namespace_agent(self._api, namespace, ticket)
        origins = self._cluster.origins
        loop = asyncio.get_running_loop()
        end = loop.time() + ARRIVAL
        while not any(agent.namespace == namespace and agent.kind == "namespace" for agent in origins.agents):
            problem = await kube.deployment_problem(self._api, namespace)
            if problem:
                raise NotVerified(
                    f"the cluster makes no pod for the agent of namespace {namespace}: {problem}",
                    f"have that changed, or use a pod that runs: inroad attach -n {namespace} deploy/NAME",
                )
            if loop.time() > end:
                raise NotVerified(
                    f"the agent of namespace {namespace} did not arrive within {ARRIVAL:.0f} s",
                    f"kubectl describe pods -n {namespace} -l app.kubernetes.io/component=traffic-agent",
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(origins.changed.wait(), LOOK_EVERY)
        return f"an agent runs in namespace {namespace}"

    async def remove_agent(self, namespace: str) -> str:
        """End the agent of a namespace."""
        namespace = namespace or self._cluster.namespace
        await kube.remove_namespace_agent(self._api, namespace)
        return f"the agent of namespace {namespace} is gone"

    async def listing(self, namespace: str) -> list[WorkloadStatus]:
        """Return a namespace's workloads and the agents they have."""
        namespace = namespace or self._cluster.namespace
        origins = self._cluster.origins
        rows = []
        for name, ready, wanted in await kube.workloads(self._api, namespace):
            one = Workload(namespace, name)
            kinds = sorted({agent.kind for agent in origins.agents if one.owns(agent)})
            attached = one in origins.wishes.attachments
            rows.append(WorkloadStatus(name, ready, wanted, ", ".join(kinds), attached))
        return rows
