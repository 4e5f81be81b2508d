"""What flows cost in memory: idle ones next to nothing, stalled ones no more than their bounds."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

from tunnel_stage import Target, Tunnel, tcp_pair

from inroad.tunnel.pump import SocketPump

LOOPS = ("uvloop",)  # as in the programs
FLOWS = 1_000


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def test_an_idle_flow_costs_a_few_kilobytes_at_both_ends_together() -> None:
    async with Tunnel() as tunnel:
        with Target() as target:
            target.sock.listen(FLOWS)
            loop = asyncio.get_running_loop()

            async def one() -> list:
                flow, verdict = tunnel.ask("127.0.0.1", target.port)
                await verdict.future
                app, near = tcp_pair()
                SocketPump.attach(loop, near, flow)
                far = await target.accept()
                await loop.sock_sendall(app, b"x" * 100)
                assert len(await loop.sock_recv(far, 200)) == 100
                return [app, far]

            sockets = await one()
            gc.collect()
            before = resident()
            for _ in range(FLOWS):
                sockets += await one()
            gc.collect()
            each = (resident() - before) / FLOWS
            assert tunnel.link.stats()["flows"] == FLOWS + 1
            for sock in sockets:
                sock.close()
            # 10,000 flows may cost 150 MB at each end; the test's own sockets are in here too.
            assert each < 12_000
