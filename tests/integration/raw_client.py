"""A client that asks for what ours never would: `python raw_client.py PORT VIA HOST:PORT...` in a pod.

It connects to PORT of the pod's loopback. VIA is an agent's pod, or "-". Prints, as JSON, what became of each
dial: `opened`, or the reason of the refusal.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys

from inroad.core import messages
from inroad.core.flows import Refusal
from inroad.core.messages import Agents, Dial, Hello
from inroad.tunnel.api import Quiet
from inroad.tunnel.stream import connect_stream

DEADLINE = 20.0


class Verdict(Quiet):
    """Waits for the far side's answer."""

    def __init__(self) -> None:
        self.future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def flow_opened(self) -> None:
        """It is connected."""
        self.future.set_result("opened")

    def flow_refused(self, reason: Refusal, detail: str) -> None:
        """It is not."""
        self.future.set_result(f"{reason.name}: {detail}")


async def ask(port: int, via: str, targets: list[str]) -> dict[str, str]:
    """Return what became of a dial to each target."""
    link = await connect_stream(socket.create_connection(("127.0.0.1", port)))
    agents: asyncio.Future[Agents] = asyncio.get_running_loop().create_future()

    def on_control(payload: bytes) -> None:
        message = messages.decode_control(payload)
        if isinstance(message, Agents) and not agents.done():
            agents.set_result(message)

    link.on_control = on_control
    link.send_control(messages.encode(Hello(messages.PROTOCOL_VERSION, "raw", "shop")))
    number = ""
    if via != "-":
        found = await asyncio.wait_for(agents, DEADLINE)
        number = next(one.id for one in found.agents if one.pod == via)
    verdicts = {}
    for target in targets:
        host, _, text = target.rpartition(":")
        verdict = Verdict()
        link.open(messages.encode(Dial("tcp", host.strip("[]"), int(text), via=number)), verdict)
        verdicts[target] = await asyncio.wait_for(verdict.future, DEADLINE)
    link.close()
    return verdicts


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))))
