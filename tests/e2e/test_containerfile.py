"""The Containerfile, built without an engine: each stage's RUN lines, verbatim, in a root of its own.

This host stands for the base image: both are Debian bookworm. A stage is an overlay over the host's root, in
memory, with the Python that runs the tests copied to where the image has it. What an engine adds (pulling the
base, layers, the image's config) is not tested here; `make image` makes the same image by other means.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e.stage import ROOT

BASE = "docker.io/library/python:3.11-slim-bookworm"
CODENAME = Path("/etc/os-release").read_text()

pytestmark = [
    pytest.mark.own_cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="overlays are mounted and entered"),
    pytest.mark.skipif(
        "VERSION_CODENAME=bookworm" not in CODENAME or sys.version_info[:2] != (3, 11),
        reason="the base image is Debian bookworm with Python 3.11",
    ),
]


def instructions(text: str) -> list[tuple[str, str]]:
    """Return a Containerfile's instructions with their arguments, continued lines joined."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


class Root:
    """A stage's file system and what its later instructions run with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = "/"
        self.environment = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        self.user = ""
        self.entry: list[str] = []

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a program in this root, as the stage's user."""
        who = ["setpriv", *(f"--re{kind}={self.user.split(':')[0]}" for kind in ("uid", "gid"))]
        who = [*who, "--clear-groups"] if self.user else []
        proxies = {
            k: v for k, v in os.environ.items() if k.lower().endswith("_proxy") or k.startswith("PIP_")
        }
        inside = [
            "env",
            "-i",
            f"--chdir={self.directory}",
            *(f"{k}={v}" for k, v in self._set(proxies)),
            *argv,
        ]
        line = ["chroot", str(self.path), *who, *inside]
        done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done
        return done

    def _set(self, more: dict[str, str]) -> list[tuple[str, str]]:
        return list((more | self.environment).items())


@contextmanager
def overlay(directory: Path) -> Iterator[Root]:
    """Mount a root for one stage; it is gone afterwards."""
    memory, merged = directory / "memory", directory / "root"
    memory.mkdir(parents=True)
    merged.mkdir()
    mounted: list[Path] = []

    def mount(where: Path, *arguments: str) -> None:
        subprocess.run(["mount", *arguments, str(where)], check=True)
        mounted.append(where)

    try:
        mount(memory, "-t", "tmpfs", "tmpfs")
        for name in ("upper", "work"):
            (memory / name).mkdir()
        layers = f"lowerdir=/,upperdir={memory}/upper,workdir={memory}/work"
        mount(merged, "-t", "overlay", "-o", layers, "overlay")
        for name in ("proc", "dev"):
            mount(merged / name, "--rbind", "--make-rslave", f"/{name}")
        _install_python(merged)
        yield Root(merged)
    finally:
        for where in reversed(mounted):
            subprocess.run(["umount", "--recursive", str(where)], check=True)


def _install_python(root: Path) -> None:
    """Put the interpreter under /usr/local, alone there, with pip and nothing else installed."""
    local, source = root / "usr/local", Path(sys.base_prefix)
    for name in ("bin", "lib"):
        shutil.rmtree(local / name, ignore_errors=True)
        (local / name).mkdir(parents=True)
    shutil.copy2(source / "bin/python3.11", local / "bin/python3.11")
    for library in (source / "lib").glob("libpython*"):
        shutil.copy2(library, local / "lib")
    skipped = shutil.ignore_patterns("site-packages", "test", "idlelib", "__pycache__")
    shutil.copytree(source / "lib/python3.11", local / "lib/python3.11", ignore=skipped)
    (local / "lib/python3.11/site-packages").mkdir()
    for name in ("python", "python3"):
        (local / "bin" / name).symlink_to("python3.11")
    subprocess.run(
        ["chroot", str(root), "/usr/local/bin/python3.11", "-m", "ensurepip", "--default-pip"],
        env=os.environ | {"HOME": "/tmp"},
        check=True,
        capture_output=True,
    )
    subprocess.run(["chroot", str(root), "ldconfig"], check=True)
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")


def sources(target: Path) -> None:
    """Copy what git has, the build's context."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def follow(word: str, rest: str, root: Root, earlier: Root | None) -> None:
    """Do what an instruction says; fail for one that this test does not know."""
    if word == "RUN":
        root.run("sh", "-c", rest)
    elif word == "WORKDIR":
        root.directory = rest
        (root.path / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif (word, rest) == ("COPY", ". ."):
        sources(root.path / root.directory.lstrip("/"))
    elif word == "COPY" and rest.startswith("--from=build ") and earlier:
        _, source, target = rest.split()
        shutil.copytree(
            earlier.path / source.lstrip("/"),
            root.path / target.lstrip("/"),
            symlinks=True,
            dirs_exist_ok=True,
        )
    elif word == "ENV":
        root.environment |= dict(pair.split("=", 1) for pair in rest.split())
    elif word == "USER":
        root.user = rest
    elif word == "ENTRYPOINT":
        root.entry = json.loads(rest)
    else:
        pytest.fail(f"this test does not know {word} {rest}")


def test_it_builds_and_its_program_runs(tmp_path: Path) -> None:
    steps = instructions((ROOT / "Containerfile").read_text())
    assert [step for step in steps if step[0] == "FROM"] == [("FROM", f"{BASE} AS build"), ("FROM", BASE)]
    second = steps.index(("FROM", BASE))
    with overlay(tmp_path / "build") as build, overlay(tmp_path / "final") as final:
        for word, rest in steps[1:second]:
            follow(word, rest, build, None)
        for word, rest in steps[second + 1 :]:
            follow(word, rest, final, build)
        assert final.user == "65532:65532"
        version = json.loads(final.run(*final.entry, "version", "-o", "json").stdout)
        assert version
        programs = "import inroad.manager.main, inroad.agent.main, inroad.daemon.main"
        final.run("python3", "-c", programs)
        listed = final.run("python3", "-c", "import importlib.util as u; print(u.find_spec('kubernetes'))")
        assert listed.stdout == "None\n"
        assert final.run("nft", "--version").stdout.startswith("nftables")
