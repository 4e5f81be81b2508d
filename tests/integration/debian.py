"""Programs of Debian that tests need and that must not be installed: extracted into a directory.

Installing systemd-resolved would replace the machine's `/etc/resolv.conf`, a name server would start.
The packages come through apt, so from wherever this machine's packages come; they are kept between runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import platformdirs
import pytest

_NETWORK = os.open("/proc/self/ns/net", os.O_RDONLY)
"""The machine's own: a test may be in one without a way out when it wants a program."""
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu")


@cache
def extracted(*packages: str) -> Path:
    """Return a directory with the files of the packages and of what they need beyond what is installed."""
    apt = shutil.which("apt-get")
    if apt is None:
        pytest.skip("needs Debian's packages")
    root = Path(platformdirs.user_cache_dir("inroad-tests")) / "-".join(packages)
    done = root / ".complete"
    if done.exists():
        return root
    archives = root / "archives"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    options = [f"-oDir::Cache::archives={archives}", "-oDebug::NoLocking=1", "-oAPT::Sandbox::User=root"]
    command = [
        "nsenter",
        f"--net=/proc/self/fd/{_NETWORK}",
        apt,
        "install",
        "-y",
        "-qq",
        "--download-only",
        "--no-install-recommends",
        *options,
        *packages,
    ]
    fetched = subprocess.run(command, capture_output=True, text=True, check=False, pass_fds=[_NETWORK])
    found = sorted(archives.glob("*.deb"))
    if fetched.returncode or not found:
        pytest.skip(f"can't get {' '.join(packages)}: {fetched.stderr.strip()[-200:]}")
    for archive in found:
        subprocess.run(["dpkg", "-x", archive, root / "files"], check=True)
    shutil.rmtree(archives)
    done.touch()
    return root


def program(package: str, path: str) -> tuple[str, dict[str, str]]:
    """Return a program of a package and the environment in which it finds its libraries."""
    files = extracted(package) / "files"
    libraries = [files / directory / more for directory in LIBRARIES for more in ("", "systemd")]
    search = ":".join(str(library) for library in libraries if library.is_dir())
    return str(files / path), {**os.environ, "LD_LIBRARY_PATH": search}
