"""The redirection by iptables, where there is no nft (or one that can't own tables).

These rules outlive us, so they are journalled first; a chain that a crashed daemon left is replaced. One
`iptables-restore` a family makes the change at once.
"""

from __future__ import annotations

from collections.abc import Callable

from inroad.core.errors import HostChangeFailed
from inroad.host import run
from inroad.host.journal import Entry, Journal
from inroad.host.resolver.redirect import NAME, Redirection, iptables_rules

CHAIN = NAME.upper()
KIND = "resolver.iptables"
_PROGRAMS = {4: "iptables", 6: "ip6tables"}


class IptablesRedirect:
    """Rules in the chain `INROAD_DNS` of the nat tables, called first from OUTPUT."""

    tool = "iptables"

    def __init__(self, journal: Journal) -> None:
        self.on_lost: Callable[[], None] = lambda: None  # nobody tells of rules that somebody flushed
        self._journal = journal
        self._entry = 0
        self._families: set[int] = set()

    async def set(self, wanted: Redirection | None) -> None:
        """See `redirect.Redirect`."""
        families: set[int] = (
            {target[0].version for target, _ in wanted.pairs()} if wanted is not None else set()
        )
        if families and not self._entry:
            self._entry = self._journal.record(KIND, {"chain": CHAIN})
        try:
            for version in sorted(families):
                await self._replace(version, [] if wanted is None else iptables_rules(wanted, version))
        except HostChangeFailed:
            await self.close()
            raise
        for version in self._families - families:
            await remove(version)
        self._families = families
        if not families and self._entry:
            self._journal.done(self._entry)
            self._entry = 0

    async def _replace(self, version: int, rules: list[str]) -> None:
        fresh = version not in self._families
        if fresh:
            await remove(version)
        lines = ["*nat", f":{CHAIN} - [0:0]", *(f"-A {CHAIN} {rule}" for rule in rules)]
        if fresh:
            lines.append(f"-I OUTPUT 1 -j {CHAIN}")
            self._families.add(version)
        program = run.require(f"{_PROGRAMS[version]}-restore", "iptables")
        done = await run.run_async(
            [program, "--noflush", "--wait", "5"], stdin="\n".join([*lines, "COMMIT", ""])
        )
        if not done.ok:
            raise HostChangeFailed(
                f"{_PROGRAMS[version]} did not take the DNS redirection: {done.stderr.strip()}"
            )

    async def close(self) -> None:
        """Remove the rules of both families."""
        await self.set(None)


async def remove(version: int) -> bool:
    """Remove our chain and every call of it; tells whether there was one."""
    program = run.tool(_PROGRAMS[version])
    if program is None:
        return False
    base = [program, "--wait", "5", "-t", "nat"]
    if not (await run.run_async([*base, "-n", "-L", CHAIN])).ok:
        return False
    while (await run.run_async([*base, "-D", "OUTPUT", "-j", CHAIN])).ok:
        pass
    await run.run_async([*base, "-F", CHAIN])
    done = await run.run_async([*base, "-X", CHAIN])
    if not done.ok:
        raise HostChangeFailed(f"the chain {CHAIN} could not be removed: {done.stderr.strip()}")
    return True


async def undo(entry: Entry) -> str:
    """Remove what a crashed daemon left; see `inroad.host.cleanup`."""
    del entry
    found = [_PROGRAMS[version] for version in _PROGRAMS if await remove(version)]
    return f"removed the DNS redirection of {' and '.join(found)}" if found else ""
