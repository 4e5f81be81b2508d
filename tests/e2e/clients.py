"""Our image with dig and curl of this host added: what the conformance tables run inside pods.

The image has no shell and no package manager, and no registry is asked: the programs are copied with the
libraries that they are linked to, except those that the image has. Host and image are the same Debian.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from tools import oci

IMAGE = "inroad.test/clients:1"
PROGRAMS = ("dig", "curl", "getent", "cat", "nc")


def _linked(program: Path) -> set[Path]:
    """Return the shared libraries of a program, those of its libraries included."""
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
    return {Path(line.split()[2]) for line in listed.splitlines() if "=> /" in line}


def _names(layers: list[oci.Layer]) -> set[str]:
    """Return the file names that layers have, wherever they are."""
    found = set()
    for layer in layers:
        with tarfile.open(fileobj=io.BytesIO(layer.blob), mode="r:gz") as tar:
            found |= {Path(name).name for name in tar.getnames()}
    return found


def write_image(base: Path, target: Path) -> None:
    """Write the archive `target`: the image of the archive `base` with the programs in a layer more."""
    layers, config = oci.read_archive(base)
    present = _names(layers)
    programs = [Path(shutil.which(name) or name).resolve() for name in PROGRAMS]
    libraries = sorted({path for program in programs for path in _linked(program)})
    files = {f"usr/bin/{name}": path.read_bytes() for name, path in zip(PROGRAMS, programs, strict=True)}
    files |= {
        f"usr/lib/x86_64-linux-gnu/{path.name}": path.read_bytes()
        for path in libraries
        if path.name not in present
    }
    oci.write_archive(target, IMAGE, [*layers, oci.files_layer(files)], config)
