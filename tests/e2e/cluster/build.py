"""Compile the cluster's programs once and keep them outside the tree.

They are Go tools of public modules (go/go.mod names the releases). The directory is keyed by those files and
the Go release, so only a machine's first run, or a changed release, builds.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

MODULE = Path(__file__).parent / "go"
VERSION_PACKAGES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")

# In this order, so that what the first ones compile the later ones find compiled.
PROGRAMS = {
    "pause": "./pause",
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "coredns": "./coredns",
}
NEEDED_BYTES = 6 << 30
DOWNLOADS = 3
"""How often a broken download is tried."""

Say = Callable[[str], None]


class BuildFailed(RuntimeError):
    """The programs could not be built; the message says what is missing or what Go said."""


def release() -> str:
    """Return the Kubernetes release that go.mod names, such as `v1.34.4`."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    if not found:
        raise BuildFailed(f"{MODULE}/go.mod names no k8s.io/kubernetes")
    return found[1]


def go_version() -> str:
    """Return the Go release that will compile, `go1.26.1`; raise when there is none that can."""
    go = shutil.which("go")
    wanted = re.search(r"^go (\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    need = f"Go {wanted[1] if wanted else ''} or newer builds the test cluster (once)"
    if go is None:
        raise BuildFailed(f"{need}, and there is no `go` in PATH. Or set INROAD_E2E_KUBECONFIG to a cluster")
    done = subprocess.run([go, "env", "GOVERSION"], cwd=MODULE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildFailed(f"{need}: {done.stderr.strip()}")
    return done.stdout.strip()


def cache_root() -> Path:
    """Return the directory that holds all builds."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "inroad-e2e"


def key() -> str:
    """Return the name of this build: release, Go release, and a digest of everything that is compiled."""
    digest = hashlib.sha256()
    for path in sorted(p for p in MODULE.rglob("*") if p.is_file()):
        digest.update(path.relative_to(MODULE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update("\0".join(PROGRAMS).encode())
    return f"{release()}-{go_version()}-{digest.hexdigest()[:10]}"


def link_flags() -> str:
    """Return the linker flags: no symbols, and the release stamped where `--version` looks."""
    major, minor, _ = release().removeprefix("v").split(".", 2)
    stamps = {"gitVersion": release(), "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    values = [
        f"-X {package}.{name}={value}" for package in VERSION_PACKAGES for name, value in stamps.items()
    ]
    return " ".join(["-s", "-w", *values])


def given() -> dict[str, Path]:
    """Return the programs that KUBEBUILDER_ASSETS offers in place of our own."""
    directory = os.environ.get("KUBEBUILDER_ASSETS", "")
    found = (
        {name: Path(directory) / name for name in ("kube-apiserver", "etcd", "kubectl")} if directory else {}
    )
    return {name: path for name, path in found.items() if path.exists()}


def binaries(say: Say = lambda line: print(line, file=sys.stderr, flush=True)) -> Path:
    """Return the directory with all programs: those that are given, the others built where missing."""
    target = cache_root() / key()
    assets = given()
    wanted = [name for name in PROGRAMS if name not in assets]
    target.mkdir(parents=True, exist_ok=True)
    with (cache_root() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once: the second one waits and finds the work done
        missing = [name for name in wanted if not (target / name).exists()]
        if missing:
            _build(target, missing, say)
        return _with_given(target, assets, say) if assets else target


def _with_given(target: Path, assets: Mapping[str, Path], say: Say) -> Path:
    """Return a directory with the given programs, and links to ours for the rest."""
    mixed = target.with_name(f"{target.name}-given")
    mixed.mkdir(exist_ok=True)
    for name in PROGRAMS:
        draft = mixed / f".{name}"
        draft.unlink(missing_ok=True)
        if name in assets:
            shutil.copy2(assets[name], draft)
            say(f"{name} is that of {assets[name].parent}")
        else:
            draft.hardlink_to(target / name)
        draft.replace(mixed / name)
    return mixed


def _go(environment: Mapping[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    """Run Go in the module, after everybody else."""
    line = ["nice", "-n", "10", "go", *argv]
    return subprocess.run(line, cwd=MODULE, env=environment, capture_output=True, text=True, check=False)


def download(programs: Sequence[str], environment: Mapping[str, str], say: Say) -> None:
    """Fetch the modules that the programs are made of, and no others; once more when that breaks off.

    What is on the disk already is not fetched again, so a run that was cut goes on where it was.
    """
    begun = time.monotonic()
    for attempt in range(1, DOWNLOADS + 1):
        done = _go(environment, "list", "-deps", *(PROGRAMS[name] for name in programs))
        if done.returncode == 0:
            say(f"  the modules: {time.monotonic() - begun:.0f} s")
            return
        if attempt < DOWNLOADS:
            say(f"  a download failed, trying again: {_last_line(done.stderr)}")
    proxy = _go(environment, "env", "GOPROXY").stdout.strip()
    raise BuildFailed(
        f"the sources of the test cluster's programs could not be downloaded (GOPROXY={proxy}):\n"
        f"{done.stderr.strip()[-2000:]}\n"
        "Check the network and GOPROXY and run it again, it goes on where it was; or set "
        "INROAD_E2E_KUBECONFIG to an existing cluster"
    )


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["go said nothing"])[-1]


def _build(target: Path, missing: list[str], say: Say) -> None:
    free = shutil.disk_usage(target).free
    if free < NEEDED_BYTES:
        raise BuildFailed(
            f"building needs {NEEDED_BYTES >> 30} GiB below {target}, {free >> 30} GiB are free"
        )
    say(f"building {len(missing)} programs of Kubernetes {release()} into {target} (once)")
    objects = cache_root() / "objects"  # kept when a build is interrupted, removed when it is done
    environment = os.environ | {"CGO_ENABLED": "0", "GOCACHE": str(objects), "GOFLAGS": "-mod=readonly"}
    begun = time.monotonic()
    download(missing, environment, say)
    for number, name in enumerate(missing, start=1):
        started = time.monotonic()
        out = target / f".{name}.{os.getpid()}"
        flags = ("-trimpath", "-ldflags", link_flags(), "-o", str(out))
        done = _go(environment, "build", *flags, PROGRAMS[name])
        if done.returncode:
            out.unlink(missing_ok=True)
            raise BuildFailed(f"{name} did not build:\n{done.stderr[-4000:]}")
        out.rename(target / name)
        size = (target / name).stat().st_size >> 20
        say(f"  {number}/{len(missing)} {name}: {time.monotonic() - started:.0f} s, {size} MiB")
    shutil.rmtree(objects, ignore_errors=True)
    say(f"built in {time.monotonic() - begun:.0f} s")
