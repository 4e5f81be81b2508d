"""The user's helm, and where our chart is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inroad.core.errors import InstallFailed

RELEASE = "inroad"


def chart() -> Path:
    """Return the chart's directory: in the installed package, or in the source tree."""
    packaged = Path(__file__).with_name("chart")
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "charts/inroad"


def helm_values(options: Mapping[str, Any]) -> list[str]:
    """Return helm's arguments for the values that were given, the named options last: they win."""
    arguments = [argument for file in options["values"] for argument in ("-f", file)]
    settings = list(options["settings"])
    if options["pod_cidr_strategy"]:
        settings.append(f"podCIDRStrategy={options['pod_cidr_strategy']}")
    if options["image"]:
        path, colon, tag = options["image"].rpartition(":")
        if not colon or "/" in tag:
            path, tag = options["image"], ""
        registry, _, name = path.rpartition("/")
        settings += [f"image.registry={registry}", f"image.name={name}", f"image.tag={tag}"]
    return [*arguments, *(argument for setting in settings for argument in ("--set", setting))]


class Helm:
    """The user's helm, pointed at one cluster and namespace."""

    def __init__(self, program: str, where: Sequence[str]) -> None:
        self._program = program
        self._where = where

    def run(self, verb: str, *arguments: str) -> None:
        """Run a helm verb on our release; raises `InstallFailed` with helm's last line."""
        from inroad.host.run import run  # noqa: PLC0415

        done = run([self._program, verb, RELEASE, *arguments, *self._where], timeout=600, env=os.environ)
        if not done.ok:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            remedy = f"helm status {RELEASE}"
            if "invalid ownership metadata" in done.stderr:
                remedy = "it was installed without helm: run inroad uninstall --no-helm first"
            raise InstallFailed(lines[-1].removeprefix("Error: ") if lines else "helm failed", remedy)

    def has_release(self) -> bool:
        """True when helm knows the release."""
        try:
            self.run("status")
        except InstallFailed:
            return False
        return True


def find_helm(options: Mapping[str, Any]) -> Helm | None:
    """Return the helm in PATH, or None where there is none or the user does without."""
    program = None if options["no_helm"] else shutil.which("helm")
    if program is None:
        return None
    where = ["--namespace", options["namespace"]]
    if options["kubeconfig"]:
        where += ["--kubeconfig", options["kubeconfig"]]
    if options["context"]:
        where += ["--kube-context", options["context"]]
    return Helm(program, where)
