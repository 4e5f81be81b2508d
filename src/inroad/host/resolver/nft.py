"""The redirection by nftables, in a table that a child of ours owns.

The child is `nft -i` on a pipe. Its table has `flags owner`: the kernel removes it when the child's
netlink socket closes, and the child ends when our end of the pipe does. So the rules can't outlive the
daemon, not even after `kill -9`. Nobody else can change the table meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from inroad.core.errors import HostChangeFailed
from inroad.host import run
from inroad.host.resolver.redirect import NAME, Redirection, nft_commands

PATIENCE = 5.0
TAKEN_PATIENCE = 2.0
"""Seconds for the child of a daemon that was just killed to be gone, and its table with it."""
_SYNC = "inroad-sync"


class NftRedirect:
    """Rules in the table `inet inroad_dns`."""

    tool = "nft"

    def __init__(self) -> None:
        self.on_lost: Callable[[], None] = lambda: None
        self._child: asyncio.subprocess.Process | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._syncs = 0

    async def set(self, wanted: Redirection | None) -> None:
        """See `redirect.Redirect`."""
        if wanted is None:
            await self.close()
            return
        if self._child is None or self._child.returncode is not None:
            self._child = await self._start()
            self._waiting = asyncio.create_task(self._until_gone(self._child))
        loop = asyncio.get_running_loop()
        end = loop.time() + TAKEN_PATIENCE
        while True:
            problem = await self._command(nft_commands(wanted))
            if not problem:
                return
            if ("not permitted" not in problem and "exists" not in problem) or loop.time() > end:
                raise HostChangeFailed(f"nft did not take the DNS redirection: {problem}")
            await asyncio.sleep(0.05)

    async def _until_gone(self, child: asyncio.subprocess.Process) -> None:
        await child.wait()
        if child is self._child:  # else we ended it
            self._child = None
            self.on_lost()

    async def _start(self) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        nft = run.require("nft", "nftables")
        # A session of its own: Ctrl-C in the daemon's terminal must not reach it before the daemon is done.
        return await run.spawn([nft, "-i"], stdin=pipe, stderr=pipe, new_session=True)

    async def _command(self, line: str) -> str:
        """Run one line; returns nft's complaint, or ""."""
        child = self._child
        if child is None or child.stdin is None or child.stderr is None:
            raise HostChangeFailed("nft is not running")
        self._syncs += 1
        marker = f"{_SYNC}-{self._syncs}"
        # nft acknowledges nothing. A second, wrong line does: its error quotes it, behind all others.
        child.stdin.write(f"{line}\n{marker}\n".encode())
        said = b""
        try:
            async with asyncio.timeout(PATIENCE):
                while marker.encode() not in said:
                    part = await child.stderr.readline()
                    if not part:
                        raise HostChangeFailed(f"nft -i ended: {said.decode(errors='replace').strip()}")
                    said += part
                await child.stderr.readline()  # the ^^^ under the marker
        except TimeoutError:
            raise HostChangeFailed(f"nft did not react within {PATIENCE:.0f} s") from None
        errors = [text for text in said.decode(errors="replace").splitlines() if "Error:" in text]
        return "; ".join(errors[:-1]).strip()  # the last one is the marker's

    async def close(self) -> None:
        """End the child: the kernel removes its table."""
        child, self._child = self._child, None
        if child is None:
            return
        if child.stdin is not None:
            child.stdin.close()
        try:
            async with asyncio.timeout(PATIENCE):
                await child.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()


async def can_own() -> bool:
    """Tell whether nft is there and table owners are known to it and to the kernel; nothing is changed."""
    program = run.tool("nft")
    if program is None:
        return False
    done = await run.run_async([program, "-c", "add table inet inroad_probe { flags owner; }"])
    return done.ok


async def present() -> bool:
    """Tell whether the table is there, whoever owns it."""
    done = await run.run_async([run.require("nft", "nftables"), "list", "table", "inet", NAME])
    return done.ok
