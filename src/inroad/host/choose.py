"""What the platform decides for everything that starts programs: how to take another user's identity."""

from __future__ import annotations

import sys
from collections.abc import Sequence

if sys.platform == "win32":

    def become(user: int, group: int, groups: Sequence[int]) -> None:
        """Raise: there are no uids on Windows."""
        raise PermissionError("programs can't be started as another user on Windows")

else:
    import os

    def become(user: int, group: int, groups: Sequence[int]) -> None:
        """Have that uid, gid and those groups only, for good; for a new process between fork and exec."""
        os.setgroups(list(groups))
        os.setgid(group)
        os.setuid(user)
