"""What is measured against. Each server is a context manager that yields when it listens."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.places import Place

IPERF, HTTP, UDP, DNS = 5201, 8088, 7007, 53
NAMES = 1000

HAPROXY_BASE = """
global
    maxconn 4000
    stats timeout 30s
defaults
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    maxconn 4000
"""
HTTP_SERVER = """
frontend hello
    mode http
    option http-keep-alive
    bind :{port}
    http-request return status 200 content-type text/plain string "hello\\n"
"""
SSH = 2222
SSHD = """
Port 2222
HostKey {host_key}
AuthorizedKeysFile {key}.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
"""
RELAY = """
listen port{port}
    mode tcp
    bind :{port}
    server next {target}:{port}
"""


@contextlib.contextmanager
def haproxy(place: Place, directory: Path, config: str, port: int) -> Iterator[None]:
    """Run haproxy in the foreground with the given sections."""
    file = directory / f"haproxy-{place.name.replace('/', '-')}.cfg"
    file.write_text(HAPROXY_BASE + config)
    with place.process("haproxy", "-db", "-f", str(file), log=file.with_suffix(".log")):
        place.wait_listening(port)
        yield


@contextlib.contextmanager
def targets(place: Place, directory: Path) -> Iterator[None]:
    """Run iperf3, an HTTP server (haproxy answering by itself: C, and not the bottleneck), and UDP echo."""
    with (
        place.process("iperf3", "-s", "-p", str(IPERF)),
        place.process(sys.executable, "-m", "bench.udp_tool", "echo", str(UDP)),
        haproxy(place, directory, HTTP_SERVER.format(port=HTTP), HTTP),
    ):
        place.wait_listening(IPERF)
        yield


@contextlib.contextmanager
def relay(place: Place, directory: Path, target: str) -> Iterator[None]:
    """Run a TCP relay towards the next hop for both targets."""
    sections = "".join(RELAY.format(port=port, target=target) for port in (IPERF, HTTP))
    with haproxy(place, directory, sections, HTTP):
        yield


@contextlib.contextmanager
def sshd(place: Place, directory: Path) -> Iterator[Path]:
    """Run an SSH server for one key, and yield that key's file."""
    key, host_key, config = directory / "key", directory / "host-key", directory / "sshd.conf"
    for file in (key, host_key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    config.write_text(SSHD.format(host_key=host_key, key=key))
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists on this directory
    with place.process("/usr/sbin/sshd", "-D", "-f", str(config), log=directory / "sshd.log"):
        place.wait_listening(SSH)
        yield key


@contextlib.contextmanager
def wild_dnsmasq(place: Place, address: str, domain: str) -> Iterator[None]:
    """Run dnsmasq with an address for every name below `domain`."""
    flags = ["--no-resolv", "--no-hosts", f"--address=/{domain}/10.96.0.1", "--local-ttl=60", "--pid-file"]
    flags += [f"--listen-address={address}", "--bind-interfaces", "--cache-size=0"]
    with place.process("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", *flags):
        place.wait_listening(DNS, "udp")
        yield


@contextlib.contextmanager
def dnsmasq(place: Place, directory: Path) -> Iterator[None]:
    """Run dnsmasq with `NAMES` names of its own, nameN.bench.test."""
    hosts = directory / "dnsmasq-hosts"
    hosts.write_text("".join(f"10.96.{n // 250}.{n % 250 + 1} name{n}.bench.test\n" for n in range(NAMES)))
    flags = ["--no-resolv", "--no-hosts", f"--addn-hosts={hosts}", "--cache-size=10000", "--local-ttl=60"]
    with place.process("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", *flags):
        place.wait_listening(DNS, "udp")
        yield
