"""What listens in a side loop's own event loop, in the place of a named pipe of Windows: a Unix socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any


def listen_on(path: Path, owner: int = -1) -> Callable[[asyncio.AbstractEventLoop, Any], Callable[[], None]]:
    """Return what a `SideLoop` takes to listen; `owner`: the socket's uid, -1 for this process's."""

    def listen(loop: asyncio.AbstractEventLoop, factory: Any) -> Callable[[], None]:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        os.chown(path, owner, -1)
        listener.listen()
        listener.setblocking(False)

        async def accept() -> None:
            while True:
                sock, _ = await loop.sock_accept(listener)
                await loop.connect_accepted_socket(factory, sock)

        task = loop.create_task(accept())

        def stop() -> None:
            task.cancel()
            listener.close()
            path.unlink()

        return stop

    return listen
