"""Which HTTP proxy leads to a server, by the environment's variables as Go programs read them.

Source: golang.org/x/net/http/httpproxy, which kubectl uses: loopback is never proxied, NO_PROXY holds
names (with their subdomains), addresses, CIDRs, and `*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit


def proxy_for(url: str, environ: Mapping[str, str]) -> str:
    """Return the proxy's URL for a server's `url`, "" for a direct connection."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    name = f"{parts.scheme}_proxy"
    proxy = environ.get(name.upper()) or environ.get(name) or ""
    excluded = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if not proxy or _is_loopback(host):
        return ""
    if any(_matches(host, port, entry.strip()) for entry in excluded.split(",")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _matches(host: str, port: int, entry: str) -> bool:
    """Tell whether an entry of NO_PROXY names `host`."""
    if not entry:
        return False
    if entry == "*":
        return True
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except (ValueError, TypeError):
        pass
    name, colon, wanted = entry.rpartition(":")
    if colon and wanted.isdigit():
        if int(wanted) != port:
            return False
        entry = name
    entry = entry.lower().strip("[]").removeprefix("*")
    if entry.startswith("."):
        return host.endswith(entry)
    return host == entry or host.endswith(f".{entry}")
