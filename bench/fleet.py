"""What many agents cost one traffic-manager: `python -m bench.fleet [AGENTS]`.

The manager's own parts, with everything that a manager imports, in one process; real TLS links of as many
agents, made by another process. Agents' proofs are taken for granted, so that no API server is needed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import structlog
import uvloop

from bench.measures import Measure, Row
from bench.paths import Way
from inroad.core import messages
from inroad.core.messages import AgentHello, Agents, Welcome
from inroad.manager import main as _whole_manager  # noqa: F401 - for the memory that it takes
from inroad.manager.access import AccessRule
from inroad.manager.agents import AgentRegistry
from inroad.manager.authority import SERVER_NAME, make
from inroad.tunnel.tls import TlsLink, connect_tls, serve_tls

AGENTS = 500
IDLE = 10.0
"""Seconds over which the idle CPU time is measured."""


def resident() -> float:
    """Return this process's resident memory in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


async def prove(hello: AgentHello, address: str) -> tuple[str, str]:
    """Take an agent's word."""
    del address
    return hello.workload, ""


async def manage(number: int) -> dict[str, float]:
    """Admit so many agents and return what that took."""
    made = make(datetime.now(UTC), [SERVER_NAME])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    made.install(context)
    complete = asyncio.Event()

    def changed(agents: Agents) -> None:
        messages.encode(agents)  # as for a client
        if len(agents.agents) == number:
            complete.set()

    registry = AgentRegistry(prove, changed, AccessRule(by_namespace=False, secret=b"secret"))
    listener = socket.create_server(("127.0.0.1", 0))
    servers = await serve_tls([listener], context, registry.attach)
    before = resident()
    argv = [sys.executable, "-m", "bench.fleet", str(number), str(listener.getsockname()[1])]
    agents = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.PIPE)
    assert agents.stdin is not None
    agents.stdin.write(made.ca.encode())
    agents.stdin.close()
    await complete.wait()
    await asyncio.sleep(1)
    started, cpu = time.monotonic(), time.process_time()
    await asyncio.sleep(IDLE)
    idle = (time.process_time() - cpu) / (time.monotonic() - started)
    found = {"fleet_memory": resident(), "fleet_own": before, "fleet_idle": idle * 100}
    agents.terminate()
    await agents.wait()
    for server in servers:
        server.close()
    return found


async def pose(number: int, port: int, ca_pem: str) -> None:
    """Make so many agents' links and keep them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca_pem)
    links = []
    for index in range(number):
        welcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def set_up(link: TlsLink, index: int = index, welcome: asyncio.Future[None] = welcome) -> None:
            def on_control(payload: bytes) -> None:
                if isinstance(messages.decode_control(payload), Welcome):
                    welcome.set_result(None)

            link.on_control = on_control
            name, uid = f"web-7d4b9c5f6-{index:05}", f"00000000-0000-0000-0000-{index:012}"
            hello = AgentHello(
                messages.PROTOCOL_VERSION, "bench", "shop", name, uid, "sidecar", "deploy/web", "t" * 1_200
            )
            link.send_control(messages.encode(hello))

        links.append(await connect_tls("127.0.0.1", port, context, server_hostname=SERVER_NAME, setup=set_up))
        await welcome
    await asyncio.Event().wait()


def fleet(way: Way, seconds: int, directory: Path) -> dict[str, float]:
    """Measure it once, beside the sandbox: it needs no path."""
    del seconds, directory
    if way.name != "sandbox":
        return {}
    done = subprocess.run(
        [sys.executable, "-m", "bench.fleet"], capture_output=True, text=True, check=True, timeout=120
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


FLEET = Measure(
    "fleet",
    (
        Row("fleet_memory", f"Memory of a traffic-manager with {AGENTS} agents", "MB", more_is_better=False),
        Row("fleet_own", "Memory of one without any", "MB", more_is_better=False),
        Row("fleet_idle", f"CPU of one with {AGENTS} idle agents", "%", more_is_better=False),
    ),
    fleet,
)


def main(arguments: list[str]) -> None:
    """Be the manager and print its figures, or the agents, whose CA comes on stdin."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    number = int(arguments[0]) if arguments else AGENTS
    if len(arguments) > 1:
        uvloop.run(pose(number, int(arguments[1]), sys.stdin.read()))
    else:
        print(json.dumps(uvloop.run(manage(number))))


if __name__ == "__main__":
    main(sys.argv[1:])
