"""What the platform decides for everything that starts programs: how to take another user's identity."""

from __future__ import annotations

import sys
from collections.abc import Sequence

if sys.platform == "win32":

    def become(user: int, group: int, groups: Sequence[int]) -> None:
        """Raise: there are no uids on Windows."""
        raise PermissionError("programs can't be started as another user on Windows")

    def account(user: int, group: int) -> tuple[str, str, tuple[int, ...]]:
        """Raise: there are no uids on Windows."""
        raise KeyError(user)

    def end_group(leader: int) -> None:
        """Raise: there are no process groups on Windows."""
        raise ProcessLookupError(leader)

else:
    import os
    import pwd
    import signal

    def become(user: int, group: int, groups: Sequence[int]) -> None:
        """Have that uid, gid and those groups only, for good; in a process that does nothing else.

        Who is that user already stays as is; anybody but root gets a PermissionError. So does a root without
        CAP_SETGID, as in a container, unless there is nothing to change.
        """
        is_user = os.getuid() == os.geteuid() == user
        if is_user and (user != 0 or {*os.getgroups(), os.getgid()} == {*groups, group}):
            return
        os.setgroups(list(groups))
        os.setgid(group)
        os.setuid(user)

    def account(user: int, group: int) -> tuple[str, str, tuple[int, ...]]:
        """Return a user's name, home and groups (`group` among them); raises KeyError when unknown."""
        found = pwd.getpwuid(user)
        return found.pw_name, found.pw_dir, tuple(os.getgrouplist(found.pw_name, group))

    def end_group(leader: int) -> None:
        """Kill every process of a group; raises ProcessLookupError when there is none left."""
        os.killpg(leader, signal.SIGKILL)
