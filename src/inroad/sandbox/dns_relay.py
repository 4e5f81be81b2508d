"""The workstation's side of `up --upstream workstation`: what the cluster's DNS asks goes to its resolver.

As the embedded server of a container engine does it on a developer's machine: each query is sent on, byte
for byte, to the first name server of the workstation's /etc/resolv.conf, from the workstation itself.
`python -m inroad.sandbox.dns_relay ADDRESS...` listens on port 53 of these addresses.
"""

from __future__ import annotations

import sys

from inroad.sandbox import dns_server
from inroad.sandbox.dns_forward import exchange

RESOLV_CONF = "/etc/resolv.conf"


def name_server() -> str:
    """Return the first name server of /etc/resolv.conf, read anew: it may have changed."""
    with open(RESOLV_CONF, encoding="utf-8") as lines:  # noqa: PTH123 - pathlib costs start-up time
        for line in lines:
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                return words[1]
    raise OSError("there is no name server in /etc/resolv.conf")


def main() -> None:
    """Relay for ever."""

    def relay(packet: bytes, tcp: bool) -> bytes | None:
        return exchange(packet, (name_server(), 53), tcp=tcp)

    for thread in dns_server.listen(sys.argv[1:], dns_server.Concurrent(relay)):
        thread.join()


if __name__ == "__main__":
    main()
