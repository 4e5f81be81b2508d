"""Write container images without a container engine: OCI archives that docker, podman and ctr load.

The same tree gives the same bytes: entries are sorted, owned by root, and carry one fixed time, so an image's
digest says whether its content changed. The archive is an OCI image layout that also carries the
`manifest.json` of `docker save`, since docker before 25 reads nothing else.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

EPOCH = 1_704_067_200  # 2024-01-01: files inside images carry this time
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Layer:
    """One layer: gzip bytes, and the digest of what they unpack to."""

    blob: bytes
    diff_id: str


def digest(data: bytes) -> str:
    """Return an OCI digest."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _normalise(entry: tarfile.TarInfo, modes: Mapping[str, int]) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = EPOCH
    entry.mode = modes.get(entry.name, entry.mode)
    return entry


def tree_layer(root: Path, modes: Mapping[str, int] | None = None, level: int = 6) -> Layer:
    """Pack a directory as a layer. `modes` sets permissions by path relative to it, such as `tmp: 0o1777`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            entry = _normalise(tar.gettarinfo(str(path), name), modes or {})
            if entry.isreg():
                with path.open("rb") as content:
                    tar.addfile(entry, content)
            else:
                tar.addfile(entry)
    return _layer(packed.getvalue(), level)


def files_layer(files: Mapping[str, bytes], mode: int = 0o755) -> Layer:
    """Pack named contents as a layer."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), mode, EPOCH
            tar.addfile(entry, io.BytesIO(content))
    return _layer(packed.getvalue(), 1)


def _layer(tar: bytes, level: int) -> Layer:
    return Layer(gzip.compress(tar, level, mtime=0), digest(tar))


def write_archive(target: Path, reference: str, layers: Iterable[Layer], config: Mapping[str, object]) -> int:
    """Write the image `reference` (such as `inroad:0.1.0`) to `target`; return the archive's size in bytes.

    `config` is the OCI image config's `config` object: `Entrypoint`, `User`, `Env`, ...
    """
    layers = list(layers)
    image = {
        "created": "2024-01-01T00:00:00Z",
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "tools/oci.py"} for _ in layers],
    }
    blobs: dict[str, bytes] = {}

    def put(data: bytes, media_type: str) -> dict[str, object]:
        name = digest(data)
        blobs["blobs/sha256/" + name.removeprefix("sha256:")] = data
        return {"mediaType": media_type, "digest": name, "size": len(data)}

    config_entry = put(json.dumps(image, sort_keys=True).encode(), CONFIG_TYPE)
    layer_entries = [put(layer.blob, LAYER_TYPE) for layer in layers]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config_entry,
        "layers": layer_entries,
    }
    manifest_entry = put(json.dumps(manifest, sort_keys=True).encode(), MANIFEST_TYPE)
    full = full_reference(reference)
    manifest_entry["annotations"] = {
        "io.containerd.image.name": full,
        "org.opencontainers.image.ref.name": full.rpartition(":")[2],
    }
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [manifest_entry]}
    docker = [
        {
            "Config": _blob_path(config_entry),
            "RepoTags": [reference],
            "Layers": [_blob_path(entry) for entry in layer_entries],
        }
    ]
    files = {
        "oci-layout": json.dumps({"imageLayoutVersion": "1.0.0"}).encode(),
        "index.json": json.dumps(index, sort_keys=True).encode(),
        "manifest.json": json.dumps(docker, sort_keys=True).encode(),
        **blobs,
    }
    return _write_tar(target, files)


def read_archive(source: Path) -> tuple[list[Layer], dict[str, object]]:
    """Return the layers and the `config` object of an image that `write_archive` wrote."""
    with tarfile.open(source) as tar:

        def read(name: str) -> bytes:
            content = tar.extractfile(name)
            if content is None:
                raise ValueError(f"{source}: {name} is no file")
            return content.read()

        [image] = json.loads(read("manifest.json"))
        described = json.loads(read(image["Config"]))
        pairs = zip(image["Layers"], described["rootfs"]["diff_ids"], strict=True)
        return [Layer(read(name), diff_id) for name, diff_id in pairs], described["config"]


def full_reference(reference: str) -> str:
    """Return a reference as containerd names it: `inroad:1` is `docker.io/library/inroad:1`."""
    first, slash, _ = reference.partition("/")
    if not slash:
        return f"docker.io/library/{reference}"
    return reference if "." in first or ":" in first or first == "localhost" else f"docker.io/{reference}"


def _blob_path(entry: Mapping[str, object]) -> str:
    return "blobs/sha256/" + str(entry["digest"]).removeprefix("sha256:")


def _write_tar(target: Path, files: Mapping[str, bytes]) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    with tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o644, EPOCH
            tar.addfile(entry, io.BytesIO(content))
    draft.replace(target)
    return target.stat().st_size
