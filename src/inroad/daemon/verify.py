"""Proof that a connection works: a real lookup and a real dial, as any application would do them.

Both go the whole way: the host's own resolver, our DNS server, the tunnel, the cluster's name server;
then the VIF, the tunnel and the API server's Service, which every cluster has.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
import time

from inroad.core.errors import NotVerified

TIMEOUT = 8.0


async def look_up(domain: str) -> str:
    """Resolve the API server's Service through the host's resolver; returns its address as text."""
    name = f"kubernetes.default.svc.{domain}"
    try:
        async with asyncio.timeout(TIMEOUT):
            return await _resolve(name)
    except TimeoutError:
        raise NotVerified(
            f"the lookup of {name} got no answer within {TIMEOUT:.0f} s", "inroad status"
        ) from None
    except socket.gaierror as error:
        raise NotVerified(
            f"the lookup of {name} through this host's resolver failed: {error.strerror}",
            "check that the cluster's DNS runs: kubectl get pods -n kube-system -l k8s-app=kube-dns",
        ) from None


async def _resolve(name: str) -> str:
    """Resolve in a thread that nothing waits for.

    The event loop would wait for its own when it ends: glibc goes on for 5 s after our DNS server has closed,
    and so would a daemon that was interrupted here.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def settle(address: str, error: OSError | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(address)

    def work() -> None:
        address, problem = "", None
        try:
            address = str(socket.getaddrinfo(name, 443, type=socket.SOCK_STREAM)[0][4][0])
        except OSError as error:
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, address, problem)

    threading.Thread(target=work, name="verify", daemon=True).start()
    return await answer


async def dial(address: str, port: int = 443) -> float:
    """Connect to a Service through the VIF; returns the milliseconds it took."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    loop = asyncio.get_running_loop()
    started = time.monotonic()
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            async with asyncio.timeout(TIMEOUT):
                await loop.sock_connect(sock, (address, port))
        except TimeoutError:
            problem = f"no answer within {TIMEOUT:.0f} s"
        except OSError as error:
            number = error.errno if error.errno is not None else errno.EIO
            problem = os.strerror(number).lower()
        else:
            return (time.monotonic() - started) * 1000
    raise NotVerified(
        f"a connection to the API server's service {address}:{port} through the VIF failed: {problem}",
        "a host firewall or a VPN may drop it; see inroad status",
    )
