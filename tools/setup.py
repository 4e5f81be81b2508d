"""Bring a machine to where a make target works: `python3 tools/setup.py demo|test|check|bench`.

Only the standard library is used, since nothing else is there yet. Two things are made: Debian packages
whose programs are absent, and `.venv` from the pinned requirements. Both are said before they are done,
and nothing happens when nothing is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
MINIMUM = (3, 11)

# Program -> Debian package. Programs are what is used, so programs are what is looked for.
BASE = {"ip": "iproute2", "nft": "nftables", "iptables": "iptables", "conntrack": "conntrack"}
CLIENTS = {"curl": "curl", "dig": "dnsutils", "nc": "netcat-openbsd", "sudo": "sudo"}
PEERS = {
    "iperf3": "iperf3",
    "wrk": "wrk",
    "haproxy": "haproxy",
    "dnsperf": "dnsperf",
    "dnsmasq": "dnsmasq-base",
    "sshuttle": "sshuttle",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
}
CLUSTER = {
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "dnsmasq": "dnsmasq-base",
    "sshuttle": "sshuttle",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
}
PROGRAMS: dict[str, dict[str, str]] = {
    "demo": BASE | CLIENTS,
    "test": BASE | CLIENTS,
    "bench": BASE | CLIENTS | PEERS,
    "e2e": BASE | CLIENTS | CLUSTER,
    "check": {},
}
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "demo": ("build", "runtime"),
    "bench": ("build", "runtime"),
    "test": ("dev",),
    "e2e": ("dev",),
    "check": ("dev",),
}
SEARCH_PATH = os.pathsep.join(
    [
        os.environ.get("PATH", ""),
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
)


class SetupFailed(Exception):
    """Something is missing that this script can't bring; the text says what to do."""


def say(text: str) -> None:
    """Print one line, at once."""
    print(f"setup: {text}", flush=True)


def missing_packages(purpose: str) -> list[str]:
    """Return the Debian packages whose programs are not on this machine."""
    programs = PROGRAMS[purpose]
    return sorted({pkg for name, pkg in programs.items() if shutil.which(name, path=SEARCH_PATH) is None})


@contextlib.contextmanager
def no_services() -> Iterator[None]:
    """Keep Debian from starting the services of the packages installed meanwhile (haproxy, iperf3)."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def install_packages(packages: list[str]) -> None:
    """Install Debian packages, saying which."""
    if not packages:
        return
    command = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise SetupFailed(f"these Debian packages (or your system's own) are needed: {' '.join(packages)}")
    if os.geteuid() != 0:
        raise SetupFailed(f"not root, and programs are missing; run: sudo {command}")
    say(f"installing Debian packages: {' '.join(packages)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    argv = ["apt-get", "-y", "-qq", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300"]
    install = [*argv, "install", "--no-install-recommends", *packages]
    with no_services():
        for step in ([*argv, "update"], install):
            done = subprocess.run(
                step, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
            if done.returncode and step is install:
                raise SetupFailed(f"{command} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def find_python() -> str:
    """Return a Python that is new enough; the one that runs this, when it is."""
    if sys.version_info >= MINIMUM:
        return sys.executable
    for name in ("python3.14", "python3.13", "python3.12", "python3.11"):
        probe = shutil.which(name)
        if probe and works(probe, "-c", ""):
            return probe
    raise SetupFailed(
        f"Python {MINIMUM[0]}.{MINIMUM[1]} or newer is needed, this is {sys.version.split()[0]}"
    )


def works(*argv: str | Path) -> bool:
    """Say whether a command can be run and ends with 0; what it prints is nobody's business."""
    try:
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def make_venv() -> None:
    """Make `.venv` where there is none that works."""
    if works(VENV / "bin/python", "-m", "pip", "--version"):
        return
    chosen = find_python()
    if not works(chosen, "-c", "import ensurepip, venv"):
        install_packages(["python3-venv"])
    say(f"making .venv with {chosen}")
    subprocess.run([chosen, "-m", "venv", "--clear", str(VENV)], check=True, stdin=subprocess.DEVNULL)


def pip(*arguments: str) -> None:
    """Run the environment's pip quietly."""
    argv = [str(VENV / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    if subprocess.run(argv, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode:
        raise SetupFailed(f"failed: {' '.join(argv)}")


def install_once(name: str, sources: list[Path], *arguments: str) -> None:
    """Run pip unless the stamp in `.venv` says that it ran with exactly these files."""
    stamp = VENV / f".stamp-{name}"
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    say(f"installing {name} into .venv")
    pip("install", *arguments)
    stamp.write_text(digest)


def install_python_packages(purpose: str) -> None:
    """Fill `.venv` from the pinned requirements, then with the project itself."""
    make_venv()
    for name in REQUIREMENTS[purpose]:
        pins = ROOT / "requirements" / f"{name}.txt"
        if name != "dev" and (VENV / ".stamp-dev").exists():
            install_once(
                "dev", [pins.with_name("dev.txt")], "--require-hashes", "-r", str(pins.with_name("dev.txt"))
            )
        else:
            install_once(name, [pins], "--require-hashes", "-r", str(pins))
    install_once("inroad", [ROOT / "pyproject.toml"], "--no-deps", "--no-build-isolation", "-e", str(ROOT))


def main() -> int:
    """Set up for the purpose named on the command line."""
    if len(sys.argv) != 2 or sys.argv[1] not in PROGRAMS:
        print(f"usage: setup.py {'|'.join(PROGRAMS)}", file=sys.stderr)
        return 2
    purpose = sys.argv[1]
    try:
        install_packages(missing_packages(purpose))
        install_python_packages(purpose)
    except SetupFailed as problem:
        print(f"setup: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
