"""Listening sockets of the programs in the cluster."""

from __future__ import annotations

import socket

import structlog

log = structlog.get_logger(__name__)


def loopback_listeners(port: int) -> list[socket.socket]:
    """Listen on 127.0.0.1 and, where the pod has IPv6, ::1; raises OSError when the first is taken."""
    listeners = [listen(socket.AF_INET, "127.0.0.1", port)]
    try:
        listeners.append(listen(socket.AF_INET6, "::1", port))
    except OSError as error:
        log.info("no IPv6 loopback here", error=str(error))
    return listeners


def listen(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    """Return a non-blocking socket that listens; raises OSError."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setblocking(False)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.listen(128)
    return listener
