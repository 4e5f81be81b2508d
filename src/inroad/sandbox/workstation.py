"""The developer's workstation: users, their homes and kubeconfigs, and who may use sudo."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

from collections.abc import Mapping
from pathlib import Path

from inroad.sandbox.place import FileSpec

USERS: Mapping[str, int] = {"root": 0, "dev": 2001, "guest": 2002}
"""Name and uid. `dev` may use sudo without a password, `guest` may not use it at all."""
HOMES = "/run/home"
SUDOERS = """\
Defaults env_reset
Defaults secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
root ALL=(ALL:ALL) ALL
dev ALL=(ALL:ALL) NOPASSWD: ALL
"""


def home_of(user: str) -> str:
    """Return a user's home directory."""
    return f"{HOMES}/{user}"


def files(kubeconfig: str, path: Path) -> dict[str, FileSpec]:
    """Return the workstation's own files; `path` is the kubeconfig's on the host, valid inside too."""
    # "*" rather than "x": there is no /etc/shadow entry to look for.
    passwd = "".join(f"{name}:*:{uid}:{uid}::{home_of(name)}:/bin/sh\n" for name, uid in USERS.items())
    passwd += "nobody:*:65534:65534::/nonexistent:/usr/sbin/nologin\n"
    found = {
        "/etc/passwd": FileSpec(passwd + system_entries("/etc/passwd")),
        "/etc/group": FileSpec(
            "".join(f"{name}:x:{uid}:\n" for name, uid in USERS.items()) + system_entries("/etc/group")
        ),
        "/etc/sudoers": FileSpec(SUDOERS, mode=0o440),
        str(path): FileSpec(kubeconfig, mode=0o600),
    }
    for name, uid in USERS.items():
        found[f"{home_of(name)}/"] = FileSpec("", 0o755, uid)
        found[f"{home_of(name)}/.kube/"] = FileSpec("", 0o755, uid)
        found[f"{home_of(name)}/.kube/config"] = FileSpec(kubeconfig, 0o600, uid)
    return found


def system_entries(path: str) -> str:
    """Return the host's entries of /etc/passwd or /etc/group for system accounts (ids 1 to 999)."""
    lines = Path(path).read_text().splitlines()
    return "".join(f"{line}\n" for line in lines if 0 < int(line.split(":")[2]) < 1000)
