"""Errors that reach the user: whose fault, what to do next, and an exit code of their own.

Foreign exceptions are translated into these at the edges (`host`, `kube`, `tunnel`); nothing above an
edge sees an `OSError` of the network or an HTTP status. A message is one line: what was wanted and
what came. The remedy is one line: what to do, with a command where there is one.
"""

from __future__ import annotations

from typing import ClassVar


class InroadError(Exception):
    """Base of every error that is shown to the user.

    `code` names the error for programs (`-o json`), `exit_code` is what the command exits with.
    """

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}" if self.remedy else self.message


class NoPrivilege(InroadError):
    """No daemon runs and there is no way to start one with the rights it needs."""

    code, exit_code = "no-privilege", 10


class NoTunDevice(InroadError):
    """The kernel offers no TUN device (`/dev/net/tun`, utun; Windows: no wintun.dll)."""

    code, exit_code = "no-tun-device", 11


class KubeconfigMissing(InroadError):
    """The kubeconfig file does not exist."""

    code, exit_code = "kubeconfig-missing", 12


class KubeconfigUnreadable(InroadError):
    """The kubeconfig exists but can't be read or is not a kubeconfig."""

    code, exit_code = "kubeconfig-unreadable", 13


class ContextUnknown(InroadError):
    """The kubeconfig has no such context."""

    code, exit_code = "context-unknown", 14


class ApiUnreachable(InroadError):
    """Nothing answers at the API server's address."""

    code, exit_code = "api-unreachable", 15


class ApiCertificate(InroadError):
    """The API server's certificate is not signed by the kubeconfig's CA, or not for that name."""

    code, exit_code = "api-certificate", 16


class CredentialsRejected(InroadError):
    """The API server does not accept the credentials (401), or the exec plugin gave none."""

    code, exit_code = "credentials-rejected", 17


class NoManager(InroadError):
    """No traffic-manager runs in the manager namespace."""

    code, exit_code = "no-manager", 18


class Forbidden(InroadError):
    """RBAC denies what a connection needs (403), such as `pods/portforward`."""

    code, exit_code = "forbidden", 19


class ConnectedElsewhere(InroadError):
    """A session with another cluster, context or user is alive."""

    code, exit_code = "connected-elsewhere", 20


class NotConnected(InroadError):
    """The command needs a session and there is none."""

    code, exit_code = "not-connected", 21


class SubnetConflict(InroadError):
    """A cluster subnet overlaps a route of another interface."""

    code, exit_code = "subnet-conflict", 22


class ConfigInvalid(InroadError):
    """A configuration value is wrong."""

    code, exit_code = "config-invalid", 23


class HostChangeFailed(InroadError):
    """The operating system refused a route, address, rule or resolver setting."""

    code, exit_code = "host-change-failed", 24


class TunnelFailed(InroadError):
    """The link to the traffic-manager broke, or the peer does not speak our protocol."""

    code, exit_code = "tunnel-failed", 25


class NotVerified(InroadError):
    """Everything was set up, but a lookup or a dial through it did not work."""

    code, exit_code = "not-verified", 26


class ToolMissing(InroadError):
    """A program of the operating system that is needed is not installed."""

    code, exit_code = "tool-missing", 27


class SandboxFailed(InroadError):
    """The sandbox cluster could not be made, found or changed."""

    code, exit_code = "sandbox-failed", 28


class NamespaceUnknown(InroadError):
    """The cluster has no such namespace."""

    code, exit_code = "namespace-unknown", 29


class ApiFailed(InroadError):
    """The API server answered with an error that has no class of its own (404, 409, 422, 5xx)."""

    code, exit_code = "api-failed", 30


class InstallFailed(InroadError):
    """The cluster side could not be installed, changed or removed; helm's own words are in the message."""

    code, exit_code = "install-failed", 31


class Interrupted(InroadError):
    """The user pressed Ctrl-C; the host was put back."""

    code, exit_code = "interrupted", 130


def by_code(code: str, message: str, remedy: str = "") -> InroadError:
    """Rebuild an error that crossed a process boundary as (code, message, remedy)."""
    classes = {cls.code: cls for cls in InroadError.__subclasses__()}
    return classes.get(code, InroadError)(message, remedy)
