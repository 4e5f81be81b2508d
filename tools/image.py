"""Make the container image without a container engine: `python tools/image.py [TARGET]`.

Three layers: a few Debian packages unpacked (no package manager, no shell), the pinned Python dependencies,
and our wheel, all compiled beforehand, since the image's root is mounted read-only. `Containerfile` describes
the same image for those who build with an engine.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tools import oci  # noqa: E402 - a script: its own directory is what Python puts first

RELEASE = "bookworm"
PYTHON = "3.11"
LIBRARIES = "usr/local/lib/python3.11/dist-packages"
USER = 65532

# The interpreter and what its modules link to; nft and what it links to, for the client's overriding
# resolver; and the certificates that public API servers are signed with.
PACKAGES = {
    "python": "libc6 libgcc-s1 libcrypt1 zlib1g libbz2-1.0 liblzma5 libffi8 libexpat1 libssl3 libuuid1"
    " libsqlite3-0 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib",
    "nft": "nftables libnftables1 libnftnl11 libmnl0 libjansson4 libgmp10 libedit2 libbsd0 libmd0 libtinfo6"
    " libxtables12",
    "certificates": "ca-certificates",
}

# Left out: 74 MB of model classes, which only kubeconfigs with a pre-2019 `auth-provider` need.
WITHOUT = {"kubernetes"}

NEEDLESS = (
    "usr/share/doc usr/share/man usr/share/lintian usr/share/locale usr/share/python3 usr/share/binfmts"
    " usr/share/applications usr/share/pixmaps usr/share/menu usr/share/bug usr/lib/python3.11/ensurepip"
    " usr/lib/python3.11/lib2to3 usr/lib/python3.11/distutils usr/lib/python3.11/pydoc_data"
    " usr/lib/python3.11/idlelib usr/lib/python3.11/turtledemo usr/lib/python3.11/test"
    " usr/lib/x86_64-linux-gnu/gconv usr/lib/x86_64-linux-gnu/perl etc/python3.11 var"
)
NEEDLESS_ENDINGS = (".pyx", ".pxd", ".pxi", ".c", ".h", ".a", ".pyi")

ENTRY = """#!/usr/bin/python3.11
import sys
from inroad.cli.main import main
sys.exit(main())
"""
ETC = {
    "etc/passwd": f"root:x:0:0::/root:/sbin/nologin\nnonroot:x:{USER}:{USER}::/tmp:/sbin/nologin\n",
    "etc/group": f"root:x:0:\nnonroot:x:{USER}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
CONFIG = {
    "Entrypoint": ["/usr/local/bin/inroad"],
    "User": f"{USER}:{USER}",
    "WorkingDir": "/",
    "Env": [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/tmp",
        "PYTHONDONTWRITEBYTECODE=1",
        "PYTHONUNBUFFERED=1",
    ],
    "Labels": {"org.opencontainers.image.title": "inroad", "org.opencontainers.image.licenses": "Apache-2.0"},
}


class ImageFailed(RuntimeError):
    """The image could not be made; the message says what is missing."""


def command(*argv: str | Path, **options: object) -> str:
    """Run a program; return its output, or raise `ImageFailed` with its words."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise ImageFailed(f"{' '.join(map(str, argv))}: {done.stderr.strip() or done.stdout.strip()}")
    return str(done.stdout)


def check_host() -> None:
    """Raise `ImageFailed` where Debian's packages would be others than those named here."""
    release = Path("/etc/os-release").read_text() if Path("/etc/os-release").exists() else ""
    if f"VERSION_CODENAME={RELEASE}" not in release or platform.machine() != "x86_64":
        raise ImageFailed(
            f"this makes the image of the packages of Debian {RELEASE} on x86_64; here, build Containerfile"
        )
    if os.geteuid():
        raise ImageFailed("root is needed to run the image's own Python; or build Containerfile")


def base_layer(root: Path, debs: Path) -> None:
    """Unpack the Debian packages and remove what no program of ours reads."""
    names = " ".join(PACKAGES.values()).split()
    debs.mkdir(parents=True, exist_ok=True)
    download = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *names]
    try:
        command(*download, cwd=debs)
    except ImageFailed:  # lists that are missing or old
        command("apt-get", "-qq", "update")
        command(*download, cwd=debs)
    for directory in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / directory).mkdir(parents=True, exist_ok=True)
        (root / directory).symlink_to(f"usr/{directory}")
    for deb in sorted(debs.glob("*.deb")):
        unpack = 'dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2"'
        command("sh", "-c", unpack, "sh", deb, root)
    write_certificates(root)
    for path in NEEDLESS.split():
        shutil.rmtree(root / path, ignore_errors=True)
    for name, text in ETC.items():
        (root / name).write_text(text)
    (root / "usr/bin/python3").symlink_to("python3.11")
    for directory in ("tmp", "run", "var/tmp", "proc", "sys", "dev", "usr/local/bin"):
        (root / directory).mkdir(parents=True, exist_ok=True)


def write_certificates(root: Path) -> None:
    """Join Mozilla's certificates into the one file that OpenSSL reads."""
    source = root / "usr/share/ca-certificates"
    (root / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
    bundle = "".join(path.read_text() for path in sorted(source.rglob("*.crt")))
    (root / "etc/ssl/certs/ca-certificates.crt").write_text(bundle)
    (root / "usr/lib/ssl").mkdir(exist_ok=True)
    for name, target in {"cert.pem": "/etc/ssl/certs/ca-certificates.crt", "certs": "/etc/ssl/certs"}.items():
        (root / "usr/lib/ssl" / name).unlink(missing_ok=True)
        (root / "usr/lib/ssl" / name).symlink_to(target)
    shutil.rmtree(source)


def dependencies(project: str = "inroad") -> set[str]:
    """Return the names of all packages that the project needs at run time on Linux, less `WITHOUT`."""
    found: set[str] = set()
    wanted = [project]
    while wanted:
        for text in metadata.requires(wanted.pop()) or []:
            requirement = Requirement(text)
            name = canonicalize_name(requirement.name)
            needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if needed and name not in found | WITHOUT:
                found.add(name)
                wanted.append(name)
    return found


def pins(names: Iterable[str]) -> str:
    """Return the lines of `requirements/runtime.txt` for these packages, hashes included."""
    wanted = set(names)
    kept: list[str] = []
    keep = False
    for line in (ROOT / "requirements/runtime.txt").read_text().splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            keep = canonicalize_name(line.split("==")[0]) in wanted
        if keep:
            kept.append(line)
    return "\n".join(kept) + "\n"


def install(root: Path, *arguments: str | Path) -> None:
    """Have pip install wheels for the image's Python into `root`."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in (36, 35, 34, 31, 28, 27, 24, 17, 12, 5)]
    tags = [f"--platform={tag}" for tag in [*platforms, "manylinux2014_x86_64", "linux_x86_64"]]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--no-compile"]
    target = root / LIBRARIES
    command(
        *pip,
        f"--python-version={PYTHON}",
        *tags,
        "--only-binary=:all:",
        "--no-deps",
        f"--target={target}",
        *arguments,
    )
    shutil.rmtree(target / "bin", ignore_errors=True)
    for path in [p for p in target.rglob("*") if p.suffix in NEEDLESS_ENDINGS]:
        path.unlink()


def compile_all(root: Path, *where: str) -> None:
    """Compile with the image's own interpreter; by hash, unchecked: nobody can change the sources there."""
    options = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    command("chroot", root, "/usr/bin/python3.11", *options, *where)


def new_layer(root: Path, before: set[Path], scratch: Path) -> oci.Layer:
    """Pack what was added to `root` since `before`, with the directories above it."""
    shutil.rmtree(scratch, ignore_errors=True)
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if relative in before:
            continue
        target = scratch / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            target.symlink_to(path.readlink())
        elif path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            os.link(path, target)
    return oci.tree_layer(scratch, {"tmp": 0o1777, "var/tmp": 0o1777})


def contents(root: Path) -> set[Path]:
    """Return all paths below `root`, relative to it."""
    return {path.relative_to(root) for path in root.rglob("*")}


def build_wheel(directory: Path) -> Path:
    """Build the project's wheel."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    command(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", directory, ROOT)
    return next(directory.glob("inroad-*.whl"))


def make(target: Path, say: Callable[[str], None]) -> None:
    """Make the image at `target`."""
    check_host()
    with tempfile.TemporaryDirectory(prefix="inroad-image-") as temporary:
        work = Path(temporary)
        root = work / "root"
        root.mkdir()
        layers: list[oci.Layer] = []

        def base() -> None:
            base_layer(root, work / "debs")
            compile_all(root, "/usr/lib/python3.11")

        def libraries() -> None:
            (work / "pins.txt").write_text(pins(dependencies()))
            install(root, "--require-hashes", "-r", work / "pins.txt")
            compile_all(root, f"/{LIBRARIES}")

        def project() -> None:
            install(root, build_wheel(work / "wheel"))
            entry = root / "usr/local/bin/inroad"
            entry.write_text(ENTRY)
            entry.chmod(0o755)
            compile_all(root, f"/{LIBRARIES}/inroad")

        for step in (base, libraries, project):
            begun, before = time.monotonic(), contents(root)
            step()
            layers.append(new_layer(root, before, work / "layer"))
            size = len(layers[-1].blob) / 1e6
            say(f"  {step.__name__}: {size:.1f} MB packed, {time.monotonic() - begun:.0f} s")
        unpacked = sum(p.lstat().st_size for p in root.rglob("*") if p.is_file() and not p.is_symlink())
        version = metadata.version("inroad")
        size = oci.write_archive(target, f"inroad:{version}", layers, CONFIG)
        say(f"{target}: inroad:{version}, {size / 1e6:.1f} MB, {unpacked / 1e6:.0f} MB unpacked")


def main() -> int:
    """Make the image named on the command line, `dist/inroad-image.tar` by default."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist/inroad-image.tar"
    try:
        make(target, functools.partial(print, flush=True))
    except ImageFailed as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
