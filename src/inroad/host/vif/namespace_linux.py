"""The private network namespace, and what ties the packet loop's life to the daemon's."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from inroad.host.vif.api import NoNamespace

assert sys.platform == "linux"  # noqa: S101

_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

SYSCTLS = {
    "net/ipv4/ip_forward": "0",
    # The strictest of `all` and the interface counts, and IPv4 settings are inherited from init's.
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/log_martians": "0",
    # A SYN is let in after the far side has answered: a cookie would forget its options for nothing.
    "net/ipv4/tcp_syncookies": "0",
    "net/ipv4/tcp_max_syn_backlog": "4096",
    "net/core/somaxconn": "4096",
    # Connections that outlive the daemon must not keep the namespace for long.
    "net/ipv4/tcp_orphan_retries": "3",
    "net/ipv4/tcp_fin_timeout": "15",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/default/disable_ipv6": "0",
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
}


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when `parent` (its pid) ends."""
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the call
        os._exit(0)


def enter_private() -> None:
    """Move this process into a new, empty network namespace. Raises `NoNamespace`."""
    if _libc.unshare(_CLONE_NEWNET) != 0:
        why = os.strerror(ctypes.get_errno())
        raise NoNamespace(f"a private network namespace can't be made: {why}")


@contextlib.contextmanager
def visiting(namespace: int, home: int) -> Iterator[None]:
    """Be in another network namespace for a while; both are descriptors of namespaces."""
    _setns(namespace)
    try:
        yield
    finally:
        _setns(home)


def _setns(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def set_sysctls(values: dict[str, str]) -> list[str]:
    """Write settings of the present namespace; return those this kernel or container does not let us set."""
    refused = []
    for name, value in values.items():
        try:
            (Path("/proc/sys") / name).write_text(value)
        except OSError as problem:
            if problem.errno != errno.ENOENT:  # an option that this kernel was built without
                refused.append(name)
    return refused
