"""Reads kubeconfig files and picks a context, as kubectl does.

Rules of client-go (tools/clientcmd): an explicit file is read alone; else KUBECONFIG is a list of files
of which missing ones are skipped, and the first file that says something wins; else ~/.kube/config.
A relative path inside a file is relative to that file.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from inroad.core.errors import ContextUnknown, KubeconfigMissing, KubeconfigUnreadable

MAX_FILE = 4 << 20
"""Bytes of a kubeconfig or of a file it names."""


@dataclass(frozen=True, slots=True)
class Section:
    """A named cluster, user or context, and the directory of the file that it is in."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    directory: str = "/"

    def text(self, key: str) -> str:
        """Return a string value, "" when absent; raises `KubeconfigUnreadable` for another type."""
        value = self.values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise KubeconfigUnreadable(f"{key} of {self.name} in the kubeconfig is not a text")
        return value

    def content(self, key: str) -> str:
        """Return what `<key>-data` (base64) holds, else what the file named by `key` holds, else ""."""
        data = self.text(f"{key}-data")
        if data:
            try:
                return base64.b64decode("".join(data.split()), validate=True).decode()
            except (binascii.Error, UnicodeDecodeError) as error:
                raise KubeconfigUnreadable(f"{key}-data of {self.name} is not base64: {error}") from error
        return self.file(key)

    def file(self, key: str) -> str:
        """Return what the file named by `key` holds, "" when it names none."""
        name = self.text(key)
        return _read(self.path(name)).decode(errors="replace") if name else ""

    def path(self, name: str) -> Path:
        """Return where a file named in this section is."""
        return Path(self.directory, Path(name).expanduser())


@dataclass(frozen=True, slots=True)
class Selected:
    """What a context consists of."""

    context: Section
    cluster: Section
    user: Section

    @property
    def namespace(self) -> str:
        """The context's namespace, "" when it names none."""
        return self.context.text("namespace")


def files(kubeconfig: str, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the files to read: those that exist. Raises `KubeconfigMissing` when none does."""
    if kubeconfig:
        names = [kubeconfig]
    else:
        names = [name for name in environ.get("KUBECONFIG", "").split(os.pathsep) if name]
        names = names or ["~/.kube/config"]
    paths = [Path(name).expanduser().absolute() for name in names]
    found = tuple(path for path in paths if _exists(path))
    if not found:
        missing = ", ".join(map(str, paths))
        raise KubeconfigMissing(
            f"there is no kubeconfig at {missing}", "name one with --kubeconfig or KUBECONFIG"
        )
    return found


def select(paths: tuple[Path, ...], context: str) -> Selected:
    """Read the files and return `context`, or the current one when it is "".

    Raises `KubeconfigUnreadable` or `ContextUnknown`.
    """
    merged: dict[str, dict[str, Section]] = {"contexts": {}, "clusters": {}, "users": {}}
    current = ""
    for path in paths:
        config = _parse(path)
        current = current or str(config.get("current-context") or "")
        for kind, sections in merged.items():
            for section in _sections(path, config, kind):
                sections.setdefault(section.name, section)
    name = context or current
    chosen = merged["contexts"].get(name)
    if chosen is None:
        raise _no_context(name, paths, tuple(merged["contexts"]))
    cluster = merged["clusters"].get(chosen.text("cluster"))
    if cluster is None or not cluster.text("server"):
        raise KubeconfigUnreadable(
            f"context {name} is of cluster {chosen.text('cluster')!r}, which has no server in {_text(paths)}",
            "kubectl config view",
        )
    user = merged["users"].get(chosen.text("user"))
    if user is None and chosen.text("user"):
        raise KubeconfigUnreadable(
            f"context {name} is of user {chosen.text('user')!r}, who is not in {_text(paths)}",
            "kubectl config view",
        )
    return Selected(chosen, cluster, user or Section(""))


def contexts(paths: tuple[Path, ...]) -> tuple[str, ...]:
    """Return the names of all contexts; raises `KubeconfigUnreadable`."""
    found = (section.name for path in paths for section in _sections(path, _parse(path), "contexts"))
    return tuple(dict.fromkeys(found))


def _no_context(name: str, paths: tuple[Path, ...], known: tuple[str, ...]) -> ContextUnknown:
    if not name:
        return ContextUnknown(f"{_text(paths)} has no current context", "kubectl config use-context NAME")
    listed = ", ".join(known[:8]) + (" and more" if len(known) > 8 else "") if known else "none"
    return ContextUnknown(
        f"{_text(paths)} has no context {name}; it has {listed}", "kubectl config get-contexts"
    )


def _sections(path: Path, config: dict[str, Any], kind: str) -> list[Section]:
    """Return the clusters, users or contexts of a file; null stands for an empty list or section."""
    found = []
    for item in config.get(kind) or []:
        values = item.get(kind[:-1]) if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(values or {}, dict) or "name" not in item:
            raise KubeconfigUnreadable(f"{path} is not a kubeconfig: an entry of {kind} is malformed")
        found.append(Section(str(item["name"]), values or {}, str(path.parent)))
    return found


def _parse(path: Path) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        config = yaml.load(_read(path), Loader=loader)  # noqa: S506 - a safe loader, in C where there is one
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise KubeconfigUnreadable(f"{path}{line}: {problem}", "kubectl config view") from error
    config = {} if config is None else config
    lists = ("contexts", "clusters", "users")
    if not isinstance(config, dict) or not all(isinstance(config.get(k) or [], list) for k in lists):
        raise KubeconfigUnreadable(f"{path} is not a kubeconfig", "kubectl config view")
    return config


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise KubeconfigUnreadable(f"{path} can't be read: {error.strerror}", f"ls -l {path}") from error
    if len(data) > MAX_FILE:
        raise KubeconfigUnreadable(f"{path} is larger than {MAX_FILE >> 20} MiB")
    return data


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # it may be there: reading it says why not
        return True
    return True


def _text(paths: tuple[Path, ...]) -> str:
    return ", ".join(map(str, paths))
