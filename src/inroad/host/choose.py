"""What the platform decides for the whole workstation: places, and taking another user's identity."""

from __future__ import annotations

import sys
from collections.abc import Sequence

if sys.platform == "win32":
    STATE_DIRECTORY = r"C:\Program Files\inroad"
    SOCKET_PATH = r"\\.\pipe\inroad"
elif sys.platform == "darwin":
    STATE_DIRECTORY = "/var/run/inroad"
    SOCKET_PATH = f"{STATE_DIRECTORY}/daemon.sock"
else:
    STATE_DIRECTORY = "/run/inroad"
    SOCKET_PATH = f"{STATE_DIRECTORY}/daemon.sock"
JOURNAL_PATH = STATE_DIRECTORY + ("\\" if sys.platform == "win32" else "/") + "journal.json"
# Only administrators write there. Not from the environment: who elevates a program has a say in that.

if sys.platform == "win32":

    def become(user: int, group: int, groups: Sequence[int]) -> None:
        """Do nothing: on Windows a program has its user from its start (`conversation`)."""

    def account(user: int, group: int) -> tuple[str, str, tuple[int, ...]]:
        """Raise: there are no uids on Windows."""
        raise KeyError(user)

else:
    import os
    import pwd

    def become(user: int, group: int, groups: Sequence[int]) -> None:
        """Have that uid, gid and those groups only, for good; in a process that does nothing else.

        Who is that user already stays as is; anybody but root gets a PermissionError. So does a root without
        CAP_SETGID, as in a container, unless there is nothing to change.
        """
        is_user = os.getuid() == os.geteuid() == user
        if is_user and (user != 0 or {*os.getgroups(), os.getgid()} == {*groups, group}):
            return
        os.setgroups(list(groups)[: os.sysconf("SC_NGROUPS_MAX")])  # macOS: 16, and users may have more
        os.setgid(group)
        os.setuid(user)

    def account(user: int, group: int) -> tuple[str, str, tuple[int, ...]]:
        """Return a user's name, home and groups (`group` among them); raises KeyError when unknown."""
        found = pwd.getpwuid(user)
        return found.pw_name, found.pw_dir, tuple(os.getgrouplist(found.pw_name, group))
