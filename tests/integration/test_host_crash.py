"""`kill -9` at each step of changing the host, then clean-up: routes, rules and firewall are as they were.

The VIF is no part of this: it goes with its process (`test_vif_life`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from routes_stage import Host, workstation

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace")

DRIVER = """
import asyncio, json, os, re, signal, subprocess, sys, time
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
here, tool, journal_path, conf = sys.argv[1:]
sys.path.insert(0, here)
import routes_stage
from routes_stage import WANTED, nets
from inroad.core.host_config import FWMARK, HostConfig, ResolverConfig
from inroad.daemon.host_state import HostState
from inroad.host import journal, run
from inroad.host.cleanup import clean_up
from inroad.host.resolver.iptables import IptablesRedirect
from inroad.host.resolver.nft import NftRedirect
from inroad.host.resolver.overriding import OverridingResolver
from inroad.host.resolver.places import Places
from inroad.host.routes import netlink
from inroad.host.routes.linux import LinuxRoutes

NAMES = ResolverConfig(server=(ip_address("246.246.0.1"), 53), interface="inroad0", routed=("shop",))

def stepped(left):
    def step(work):
        def stepped(*arguments, **more):
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return work(*arguments, **more)
        return stepped
    netlink._BATCH = 1  # one step for each request
    for owner, name in (
        (netlink.Netlink, "_send_batch"), (journal, "_write"), (journal, "_sync_directory"),
        (run, "run_async"), (run, "spawn"), (NftRedirect, "_command"),
    ):
        setattr(owner, name, step(getattr(owner, name)))

async def change():
    written = journal.Journal(journal_path)
    host = HostState(LinuxRoutes(written), written)
    redirect = NftRedirect() if tool == "nft" else IptablesRedirect(written)
    host.resolver = OverridingResolver(redirect, Places(Path(conf)), reason="", mark=FWMARK)
    wanted = HostConfig(routes=WANTED, resolver=NAMES)
    await host.apply(wanted)
    grown = replace(WANTED, subnets=(*WANTED.subnets[1:], *nets("10.244.2.0/24")), never=())
    await host.apply(replace(wanted, routes=grown, resolver=replace(NAMES, server=(NAMES.server[0], 54))))
    await host.restore()
    await host.close()

def killed(left):
    '''Change the host in a process of its own; whether it was killed before it was done.'''
    child = os.fork()
    if not child:
        try:
            stepped(left)
            asyncio.run(change())
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def dump():
    rules = subprocess.run("nft --stateless list ruleset; iptables-save; ip6tables-save", shell=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return routes_stage.dump() + re.sub(r"^#.*|\\[\\d+:\\d+\\]", "", rules, flags=re.MULTILINE)

def settled(before):
    '''The kernel takes away an owner's rules in its own time.'''
    deadline = time.monotonic() + 5
    while (now := dump()) != before and time.monotonic() < deadline:
        time.sleep(0.02)
    return now == before

before, left, status = dump(), 0, -9
while status == -9:
    status = killed(left)
    touched = dump() != before
    pending = bool(journal.Journal(journal_path).pending())
    said = asyncio.run(clean_up(journal_path))
    print(json.dumps([status, touched, pending, said, settled(before), asyncio.run(clean_up(journal_path))]))
    left += 1
"""


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with workstation(tmp_path) as host:
        yield host


def prime() -> None:
    """Make the tables of iptables, which stay once anybody has used them."""
    for program in ("iptables", "ip6tables"):
        for verb in ("-A", "-D"):
            rule = ("OUTPUT", "-p", "udp", "--dport", "9", "-j", "ACCEPT")
            subprocess.run([program, "-t", "nat", verb, *rule], check=True)


@pytest.mark.parametrize(("tool", "least"), [("nft", 18), ("iptables", 30)])
async def test_killed_at_each_step(host: Host, tmp_path: Path, tool: str, least: int) -> None:
    prime()
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 192.168.7.1\n")
    here = str(Path(__file__).parent)
    argv = [sys.executable, "-c", DRIVER, here, tool, str(host.journal), str(conf)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    for number, (status, touched, pending, said, clean, again) in enumerate(steps):
        assert status in (-9, 0), (number, done.stderr)
        assert clean, f"step {number}: {said}"
        assert again == [], "clean-up is done once"
        assert not any(line.startswith("could not") for line in said)
        if tool == "iptables":
            assert pending or not touched, "no change is ever made unannounced"
            assert bool(said) == touched
    assert steps[-1][0] == 0 and steps[-1][1:] == [False, False, [], True, []]
    assert sum(touched for _, touched, *_ in steps) > least
    assert conf.read_text() == "nameserver 192.168.7.1\n"
