"""Print everything about this host's network that inroad could change, as text that can be compared.

    python3 tools/host_dump.py > before
    inroad connect; inroad quit
    python3 tools/host_dump.py | diff before -

What changes by itself (packet counters, timers) is left out. Only the standard library is used.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("ip", "-o", "link", "show"),
    ("ip", "-o", "addr", "show"),
    ("ip", "-4", "rule", "show"),
    ("ip", "-6", "rule", "show"),
    ("ip", "-4", "route", "show", "table", "all"),
    ("ip", "-6", "route", "show", "table", "all"),
    ("ip", "netns", "list"),
    ("nft", "--stateless", "list", "ruleset"),
    ("iptables-save",),
    ("ip6tables-save",),
    ("resolvectl", "--no-pager", "dns"),
    ("resolvectl", "--no-pager", "domain"),
)
FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf")
SYSCTLS = ("net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter", "net/ipv6/conf/all/forwarding")
STATE = ("/run/inroad/daemon.sock", "/run/inroad/journal.json")
NOISE = re.compile(
    r"^#.*\n|\[\d+:\d+\]| (?:expires|preferred_lft|valid_lft|age) \w+|\bqlen \d+", re.MULTILINE
)


def section(title: str, text: str) -> str:
    """Return a titled, normalised piece of the dump."""
    return f"== {title}\n{NOISE.sub('', text).strip()}\n"


def dump() -> str:
    """Return the whole state as text."""
    parts = []
    for argv in COMMANDS:
        program = shutil.which(argv[0], path="/usr/sbin:/usr/bin:/sbin:/bin")
        if program is None:
            continue
        done = subprocess.run([program, *argv[1:]], capture_output=True, text=True, check=False)
        parts.append(section(" ".join(argv), done.stdout if done.returncode == 0 else "unavailable"))
    for name in FILES:
        path = Path(name)
        parts.append(section(name, path.read_text() if path.exists() else "absent"))
    for name in SYSCTLS:
        path = Path("/proc/sys") / name
        parts.append(section(name, path.read_text() if path.exists() else "absent"))
    parts.append(section("state files", "\n".join(name for name in STATE if Path(name).exists())))
    return "\n".join(parts)


if __name__ == "__main__":
    print(dump(), end="")
