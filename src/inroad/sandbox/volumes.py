"""A pod's volumes: configMap, secret, projected, downwardAPI, emptyDir; and its service-account token.

A container here sees the host's root directory, so a volume can be mounted where a directory exists or may be
made: below /run (and /var/run) and /etc, or, for any kind, over a directory that the host has.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # noqa: S101

import base64
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from inroad.core.errors import SandboxFailed
from inroad.host.run import require, run_async
from inroad.sandbox.apiserver.store import Store
from inroad.sandbox.place import Place

Json = dict[str, Any]
SECRETS = "/var/run/secrets/kubernetes.io/serviceaccount"
Contents = Mapping[str, bytes]


class Tokens(Protocol):
    """Gives pods what they need to speak to the API server."""

    ca: bytes

    def token(self, pod: Json, audience: str = "", lifetime: float = 0.0) -> str:
        """Return a token of the pod's service account, bound to the pod."""


class Missing(Exception):
    """A ConfigMap or Secret that a volume or variable needs does not exist (yet)."""


class Volumes:
    """The volumes of one pod. `field` answers the downward API."""

    def __init__(self, store: Store, tokens: Tokens, pod: Json, field: Callable[[str], str]) -> None:
        self._store = store
        self._tokens = tokens
        self._pod = pod
        self._field = field
        self._namespace: str = pod["metadata"]["namespace"]

    def mounts(self) -> list[tuple[str, Json, str]]:
        """Return (directory, volume, subPath) of all containers, the token's own mount included."""
        spec = self._pod["spec"]
        volumes = {one["name"]: one for one in spec.get("volumes") or ()}
        found: dict[str, tuple[Json, str]] = {}
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            for mount in container.get("volumeMounts") or ():
                found[mount["mountPath"].rstrip("/")] = (volumes[mount["name"]], mount.get("subPath", ""))
        if SECRETS not in found and spec.get("automountServiceAccountToken", True):
            found[SECRETS] = ({"serviceAccountToken": True}, "")
        return [(path, volume, sub) for path, (volume, sub) in found.items()]

    async def fill(self, place: Place) -> None:
        """Mount and write everything; `Missing`, or `SandboxFailed` where nothing can be mounted."""
        for path, volume, sub in self.mounts():
            contents = self.contents(volume)
            if contents is None or not is_ours(path):
                await _tmpfs(place, path)
            write(seen(place, path), contents or {}, sub)

    def refresh(self, place: Place, plural: str, name: str) -> None:
        """Write the volumes that show a ConfigMap or Secret anew; files appear in one step each."""
        for path, volume, sub in self.mounts():
            if name in names(volume, plural) and not sub:
                write(seen(place, path), self.contents(volume) or {}, "")

    def contents(self, volume: Json) -> Contents | None:
        """Return a volume's files; None for an empty directory."""
        if "emptyDir" in volume:
            return None
        if "serviceAccountToken" in volume:
            return {
                "token": self._tokens.token(self._pod).encode(),
                "ca.crt": self._tokens.ca,
                "namespace": self._namespace.encode(),
            }
        if "projected" in volume:
            merged: dict[str, bytes] = {}
            for source in volume["projected"].get("sources") or ():
                merged |= self._projected(source)
            return merged
        return self._projected(volume)

    def _projected(self, source: Json) -> Contents:
        if "configMap" in source:
            return self.chosen("configmaps", source["configMap"], source["configMap"].get("name", ""))
        if "secret" in source:
            name = source["secret"].get("secretName") or source["secret"].get("name", "")
            return self.chosen("secrets", source["secret"], name)
        if "downwardAPI" in source:
            items = source["downwardAPI"].get("items") or ()
            return {one["path"]: self._field(one["fieldRef"]["fieldPath"]).encode() for one in items}
        if "serviceAccountToken" in source:
            wanted = source["serviceAccountToken"]
            token = self._tokens.token(
                self._pod, wanted.get("audience", ""), float(wanted.get("expirationSeconds", 3600))
            )
            return {wanted["path"]: token.encode()}
        kind = next((key for key in source if key != "name"), "nothing")
        raise SandboxFailed(f"there are no volumes of kind {kind} here")

    def chosen(self, plural: str, wanted: Json, name: str) -> Contents:
        """Return the keys of a ConfigMap or Secret that a source asks for."""
        data = self.data(plural, name, optional=bool(wanted.get("optional")))
        if "items" in wanted:
            return {one["path"]: data[one["key"]] for one in wanted["items"] if one["key"] in data}
        return data

    def data(self, plural: str, name: str, *, optional: bool = False) -> dict[str, bytes]:
        """Return all keys of a ConfigMap or Secret."""
        found = self._store.find(plural, name, self._namespace)
        if found is None:
            if optional:
                return {}
            raise Missing(f'{plural[:-1]} "{name}" not found')
        if plural == "secrets":
            return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
        binary = {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
        return {key: value.encode() for key, value in (found.get("data") or {}).items()} | binary


def names(volume: Json, plural: str) -> list[str]:
    """Return the names of the ConfigMaps or Secrets that a volume shows."""
    sources = [volume, *(volume.get("projected") or {}).get("sources", ())]
    if plural == "configmaps":
        return [one["configMap"].get("name", "") for one in sources if "configMap" in one]
    found = [one["secret"] for one in sources if "secret" in one]
    return [str(one.get("secretName") or one.get("name", "")) for one in found]


def seen(place: Place, path: str) -> Path:
    """Return where we see a path of a place.

    Symbolic links (/var/run is one) are followed here, on the host's side: through /proc they would lead to
    the host's own directories.
    """
    return Path(f"/proc/{place.pid}/root{os.path.realpath(path)}")


def is_ours(path: str) -> bool:
    """Tell whether a path is in a directory of which every place has its own."""
    return os.path.realpath(path).startswith(("/run/", "/etc/"))


async def _tmpfs(place: Place, path: str) -> None:
    inside = seen(place, path)
    if not inside.is_dir():
        if not is_ours(path):
            raise SandboxFailed(f"nothing can be mounted on {path}: this host has no such directory")
        inside.mkdir(parents=True)
    argv = [require("nsenter", "util-linux"), "--target", str(place.pid), "--mount", "--"]
    done = await run_async([*argv, "/bin/mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", path])
    if not done.ok:
        raise SandboxFailed(f"could not mount {path}: {done.stderr.strip()}")


def write(directory: Path, contents: Contents, sub: str) -> None:
    """Make a directory's files these. With `sub`, the directory is that one file."""
    if sub and sub in contents:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.write_bytes(contents[sub])
        return
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.new")
        draft.write_bytes(data)
        draft.chmod(0o644)
        os.replace(draft, target)  # noqa: PTH105 - readers see the old file or the new one
