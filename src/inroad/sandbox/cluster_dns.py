"""Cluster DNS, as a pod runs it: answers from what the API server says, following it by watches.

`python -m inroad.sandbox.cluster_dns` inside a pod. Until the first lists are complete every answer is
SERVFAIL and the readiness port (8181) is closed: not knowing yet is not the same as "no such name".
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from inroad.sandbox import dns_server
from inroad.sandbox import dns_wire as dns
from inroad.sandbox.dns_forward import Forwarder
from inroad.sandbox.dns_zone import Records

Json = dict[str, Any]
SECRETS = Path("/var/run/secrets/kubernetes.io/serviceaccount")
RESOURCES = {
    "namespaces": "/api/v1/namespaces",
    "services": "/api/v1/services",
    "endpointslices": "/apis/discovery.k8s.io/v1/endpointslices",
}
RETRY = 0.2
READY_PORT = 8181
NO_SUCH = dns.soa((), 30, 1, minimum=30)
"""The root's SOA, for names outside the cluster when nobody is asked for them."""


class Follower(threading.Thread):
    """Keeps the records true to one resource: list, then watch, and again when the watch breaks."""

    def __init__(self, resource: str, records: Records) -> None:
        super().__init__(daemon=True, name=resource)
        self.resource = resource
        self.records = records
        self.synced = threading.Event()
        self._tls = ssl.create_default_context(cafile=str(SECRETS / "ca.crt"))

    def run(self) -> None:
        """Follow for ever."""
        while True:
            try:
                version = self._list()
                self.synced.set()
                while version:
                    version = self._watch(version)
            except (OSError, http.client.HTTPException, ValueError) as error:
                print(f"{self.resource}: {error}", file=sys.stderr, flush=True)
            time.sleep(RETRY)

    def _get(
        self, query: str, timeout: float
    ) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=self._tls)
        token = (SECRETS / "token").read_text().strip()
        connection.request(
            "GET", RESOURCES[self.resource] + query, headers={"Authorization": f"Bearer {token}"}
        )
        response = connection.getresponse()
        if response.status != 200:
            raise OSError(f"the API server answered {response.status} {response.reason}")
        return connection, response

    def _list(self) -> str:
        connection, response = self._get("", 10)
        body = json.load(response)
        connection.close()
        self.records.replace(self.resource, body["items"])
        return str(body["metadata"]["resourceVersion"])

    def _watch(self, version: str) -> str:
        """Apply events until the watch ends; return where to go on, or "" when a new list is needed."""
        query = f"?watch=1&allowWatchBookmarks=true&timeoutSeconds=600&resourceVersion={version}"
        connection, response = self._get(query, 660)
        try:
            while line := response.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return ""  # 410 Gone: that version is no longer kept
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    self.records.change(self.resource, event["type"], event["object"])
        finally:
            connection.close()
        return version


class Responder:
    """Answers packets: cluster names from the records, others by the forwarder, if there is one."""

    def __init__(self, records: Records, synced: Callable[[], bool], forwarder: Forwarder | None) -> None:
        self._records = records
        self._synced = synced
        self._forwarder = forwarder

    def respond(self, packet: bytes, tcp: bool) -> bytes | None:
        """Return the answer to a packet."""
        foreign: list[bytes] = []

        def resolve(query: dns.Query) -> dns.Answer:
            answer = self._resolve(query, tcp)
            if answer is None:
                foreign.append(packet)
            return answer or dns.Answer(dns.NXDOMAIN, authority=[NO_SUCH], authoritative=False)

        own = dns_server.answering(resolve)(packet, tcp)
        if not foreign or self._forwarder is None:
            return own
        return self._forwarder.ask(packet, tcp) or dns.error(packet, dns.SERVFAIL)

    def _resolve(self, query: dns.Query, tcp: bool) -> dns.Answer | None:
        """Answer a question; None when it is for the forwarder, or for nobody."""
        if not self._synced():
            return dns.Answer(dns.SERVFAIL, authoritative=False)
        answer = self._records.resolve(query)
        if answer is None or not answer.answer or self._forwarder is None:
            return answer
        last = answer.answer[-1]
        if last.kind != dns.CNAME or query.kind == dns.CNAME:
            return answer
        target, _ = dns.read_name(last.data, 0)
        if self._records.ours(dns.text_of(target)):
            return answer
        found = self._forwarder.ask(dns.question(target, query.kind), tcp)
        more = dns.addresses_in(found) if found else []
        return dns.Answer(answer=[*answer.answer, *more])


def main() -> None:
    """Serve."""
    records = Records(domain=os.environ.get("CLUSTER_DOMAIN", "cluster.local"), now=time.time)
    followers = [Follower(resource, records) for resource in RESOURCES]
    for follower in followers:
        follower.start()

    forwarder = None
    if server := os.environ.get("FORWARD"):
        keep = float(os.environ.get("FORWARD_CACHE") or 0)
        forwarder = Forwarder((server, 53), folding=bool(os.environ.get("FORWARD_FOLD")), keep=keep)
    responder = Responder(records, lambda: all(one.synced.is_set() for one in followers), forwarder)
    respond = dns_server.Concurrent(responder.respond) if forwarder else responder.respond
    dns_server.listen(dns_server.Everywhere, respond)
    for follower in followers:
        follower.synced.wait()
    _ReadyServer(("", READY_PORT), _Ready).serve_forever()


class _ReadyServer(HTTPServer):
    def server_bind(self) -> None:
        if socket.has_dualstack_ipv6():
            self.socket.close()
            self.socket = socket.socket(socket.AF_INET6)
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)


class _Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"OK\n")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: a probe comes every few seconds."""


if __name__ == "__main__":
    main()
