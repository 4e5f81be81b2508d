"""Which way a program gets a user's rights here."""

from __future__ import annotations

import sys
from collections.abc import Sequence

if sys.platform == "win32":

    async def converse(
        argv: Sequence[str], given: bytes, *, token: object, limit: int
    ) -> tuple[bytes, bytes]:
        """Run a program with the rights of a `UserToken` only; see `conversation_windows`."""
        from inroad.host.conversation import conversation_windows  # noqa: PLC0415

        if not isinstance(token, conversation_windows.UserToken):
            raise PermissionError("whose rights the program shall have is not known")
        return await conversation_windows.converse(token, argv, given, limit=limit)

else:

    async def converse(
        argv: Sequence[str], given: bytes, *, token: object, limit: int
    ) -> tuple[bytes, bytes]:
        """Run a program that will become the user by itself; see `conversation_posix`."""
        from inroad.host import run  # noqa: PLC0415
        from inroad.host.conversation import conversation_posix  # noqa: PLC0415

        del token
        env = {"PATH": run.TRUSTED_PATH, "LANG": "C.UTF-8"}
        return await conversation_posix.converse(argv, given, env=env, limit=limit)
