"""Which of the caller's variables go to the daemon's child that loads the kubeconfig.

An exec plugin may read any variable of its user's (AWS_PROFILE, VAULT_ADDR, a proxy), as it would under
kubectl. So all of them go along, except those that change how a program is loaded: the child is a Python
of the daemon's before it is the user's plugin, and it shall run the code that is installed.
"""

from __future__ import annotations

from collections.abc import Mapping

LOADER_PREFIXES = ("LD_", "DYLD_", "PYTHON", "GLIBC_", "MALLOC_", "BASH_FUNC_")
LOADER_NAMES = frozenset(
    {"BASH_ENV", "ENV", "GCONV_PATH", "LOCPATH", "NLSPATH", "OPENSSL_CONF", "OPENSSL_MODULES"}
)
MAX_TOTAL = 128 * 1024
"""Bytes; the daemon takes requests up to twice this size. The longest variables are left out first."""


def credential_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that go along, `MAX_TOTAL` bytes of names and values at most."""
    chosen = {name: value for name, value in environ.items() if _goes_along(name, value)}
    sizes = {name: len(name) + len(value.encode()) for name, value in chosen.items()}
    total = sum(sizes.values())
    for name in sorted(chosen, key=sizes.__getitem__, reverse=True):
        if total <= MAX_TOTAL:
            break
        total -= sizes[name]
        del chosen[name]
    return chosen


def _goes_along(name: str, value: str) -> bool:
    if name in LOADER_NAMES or name.startswith(LOADER_PREFIXES):
        return False
    try:
        (name + value).encode()  # JSON carries text only; bytes that are not UTF-8 arrive here as surrogates
    except UnicodeEncodeError:
        return False
    return True
